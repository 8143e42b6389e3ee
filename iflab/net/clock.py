"""Time, as the rooms above the interface layer see it.

The real clock is the engine (``iflab/engine.py``). ``ManualClock`` is the one a
test holds in its hand: nothing happens until it is told that time has passed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from numbers import Real
from typing import Protocol

from .giant import Giant

__all__ = ["Bell", "Clock", "ManualClock", "Timer", "is_span"]


def is_span(seconds: float) -> bool:
    """True for what can be a time in seconds: a number, 0 or more, and finite."""
    return isinstance(seconds, Real) and 0 <= seconds < float("inf")


class Timer(Protocol):
    """A call that is due; ``cancel`` takes it back and may be called at any time."""

    def cancel(self) -> None:
        """Take the call back; nothing happens when it has run or was taken back already."""


class Bell(Protocol):
    """Calls the thread that moves the frames."""

    lock: Giant
    """The lab's one lock."""

    def call_soon(self, fn: Callable[[], None]) -> None:
        """Run ``fn`` on that thread, with ``lock`` held."""


class Clock(Protocol):
    """Monotonic time and calls at a time."""

    lock: Giant
    """The lab's one lock; held while a due call runs."""

    def now(self) -> float:
        """Return seconds since a fixed but arbitrary moment; never goes back."""

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer:
        """Run ``fn`` once ``now()`` has reached ``when``, on the clock's own thread with ``lock`` held."""


class _ManualTimer:
    __slots__ = ("fn",)

    def __init__(self, fn: Callable[[], None]) -> None:
        self.fn: Callable[[], None] | None = fn

    def cancel(self) -> None:
        self.fn = None


class ManualClock:
    """A clock that stands still until ``advance`` is called."""

    def __init__(self, start: float = 0.0) -> None:
        self.lock = Giant()
        self._now = start
        self._due: list[tuple[float, int, _ManualTimer]] = []
        self._order = count()

    def now(self) -> float:
        """Return the seconds so far."""
        return self._now

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer:
        """Run ``fn`` when ``advance`` has come to ``when``."""
        timer = _ManualTimer(fn)
        with self.lock:
            heapq.heappush(self._due, (when, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass and run, in order of time, all calls that fall due."""
        with self.lock:
            end = self._now + seconds
            while self._due and self._due[0][0] <= end:
                when, _, timer = heapq.heappop(self._due)
                self._now = max(self._now, when)
                if timer.fn is not None:
                    fn, timer.fn = timer.fn, None
                    fn()
            self._now = end
