"""Who talks with whom: headers read by hand, conversations, retransmissions, round trips.

Every frame of a recording passes here, on the recorder's own thread, so nothing
is dissected: a few octets are looked at. scapy has its say when the report is
written (``words.py``).

A retransmission is a TCP segment with sequence numbers that its sender has sent
before on the same wire (RFC 9293, 3.8.1), keep-alives apart (RFC 9293, 3.8.4). A
round trip is measured at the sender: from a segment put on the wire to the
delivery of an acknowledgement that covers it, never from one that was
retransmitted (Karn's algorithm, RFC 6298, 3), and from an echo request to its
reply.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import ip_address

from iflab.net.mbuf import PKTHDR, Mbuf

__all__ = ["FIN", "RST", "SYN", "Conversation", "Flows", "Header"]

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
_TCP, _UDP, _ICMP, _ICMP6, _HOP_BY_HOP = 6, 17, 1, 58, 0
_IPV4, _IPV6, _VLAN = b"\x08\x00", b"\x86\xdd", (b"\x81\x00", b"\x88\xa8")
_NAMES = {_TCP: "TCP", _UDP: "UDP", _ICMP: "ICMP", _ICMP6: "ICMPv6"}
_ETHERTYPES = {b"\x08\x06": "ARP", b"\x88\xcc": "LLDP"}
_ECHO = {(_ICMP, 8): True, (_ICMP, 0): False, (_ICMP6, 128): True, (_ICMP6, 129): False}

MOST = 4096
"""Conversations that are followed at once; beyond them the one begun first is forgotten."""


class Header:
    """What a frame's headers say, as far as a conversation needs it."""

    __slots__ = ("ack", "dst", "echo", "flags", "payload", "protocol", "segments", "seq", "src")

    def __init__(self, protocol: int | bytes, src: bytes, dst: bytes) -> None:
        self.protocol = protocol
        """The IP protocol, or an EtherType."""
        self.src = src
        """Address and, where there is one, port; they sort alike in both directions."""
        self.dst = dst
        self.flags = -1
        """TCP's, -1 for all else."""
        self.seq = self.ack = self.payload = 0
        self.segments = 1
        """Frames that a super-frame stands for."""
        self.echo: tuple[bool, bytes] | None = None
        """An echo request (True) or reply, and its identifier with sequence number."""

    @classmethod
    def read(cls, m: Mbuf) -> Header:
        """Read as far as the octets make sense; never raises."""
        at = PKTHDR + 14
        kind = m[at - 2 : at]
        while kind in _VLAN and len(m) >= at + 4:
            kind = m[at + 2 : at + 4]
            at += 4
        if kind == _IPV4 and len(m) >= at + 20:
            head = (m[at] & 15) * 4
            end = at + (int.from_bytes(m[at + 2 : at + 4], "big") or len(m))
            first = not (m[at + 6] & 0x1F or m[at + 7])  # of a datagram's fragments only one has ports
            return cls._above(m, m[at + 9], m[at + 12 : at + 16], m[at + 16 : at + 20], at + head, end, first)
        if kind == _IPV6 and len(m) >= at + 40:
            end = at + 40 + (int.from_bytes(m[at + 4 : at + 6], "big") or len(m))
            protocol, up = m[at + 6], at + 40
            if protocol == _HOP_BY_HOP and len(m) >= up + 8:  # multicast listener reports have one
                protocol, up = m[up], up + 8 * (m[up + 1] + 1)
            return cls._above(m, protocol, m[at + 8 : at + 24], m[at + 24 : at + 40], up, end, True)
        return cls(kind, m[PKTHDR + 6 : PKTHDR + 12], m[PKTHDR : PKTHDR + 6])

    @classmethod
    def _above(cls, m: Mbuf, protocol: int, src: bytes, dst: bytes, at: int, end: int, first: bool) -> Header:
        end = min(end, len(m))
        if not first or end < at + 8:
            return cls(protocol, src, dst)
        if protocol == _TCP and end >= at + 20:
            found = cls(protocol, src + m[at : at + 2], dst + m[at + 2 : at + 4])
            found.seq = int.from_bytes(m[at + 4 : at + 8], "big")
            found.ack = int.from_bytes(m[at + 8 : at + 12], "big")
            found.flags = m[at + 13]
            found.payload = max(0, end - at - (m[at + 12] >> 4) * 4)
            size = m[4] | m[5] << 8
            if m[1] and size:  # a super-frame: gso_size of its virtio-net header
                found.segments = max(1, -(-found.payload // size))
            return found
        if protocol == _UDP:
            found = cls(protocol, src + m[at : at + 2], dst + m[at + 2 : at + 4])
            found.payload = end - at - 8
            return found
        found = cls(protocol, src, dst)
        asks = _ECHO.get((protocol, m[at]))
        if asks is not None:
            found.echo = asks, m[at + 4 : at + 8]
        found.payload = end - at
        return found


def _ahead(one: int, other: int) -> int:
    """How far sequence number ``one`` is ahead of ``other``, modulo 2^32 (RFC 9293, 3.4)."""
    return ((one - other + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class _Side:
    """What one side of a TCP connection has sent."""

    __slots__ = ("first", "next", "timed")

    def __init__(self, seq: int) -> None:
        self.first = self.next = seq
        self.timed: tuple[int, float] | None = None
        """The acknowledgement that ends the measurement under way, and when it began."""


class Conversation:
    """Frames of one wire between two addresses (and ports), both ways."""

    __slots__ = (
        "_asked",
        "_sides",
        "frames",
        "label",
        "lost",
        "octets",
        "retransmitted",
        "rtt_count",
        "rtt_sum",
        "wire",
    )

    def __init__(self, wire: int, label: str) -> None:
        self.wire = wire
        self.label = label
        self.frames = 0
        self.octets = 0
        self.lost = 0
        self.retransmitted = 0
        """TCP segments; a super-frame stands for several."""
        self.rtt_count = 0
        self.rtt_sum = 0.0
        self._sides: dict[bytes, _Side] = {}
        self._asked: dict[bytes, float] = {}

    def sent(self, header: Header, time: float) -> bool:
        """A frame was put on the wire; return whether it was a retransmission."""
        if header.echo is not None and header.echo[0]:
            if len(self._asked) >= 256:
                self._asked.pop(next(iter(self._asked)))
            self._asked[header.echo[1]] = time
        if header.flags < 0:
            return False
        side = self._sides.get(header.src)
        if side is None or (header.flags & SYN and header.seq != side.first):
            side = self._sides[header.src] = _Side(header.seq)
        room = header.payload + bool(header.flags & SYN) + bool(header.flags & FIN)
        if not room:
            return False
        end = (header.seq + room) & 0xFFFFFFFF
        if _ahead(header.seq, side.next) >= 0:
            side.next = end
            if side.timed is None:
                side.timed = end, time
            return False
        if header.payload <= 1 and room == header.payload and _ahead(side.next, header.seq) == 1:
            return False  # a keep-alive
        if _ahead(end, side.next) > 0:
            side.next = end
        side.timed = None
        self.retransmitted += header.segments
        return True

    def delivered(self, header: Header, time: float) -> float | None:
        """A frame arrived; return the round trip that it ends, in seconds, if it ends one."""
        began = None
        if header.echo is not None and not header.echo[0]:
            began = self._asked.pop(header.echo[1], None)
        elif header.flags >= 0 and header.flags & ACK:
            side = self._sides.get(header.dst)
            if side is not None and side.timed is not None and _ahead(header.ack, side.timed[0]) >= 0:
                began, side.timed = side.timed[1], None
        if began is None:
            return None
        self.rtt_count += 1
        self.rtt_sum += time - began
        return time - began

    def relative(self, header: Header) -> tuple[int, int]:
        """Sequence and acknowledgement number counted from the connection's beginning."""
        own, other = self._sides.get(header.src), self._sides.get(header.dst)
        return (
            header.seq - own.first & 0xFFFFFFFF if own is not None else header.seq,
            header.ack - other.first & 0xFFFFFFFF if other is not None else header.ack,
        )


class Flows:
    """The conversations of a recording, a bounded number of them."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.forgotten = 0
        self._there: dict[Hashable, Conversation] = {}

    def of(self, wire: int, header: Header) -> Conversation:
        """The conversation on ``wire`` that a frame belongs to."""
        key = (wire, header.protocol, min(header.src, header.dst), max(header.src, header.dst))
        found = self._there.get(key)
        if found is None:
            if len(self._there) >= self.most:
                self._there.pop(next(iter(self._there)))
                self.forgotten += 1
            found = self._there[key] = Conversation(wire, _label(header))
        return found

    def all(self) -> list[Conversation]:
        """All that are remembered, in the order in which they began."""
        return list(self._there.values())


def _label(header: Header) -> str:
    if isinstance(header.protocol, bytes):
        name = _ETHERTYPES.get(header.protocol) or f"EtherType 0x{header.protocol.hex() or '?'}"
        return f"{name} {header.src.hex(':')} ↔ {header.dst.hex(':')}"
    name = _NAMES.get(header.protocol) or f"IP protocol {header.protocol}"
    return f"{name} {_address(header.src)} ↔ {_address(header.dst)}"


def _address(octets: bytes) -> str:
    """``192.0.2.1:80``, ``[2001:db8::1]:80``, or the address alone."""
    if len(octets) in (4, 16):
        return str(ip_address(octets))
    port = int.from_bytes(octets[-2:], "big")
    if len(octets) == 18:
        return f"[{ip_address(octets[:16])}]:{port}"
    return f"{ip_address(octets[:4])}:{port}"
