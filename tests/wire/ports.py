"""A port that remembers, and what the tests of the wire send."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from iflab.net import ManualClock, frame_of, mbuf
from iflab.wire import Cable, Segment, Wire

A_MAC = "02:00:00:00:00:01"
B_MAC = "02:00:00:00:00:02"


class Recorder:
    """Keeps what it receives; ``then`` is called with each frame, as a host that reacts would."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.end: Any = None
        self.mbufs: list[bytes] = []
        self.links: list[bool] = []
        self.then: Callable[[bytes], object] = lambda m: None

    def receive(self, m: bytes) -> None:
        self.mbufs.append(m)
        self.then(m)

    def link_change(self, up: bool) -> None:
        self.links.append(up)

    def send(self, text: str) -> None:
        self.end.send(framed(text))

    @property
    def frames(self) -> list[bytes]:
        return [frame_of(m) for m in self.mbufs]

    @property
    def texts(self) -> list[str]:
        return [frame[14:].decode() for frame in self.frames]


def framed(text: str) -> bytes:
    """An mbuf whose frame says something."""
    return mbuf(bytes.fromhex((B_MAC + A_MAC).replace(":", "")) + b"\x88\xb5" + text.encode())


def plugged(wire: Wire, names: Iterable[str]) -> list[Recorder]:
    """Plug a recorder in for each name."""
    ports = [Recorder(name) for name in names]
    for port in ports:
        wire.plug(port)
    return ports


def cabled(clock: ManualClock | None = None) -> tuple[Cable, Recorder, Recorder]:
    cable = Cable(clock or ManualClock(), "cable0")
    a, b = plugged(cable, "ab")
    return cable, a, b


def hubbed(names: Iterable[str], clock: ManualClock | None = None) -> tuple[Segment, list[Recorder]]:
    hub = Segment(clock or ManualClock(), "hub0")
    return hub, plugged(hub, names)
