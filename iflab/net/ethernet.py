"""What Ethernet adds to an ifnet (``net/if_ethersubr.c``): common data and the mapping of groups to MACs."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import refuse
from .flags import IFF, AddressFamily
from .sockaddr import Sockaddr, SockaddrDl

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = ["Arpcom", "arpcom_alloc", "arpcom_free", "ether_is_multicast", "ether_resolvemulti"]


@dataclass(slots=True)
class Arpcom:
    """Layer-2 common data of an Ethernet interface (``struct arpcom``)."""

    ac_ifp: Ifnet | None
    ac_netgraph: Any = None
    """The netgraph node hooked to the interface."""


def arpcom_alloc(iftype: int, ifp: Ifnet) -> Arpcom:
    """Make the common data: what ``if_register_com_alloc`` gets for Ethernet."""
    return Arpcom(ifp)


def arpcom_free(l2com: Any, iftype: int) -> None:
    """Let go of it."""
    l2com.ac_ifp = None
    l2com.ac_netgraph = None


def ether_is_multicast(mac: bytes) -> bool:
    """True for a group address, broadcast included (IEEE 802.3, clause 3.2.3)."""
    return bool(mac) and bool(mac[0] & 1)


def ether_resolvemulti(ifp: Ifnet, sa: Sockaddr) -> SockaddrDl | None:
    """Map a group to its MAC: 01:00:5e and 23 bits for IPv4 (RFC 1112), 33:33 and 32 bits for IPv6 (RFC 2464).

    A link-level group is its own; None then. The unspecified IPv6 address means
    every group: ``IFF_ALLMULTI``. Raises EADDRNOTAVAIL, EAFNOSUPPORT.
    """
    if isinstance(sa, SockaddrDl):
        if not ether_is_multicast(sa.sdl_lladdr):
            raise refuse(errno.EADDRNOTAVAIL, f"{sa} is no group address: its first octet is even")
        return None
    packed = sa.packed
    if sa.family is AddressFamily.INET:
        if packed[0] & 0xF0 != 0xE0:
            raise refuse(errno.EADDRNOTAVAIL, f"{sa} is no group address; IPv4 groups are 224.0.0.0/4")
        return SockaddrDl(sdl_lladdr=bytes((0x01, 0x00, 0x5E, packed[1] & 0x7F)) + packed[2:])
    if sa.family is AddressFamily.INET6:
        if not any(packed):
            ifp.if_flags |= IFF.ALLMULTI
            return None
        if packed[0] != 0xFF:
            raise refuse(errno.EADDRNOTAVAIL, f"{sa} is no group address; IPv6 groups are ff00::/8")
        return SockaddrDl(sdl_lladdr=b"\x33\x33" + packed[12:])
    raise refuse(errno.EAFNOSUPPORT, f"Ethernet carries no groups of family {sa.family}")


def ether_ifattach(ifp: Ifnet, lla: bytes) -> None:
    """Attach an Ethernet interface with the MAC ``lla`` of 6 octets (``net/if_ethersubr.c``); raises as ``if_attach``."""
    ifp.if_addrlen = len(lla)
    ifp.if_attach()
    sdl = ifp.link_sockaddr()
    sdl.sdl_type = ifp.if_type
    sdl.sdl_lladdr = bytes(lla)
