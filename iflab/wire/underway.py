"""Frames under way, for a listener who wants to know what becomes of each.

A tap of a wire hears a frame, what a hook or a fault makes of it, and the fate of
every copy, each time as an mbuf. Here they are brought together::

    wire.add_tap(heard, fate, became=became)
                 add    decided      became
"""

from __future__ import annotations

from typing import Generic, TypeVar

from iflab.net.mbuf import Mbuf

from .port import End

__all__ = ["UnderWay", "Watched"]


class Watched:
    """What a listener keeps of a frame; base of its own class. ``open``: copies whose fate is not known."""

    __slots__ = ("open", "shapes")

    def __init__(self, open_: int = 0) -> None:
        self.open = open_
        self.shapes: list[Mbuf] = []
        """The frame and what goes on in its place; kept, so that no other frame gets the identity of one."""


_T = TypeVar("_T", bound=Watched)


class UnderWay(Generic[_T]):
    """Frames whose fate is open, by the end that sent them: a switch sends on the very mbuf that it got."""

    __slots__ = ("_there", "count")

    def __init__(self) -> None:
        self._there: dict[tuple[End, int], list[_T]] = {}
        self.count = 0

    def add(self, end: End, m: Mbuf, watched: _T) -> None:
        """``end`` sent ``m``; it has ``watched.open`` fates."""
        watched.shapes.append(m)
        self._there.setdefault((end, id(m)), []).append(watched)
        self.count += 1

    def of(self, end: End, m: Mbuf) -> _T | None:
        """What is kept of a frame; None when it was not added, or is decided. Of one sent twice it is the first."""
        there = self._there.get((end, id(m)))
        return there[0] if there else None

    def became(self, end: End, m: Mbuf, frames: list[Mbuf]) -> _T | None:
        """``frames`` go on in the place of one copy of ``m``."""
        watched = self.of(end, m)
        if watched is None:
            return None
        watched.open += len(frames) - 1
        for each in frames:
            if each is not m:
                watched.shapes.append(each)
                self._there.setdefault((end, id(each)), []).append(watched)
        return watched

    def decided(self, end: End, m: Mbuf, everything: bool = False) -> _T | None:
        """The fate of one copy of ``m`` is known, or of all."""
        watched = self.of(end, m)
        if watched is None:
            return None
        watched.open = 0 if everything else watched.open - 1
        if watched.open <= 0:
            self._remove(end, watched)
        return watched

    def forget_first(self) -> None:
        """Wait no longer for the fate of the frame that was added first."""
        (end, _), there = next(iter(self._there.items()))
        self._remove(end, there[0])

    def _remove(self, end: End, watched: _T) -> None:
        self.count -= 1
        for each in watched.shapes:
            there = self._there[end, id(each)]
            there.remove(watched)
            if not there:
                del self._there[end, id(each)]
