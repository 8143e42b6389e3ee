"""A scapy program on a wire: a ``SuperSocket`` whose network is one cable or segment.

scapy's ``sniff`` and ``AsyncSniffer`` take it as ``opened_socket``, ``sndrcv`` as its
socket, an ``AnsweringMachine`` as both ``opened_socket`` and ``socket``. The methods
pass it along::

    reply = station.sr1(Ether() / IP(dst="192.0.2.1") / ICMP(), timeout=1)
    machine = station.answering_machine(ARP_am, IP_addr="192.0.2.9", ARP_addr=station.mac)

A station is a port like any NIC, and hears every frame of its wire. It is no
host: what nobody answers stays unanswered, unless it was given ``addresses``;
for those it answers ARP and IPv6 neighbour solicitations.

Nothing here asks for the machine's own interfaces or routes.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any

import scapy.layers.inet
import scapy.layers.inet6  # noqa: F401 - without it IPv6 is Raw
from scapy.config import conf
from scapy.data import MTU
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from scapy.supersocket import SuperSocket

from iflab.net.clock import Clock
from iflab.net.ifnet import as_mbuf
from iflab.net.mbuf import Mbuf, addressed, frame_of

from .port import End, WireError
from .wire import Wire

__all__ = ["Station"]

conf.verb = 0  # scapy's own progress dots would stand in the way of the lab's output


class Station(SuperSocket):  # type: ignore[misc]
    """A scapy socket plugged into a wire.

    ``mac`` is the source of frames that name none. At most ``limit`` received
    frames wait to be read; ``dropped`` counts those that came when it was full.
    """

    desc = "a station on a wire of the lab"

    def __init__(
        self,
        clock: Clock,
        name: str,
        *,
        mac: str = "02:00:00:00:00:fe",
        addresses: Iterable[str] = (),
        limit: int = 100_000,
    ) -> None:
        self.clock = clock
        self.name = name
        self.mac = mac
        self.limit = limit
        self.dropped = 0
        self.sent = 0
        self.received = 0
        self.end: End | None = None
        self.basecls = Ether
        self.LL = Ether
        self.iface = name
        self.promisc = True
        self.closed = False
        self._addresses = {ip_address(address) for address in addresses}
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self.ins = self.outs = self  # scapy asks for these; fileno() is what counts

    def __repr__(self) -> str:
        return f"<Station {self.name} {self.mac}>"

    # the port

    def receive(self, m: Mbuf) -> None:
        """Take a frame off the wire; lock held."""
        octets = frame_of(m)
        self.received += 1
        if self._addresses:
            self._answer(octets)
        if len(self._waiting) >= self.limit:
            self.dropped += 1
            return
        self._waiting.append((time.time(), octets))
        os.eventfd_write(self._ready, 1)

    def link_change(self, up: bool) -> None:
        """A station does not care."""

    def _answer(self, octets: bytes) -> None:
        """Answer who asks for one of our addresses (RFC 826, RFC 4861)."""
        kind = octets[12:14]
        if kind == b"\x08\x06":
            ask = Ether(octets).getlayer(ARP)
            if ask is not None and ask.op == 1 and ip_address(ask.pdst) in self._addresses:
                self.send(
                    Ether(dst=ask.hwsrc)
                    / ARP(op=2, hwsrc=self.mac, psrc=ask.pdst, hwdst=ask.hwsrc, pdst=ask.psrc)
                )
        elif kind == b"\x86\xdd" and octets[54:55] == b"\x87" and octets[20] == 58:
            from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6

            target = IPv6Address(octets[62:78])
            source = str(IPv6Address(octets[22:38]))
            if target in self._addresses and source != "::":
                self.send(
                    Ether(dst=octets[6:12].hex(":"))
                    / IPv6(src=str(target), dst=source, hlim=255)
                    / ICMPv6ND_NA(tgt=str(target), R=0, S=1, O=1)
                    / ICMPv6NDOptDstLLAddr(lladdr=self.mac)
                )

    # the socket

    def fileno(self) -> int:
        """Readable while a frame waits."""
        return self._ready

    def send(self, x: Any) -> int:
        """Put a frame (scapy packet with Ethernet header, or ``bytes``) on the wire; return its octets.

        Raises ``WireError`` when the station is not plugged in, ``ValueError`` for what is no frame.
        """
        if isinstance(x, Packet):
            x = self._complete(x)
            x.sent_time = time.time()
        m = as_mbuf(x)
        with self.clock.lock:
            if self.end is None:
                raise WireError(f"{self.name} is not plugged into a wire; plug it in with wire.plug(station)")
            self.sent += 1
            self.end.send(m)
        return len(m)

    def _complete(self, packet: Packet) -> Packet:
        """Put an Ethernet header on what has none, and fill in the MACs that are not set."""
        if not isinstance(packet, Ether) and not packet.haslayer(Ether):
            packet = Ether() / packet
        return addressed(packet, bytes.fromhex(self.mac.replace(":", "")))

    def recv_raw(self, x: int = MTU) -> tuple[Any, bytes | None, float | None]:
        """Return the next frame as scapy wants it; blank when none waits."""
        try:
            os.eventfd_read(self._ready)
        except BlockingIOError:
            return None, None, None
        when, octets = self._waiting.popleft()
        return Ether, octets[:x], when

    def recv_frame(self, timeout: float | None = None) -> bytes | None:
        """Wait for the next frame and return its octets; None when ``timeout`` seconds pass without one."""
        if not select.select([self._ready], [], [], timeout)[0]:
            return None
        return self.recv_raw()[1]

    @staticmethod
    def select(sockets: list[SuperSocket], remain: float | None = None) -> list[SuperSocket]:
        """Wait until one of ``sockets`` is readable (scapy's contract)."""
        return [s for s in select.select(sockets, [], [], remain)[0] if isinstance(s, SuperSocket)]

    def plug(self, wire: Wire) -> Station:
        """Plug into ``wire``; return the station itself."""
        wire.plug(self)
        return self

    def close(self) -> None:
        """Unplug, and wake nobody any more."""
        if self.closed:
            return
        self.closed = True
        with self.clock.lock:
            if self.end is not None:
                self.end.wire.unplug(self)
        os.close(self._ready)

    def __del__(self) -> None:
        """scapy's own would close a socket that is not there."""

    # scapy's functions, on this socket

    def sr(self, packets: Any, **options: Any) -> Any:
        """Send and receive, as scapy's ``sr``: ``(answered, unanswered)``."""
        from scapy.sendrecv import sndrcv

        return sndrcv(self, self._complete_all(packets), **options)

    srp = sr

    def sr1(self, packets: Any, **options: Any) -> Any:
        """Send and return the first answer; None without one."""
        answered, _ = self.sr(packets, **options)
        return answered[0][1] if answered else None

    srp1 = sr1

    def sniff(self, **options: Any) -> Any:
        """Sniff, as scapy's ``sniff``."""
        from scapy.sendrecv import sniff

        return sniff(opened_socket=self, **options)

    def async_sniffer(self, **options: Any) -> Any:
        """An ``AsyncSniffer`` on this station; frames are kept from this moment on, so none is missed."""
        from scapy.sendrecv import AsyncSniffer

        return AsyncSniffer(opened_socket=self, **options)

    def answering_machine(self, kind: type, **options: Any) -> Any:
        """Start one of scapy's answering machines on this station, in the background; ``sniffer.stop()`` ends it."""
        machine = kind(opened_socket=self, socket=self, verbose=0, **options)
        machine.bg()
        return machine

    def _complete_all(self, packets: Any) -> Any:
        if isinstance(packets, Packet):
            return self._complete(packets)
        return [self._complete(packet) for packet in packets]
