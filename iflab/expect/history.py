"""What was put on wires, by whom, and what became of it, kept for questions that come later.

The engine's thread appends what it hears; everything else happens where it is
asked for. Super-frames are cut then, so that listening changes no cable's way of
working. ``budget`` octets are kept, the latest; ``forgotten`` counts the frames before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from iflab.net import Ifnet
from iflab.net.mbuf import Mbuf, frame_of
from iflab.net.offload import OffloadError, finish, is_unfinished
from iflab.wire import End, Port, Wire

__all__ = ["Event", "History"]

BUDGET = 128 << 20
"""Octets of frames that are kept."""

SENT, GOT, LOST, BECAME = "sent", "got", "lost", "became"


@dataclass(frozen=True, slots=True)
class Event:
    """A frame was ``sent`` by the port ``src``, ``got`` by ``dst``, or ``lost`` on the way there for ``cause``.

    Of one that ``became`` others on the way, ``octets`` are what it was, ``others`` what
    goes on, and ``cause`` is who changed it: ``hook``, or a fault's cause.

    ``number`` counts events in their order; ``time`` is in seconds of the monotonic clock.
    """

    number: int
    time: float
    kind: str
    wire: str
    src: str
    dst: str
    octets: bytes
    cause: str = ""
    others: tuple[bytes, ...] = ()


class _Entry:
    __slots__ = ("cause", "dst", "end", "frames", "kinds", "number", "time")

    def __init__(
        self, number: int, kinds: tuple[str, ...], end: End, dst: Port | None, frames: list[Mbuf], cause: str
    ) -> None:
        self.number = number
        self.time = time.monotonic()
        self.kinds = kinds
        self.end = end
        self.dst = dst
        self.frames = frames
        self.cause = cause


class History:
    """Hears every wire that it is given, from then on."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.forgotten = 0
        self.news = threading.Condition()
        self._entries: deque[_Entry] = deque()
        self._octets = 0
        self._number = 0
        self._taps: list[object] = []

    @property
    def now(self) -> int:
        """The number that the next event will have."""
        return self._number

    # on the engine's thread, lock held

    def listen(self, wire: Wire) -> None:
        """Hear ``wire`` from now on."""
        wire.add_tap(self._sent, self._fate, became=self._became, train=self._train, whole=True)

    def _keep(
        self, kinds: tuple[str, ...], end: End, dst: Port | None, frames: list[Mbuf], cause: str = ""
    ) -> None:
        with self.news:
            self._entries.append(_Entry(self._number, kinds, end, dst, frames, cause))
            self._number += len(kinds)
            self._octets += sum(map(len, frames))
            while self._octets > self.budget:
                oldest = self._entries.popleft()
                self._octets -= sum(map(len, oldest.frames))
                self.forgotten += len(oldest.frames) if SENT in oldest.kinds else 0
            self.news.notify_all()

    def _sent(self, end: End, m: Mbuf) -> None:
        self._keep((SENT,), end, None, [m])

    def _fate(self, end: End, port: Port | None, m: Mbuf, cause: str) -> None:
        self._keep((LOST,) if cause else (GOT,), end, port, [m], cause)

    def _became(self, end: End, m: Mbuf, frames: list[Mbuf], by: str) -> None:
        self._keep((BECAME,), end, None, [m, *frames], by)

    def _train(self, end: End, frames: list[Mbuf]) -> None:
        other = next((other.port for other in end.wire.ends.values() if other is not end), None)
        self._keep((SENT, GOT), end, other, frames)

    # where it is asked

    def events(self, since: int = 0) -> Iterator[Event]:
        """Events from number ``since`` on, in their order, frames as they are on a wire."""
        with self.news:
            recent = takewhile(lambda entry: entry.number + len(entry.kinds) > since, reversed(self._entries))
            entries = list(recent)
        for entry in reversed(entries):
            src, wire = entry.end.port.name, entry.end.wire.name
            dst = entry.dst.name if entry.dst is not None else ""
            if entry.kinds == (BECAME,):
                before, *others = (b"".join(_pieces(m)) for m in entry.frames)
                yield Event(
                    entry.number, entry.time, BECAME, wire, src, "", before, entry.cause, tuple(others)
                )
                continue
            for m in entry.frames:
                for octets in _pieces(m):
                    for offset, kind in enumerate(entry.kinds):
                        yield Event(
                            entry.number + offset, entry.time, kind, wire, src, dst, octets, entry.cause
                        )

    def at(self, place: Ifnet | Wire, since: int = 0, direction: str = "both") -> Iterator[Event]:
        """What passed at a place: sent on a wire; sent by a NIC ("out") or received by it ("in")."""
        if isinstance(place, Wire):
            yield from (
                event for event in self.events(since) if event.kind == SENT and event.wire == place.name
            )
            return
        name = place.if_softc.name
        for event in self.events(since):
            if (event.kind == SENT and event.src == name and direction != "in") or (
                event.kind == GOT and event.dst == name and direction != "out"
            ):
                yield event


def _pieces(m: Mbuf) -> list[bytes]:
    if is_unfinished(m):
        try:
            return [frame_of(piece) for piece in finish(m, 0)]
        except OffloadError:
            pass
    return [frame_of(m)]
