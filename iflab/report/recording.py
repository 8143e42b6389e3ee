"""What a report is made of, as data: no lab, no thread, no library."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from iflab import __version__
from iflab.net import IFF, Ifnet, flag_names
from iflab.wire import Wire

from .flows import Conversation
from .series import Timeline
from .story import Gap, Happening, Seen

__all__ = [
    "About",
    "Assertion",
    "Lane",
    "LinkState",
    "NicCount",
    "Node",
    "Outage",
    "Recording",
    "WireCount",
    "versions",
]


@dataclass(slots=True)
class Assertion:
    """Something that was expected. ``held`` is None when the run never came to it; ``time`` in seconds."""

    text: str
    held: bool | None
    time: float | None = None
    detail: str = ""
    line: int = 0
    """Its line in the scenario, 0: none."""
    times: int = 1
    """How often it was looked at."""


@dataclass(slots=True)
class About:
    """What a run is, and how it ended. ``held`` is None when nobody said."""

    title: str
    purpose: str = ""
    description: str = ""
    command: str = ""
    """What repeats it."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    assertions: list[Assertion] = field(default_factory=list)
    held: bool | None = None
    failure: str = ""
    details: str = ""


@dataclass(slots=True)
class Lane:
    """A port: ``host`` and ``nic`` for NICs, else the station's name."""

    name: str
    host: str
    nic: str


@dataclass(slots=True)
class Node:
    """A ``host``, a ``switch`` or a ``station``, with its ports."""

    name: str
    kind: str
    lanes: list[int]


@dataclass(slots=True)
class LinkState:
    """From ``time`` on a port's link was ``up``, ``down``, ``cut`` or ``unplugged``."""

    time: float
    wire: int
    lane: int
    state: str


@dataclass(slots=True)
class Outage:
    """A link that had been up was not: from ``begin`` to ``end`` (None: it never came back)."""

    wire: int
    lanes: list[int]
    state: str
    begin: float
    end: float | None


@dataclass(slots=True)
class NicCount:
    """The account of an ifnet (``if_data``)."""

    lane: int
    flags: list[str]
    mtu: int
    mac: str
    addresses: list[str]
    up: bool
    link: str
    ipackets: int
    ibytes: int
    ierrors: int
    iqdrops: int
    filtered: int
    opackets: int
    obytes: int
    oerrors: int
    queue_drops: int
    queue_room: int

    @classmethod
    def of(cls, ifp: Ifnet, lane: int) -> NicCount:
        """Read it off an interface."""
        addresses = [
            str(ifa.ifa_addr)
            for ifa in ifp.if_addrhead
            if len(getattr(ifa.ifa_addr, "packed", b"")) in (4, 16)
        ]
        return cls(
            lane=lane,
            flags=flag_names(ifp.if_flags | ifp.if_drv_flags),
            mtu=ifp.if_mtu,
            mac=ifp.lladdr.hex(":"),
            addresses=addresses,
            up=bool(ifp.if_flags & IFF.UP),
            link=ifp.if_link_state.name.lower(),
            ipackets=ifp.if_ipackets,
            ibytes=ifp.if_ibytes,
            ierrors=ifp.if_ierrors,
            iqdrops=ifp.if_iqdrops,
            filtered=getattr(ifp.if_softc, "filtered", 0),
            opackets=ifp.if_opackets,
            obytes=ifp.if_obytes,
            oerrors=ifp.if_oerrors,
            queue_drops=ifp.if_snd.ifq_drops,
            queue_room=ifp.if_snd.ifq_maxlen,
        )


@dataclass(slots=True)
class WireCount:
    """The account of a wire (``Flow``), and what hangs on it."""

    name: str
    kind: str
    lanes: list[int]
    delay: float
    sent: int
    octets: int
    added: int
    delivered: int
    in_flight: int
    dropped: dict[str, int]
    balances: bool
    missed: int
    """Frames that the recorder did not look at."""

    @classmethod
    def of(cls, wire: Wire, lanes: list[int], missed: int) -> WireCount:
        """Read it off a wire."""
        flow = wire.account()
        return cls(
            name=wire.name,
            kind=type(wire).__name__.lower(),
            lanes=lanes,
            delay=wire.delay(),
            sent=flow.sent,
            octets=flow.octets,
            added=flow.added,
            delivered=flow.delivered,
            in_flight=flow.in_flight,
            dropped=dict(flow.dropped),
            balances=flow.balances(),
            missed=missed,
        )


@dataclass(slots=True)
class Recording:
    """A run as the recorder saw it. Times in seconds since the lab began, ``started`` in seconds since 1970."""

    about: About
    lab: str
    seed: int
    started: float
    begin: float
    end: float
    lanes: list[Lane]
    nodes: list[Node]
    nics: list[NicCount]
    wires: list[WireCount]
    timeline: Timeline
    conversations: list[Conversation]
    conversations_forgotten: int
    frames: list[Seen | Gap]
    frames_seen: int
    happenings: list[Happening]
    happenings_left_out: int
    states: list[LinkState]
    versions: dict[str, str]

    def outages(self) -> list[Outage]:
        """When links that had been up were not, in order of time; ends of a wire that went together are one."""
        found: dict[tuple[int, float], Outage] = {}
        began: dict[tuple[int, int], Outage] = {}
        was_up: set[tuple[int, int]] = set()
        for state in self.states:
            key = (state.wire, state.lane)
            if (outage := began.pop(key, None)) is not None:
                outage.end = state.time
            if state.state == "up":
                was_up.add(key)
            elif key in was_up:
                there = found.setdefault(
                    (state.wire, state.time), Outage(state.wire, [], state.state, state.time, None)
                )
                there.lanes.append(state.lane)
                began[key] = there
        return sorted(found.values(), key=lambda outage: outage.begin)


def versions() -> dict[str, str]:
    """What ran where, for whoever wants to repeat it."""
    found = {"iflab": __version__, "Python": platform.python_version()}
    for package in ("scapy", "pyroute2"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["kernel"] = f"{platform.system()} {platform.release()}"
    found["machine"] = f"{platform.machine()}, {os.cpu_count()} CPUs"
    return found
