"""What a chip does for its host: finish checksums, cut super-frames into wire-sized ones.

A host that trusts its NIC hands over frames whose checksum holds only the sum of
the pseudo-header, and segments of up to 64 KiB with the size to cut them to. The
packet header in front says so (``mbuf.py``)::

    0      1         2        4         6           8            10
    +------+---------+--------+---------+-----------+------------+-------
    | flags| gso_type| hdr_len| gso_size| csum_start| csum_offset| frame
    +------+---------+--------+---------+-----------+------------+-------

``struct virtio_net_hdr`` in the machine's byte order (include/uapi/linux/
virtio_net.h; Virtual I/O Device 1.2, 5.1.6). TCP and UDP, IPv4 and IPv6, behind
VLAN tags too. Of ``hdr_len`` nothing is believed.

Sums are those of RFC 1071: a number modulo 65,535, so one division of the
octets read as one long number gives the sum of all words.
"""

from __future__ import annotations

import struct

from .mbuf import NO_PKTHDR, PKTHDR, Mbuf

__all__ = [
    "ACCEPTS_ALL",
    "ACCEPTS_CSUM",
    "ACCEPTS_GSO",
    "OffloadError",
    "finish",
    "is_unfinished",
    "wire_frames",
]

ACCEPTS_CSUM, ACCEPTS_GSO = 1, 2
"""What a receiver may be left: the checksum, the cutting."""
ACCEPTS_ALL = ACCEPTS_CSUM | ACCEPTS_GSO

_NEEDS_CSUM = 0x01
_GSO_ECN = 0x80
_GSO_TCPV4, _GSO_TCPV6, _GSO_UDP_L4 = 1, 4, 5
_VLAN = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")
_FIN_PSH, _CWR = 0x09, 0x80
_TCP, _UDP = 6, 17
_TCP_CHECK, _UDP_CHECK = 16, 6
_HEADER = struct.Struct("=BBHHHH")


class OffloadError(ValueError):
    """The packet header asks for what cannot be: it does not fit the frame behind it."""


def is_unfinished(m: Mbuf) -> bool:
    """True when a checksum or the cutting was left to the NIC."""
    return bool(m[0] & _NEEDS_CSUM or m[1])


def wire_frames(m: Mbuf) -> int:
    """How many frames ``m`` is on the wire; 1 unless it is to be cut."""
    if not m[1]:
        return 1
    _, kind, _, size, start, _ = _HEADER.unpack_from(m)
    kind &= ~_GSO_ECN
    try:
        header = start + (8 if kind == _GSO_UDP_L4 else (m[PKTHDR + start + 12] >> 4) * 4)
    except IndexError:
        return 1
    return max(1, -(-(len(m) - PKTHDR - header) // size)) if size else 1


def finish(m: Mbuf, accepts: int = 0) -> list[Mbuf]:
    """Do what the packet header of ``m`` asks for, except what the receiver ``accepts`` to be left.

    Return the frames to send, in order; ``[m]`` itself when there is nothing to do.
    Raises ``OffloadError`` when header and frame do not fit.
    """
    flags, kind, _, size, start, offset = _HEADER.unpack_from(m)
    if kind:
        return [m] if accepts & ACCEPTS_GSO else _segments(m, kind & ~_GSO_ECN, size, start)
    if flags & _NEEDS_CSUM and not accepts & ACCEPTS_CSUM:
        return [_with_checksum(m, start, offset)]
    return [m]


def _sum(octets: bytes | bytearray) -> int:
    """Sum of the 16-bit words, modulo 65,535; an odd octet counts as the upper half of a word."""
    value = int.from_bytes(octets, "big")
    return (value << 8 if len(octets) & 1 else value) % 0xFFFF


def _check(total: int, zero: int = 0) -> int:
    """The checksum for a sum; ``zero`` is written for 0, which UDP keeps for "none" (RFC 768)."""
    return (0xFFFF - total % 0xFFFF) % 0xFFFF or zero


def _with_checksum(m: Mbuf, start: int, offset: int) -> Mbuf:
    """Finish the sum that the host began: the field holds that of the pseudo-header."""
    at = PKTHDR + start + offset
    if start < 14 or at + 2 > len(m):
        raise OffloadError(f"a checksum at octet {start} + {offset} is outside a frame of {len(m) - PKTHDR}")
    check = _check(_sum(m[PKTHDR + start :]), 0xFFFF if offset == _UDP_CHECK else 0)
    return b"".join((NO_PKTHDR, m[PKTHDR:at], check.to_bytes(2, "big"), m[at + 2 :]))


def _network(m: Mbuf) -> int:
    """Where the IP header begins, in octets from the start of the mbuf."""
    at = PKTHDR + 12
    while m[at : at + 2] in _VLAN:
        at += 4
    return at + 2


def _segments(m: Mbuf, kind: int, size: int, start: int) -> list[Mbuf]:
    ip, transport = _network(m), PKTHDR + start
    version = m[ip] >> 4 if ip < len(m) else 0
    if size == 0 or version not in (4, 6) or not ip + (20 if version == 4 else 40) <= transport <= len(m) - 8:
        raise OffloadError(
            f"a super-frame of {len(m) - PKTHDR} octets with its transport header at octet {start}"
        )
    if kind in (_GSO_TCPV4, _GSO_TCPV6):
        if transport + 20 > len(m):
            raise OffloadError("a super-frame that ends in its TCP header")
        payload = transport + (m[transport + 12] >> 4) * 4
        if payload < transport + 20 or payload > len(m):
            raise OffloadError("a super-frame whose TCP header has a length that cannot be")
        protocol = _TCP
    elif kind == _GSO_UDP_L4:
        payload, protocol = transport + 8, _UDP
    else:
        raise OffloadError(f"a super-frame of the unknown kind {kind}")
    longest = payload - ip - (0 if version == 4 else 40) + min(size, len(m) - payload)
    if longest > 0xFFFF:
        raise OffloadError(f"a super-frame to be cut into packets of {longest} octets; IP has 65535 at most")
    return _cut(m, ip, transport, payload, size, protocol)


def _cut(m: Mbuf, ip: int, transport: int, payload: int, size: int, protocol: int) -> list[Mbuf]:
    """Cut the payload into pieces of ``size`` octets, each behind headers of its own.

    What is the same in every piece is summed once. IPv4 identifications count up,
    TCP sequence numbers go on; FIN and PSH are the last piece's, CWR the first's
    (RFC 3168, 6.1.2).
    """
    v4 = m[ip] >> 4 == 4
    link = NO_PKTHDR + m[PKTHDR:ip]
    addresses = m[ip + 12 : ip + 20] if v4 else m[ip + 8 : ip + 40]
    pseudo = _sum(addresses) + protocol
    ip_head = bytearray(m[ip:transport])
    head = bytearray(m[transport:payload])
    head_octets = payload - transport
    check_at, zero = (_TCP_CHECK, 0) if protocol == _TCP else (_UDP_CHECK, 0xFFFF)
    head[check_at : check_at + 2] = b"\0\0"
    if v4:
        ip_head[10:12] = ip_head[2:4] = b"\0\0"
        identification = int.from_bytes(ip_head[4:6], "big")
        ip_head[4:6] = b"\0\0"
        ip_sum = _sum(ip_head)
    sequence = int.from_bytes(head[4:8], "big") if protocol == _TCP else 0
    flags = head[13] if protocol == _TCP else 0
    above_ip = transport - ip - (0 if v4 else 40)

    frames: list[Mbuf] = []
    at, end = payload, len(m)
    while at < end or not frames:
        piece = m[at : at + size]
        octets = head_octets + len(piece)
        if v4:
            total = above_ip + octets
            number = identification + len(frames) & 0xFFFF
            ip_head[2:4] = total.to_bytes(2, "big")
            ip_head[4:6] = number.to_bytes(2, "big")
            ip_head[10:12] = _check(ip_sum + total + number).to_bytes(2, "big")
        else:
            ip_head[4:6] = (above_ip + octets).to_bytes(2, "big")
        if protocol == _TCP:
            head[4:8] = (sequence + at - payload & 0xFFFFFFFF).to_bytes(4, "big")
            own = flags
            if at + size < end:
                own &= ~_FIN_PSH
            if frames:
                own &= ~_CWR
            head[13] = own
        else:
            head[4:6] = octets.to_bytes(2, "big")
        head[check_at : check_at + 2] = b"\0\0"
        check = _check(pseudo + octets + _sum(head) + _sum(piece), zero)
        head[check_at : check_at + 2] = check.to_bytes(2, "big")
        frames.append(b"".join((link, ip_head, head, piece)))
        at += size
    return frames
