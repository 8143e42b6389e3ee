"""Multicast memberships of an ifnet (sys/net/if.c 2863-3270).

A membership counts its holders. A network-layer group (IPv4, IPv6) owns one
reference to the link-layer group that it maps to, and gives it back when it
goes. The driver hears about the first holder and the last, never the ones
between, and its errors are passed over (quirk 19).

When the interface is detached or moves, every membership leaves its list, with
a message, and loses one reference. What somebody still holds becomes an orphan:
``ifma_ifp`` is None, it answers for nothing, and its last holder frees it. The
original walks into freed memory here (quirks 13 to 16).

No frame passes here: filtering by these tables is the NIC's work
(``iflab/drivers/tap.py``).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from .errors import KernelPanic, refuse
from .flags import AddressFamily
from .sockaddr import Sockaddr, SockaddrDl, as_sockaddr

if TYPE_CHECKING:
    from .ifnet import Ifnet
    from .kernel import Kernel

__all__ = [
    "Ifmultiaddr",
    "MulticastList",
    "if_addmulti",
    "if_delallmulti",
    "if_delmulti",
    "if_delmulti_ifma",
    "if_findmulti",
    "if_purgemaddrs",
]


class Ifmultiaddr:
    """A membership (``struct ifmultiaddr``).

    ``ifma_lladdr`` is the link-level address that the group maps to,
    ``ifma_llifma`` the membership of that address; both None on a link-level one.
    """

    __slots__ = (
        "__weakref__",
        "ifma_addr",
        "ifma_ifp",
        "ifma_lladdr",
        "ifma_llifma",
        "ifma_owners",
        "ifma_protospec",
        "ifma_refcount",
        "kernel",
    )

    def __init__(self, ifp: Ifnet, sa: Sockaddr, llsa: SockaddrDl | None) -> None:
        self.kernel: Kernel = ifp.kernel
        self.ifma_addr = _copy(sa)
        self.ifma_lladdr = SockaddrDl(sdl_lladdr=llsa.sdl_lladdr) if llsa is not None else None
        self.ifma_ifp: Ifnet | None = ifp
        self.ifma_refcount = 1
        self.ifma_llifma: Ifmultiaddr | None = None
        self.ifma_protospec: Any = None
        self.ifma_owners = 0
        """How many of the references network-layer memberships own."""

    @property
    def held(self) -> int:
        """References that callers hold: all but those that network-layer memberships own."""
        return self.ifma_refcount - self.ifma_owners

    def __repr__(self) -> str:
        name = self.ifma_ifp.if_xname if self.ifma_ifp is not None else "-"
        return f"<Ifmultiaddr {name} {self.ifma_addr} refs={self.ifma_refcount}>"


def _copy(sa: Sockaddr) -> Sockaddr:
    return SockaddrDl(sa.sdl_index, sa.sdl_type, "", sa.sdl_lladdr) if isinstance(sa, SockaddrDl) else sa


def if_allocmulti(ifp: Ifnet, sa: Sockaddr, llsa: SockaddrDl | None) -> Ifmultiaddr:
    """Make a membership with one reference, on no list yet (2890-2929)."""
    ifp.kernel.allocated("ether_multi", 2 if llsa is None else 3)
    return Ifmultiaddr(ifp, sa, llsa)


def if_freemulti(ifma: Ifmultiaddr) -> None:
    """Free a membership without references (2937-2948)."""
    if ifma.ifma_refcount != 0:
        raise KernelPanic(f"if_freemulti: refcount {ifma.ifma_refcount}", 2942)
    ifma.kernel.freed("ether_multi", 2 if ifma.ifma_lladdr is None else 3)


class MulticastList:
    """``if_multiaddrs``: memberships, the newest first, found by address in constant time."""

    __slots__ = ("_by_address",)

    def __init__(self) -> None:
        self._by_address: dict[tuple[AddressFamily, bytes], Ifmultiaddr] = {}

    def __iter__(self) -> Any:
        return reversed(list(self._by_address.values()))

    def __len__(self) -> int:
        return len(self._by_address)

    def find(self, sa: Sockaddr) -> Ifmultiaddr | None:
        """The membership of ``sa``: family, length and octets must be the same (quirk 20)."""
        return self._by_address.get((sa.family, sa.key))

    def link_addresses(self) -> set[bytes]:
        """The MACs on the list: what the NIC's filter is made of."""
        return {key for family, key in self._by_address if family is AddressFamily.LINK}

    def insert_head(self, ifma: Ifmultiaddr) -> None:
        """Put a membership first (3037, 3049)."""
        self._by_address[ifma.ifma_addr.family, ifma.ifma_addr.key] = ifma

    def remove(self, ifma: Ifmultiaddr) -> None:
        """Take a membership off; nothing happens when it is not on the list (3253, 3261)."""
        key = (ifma.ifma_addr.family, ifma.ifma_addr.key)
        if self._by_address.get(key) is ifma:
            del self._by_address[key]

    def __contains__(self, ifma: Ifmultiaddr) -> bool:
        return self.find(ifma.ifma_addr) is ifma


def if_findmulti(ifp: Ifnet, sa: Sockaddr | str) -> Ifmultiaddr | None:
    """The interface's membership of ``sa``, None when it has none (2863-2881)."""
    with ifp.kernel.giant:
        return ifp.if_multiaddrs.find(as_sockaddr(sa))


def if_addmulti(ifp: Ifnet, sa: Sockaddr | str) -> Ifmultiaddr:
    """Join a group and return the membership, which holds one reference for the caller (2968-3081).

    Raises what the driver's ``if_resolvemulti`` raises: EADDRNOTAVAIL for what
    is no group address, EAFNOSUPPORT, ENXIO when the interface is gone.
    """
    address = as_sockaddr(sa)
    with ifp.kernel.giant:
        members = ifp.if_multiaddrs
        ifma = members.find(address)
        if ifma is not None:
            ifma.ifma_refcount += 1
            return ifma
        llsa = ifp.if_resolvemulti(address)
        ifma = if_allocmulti(ifp, address, llsa)
        if llsa is not None:
            ll_ifma = members.find(llsa)
            if ll_ifma is None:
                ll_ifma = if_allocmulti(ifp, llsa, None)
                members.insert_head(ll_ifma)
            else:
                ll_ifma.ifma_refcount += 1
            ll_ifma.ifma_owners += 1
            ifma.ifma_llifma = ll_ifma
        members.insert_head(ifma)
        # No message for the link-level membership that this one brought along (quirk 17).
        ifp.kernel.rtsock.rt_newmaddrmsg(ifp, ifma.ifma_addr, True, ifma.ifma_lladdr)
        ifp.driver_ioctl_unheeded("SIOCADDMULTI", None)
        return ifma


def if_delmulti(ifp: Ifnet, sa: Sockaddr | str) -> None:
    """Leave a group by its address (3092-3128). Raises ENOENT when nobody joined it.

    Panics when the interface is not attached in the current vnet. A link-level
    group that only network-layer ones hold is theirs, and ENOENT for others.
    """
    address = as_sockaddr(sa)
    with ifp.kernel.giant:
        if not ifp.curvnet.lists(ifp):
            raise KernelPanic("if_delmulti: ifnet went away", 3108)
        ifma = ifp.if_multiaddrs.find(address)
        if ifma is None or not ifma.held:
            raise refuse(errno.ENOENT, f"{ifp.if_xname} is not in the group {address}")
        if if_delmulti_locked(ifma):
            ifp.driver_ioctl_unheeded("SIOCDELMULTI", None)


def if_delallmulti(ifp: Ifnet) -> None:
    """Drop one reference of every membership, silently (3134-3144, quirk 18)."""
    with ifp.kernel.giant:
        for ifma in list(ifp.if_multiaddrs):
            if ifma in ifp.if_multiaddrs and ifma.held:
                if_delmulti_locked(ifma)


def if_delmulti_ifma(ifma: Ifmultiaddr) -> None:
    """Give one reference of a membership back (3152-3195); safe when its interface is gone."""
    with ifma.kernel.giant:
        if ifma.ifma_refcount <= 0:
            raise KernelPanic(f"if_freemulti: refcount {ifma.ifma_refcount - 1}", 2942)
        ifp = ifma.ifma_ifp
        if if_delmulti_locked(ifma) and ifp is not None:
            ifp.driver_ioctl_unheeded("SIOCDELMULTI", None)


def if_purgemaddrs(ifp: Ifnet) -> None:
    """Empty the list of an interface that goes away or moves, with a message each (781-791)."""
    with ifp.kernel.giant:
        while (ifma := next(iter(ifp.if_multiaddrs), None)) is not None:
            _orphan(ifma)
            if ifma.held:
                if_delmulti_locked(ifma)


def _orphan(ifma: Ifmultiaddr) -> None:
    ifp = ifma.ifma_ifp
    if ifp is not None:
        ifp.kernel.rtsock.rt_newmaddrmsg(ifp, ifma.ifma_addr, False, ifma.ifma_lladdr)
        ifp.if_multiaddrs.remove(ifma)
        ifma.ifma_ifp = None


def if_delmulti_locked(ifma: Ifmultiaddr) -> bool:
    """Drop one reference; True when it was the last and the filter must be programmed anew (3204-3270)."""
    ifp = ifma.ifma_ifp
    ifma.ifma_refcount -= 1
    if ifma.ifma_refcount > 0:
        return False
    ll_ifma = ifma.ifma_llifma
    if ll_ifma is not None:
        if ifma.ifma_lladdr is None:
            raise KernelPanic("if_delmulti_locked: llifma w/o lladdr", 3247)
        ll_ifma.ifma_refcount -= 1
        ll_ifma.ifma_owners -= 1
        if ll_ifma.ifma_refcount == 0:
            if ifp is None:
                _orphan(ll_ifma)  # the interface goes: tell of the link-level one as well (quirk 16)
            elif ll_ifma.ifma_ifp is not None:
                ll_ifma.ifma_ifp.if_multiaddrs.remove(ll_ifma)
            ll_ifma.ifma_ifp = None
            if_freemulti(ll_ifma)
    if ifp is not None:
        ifp.if_multiaddrs.remove(ifma)
    ifma.ifma_ifp = None
    if_freemulti(ifma)
    return True
