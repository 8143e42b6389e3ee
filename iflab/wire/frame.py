"""A frame in the hands of Python code: octets at once, a scapy packet when looked at.

scapy dissects anything here, or is not asked. Who calls hooks, and what their
answers mean, is in ``wire.py``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from iflab.net.mbuf import PKTHDR, Mbuf, mbuf
from iflab.net.packet import layers_of, octets_of

if TYPE_CHECKING:
    from .port import End, Port

__all__ = ["Frame", "dissect", "load_scapy"]

_log = logging.getLogger("iflab.wire")

_LENGTHS = ("len", "plen", "ihl", "dataofs", "chksum", "cksum")


def load_scapy() -> None:
    """Import what dissecting takes: a third of a second, once, which no frame should have to wait for."""
    import scapy.layers.inet
    import scapy.layers.inet6  # noqa: F401 - without it IPv6 is Raw


def dissect(octets: bytes) -> Any:
    """Make a scapy packet of an Ethernet frame; what scapy cannot make sense of is ``Raw``, never an error."""
    load_scapy()
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    if len(octets) < 14:  # of nothing at all scapy would make a default packet
        return Raw(octets)
    try:
        return Ether(octets)
    except Exception:
        _log.debug("scapy cannot dissect %s", octets.hex(), exc_info=True)
        return Raw(octets)


class Frame:
    """What a hook gets.

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
        """The octets; what ``_pkt`` was made of, if there is one. None: not known yet, or ``_pkt`` was assigned."""
        self._pkt: Any = None
        self.src = src
        self.dst = dst
        self.time = time

    @property
    def raw(self) -> bytes:
        """The octets, edits of ``pkt`` included."""
        if self._pkt is None:
            if self._raw is None:
                assert self._m is not None
                self._raw = self._m[PKTHDR:]
            return self._raw
        built = octets_of(self._pkt)
        if self._raw is None or built == self._raw:
            return built
        # Of a few odd packets scapy builds something else than it dissected: having looked is no edit.
        return self._raw if built == octets_of(dissect(self._raw)) else built

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
        """Delete lengths and checksums, so that they are computed anew; return the frame itself.

        Not those that can't be: above the IP header of a fragment, whose datagram is
        not all here, in the packet that an ICMP error quotes, and the length in an
        802.3 header, where scapy would count the padding.
        """
        for layer in layers_of(self.pkt):
            kind = type(layer).__name__
            if kind in ("IPerror", "IPerror6"):
                break
            for name in _LENGTHS:
                if kind != "Dot3" and name in layer.default_fields and layer.default_fields[name] is None:
                    layer.delfieldval(name)
            if kind == "IPv6ExtHdrFragment" or (kind == "IP" and (layer.flags.MF or layer.frag)):
                break
        return self

    def is_untouched(self) -> bool:
        """True when nobody assigned to it or so much as looked at its packet."""
        return self._pkt is None and self._m is not None

    def to_mbuf(self) -> Mbuf:
        """The frame as it goes on: the very object that came in when nothing was changed."""
        if self._m is not None and self._pkt is None:
            return self._m
        octets = self.raw
        if self._m is not None and octets == self._raw:
            return self._m
        return mbuf(octets)

    def __len__(self) -> int:
        return len(self.raw)

    def __bytes__(self) -> bytes:
        return self.raw

    def __repr__(self) -> str:
        return f"<Frame {len(self)} octets from {self.src.port.name if self.src else '?'}>"
