"""Aggregates with Linux above them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading

import pytest

from iflab.net import LinkState

from ..linux_tools import PATIENCE, eventually, kernel_flags, link, need
from .test_vlan import dissected


def two(lab, proto, words=""):
    hosts, nics = [], []
    for n, name in enumerate(("alice", "bob")):
        host = lab.host(name)
        nics.append([host.nic(f"em{k}") for k in range(2)])
        host.ifconfig(f"lagg0 create laggproto {proto} {words} laggport em0 laggport em1 192.0.2.{n + 1}/24")
        hosts.append(host)
    cables = [lab.cable(nics[0][k], nics[1][k]) for k in range(2)]
    eventually(lambda: all(host.nics["lagg0"].if_link_state is LinkState.UP for host in hosts), timeout=10)
    lab.wait_links()
    return *hosts, cables


@pytest.mark.parametrize("proto", ["failover", "loadbalance", "roundrobin", "lacp"])
def test_tcp_and_ping_through_two_links(lab, proto):
    alice, bob, cables = two(lab, proto)

    assert alice.ping("192.0.2.2").received == 1
    assert bob.fetch(alice.serve(bytes_=5_000_000, address="192.0.2.1")).wait(20 * PATIENCE) == 5_000_000

    assert link(alice, "lagg0")["address"] == link(alice, "em0")["address"] == link(alice, "em1")["address"]
    for cable in cables:
        assert cable.account().balances()
    lab.check()


def test_failover_under_tcp_loses_nothing_for_good_and_recovers_fast(lab):
    alice, bob, cables = two(lab, "failover")
    for cable in cables:
        cable.set_delay(0.001)
    download = bob.fetch(alice.serve(bytes_=20_000_000, address="192.0.2.1"))
    eventually(lambda: download.received > 1_000_000)

    cables[0].cut()
    assert download.wait(20 * PATIENCE) == 20_000_000

    assert cables[1].account().sent > 0
    assert "laggport: em1 flags=4<ACTIVE>" in alice.ifconfig("lagg0")


@pytest.mark.parametrize("proto", ["failover", "loadbalance", "roundrobin", "broadcast", "lacp"])
def test_what_is_sent_after_the_link_event_arrives(lab, proto):
    alice, bob, cables = two(lab, proto)
    told = threading.Event()
    lab.kernel.events.register(
        "ifnet_link_event",
        lambda ifp, state: state is LinkState.DOWN and ifp.if_xname == "em0" and told.set(),
    )
    with (
        alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("192.0.2.2", 7))
        receiver.settimeout(2 * PATIENCE)
        sender.sendto(b"first", ("192.0.2.2", 7))
        assert receiver.recv(10) == b"first"
        receiver.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            receiver.recv(10)  # the same once more, over the other cable
        receiver.settimeout(2)

        cables[0].cut()
        assert told.wait(2 * PATIENCE)
        with lab.lock:
            pass  # both ends have heard
        for n in range(200):
            sender.sendto(str(n).encode(), ("192.0.2.2", 7))
            if n % 2 == 0:  # two at a time, and never more than a queue holds
                continue
            assert [receiver.recv(10) for _ in range(2)] == [str(n - 1).encode(), str(n).encode()]


def test_lacp_as_tshark_reads_it(lab, tmp_path):
    need("tshark", "tshark")
    path = tmp_path / "lacp.pcapng"
    capture = lab.capture(path)
    alice, bob, cables = two(lab, "lacp", "lacp_fast_timeout")
    cables[0].cut()
    eventually(lambda: alice.ping("192.0.2.2", timeout=0.3).received)
    cables[0].mend()
    eventually(lambda: "laggport: em0 flags=1c" in bob.ifconfig("lagg0"), timeout=10)

    capture.close()
    rows = dissected(lab, path, "lacp.version", "lacp.actor.state", "lacp.actor.sysid")
    seen = [row for row in rows if row[0]]
    assert {row[2] for row in seen} == {host.nics["lagg0"].lladdr.hex(":") for host in (alice, bob)}
    states = {int(row[1], 16) for row in seen}
    assert any(state & 0x30 == 0x30 for state in states)


def test_vlan_over_lagg_over_two_nics(lab):
    alice, bob, cables = two(lab, "failover")
    for n, host in enumerate((alice, bob)):
        host.ifconfig(f"vlan0 create vlan 10 vlandev lagg0 198.51.100.{n + 1}/24")
    lab.wait_links()
    assert eventually(lambda: alice.ping("198.51.100.2", timeout=0.3).received)

    alice.ifconfig("vlan0 promisc")
    for name in ("vlan0", "lagg0", "em0", "em1"):
        assert "PROMISC" in alice.ifconfig(name), name
        assert "PROMISC" in kernel_flags(alice, name), name
    alice.ifconfig("vlan0 -promisc")
    assert all("PROMISC" not in kernel_flags(alice, name) for name in ("vlan0", "lagg0", "em0", "em1"))

    for cable in cables:
        cable.cut()
    eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "vlan0"))
    cables[1].mend()
    eventually(lambda: "LOWER_UP" in kernel_flags(alice, "vlan0"))
    assert eventually(lambda: alice.ping("198.51.100.2", timeout=0.3).received)
    assert bob.fetch(alice.serve(bytes_=1_000_000, address="198.51.100.1")).wait(20 * PATIENCE) == 1_000_000
    lab.check()


def test_a_lagg_that_is_destroyed_gives_its_nics_back(lab):
    alice, _, _ = two(lab, "loadbalance")
    alice.ifconfig("lagg0 destroy")
    lab.wait_for_closers()

    assert link(alice, "em0")["address"] != link(alice, "em1")["address"]
    assert alice.ifconfig("-l") == "em0 em1\n"
    lab.check()


@pytest.mark.parametrize(
    ("act", "module"),
    [
        ("lab.host('a').ifconfig('lagg0 create laggproto lacp')", "scapy.contrib.lacp"),
        ("lab.switch('sw', stp=True)", "scapy.layers.l2"),
        ("sw.ifconfig('bridge0 stp p0')", "scapy.layers.l2"),
        ("sw.stp(0)", "scapy.layers.l2"),
    ],
)
def test_nobody_waits_for_what_frames_are_made_of(act, module):
    """Importing scapy takes a good part of a second: that must not happen with the lab's lock held."""
    program = (
        "import sys\n"
        "from iflab import Lab\n"
        "lab = Lab(control=False)\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            print('found', 'held' if lab.lock._is_owned() else 'free')\n"
        "sw = lab.switch('s')\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"{act}\n"
        "lab.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("found free\n", "")
