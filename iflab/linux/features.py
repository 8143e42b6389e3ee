"""What kernels differ in, found by trying each on a device of our own, never by the number of a release.

======================  =========  =====================================================
feature                 Linux      what is done without
======================  =========  =====================================================
offload TSO             2.6.27     frames of wire size only
offload USO             6.2        the host cuts its UDP super-frames itself
multicast notices       6.14       groups are read from ``/proc/net`` for ``netstat -g`` and frames
birth without link      6.1        the link is taken away right after birth
UDP_SEGMENT anywhere    6.11       a NIC without checksum offload refuses UDP trains (EIO)
link told at once       6.8        Linux shows NO-CARRIER up to a second late
rename while up         6.2        the device goes down for it; addresses, routes, neighbours are put back
allmulticast count      6.0        who asked for it is seen from the flag alone
======================  =========  =====================================================

The second column is where mainline has it; distributions carry changes back.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .errors import KernelRefused
from .monitor import Monitor
from .netlink import Netlink
from .netns import Netns
from .tap import TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6, Tap

__all__ = ["Feature", "features"]

_UDP_SEGMENT = 103
_PATIENCE = 2.0
"""Seconds for which a new link may stay unseen; Linux takes one at most."""


@dataclass(slots=True, frozen=True)
class Feature:
    """One thing in which kernels differ; ``detail`` says what it does here, or what is used instead."""

    name: str
    there: bool
    detail: str


def features(netns: Netns, tap: Tap) -> Iterator[Feature]:
    """Try every feature on ``tap``, a device in ``netns`` that nothing else uses. Raises ``KernelRefused``."""
    for name, tried, there, instead in _FEATURES:
        found = tried(netns, tap)
        yield Feature(name, found, there if found else instead)


def _tso(netns: Netns, tap: Tap) -> bool:
    return tap.offers(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)


def _uso(netns: Netns, tap: Tap) -> bool:
    return tap.offers(TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6)


def _notices(netns: Netns, tap: Tap) -> bool:
    with contextlib.closing(Monitor(netns)) as monitor:
        return monitor.has_mcaddr


def _birth(netns: Netns, tap: Tap) -> bool:
    return tap.may_be_born_without_carrier()


def _trains(netns: Netns, tap: Tap) -> bool:
    tap.set_offload(0)
    with Netlink(netns) as netlink, netns.socket(socket.AF_INET, socket.SOCK_DGRAM, 0) as sock:
        netlink.link_set(tap.ifindex, up=True)
        tap.set_carrier(True)
        netlink.addr_add(tap.ifindex, "192.0.2.1/24")
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 100)
        try:
            sock.sendto(bytes(200), ("192.0.2.2", 9))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        finally:
            netlink.addr_del(tap.ifindex, "192.0.2.1/24")
            tap.set_carrier(False)
    return True


def _told_at_once(netns: Netns, tap: Tap) -> bool:
    with Netlink(netns) as netlink:
        netlink.link_set(tap.ifindex, up=True)
        for _ in range(2):  # who waits does so only from the second time within a second on
            tap.set_carrier(True)
            deadline = time.monotonic() + _PATIENCE
            while netlink.link_get(tap.ifindex).operstate != "UP" and time.monotonic() < deadline:
                time.sleep(0.005)
            tap.set_carrier(False)
            if netlink.link_get(tap.ifindex).operstate != "DOWN":
                return False
    return True


def _rename(netns: Netns, tap: Tap) -> bool:
    with Netlink(netns) as netlink:
        netlink.link_set(tap.ifindex, up=True)
        name = netlink.link_get(tap.ifindex).name
        try:
            netlink.link_set(tap.ifindex, name=f"{name[:12]}-up")
        except KernelRefused as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        netlink.link_set(tap.ifindex, name=name)
    return True


def _allmulti(netns: Netns, tap: Tap) -> bool:
    with Netlink(netns) as netlink:
        return netlink.link_get(tap.ifindex).allmulti >= 0


_FEATURES: tuple[tuple[str, Callable[[Netns, Tap], bool], str, str], ...] = (
    ("offload TSO", _tso, "the kernel hands out super-frames", "frames of wire size only"),
    (
        "offload USO",
        _uso,
        "the kernel hands out super-frames",
        "the host cuts its UDP super-frames itself; Linux 6.2 leaves it to the NIC",
    ),
    (
        "multicast notices",
        _notices,
        "the kernel tells of joined groups",
        "groups are read from dev_mcast instead; Linux 6.14 tells of them",
    ),
    (
        "birth without link",
        _birth,
        "a NIC has no link before its cable",
        "the link is taken away right after birth; Linux 6.1 makes NICs without",
    ),
    (
        "UDP_SEGMENT anywhere",
        _trains,
        "programs send UDP trains whatever the NIC offloads",
        "a NIC without checksum offload refuses them (EIO), programs send one by one; Linux 6.11 cuts them",
    ),
    (
        "link told at once",
        _told_at_once,
        "the state is current whenever asked",
        "Linux shows NO-CARRIER up to 1 s late, LOWER_UP at once; Linux 6.8 shows both",
    ),
    (
        "rename while up",
        _rename,
        "a NIC keeps running",
        "the NIC goes down for it, addresses, routes and neighbours are put back; Linux 6.2 needs no such thing",
    ),
    (
        "allmulticast count",
        _allmulti,
        "the kernel tells how many asked",
        "the flag alone tells; Linux 6.0 counts",
    ),
)
