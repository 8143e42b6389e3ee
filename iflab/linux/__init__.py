"""The real kernel: namespaces, TAP devices, netlink, processes, privileges.

Nothing here knows of BSD, of a lab or of a cable. Everything is held by file
descriptors and goes with the process; nothing is written to the filesystem.

============  =======================================================
``Netns``     a network namespace
``Spares``    namespaces for hosts, made ahead
``Tap``       an Ethernet NIC whose cable is a file descriptor
``Batch``     many writes in one system call
``Netlink``   a conversation with the kernel about one namespace
``Monitor``   what the kernel changes, in all namespaces of a lab
``Keeper``    programs inside hosts that die with the lab
``TimerFd``   a timer for a poll loop
============  =======================================================

What the kernel refuses is ``KernelRefused``, an ``OSError`` with its errno and
its own words; what the machine lacks is ``Missing``, with the remedy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .aio import Batch
from .errors import InvalidName, KernelRefused, Missing, check_name
from .files import check_place, create_private
from .limits import explained, raise_fd_limit
from .netns import Netns
from .sysctl import sysctl
from .tap import VNET_HDR_LEN, Tap, open_tun
from .timerfd import TimerFd
from .userns import ensure_privileges, in_user_namespace, run_inside

if TYPE_CHECKING:
    from .findings import Finding, check
    from .monitor import Change, Monitor
    from .netlink import Addr, Link, Maddr, Netlink, Route
    from .process import Keeper
    from .spares import Spares, new_namespace

__all__ = [
    "VNET_HDR_LEN",
    "Addr",
    "Batch",
    "Change",
    "Finding",
    "InvalidName",
    "Keeper",
    "KernelRefused",
    "Link",
    "Maddr",
    "Missing",
    "Monitor",
    "Netlink",
    "Netns",
    "Route",
    "Spares",
    "Tap",
    "TimerFd",
    "check",
    "check_name",
    "check_place",
    "create_private",
    "ensure_privileges",
    "explained",
    "in_user_namespace",
    "new_namespace",
    "open_tun",
    "raise_fd_limit",
    "run_inside",
    "sysctl",
]

# pyroute2 takes 0.2 s to import: on first use only.
_LATER = {
    "Addr": "netlink",
    "Change": "monitor",
    "Finding": "findings",
    "Keeper": "process",
    "Link": "netlink",
    "Maddr": "netlink",
    "Monitor": "monitor",
    "Netlink": "netlink",
    "Route": "netlink",
    "Spares": "spares",
    "check": "findings",
    "new_namespace": "spares",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        value = getattr(import_module(f".{_LATER[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
