"""Sniffers: listeners on NICs and wires that hear from the moment they are made.

::

    engine's thread, lock held                  reader's thread
    NIC (bpf_mtap), wire (tap) -> filter -----> inbox -> predicate -> iterator, scapy

The engine's thread runs libpcap's filter and appends; everything else, scapy's
dissection and Python predicates too, happens where the frames are read. A reader
that is too slow loses its own frames, counted in ``dropped``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from scapy.data import MTU
from scapy.packet import Packet
from scapy.plist import PacketList

from iflab.drivers import TapNic, listeners_change
from iflab.net import BpfSide, BpfTap, Ifnet, Mbuf, bpfattach, bpfdetach
from iflab.net.mbuf import PKTHDR
from iflab.wire import End, Tap, Wire
from iflab.wire.frame import dissect
from iflab.wire.inbox import Heard, Inbox

from .filters import Filter, as_predicate

__all__ = ["SNAPLEN", "Sniffer"]

SNAPLEN = 1 << 18
"""Octets kept of a frame: more than any has."""

_SIDES = {"in": BpfSide.IN, "out": BpfSide.OUT, "both": BpfSide.IN | BpfSide.OUT}
_NAMES = {BpfSide.IN: "in", BpfSide.OUT: "out", BpfSide.WIRE: "in"}


class Sniffer(Inbox):
    """Hears what passes on NICs (``Ifnet``) and wires, from this moment until ``close`` or ``stop``.

    ``filter`` is an expression of tcpdump, run by libpcap, or a Python function of
    a scapy packet; ``lfilter`` such a function besides. ``direction`` is "in",
    "out" or "both", as the NIC sees it; a wire has no such sides, there every frame is
    on its way "out" of the end that sent it. ``before_filter``: on NICs, also what the hardware
    filter does not let through. ``promisc`` opens that filter as long as the
    sniffer is there (``ifpromisc``). ``snaplen`` octets of a frame are kept;
    ``ring`` frames at most, the last ones; else ``limit``, and ``budget`` octets.

    ``received`` counts what passed the expression, ``dropped`` what of it found no
    room. It is an iterator of scapy packets, ends when it is closed, and is a
    scapy socket: ``sniff`` and ``AsyncSniffer`` take it as ``opened_socket``. Raises
    ``FilterError``, ``ValueError``, ``TypeError``.
    """

    desc = "a listener of the lab"

    def __init__(
        self,
        *places: Ifnet | Wire,
        filter: str | Filter | Callable[[Packet], Any] | None = None,
        lfilter: Callable[[Packet], Any] | None = None,
        direction: str = "both",
        before_filter: bool = False,
        promisc: bool = False,
        snaplen: int = SNAPLEN,
        ring: int | None = None,
        limit: int = 1_000_000,
        budget: int = 256 << 20,
    ) -> None:
        if not places:
            raise ValueError("a sniffer needs a NIC or a wire to listen on")
        if direction not in _SIDES:
            raise ValueError(f"direction is 'in', 'out' or 'both', not {direction!r}")
        if snaplen < 1 or (ring is not None and ring < 1) or limit < 1:
            raise ValueError("snaplen, ring and limit are 1 at least")
        for place in places:
            if not isinstance(place, (Ifnet, Wire)):
                raise TypeError(f"{place!r} is neither a NIC nor a wire")
            if isinstance(place, Wire) and direction != "both":
                raise ValueError(
                    f"{place.name} is a wire and has no {direction!r}; name a NIC at one of its ends"
                )
        if not (filter is None or isinstance(filter, (str, Filter)) or callable(filter)):
            raise TypeError(f"{filter!r} is no filter; give an expression of tcpdump or a function")
        names = ", ".join(_name(place) for place in places)
        super().__init__(names, limit=ring or limit, budget=budget, ring=ring is not None)
        self.filter = as_predicate(filter)
        self.predicates = [fn for fn in (filter, lfilter) if callable(fn) and not isinstance(fn, Filter)]
        self.snaplen = snaplen
        self.places = places
        self._left: set[Ifnet | Wire] = set(places)
        self._undo: list[Callable[[], None]] = []
        side = _SIDES[direction]
        if before_filter and side & BpfSide.IN:
            side = (side & ~BpfSide.IN) | BpfSide.WIRE
        self._direction = direction
        try:
            for place in places:
                if isinstance(place, Wire):
                    self._listen_wire(place)
                else:
                    self._listen_nic(place, side, promisc)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        what = f" {self.filter.text!r}" if isinstance(self.filter, Filter) else ""
        return f"<Sniffer on {self.name}{what}: {len(self._waiting)} wait, {self.dropped} dropped>"

    # what listens

    def _listen_wire(self, wire: Wire) -> None:
        tap: Tap = wire.add_tap(self._on_wire, train=self._train)
        self._undo.append(tap.remove)

    def _listen_nic(self, ifp: Ifnet, side: BpfSide, promisc: bool) -> None:
        tap = BpfTap(self._on_nic, side, self._gone)
        with ifp.kernel.giant:
            if promisc:
                ifp.ifpromisc(1)
            bpfattach(ifp, tap)
            listeners_change(ifp)

        def undo() -> None:
            with ifp.kernel.giant:
                if tap not in ifp.if_bpf:
                    return  # it is gone
                bpfdetach(ifp, tap)
                listeners_change(ifp)
                if promisc:
                    ifp.ifpromisc(0)

        self._undo.append(undo)

    # on the engine's thread, lock held

    def _on_wire(self, end: End, m: Mbuf) -> None:
        self._offer(time.time(), m, end.port.name, "out")

    def _train(self, end: End, frames: list[Mbuf]) -> None:
        now = time.time()
        for m in frames:
            self._offer(now, m, end.port.name, "out")

    def _on_nic(self, ifp: Ifnet, m: Mbuf, side: BpfSide) -> None:
        self._offer(time.time(), m, ifp.if_softc.name if ifp.if_softc else ifp.if_xname, _NAMES[side])

    def _gone(self, ifp: Ifnet) -> None:
        self._left.discard(ifp)
        if not self._left:
            self.close()  # there is nothing left to hear

    def _offer(self, when: float, m: Mbuf, where: str, direction: str) -> None:
        length = len(m) - PKTHDR
        octets = m[PKTHDR : PKTHDR + self.snaplen]
        if self.filter is None or self.filter(octets, length):
            self.put(Heard(when, octets, where, direction, length))

    # on the reader's

    def take(self) -> Heard | None:
        """The next frame that the predicates let through; None when none waits. ``EOFError`` at the end."""
        while (heard := super().take()) is not None:
            if not self.predicates:
                return heard
            packet = self.packet(heard)
            if all(fn(packet) for fn in self.predicates):
                return heard
        return None

    @staticmethod
    def packet(heard: Heard) -> Packet:
        """The scapy packet of a frame: ``time``, ``sniffed_on`` and ``direction`` set."""
        packet: Packet = dissect(heard.octets)
        packet.time = heard.time
        packet.sniffed_on = heard.where
        packet.direction = 0 if heard.direction == "in" else 1
        packet.wirelen = heard.length
        return packet

    def recv(self, x: int = MTU, **_: Any) -> Packet | None:
        """The next packet, as scapy wants it; None when none waits."""
        heard = self.take()
        return None if heard is None else self.packet(heard)

    def __iter__(self) -> Iterator[Packet]:
        """Packets as they come, until the sniffer is closed."""
        while (heard := self.wait()) is not None:
            yield self.packet(heard)

    def heard(self) -> list[Heard]:
        """Everything that waits, taken out."""
        found: list[Heard] = []
        try:
            while (heard := self.take()) is not None:
                found.append(heard)
        except EOFError:
            pass
        return found

    def packets(self) -> PacketList:
        """Everything that waits, taken out, as scapy's list."""
        return PacketList([self.packet(heard) for heard in self.heard()], name=self.name)

    def sniff(self, **options: Any) -> PacketList:
        """scapy's ``sniff`` on what waits and what comes: ``count``, ``timeout``, ``prn``, ``lfilter``, ``session`` …"""
        from scapy.sendrecv import sniff

        return sniff(opened_socket=self, **options)

    def stop(self) -> PacketList:
        """Listen no more, and return what is unread."""
        self.close()
        return self.packets()

    results = property(packets, doc="What is unread, as scapy's ``AsyncSniffer`` calls it.")

    def close(self) -> None:
        """Listen no more. What waits can still be read; after it comes the end."""
        while self._undo:
            self._undo.pop()()
        super().close()


def _name(place: Ifnet | Wire) -> str:
    if isinstance(place, Wire):
        return place.name
    return place.if_softc.name if isinstance(place.if_softc, TapNic) else place.if_xname
