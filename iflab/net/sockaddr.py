"""Socket addresses: IPv4, IPv6 and link level.

Network addresses are values and never change. A link-level address is a record
that its interface writes to (name, index, MAC), as in the original, where it
doubles as the interface's own entry in its address list.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import ClassVar, Union

from .flags import IFNAMSIZ, AddressFamily

__all__ = [
    "Sockaddr",
    "SockaddrDl",
    "SockaddrIn",
    "SockaddrIn6",
    "as_sockaddr",
    "link_alloc_sdl",
    "link_free_sdl",
    "lladdr",
]

SDL_SIZE = 54
"""Octets of a ``struct sockaddr_dl`` that nobody made longer."""

_SDL_HEADER = 8


@dataclass(frozen=True, slots=True)
class SockaddrIn:
    """An IPv4 address: ``packed`` holds its 4 octets in network order."""

    packed: bytes
    family: ClassVar[AddressFamily] = AddressFamily.INET
    sa_len: ClassVar[int] = 16

    @property
    def key(self) -> bytes:
        """What look-ups compare."""
        return self.packed

    @property
    def value(self) -> int:
        """The address as a number."""
        return int.from_bytes(self.packed, "big")

    def __str__(self) -> str:
        return socket.inet_ntop(socket.AF_INET, self.packed)


@dataclass(frozen=True, slots=True)
class SockaddrIn6:
    """An IPv6 address: ``packed`` holds its 16 octets; ``scope_id`` the zone, 0 for none."""

    packed: bytes
    scope_id: int = 0
    family: ClassVar[AddressFamily] = AddressFamily.INET6
    sa_len: ClassVar[int] = 28

    @property
    def key(self) -> bytes:
        """What look-ups compare."""
        return self.packed if not self.scope_id else self.packed + self.scope_id.to_bytes(4, "big")

    @property
    def value(self) -> int:
        """The address as a number."""
        return int.from_bytes(self.packed, "big")

    def __str__(self) -> str:
        return socket.inet_ntop(socket.AF_INET6, self.packed)


@dataclass(slots=True, eq=False)
class SockaddrDl:
    """A link-level address (``struct sockaddr_dl``): interface index, type, name and MAC.

    ``sa_len`` is the length in octets that the record takes in ``SIOCGIFCONF``.
    """

    sdl_index: int = 0
    sdl_type: int = 0
    sdl_name: str = ""
    sdl_lladdr: bytes = b""
    sa_len: int = field(default=SDL_SIZE)
    family: ClassVar[AddressFamily] = AddressFamily.LINK

    @property
    def key(self) -> bytes:
        """What look-ups compare: the MAC (quirk 39: content, not the length of the record)."""
        return self.sdl_lladdr

    @property
    def sdl_alen(self) -> int:
        """Octets of the MAC; 0 where there is none."""
        return len(self.sdl_lladdr)

    @property
    def sdl_nlen(self) -> int:
        """Octets of the name."""
        return len(self.sdl_name.encode("utf-8", "surrogateescape"))

    @property
    def sdl_data(self) -> bytes:
        """Name and MAC, one behind the other, as the record holds them."""
        return self.sdl_name.encode("utf-8", "surrogateescape") + self.sdl_lladdr

    @classmethod
    def for_interface(cls, index: int, iftype: int, name: str, addrlen: int) -> SockaddrDl:
        """Make the record of an interface, with room for any later name (sys/net/if.c 624-642)."""
        size = max(_SDL_HEADER + IFNAMSIZ + addrlen, SDL_SIZE)
        return cls(index, iftype, name, b"", (size + 7) // 8 * 8)

    def __str__(self) -> str:
        if self.sdl_lladdr:
            return self.sdl_lladdr.hex(":")
        return f"link#{self.sdl_index}"


Sockaddr = Union[SockaddrIn, SockaddrIn6, SockaddrDl]  # noqa: UP007 - a name for isinstance and annotations alike


def lladdr(mac: str | bytes) -> SockaddrDl:
    """Make a link-level address from ``02:00:00:00:00:01`` or from octets. Raises ``ValueError``."""
    octets = bytes.fromhex(mac.replace(":", "")) if isinstance(mac, str) else bytes(mac)
    return SockaddrDl(sdl_lladdr=octets)


def as_sockaddr(address: str | Sockaddr) -> Sockaddr:
    """Read an address: ``192.0.2.1``, ``2001:db8::1``, ``02:00:00:00:00:01`` or ``link#3``.

    A ``Sockaddr`` comes back as it is. Raises ``ValueError`` naming the text.
    """
    if not isinstance(address, str):
        return address
    if address.startswith("link#"):
        return SockaddrDl(sdl_index=int(address[5:]))
    for family, kind in ((socket.AF_INET, SockaddrIn), (socket.AF_INET6, SockaddrIn6)):
        try:
            return kind(socket.inet_pton(family, address))
        except OSError:
            continue
    try:
        return lladdr(address)
    except ValueError:
        raise ValueError(
            f"{address!r} is no address; write 192.0.2.1, 2001:db8::1, 02:00:00:00:00:01 or link#3"
        ) from None


def link_alloc_sdl(size: int = SDL_SIZE) -> SockaddrDl:
    """Return an empty link-level address for a ``resolvemulti`` that needs its own (sys/net/if.c 1894-1899)."""
    return SockaddrDl(sa_len=size)


def link_free_sdl(sa: SockaddrDl) -> None:
    """Give such an address back (sys/net/if.c 1901-1905); its content is forgotten."""
    sa.sdl_lladdr = b""
    sa.sdl_name = ""
