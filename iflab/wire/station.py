"""A scapy program on a wire: a ``SuperSocket`` whose network is one cable or segment.

scapy's ``sniff`` and ``AsyncSniffer`` take it as ``opened_socket``, ``sendp`` as
``socket``, ``sndrcv`` as its first argument, an ``AnsweringMachine`` as both
``opened_socket`` and ``socket``, an ``Automaton`` as ``sock``. ``srp``, ``srp1``,
``sr`` and ``sr1`` of scapy's face take no socket: they open one on an interface of
the machine. The methods here stand for them::

    reply = station.sr1(Ether() / IP(dst="192.0.2.1") / ICMP(), timeout=1)
    machine = station.answering_machine(ARP_am, IP_addr="192.0.2.9", ARP_addr=station.mac)

A station is a port like any NIC, and hears every frame of its wire. It is no
host: what nobody answers stays unanswered, unless it was given ``addresses``;
for those it answers ARP and IPv6 neighbour solicitations.

Nothing here asks for the machine's own interfaces or routes: an address that a
packet leaves open becomes the station's. scapy's own ``sndrcv`` looks at a packet
before the station does, so give it packets that name their sources. scapy closes
the socket of a sniffer whose ``prn`` raises, and of an ``Automaton`` that is done:
the station is unplugged then, as by ``close``.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any

import scapy.layers.inet
import scapy.layers.inet6  # noqa: F401 - without it IPv6 is Raw
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from iflab.net.clock import Clock
from iflab.net.ifnet import as_mbuf
from iflab.net.mbuf import PKTHDR, Mbuf, frame_of
from iflab.net.offload import is_unfinished
from iflab.net.packet import fill_in, lacks_ethernet

from .inbox import Heard, Inbox
from .port import End, WireError
from .wire import Wire

__all__ = ["Station"]

_log = logging.getLogger("iflab.wire")

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Station(Inbox):
    """A scapy socket plugged into a wire.

    ``mac`` is the source of frames that name none. At most ``limit`` received
    frames wait to be read; ``dropped`` counts those that came when it was full.
    Raises ``WireError`` for a MAC or an address that is none.
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
        if not _MAC.fullmatch(mac.lower()) or int(mac[:2], 16) & 1:
            raise WireError(
                f"{name}: {mac!r} is no MAC address of a station; write six octets, the first even: 02:00:00:00:00:fe"
            )
        super().__init__(name, limit=limit)
        self.clock = clock
        self.mac = mac.lower()
        self.addresses = tuple(
            _address(name, text) for text in ((addresses,) if isinstance(addresses, str) else addresses)
        )
        self.sent = 0
        self.end: End | None = None

    def __repr__(self) -> str:
        return f"<Station {self.name} {self.mac}>"

    # the port

    def receive(self, m: Mbuf) -> None:
        """Take a frame off the wire; lock held."""
        if is_unfinished(m):
            self.received += 1
            self.dropped += 1
        else:
            self.put(Heard(time.time(), frame_of(m), self.name))
        if self.addresses:
            try:
                self._answer(frame_of(m))
            except Exception:
                _log.exception("%s could not answer %s", self.name, frame_of(m).hex())

    def link_change(self, up: bool) -> None:
        """A station does not care."""

    def _answer(self, octets: bytes) -> None:
        """Answer who asks for one of our addresses (RFC 826, RFC 4861)."""
        kind = octets[12:14]
        if kind == b"\x08\x06" and octets[14:22] == b"\0\x01\x08\0\x06\x04\0\x01" and len(octets) >= 42:
            mac, asker, target = octets[22:28].hex(":"), octets[28:32], octets[38:42]
            ours = str(ip_address(target))
            if ours in self.addresses:
                self.send(
                    Ether(src=self.mac, dst=mac)
                    / ARP(op=2, hwsrc=self.mac, psrc=ours, hwdst=mac, pdst=str(ip_address(asker)))
                )
        elif kind == b"\x86\xdd" and octets[20:22] == b"\x3a\xff" and octets[54:56] == b"\x87\0":
            if len(octets) < 78 or (ours := str(IPv6Address(octets[62:78]))) not in self.addresses:
                return
            from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6

            asker, mac = octets[22:38], octets[6:12].hex(":")
            if asker == bytes(16):  # who asks whether the address is free has none yet: all are told
                whom, mac, solicited = "ff02::1", "33:33:00:00:00:01", 0
            else:
                whom, solicited = str(IPv6Address(asker)), 1
            self.send(
                Ether(src=self.mac, dst=mac)
                / IPv6(src=ours, dst=whom, hlim=255)
                / ICMPv6ND_NA(tgt=ours, R=0, S=solicited, O=1)
                / ICMPv6NDOptDstLLAddr(lladdr=self.mac)
            )

    # the socket

    def send(self, x: Any) -> int:
        """Put a frame (scapy packet, or ``bytes``) on the wire; return its octets.

        A packet without Ethernet header gets one. Raises ``WireError`` when the
        station is not plugged in, ``ValueError`` for a frame too short or too long,
        ``TypeError`` for what is no frame.
        """
        if isinstance(x, Packet):
            m = as_mbuf(bytes(self._complete(x)))
            x.sent_time = time.time()
        elif isinstance(x, (bytes, bytearray, memoryview)):
            m = as_mbuf(bytes(x))
        else:
            raise TypeError(f"{self.name}: a frame is bytes or a scapy packet, not {type(x).__name__}")
        with self.clock.lock:
            if self.closed:
                raise WireError(f"{self.name} is closed; make another station")
            if self.end is None:
                raise WireError(f"{self.name} is not plugged into a wire; plug it in with wire.plug(station)")
            self.sent += 1
            self.end.send(m)
        return len(m) - PKTHDR

    def _complete(self, packet: Packet) -> Packet:
        """Put an Ethernet header on what has none, and fill in the addresses that are not set."""
        return fill_in(Ether() / packet if lacks_ethernet(packet) else packet, self.mac, self.addresses)

    def plug(self, wire: Wire) -> Station:
        """Plug into ``wire``; return the station itself."""
        if self.closed:
            raise WireError(f"{self.name} is closed; make another station")
        wire.plug(self)
        return self

    def close(self) -> None:
        """Unplug. Whoever reads in another thread reads what is left, and then the end."""
        with self.clock.lock:
            if self.closed:
                return
            if self.end is not None:
                self.end.wire.unplug(self)
            super().close()

    # scapy's functions, on this socket

    def sr(self, packets: Any, **options: Any) -> Any:
        """Send and receive, as scapy's ``sr`` and ``srp``: ``(answered, unanswered)``.

        Frames that came before the question are no answers: they are thrown away.
        Raises what ``send`` raises, unlike scapy, which would only log it, and ``TypeError`` for
        what is no scapy packet: it alone knows its answer.
        """
        from scapy.sendrecv import sndrcv

        options = {"verbose": 0, "threaded": False, "chainEX": True, **options}
        questions = self._complete_all(packets)
        self.flush()
        return sndrcv(self, questions, **options)

    srp = sr

    def sr1(self, packets: Any, **options: Any) -> Any:
        """Send and return the first answer; None without one."""
        answered, _ = self.sr(packets, **options)
        return answered[0][1] if answered else None

    srp1 = sr1

    def sniff(self, **options: Any) -> Any:
        """Sniff, as scapy's ``sniff``, what waits and what comes."""
        from scapy.sendrecv import sniff

        return sniff(opened_socket=self, **self._checked(options))

    def async_sniffer(self, **options: Any) -> Any:
        """An ``AsyncSniffer`` on this station; frames are kept from this moment on, so none is missed."""
        from scapy.sendrecv import AsyncSniffer

        return AsyncSniffer(opened_socket=self, **self._checked(options))

    def answering_machine(self, kind: type, **options: Any) -> Any:
        """Start one of scapy's answering machines on this station, in the background; ``sniffer.stop()`` ends it."""
        machine = kind(**{"opened_socket": self, "socket": self, "verbose": 0, **self._checked(options)})
        machine.bg()
        return machine

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """Refuse what scapy would ignore, or take for the machine's own interfaces."""
        for name in ("filter", "iface"):
            if options.get(name) is not None:
                remedy = "use lfilter=function" if name == "filter" else "the station is the interface"
                raise WireError(f"{self.name}: {name}={options[name]!r} has no effect on a station; {remedy}")
        return options

    def _complete_all(self, packets: Any) -> Any:
        if isinstance(packets, Packet):
            return self._complete(packets)
        octets = isinstance(packets, (bytes, bytearray, memoryview, str))
        questions = list(packets) if isinstance(packets, Iterable) and not octets else [packets]
        for packet in questions:
            if not isinstance(packet, Packet):
                raise TypeError(
                    f"{self.name}: a question is a scapy packet, such as Ether(octets), or a list of them, "
                    f"not {type(packet).__name__}"
                )
        return [self._complete(packet) for packet in questions]


def _address(name: str, text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise WireError(
            f"{name}: {text!r} is no IP address; write one without prefix length: 192.0.2.9, 2001:db8::9"
        ) from None
