"""Interface ioctls: their names and the requests that they carry (``sys/sockio.h``, ``net/if.h``).

A command is its own name, so that a driver, a trace and a person read the same
word. The requests are records instead of a union; a field that the command does
not use stays at its default.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

from .errors import refuse
from .sockaddr import Sockaddr

__all__ = [
    "GENERIC_GET",
    "GENERIC_SET",
    "IFREQ_SIZE",
    "TO_DRIVER",
    "Ifaliasreq",
    "Ifconf",
    "Ifgroupreq",
    "Ifreq",
    "UserBuffer",
]

IFREQ_SIZE = 32
"""Octets of a ``struct ifreq``: 16 of name and 16 of union."""

GENERIC_SET = frozenset(
    {"SIOCSIFPHYADDR", "SIOCDIFPHYADDR", "SIOCSIFPHYADDR_IN6", "SIOCSIFMEDIA", "SIOCSIFGENERIC"}
)
"""Commands that only the driver understands and that change something (2442-2457)."""

GENERIC_GET = frozenset(
    {"SIOCGIFSTATUS", "SIOCGIFPSRCADDR", "SIOCGIFPDSTADDR", "SIOCGIFMEDIA", "SIOCGIFGENERIC"}
)
"""Commands that only the driver understands and that ask (2459-2467)."""

TO_DRIVER = (
    frozenset({"SIOCADDMULTI", "SIOCDELMULTI", "SIOCSIFCAP", "SIOCSIFFLAGS", "SIOCSIFMTU", "SIOCSIFPHYS"})
    | GENERIC_SET
    | GENERIC_GET
)
"""Commands that come to every driver; others the interface layer carries out alone, or only one driver knows."""


@dataclass(slots=True)
class UserBuffer:
    """The caller's memory: ``length`` octets at ``data``.

    ``fault`` says that the memory is not the caller's: every copy fails with
    EFAULT, as ``copyin`` and ``copyout`` do.
    """

    length: int = 0
    data: Any = None
    fault: bool = False

    def copyin(self) -> Any:
        """Read the caller's memory; raises EFAULT."""
        self._check()
        return self.data

    def copyin_text(self) -> str:
        """Read a text, up to its NUL if it has one; octets are taken as UTF-8. Raises EFAULT."""
        found = self.copyin()
        text = (
            found.decode("utf-8", "surrogateescape")
            if isinstance(found, (bytes, bytearray))
            else str(found or "")
        )
        return text.split("\0", 1)[0]

    def copyout(self, data: Any) -> None:
        """Write to the caller's memory; raises EFAULT."""
        self._check()
        self.data = data

    def _check(self) -> None:
        if self.fault:
            raise refuse(errno.EFAULT, "the buffer is not readable and writable for the caller")


_KINDS: dict[Any, str] = {
    int: "a number,",
    str: "a name,",
    Sockaddr: "a Sockaddr, which as_sockaddr() makes of a text,",
}


def _check(request: Any, kind: Any, *names: str) -> None:
    """Refuse a field of the wrong type before anything is done with it. Raises ``TypeError``, naming the field."""
    for name in names:
        value = getattr(request, name)
        if not (isinstance(value, kind) or (value is None and kind is Sockaddr)):
            raise TypeError(f"{name} takes {_KINDS[kind]} not {value!r}")


@dataclass(slots=True)
class Ifreq:
    """An interface request (``struct ifreq``).

    Raises ``TypeError`` for a name, a number or an address of the wrong type, as
    ``Ifaliasreq`` and ``Ifgroupreq`` do. Nobody looks at ``ifr_addrlen``,
    ``ifra_lifetime``, ``ifr_data``, buffers and ``Ifconf`` before they are used.
    """

    ifr_name: str = ""
    ifr_flags: int = 0
    """All 32 bits: ``ifr_flags`` and ``ifr_flagshigh`` of the original."""
    ifr_index: int = 0
    ifr_metric: int = 0
    ifr_mtu: int = 0
    ifr_phys: int = 0
    ifr_fib: int = 0
    ifr_reqcap: int = 0
    ifr_curcap: int = 0
    ifr_jid: int = 0
    ifr_addr: Sockaddr | None = None
    ifr_addrlen: int | None = None
    """Octets that the caller claims the address has; None: as many as it has."""
    ifr_buffer: UserBuffer = field(default_factory=UserBuffer)
    ifr_data: Any = None
    """A buffer or record of the command's own."""

    def __post_init__(self) -> None:
        _check(self, str, "ifr_name")
        _check(self, int, "ifr_flags", "ifr_index", "ifr_metric", "ifr_mtu", "ifr_phys", "ifr_fib")
        _check(self, int, "ifr_reqcap", "ifr_curcap", "ifr_jid")
        _check(self, Sockaddr, "ifr_addr")


@dataclass(slots=True)
class Ifaliasreq:
    """An address with its mask, and its broadcast address or far end (``struct ifaliasreq``, ``struct in6_aliasreq``)."""

    ifra_name: str = ""
    ifra_addr: Sockaddr | None = None
    ifra_broadaddr: Sockaddr | None = None
    ifra_mask: Sockaddr | None = None
    ifra_vhid: int = 0
    ifra_flags: int = 0
    """Of IPv6: ``IN6_IFF``; ``DEPRECATED`` is the one that may be asked for."""
    ifra_lifetime: tuple[int | None, int | None] | None = None
    """Of IPv6: the seconds for which it is preferred, and valid; None for ever. None in all: as it is."""

    def __post_init__(self) -> None:
        _check(self, str, "ifra_name")
        _check(self, int, "ifra_vhid", "ifra_flags")
        _check(self, Sockaddr, "ifra_addr", "ifra_broadaddr", "ifra_mask")

    @property
    def ifr_name(self) -> str:
        """The name that ``ifioctl`` looks an interface up by."""
        return self.ifra_name


@dataclass(slots=True)
class Ifgroupreq:
    """A group request: ``ifgr_name`` is the interface or, for ``SIOCGIFGMEMB``, the group."""

    ifgr_name: str = ""
    ifgr_group: str = ""
    ifgr_len: int = 0
    ifgr_groups: UserBuffer = field(default_factory=UserBuffer)

    def __post_init__(self) -> None:
        _check(self, str, "ifgr_name", "ifgr_group")
        _check(self, int, "ifgr_len")

    @property
    def ifr_name(self) -> str:
        """The name that ``ifioctl`` looks an interface up by."""
        return self.ifgr_name


@dataclass(slots=True)
class Ifconf:
    """The request of ``SIOCGIFCONF``: at most ``ifc_len`` octets of entries into ``ifc_req``."""

    ifc_len: int
    ifc_req: UserBuffer = field(default_factory=UserBuffer)
