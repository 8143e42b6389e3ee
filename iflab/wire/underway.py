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

    __slots__ = ("frame", "open", "others")

    def __init__(self, open_: int = 0) -> None:
        self.open = open_
        self.frame: Mbuf = b""
        """The frame, and in ``others`` what goes on in its place; kept, so that none else gets the identity of one."""
        self.others: list[Mbuf] | None = None


_T = TypeVar("_T", bound=Watched)


class UnderWay(Generic[_T]):
    """Frames whose fate is open, by the end that sent them: a switch sends on the very mbuf that it got."""

    __slots__ = ("_again", "_there", "count")

    def __init__(self) -> None:
        self._there: dict[tuple[End, int], _T] = {}
        self._again: dict[tuple[End, int], list[_T]] = {}
        """An end sent the same mbuf once more before the fate of the first was known."""
        self.count = 0

    def add(self, end: End, m: Mbuf, watched: _T) -> None:
        """``end`` sent ``m``; it has ``watched.open`` fates."""
        watched.frame = m
        self.count += 1
        self._put((end, id(m)), watched)

    def _put(self, key: tuple[End, int], watched: _T) -> None:
        if self._there.setdefault(key, watched) is not watched:
            self._again.setdefault(key, []).append(watched)

    def of(self, end: End, m: Mbuf) -> _T | None:
        """What is kept of a frame; None when it was not added, or is decided. Of one sent twice it is the first."""
        return self._there.get((end, id(m)))

    def became(self, end: End, m: Mbuf, frames: list[Mbuf]) -> _T | None:
        """``frames`` go on in the place of one copy of ``m``."""
        watched = self.of(end, m)
        if watched is None:
            return None
        watched.open += len(frames) - 1
        others = {id(each): each for each in frames if each is not m}
        if others:
            watched.others = [*(watched.others or ()), *others.values()]
            for number in others:
                self._put((end, number), watched)
        return watched

    def decided(self, end: End, watched: _T, everything: bool = False) -> None:
        """The fate of one copy is known, or of all."""
        watched.open = 0 if everything else watched.open - 1
        if watched.open <= 0:
            self._remove(end, watched)

    def forget_first(self) -> None:
        """Wait no longer for the fate of the frame that was added first."""
        (end, _), watched = next(iter(self._there.items()))
        self._remove(end, watched)

    def _remove(self, end: End, watched: _T) -> None:
        self.count -= 1
        for each in (watched.frame, *(watched.others or ())):
            key = (end, id(each))
            again = self._again.get(key)
            if again is None:
                self._there.pop(key, None)
                continue
            if self._there[key] is watched:
                self._there[key] = again.pop(0)
            else:
                again.remove(watched)
            if not again:
                del self._again[key]
