"""The constants of ``net/if.h``, ``net/if_types.h`` and ``sys/socket.h`` that the interface layer speaks in.

Values are FreeBSD's, not Linux's: ``iflab/stack.py`` and the drivers translate.

Flag words are plain integers and their bits plain constants: the arithmetic of
``enum.IntFlag`` takes ten times as long, and flags are asked for every frame.
"""

from __future__ import annotations

import enum

__all__ = [
    "IFCAP",
    "IFF",
    "IFF_CANTCHANGE",
    "IFG_ALL",
    "IFNAMSIZ",
    "IFT",
    "IF_MAXMTU",
    "IF_MINMTU",
    "IN6_IFF",
    "IP_MAXPACKET",
    "ND6_IFF",
    "PRC",
    "RTF",
    "AddressFamily",
    "LinkState",
    "flag_names",
]

IFNAMSIZ = 16
"""Octets of an interface name, its terminating NUL included."""

IF_MINMTU = 72
IF_MAXMTU = 65535
IP_MAXPACKET = 65535
IFG_ALL = "all"
"""The group that every attached interface is in."""


class IFF:
    """Interface flags; those marked D belong to the driver and live in ``if_drv_flags``."""

    UP = 0x1
    BROADCAST = 0x2
    DEBUG = 0x4
    LOOPBACK = 0x8
    POINTOPOINT = 0x10
    RUNNING = 0x40  # D
    NOARP = 0x80
    PROMISC = 0x100
    ALLMULTI = 0x200
    OACTIVE = 0x400  # D
    SIMPLEX = 0x800
    LINK0 = 0x1000
    LINK1 = 0x2000
    LINK2 = 0x4000
    MULTICAST = 0x8000
    CANTCONFIG = 0x10000
    PPROMISC = 0x20000
    MONITOR = 0x40000
    STATICARP = 0x80000
    DYING = 0x200000
    RENAMING = 0x400000


IFF_CANTCHANGE = (
    IFF.BROADCAST
    | IFF.POINTOPOINT
    | IFF.RUNNING
    | IFF.OACTIVE
    | IFF.SIMPLEX
    | IFF.MULTICAST
    | IFF.ALLMULTI
    | IFF.PROMISC
    | IFF.DYING
    | IFF.CANTCONFIG
)
"""Flags that ``SIOCSIFFLAGS`` leaves as they are."""


class IFT(enum.IntEnum):
    """Interface types (those of the IANA ifType registry that this layer knows)."""

    OTHER = 1
    ETHER = 6
    ISO88025 = 9
    FDDI = 15
    LOOP = 24
    XETHER = 26
    ARCNET = 35
    IEEE80211 = 71
    TUNNEL = 131
    L2VLAN = 135
    IEEE8023ADLAG = 161
    BRIDGE = 209
    CARP = 248


class LinkState(enum.IntEnum):
    """What the driver knows of its link."""

    UNKNOWN = 0
    DOWN = 1
    UP = 2


class IN6_IFF:
    """What an IPv6 address is at the moment (``netinet6/in6_var.h``)."""

    ANYCAST = 0x1
    TENTATIVE = 0x2
    DUPLICATED = 0x4
    DETACHED = 0x8
    DEPRECATED = 0x10
    AUTOCONF = 0x40
    TEMPORARY = 0x80


class ND6_IFF:
    """What an interface does with IPv6 by itself (``netinet6/nd6.h``)."""

    PERFORMNUD = 0x1
    ACCEPT_RTADV = 0x2
    PREFER_SOURCE = 0x4
    IFDISABLED = 0x8
    DONT_SET_IFROUTE = 0x10
    AUTO_LINKLOCAL = 0x20
    NO_RADR = 0x40
    NO_PREFER_IFACE = 0x80
    NO_DAD = 0x100


class IFCAP:
    """Capabilities of the hardware, in ``if_capabilities`` (able) and ``if_capenable`` (switched on)."""

    RXCSUM = 0x1
    TXCSUM = 0x2
    NETCONS = 0x4
    VLAN_MTU = 0x8
    VLAN_HWTAGGING = 0x10
    JUMBO_MTU = 0x20
    POLLING = 0x40
    VLAN_HWCSUM = 0x80
    TSO4 = 0x100
    TSO6 = 0x200
    LRO = 0x400
    WOL_UCAST = 0x800
    WOL_MCAST = 0x1000
    WOL_MAGIC = 0x2000
    TOE4 = 0x4000
    TOE6 = 0x8000
    VLAN_HWFILTER = 0x10000
    VLAN_HWTSO = 0x40000
    LINKSTATE = 0x80000
    NETMAP = 0x100000
    RXCSUM_IPV6 = 0x200000
    TXCSUM_IPV6 = 0x400000


class AddressFamily(enum.IntEnum):
    """Address families, FreeBSD's numbers; tables are walked in this order."""

    UNSPEC = 0
    INET = 2
    LINK = 18
    INET6 = 28
    MAX = 42


class PRC(enum.IntEnum):
    """Commands of ``pfctlinput`` (sys/protosw.h)."""

    IFDOWN = 0
    IFUP = 2


class RTF:
    """Flags of a route (net/route.h)."""

    UP = 0x1
    GATEWAY = 0x2
    HOST = 0x4
    REJECT = 0x8
    LLINFO = 0x400
    STATIC = 0x800
    BLACKHOLE = 0x1000
    PINNED = 0x100000
    LOCAL = 0x200000
    BROADCAST = 0x400000
    MULTICAST = 0x800000


_NAMES = sorted((name, bit) for name, bit in vars(IFF).items() if not name.startswith("_"))


def flag_names(flags: int) -> list[str]:
    """Return the names of the set flags in alphabetical order."""
    return [name for name, bit in _NAMES if flags & bit]
