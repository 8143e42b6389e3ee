"""Addresses of an interface (``struct ifaddr``) and their list (sys/net/if.c 1416-1545).

An address is counted: its list holds a reference, and so does whoever keeps a
pointer to it. While it is on a list it also stands in the look-up tables of its
interface and, when that is attached, of the vnet; changing an address through
its properties keeps them true.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .errors import KernelPanic, refuse
from .flags import RTF, AddressFamily
from .lookup import AddressTable
from .mbuf import PKTHDR, Mbuf
from .route import RTM, RtAddrinfo, Rtentry
from .sockaddr import Sockaddr, SockaddrDl, SockaddrIn, SockaddrIn6

if TYPE_CHECKING:
    from .ifnet import Ifnet
    from .kernel import Kernel

__all__ = [
    "AddressList",
    "Ifaddr",
    "ifa_add_loopback_route",
    "ifa_alloc",
    "ifa_del_loopback_route",
    "ifa_switch_loopback_route",
]

COUNTERS_PER_IFADDR = 4

_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_IP = (_IPV4, _IPV6)
_LINK_OCTETS = PKTHDR + 14


class Ifaddr:
    """One address: itself, its mask, and the broadcast address or the far end.

    ``ifa_dstaddr`` and ``ifa_broadaddr`` are one field, as in the original; the
    interface's flags say which it is. Counters are in packets and octets of IP.
    """

    __slots__ = (
        "__weakref__",
        "_addr",
        "_carp",
        "_claim",
        "_dstaddr",
        "_list",
        "_netmask",
        "ifa_flags",
        "ifa_ibytes",
        "ifa_ifp",
        "ifa_ipackets",
        "ifa_metric",
        "ifa_obytes",
        "ifa_opackets",
        "ifa_refcnt",
        "ifa_rtrequest",
        "kernel",
        "mask_value",
        "position",
    )

    def __init__(self, kernel: Kernel, addr: Sockaddr) -> None:
        self.kernel = kernel
        self._addr = addr
        self._dstaddr: Sockaddr | None = None
        self._netmask: Sockaddr | None = None
        self._claim: Callable[[Ifaddr, Sockaddr], bool] | None = None
        self._carp: Any = None
        self._list: AddressList | None = None
        self.mask_value = 0
        self.position = 0
        self.ifa_ifp: Ifnet | None = None
        self.ifa_refcnt = 1
        self.ifa_flags = 0
        self.ifa_metric = 0
        self.ifa_rtrequest: Callable[[RTM, Rtentry, RtAddrinfo | None], None] | None = None
        self.ifa_ipackets = 0
        self.ifa_opackets = 0
        self.ifa_ibytes = 0
        self.ifa_obytes = 0

    def _change(self, slot: str, value: Any) -> None:
        home = self._list
        if home is not None:
            home.unindex(self)
        setattr(self, slot, value)
        if home is not None:
            home.index(self)

    @property
    def ifa_addr(self) -> Sockaddr:
        """The address."""
        return self._addr

    @ifa_addr.setter
    def ifa_addr(self, value: Sockaddr) -> None:
        self._change("_addr", value)

    @property
    def ifa_dstaddr(self) -> Sockaddr | None:
        """The far end of a point-to-point link."""
        return self._dstaddr

    @ifa_dstaddr.setter
    def ifa_dstaddr(self, value: Sockaddr | None) -> None:
        self._change("_dstaddr", value)

    ifa_broadaddr = ifa_dstaddr

    @property
    def ifa_netmask(self) -> Sockaddr | None:
        """The mask; None when the address has none."""
        return self._netmask

    @ifa_netmask.setter
    def ifa_netmask(self, value: Sockaddr | None) -> None:
        home = self._list
        if home is not None:
            home.unindex(self)
        self._netmask = value
        self.mask_value = 0 if value is None or isinstance(value, SockaddrDl) else value.value
        if home is not None:
            home.index(self)

    @property
    def ifa_claim_addr(self) -> Callable[[Ifaddr, Sockaddr], bool] | None:
        """A function that says instead of the mask whether an address is this one's."""
        return self._claim

    @ifa_claim_addr.setter
    def ifa_claim_addr(self, value: Callable[[Ifaddr, Sockaddr], bool] | None) -> None:
        self._change("_claim", value)

    @property
    def ifa_carp(self) -> Any:
        """The carp group that shares this address; None for a real address."""
        return self._carp

    @ifa_carp.setter
    def ifa_carp(self, value: Any) -> None:
        self._change("_carp", value)

    @property
    def order(self) -> tuple[int, int]:
        """Where a scan over all interfaces meets this address."""
        return (self.ifa_ifp.list_position if self.ifa_ifp is not None else 0, self.position)

    def ifa_ref(self) -> int:
        """Take a reference; return the new count (sys/net/if.c 1455-1460)."""
        with self.kernel.giant:
            self.ifa_refcnt += 1
            return self.ifa_refcnt

    def ifa_free(self) -> None:
        """Give a reference back; the last one frees the address (sys/net/if.c 1462-1473)."""
        with self.kernel.giant:
            if self.ifa_refcnt <= 0:
                raise KernelPanic("refcount PTR underflow", 1466)
            self.ifa_refcnt -= 1
            if self.ifa_refcnt == 0:
                self.kernel.freed("ifaddr")
                self.kernel.freed("counters", COUNTERS_PER_IFADDR)

    def __repr__(self) -> str:
        name = self.ifa_ifp.if_xname if self.ifa_ifp is not None else "-"
        return f"<Ifaddr {name} {self.ifa_addr} refs={self.ifa_refcnt}>"


def ifa_alloc(kernel: Kernel, addr: Sockaddr) -> Ifaddr:
    """Make an address with one reference, the caller's (sys/net/if.c 1419-1453)."""
    kernel.allocated("ifaddr")
    kernel.allocated("counters", COUNTERS_PER_IFADDR)
    return Ifaddr(kernel, addr)


class AddressList:
    """``if_addrhead``: the addresses of one interface, in order, with their look-up tables."""

    __slots__ = ("_first", "_ifp", "_items", "_last", "_octets", "_sorted", "_vnet_table", "table")

    def __init__(self, ifp: Ifnet) -> None:
        self._ifp: Ifnet | None = ifp
        self._items: dict[int, Ifaddr] = {}
        self._sorted: tuple[Ifaddr, ...] | None = ()
        self._first = 0
        self._last = 0
        self.table = AddressTable()
        self._octets: dict[bytes, Ifaddr] = {}
        """IPv4 and IPv6 addresses by their octets, for counting."""
        self._vnet_table: AddressTable | None = None

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Ifaddr]:
        return iter(self.snapshot())

    def __contains__(self, ifa: Ifaddr) -> bool:
        return self._items.get(ifa.position) is ifa

    def snapshot(self) -> tuple[Ifaddr, ...]:
        """The addresses in order, safe against changes while it is walked."""
        if self._sorted is None:
            self._sorted = tuple(self._items[position] for position in sorted(self._items))
        return self._sorted

    def insert_head(self, ifa: Ifaddr) -> None:
        """Put ``ifa`` first; the caller's reference becomes the list's."""
        self._first -= 1
        self._insert(ifa, self._first)

    def insert_tail(self, ifa: Ifaddr) -> None:
        """Put ``ifa`` last; the caller's reference becomes the list's."""
        self._last += 1
        self._insert(ifa, self._last)

    def _insert(self, ifa: Ifaddr, position: int) -> None:
        if ifa._list is not None:
            raise refuse(errno.EEXIST, f"{ifa.ifa_addr} is on the list of an interface already")
        ifa.ifa_ifp = self._ifp
        ifa.position = position
        ifa._list = self
        self._items[position] = ifa
        self._sorted = None
        self.index(ifa)

    def remove(self, ifa: Ifaddr) -> None:
        """Take ``ifa`` off; its reference goes to the caller. Nothing happens when it is not on the list."""
        if ifa not in self:
            return
        self.unindex(ifa)
        del self._items[ifa.position]
        self._sorted = None
        ifa._list = None

    def disown(self) -> None:
        """The interface is freed: point to it no more."""
        self._ifp = None

    def enter(self, vnet_table: AddressTable) -> None:
        """The interface is listed in a vnet now: let its addresses be found there."""
        self._vnet_table = vnet_table
        for ifa in self.snapshot():
            vnet_table.add(ifa)

    def leave(self) -> None:
        """The interface is not listed any more."""
        table, self._vnet_table = self._vnet_table, None
        if table is not None:
            for ifa in self.snapshot():
                table.discard(ifa)

    def index(self, ifa: Ifaddr) -> None:
        """Let ``ifa`` be found by its present parts."""
        self.table.add(ifa)
        if isinstance(ifa.ifa_addr, (SockaddrIn, SockaddrIn6)):
            self._octets.setdefault(ifa.ifa_addr.packed, ifa)
        if self._vnet_table is not None:
            self._vnet_table.add(ifa)

    def unindex(self, ifa: Ifaddr) -> None:
        """Forget where ``ifa`` is found; called before its parts change."""
        self.table.discard(ifa)
        if (
            isinstance(ifa.ifa_addr, (SockaddrIn, SockaddrIn6))
            and self._octets.get(ifa.ifa_addr.packed) is ifa
        ):
            del self._octets[ifa.ifa_addr.packed]
            tables = self.table.family(ifa.ifa_addr.family)
            for twin in tables.exact.get(ifa.ifa_addr.key, ())[:1] if tables is not None else ():
                self._octets[ifa.ifa_addr.packed] = twin  # the same address with another mask
        if self._vnet_table is not None:
            self._vnet_table.discard(ifa)

    def count_input(self, m: Mbuf) -> None:
        """Count a frame for the host at the address that it is sent to (``ip_input``, ``ip6_input``)."""
        kind = m[22:24]
        ifa = self._octets.get(m[40:44] if kind == _IPV4 else m[48:64]) if kind in _IP else None
        if ifa is not None:
            ifa.ifa_ipackets += 1
            ifa.ifa_ibytes += len(m) - _LINK_OCTETS

    def count_output(self, m: Mbuf) -> None:
        """Count a frame of the host at the address that it is sent from (``ip_output``, ``ip6_output``)."""
        kind = m[22:24]
        ifa = self._octets.get(m[36:40] if kind == _IPV4 else m[32:48]) if kind in _IP else None
        if ifa is not None:
            ifa.ifa_opackets += 1
            ifa.ifa_obytes += len(m) - _LINK_OCTETS

    def with_octets(self, octets: bytes) -> Ifaddr | None:
        """The address that has these 4 or 16 octets."""
        return self._octets.get(octets)


def _owner(ifa: Ifaddr) -> Ifnet:
    if ifa.ifa_ifp is None:
        raise refuse(errno.ENXIO, f"{ifa.ifa_addr} belongs to no interface")
    return ifa.ifa_ifp


def ifa_add_loopback_route(ifa: Ifaddr, ia: Sockaddr) -> None:
    """Route ``ia``, the address of ``ifa``, through the vnet's loopback (sys/net/if.c 1475-1502).

    The gateway names the real interface. Raises EEXIST and whatever the stack says.
    """
    ifp = _owner(ifa)
    with ifa.kernel.giant:
        vnet = ifp.curvnet
        info = RtAddrinfo(
            rti_dst=ia,
            rti_gateway=SockaddrDl(),
            rti_flags=ifa.ifa_flags | RTF.HOST | RTF.STATIC,
            rti_ifp=vnet.v_loif,
        )
        try:
            rt = vnet.stack.rtrequest1_fib(RTM.ADD, info, ifp.if_fib)
        except OSError as error:
            ifa.kernel.console.log("debug", f"ifa_add_loopback_route: insertion failed: {error.errno}")
            raise
        if rt is not None:
            _point_gateway_at(rt, ifp)


def ifa_del_loopback_route(ifa: Ifaddr, ia: Sockaddr) -> None:
    """Delete that route (sys/net/if.c 1504-1526). Raises ESRCH and whatever the stack says."""
    ifp = _owner(ifa)
    with ifa.kernel.giant:
        info = RtAddrinfo(
            rti_dst=ia,
            rti_gateway=SockaddrDl(sdl_index=ifp.if_index, sdl_type=ifp.if_type),
            rti_flags=ifa.ifa_flags | RTF.HOST | RTF.STATIC,
        )
        try:
            ifp.curvnet.stack.rtrequest1_fib(RTM.DELETE, info, ifp.if_fib)
        except OSError as error:
            ifa.kernel.console.log("debug", f"ifa_del_loopback_route: deletion failed: {error.errno}")
            raise


def ifa_switch_loopback_route(ifa: Ifaddr, sa: Sockaddr, fib: int) -> None:
    """Make the route to ``sa`` name ``ifa``'s interface (sys/net/if.c 1528-1545).

    Raises EHOSTUNREACH. Only a link-level gateway is written to; the original
    writes into any (quirk 40).
    """
    ifp = _owner(ifa)
    with ifa.kernel.giant:
        rt = ifp.curvnet.stack.rtalloc1_fib(sa, fib)
        if rt is None:
            ifa.kernel.console.log("debug", "ifa_switch_loopback_route: fail")
            raise refuse(errno.EHOSTUNREACH, f"there is no route to {sa} in table {fib}")
        _point_gateway_at(rt, ifp)


def _point_gateway_at(rt: Rtentry, ifp: Ifnet) -> None:
    if rt.rt_gateway is not None and rt.rt_gateway.family is AddressFamily.LINK:
        gateway = rt.rt_gateway
        assert isinstance(gateway, SockaddrDl)
        gateway.sdl_type = ifp.if_type
        gateway.sdl_index = ifp.if_index
