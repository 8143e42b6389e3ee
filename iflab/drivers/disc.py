"""The discard interface (disc(4); FreeBSD's ``net/if_disc.c``): a network from which nothing comes back.

What is routed there is counted and gone, without an error to anybody.
"""

from __future__ import annotations

from typing import Any

from iflab.net import IFF, IFT, Ifnet, Mbuf

from .device import Device

__all__ = ["Discard"]

DSMTU = 65521
"""MTU, octets: as long as a TAP's can be; the original's is 65532."""


class Discard(Device):
    """``disc0``, ``disc1`` ... Linux asks for no MAC on it (``NOARP``): nobody could answer."""

    kind = "disc"
    iftype = IFT.LOOP
    capabilities = 0
    medium = None

    def prepare(self, ifp: Ifnet) -> None:
        """Flags and type as the original's: a loopback by name only."""
        ifp.if_flags = IFF.LOOPBACK | IFF.MULTICAST | IFF.NOARP
        self._set_mtu(ifp, DSMTU)

    def created(self, params: Any) -> None:
        """It always has a link."""
        self.link_change(True)

    def send(self, m: Mbuf) -> None:
        """Count the frame, and forget it."""
        self.ifp.if_opackets += 1
