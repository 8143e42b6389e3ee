"""A train: frames that were taken from one place together, and go on together.

A call costs more than what most stages of the path do with a frame: they count
it, and look whether its destination is theirs. So a NIC takes what waits, up to
a budget, and where nothing stands in the way (no discipline, no busy driver, no
hook, no tap, one receiver) the whole train passes each stage in one call. What a
stage needs to know it asks of the train, which looks at the frames in loops that
run inside the interpreter.

Every stage does to a train what it would do to the frames one by one, with the
same counters; where something is in the way they go one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from .mbuf import PKTHDR, Mbuf

__all__ = ["Train"]

_head: Callable[[Mbuf], bytes] = itemgetter(slice(PKTHDR, PKTHDR + 14))
_ipv4_pair: Callable[[Mbuf], bytes] = itemgetter(slice(36, 44))
_work: Callable[[Mbuf], bytes] = itemgetter(slice(0, 2))


class Train:
    """``frames`` in order; ``octets`` of frame in all; ``heads`` are their distinct Ethernet headers."""

    __slots__ = ("_ipv4_pairs", "frames", "heads", "octets")

    def __init__(self, frames: list[Mbuf]) -> None:
        self.frames = frames
        self.octets = sum(map(len, frames)) - PKTHDR * len(frames)
        self.heads = set(map(_head, frames))
        self._ipv4_pairs: set[bytes] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def ipv4_pairs(self) -> set[bytes]:
        """Source and destination (4 octets each) of the frames, read as if all were IPv4."""
        if self._ipv4_pairs is None:
            self._ipv4_pairs = set(map(_ipv4_pair, self.frames))
        return self._ipv4_pairs

    def only_unicast(self) -> bool:
        """True when no frame is for a group or for everybody."""
        return not any(head[0] & 1 for head in self.heads)

    def only_for(self, mac: bytes) -> bool:
        """True when every frame is addressed to ``mac``."""
        return all(head[:6] == mac for head in self.heads)

    def is_unfinished(self) -> bool:
        """True when some frame left a checksum or its cutting to the NIC."""
        return any(work[0] & 1 or work[1] for work in set(map(_work, self.frames)))
