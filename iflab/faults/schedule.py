"""What happens when: calls at a time, again and again, and tables of them, on the lab's one clock.

::

    lab.at(1.5, cable.cut)
    lab.every(2.0, cable.impair, Loss(0.3), first=0.5, times=3)
    lab.schedule([(1.5, cable.cut), (2.0, cable.mend), (Every(0.5), nic.stall, 0.1)])

Every call is told in the log as it is made; one that fails is told with its
traceback, and harms nothing else. Calls run on the clock's thread with the lab's lock
held and must not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from iflab.net.clock import Clock, Timer

from .errors import FaultError, check_count, check_seconds
from .kinds import Fault

__all__ = ["Event", "Every", "Schedule", "describe"]

_log = logging.getLogger("iflab.faults")

KEPT = 100


@dataclass(frozen=True, slots=True)
class Every:
    """Again and again in a table: every ``period`` seconds, the first time after ``first`` of them (None: a period)."""

    period: float
    first: float | None = None
    times: int | None = None
    """None: to the end."""


def describe(fn: Any, args: Iterable[Any] = ()) -> str:
    """A call in words: ``cable0.cut()``."""
    if isinstance(fn, str):
        name = fn
    else:
        name = getattr(fn, "__qualname__", None) or repr(fn)
        owner = getattr(fn, "__self__", None)
        if owner is not None and not isinstance(owner, (type, ModuleType)):
            whose = getattr(owner, "name", None) or getattr(owner, "if_xname", None) or type(owner).__name__
            name = f"{whose}.{getattr(fn, '__name__', name)}"
    return f"{name}({', '.join(_word(arg) for arg in args)})"


def _word(arg: Any) -> str:
    name = getattr(arg, "name", None)
    if isinstance(name, str):
        return name
    return str(arg) if isinstance(arg, Fault) else repr(arg)


class Event:
    """A call that is due, once or again and again; ``cancel`` takes it back at any time."""

    def __init__(
        self,
        schedule: Schedule,
        what: str,
        fn: Callable[[], object],
        when: float,
        period: float | None,
        times: int | None,
    ) -> None:
        self.what = what
        self.runs = 0
        """How often it was called."""
        self.missed = 0
        """Moments left out because the clock's thread was late by more than a period."""
        self.error: Exception | None = None
        """What the last call raised; None: it went well."""
        self._schedule = schedule
        self._fn = fn
        self._first = when
        self._turn = 0
        """Number of the next turn; the first one is 0."""
        self._period = period
        self._times = times
        self._timer: Timer | None = schedule.clock.call_at(when, self._due)

    @property
    def done(self) -> bool:
        """True when it will not be called any more."""
        return self._timer is None

    def cancel(self) -> None:
        """Take it back; nothing happens when it is done."""
        with self._schedule.clock.lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                self._schedule.events.discard(self)

    def _due(self) -> None:
        clock = self._schedule.clock
        self._timer = None
        self._turn += 1
        if self._period is not None:
            late = int((clock.now() - self._first) / self._period) + 1 - self._turn
            if late > 0:  # what was missed is left out, and not made up for in a row
                self.missed += late
                self._turn += late
            if self._times is None or self.runs + 1 < self._times:
                self._timer = clock.call_at(self._first + self._turn * self._period, self._due)
        if self._timer is None:
            self._schedule.events.discard(self)
        self.runs += 1
        self._schedule.tell(self.what)
        try:
            self._fn()
            self.error = None
        except Exception as error:
            self.error = error
            text = f"{self.what} failed: {type(error).__name__}: {error}"
            self._schedule.tell(text)
            if len(self._schedule.failed) < KEPT:
                self._schedule.failed.append(text)
            _log.exception("%s was due and failed", self.what)


class Schedule:
    """The calls that are due. ``tell`` gets a line for each; ``find`` makes a function of a name in a table."""

    def __init__(
        self,
        clock: Clock,
        tell: Callable[[str], None] = lambda text: None,
        find: Callable[[str], Callable[..., object]] | None = None,
    ) -> None:
        self.clock = clock
        self.tell = tell
        self.events: set[Event] = set()
        self.failed: list[str] = []
        """What was called and failed, and how: the first ``KEPT`` of them."""
        self._find = find

    def at(self, seconds: float, fn: Callable[..., object] | str, *args: Any, **options: Any) -> Event:
        """Call ``fn(*args, **options)`` in ``seconds`` from now. Raises ``FaultError`` for a time that is past."""
        check_seconds(f"the time of {describe(fn, args)}", seconds)
        return self._add(self.clock.now() + seconds, None, None, fn, args, options)

    def every(
        self,
        period: float,
        fn: Callable[..., object] | str,
        *args: Any,
        first: float | None = None,
        times: int | None = None,
        **options: Any,
    ) -> Event:
        """Call it every ``period`` seconds, ``times`` (None: to the end), the first time ``first`` seconds from now.

        Moments are multiples of the period from the first one: lateness doesn't add up.
        One that is late by more than a period leaves out the moments that it missed.
        """
        check_seconds(f"the period of {describe(fn, args)}", period)
        if not period:
            raise FaultError(f"{describe(fn, args)} every 0 s: use more than 0 seconds")
        if times is not None:
            check_count(f"the times of {describe(fn, args)}", times)
        first = period if first is None else first
        check_seconds(f"the first time of {describe(fn, args)}", first)
        return self._add(self.clock.now() + first, period, times, fn, args, options)

    def table(self, rows: Iterable[tuple[Any, ...]]) -> list[Event]:
        """Call what the rows say, all seconds counted from now: ``(seconds or Every, function or name, arguments ...)``.

        Raises ``FaultError`` for a row that says something else, before anything of the table is due.
        """
        if not isinstance(rows, Iterable):
            raise FaultError(
                f"a schedule of {rows!r}; write a list of rows, each (seconds, function, arguments ...)"
            )
        table = [tuple(row) if isinstance(row, (tuple, list)) else (row,) for row in rows]
        for number, row in enumerate(table, 1):
            self._check(number, row)
        with self.clock.lock:
            events = []
            for when, fn, *args in table:
                if isinstance(when, Every):
                    events.append(self.every(when.period, fn, *args, first=when.first, times=when.times))
                else:
                    events.append(self.at(when, fn, *args))
            return events

    def _check(self, number: int, row: tuple[Any, ...]) -> None:
        remedy = "write (seconds, function, arguments ...)"
        if len(row) < 2:
            raise FaultError(f"row {number} of the schedule is {row!r}; {remedy}")
        when, fn = row[0], row[1]
        if not isinstance(when, Every):
            if not isinstance(when, (int, float)):
                raise FaultError(f"row {number} of the schedule begins with {when!r}; {remedy}")
            check_seconds(f"the time in row {number} of the schedule", when)
        if isinstance(fn, str):
            if self._find is None:
                raise FaultError(f"row {number} of the schedule names {fn!r}, and nobody knows names here")
        elif not callable(fn):
            raise FaultError(f"row {number} of the schedule would call {fn!r}; {remedy}")

    def _add(
        self,
        when: float,
        period: float | None,
        times: int | None,
        fn: Callable[..., object] | str,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Event:
        def call() -> object:
            function = fn
            if isinstance(function, str):
                assert self._find is not None
                function = self._find(function)
            return function(*args, **options)

        if isinstance(fn, str) and self._find is None:
            raise FaultError(f"{fn!r} is a name, and nobody knows names here; give the function itself")
        if not isinstance(fn, str) and not callable(fn):
            raise FaultError(f"{fn!r} cannot be called; give a function and then its arguments")
        shown = [*args, *(_Option(name, value) for name, value in options.items())]
        with self.clock.lock:
            event = Event(self, describe(fn, shown), call, when, period, times)
            self.events.add(event)
            return event

    def cancel(self) -> None:
        """Take back all that is due."""
        with self.clock.lock:
            for event in list(self.events):
                event.cancel()


@dataclass(frozen=True, slots=True)
class _Option:
    option: str
    value: Any

    def __repr__(self) -> str:
        return f"{self.option}={_word(self.value)}"
