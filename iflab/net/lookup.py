"""Finding addresses without walking all interfaces (sys/net/if.c 1547-1863).

The original answers every question by a scan: interfaces in the order of their
attachment, addresses in the order of each list, first match wins. Here the
answers come out of tables, and are the same: where several addresses share a
key they are kept in scan order, and conditions that may change at any time (the
interface's flags, its fib) are asked at look-up.

| question | cost |
| --- | --- |
| complete address, broadcast address, far end | constant |
| network | one step a distinct mask |

Two things bring the original's own loop back, over the matching addresses only,
because its answer then depends on the order in which it meets them (quirk 35):
a carp address among them, or masks with holes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .flags import IFF, AddressFamily
from .sockaddr import Sockaddr, SockaddrDl

if TYPE_CHECKING:
    from .ifaddr import Ifaddr
    from .ifnet import Ifnet

__all__ = [
    "AddressTable",
    "find_best_on_interface",
    "find_broadcast",
    "find_exact",
    "find_far",
    "find_network",
]

_Bucket = list["Ifaddr"]


def _order(ifa: Ifaddr) -> tuple[int, int]:
    return ifa.order


def _insert(bucket: _Bucket, ifa: Ifaddr) -> None:
    if not bucket or bucket[-1].order < ifa.order:  # nearly always
        bucket.append(ifa)
    else:
        insort(bucket, ifa, key=_order)


def _add(table: dict[bytes, _Bucket], key: bytes, ifa: Ifaddr) -> None:
    bucket = table.get(key)
    if bucket is None:
        table[key] = [ifa]
    else:
        _insert(bucket, ifa)


def _remove(bucket: _Bucket, ifa: Ifaddr) -> None:
    del bucket[bisect_left(bucket, ifa.order, key=_order)]


def _discard(table: dict[bytes, _Bucket], key: bytes, ifa: Ifaddr) -> None:
    bucket = table[key]
    _remove(bucket, ifa)
    if not bucket:
        del table[key]


class _Networks:
    """The addresses of one family that share one mask, by network number."""

    __slots__ = ("contiguous", "mask", "networks")

    def __init__(self, mask: int, bits: int) -> None:
        self.mask = mask
        self.networks: dict[int, _Bucket] = {}
        holes = ~mask & ((1 << bits) - 1)
        self.contiguous = holes & (holes + 1) == 0


class _Family:
    """The tables of one address family."""

    __slots__ = ("by_mask", "carps", "claims", "exact", "far", "masks", "ordered", "plain")

    def __init__(self) -> None:
        self.exact: dict[bytes, _Bucket] = {}
        self.far: dict[bytes, _Bucket] = {}
        self.by_mask: dict[int, _Networks] = {}
        self.masks: list[_Networks] = []  # longest first
        self.claims: _Bucket = []
        self.carps = 0
        self.ordered: _Bucket = []  # every address
        self.plain = True  # no mask has holes


class AddressTable:
    """The tables of one interface or of all interfaces of a vnet."""

    __slots__ = ("_families",)

    def __init__(self) -> None:
        self._families: dict[AddressFamily, _Family] = {}

    def family(self, family: AddressFamily) -> _Family | None:
        """The tables of a family, None while it has no address."""
        return self._families.get(family)

    def add(self, ifa: Ifaddr) -> None:
        """Enter ``ifa`` under all its parts."""
        addr = ifa.ifa_addr
        tables = self._families.get(addr.family)
        if tables is None:
            tables = self._families[addr.family] = _Family()
        _insert(tables.ordered, ifa)
        if isinstance(addr, SockaddrDl):
            return  # a MAC may be written at any time: link-level look-ups go another way
        _add(tables.exact, addr.key, ifa)
        if ifa.ifa_dstaddr is not None:
            _add(tables.far, ifa.ifa_dstaddr.key, ifa)
        if ifa.ifa_carp is not None:
            tables.carps += 1
        if ifa.ifa_claim_addr is not None:
            _insert(tables.claims, ifa)
        if ifa.ifa_netmask is not None:
            group = tables.by_mask.get(ifa.mask_value)
            if group is None:
                group = tables.by_mask[ifa.mask_value] = _Networks(ifa.mask_value, len(addr.packed) * 8)
                tables.masks = sorted(tables.by_mask.values(), key=lambda g: g.mask, reverse=True)
                tables.plain = all(g.contiguous for g in tables.masks)
            _insert(group.networks.setdefault(addr.value & ifa.mask_value, []), ifa)

    def discard(self, ifa: Ifaddr) -> None:
        """Take ``ifa`` out again; its parts must be those of ``add``."""
        addr = ifa.ifa_addr
        tables = self._families[addr.family]
        _remove(tables.ordered, ifa)
        if not tables.ordered:
            del self._families[addr.family]
            return
        if isinstance(addr, SockaddrDl):
            return
        _discard(tables.exact, addr.key, ifa)
        if ifa.ifa_dstaddr is not None:
            _discard(tables.far, ifa.ifa_dstaddr.key, ifa)
        if ifa.ifa_carp is not None:
            tables.carps -= 1
        if ifa.ifa_claim_addr is not None:
            _remove(tables.claims, ifa)
        if ifa.ifa_netmask is not None:
            group = tables.by_mask[ifa.mask_value]
            network = addr.value & ifa.mask_value
            _remove(group.networks[network], ifa)
            if not group.networks[network]:
                del group.networks[network]
            if not group.networks:
                del tables.by_mask[ifa.mask_value]
                tables.masks.remove(group)
                tables.plain = all(g.contiguous for g in tables.masks)


def _same_link(ifa: Ifaddr, addr: Sockaddr) -> bool:
    return bool(addr.key) and ifa.ifa_addr.key == addr.key


def _is_broadcast_of(ifa: Ifaddr) -> bool:
    ifp = ifa.ifa_ifp
    return ifp is not None and ifp.if_flags & IFF.BROADCAST != 0


def find_exact(table: AddressTable, addr: Sockaddr) -> Ifaddr | None:
    """First address that is ``addr``, or whose broadcast address it is (1564-1599)."""
    tables = table.family(addr.family)
    if tables is None:
        return None
    if isinstance(addr, SockaddrDl):
        return next((ifa for ifa in tables.ordered if _same_link(ifa, addr)), None)
    exact = tables.exact.get(addr.key)
    far = tables.far.get(addr.key)
    first = exact[0] if exact is not None else None
    if far is not None:
        for ifa in far:
            if _is_broadcast_of(ifa):
                return ifa if first is None or ifa.order < first.order else first
    return first


def find_broadcast(table: AddressTable, addr: Sockaddr) -> Ifaddr | None:
    """First address with broadcast address ``addr`` on an interface that broadcasts (1619-1646)."""
    tables = table.family(addr.family)
    if tables is None:
        return None
    for ifa in tables.far.get(addr.key, ()):
        if _is_broadcast_of(ifa):
            return ifa
    return None


def find_far(table: AddressTable, addr: Sockaddr, fib: int) -> Ifaddr | None:
    """First address with far end ``addr`` on a point-to-point interface of table ``fib`` (1652-1681)."""
    tables = table.family(addr.family)
    if tables is None:
        return None
    for ifa in tables.far.get(addr.key, ()):
        ifp = ifa.ifa_ifp
        assert ifp is not None
        if ifp.if_flags & IFF.POINTOPOINT and ifp.if_fib == fib:
            return ifa
    return None


def _matches(tables: _Family, value: int) -> Iterator[_Bucket]:
    for group in tables.masks:
        bucket = group.networks.get(value & group.mask)
        if bucket is not None:
            yield bucket


def find_network(
    table: AddressTable,
    addr: Sockaddr,
    ignore_ptp: bool,
    fib: int,
    preferred: Callable[[Ifaddr, Ifaddr], bool],
) -> Ifaddr | None:
    """Address on the most specific network that holds ``addr`` (1687-1797).

    On a point-to-point interface an exact IPv4 far end wins at once, whatever
    finer mask there is, unless ``ignore_ptp`` (quirk 36); so does an address
    whose ``ifa_claim_addr`` says yes. ``preferred(current, next)`` is carp's word.
    """
    tables = table.family(addr.family)
    if tables is None or isinstance(addr, SockaddrDl):
        return None
    ptp_apart = addr.family is AddressFamily.INET and not ignore_ptp
    winner = find_far(table, addr, fib) if ptp_apart else None
    for ifa in tables.claims:
        if winner is not None and winner.order < ifa.order:
            break
        ifp, claim = ifa.ifa_ifp, ifa.ifa_claim_addr
        assert ifp is not None
        assert claim is not None
        if ifp.if_fib == fib and not (ptp_apart and ifp.if_flags & IFF.POINTOPOINT) and claim(ifa, addr):
            return ifa
    if winner is not None:
        return winner

    def counts(ifa: Ifaddr) -> bool:
        ifp = ifa.ifa_ifp
        assert ifp is not None
        return (
            ifp.if_fib == fib
            and not (ptp_apart and ifp.if_flags & IFF.POINTOPOINT)
            and ifa.ifa_claim_addr is None
        )

    if tables.plain and not tables.carps:
        for bucket in _matches(tables, addr.value):
            for ifa in bucket:
                if counts(ifa):
                    return ifa
        return None

    best: Ifaddr | None = None
    candidates = sorted((ifa for bucket in _matches(tables, addr.value) for ifa in bucket), key=_order)
    for ifa in candidates:
        if counts(ifa) and (
            best is None or preferred(best, ifa) or _refines(ifa.mask_value, best.mask_value)
        ):
            best = ifa
    return best


def _refines(mask: int, other: int) -> bool:
    """True when ``mask`` asks for all that ``other`` does, and more (``rn_refines``)."""
    return mask != other and mask & other == other


def find_by_name(interfaces: dict[str, list[Ifnet]], addr: SockaddrDl, fib: int) -> Ifaddr | None:
    """Link-level address whose interface name begins ``addr``'s data, longest name first.

    That is what the original's masks over a ``sockaddr_dl`` come to: they cover
    the name and nothing else.
    """
    data = addr.sdl_data
    for length in range(len(data), -1, -1):
        name = data[:length].decode("utf-8", "surrogateescape")
        for ifp in interfaces.get(name, ()):
            if ifp.if_fib == fib and ifp.if_addr is not None:
                return ifp.if_addr
    return None


def find_best_on_interface(ifp: Ifnet, addr: Sockaddr) -> Ifaddr | None:
    """Address of ``ifp`` that fits ``addr`` first, else its first of the family (1803-1848).

    On point-to-point an address fits by its far end; one without a far end fits
    nothing (quirk 38).
    """
    tables = ifp.if_addrhead.table.family(addr.family)
    if tables is None:
        return None
    first = tables.ordered[0]
    if isinstance(addr, SockaddrDl):
        return next((ifa for ifa in tables.ordered if _same_link(ifa, addr)), first)
    found: list[Ifaddr] = [ifa for ifa in tables.exact.get(addr.key, ()) if ifa.ifa_netmask is None][:1]
    point_to_point = bool(ifp.if_flags & IFF.POINTOPOINT)
    far = tables.far.get(addr.key, ())
    found += [ifa for ifa in far if point_to_point or ifa.ifa_netmask is None][:1]
    if not point_to_point:
        found += [bucket[0] for bucket in _matches(tables, addr.value)]
    return min(found, key=_order, default=first)
