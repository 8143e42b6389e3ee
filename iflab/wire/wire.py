"""What all wires have in common: plugs, carrier, hooks, taps, delay, accounts.

A wire connects ports. Each plugged port has an ``End``; what it sends goes to
every other port. A frame's way, left to right::

    end.send -> taps -> cut? -> hooks -> delay -> port.receive

On a wire without taps, cuts, hooks and delay all of that is one short function.

The carrier at an end is there when frames can arrive: some other port is plugged
in and the way from it is not cut.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from iflab.net.clock import Clock, Timer
from iflab.net.mbuf import PKTHDR, Mbuf, mbuf, octets_of

from .frame import Frame, load_scapy
from .port import End, Flow, Port, WireError

__all__ = ["Hook", "HookFunction", "Tap", "TapFunction", "Wire"]

_log = logging.getLogger("iflab.wire")

HookFunction = Callable[[Frame], Any]
TapFunction = Callable[[End, Mbuf], None]


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

    __slots__ = ("fn", "wire")

    def __init__(self, wire: Wire, fn: TapFunction) -> None:
        self.wire = wire
        self.fn = fn

    def remove(self) -> None:
        """Stop listening; nothing happens when it has stopped."""
        with self.wire.clock.lock:
            if self in self.wire.taps:
                self.wire.taps.remove(self)
                self.wire.rebind()


class _Pipe:
    """The frames in flight towards one port, in order, with one timer for the first of them."""

    __slots__ = ("clock", "deliver", "frames", "on_empty", "timer")

    def __init__(
        self, clock: Clock, deliver: Callable[[Flow, Mbuf], None], on_empty: Callable[[], None]
    ) -> None:
        self.clock = clock
        self.deliver = deliver
        self.on_empty = on_empty
        self.frames: deque[tuple[float, Flow, Mbuf]] = deque()
        self.timer: Timer | None = None

    def push(self, delay: float, flow: Flow, m: Mbuf) -> None:
        flow.in_flight += 1
        due = self.clock.now() + delay
        if self.frames:  # a shorter delay does not let a frame overtake those before it
            due = max(due, self.frames[-1][0])
        self.frames.append((due, flow, m))
        if self.timer is None:
            self.timer = self.clock.call_at(due, self._release)

    def _release(self) -> None:
        self.timer = None
        now = self.clock.now()
        while self.frames and self.frames[0][0] <= now:
            _, flow, m = self.frames.popleft()
            flow.in_flight -= 1
            self.deliver(flow, m)
        if not self.frames:
            self.on_empty()
        elif self.timer is None:
            self.timer = self.clock.call_at(self.frames[0][0], self._release)

    def lose(self, cause: str, flow: Flow | None = None) -> None:
        """Lose what is in flight, all of it or what belongs to ``flow``."""
        kept: deque[tuple[float, Flow, Mbuf]] = deque()
        for item in self.frames:
            if flow is None or item[1] is flow:
                item[1].in_flight -= 1
                item[1].drop(cause)
            else:
                kept.append(item)
        self.frames = kept
        if not kept and self.timer is not None:
            self.timer.cancel()
            self.timer = None


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
        self.on_change: Callable[[Wire, str], None] | None = None
        """Told in words whenever somebody plugs, cuts or mends."""
        self._cut: set[Port] = set()
        self._delays: dict[Port, float] = {}
        self._default_delay = 0.0
        self._pipes: dict[Port, _Pipe] = {}
        self.set_delay(delay)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name}: {', '.join(port.name for port in self.ends) or 'nothing'}>"
        )

    # plugs

    def plug(self, port: Port) -> End:
        """Plug a port in and return its end. Raises ``WireError`` when it does not fit; nothing is changed then."""
        with self.clock.lock:
            if port.end is not None:
                raise WireError(
                    f"{port.name} is plugged into {port.end.wire.name} already; unplug it first: "
                    f"{port.end.wire.name}.unplug({port.name})"
                )
            if self.max_ports is not None and len(self.ends) >= self.max_ports:
                raise WireError(
                    f"{self.name} has {self.max_ports} ends and both are plugged; use a segment for more ports"
                )
            end = port.end = self.ends[port] = End(self, port)
            self.rebind()
            self._tell(f"{port.name} plugged in")
            return end

    def unplug(self, port: Port) -> None:
        """Pull a port's plug; what is in flight to it or from it is lost. Raises ``WireError`` when it is not in."""
        with self.clock.lock:
            end = self._end(port)
            pipe = self._pipes.pop(port, None)
            if pipe is not None:
                pipe.lose("unplugged")
            for other in self._pipes.values():
                other.lose("unplugged", end.flow)
            del self.ends[port]
            self._cut.discard(port)
            self._delays.pop(port, None)
            port.end = None
            end.send = end._unbound
            self._keep(end.flow)
            self.rebind()
            if end.up:
                end.up = False
                port.link_change(False)
            self._tell(f"{port.name} unplugged")

    def close(self) -> None:
        """Pull every plug."""
        with self.clock.lock:
            for port in list(self.ends):
                self.unplug(port)

    def _keep(self, flow: Flow) -> None:
        kept = self.history
        kept.sent += flow.sent
        kept.octets += flow.octets
        kept.added += flow.added
        kept.delivered += flow.delivered
        kept.dropped += flow.dropped

    def _end(self, port: Port) -> End:
        end = self.ends.get(port)
        if end is None:
            plugged = ", ".join(p.name for p in self.ends) or "nothing"
            raise WireError(f"{port.name} is not plugged into {self.name}; plugged in: {plugged}")
        return end

    def _tell(self, what: str) -> None:
        if self.on_change is not None:
            self.on_change(self, what)

    # cuts and carrier

    def cut(self, towards: Port | None = None) -> None:
        """Let nothing through any more: towards one port, or at all. What is in flight there is lost."""
        with self.clock.lock:
            ports = list(self.ends) if towards is None else [self._end(towards).port]
            self._cut.update(ports)
            for port in ports:
                if port in self._pipes:
                    self._pipes[port].lose("cut")
            self.rebind()
            self._tell("cut" if towards is None else f"cut towards {towards.name}")

    def mend(self, towards: Port | None = None) -> None:
        """Undo ``cut``: towards one port, or everything."""
        with self.clock.lock:
            if towards is None:
                self._cut.clear()
            else:
                self._cut.discard(self._end(towards).port)
            self.rebind()
            self._tell("mended" if towards is None else f"mended towards {towards.name}")

    def is_cut(self, towards: Port) -> bool:
        """True when nothing reaches ``towards``."""
        return towards in self._cut

    def _carrier(self, port: Port) -> bool:
        return port not in self._cut and len(self.ends) > 1

    # delay

    def set_delay(self, seconds: float, towards: Port | None = None) -> None:
        """Let every frame take ``seconds`` towards one port, or towards all. Raises ``WireError`` below 0."""
        if not 0 <= seconds < float("inf"):
            raise WireError(f"{self.name}: a delay of {seconds} s cannot be; use 0 or more seconds")
        with self.clock.lock:
            if towards is None:
                self._default_delay = seconds
                self._delays.clear()
            else:
                self._delays[self._end(towards).port] = seconds
            self.rebind()

    def delay(self, towards: Port | None = None) -> float:
        """Seconds that a frame takes towards a port."""
        return self._default_delay if towards is None else self._delays.get(towards, self._default_delay)

    # hooks and taps

    def add_hook(self, fn: HookFunction, towards: Port | None = None) -> Hook:
        """Put ``fn`` in the way of every frame, or of those towards one port; hooks run in the order added.

        ``fn`` gets a ``Frame`` and answers what becomes of it:

        ========================================  ==========================
        None or True                              it passes, edits included
        False                                     it is dropped
        a ``Frame``, ``bytes`` or scapy packet    that passes instead
        several of these                          all of them pass
        ========================================  ==========================

        It runs with the lab's lock held and must not wait. One that raises, or
        answers anything else, loses that frame and nothing more.
        """
        load_scapy()  # before the lock: the first frame that is looked at must not wait for it
        with self.clock.lock:
            if towards is not None:
                self._end(towards)
            hook = Hook(self, fn, towards)
            self.hooks.append(hook)
            self.rebind()
            return hook

    def remove_hook(self, hook: Hook) -> None:
        """Take a hook out; nothing happens when it is out."""
        with self.clock.lock:
            if hook in self.hooks:
                self.hooks.remove(hook)
                self.rebind()

    def add_tap(self, fn: TapFunction) -> Tap:
        """Call ``fn(end, m)`` for every frame that an end puts on the wire, from now on, with the lock held."""
        with self.clock.lock:
            tap = Tap(self, fn)
            self.taps.append(tap)
            self.rebind()
            return tap

    # frames

    def rebind(self) -> None:
        """Choose each end's way of sending anew, and tell the ports whose carrier changed."""
        for end in self.ends.values():
            end.send = self._sender(end)
        for end in list(self.ends.values()):
            up = self._carrier(end.port)
            if up != end.up and self.ends.get(end.port) is end:
                end.up = up
                end.port.link_change(up)

    def _sender(self, end: End) -> Callable[[Mbuf], None]:
        """The way of the frames of ``end``: a straight one where nothing is in it."""
        flow = end.flow
        others = [other.port for other in self.ends.values() if other is not end]
        if len(others) != 1 or self.hooks or self.taps or self._cut or self.delay(others[0]):
            return lambda m: self._send(end, m)
        if others[0] in self._pipes and self._pipes[others[0]].frames:
            return lambda m: self._send(end, m)  # nothing overtakes what is still in flight
        receive = others[0].receive

        def straight(m: Mbuf) -> None:
            flow.sent += 1
            flow.octets += len(m) - PKTHDR
            try:
                receive(m)
            except Exception:
                self._receive_failed(flow, others[0])
            else:
                flow.delivered += 1

        return straight

    def _send(self, end: End, m: Mbuf) -> None:
        flow = end.flow
        flow.sent += 1
        flow.octets += len(m) - PKTHDR
        for tap in tuple(self.taps):
            try:
                tap.fn(end, m)
            except Exception:
                _log.exception("a tap on %s failed: %r", self.name, tap.fn)
        targets = [other.port for other in self.ends.values() if other is not end]
        if not targets:
            flow.drop("unplugged")
            return
        flow.added += len(targets) - 1
        for port in targets:
            if port in self._cut:
                flow.drop("cut")
                continue
            frames = self._through_hooks(end, port, m) if self.hooks else (m,)
            for each in frames:
                self._carry(flow, port, each)

    def _carry(self, flow: Flow, port: Port, m: Mbuf) -> None:
        delay = self.delay(port)
        pipe = self._pipes.get(port)
        if delay or (pipe is not None and pipe.frames):
            if pipe is None:
                pipe = self._pipes[port] = self._pipe(port)
            pipe.push(delay, flow, m)
        else:
            self._deliver(flow, port, m)

    def _pipe(self, port: Port) -> _Pipe:
        def deliver(flow: Flow, m: Mbuf) -> None:
            self._deliver(flow, port, m)

        def emptied() -> None:
            if not self.delay(port):  # the delay was taken off meanwhile: back to the straight way
                self.rebind()

        return _Pipe(self.clock, deliver, emptied)

    def _deliver(self, flow: Flow, port: Port, m: Mbuf) -> None:
        try:
            port.receive(m)
        except Exception:
            self._receive_failed(flow, port)
        else:
            flow.delivered += 1

    def _receive_failed(self, flow: Flow, port: Port) -> None:
        flow.drop("receiver error")
        _log.exception("%s: %s failed to take a frame", self.name, port.name)

    def _through_hooks(self, end: End, port: Port, m: Mbuf) -> tuple[Mbuf, ...]:
        """Let every hook have its way; count what is added and lost."""
        now = self.clock.now()
        frames = [Frame(m, end, port, now)]
        for hook in tuple(self.hooks):
            if hook.towards is not None and hook.towards is not port:
                continue
            passed: list[Frame] = []
            for frame in frames:
                try:
                    kept = _answer(hook.fn(frame), frame)
                    for each in kept:
                        each.to_mbuf()
                except Exception:
                    end.flow.drop("hook error")
                    _log.exception("a hook on %s failed and lost its frame: %r", self.name, hook.fn)
                    continue
                if not kept:
                    end.flow.drop("hook")
                end.flow.added += max(0, len(kept) - 1)
                passed += kept
            frames = passed
        return tuple(frame.to_mbuf() for frame in frames)

    # accounts

    def account(self) -> Flow:
        """Everything ever sent on this wire and what became of it."""
        with self.clock.lock:
            total = Flow()
            for flow in (self.history, *(end.flow for end in self.ends.values())):
                total.sent += flow.sent
                total.octets += flow.octets
                total.added += flow.added
                total.delivered += flow.delivered
                total.in_flight += flow.in_flight
                total.dropped += flow.dropped
            return total


def _answer(answer: Any, frame: Frame) -> list[Frame]:
    """Read what a hook answered. Raises ``TypeError`` for what is none of the answers."""
    if answer is None or answer is True or answer is frame:
        return [frame]
    if answer is False:
        return []
    if isinstance(answer, Frame):
        return [answer]
    if isinstance(answer, (bytes, bytearray)) or hasattr(answer, "fields_desc"):
        return [Frame(mbuf(octets_of(answer)), frame.src, frame.dst, frame.time)]
    if isinstance(answer, Iterable) and not isinstance(answer, str):
        return [each for item in answer for each in _answer(item, frame)]
    raise TypeError(f"a hook answers None, True, False, a frame or several, not {answer!r}")
