"""The routing socket and devctl: what the interface layer tells the world.

``RoutingSocket`` carries messages such as ``route -n monitor`` prints them,
``Devctl`` the notices that devd reads. Both hand each message to their
listeners at once, on the thread that made the change and with the lab's lock
held, and to any number of streams, which a reader empties when it likes.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import report
from .flags import LinkState, flag_names
from .sockaddr import Sockaddr

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = [
    "AddrMessage",
    "Announcement",
    "Devctl",
    "DevctlNotice",
    "IfMessage",
    "MaddrMessage",
    "RouteMessage",
    "RoutingMessage",
    "RoutingSocket",
    "Stream",
]

_log = logging.getLogger("iflab.net")
_Item = TypeVar("_Item")


@dataclass(slots=True, frozen=True)
class IfMessage:
    """``RTM_IFINFO``: flags (the driver's included), link state or MTU of an interface changed."""

    ifp: Ifnet
    name: str
    index: int
    flags: int
    link_state: LinkState
    mtu: int
    time: float = field(default_factory=time.time, compare=False)

    def __str__(self) -> str:
        flags = ",".join(flag_names(self.flags))
        return (
            f"RTM_IFINFO: iface status change: if# {self.index} ({self.name}), "
            f"link: {self.link_state.name.lower()}, mtu: {self.mtu}, flags:<{flags}>"
        )


@dataclass(slots=True, frozen=True)
class Announcement:
    """``RTM_IFANNOUNCE``: an interface arrives or departs."""

    ifp: Ifnet
    name: str
    index: int
    arrival: bool
    time: float = field(default_factory=time.time, compare=False)

    def __str__(self) -> str:
        what = "arrival" if self.arrival else "departure"
        return f"RTM_IFANNOUNCE: interface arrival/departure: if# {self.index} ({self.name}), what: {what}"


@dataclass(slots=True, frozen=True)
class MaddrMessage:
    """``RTM_NEWMADDR`` or ``RTM_DELMADDR``: a multicast membership comes or goes; ``lladdr`` is what it maps to."""

    ifp: Ifnet
    name: str
    index: int
    address: Sockaddr
    new: bool
    lladdr: Sockaddr | None = None
    time: float = field(default_factory=time.time, compare=False)

    def __str__(self) -> str:
        command, verb = ("RTM_NEWMADDR", "joined") if self.new else ("RTM_DELMADDR", "left")
        return f"{command}: multicast group {verb}: if# {self.index} ({self.name}), group: {self.address}"


@dataclass(slots=True, frozen=True)
class AddrMessage:
    """``RTM_NEWADDR`` or ``RTM_DELADDR``: a protocol put an address on an interface or took it off.

    ``dstaddr`` is its broadcast address or far end.
    """

    ifp: Ifnet
    name: str
    index: int
    address: Sockaddr
    netmask: Sockaddr | None
    new: bool
    dstaddr: Sockaddr | None = None
    time: float = field(default_factory=time.time, compare=False)

    def __str__(self) -> str:
        command, verb = ("RTM_NEWADDR", "added to") if self.new else ("RTM_DELADDR", "removed from")
        mask = f" netmask {self.netmask}" if self.netmask is not None else ""
        return f"{command}: address {verb} iface: if# {self.index} ({self.name}), {self.address}{mask}"


@dataclass(slots=True, frozen=True)
class RouteMessage:
    """``RTM_ADD`` or ``RTM_DELETE``: a route comes or goes; addresses are printable text.

    ``flags`` are those of ``RTF`` that destination and gateway do not tell.
    """

    destination: str
    gateway: str | None
    name: str | None
    fib: int
    new: bool
    vnet: str = ""
    flags: int = 0
    time: float = field(default_factory=time.time, compare=False)

    def __str__(self) -> str:
        command, verb = ("RTM_ADD", "Add Route") if self.new else ("RTM_DELETE", "Delete Route")
        through = f" gateway {self.gateway}" if self.gateway else ""
        device = f" if {self.name}" if self.name else ""
        return f"{command}: {verb}: {self.destination}{through}{device} fib {self.fib}"


RoutingMessage = IfMessage | Announcement | MaddrMessage | AddrMessage | RouteMessage


@dataclass(slots=True, frozen=True)
class DevctlNotice:
    """A notice to devd: system, subsystem, type (``IFNET em0 LINK_UP``) and data."""

    system: str
    subsystem: str
    type: str
    data: str | None = None
    time: float = field(default_factory=time.time, compare=False)

    def __str__(self) -> str:
        return f"!system={self.system} subsystem={self.subsystem} type={self.type}"


class Stream(Generic[_Item]):
    """Messages waiting for a reader: iterate it, or ``get``. One that nobody reads drops, and counts, beyond ``limit``."""

    def __init__(self, owner: _Broadcast[_Item], limit: int) -> None:
        self._owner = owner
        self._queue: queue.Queue[_Item | None] = queue.Queue(limit)
        self.dropped = 0

    def put(self, message: _Item) -> None:
        """Add a message; counted as dropped when the reader is too far behind."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self.dropped += 1

    def get(self, timeout: float | None = None) -> _Item | None:
        """Return the next message; None when ``timeout`` seconds pass without one, or at the end."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def __iter__(self) -> Iterator[_Item]:
        while (message := self._queue.get()) is not None:
            yield message

    def close(self) -> None:
        """Stop listening; an iteration ends after what is waiting."""
        self._owner.remove(self.put)
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._queue.get_nowait()
            self._queue.put_nowait(None)


class _Broadcast(Generic[_Item]):
    def __init__(self) -> None:
        self._listeners: list[Callable[[_Item], None]] = []

    def listen(self, fn: Callable[[_Item], None]) -> None:
        """Call ``fn`` with each message from now on."""
        self._listeners.append(fn)

    def remove(self, fn: Callable[[_Item], None]) -> None:
        """Stop calling ``fn``; nothing happens when it is not listening."""
        if fn in self._listeners:
            self._listeners.remove(fn)

    def stream(self, limit: int = 10_000) -> Stream[_Item]:
        """Open a stream that holds at most ``limit`` unread messages."""
        stream = Stream(self, limit)
        self.listen(stream.put)
        return stream

    def post(self, message: _Item) -> None:
        """Hand ``message`` to every listener in order; one that raises is reported and passed over."""
        for fn in tuple(self._listeners):
            try:
                fn(message)
            except BaseException as error:
                report(_log, error, "a listener of %s failed: %r", type(self).__name__, fn)


class RoutingSocket(_Broadcast[RoutingMessage]):
    """The messages of ``net/rtsock.c`` that the interface layer sends, and those of the protocols above it."""

    def rt_ifmsg(self, ifp: Ifnet) -> None:
        """Tell that flags, link state or MTU of ``ifp`` changed (called at 1946, 1967, 2007, 2388, 2719)."""
        self.post(
            IfMessage(
                ifp,
                ifp.if_xname,
                ifp.if_index,
                ifp.if_flags | ifp.if_drv_flags,
                LinkState(ifp.if_link_state),
                ifp.if_mtu,
            )
        )

    def rt_ifannouncemsg(self, ifp: Ifnet, arrival: bool) -> None:
        """Tell that ``ifp`` arrives or departs (called at 697, 912, 2310, 2341)."""
        self.post(Announcement(ifp, ifp.if_xname, ifp.if_index, arrival))

    def rt_newmaddrmsg(
        self, ifp: Ifnet, address: Sockaddr, new: bool, lladdr: Sockaddr | None = None
    ) -> None:
        """Tell that a multicast membership comes or goes (called at 3058, 3233)."""
        self.post(MaddrMessage(ifp, ifp.if_xname, ifp.if_index, address, new, lladdr))

    def rt_newaddrmsg(
        self,
        ifp: Ifnet,
        address: Sockaddr,
        netmask: Sockaddr | None,
        new: bool,
        dstaddr: Sockaddr | None = None,
    ) -> None:
        """Tell that a protocol added or removed an address (``net/rtsock.c``); called by the stack."""
        self.post(AddrMessage(ifp, ifp.if_xname, ifp.if_index, address, netmask, new, dstaddr))


class Devctl(_Broadcast[DevctlNotice]):
    """``devctl_notify`` and its readers."""

    def devctl_notify(self, system: str, subsystem: str, kind: str, data: str | None = None) -> None:
        """Send one notice (called at 694, 915, 2022)."""
        self.post(DevctlNotice(system, subsystem, kind, data))
