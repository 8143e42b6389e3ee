"""One direction of a wire with faults in it: a wire's ``Impairment`` (``iflab/wire/wire.py``).

::

    take -> decide, fault by fault -> queue and token bucket -> under way -> wire.pass_on

All that is decided by chance is decided when the frame enters, so that no later
moment changes it. Each sender has streams and numbers of its own; queue and line
are those of the receiver's lead.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from iflab.net.errors import report
from iflab.net.mbuf import PKTHDR, Mbuf
from iflab.wire import End, Port, Wire

from .kinds import Decider, Delay, Does, Fault, Rate
from .line import Line
from .record import Direction, History
from .shaper import Shaper
from .stream import Stream

if TYPE_CHECKING:
    from .faults import Faults

__all__ = ["Channel", "Way"]

_log = logging.getLogger("iflab.faults")


class _Active:
    """A fault at work in a direction: as the run decides, or as a record says."""

    __slots__ = ("decider", "fault", "key", "stream")

    def __init__(self, fault: Fault, key: str, decider: Decider, stream: Stream) -> None:
        self.fault = fault
        self.key = key
        self.decider = decider
        self.stream = stream


class Way:
    """From one sender: the numbers of its frames, and who decides about them."""

    def __init__(self, channel: Channel, sender: str, replayed: History | None) -> None:
        self.channel = channel
        self.sender = sender
        self.direction: Direction = (channel.wire.name, sender, channel.receiver)
        self.number = -1
        """In the record."""
        self.replayed = replayed
        self.active: list[_Active] = []
        self.rate: Rate | None = None
        self.end: End | None = None
        self.begun = 0
        """Frames that were counted in this direction before a port of it was replaced by another of its name."""
        self.last = 0
        """Number of the last frame that was seen here."""
        self.copies: dict[int, int] = {}
        """Of it, so far, by its number."""
        self.current: tuple[Fault, ...] = ()
        """The faults in force, as a record of this run has them."""
        self._before = 0
        """Frames that this sender put on the wire before it was plugged in anew."""
        self._set: tuple[Fault, ...] = ()
        self._as_recorded: tuple[Fault, ...] = ()
        self._recorded_active: list[_Active] = []

    def follow(self, other: Way) -> None:
        """Count on from one of the same direction, whose receiver was another of that name."""
        self._before, self.end, self.last, self.copies = other._before, other.end, other.last, other.copies
        self.current = other.current

    def sent(self) -> int:
        """Frames that the sender has put on the wire, ever."""
        return self._before + (self.end.flow.sent if self.end is not None else 0)

    def plugged(self, end: End) -> None:
        """The sender has (or has again) this end of the wire."""
        if end is not self.end:
            self._before = max(self.sent(), self.begun - end.flow.sent) if self.end is None else self.sent()
            self.end = end

    def pulled(self, port: Port) -> None:
        """A port is gone for good: if it was the sender, count on when another of its name comes."""
        if self.end is not None and self.end.port is port:
            self._before, self.begun, self.end = self.sent(), 0, None

    def next_copy(self, number: int) -> int:
        """The number of the next copy of frame ``number``."""
        copy = self.copies[number] = self.copies.get(number, 0) + 1
        return copy

    def enter(self) -> tuple[int, int]:
        """A frame came in: its number, and which copy it is (a hook makes several of one)."""
        number = self.sent()
        if number in self.copies:
            return number, self.next_copy(number)
        self.last = number
        self.copies = {number: 0}
        return number, 0

    def governs(self, number: int) -> bool:
        """True while a record decides."""
        return self.replayed is not None and number <= self.replayed.last

    def set(self, faults: tuple[Fault, ...]) -> None:
        """Set what is decided from now on; a fault that stays goes on where it was."""
        self._set = faults
        self.active = self._activate(faults, self.active)
        self.rate = next((f for f in faults if isinstance(f, Rate)), None)
        if not self.governs(self.sent() + 1):
            self._note(faults, self.sent())

    def _note(self, faults: tuple[Fault, ...], after: int) -> None:
        if faults != self.current:
            self.current = faults
            self.channel.book.note_setting(self, faults, after)

    def in_force(self, number: int) -> tuple[list[_Active], Rate | None]:
        """The faults for frame ``number``: those that are set, or while a record decides those that were."""
        if self.replayed is None:
            return self.active, self.rate
        if not self.governs(number):  # from here on this run decides by itself
            self.replayed = None
            self._note(self._set, number - 1)
            return self.active, self.rate
        faults = self.replayed.faults(number)
        if faults is not self._as_recorded:
            self._as_recorded = faults
            self._recorded_active = self._activate(faults, self._recorded_active)
            self._note(faults, number - 1)
        return self._recorded_active, next((f for f in faults if isinstance(f, Rate)), None)

    def _activate(self, faults: tuple[Fault, ...], before: list[_Active]) -> list[_Active]:
        known = {active.key: active for active in before}
        found: list[_Active] = []
        seen: dict[str, int] = {}
        for fault in faults:
            kind = type(fault).__name__.lower()
            seen[kind] = seen.get(kind, 0) + 1
            key = kind if seen[kind] == 1 else f"{kind}#{seen[kind]}"
            active = known.get(key)
            if active is None or active.fault != fault:
                stream = Stream(self.channel.book.seed, "|".join((*self.direction, key)))
                active = _Active(fault, key, fault.decider(), stream)
            found.append(active)
        return found


class _Frame:
    """A frame, or a copy of one, on its way through."""

    __slots__ = ("delay", "end", "m", "overtakes")

    def __init__(self, end: End, m: Mbuf, delay: float, overtakes: bool) -> None:
        self.end = end
        self.m = m
        self.delay = delay
        self.overtakes = overtakes


class Channel:
    """All that goes to one port of a wire."""

    def __init__(self, wire: Wire, port: Port, book: Faults) -> None:
        self.wire = wire
        self.port = port
        self.receiver = port.name
        self.book = book
        self.faults: tuple[Fault, ...] = ()
        self.ways: dict[str, Way] = {}
        self._by_end: dict[End, Way] = {}
        self.shaper: Shaper[_Frame] = Shaper(wire.clock, self._leave)
        self.line: Line[_Frame] = Line(wire.clock, self._arrive, self._emptied)

    # what is set

    def set(self, faults: tuple[Fault, ...]) -> None:
        """Set the faults of this direction, for the frames that come from now on."""
        self.faults = faults
        for end in self.wire.ends.values():
            if end.port is not self.port:
                self.way(end)
        for way in self.ways.values():
            way.set(faults)
        if not any(way.governs(way.sent() + 1) for way in self.ways.values()):
            self._set_rate(next((f for f in faults if isinstance(f, Rate)), None))
        if not faults:
            self._emptied()

    def _set_rate(self, rate: Rate | None) -> None:
        if rate != self.shaper.rate:
            self.shaper.set(rate)

    def way(self, end: End) -> Way:
        """The way from the sender at ``end``."""
        way = self._by_end.get(end)
        if way is None:
            name = end.port.name
            way = self.ways.get(name)
            if way is None:
                way = self.ways[name] = self.book.new_way(self, name)
                way.plugged(end)
                if self.faults or way.current:
                    way.set(self.faults)
            way.plugged(end)
            self._by_end = {e: w for e, w in self._by_end.items() if e in self.wire.ends.values()}
            self._by_end[end] = way
        return way

    def forget(self, port: Port) -> None:
        """A sender is gone for good."""
        self._by_end = {end: way for end, way in self._by_end.items() if end.port is not port}
        for way in self.ways.values():
            way.pulled(port)

    def is_idle(self) -> bool:
        """True when it does nothing to any frame and holds none."""
        return (
            not self.faults
            and not self.line
            and not self.shaper.waiting
            and not any(way.replayed is not None for way in self.ways.values())
        )

    def _emptied(self) -> None:
        if self.is_idle():
            self.book.idle(self)

    # frames

    def take(self, end: End, m: Mbuf) -> None:
        """Let a frame that ``end`` sent meet the faults."""
        way = self._by_end.get(end) or self.way(end)
        number, index = way.enter()
        active, rate = way.in_force(number)
        if rate is not self.shaper.rate:
            self._set_rate(rate)
        todo = [(0, index, m)]
        while todo:
            begin, copy, m = todo.pop(0)
            self._walk(way, end, number, active, begin, copy, m, todo)
        if not self.faults:
            self._emptied()

    def _walk(
        self,
        way: Way,
        end: End,
        number: int,
        active: list[_Active],
        begin: int,
        index: int,
        m: Mbuf,
        todo: list[tuple[int, int, Mbuf]],
    ) -> None:
        """Let one frame or copy meet the faults from ``begin`` on; copies made of it are added to ``todo``."""
        delay, overtakes, hastened, held = 0.0, False, False, False
        for at in range(begin, len(active)):
            one = active[at]
            fault, does = one.fault, one.fault.does
            if does is Does.HOLD:
                held = True
            if does is Does.DELAY and hastened:
                continue
            before = m
            try:
                decision = self._decide(way, one, number, index, m)
                if decision is None:
                    continue
                if does is Does.CHANGE:
                    m = fault.change(decision, m)
            except BaseException as error:
                self.wire.lose(end, self.port, m, "fault error")
                report(_log, error, "%s: a fault failed and lost its frame: %r", self.wire.name, fault)
                return
            if fault.is_recorded:
                self.book.struck(way, fault, number, index, one.key, decision, before, m)
            if does is Does.LOSE:
                self.wire.lose(end, self.port, m, fault.cause)
                return
            if does is Does.HOLD:
                self.wire.lose(end, self.port, m, decision)
                self._pass_over(way, number, index, active[at + 1 :], m)
                return
            if m is not before:
                self.wire.replace(end, before, [m], fault.cause)
            if does is Does.COPY:
                self.wire.replace(end, m, [m] * (1 + decision), fault.cause)
                todo += [(at + 1, way.next_copy(number), m) for _ in range(decision)]
            elif does is Does.HASTEN:
                hastened = overtakes = True
            elif isinstance(fault, Delay):
                delay += decision
                overtakes = overtakes or (fault.scatters and not fault.keep_order)
        frame = _Frame(end, m, delay, overtakes)
        if held or self.shaper.waiting:
            self.shaper.put(len(m) - PKTHDR, frame)
        else:
            self._leave(self.wire.clock.now(), frame)

    def _decide(self, way: Way, one: _Active, number: int, index: int, m: Mbuf) -> Any:
        if way.governs(number):
            assert way.replayed is not None
            if one.fault.is_recorded:
                decision = way.replayed.decisions.get((number, index, one.key))
                self.book.replayed += decision is not None
                return decision
        elif one.fault.does is Does.HOLD:
            return self.shaper.refuses(len(m) - PKTHDR) or None
        return one.decider(one.stream.seek(number, index), number, m)

    def _pass_over(self, way: Way, number: int, index: int, behind: list[_Active], m: Mbuf) -> None:
        """Let the faults behind the queue count a frame that it refused.

        What they do to others must not depend on how full it was: that is a matter of timing.
        """
        if way.governs(number):
            return
        for one in behind:
            try:
                decision = one.decider(one.stream.seek(number, index), number, m)
            except BaseException as error:
                report(_log, error, "%s: a fault failed: %r", self.wire.name, one.fault)
                continue
            if decision is not None and one.fault.does is Does.HASTEN:
                return  # such a frame meets no delay

    def _leave(self, when: float, frame: _Frame) -> None:
        self.line.push(when + frame.delay, frame, frame.overtakes)

    def _arrive(self, frame: _Frame) -> None:
        self.wire.pass_on(frame.end, self.port, frame.m)

    def lose(self, cause: str, end: End | None = None) -> None:
        """Lose what is in the queue and under way: all of it, or what ``end`` sent."""

        def chosen(frame: _Frame) -> bool:
            return end is None or frame.end is end

        for frame in self.line.take_out(chosen) + self.shaper.take_out(chosen):
            self.wire.lose(frame.end, self.port, frame.m, cause)
        self._emptied()
