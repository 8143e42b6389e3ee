"""The faults of all wires of a run: setting them, counting them, recording and replaying them.

::

    faults = Faults(clock, seed=7)
    faults.adopt(cable)
    cable.impair(Loss(0.1), Delay(0.05), towards=port)

A lab does the first two lines itself.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from iflab.net.clock import Clock
from iflab.net.errors import report
from iflab.net.mbuf import Mbuf
from iflab.wire import End, Port, Wire

from .channel import Channel, Way
from .kinds import Does, Fault, in_order
from .record import Direction, Record, Recorder
from .stream import Stream

__all__ = ["Faults", "NicStruck", "Struck"]

_log = logging.getLogger("iflab.faults")


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault struck a frame: when (seconds since the run began), where, which frame, what was decided."""

    time: float
    direction: Direction
    frame: int
    """Number of the frame among those that its sender put on the wire; 1 is the first."""
    copy: int
    """0: the frame itself; others were made of it by a hook or by duplication."""
    fault: Fault
    decision: Any
    before: Mbuf
    """The frame as it met the fault: the object that a tap of the wire saw, unless something had changed it."""
    after: Mbuf
    """The frame as it goes on; the same object unless it was changed."""
    end: End | None = None
    """Of the wire, at which it came in."""

    def __str__(self) -> str:
        """What happened, for people: ``lost: loss``, ``delayed by 12.500 ms``."""
        return self.fault.tell(self.decision)


@dataclass(frozen=True, slots=True)
class NicStruck:
    """A fault of a NIC struck (``iflab/drivers/faulty.py``)."""

    time: float
    """Seconds since the run began."""
    nic: Any
    """The driver: it has a ``name`` and an ``ifp``."""
    cause: str
    """Under which the NIC counts it."""
    text: str
    """What happened, for people: ``if_start stalls for 0.5 s``."""
    frame: Mbuf | None
    """The frame that it struck; None: no single one."""
    end: End | None = None
    """Of the wire, at which that frame came in; None: somewhere before."""

    @property
    def before(self) -> Mbuf:
        """The frame that it struck, as a tap of the wire saw it."""
        assert self.frame is not None
        return self.frame

    def __str__(self) -> str:
        """What happened and where; of a frame first under which cause: ``kept out: bob:em0: …``."""
        return f"{self.cause + ': ' if self.frame is not None else ''}{self.nic.name}: {self.text}"


class Faults:
    """All faults of cables in a run. ``seed`` decides every random choice of theirs.

    With ``replay`` decisions are those of a record, for as many frames as it knows of;
    beyond that, and in directions that it does not know, they are made afresh.
    ``elapsed`` gives the seconds since the run began.
    """

    def __init__(
        self,
        clock: Clock,
        seed: int,
        *,
        elapsed: Callable[[], float] | None = None,
        replay: Record | None = None,
    ) -> None:
        self.clock = clock
        self.seed = seed
        self.elapsed = elapsed or clock.now
        self.replay = replay
        self.recorder: Recorder | None = None
        self.listeners: list[Callable[[Struck], None]] = []
        """Called, with the lock held, whenever a fault of a cable strikes; must be quick."""
        self.nic_listeners: list[Callable[[NicStruck], None]] = []
        """The same for faults of NICs."""
        self.replayed = 0
        """Decisions that were made again as the record has them."""
        self._channels: dict[tuple[Wire, Port], Channel] = {}
        self._default: dict[Wire, tuple[Fault, ...]] = {}
        self._chosen: dict[tuple[Wire, Port], tuple[Fault, ...]] = {}
        self._counts: dict[Direction, Counter[str]] = {}
        self._numbers: dict[Direction, int] = {}
        self._in_record: dict[Direction, Way] = {}
        self._ended: dict[Direction, tuple[int, tuple[Fault, ...]]] = {}
        """Frames in directions whose receiver is gone, and the faults that were in force."""

    # wires

    def adopt(self, wire: Wire) -> None:
        """Be the one whom ``wire.impair`` asks."""
        with self.clock.lock:
            wire.impairer = self
            for port in wire.ends:
                self.plugged(wire, port)

    def plugged(self, wire: Wire, port: Port) -> None:
        """A port was plugged in: what is set for the wire, or for this port before, holds for it."""
        for gone in [p for w, p in self._channels if w is wire and p not in wire.ends]:
            if (wire, gone) not in self._chosen:  # else it finds its faults when it comes back
                self._retire(wire, gone)
        faults = self.of(wire, port)
        replayed = self.replay is not None and any(
            (name, to) == (wire.name, port.name) for name, _, to in self.replay.histories
        )
        known = self._channels.get((wire, port))
        if faults or replayed or known is not None:
            channel = self._channel(wire, port)
            wire.set_impairment(port, channel)
            if faults and channel.faults != faults:
                channel.set(faults)

    def forget(self, port: Port) -> None:
        """A port is gone for good: keep nothing of it but counts by name."""
        with self.clock.lock:
            for wire, gone in [key for key in self._channels if key[1] is port]:
                self._retire(wire, gone)
            for key in [key for key in self._chosen if key[1] is port]:
                del self._chosen[key]
            for channel in self._channels.values():
                channel.forget(port)

    def _retire(self, wire: Wire, port: Port) -> None:
        """Let go the way towards a port that is not there: of its directions the numbers are kept, and no port."""
        for way in self._channels.pop((wire, port)).ways.values():
            if self._in_record.get(way.direction) is way:
                del self._in_record[way.direction]
                self._ended[way.direction] = way.sent(), way.current

    def impair(self, wire: Wire, faults: Iterable[Fault], towards: Port | None = None) -> None:
        """Set the faults of a wire, in the place of those before: towards one port, or every way.

        Every way: also towards ports that are plugged in later. None at all: the wire
        is sound again; what is under way arrives when it would have. Raises
        ``FaultError``, with nothing changed.
        """
        chosen = in_order(faults)
        for fault in chosen:
            fault.check()
        with self.clock.lock:
            if towards is None:
                self._default[wire] = chosen
                for key in [key for key in self._chosen if key[0] is wire]:
                    del self._chosen[key]
            else:
                self._chosen[wire, towards] = chosen
            for port in list(wire.ends) if towards is None else [towards]:
                channel = self._channels.get((wire, port))
                if channel is None and not chosen:
                    continue
                channel = self._channel(wire, port)
                if wire.impairments.get(port) is not channel:
                    wire.set_impairment(port, channel)
                channel.set(chosen)

    def of(self, wire: Wire, towards: Port | None = None) -> tuple[Fault, ...]:
        """The faults that are set towards a port, or where none in particular are."""
        default = self._default.get(wire, ())
        return default if towards is None else self._chosen.get((wire, towards), default)

    def _channel(self, wire: Wire, port: Port) -> Channel:
        channel = self._channels.get((wire, port))
        if channel is None:
            channel = self._channels[wire, port] = Channel(wire, port, self)
        return channel

    def idle(self, channel: Channel) -> None:
        """A channel has nothing to do any more: frames may take the straight way again."""
        if channel.wire.impairments.get(channel.port) is channel:
            channel.wire.set_impairment(channel.port, None)

    # what the channels tell

    def new_way(self, channel: Channel, sender: str) -> Way:
        """A sender whose frames meet faults for the first time."""
        direction = (channel.wire.name, sender, channel.receiver)
        replayed = self.replay.histories.get(direction) if self.replay is not None else None
        way = Way(channel, sender, replayed)
        if direction in self._in_record:
            way.follow(self._in_record[direction])
        else:
            way.begun, way.current = self._ended.pop(direction, (0, ()))
        self._in_record[direction] = way
        self._describe(way)
        return way

    def note_setting(self, way: Way, faults: tuple[Fault, ...], after: int) -> None:
        """From the frame behind number ``after`` on a direction has these faults."""
        if self.recorder is not None:
            self.recorder.add(
                {
                    "at": round(self.elapsed(), 6),
                    "set": self._number(way),
                    "after": after,
                    "faults": [fault.as_dict() for fault in faults],
                }
            )

    def struck(
        self,
        way: Way,
        fault: Fault,
        number: int,
        index: int,
        key: str,
        decision: Any,
        before: Mbuf,
        after: Mbuf,
    ) -> None:
        """A fault struck frame ``number`` of ``way``, or a copy of it."""
        if fault.does is not Does.DELAY:
            cause = decision if fault.does is Does.HOLD else fault.cause
            self.counts_of(way.direction)[cause] += 1
        if _log.isEnabledFor(logging.DEBUG):
            wire, sender, receiver = way.direction
            _log.debug("%s, %s to %s, frame %d: %s", wire, sender, receiver, number, fault.tell(decision))
        if self.recorder is not None:
            now = round(self.elapsed(), 6)
            self.recorder.add((now, self._number(way), number, index, key, decision))
        if self.listeners:
            event = Struck(
                self.elapsed(), way.direction, number, index, fault, decision, before, after, way.end
            )
            for listener in tuple(self.listeners):
                try:
                    listener(event)
                except BaseException as error:
                    report(_log, error, "a listener to faults failed: %r", listener)

    def counts_of(self, direction: Direction) -> Counter[str]:
        """How often which fault struck in a direction, by cause; it goes on counting."""
        return self._counts.setdefault(direction, Counter())

    @property
    def counts(self) -> Mapping[Direction, Counter[str]]:
        """How often which fault struck, by direction and cause."""
        return self._counts

    # random choices of others

    def stream(self, name: str) -> Stream:
        """A stream of random numbers for something else of the run, such as a NIC, by its name."""
        return Stream(self.seed, name)

    # the record

    def record(self, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> Recorder:
        """Write a record of what happens from now on; ``about`` is added to its first line. Raises ``OSError``."""
        with self.clock.lock:
            if self.recorder is not None:
                self.recorder.close()
            self.recorder = Recorder(path, {"seed": self.seed, **(about or {})})
            self._numbers.clear()
            for channel in self._channels.values():
                for way in channel.ways.values():
                    if way.current:
                        self.note_setting(way, way.current, way.sent())
            return self.recorder

    def note(self, text: str, wire: Wire | None = None) -> None:
        """Something happened, to a wire perhaps: a line of the record, with the frames that its ends had sent by then."""
        if self.recorder is None:
            return
        line: dict[str, Any] = {"at": round(self.elapsed(), 6), "note": text}
        if wire is not None:
            with self.clock.lock:
                line["sent"] = {end.port.name: self._sent(wire, end) for end in wire.ends.values()}
        self.recorder.add(line)

    def _sent(self, wire: Wire, end: End) -> int:
        """The number of the last frame that an end put on its wire, as the decisions have it."""
        ways = (way for (w, s, _), way in self._in_record.items() if (w, s) == (wire.name, end.port.name))
        return max((way.sent() for way in ways), default=end.flow.sent)

    def struck_nic(self, nic: Any, cause: str, text: str, m: Mbuf | None = None) -> None:
        """A fault of a NIC struck; ``m`` is the frame that it struck, if it was one."""
        end = nic.end.wire.delivering if m is not None and nic.end is not None else None
        event = NicStruck(self.elapsed(), nic, cause, text, m, end)
        if self.recorder is not None:
            ifp = nic.ifp
            self.recorder.add(
                {
                    "at": round(event.time, 6),
                    "note": f"{nic.name}: {text}",
                    "nic": nic.name,
                    "fault": cause,
                    "sent": ifp.if_opackets,
                    "received": ifp.if_ipackets,
                }
            )
        for listener in tuple(self.nic_listeners):
            try:
                listener(event)
            except BaseException as error:
                report(_log, error, "a listener to faults failed: %r", listener)

    def _describe(self, way: Way) -> None:
        if self.recorder is not None:
            self._number(way)

    def _number(self, way: Way) -> int:
        assert self.recorder is not None
        number = self._numbers.get(way.direction)
        if number is None:
            number = self._numbers[way.direction] = len(self._numbers)
            wire, sender, receiver = way.direction
            self.recorder.add({"direction": number, "wire": wire, "from": sender, "to": receiver})
        return number

    def close(self) -> None:
        """End the record."""
        if self.recorder is not None:
            with self.clock.lock:
                frames = {
                    str(number): way.sent()
                    if (way := self._in_record.get(direction)) is not None
                    else self._ended.get(direction, (0,))[0]
                    for direction, number in self._numbers.items()
                }
                self.recorder.add({"end": round(self.elapsed(), 6), "frames": frames})
            self.recorder.close()
