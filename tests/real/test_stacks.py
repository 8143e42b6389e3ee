"""Devices on devices, with Linux above every one: built up, used, and torn down from the middle."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time

import pytest
from scapy.contrib.lacp import MarkerProtocol, SlowProtocol
from scapy.layers.l2 import Ether

from iflab.drivers.carp import State
from iflab.linux import monitor
from iflab.net import LinkState

from ..linux_tools import PATIENCE, eventually, ip, kernel_flags, link, need
from .test_carp import state


def netdevs(host):
    return set(host.run("ls /sys/class/net", check=True).stdout.split()) - {"lo"}


def tower(lab):
    """Two hosts, each with bridge0 on vlan1 (802.1Q) on vlan0 (802.1ad) on lagg0 on em0 and em1, and carp on top."""
    hosts = [lab.host("alice"), lab.host("bob")]
    for number, host in enumerate(hosts, start=1):
        host.nic("em0")
        host.nic("em1")
        host.ifconfig("lagg0 create laggport em0 laggport em1 up")
        host.ifconfig("vlan0 create vlan 100 vlandev lagg0 vlanproto 802.1ad up")
        host.ifconfig("vlan1 create vlan 7 vlandev vlan0 up")
        host.ifconfig(f"bridge0 create addm vlan1 192.0.2.{number}/24")
        host.ifconfig(f"bridge0 vhid 5 advskew {100 * number} pass secret 192.0.2.100/24 alias")
    cables = [lab.cable(*(host.nics[name] for host in hosts), name=name) for name in ("em0", "em1")]
    lab.wait_links()
    alice, bob = hosts
    eventually(lambda: alice.ping("192.0.2.2", timeout=0.3).received)
    return alice, bob, cables


def test_a_tower_of_devices_carries_and_answers_for_a_shared_address(lab):
    alice, bob, cables = tower(lab)
    carp = alice.nics["bridge0"].if_carp.hosts[5]

    eventually(lambda: carp.state is State.MASTER, timeout=8)
    assert eventually(lambda: bob.ping("192.0.2.100", timeout=0.3).received)
    assert [n["lladdr"] for n in ip(bob, "neigh") if n["dst"] == "192.0.2.100"] == ["00:00:5e:00:01:05"]
    assert bob.fetch(alice.serve(bytes_=2_000_000, address="192.0.2.1")).wait(20 * PATIENCE) == 2_000_000

    for name in ("em0", "em1", "lagg0", "vlan0", "vlan1"):
        assert "PROMISC" in kernel_flags(alice, name), name
    for cable in cables:
        cable.cut()
    for name in ("lagg0", "vlan0", "vlan1", "bridge0"):
        eventually(lambda name=name: "NO-CARRIER" in kernel_flags(alice, name))
    eventually(lambda: carp.state is State.INIT)
    cables[1].mend()
    eventually(lambda: alice.ping("192.0.2.2", timeout=0.3).received)
    for cable in cables:
        assert cable.account().balances()
    lab.check()


@pytest.mark.parametrize("told", [True, False], ids=["joins are told", "joins are not told"])
def test_groups_and_modes_of_the_top_open_every_filter_below(told, monkeypatch, request):
    need("tcpdump", "tcpdump")
    if not told:  # as before Linux 6.14
        monkeypatch.setattr(monitor, "_MCADDR_GROUPS", ())
    lab = request.getfixturevalue("lab")
    hosts = [lab.host("alice"), lab.host("bob")]
    for number, host in enumerate(hosts, start=1):
        host.nic("em0")
        host.nic("em1")
        host.ifconfig("lagg0 create laggport em0 laggport em1 up")
        host.ifconfig(f"vlan0 create vlan 10 vlandev lagg0 192.0.2.{number}/24")
    cables = [lab.cable(*(host.nics[name] for host in hosts), name=name) for name in ("em0", "em1")]
    alice, bob = hosts
    below = ("lagg0", "em0", "em1")
    eventually(lambda: alice.ping("192.0.2.2", timeout=0.3).received)
    mac, group = "01:00:5e:7c:00:07", "233.252.0.7"

    def on_lists():
        return [mac in alice.run(["ip", "maddr", "show", "dev", name]).stdout for name in below]

    with (
        alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as member,
        bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        member.bind(("", 7))
        member.settimeout(5)
        membership = socket.inet_aton(group) + socket.inet_aton("192.0.2.1")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.2"))

        def gets(word):
            """Send until it arrives: where joins are not told, the first frame makes them known."""
            sender.sendto(word, (group, 7))
            try:
                return member.recv(10) == word
            except TimeoutError:
                return False

        eventually(lambda: gets(b"hello"))
        eventually(lambda: all(on_lists()))
        for cable in (None, cables[0]):  # over the first port, then over the other
            if cable is not None:
                cable.cut()
                eventually(lambda: "laggport: em1 flags=4<ACTIVE>" in bob.ifconfig("lagg0"))
            sender.sendto(b"again", (group, 7))
            assert member.recv(10) == b"again"
        member.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership)
        alice.netstat("-g")  # reads the lists where nobody tells that one left
        eventually(lambda: not any(on_lists()))

    alice.run("ip link set vlan0 allmulticast on", check=True)
    for name in below:
        eventually(lambda name=name: "ALLMULTI" in kernel_flags(alice, name))
        assert "ALLMULTI" in alice.ifconfig(name)
    alice.run("ip link set vlan0 allmulticast off", check=True)
    for name in below:
        eventually(lambda name=name: "ALLMULTI" not in kernel_flags(alice, name))
    sniffer = alice.popen(
        ["tcpdump", "-Z", "root", "-ni", "vlan0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for name in below:
        eventually(lambda name=name: "PROMISC" in kernel_flags(alice, name))
    sniffer.terminate()
    sniffer.wait()
    for name in below:
        eventually(lambda name=name: "PROMISC" not in kernel_flags(alice, name))
    lab.check()


def test_a_packet_socket_on_a_vlan_that_wants_all_groups_gets_them(lab):
    """Nobody tells of it: a frame that the NIC below would turn away makes it known."""
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    for number, host in enumerate((alice, bob), start=1):
        host.ifconfig(f"vlan0 create vlan 10 vlandev em0 198.51.100.{number}/24")
    eventually(lambda: alice.ping("198.51.100.2", timeout=0.3).received)
    index = link(alice, "vlan0")["ifindex"]
    frame = bytes.fromhex("01005e7c00090200000000ee88b5") + bytes(46)
    with (
        alice.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as listener,
        bob.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender,
    ):
        listener.bind(("vlan0", 0x88B5))
        listener.settimeout(0.1)
        membership = struct.pack("iHH8x", index, 2, 0)  # PACKET_MR_ALLMULTI
        listener.setsockopt(263, 1, membership)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP

        def gets():
            sender.sendto(frame, ("vlan0", 0))
            with contextlib.suppress(TimeoutError):
                return listener.recv(100) == frame
            return False

        assert eventually(gets)
        assert "ALLMULTI" in alice.ifconfig("em0")


def test_a_tower_falls_from_the_middle_and_nothing_is_left(lab):
    alice, bob, _ = tower(lab)

    alice.ifconfig("vlan0 destroy")
    lab.wait_for_closers()
    assert netdevs(alice) == {"em0", "em1", "lagg0", "vlan1", "bridge0"}
    assert "parent interface: <none>" in alice.ifconfig("vlan1")
    eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "bridge0"))
    for name in ("em0", "em1", "lagg0"):
        assert "PROMISC" not in kernel_flags(alice, name), name
    lab.check()

    alice.run("ip link del lagg0", check=True)  # somebody who knows nothing of the lab
    eventually(lambda: alice.vnet.ifunit("lagg0") is None)
    assert link(alice, "em0")["address"] != link(alice, "em1")["address"]
    lab.check()

    for name in ("em0", "em1"):
        with lab.lock:
            nic = bob.nics[name]
            nic.if_detach()
            nic.if_free()
    lab.wait_for_closers()
    assert netdevs(bob) == {"lagg0", "vlan0", "vlan1", "bridge0"}
    assert "laggport" not in bob.ifconfig("lagg0")
    assert bob.nics["vlan1"].if_link_state is LinkState.DOWN
    lab.check()

    for host in (alice, bob):
        for name in ("bridge0", "vlan1", "vlan0", "lagg0"):
            if name in host.nics:
                host.ifconfig(f"{name} destroy")
    lab.wait_for_closers()
    assert (netdevs(alice), netdevs(bob)) == ({"em0", "em1"}, set())
    lab.check()


def test_devices_that_were_lent_to_a_host_come_home_when_that_ends(lab):
    alice, guest = lab.host("alice"), lab.host("guest")
    alice.nic("em0")
    for words in ("vlan0 create vlan 5 vlandev em0", "bridge0 create up", "lagg0 create", "epair0 create"):
        alice.ifconfig(words)
    for name in ("vlan0", "bridge0", "lagg0", "epair0b"):
        alice.ifconfig(f"{name} vnet guest")
    guest.ifconfig("bridge0 addm epair0b up 192.0.2.2/24")
    guest.ifconfig("epair0b up")
    alice.ifconfig("epair0a 192.0.2.1/24")
    lab.wait_links()
    assert alice.ping("192.0.2.2").received == 1
    lab.check()

    with lab.lock:
        lab.kernel.vnet_destroy(guest.vnet)

    assert sorted(alice.nics) == ["bridge0", "em0", "epair0a", "epair0b", "lagg0", "vlan0"]
    assert netdevs(alice) == set(alice.nics)
    assert netdevs(guest) == set()
    assert "member:" not in alice.ifconfig("bridge0")
    assert "parent interface: em0" in alice.ifconfig("vlan0")


def test_every_frame_of_every_protocol_as_tshark_reads_it(lab, tmp_path):
    """All kinds that the devices say: not one is malformed, or a reason for tshark to warn."""
    need("tshark", "tshark")
    path = tmp_path / "everything.pcapng"
    capture = lab.capture(path)
    sw, other = lab.switch("sw", ports=4, stp=True), lab.switch("other", ports=2, stp=True)
    cables = [lab.cable(sw[n], other[n]) for n in range(2)]
    hosts = [lab.host("alice"), lab.host("bob")]
    for n, host in enumerate(hosts):
        sw.stp(n + 2, edge=True)
        lab.cable(host.nic("em0", f"192.0.2.{n + 1}/24", f"2001:db8::{n + 1}/64"), sw[n + 2])
        host.ifconfig(f"em0 vhid 1 advskew {50 * n} pass secret 192.0.2.100/24 alias")
        host.ifconfig(f"em0 inet6 vhid 6 advskew {50 * n} pass secret 2001:db8::100/64")
        host.nic("em1")
        words = "lacp_fast_timeout" if n else "lacp_passive"
        host.ifconfig(f"lagg0 create laggproto lacp {words} laggport em1 up")
        host.ifconfig("vlan0 create vlan 5 vlandev lagg0 vlanproto 802.1ad up")
        host.ifconfig(f"vlan1 create vlan 9 vlandev vlan0 vlanpcp 5 198.51.100.{n + 1}/24")
    alice, bob = hosts
    lab.cable(alice.nics["em1"], bob.nics["em1"])
    eventually(lambda: alice.ping("198.51.100.2", timeout=0.3).received, timeout=10)
    eventually(lambda: state(alice) is State.MASTER and state(alice, 6) is State.MASTER, timeout=8)

    em1 = bob.nics["em1"]
    mac = em1.lladdr.hex(":")
    marker = MarkerProtocol(requester_port=1, requester_system=mac, requester_transaction_id=77)
    em1.if_transmit(Ether(src=mac, dst="01:80:c2:00:00:02", type=0x8809) / SlowProtocol(subtype=2) / marker)
    other.ifconfig("bridge0 proto stp")  # the neighbour falls back, too
    time.sleep(3.5)  # the neighbour may judge so after three seconds (MigrateTime)
    cables[0].cut()
    for vhid in (1, 6):
        alice.ifconfig(f"em0 vhid {vhid} state backup")
    eventually(lambda: state(bob) is State.MASTER and state(bob, 6) is State.MASTER)
    alice.ifconfig("lagg0 destroy")
    time.sleep(0.2)
    capture.close()

    read = ["tshark", "-n", "-r", str(path), "-o", "ip.check_checksum:TRUE", "-d", "ip.proto==112,carp"]

    def rows(which, *fields):
        words = [word for field in fields for word in ("-e", field)]
        done = bob.run([*read, "-Y", which, "-T", "fields", *words], check=True)
        return {tuple(line.split("\t")) for line in done.stdout.splitlines()}

    # 0x00400000: a note; warnings and errors are above that.
    assert (
        rows("_ws.malformed or _ws.expert.severity >= 0x00400000", "frame.number", "_ws.expert.message")
        == set()
    )
    kinds = {(version, int(kind, 16)) for version, kind in rows("stp", "stp.version", "stp.type")}
    assert kinds == {("2", 0x02), ("0", 0x00), ("0", 0x80)}  # RST, Config, TCN
    assert {int(row[0], 16) for row in rows("slow", "slow.subtype")} == {1, 2}
    assert {row[0][:4] for row in rows("marker", "marker.tlvType")} == {"0x01", "0x02"}
    carp = rows("carp", "carp.vhid", "carp.adver_int", "carp.checksum.status", "ip.dst", "ipv6.dst")
    assert carp == {
        (vhid, interval, status, *where)
        for vhid, where in (("1", ("224.0.0.18", "")), ("6", ("", "ff02::12")))
        for interval in ("1", "255")
        for status in {row[2] for row in carp}
    }
    assert {row[2] for row in carp} <= {"1", "Good"}
    tags = rows("ieee8021ad and icmp", "ieee8021ad.id", "vlan.id", "vlan.priority")
    assert tags == {("5", "9", "5")}
