"""Switches and bridges between real hosts, with a Linux bridge among them, and what tshark says of their BPDUs."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import threading
import time

import pytest

from iflab.drivers.rstp import Role, State

from ..linux_tools import PATIENCE, eventually, ip, link, need
from .test_vlan import dissected


def star(lab, count=3, **options):
    """Hosts on the ports of a switch."""
    sw = lab.switch("sw", ports=8, **options)
    hosts = []
    for n in range(count):
        host = lab.host(f"h{n}")
        lab.cable(host.nic("em0", f"192.0.2.{n + 1}/24", f"2001:db8::{n + 1}/64"), sw[n])
        hosts.append(host)
    return sw, hosts


def roles(sw):
    return {port: state for port, state in sw.bridge.roles().items() if state[0] is not Role.DISABLED}


def test_hosts_on_a_switch_reach_each_other(lab):
    sw, (a, b, c) = star(lab)

    assert a.ping("192.0.2.2").received == 1
    assert eventually(lambda: b.ping("2001:db8::3").received)
    assert c.ping("192.0.2.1").received == 1

    table = sw.ifconfig("bridge0 addr")
    assert table.count("Vlan0") == 3
    assert a.nics["em0"].lladdr.hex(":") in table
    assert sw.member(0).received > 0


def test_tcp_through_a_switch_keeps_what_hosts_leave_undone(lab):
    sw, (a, b, _) = star(lab)
    # Linux sends what is due in a millisecond together: on a slow machine little, but for this.
    a.run("sysctl -qw net.ipv4.tcp_min_tso_segs=32", check=True)
    longest = []
    with lab.lock:
        sw.ports[0].if_softc.end.wire.add_tap(lambda end, m: longest.append(len(m)), whole=True)

    assert b.fetch(a.serve(bytes_=20_000_000)).wait(20 * PATIENCE) == 20_000_000

    assert max(longest) > 20_000


def test_frames_that_pass_a_switch_together_are_counted_at_every_stage(lab):
    sw, (a, b, _) = star(lab)

    assert b.fetch(a.serve(bytes_=10_000_000)).wait(20 * PATIENCE) == 10_000_000

    ports, a_em0, b_em0 = (sw.ports[0], sw.ports[1]), a.nics["em0"], b.nics["em0"]
    assert ports[0].if_ibytes > 10_000_000
    assert ports[1].if_obytes > 10_000_000
    with lab.lock:  # the hosts go on talking, if only to say goodbye
        assert (ports[0].if_ipackets, ports[0].if_ibytes) == (a_em0.if_opackets, a_em0.if_obytes)
        assert sw.member(0).received == ports[0].if_ipackets
        assert sw.member(1).forwarded == ports[1].if_opackets == b_em0.if_ipackets + b_em0.if_softc.filtered
        for ifp in ports:
            assert ifp.if_softc.end.wire.account().balances()
        assert sw.ifp.if_ipackets == sum(sw.member(n).received for n in range(3))


def test_a_receiver_that_wants_finished_frames_gets_them_from_the_switch(lab):
    sw, (a, b, _) = star(lab)
    cable = sw[1].if_softc.end.wire
    longest = []
    cable.add_hook(lambda frame: longest.append(len(frame)))

    assert b.fetch(a.serve(bytes_=3_000_000)).wait(20 * PATIENCE) == 3_000_000

    assert max(longest) == 1514


def test_access_and_trunk_ports(lab, tmp_path):
    need("tshark", "tshark")
    path = tmp_path / "trunk.pcapng"
    left, right = lab.switch("left", ports=3), lab.switch("right", ports=3)
    lab.cable(left[2], right[2])
    capture = lab.capture(path)
    hosts = {}
    for sw, side in ((left, 1), (right, 2)):
        for port, vid in ((0, 10), (1, 20)):
            host = hosts[side, vid] = lab.host(f"h{side}-{vid}")
            lab.cable(host.nic("em0", f"192.0.2.{side}/24"), sw[port])
            sw.access(port, vid)
        sw.trunk(2, 10, 20)
    lab.wait_links()

    assert hosts[1, 10].ping("192.0.2.2").received == 1
    assert hosts[1, 20].ping("192.0.2.2").received == 1
    assert hosts[1, 10].run("ip neigh show 192.0.2.2").stdout.split()[4] == hosts[2, 10].nics[
        "em0"
    ].lladdr.hex(":")

    capture.close()
    rows = dissected(lab, path, "vlan.id", "icmp.type")
    assert {tuple(row) for row in rows} >= {("10", "8"), ("20", "8"), ("", "8")}


def test_private_and_sticky_ports(lab):
    sw, (a, b, c) = star(lab)
    assert a.ping("192.0.2.2").received == 1
    sw.ifconfig("bridge0 private p0 private p1")

    assert a.ping("192.0.2.2", timeout=0.3).received == 0
    assert [host.ping("192.0.2.3").received for host in (a, b)] == [1, 1]
    assert sw.member(0).dropped["private"] > 0
    sw.ifconfig("bridge0 -private p0 -private p1 flush sticky p0")
    assert a.ping("192.0.2.2").received == 1

    mac = a.nics["em0"].lladdr
    claim = b"\xff" * 6 + mac + b"\x88\xb5" + bytes(46)  # c says that it is a
    c.nics["em0"].if_transmit(claim)
    assert f"{mac.hex(':')} Vlan0 p0 0 flags=2<STICKY>" in sw.ifconfig("bridge0 addr")
    assert a.ping("192.0.2.2").received == 1
    with lab.lock:  # a itself is not heard meanwhile
        sw.ifconfig("bridge0 -sticky p0 flushall")
        c.nics["em0"].if_transmit(claim)
        assert f"{mac.hex(':')} Vlan0 p2 " in sw.ifconfig("bridge0 addr")


def test_a_span_port_shows_a_stranger_everything_and_lets_it_say_nothing(lab):
    need("tcpdump", "tcpdump")
    sw, (a, _, _) = star(lab)
    monitor = lab.host("monitor")
    lab.cable(monitor.nic("em0", "192.0.2.50/24"), sw[4])
    sw.ifconfig("bridge0 deletem p4 span p4")
    lab.wait_links()
    assert a.ping("192.0.2.2").received == 1  # addresses are known from now on
    watcher = monitor.popen(
        ["tcpdump", "-Z", "root", "-nlti", "em0", "-c", "4", "icmp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any("listening on em0" in line for line in watcher.stderr)

    assert a.ping("192.0.2.2", count=2, interval=0.02).received == 2

    lines = watcher.communicate(timeout=20 * PATIENCE)[0].splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "IP 192.0.2.1 > 192.0.2.2: ICMP echo request",
        "IP 192.0.2.2 > 192.0.2.1: ICMP echo reply",
    ] * 2
    assert monitor.ping("192.0.2.1", timeout=0.3).received == 0
    assert "192.0.2.50" not in a.run("ip neigh").stdout


def test_a_switch_that_is_down_forwards_nothing(lab):
    sw, (a, _, _) = star(lab)
    assert a.ping("192.0.2.2").received == 1

    sw.ifconfig("bridge0 down")
    assert a.ping("192.0.2.2", timeout=0.3).received == 0
    assert sw.ifconfig("bridge0 addr") == ""
    sw.ifconfig("bridge0 up")

    assert eventually(lambda: a.ping("192.0.2.2", timeout=0.3).received)


def triangle(lab):
    switches = [lab.switch(f"s{n}", ports=3, stp=True) for n in range(3)]
    cables = [lab.cable(switches[n][0], switches[(n + 1) % 3][1]) for n in range(3)]
    hosts = []
    for n in range(2):
        host = lab.host(f"h{n}")
        switches[n].stp(2, edge=True)
        lab.cable(host.nic("em0", f"192.0.2.{n + 1}/24"), switches[n][2])
        hosts.append(host)
    eventually(lambda: hosts[0].ping("192.0.2.2", timeout=0.2).received)
    return switches, cables, hosts


def test_a_loop_does_not_storm(lab, tmp_path):
    need("tshark", "tshark")
    path = tmp_path / "loop.pcapng"
    capture = lab.capture(path)
    switches, cables, (a, _) = triangle(lab)
    before = sum(cable.account().sent for cable in cables)

    assert a.ping("192.0.2.2", count=5, interval=0.02).received == 5
    time.sleep(0.3)  # a storm would have filled it

    assert sum(cable.account().sent for cable in cables) - before < 100
    assert [role for sw in switches for role, _ in roles(sw).values()].count(Role.ALTERNATE) == 1
    capture.close()
    rows = dissected(lab, path, "stp.version", "stp.type", "stp.flags.port_role")
    assert ["2", "0x02", "2"] in rows or ["2", "2", "2"] in rows, rows[:3]


def at_rest(switches):
    """No port has used up its BPDUs: one that sent six waits a second for each more (TxHoldCount, 17.13.12)."""
    return all(m.stp.tx_count <= 2 for sw in switches for m in sw.bridge.members.values())


def test_after_a_cut_traffic_flows_again_within_a_tenth_of_a_second(lab):
    """The longest gap counts up to the end of the run, so that an outage which lasts is seen too."""
    switches, cables, (a, b) = triangle(lab)
    results = []
    for cable in cables:
        eventually(lambda: at_rest(switches), timeout=15)
        heard, done = [], threading.Event()
        with (
            a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
            b.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        ):
            receiver.bind(("192.0.2.2", 7))
            receiver.settimeout(0.05)

            def listen(receiver=receiver, heard=heard, done=done):
                while not done.is_set():
                    with contextlib.suppress(TimeoutError):
                        receiver.recv(100)
                        heard.append(time.monotonic())

            thread = threading.Thread(target=listen)
            thread.start()
            for n in range(300):
                sender.sendto(b"x", ("192.0.2.2", 7))
                if n == 150:
                    cut = time.monotonic()
                    cable.cut()
                time.sleep(0.002 * PATIENCE)
            end = time.monotonic()
            done.set()
            thread.join()
        times = [*heard, max(end, heard[-1])]
        gaps = [(later > cut, later - earlier) for earlier, later in itertools.pairwise(times)]
        results.append([max(gap for after, gap in gaps if after is half) for half in (False, True)])
        cable.mend()
        eventually(lambda: a.ping("192.0.2.2", timeout=0.2).received)

    after = sorted(after for _, after in results)
    # The median: a busy machine makes gaps of its own, also without a cut.
    assert after[1] < 0.1 * PATIENCE, results
    assert after[-1] < 0.25 * PATIENCE, results  # and none of them lasts to the end


def test_spanning_tree_with_a_linux_bridge(lab, tmp_path):
    """One root, the right port blocked, and the way round opens when a cable is cut."""
    need("tshark", "tshark")
    path = tmp_path / "linux.pcapng"
    capture = lab.capture(path)
    linux = lab.host("linux")
    sw = lab.switch("sw", ports=4, stp=True)
    cables = [lab.cable(linux.nic(f"em{n}"), sw[n]) for n in range(2)]
    made = linux.run(
        "ip link add br0 address 02:00:00:00:99:99 type bridge stp_state 1 forward_delay 200 hello_time 100 "
        "max_age 600 priority 4096 && ip link set em0 master br0 && ip link set em1 master br0 && "
        "ip link set br0 up && ip addr add 192.0.2.9/24 dev br0"
    )
    if made.returncode:
        pytest.skip(f"no bridge in this kernel: {made.stderr.strip()}")
    a = lab.host("a")
    sw.stp(2, edge=True)
    lab.cable(a.nic("em0", "192.0.2.1/24"), sw[2])

    def settled():
        found = roles(sw)
        return found.get("p0", (None,))[0] is Role.ROOT and found.get("p1", (None,))[0] is Role.ALTERNATE

    eventually(settled, timeout=20)
    assert not sw.bridge.stp.is_root
    state = ip(linux, "link", "show", "br0")[0]["linkinfo"]["info_data"]
    assert state["root_id"] == state["bridge_id"]
    eventually(lambda: a.ping("192.0.2.9", timeout=0.3).received, timeout=20)
    assert roles(sw)["p1"][1] is State.DISCARDING

    cables[0].cut()
    eventually(lambda: a.ping("192.0.2.9", timeout=0.3).received, timeout=20)
    assert roles(sw)["p1"] == (Role.ROOT, State.FORWARDING)

    capture.close()
    rows = dissected(lab, path, "stp.version", "stp.type")
    versions = {row[0] for row in rows if row[0]}
    assert versions == {"0", "2"}


def test_our_switch_as_the_root_of_a_linux_bridge(lab):
    linux = lab.host("linux")
    sw = lab.switch("sw", ports=2, stp=True)
    for n in range(2):
        lab.cable(linux.nic(f"em{n}"), sw[n])
    made = linux.run(
        "ip link add br0 type bridge stp_state 1 forward_delay 200 hello_time 100 max_age 600 priority 61440 && "
        "ip link set em0 master br0 && ip link set em1 master br0 && ip link set br0 up"
    )
    if made.returncode:
        pytest.skip(f"no bridge in this kernel: {made.stderr.strip()}")

    def states():
        return {name: link(linux, name)["linkinfo"]["info_slave_data"]["state"] for name in ("em0", "em1")}

    eventually(lambda: sorted(states().values()) == ["blocking", "forwarding"], timeout=60)
    assert states()["em1"] == "blocking"
    assert sw.bridge.stp.is_root
    assert all(role is Role.DESIGNATED for role, _ in roles(sw).values())


def test_a_bridge_of_a_host_with_linux_above_it(lab):
    middle, alice, bob = lab.host("middle"), lab.host("alice"), lab.host("bob")
    lab.cable(alice.nic("em0", "192.0.2.1/24"), middle.nic("em0"))
    lab.cable(bob.nic("em0", "192.0.2.2/24"), middle.nic("em1"))
    middle.ifconfig("bridge create addm em0 addm em1 192.0.2.3/24")
    lab.wait_links()

    assert alice.ping("192.0.2.2").received == 1
    assert alice.ping("192.0.2.3").received == 1
    assert middle.ping("192.0.2.2").received == 1
    assert "PROMISC" in middle.ifconfig("em0")
    assert "member: em0 flags=143<LEARNING,DISCOVER,AUTOEDGE,AUTOPTP>" in middle.ifconfig("bridge0")
    lab.check()

    middle.ifconfig("bridge0 deletem em1")
    assert alice.ping("192.0.2.2", timeout=0.2).received == 0
    middle.ifconfig("bridge0 destroy")
    lab.wait_for_closers()
    lab.check()


def test_a_switch_is_configured_from_another_terminal(lab):
    from iflab.control import find_labs

    lab.switch("sw", ports=2)
    ((_, client),) = find_labs(lab.name)

    client.ask(do="ifconfig", host="sw", args=["bridge0", "private", "p0"])
    text = client.ask(do="ifconfig", host="sw", args=["bridge0"])[0]["text"]

    assert "member: p0 flags=943<LEARNING,DISCOVER,AUTOEDGE,AUTOPTP,PRIVATE>" in text


def test_a_switch_that_cannot_be_and_a_port_that_is_not_there(lab):
    from iflab import LabError
    from iflab.bsd import CommandError

    for options in ({"ports": -1}, {"ports": "8"}, {"mtu": 20}, {"mtu": 100_000}):
        with pytest.raises(LabError, match="use 0 ports or more, and 72 to 65535"):
            lab.switch("odd", **options)
    assert "odd" not in lab.switches
    sw = lab.switch("sw", ports=3)

    for ask in (
        sw.__getitem__,
        sw.member,
        sw.stp,
        lambda port: sw.access(port, 10),
        lambda port: sw.trunk(port, 10),
    ):
        with pytest.raises(IndexError, match="sw has no port 3; its ports are 0 to 2"):
            ask(3)
    for give in (lambda: sw.access(0, 5000), lambda: sw.trunk(0, 10, 5000), lambda: sw.trunk(0, native=5000)):
        with pytest.raises(OSError, match="a VLAN is 1 to 4094, not 5000"):
            give()
    assert not sw.bridge.vlanfilter
    assert "tagged" not in sw.ifconfig("bridge0")
    with pytest.raises(CommandError, match="route: no such command; there are ifconfig, sysctl, netstat"):
        sw.bsd("route", [])
    assert [ifp.if_xname for ifp in sw] == ["p0", "p1", "p2"]


def test_names_of_switches_and_hosts_are_one_list(lab):
    from iflab import LabError

    lab.switch("sw")
    with pytest.raises(LabError, match="there is a switch sw already"):
        lab.host("sw")
    with pytest.raises(LabError, match="there is a switch sw already"):
        lab.switch("sw")
    with pytest.raises(LabError, match="no name for a switch"):
        lab.switch("")
