"""A frame in the hands of Python code: octets at once, a scapy packet when looked at."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from iflab.net.mbuf import Mbuf, frame_of, mbuf, octets_of

if TYPE_CHECKING:
    from .port import End, Port

__all__ = ["Frame", "dissect", "load_scapy"]

_log = logging.getLogger("iflab.wire")


def load_scapy() -> None:
    """Import what dissecting takes: a third of a second, once, which no frame should have to wait for."""
    import scapy.layers.inet
    import scapy.layers.inet6  # noqa: F401 - without it IPv6 is Raw


def dissect(octets: bytes) -> Any:
    """Make a scapy packet of an Ethernet frame; what scapy cannot make sense of is ``Raw``, never an error."""
    load_scapy()
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    try:
        return Ether(octets)
    except Exception:
        _log.debug("scapy cannot dissect %s", octets.hex(), exc_info=True)
        return Raw(octets)


class Frame:
    """What a hook or a tap gets.

    ``raw`` are the octets of the Ethernet frame, ``pkt`` the scapy packet made of
    them at first use. Assigning to either, or editing ``pkt``, changes what goes
    on. scapy computes a checksum or length only where the field was deleted:
    ``fix`` deletes them all.

    ``src`` is the end that sent it, ``dst`` the port that it is on its way to
    (None: not one in particular), ``time`` the clock's seconds.
    """

    __slots__ = ("_m", "_pkt", "_raw", "dst", "src", "time")

    def __init__(self, m: Mbuf, src: End | None = None, dst: Port | None = None, time: float = 0.0) -> None:
        self._m: Mbuf | None = m
        self._raw: bytes | None = None
        self._pkt: Any = None
        self.src = src
        self.dst = dst
        self.time = time

    @property
    def raw(self) -> bytes:
        """The octets, edits of ``pkt`` included."""
        if self._pkt is not None:
            return octets_of(self._pkt)
        if self._raw is None:
            assert self._m is not None
            self._raw = frame_of(self._m)
        return self._raw

    @raw.setter
    def raw(self, octets: bytes) -> None:
        self._raw, self._pkt, self._m = bytes(octets), None, None

    @property
    def pkt(self) -> Any:
        """The scapy packet."""
        if self._pkt is None:
            self._pkt = dissect(self.raw)
        return self._pkt

    @pkt.setter
    def pkt(self, packet: Any) -> None:
        self._pkt, self._raw, self._m = packet, None, None

    def fix(self) -> Frame:
        """Delete every length and checksum, so that they are computed anew; return the frame itself."""
        layer = self.pkt
        while layer is not None and layer.name != "NoPayload":
            names = {field.name for field in layer.fields_desc}
            for name in ("len", "plen", "chksum", "cksum"):
                if name in names:
                    layer.delfieldval(name)
            layer = layer.payload
        return self

    def to_mbuf(self) -> Mbuf:
        """The frame as it goes on: the very object that came in when nothing was looked at."""
        if self._pkt is None and self._m is not None:
            return self._m
        octets = self.raw
        if self._m is not None and octets == frame_of(self._m):
            return self._m
        return mbuf(octets)

    def __len__(self) -> int:
        return len(self.raw)

    def __bytes__(self) -> bytes:
        return self.raw

    def __repr__(self) -> str:
        return f"<Frame {len(self)} octets from {self.src.port.name if self.src else '?'}>"
