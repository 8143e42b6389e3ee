"""Capture files: pcapng (draft-ietf-opsawg-pcapng) and pcap (draft-ietf-opsawg-pcap), as octets.

Only the shape of the blocks is here; what is written when is in ``capture.py``.
They are made with ``struct``: the libraries that can write all of this (flags,
comments, statistics) take longer for a frame than its whole way through a cable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["INBOUND", "OUTBOUND", "Interface", "PcapFile", "PcapngFile", "packets"]

INBOUND, OUTBOUND = 1, 2
LINKTYPE_ETHERNET = 1
SNAPLEN = 1 << 18

_SHB, _IDB, _ISB, _EPB = 0x0A0D0D0A, 1, 5, 6
_OPT_COMMENT = 1
_OPT_MOST = 65_535
_IDB_NAME, _IDB_DESCRIPTION, _IDB_MAC, _IDB_SPEED, _IDB_TSRESOL, _IDB_FILTER = 2, 3, 6, 8, 9, 11
_EPB_FLAGS = 2
_ISB_IFRECV, _ISB_IFDROP, _ISB_USRDELIV = 4, 5, 8
_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")
_EPB_HEAD = struct.Struct("<IIIIIII")
_END_FLAGS = {flags: struct.pack("<HHIHH", _EPB_FLAGS, 4, flags, 0, 0) for flags in (0, INBOUND, OUTBOUND)}


@dataclass(frozen=True, slots=True)
class Interface:
    """Where frames were heard: a NIC, or an end of a wire. ``speed`` in bits a second, 0: unknown."""

    name: str
    description: str = ""
    mac: bytes = b""
    speed: int = 0
    filter: str = ""
    snaplen: int = SNAPLEN


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + _PAD[len(value) & 3]


def _text(code: int, text: str, before: bytes = b"") -> bytes:
    octets = before + text.encode("utf-8", "replace")
    if len(octets) > _OPT_MOST:
        octets = octets[:_OPT_MOST].decode("utf-8", "ignore").encode()  # no half of a character
    return _option(code, octets)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def packets(
    form: type[PcapngFile] | type[PcapFile],
    interface: int,
    time_ns: int,
    frames: Sequence[bytes],
    part: slice,
    flags: int,
) -> list[bytes]:
    """``form.packet`` of frames that were heard together; ``part`` of each is its octets, from the first or a later one.

    What stands before and behind the octets depends on their number alone, and is made once for all of one length.
    """
    around: dict[int, tuple[bytes, bytes]] = {}
    before = part.start or 0
    blocks = []
    for m in frames:
        octets = m[part]
        length = len(m)
        found = around.get(length)
        if found is None:
            block = form.packet(interface, time_ns, octets, length - before, flags)
            found = around[length] = block[: form.HEAD], block[form.HEAD + len(octets) :]
        head, tail = found
        blocks.append(head + octets + tail)
    return blocks


class PcapngFile:
    """The blocks of a pcapng file with nanosecond times."""

    HEAD = 28
    """Octets of a packet's block before those of the frame."""

    @staticmethod
    def begin(comment: str = "") -> bytes:
        """Section header; ``comment`` says what the capture is of."""
        options = (_text(_OPT_COMMENT, comment) if comment else b"") + _text(4, "iflab") + _option(0, b"")
        return _block(_SHB, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + options)

    @staticmethod
    def interface(about: Interface) -> bytes:
        """Interface description."""
        options = _text(_IDB_NAME, about.name)
        if about.description:
            options += _text(_IDB_DESCRIPTION, about.description)
        if len(about.mac) == 6:
            options += _option(_IDB_MAC, about.mac)
        if about.speed:
            options += _option(_IDB_SPEED, struct.pack("<Q", about.speed))
        options += _option(_IDB_TSRESOL, b"\x09")
        if about.filter:
            options += _text(_IDB_FILTER, about.filter, b"\0")
        return _block(
            _IDB, struct.pack("<HHI", LINKTYPE_ETHERNET, 0, about.snaplen) + options + _option(0, b"")
        )

    @staticmethod
    def packet(
        interface: int, time_ns: int, octets: bytes, length: int, flags: int = 0, comments: Iterable[str] = ()
    ) -> bytes:
        """Enhanced packet: ``octets`` of a frame that had ``length``."""
        captured = len(octets)
        pad = _PAD[captured & 3]
        options = b"".join(_text(_OPT_COMMENT, comment) for comment in comments) + _END_FLAGS[flags]
        size = 32 + captured + len(pad) + len(options)
        head = _EPB_HEAD.pack(_EPB, size, interface, time_ns >> 32, time_ns & 0xFFFFFFFF, captured, length)
        return b"".join((head, octets, pad, options, head[4:8]))

    @staticmethod
    def statistics(
        interface: int, time_ns: int, received: int, dropped: int, comments: Iterable[str] = ()
    ) -> bytes:
        """Interface statistics: frames heard, and those of them that are not in the file."""
        options = b"".join(_text(_OPT_COMMENT, comment) for comment in comments)
        options += _option(_ISB_IFRECV, struct.pack("<Q", received))
        options += _option(_ISB_IFDROP, struct.pack("<Q", dropped))
        options += _option(_ISB_USRDELIV, struct.pack("<Q", received - dropped))
        body = struct.pack("<III", interface, time_ns >> 32, time_ns & 0xFFFFFFFF)
        return _block(_ISB, body + options + _option(0, b""))


class PcapFile:
    """The same as plain pcap, nanosecond times: no interfaces, no comments, no statistics."""

    HEAD = 16

    @staticmethod
    def begin(comment: str = "") -> bytes:
        """File header."""
        return struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAPLEN, LINKTYPE_ETHERNET)

    @staticmethod
    def interface(about: Interface) -> bytes:
        """Nothing: pcap knows no interfaces."""
        return b""

    @staticmethod
    def packet(
        interface: int, time_ns: int, octets: bytes, length: int, flags: int = 0, comments: Iterable[str] = ()
    ) -> bytes:
        """Packet record."""
        seconds, rest = divmod(time_ns, 10**9)
        return struct.pack("<IIII", seconds, rest, len(octets), length) + octets

    @staticmethod
    def statistics(
        interface: int, time_ns: int, received: int, dropped: int, comments: Iterable[str] = ()
    ) -> bytes:
        """Nothing."""
        return b""
