"""scapy's functions on a station, without a kernel."""

import threading

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, ARP_am, Ether
from scapy.sendrecv import AsyncSniffer, sndrcv, sniff

from iflab.net import ManualClock
from iflab.wire import Cable, Station, WireError

from ..patience import PATIENCE


@pytest.fixture
def stations():
    clock = ManualClock()
    cable = Cable(clock, "cable0")
    one = Station(clock, "one", mac="02:00:00:00:00:01").plug(cable)
    other = Station(clock, "other", mac="02:00:00:00:00:02", addresses=["192.0.2.2"]).plug(cable)
    yield one, other
    one.close()
    other.close()


def test_sr1_gets_the_answer(stations):
    one, _ = stations

    reply = one.sr1(Ether() / ARP(pdst="192.0.2.2", psrc="192.0.2.1", hwsrc=one.mac), timeout=2 * PATIENCE)

    assert reply[ARP].hwsrc == "02:00:00:00:00:02"


def test_sr1_without_an_answer_is_none(stations):
    one, _ = stations

    assert one.sr1(Ether() / ARP(pdst="192.0.2.77", psrc="192.0.2.1", hwsrc=one.mac), timeout=0.05) is None


def test_srp_takes_several(stations):
    one, _ = stations

    answered, unanswered = one.srp(
        [Ether() / ARP(pdst=f"192.0.2.{n}", psrc="192.0.2.1", hwsrc=one.mac) for n in (2, 3)],
        timeout=0.2 * PATIENCE,
    )

    assert [query[ARP].pdst for query, _ in answered] == ["192.0.2.2"]
    assert [query[ARP].pdst for query in unanswered] == ["192.0.2.3"]


def test_scapys_own_sndrcv_takes_a_station_as_its_socket(stations):
    one, _ = stations

    answered, _ = sndrcv(
        one, Ether(src=one.mac) / ARP(pdst="192.0.2.2", psrc="192.0.2.1", hwsrc=one.mac), timeout=2 * PATIENCE
    )

    assert len(answered) == 1


def test_sniff_hears_what_came_before_it_was_called(stations):
    one, other = stations
    for n in range(5):
        one.send(Ether(dst=other.mac) / IP(src="192.0.2.1", dst="192.0.2.2") / ICMP(seq=n))

    packets = sniff(opened_socket=other, count=5, timeout=2 * PATIENCE)

    assert [p[ICMP].seq for p in packets] == [0, 1, 2, 3, 4]


def test_async_sniffer_misses_nothing_of_a_burst(stations):
    one, other = stations
    sniffer = AsyncSniffer(opened_socket=other, count=2000)
    sniffer.start()
    for n in range(2000):
        one.send(bytes(12) + b"\x88\xb5" + n.to_bytes(2, "big"))
    sniffer.join(timeout=20 * PATIENCE)

    assert [int.from_bytes(bytes(p.payload), "big") for p in sniffer.results] == list(range(2000))


def test_an_answering_machine_answers(stations):
    one, other = stations
    machine = ARP_am(
        IP_addr="192.0.2.99",
        ARP_addr="02:00:00:00:00:99",
        opened_socket=other,
        socket=other,
        count=1,
        verbose=0,
    )
    thread = threading.Thread(target=machine, daemon=True)
    thread.start()

    reply = one.sr1(
        Ether() / ARP(pdst="192.0.2.99", psrc="192.0.2.1", hwsrc=one.mac), timeout=2 * PATIENCE, retry=2
    )

    assert reply is not None
    assert reply[ARP].hwsrc == "02:00:00:00:00:99"
    thread.join(timeout=5 * PATIENCE)
    assert not thread.is_alive()


def test_a_station_starts_an_answering_machine_in_the_background(stations):
    one, other = stations
    machine = other.answering_machine(ARP_am, IP_addr="192.0.2.98", ARP_addr="02:00:00:00:00:98")

    reply = one.sr1(Ether() / ARP(pdst="192.0.2.98", psrc="192.0.2.1", hwsrc=one.mac), timeout=2 * PATIENCE)

    assert reply[ARP].hwsrc == "02:00:00:00:00:98"
    machine.sniffer.stop()


def test_a_full_station_counts_what_it_loses():
    clock = ManualClock()
    cable = Cable(clock, "cable0")
    one = Station(clock, "one").plug(cable)
    slow = Station(clock, "slow", limit=3).plug(cable)
    for _ in range(5):
        one.send(bytes(60))

    assert slow.dropped == 2
    assert slow.received == 5
    one.close()
    slow.close()


def test_frames_that_cannot_be_are_refused():
    clock = ManualClock()
    lonely = Station(clock, "lonely")

    with pytest.raises(WireError, match="lonely is not plugged into a wire"):
        lonely.send(bytes(60))
    with pytest.raises(ValueError, match="a frame has 14 to 65553 octets"):
        lonely.send(bytes(13))
    lonely.close()


def test_neighbour_solicitation_is_answered():
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6

    clock = ManualClock()
    cable = Cable(clock, "cable0")
    one = Station(clock, "one", mac="02:00:00:00:00:01").plug(cable)
    other = Station(clock, "other", mac="02:00:00:00:00:02", addresses=["2001:db8::2"]).plug(cable)
    one.send(
        Ether(dst="33:33:ff:00:00:02")
        / IPv6(src="2001:db8::1", dst="ff02::1:ff00:2", hlim=255)
        / ICMPv6ND_NS(tgt="2001:db8::2")
    )

    answer = Ether(one.recv_frame(timeout=PATIENCE))

    assert answer[ICMPv6ND_NA].tgt == "2001:db8::2"
    assert answer.src == "02:00:00:00:00:02"
    one.close()
    other.close()
