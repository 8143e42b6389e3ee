"""What is plugged into a wire, and what it finds there: ``Port``, ``End``, and the count of a direction.

What moves the frames is in ``wire.py``; kinds of ports are elsewhere (NICs in
``iflab/drivers``, stations in ``station.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from iflab.net.mbuf import PKTHDR, Mbuf

if TYPE_CHECKING:
    from iflab.net import Ifnet

    from .wire import Wire

__all__ = ["End", "Flow", "Plugged", "Port", "WireError"]


class WireError(ValueError):
    """A plug that does not fit; the text names the port, the wire and the remedy."""


class Port(Protocol):
    """A NIC (``iflab/drivers/tap.py``), a ``Station``, or a test double.

    All functions run with the lab's lock held, on whichever thread moved the
    frame or the plug. A port may also have these; the wire looks for them:

    ``takes(sender) -> int``
        what may be left undone on frames for this port (``ACCEPTS_CSUM``,
        ``ACCEPTS_GSO``); a port without it gets finished frames only.
    ``accepts_change()``
        what its end of the wire accepts has changed.
    """

    name: str
    """For messages: ``"alice:em0"``."""

    end: End | None
    """The end of the wire that it is plugged into; set and unset by the wire."""

    def receive(self, m: Mbuf) -> None:
        """Take a frame off the wire."""

    def link_change(self, up: bool) -> None:
        """The carrier came or went; called at changes only."""


Plugged: TypeAlias = "Port | Ifnet | str"
"""A port of a wire as users name it: itself, the ifnet of a NIC, or its name (``"bob:em0"``)."""


@dataclass(slots=True)
class Flow:
    """What one end put on the wire, and what became of it, in frames (``octets``: of frame).

    ``added`` are those that a hook or a hub made of one. ``in_flight`` is what is
    delayed, or in the hands of a hook right now. At every moment
    ``sent + added == delivered + all that was dropped + in_flight``.
    """

    sent: int = 0
    octets: int = 0
    added: int = 0
    delivered: int = 0
    in_flight: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def balances(self) -> bool:
        """True when every frame is accounted for."""
        return self.sent + self.added == self.delivered + self.dropped.total() + self.in_flight

    def drop(self, cause: str, frames: int = 1) -> None:
        """Count frames lost on the way, by cause."""
        self.dropped[cause] += frames

    def add(self, other: Flow) -> None:
        """Add what ``other`` counted."""
        self.sent += other.sent
        self.octets += other.octets
        self.added += other.added
        self.delivered += other.delivered
        self.in_flight += other.in_flight
        self.dropped += other.dropped


class End:
    """One end of a wire. Its port transmits by calling ``send`` with the lab's lock held.

    ``send`` is bound anew whenever the wire changes, so that a frame on a plain
    cable meets nothing but the counters. ``up`` is the carrier at this end.
    """

    __slots__ = (
        "__weakref__",
        "accepts",
        "flow",
        "gate",
        "listeners",
        "port",
        "send",
        "straight_to",
        "up",
        "wire",
    )

    def __init__(self, wire: Wire, port: Port) -> None:
        self.wire = wire
        self.port = port
        self.up = False
        self.flow = Flow()
        self.send: Callable[[Mbuf], None] = self._unbound
        self.straight_to: Port | None = None
        """The one port that gets every frame at once and untouched; None when something is in the way."""
        self.gate: Callable[[Mbuf], Callable[[], None] | None] | None = None
        """On the straight way stands one hook: ask here for each frame. None: it passes, and counts as delivered; hand
        it over. Else what is still to be done with it, after those before it were handed over."""
        self.listeners: tuple[Callable[[End, list[Mbuf]], None], ...] = ()
        """They want to hear what goes straight."""
        self.accepts = 0
        """What may be left undone on a frame (``ACCEPTS_CSUM``, ``ACCEPTS_GSO``); the port does the rest first."""

    def unbind(self) -> None:
        """Its plug was pulled: nothing goes through it any more."""
        self.send, self.straight_to, self.gate, self.listeners = self._unbound, None, None, ()

    def _unbound(self, m: Mbuf) -> None:
        """Somebody kept an end whose plug was pulled; the wire counts what it loses."""
        history = self.wire.history
        history.sent += 1
        history.octets += max(0, len(m) - PKTHDR)
        history.drop("unplugged")

    @property
    def name(self) -> str:
        """The wire and the port: ``"cable0 at alice:em0"``."""
        return f"{self.wire.name} at {self.port.name}"

    def __repr__(self) -> str:
        return f"<End {self.name} {'up' if self.up else 'down'}>"
