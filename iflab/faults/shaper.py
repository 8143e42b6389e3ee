"""A queue and the token bucket at its end: what makes a cable slow.

Tokens are octets. They come at the rate, and as many as the burst are kept; a frame
leaves when there is one for each of its octets. Moments are reckoned, not measured: a
timer that comes late makes no frame after it late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from iflab.net.clock import Clock, Timer

from .kinds import Rate

__all__ = ["Shaper"]

_Item = TypeVar("_Item")


class Shaper(Generic[_Item]):
    """Calls ``leave(when, item)`` for each frame that the rate lets go; without a rate at once."""

    def __init__(self, clock: Clock, leave: Callable[[float, _Item], None]) -> None:
        self.clock = clock
        self.leave = leave
        self.rate: Rate | None = None
        self.waiting: deque[tuple[float, int, _Item]] = deque()
        """When it came, what it costs in tokens, and what it is; the first of them is leaving."""
        self.octets = 0
        """That wait, overhead included."""
        self._tokens = 0.0
        self._stamp = 0.0
        """When there were that many tokens; while something waits, when its first began to leave."""
        self._progress = 0.0
        """Octets of the first one that left before the rate was changed."""
        self._due = 0.0
        self._timer: Timer | None = None
        self._busy = False

    def set(self, rate: Rate | None) -> None:
        """Go on at another rate; what waits stays, but leaves at once without any rate."""
        now = self.clock.now()
        old, self.rate = self.rate, rate
        if old is None:
            self._tokens, self._stamp = (rate.burst if rate is not None else 0), now
        elif self.waiting:
            self._progress += max(0.0, now - self._stamp) * old.bits / 8
            self._stamp = max(now, self._stamp)
        else:
            self._tokens = min(old.burst, self._tokens + max(0.0, now - self._stamp) * old.bits / 8)
            self._stamp = max(now, self._stamp)
        if rate is not None:
            self._tokens = min(self._tokens, rate.burst)
        if self.waiting:
            self._head()
            self._run(now)

    def refuses(self, octets: int) -> str:
        """Why a frame of so many octets cannot join the queue; empty when it can."""
        rate = self.rate
        if rate is None:
            return ""
        cost = octets + rate.overhead
        if rate.burst and cost > rate.burst:
            return "burst"
        if (rate.frames is not None and len(self.waiting) >= rate.frames) or self.octets + cost > rate.limit:
            return rate.cause
        return ""

    def put(self, octets: int, item: _Item) -> None:
        """Let a frame join the queue."""
        now = self.clock.now()
        cost = octets + (self.rate.overhead if self.rate is not None else 0)
        self.waiting.append((now, cost, item))
        self.octets += cost
        if not self._busy and len(self.waiting) == 1:
            self._head()
            self._run(now)

    def _head(self) -> None:
        """Reckon when the first one leaves."""
        rate = self.rate
        if rate is None:
            self._due = 0.0
            return
        came, cost, _ = self.waiting[0]
        start = max(came, self._stamp)
        self._tokens = min(rate.burst, self._tokens + (start - self._stamp) * rate.bits / 8)
        self._stamp = start
        self._due = start + max(0.0, cost - self._tokens - self._progress) * 8 / rate.bits

    def _run(self, now: float) -> None:
        """Let go what is due."""
        if self._busy:
            return
        self._busy = True
        try:
            while self.waiting and self._due <= now:
                _, cost, item = self.waiting.popleft()
                self.octets -= cost
                when = now
                if (rate := self.rate) is not None:
                    when = self._due
                    left = self._tokens + self._progress + (when - self._stamp) * rate.bits / 8 - cost
                    self._tokens = min(rate.burst, max(0.0, left))
                    self._stamp = when
                self._progress = 0.0
                self.leave(when, item)
                if self.waiting:
                    self._head()
        finally:
            self._busy = False
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.waiting:
            self._timer = self.clock.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._run(max(self.clock.now(), self._due))

    def take_out(self, chosen: Callable[[_Item], bool]) -> list[_Item]:
        """Take those that are ``chosen`` out of the queue, and return them."""
        gone = [item for _, _, item in self.waiting if chosen(item)]
        if gone:
            first = self.waiting[0]
            self.waiting = deque(entry for entry in self.waiting if not chosen(entry[2]))
            self.octets = sum(cost for _, cost, _ in self.waiting)
            if not self.waiting or self.waiting[0] is not first:  # the next one begins to leave now
                now, rate = self.clock.now(), self.rate
                if rate is not None and now > self._stamp:
                    self._tokens = min(rate.burst, self._tokens + (now - self._stamp) * rate.bits / 8)
                    self._stamp = now
                self._progress = 0.0
            if self.waiting:
                self._head()
            self._arm()
        return gone
