"""A ladder of a conversation as text: a column a port, an arrow a frame, with what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from iflab.wire.frame import dissect

from .history import BECAME, GOT, LOST, SENT, Event

__all__ = ["ladder"]

WIDTH = 26


class _Row:
    """A frame that was sent, and what is known of it since."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.got: list[str] = []
        self.lost: list[Event] = []
        self.changed: Counter[str] = Counter()

    def knows(self, dst: str) -> bool:
        """True when the fate of the copy for ``dst`` is known."""
        return dst in self.got or any(event.dst == dst for event in self.lost)


def ladder(events: Iterable[Event], began: float, most: int = 500) -> str:
    """Draw ``events``, the last ``most`` frames of them; times are seconds since ``began``."""
    rows = _rows(events)[-most:]
    ports = list(
        dict.fromkeys(
            name
            for row in rows
            for name in (row.event.src, *row.got, *(event.dst for event in row.lost))
            if name
        )
    )
    lines = [" " * 11 + "".join(port.ljust(WIDTH) for port in ports)]
    lines += [
        f"{row.event.time - began:9.6f}  {_arrows(ports, row)}  {dissect(row.event.octets).summary()}{_notes(row)}"
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _rows(events: Iterable[Event]) -> list[_Row]:
    """Bring frames and their fates together: by sender and octets, which is all that a fate tells."""
    rows: list[_Row] = []
    under_way: dict[tuple[str, str, bytes], list[_Row]] = {}
    for event in events:
        key = (event.wire, event.src, event.octets)
        if event.kind == SENT:
            row = _Row(event)
            rows.append(row)
            under_way.setdefault(key, []).append(row)
            continue
        there = under_way.get(key)
        if not there:
            continue  # sent before the first of these events
        if event.kind == BECAME:
            there[-1].changed[event.cause] += 1
            for octets in event.others:
                under_way.setdefault((event.wire, event.src, octets), []).append(there[-1])
            continue
        row = next((row for row in there if not row.knows(event.dst)), there[-1])
        if event.kind == GOT:
            row.got.append(event.dst)
        elif event.kind == LOST:
            row.lost.append(event)
    return rows


def _arrows(ports: list[str], row: _Row) -> str:
    text = list(("|" + " " * (WIDTH - 1)) * (len(ports) - 1) + "|")
    here = ports.index(row.event.src) * WIDTH
    ends = [(name, "") for name in row.got] + [(event.dst, "X") for event in row.lost if event.dst]
    for name, mark in sorted(ends, key=lambda end: bool(end[1])):
        there = ports.index(name) * WIDTH
        low, high = min(here, there), max(here, there)
        if low == high:
            continue
        for place in range(low + 1, high):
            if text[place] in " |":
                text[place] = "-"
        if mark:
            text[(low + high) // 2] = mark
        else:
            text[high - 1 if there > here else low + 1] = ">" if there > here else "<"
    return "".join(text)


def _notes(row: _Row) -> str:
    notes = [f"changed by {by}" + (f" ×{times}" if times > 1 else "") for by, times in row.changed.items()]
    notes += [f"lost: {event.cause}" for event in row.lost]
    if not row.got and not row.lost:
        notes.append("in flight")
    return "".join(f"  [{note}]" for note in notes)
