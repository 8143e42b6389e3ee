"""Frames under way: each has a moment at which it arrives."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

from iflab.net.clock import Clock, Timer

__all__ = ["Line"]

_Item = TypeVar("_Item")


class Line(Generic[_Item]):
    """Calls ``arrive(item)`` when the moment of each has come; ``on_empty`` when none is left."""

    def __init__(
        self, clock: Clock, arrive: Callable[[_Item], None], on_empty: Callable[[], None] = lambda: None
    ) -> None:
        self.clock = clock
        self.arrive = arrive
        self.on_empty = on_empty
        self._under_way: list[tuple[float, int, _Item]] = []
        self._order = count()
        self._latest = 0.0
        """When the last of those that keep their order arrives."""
        self._timer: Timer | None = None
        self._armed = 0.0
        self._busy = False

    def __len__(self) -> int:
        return len(self._under_way)

    def push(self, due: float, item: _Item, overtakes: bool = False) -> None:
        """Let one arrive at ``due``, or, if it must not overtake, with the last one of its kind."""
        if not overtakes:
            due = self._latest = max(due, self._latest)
        first = self._under_way[0][0] if self._under_way else math.inf
        if due < first and not self._busy and due <= self.clock.now():
            self.arrive(item)
            return
        heapq.heappush(self._under_way, (due, next(self._order), item))
        if not self._busy:
            self._arm()

    def _arm(self) -> None:
        if not self._under_way:
            return
        due = self._under_way[0][0]
        if self._timer is not None:
            if self._armed <= due:
                return  # it comes in time, and looks again
            self._timer.cancel()
        self._armed = due
        self._timer = self.clock.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = max(self.clock.now(), self._armed)
        self._busy = True  # what arrives may send: that goes behind
        try:
            while self._under_way and self._under_way[0][0] <= now:
                self.arrive(heapq.heappop(self._under_way)[2])
        finally:
            self._busy = False
            self._arm()
        if not self._under_way:
            self.on_empty()

    def take_out(self, chosen: Callable[[_Item], bool]) -> list[_Item]:
        """Take those that are ``chosen`` off the way, and return them in order of their arrival."""
        gone = [item for _, _, item in sorted(self._under_way) if chosen(item)]
        if gone:
            self._under_way = [entry for entry in self._under_way if not chosen(entry[2])]
            heapq.heapify(self._under_way)
        if not self._under_way and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return gone
