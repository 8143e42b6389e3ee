"""Whether an ifnet and its netdev say the same, field by field, and when each field last changed.

Each side gives an *account*: a plain dict from field to value, in words that both
sides share. The journal hears both sides as they change, so that a difference can
be told with what happened last on either.

Nothing is applied here: that is ``iflab/stack.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from iflab.addresses import prefixlen
from iflab.drivers.tap import TapNic
from iflab.linux import Addr, Link, Maddr
from iflab.net import IFF, AddressFamily, Ifnet, LinkState, as_sockaddr

__all__ = [
    "Difference",
    "Disagreement",
    "Journal",
    "address_text",
    "compare",
    "full_ifnet_account",
    "ifnet_account",
    "link_account",
    "netdev_account",
]

Account = dict[str, Any]

_UP, _NOARP, _PROMISC, _ALLMULTI, _MULTICAST = 0x1, 0x80, 0x100, 0x200, 0x1000


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which an ifnet and its netdev differ, both values, and the last change of each."""

    nic: str
    field: str
    ifnet: Any
    kernel: Any
    ifnet_changed: str
    kernel_changed: str

    def __str__(self) -> str:
        return (
            f"{self.nic}: {self.field}: the ifnet says {self.ifnet!r} ({self.ifnet_changed}), "
            f"the kernel {self.kernel!r} ({self.kernel_changed})"
        )


class Disagreement(AssertionError):
    """Raised by ``lab.check()``; ``differences`` are all that were found."""

    def __init__(self, differences: list[Difference]) -> None:
        self.differences = differences
        super().__init__("\n".join(map(str, differences)))


def link_account(link: Link) -> Account:
    """What a link message says of the fields of a netdev."""
    return {
        "name": link.name,
        "up": bool(link.flags & _UP),
        "arp": not link.flags & _NOARP,
        "multicast": bool(link.flags & _MULTICAST),
        "promisc": link.promiscuity > 0,
        "allmulti": bool(link.allmulti > 0 or (link.allmulti < 0 and link.flags & _ALLMULTI)),
        "mtu": link.mtu,
        "lladdr": link.mac.hex(":"),
        "description": link.alias or "",
        "link": "up" if link.carrier else "down",
        "group": link.group,
    }


def ifnet_account(ifp: Ifnet) -> Account:
    """The same of an ifnet."""
    flags, nic = ifp.if_flags, ifp.if_softc
    return {
        "name": ifp.if_xname,
        "up": bool(flags & IFF.UP),
        "arp": not flags & IFF.NOARP,
        "multicast": bool(flags & IFF.MULTICAST),
        "promisc": bool(flags & (IFF.PROMISC | IFF.PPROMISC)),
        "allmulti": bool(flags & IFF.ALLMULTI),
        "mtu": ifp.if_mtu,
        "lladdr": ifp.lladdr.hex(":"),
        "description": ifp.if_description or "",
        "link": "up" if ifp.if_link_state is LinkState.UP else "down",
        "group": nic.own_group(ifp) if nic.own_group is not None else nic.netdev_group,
        "fib": ifp.if_fib,
    }


def address_text(address: str, bits: int, far: str | None) -> str:
    """An address as accounts write it: with prefix length, and broadcast address or far end."""
    return f"{address}/{bits}" + (f" {far}" if far else "")


def netdev_account(nic: TapNic, link: Link, addrs: Iterable[Addr], maddrs: Iterable[Maddr]) -> Account:
    """Everything that the kernel says of one netdev."""
    groups = {
        maddr.address
        if maddr.family == socket.AF_PACKET
        else str(nic.if_resolvemulti(nic.ifp, as_sockaddr(maddr.address)))
        for maddr in maddrs
    }
    return link_account(link) | {
        "addresses": sorted(address_text(a.address, a.prefixlen, a.peer or a.broadcast) for a in addrs),
        "groups joined": sorted(groups),
    }


def full_ifnet_account(ifp: Ifnet) -> Account:
    """Everything that an ifnet says of itself and the kernel of its netdev."""
    return ifnet_account(ifp) | {
        "addresses": sorted(
            address_text(
                str(ifa.ifa_addr),
                prefixlen(ifa.ifa_netmask, ifa.ifa_addr),
                str(ifa.ifa_dstaddr) if ifa.ifa_dstaddr is not None else None,
            )
            for ifa in ifp.if_addrhead
            if ifa.ifa_addr.family is not AddressFamily.LINK
        ),
        "groups joined": sorted(mac.hex(":") for mac in ifp.if_multiaddrs.link_addresses()),
    }


_BEFORE = "since {when:.3f} s, {what!r} before"
_NOW = {how: f"at {{when:.3f}} s: {{what}} is {how}" for how in ("new", "gone")}


class _Memory:
    """What one side was last heard to say, and how each field last changed: when, a text, and what stands in it.

    It is put into words when somebody asks, which is seldom.
    """

    __slots__ = ("account", "changed")

    def __init__(self) -> None:
        self.account: Account = {}
        self.changed: dict[str, tuple[float, str, Any]] = {}


class Journal:
    """The last change of every field, on both sides; ``now`` gives seconds since the lab began."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sides: WeakKeyDictionary[Ifnet, tuple[_Memory, _Memory]] = WeakKeyDictionary()

    def _side(self, ifp: Ifnet, kernel: bool) -> _Memory:
        sides = self._sides.get(ifp)
        if sides is None:
            sides = self._sides[ifp] = (_Memory(), _Memory())
        return sides[kernel]

    def note(self, ifp: Ifnet, account: Account, kernel: bool) -> None:
        """Hear the account of one side, whole or in part."""
        memory = self._side(ifp, kernel)
        before = memory.account
        for field, value in account.items():
            if before.get(field, value) != value:
                memory.changed[field] = self._now(), _BEFORE, before[field]
        before.update(account)

    def told(self, ifp: Ifnet, field: str, what: Any, how: str, kernel: bool) -> None:
        """Hear that one thing, ``what``, is new or gone."""
        self._side(ifp, kernel).changed[field] = self._now(), _NOW[how], what

    def last(self, ifp: Ifnet, field: str, value: Any, kernel: bool) -> str:
        """Say when a field, which has ``value`` now, last changed."""
        memory = self._side(ifp, kernel)
        if field in memory.account and memory.account[field] != value:
            return f"unannounced, {memory.account[field]!r} before"
        if field not in memory.changed:
            return "as it began"
        when, text, what = memory.changed[field]
        return text.format(when=when, what=what)


def compare(journal: Journal, ifp: Ifnet, kernel: Account | None) -> list[Difference]:
    """Compare an ifnet with the kernel's account of its netdev; None: the kernel has no such netdev."""
    nic: TapNic = ifp.if_softc
    if kernel is None:
        return [
            Difference(
                nic.name,
                "netdev",
                f"index {nic.tap.ifindex}",
                "no such device",
                "as it began",
                journal.last(ifp, "netdev", None, True),
            )
        ]
    ours = full_ifnet_account(ifp)
    return [
        Difference(
            nic.name,
            field,
            ours[field],
            kernel[field],
            journal.last(ifp, field, ours[field], False),
            journal.last(ifp, field, kernel[field], True),
        )
        for field in ours
        if ours[field] != kernel[field]
    ]
