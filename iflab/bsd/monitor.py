"""What ``route -n monitor`` and devd print: routing messages and devctl notices in FreeBSD's layout.

A lab has several machines, so behind the time stands in brackets whom a message is
about; the lines below it are the original's.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence

from iflab.net import RTF, AddressFamily, Sockaddr, SockaddrDl
from iflab.net.rtsock import (
    AddrMessage,
    Announcement,
    DevctlNotice,
    IfMessage,
    MaddrMessage,
    RouteMessage,
    RoutingMessage,
)

from .command import bits_text
from .ifconfig import FLAG_NAMES

__all__ = ["devctl_text", "message_text"]

# Octets of the headers (net/if.h, net/route.h on a 64-bit machine); each address follows in whole words of 8.
_IF_MSGHDR, _IF_ANNOUNCEMSGHDR, _IFA_MSGHDR, _IFMA_MSGHDR, _RT_MSGHDR = 168, 24, 20, 16, 152
_SOCKADDR_DL = 56

_OTHER_NAMES = {"POINTOPOINT": "PTP", "PROMISC": "PPROMISC"}
_IFNET_FLAGS = tuple((bit, _OTHER_NAMES.get(name, name)) for bit, name in FLAG_NAMES if bit < 1 << 16)
"""The 16 bits of a message, as route(8) names them: ``PPROMISC`` is what it calls ``IFF_PROMISC``."""

_DONE = 0x40
_ROUTE_FLAGS = (
    (RTF.UP, "UP"),
    (RTF.GATEWAY, "GATEWAY"),
    (RTF.HOST, "HOST"),
    (RTF.REJECT, "REJECT"),
    (_DONE, "DONE"),
    (RTF.STATIC, "STATIC"),
    (RTF.BLACKHOLE, "BLACKHOLE"),
)


def message_text(message: RoutingMessage) -> str:
    """A routing message as ``route -n monitor`` prints it: an empty line, then several with their last newline."""
    size, body = _body(message)
    when = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(message.time))
    return f"\ngot message of size {size} on {when} ({_about(message)})\n{body}\n"


def _about(message: RoutingMessage) -> str:
    """Host and interface, and what the original's lines do not tell."""
    if isinstance(message, RouteMessage):
        return f"{message.vnet}, fib {message.fib}"
    vnet = message.ifp.if_vnet
    where = f"{vnet.name}:{message.name}" if vnet is not None else message.name
    return f"{where}, mtu {message.mtu}" if isinstance(message, IfMessage) else where


def _body(message: RoutingMessage) -> tuple[int, str]:
    if isinstance(message, IfMessage):
        link = {0: "unknown", 1: "down", 2: "up"}[int(message.link_state)]
        return _IF_MSGHDR, (
            f"RTM_IFINFO: iface status change: len {_IF_MSGHDR}, if# {message.index}, "
            f"link: {link}, flags:{_bits(message.flags, _IFNET_FLAGS)}"
        )
    if isinstance(message, Announcement):
        what = "arrival" if message.arrival else "departure"
        return _IF_ANNOUNCEMSGHDR, (
            f"RTM_IFANNOUNCE: interface arrival/departure: len {_IF_ANNOUNCEMSGHDR}, "
            f"if# {message.index}, what: {what}"
        )
    if isinstance(message, AddrMessage):
        kind = (
            "RTM_NEWADDR: address being added to iface"
            if message.new
            else "RTM_DELADDR: address being removed from iface"
        )
        link = _link_name(message)
        names, parts = (
            ["NETMASK", "IFP", "IFA"],
            [str(message.netmask or "default"), link, str(message.address)],
        )
        size = _IFA_MSGHDR + _room(message.netmask) + _SOCKADDR_DL + _room(message.address)
        if message.dstaddr is not None:
            names.append("BRD")
            parts.append(str(message.dstaddr))
            size += _room(message.dstaddr)
        return size, f"{kind}: len {size}, metric 0, flags:{_sockaddrs(names, parts)}"
    if isinstance(message, MaddrMessage):
        kind = (
            "RTM_NEWMADDR: new multicast group membership on iface"
            if message.new
            else "RTM_DELMADDR: multicast group membership removed from iface"
        )
        names, parts = ["IFP", "IFA"], [_link_name(message), _text(message.address)]
        size = _IFMA_MSGHDR + _SOCKADDR_DL + _room(message.address)
        if message.lladdr is not None:
            names.insert(0, "GATEWAY")
            parts.insert(0, _text(message.lladdr))
            size += _room(message.lladdr)
        return size, f"{kind}: len {size}, {_sockaddrs(names, parts)}"
    return _route(message)


def _route(message: RouteMessage) -> tuple[int, str]:
    kind = "RTM_ADD: Add Route" if message.new else "RTM_DELETE: Delete Route"
    v6 = ":" in message.destination or ":" in (message.gateway or "")
    whole = "::/0" if v6 else "0.0.0.0/0"
    network = ipaddress.ip_network(whole if message.destination == "default" else message.destination)
    host = network.prefixlen == network.max_prefixlen
    flags = (
        message.flags | RTF.UP | _DONE | (RTF.GATEWAY if message.gateway else 0) | (RTF.HOST if host else 0)
    )
    names, parts = ["DST", "GATEWAY"], [str(network.network_address), message.gateway or message.name or "-"]
    if not host:
        names.append("NETMASK")
        parts.append(str(network.netmask))
    size = _RT_MSGHDR + (32 if v6 else 16) * len(parts)
    return size, (
        f"{kind}: len {size}, pid: 0, seq 0, errno 0, flags:{_bits(flags, _ROUTE_FLAGS)}\n"
        f"locks:  inits: {_sockaddrs(names, parts)}"
    )


def _bits(value: int, names: Sequence[tuple[int, str]]) -> str:
    _, bracket, found = bits_text(value, names).partition("<")
    return bracket + found


def _sockaddrs(names: Sequence[str], parts: Sequence[str]) -> str:
    return f"\nsockaddrs: <{','.join(names)}>\n {' '.join(parts)}"


def _text(sa: Sockaddr) -> str:
    """As ``link_ntoa`` and its like write it."""
    return _octets(sa.sdl_lladdr) if isinstance(sa, SockaddrDl) else str(sa)


def _link_name(message: AddrMessage | MaddrMessage) -> str:
    mac = _octets(message.ifp.lladdr)
    return f"{message.name}:{mac}" if mac else message.name


def _octets(mac: bytes) -> str:
    return ".".join(f"{octet:x}" for octet in mac)


def _room(sa: Sockaddr | None) -> int:
    if sa is None:
        return 8
    return _SOCKADDR_DL if sa.family is AddressFamily.LINK else (sa.sa_len + 7) & ~7


def devctl_text(notice: DevctlNotice) -> str:
    """A notice as devd passes it on, one line."""
    more = f" {notice.data}" if notice.data else ""
    return f"!system={notice.system} subsystem={notice.subsystem} type={notice.type}{more}\n"
