"""The link aggregation control protocol (IEEE 802.1AX-2008, clause 5.4; first IEEE 802.3ad).

No frame is carried here and no time passes by itself: ``Lacp`` is told of ports, links,
LACPDUs and seconds, and tells its owner what to send and which ports collect and
distribute. One aggregator: of all ports those are selected whose partners are the same
system with the same key, and of several such groups the largest.

Per port, with the standard's names: receive machine (5.4.12), periodic transmission
(5.4.13), selection (5.4.14), mux (5.4.15) with collecting and distributing one after
the other, transmit (5.4.16: at most three a second).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace

__all__ = [
    "GROUP",
    "Info",
    "Lacp",
    "LacpPort",
    "Lacpdu",
    "Mux",
    "PortState",
    "Receive",
    "decode",
    "encode",
    "load_scapy",
]

GROUP = b"\x01\x80\xc2\x00\x00\x02"
"""The slow protocols group address (annex 57A of IEEE 802.3)."""
ETHERTYPE = b"\x88\x09"

FAST_PERIOD, SLOW_PERIOD = 1, 30
SHORT_TIMEOUT, LONG_TIMEOUT = 3, 90
AGGREGATE_WAIT = 2
"""Seconds (5.4.4)."""
_MOST_A_SECOND = 3
_MOST_TURNS = 200


class PortState(enum.IntFlag):
    """The state octet of a LACPDU (5.4.2.2)."""

    ACTIVITY = 0x01
    TIMEOUT = 0x02
    AGGREGATION = 0x04
    SYNC = 0x08
    COLLECTING = 0x10
    DISTRIBUTING = 0x20
    DEFAULTED = 0x40
    EXPIRED = 0x80


class Receive(enum.Enum):
    """States of the receive machine."""

    PORT_DISABLED = "port disabled"
    EXPIRED = "expired"
    DEFAULTED = "defaulted"
    CURRENT = "current"


class Mux(enum.Enum):
    """States of the mux machine."""

    DETACHED = "detached"
    WAITING = "waiting"
    ATTACHED = "attached"
    COLLECTING = "collecting"
    DISTRIBUTING = "distributing"


_NO_STATE = PortState(0)


@dataclass(slots=True, frozen=True)
class Info:
    """What one side says of itself."""

    system_priority: int = 0
    system: bytes = bytes(6)
    key: int = 0
    port_priority: int = 0
    port: int = 0
    state: PortState = _NO_STATE

    @property
    def identity(self) -> tuple[int, bytes, int, int, int, bool]:
        """Everything but the parts of the state that come and go."""
        return (
            self.system_priority,
            self.system,
            self.key,
            self.port_priority,
            self.port,
            bool(self.state & PortState.AGGREGATION),
        )


@dataclass(slots=True, frozen=True)
class Lacpdu:
    """A LACPDU: what its sender says of itself, and of us."""

    actor: Info
    partner: Info


_NOBODY = Info(state=PortState.TIMEOUT)
"""What is taken for the partner while there is none: one that wants to hear every second, so that it is found soon."""
_COMPARED = PortState.ACTIVITY | PortState.TIMEOUT | PortState.SYNC | PortState.AGGREGATION


@dataclass(slots=True, eq=False)
class LacpPort:
    """A port of the aggregate; timers in seconds."""

    name: str
    number: int
    priority: int = 32768
    enabled: bool = False
    state: PortState = PortState.AGGREGATION
    partner: Info = _NOBODY
    rx: Receive = Receive.PORT_DISABLED
    mux: Mux = Mux.DETACHED
    selected: bool = False
    ntt: bool = False
    current_while: int = 0
    periodic: int = 0
    wait_while: int = 0
    sent: int = 0
    """LACPDUs in this second."""

    @property
    def collects(self) -> bool:
        """Frames from its wire are the host's."""
        return bool(self.state & PortState.COLLECTING)

    @property
    def distributes(self) -> bool:
        """Frames of the host may go there."""
        return bool(self.state & PortState.DISTRIBUTING)


@dataclass(eq=False)
class Lacp:
    """One aggregate. ``transmit`` and ``changed`` (some port collects or distributes, or does no more) are the owner's."""

    system: bytes
    key: int
    transmit: Callable[[LacpPort, Lacpdu], None]
    changed: Callable[[], None]
    system_priority: int = 32768
    active: bool = True
    """Speak unasked (5.4.2.2)."""
    fast: bool = False
    """Ask the partner for a LACPDU each second, and forget it after three."""
    ports: list[LacpPort] = field(default_factory=list)
    _running: bool = False

    # what the owner tells

    def add(self, port: LacpPort) -> None:
        """Take a port in, without a link yet."""
        self.ports.append(port)
        self.run()

    def remove(self, port: LacpPort) -> None:
        """Let a port go, and say so to its partner."""
        port.selected = False
        self._detach(port)
        if port.enabled:
            self._send(port)
        self.ports.remove(port)
        self.changed()
        self.run()

    def port_enabled(self, port: LacpPort, up: bool) -> None:
        """The link came or went."""
        if port.enabled == up:
            return
        port.enabled = up
        if up:
            self._expire(port)
            port.ntt = self.active
            port.periodic = FAST_PERIOD
        else:
            port.rx = Receive.PORT_DISABLED
            port.partner = replace(port.partner, state=port.partner.state & ~PortState.SYNC)
            port.selected = False
            self._detach(port)
        self.run()

    def received(self, port: LacpPort, pdu: Lacpdu) -> None:
        """A LACPDU came in (the states CURRENT of the receive machine)."""
        if not port.enabled:
            return
        if pdu.actor.identity != port.partner.identity:
            port.selected = False  # update_Selected
            self._detach(port)
        mine = self.actor(port)
        ours = pdu.partner
        if ours.identity != mine.identity or (ours.state ^ mine.state) & _COMPARED:
            port.ntt = True  # update_NTT
        matched = ours.identity == mine.identity or not pdu.actor.state & PortState.AGGREGATION
        partner_state = pdu.actor.state
        if not matched:
            partner_state &= ~PortState.SYNC
        port.partner = replace(pdu.actor, state=partner_state)
        port.state &= ~(PortState.DEFAULTED | PortState.EXPIRED)
        port.rx = Receive.CURRENT
        port.current_while = SHORT_TIMEOUT if self.fast else LONG_TIMEOUT
        port.periodic = min(port.periodic, self._period(port)) or self._period(port)
        self.run()

    def tick(self) -> None:
        """A second has passed."""
        for port in self.ports:
            port.sent = 0
            port.wait_while = max(0, port.wait_while - 1)
            if port.rx in (Receive.CURRENT, Receive.EXPIRED):
                port.current_while -= 1
                if port.current_while <= 0:
                    self._expire(port) if port.rx is Receive.CURRENT else self._default(port)
            if port.enabled and self._period(port):
                port.periodic -= 1
                if port.periodic <= 0:
                    port.ntt = True
                    port.periodic = self._period(port)
        self.run()

    def reconfigure(self) -> None:
        """Activity, timeout, system or key changed: say so to everybody."""
        for port in self.ports:
            port.ntt = True
            port.current_while = min(port.current_while, SHORT_TIMEOUT) if self.fast else port.current_while
        self.run()

    def actor(self, port: LacpPort) -> Info:
        """What is said to the partner of a port."""
        state = port.state & ~(PortState.ACTIVITY | PortState.TIMEOUT)
        state |= PortState.ACTIVITY * self.active | PortState.TIMEOUT * self.fast
        return Info(self.system_priority, self.system, self.key, port.priority, port.number, PortState(state))

    # machines

    def _period(self, port: LacpPort) -> int:
        if not self.active and not port.partner.state & PortState.ACTIVITY:
            return 0
        return FAST_PERIOD if port.partner.state & PortState.TIMEOUT else SLOW_PERIOD

    @staticmethod
    def _expire(port: LacpPort) -> None:
        port.rx = Receive.EXPIRED
        state = port.partner.state & ~PortState.SYNC | PortState.TIMEOUT
        port.partner = replace(port.partner, state=PortState(state))
        port.current_while = SHORT_TIMEOUT
        port.state |= PortState.EXPIRED
        port.periodic = min(port.periodic, FAST_PERIOD)

    @staticmethod
    def _default(port: LacpPort) -> None:
        port.rx = Receive.DEFAULTED
        port.partner = _NOBODY
        port.selected = False
        port.state = port.state & ~PortState.EXPIRED | PortState.DEFAULTED

    def run(self) -> None:
        """Turn selection, mux and transmission until nothing moves."""
        if self._running:
            return
        self._running = True
        try:
            before = [(port.collects, port.distributes) for port in self.ports]
            self._select()
            for _ in range(_MOST_TURNS):
                moved = [self._mux(port) for port in self.ports]
                if not any(moved):
                    break
            if before != [(port.collects, port.distributes) for port in self.ports]:
                self.changed()
            for port in self.ports:
                if port.ntt and port.enabled and port.sent < _MOST_A_SECOND:
                    speaks = self.active or port.partner.state & PortState.ACTIVITY
                    port.ntt = False
                    if speaks:
                        self._send(port)
        finally:
            self._running = False

    def _select(self) -> None:
        """Find the largest group of ports with one partner; on a tie the one in use, then the lower system."""
        groups: dict[tuple[int, bytes, int, int], list[LacpPort]] = {}
        for port in self.ports:
            partner = port.partner
            known = port.rx in (Receive.CURRENT, Receive.EXPIRED)
            if port.enabled and known and partner.system not in (bytes(6), self.system):
                alone = 0 if partner.state & PortState.AGGREGATION else port.number
                identity = (partner.system_priority, partner.system, partner.key, alone)
                groups.setdefault(identity, []).append(port)
        best = min(
            groups,
            key=lambda key: (-len(groups[key]), -sum(port.selected for port in groups[key]), key),
            default=None,
        )
        for port in self.ports:
            port.selected = best is not None and port in groups[best]

    def _detach(self, port: LacpPort) -> None:
        if port.mux is not Mux.DETACHED:
            port.mux = Mux.DETACHED
            port.state &= ~(PortState.SYNC | PortState.COLLECTING | PortState.DISTRIBUTING)
            port.ntt = True

    def _mux(self, port: LacpPort) -> bool:
        partner, before = port.partner.state, port.mux
        in_sync = bool(partner & PortState.SYNC)
        if not port.selected:
            self._detach(port)
        elif port.mux is Mux.DETACHED:
            port.mux, port.wait_while = Mux.WAITING, AGGREGATE_WAIT
        elif port.mux is Mux.WAITING:
            if not any(p.wait_while and p.mux is Mux.WAITING for p in self.ports):
                port.mux = Mux.ATTACHED
                port.state |= PortState.SYNC
        elif port.mux is Mux.ATTACHED:
            if in_sync:
                port.mux = Mux.COLLECTING
                port.state |= PortState.COLLECTING
        elif port.mux is Mux.COLLECTING:
            if not in_sync:
                port.mux = Mux.ATTACHED
                port.state &= ~PortState.COLLECTING
            elif partner & PortState.COLLECTING:
                port.mux = Mux.DISTRIBUTING
                port.state |= PortState.DISTRIBUTING
        elif not in_sync or not partner & PortState.COLLECTING:
            port.mux = Mux.COLLECTING
            port.state &= ~PortState.DISTRIBUTING
        if port.mux is before:
            return False
        if port.mux is not Mux.WAITING:
            port.ntt = True
        return True

    def _send(self, port: LacpPort) -> None:
        port.sent += 1
        self.transmit(port, Lacpdu(self.actor(port), port.partner))


# LACPDUs as frames


def load_scapy() -> None:
    """Import what frames are made of: that takes a while, which no LACPDU should have to wait for."""
    import scapy.contrib.lacp  # noqa: F401


def encode(pdu: Lacpdu, source: bytes) -> bytes:
    """Make the frame that a port with the MAC ``source`` sends (made by scapy)."""
    from scapy.contrib.lacp import LACP, SlowProtocol
    from scapy.layers.l2 import Ether

    fields = {
        f"{who}_{name}": value
        for who, info in (("actor", pdu.actor), ("partner", pdu.partner))
        for name, value in (
            ("system_priority", info.system_priority),
            ("system", info.system.hex(":")),
            ("key", info.key),
            ("port_priority", info.port_priority),
            ("port_number", info.port),
            ("state", int(info.state)),
        )
    }
    ether = Ether(dst=GROUP.hex(":"), src=source.hex(":"), type=0x8809)
    return bytes(ether / SlowProtocol(subtype=1) / LACP(**fields))


def decode(frame: bytes) -> Lacpdu | None:
    """Read a frame; None for what is no LACPDU of version 1 or later with the TLVs that it must have."""
    from scapy.contrib.lacp import LACP

    if len(frame) < 14 + 110 or frame[12:15] != ETHERTYPE + b"\x01" or frame[15] < 1:
        return None
    lacp = LACP(frame[15:])
    if (lacp.actor_type, lacp.actor_length, lacp.partner_type, lacp.partner_length) != (1, 20, 2, 20):
        return None

    def info(who: str) -> Info:
        system = bytes.fromhex(str(getattr(lacp, f"{who}_system")).replace(":", ""))
        return Info(
            getattr(lacp, f"{who}_system_priority"),
            system,
            getattr(lacp, f"{who}_key"),
            getattr(lacp, f"{who}_port_priority"),
            getattr(lacp, f"{who}_port_number"),
            PortState(int(getattr(lacp, f"{who}_state"))),
        )

    return Lacpdu(info("actor"), info("partner"))
