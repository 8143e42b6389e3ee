"""Inputs: frames that are right, and what becomes of them when chance has its way.

An input is an mbuf: ten octets of packet header and a frame, either of which may be
cut short.
"""

from __future__ import annotations

import functools
import random
import struct
from pathlib import Path

from iflab.drivers.bpdu import encode as bpdu
from iflab.drivers.carp import make_advertisement
from iflab.drivers.lacp import Info, Lacpdu, PortState
from iflab.drivers.lacp import encode as lacpdu
from iflab.drivers.rstp import Bpdu, BpduType, Role, Times, Vector

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 65_535
MAC_A, MAC_B = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
PLAIN = bytes(10)
_MARKS = (0, 1, 4, 5, 6, 10, 13, 14, 15, 16, 17, 18, 33, 34, 59, 60, 64, 127, 128, 255, 256, 1500, 65_535)


def pkthdr(flags: int = 0, kind: int = 0, size: int = 0, start: int = 0, offset: int = 0) -> bytes:
    """``struct virtio_net_hdr``; its ``hdr_len`` is believed by nobody."""
    return struct.pack("=BBHHHH", flags, kind, 0, size, start, offset)


def _ether(kind: int, body: bytes, dst: bytes = MAC_B, tags: bytes = b"") -> bytes:
    return dst + MAC_A + tags + kind.to_bytes(2, "big") + body


def _ipv4(protocol: int, body: bytes, ttl: int = 64) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, ttl, protocol, 0, b"\xc0\0\2\1", b"\xc0\0\2\2"
    )
    return head + body


def _ipv6(protocol: int, body: bytes, hops: int = 64) -> bytes:
    source = b"\x20\x01\x0d\xb8" + bytes(11)
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, hops) + source + b"\1" + source + b"\2" + body


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Frames of everything that some part of the lab looks into."""
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x18, 100, 0, 0)
    udp = struct.pack("!HHHH", 1, 2, 8 + 3000, 0)
    vector = Vector(32768 << 48 | 0x020000000001, 20_000, 32768 << 48 | 0x020000000001, 0x8001)
    group = b"\x01\0\x5e\0\0\x12"
    advertisement = make_advertisement(1, 1, 0, 0, 5, bytes(20))
    return (
        PLAIN + _ether(0x0800, _ipv4(17, udp + bytes(20))),
        PLAIN
        + _ether(
            0x0806, struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, MAC_A, b"\xc0\0\2\1", b"", b"\xc0\0\2\2")
        ),
        PLAIN + _ether(0x86DD, _ipv6(58, b"\x80\0" + bytes(30))),
        PLAIN + _ether(0x0800, _ipv4(6, tcp + bytes(50)), tags=b"\x81\0\0\x0a"),
        PLAIN + _ether(0x0800, _ipv4(6, tcp + bytes(50)), tags=b"\x88\xa8\0\x05\x81\0\0\x0a"),
        pkthdr(1, 1, 1000, 34, 16) + _ether(0x0800, _ipv4(6, tcp + bytes(5000))),
        pkthdr(1, 4, 1000, 54, 16) + _ether(0x86DD, _ipv6(6, tcp + bytes(5000))),
        pkthdr(1, 5, 700, 34, 6) + _ether(0x0800, _ipv4(17, udp + bytes(3000))),
        pkthdr(1, 0x81, 536, 38, 16) + _ether(0x0800, _ipv4(6, tcp + bytes(3000)), tags=b"\x81\0\0\x0a"),
        pkthdr(1, 0, 0, 34, 6) + _ether(0x0800, _ipv4(17, udp + bytes(100))),
        PLAIN + bpdu(Bpdu(BpduType.RST, vector, Times(0, 20, 2, 15), Role.DESIGNATED, proposal=True), MAC_A),
        PLAIN + bpdu(Bpdu(BpduType.CONFIG, vector, Times(0, 20, 2, 15), Role.DESIGNATED), MAC_A),
        PLAIN + bpdu(Bpdu(BpduType.TCN), MAC_A),
        PLAIN
        + lacpdu(
            Lacpdu(Info(1, MAC_A, 1, 1, 1, PortState(0x3D)), Info(1, MAC_B, 1, 1, 1, PortState(0x3D))), MAC_A
        ),
        PLAIN + _ether(0x88CC, bytes(46), dst=b"\x01\x80\xc2\0\0\x0e"),
        PLAIN + b"\xff" * 6 + MAC_A + b"\x08\0" + bytes(46),
        PLAIN + _ether(0x0800, _ipv4(112, advertisement, 255), dst=group),
        PLAIN + _ether(0x86DD, _ipv6(112, advertisement, 255), dst=b"\x33\x33\0\0\0\x12"),
    )


def corpus() -> list[bytes]:
    """The fixed inputs: one a line, in hexadecimal, ``*N`` behind octets that stand there N times; ``#`` begins a remark."""
    found = []
    for path in sorted(CORPUS.glob("*.txt")):
        for line in path.read_text().splitlines():
            text = line.partition("#")[0].split()
            if text or line == "empty":
                octets = b""
                for word in text:
                    part, _, times = word.partition("*")
                    octets += bytes.fromhex(part) * int(times or 1)
                found.append(octets)
    return found


def cut_at_every_length() -> list[bytes]:
    """Every right frame, cut short everywhere in its first 160 octets."""
    return [seed[:length] for seed in seeds() for length in range(min(len(seed), 160))]


def mutated(rng: random.Random) -> bytes:
    """Something made of the right frames, or of nothing."""
    choice = rng.random()
    if choice < 0.05:
        length = rng.choice(_MARKS) if rng.random() < 0.5 else rng.randrange(200)
        return rng.randbytes(min(LONGEST, length))
    octets = bytearray(rng.choice(seeds()))
    for _ in range(rng.randrange(1, 6)):
        _meddle(octets, rng)
    if rng.random() < 0.3:  # any packet header
        octets[:10] = pkthdr(
            rng.choice((0, 1, 3, 255)),
            rng.choice((0, 1, 3, 4, 5, 0x81, 0x84, rng.randrange(256))),
            rng.choice((0, 1, 536, 1448, 65_535, rng.randrange(65_536))),
            rng.choice((0, 14, 34, 54, 38, rng.randrange(200), 65_535)),
            rng.choice((0, 6, 16, rng.randrange(100), 65_535)),
        )
    return bytes(octets[:LONGEST])


def _meddle(octets: bytearray, rng: random.Random) -> None:
    choice = rng.randrange(8)
    if choice == 0:
        del octets[rng.choice(_MARKS) if rng.random() < 0.3 else rng.randrange(len(octets) + 1) :]
    elif choice == 1:
        octets += rng.randbytes(rng.choice((1, 2, 40, 1000)) if rng.random() < 0.98 else 60_000)
    elif choice == 2 and octets:
        at = rng.randrange(min(len(octets), 120))
        octets[at] ^= 1 << rng.randrange(8)
    elif choice == 3 and octets:
        octets[rng.randrange(min(len(octets), 120))] = rng.choice((0, 1, 0x45, 0x4F, 0x60, 0x7F, 0x80, 0xFF))
    elif choice == 4 and len(octets) > 26:
        octets[22:24] = rng.choice(
            (b"\x81\0", b"\x88\xa8", b"\x91\0", b"\x88\x09", b"\x08\0", b"\x86\xdd", b"\0\x26")
        )
    elif choice == 5:
        at = rng.randrange(len(octets) + 1)
        octets[at:at] = rng.choice((b"\x81\0\0\x0a", b"\x88\xa8\0\x05", bytes(4), b"\x81\0" * 40))
    elif choice == 6:
        at = rng.randrange(min(len(octets), 100) + 1)
        part = rng.randbytes(rng.randrange(1, 9))
        octets[at : at + len(part)] = part
    else:
        other = rng.choice(seeds())
        at = rng.randrange(min(len(octets), len(other)) + 1)
        octets[at:] = other[at:]
