"""What a bridge has learned: which member leads to which MAC (IEEE 802.1Q, 8.8; FreeBSD's ``struct bridge_rtnode``).

Addresses are kept by VLAN (independent learning). A dynamic entry is forgotten when
nothing was heard from it for ``timeout`` seconds, moves with its station, and is not
made any more once ``maxaddr`` are there. A static one stays and leads where it was told
to; a sticky one was learned, and stays like a static one.

Time comes in as an argument; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["MAXADDR", "TIMEOUT", "Entry", "ForwardingTable"]

MAXADDR = 2000
"""Addresses that a bridge learns unless told otherwise (``BRIDGE_RTABLE_MAX``)."""
TIMEOUT = 1200.0
"""Seconds until one is forgotten (``BRIDGE_RTABLE_TIMEOUT``)."""

M = TypeVar("M")


@dataclass(slots=True)
class Entry(Generic[M]):
    """An address on a member; ``kind`` is ``"dynamic"``, ``"static"`` or ``"sticky"``."""

    mac: bytes
    vlan: int
    member: M
    kind: str
    heard: float


class ForwardingTable(Generic[M]):
    """The table; ``exceeded`` counts what was not learned because it was full."""

    def __init__(self) -> None:
        self.maxaddr = MAXADDR
        self.timeout = TIMEOUT
        self.exceeded = 0
        self._entries: dict[tuple[int, bytes], Entry[M]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry[M]]:
        return iter(list(self._entries.values()))

    def find(self, mac: bytes, vlan: int, now: float) -> M | None:
        """The member that leads to ``mac``; None when that is not known (any more)."""
        entry = self._entries.get((vlan, mac))
        if entry is None:
            return None
        if entry.kind == "dynamic" and self._is_old(entry, now):
            del self._entries[vlan, mac]
            return None
        return entry.member

    def learn(
        self, mac: bytes, vlan: int, member: M, now: float, sticky: bool = False, limit: int = 0
    ) -> bool:
        """``mac`` was heard on ``member``. False when the table, or the member's ``limit`` (0: none), is full."""
        entry = self._entries.get((vlan, mac))
        if entry is not None:
            if entry.kind == "dynamic":
                if entry.member is not member and limit and self.count(member) >= limit:
                    return False
                entry.member, entry.heard = member, now
                if sticky:
                    entry.kind = "sticky"
            return True
        if len(self._entries) >= self.maxaddr:
            self.prune(now)
            if len(self._entries) >= self.maxaddr:
                self.exceeded += 1
                return False
        if limit and self.count(member) >= limit:
            return False
        self._entries[vlan, mac] = Entry(mac, vlan, member, "sticky" if sticky else "dynamic", now)
        return True

    def hear(self, mac: bytes, vlan: int, member: M, now: float) -> bool:
        """``mac`` was heard on the member that it is known to be on; False when it is not known so, and nothing is done."""
        entry = self._entries.get((vlan, mac))
        if entry is None or entry.member is not member:
            return False
        entry.heard = now
        return True

    def set_static(self, mac: bytes, vlan: int, member: M, now: float) -> None:
        """Let ``mac`` be on ``member`` for good."""
        self._entries[vlan, mac] = Entry(mac, vlan, member, "static", now)

    def delete(self, mac: bytes, vlan: int) -> bool:
        """Forget an address of any kind; False when it is not there."""
        return self._entries.pop((vlan, mac), None) is not None

    def flush(self, member: M | None = None, *, everything: bool = False) -> int:
        """Forget what was learned, on one member or on all; ``everything``: static and sticky ones too. Return how many."""
        gone = [
            key
            for key, entry in self._entries.items()
            if (member is None or entry.member is member) and (everything or entry.kind == "dynamic")
        ]
        for key in gone:
            del self._entries[key]
        return len(gone)

    def prune(self, now: float) -> int:
        """Forget dynamic entries that are too old; return how many."""
        gone = [
            key
            for key, entry in self._entries.items()
            if entry.kind == "dynamic" and self._is_old(entry, now)
        ]
        for key in gone:
            del self._entries[key]
        return len(gone)

    def count(self, member: M) -> int:
        """Addresses on a member."""
        return sum(entry.member is member for entry in self._entries.values())

    def _is_old(self, entry: Entry[M], now: float) -> bool:
        return now - entry.heard >= self.timeout > 0
