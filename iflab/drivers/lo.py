"""Loopback (lo(4); FreeBSD's ``net/if_loop.c``): what the host sends comes back to it.

Linux has its own ``lo`` in every namespace and never sends to its own addresses
through another interface; what it routes to a *network* on this one does come back.
The first of a vnet is its ``v_loif``, through which routes to own addresses lead.
"""

from __future__ import annotations

from typing import Any

from iflab.net import IFCAP, IFF, IFT, Ifnet, Mbuf

from .device import Device

__all__ = ["Loopback"]

LOMTU = 16384
"""MTU, octets."""


class Loopback(Device):
    """``lo0``, ``lo1`` ... Linux asks for no MAC on it (``NOARP``): nobody could answer."""

    kind = "lo"
    iftype = IFT.LOOP
    capabilities = IFCAP.RXCSUM | IFCAP.TXCSUM | IFCAP.RXCSUM_IPV6 | IFCAP.TXCSUM_IPV6 | IFCAP.LINKSTATE
    medium = None

    def prepare(self, ifp: Ifnet) -> None:
        """Flags and type of a loopback."""
        ifp.if_flags = IFF.LOOPBACK | IFF.MULTICAST | IFF.NOARP
        self._set_mtu(ifp, LOMTU)

    def created(self, params: Any) -> None:
        """It always has a link."""
        vnet = self.ifp.curvnet
        if vnet.v_loif is None:
            vnet.v_loif = self.ifp
        self.link_change(True)

    def if_detached(self, ifp: Ifnet) -> None:
        """Let the vnet look for another."""
        for vnet in ifp.kernel.vnets:
            if vnet.v_loif is ifp:
                vnet.v_loif = None
        super().if_detached(ifp)

    def send(self, m: Mbuf) -> None:
        """Hand the frame back (``if_simloop``)."""
        self.ifp.if_opackets += 1
        self.input(m)
