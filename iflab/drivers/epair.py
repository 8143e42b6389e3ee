"""Two Ethernet interfaces back to back (epair(4); FreeBSD's ``net/if_epair.c``).

``ifconfig epair create`` makes ``epair0a`` and ``epair0b``. What one transmits the
other receives, wherever it was moved. There is no wire, so nothing to cut or to
delay: for that take two NICs and a cable. The link is up as long as both are there.
"""

from __future__ import annotations

import errno
import logging
from typing import Any

from iflab.net import ACCEPTS_ALL, IFF, PKTHDR, BpfSide, Ifnet, Mbuf, OffloadError, Vnet, bpf_mtap, finish

from .device import Device

__all__ = ["Epair"]

_log = logging.getLogger("iflab.drivers")

_HEADERS = 14 + 4
"""Octets of a frame beyond the MTU: Ethernet header and one VLAN tag."""


class Epair(Device):
    """One of the two; ``other`` is the other, None once that is gone."""

    kind = "epair"
    suffixes = ("a", "b")
    medium = "Ethernet 10Gbase-T (10Gbase-T <full-duplex>)"

    other: Epair | None = None

    def create(self, vnet: Vnet, name: str, unit: int, params: Any) -> Ifnet:
        """Make both; return ``a``. Raises as ``attach`` does; neither is left behind then."""
        other = Epair(self.maker)
        ifp = self.attach_here(vnet, f"{name}a", unit)
        try:
            other.attach_here(vnet, f"{name}b", unit)
        except BaseException:
            ifp.if_detach()
            ifp.if_free()
            raise
        other.ifp.if_addgroup(self.kind)
        self.other, other.other = other, self
        for half in (self, other):
            half.accepts_change()
            half.link_change(True)
        return ifp

    @staticmethod
    def destroy(ifp: Ifnet) -> None:
        """Detach and free both."""
        other = ifp.if_softc.other
        for half in (ifp, other.ifp if other is not None else None):
            if half is not None:
                half.if_detach()
                half.if_free()

    def if_detached(self, ifp: Ifnet) -> None:
        """One half is gone, and the other's link with it."""
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            other.link_change(False)
        super().if_detached(ifp)

    def leaves(self) -> int:
        """What the far end takes unfinished."""
        return self.other.takes(self) if self.other is not None else ACCEPTS_ALL

    def if_transmit(self, ifp: Ifnet, m: Mbuf) -> int:
        """Hand a frame to the far end.

        Answers E2BIG for one too long, ENXIO while not running, ENETDOWN while
        not up, in this order. With the far end down the frame is taken, lost, and
        an output error.
        """
        if len(m) - PKTHDR > ifp.if_mtu + _HEADERS and not m[1]:
            ifp.if_oerrors += 1
            return errno.E2BIG
        if not ifp.if_drv_flags & IFF.RUNNING:
            ifp.if_oerrors += 1
            return errno.ENXIO
        if not ifp.if_flags & IFF.UP:
            ifp.if_oerrors += 1
            return errno.ENETDOWN
        if ifp.if_bpf:
            bpf_mtap(ifp, m, BpfSide.OUT)
        if not ifp.if_snd.is_managed():
            self.send(m)
            return 0
        error = ifp.if_snd.enqueue(m)
        if not error and not ifp.if_drv_flags & IFF.OACTIVE:
            ifp.if_start()
        return error

    def if_start(self, ifp: Ifnet) -> None:
        """Send what a discipline or a regulator lets go."""
        while (m := ifp.if_snd.dequeue()) is not None:
            self.send(m)

    def send(self, m: Mbuf) -> None:
        """Let the far end have a frame, if that is up and running."""
        ifp, other = self.ifp, self.other
        if other is None or not other.ifp.if_flags & IFF.UP or not other.ifp.if_drv_flags & IFF.RUNNING:
            ifp.if_oerrors += 1
            return
        try:
            frames = finish(m, other.takes(self)) if m[0] & 1 or m[1] else [m]
        except OffloadError as error:
            _log.debug("%s: the host asks for what cannot be: %s", self.name, error)
            ifp.if_oerrors += 1
            return
        for each in frames:
            self.sent(each)
            other.ifp.if_input_mbuf(each)

    def if_qflush(self, ifp: Ifnet) -> None:
        """Throw away what waits in ``if_snd``, where somebody manages that."""
        ifp.if_snd.purge()

    def rethink(self) -> None:
        super().rethink()
        if self.other is not None:  # what this one takes may be another now
            self.other.accepts_change()
