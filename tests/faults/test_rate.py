"""Rates: to the bit, under a clock that stands still."""

from __future__ import annotations

import math

import pytest

from iflab.faults import Delay, Duplicate, Faults, Rate
from iflab.net import ManualClock
from iflab.wire import Segment

from ..wire.ports import plugged
from .bed import Bed, number_of, numbered


def times(bed: Bed) -> list[float]:
    return [round(when, 9) for when, _ in bed.arrived]


def test_on_a_line_each_frame_takes_the_time_of_its_bits():
    bed = Bed(Rate(8000))  # 1,000 octets a second
    bed.send(3, octets=100)
    bed.clock.advance(1)
    bed.send(1, octets=500)
    bed.clock.advance(1)

    assert times(bed) == [0.1, 0.2, 0.3, 1.5]
    bed.check()


def test_a_burst_leaves_at_once_and_then_the_rate_holds():
    bed = Bed(Rate(8000, burst=250))
    bed.send(5, octets=100)
    bed.clock.advance(10)

    # 250 tokens: two frames, half of the third; the rest comes at 1,000 a second
    assert times(bed) == [0, 0, 0.05, 0.15, 0.25]
    bed.send(3, octets=100)
    bed.clock.advance(1)
    assert times(bed)[5:] == [10, 10, 10.05]


def test_the_long_run_has_the_rate_whatever_the_timers_do():
    bed = Bed(Rate(1e6, burst=3000, frames=None))
    bed.send(20_000, octets=125)
    for turn in range(1, 1001):
        bed.clock._now += 0.0217  # whoever runs the timers was busy
        bed.clock.advance(0)
        # what has arrived is what the rate and the burst allow by now, whole frames
        assert len(bed.arrived) == min(20_000, int((3000 + 125_000 * 0.0217 * turn) / 125 + 1e-6))


def test_a_frame_longer_than_the_burst_never_leaves():
    bed = Bed(Rate(8000, burst=250))
    bed.send(1, octets=251)
    bed.send(1, octets=250)

    assert bed.numbers == [2]
    assert bed.cable.account().dropped == {"burst": 1}


@pytest.mark.parametrize(
    ("rate", "kept"),
    [
        (Rate(8000, frames=4), 4),
        (Rate(8000, frames=None, octets=350), 3),
        (Rate(8000, frames=2, octets=10_000), 2),
        (Rate(8000, frames=None, latency=0.5), 5),
        (Rate(8000, burst=100, frames=None, latency=0.5), 7),
        (Rate(8000, frames=None, octets=500, overhead=24), 4),
        (Rate(8000, frames=None), 50),
    ],
)
def test_a_queue_holds_what_was_said(rate, kept):
    bed = Bed(rate)
    bed.send(50, octets=100)
    bed.clock.advance(100)

    assert bed.numbers == list(range(1, kept + 1))
    assert bed.cable.account().dropped == ({"queue full": 50 - kept} if kept < 50 else {})
    assert bed.faults.counts.get(("cable0", "a", "b"), {}) == bed.cable.account().dropped
    bed.check()


def test_overhead_takes_time():
    bed = Bed(Rate(8000, overhead=24))
    bed.send(2, octets=76)
    bed.clock.advance(1)

    assert times(bed) == [0.1, 0.2]


def test_the_delay_comes_after_the_rate():
    bed = Bed(Delay(0.5), Rate(8000))
    bed.send(2, octets=100)
    bed.clock.advance(1)

    assert times(bed) == [0.6, 0.7]


def test_another_rate_holds_at_once():
    bed = Bed(Rate(8000))
    bed.send(3, octets=100)
    bed.clock.advance(0.05)  # half of the first one is out
    bed.cable.impair(Rate(16000), towards=bed.b)
    bed.clock.advance(1)

    assert times(bed) == [0.075, 0.125, 0.175]
    bed.check()


def test_without_a_rate_what_waits_leaves():
    bed = Bed(Rate(8000))
    bed.send(3, octets=100)
    bed.clock.advance(0.15)
    bed.cable.impair(towards=bed.b)

    assert times(bed) == [0.1, 0.15, 0.15]
    assert bed.a.end.straight_to is bed.b


def test_tokens_do_not_grow_with_a_change():
    bed = Bed(Rate(8000, burst=200))
    bed.send(2, octets=100)
    bed.cable.impair(Rate(8000, burst=400), towards=bed.b)
    bed.send(1, octets=100)
    bed.clock.advance(1)

    assert times(bed) == [0, 0, 0.1]


def test_copies_take_their_turn():
    bed = Bed(Rate(8000), Duplicate(1.0))
    bed.send(2, octets=100)
    bed.clock.advance(1)

    assert bed.numbers == [1, 1, 2, 2]
    assert times(bed) == [0.1, 0.2, 0.3, 0.4]


def test_what_is_lost_from_the_queue_makes_room():
    bed = Bed(Rate(8000, frames=2))
    bed.send(2, octets=100)
    bed.cable.cut(towards=bed.b)
    bed.cable.mend()
    bed.send(1, octets=100)
    bed.clock.advance(1)

    assert bed.numbers == [3]
    assert math.isclose(bed.arrived[0][0], 0.1)
    bed.check()


def on_a_hub(*faults):
    """Senders a and b, and c towards whom the faults are; when c got what."""
    clock = ManualClock()
    hub = Segment(clock, "hub0")
    Faults(clock, 1).adopt(hub)
    a, b, c = plugged(hub, "abc")
    hub.impair(*faults, towards=c)
    arrived = []
    c.then = lambda m: arrived.append((round(clock.now(), 9), number_of(m[10:])))
    return clock, hub, a, b, arrived


def test_a_sender_that_is_pulled_out_takes_its_frames_off_the_queue_and_no_others():
    clock, hub, a, b, arrived = on_a_hub(Rate(8000))
    a.end.send(numbered(1, 100))
    b.end.send(numbered(2, 100))
    a.end.send(numbered(3, 100))
    b.end.send(numbered(4, 100))
    clock.advance(0.05)
    hub.unplug(a)
    clock.advance(1)

    assert arrived == [(0.15, 2), (0.25, 4)]  # the next one began to leave at 0.05
    assert hub.account().balances()


def test_a_sender_that_is_pulled_out_changes_no_others_moments():
    clock, hub, a, b, arrived = on_a_hub(Delay(0.5, jitter=0.4))
    _, _, _, only_b, alone = on_a_hub(Delay(0.5, jitter=0.4))
    for number in range(200):
        a.end.send(numbered(1000 + number))
        b.end.send(numbered(number))
    for number in range(200):
        only_b.end.send(numbered(number))
    hub.unplug(a)
    clock.advance(0.01)
    clock.advance(1)
    only_b.end.wire.clock.advance(1)

    assert arrived == alone
    assert len(alone) == 200
