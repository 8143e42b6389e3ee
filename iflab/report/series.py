"""What happened when, summed over time in a bounded number of bins.

All series of a recording share one ``Timeline``, and with it the width of a bin.
It begins fine and doubles whenever time outgrows the number of bins, so that a
run of a second and a run of a day take the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

__all__ = ["Bin", "Timeline"]

BINS = 1024
"""Bins at most."""

FINEST = 0.001
"""Seconds that a bin has at the beginning."""


_MAXIMA = ("delay_max", "held_max", "queue")


class Bin:
    """What one end of a wire did within one bin: octets of frame, times in seconds."""

    __slots__ = (
        "delay_count",
        "delay_max",
        "delay_sum",
        "dropped",
        "frames",
        "held_max",
        "lost",
        "octets",
        "queue",
        "retransmitted",
        "rtt_count",
        "rtt_sum",
    )

    def __init__(self) -> None:
        self.frames = 0
        self.octets = 0
        self.lost = 0
        self.retransmitted = 0
        """TCP segments."""
        self.delay_count = 0
        self.delay_sum = 0.0
        self.delay_max = 0.0
        self.rtt_count = 0
        self.rtt_sum = 0.0
        self.queue = 0
        """Longest send queue that was seen, in frames."""
        self.held_max = 0.0
        """Longest that a frame was in it."""
        self.dropped = 0
        """Frames that the NIC itself turned away: queue full, not running, errors."""

    def add(self, other: Bin) -> None:
        """Take in what ``other`` holds."""
        for name in self.__slots__:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, max(mine, theirs) if name in _MAXIMA else mine + theirs)


class Timeline:
    """Bins by key (the number of a lane) and by time in seconds since the recording began."""

    def __init__(self, bins: int = BINS, width: float = FINEST) -> None:
        self.bins = bins
        self.width = width
        """Seconds a bin."""
        self.series: dict[int, dict[int, Bin]] = {}

    def at(self, key: int, time: float) -> Bin:
        """The bin of ``key`` for a moment."""
        number = max(0, int(time / self.width))
        while number >= self.bins:
            self._double()
            number = max(0, int(time / self.width))
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = {}
        found = series.get(number)
        if found is None:
            found = series[number] = Bin()
        return found

    def copy(self) -> Timeline:
        """All as it is now; what comes later does not change it."""
        there = Timeline(self.bins, self.width)
        there.series = {
            key: {number: copy(each) for number, each in series.items()}
            for key, series in self.series.items()
        }
        return there

    def _double(self) -> None:
        self.width *= 2
        for key, series in self.series.items():
            merged: dict[int, Bin] = {}
            for number, each in series.items():
                there = merged.get(number // 2)
                if there is None:
                    merged[number // 2] = each
                else:
                    there.add(each)
            self.series[key] = merged

    def coarse(self, key: int, width: float, count: int) -> list[Bin]:
        """``count`` bins of ``width`` seconds, empty ones included; ``width`` is not below that of the timeline."""
        found = [Bin() for _ in range(count)]
        for number, each in self.series.get(key, {}).items():
            found[min(count - 1, int((number + 0.5) * self.width / width))].add(each)
        return found

    def all(self, key: int) -> Iterator[Bin]:
        """Every bin of ``key``, in no order."""
        yield from self.series.get(key, {}).values()
