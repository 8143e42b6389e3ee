"""What pseudo-devices have in common: made by name, no plug, a TAP only where there is Linux.

See ``iflab/drivers/__init__.py`` for the whole. A device defines ``kind`` and
``send``, and what it does with the frames of the interfaces that it claimed.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from iflab.linux import Netns, Tap
from iflab.net import (
    ACCEPTS_ALL,
    PKTHDR,
    BpfSide,
    Clock,
    Cloner,
    Ifmultiaddr,
    Ifnet,
    Mbuf,
    Vnet,
    bpf_mtap,
    if_delmulti_ifma,
)

from .express import Loop
from .tap import TapNic

__all__ = ["Device", "Maker", "above", "is_leaving", "leave", "stands_on"]


R = TypeVar("R")


@dataclass(slots=True)
class Maker:
    """What a device is made with: time and timers, new MACs, the loop that reads TAPs and how one is closed."""

    clock: Clock
    next_mac: Callable[[], bytes]
    loop: Loop | None = None
    closer: Callable[[Tap], None] = Tap.close


class Device(TapNic):
    """Base of the pseudo-devices; ``ifp.if_softc`` is one."""

    kind: ClassVar[str]
    """What it is created by, and its group."""
    suffixes: ClassVar[tuple[str, ...]] = ("",)
    has_plug = False

    def __init__(self, maker: Maker) -> None:
        super().__init__()
        self.maker = maker
        self.closer = maker.closer

    # coming and going

    @classmethod
    def cloner(cls, maker: Maker) -> Cloner:
        """The cloner that makes devices of this kind."""

        def create(vnet: Vnet, name: str, unit: int, params: Any) -> Ifnet:
            return cls(maker).create(vnet, name, unit, params)

        return Cloner(cls.kind, create, cls.destroy, suffixes=cls.suffixes)

    def create(self, vnet: Vnet, name: str, unit: int, params: Any) -> Ifnet:
        """Make the interface ``name`` with what ``params`` (the kind's own record, or None) says. Raises ``OSError``."""
        ifp = self.attach_here(vnet, name, unit)
        try:
            self.created(params)
        except BaseException:
            self.destroy(ifp)
            raise
        return ifp

    def attach_here(self, vnet: Vnet, name: str, unit: int) -> Ifnet:
        """Attach as ``name``, with a TAP if there is Linux above the interfaces of ``vnet``."""
        netns = getattr(vnet.stack, "netns", None)
        loop = self.maker.loop
        if not isinstance(netns, Netns) or loop is None:
            netns = loop = None
        with netns.entered() if netns is not None else contextlib.nullcontext():
            ifp = self.attach(vnet, netns, loop, name, self.maker.next_mac())
            self.follow()  # flags that the kind has from birth, before the kernel tells of its own
        ifp.if_dname, ifp.if_dunit = self.kind, unit
        return ifp

    def created(self, params: Any) -> None:
        """The interface is attached: set it up."""

    @staticmethod
    def destroy(ifp: Ifnet) -> None:
        """Detach and free the interface."""
        ifp.if_detach()
        ifp.if_free()

    def below(self) -> Iterable[Ifnet]:
        """The interfaces that it stands on: a parent, ports, members."""
        return ()

    # frames

    def leaves(self) -> int:
        """All: a NIC below finishes what its wire does not take unfinished."""
        return ACCEPTS_ALL

    def if_start(self, ifp: Ifnet) -> None:
        """Show what waits in ``if_snd`` to the listeners, and pass it on; while down it is lost, an output error."""
        dequeue, send = ifp.if_snd.dequeue, self.send
        while (m := dequeue()) is not None:
            if not self._running:
                ifp.if_oerrors += 1
                continue
            if ifp.if_bpf:
                bpf_mtap(ifp, m, BpfSide.OUT)
            send(m)

    def send(self, m: Mbuf) -> None:
        """Take a frame that the host sent. To be defined."""
        raise NotImplementedError

    def receive(self, m: Mbuf) -> None:
        """There is no wire that a frame could come off."""
        self.ifp.if_ierrors += 1

    def input(self, m: Mbuf) -> None:
        """Hand a frame to the host, if the interface runs."""
        if self._running:
            self.ifp.if_input_mbuf(m)
        else:
            self.ifp.if_iqdrops += 1

    def sent(self, m: Mbuf) -> None:
        """Count a frame that went out past the send queue."""
        ifp = self.ifp
        ifp.if_opackets += 1
        ifp.if_obytes += len(m) - PKTHDR
        if m[PKTHDR] & 1 and m[PKTHDR : PKTHDR + 6] != b"\xff" * 6:
            ifp.if_omcasts += 1

    # what the ifnet says

    def _obey(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        if not self.command(cmd, data):
            super()._obey(ifp, cmd, data)

    def record(self, cmd: str, data: Any, kind: type[R]) -> R:
        """The record of an ioctl, in ``ifr_data``. Raises EFAULT for anything else."""
        if not isinstance(data.ifr_data, kind):
            raise OSError(
                errno.EFAULT,
                f"{self.ifp.if_xname}: {cmd} takes {kind.__name__} in ifr_data, not {data.ifr_data!r}",
            )
        return data.ifr_data

    def command(self, cmd: str, data: Any) -> bool:
        """Obey an ioctl of the device's own; False for one that it does not know. Raises ``OSError``."""
        return False


def stands_on(ifp: Ifnet, other: Ifnet) -> bool:
    """True when ``other`` is ``ifp`` or somewhere below it: nothing may be put on ``ifp`` to carry ``other`` then."""
    device = ifp.if_softc
    return ifp is other or (
        isinstance(device, Device) and any(stands_on(each, other) for each in device.below())
    )


def above(ifp: Ifnet) -> list[Ifnet]:
    """The interfaces whose frames come and go through ``ifp``: its lagg, its vlans."""
    found: list[Ifnet] = [ifp.if_lagg.ifp] if ifp.if_lagg is not None else []
    if ifp.if_vlantrunk is not None:
        found += [vlan.ifp for vlan in ifp.if_vlantrunk.vlans.values()]
    return found


def leave(ifma: Ifmultiaddr) -> None:
    """Give a membership of a group back, unless somebody else took it away."""
    if ifma.ifma_refcount > 0:
        if_delmulti_ifma(ifma)


def is_leaving(ifp: Ifnet) -> bool:
    """True in ``ifnet_departure_event`` unless the interface only changes its name.

    One that does stays on its vnet's list. ``IFF_RENAMING`` says less: whoever reads the
    flags during a change of name and writes them back leaves it set for ever (quirk 22).
    """
    return not ifp.curvnet.lists(ifp)
