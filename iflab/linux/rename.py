"""A new name for a device that is up, also on a kernel that refuses it.

Linux before 6.2 renames no device that is up (EBUSY). There the device goes down
for a moment, and what Linux takes away from a device that goes down (IPv6
addresses, and routes and neighbours that somebody made) is put back.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from .errors import KernelRefused
from .netlink import IFF_UP, NUD_PERMANENT, RT_SCOPES, Addr, Netlink, Route

__all__ = ["rename"]

_RTPROT_KERNEL = 2
_SCOPES = {number: name for name, number in RT_SCOPES.items()}


def rename(netlink: Netlink, index: int, name: str) -> None:
    """Give the device ``index`` the name ``name``, whether it is up or not.

    Raises ``InvalidName``, ``KernelRefused`` (EEXIST, ENODEV); the device is then
    as it was. A route with several next hops comes back with the first alone.
    """
    try:
        netlink.link_set(index, name=name)
        return
    except KernelRefused as error:
        if error.errno != errno.EBUSY or not netlink.link_get(index).flags & IFF_UP:
            raise
    addrs, routes = netlink.addrs(index), netlink.routes(index=index)
    neighbours = [each for each in netlink.neighbours(index) if each.state & NUD_PERMANENT]
    netlink.link_set(index, up=False)
    try:
        netlink.link_set(index, name=name)
    finally:
        netlink.link_set(index, up=True)
        put_back_addrs(netlink, index, addrs)
        _put_back_routes(netlink, index, routes)
        for each in neighbours:
            with _may_exist():
                netlink.neighbour_add(index, each.address, each.mac)


def put_back_addrs(netlink: Netlink, index: int, addrs: list[Addr]) -> None:
    """Give a device those of its addresses that it has lost. Raises ``KernelRefused``."""
    there = {(addr.address, addr.prefixlen) for addr in netlink.addrs(index)}
    for addr in addrs:
        if (addr.address, addr.prefixlen) not in there:
            # Its own link-local address the kernel may make again meanwhile.
            with _may_exist():
                netlink.addr_add(
                    index,
                    f"{addr.address}/{addr.prefixlen}",
                    broadcast=addr.broadcast,
                    peer=addr.peer,
                    lifetime=(addr.preferred, addr.valid),
                )


def _put_back_routes(netlink: Netlink, index: int, routes: list[Route]) -> None:
    there = {_key(route) for route in netlink.routes(index=index)}
    lost = [r for r in routes if r.protocol != _RTPROT_KERNEL and _key(r) not in there]
    for route in sorted(lost, key=lambda r: r.gateway is not None):  # a gateway must be reachable first
        v4 = route.family == socket.AF_INET
        whole = "default" if v4 else "default6"
        with _may_exist():
            netlink.route_add(
                f"{route.dst}/{route.dst_len}" if route.dst_len else whole,
                via=route.gateway,
                index=index,
                table=route.table,
                priority=route.priority or None,
                kind=route.kind,
                scope=_SCOPES[route.scope],
                src=route.prefsrc,
            )


@contextlib.contextmanager
def _may_exist() -> Iterator[None]:
    try:
        yield
    except KernelRefused as error:
        if error.errno != errno.EEXIST:
            raise


def _key(route: Route) -> tuple[object, ...]:
    return route.family, route.dst, route.dst_len, route.gateway, route.table, route.priority, route.type
