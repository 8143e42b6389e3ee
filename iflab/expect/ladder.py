"""A ladder of a conversation as text: a column a port, an arrow a frame, with what became of it."""

from __future__ import annotations

from collections.abc import Iterable

from scapy.layers.l2 import Ether

from .history import GOT, LOST, SENT, Event

__all__ = ["ladder"]

WIDTH = 26


def ladder(events: Iterable[Event], began: float, most: int = 500) -> str:
    """Draw ``events``, the last ``most`` of them; times are seconds since ``began``."""
    told = list(events)[-3 * most :]
    ports = list(dict.fromkeys(name for event in told for name in (event.src, event.dst) if name))
    lines = [" " * 11 + "".join(port.ljust(WIDTH) for port in ports)]
    fates: dict[bytes, list[Event]] = {}
    for event in told:
        if event.kind != SENT:
            fates.setdefault(event.octets, []).append(event)
    for event in told:
        if event.kind != SENT:
            continue
        own = [
            fate
            for fate in fates.get(event.octets, ())
            if fate.src == event.src and fate.number >= event.number
        ]
        fate = own[0] if own else None
        if fate is not None:
            fates[event.octets].remove(fate)
        lines.append(
            f"{event.time - began:9.6f}  {_arrow(ports, event, fate)}  {Ether(event.octets).summary()}"
        )
    return "\n".join(line.rstrip() for line in lines[:1] + lines[1:][-most:]) + "\n"


def _arrow(ports: list[str], event: Event, fate: Event | None) -> str:
    columns = [" " * WIDTH if place + 1 < len(ports) else " " for place in range(len(ports))]
    text = list("".join("|" + column[1:] for column in columns))
    here = ports.index(event.src) * WIDTH
    there = ports.index(fate.dst) * WIDTH if fate is not None and fate.dst else None
    if there is None:
        mark = fate.cause if fate is not None and fate.kind == LOST else "in flight"
        return "".join(text) + f"  from {event.src}: {mark}"
    low, high = min(here, there), max(here, there)
    text[low + 1 : high] = "-" * (high - low - 1)
    if fate is not None and fate.kind == GOT:
        text[high - 1 if there > here else low + 1] = ">" if there > here else "<"
        return "".join(text)
    text[(low + high) // 2] = "X"
    return "".join(text) + f"  lost: {fate.cause}" if fate is not None else "".join(text)
