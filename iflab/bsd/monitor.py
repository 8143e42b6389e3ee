"""What ``route -n monitor`` and devd print: routing messages and devctl notices in FreeBSD's layout."""

from __future__ import annotations

import time

from iflab.net import AddressFamily, Sockaddr
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


def message_text(message: RoutingMessage) -> str:
    """A routing message as ``route -n monitor`` prints it, several lines with their last newline."""
    size, body = _body(message)
    when = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(message.time))
    return f"got message of size {size} on {when}\n{body}\n"


def _body(message: RoutingMessage) -> tuple[int, str]:
    if isinstance(message, IfMessage):
        flags = bits_text(message.flags, FLAG_NAMES).partition("<")[2].rstrip(">")
        link = {0: "unknown", 1: "down", 2: "up"}[int(message.link_state)]
        return _IF_MSGHDR, (
            f"RTM_IFINFO: iface status change: len {_IF_MSGHDR}, if# {message.index} ({_where(message)}), "
            f"link: {link}, mtu: {message.mtu}, flags:<{flags}>"
        )
    if isinstance(message, Announcement):
        what = "arrival" if message.arrival else "departure"
        return _IF_ANNOUNCEMSGHDR, (
            f"RTM_IFANNOUNCE: iface arrival/departure: len {_IF_ANNOUNCEMSGHDR}, "
            f"if# {message.index} ({_where(message)}), what: {what}"
        )
    if isinstance(message, AddrMessage):
        size = _IFA_MSGHDR + _room(message.netmask) + _SOCKADDR_DL + _room(message.address)
        kind = (
            "RTM_NEWADDR: address being added to iface"
            if message.new
            else ("RTM_DELADDR: address being removed from iface")
        )
        return size, (
            f"{kind}: len {size}, if# {message.index} ({_where(message)}), metric 0, flags:<>\n"
            f"sockaddrs: <NETMASK,IFP,IFA>\n {message.netmask or 'default'} {message.name} {message.address}"
        )
    if isinstance(message, MaddrMessage):
        size = _IFMA_MSGHDR + _SOCKADDR_DL + _room(message.address)
        kind = (
            "RTM_NEWMADDR: new multicast group membership on iface"
            if message.new
            else ("RTM_DELMADDR: multicast group membership removed from iface")
        )
        return size, (
            f"{kind}: len {size}, if# {message.index} ({_where(message)})\n"
            f"sockaddrs: <IFP,IFA>\n {message.name} {message.address}"
        )
    return _route(message)


def _route(message: RouteMessage) -> tuple[int, str]:
    kind = "RTM_ADD: Add Route" if message.new else "RTM_DELETE: Delete Route"
    host = message.destination.endswith(("/32", "/128"))
    flags = "UP" + ",GATEWAY" * bool(message.gateway) + ",HOST" * host + ",DONE"
    v6 = ":" in message.destination or ":" in (message.gateway or "")
    size = _RT_MSGHDR + (32 if v6 else 16) * (2 if host else 3)
    gateway = message.gateway or message.name or "-"
    return size, (
        f"{kind}: len {size}, pid: 0, seq 0, errno 0, flags:<{flags}>\n"
        f"locks:  inits: \nsockaddrs: <DST,GATEWAY{'' if host else ',NETMASK'}> in {message.vnet} fib {message.fib}\n"
        f" {message.destination} {gateway}"
    )


def _where(message: IfMessage | Announcement | AddrMessage | MaddrMessage) -> str:
    """Host and interface: one lab has several machines."""
    vnet = message.ifp.if_vnet
    return f"{vnet.name}:{message.name}" if vnet is not None else message.name


def _room(sa: Sockaddr | None) -> int:
    if sa is None:
        return 8
    return _SOCKADDR_DL if sa.family is AddressFamily.LINK else (sa.sa_len + 7) & ~7


def devctl_text(notice: DevctlNotice) -> str:
    """A notice as devd passes it on, one line."""
    more = f" {notice.data}" if notice.data else ""
    return f"!system={notice.system} subsystem={notice.subsystem} type={notice.type}{more}\n"
