"""The lab that is stressed: hosts, a switch, cables with a free end, a hub, and a pair of hosts that speaks TCP.

::

    east --- n0 ... n9 of four hosts ---+--- sw0 .. sw3 --- ports of a switch
                                        +--- c0 .. c3 ----- two free ends each
                                        +--- hub ---------- and a reflector
    tcp0 em0 ----------- tcp -------------------------- em0 tcp1
"""

from __future__ import annotations

import threading
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from iflab.drivers import TapNic
from iflab.net import PKTHDR, Ifnet, LinkState, Mbuf
from iflab.net.altq import Altq, TokenBucketRegulator, altq_forgo, altq_use
from iflab.wire import Cable, End, Segment, Wire

from .ledger import Ledger

if TYPE_CHECKING:
    from iflab.host import Host
    from iflab.lab import Lab

__all__ = ["Bed", "Reflector"]

HOSTS = ("north", "east", "south", "west")
NAMES = tuple(f"n{number}" for number in range(10))
TCP_RATE = 60e6
"""Bits a second of the pair that speaks TCP."""


class Reflector:
    """A port that sends every other unicast frame back to where it came from, at once, from inside ``receive``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.end: End | None = None
        self.received = 0

    def receive(self, m: Mbuf) -> None:
        """Count a frame, and answer it."""
        self.received += 1
        if self.received & 1 and self.end is not None and len(m) >= PKTHDR + 14 and not m[PKTHDR + 6] & 1:
            at = PKTHDR
            self.end.send(m[:at] + m[at + 6 : at + 12] + m[at : at + 6] + m[at + 12 :])

    def link_change(self, up: bool) -> None:
        """It sends whenever it likes."""


class Bed:
    """What is there, and who may be changed. ``nics`` come and go; all of it under ``lab.lock``."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.ledger = Ledger(lab.lock)
        self.random = Random(f"{seed} bed")
        self.over = threading.Event()
        self.hosts: list[Host] = [lab.host(name) for name in HOSTS]
        self.nics: list[Ifnet] = []
        self.reflector = Reflector("reflector")
        self.wires: list[Wire] = []
        self.done: Counter[str] = Counter()
        """What the threads did, by name."""
        self.refused: Counter[str] = Counter()
        """What was refused meanwhile, by what and error."""
        self.unexpected: list[str] = []
        switch = lab.switch("sw", ports=4)
        self.switch = switch
        for number in range(4):
            self._wire(Cable(lab.engine, f"sw{number}")).plug(switch[number].if_softc)
        for number in range(4):
            self._wire(Cable(lab.engine, f"c{number}"))
        self._wire(Segment(lab.engine, "hub")).plug(self.reflector)
        for wire in self.wires:
            self.ledger.adopt(wire)
        self._tcp_pair()

    def _wire(self, wire: Wire) -> Wire:
        with self.lab.lock:
            self.lab.faults.adopt(wire)
            self.lab.wires[wire.name] = wire
            self.wires.append(wire)
        return wire

    def _tcp_pair(self) -> None:
        """Two hosts that stay; their cable has faults of its own."""
        from iflab.faults import Delay, Loss, Rate

        lab = self.lab
        self.tcp = (lab.host("tcp0"), lab.host("tcp1"))
        ends = [host.nic("em0", f"192.0.2.{n}/24") for n, host in enumerate(self.tcp, 1)]
        cable = Cable(lab.engine, "tcp")
        self._wire(cable)
        self.ledger.adopt(cable)
        for ifp in ends:
            self.ledger.plug(cable, ifp.if_softc)
        cable.impair(Loss(0.0005), Delay(0.0005), Rate(TCP_RATE, frames=200))
        lab.wait_links()
        self.tcp_nics = ends

    # what is at hand

    def free(self) -> list[Wire]:
        """Wires with room for a plug; the lock must be held."""
        return [wire for wire in self.wires if wire.name != "tcp" and self._room(wire)]

    @staticmethod
    def _room(wire: Wire) -> bool:
        return len(wire.ends) < (5 if wire.max_ports is None else wire.max_ports)

    def all_nics(self) -> list[TapNic]:
        """Every NIC of the bed, the switch's ports included."""
        found = [*self.nics, *self.tcp_nics, *self.switch.ports]
        return [ifp.if_softc for ifp in found]

    def live(self, ifp: Ifnet) -> bool:
        """True while an interface is there; the lock must be held."""
        return ifp in self.nics and isinstance(ifp.if_softc, TapNic)

    def attach(self, host: Host, name: str) -> Ifnet:
        """Make a NIC and let it be known. Raises as ``host.nic`` does."""
        with self.lab.lock:
            ifp = host.nic(name, f"198.18.{self.hosts.index(host)}.{NAMES.index(name) + 1}/15")
            self.nics.append(ifp)
            self.ledger.entry(ifp.if_softc)
        return ifp

    def detach(self, ifp: Ifnet, pull: bool = True) -> bool:
        """Take a NIC away for good, its account settled; False when somebody was quicker.

        Without ``pull`` its plug is in when it goes.
        """
        with self.lab.lock:
            if not self.live(ifp):
                return False
            self.nics.remove(ifp)
            nic: TapNic = ifp.if_softc
            self.ledger.leave(nic, pull)
            ifp.if_detach()
            ifp.if_free()
            self.ledger.left(nic)
        return True

    def manage(self, ifp: Ifnet, discipline: Altq, rate: float) -> None:
        """Put a discipline and a regulator to the send queue; the lock must be held."""
        self.ledger.entry(ifp.if_softc).disciplines.append(discipline)
        altq_use(ifp, discipline)
        TokenBucketRegulator(self.lab.engine, rate, depth=3000).attach(ifp)

    @staticmethod
    def let_go(ifp: Ifnet) -> None:
        """Take both off again; the lock must be held."""
        if ifp.if_snd.altq_tbr is not None:
            ifp.if_snd.altq_tbr.detach()
        if ifp.if_snd.altq_disc is not None:
            altq_forgo(ifp)

    def calm(self) -> None:
        """Nothing is changed any more: links whole, no faults but the pair's, nobody stalls, queues are plain."""
        with self.lab.lock:
            for ifp in self.nics:
                self.let_go(ifp)
            for wire in self.wires:
                wire.mend()
                for hook in list(wire.hooks):
                    hook.remove()
                wire.impair()
                wire.set_delay(0)
            for ifp in self.nics:
                ifp.if_drv_flags &= ~0x400
                ifp.if_start()

    def in_flight(self) -> int:
        """Frames that are under way."""
        with self.lab.lock:
            return sum(wire.account().in_flight for wire in self.wires)

    def links(self) -> int:
        """Interfaces with a link."""
        return sum(ifp.if_link_state is LinkState.UP for ifp in self.nics)
