"""What is kept of a run, in bounded memory: frames with their fates, happenings, states of links.

A long run has more frames than anyone reads. The ``Tape`` keeps the first and the
last of them whole, and in between those that say something (lost, altered,
retransmitted, a connection's beginning and end) with their neighbours; of all others
it keeps how many they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from .flows import FIN, RST, SYN, Conversation, Header

__all__ = ["Gap", "Happening", "Happenings", "Seen", "Tape"]

NEIGHBOURS = 6
"""Frames before and after one that says something, kept with it."""


class Seen:
    """A frame that was put on a wire, and what became of it. Times in seconds since the lab began."""

    __slots__ = (
        "again",
        "arrived",
        "causes",
        "changes",
        "conversation",
        "first_arrival",
        "head",
        "header",
        "kept",
        "lane",
        "last_arrival",
        "relative",
        "size",
        "time",
        "wire",
    )

    def __init__(
        self,
        time: float,
        wire: int,
        lane: int,
        head: bytes,
        size: int,
        header: Header,
        conversation: Conversation,
    ) -> None:
        self.time = time
        self.wire = wire
        self.lane = lane
        """Who sent it."""
        self.head = head
        """Its first octets."""
        self.size = size
        self.header = header
        self.conversation = conversation
        self.relative = (0, 0)
        self.again = False
        """A retransmission."""
        self.arrived: list[int] = []
        """The lanes that received it."""
        self.causes: list[tuple[int, str]] = []
        """What copies of it were lost for: the lane that one was on its way to (-1: none in particular), and why."""
        self.changes: list[str] = []
        """What befell it besides: it goes on."""
        self.first_arrival = self.last_arrival = -1.0
        self.kept = False
        """Next to one that says something."""

    @property
    def speaks(self) -> bool:
        """True when it says something that a reader looks for."""
        return (
            self.again
            or bool(self.causes or self.changes)
            or (self.header.flags > 0 and bool(self.header.flags & (SYN | FIN | RST)))
        )


@dataclass(slots=True)
class Gap:
    """Frames of which only this is known."""

    begin: float
    end: float
    frames: int = 0
    octets: int = 0


@dataclass(slots=True)
class Happening:
    """Something worth telling: ``kind`` is ``cut``, ``mend``, ``up``, ``down``, ``fault``, ``wire`` or ``log``."""

    time: float
    kind: str
    text: str
    wire: int = -1
    lane: int = -1


class Tape:
    """Frames in order of time: the first ``head``, the last ``tail``, up to ``marked`` that speak."""

    def __init__(self, head: int = 1000, tail: int = 2000, marked: int = 1500) -> None:
        self.head = head
        self.marked = marked
        self.tail = tail
        self.left_out = 0
        self._kept: list[Seen | Gap] = []
        self._room_for_head = head
        self._room_for_marked = marked
        self._last: deque[Seen] = deque()
        self._after = 0

    def add(self, seen: Seen) -> None:
        """Put a frame at the end."""
        if self._after:
            self._after -= 1
            seen.kept = True
        self._last.append(seen)
        if len(self._last) > self.tail:
            self._let_go(self._last.popleft())

    def spoke(self, seen: Seen) -> None:
        """``seen`` has turned out to say something: keep its neighbours."""
        self._after = NEIGHBOURS
        for each in islice(reversed(self._last), NEIGHBOURS):
            each.kept = True

    def _let_go(self, seen: Seen) -> None:
        if self._room_for_head:
            self._room_for_head -= 1
            self._kept.append(seen)
        elif self._room_for_marked and (seen.kept or seen.speaks):
            self._room_for_marked -= 1
            self._kept.append(seen)
        else:
            self.left_out += 1
            last = self._kept[-1] if self._kept else None
            if not isinstance(last, Gap):
                last = Gap(seen.time, seen.time)
                self._kept.append(last)
            last.end = seen.time
            last.frames += 1
            last.octets += seen.size

    def __iter__(self) -> Iterator[Seen | Gap]:
        yield from self._kept
        yield from self._last


class Happenings:
    """The first things that happened and the last, and how many in between were left out."""

    def __init__(self, first: int = 300, last: int = 1500) -> None:
        self.first = first
        self._first: list[Happening] = []
        self._last: deque[Happening] = deque(maxlen=last)
        self.left_out = 0

    def add(self, happening: Happening) -> None:
        """Put one at the end."""
        if len(self._first) < self.first:
            self._first.append(happening)
            return
        if len(self._last) == self._last.maxlen:
            self.left_out += 1
        self._last.append(happening)

    def __iter__(self) -> Iterator[Happening]:
        yield from self._first
        yield from self._last
