"""NICs that fail, on purpose and when told: mix-ins that compose.

====================  ==========================================================
``FailingIoctl``      an ioctl fails with an errno, the n-th time
``StallingStart``     ``if_start`` stalls (``IFF_DRV_OACTIVE``) and resumes
``FlappingLink``      the link comes and goes by a pattern
``LosesInterrupts``   frames wait in the ring for an interrupt that doesn't come
``LeakyFilter``       the multicast filter lets too much or too little through
``ChangingMac``       the MAC changes, or the chip forgets it
``Vanishing``         the NIC is pulled out while in use
====================  ==========================================================

Each does nothing until one of its functions is called, and then one thing::

    class Flaky(FailingIoctl, FlappingLink):
        pass

    em0 = alice.nic("em0", "192.0.2.1/24", driver=Flaky)
    em0.if_softc.fail_ioctl("SIOCSIFMTU", errno.ENOMEM, nth=2)
    lab.at(1.0, em0.if_softc.flap, (0.5, 0.2))

``faults`` (``iflab/faults/faults.py``) gives them time and chance, and is told what
struck; a lab sets it. ``struck`` counts by cause. Frames are numbered by the NIC, so
that a seed decides the same whatever the timing. All functions may be called from any
thread; what happens later happens on the engine's.
"""

from __future__ import annotations

import difflib
import errno as errno_names
import os
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from iflab.faults import Faults, Stream
from iflab.faults.errors import FaultError, check_count, check_probability, check_seconds
from iflab.net import IFF, Ifnet, Mbuf, Timer
from iflab.net.ioctl import COMMANDS
from iflab.net.sockio import GENERIC_GET, GENERIC_SET, TO_DRIVER

from .tap import BROADCAST, TapNic

__all__ = [
    "ChangingMac",
    "FailingIoctl",
    "FaultyNic",
    "FlappingLink",
    "LeakyFilter",
    "LosesInterrupts",
    "StallingStart",
    "Vanishing",
]


class FaultyNic(TapNic):
    """What all of them share."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: Faults | None = None
        self.struck: Counter[str] = Counter()
        """How often which fault struck."""
        self._streams: dict[str, Stream] = {}

    def _faults(self) -> Faults:
        if self.faults is None:
            raise FaultError(
                f"{self.name} belongs to no lab and has no clock; set its attribute faults to Faults(clock, seed)"
            )
        return self.faults

    def _strike(self, cause: str, text: str, m: Mbuf | None = None) -> None:
        self.struck[cause] += 1
        if self.faults is not None:
            self.faults.struck_nic(self, cause, text, m)

    def _chance(self, what: str, number: int) -> float:
        """The number in [0, 1) that decides about ``what`` for the ``number``-th time."""
        stream = self._streams.get(what)
        if stream is None:
            stream = self._streams[what] = self._faults().stream(f"{self.name}|{what}")
        return stream.seek(number).random()

    def _after(self, seconds: float, fn: Any) -> Timer:
        clock = self._faults().clock
        return clock.call_at(clock.now() + seconds, fn)


class _Receiver(FaultyNic):
    """What those share who have a say in frames that come in."""

    def __init__(self) -> None:
        super().__init__()
        self._arriving: Mbuf | None = None
        """The frame that stands before the filter."""

    def receive(self, m: Mbuf) -> None:
        """Let a frame through the filter, and hand it to the host."""
        self._arriving = m
        super().receive(m)
        self._arriving = None


class _Failure:
    """A failure that waits for its ioctl."""

    def __init__(self, cmd: str | None, error: int, skip: int, times: int | None) -> None:
        self.cmd = cmd
        self.error = error
        self.skip = skip
        self.times = times


_NOT_OF_ONE_NIC = frozenset(
    {
        *("SIOCGIFCONF", "SIOCSIFRVNET", "SIOCIFCREATE", "SIOCIFCREATE2", "SIOCIFDESTROY", "SIOCIFGCLONERS"),
        *("SIOCGIFGMEMB", "SIOCSVH", "SIOCGVH"),
    }
)
"""``ifioctl`` carries them out before it looks for an interface."""

_OF_ADDRESSES = frozenset(
    f"SIOC{what}" for what in ("AIFADDR", "DIFADDR", "SIFADDR", "SIFBRDADDR", "SIFDSTADDR", "SIFNETMASK")
)
"""The protocols carry them out, or refuse them: they never go down."""


def _check_ioctl(cmd: str | None) -> None:
    if cmd is None or cmd in TO_DRIVER:
        return
    if not isinstance(cmd, str):
        raise FaultError(f"{cmd!r} is no ioctl; write its name, as SIOCSIFMTU")
    there = ", ".join(sorted(TO_DRIVER - GENERIC_SET - GENERIC_GET))
    if cmd in COMMANDS | _NOT_OF_ONE_NIC | _OF_ADDRESSES:
        raise FaultError(
            f"{cmd} never comes to a driver, which could fail; those that do are {there} and others"
        )
    if near := difflib.get_close_matches(cmd, TO_DRIVER, 1, 0.85):
        raise FaultError(f"{cmd!r} is no ioctl; did you mean {near[0]}?")


class FailingIoctl(FaultyNic):
    """``fail_ioctl(cmd, errno, nth)``: the driver refuses, with nothing done."""

    def __init__(self) -> None:
        super().__init__()
        self._failures: list[_Failure] = []

    def fail_ioctl(self, cmd: str | None, error: int, *, nth: int = 1, times: int | None = 1) -> None:
        """Let the ``nth`` ioctl ``cmd`` from now on (None: any) fail with ``error``, ``times`` in a row (None: for ever).

        Raises ``FaultError`` for one that never comes to a driver. What neither the interface layer nor
        a protocol knows does come there: an ioctl of a driver's own may be named, too.
        """
        _check_ioctl(cmd)
        check_count("the nth ioctl to fail", nth)
        if times is not None:
            check_count("times that an ioctl fails", times)
        if error not in errno_names.errorcode:
            raise FaultError(f"{error!r} is no errno; use one of the module errno's")
        with self._faults().clock.lock:
            self._failures.append(_Failure(cmd, error, nth - 1, times))

    def mend_ioctls(self) -> None:
        """Let all of them work again."""
        with self._faults().clock.lock:
            self._failures.clear()

    def if_ioctl(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        """Obey, unless it is one that is to fail."""
        error = 0
        for failure in [each for each in self._failures if each.cmd in (None, cmd)]:
            if failure.skip:
                failure.skip -= 1
            elif not error:
                error = failure.error
                if failure.times is not None:
                    failure.times -= 1
                    if not failure.times:
                        self._failures.remove(failure)
        if error:
            self._strike("ioctl", f"{cmd} fails with {errno_names.errorcode[error]}")
            raise OSError(error, f"{self.name}: {cmd}: {os.strerror(error)}")
        super().if_ioctl(ifp, cmd, data)


class StallingStart(FaultyNic):
    """``stall(seconds)``: the transmitter is busy (``IFF_DRV_OACTIVE``), and frames wait in ``if_snd``."""

    def __init__(self) -> None:
        super().__init__()
        self._stalls: deque[tuple[int, float | None]] = deque()
        self._stalled = False
        self._resume_timer: Timer | None = None

    def stall(self, seconds: float | None = None, *, after: int = 0) -> None:
        """Stall for some ``seconds`` (None: until ``resume``), now or once ``after`` more frames are out.

        Stalls that are asked for while one is due come after it.
        """
        if seconds is not None:
            check_seconds("a stall", seconds)
        check_count("frames before a stall", after, 0)
        with self._faults().clock.lock:
            self._stalls.append((after, seconds))
            self._look()

    def resume(self) -> None:
        """Go on, and send what waits; nothing happens when nothing stalls."""
        with self._faults().clock.lock:
            if self._resume_timer is not None:
                self._resume_timer.cancel()
                self._resume_timer = None
            if not self._stalled:
                return
            self._stalled = False
            ifp = self.ifp
            ifp.if_drv_flags &= ~IFF.OACTIVE
            self._look()
            if not self._stalled and self._running and len(ifp.if_snd):
                ifp.if_start()

    def _look(self) -> None:
        """Begin the first stall when its frames are out."""
        if self._stalled or not self._stalls or self._stalls[0][0] > 0:
            return
        _, seconds = self._stalls.popleft()
        self._stalled = True
        self.ifp.if_drv_flags |= IFF.OACTIVE
        self._strike("stall", f"if_start stalls{f' for {seconds:g} s' if seconds is not None else ''}")
        if seconds is not None:
            self._resume_timer = self._after(seconds, self.resume)

    def if_start(self, ifp: Ifnet) -> None:
        """Send what waits, one frame at a time if a stall is due."""
        if self._stalled:
            ifp.if_drv_flags |= IFF.OACTIVE  # somebody brought it up anew; the hardware is no better for it
            return
        if not self._stalls:
            super().if_start(ifp)
            return
        while not self._stalled and (m := ifp.if_snd.dequeue()) is not None:
            self.send(m)
            if self._stalls:
                left, seconds = self._stalls[0]
                self._stalls[0] = (left - 1, seconds)
                self._look()

    def if_init(self, ifp: Ifnet) -> None:
        """Come up; a stall outlasts that."""
        super().if_init(ifp)
        if self._stalled:
            ifp.if_drv_flags |= IFF.OACTIVE

    def if_detached(self, ifp: Ifnet) -> None:
        """The NIC is gone, and its stall."""
        super().if_detached(ifp)
        if self._resume_timer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
        self._stalled = False
        self._stalls.clear()


class FlappingLink(_Receiver):
    """``flap(pattern)``: the NIC's link comes and goes, whatever the cable. Without it nothing is sent or received."""

    def __init__(self) -> None:
        super().__init__()
        self._carrier = False
        self._dark = False
        self._flap_timer: Timer | None = None

    def flap(self, pattern: Sequence[float], *, times: int | None = 1) -> None:
        """Take the link down and up: ``pattern`` are seconds down, up, down, up ..., ``times`` over (None: for ever).

        With an odd number of seconds the last one is down as the first is; at the end
        the link is up. A flapping that goes on is replaced.
        """
        if not pattern:
            raise FaultError("a flapping without a pattern; give the seconds down, up, down ...: (0.5, 0.2)")
        for seconds in pattern:
            check_seconds("a phase of a flapping link", seconds)
        if times is None:
            if not sum(pattern) > 0:
                raise FaultError("a link that flaps for ever without pause; give some seconds")
        else:
            check_count("times that a link flaps", times)
        with self._faults().clock.lock:
            self.stop_flapping()
            self._phase(tuple(pattern), 0, times)

    def stop_flapping(self) -> None:
        """Leave the link up, if the cable has a carrier."""
        with self._faults().clock.lock:
            if self._flap_timer is not None:
                self._flap_timer.cancel()
                self._flap_timer = None
            self._shine(True)

    def _phase(self, pattern: tuple[float, ...], number: int, times: int | None) -> None:
        self._flap_timer = None
        if number == len(pattern):
            number, times = 0, None if times is None else times - 1
            if times == 0:
                self._shine(True)
                return
        self._shine(bool(number & 1))

        def on() -> None:
            self._phase(pattern, number + 1, times)

        self._flap_timer = self._after(pattern[number], on)

    def _shine(self, light: bool) -> None:
        if light is not self._dark:
            return
        self._dark = not light
        if not light:
            self._strike("flap", "link flaps")
        if self._carrier:
            super().link_change(light)

    def link_change(self, up: bool) -> None:
        """The cable's carrier came or went."""
        self._carrier = up
        if not self._dark:
            super().link_change(up)

    def send(self, m: Mbuf) -> None:
        """Send; without a link it is an output error."""
        if self._dark:
            self.struck["dark"] += 1
            self.ifp.if_oerrors += 1
        else:
            super().send(m)

    def receive(self, m: Mbuf) -> None:
        """Receive; nothing comes without a link."""
        if self._dark:
            self._strike("dark", "received without a link", m)
            self.ifp.if_ierrors += 1
        else:
            super().receive(m)

    def if_detached(self, ifp: Ifnet) -> None:
        """The NIC is gone."""
        if self._flap_timer is not None:
            self._flap_timer.cancel()
            self._flap_timer = None
        super().if_detached(ifp)


class LosesInterrupts(_Receiver):
    """``lose_interrupts(probability)``: what is received waits in the ring for the next interrupt that gets through."""

    def __init__(self) -> None:
        super().__init__()
        self._ring: deque[Mbuf] = deque()
        self._ring_size = 0
        self._lost_probability = 0.0
        self._watchdog: float | None = None
        self._watchdog_timer: Timer | None = None
        self._interrupts = 0

    def lose_interrupts(self, probability: float, *, watchdog: float | None = None, ring: int = 256) -> None:
        """Lose the interrupt of a received frame with ``probability``; 0 ends it, and what waits is received.

        A ``watchdog`` looks into the ring so many seconds after a frame began to wait
        there. What comes while ``ring`` frames wait is lost, counted in ``if_iqdrops``.
        """
        check_probability("a loss of interrupts", probability)
        check_count("the frames of a ring", ring)
        if watchdog is not None:
            check_seconds("a watchdog", watchdog)
        with self._faults().clock.lock:
            self._lost_probability = probability
            self._ring_size = ring
            self._watchdog = watchdog
            if not probability:
                self._interrupt()

    def receive(self, m: Mbuf) -> None:
        """Put a frame into the ring, and empty it if the interrupt comes."""
        if not self._lost_probability:
            super().receive(m)
            return
        self._interrupts += 1
        if len(self._ring) >= self._ring_size:
            self._strike("ring full", f"{self._ring_size} frames wait in the ring", m)
            self.ifp.if_iqdrops += 1
        else:
            self._ring.append(m)
        if self._chance("interrupt", self._interrupts) >= self._lost_probability:
            self._interrupt()
            return
        self._strike("interrupt", f"interrupt {self._interrupts} is lost", m)
        if self._watchdog is not None and self._watchdog_timer is None:
            self._watchdog_timer = self._after(self._watchdog, self._interrupt)

    def _interrupt(self) -> None:
        if self._watchdog_timer is not None:
            self._watchdog_timer.cancel()
            self._watchdog_timer = None
        for _ in range(len(self._ring)):
            super().receive(self._ring.popleft())

    def if_detached(self, ifp: Ifnet) -> None:
        """The NIC is gone, and its ring."""
        super().if_detached(ifp)
        if self._watchdog_timer is not None:
            self._watchdog_timer.cancel()
            self._watchdog_timer = None
        ifp.if_iqdrops += len(self._ring)
        self._ring.clear()


class LeakyFilter(_Receiver):
    """``leak(through, lost)``: frames to groups that nobody joined come in, and some to groups that were joined do not."""

    def __init__(self) -> None:
        super().__init__()
        self._through = 0.0
        self._kept_out = 0.0
        self._group_frames = 0

    def leak(self, through: float = 0.0, lost: float = 0.0) -> None:
        """Let a foreign group's frame through with one probability, keep out an own group's with the other."""
        check_probability("frames let through", through)
        check_probability("frames kept out", lost)
        with self._faults().clock.lock:
            self._through, self._kept_out = through, lost

    def accepts(self, destination: bytes) -> bool:
        """The hardware filter, as it is."""
        right = super().accepts(destination)
        if not (self._through or self._kept_out) or not destination[0] & 1 or destination == BROADCAST:
            return right
        self._group_frames += 1
        chance = self._chance("filter", self._group_frames)
        if right and chance < self._kept_out:
            self._strike("kept out", f"the filter keeps out group frame {self._group_frames}", self._arriving)
            return False
        if not right and chance < self._through:
            self._strike(
                "let through", f"the filter lets through group frame {self._group_frames}", self._arriving
            )
            return True
        return right


class ChangingMac(FaultyNic):
    """``change_mac(mac)``: the NIC has another MAC from now on; ``forget_mac()``: only the chip does."""

    def __init__(self) -> None:
        super().__init__()
        self._chip_mac: bytes | None = None

    def change_mac(self, mac: str | bytes) -> None:
        """Change the MAC, and let the host know (``if_setlladdr``); neighbours find out by and by. Raises ``OSError``."""
        octets = mac if isinstance(mac, bytes) else bytes.fromhex(mac.replace(":", ""))
        with self._faults().clock.lock:
            self._strike("mac", f"its MAC changes to {octets.hex(':')}")
            self.ifp.if_setlladdr(octets)

    def forget_mac(self, instead: str | bytes = "02:00:00:00:00:ff") -> None:
        """Let the filter take another MAC for the NIC's own, while the host goes on with the old one."""
        octets = instead if isinstance(instead, bytes) else bytes.fromhex(instead.replace(":", ""))
        with self._faults().clock.lock:
            self._chip_mac = octets
            self._strike("mac", f"the chip takes {octets.hex(':')} for its MAC")
            self._program()

    def remember_mac(self) -> None:
        """Let the chip have the MAC that the host believes in."""
        with self._faults().clock.lock:
            self._chip_mac = None
            self._program()

    def _program(self) -> None:
        super()._program()
        if self._chip_mac is not None:
            self._mac = self._chip_mac


class Vanishing(_Receiver):
    """``vanish()``: the NIC is pulled out of its slot, with all that was going on."""

    def __init__(self) -> None:
        super().__init__()
        self._vanishes_after: int | None = None
        self._gone = False

    def vanish(self, *, after: int = 0) -> None:
        """Be gone, now or once ``after`` more frames were sent: plug, device and ifnet.

        Between the pulling and the moment when the system notices, ioctls answer ENXIO
        and frames are lost, as output errors. Nothing happens when it is gone already.
        """
        check_count("frames before a NIC vanishes", after, 0)
        with self._faults().clock.lock:
            if after:
                self._vanishes_after = after
            elif not self._gone:
                self._pull()
                self._noticed()

    def _pull(self) -> None:
        self._gone = True
        self._strike("vanish", "the NIC is gone")

    def _noticed(self) -> None:
        ifp = self.ifp
        if not ifp.if_flags & IFF.DYING:
            ifp.if_detach()
            ifp.if_free()

    def send(self, m: Mbuf) -> None:
        """Send, while it is there."""
        if self._gone:
            self.struck["gone"] += 1
            self.ifp.if_oerrors += 1
            return
        super().send(m)
        if self._vanishes_after is not None:
            self._vanishes_after -= 1
            if not self._vanishes_after:
                self._vanishes_after = None
                self._pull()
                self._after(0.0, self._noticed)  # not in the midst of if_start

    def receive(self, m: Mbuf) -> None:
        """Receive, while it is there."""
        if not self._gone:
            super().receive(m)
        else:
            self._strike("gone", "received by a NIC that is gone", m)
            self.ifp.if_ierrors += 1

    def if_ioctl(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        """Obey, while it is there. Raises ENXIO."""
        if self._gone:
            raise OSError(errno_names.ENXIO, f"{self.name}: {cmd}: the NIC is gone")
        super().if_ioctl(ifp, cmd, data)
