"""The recorder: listens to every wire of a lab, and keeps what a report is made of.

::

    engine's thread                         recorder's own thread          write()
    taps -> inbox (time, end, frame) -----> flows, timeline, tape ------> page
    lab's log, links, cuts ---------------> happenings, states

On the engine's thread an entry is appended and no more. What waits in the inbox
is bounded in octets and entries; beyond that frames are not looked at, which is
counted and told in the report. The accounts of wires and NICs are the lab's own
and exact in any case.

Frames are seen as the NICs put them on the wire, super-frames included, so that
recording changes neither what the hosts send nor the way it takes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any

from iflab.net import Ifnet
from iflab.net.mbuf import PKTHDR, Mbuf
from iflab.wire import HOOK, End, Port, Tap, UnderWay, Watched, Wire

from .flows import Flows, Header
from .recording import About, Assertion, Lane, LinkState, NicCount, Node, Recording, WireCount, versions
from .series import Timeline
from .story import Happening, Happenings, Seen, Tape

if TYPE_CHECKING:
    from iflab.faults import NicStruck, Struck
    from iflab.lab import Lab

__all__ = ["Recorder", "ReportError"]

_log = logging.getLogger("iflab.report")

BACKLOG = 64 << 20
"""Octets of frames that may wait in the inbox."""

ENTRIES = 200_000
"""Entries that may wait in the inbox."""

UNDECIDED = 20_000
"""Frames whose fate is waited for."""

PERIOD = 0.02
"""Seconds between two looks into the inbox and at the send queues."""

BETWEEN_MARKS = 0.005
"""Seconds between two frames of which it is watched how long they are in a send queue."""

SNAPLEN = 192
"""Octets kept of a frame: enough for the headers that a line of text tells."""

STATES = 4000
"""Changes of links that are kept for the picture of the topology."""

_HEARD, _TRAIN, _FATE, _NOTE, _STATE, _STRUCK, _BECAME = range(7)

ALTERED = "altered by a hook"


class ReportError(ValueError):
    """A report that cannot be made; the text names what is missing and the remedy."""


class _Place:
    """What the recorder knows of an end of a wire."""

    __slots__ = ("end", "lane", "left", "marks", "missed", "queue", "wire")

    def __init__(self, end: End, wire: int, lane: int, queue: Any) -> None:
        self.end = end
        self.wire = wire
        self.lane = lane
        self.queue = queue
        self.missed = 0
        self.left = 0
        """Frames that left the send queue."""
        self.marks: deque[tuple[float, int]] = deque()
        """Of some frames when they were the last in it, and how many have left when they have."""

    def leaves(self, when: float, behind: int) -> float:
        """A frame leaves the send queue, with so many behind it; return the seconds that it was there, 0.0 if unknown.

        Where frames overtake each other, as in classes, or are thrown out on the way, it is about as long.
        """
        self.left += 1
        held = 0.0
        while self.marks and self.marks[0][1] <= self.left:
            held = max(held, when - self.marks.popleft()[0])
        last = self.left + behind
        if not behind:
            self.marks.clear()
        elif not self.marks or (when >= self.marks[-1][0] + BETWEEN_MARKS and last > self.marks[-1][1]):
            self.marks.append((when, last))
        return held


class _Waiting(Watched):
    """A frame whose fate is open."""

    __slots__ = ("seen",)

    def __init__(self, seen: Seen, copies: int) -> None:
        super().__init__(copies)
        self.seen = seen


class Recorder:
    """Keeps what happens in a lab from now on; made by ``lab.report()``.

    ``write`` makes the report, at any time and any number of times, also when the lab
    is closed. As a context manager it writes ``path`` at the end, and an exception that
    passes through is the run's failure::

        with Lab() as lab, lab.report("report.html"):
            ...

    ``about`` says what the run is: a title, parameters, the outcome. All may be
    called from any thread.
    """

    def __init__(self, lab: Lab, path: str | os.PathLike[str] | None = None) -> None:
        self.path = path
        self.about = About(lab.name)
        self.error: BaseException | None = None
        """The first thing that went wrong inside the recorder, if anything did."""
        self._lab = lab
        self._wall = lab.started
        self._began = time.monotonic() - lab.elapsed()
        self._from = lab.elapsed()
        self._to: float | None = None
        self._taps: list[Tap] = []
        self._undo: list[Callable[[], None]] = []
        self._wires: dict[Wire, int] = {}
        self._ports: dict[Port, int] = {}
        self._lanes: list[Lane] = []
        self._places: dict[End, _Place] = {}
        self._inbox: deque[tuple[Any, ...]] = deque()
        self._taken = 0
        self._done = 0
        self._timeline = Timeline()
        self._flows = Flows()
        self._tape = Tape()
        self._happenings = Happenings()
        self._states: deque[LinkState] = deque(maxlen=STATES)
        self._state: dict[tuple[int, int], str] = {}
        self._under_way: UnderWay[_Waiting] = UnderWay()
        self._nic_drops: dict[int, int] = {}
        self._frames = 0
        self._final: tuple[list[Node], list[NicCount], list[WireCount]] | None = None
        self._work = threading.RLock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="iflab-report", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Recorder of {self.about.title}: {self._frames} frames>"

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.about.held is None:
            self.about.held = value is None
            if value is not None:
                self.about.failure = f"{type(value).__name__}: {value}"
        self.stop()
        if self.path is not None:
            self.write(self.path)

    @property
    def stopped(self) -> bool:
        """True once ``stop`` began."""
        return self._ending.is_set()

    # what the lab tells; with the lab's lock held

    def listen(self, wire: Wire) -> None:
        """Hear ``wire`` from now on."""
        if self.stopped:
            return
        self._wires[wire] = len(self._wires)
        self._taps.append(
            wire.add_tap(self._heard, self._fate, became=self._became, train=self._heard_train, whole=True)
        )
        self._look(wire)

    def note(self, text: str, about: Wire | Ifnet | None = None, kind: str = "") -> None:
        """Something happened, to ``about`` if that is given; ``kind`` as in ``Happening``, or what ``about`` shows."""
        if self.stopped:
            return
        wire, lane = -1, -1
        if isinstance(about, Wire) and about in self._wires:
            wire = self._wires[about]
            looked = self._look(about)
            kind = kind or looked
        elif isinstance(about, Ifnet):
            kind = kind or about.if_link_state.name.lower()
            if hasattr(about.if_softc, "end"):
                lane = self._lane(about.if_softc)
                end = about.if_softc.end
                wire = self._wires.get(end.wire, -1) if end is not None else -1
        self._inbox.append((_NOTE, self._now(), kind or "log", text, wire, lane))

    def on_stop(self, fn: Callable[[], None]) -> None:
        """Call ``fn`` when recording ends."""
        self._undo.append(fn)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _look(self, wire: Wire) -> str:
        """Note which of a wire's links changed, and say what that was: ``cut``, ``mend``, or ``wire``."""
        number, now, kind = self._wires[wire], self._now(), "wire"
        there = {
            self._lane(port): "cut" if wire.is_cut(port) else "up" if end.up else "down"
            for port, end in list(wire.ends.items())
        }
        for of_wire, lane in list(self._state):
            if of_wire == number:
                there.setdefault(lane, "unplugged")
        for lane, state in there.items():
            before = self._state.get((number, lane))
            if state != before:
                self._state[number, lane] = state
                self._inbox.append((_STATE, now, number, lane, state))
                if state == "cut":
                    kind = "cut"
                elif before == "cut" and kind != "cut":
                    kind = "mend"
        return kind

    def _lane(self, port: Port) -> int:
        number = self._ports.get(port)
        if number is None:
            number = self._ports[port] = len(self._lanes)
            host, colon, nic = port.name.rpartition(":")
            self._lanes.append(Lane(port.name, host if colon else port.name, nic if colon else ""))
        return number

    def _place(self, end: End) -> _Place:
        found = self._places.get(end)
        if found is None:
            ifp = getattr(end.port, "ifp", None)
            found = _Place(end, self._wires[end.wire], self._lane(end.port), ifp.if_snd if ifp else None)
            self._places[end] = found
        return found

    # what the taps hear; on the hot path

    def _room(self, place: _Place, octets: int, frames: int = 1) -> bool:
        if self._taken - self._done + octets > BACKLOG or len(self._inbox) > ENTRIES:
            place.missed += frames
            return False
        self._taken += octets
        return True

    def _heard(self, end: End, m: Mbuf) -> None:
        place = self._places.get(end) or self._place(end)
        if self._room(place, len(m)):
            queue = place.queue.ifq_len if place.queue is not None else 0
            self._inbox.append((_HEARD, time.monotonic(), place, m, queue, max(1, len(end.wire.ends) - 1)))

    def _heard_train(self, end: End, frames: list[Mbuf]) -> None:
        place = self._places.get(end) or self._place(end)
        octets = sum(map(len, frames))
        if self._room(place, octets, len(frames)):
            self._inbox.append((_TRAIN, time.monotonic(), place, frames, octets, end.straight_to))

    def _fate(self, end: End, port: Port | None, m: Mbuf, cause: str) -> None:
        if len(self._inbox) <= ENTRIES:
            place = self._places.get(end) or self._place(end)
            self._inbox.append((_FATE, time.monotonic(), place, port, m, cause))

    def _became(self, end: End, m: Mbuf, frames: list[Mbuf], by: str) -> None:
        if len(self._inbox) <= ENTRIES:
            self._inbox.append((_BECAME, end, m, frames, by))

    def struck(self, struck: Struck | NicStruck) -> None:
        """A fault struck a frame. Of those that it lost, their fate will tell."""
        if len(self._inbox) <= ENTRIES and struck.end is not None:
            self._inbox.append((_STRUCK, struck.end, struck.before, str(struck)))

    # on the thread of its own

    def _run(self) -> None:
        while not self._ending.wait(PERIOD):
            with self._work:
                self._digest()
                self._sample()

    def _digest(self) -> None:
        inbox = self._inbox
        for count in range(len(inbox)):
            if count & 127 == 127:
                time.sleep(0)  # the engine gets the interpreter now, not at the end of its switch interval
            entry = inbox.popleft()
            try:
                self._take(entry)
            except Exception as error:
                if self.error is None:
                    self.error = error
                    _log.exception("the recorder could not make sense of a frame; the report lacks it")

    def _take(self, entry: tuple[Any, ...]) -> None:
        kind, when = entry[0], entry[1]
        if kind == _NOTE:
            _, _, what, text, wire, lane = entry
            self._happenings.add(Happening(when, what, text, wire, lane))
            return
        if kind == _STATE:
            self._states.append(LinkState(when, *entry[2:]))
            return
        if kind == _STRUCK:
            self._change(*entry[1:])
            return
        if kind == _BECAME:
            self._replace(*entry[1:])
            return
        when -= self._began
        place: _Place = entry[2]
        if kind == _HEARD:
            _, _, _, m, queue, copies = entry
            self._done += len(m)
            seen = self._see(when, place, m)
            there = self._timeline.at(place.lane, when - self._from)
            there.queue = max(there.queue, queue)
            there.held_max = max(there.held_max, place.leaves(when, queue))
            self._under_way.add(place.end, m, _Waiting(seen, copies))
            if self._under_way.count > UNDECIDED:
                self._under_way.forget_first()
        elif kind == _TRAIN:
            _, _, _, frames, octets, port = entry
            self._done += octets
            lane = self._lane(port) if port is not None else -1
            for m in frames:
                seen = self._see(when, place, m)
                if lane >= 0:
                    self._arrived(seen, when, lane)
        else:
            self._decide(when, place, entry[3], entry[4], entry[5])

    def _see(self, when: float, place: _Place, m: Mbuf) -> Seen:
        header = Header.read(m)
        conversation = self._flows.of(place.wire, header)
        size = len(m) - PKTHDR
        seen = Seen(when, place.wire, place.lane, m[PKTHDR : PKTHDR + SNAPLEN], size, header, conversation)
        seen.again = conversation.sent(header, when)
        if header.flags >= 0:
            seen.relative = conversation.relative(header)
        conversation.frames += 1
        conversation.octets += size
        there = self._timeline.at(place.lane, when - self._from)
        there.frames += 1
        there.octets += size
        if seen.again:
            there.retransmitted += header.segments
        self._frames += 1
        self._tape.add(seen)
        if seen.again or seen.speaks:
            self._tape.spoke(seen)
        return seen

    def _decide(self, when: float, place: _Place, port: Port | None, m: Mbuf, cause: str) -> None:
        waiting = self._under_way.of(place.end, m)
        if cause:
            self._timeline.at(place.lane, when - self._from).lost += 1
        if waiting is None:
            return  # it came too fast to be looked at, or was under way when the recording began
        self._under_way.decided(place.end, waiting, everything=port is None and bool(cause))
        seen, lane = waiting.seen, self._lane(port) if port is not None else -1
        if cause:
            seen.causes.append((lane, cause))
            seen.conversation.lost += 1
            self._tape.spoke(seen)
        elif lane >= 0:
            self._arrived(seen, when, lane, measured=True)

    def _change(self, end: End, m: Mbuf, text: str) -> None:
        """A fault struck a frame."""
        waiting = self._under_way.of(end, m)
        if waiting is not None and not text.startswith(("lost", "delayed")):
            self._befell(waiting.seen, text)

    def _replace(self, end: End, m: Mbuf, frames: list[Mbuf], by: str) -> None:
        """Others go on in the place of a frame."""
        waiting = self._under_way.became(end, m, frames)
        if waiting is not None and by == HOOK:  # faults tell themselves what they did
            self._befell(
                waiting.seen, ALTERED if len(frames) == 1 else f"{ALTERED} into {len(frames)} frames"
            )

    def _befell(self, seen: Seen, text: str) -> None:
        """Something happened to a frame that goes on."""
        seen.changes.append(text)
        self._tape.spoke(seen)

    def _arrived(self, seen: Seen, when: float, lane: int, measured: bool = False) -> None:
        if not seen.arrived:
            seen.first_arrival = when
        seen.last_arrival = when
        seen.arrived.append(lane)
        if measured:
            there, delay = self._timeline.at(seen.lane, seen.time - self._from), when - seen.time
            there.delay_count += 1
            there.delay_sum += delay
            there.delay_max = max(there.delay_max, delay)
        round_trip = seen.conversation.delivered(seen.header, when)
        if round_trip is not None:
            there = self._timeline.at(lane, when - self._from)
            there.rtt_count += 1
            there.rtt_sum += round_trip

    def _sample(self) -> None:
        """Look at the send queues, and at what the NICs turned away since the last look."""
        now = self._now() - self._from
        for port, lane in list(self._ports.items()):
            ifp = getattr(port, "ifp", None)
            if ifp is None:
                continue
            dropped = ifp.if_snd.ifq_drops + ifp.if_iqdrops + ifp.if_ierrors + ifp.if_oerrors
            more = dropped - self._nic_drops.get(lane, dropped)
            self._nic_drops[lane] = dropped
            length = ifp.if_snd.ifq_len
            if more > 0 or length:
                there = self._timeline.at(lane, now)
                there.queue = max(there.queue, length)
                there.dropped += max(0, more)

    # the end

    def check(self, text: str, held: bool, detail: str = "") -> None:
        """Tell the outcome of an expectation: a line of the report's list."""
        self.about.assertions.append(Assertion(text, held, self._now(), detail))

    def stop(self) -> None:
        """Record no more; safe to call twice. A lab does it when it closes."""
        if self.stopped:
            return
        self._ending.set()
        for tap in self._taps:
            tap.remove()
        self._taps.clear()
        for undo in self._undo:
            undo()
        self._thread.join()
        with self._lab.lock, self._work:
            self._digest()
            self._sample()
            self._to = self._now()
            self._final = self._count()

    def _count(self) -> tuple[list[Node], list[NicCount], list[WireCount]]:
        """The lab's own account of NICs and wires, with the lab's lock held."""
        lab = self._lab
        nodes, nics = [], []
        for owner in lab.owners():
            lanes = []
            for ifp in owner.vnet.ifnets():
                if hasattr(ifp.if_softc, "end"):
                    lanes.append(self._lane(ifp.if_softc))
                    nics.append(NicCount.of(ifp, lanes[-1]))
            nodes.append(Node(owner.name, "switch" if owner.name in lab.switches else "host", lanes))
        owners = {node.name: node for node in nodes}
        known = {lane for node in nodes for lane in node.lanes}
        for port, lane in self._ports.items():
            if lane in known:
                continue
            if (node := owners.get(self._lanes[lane].host)) is not None:
                node.lanes.append(lane)  # a NIC that is gone
            else:
                nodes.append(Node(port.name, "station", [lane]))
        missed: dict[int, int] = {}
        for place in self._places.values():
            missed[place.wire] = missed.get(place.wire, 0) + place.missed
        wires = [
            WireCount.of(wire, [self._lane(port) for port in wire.ends], missed.get(number, 0))
            for wire, number in self._wires.items()
        ]
        return nodes, nics, wires

    def recording(self) -> Recording:
        """All that was recorded so far, for ``write`` or a program of your own."""
        with contextlib.ExitStack() as undo:
            if self._final is None:  # all is of one moment, while the lab goes on
                undo.enter_context(self._lab.lock)
            undo.enter_context(self._work)
            if self._final is None:
                self._digest()
            nodes, nics, wires = self._final or self._count()
            frames = list(self._tape)
            return Recording(
                about=self.about,
                lab=self._lab.name,
                seed=self._lab.seed,
                started=self._wall,
                begin=self._from,
                end=self._to if self._to is not None else self._now(),
                lanes=list(self._lanes),
                nodes=nodes,
                nics=nics,
                wires=wires,
                timeline=self._timeline.copy(),
                conversations=[copy(each) for each in self._flows.all()],
                conversations_forgotten=self._flows.forgotten,
                frames=frames,
                frames_seen=self._frames,
                happenings=list(self._happenings),
                happenings_left_out=self._happenings.left_out,
                states=list(self._states),
                versions=versions(),
            )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one HTML file.

        Raises ``ReportError`` when a library of the extra ``report`` is missing, and
        ``OSError`` when the file cannot be written; a report that is there already
        stays whole then. What is there and no file (a pipe, a device) is written to.
        """
        from .page import render

        text = render(self.recording())
        target = os.fspath(path)
        part = None
        try:
            if not os.path.exists(target) or os.path.isfile(target):
                part = f"{os.path.realpath(target)}.part"
            with open(part or target, "w", encoding="utf-8") as file:
                file.write(text)
            if part:
                os.replace(part, os.path.realpath(target))
        except OSError as error:
            if part and os.path.exists(part):
                os.unlink(part)
            error.filename = target
            raise


def check_libraries(names: Iterable[str] = ("jinja2", "networkx", "matplotlib", "numpy")) -> None:
    """Raise ``ReportError`` when a library that reports need is not installed."""
    from importlib.util import find_spec

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ReportError(f"a report needs {', '.join(missing)}; install with: pip install 'iflab[report]'")
