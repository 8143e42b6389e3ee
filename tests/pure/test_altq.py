"""Disciplines of the send queue, under a clock that stands still."""

from __future__ import annotations

import errno
import functools
import itertools
import math
import random
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from iflab.faults import Stream
from iflab.net import IFF, ManualClock, frame_of, mbuf
from iflab.net.altq import (
    CoDel,
    FqCoDel,
    Priority,
    Red,
    TokenBucketRegulator,
    altq_forgo,
    altq_use,
    by_precedence,
    flow_of,
    mark_ce,
)

from .doubles import ethernet, frame

SIGMAS = 5.0


@functools.cache
def template(sport: int, size: int, tos: int, dst: str) -> tuple[bytes, bytes]:
    made = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst=dst, tos=tos)
    made = made / UDP(sport=sport, dport=9, chksum=0)
    m = mbuf(bytes(made / Raw(bytes(size - len(made)))))
    return m[:52], m[56:]


def packet(
    number: int = 0, *, sport: int = 1, size: int = 1000, tos: int = 0, dst: str = "192.0.2.2"
) -> bytes:
    """An mbuf with a UDP datagram in a frame of ``size`` octets that bears a number."""
    head, tail = template(sport, size, tos, dst)
    return head + number.to_bytes(4, "big") + tail


def number_of(m: bytes) -> int:
    return int.from_bytes(m[52:56], "big")


def drain(discipline) -> list[int]:
    numbers = []
    while (m := discipline.dequeue()) is not None:
        numbers.append(number_of(m))
    return numbers


# what frames say


@pytest.mark.parametrize(
    ("layers", "precedence"),
    [
        (IP(tos=0), 0),
        (IP(tos=0xB8), 5),
        (IPv6(tc=0xE0), 7),
        (IPv6(tc=0x10), 0),
        (Dot1Q(prio=6) / IP(tos=0xB8), 6),
        (ARP(), 0),
    ],
)
def test_precedence_is_that_of_tag_or_header(layers, precedence):
    made = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / layers

    assert by_precedence(mbuf(bytes(made))) == precedence


def test_a_flow_is_addresses_protocol_and_ports():
    def flow(layers):
        return flow_of(mbuf(bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / layers)))

    tcp = IP(src="192.0.2.1", dst="192.0.2.2", id=1) / TCP(sport=5, dport=80, seq=1)
    assert flow(tcp) == flow(
        IP(src="192.0.2.1", dst="192.0.2.2", id=9, ttl=3) / TCP(sport=5, dport=80, seq=99)
    )
    assert flow(tcp) == flow(Dot1Q(vlan=4) / tcp)
    assert flow(tcp) != flow(IP(src="192.0.2.1", dst="192.0.2.2") / TCP(sport=6, dport=80))
    assert flow(tcp) != flow(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=5, dport=80))
    six = IPv6(src="2001:db8::1", dst="2001:db8::2")
    assert flow(six / TCP(sport=5)) != flow(six / TCP(sport=6))
    first = IP(src="192.0.2.1", dst="192.0.2.2", flags="MF") / UDP(sport=5, dport=80)
    later = IP(src="192.0.2.1", dst="192.0.2.2", frag=100, proto=17) / Raw(b"x" * 20)
    assert flow(first) == flow(later)  # only the first one has ports
    assert flow(ARP(psrc="192.0.2.1", hwsrc="02:00:00:00:00:01")) == flow(
        ARP(op=2, psrc="192.0.2.9", hwsrc="02:00:00:00:00:01")
    )


@pytest.mark.parametrize("identification", [0, 1, 0xFFFF, 0x7B3A])
@pytest.mark.parametrize("tos", [1, 2, 0xB9])
def test_a_mark_keeps_the_checksum_right(tos, identification):
    made = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(
        src="192.0.2.1", dst="192.0.2.2", tos=tos, id=identification
    )
    marked = mark_ce(mbuf(bytes(made / UDP())))

    after = Ether(frame_of(marked))
    assert after[IP].tos == tos | 3
    sum_on_the_wire = after[IP].chksum
    del after[IP].chksum
    assert Ether(bytes(after))[IP].chksum == sum_on_the_wire


def test_only_what_is_capable_of_ecn_is_marked():
    six = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IPv6(
        src="2001:db8::1", dst="2001:db8::2", tc=0xB9
    )
    assert Ether(frame_of(mark_ce(mbuf(bytes(six)))))[IPv6].tc == 0xBB
    assert mark_ce(packet(tos=0)) is None
    assert mark_ce(packet(tos=3)) == packet(tos=3)
    assert mark_ce(mbuf(frame("no IP"))) is None
    assert mark_ce(mbuf(b"")) is None


# priority


def test_the_highest_class_leaves_first_and_each_in_its_order():
    discipline = Priority()
    for number, tos in enumerate((0, 0xE0, 0, 0xB8, 0xE0)):
        assert discipline.enqueue(packet(number, tos=tos)) == 0

    assert number_of(discipline.poll()) == 1
    assert len(discipline) == 5
    assert drain(discipline) == [1, 4, 3, 0, 2]


def test_what_was_shown_leaves_next_even_if_something_higher_comes():
    discipline = Priority(2, classify=number_of)
    discipline.enqueue(packet(0))
    discipline.poll()
    discipline.enqueue(packet(1))

    assert drain(discipline) == [0, 1]


def test_a_full_class_turns_away_and_leaves_the_others_alone():
    discipline = Priority(2, limit=3, classify=lambda m: number_of(m) - 10)
    answers = [discipline.enqueue(packet(n)) for n in (10, 10, 10, 10, 17, 5)]

    assert answers == [0, 0, 0, errno.ENOBUFS, 0, errno.ENOBUFS]
    assert discipline.dropped == {"full": 2}
    assert discipline.purge() == 4
    assert discipline.dequeue() is None


# CoDel


def test_codel_leaves_a_short_queue_alone():
    clock = ManualClock()
    codel = CoDel(clock)
    for number in range(1000):
        codel.enqueue(packet(number))
        clock.advance(0.004)
        assert number_of(codel.dequeue()) == number

    assert not codel.dropped


def test_codel_does_not_drop_the_last_frame_however_long_it_waited():
    clock = ManualClock()
    codel = CoDel(clock)
    for number in range(20):
        codel.enqueue(packet(number))
        clock.advance(1)
        assert number_of(codel.dequeue()) == number

    assert not codel.dropped


def overload(codel: CoDel, clock: ManualClock, seconds: float, step: float = 0.001, **kind) -> list[float]:
    """One frame leaves in a step, and as many come as left or were dropped; when frames were struck."""
    struck, number = [], 1000
    before = codel.dropped["codel"] + codel.marked
    began = clock.now()
    while clock.now() < began + seconds:
        clock.advance(step)
        waiting = len(codel)
        codel.dequeue()
        now = codel.dropped["codel"] + codel.marked
        struck += [round(clock.now(), 6)] * (now - before)
        before = now
        for _ in range(waiting - len(codel)):
            codel.enqueue(packet(number, **kind))
            number += 1
    return struck


@pytest.mark.parametrize("ecn", [False, True])
def test_codel_strikes_faster_by_the_square_root(ecn):
    """RFC 8289, 3.3: the first an interval after the delay got too long, the k-th after it interval / √k later."""
    clock = ManualClock()
    codel = CoDel(clock, ecn=ecn)
    for number in range(100):
        codel.enqueue(packet(number, tos=2))
    struck = overload(codel, clock, 2.0, tos=2)

    due = [struck[0]]
    for k in range(1, len(struck)):
        due.append(due[-1] + 0.1 / math.sqrt(k))
    # sojourn first above 5 ms at the first look past it, and then an interval
    assert 0.105 <= struck[0] <= 0.108
    assert len(struck) > 50
    assert all(-1e-9 < got - law < 0.001001 for got, law in zip(struck, due, strict=True))
    assert (codel.marked > 0, codel.dropped["codel"] > 0) == (ecn, not ecn)


def test_codel_begins_where_it_was_when_the_queue_soon_grows_again():
    clock = ManualClock()
    codel = CoDel(clock)
    for number in range(100):
        codel.enqueue(packet(number))
    first = overload(codel, clock, 1.0)
    drain(codel)
    for number in range(100):
        codel.enqueue(packet(number))
    clock.advance(0.006)
    second = overload(codel, clock, 1.0)

    assert len(second) > 1.5 * len(first)
    assert second[1] - second[0] < 0.1 / math.sqrt(5)


def test_codel_holds_a_standing_queue_to_its_target_where_a_plain_one_grows():
    """A sender that halves at a loss, and else adds (TCP's way), through 1,000 frames a second."""

    def run(queue, enqueue) -> float:
        window, in_flight, delays = 10.0, [], []
        for tick in range(60_000):
            clock.advance(0.001)
            now = clock.now()
            m = queue()
            if m is not None:
                sent = number_of(m) / 1000
                in_flight.remove(number_of(m))
                window += 1 / window
                if tick > 20_000:
                    delays.append(now - sent)
            lost = [n for n in in_flight if now - n / 1000 > 1.5]
            if lost or drops():
                window = max(2.0, window / 2)
                in_flight[:] = [n for n in in_flight if n not in lost]
            for _ in range(2):
                if len(in_flight) < window:
                    n = round(now * 1000)
                    if not enqueue(packet(n)):
                        in_flight.append(n)
        return fmean(delays)

    clock = ManualClock()
    codel = CoDel(clock)
    seen = [0]

    def drops() -> bool:
        fresh = codel.dropped["codel"] > seen[0]
        seen[0] = codel.dropped["codel"]
        return fresh

    assert run(codel.dequeue, codel.enqueue) < 0.02
    assert codel.dropped["codel"] > 10
    assert not codel.dropped["full"]


def test_codel_is_bounded():
    codel = CoDel(ManualClock(), limit=3)

    assert [codel.enqueue(packet(n)) for n in range(4)] == [0, 0, 0, errno.ENOBUFS]
    assert codel.dropped == {"full": 1}
    codel.poll()
    assert (len(codel), codel.purge(), len(codel)) == (3, 3, 0)


# FQ-CoDel


def test_flows_share_by_octets_whatever_their_numbers_and_sizes():
    clock = ManualClock()
    fq = FqCoDel(clock, interval=1000, target=999)
    for number in range(600):
        fq.enqueue(packet(number, sport=1, size=1500))
        fq.enqueue(packet(number, sport=2, size=300))
        fq.enqueue(packet(number, sport=2, size=300))
        fq.enqueue(packet(number, sport=3, size=750))
    octets: Counter[int] = Counter()
    for _ in range(900):
        m = fq.dequeue()
        octets[int.from_bytes(m[44:46], "big")] += len(m) - 10

    # deficit round robin (Shreedhar and Varghese): apart by a quantum and a frame at most
    assert max(octets.values()) - min(octets.values()) <= 1514 + 1500


def test_a_thin_flow_goes_before_a_thick_one():
    clock = ManualClock()
    fq = FqCoDel(clock)
    for number in range(100):
        fq.enqueue(packet(number, sport=1))
    for _ in range(10):
        fq.dequeue()
    fq.enqueue(packet(999, sport=2))

    ahead = list(itertools.takewhile(lambda n: n != 999, (number_of(fq.dequeue()) for _ in range(50))))
    assert len(ahead) <= 1  # at most the rest of the thick one's turn


def test_a_new_flow_has_one_turn_before_the_others_and_no_second():
    fq = FqCoDel(ManualClock(), quantum=1000)
    for number in range(10):
        fq.enqueue(packet(number, sport=1))
    fq.dequeue()
    fq.dequeue()
    for number in range(100, 110):
        fq.enqueue(packet(number, sport=2))

    # the first turn comes at once; from the second on it is one of two that take turns
    assert [number_of(fq.dequeue()) for _ in range(6)] == [100, 101, 2, 102, 3, 103]


def test_thin_flows_that_take_turns_do_not_starve_a_thick_one():
    """One whose queue is empty is new again only after a round with the others (RFC 8290, 4.2)."""
    fq = FqCoDel(ManualClock(), quantum=1000)
    for number in range(100):
        fq.enqueue(packet(number, sport=1))
    thick = 0
    for turn in range(100):
        fq.enqueue(packet(1000, sport=2 + turn % 2, size=100))
        thick += number_of(fq.dequeue()) < 1000

    # a third of the octets, or more: one of its frames to 20 of theirs
    assert thick >= 5


def test_the_thickest_flow_pays_when_the_limit_is_reached():
    fq = FqCoDel(ManualClock(), limit=100)
    for number in range(20):
        fq.enqueue(packet(number, sport=2))
    for number in range(200):
        assert fq.enqueue(packet(number, sport=1)) == 0

    assert fq.dropped["full"] == 220 - len(fq)
    assert len(fq) <= 100
    left = Counter()
    while (m := fq.dequeue()) is not None:
        left[int.from_bytes(m[44:46], "big")] += 1
    assert left[2] == 20


def test_codel_works_in_each_flow_by_itself():
    clock = ManualClock()
    fq = FqCoDel(clock, ecn=False)
    for number in range(300):
        fq.enqueue(packet(number, sport=1))
    thin: list[int] = []
    for number in range(400):
        clock.advance(0.01)
        fq.enqueue(packet(10_000 + number, sport=2))
        for _ in range(2):
            m = fq.dequeue()
            if m is not None and number_of(m) >= 10_000:
                thin.append(number_of(m) - 10_000)

    assert fq.dropped["codel"] > 10
    assert thin == list(range(400))
    assert len(fq) == fq.purge() == 0 or len(fq) == 0


def test_the_seed_spreads_flows_otherwise():
    one, other = FqCoDel(ManualClock(), seed=1), FqCoDel(ManualClock(), seed=2)
    frames = [packet(sport=n) for n in range(1, 101)]

    assert [one.bucket(m) for m in frames] == [FqCoDel(ManualClock(), seed=1).bucket(m) for m in frames]
    assert sum(one.bucket(m) == other.bucket(m) for m in frames) < 5
    assert (
        len({one.bucket(m) for m in frames}) > 85
    )  # of 100 flows over 1,024 queues 95 have one to themselves


# RED


def test_red_strikes_as_often_as_said_and_evenly_spread():
    """At a steady average the gaps are uniform in 1 .. 1/p (Floyd and Jacobson, section 7, method 2)."""
    clock = ManualClock()
    red = Red(clock, Stream(1, "red"), low=0, high=20, probability=0.2, weight=1e-12)
    red.enqueue(packet())
    red.average = 10.0
    gaps, since = [], 0
    for _ in range(100_000):
        since += 1
        if red.enqueue(packet()):
            gaps.append(since)
            since = 0
        else:
            red.dequeue()
            red._idle_since = None
            if not len(red):
                red._frames.append(packet())

    base = 0.2 * 10 / 20
    top = round(1 / base)
    mean, variance = (top + 1) / 2, (top**2 - 1) / 12
    assert (min(gaps), max(gaps)) == (1, top)
    assert abs(fmean(gaps) - mean) < SIGMAS * math.sqrt(variance / len(gaps))
    for gap in range(1, top + 1):
        share = gaps.count(gap) / len(gaps)
        assert abs(share - 1 / top) < SIGMAS * math.sqrt((1 / top) * (1 - 1 / top) / len(gaps))


def test_red_takes_all_below_and_nothing_above():
    red = Red(ManualClock(), random.Random(1), low=5, high=15, weight=1.0, limit=100)
    answers = [red.enqueue(packet()) for _ in range(200)]

    assert not any(answers[:6])
    assert len(red) <= 15
    assert red.dropped["red"] == 200 - len(red)


def test_a_gentle_red_rises_on():
    def taken(gentle: bool) -> int:
        red = Red(ManualClock(), Stream(1, "x"), low=5, high=15, weight=1.0, limit=1000, gentle=gentle)
        for _ in range(3000):
            red.enqueue(packet())
        return len(red)

    assert taken(False) == 15
    assert 15 < taken(True) <= 30


def test_red_forgets_while_it_is_idle():
    clock = ManualClock()
    red = Red(clock, random.Random(1), weight=0.1, frame_time=0.001, limit=100, high=50)
    for _ in range(100):
        red.enqueue(packet())
    before = red.average
    drain(red)
    clock.advance(0.010)
    red.enqueue(packet())

    assert red.average == pytest.approx(before * 0.9**10 * 0.9)


def test_red_marks_what_is_capable():
    red = Red(
        ManualClock(), random.Random(1), low=0, high=50, probability=1.0, weight=1.0, ecn=True, limit=40
    )
    for number in range(40):
        red.enqueue(packet(number, tos=2))

    assert red.marked > 0
    assert not red.dropped["red"]
    marks = 0
    while (m := red.dequeue()) is not None:
        marks += Ether(frame_of(m))[IP].tos & 3 == 3
    assert marks == red.marked


# the regulator, on an interface


def test_a_regulator_lets_a_burst_go_and_then_the_rate():
    clock = ManualClock()
    _, ifp, driver = ethernet()
    times: list[float] = []
    regulator = TokenBucketRegulator(clock, 8e6, depth=3000).attach(ifp)  # an octet a microsecond
    started = driver.if_start

    def start(ifp):
        before = len(driver.sent)
        started(ifp)
        times.extend([round(clock.now(), 6)] * (len(driver.sent) - before))

    driver.if_start = start
    for number in range(6):
        ifp.if_transmit(frame_of(packet(number)))
    clock.advance(1)

    # 3,000 tokens: three frames; then one whenever there is a token: 0, 1 ms, 2 ms
    assert [round(t, 3) for t in times] == [0, 0, 0, 0, 0.001, 0.002]
    assert ifp.if_snd.altq_tbr is regulator
    assert len(ifp.if_snd) == 0


def test_the_long_run_has_the_regulators_rate():
    clock = ManualClock()
    _, ifp, driver = ethernet()
    ifp.if_snd.ifq_maxlen = 100_000
    TokenBucketRegulator(clock, 1e6, depth=1500).attach(ifp)
    sizes = random.Random(3)
    for number in range(2000):
        ifp.if_transmit(frame_of(packet(number, size=sizes.randrange(60, 1514))))
    clock.advance(5)

    octets = sum(len(m) - 10 for m in driver.sent)
    assert len(ifp.if_snd) > 0
    # between two moments no more than the rate, and the bucket with one frame overdrawn
    assert abs(octets - 5 * 125_000) <= 1500 + 1514


def test_what_was_looked_at_may_be_taken():
    clock = ManualClock()
    _, ifp, _ = ethernet()
    ifp.if_drv_flags |= IFF.OACTIVE
    TokenBucketRegulator(clock, 8000, depth=500).attach(ifp)
    for number in range(3):
        ifp.if_transmit(frame_of(packet(number)))

    assert number_of(ifp.if_snd.poll()) == 0
    assert number_of(ifp.if_snd.dequeue()) == 0
    assert ifp.if_snd.poll() is None
    assert ifp.if_snd.dequeue() is None
    clock.advance(10)
    assert ifp.if_snd.ifq_len == 2  # the driver is busy: nobody starts it
    assert number_of(ifp.if_snd.dequeue()) == 1


def test_without_the_regulator_what_waits_leaves():
    clock = ManualClock()
    _, ifp, driver = ethernet()
    regulator = TokenBucketRegulator(clock, 8000, depth=1).attach(ifp)
    for number in range(5):
        ifp.if_transmit(frame_of(packet(number)))
    with pytest.raises(OSError, match="detach it first") as refused:
        TokenBucketRegulator(clock, 8000, depth=1).attach(ifp)
    assert refused.value.errno == errno.EBUSY
    regulator.detach()
    regulator.detach()

    assert [number_of(m) for m in driver.sent] == list(range(5))
    assert ifp.if_snd.is_plain()
    clock.advance(100)


def test_a_discipline_behind_a_regulator_orders_what_waits():
    clock = ManualClock()
    _, ifp, driver = ethernet()
    altq_use(ifp, Priority(2, classify=lambda m: number_of(m) % 2))
    TokenBucketRegulator(clock, 8e6, depth=100).attach(ifp)
    for number in range(6):
        ifp.if_transmit(frame_of(packet(number)))
    clock.advance(1)

    assert [number_of(m) for m in driver.sent] == [0, 1, 3, 5, 2, 4]
    assert ifp.if_snd.is_managed()
    altq_forgo(ifp)
    with pytest.raises(OSError, match="no discipline"):
        altq_forgo(ifp)


def test_a_driver_is_told_who_manages_its_queue():
    _, ifp, driver = ethernet()
    told = []
    driver.if_snd_changed = lambda ifp: told.append(ifp.if_snd.is_managed())

    altq_use(ifp, Priority())
    altq_forgo(ifp)
    TokenBucketRegulator(ManualClock(), 8000, depth=100).attach(ifp).detach()

    assert told == [True, False, True, False]


# refused, and whatever comes


@pytest.mark.parametrize(
    "make",
    [
        lambda clock: Priority(0),
        lambda clock: CoDel(clock, target=0.2, interval=0.1),
        lambda clock: CoDel(clock, limit=0),
        lambda clock: FqCoDel(clock, flows=0),
        lambda clock: Red(clock, random.Random(), low=5, high=5),
        lambda clock: Red(clock, random.Random(), limit=0),
        lambda clock: TokenBucketRegulator(clock, 0, 100),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ValueError, match=r"above 0|1 or more|shorter|below"):
        make(ManualClock())


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["priority", "codel", "fq", "red"]),
    st.lists(
        st.one_of(st.binary(max_size=80), st.sampled_from(["take", "look", "purge"]), st.floats(0, 1)),
        max_size=60,
    ),
)
def test_every_frame_is_accounted_for(kind, steps):
    clock = ManualClock()
    discipline = {
        "priority": lambda: Priority(3, limit=4),
        "codel": lambda: CoDel(clock, limit=10, ecn=True),
        "fq": lambda: FqCoDel(clock, limit=10, flows=4, quantum=50),
        "red": lambda: Red(clock, random.Random(1), low=1, high=5, weight=0.5, limit=8),
    }[kind]()
    came = left = purged = 0
    for step in steps:
        if isinstance(step, bytes):
            came += 1
            discipline.enqueue(mbuf(step))
        elif step == "take":
            waiting = len(discipline)
            m = discipline.dequeue()
            left += m is not None
            assert m is not None or len(discipline) == 0 or waiting == 0
        elif step == "look":
            shown = discipline.poll()
            assert shown == discipline.poll()
        elif step == "purge":
            purged += discipline.purge()
            assert len(discipline) == 0
        else:
            clock.advance(step)
        assert came == left + purged + discipline.dropped.total() + len(discipline)
