"""Expectations that wait, and explain themselves when they do not come true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from scapy.packet import Packet

from iflab.net import Ifnet
from iflab.net.clock import is_span
from iflab.wire import Wire
from iflab.wire.frame import dissect

from .history import Event, History
from .pattern import Pattern

__all__ = ["ExpectationError", "Expectations"]

SHOWN = 8
"""Frames that an explanation shows."""

LOOKED_AT = 2000
"""Frames among which the nearest miss is looked for, the last ones: scapy takes 0.1 ms for each."""


class ExpectationError(AssertionError):
    """An expectation that did not come true; the text says what was there instead."""

    __module__ = "iflab"  # where people import it from; pytest's summary has room for little more


class Expectations:
    """Asks a history, and waits for what is still to come.

    ``scale`` multiplies the time that something has to happen in.
    """

    def __init__(self, history: History, began: float, scale: float = 1.0) -> None:
        self.history = history
        self.began = began
        self.scale = scale
        self.start = 0
        """Number of the event where looking begins."""

    def mark(self) -> None:
        """From here on; what was before is no answer to any expectation."""
        self.start = self.history.now

    def expect(self, place: Ifnet | Wire, what: Any, within: float = 1.0, direction: str = "both") -> Packet:
        """Wait for a frame; it may have come since the lab began, or the last ``mark``. Returns the packet."""
        __tracebackhide__ = True
        pattern = Pattern(what)
        found = self._wait(place, direction, within, lambda fresh: _first(fresh, pattern))
        if found is None:
            raise self._error(
                place, direction, f"no frame {pattern} within {within * self.scale:g} s", [pattern]
            )
        return _packet(found)

    def expect_no(self, place: Ifnet | Wire, what: Any, within: float = 0.5, direction: str = "both") -> None:
        """Wait all of ``within`` for a frame that must not come, nor have come."""
        __tracebackhide__ = True
        pattern = Pattern(what)
        found = self._wait(place, direction, within / self.scale, lambda fresh: _first(fresh, pattern))
        if found is not None:
            raise ExpectationError(
                f"{_name(place)}: there is a frame {pattern}, {found.time - self.began:.6f} s after the start:\n"
                f"  {_packet(found).summary()}"
            )

    def expect_count(
        self,
        place: Ifnet | Wire,
        what: Any,
        count: int | None = None,
        within: float = 1.0,
        direction: str = "both",
        *,
        at_least: int | None = None,
        at_most: int | None = None,
    ) -> list[Packet]:
        """Wait for so many frames, and return them.

        ``at_least`` alone ends as soon as there are enough. An exact ``count`` and
        ``at_most`` take all of ``within``: another one could still come. Raises
        ``ValueError`` for numbers that cannot be.
        """
        __tracebackhide__ = True
        pattern = Pattern(what)
        _check_counts(count, at_least, at_most)
        low = count if count is not None else at_least or 0
        high = count if count is not None else at_most

        found: list[Event] = []

        def decided(fresh: list[Event]) -> bool | None:
            found.extend(event for event in fresh if pattern.matches(event.octets))
            return True if (len(found) > high if high is not None else len(found) >= low) else None

        self._wait(place, direction, within, decided)
        if low <= len(found) and (high is None or len(found) <= high):
            return [_packet(event) for event in found]
        wanted = (
            f"{low}"
            if low == high
            else f"at least {low}"
            if high is None
            else f"{low} to {high}"
            if low
            else f"at most {high}"
        )
        text = f"{len(found)} frames {pattern} within {within * self.scale:g} s, wanted {wanted}"
        if len(found) >= low:
            there = f"{text}; the last of them:" if len(found) > SHOWN else f"{text}:"
            raise ExpectationError("\n".join([f"{_name(place)}: {there}", *self._lines(found)]))
        raise self._error(place, direction, text, [pattern])

    def expect_order(
        self, place: Ifnet | Wire, *whats: Any, within: float = 1.0, direction: str = "both"
    ) -> list[Packet]:
        """Wait for frames one after the other; others may be between them. Returns them. Raises ``ValueError`` for none."""
        __tracebackhide__ = True
        if not whats:
            raise ValueError("expect_order needs frames to wait for, the first one first")
        patterns = [Pattern(what) for what in whats]
        best: list[Event] = []

        def in_order(fresh: list[Event]) -> bool | None:
            for event in fresh:
                if len(best) < len(patterns) and patterns[len(best)].matches(event.octets):
                    best.append(event)
            return True if len(best) == len(patterns) else None

        if self._wait(place, direction, within, in_order):
            return [_packet(event) for event in best]
        missing = patterns[len(best)]
        before = "".join(
            f"\n  {number}. {pattern}: {event.time - self.began:.6f} s"
            for number, (pattern, event) in enumerate(zip(patterns, best, strict=False), 1)
        )
        since = best[-1].number + 2 if best else None
        early = best and _first(
            [each for each in self.history.at(place, self.start, direction) if each.number < best[-1].number],
            missing,
        )
        if early:
            before += f"\n  one came too early: {early.time - self.began:.6f} s  {_packet(early).summary()}"
        raise self._error(
            place,
            direction,
            f"number {len(best) + 1} of {len(patterns)} is missing within {within * self.scale:g} s: {missing}{before}",
            [missing],
            since,
        )

    # waiting

    def _wait(
        self, place: Ifnet | Wire, direction: str, within: float, ask: Callable[[list[Event]], Any]
    ) -> Any:
        """Ask of the events at a place, those that are new each time, until there is an answer or the time is over."""
        if direction not in ("in", "out", "both"):
            raise ValueError(f"direction is 'in', 'out' or 'both', not {direction!r}")
        _check_place(place, direction)
        if not is_span(within):
            raise ValueError(f"within is a number of seconds, not {within!r}; use 0 or more")
        deadline = time.monotonic() + within * self.scale
        since = self.start
        while True:
            upto = self.history.now
            fresh = [event for event in self.history.at(place, since, direction) if event.number < upto]
            since = upto
            if (answer := ask(fresh)) is not None:
                return answer
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            with self.history.news:
                if self.history.now == upto:
                    self.history.news.wait(left)

    # explaining

    def _error(
        self,
        place: Ifnet | Wire,
        direction: str,
        text: str,
        patterns: list[Pattern],
        since: int | None = None,
    ) -> ExpectationError:
        events = list(self.history.at(place, self.start if since is None else since, direction))
        lines = [f"{_name(place)}: {text}"]
        pattern = patterns[0]
        misses = [(pattern.miss(event.octets), event) for event in events[-LOOKED_AT:]]
        misses = [each for each in misses if each[0][1]]
        if misses:
            (_, wrong), nearest = max(misses, key=lambda each: (each[0][0], each[1].number))
            lines.append(f"the nearest, {nearest.time - self.began:.6f} s after the start:")
            lines.append(f"  {_packet(nearest).summary()}")
            lines += [f"    {line}" for line in wrong]
        there = "there" if since is None else "there since"
        if not events:
            lines.append(f"no frame at all passed {there}")
        else:
            lines.append(
                f"{len(events)} frames passed {there}" + (", the last:" if len(events) > SHOWN else ":")
            )
            lines += self._lines(events)
        lost: dict[str, int] = {}
        for event in self.history.events(self.start):
            if event.kind == "lost":
                lost[f"{event.wire}: {event.cause}"] = lost.get(f"{event.wire}: {event.cause}", 0) + 1
        if lost:
            lines.append(
                "lost meanwhile: " + ", ".join(f"{cause} {number}" for cause, number in lost.items())
            )
        if self.history.forgotten:
            lines.append(f"{self.history.forgotten} older frames are forgotten")
        return ExpectationError("\n".join(lines))

    def _lines(self, events: list[Event]) -> list[str]:
        """The last of these frames, a line each."""
        return [
            f"  {event.time - self.began:9.6f} s  {event.src}  {_packet(event).summary()}"
            for event in events[-SHOWN:]
        ]


def _first(events: list[Event], pattern: Pattern) -> Event | None:
    return next((event for event in events if pattern.matches(event.octets)), None)


def _packet(event: Event) -> Packet:
    packet: Packet = dissect(event.octets)
    packet.time = event.time
    packet.sniffed_on = event.src
    return packet


def _check_counts(count: int | None, at_least: int | None, at_most: int | None) -> None:
    """Refuse numbers of frames that cannot be. Raises ``ValueError``."""
    for name, value in (("count", count), ("at_least", at_least), ("at_most", at_most)):
        if value is not None and (not isinstance(value, int) or value < 0):
            raise ValueError(f"{name} is a whole number of frames, 0 or more, not {value!r}")
    if count is None and at_least is None and at_most is None:
        raise ValueError("expect_count needs count, at_least or at_most")
    if count is not None and (at_least is not None or at_most is not None):
        raise ValueError("expect_count takes count, or at_least and at_most, not both")
    if at_least is not None and at_most is not None and at_least > at_most:
        raise ValueError(f"at_least is {at_least} and at_most {at_most}; no number of frames is both")


def _check_place(place: Ifnet | Wire, direction: str) -> None:
    """Refuse a place where nothing could ever be heard. Raises ``ValueError``, ``TypeError``."""
    if not isinstance(place, (Ifnet, Wire)):
        raise TypeError(f"{place!r} is neither a NIC nor a wire")
    if isinstance(place, Wire):
        if direction != "both":
            raise ValueError(
                f"{place.name} is a wire and has no {direction!r}; name a NIC at one of its ends"
            )
    elif not getattr(place.if_softc, "has_plug", True):
        raise ValueError(
            f"{_name(place)} has no plug, and expectations hear what passes on wires; "
            "expect it of the NIC below, or listen with lab.tap"
        )


def _name(place: Ifnet | Wire) -> str:
    return place.name if isinstance(place, Wire) else str(place.if_softc.name)
