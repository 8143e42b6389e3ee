"""What all wires have in common: plugs, carrier, hooks, taps, delay, accounts.

A wire connects ports. Each plugged port has an ``End``; what it sends goes to
every other port. A frame's way, left to right::

    end.send -> taps -> cut? -> hooks -> faults -> delay -> port.receive

On a wire without any of these all of that is one short function. What the faults
do is not known here: they are an ``Impairment`` (``iflab/faults``).

The carrier at an end is there when frames can arrive: some other port is plugged
in and the way from it is not cut.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from iflab.net.clock import Clock, Timer, is_span
from iflab.net.errors import report
from iflab.net.ifnet import FRAME_MAX, FRAME_MIN
from iflab.net.mbuf import PKTHDR, Mbuf, mbuf
from iflab.net.offload import is_unfinished
from iflab.net.packet import octets_of

from .frame import Frame, load_scapy
from .port import End, Flow, Plugged, Port, WireError

if TYPE_CHECKING:
    from iflab.net import Ifnet

__all__ = [
    "HOOK",
    "BecameFunction",
    "FateFunction",
    "Hook",
    "HookFunction",
    "Impairer",
    "Impairment",
    "Tap",
    "TapFunction",
    "Wire",
]

_log = logging.getLogger("iflab.wire")

HookFunction = Callable[[Frame], Any]
TapFunction = Callable[[End, Mbuf], None]
TrainFunction = Callable[[End, list[Mbuf]], None]
FateFunction = Callable[[End, Port | None, Mbuf, str], None]
BecameFunction = Callable[[End, Mbuf, list[Mbuf], str], object]

_MBUF_MIN = PKTHDR + FRAME_MIN
_MBUF_MAX = PKTHDR + FRAME_MAX

HOOK = "hook"
"""The cause of what a hook lost or changed."""

HOOK_MOST = 10_000
"""A hook may make this many frames of one; one that makes more is taken to be endless."""


class Impairment(Protocol):
    """Faults in the way towards one port; for each frame it calls ``wire.pass_on`` or ``wire.lose``, sooner or later."""

    def take(self, end: End, m: Mbuf) -> None:
        """Take a frame that ``end`` sent; it counts as in flight."""

    def lose(self, cause: str, end: End | None = None) -> None:
        """Lose what is in flight, all of it or what ``end`` sent."""


class Impairer(Protocol):
    """Makes the faults of wires; told of plugs, with the lock held."""

    def impair(self, wire: Wire, faults: Iterable[Any], towards: Port | None) -> None:
        """Set the faults of ``wire``."""

    def plugged(self, wire: Wire, port: Port) -> None:
        """A port was plugged in."""


class Hook:
    """A Python function in the way of the frames of a wire; ``remove`` takes it out."""

    __slots__ = ("fn", "towards", "wire")

    def __init__(self, wire: Wire, fn: HookFunction, towards: Port | None) -> None:
        self.wire = wire
        self.fn = fn
        self.towards = towards

    def remove(self) -> None:
        """Take the hook out; nothing happens when it is out."""
        self.wire.remove_hook(self)


class Tap:
    """A listener that sees every frame put on a wire and touches none; ``remove`` ends it."""

    __slots__ = ("became", "fate", "fn", "train", "whole", "wire")

    def __init__(
        self,
        wire: Wire,
        fn: TapFunction,
        fate: FateFunction | None,
        became: BecameFunction | None,
        train: TrainFunction | None,
        whole: bool,
    ) -> None:
        self.became = became
        self.train = train
        self.whole = whole
        self.wire = wire
        self.fn = fn
        self.fate = fate

    def remove(self) -> None:
        """Stop listening; nothing happens when it has stopped."""
        with self.wire.clock.lock:
            if self in self.wire.taps:
                self.wire.taps.remove(self)
                self.wire.rebind()


class _Pipe:
    """The frames in flight towards one port, in order, with one timer for the first of them."""

    __slots__ = ("clock", "deliver", "frames", "lost", "on_empty", "timer")

    def __init__(
        self,
        clock: Clock,
        deliver: Callable[[End, Mbuf], None],
        lost: Callable[[End, Mbuf, str], None],
        on_empty: Callable[[], None],
    ) -> None:
        self.clock = clock
        self.deliver = deliver
        self.lost = lost
        self.on_empty = on_empty
        self.frames: deque[tuple[float, End, Mbuf]] = deque()
        self.timer: Timer | None = None

    def push(self, delay: float, end: End, m: Mbuf) -> None:
        due = self.clock.now() + delay
        if self.frames:  # a shorter delay does not let a frame overtake those before it
            due = max(due, self.frames[-1][0])
        self.frames.append((due, end, m))
        if self.timer is None:
            self.timer = self.clock.call_at(due, self._release)

    def _release(self) -> None:
        self.timer = None
        now = self.clock.now()
        while self.frames and self.frames[0][0] <= now:
            _, end, m = self.frames.popleft()
            self.deliver(end, m)
        if not self.frames:
            self.on_empty()
        elif self.timer is None:
            self.timer = self.clock.call_at(self.frames[0][0], self._release)

    def lose(self, cause: str, end: End | None = None) -> None:
        """Lose what is in flight, all of it or what ``end`` sent."""
        frames, self.frames = self.frames, deque()
        if end is not None:
            self.frames.extend(item for item in frames if item[1] is not end)
        if not self.frames and self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for _, sender, m in frames:
            if end is None or sender is end:
                self.lost(sender, m, cause)


class Wire:
    """Base of ``Cable`` and ``Segment``. ``clock`` gives time, timers and the lab's lock."""

    max_ports: int | None = None
    """How many plugs fit; None: any number."""

    def __init__(self, clock: Clock, name: str, delay: float = 0.0) -> None:
        self.clock = clock
        self.name = name
        self.ends: dict[Port, End] = {}
        self.hooks: list[Hook] = []
        self.taps: list[Tap] = []
        self.history = Flow()
        """What ends sent that have been unplugged since."""
        self._gone: list[Flow] = []
        """Theirs, as long as a frame of it is in the hands of a hook."""
        self.on_change: Callable[[Wire, str], None] | None = None
        """Told in words whenever somebody plugs, cuts or mends."""
        self._severed = False
        """Cut altogether, whoever is plugged in."""
        self._cut: set[Port] = set()
        """Nothing reaches these."""
        self._mute: set[Port] = set()
        """Nothing of what these send reaches anybody."""
        self._delays: dict[Port, float] = {}
        self._default_delay = 0.0
        self._pipes: dict[Port, _Pipe] = {}
        self.delivering: End | None = None
        """Whose frame a port is receiving right now, as far as somebody listens."""
        self.impairer: Impairer | None = None
        self.impairments: dict[Port, Impairment] = {}
        """Faults in the way, by the port that it leads to."""
        self.set_delay(delay)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name}: {', '.join(port.name for port in self.ends) or 'nothing'}>"
        )

    # plugs

    def plug(self, port: Port | Ifnet) -> End:
        """Plug in a port, or a NIC by its ifnet, and return its end.

        Raises ``WireError`` when it does not fit; nothing is changed then.
        """
        port = _plug_of(port)
        with self.clock.lock:
            if port.end is not None:
                raise WireError(
                    f"{port.name} is plugged into {port.end.wire.name} already; unplug it first: "
                    f"{port.end.wire.name}.unplug({port.name!r})"
                )
            if self.max_ports is not None and len(self.ends) >= self.max_ports:
                raise WireError(
                    f"{self.name} has {self.max_ports} ends and both are plugged; use a segment for more ports"
                )
            end = port.end = self.ends[port] = End(self, port)
            end.accepts = -1  # what the port was told on another wire holds no more: it is told in any case
            if self.impairer is not None:
                self.impairer.plugged(self, port)
            self.rebind()
            self._tell(f"{port.name} plugged in")
            return end

    def unplug(self, port: Plugged) -> None:
        """Pull a port's plug; what is in flight to it or from it is lost. Raises ``WireError`` when it is not in."""
        with self.clock.lock:
            end = self._end(port)
            port = end.port
            pipe = self._pipes.pop(port, None)
            if pipe is not None:
                pipe.lose("unplugged")
            for other in list(self._pipes.values()):
                other.lose("unplugged", end)
            for way, impairment in list(self.impairments.items()):
                impairment.lose("unplugged", None if way is port else end)
            self.impairments.pop(port, None)
            del self.ends[port]
            self._cut.discard(port)
            self._mute.discard(port)
            self._delays.pop(port, None)
            port.end = None
            end.unbind()
            self._gone.append(end.flow)
            self._fold()
            self.rebind()
            if end.up:
                self._set_link(end, False)
            self._tell(f"{port.name} unplugged")

    def close(self) -> None:
        """Pull every plug."""
        with self.clock.lock:
            for port in list(self.ends):
                self.unplug(port)

    def _fold(self) -> None:
        """Move what is decided of the flows of pulled plugs into the history."""
        for flow in self._gone:
            if not flow.in_flight:
                self.history.add(flow)
        self._gone = [flow for flow in self._gone if flow.in_flight]

    def _end(self, which: Plugged) -> End:
        which = getattr(which, "if_softc", which)
        found = [end for port, end in self.ends.items() if port is which or port.name == which]
        if len(found) == 1:
            return found[0]
        if found:
            raise WireError(
                f"{self.name} has {len(found)} ports called {which}; give the one that is meant itself"
            )
        plugged = ", ".join(port.name for port in self.ends) or "nothing"
        raise WireError(
            f"{getattr(which, 'name', which) or repr(which)} is not plugged into {self.name}; plugged in: {plugged}"
        )

    def _port(self, which: Plugged | None) -> Port | None:
        return None if which is None else self._end(which).port

    def _tell(self, what: str) -> None:
        if self.on_change is not None:
            try:
                self.on_change(self, what)
            except BaseException as error:
                report(_log, error, "%s: a listener failed: %r", self.name, self.on_change)

    # cuts and carrier

    def cut(self, towards: Plugged | None = None) -> None:
        """Let nothing through any more: towards one port, or at all. What is in flight there is lost.

        A port is named as ``"bob:em0"``, by a NIC's ifnet or by itself, here and in all functions of a
        wire. Raises ``WireError`` for one that is not plugged in.
        """
        with self.clock.lock:
            target = self._port(towards)
            before = self._cuts()
            if target is None:
                self._severed = True
            else:
                self._cut.add(target)
            ways: list[tuple[Port, _Pipe | Impairment]] = [*self._pipes.items(), *self.impairments.items()]
            for port, held in ways:
                if target is None or port in self._cut:
                    held.lose("cut")
                elif target in self._mute:
                    held.lose("cut", self.ends[target])
            self.rebind()
            if self._cuts() != before:
                self._tell("cut" if target is None else f"cut towards {target.name}")

    def mend(self, towards: Plugged | None = None) -> None:
        """Undo ``cut``: towards one port, or everything."""
        with self.clock.lock:
            port = self._port(towards)
            before = self._cuts()
            if port is None:
                self._cut.clear()
                self._mute.clear()
            else:
                if self._severed:
                    self._cut.update(self.ends)
                self._cut.discard(port)
                self._mute.discard(port)
            self._severed = False
            self.rebind()
            if self._cuts() != before:
                self._tell("mended" if port is None else f"mended towards {port.name}")

    def _cuts(self) -> tuple[bool, frozenset[Port], frozenset[Port]]:
        return self._severed, frozenset(self._cut), frozenset(self._mute)

    def is_cut(self, towards: Plugged) -> bool:
        """True when nothing reaches ``towards``."""
        return self._severed or self._port(towards) in self._cut

    def _carrier(self, port: Port) -> bool:
        if self._severed or port in self._cut:
            return False
        return len(self.ends) - len(self._mute) - (port not in self._mute) > 0

    def _blocked(self, end: End, other: End) -> str:
        """Why nothing passes from ``end`` to ``other``; empty when it does."""
        if self.ends.get(end.port) is not end or self.ends.get(other.port) is not other:
            return "unplugged"
        if self._severed or other.port in self._cut or end.port in self._mute:
            return "cut"
        return ""

    def _set_link(self, end: End, up: bool) -> None:
        end.up = up
        try:
            end.port.link_change(up)
        except BaseException as error:
            report(_log, error, "%s: %s failed to take the change of its link", self.name, end.port.name)

    # delay

    def set_delay(self, seconds: float, towards: Plugged | None = None) -> None:
        """Let every frame take ``seconds`` towards one port, or towards all. Raises ``WireError`` below 0."""
        if not is_span(seconds):
            raise WireError(f"{self.name}: a delay of {seconds!r} s cannot be; use 0 or more seconds")
        with self.clock.lock:
            port = self._port(towards)
            if port is None:
                self._default_delay = seconds
                self._delays.clear()
            else:
                self._delays[port] = seconds
            self.rebind()

    def delay(self, towards: Plugged | None = None) -> float:
        """Seconds that a frame takes towards a port."""
        port = self._port(towards)
        return self._default_delay if port is None else self._delay(port)

    def _delay(self, port: Port) -> float:
        return self._delays.get(port, self._default_delay)

    # faults

    def impair(self, *faults: Any, towards: Plugged | None = None) -> None:
        """Set the faults (``iflab.faults``) of the way towards a port, or of every way, in the place of those before.

        Without any the wire is sound again. Raises ``FaultError`` for what cannot be,
        ``WireError`` on a wire that belongs to no lab.
        """
        if self.impairer is None:
            raise WireError(
                f"{self.name} belongs to no lab and can have no faults; Faults(clock, seed).adopt(wire) makes it"
            )
        with self.clock.lock:
            port = self._port(towards)
            self.impairer.impair(self, faults, port)
            what = ", ".join(map(str, faults)) or "none"
            self._tell(f"faults{f' towards {port.name}' if port is not None else ''}: {what}")

    def set_impairment(self, port: Port, impairment: Impairment | None) -> None:
        """Put faults in the way towards a port, or take them out. What they hold is theirs to pass on."""
        with self.clock.lock:
            if impairment is None:
                self.impairments.pop(port, None)
            else:
                self.impairments[port] = impairment
            self.rebind()

    # hooks and taps

    def add_hook(self, fn: HookFunction, towards: Plugged | None = None) -> Hook:
        """Put ``fn`` in the way of every frame, or of those towards one port; hooks run in the order added.

        ``fn`` gets a ``Frame`` and answers what becomes of it:

        ========================================  ==========================
        None or True                              it passes, edits included
        False                                     it is dropped
        a ``Frame``, ``bytes`` or scapy packet    that passes instead
        several of these                          all of them pass
        ========================================  ==========================

        It runs with the lab's lock held and must not wait. One that raises, or
        answers anything else, loses that frame and nothing more. Raises ``WireError`` for
        what is no function.
        """
        if not callable(fn):
            raise WireError(f"{self.name}: {fn!r} is no hook; give a function of a frame")
        load_scapy()  # before the lock: the first frame that is looked at must not wait for it
        with self.clock.lock:
            hook = Hook(self, fn, self._port(towards))
            self.hooks.append(hook)
            self.rebind()
            return hook

    def remove_hook(self, hook: Hook) -> None:
        """Take a hook out; nothing happens when it is out."""
        with self.clock.lock:
            if hook in self.hooks:
                self.hooks.remove(hook)
                self.rebind()

    def add_tap(
        self,
        fn: TapFunction,
        fate: FateFunction | None = None,
        *,
        became: BecameFunction | None = None,
        train: TrainFunction | None = None,
        whole: bool = False,
    ) -> Tap:
        """Call ``fn(end, m)`` for every frame that an end puts on the wire, from now on, with the lock held.

        ``fate(end, port, m, cause)`` hears what becomes of it: once for every copy
        that a port received (``cause`` is empty) or that was lost (the cause as in
        ``Flow.dropped``; ``port`` None: before it was on its way to anybody).

        ``became(end, m, frames, by)`` hears that a hook or a fault (``by``: ``HOOK``, or the
        fault's cause) lets ``frames`` go on in the place of one copy of ``m``; their
        fates are told, and no more of that copy.

        ``train(end, frames)``, if given, is called instead of both for frames that go
        straight to the other end together.

        Frames are as they are on a wire, unless ``whole`` says that the tap takes
        super-frames and begun checksums as hosts hand them to their NICs.
        """
        with self.clock.lock:
            tap = Tap(self, fn, fate, became, train, whole)
            self.taps.append(tap)
            self.rebind()
            return tap

    # frames

    def rebind(self) -> None:
        """Choose each end's way of sending anew, and tell the ports whose carrier changed."""
        for end in self.ends.values():
            end.send = self._sender(end)
            accepts = self._accepts(end)
            if accepts != end.accepts:
                end.accepts = accepts
                if (tell := getattr(end.port, "accepts_change", None)) is not None:
                    try:
                        tell()
                    except BaseException as error:
                        report(_log, error, "%s: %s failed at accepts_change", self.name, end.port.name)
        for end in list(self.ends.values()):
            up = self._carrier(end.port)
            if up != end.up and self.ends.get(end.port) is end:
                self._set_link(end, up)

    def _sender(self, end: End) -> Callable[[Mbuf], None]:
        """The way of the frames of ``end``: a straight one where nothing is in it."""

        def winding(m: Mbuf) -> None:
            self._send(end, m)

        end.straight_to, end.gate, end.listeners = None, None, ()
        if len(self.ends) != 2:
            return winding
        other = next(other for other in self.ends.values() if other is not end)
        port = other.port
        if self._blocked(end, other) or self._delay(port) or port in self.impairments:
            return winding
        if port in self._pipes and self._pipes[port].frames:
            return winding  # nothing overtakes what is still in flight
        if hooks := self._hooks_towards(port):
            return winding if self.taps or len(hooks) > 1 else self._hooked(end, other, hooks[0], winding)
        if all(tap.train is not None for tap in self.taps):
            end.straight_to = port
            end.listeners = tuple(tap.train for tap in self.taps if tap.train is not None)
        if self.taps:
            return winding
        flow, receive = end.flow, port.receive

        def straight(m: Mbuf) -> None:
            length = len(m)
            if not _MBUF_MIN <= length <= _MBUF_MAX:
                winding(m)
                return
            flow.sent += 1
            flow.octets += length - PKTHDR
            flow.delivered += 1
            try:
                receive(m)
            except BaseException as error:
                self._receive_failed(end, port, error)

        return straight

    def _hooked(
        self, end: End, other: End, hook: Hook, winding: Callable[[Mbuf], None]
    ) -> Callable[[Mbuf], None]:
        """The way through one hook and nothing else: a frame that it only looks at goes straight on."""
        flow, port, now, fn = end.flow, other.port, self.clock.now, hook.fn
        receive = port.receive

        def gate(m: Mbuf) -> Callable[[], None] | None:
            length = len(m)
            if not _MBUF_MIN <= length <= _MBUF_MAX or m[0] & 1 or m[1]:
                return partial(winding, m)
            flow.sent += 1
            flow.octets += length - PKTHDR
            flow.in_flight += 1
            frame = Frame(m, end, port, now())
            try:
                answer = fn(frame)
            except BaseException as error:
                return partial(self._hook_failed, hook, end, port, m, error)
            if (
                (answer is None or answer is True)
                and frame._m is m
                and frame._pkt is None
                and end.gate is gate
            ):
                flow.in_flight -= 1
                flow.delivered += 1
                return None
            return partial(self._answered, hook, end, other, m, (frame, answer))

        def hooked(m: Mbuf) -> None:
            rest = gate(m)
            if rest is not None:
                rest()
            else:
                try:
                    receive(m)
                except BaseException as error:
                    self._receive_failed(end, port, error)

        end.straight_to, end.gate = port, gate
        return hooked

    def _answered(self, hook: Hook, end: End, other: End, m: Mbuf, asked: tuple[Frame, Any]) -> None:
        for each in self._through_hooks([hook], end, other.port, m, asked):
            self._after_hooks(end, other, each)

    def _hook_failed(self, hook: Hook, end: End, port: Port, m: Mbuf, error: BaseException) -> None:
        self.lose(end, port, m, "hook error")
        report(_log, error, "a hook on %s failed and lost its frame: %r", self.name, hook.fn)

    def _accepts(self, end: End) -> int:
        """What may be left undone on the frames of ``end``: all that the receiver takes; nothing if Python looks."""
        if len(self.ends) != 2 or any(not tap.whole for tap in self.taps):
            return 0
        port = next(other.port for other in self.ends.values() if other is not end)
        takes = getattr(port, "takes", None)
        if takes is None or self._hooks_towards(port) or port in self.impairments:
            return 0
        try:
            return int(takes(end.port))
        except BaseException as error:
            report(_log, error, "%s: %s failed to say what it takes", self.name, port.name)
            return 0

    def _hooks_towards(self, port: Port) -> list[Hook]:
        return [hook for hook in self.hooks if hook.towards is None or hook.towards is port]

    def _send(self, end: End, m: Mbuf) -> None:
        flow = end.flow
        flow.sent += 1
        flow.octets += max(0, len(m) - PKTHDR)
        flow.in_flight += 1
        if self.taps:
            self._heard(end, m)
        if not _MBUF_MIN <= len(m) <= _MBUF_MAX:
            self.lose(end, None, m, "too short" if len(m) < _MBUF_MIN else "too long")
            return
        if not end.accepts and is_unfinished(m):  # the port should have done it
            self.lose(end, None, m, "unfinished")
            return
        others = [other for other in self.ends.values() if other is not end]
        if not others:
            self.lose(end, None, m, "unplugged")
            return
        if len(others) > 1:
            flow.added += len(others) - 1
            flow.in_flight += len(others) - 1
        for other in others:
            if cause := self._blocked(end, other):
                self.lose(end, other.port, m, cause)
            elif self.hooks and (hooks := self._hooks_towards(other.port)):
                for each in self._through_hooks(hooks, end, other.port, m):
                    self._after_hooks(end, other, each)
            else:
                self._carry(end, other.port, m)

    def _after_hooks(self, end: End, other: End, m: Mbuf) -> None:
        if cause := self._blocked(end, other):  # a hook pulled a plug
            self.lose(end, other.port, m, cause)
        else:
            self._carry(end, other.port, m)

    def _carry(self, end: End, port: Port, m: Mbuf) -> None:
        impairment = self.impairments.get(port)
        if impairment is None:
            self.pass_on(end, port, m)
        else:
            impairment.take(end, m)

    def pass_on(self, end: End, port: Port, m: Mbuf) -> None:
        """Let a frame go on from where the faults are: into the delay, or to the port. The lock must be held."""
        delay = self._delay(port)
        pipe = self._pipes.get(port)
        if delay or (pipe is not None and pipe.frames):
            if pipe is None:
                pipe = self._pipes[port] = self._pipe(port)
            pipe.push(delay, end, m)
        else:
            self._deliver(end, port, m)

    def _pipe(self, port: Port) -> _Pipe:
        def deliver(end: End, m: Mbuf) -> None:
            self._deliver(end, port, m)

        def lost(end: End, m: Mbuf, cause: str) -> None:
            self.lose(end, port, m, cause)

        def emptied() -> None:
            if not self._delay(port):  # the delay was taken off meanwhile: back to the straight way
                self.rebind()

        return _Pipe(self.clock, deliver, lost, emptied)

    def _deliver(self, end: End, port: Port, m: Mbuf) -> None:
        flow, cause = end.flow, ""
        flow.in_flight -= 1
        flow.delivered += 1
        before, self.delivering = self.delivering, end
        try:
            port.receive(m)
        except BaseException as error:
            self._receive_failed(end, port, error)
            cause = "receiver error"
        self.delivering = before
        if self.taps:
            self._decided(end, port, m, cause)

    def _receive_failed(self, end: End, port: Port, error: BaseException) -> None:
        end.flow.delivered -= 1
        end.flow.drop("receiver error")
        report(_log, error, "%s: %s failed to take a frame", self.name, port.name)

    def lose(self, end: End, port: Port | None, m: Mbuf, cause: str) -> None:
        """Count a frame that was in flight as lost, and tell the taps. The lock must be held."""
        end.flow.in_flight -= 1
        end.flow.drop(cause)
        if self.taps:
            self._decided(end, port, m, cause)

    def replace(self, end: End, m: Mbuf, frames: list[Mbuf], by: str) -> None:
        """Let ``frames`` (one at least) be in flight in the place of ``m``, and tell the taps. The lock must be held."""
        end.flow.added += len(frames) - 1
        end.flow.in_flight += len(frames) - 1
        self._tell_taps("became", end, m, frames, by)

    def _heard(self, end: End, m: Mbuf) -> None:
        for tap in tuple(self.taps):
            try:
                tap.fn(end, m)
            except BaseException as error:
                report(_log, error, "a tap on %s failed: %r", self.name, tap.fn)

    def _decided(self, end: End, port: Port | None, m: Mbuf, cause: str) -> None:
        self._tell_taps("fate", end, port, m, cause)

    def _tell_taps(self, what: str, *about: Any) -> None:
        """Call a function that taps may have, of those that have it."""
        for tap in tuple(self.taps):
            fn = getattr(tap, what)
            if fn is None:
                continue
            try:
                fn(*about)
            except BaseException as error:
                report(_log, error, "a tap on %s failed: %r", self.name, fn)

    def _through_hooks(
        self, hooks: list[Hook], end: End, port: Port, m: Mbuf, asked: tuple[Frame, Any] | None = None
    ) -> list[Mbuf]:
        """Let every hook have its way; count what is added and lost. ``asked``: the first one's answer is there."""
        passing = [(asked[0] if asked else Frame(m, end, port, self.clock.now()), m)]
        for hook in hooks:
            passed: list[tuple[Frame, Mbuf]] = []
            for frame, before in passing:
                try:
                    answer = asked[1] if asked else hook.fn(frame)
                    kept = _verdict(answer, frame)
                except BaseException as error:  # SystemExit too: no frame may end the engine
                    self._hook_failed(hook, end, port, before, error)
                    continue
                if not kept:
                    self.lose(end, port, before, HOOK)
                elif len(kept) > 1 or kept[0][1] is not before:
                    self.replace(end, before, [after for _, after in kept], HOOK)
                passed += kept
            passing, asked = passed, None
        return [after for _, after in passing]

    # accounts

    def account(self) -> Flow:
        """Everything ever sent on this wire and what became of it."""
        with self.clock.lock:
            total = Flow()
            for flow in (self.history, *self._gone, *(end.flow for end in self.ends.values())):
                total.add(flow)
            return total


def _verdict(answer: Any, frame: Frame) -> list[tuple[Frame, Mbuf]]:
    """Read what a hook made of ``frame``: frames, each an object of its own, as they go on. Raises for nonsense."""
    if (answer is None or answer is True) and frame.is_untouched():
        return [(frame, frame.to_mbuf())]
    kept: list[tuple[Frame, Mbuf]] = []
    seen: set[int] = set()
    for each in _answer(answer, frame):
        m = each.to_mbuf()
        if not _MBUF_MIN <= len(m) <= _MBUF_MAX:
            raise ValueError(
                f"a frame has {FRAME_MIN} to {FRAME_MAX} octets, Ethernet header included; the hook made one of "
                f"{len(m) - PKTHDR}"
            )
        if id(each) in seen:  # the next hook may edit one and not the other
            each = Frame(m, each.src, each.dst, each.time)
        seen.add(id(each))
        kept.append((each, m))
    return kept


def _answer(answer: Any, frame: Frame) -> list[Frame]:
    """Read what a hook answered. Raises ``TypeError`` for what is none of the answers."""
    if answer is None or answer is True or answer is frame:
        return [frame]
    if answer is False:
        return []
    if isinstance(answer, Frame):
        return [answer]
    if isinstance(answer, (bytes, bytearray, memoryview)):
        return [Frame(mbuf(bytes(answer)), frame.src, frame.dst, frame.time)]
    if hasattr(answer, "fields_desc"):
        return [Frame(mbuf(octets_of(answer)), frame.src, frame.dst, frame.time)]
    if isinstance(answer, Iterable) and not isinstance(answer, str):
        frames = [each for item in islice(answer, HOOK_MOST + 1) for each in _answer(item, frame)]
        if len(frames) > HOOK_MOST:
            raise ValueError(f"a hook makes {HOOK_MOST} frames of one at most")
        return frames
    raise TypeError(f"a hook answers None, True, False, a frame or several, not {answer!r}")


def _plug_of(thing: Port | Ifnet) -> Port:
    """What is plugged in for a port or the ifnet of a NIC. Raises ``WireError`` for what has no plug."""
    port: Any = getattr(thing, "if_softc", thing)
    if not (hasattr(port, "receive") and hasattr(port, "end") and getattr(port, "has_plug", True)):
        raise WireError(f"{thing!r} has no plug; use a NIC, a station, or an object with receive() and end")
    found: Port = port
    return found
