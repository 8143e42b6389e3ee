"""What the threads do to the bed: each takes one thing after the other, chosen by its own random numbers.

Most of it goes through the public functions, without any lock of its own, so that
threads really meet. What they may refuse each other is counted; anything else that is
raised is an error of the lab.
"""

from __future__ import annotations

import errno
import threading
import time
import traceback
from collections.abc import Callable
from random import Random

from iflab.faults import (
    Corrupt,
    Delay,
    Duplicate,
    GilbertElliott,
    LoseEvery,
    Loss,
    Mtu,
    Rate,
    Reorder,
    Truncate,
)
from iflab.host import LabError
from iflab.linux import Netlink
from iflab.net import IFF, Ifnet, Ifreq, UserBuffer
from iflab.net.altq import CoDel, FqCoDel, Priority, Red
from iflab.wire import Cable, WireError

from .bed import NAMES, Bed

__all__ = ["Churn"]

TOLERATED = frozenset(
    {
        errno.ENXIO,  # it is gone
        errno.ENODEV,
        errno.ENOENT,
        errno.EEXIST,  # somebody has that name, or is in that group
        errno.EBUSY,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
        errno.EINVAL,
        errno.ENETDOWN,
        errno.EPERM,
    }
)
NEVER_REFUSED = frozenset(
    {"detach", "plug", "unplug", "cut or mend", "faults", "delay", "hook", "stall or resume", "discipline"}
)
"""They hold the lock while they look and act."""
GROUPS = ("red", "green", "blue")
MULTICAST = ("224.0.0.77", "233.252.0.7", "ff02::77", "01:00:5e:00:00:4d")
MOST = 24
"""NICs at once."""


class Churn:
    """One thread. ``seed`` decides what it does."""

    def __init__(self, bed: Bed, number: int, seed: int, rest: float) -> None:
        self.bed = bed
        self.rest = rest
        self.random = Random(f"{seed} churn {number}")
        self.thread = threading.Thread(target=self._run, name=f"stress-{number}", daemon=True)
        self.actions: list[tuple[str, Callable[[], None], int]] = [
            ("attach", self.attach, 10),
            ("detach", self.detach, 6),
            ("plug", self.plug, 12),
            ("unplug", self.unplug, 4),
            ("rename", self.rename, 6),
            ("rename from Linux", self.rename_from_linux, 3),
            ("move", self.move, 5),
            ("join or leave a group", self.group, 8),
            ("join or leave a multicast group", self.multicast, 6),
            ("up or down", self.up_or_down, 8),
            ("up or down from Linux", self.up_or_down_from_linux, 4),
            ("promiscuous, all multicast", self.modes, 6),
            ("mtu", self.mtu, 4),
            ("cut or mend", self.cut_or_mend, 8),
            ("faults", self.faults, 8),
            ("delay", self.delay, 4),
            ("hook", self.hook, 3),
            ("stall or resume", self.stall, 5),
            ("discipline", self.discipline, 4),
            ("sniff", self.sniff, 3),
            ("ifconfig", self.look, 3),
        ]
        self.weights = [weight for _, _, weight in self.actions]

    def _run(self) -> None:
        bed = self.bed
        while not bed.over.is_set():
            ((name, action, _),) = self.random.choices(self.actions, self.weights)
            try:
                action()
                what, error = name, None
            except (OSError, LabError, WireError) as refused:
                what, error = name, refused
            except BaseException:
                bed.unexpected.append(f"{name}:\n{traceback.format_exc()}")
                continue
            if error is not None and (
                name in NEVER_REFUSED or (isinstance(error, OSError) and error.errno not in TOLERATED)
            ):
                bed.unexpected.append(f"{name}:\n{''.join(traceback.format_exception(error))}")
            with bed.lab.lock:
                bed.done[what] += 1
                if error is not None:
                    word = (
                        errno.errorcode.get(error.errno or 0, "?") if isinstance(error, OSError) else "taken"
                    )
                    bed.refused[f"{what}: {word}"] += 1
            time.sleep(self.random.uniform(0, 2 * self.rest))

    # choosing

    def _any(self) -> Ifnet | None:
        nics = tuple(self.bed.nics)
        return self.random.choice(nics) if nics else None

    # coming and going

    def attach(self) -> None:
        """A new NIC, mostly with a plug."""
        bed = self.bed
        if len(bed.nics) >= MOST:
            self.detach()
            return
        host, name = self.random.choice(bed.hosts), self.random.choice(NAMES)
        ifp = bed.attach(host, name)
        if self.random.random() < 0.9:
            self._plug(ifp)

    def detach(self) -> None:
        """Any NIC goes for good, its plug in or pulled before."""
        ifp = self._any()
        if ifp is not None and len(self.bed.nics) > 8:
            self.bed.detach(ifp, self.random.random() < 0.5)

    def plug(self) -> None:
        """A NIC without a wire gets one."""
        with self.bed.lab.lock:
            loose = [ifp for ifp in self.bed.nics if ifp.if_softc.end is None]
            if loose:
                self._plug(self.random.choice(loose))

    def _plug(self, ifp: Ifnet) -> None:
        bed = self.bed
        with bed.lab.lock:
            free = bed.free()
            if free and bed.live(ifp) and ifp.if_softc.end is None:
                bed.ledger.plug(self.random.choice(free), ifp.if_softc)

    def unplug(self) -> None:
        """A plug is pulled."""
        ifp = self._any()
        if ifp is not None:
            with self.bed.lab.lock:
                if self.bed.live(ifp):
                    self.bed.ledger.unplug(ifp.if_softc)

    def move(self) -> None:
        """To another host, with all that it is plugged into."""
        bed, ifp, target = self.bed, self._any(), self.random.choice(self.bed.hosts)
        if ifp is None:
            return
        with bed.lab.lock:
            vnet = ifp.if_vnet
            if not bed.live(ifp) or vnet is None or vnet is target.vnet:
                return
            if target.vnet.ifunit(ifp.if_xname) is None:
                ifp.if_vmove(target.vnet)
                vnet = target.vnet
        # It comes down and without addresses.
        vnet.ioctl("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=ifp.if_flags | IFF.UP))

    # names and groups

    def rename(self) -> None:
        """By the ioctl."""
        ifp = self._any()
        if ifp is not None and (vnet := ifp.if_vnet) is not None:
            name = self.random.choice(NAMES)
            vnet.ioctl("SIOCSIFNAME", Ifreq(ifp.if_xname, ifr_buffer=UserBuffer(16, name)))

    def rename_from_linux(self) -> None:
        """As ``ip link set name`` does."""
        ifp = self._any()
        if ifp is not None:
            nic = ifp.if_softc
            if nic is not None and nic.tap.fd >= 0:
                with Netlink(nic.netns) as netlink:
                    netlink.link_set(nic.tap.ifindex, name=self.random.choice(NAMES))

    def group(self) -> None:
        """A group of interfaces, in or out."""
        ifp = self._any()
        if ifp is not None:
            (ifp.if_addgroup if self.random.random() < 0.6 else ifp.if_delgroup)(self.random.choice(GROUPS))

    def multicast(self) -> None:
        """One more holder of a multicast group, or one less."""
        ifp, group = self._any(), self.random.choice(MULTICAST)
        if ifp is None:
            return
        with self.bed.lab.lock:
            if self.bed.live(ifp):
                if self.random.random() < 0.5:
                    ifp.if_addmulti(group)
                else:
                    ifp.if_delmulti(group)

    # flags

    def up_or_down(self) -> None:
        """By the ioctl; mostly up."""
        ifp = self._any()
        if ifp is not None and (vnet := ifp.if_vnet) is not None:
            flags = ifp.if_flags | IFF.UP if self.random.random() < 0.7 else ifp.if_flags & ~IFF.UP
            vnet.ioctl("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=flags))

    def up_or_down_from_linux(self) -> None:
        """As ``ip link set up`` does."""
        ifp = self._any()
        if ifp is not None:
            nic = ifp.if_softc
            if nic is not None and nic.tap.fd >= 0:
                with Netlink(nic.netns) as netlink:
                    netlink.link_set(nic.tap.ifindex, up=self.random.random() < 0.7)

    def modes(self) -> None:
        """One more who wants every frame, or one less."""
        ifp = self._any()
        if ifp is None:
            return
        on, promisc = self.random.random() < 0.5, self.random.random() < 0.5
        with self.bed.lab.lock:
            held = ifp.if_pcount if promisc else ifp.if_amcount
            nic = ifp.if_softc
            if not self.bed.live(ifp) or (held > 3 and on):
                return
            theirs = nic.kernel_promisc if promisc else nic.kernel_allmulti  # the kernel's own reference
            if on or held > theirs:
                (ifp.ifpromisc if promisc else ifp.if_allmulti)(int(on))

    def mtu(self) -> None:
        """Another MTU."""
        ifp = self._any()
        if ifp is not None and (vnet := ifp.if_vnet) is not None:
            mtu = self.random.choice((576, 1280, 1500, 1500, 9000))
            vnet.ioctl("SIOCSIFMTU", Ifreq(ifp.if_xname, ifr_mtu=mtu))

    def stall(self) -> None:
        """The driver is busy for a while (``IFF_DRV_OACTIVE``)."""
        ifp = self._any()
        if ifp is not None:
            with self.bed.lab.lock:
                if self.bed.live(ifp):
                    if ifp.if_drv_flags & IFF.OACTIVE:
                        ifp.if_drv_flags &= ~IFF.OACTIVE
                        ifp.if_start()
                    elif self.random.random() < 0.3:
                        ifp.if_drv_flags |= IFF.OACTIVE

    def discipline(self) -> None:
        """The send queue gets a discipline, and a rate that makes frames wait; or is plain again."""
        ifp, rng = self._any(), self.random
        if ifp is None:
            return
        clock = self.bed.lab.engine
        chosen = rng.choice(
            (
                lambda: Priority(limit=rng.randrange(5, 50)),
                lambda: CoDel(clock, target=0.001, interval=0.01, limit=200, ecn=rng.random() < 0.5),
                lambda: FqCoDel(clock, limit=200, target=0.001, interval=0.01),
                lambda: Red(clock, Random(rng.random()), limit=60, weight=0.05, gentle=rng.random() < 0.5),
            )
        )
        with self.bed.lab.lock:
            if not self.bed.live(ifp):
                return
            if ifp.if_snd.is_managed():  # by the regulator alone when it has moved
                self.bed.let_go(ifp)
            else:
                self.bed.manage(ifp, chosen(), rng.uniform(1e6, 2e7))

    # wires

    def cut_or_mend(self) -> None:
        """A wire, or the way to one port."""
        wire = self.random.choice(self.bed.wires)
        with self.bed.lab.lock:
            ports = [None, *wire.ends]
            towards = self.random.choice(ports)
            (wire.cut if self.random.random() < 0.4 else wire.mend)(towards)

    def faults(self) -> None:
        """Other faults, or none."""
        rng = self.random
        wire = rng.choice(self.bed.wires)
        if wire.name == "tcp":
            return
        chosen = rng.sample(
            [
                Loss(rng.uniform(0, 0.1)),
                GilbertElliott(0.02, 0.3),
                LoseEvery(rng.randrange(5, 50)),
                Duplicate(0.05, copies=rng.randrange(1, 4)),
                Corrupt(0.05, bits=rng.randrange(1, 9)),
                Truncate(0.05),
                Delay(rng.uniform(0, 0.01), jitter=0.002),
                Rate(rng.uniform(5e6, 1e8), frames=rng.randrange(5, 500)),
                Mtu(rng.randrange(500, 1500)),
            ],
            rng.randrange(4),
        )
        if any(isinstance(fault, Delay) for fault in chosen):
            chosen.append(Reorder(0.1))
        with self.bed.lab.lock:
            towards = rng.choice([None, *wire.ends])
            wire.impair(*chosen, towards=towards)

    def delay(self) -> None:
        """Another delay, or none."""
        wire = self.random.choice(self.bed.wires)
        with self.bed.lab.lock:
            towards = self.random.choice([None, *wire.ends])
            wire.set_delay(self.random.choice((0, 0, 0.0001, 0.003)), towards)

    def hook(self) -> None:
        """A hook comes that drops, edits and doubles, and goes again."""
        wire = self.random.choice(self.bed.wires)
        if wire.name == "tcp":
            return
        if wire.hooks:
            for hook in list(wire.hooks):
                hook.remove()
            return
        rng = Random(self.random.random())

        def meddle(frame: object) -> object:
            choice = rng.random()
            if choice < 0.8:
                return None
            return False if choice < 0.9 else [frame, frame]

        wire.add_hook(meddle)

    # listeners

    def sniff(self) -> None:
        """A sniffer on a NIC or a cable, for a moment."""
        ifp = self._any()
        wire = self.random.choice([w for w in self.bed.wires if isinstance(w, Cable)])
        place = ifp if ifp is not None and self.random.random() < 0.5 else wire
        with self.bed.lab.tap(place, limit=1000, ring=True):
            time.sleep(self.random.uniform(0, 0.05))

    def look(self) -> None:
        """``ifconfig`` and ``netstat`` of a host."""
        host = self.random.choice(self.bed.hosts)
        host.ifconfig("-a") if self.random.random() < 0.5 else host.netstat("-i")
