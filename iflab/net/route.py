"""Routes, as far as the interface layer meets them (``net/route.h``).

The tables themselves belong to the stack above; this layer asks it to add, to
delete and to find.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sockaddr import Sockaddr

if TYPE_CHECKING:
    from .ifaddr import Ifaddr
    from .ifnet import Ifnet

__all__ = ["RTM", "RtAddrinfo", "Rtentry"]


class RTM(enum.IntEnum):
    """What is asked of the routing table."""

    ADD = 1
    DELETE = 2


@dataclass(slots=True, eq=False)
class Rtentry:
    """A route: destination ``rt_key`` (with ``rt_mask``), gateway, flags, interface, address, fib."""

    rt_key: Sockaddr
    rt_mask: Sockaddr | None = None
    rt_gateway: Sockaddr | None = None
    rt_flags: int = 0
    rt_ifp: Ifnet | None = None
    rt_ifa: Ifaddr | None = None
    rt_fibnum: int = 0


@dataclass(slots=True)
class RtAddrinfo:
    """The parts of a request to the routing table."""

    rti_dst: Sockaddr
    rti_gateway: Sockaddr | None = None
    rti_netmask: Sockaddr | None = None
    rti_flags: int = 0
    rti_ifp: Ifnet | None = None
