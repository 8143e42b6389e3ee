"""Pseudo-devices with Linux above them."""

from __future__ import annotations

from iflab.drivers import ng_ether_attach
from iflab.net import IFF

from ..linux_tools import PATIENCE, eventually, kernel_flags, link


def test_an_epair_connects_two_hosts(lab):
    alice, bob = lab.host("alice"), lab.host("bob")
    assert alice.ifconfig("epair create") == "epair0a\n"
    alice.ifconfig("epair0b vnet bob")
    alice.ifconfig("epair0a 192.0.2.1/24")
    bob.ifconfig("epair0b 192.0.2.2/24")
    lab.wait_links()

    assert alice.ping("192.0.2.2").received == 1
    assert bob.fetch(alice.serve(bytes_=20_000_000)).wait(20 * PATIENCE) == 20_000_000
    lab.check()

    bob.ifconfig("epair0b destroy")
    lab.wait_for_closers()
    assert sorted(alice.run("ls /sys/class/net").stdout.split()) == ["lo"]
    assert sorted(bob.run("ls /sys/class/net").stdout.split()) == ["lo"]


def test_deleting_half_an_epair_from_the_linux_side_takes_the_link_of_the_other(lab):
    alice = lab.host("alice")
    alice.ifconfig("epair0 create up")
    alice.ifconfig("epair0b up")
    lab.wait_links()

    alice.run("ip link del epair0a", check=True)

    eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "epair0b"))
    assert alice.vnet.ifunit("epair0a") is None


def test_what_linux_routes_to_disc_is_gone_without_an_error(lab):
    alice = lab.host("alice")
    alice.ifconfig("disc0 create 198.51.100.1/24")
    lab.wait_links()
    disc0 = alice.nics["disc0"]

    assert alice.ping("198.51.100.9", count=3, interval=0.01, timeout=0.1).received == 0

    eventually(lambda: disc0.if_opackets >= 3)
    assert disc0.if_oerrors == 0
    assert "NOARP" in kernel_flags(alice, "disc0")
    assert link(alice, "disc0")["mtu"] == disc0.if_mtu


def test_what_linux_routes_to_a_loopbacks_network_comes_back(lab):
    alice = lab.host("alice")
    alice.ifconfig("lo1 create 198.51.100.1/24")
    lab.wait_links()
    lo1 = alice.nics["lo1"]

    assert alice.ping("198.51.100.1").received == 1
    alice.ping("198.51.100.9", timeout=0.1)

    eventually(lambda: lo1.if_ipackets >= 1 and lo1.if_ipackets == lo1.if_opackets)
    assert lo1.if_flags & IFF.LOOPBACK
    assert "groups: lo" in alice.ifconfig("lo1")


def test_a_python_node_answers_for_the_host_and_lets_the_rest_pass(lab):
    from scapy.all import ICMP, IP

    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    seen = []
    with lab.lock:
        node = ng_ether_attach(bob.nics["em0"])

        def look(frame):
            if ICMP in frame.pkt and frame.pkt[IP].dst == "192.0.2.2":
                seen.append(frame.pkt[ICMP].type)
            upper.send(frame)

        lower = node.connect("lower", look)
        upper = node.connect("upper", lambda frame: lower.send(frame))

    assert alice.ping("192.0.2.2", count=2, interval=0.01).received == 2
    assert bob.fetch(alice.serve(bytes_=300_000)).wait(20 * PATIENCE) == 300_000

    assert seen == [8, 8]
    upper.disconnect()
    lower.disconnect()
    assert alice.ping("192.0.2.2").received == 1
