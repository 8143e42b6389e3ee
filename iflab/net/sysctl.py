"""The settings of the interface layer as a sysctl tree (sys/net/if.c 102-120).

| name | meaning | default | may be set |
| --- | --- | --- | --- |
| ``net.link.ifqmaxlen`` | length of a new send queue, frames | 50 | before start only (a loader tunable) |
| ``net.link.log_link_state_change`` | log changes of the link state | 1 | any time |
| ``net.ifdescr_maxlen`` | longest interface description, octets, its NUL included | 1024 | any time |
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import refuse

if TYPE_CHECKING:
    from .vnet import Vnet

__all__ = ["Sysctl", "SysctlTree", "VnetSetting"]

IFQ_MAXLEN = 50


@dataclass(slots=True)
class Sysctl:
    """One setting: its value, what it means, and whether a running system may change it."""

    name: str
    value: int
    description: str
    writable: bool
    minimum: int


@dataclass(slots=True)
class VnetSetting:
    """A setting that every vnet has for itself."""

    description: str
    get: Callable[[Vnet], int]
    put: Callable[[Vnet, int], None]


class SysctlTree:
    """Settings by name; ``tree["net.ifdescr_maxlen"]`` reads, assignment sets."""

    def __init__(self) -> None:
        rows = (
            Sysctl("net.link.ifqmaxlen", IFQ_MAXLEN, "max send queue size", False, 1),
            Sysctl(
                "net.link.log_link_state_change", 1, "log interface link state change events", True, -(2**31)
            ),
            Sysctl(
                "net.ifdescr_maxlen", 1024, "administrative maximum length for interface description", True, 0
            ),
        )
        self._rows = {row.name: row for row in rows}

    def __iter__(self) -> Iterator[Sysctl]:
        return iter(self._rows.values())

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def find(self, name: str) -> Sysctl:
        """Return the setting; raises ENOENT."""
        row = self._rows.get(name)
        if row is None:
            raise refuse(errno.ENOENT, f"no setting is called {name!r}; there are {', '.join(self._rows)}")
        return row

    def __getitem__(self, name: str) -> int:
        return self.find(name).value

    def __setitem__(self, name: str, value: int) -> None:
        """Set a value. Raises ENOENT, EPERM where the running system may not change it, EINVAL out of range."""
        row = self.find(name)
        if not row.writable:
            raise refuse(errno.EPERM, f"{name} is read when the lab starts; pass it as a tunable then")
        self.tunable(name, value)

    def tunable(self, name: str, value: int) -> None:
        """Set a value as the boot loader would, read-only settings included. Raises ENOENT, EINVAL."""
        row = self.find(name)
        if not row.minimum <= value < 2**32:
            raise refuse(errno.EINVAL, f"{name} cannot be {value}; its least value is {row.minimum}")
        row.value = value
