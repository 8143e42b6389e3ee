"""Linux as the protocol stack above the interfaces of one vnet.

Two directions, and one rule for each.

*Down*: what the interface layer asks of its protocols (addresses, routes, names,
gratuitous ARP) is asked of the kernel over netlink, at once, and a refusal comes
back as its errno before anything changes.

*Up*: what anyone changes on the Linux side is heard by the ``Listener``. A notice
is only a hint where to look, because it may be older than a change of ours that
is already in force: whatever it concerns is read afresh, compared with the
ifnet, and the differences are applied through the same functions that a change
from inside takes. A lost notice (the socket overflowed) therefore costs nothing
but time, and nothing is ever sent back.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import itertools
import logging
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iflab.addresses import address_ioctl, prefixlen
from iflab.agreement import (
    Difference,
    Journal,
    address_text,
    compare,
    ifnet_account,
    link_account,
    netdev_account,
)
from iflab.bsd.netstat import RouteRow
from iflab.drivers.device import above
from iflab.drivers.tap import TapNic
from iflab.inet6 import inet6_ioctl
from iflab.linux import (
    Addr,
    Change,
    InvalidName,
    Link,
    Maddr,
    Monitor,
    Netlink,
    Netns,
    Route,
    check_name,
    sysctl,
)
from iflab.linux.netlink import IFA_F_DADFAILED, IFA_F_TENTATIVE, as_interface
from iflab.linux.rename import rename
from iflab.net import (
    IFF,
    IFG_ALL,
    PRC,
    RTF,
    RTM,
    AddressFamily,
    Ifaddr,
    Ifmultiaddr,
    Ifnet,
    Ifreq,
    LinkState,
    Mbuf,
    RtAddrinfo,
    Rtentry,
    Sockaddr,
    SockaddrDl,
    SockaddrIn,
    SockaddrIn6,
    Stack,
    Thread,
    UserBuffer,
    Vnet,
    as_sockaddr,
    ether_output,
    if_delmulti_ifma,
    mbuf,
    report,
)
from iflab.net.ioctl import ifhwioctl
from iflab.net.rtsock import AddrMessage, IfMessage, MaddrMessage, RouteMessage, RoutingMessage

__all__ = ["LinuxStack", "Listener"]

_log = logging.getLogger("iflab.stack")

FIBS = 16
"""Routing tables of a vnet; fib 0 is the kernel's main table, fib n the table n."""

_LOCAL_ROUTE = 2
_SHOWN_ROUTES = (1, 2, 6, 7, 8)
"""Unicast, local, blackhole, unreachable and prohibit; not broadcast, anycast and multicast."""

_READS_AT_ONCE, _READS_A_SECOND = 20, 50
"""How often frames that miss the filter may have the groups of a host read, 0.1 ms each: in a burst, and after it."""
_LAB_READS_AT_ONCE, _LAB_READS_A_SECOND = 200, 1000
"""The same of all hosts together: a report of one of hundreds on a wire misses the filters of all others."""
_ALL_GROUPS_EVERY = 0.25
"""Seconds between two looks whether a program wants all groups."""
_AT_ONCE = 500
"""Notices that are read before the engine has its turn again."""
_PATIENCE, _LINK_PATIENCE = 0.4, 1.5
"""Seconds for which a difference must stay before ``lab.check()`` names it: some notices take the kernel time.

Of a carrier that somebody took away it tells once a second at most.
"""

_BELATED = 1.0
"""Seconds after a change to an address within which the kernel tells of it: IPv6 does so from a queue of work."""

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
_MAIN, _LOCAL = 254, 255

_LINUX_UP, _LINUX_NOARP, _LINUX_PROMISC, _LINUX_ALLMULTI = 0x1, 0x80, 0x100, 0x200
_LINUX_MULTICAST = 0x1000
_COMMON = (IFG_ALL, "tap", "em", "")
"""Groups that say nothing about one interface."""
_RELEVANT = _LINUX_UP | _LINUX_NOARP | _LINUX_PROMISC | _LINUX_ALLMULTI
_FAMILIES: dict[int, AddressFamily] = {
    socket.AF_INET: AddressFamily.INET,
    socket.AF_INET6: AddressFamily.INET6,
    socket.AF_PACKET: AddressFamily.LINK,
}


def _sockaddr(text: str) -> Sockaddr:
    return as_sockaddr(text)


def _rtf(route: Route) -> int:
    """Flags of a route that its addresses do not tell."""
    made_by_hand = route.protocol in (3, 4)  # boot and static
    return (
        (RTF.STATIC if made_by_hand else 0)
        | (RTF.BLACKHOLE if route.kind == "blackhole" else 0)
        | (RTF.REJECT if route.kind in ("unreachable", "prohibit") else 0)
    )


def _netmask(family: int, prefixlen: int) -> Sockaddr:
    bits = 32 if family == socket.AF_INET else 128
    value = (1 << bits) - (1 << (bits - prefixlen))
    packed = value.to_bytes(bits // 8, "big")
    return SockaddrIn(packed) if bits == 32 else SockaddrIn6(packed)


_AddressKey = tuple[str, int, str | None]
"""What tells addresses of an interface apart: the address, its prefix length, and broadcast address or far end."""


def _key(addr: Addr) -> _AddressKey:
    return addr.address, addr.prefixlen, addr.peer or addr.broadcast


def _key_of(ifa: Ifaddr) -> _AddressKey:
    far = str(ifa.ifa_dstaddr) if ifa.ifa_dstaddr is not None else None
    return str(ifa.ifa_addr), prefixlen(ifa.ifa_netmask, ifa.ifa_addr), far


@dataclass(slots=True, eq=False)
class _KernelRoute(Rtentry):
    """A route that a walk found, and ``row``, what the kernel says of it."""

    row: Route = field(kw_only=True)


class _Allowance:
    """So many at once, and so many a second after it."""

    def __init__(self, most: float, a_second: float, now: float) -> None:
        self._most, self._a_second = most, a_second
        self._left, self._counted = most, now

    def take(self, now: float, count: float = 1) -> bool:
        """Take ``count`` of what is left; False when that is less."""
        earned = (now - self._counted) * self._a_second
        self._left, self._counted = min(self._most, self._left + earned), now
        if self._left < count:
            return False
        self._left -= count
        return True


class LinuxStack(Stack):
    """The kernel's IPv4, IPv6 and neighbours in one network namespace."""

    rt_numfibs = FIBS
    hands_to_driver = True

    def __init__(self, netns: Netns, now: Callable[[], float], foreign: bool = False) -> None:
        """``foreign``: the namespace is not the lab's; only devices of the lab are touched in it."""
        self.netns = netns
        self.foreign = foreign
        self.vnet: Vnet
        self.nsid = -1
        self._now = now
        self.unsettled = False
        """Made among many, which still goes on: nobody is asked yet whether he wants all groups."""
        self.hear: Callable[[], None] = lambda: None
        """Reads what the kernel told meanwhile; set by the ``Listener``."""
        self.hear_once: Callable[[int], bool] = lambda turns: False
        """The same, the first time in a turn of the lock, and then true; set by the ``Listener``."""
        self.journal = Journal(now)
        """When each field of each interface last changed; the ``Listener``'s own once it listens."""
        self.group_number: Callable[[str], int] = lambda name: 0
        """The number by which the netdevs of a group are known; set by the lab."""
        self.group_name: Callable[[int], str] = lambda number: ""
        """The other way round; empty for no group."""
        self.owe: Callable[[set[Ifnet], Exception], None] = lambda ifps, error: None
        """Told what could not be read and must be later; set by the ``Listener``."""
        self.awaits: Callable[[LinuxStack], None] = lambda stack: None
        """Told when the kernel will tell of a change that was made here."""
        self.doubt: Callable[[Ifnet], None] = lambda ifp: None
        """Told of an interface of which a notice was taken to be old: it is to be looked at when all was told."""
        self.find: Callable[[int | None], LinuxStack | None] = lambda inode: None
        """The stack of the namespace with that inode; set by the ``Listener``."""
        self._nics: dict[int, Ifnet] = {}
        self._groups: dict[Ifnet, dict[tuple[AddressFamily, str], Ifmultiaddr]] = {}
        self._reads = _Allowance(_READS_AT_ONCE, _READS_A_SECOND, now())
        """For frames that miss the filter, to have them read from the kernel's lists."""
        self.lab_reads = self._reads
        """The same for the whole lab; set by the ``Listener``."""
        self._all_groups_looked = now()
        self._hearers: dict[bytes, set[int]] = {}
        self._hearers_at = -1
        """The lock's turn in which they were read."""
        self._routes: list[Route] = []
        """As the present walk found them."""
        self.closing = False
        """The lab ends, and the kernel takes everything away by itself: do not ask it to."""
        self.disabled: dict[Ifnet, list[Addr]] = {}
        """What interfaces had of IPv6 when it was switched off; the kernel takes it away."""
        self._loopback_routes: dict[tuple[bytes, int], Rtentry] = {}
        self._applying: Ifnet | None = None
        """The interface that follows what its host joined."""
        self._rules: set[tuple[str, int]] = set()
        """Names and tables for which rules were made."""
        self._untold: Counter[tuple[int, _AddressKey, bool]] = Counter()
        """Addresses that were added (True) or deleted from here, and whose notices have not come by yet."""
        self._untold_since = 0.0

    # frames

    def input(self, ifp: Ifnet, m: Mbuf) -> None:
        """Let the host receive a frame."""
        ifp.if_addrhead.count_input(m)
        ifp.if_softc.to_host(m)

    # interfaces that it is told of

    def attached(self, ifp: Ifnet) -> None:
        """Care for ``ifp``, a TAP NIC of this namespace, from now on."""
        nic: TapNic = ifp.if_softc
        if self.foreign:  # the same, of this device alone; a machine without IPv6 has no such setting
            with contextlib.suppress(OSError):
                sysctl(self.netns, f"net.ipv6.conf.{ifp.if_xname}.accept_dad", 0)
        self._know(ifp)
        nic.on_group_miss = self._group_miss
        nic.on_groups = self._push_groups
        nic.on_change = self._note
        nic.own_group = self.shown_group
        self._route_by_fibs()
        self.push_group_number(ifp)
        self._push_groups(ifp)  # it may be back from a move that the kernel refused, without its groups
        self._note(ifp)

    def _know(self, ifp: Ifnet) -> None:
        """Know ``ifp`` by the index of its netdev. Who had that index before has another one by now, and is looked for."""
        index = ifp.if_softc.tap.ifindex
        other = self._nics.get(index)
        self._nics[index] = ifp
        if other is not None and other is not ifp:
            self._nics[min(0, *self._nics) - 1] = other  # no netdev has such
            self.doubt(other)

    def detached(self, ifp: Ifnet) -> None:
        """Forget ``ifp``."""
        self._nics = {index: other for index, other in self._nics.items() if other is not ifp}
        self._groups.pop(ifp, None)
        self.disabled.pop(ifp, None)
        index = ifp.if_softc.tap.ifindex
        self._untold = Counter({key: count for key, count in self._untold.items() if key[0] != index})
        self._route_by_fibs()

    def _note(self, ifp: Ifnet) -> None:
        self.journal.note(ifp, ifnet_account(ifp), kernel=False)

    def interface(self, index: int) -> Ifnet | None:
        """The ifnet of the netdev with that index."""
        return self._nics.get(index)

    def interfaces(self) -> list[Ifnet]:
        """All ifnets whose netdev is here."""
        return list(self._nics.values())

    # down: consent before a change

    def consent(self, ifp: Ifnet, what: str, value: Any) -> None:
        """Change the netdev first; what the kernel refuses does not happen to the ifnet either.

        While the ifnet follows its netdev there is nothing to ask for.
        """
        nic = ifp.if_softc
        if not isinstance(nic, TapNic) or nic.tap.fd < 0:
            return
        if not nic.following:
            with Netlink(self.netns) as netlink:
                self._ask(netlink, nic, what, value)
        if what == "fib":
            self.only_ours(f"a rule for {ifp.if_xname}")
            self._route_by_fibs({ifp: (ifp.if_xname, value)})
        elif what == "name":
            nic.name, nic.tap.name = f"{self.vnet.name}:{value}", value
            self._route_by_fibs({ifp: (value, ifp.if_fib)})

    def _ask(self, netlink: Netlink, nic: TapNic, what: str, value: Any) -> None:
        """Ask the kernel for a change of the netdev, unless that is so already."""
        link = netlink.link_get(nic.tap.ifindex)
        if what == "name" and link.name != value:
            self._rename(netlink, link, value)
        elif what == "description" and (link.alias or None) != (value or None):
            netlink.link_set(link.index, alias=value or "")
        elif what == "lladdr" and link.mac != value:
            netlink.link_set(link.index, mac=value)

    def _route_by_fibs(self, soon: Mapping[Ifnet, tuple[str, int]] | None = None) -> None:
        """What arrives on a netdev is routed by the table of its fib (``ip rule show``). Refused, nothing is changed.

        The kernel's rules go by name and outlast the device, so all that were made
        here are held against all that there are; ``soon``: an interface that is
        about to have that name and fib.
        """
        there = {ifp: (ifp.if_xname, ifp.if_fib) for ifp in self._nics.values()} | dict(soon or {})
        wanted = set() if self.foreign else {(name, fib) for name, fib in there.values() if fib}
        if wanted == self._rules:
            return
        made: list[tuple[str, int]] = []
        with Netlink(self.netns) as netlink:
            try:
                for name, fib in wanted - self._rules:
                    made.append((name, fib))
                    self._change_rule(netlink.rule_add, errno.EEXIST, name, fib)
            except OSError:
                for name, fib in made:
                    self._change_rule(netlink.rule_del, errno.ENOENT, name, fib)
                raise
            for name, fib in self._rules - wanted:
                self._change_rule(netlink.rule_del, errno.ENOENT, name, fib)
        self._rules = wanted

    @staticmethod
    def _change_rule(change: Callable[..., None], harmless: int, name: str, fib: int) -> None:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                change(name, fib, family=family)
            except OSError as error:
                without_ipv6 = family is socket.AF_INET6 and error.errno in _NO_SUCH_FAMILY
                if error.errno != harmless and not without_ipv6:
                    raise

    def _ruled(self, netlink: Netlink) -> set[tuple[str | None, int]]:
        """Devices and tables for which there is a rule of every family that the kernel knows."""
        families: list[set[tuple[str | None, int]]] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                families.append({(rule.iif, rule.table) for rule in netlink.rules(family)})
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
        return set.intersection(*families)

    def shown_group(self, ifp: Ifnet) -> int:
        """The number of the group that the netdev stands for: the one it has while that holds, else the first own."""
        own = [name for group in ifp.if_groups if (name := group.ifg_group) not in _COMMON]
        shown = self.group_name(ifp.if_softc.netdev_group)
        return self.group_number(shown if shown in own else own[0] if own else "")

    def push_group_number(self, ifp: Ifnet) -> None:
        """Give the netdev the number of a group of the interface's own, so that ``ip link show group`` finds it."""
        nic: TapNic = ifp.if_softc
        number = self.shown_group(ifp)
        if number == nic.netdev_group or nic.tap.fd < 0 or nic.following:
            return
        try:
            with Netlink(self.netns) as netlink:
                netlink.link_set(nic.tap.ifindex, group=number)
        except OSError as error:
            if error.errno != errno.ENODEV:  # moved away or deleted, and that is told soon
                raise
        nic.netdev_group = number

    def only_ours(self, what: str) -> None:
        """Raise EPERM for what would stay behind in a namespace that is not the lab's."""
        if self.foreign:
            raise OSError(
                errno.EPERM, f"{what} would stay in the machine's own network when the lab has gone"
            )

    @staticmethod
    def _rename(netlink: Netlink, link: Link, name: str) -> None:
        try:
            check_name(name)
        except InvalidName as error:
            raise OSError(errno.EINVAL, str(error)) from error
        rename(netlink, link.index, name)

    # down: addresses

    def add_address(
        self,
        ifp: Ifnet,
        address: str,
        *,
        peer: str | None = None,
        broadcast: str | None = "auto",
        lifetime: tuple[int | None, int | None] | None = None,
        replace: bool = False,
    ) -> Ifaddr:
        """Put ``192.0.2.1/24`` or the like on the interface; ``lifetime`` and ``replace`` as ``Netlink.addr_add``.

        Raises ``ValueError``, and the kernel's errno.
        """
        index = ifp.if_softc.tap.ifindex
        with ifp.kernel.giant:
            with Netlink(self.netns) as netlink:
                netlink.addr_add(
                    index, address, peer=peer, broadcast=broadcast, lifetime=lifetime, replace=replace
                )
            self.look(ifp)
            wanted = as_interface(address)
            ifa = self._find(ifp, str(wanted.ip), wanted.network.prefixlen)
            if ifa is None:
                raise OSError(errno.EADDRNOTAVAIL, f"{ifp.if_xname}: {address} was taken away at once")
            self._will_be_told(ifp, _key_of(ifa), True)
            return ifa

    def add_addresses(self, ifp: Ifnet, addresses: Sequence[str]) -> None:
        """Put several, such as ``192.0.2.1/24``, on an interface that has none; all at once. Raises the kernel's errno."""
        index = ifp.if_softc.tap.ifindex
        with Netlink(self.netns) as netlink, netlink.batch():
            for address in addresses:
                netlink.addr_add(index, address)
        for address in addresses:
            interface = as_interface(address)
            v4, bits = interface.version == 4, interface.network.prefixlen
            broadcast = str(interface.network.broadcast_address) if v4 and bits < 31 else None
            family = socket.AF_INET if v4 else socket.AF_INET6
            addr = Addr(index, family, str(interface.ip), bits, broadcast, None, 0, 0, None)
            self._will_be_told(ifp, _key(addr), True)
            if self._find(ifp, *_key(addr)) is None:
                self._learn_address(ifp, addr)

    def del_address(self, ifp: Ifnet, ifa: Ifaddr) -> None:
        """Take an address off. Raises EADDRNOTAVAIL."""
        with ifp.kernel.giant:
            self._delete(ifp, ifa)
            self.look(ifp)

    def _delete(self, ifp: Ifnet, ifa: Ifaddr) -> None:
        """Delete an address from the netdev. Raises the kernel's errno."""
        address, bits, far = key = _key_of(ifa)
        # Linux deletes by address and far end. What stands there may be a broadcast address as well.
        network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
        ends: list[str | None] = [None]
        if far is not None and ipaddress.ip_address(far).version == network.version:
            ends.insert(far in map(str, (network.broadcast_address,)), far)
        index = ifp.if_softc.tap.ifindex
        with Netlink(self.netns) as netlink:
            for end in ends:
                try:
                    netlink.addr_del(index, f"{address}/{bits}", peer=end)
                except OSError as error:
                    if error.errno != errno.EADDRNOTAVAIL or end is ends[-1]:
                        raise
                else:
                    break
        self._will_be_told(ifp, key, False)

    @staticmethod
    def _find(ifp: Ifnet, address: str, bits: int, far: str | None = "any") -> Ifaddr | None:
        for ifa in ifp.if_addrhead:
            if ifa.ifa_addr.family is AddressFamily.LINK:
                continue
            key = _key_of(ifa)
            if key[:2] == (address, bits) and far in ("any", key[2]):
                return ifa
        return None

    def in_control(self, cmd: str, ifa: Ifaddr, ifp: Ifnet) -> None:
        """Take an IPv4 address off the netdev and off the list."""
        self._take_off(ifp, ifa)

    def in6_purgeaddr(self, ifa: Ifaddr) -> None:
        """Take an IPv6 address off the netdev and off the list."""
        if ifa.ifa_ifp is not None:
            self._take_off(ifa.ifa_ifp, ifa)

    def _take_off(self, ifp: Ifnet, ifa: Ifaddr) -> None:
        nic = ifp.if_softc
        if isinstance(nic, TapNic) and nic.tap.fd >= 0:
            try:
                self._delete(ifp, ifa)
            except OSError as error:
                # ENXIO: an MTU below 1280 has taken IPv6 off the device, and the address with it.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO):
                    raise
        self._forget_address(ifp, ifa)

    def _forget_address(self, ifp: Ifnet, ifa: Ifaddr) -> None:
        addr, mask, far = ifa.ifa_addr, ifa.ifa_netmask, ifa.ifa_dstaddr
        if ifa.ifa_carp is not None and ifp.kernel.hooks.carp_detach_p is not None:
            ifp.kernel.hooks.carp_detach_p(ifa)
        ifp.ifa_remove(ifa)
        ifp.kernel.rtsock.rt_newaddrmsg(ifp, addr, mask, False, far)

    def arp_ifinit(self, ifp: Ifnet, ifa: Ifaddr) -> None:
        """Send a gratuitous ARP request (RFC 5227, 3): neighbours on the wire learn the MAC."""
        if isinstance(ifa.ifa_addr, SockaddrIn):
            mac, ip = ifp.lladdr, ifa.ifa_addr.packed
            arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, ip, b"", ip)
            ether_output(ifp, mbuf(b"\xff" * 6 + mac + b"\x08\x06" + arp))

    def in6_if_up(self, ifp: Ifnet) -> None:
        """The interface is up: so must the netdev be."""
        self._sync_flags(ifp)

    def pfctlinput(self, cmd: PRC, sa: Sockaddr) -> None:
        """The kernel hears of up and down from its netdev."""

    def pru_control(self, cmd: str, data: Any, ifp: Ifnet, td: Thread) -> None:
        """Obey an ioctl of the protocols (``iflab/addresses.py``, ``iflab/inet6.py``)."""
        if not address_ioctl(self, cmd, data, ifp, td) and not inet6_ioctl(self, cmd, data, ifp, td):
            super().pru_control(cmd, data, ifp, td)

    # down: routes

    def _fib(self, table: int) -> int:
        """The fib of a table. Tables that are none belong to fib 0."""
        return table if table < FIBS else 0

    def _table(self, fib: int) -> int:
        return fib or _MAIN

    def rt_walktree(self, family: AddressFamily, fib: int) -> Iterable[Rtentry]:
        """The kernel's routes that lead through an interface of ours; with fib 0 those of tables that are no fib's, too."""
        if family not in (AddressFamily.INET, AddressFamily.INET6) or self.closing:
            return ()
        if family is AddressFamily.INET and fib == 0:  # a walk over all families and tables begins here
            self._routes = self._read_routes()
        return self._entries(family, fib, self._routes) if self._routes else ()

    def _read_routes(self) -> list[Route]:
        with Netlink(self.netns) as netlink:
            return netlink.routes()

    def _entries(self, family: AddressFamily, fib: int, rows: list[Route]) -> Iterator[_KernelRoute]:
        wanted = socket.AF_INET if family is AddressFamily.INET else socket.AF_INET6
        for row in rows:
            ifp = self._nics.get(row.oif)
            if (
                row.family == wanted
                and self._fib(row.table) == fib
                and row.table != _LOCAL
                and ifp is not None
            ):
                any_address = "0.0.0.0" if wanted == socket.AF_INET else "::"
                yield _KernelRoute(
                    rt_key=_sockaddr(row.dst or any_address),
                    rt_mask=_netmask(wanted, row.dst_len),
                    rt_gateway=_sockaddr(row.gateway) if row.gateway else None,
                    rt_flags=RTF.UP | (RTF.GATEWAY if row.gateway else 0),
                    rt_ifp=ifp,
                    rt_fibnum=fib,
                    row=row,
                )

    def route_rows(self, fib: int) -> list[RouteRow]:
        """The kernel's routes of a fib as ``netstat -r`` shows them, the host's own addresses among them."""
        with Netlink(self.netns) as netlink:
            names = {link.index: link.name for link in netlink.links()}
            routes = [r for r in netlink.routes() if r.table in (self._table(fib), *([_LOCAL] * (fib == 0)))]
        rows = []
        for route in routes:
            if route.type not in _SHOWN_ROUTES:
                continue
            v4 = route.family == socket.AF_INET
            host = route.dst_len == (32 if v4 else 128)
            netif = names.get(route.oif, "-")
            zone = f"%{netif}" if route.dst and route.dst.startswith("fe80") else ""
            destination = (
                "default" if not route.dst_len else f"{route.dst}{zone}" + (f"/{route.dst_len}" * (not host))
            )
            local = route.type == _LOCAL_ROUTE
            flags = _rtf(route)
            rows.append(
                RouteRow(
                    AddressFamily.INET if v4 else AddressFamily.INET6,
                    destination,
                    route.gateway or self._link_name(route.oif, netif),
                    "U"
                    + "G" * (route.gateway is not None)
                    + "H" * host
                    + "S" * (local or bool(flags & RTF.STATIC))
                    + "R" * bool(flags & RTF.REJECT)
                    + "B" * bool(flags & RTF.BLACKHOLE),
                    "lo" if local else netif,
                )
            )
        return rows

    def _link_name(self, ifindex: int, name: str) -> str:
        """How a gateway that is a link is written; a device of Linux alone, such as ``lo``, has no index here."""
        ifp = self._nics.get(ifindex)
        return f"link#{ifp.if_index}" if ifp is not None else name

    def rtrequest_fib(self, cmd: RTM, rt: Rtentry, fib: int) -> None:
        """Delete a route that a walk found. One that the kernel deleted meanwhile is no error."""
        assert isinstance(rt, _KernelRoute)
        row = rt.row
        try:
            with Netlink(self.netns) as netlink:
                netlink.route_del(
                    f"{rt.rt_key}/{row.dst_len}",
                    via=row.gateway,
                    index=row.oif,
                    table=row.table,
                    kind=row.kind,
                )
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise

    def rtrequest1_fib(self, cmd: RTM, info: RtAddrinfo, fib: int) -> Rtentry | None:
        """Add or delete a host route through the namespace's ``lo``, in the table of ``fib``."""
        destination = f"{info.rti_dst}/{prefixlen(None, info.rti_dst)}"
        self.only_ours(f"a route to {destination} through lo")
        with Netlink(self.netns) as netlink:
            if cmd is RTM.ADD:
                netlink.route_add(destination, index=1, table=self._table(fib))
                rt = self._loopback_routes[info.rti_dst.key, fib] = Rtentry(
                    info.rti_dst, rt_gateway=info.rti_gateway, rt_flags=info.rti_flags | RTF.UP, rt_fibnum=fib
                )
                return rt
            netlink.route_del(destination, index=1, table=self._table(fib))
        self._loopback_routes.pop((info.rti_dst.key, fib), None)
        return None

    def rtalloc1_fib(self, sa: Sockaddr, fib: int) -> Rtentry | None:
        """Find the route to ``sa``: one made by ``ifa_add_loopback_route``, else the most specific of the kernel."""
        made = self._loopback_routes.get((sa.key, fib))
        if made is not None or isinstance(sa, SockaddrDl):
            return made
        found = None
        for rt in self._entries(sa.family, fib, self._read_routes()):
            if rt.row.table != self._table(fib):
                continue
            mask = rt.rt_mask.value if isinstance(rt.rt_mask, (SockaddrIn, SockaddrIn6)) else 0
            key = rt.rt_key.value if isinstance(rt.rt_key, (SockaddrIn, SockaddrIn6)) else 0
            if sa.value & mask == key & mask and (found is None or mask > found[0]):
                found = mask, rt
        return found[1] if found is not None else None

    # up: what the kernel tells

    def _sync_flags(self, ifp: Ifnet) -> None:
        nic = ifp.if_softc
        if isinstance(nic, TapNic):
            nic.follow()

    def look(self, ifp: Ifnet) -> None:
        """Read everything about one interface afresh and apply what differs."""
        self.refresh({ifp})

    def refresh(self, ifps: Iterable[Ifnet] | None = None) -> None:
        """Read the namespace afresh and apply what differs: to these interfaces, or to all."""
        wanted = set(self._nics.values() if ifps is None else ifps)
        with Netlink(self.netns) as netlink:
            if len(wanted) == 1:
                links = {}
                for ifp in wanted:
                    try:
                        link = netlink.link_get(ifp.if_softc.tap.ifindex)
                    except OSError as error:
                        if error.errno != errno.ENODEV:
                            raise
                    else:
                        links[link.index] = link
            else:
                links = {link.index: link for link in netlink.links()}
            addrs = netlink.addrs()
            maddrs = netlink.maddrs()
        for index, ifp in list(self._nics.items()):
            if ifp not in wanted or self._nics.get(index) is not ifp:  # one led to another, and that away
                continue
            found = links.get(index)
            if found is None:
                self._vanished(ifp)
                continue
            mine = [addr for addr in addrs if addr.index == index]
            joined = [maddr for maddr in maddrs if maddr.index == index]
            self.journal.note(ifp, netdev_account(ifp.if_softc, found, mine, joined), kernel=True)
            self._apply_link(ifp, found)
            if self._nics.get(index) is ifp:
                self._apply_addrs(ifp, mine)
                self._apply_groups(ifp, joined)
                self._note(ifp)

    def unusable_addresses(self) -> list[str]:
        """Addresses of NICs with a link that nobody can use yet: the kernel still asks whether they are free.

        Raises ``OSError`` (EADDRINUSE) for one that is somebody else's (RFC 4862, 5.4).
        """
        found = []
        with Netlink(self.netns) as netlink:
            addrs = netlink.addrs()
        for addr in addrs:
            ifp = self._nics.get(addr.index)
            unusable = addr.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)
            if ifp is None or not unusable or ifp.if_softc.operstate != "UP":
                continue
            what = f"{ifp.if_softc.name} {addr.address}"
            if addr.flags & IFA_F_DADFAILED:
                raise OSError(errno.EADDRINUSE, f"{what} is somebody else's, too")
            found.append(f"{what} is tentative")
        return found

    def disagreements(self) -> list[Difference]:
        """Compare every ifnet with the kernel's own account of its netdev; nothing is applied."""
        with Netlink(self.netns) as netlink:
            links = {link.index: link for link in netlink.links()}
            addrs = netlink.addrs()
            ruled = self._ruled(netlink)
            maddrs = netlink.maddrs()
        found: list[Difference] = []
        for index, ifp in self._nics.items():
            link = links.get(index)
            account = None
            if link is not None:
                mine = [addr for addr in addrs if addr.index == index]
                joined = [maddr for maddr in maddrs if maddr.index == index]
                account = netdev_account(ifp.if_softc, link, mine, joined)
                # Rules that others made for the device are their own affair, and so is a foreign namespace.
                account["fib"] = ifp.if_fib if self.foreign or (link.name, ifp.if_fib) in ruled else 0
            found += compare(self.journal, ifp, account)
        return found

    def _vanished(self, ifp: Ifnet) -> None:
        """The netdev was not here: somebody moved it with Linux's own means, or deleted it.

        The ifnet follows to another host of the lab; else it is gone. One that has come
        back meanwhile is another one to Linux, with nothing of what it had.
        """
        nic: TapNic = ifp.if_softc
        target = self.find(nic.tap.netns_inode())
        if target is None:
            ifp.if_detach()
            ifp.if_free()
            return
        nic.arrived(target.netns, target.vnet)
        if target is self:
            self._nics = {index: other for index, other in self._nics.items() if other is not ifp}
            self._know(ifp)
            self._push_groups(ifp)
        else:
            with ifp.kernel.curvnet_set(self.vnet):
                ifp.if_vmove(target.vnet)
        try:
            target.look(ifp)
        except OSError as error:  # moved on, perhaps: it is the other host's to look again
            target.owe({ifp}, error)
        else:
            target.doubt(ifp)  # a notice that it moved on may have come before it was known here

    def apply_change(self, ifp: Ifnet, change: Change) -> None:
        """Apply a notice of an address or a group that came or went.

        It may be old; then the one that undoes it is on its way.
        """
        record, new = change.record, change.kind.startswith("new")
        if isinstance(record, Addr):
            if self._is_old(record, new):
                self.doubt(ifp)
                return
            ifa = self._find(ifp, *_key(record))
            if not new and ifa is not None:
                self._forget_address(ifp, ifa)
            elif new and ifa is None:
                self._learn_address(ifp, record)
        elif isinstance(record, Maddr):
            held, key = self._groups.setdefault(ifp, {}), (_FAMILIES[record.family], record.address)
            before, self._applying = self._applying, ifp
            try:
                if new and key not in held:
                    held[key] = ifp.if_addmulti(record.address)
                elif not new and key in held:
                    if_delmulti_ifma(held.pop(key))
            finally:
                self._applying = before

    def pass_over(self, change: Change) -> None:
        """A notice that need not be applied, because everything is read afresh."""
        if isinstance(change.record, Addr):
            self._is_old(change.record, change.kind.startswith("new"))

    def _is_old(self, addr: Addr, new: bool) -> bool:
        """True while a later change of ours to the same address is still to be told: what is told now is past."""
        untold = self._untold
        key = (addr.index, _key(addr), new)
        if untold[key] > 1:
            untold[key] -= 1
            return True
        del untold[key]
        return (addr.index, _key(addr), not new) in untold

    def _will_be_told(self, ifp: Ifnet, key: _AddressKey, new: bool) -> None:
        self._untold[ifp.if_softc.tap.ifindex, key, new] += 1
        self._untold_since = self._now()
        self.awaits(self)

    def all_told(self, lost: bool = False) -> bool:
        """All that the kernel had to tell was heard (or ``lost``): what it did not tell of our changes it never will.

        True when nothing of them is awaited any more.
        """
        if self._untold and (lost or self._now() > self._untold_since + _BELATED):
            self._untold.clear()
        return not self._untold

    def _learn_address(self, ifp: Ifnet, addr: Addr) -> None:
        ifa = ifp.ifa_add(addr.address, _netmask(addr.family, addr.prefixlen), addr.peer or addr.broadcast)
        ifp.kernel.rtsock.rt_newaddrmsg(ifp, ifa.ifa_addr, ifa.ifa_netmask, True, ifa.ifa_dstaddr)

    def agrees(self, ifp: Ifnet, link: Link) -> bool:
        """True when a link message says nothing that the ifnet does not say."""
        nic: TapNic = ifp.if_softc
        return (
            not (nic.netdev_flags ^ link.flags) & _RELEVANT
            and bool(link.flags & _LINUX_MULTICAST) == bool(ifp.if_flags & IFF.MULTICAST)
            and self._others_want_all_groups(nic, link) == nic.kernel_allmulti
            and ifp.if_xname == link.name
            and ifp.if_mtu == link.mtu
            and ifp.lladdr == link.mac
            and (ifp.if_description or None) == link.alias
            and (ifp.if_link_state is LinkState.UP) == link.carrier
            and nic.netdev_group == link.group
            and nic.kernel_promisc == (link.promiscuity > bool(link.flags & _LINUX_PROMISC))
        )

    @contextlib.contextmanager
    def _following(self, ifp: Ifnet) -> Iterator[Callable[..., None]]:
        """Let ``ifp`` follow its netdev: what is done meanwhile is so in the kernel, and not asked of it.

        Gives a function that makes an interface ioctl on ``ifp``, whatever its name is at the moment.
        """
        nic: TapNic = ifp.if_softc
        td, before = self.vnet.thread(), nic.following

        def command(cmd: str, **fields: Any) -> None:
            ifhwioctl(cmd, ifp, Ifreq(ifp.if_xname, **fields), td)

        nic.following = True
        try:
            with ifp.kernel.curvnet_set(self.vnet):
                yield command
        finally:
            nic.following = before

    def _apply_link(self, ifp: Ifnet, link: Link) -> None:
        nic: TapNic = ifp.if_softc
        nic.netdev_flags = link.flags & 0xFFFF
        nic.operstate = link.operstate
        self._apply_name(ifp, link.name)
        self._apply_group(ifp, link.group)
        self._apply_description(ifp, link.alias)
        with self._following(ifp) as command:
            if ifp.lladdr != link.mac:
                command("SIOCSIFLLADDR", ifr_addr=SockaddrDl(sdl_lladdr=link.mac))
                nic.reprogram()
            if ifp.if_mtu != link.mtu:
                nic.netdev_mtu = link.mtu
                ifp.if_mtu = link.mtu  # any that Linux takes, also below if.c's least
                nic.rethink()
                ifp.touch()
                ifp.kernel.rtsock.rt_ifmsg(ifp)
                self.nd6_setmtu(ifp)
            self._apply_flags(ifp, nic, link, command)
        self._sync_flags(ifp)  # what we hold ourselves and somebody switched off is switched on again
        state = LinkState.UP if link.carrier else LinkState.DOWN
        if ifp.if_link_state is not state:
            ifp.if_link_state_change(state)

    @staticmethod
    def _apply_description(ifp: Ifnet, alias: str | None) -> None:
        if (ifp.if_description or None) != alias:
            ifp.set_description(alias)  # any that Linux takes, also above net.ifdescr_maxlen
            ifp.touch()

    def look_at_the_untold(self) -> None:
        """Read what the kernel never tells.

        Groups of packet sockets; all-multicast mode that a program asked for (such
        sockets, multicast routers); alias and group of a device that is down.
        """
        self.look_groups(self.interfaces())
        with Netlink(self.netns) as netlink:
            links = netlink.links()
        for link in links:
            ifp = self._nics.get(link.index)
            if ifp is None:
                continue
            if self._apply_allmulti(ifp, link):
                self._sync_flags(ifp)
            if not link.flags & _LINUX_UP:
                self._apply_description(ifp, link.alias)
                self._apply_group(ifp, link.group)

    def _apply_name(self, ifp: Ifnet, name: str) -> None:
        """Follow a rename. Whoever still has that name here has lost it in the kernel, and follows first."""
        if ifp.if_xname == name:
            return
        other = self.vnet.ifunit(name)
        theirs = self._present_name(other) if other is not None else None
        if theirs == name:
            return  # what was read is old, and what tells so is on its way
        if other is not None and theirs is not None:
            # Names that went round in a circle did so by way of another one.
            taken = self.vnet.ifunit(theirs) is not None
            self._rename_ifnet(other, self._passing_name() if taken else theirs)
        self._rename_ifnet(ifp, name)
        if other is not None and theirs is not None:
            self._apply_name(other, theirs)

    def _present_name(self, ifp: Ifnet) -> str | None:
        """The name of its netdev; None, and the interface is gone from here, when there is none."""
        try:
            with Netlink(self.netns) as netlink:
                return netlink.link_get(ifp.if_softc.tap.ifindex).name
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        self._vanished(ifp)
        return None

    def _rename_ifnet(self, ifp: Ifnet, name: str) -> None:
        with self._following(ifp) as command:
            command("SIOCSIFNAME", ifr_buffer=UserBuffer(len(name), name))

    def _passing_name(self) -> str:
        return next(name for n in itertools.count() if self.vnet.ifunit(name := f"renamed{n}") is None)

    def _apply_group(self, ifp: Ifnet, number: int) -> None:
        """Follow ``ip link set group``: out of the group that the netdev stood for, into the one of that number."""
        nic: TapNic = ifp.if_softc
        before, nic.netdev_group = nic.netdev_group, number
        if number == before:
            return
        own = {group.ifg_group for group in ifp.if_groups}
        with self._following(ifp):
            if (old := self.group_name(before)) in own:
                ifp.if_delgroup(old)
            if (new := self.group_name(number)) and new not in own:
                ifp.if_addgroup(new)
        self.push_group_number(ifp)  # another one that it is still in

    def _apply_flags(self, ifp: Ifnet, nic: TapNic, link: Link, command: Callable[..., None]) -> None:
        flags = ifp.if_flags
        wanted = nic.wanted_flags()
        for linux, bsd in ((_LINUX_UP, IFF.UP), (_LINUX_NOARP, IFF.NOARP)):
            if (link.flags ^ wanted) & linux:
                flags = flags & ~bsd | (bsd if link.flags & linux else 0)
        if (link.flags ^ wanted) & _LINUX_PROMISC:
            on = bool(link.flags & _LINUX_PROMISC)
            flags = flags | IFF.PPROMISC if on else flags & ~IFF.PPROMISC
        if flags != ifp.if_flags:
            command("SIOCSIFFLAGS", ifr_flags=flags)
        if bool(link.flags & _LINUX_MULTICAST) != bool(ifp.if_flags & IFF.MULTICAST):
            ifp.if_flags ^= IFF.MULTICAST
            ifp.kernel.rtsock.rt_ifmsg(ifp)
        # Programs of the host that sniff hold one reference together; so does the all-multicast mode of others.
        sniffed = link.promiscuity > bool(link.flags & _LINUX_PROMISC)
        if sniffed != nic.kernel_promisc:
            nic.kernel_promisc = sniffed
            ifp.ifpromisc(sniffed)
        self._apply_allmulti(ifp, link)

    def _apply_allmulti(self, ifp: Ifnet, link: Link) -> bool:
        """Hold or give back the one reference for all who want all groups; True when that changed."""
        nic: TapNic = ifp.if_softc
        others = self._others_want_all_groups(nic, link)
        if others == nic.kernel_allmulti:
            return False
        nic.kernel_allmulti = others
        nic.netdev_flags = nic.netdev_flags & ~_LINUX_ALLMULTI | link.flags & _LINUX_ALLMULTI
        with self._following(ifp):
            ifp.if_allmulti(others)
        return True

    @staticmethod
    def _others_want_all_groups(nic: TapNic, link: Link) -> bool:
        own = bool(nic.wanted_flags() & _LINUX_ALLMULTI)
        asked = link.allmulti if link.allmulti >= 0 else int(bool(link.flags & _LINUX_ALLMULTI))
        return asked > own

    def _apply_addrs(self, ifp: Ifnet, addrs: list[Addr]) -> None:
        there = {_key(addr): addr for addr in addrs}
        for ifa in ifp.if_addrhead:
            if ifa.ifa_addr.family is not AddressFamily.LINK and there.pop(_key_of(ifa), None) is None:
                self._forget_address(ifp, ifa)
        for addr in there.values():
            self._learn_address(ifp, addr)

    # up: groups that programs of the host joined

    def _group_miss(self, ifp: Ifnet, mac: bytes) -> bool:
        """A frame for the group ``mac`` missed the filter: it may be for a vlan, or the lagg, whose group it is.

        True when something was found that may let it in.
        """
        tower = [ifp]
        for each in tower:
            tower += above(each)
        # A vlan may be in another host than what carries it.
        stacks = {each.if_vnet.stack for each in tower if each.if_vnet is not None}
        looks = [stack._look_for_group(tower, mac) for stack in stacks if isinstance(stack, LinuxStack)]
        return any(looks)

    def _look_for_group(self, tower: Iterable[Ifnet], mac: bytes) -> bool:
        """Look whether the host joined a group on one of these interfaces, and we do not know yet; True when we may now.

        Memberships of packet sockets are never told, those of IP only by Linux 6.14
        and later: the kernel's lists are read, each time, for a program may have
        joined since the last. Only a flood of strange frames is not looked into one
        by one; then what the kernel has told, and nobody has read yet, must do.
        """
        now, turns = self._now(), self.vnet.kernel.giant.turns
        if self._hearers_at != turns:  # else they were read after this frame was sent: it came with others
            if not (self._reads.take(now) and self.lab_reads.take(now)):
                return self.hear_once(turns)
            self._hearers, self._hearers_at = Netlink(self.netns).hearers(), turns
        ours = {ifp.if_softc.tap.ifindex: ifp for ifp in tower if ifp in self.interfaces()}
        joined = [ours[index] for index in self._hearers.get(mac.hex().encode(), ()) if index in ours]
        if joined:
            self.hear()
            untold = [ifp for ifp in joined if mac not in ifp.if_multiaddrs.link_addresses()]
            if untold:
                self.look_groups(untold)
            return True
        # Most are of another kind: reports of groups, which no host joins. Or a program wants them all; to find
        # that out is three times as dear, but what 'ip link' sets is told.
        if self.unsettled:
            return False
        if now < self._all_groups_looked + _ALL_GROUPS_EVERY or not self.lab_reads.take(now, 3):
            return self.hear_once(turns)
        self._all_groups_looked = now
        with contextlib.suppress(OSError), Netlink(self.netns) as netlink:
            for index, ifp in ours.items():
                self._apply_allmulti(ifp, netlink.link_get(index))
        return True

    def look_groups(self, ifps: Iterable[Ifnet]) -> None:
        """Read the groups of the namespace afresh and apply what differs to these interfaces."""
        maddrs = Netlink(self.netns).maddrs()
        for ifp in ifps:
            index = ifp.if_softc.tap.ifindex
            self._apply_groups(ifp, [maddr for maddr in maddrs if maddr.index == index])

    def _apply_groups(self, ifp: Ifnet, maddrs: list[Maddr]) -> None:
        held = self._groups.setdefault(ifp, {})
        nic: TapNic = ifp.if_softc
        wanted: dict[tuple[AddressFamily, str], None] = {}
        images: set[str] = set()
        for maddr in maddrs:
            if maddr.family != socket.AF_PACKET:
                wanted[_FAMILIES[maddr.family], maddr.address] = None
                image = nic.if_resolvemulti(ifp, _sockaddr(maddr.address))
                images.add(str(image))
        ours = {mac.hex(":") for mac in nic.pushed_groups}
        for maddr in maddrs:
            if maddr.family == socket.AF_PACKET and maddr.address not in images | ours:
                wanted[AddressFamily.LINK, maddr.address] = None
        before, self._applying = self._applying, ifp
        try:
            for key in [key for key in held if key not in wanted]:
                if_delmulti_ifma(held.pop(key))
            for key in wanted:
                if key not in held:
                    held[key] = ifp.if_addmulti(key[1])
        finally:
            self._applying = before

    def _push_groups(self, ifp: Ifnet) -> None:
        """The multicast list changed from inside: the netdev's follows. What the host joined is there already."""
        if self._applying is not ifp:
            ifp.if_softc.push_groups(self.own_groups(ifp))

    def own_groups(self, ifp: Ifnet) -> set[bytes]:
        """MACs of the groups that somebody besides the host holds: those that the netdev must be given."""
        held = set(map(id, self._groups.get(ifp, {}).values()))
        macs: set[bytes] = set()
        for ifma in ifp.if_multiaddrs:
            if ifma.held > (id(ifma) in held):
                macs.add((ifma.ifma_lladdr or ifma.ifma_addr).key)
        return {mac for mac in macs if len(mac) == 6}


class Listener:
    """Hears all namespaces of a lab and lets each one's stack look where something happened."""

    def __init__(self, home: Netns, now: Callable[[], float]) -> None:
        self.monitor = Monitor(home)
        self._stacks: dict[int, LinuxStack] = {}
        self.journal = Journal(now)
        self.overflows = 0
        self.on_heard: Callable[[], None] = lambda: None
        """Called, with the lock held, after something was heard."""
        self.later: Callable[[], object] = lambda: None
        """Lets ``readable`` be called again in a while; set by the lab."""
        self._reads = _Allowance(_LAB_READS_AT_ONCE, _LAB_READS_A_SECOND, time.monotonic())
        self._heard_at = -1
        """The lock's turn in which a frame last wanted it heard."""
        self._owed: dict[LinuxStack, set[Ifnet]] = {}
        """What could not be read afresh the last time (no open file was left, no memory)."""
        self._awaiting: set[LinuxStack] = set()
        """Those of whose own changes the kernel has still to tell."""

    def watch(self, stack: LinuxStack) -> None:
        """Hear the namespace of ``stack`` from now on."""
        stack.nsid = self.monitor.watch(stack.netns)
        self._stacks[stack.nsid] = stack
        stack.journal = self.journal
        stack.lab_reads = self._reads
        stack.hear = self.readable
        stack.hear_once = self._hear_once
        stack.owe = functools.partial(self._owe, stack)
        stack.doubt = functools.partial(self._look_later, stack)
        stack.awaits = self._await_notices
        stack.find = self._by_inode

    def forget(self, stack: LinuxStack) -> None:
        """Hear it no more."""
        self._stacks.pop(stack.nsid, None)
        self._owed.pop(stack, None)
        self._awaiting.discard(stack)

    def readable(self, limit: int | None = _AT_ONCE) -> None:
        """Read what was told, of about ``limit`` messages or all; with the lock held, mostly on the engine's thread."""
        dirty, self._owed = self._owed, {}
        links: dict[Ifnet, tuple[LinuxStack, Link]] = {}
        changes: list[tuple[LinuxStack, Ifnet, Change]] = []
        for change in self.monitor.read(limit=limit):
            if change.kind == "overflow":
                self.overflows += 1
                _log.info("the kernel told more than we could hear; reading everything afresh")
                for stack in self._stacks.values():
                    stack.all_told(lost=True)
                    dirty.setdefault(stack, set()).update(stack.interfaces())
                continue
            found = self._stacks.get(change.nsid)
            if found is None or change.record is None:
                continue
            if isinstance(change.record, Route):
                self._route(found, change.record, change.kind == "newroute")
                continue
            ifp = found.interface(change.record.index)
            if ifp is None:
                continue
            self._witness(ifp, change)
            if change.kind == "dellink":
                dirty.setdefault(found, set()).add(ifp)
                if not found.closing:  # what is read while things move may be old: once more later
                    for each in found.interfaces():
                        self._look_later(found, each)
            elif isinstance(change.record, Link):
                ifp.if_softc.operstate = (
                    change.record.operstate
                )  # nothing else changes with it, and nobody asks
                links[ifp] = found, change.record  # the last one counts
            else:
                changes.append((found, ifp, change))
        for ifp, (found, link) in links.items():
            if not found.agrees(ifp, link):
                dirty.setdefault(found, set()).add(ifp)
        for found, ifp, change in changes:
            if ifp in dirty.get(found, ()):
                found.pass_over(change)
            else:
                try:
                    found.apply_change(ifp, change)
                except Exception as error:
                    self._owe(found, {ifp}, error)
        for stack, ifps in dirty.items():
            try:
                stack.refresh([ifp for ifp in ifps if ifp in stack.interfaces()])
            except Exception as error:
                self._owe(stack, ifps, error)
        if self.monitor.drained:
            self._awaiting = {stack for stack in self._awaiting if not stack.all_told()}
        self.on_heard()

    def _hear_once(self, turns: int) -> bool:
        """Hear, unless that was done since the frames of this turn of the lock were sent."""
        if self._heard_at == turns:
            return False
        self._heard_at = turns
        self.readable()
        return True

    def _owe(self, stack: LinuxStack, ifps: set[Ifnet], error: Exception) -> None:
        """It could not be read now; nothing is lost as long as it is later. A bug is told and not tried again."""
        if stack not in self._stacks.values():
            return
        name = stack.netns.name or "a host"
        if not isinstance(error, OSError):
            report(_log, error, "what the kernel told of %s could not be followed", name)
            return
        _log.warning("%s cannot be read now, and will be later: %s", name, error)
        for ifp in ifps:
            self._look_later(stack, ifp)

    def _await_notices(self, stack: LinuxStack) -> None:
        self._awaiting.add(stack)

    def _look_later(self, stack: LinuxStack, ifp: Ifnet) -> None:
        if not self._owed:
            self.later()
        self._owed.setdefault(stack, set()).add(ifp)

    def _witness(self, ifp: Ifnet, change: Change) -> None:
        record = change.record
        if isinstance(record, Link):
            if change.kind == "newlink":
                self.journal.note(ifp, link_account(record), kernel=True)
            else:
                self.journal.told(ifp, "netdev", record.name, "gone", kernel=True)
            return
        how = "new" if change.kind.startswith("new") else "gone"
        if isinstance(record, Addr):
            text = address_text(record.address, record.prefixlen, record.peer or record.broadcast)
            self.journal.told(ifp, "addresses", text, how, kernel=True)
        elif isinstance(record, Maddr):
            self.journal.told(ifp, "groups joined", record.address, how, kernel=True)

    def heard(self, message: RoutingMessage) -> None:
        """Hear what the interface layer says of itself, for the journal."""
        if isinstance(message, RouteMessage) or not isinstance(message.ifp.if_softc, TapNic):
            return
        if isinstance(message, IfMessage):
            nic = message.ifp.if_softc
            if bool(message.flags & IFF.UP) != bool(nic.netdev_flags & _LINUX_UP):
                nic.follow()  # if_up and if_down tell the protocols only
            self.journal.note(message.ifp, ifnet_account(message.ifp), kernel=False)
        elif isinstance(message, (AddrMessage, MaddrMessage)):
            field = "addresses" if isinstance(message, AddrMessage) else "groups joined"
            self.journal.told(
                message.ifp, field, message.address, "new" if message.new else "gone", kernel=False
            )

    def disagreements(self) -> list[Difference]:
        """Compare every ifnet with the kernel, after hearing all that it has told; lock held.

        What the kernel told only meanwhile is heard, and looked at again.
        """
        began = time.monotonic()
        while True:
            self.readable()
            for stack in self._stacks.values():
                stack.look_at_the_untold()
            found = [each for stack in self._stacks.values() for each in stack.disagreements()]
            patience = _LINK_PATIENCE if {each.field for each in found} == {"link"} else _PATIENCE
            if not found or time.monotonic() > began + patience:
                return found
            select.select([self.monitor], [], [], 0.05)

    def _by_inode(self, inode: int | None) -> LinuxStack | None:
        return next((stack for stack in self._stacks.values() if stack.netns.inode == inode), None)

    def _route(self, stack: LinuxStack, route: Route, new: bool) -> None:
        if stack.vnet is None:
            return
        ifp = stack.interface(route.oif)
        stack.vnet.kernel.rtsock.post(
            RouteMessage(
                destination=f"{route.dst}/{route.dst_len}" if route.dst else "default",
                gateway=route.gateway,
                name=ifp.if_xname if ifp is not None else None,
                fib=0 if route.table == _MAIN else route.table,
                new=new,
                vnet=stack.vnet.name,
                flags=_rtf(route),
            )
        )

    def close(self) -> None:
        """Hear nothing any more."""
        self.monitor.close()
