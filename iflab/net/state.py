"""Up and down, and the state of the link (sys/net/if.c 1926-2054, 3278-3348).

Going up and down is told at once. A change of the link state is told by a task
later on, so that a driver may report one while it holds locks, and changes that
come faster than the task runs become one.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from .errors import refuse
from .flags import IFF, IFT, PRC, AddressFamily, LinkState
from .sockaddr import SockaddrDl
from .sockio import Ifreq

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = [
    "do_link_state_change",
    "if_down",
    "if_link_state_change",
    "if_route",
    "if_setlladdr",
    "if_unroute",
    "if_up",
]

_SETTABLE_LLADDR = frozenset(
    {
        IFT.ETHER,
        IFT.FDDI,
        IFT.XETHER,
        IFT.ISO88025,
        IFT.L2VLAN,
        IFT.BRIDGE,
        IFT.ARCNET,
        IFT.IEEE8023ADLAG,
        IFT.IEEE80211,
    }
)


def if_unroute(ifp: Ifnet, family: AddressFamily = AddressFamily.UNSPEC) -> None:
    """Mark the interface down and tell the protocols of each address of ``family`` (1930-1947)."""
    kernel = ifp.kernel
    with kernel.giant:
        ifp.if_flags &= ~IFF.UP
        ifp.if_lastchange = time.time()
        _pfctlinput(ifp, PRC.IFDOWN, family)
        ifp.if_qflush()
        _carp_linkstate(ifp)
        kernel.rtsock.rt_ifmsg(ifp)


def if_route(ifp: Ifnet, family: AddressFamily = AddressFamily.UNSPEC) -> None:
    """Mark the interface up and tell the protocols of each address of ``family`` (1954-1971)."""
    kernel = ifp.kernel
    with kernel.giant:
        ifp.if_flags |= IFF.UP
        ifp.if_lastchange = time.time()
        _pfctlinput(ifp, PRC.IFUP, family)
        _carp_linkstate(ifp)
        kernel.rtsock.rt_ifmsg(ifp)
        ifp.stack.in6_if_up(ifp)


def _pfctlinput(ifp: Ifnet, cmd: PRC, family: AddressFamily) -> None:
    for ifa in ifp.if_addrhead:
        if family in (AddressFamily.UNSPEC, ifa.ifa_addr.family):
            ifp.stack.pfctlinput(cmd, ifa.ifa_addr)


def _carp_linkstate(ifp: Ifnet) -> None:
    hook = ifp.kernel.hooks.carp_linkstate_p
    if ifp.if_carp is not None and hook is not None:
        hook(ifp)


def if_down(ifp: Ifnet) -> None:
    """Take the interface down, whether it was up or not (2038-2043, quirk 11). What was queued is lost."""
    if_unroute(ifp)


def if_up(ifp: Ifnet) -> None:
    """Bring the interface up (2049-2054)."""
    if_route(ifp)


def if_link_state_change(ifp: Ifnet, link_state: LinkState | int) -> None:
    """The driver's link changed (1987-1997). The same state again is nothing.

    Raises EINVAL for what is none of the three states (quirk 42). A dying
    interface has no link to speak of any more (quirk 43).
    """
    try:
        state = LinkState(link_state)
    except ValueError:
        raise refuse(
            errno.EINVAL, f"{ifp.if_xname}: {link_state!r} is no link state; see LinkState"
        ) from None
    with ifp.kernel.giant:
        if ifp.if_link_state == state or ifp.if_flags & IFF.DYING:
            return
        ifp.if_link_state = state
        ifp.kernel.taskqueue_swi.enqueue(ifp.if_linktask)


def do_link_state_change(ifp: Ifnet, pending: int) -> None:
    """Tell of the link's present state, for ``pending`` changes at once (1999-2032)."""
    kernel, hooks, state = ifp.kernel, ifp.kernel.hooks, ifp.if_link_state
    vnet = ifp.if_vnet or ifp.alloc_vnet  # quirk 1
    with kernel.giant, kernel.curvnet_set(vnet):
        kernel.rtsock.rt_ifmsg(ifp)
        if ifp.if_vlantrunk is not None and hooks.vlan_link_state_p is not None:
            hooks.vlan_link_state_p(ifp)
        if (
            ifp.if_type in (IFT.ETHER, IFT.L2VLAN)
            and getattr(ifp.if_l2com, "ac_netgraph", None) is not None
            and hooks.ng_ether_link_state_p is not None
        ):
            hooks.ng_ether_link_state_p(ifp, state)
        _carp_linkstate(ifp)
        if ifp.if_bridge is not None and hooks.bridge_linkstate_p is not None:
            hooks.bridge_linkstate_p(ifp)
        if ifp.if_lagg is not None and hooks.lagg_linkstate_p is not None:
            hooks.lagg_linkstate_p(ifp, state)
        up = state == LinkState.UP
        if vnet.is_default:
            kernel.devctl.devctl_notify("IFNET", ifp.if_xname, "LINK_UP" if up else "LINK_DOWN")
        if pending > 1:
            ifp.if_printf(f"{pending} link states coalesced\n")
        if kernel.sysctl["net.link.log_link_state_change"]:
            kernel.console.log("notice", f"{ifp.if_xname}: link state changed to {'UP' if up else 'DOWN'}")
        kernel.events.invoke("ifnet_link_event", ifp, ifp.if_link_state)


def if_setlladdr(ifp: Ifnet, lladdr: bytes) -> None:
    """Give the interface another MAC of the same length (3278-3348).

    An interface that is up goes down and up again, without a message, so that
    its filter is programmed anew, and announces its IPv4 addresses. The
    driver's errors are passed over (quirk 26). Raises EINVAL for another
    length, ENODEV for a type whose address cannot be set.
    """
    with ifp.kernel.giant:
        ifa = ifp.if_addr
        if ifa is None:
            raise refuse(errno.EINVAL, f"{ifp.if_xname} has no link-level address: it is not attached")
        sdl = ifa.ifa_addr
        assert isinstance(sdl, SockaddrDl)
        if len(lladdr) != sdl.sdl_alen:
            raise refuse(
                errno.EINVAL,
                f"{ifp.if_xname}: a link-level address has {sdl.sdl_alen} octets here, not {len(lladdr)}",
            )
        if ifp.if_type not in _SETTABLE_LLADDR:
            raise refuse(errno.ENODEV, f"{ifp.if_xname}: an interface of this type keeps its address")
        ifp.stack.consent(ifp, "lladdr", bytes(lladdr))
        sdl.sdl_lladdr = bytes(lladdr)
        if ifp.if_flags & IFF.UP:
            ifp.if_reinit = True
            try:
                for up in (0, IFF.UP):  # a driver may change other flags meanwhile
                    ifp.if_flags = ifp.if_flags & ~IFF.UP | up
                    ifp.driver_ioctl_unheeded("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=ifp.if_flags))
            finally:
                ifp.if_flags |= IFF.UP
                ifp.if_reinit = False
            for address in ifp.if_addrhead:
                if address.ifa_addr.family is AddressFamily.INET:
                    ifp.stack.arp_ifinit(ifp, address)
