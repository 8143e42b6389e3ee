"""Calls at a time, again and again, and tables of them."""

from __future__ import annotations

import pytest

from iflab.faults import Every, FaultError, Loss, Schedule
from iflab.faults.schedule import describe
from iflab.net import ManualClock

from ..wire.ports import cabled


class Told:
    """A schedule with what it told and called, and when."""

    def __init__(self, find=None) -> None:
        self.clock = ManualClock(50.0)
        self.lines: list[tuple[float, str]] = []
        self.calls: list[tuple[float, object]] = []
        self.schedule = Schedule(self.clock, lambda text: self.lines.append((self.now(), text)), find)

    def now(self) -> float:
        return round(self.clock.now() - 50.0, 6)

    def call(self, what: object = "x") -> None:
        self.calls.append((self.now(), what))


def test_a_call_comes_once_at_its_time_and_is_told():
    told = Told()
    cable, _, b = cabled(told.clock)
    event = told.schedule.at(1.5, cable.cut, b)
    told.schedule.at(0.5, told.call, 7)
    told.clock.advance(1.4)
    assert not cable.is_cut(b)
    assert not event.done

    told.clock.advance(5)
    assert cable.is_cut(b)
    assert told.lines == [(0.5, "Told.call(7)"), (1.5, "cable0.cut(b)")]
    assert (event.done, event.runs) == (True, 1)
    assert not told.schedule.events


def test_every_does_not_drift():
    told = Told()
    event = told.schedule.every(0.1, told.call)
    for _ in range(99):
        told.clock.advance(0.0375)

    assert [when for when, _ in told.calls] == [round(0.1 * k, 6) for k in range(1, 38)]
    assert (event.runs, event.missed, event.done) == (37, 0, False)


def test_every_so_often_from_a_first_time():
    told = Told()
    event = told.schedule.every(2.0, told.call, first=0.5, times=3)
    told.clock.advance(100)

    assert [when for when, _ in told.calls] == [0.5, 2.5, 4.5]
    assert event.done


def test_what_was_missed_is_left_out_and_not_counted():
    told = Told()
    event = told.schedule.every(1.0, told.call, times=3)
    told.clock._now += 3.5  # the clock's thread was busy
    told.clock.advance(0)
    assert (event.runs, event.missed) == (1, 2)
    told.clock.advance(10)

    assert [when for when, _ in told.calls] == [3.5, 4.0, 5.0]
    assert event.done


def test_one_that_fails_is_told_and_harms_nothing(caplog):
    told = Told()

    def broken() -> None:
        raise RuntimeError("no")

    event = told.schedule.every(1.0, broken)
    told.schedule.at(1.0, told.call)
    told.clock.advance(2)

    assert event.runs == 2
    assert isinstance(event.error, RuntimeError)
    failed = next(text for _, text in told.lines if "failed" in text)
    assert failed.endswith("broken() failed: RuntimeError: no")
    assert "Traceback" in caplog.text
    assert told.calls == [(1.0, "x")]


def test_cancelled_calls_do_not_come():
    told = Told()
    once, often = told.schedule.at(1, told.call), told.schedule.every(1, told.call)
    told.clock.advance(1)
    often.cancel()
    once.cancel()
    told.schedule.at(1, told.call)
    told.schedule.cancel()
    told.clock.advance(10)

    assert len(told.calls) == 2


def test_a_call_may_cancel_itself():
    told = Told()
    event = told.schedule.every(1, lambda: event.cancel() if event.runs == 3 else None)
    told.clock.advance(10)

    assert (event.runs, event.done) == (3, True)


def test_a_table_is_on_one_clock():
    told = Told(find=lambda name: lambda: told.call(name))
    told.schedule.table([(1.0, told.call, "a"), [Every(0.5, times=3), told.call, "b"], (0.25, "cable0.cut")])
    told.clock.advance(10)

    assert told.calls == [(0.25, "cable0.cut"), (0.5, "b"), (1.0, "a"), (1.0, "b"), (1.5, "b")]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([(1.0,)], "row 1 of the schedule is"),
        ([(1.0, print), ("soon", print)], "row 2 of the schedule begins with 'soon'"),
        ([(1.0, print), (-1, print)], "time in row 2"),
        ([(1.0, print), (1, 5)], "would call 5"),
        ([(1.0, print), (1, "cable0.cut")], "nobody knows names"),
    ],
)
def test_a_wrong_row_stops_the_whole_table(rows, text):
    told = Told()
    with pytest.raises(FaultError, match=text):
        told.schedule.table(rows)

    assert not told.schedule.events


def test_times_that_cannot_be_are_refused():
    told = Told()
    for call, text in (
        (lambda: told.schedule.at(-1, print), "the time of print"),
        (lambda: told.schedule.every(0, print), "more than 0"),
        (lambda: told.schedule.every(1, print, times=0), "1 or more"),
        (lambda: told.schedule.every(1, print, first=-1), "the first time"),
        (lambda: told.schedule.at(1, "cable0.cut"), "nobody knows names"),
    ):
        with pytest.raises(FaultError, match=text):
            call()


def test_calls_are_told_in_words():
    cable, _, b = cabled()

    assert describe(cable.impair, [Loss(0.5), b]) == "cable0.impair(Loss(0.5), b)"
    assert describe("alice:em0.vanish") == "alice:em0.vanish()"
    assert describe(print, ["x"]) == "print('x')"


def test_options_are_passed_on_and_told():
    told = Told()
    cable, a, b = cabled(told.clock)
    told.schedule.at(1, cable.cut, towards=b)
    told.clock.advance(1)

    assert (cable.is_cut(b), cable.is_cut(a)) == (True, False)
    assert told.lines == [(1.0, "cable0.cut(towards=b)")]
