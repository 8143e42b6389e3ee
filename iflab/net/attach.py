"""An interface comes, goes and moves (sys/net/if.c 564-1076).

The order of announcements is the original's, in both directions: what is told
first of an arrival is told last of a departure only where the original does so.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .driver import DeadDriver
from .errors import KernelPanic, refuse, report
from .flags import IFG_ALL, IP_MAXPACKET, RTF, AddressFamily
from .group import if_addgroup, if_delgroups
from .ifaddr import ifa_alloc
from .linkroute import link_rtrequest
from .multi import if_purgemaddrs
from .priv import Thread
from .route import RTM, Rtentry
from .sockaddr import SockaddrDl
from .state import if_down

if TYPE_CHECKING:
    from .ifnet import Ifnet
    from .vnet import Vnet

__all__ = [
    "if_attach",
    "if_attachdomain",
    "if_attachdomain1",
    "if_dead",
    "if_detach",
    "if_purgeaddrs",
    "if_reassign",
    "if_rtdel",
    "if_vmove",
    "if_vmove_loan",
    "if_vmove_reclaim",
]

_log = logging.getLogger("iflab.net")

_MCLBYTES = 2048
_ETHER_HDR_LEN = 14
_ETHER_VLAN_ENCAP_LEN = 4
TSOMAX_DEFAULT = min(IP_MAXPACKET, 32 * _MCLBYTES - (_ETHER_HDR_LEN + _ETHER_VLAN_ENCAP_LEN))
"""Largest super-frame when the driver names none, octets."""


def if_attach(ifp: Ifnet) -> None:
    """Put an allocated interface on the list of its vnet and announce it (577-582).

    Raises EEXIST for one that is attached (quirk 7). Panics for one that is not
    allocated here, for an unpaired ``if_transmit`` or ``if_qflush``, and for a
    tsomax out of range; the group ``all`` is joined by then (quirk 8).
    """
    with ifp.kernel.giant:
        if_attach_internal(ifp, vmove=False)


def if_attach_internal(ifp: Ifnet, vmove: bool) -> None:
    """Attach, anew or (``vmove``) after a move, when addresses and name are there already (584-698)."""
    kernel, vnet = ifp.kernel, ifp.curvnet
    if ifp.if_index == 0 or vnet.ifnet_byindex(ifp.if_index) is not ifp:
        raise KernelPanic(f"{ifp.if_xname}: BUG: if_attach called without if_alloc'd input()\n", 593)
    if vnet.lists(ifp):
        raise refuse(errno.EEXIST, f"{ifp.if_xname} is attached already")
    ifp.if_vnet = vnet
    if ifp.if_home_vnet is None:
        ifp.if_home_vnet = vnet
    if all(
        group.ifg_group != IFG_ALL for group in ifp.if_groups
    ):  # an attach that panicked leaves it in there
        if_addgroup(ifp, IFG_ALL)  # quirk 9: what goes wrong here comes out
    ifp.if_lastchange = time.time()
    ifp.if_epoch = time.monotonic()

    driver = ifp.if_driver
    if (driver.if_transmit is None) != (driver.if_qflush is None):
        raise KernelPanic("transmit and qflush must both either be set or both be NULL", 610)
    ifp.bind_driver()

    if not vmove:
        sdl = SockaddrDl.for_interface(ifp.if_index, ifp.if_type, ifp.if_xname, ifp.if_addrlen)
        ifa = ifa_alloc(kernel, sdl)
        ifa.ifa_netmask = SockaddrDl(sdl_name=ifp.if_xname)
        ifa.ifa_rtrequest = link_rtrequest
        ifp.if_addr = ifa
        ifp.if_addrhead.insert_head(ifa)
        ifp.if_broadcastaddr = None
        if ifp.if_hw_tsomax == 0:
            ifp.if_hw_tsomax = TSOMAX_DEFAULT
        if not IP_MAXPACKET // 8 <= ifp.if_hw_tsomax <= IP_MAXPACKET:
            raise KernelPanic("if_attach_internal: tsomax outside of range", 661)
    else:
        for ifa in ifp.if_addrhead:
            if isinstance(ifa.ifa_addr, SockaddrDl):
                ifa.ifa_addr.sdl_index = ifp.if_index

    vnet.list_insert(ifp)
    if kernel.domain_init_status >= 2:
        if_attachdomain1(ifp)
    kernel.events.invoke("ifnet_arrival_event", ifp)
    if vnet.is_default:
        kernel.devctl.devctl_notify("IFNET", ifp.if_xname, "ATTACH")
    kernel.rtsock.rt_ifannouncemsg(ifp, True)


def if_attachdomain(vnet: Vnet) -> None:
    """Let every domain make its data for every interface of the vnet (700-709)."""
    with vnet.kernel.giant:
        for ifp in vnet.ifnets():
            if_attachdomain1(ifp)


def if_attachdomain1(ifp: Ifnet) -> None:
    """Let every domain make its data for ``ifp`` (711-738). A second call only leaves a line in the log."""
    kernel = ifp.kernel
    with kernel.giant:
        if ifp.if_afdata_initialized >= kernel.domain_init_status:
            kernel.console.log("warning", f"if_attachdomain1 called more than once on {ifp.if_xname}")
            return
        ifp.if_afdata_initialized = kernel.domain_init_status
        ifp.if_afdata.clear()
        for domain in kernel.domains:
            if domain.dom_ifattach is not None:
                ifp.if_afdata[domain.dom_family] = domain.dom_ifattach(ifp)


def if_purgeaddrs(ifp: Ifnet) -> None:
    """Take every network address off the interface (743-775). What the protocol refuses to take off is freed here."""
    with ifp.kernel.giant:
        for ifa in ifp.if_addrhead.snapshot():
            family = ifa.ifa_addr.family
            if family is AddressFamily.LINK or ifa not in ifp.if_addrhead:
                continue
            with _to_its_end(ifp, f"purge of {ifa.ifa_addr}"), contextlib.suppress(OSError):
                if family is AddressFamily.INET:
                    ifp.stack.in_control("SIOCDIFADDR", ifa, ifp)
                elif family is AddressFamily.INET6:
                    ifp.stack.in6_purgeaddr(ifa)
            if ifa in ifp.if_addrhead:
                ifp.if_addrhead.remove(ifa)
                ifa.ifa_free()


def if_dead(ifp: Ifnet) -> None:
    """Put the dead driver below the interface: nothing reaches the real one any more (called at 878;
    ``net/if_dead.c``).

    A driver that fails at its end is reported, and the interface goes all the same.
    """
    gone, ifp.if_driver = ifp.if_driver, DeadDriver()
    ifp.bind_driver()
    with _to_its_end(ifp, f"if_detached of {gone!r}"):
        gone.if_detached(ifp)


@contextlib.contextmanager
def _to_its_end(ifp: Ifnet, what: str) -> Iterator[None]:
    """What a protocol or a driver does on the way out may fail; it is reported, and the interface goes all the same.

    In the original nothing of that can fail (812-932), and half a detach can never be finished.
    """
    try:
        yield
    except KernelPanic:
        raise
    except BaseException as error:
        report(_log, error, "%s: %s failed", ifp.if_xname, what)


def if_detach(ifp: Ifnet) -> None:
    """Take an interface off its vnet's list, and all that hangs on it (802-809).

    One that is not listed is left alone (quirk 10). Always goes through
    ``if_down``, with its messages (quirk 11).
    """
    kernel = ifp.kernel
    with kernel.giant, kernel.curvnet_set(ifp.if_vnet or ifp.alloc_vnet):
        if_detach_internal(ifp, vmove=False)


def if_detach_internal(ifp: Ifnet, vmove: bool) -> None:
    """Detach for good, or (``vmove``) to move on; then driver and link-level address stay (811-932)."""
    kernel, vnet = ifp.kernel, ifp.curvnet
    if not vnet.lists(ifp):
        if vmove:
            raise KernelPanic("if_detach_internal: ifp=PTR not on the ifnet tailq PTR", 835)
        return
    vnet.list_remove(ifp)
    with _to_its_end(ifp, "a task that was queued"):
        kernel.taskqueue_swi.drain(ifp.if_linktask)
    with _to_its_end(ifp, "if_down"):
        if_down(ifp)
    with _to_its_end(ifp, "altq_disable"):
        if ifp.if_snd.altq_is_enabled():
            ifp.if_snd.altq_disable()
    with _to_its_end(ifp, "altq_detach"):
        if ifp.if_snd.altq_disc is not None:
            ifp.if_snd.altq_detach()
    if_purgeaddrs(ifp)
    stack = vnet.stack
    with _to_its_end(ifp, "in_ifdetach"):
        stack.in_ifdetach(ifp)
    with _to_its_end(ifp, "in6_ifdetach"):
        stack.in6_ifdetach(ifp)
    with _to_its_end(ifp, "if_purgemaddrs"):
        if_purgemaddrs(ifp)
    if not vmove:
        if_dead(ifp)
        link, ifp.if_addr = ifp.if_addr, None
        if link is not None and link in ifp.if_addrhead:
            ifp.if_addrhead.remove(link)  # the link address itself, not whatever comes first (quirk 12)
            link.ifa_free()
    for family in AddressFamily:
        for fib in range(stack.rt_numfibs if family is not AddressFamily.UNSPEC else 0):
            with _to_its_end(ifp, f"rt_walktree({family.name}, {fib})"):
                for rt in list(stack.rt_walktree(family, fib)):
                    if_rtdel(ifp, rt)
    kernel.rtsock.rt_ifannouncemsg(ifp, False)
    kernel.events.invoke("ifnet_departure_event", ifp)
    if vnet.is_default:
        kernel.devctl.devctl_notify("IFNET", ifp.if_xname, "DETACH")
    if_delgroups(ifp)
    initialized, ifp.if_afdata_initialized = ifp.if_afdata_initialized, 0
    if initialized > 0:
        for domain in kernel.domains:
            data = ifp.if_afdata.get(domain.dom_family)
            if domain.dom_ifdetach is not None and data is not None:
                with _to_its_end(ifp, f"dom_ifdetach of {domain.dom_family!r}"):
                    domain.dom_ifdetach(ifp, data)
    ifp.if_afdata.clear()  # quirk 50


def if_rtdel(ifp: Ifnet, rt: Rtentry) -> None:
    """Delete ``rt`` if it leads through ``ifp``, pinned or not (1354-1380).

    One that is not up stays, a failure is only logged; neither keeps pointing
    to the gone interface (quirk 41).
    """
    if rt.rt_ifp is not ifp:
        return
    if rt.rt_flags & RTF.UP:
        try:
            ifp.curvnet.stack.rtrequest_fib(RTM.DELETE, rt, rt.rt_fibnum)
        except OSError as error:
            ifp.kernel.console.log("warning", f"if_rtdel: error {error.errno}")
    rt.rt_ifp = None


def if_reassign(ifp: Ifnet, new_vnet: Vnet) -> None:
    """Let the driver follow the interface into ``new_vnet`` (964-969)."""
    ifp.if_driver.if_reassign(ifp, new_vnet)


def if_vmove(ifp: Ifnet, new_vnet: Vnet) -> None:
    """Move an attached interface to another vnet (942-988).

    It keeps description, promiscuous count, link state, queue limit, MAC and
    home; it loses UP, addresses, groups, routes and queued frames (quirk 49).
    Trusts its caller that the name is free there (quirk 48). Panics when the
    interface is not on the current vnet's list.

    Raises ENOSPC when no index is free there, where the original panics (978), and what the
    driver's ``if_may_reassign`` raises; nothing has changed then.
    """
    kernel = ifp.kernel
    with kernel.giant:
        old_vnet = ifp.curvnet
        with kernel.curvnet_set(old_vnet):
            if old_vnet.lists(ifp):
                ifp.if_driver.if_may_reassign(ifp, new_vnet)
                if new_vnet is not old_vnet:
                    new_vnet.check_index_free()
            if_detach_internal(ifp, vmove=True)
            old_vnet.ifindex_free(ifp.if_index)
            try:
                if_reassign(ifp, new_vnet)
            except BaseException:  # whatever a driver raises, the interface is somewhere
                _arrive(ifp, old_vnet)
                raise
        _arrive(ifp, new_vnet)


def _arrive(ifp: Ifnet, vnet: Vnet) -> None:
    with ifp.kernel.curvnet_set(vnet):
        ifp.if_index = vnet.ifindex_alloc_locked()
        vnet.ifnet_setbyindex(ifp.if_index, ifp)
        if_attach_internal(ifp, vmove=True)


def if_vmove_loan(td: Thread, ifp: Ifnet, jid: int) -> str:
    """Lend an interface to the prison ``jid``, any but the caller's own; return its name there (993-1032).

    Raises ENXIO without such a prison, EEXIST when it is there already or
    another there has its name.
    """
    kernel = ifp.kernel
    with kernel.giant:
        prison = kernel.prison_find_child(td.prison, jid)
        if prison is None:
            raise refuse(errno.ENXIO, f"there is no prison {jid} besides the caller's own")
        if prison.pr_vnet is ifp.if_vnet:
            raise refuse(errno.EEXIST, f"{ifp.if_xname} is in that vnet already")
        if prison.pr_vnet.ifunit(ifp.if_xname) is not None:
            raise refuse(errno.EEXIST, f"that vnet has an interface {ifp.if_xname} of its own")
        if_vmove(ifp, prison.pr_vnet)
        return ifp.if_xname


def if_vmove_reclaim(td: Thread, vnet: Vnet, ifname: str, jid: int) -> str:
    """Take the interface ``ifname`` back from the prison ``jid`` into the caller's vnet (1034-1076).

    Raises ENXIO without such a prison or interface, EEXIST when it is here
    already or another here has its name (quirk 48).
    """
    kernel = vnet.kernel
    with kernel.giant:
        prison = kernel.prison_find_child(td.prison, jid)
        if prison is None:
            raise refuse(errno.ENXIO, f"there is no prison {jid} besides the caller's own")
        ifp = prison.pr_vnet.ifunit(ifname)
        if ifp is None:
            raise refuse(errno.ENXIO, f"the vnet of prison {jid} has no interface {ifname}")
        home = td.prison.pr_vnet
        if home is ifp.if_vnet:
            raise refuse(errno.EEXIST, f"{ifname} is in that vnet already")
        if home.ifunit(ifname) is not None:
            raise refuse(errno.EEXIST, f"the caller's vnet has an interface {ifname} of its own")
        with kernel.curvnet_set(prison.pr_vnet):
            if_vmove(ifp, home)
        return ifp.if_xname
