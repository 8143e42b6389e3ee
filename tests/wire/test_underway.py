"""What becomes of frames, as a listener follows it."""

from __future__ import annotations

from iflab.wire import UnderWay, Watched

ONE, OTHER = bytes(range(70)), bytes(range(1, 71))
HERE, THERE = object(), object()
"""Ends; nothing is asked of them."""


def added(under_way, end, m, copies=1):
    watched = Watched(copies)
    under_way.add(end, m, watched)
    return watched


def test_every_copy_has_a_fate():
    under_way = UnderWay()
    watched = added(under_way, HERE, ONE, copies=2)

    under_way.decided(HERE, watched)
    assert under_way.of(HERE, ONE) is watched
    under_way.decided(HERE, watched)
    assert under_way.of(HERE, ONE) is None
    assert under_way.count == 0


def test_what_goes_on_in_its_place_is_the_frame():
    under_way = UnderWay()
    watched = added(under_way, HERE, ONE)

    assert under_way.became(HERE, ONE, [OTHER, OTHER, ONE]) is watched
    assert watched.open == 3
    assert under_way.of(HERE, OTHER) is watched
    for _ in range(3):
        under_way.decided(HERE, watched)
    assert under_way.of(HERE, OTHER) is under_way.of(HERE, ONE) is None
    assert under_way.became(HERE, ONE, [OTHER]) is None


def test_the_same_frame_at_two_ends_and_twice_at_one():
    under_way = UnderWay()
    first, second, elsewhere = (added(under_way, end, ONE) for end in (HERE, HERE, THERE))

    assert under_way.of(THERE, ONE) is elsewhere
    assert under_way.of(HERE, ONE) is first
    under_way.decided(HERE, first)
    assert under_way.of(HERE, ONE) is second
    under_way.decided(HERE, second, everything=True)
    under_way.decided(THERE, elsewhere)
    assert under_way.count == 0
    assert under_way.of(HERE, ONE) is under_way.of(THERE, ONE) is None


def test_the_later_of_two_may_be_decided_first():
    under_way = UnderWay()
    first, second = added(under_way, HERE, ONE, copies=5), added(under_way, HERE, ONE)

    under_way.decided(HERE, second)
    assert under_way.of(HERE, ONE) is first
    under_way.forget_first()
    assert under_way.count == 0
    assert under_way.of(HERE, ONE) is None
