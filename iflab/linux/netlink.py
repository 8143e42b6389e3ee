"""rtnetlink: asking the kernel, and telling it what to change.

Requests go over a plain socket that lives as long as a ``with Netlink(netns)``
block: pyroute2's own ``IPRoute`` brings an event loop and costs 140 µs a change
where this costs 30, and its ``NetNS`` forks, which a threaded program must not.

Routes and rules are pyroute2's messages. Those that a lab of a thousand hosts
sends or hears by the thousand (links, addresses, dumps) are written and read
with ``struct`` and pyroute2's attribute numbers: pyroute2 encodes one in 160 µs
and decodes one in 330, this in 5 and 35.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from .errors import KernelRefused, check_name
from .netns import Netns

__all__ = [
    "Addr",
    "Link",
    "Maddr",
    "Neighbour",
    "Netlink",
    "Route",
    "Rule",
    "as_interface",
    "parse_addr",
    "parse_link",
    "parse_maddr",
    "parse_route",
]

_T = TypeVar("_T")

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

NUD_PERMANENT = 0x80

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x300, 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
SOL_NETLINK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 11, 12
_NLMSGERR_ATTR_MSG = 1

IFF_UP, IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI, IFF_MULTICAST = 0x1, 0x80, 0x100, 0x200, 0x1000
IFF_LOWER_UP = 0x10000
IFA_F_TEMPORARY, IFA_F_NODAD, IFA_F_DADFAILED = 0x01, 0x02, 0x08
IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_PERMANENT = 0x20, 0x40, 0x80

RT_TABLE_MAIN = 254
RT_SCOPES = {"universe": 0, "global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
RT_TYPES = {
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
    "throw": 9,
}
_RT_TYPE_NAMES = {number: name for name, number in RT_TYPES.items()}
_RTPROT_STATIC = 4
_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")


def _numbers(message: Any) -> dict[str, int]:
    """Attribute numbers by name, as pyroute2 knows them."""
    rows: tuple[tuple[Any, ...], ...] = message.nla_map
    if rows and isinstance(rows[0][0], int):
        return {row[1]: row[0] for row in rows}
    return {row[0]: number for number, row in enumerate(rows)}


_IFINFO = struct.Struct("BxHiII")
_IFADDR = struct.Struct("BBBBI")
_NDMSG = struct.Struct("BBHiHBB")
_LINK, _ADDR, _ROUTE, _NEIGH, _RULE = map(_numbers, (ifinfmsg, ifaddrmsg, rtmsg, ndmsg, fibmsg))
_IFLA_IFNAME, _IFLA_MTU, _IFLA_ADDRESS = _LINK["IFLA_IFNAME"], _LINK["IFLA_MTU"], _LINK["IFLA_ADDRESS"]
_IFLA_CARRIER, _IFLA_OPERSTATE = _LINK["IFLA_CARRIER"], _LINK["IFLA_OPERSTATE"]
_IFLA_PROMISCUITY, _IFLA_IFALIAS, _IFLA_GROUP = (
    _LINK["IFLA_PROMISCUITY"],
    _LINK["IFLA_IFALIAS"],
    _LINK["IFLA_GROUP"],
)
_IFLA_TXQLEN, _IFLA_LINKINFO, _IFLA_NEW_NETNSID = (
    _LINK["IFLA_TXQLEN"],
    _LINK["IFLA_LINKINFO"],
    _LINK.get("IFLA_NEW_NETNSID", 45),
)
_IFLA_NET_NS_FD = _LINK["IFLA_NET_NS_FD"]
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = _ADDR["IFA_ADDRESS"], _ADDR["IFA_LOCAL"], _ADDR["IFA_BROADCAST"]
_IFA_CACHEINFO = _ADDR["IFA_CACHEINFO"]
_IFA_PROTO = 11
_EVER = 0xFFFFFFFF
_NDA_DST, _NDA_LLADDR = _NEIGH["NDA_DST"], _NEIGH["NDA_LLADDR"]
_IFLA_ALLMULTI = 61
_IFLA_NEW_IFINDEX = 49
_IFLA_INFO_KIND = 1
_IFLA_STATS64 = _LINK["IFLA_STATS64"]
_STATS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
)


@dataclass(slots=True, frozen=True)
class Link:
    """A network device as the kernel tells of it.

    ``flags`` are Linux's ``IFF_*``; ``promiscuity`` and ``allmulti`` count who
    asked (``allmulti`` is -1 on kernels that do not tell); ``new_nsid`` and
    ``new_index`` say where a device went that left its namespace.
    """

    index: int
    name: str
    flags: int
    mtu: int
    mac: bytes
    carrier: bool
    operstate: str
    promiscuity: int
    allmulti: int
    alias: str | None
    group: int
    kind: str | None
    txqlen: int
    stats: dict[str, int]
    new_nsid: int | None = None
    new_index: int | None = None


@dataclass(slots=True, frozen=True)
class Addr:
    """An address of a device; ``family`` is ``socket.AF_INET`` or ``AF_INET6``, ``peer`` the far end.

    ``preferred`` and ``valid`` are the seconds for which it still is so, None for ever; ``origin`` who
    gave it (linux/if_addr.h): 0 somebody, 1 the loopback, 2 a router, 3 the link-local address of the kernel.
    """

    index: int
    family: int
    address: str
    prefixlen: int
    broadcast: str | None
    peer: str | None
    scope: int
    flags: int
    label: str | None
    preferred: int | None = None
    valid: int | None = None
    origin: int = 0


@dataclass(slots=True, frozen=True)
class Route:
    """A route; ``dst`` None is the default route, ``oif`` 0 none."""

    family: int
    dst: str | None
    dst_len: int
    gateway: str | None
    oif: int
    table: int
    type: int
    scope: int
    protocol: int
    priority: int
    prefsrc: str | None
    flags: int

    @property
    def kind(self) -> str:
        """What ``ip`` calls its type: unicast, local, blackhole ..."""
        return _RT_TYPE_NAMES[self.type]


@dataclass(slots=True, frozen=True)
class Maddr:
    """A multicast membership; ``family`` is ``AF_INET``, ``AF_INET6``, or ``AF_PACKET`` with a MAC for address."""

    index: int
    family: int
    address: str


@dataclass(slots=True, frozen=True)
class Neighbour:
    """An entry of the neighbour table."""

    index: int
    family: int
    address: str
    mac: bytes
    state: int


@dataclass(slots=True, frozen=True)
class Rule:
    """A rule of the routing policy database."""

    family: int
    iif: str | None
    table: int
    priority: int


_attribute_header = struct.Struct("HH").unpack_from


def _attributes(data: bytes, offset: int, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while offset + 4 <= end:
        length, kind = _attribute_header(data, offset)
        if not 4 <= length <= end - offset:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("HH", length, kind) + value + b"\0" * (-length & 3)


def _packed(address: str, family: int) -> bytes:
    try:
        return socket.inet_pton(family, address)
    except OSError:
        raise ValueError(
            f"{address!r} is no address of the same family; write 192.0.2.1 or 2001:db8::1"
        ) from None


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _u32(raw: bytes | None, default: int = 0) -> int:
    return default if raw is None else int(struct.unpack_from("I", raw)[0])


def _ip(raw: bytes | None) -> str | None:
    if raw is None or len(raw) not in (4, 16):
        return None
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def parse_link(data: bytes, offset: int, end: int) -> Link:
    """Read ``struct ifinfomsg`` and its attributes, which begin at ``offset``."""
    _, _, _, index, flags, _ = struct.unpack_from("BBHiII", data, offset)
    found = _attributes(data, offset + 16, end)
    operstate = found.get(_IFLA_OPERSTATE, b"\0")[0]
    kind = None
    if _IFLA_LINKINFO in found:
        info = found[_IFLA_LINKINFO]
        kind = _text(_attributes(info, 0, len(info)).get(_IFLA_INFO_KIND))
    stats = found.get(_IFLA_STATS64)
    counters = dict(zip(_STATS, struct.unpack_from("9Q", stats), strict=True)) if stats else {}
    new_nsid, new_index = found.get(_IFLA_NEW_NETNSID), found.get(_IFLA_NEW_IFINDEX)
    return Link(
        index=index,
        name=_text(found.get(_IFLA_IFNAME)) or "",
        flags=flags,
        mtu=_u32(found.get(_IFLA_MTU)),
        mac=found.get(_IFLA_ADDRESS, b""),
        carrier=bool(found.get(_IFLA_CARRIER, b"\0")[0]),
        operstate=_OPERSTATES[operstate] if operstate < len(_OPERSTATES) else str(operstate),
        promiscuity=_u32(found.get(_IFLA_PROMISCUITY)),
        allmulti=_u32(found[_IFLA_ALLMULTI]) if _IFLA_ALLMULTI in found else -1,
        alias=_text(found.get(_IFLA_IFALIAS)) or None,
        group=_u32(found.get(_IFLA_GROUP)),
        kind=kind,
        txqlen=_u32(found.get(_IFLA_TXQLEN)),
        stats=counters,
        new_nsid=struct.unpack_from("i", new_nsid)[0] if new_nsid else None,
        new_index=_u32(new_index) if new_index else None,
    )


def parse_addr(data: bytes, offset: int, end: int) -> Addr:
    """Read ``struct ifaddrmsg`` and its attributes."""
    family, prefixlen, flags, scope, index = struct.unpack_from("BBBBI", data, offset)
    found = _attributes(data, offset + 8, end)
    local, address = _ip(found.get(2)), _ip(found.get(1))
    preferred, valid = struct.unpack_from("II", found.get(_IFA_CACHEINFO, b"\xff" * 8))
    return Addr(
        index=index,
        family=family,
        address=local or address or "",
        prefixlen=prefixlen,
        broadcast=_ip(found.get(4)),
        peer=address if local is not None and address != local else None,
        scope=scope,
        flags=_u32(found.get(8), flags),
        label=_text(found.get(3)),
        preferred=None if preferred == _EVER else preferred,
        valid=None if valid == _EVER else valid,
        origin=found.get(_IFA_PROTO, b"\0")[0],
    )


def parse_route(data: bytes, offset: int, end: int) -> Route:
    """Read ``struct rtmsg`` and its attributes; of a route with several next hops the first is told."""
    family, dst_len, _, _, table, protocol, scope, kind, flags = struct.unpack_from("8BI", data, offset)
    found = _attributes(data, offset + 12, end)
    oif, gateway = _u32(found.get(4)), _ip(found.get(5))
    via = found.get(18)
    if gateway is None and via is not None:
        gateway = _ip(via[2:])
    hops = found.get(9)
    if hops is not None and not oif:
        length, _, _, oif = struct.unpack_from("HBBi", hops)
        gateway = _ip(_attributes(hops, 8, length).get(5))
    return Route(
        family=family,
        dst=_ip(found.get(1)) if dst_len or 1 in found else None,
        dst_len=dst_len,
        gateway=gateway,
        oif=oif,
        table=_u32(found.get(15), table),
        type=kind,
        scope=scope,
        protocol=protocol,
        priority=_u32(found.get(6)),
        prefsrc=_ip(found.get(7)),
        flags=flags,
    )


def parse_maddr(data: bytes, offset: int, end: int) -> Maddr:
    """Read the message of a multicast membership (``struct ifaddrmsg``, ``IFA_MULTICAST``)."""
    family, _, _, _, index = struct.unpack_from("BBBBI", data, offset)
    return Maddr(index, family, _ip(_attributes(data, offset + 8, end).get(7)) or "")


def _parse_neighbour(data: bytes, offset: int, end: int) -> Neighbour:
    family, _, _, index, state, _, _ = _NDMSG.unpack_from(data, offset)
    found = _attributes(data, offset + 12, end)
    return Neighbour(index, family, _ip(found.get(_NDA_DST)) or "", found.get(_NDA_LLADDR, b""), state)


def _parse_rule(data: bytes, offset: int, end: int) -> Rule:
    family, _, _, _, table = struct.unpack_from("5B", data, offset)
    found = _attributes(data, offset + 12, end)
    return Rule(family, _text(found.get(3)), _u32(found.get(15), table), _u32(found.get(6)))


@dataclass(slots=True)
class _Request:
    data: bytes
    what: str


@functools.lru_cache(maxsize=64)  # an address that is put on an interface is read several times on its way
def as_interface(address: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Read an address with its prefix. Raises ``ValueError`` that shows how it is written."""
    try:
        return ipaddress.ip_interface(address)
    except ValueError:
        raise ValueError(f"{address!r} is no address; write 192.0.2.1/24 or 2001:db8::1/64") from None


_log = logging.getLogger("iflab.linux")

_LONGEST = 1 << 16
"""Octets of the longest answer; the kernel sends 32 KiB at most. What is longer is memory that is mapped each time."""


class Netlink:
    """A short conversation with the kernel about one namespace; use it in a ``with`` block, from one thread."""

    def __init__(self, netns: Netns) -> None:
        self.netns = netns
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._batch: list[_Request] | None = None

    def __enter__(self) -> Netlink:
        sock = self.netns.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            with contextlib.suppress(OSError):
                sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise ValueError("a Netlink is used inside its with block")
        return self._socket

    # sending

    def _encode(self, message: Any, kind: int, flags: int) -> bytes:
        self._sequence += 1
        if isinstance(message, bytes):
            header = struct.pack("IHHII", 16 + len(message), kind, flags | NLM_F_REQUEST, self._sequence, 0)
            return header + message
        header = message["header"]
        header["type"], header["flags"], header["sequence_number"] = (
            kind,
            flags | NLM_F_REQUEST,
            self._sequence,
        )
        message.encode()
        return bytes(message.data)

    def _change(self, message: Any, kind: int, flags: int, what: str) -> None:
        request = _Request(self._encode(message, kind, flags | NLM_F_ACK), what)
        if self._batch is not None:
            self._batch.append(request)
        else:
            self._send([request])

    def _send(self, requests: list[_Request]) -> None:
        sock = self._open()
        waiting: dict[int, _Request] = {}
        for start in range(0, len(requests), 64):  # the acks of more would not fit the receive buffer
            part = requests[start : start + 64]
            waiting = {struct.unpack_from("I", r.data, 8)[0]: r for r in part}
            sock.send(b"".join(r.data for r in part))
            for request in part:
                _log.debug("%s: asked the kernel for %s", self.netns.name or "this namespace", request.what)
            refused: KernelRefused | None = None
            while waiting:
                for kind, flags, sequence, data, offset, end in self._messages():
                    answered = waiting.pop(sequence, None)
                    if answered is not None and kind == NLMSG_ERROR:
                        refused = refused or _refusal(answered.what, flags, data, offset, end)
            if refused is not None:
                raise refused

    def _messages(self) -> Iterator[tuple[int, int, int, bytes, int, int]]:
        data = self._open().recv(_LONGEST)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = struct.unpack_from("IHHII", data, offset)
            if not 16 <= length <= len(data) - offset:
                raise KernelRefused(errno.EBADMSG, f"an answer with a message of {length} octets")
            yield kind, flags, sequence, data, offset + 16, offset + length
            offset += (length + 3) & ~3

    @contextlib.contextmanager
    def batch(self) -> Iterator[Netlink]:
        """Collect the changes of a ``with`` block and send them together at its end; the first refusal is raised."""
        if self._batch is not None:
            raise ValueError("batches do not nest")
        self._batch = []
        try:
            yield self
            requests = self._batch
        finally:
            self._batch = None
        if requests:
            self._send(requests)

    def _dump(
        self, message: Any, kind: int, answer: int, parse: Callable[[bytes, int, int], _T], what: str
    ) -> list[_T]:
        while True:
            sequence = self._sequence + 1
            self._open().send(self._encode(message, kind, NLM_F_DUMP))
            rows: list[_T] = []
            interrupted = done = False
            while not done:
                for got, flags, seq, data, offset, end in self._messages():
                    if seq != sequence:
                        continue
                    interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                    if got == answer:
                        rows.append(parse(data, offset, end))
                    elif got in (NLMSG_DONE, NLMSG_ERROR):
                        refused = _refusal(what, flags, data, offset, end)
                        if refused is not None:
                            raise refused
                        done = True
            if not interrupted:
                return rows

    def _get(
        self, message: bytes, kind: int, answer: int, parse: Callable[[bytes, int, int], _T], what: str
    ) -> _T:
        self._open().send(self._encode(message, kind, 0))
        for got, flags, _, data, offset, end in self._messages():
            if got == answer:
                return parse(data, offset, end)
            refused = _refusal(what, flags, data, offset, end)
            if refused is not None:
                raise refused
        raise KernelRefused(errno.ENODATA, what)

    # links

    def link_set(
        self,
        index: int,
        *,
        up: bool | None = None,
        promisc: bool | None = None,
        allmulti: bool | None = None,
        multicast: bool | None = None,
        arp: bool | None = None,
        mtu: int | None = None,
        mac: bytes | None = None,
        name: str | None = None,
        alias: str | None = None,
        carrier: bool | None = None,
        group: int | None = None,
        txqlen: int | None = None,
        netns: Netns | None = None,
    ) -> None:
        """Change a device by index, in one message; None leaves a thing as it is, ``alias=""`` takes it away.

        ``netns`` moves the device there. Raises ``KernelRefused``.
        """
        if name is not None and up is False:
            # Linux takes the name first, and before 6.2 none for a device that is up.
            self.link_set(index, up=False)
        flags = change = 0
        for wanted, bit in (
            (up, IFF_UP),
            (promisc, IFF_PROMISC),
            (allmulti, IFF_ALLMULTI),
            (multicast, IFF_MULTICAST),
            (None if arp is None else not arp, IFF_NOARP),
        ):
            if wanted is not None:
                change |= bit
                flags |= bit if wanted else 0
        attributes, told = b"", []
        if name is not None:
            attributes += _attribute(_IFLA_IFNAME, os.fsencode(check_name(name)) + b"\0")
            told.append(f"name {name}")
        for key, number, value in (
            ("MTU", _IFLA_MTU, mtu),
            ("group", _IFLA_GROUP, group),
            ("queue length", _IFLA_TXQLEN, txqlen),
        ):
            if value is not None:
                attributes += _attribute(number, struct.pack("I", value))
                told.append(f"{key} {value}")
        if mac is not None:
            attributes += _attribute(_IFLA_ADDRESS, mac)
            told.append(f"MAC {mac.hex(':')}")
        if alias is not None:
            attributes += _attribute(_IFLA_IFALIAS, alias.encode("utf-8", "surrogateescape"))
            told.append(f"alias {alias!r}")
        if carrier is not None:
            attributes += _attribute(_IFLA_CARRIER, struct.pack("B", carrier))
        if netns is not None:
            attributes += _attribute(_IFLA_NET_NS_FD, struct.pack("I", netns.fileno()))
            told.append(f"move to {netns.name or 'another namespace'}")
        if change:
            told.append(f"flags {flags:#x} of {change:#x}")
        message = _IFINFO.pack(0, 0, index, flags, change) + attributes
        what = f"device {index} in {self.netns.name or 'this namespace'}: {', '.join(told) or 'change'}"
        self._change(message, RTM_NEWLINK, 0, what)

    def link_get(self, which: int | str) -> Link:
        """One device by index or name. Raises ``KernelRefused`` (ENODEV)."""
        if isinstance(which, int):
            message = _IFINFO.pack(0, 0, which, 0, 0)
        else:
            message = _IFINFO.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, os.fsencode(which) + b"\0")
        return self._get(message, RTM_GETLINK, RTM_NEWLINK, parse_link, f"device {which}")

    def links(self) -> list[Link]:
        """All devices."""
        return self._dump(
            _IFINFO.pack(0, 0, 0, 0, 0), RTM_GETLINK, RTM_NEWLINK, parse_link, "the list of devices"
        )

    def link_del(self, index: int) -> None:
        """Delete a device. Raises ``KernelRefused``."""
        message = _IFINFO.pack(0, 0, index, 0, 0)
        self._change(message, RTM_DELLINK, 0, f"delete device {index}")

    # addresses

    def _address(
        self, index: int, address: str, broadcast: str | None, peer: str | None, flags: int = 0
    ) -> bytes:
        interface = as_interface(address)
        v4 = interface.version == 4
        family = socket.AF_INET if v4 else socket.AF_INET6
        if broadcast == "auto":
            plain = v4 and peer is None and interface.network.prefixlen < 31
            broadcast = str(interface.network.broadcast_address) if plain else None
        attributes = _attribute(_IFA_LOCAL, interface.ip.packed)
        attributes += _attribute(_IFA_ADDRESS, _packed(peer, family) if peer else interface.ip.packed)
        if broadcast is not None:
            attributes += _attribute(_IFA_BROADCAST, _packed(broadcast, family))
        return (
            _IFADDR.pack(family, interface.network.prefixlen, flags if not v4 else 0, 0, index) + attributes
        )

    def addr_add(
        self,
        index: int,
        address: str,
        *,
        broadcast: str | None = "auto",
        peer: str | None = None,
        dad: bool = False,
        lifetime: tuple[int | None, int | None] | None = None,
        replace: bool = False,
    ) -> None:
        """Put an address such as ``192.0.2.1/24`` on a device.

        Without ``dad`` an IPv6 address is usable at once (no duplicate address
        detection). ``lifetime``: the seconds for which it is preferred, and valid; None
        for ever. With ``replace`` one that is there gets these. Raises ``ValueError`` for
        no address, ``KernelRefused`` (EEXIST; EINVAL for lifetimes that cannot be).
        """
        message = self._address(index, address, broadcast, peer, 0 if dad else IFA_F_NODAD)
        if lifetime is not None:
            seconds = [_EVER if each is None else min(each, _EVER) for each in lifetime]
            message += _attribute(_IFA_CACHEINFO, struct.pack("IIII", *seconds, 0, 0))
        how = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
        self._change(message, RTM_NEWADDR, how, f"address {address} on device {index}")

    def addr_del(self, index: int, address: str, *, peer: str | None = None) -> None:
        """Take an address off a device. Raises ``ValueError``, ``KernelRefused`` (EADDRNOTAVAIL)."""
        message = self._address(index, address, None, peer)
        self._change(message, RTM_DELADDR, 0, f"delete address {address} of device {index}")

    def addrs(self, index: int | None = None) -> list[Addr]:
        """All addresses, or those of one device."""
        rows = self._dump(
            _IFADDR.pack(0, 0, 0, 0, 0), RTM_GETADDR, RTM_NEWADDR, parse_addr, "the list of addresses"
        )
        return [row for row in rows if index is None or row.index == index]

    def addr_get(self, index: int, address: str) -> Addr:
        """One IPv6 address of a device; the kernel looks up no IPv4 one. Raises ``KernelRefused`` (EADDRNOTAVAIL)."""
        message = _IFADDR.pack(socket.AF_INET6, 0, 0, 0, index) + _attribute(
            _IFA_ADDRESS, _packed(address, socket.AF_INET6)
        )
        return self._get(
            message, RTM_GETADDR, RTM_NEWADDR, parse_addr, f"address {address} of device {index}"
        )

    # routes

    def _route(
        self,
        destination: str,
        via: str | None,
        index: int | None,
        table: int,
        priority: int | None,
        kind: str,
        scope: str | None,
        src: str | None,
    ) -> Any:
        message = rtmsg()
        v4 = ipaddress.ip_address(via or src or "0.0.0.0").version == 4
        attributes: list[tuple[str, Any]] = []
        if destination not in ("default", "default6"):
            try:
                network = ipaddress.ip_network(destination, strict=False)
            except ValueError:
                raise ValueError(
                    f"{destination!r} is no destination; write 192.0.2.0/24 or 'default'"
                ) from None
            v4 = network.version == 4
            message["dst_len"] = network.prefixlen
            attributes.append(("RTA_DST", str(network.network_address)))
        elif destination == "default6":
            v4 = False
        message["family"] = socket.AF_INET if v4 else socket.AF_INET6
        message["table"] = table if table < 256 else 0
        message["proto"] = _RTPROT_STATIC
        message["type"] = RT_TYPES[kind]
        if scope is None:
            scope = (
                "host"
                if kind == "local"
                else "link"
                if via is None and v4 and kind == "unicast"
                else "universe"
            )
        message["scope"] = RT_SCOPES[scope]
        attributes.append(("RTA_TABLE", table))
        for key, value in (("GATEWAY", via), ("OIF", index), ("PRIORITY", priority), ("PREFSRC", src)):
            if value is not None:
                attributes.append((f"RTA_{key}", value))
        message["attrs"] = attributes
        return message

    def route_add(
        self,
        destination: str,
        *,
        via: str | None = None,
        index: int | None = None,
        table: int = RT_TABLE_MAIN,
        priority: int | None = None,
        kind: str = "unicast",
        scope: str | None = None,
        src: str | None = None,
    ) -> None:
        """Add a route; ``destination`` is a network or ``"default"`` (its family is that of ``via``).

        Raises ``ValueError``, ``KernelRefused`` (EEXIST, ENETUNREACH).
        """
        message = self._route(destination, via, index, table, priority, kind, scope, src)
        through = f" via {via}" if via else f" on device {index}"
        self._change(
            message,
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_EXCL,
            f"route to {destination}{through}, table {table}",
        )

    def route_del(
        self,
        destination: str,
        *,
        via: str | None = None,
        index: int | None = None,
        table: int = RT_TABLE_MAIN,
        priority: int | None = None,
        kind: str = "unicast",
        scope: str | None = None,
        src: str | None = None,
    ) -> None:
        """Delete a route. Raises ``ValueError``, ``KernelRefused`` (ESRCH)."""
        message = self._route(destination, via, index, table, priority, kind, scope or "nowhere", src)
        message["proto"] = 0
        self._change(message, RTM_DELROUTE, 0, f"delete route to {destination}, table {table}")

    def routes(self, table: int | None = None, index: int | None = None) -> list[Route]:
        """All routes of both families, or those of a table or through a device."""
        rows: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            message = rtmsg()
            message["family"] = family
            rows += self._dump(message, RTM_GETROUTE, RTM_NEWROUTE, parse_route, "the list of routes")
        return [r for r in rows if table in (None, r.table) and index in (None, r.oif)]

    # rules and neighbours

    def _rule(self, iif: str, table: int, family: int, priority: int | None) -> Any:
        message = fibmsg()
        message["family"] = family
        message["table"] = table if table < 256 else 0
        message["action"] = 1
        message["attrs"] = [("FRA_IIFNAME", iif), ("FRA_TABLE", table)]
        if priority is not None:
            message["attrs"].append(("FRA_PRIORITY", priority))
        return message

    def rule_add(
        self, iif: str, table: int, *, family: int = socket.AF_INET, priority: int | None = None
    ) -> None:
        """Route what arrives on the device ``iif`` by ``table``. Raises ``KernelRefused``."""
        message = self._rule(iif, table, family, priority)
        self._change(message, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, f"rule iif {iif} table {table}")

    def rule_del(
        self, iif: str, table: int, *, family: int = socket.AF_INET, priority: int | None = None
    ) -> None:
        """Delete such a rule. Raises ``KernelRefused`` (ENOENT)."""
        self._change(self._rule(iif, table, family, priority), RTM_DELRULE, 0, f"delete rule iif {iif}")

    def rules(self, family: int = socket.AF_INET) -> list[Rule]:
        """The routing policy of a family."""
        message = fibmsg()
        message["family"] = family
        return self._dump(message, RTM_GETRULE, RTM_NEWRULE, _parse_rule, "the list of rules")

    def neighbours(self, index: int | None = None) -> list[Neighbour]:
        """The neighbour table (ARP and IPv6), or that of one device."""
        rows: list[Neighbour] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            message = ndmsg()
            message["family"] = family
            rows += self._dump(
                message, RTM_GETNEIGH, RTM_NEWNEIGH, _parse_neighbour, "the list of neighbours"
            )
        return [row for row in rows if index in (None, row.index)]

    def neighbour_add(self, index: int, address: str, mac: bytes) -> None:
        """Enter a neighbour's MAC for good, as ``ip neigh add`` does. Raises ``KernelRefused`` (EEXIST, ENETDOWN)."""
        ip = ipaddress.ip_address(address)
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        message = _NDMSG.pack(family, 0, 0, index, NUD_PERMANENT, 0, 0)
        message += _attribute(_NDA_DST, ip.packed) + _attribute(_NDA_LLADDR, mac)
        what = f"neighbour {address} on device {index}"
        self._change(message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, what)

    def hearers(self) -> dict[bytes, set[int]]:
        """The groups whose frames the chips are to let in, whoever asked for it: MAC as hexadecimal digits, devices."""
        found: dict[bytes, set[int]] = {}
        for line in self.netns.read_list("dev_mcast"):
            index, *_, mac = line.split()
            found.setdefault(mac, set()).add(int(index))
        return found

    def maddrs(self) -> list[Maddr]:
        """Every membership of every device: link level, IPv4, IPv6 (from ``/proc/net`` of the namespace)."""
        read = self.netns.read_list
        with self.netns.entered():
            return [*_dev_mcast(read("dev_mcast")), *_igmp(read("igmp")), *_igmp6(read("igmp6"))]


def _dev_mcast(lines: list[bytes]) -> list[Maddr]:
    rows = (line.split() for line in lines)
    return [Maddr(int(row[0]), socket.AF_PACKET, bytes.fromhex(row[4].decode()).hex(":")) for row in rows]


def _igmp(lines: list[bytes]) -> list[Maddr]:
    rows, index = [], 0
    for line in lines[1:]:
        if not line[:1].isspace():
            index = int(line.split()[0])
        else:
            packed = struct.pack("=I", int(line.split()[0], 16))
            rows.append(Maddr(index, socket.AF_INET, socket.inet_ntop(socket.AF_INET, packed)))
    return rows


def _igmp6(lines: list[bytes]) -> list[Maddr]:
    rows = (line.split() for line in lines)
    return [
        Maddr(int(row[0]), socket.AF_INET6, socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[2].decode())))
        for row in rows
    ]


def _refusal(what: str, flags: int, data: bytes, offset: int, end: int) -> KernelRefused | None:
    """Read ``struct nlmsgerr`` (or the end of a dump); None for success."""
    if end - offset < 4:
        return None
    code = -struct.unpack_from("i", data, offset)[0]
    if code == 0:
        return None
    words = None
    if flags & NLM_F_ACK_TLVS and end - offset >= 20:
        length = struct.unpack_from("I", data, offset + 4)[0]
        start = offset + 20 if flags & NLM_F_CAPPED else offset + 4 + ((length + 3) & ~3)
        words = _text(_attributes(data, start, end).get(_NLMSGERR_ATTR_MSG))
    return KernelRefused(code, what, words)
