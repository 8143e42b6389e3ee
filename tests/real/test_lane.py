"""Frames that come one by one go a remembered way, until the lab changes: counted and judged like all others."""

import socket
from collections import Counter

import psutil
import pytest

from iflab.net import IFF

from ..linux_tools import eventually, without_ipv6

REQUESTS = 300


@pytest.fixture
def pair(lab):
    """Two hosts that do not talk unasked: without IPv6, and with ARP entries that stay, or Linux looks after them."""
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    without_ipv6(alice, bob)
    assert alice.ping("192.0.2.2").received == 1  # ARP is done
    for host in (alice, bob):
        host.run(
            "ip neigh show dev em0 | while read to _ mac _; do "
            "ip neigh replace $to lladdr $mac nud permanent dev em0; done",
            check=True,
        )
    assert alice.ping("192.0.2.2", count=10, interval=0).received == 10  # and the way is known
    return alice, bob, cable


def remembers(host):
    return host.nics["em0"].if_softc._lane is not None


def test_requests_and_answers_are_counted_one_by_one_on_either_side(pair):
    alice, bob, cable = pair
    sides = [(alice, alice.nics["em0"], "192.0.2.1"), (bob, bob.nics["em0"], "192.0.2.2")]

    def counts(host, nic, address):
        ifa = nic.if_addrhead.with_octets(socket.inet_aton(address))
        # Another host's em0 has other counts, which psutil would take for these having wrapped around.
        kernel = host.call(psutil.net_io_counters, pernic=True, nowrap=False)["em0"]
        return Counter(
            ipackets=nic.if_ipackets,
            opackets=nic.if_opackets,
            ibytes=nic.if_ibytes,
            obytes=nic.if_obytes,
            taken=nic.if_softc.taken,
            address_ipackets=ifa.ifa_ipackets,
            address_opackets=ifa.ifa_opackets,
            address_ibytes=ifa.ifa_ibytes,
            address_obytes=ifa.ifa_obytes,
            kernel_sent=kernel.packets_sent,
            kernel_received=kernel.packets_recv,
        )

    before = [counts(*side) for side in sides]
    delivered = cable.account().delivered

    assert alice.ping("192.0.2.2", count=REQUESTS, interval=0).received == REQUESTS

    assert remembers(alice)
    assert remembers(bob)
    octets = 14 + 20 + 8 + 56
    for side, was in zip(sides, before, strict=True):
        found = counts(*side)
        found.subtract(was)
        assert {found[name] for name in ("ipackets", "opackets", "taken")} == {REQUESTS}
        assert {found[name] for name in ("address_ipackets", "address_opackets")} == {REQUESTS}
        assert {found[name] for name in ("kernel_sent", "kernel_received")} == {REQUESTS}
        assert {found[name] for name in ("ibytes", "obytes")} == {REQUESTS * octets}
        assert {found[name] for name in ("address_ibytes", "address_obytes")} == {REQUESTS * (octets - 14)}
    assert cable.account().delivered - delivered == 2 * REQUESTS
    assert cable.account().balances()


def test_a_cut_a_mend_and_a_hook_hold_for_the_next_frame(pair):
    alice, _, cable = pair
    seen = Counter()

    cable.cut()
    assert alice.ping("192.0.2.2", timeout=0.05).received == 0
    cable.mend()
    assert alice.ping("192.0.2.2", count=5, interval=0).received == 5
    hook = cable.add_hook(lambda frame: seen.update([frame.dst.name]))
    assert alice.ping("192.0.2.2", count=5, interval=0).received == 5
    assert seen == {"bob:em0": 5, "alice:em0": 5}
    hook.remove()

    assert alice.ping("192.0.2.2", count=5, interval=0).received == 5
    assert seen.total() == 10
    assert remembers(alice)


def test_a_sniffer_hears_from_the_next_frame(lab, pair):
    alice, _, _ = pair

    with lab.tap("bob:em0", filter="icmp", direction="in") as sniffer:
        assert alice.ping("192.0.2.2", count=3, interval=0).received == 3
        assert len(sniffer.packets()) == 3


def test_a_driver_that_says_busy_is_believed_without_a_call(pair):
    alice, _, _ = pair
    em0 = alice.nics["em0"]
    waiting = em0.if_snd.ifq_len

    em0.if_drv_flags |= IFF.OACTIVE
    assert alice.ping("192.0.2.2", timeout=0.05).received == 0

    assert em0.if_snd.ifq_len == waiting + 1
    em0.if_drv_flags &= ~IFF.OACTIVE
    em0.if_softc.if_start(em0)
    eventually(lambda: em0.if_snd.ifq_len == 0)
    assert alice.ping("192.0.2.2").received == 1


def test_an_address_that_goes_counts_no_more(pair):
    alice, bob, _ = pair
    em0 = bob.nics["em0"]
    gone = em0.if_addrhead.with_octets(socket.inet_aton("192.0.2.2"))

    bob.ifconfig("em0 inet 192.0.2.2 -alias")
    counted = gone.ifa_ipackets
    assert alice.ping("192.0.2.2", timeout=0.05).received == 0

    assert gone.ifa_ipackets == counted
    bob.run("ip addr add 192.0.2.3/24 dev em0", check=True)
    assert alice.ping("192.0.2.3", count=3).received == 3


def test_filter_and_mac_hold_for_the_next_frame(pair):
    alice, bob, _ = pair
    em0 = bob.nics["em0"]
    alice.run(
        "ip neigh replace 192.0.2.2 lladdr " + em0.lladdr.hex(":") + " dev em0 nud permanent", check=True
    )
    filtered = em0.if_softc.filtered

    em0.if_setlladdr(b"\x02\x00\x00\x00\x00\x77")
    assert alice.ping("192.0.2.2", timeout=0.05).received == 0

    assert em0.if_softc.filtered == filtered + 1
