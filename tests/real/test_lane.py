"""Frames that come one by one go a remembered way, until the lab changes: counted and judged like all others."""

import socket
import time
from collections import Counter

import psutil
import pytest

from iflab.net import IFF

from ..linux_tools import eventually, without_ipv6
from ..patience import PATIENCE

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


def test_monitor_mode_holds_for_the_next_frame(pair):
    alice, bob, _ = pair
    assert remembers(alice)

    bob.ifconfig("em0 monitor")
    before = bob.nics["em0"].if_ipackets
    assert alice.ping("192.0.2.2", count=3, interval=0.01, timeout=0.05).received == 0
    assert bob.nics["em0"].if_ipackets == before + 3
    bob.ifconfig("em0 -monitor")

    assert alice.ping("192.0.2.2", count=3, interval=0.01).received == 3


# through switches


@pytest.fixture
def switched(lab):
    """Alice, a switch, another one, and bob; their kernels send nothing unasked."""
    alice, bob = lab.host("alice"), lab.host("bob")
    left, right = lab.switch("left", ports=3), lab.switch("right", ports=3)
    lab.cable(alice.nic("em0", "192.0.2.1/24"), left[0])
    between = lab.cable(left[1], right[1])
    lab.cable(right[0], bob.nic("em0", "192.0.2.2/24"))
    lab.wait_links()
    without_ipv6(alice, bob)
    for host, other in ((alice, bob), (bob, alice)):
        number = "192.0.2.1" if other is alice else "192.0.2.2"
        mac = other.nics["em0"].lladdr.hex(":")
        host.run(f"ip neigh replace {number} lladdr {mac} nud permanent dev em0", check=True)

    def settled():  # nothing is left that was sent before its NIC knew who looks
        assert alice.ping("192.0.2.2", count=10, interval=0).received == 10
        return not any(host.nics["em0"].if_softc._stale_until for host in (alice, bob))

    eventually(settled)
    assert alice.ping("192.0.2.2", count=10, interval=0).received == 10
    return alice, bob, left, right, between


def test_what_goes_through_switches_is_counted_at_each_port(switched):
    alice, bob, left, right, between = switched
    ports = [left[0], left[1], right[1], right[0]]
    bridges = [left.bridge.ifp, right.bridge.ifp]

    def counts():
        found = []
        for ifp in (alice.nics["em0"], *ports, bob.nics["em0"]):
            found += [ifp.if_ipackets, ifp.if_opackets, ifp.if_ibytes, ifp.if_obytes]
        found += [bridge.if_ipackets for bridge in bridges]
        return [*found, between.account().delivered, between.account().octets]

    before = counts()
    assert alice.ping("192.0.2.2", count=REQUESTS, interval=0).received == REQUESTS

    assert remembers(alice)
    assert remembers(bob)
    octets = REQUESTS * (14 + 20 + 8 + 56)
    expected = [REQUESTS, REQUESTS, octets, octets] * 6 + [2 * REQUESTS] * 2 + [2 * REQUESTS, 2 * octets]
    assert [now - then for now, then in zip(counts(), before, strict=True)] == expected
    assert between.account().balances()


@pytest.fixture
def speak(switched):
    """A function that sends datagrams to bob and has each come back, without the lab's lock; how many came."""
    alice, bob, *_ = switched
    with (
        bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo,
        alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        echo.bind(("192.0.2.2", 0))
        to = echo.getsockname()
        nic = alice.nics["em0"].if_softc

        def send(count, timeout=0.3 * PATIENCE):
            came = 0
            for sock in (echo, source):
                sock.settimeout(timeout)
            for _ in range(count):
                nic._appetite = 1  # one comes; after a pause it would look for more
                source.sendto(b"x", to)
                try:
                    echo.sendto(*echo.recvfrom(100))
                    came += len(source.recv(100))
                except TimeoutError:
                    continue
            return came

        assert send(20) == 20
        assert remembers(alice)
        yield send


def test_a_switch_goes_on_hearing_who_speaks(switched, speak):
    alice, _, left, _, _ = switched
    (entry,) = [entry for entry in left.bridge.fdb if entry.mac == alice.nics["em0"].lladdr]

    before = entry.heard
    began = time.monotonic()
    while time.monotonic() < began + 0.4:
        assert speak(100) == 100
    assert remembers(alice)
    assert entry.heard - before > 0.3
    assert (
        alice.nics["em0"].if_softc._lane.until < time.monotonic() + 0.2
    )  # a switch may forget after a second


@pytest.mark.parametrize("number", [0, 1])
def test_a_port_of_a_switch_that_says_busy_is_believed_without_a_call(switched, speak, number):
    _, _, left, right, _ = switched
    port = (left[1], right[0])[number]
    waiting = port.if_snd.ifq_len

    assert speak(5) == 5
    port.if_drv_flags |= IFF.OACTIVE
    assert speak(3, timeout=0.05) == 0
    assert port.if_snd.ifq_len == waiting + 3

    port.if_drv_flags &= ~IFF.OACTIVE
    port.if_softc.if_start(port)
    assert speak(3) == 3


def test_a_port_in_monitor_mode_hands_nothing_on_from_the_next_frame(switched, speak):
    _, _, left, right, _ = switched
    assert speak(5) == 5

    left.ifconfig("p0 monitor")
    before = right[1].if_ipackets
    assert speak(3, timeout=0.05) == 0
    assert right[1].if_ipackets == before
    left.ifconfig("p0 -monitor")
    assert speak(3) == 3
    left.ifconfig("bridge0 monitor")
    before, counted = right[1].if_ipackets, left.ifp.if_ipackets
    assert speak(3, timeout=0.05) == 0
    assert (right[1].if_ipackets, left.ifp.if_ipackets) == (before, counted + 3)
    left.ifconfig("bridge0 -monitor")

    assert speak(3) == 3


def test_who_listens_or_has_a_say_between_switches_is_asked_from_the_next_frame(lab, switched, speak):
    alice, _, left, _, between = switched
    seen, heard = Counter(), []

    with lab.tap(left[1], filter="udp") as sniffer:
        assert speak(10) == 10
        assert len(sniffer.packets()) == 20
    tap = between.add_tap(lambda end, m: heard.append(m))
    assert speak(10) == 10
    assert len(heard) == 20
    tap.remove()
    between.add_hook(lambda frame: seen.update(["seen"]))
    assert speak(10) == 10
    assert seen["seen"] == 20
    assert not remembers(alice)


def test_a_way_on_which_frames_may_have_to_be_finished_is_not_remembered(switched, speak):
    alice, bob, *_ = switched
    bob.ifconfig("em0 -rxcsum -rxcsum6")

    assert alice.ping("192.0.2.2", count=20, interval=0).received == 20  # pings leave nothing undone
    assert not remembers(alice)
    assert remembers(bob)
    assert speak(10) == 10
