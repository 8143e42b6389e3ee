"""A cable with faults under a clock that stands still, and bounds for what chance may do."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from iflab.faults import Fault, Faults, Record
from iflab.net import ManualClock, mbuf
from iflab.wire import Cable

from ..wire.ports import Recorder, plugged

FRAMES = 100_000

SIGMAS = 5.0
"""A sum of many chances leaves its mean by more than 5 standard deviations once in 1.7 million times."""

HEADER = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01" + b"\x88\xb5"


def numbered(number: int, octets: int = 60) -> bytes:
    """An mbuf with a frame of a given length that bears its number."""
    return mbuf((HEADER + struct.pack(">I", number)).ljust(octets, b"\0"))


def number_of(frame: bytes) -> int:
    """The number in a frame."""
    return struct.unpack(">I", frame[14:18])[0]


class Bed:
    """``a`` and ``b`` on a cable; ``arrived`` are b's frames: (when, number)."""

    def __init__(
        self, *faults: Fault, seed: int = 1, replay: Record | None = None, name: str = "cable0"
    ) -> None:
        self.clock = ManualClock(100.0)
        self.cable = Cable(self.clock, name)
        self.faults = Faults(self.clock, seed, replay=replay)
        self.faults.adopt(self.cable)
        self.a, self.b = plugged(self.cable, "ab")
        self.arrived: list[tuple[float, int]] = []
        self.b.then = lambda m: self.arrived.append((self.clock.now() - 100.0, number_of(m[10:])))
        self.sent = 0
        if faults:
            self.cable.impair(*faults, towards=self.b)

    def send(self, count: int = 1, *, gap: float = 0.0, octets: int = 60) -> None:
        """Let a send frames, numbered on from 1, ``gap`` seconds from one to the next."""
        for _ in range(count):
            self.sent += 1
            self.a.end.send(numbered(self.sent, octets))
            if gap:
                self.clock.advance(gap)

    @property
    def numbers(self) -> list[int]:
        return [number for _, number in self.arrived]

    @property
    def lost(self) -> set[int]:
        return set(range(1, self.sent + 1)) - set(self.numbers)

    def check(self) -> None:
        """Every frame is accounted for."""
        assert self.cable.account().balances()


def share_bound(probability: float, frames: int = FRAMES, inflation: float = 1.0) -> float:
    """How far a share may be from its probability: binomial, its variance times ``inflation`` for what is correlated."""
    return SIGMAS * math.sqrt(probability * (1 - probability) * inflation / frames)


def ks_distance(values: Sequence[float], cdf) -> float:
    """The greatest distance of the values' distribution function from ``cdf`` (Kolmogorov, Smirnov)."""
    ordered = sorted(values)
    n = len(ordered)
    return max(max((i + 1) / n - cdf(x), cdf(x) - i / n) for i, x in enumerate(ordered))


def ks_bound(frames: int = FRAMES, alarm: float = 1e-6) -> float:
    """How far it may be, by chance, with a probability of ``alarm`` (Dvoretzky, Kiefer and Wolfowitz; Massart)."""
    return math.sqrt(math.log(2 / alarm) / (2 * frames))


__all__ = [
    "FRAMES",
    "SIGMAS",
    "Bed",
    "Recorder",
    "ks_bound",
    "ks_distance",
    "number_of",
    "numbered",
    "share_bound",
]
