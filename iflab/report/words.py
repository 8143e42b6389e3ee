"""A frame in one line, made with scapy when the report is written."""

from __future__ import annotations

import re

from iflab.wire.frame import dissect

from .flows import Header
from .story import Seen

__all__ = ["count", "headline", "octets", "seconds", "summary"]

_FLAGS = ((0x02, "SYN"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x10, "ACK"), (0x20, "URG"))
_FLAGS_SHOWN = (*_FLAGS, (0x40, "ECE"), (0x80, "CWR"))


def octets(number: float) -> str:
    """``1.5 MB``; decimal multiples, as network people count."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.3g} {unit}"
        number /= 1000
    return ""


def seconds(value: float) -> str:
    """``12.3 ms``, ``1.24 s``: three digits."""
    if abs(value) >= 0.9995:  # what would be rounded to 1000 ms
        return f"{value:.2f} s" if abs(value) < 100 else f"{value:.0f} s"
    if abs(value) >= 0.0009995:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.0f} µs"


def count(number: int, noun: str) -> str:
    """``1 frame``, ``1,204 frames``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def summary(head: bytes) -> str:
    """scapy's own line for a frame of which the first octets are there."""
    packet = dissect(head)
    return str(packet.summary())


_SAYS_NOTHING = ("Ether", "IP", "IPv6", "IPv6ExtHdrHopByHop", "Raw", "Padding")


def headline(seen: Seen) -> str:
    """What the ladder says at a frame: TCP with relative numbers, all else as scapy sums it up."""
    header = seen.header
    if header.flags >= 0:
        return _tcp(seen, header)
    text = summary(seen.head)
    parts = [re.sub(r" \(\d+\)$", "", part) for part in text.split(" / ") if part not in _SAYS_NOTHING]
    return " / ".join(parts) or text


def _tcp(seen: Seen, header: Header) -> str:
    names = " ".join(name for bit, name in _FLAGS_SHOWN if header.flags & bit) or "no flags"
    seq, ack = seen.relative
    source = int.from_bytes(header.src[-2:], "big")
    target = int.from_bytes(header.dst[-2:], "big")
    text = f"TCP {source} → {target} [{names}] seq {seq}"
    if header.payload:
        text += f"–{seq + header.payload}"
    if header.flags & 0x10:
        text += f" ack {ack}"
    if header.segments > 1:
        text += f", {header.segments} segments"
    return text
