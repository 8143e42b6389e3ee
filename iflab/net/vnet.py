"""A virtual network stack: its tables of interfaces, and the look-ups in them (sys/net/if.c 188-469, 1547-1863, 2082-2115).

An index is reserved before its interface can be seen, so a slot may hold
``IFNET_HOLD`` for a moment; look-ups do not see it.
"""

from __future__ import annotations

import errno
import heapq
from typing import TYPE_CHECKING, Any

from . import lookup
from .errors import KernelPanic, refuse
from .group import Group
from .ifaddr import Ifaddr
from .ifnet import Ifnet
from .ioctl import Socket, ifioctl
from .priv import Prison, Thread
from .sockaddr import Sockaddr, SockaddrDl, as_sockaddr
from .stack import Stack

if TYPE_CHECKING:
    from .kernel import Kernel

__all__ = ["IFNET_HOLD", "Vnet"]

INITIAL_INDEXLIM = 8
HIGHEST_INDEX = 65535


class _Hold:
    def __repr__(self) -> str:
        return "IFNET_HOLD"


IFNET_HOLD = _Hold()
"""Marks an index that is taken while its interface cannot be seen yet."""


class Vnet:
    """The interfaces of one virtual network stack.

    ``is_default`` makes devctl speak for it, as for FreeBSD's vnet0. ``stack``
    are the protocols above its interfaces.
    """

    def __init__(self, kernel: Kernel, name: str, jid: int, stack: Stack, is_default: bool) -> None:
        self.kernel = kernel
        self.name = name
        self.prison = Prison(jid, self)
        self.stack = stack
        self.is_default = is_default
        self.v_loif: Ifnet | None = None
        self.groups: dict[str, Group] = {}
        self.if_index = 0
        self.if_indexlim = INITIAL_INDEXLIM
        self._ifindex_table: dict[int, Ifnet | _Hold] = {}
        self._free_indexes: list[int] = []
        self._ifnet: dict[Ifnet, None] = {}
        self._names: dict[str, list[Ifnet]] = {}
        self._positions = 0
        self._addresses = lookup.AddressTable()
        self.vnet_if_init()

    def __repr__(self) -> str:
        return f"<Vnet {self.name}>"

    # life

    def vnet_if_init(self) -> None:
        """Make the first table; its limit is 16, not 8, because growing doubles it (356-368, quirk 3)."""
        self.if_grow()

    def vnet_if_uninit(self) -> None:
        """Let the tables go; panics while an interface or a group is left (382-394)."""
        with self.kernel.giant:
            if self._ifnet:
                raise KernelPanic("vnet_if_uninit:387 tailq &V_ifnet=PTR not empty", 387)
            if self.groups:
                raise KernelPanic("vnet_if_uninit:389 tailq &V_ifg_head=PTR not empty", 389)
            self._ifindex_table.clear()

    # the list of interfaces

    @property
    def vnet_ifcnt(self) -> int:
        """Attached interfaces."""
        return len(self._ifnet)

    def ifnets(self) -> tuple[Ifnet, ...]:
        """The attached interfaces in the order of their attachment."""
        with self.kernel.giant:
            return tuple(self._ifnet)

    def lists(self, ifp: Ifnet) -> bool:
        """True when ``ifp`` is attached here."""
        return ifp in self._ifnet

    def list_insert(self, ifp: Ifnet) -> None:
        """Put ``ifp`` last on the list and into the look-up tables (682-687)."""
        self._positions += 1
        ifp.list_position = self._positions
        self._ifnet[ifp] = None
        self._names.setdefault(ifp.if_xname, []).append(ifp)
        ifp.if_addrhead.enter(self._addresses)

    def list_remove(self, ifp: Ifnet) -> None:
        """Take ``ifp`` off the list and out of the tables (821-832)."""
        del self._ifnet[ifp]
        self._forget_name(ifp, ifp.if_xname)
        ifp.if_addrhead.leave()

    def renamed(self, ifp: Ifnet, old: str) -> None:
        """An interface changed its name; find it by the new one."""
        if ifp in self._ifnet:
            self._forget_name(ifp, old)
            twins = self._names.setdefault(ifp.if_xname, [])
            twins.append(ifp)
            twins.sort(key=lambda other: other.list_position)

    def _forget_name(self, ifp: Ifnet, name: str) -> None:
        twins = self._names[name]
        twins.remove(ifp)
        if not twins:
            del self._names[name]

    # the index table

    def if_grow(self) -> None:
        """Double the table (397-420)."""
        self.if_indexlim <<= 1

    def check_index_free(self) -> None:
        """Raise ENOSPC when no index is free."""
        if len(self._ifindex_table) >= HIGHEST_INDEX:
            raise refuse(errno.ENOSPC, f"no free index: vnet {self.name} has {HIGHEST_INDEX} interfaces")

    def ifindex_alloc_locked(self) -> int:
        """Reserve the lowest free index (269-295). Raises ENOSPC when all 65535 are taken (quirk 2)."""
        with self.kernel.giant:
            self.check_index_free()
            free = self._free_indexes
            while free and (free[0] > self.if_index or free[0] in self._ifindex_table):
                heapq.heappop(free)
            index = heapq.heappop(free) if free else self.if_index + 1
            while index >= self.if_indexlim:
                self.if_grow()
            self.if_index = max(self.if_index, index)
            self._ifindex_table[index] = IFNET_HOLD
            return index

    def ifindex_free(self, index: int) -> None:
        """Give an index back; the highest one in use shrinks with it (297-316)."""
        with self.kernel.giant:
            self._ifindex_table.pop(index, None)
            heapq.heappush(self._free_indexes, index)
            while self.if_index > 0 and self.if_index not in self._ifindex_table:
                self.if_index -= 1
            if self.if_index == 0:
                self._free_indexes.clear()

    def ifnet_setbyindex(self, index: int, ifp: Ifnet) -> None:
        """Let the interface be seen under its index (318-334)."""
        self._ifindex_table[index] = ifp

    def ifnet_byindex(self, index: int) -> Ifnet | None:
        """The interface with that index, None for a free or reserved one (227-247)."""
        found = self._ifindex_table.get(index)
        return found if isinstance(found, Ifnet) else None

    ifnet_byindex_locked = ifnet_byindex

    def ifnet_byindex_ref(self, index: int) -> Ifnet | None:
        """The same with a reference, unless it is dying (249-263)."""
        with self.kernel.giant:
            ifp = self.ifnet_byindex(index)
            return None if ifp is None or not ifp.if_ref_unless_dying() else ifp

    def ifaddr_byindex(self, index: int) -> Ifaddr | None:
        """The link-level address of the interface with that index, with a reference (336-347).

        None where the original dereferences NULL (quirk 34).
        """
        with self.kernel.giant:
            ifp = self.ifnet_byindex(index)
            return _referenced(ifp.if_addr if ifp is not None else None)

    def indexes(self) -> dict[int, Ifnet]:
        """All interfaces with an index, attached or not."""
        with self.kernel.giant:
            table = self._ifindex_table
            return {i: ifp for i in sorted(table) if isinstance(ifp := table[i], Ifnet)}

    # interfaces

    def if_alloc(self, iftype: int) -> Ifnet:
        """Make an interface with an index and the layer-2 data of its type (427-469).

        Raises ENOMEM when that data cannot be had, ENOSPC without a free index;
        nothing is left behind then (quirk 5).
        """
        kernel = self.kernel
        with kernel.giant:
            index = self.ifindex_alloc_locked()
            ifp = Ifnet(self, iftype, index)
            com = kernel.com_alloc.get(iftype)
            if com is not None:
                try:
                    ifp.if_l2com = com.alloc(iftype, ifp)
                except BaseException:
                    self.ifindex_free(index)
                    raise
                if ifp.if_l2com is None:
                    self.ifindex_free(index)
                    raise refuse(errno.ENOMEM, f"no layer-2 data for an interface of type {iftype}")
                ifp.com_free = com.free  # of who made it, whoever is registered later (quirk 6)
            kernel.allocated("ifnet")
            self.ifnet_setbyindex(index, ifp)
            return ifp

    def ifunit(self, name: str) -> Ifnet | None:
        """The attached interface of that name (2103-2115)."""
        twins = self._names.get(name)
        return twins[0] if twins is not None else None

    def ifunit_ref(self, name: str) -> Ifnet | None:
        """The same with a reference; one that is dying is passed over (2086-2101)."""
        with self.kernel.giant:
            for ifp in self._names.get(name, ()):
                if ifp.if_ref_unless_dying():
                    return ifp
            return None

    # addresses

    def ifa_ifwithaddr(self, addr: Sockaddr | str) -> Ifaddr | None:
        """The address that is ``addr`` or whose broadcast address it is, with a reference (1564-1606)."""
        with self.kernel.giant:
            return _referenced(lookup.find_exact(self._addresses, as_sockaddr(addr)))

    def ifa_ifwithaddr_check(self, addr: Sockaddr | str) -> bool:
        """True when there is such an address (1608-1613)."""
        with self.kernel.giant:
            return lookup.find_exact(self._addresses, as_sockaddr(addr)) is not None

    def ifa_ifwithbroadaddr(self, addr: Sockaddr | str) -> Ifaddr | None:
        """The address with that broadcast address, with a reference (1619-1646)."""
        with self.kernel.giant:
            return _referenced(lookup.find_broadcast(self._addresses, as_sockaddr(addr)))

    def ifa_ifwithdstaddr(self, addr: Sockaddr | str, fib: int = 0) -> Ifaddr | None:
        """The address with that far end on a point-to-point interface of ``fib``, with a reference (1652-1681)."""
        with self.kernel.giant:
            return _referenced(lookup.find_far(self._addresses, as_sockaddr(addr), fib))

    def ifa_ifwithnet(self, addr: Sockaddr | str, ignore_ptp: bool = False, fib: int = 0) -> Ifaddr | None:
        """The address on the most specific network that holds ``addr``, with a reference (1687-1797).

        A link-level address with an index is found by it, whatever its fib.
        """
        sa = as_sockaddr(addr)
        with self.kernel.giant:
            if isinstance(sa, SockaddrDl):
                if 0 < sa.sdl_index <= self.if_index:
                    return self.ifaddr_byindex(sa.sdl_index)
                return _referenced(lookup.find_by_name(self._names, sa, fib))
            return _referenced(
                lookup.find_network(self._addresses, sa, bool(ignore_ptp), fib, self.kernel.ifa_preferred)
            )

    # ioctls

    def thread(self) -> Thread:
        """A caller with every privilege in this vnet's prison."""
        return Thread(self.prison)

    def ioctl(self, cmd: str, data: Any, td: Thread | None = None) -> Any:
        """``ifioctl`` on a socket of this vnet, by ``td`` or by a caller with every privilege; returns ``data``."""
        ifioctl(Socket(self, self.stack), cmd, data, td or self.thread())
        return data


def _referenced(ifa: Ifaddr | None) -> Ifaddr | None:
    if ifa is not None:
        ifa.ifa_ref()
    return ifa
