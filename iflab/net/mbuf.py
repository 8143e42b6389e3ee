"""The unit that travels: one frame with its packet header.

An *mbuf* is one ``bytes`` object::

    0            10                                  10 + n
    +------------+-----------------------------------+
    | pkthdr     | Ethernet frame, no FCS            |
    +------------+-----------------------------------+

The packet header tells a NIC what is still to be done to the frame: finish a
checksum, cut a super-frame into wire-sized ones. It has the layout of
``struct virtio_net_hdr`` (``include/uapi/linux/virtio_net.h``), so an mbuf is
what a TAP with ``IFF_VNET_HDR`` reads and writes, and passes from one kernel
to the other without a copy. All zeros: nothing is left to do.

Whoever counts octets counts those of the frame.
"""

from __future__ import annotations

__all__ = [
    "NO_PKTHDR",
    "PKTHDR",
    "Mbuf",
    "frame_of",
    "is_broadcast",
    "is_multicast",
    "mbuf",
]

PKTHDR = 10
"""Octets of packet header in front of the frame."""

NO_PKTHDR = bytes(PKTHDR)
"""The header that asks for nothing."""

Mbuf = bytes
"""Type of an mbuf; plain ``bytes``, because a wrapper would cost more than the frame."""

_BROADCAST = b"\xff" * 6


def mbuf(frame: bytes) -> Mbuf:
    """Wrap a whole Ethernet frame (octets, no FCS) with a header that asks for nothing."""
    return NO_PKTHDR + frame


def frame_of(m: Mbuf) -> bytes:
    """Return the Ethernet frame inside ``m``."""
    return m[PKTHDR:]


def is_broadcast(m: Mbuf) -> bool:
    """True when the frame is addressed to every station (``M_BCAST``). A truncated address is judged by what is there."""
    destination = m[PKTHDR : PKTHDR + 6]
    return destination != b"" and _BROADCAST.startswith(destination)


def is_multicast(m: Mbuf) -> bool:
    """True when the frame is addressed to a group, broadcast apart (``M_MCAST``)."""
    return len(m) > PKTHDR and bool(m[PKTHDR] & 1) and not is_broadcast(m)
