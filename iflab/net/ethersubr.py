"""Who else deals with an Ethernet interface's frames (``net/if_ethersubr.c``).

Devices on top of an interface *claim* it (``Ifnet.if_claim``); from then on its
frames pass here, in the original's order. Each stage takes the frame (None), or
lets it go on, changed or not::

      to the protocols                  from the protocols
            ^                                  |
          vlan  (tagged, for a child)        lagg   (a port has no protocols of its own; in monitor mode none)
            ^                                  v
          carp  (virtual MAC, protocol 112)  bridge (and then nobody else)
            ^                                  v
         bridge                              carp   (virtual MAC as the source)
            ^                                  v
      netgraph "lower"                       netgraph "upper"
            ^                                  v
          lagg                               if_transmit -> if_snd -> driver
            ^
        monitor  (nothing goes on)
            ^
       if_input

What a device itself sends through an interface below it goes to ``if_transmit``.
An interface that nobody claims never comes here.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .flags import IFF, IFT
from .mbuf import PKTHDR, Mbuf

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = [
    "ETHERTYPE_QINQ",
    "ETHERTYPE_VLAN",
    "ether_demux",
    "ether_demux_local",
    "ether_input",
    "ether_output",
]

ETHERTYPE_VLAN, ETHERTYPE_QINQ = b"\x81\x00", b"\x88\xa8"
"""Tags of IEEE 802.1Q (customer) and 802.1ad (service), as they stand in a frame."""

_TYPE = slice(PKTHDR + 12, PKTHDR + 14)


def ether_input(ifp: Ifnet, m: Mbuf) -> Mbuf | None:
    """Offer a frame off the wire to those who claim ``ifp``; return what is left for the protocols."""
    if ifp.if_flags & IFF.MONITOR:
        return None  # it was counted, and listeners have seen it
    hooks = ifp.kernel.hooks
    after: Mbuf | None = m
    if ifp.if_lagg is not None and ifp.if_type == IFT.IEEE8023ADLAG and hooks.lagg_input_p is not None:
        after = hooks.lagg_input_p(ifp, m)
        if after is None:
            return None
        m = after
    if getattr(ifp.if_l2com, "ac_netgraph", None) is not None and hooks.ng_ether_input_p is not None:
        after = hooks.ng_ether_input_p(ifp, m)
        if after is None:
            return None
        m = after
    return ether_demux(ifp, m)


def ether_demux(ifp: Ifnet, m: Mbuf) -> Mbuf | None:
    """The same from behind netgraph's lower hook on: where a node hands a frame up."""
    hooks = ifp.kernel.hooks
    after: Mbuf | None
    if ifp.if_bridge is not None and hooks.bridge_input_p is not None:
        after = hooks.bridge_input_p(ifp, m)
        if after is None:
            return None
        m = after
    return ether_demux_local(ifp, m)


def ether_demux_local(ifp: Ifnet, m: Mbuf) -> Mbuf | None:
    """The same from behind the bridge on: for a frame that a bridge found to be this host's."""
    hooks = ifp.kernel.hooks
    after: Mbuf | None
    if ifp.if_carp is not None and hooks.carp_input_p is not None:
        after = hooks.carp_input_p(ifp, m)
        if after is None:
            return None
        m = after
    if (
        ifp.if_vlantrunk is not None
        and m[_TYPE] in (ETHERTYPE_VLAN, ETHERTYPE_QINQ)
        and hooks.vlan_input_p is not None
    ):
        return hooks.vlan_input_p(ifp, m)
    return m


def ether_output(ifp: Ifnet, m: Mbuf) -> int:
    """Offer a frame from the protocols to those who claim ``ifp``, and transmit what is left; return an errno."""
    if ifp.if_flags & IFF.MONITOR:
        return errno.ENETDOWN
    hooks = ifp.kernel.hooks
    if ifp.if_lagg is not None and ifp.if_type == IFT.IEEE8023ADLAG:
        return errno.ENETDOWN  # lagg_port_output
    if ifp.if_bridge is not None and hooks.bridge_output_p is not None:
        bridged = hooks.bridge_output_p(ifp, m)
        if bridged is None:
            return 0
        m = bridged
    if ifp.if_carp is not None and hooks.carp_output_p is not None:
        rewritten = hooks.carp_output_p(ifp, m, None)
        if rewritten is None:
            return 0
        m = rewritten
    if getattr(ifp.if_l2com, "ac_netgraph", None) is not None and hooks.ng_ether_output_p is not None:
        hooked = hooks.ng_ether_output_p(ifp, m)
        if hooked is None:
            return 0
        m = hooked
    return ifp.transmit_mbuf(m)
