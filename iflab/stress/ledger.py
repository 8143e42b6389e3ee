"""The account of every NIC and cable, kept by somebody who is neither.

A cable counts for each of its ends what it sent and what became of it; a NIC counts
what it sent and received. The ledger knows at every moment who is plugged into what, so
it can say what each NIC must have counted, and compares. What holds for each NIC, when
the lab's lock is held::

    kernel tx = taken                        what the host sent, the NIC took
    taken + injected = handed                all that went to its send queue:
    handed = if_opackets - pieces + if_oerrors + ifq_drops + ifq_flushed + ifq_len + what a discipline lost
    if_opackets = sent                       all that it sent is on its cables' accounts

    delivered = if_ipackets + if_iqdrops + if_ierrors + filtered - refused
    kernel rx = if_ipackets - refused        what it handed up, the host got

and for each cable ``sent + added = delivered + all causes + in flight``, with no cause
that has no name.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iflab.drivers import TapNic
from iflab.net.altq import Altq
from iflab.wire import Cable, End, Port, Wire

if TYPE_CHECKING:
    from iflab.linux import Netns
    from iflab.net import Mbuf
    from iflab.net.giant import Giant

__all__ = ["OUR_FAULT", "Entry", "Ledger", "kernel_counts"]

OUR_FAULT = frozenset({"unfinished", "receiver error", "hook error", "fault error"})
"""Causes that nothing in a stress run brings about but a defect."""


def kernel_counts(netns: Netns, index: int) -> tuple[int, int]:
    """Frames that the host got from a device, and sent through it, as the kernel counts (/proc/net/dev)."""
    for _ in range(10):  # somebody may give it another name just now
        with netns.entered():
            name = os.fsencode(socket.if_indextoname(index))
        for line in netns.read_list("dev"):
            device, _, rest = line.partition(b":")
            if device.strip() == name:
                words = rest.split()
                return int(words[1]), int(words[9])
    raise LookupError(f"{netns.name} has no device number {index}")


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of one NIC."""

    ends: list[End] = field(default_factory=list)
    """Those that it has, or had since they were last added up."""
    sent: int = 0
    delivered: int = 0
    injected: int = 0
    disciplines: list[Altq] = field(default_factory=list)
    """That its send queue has, or had."""


class Ledger:
    """Must be told of every plug, through ``plug`` and ``unplug``, of every frame that is injected, and of disciplines."""

    def __init__(self, lock: Giant) -> None:
        self.lock = lock
        self.entries: dict[Port, Entry] = {}
        self.totals: Counter[str] = Counter()
        """Sums over the NICs that are gone."""
        self.gone = 0
        self.errors: list[str] = []
        """Where an account did not hold."""
        self._seen: dict[End, int] = {}

    # who is plugged in where

    def entry(self, port: Port) -> Entry:
        """The entry of a port, a new one if need be."""
        return self.entries.setdefault(port, Entry())

    def plug(self, wire: Wire, port: Port) -> None:
        """Plug a port in. Raises ``WireError``."""
        with self.lock:
            self.settle(wire)
            self.entry(port).ends.append(wire.plug(port))

    def unplug(self, port: Port) -> None:
        """Pull its plug; nothing happens when it is in nothing."""
        with self.lock:
            if port.end is not None:
                wire = port.end.wire
                self.settle(wire)
                wire.unplug(port)

    def adopt(self, wire: Wire) -> None:
        """Keep account of a wire, and of those who are plugged into it already and have sent nothing."""
        with self.lock:
            for end in wire.ends.values():
                self.entry(end.port).ends.append(end)
            if not isinstance(wire, Cable):
                wire.add_tap(self._nothing, self._fate, train=self._train, whole=True)

    def settle(self, wire: Wire) -> None:
        """Credit what a cable delivered since the last time to those who are plugged in now."""
        if not isinstance(wire, Cable):
            return
        ends = list(wire.ends.values())
        for end in ends:
            delivered = end.flow.delivered
            new = delivered - self._seen.get(end, 0)
            self._seen[end] = delivered
            if new:
                other = next((each for each in ends if each is not end), None)
                if other is None:
                    self.errors.append(f"{wire.name}: {new} frames were delivered to nobody")
                else:
                    self.entry(other.port).delivered += new

    def _nothing(self, end: End, m: Mbuf) -> None:
        pass

    def _fate(self, end: End, port: Port | None, m: Mbuf, cause: str) -> None:
        if not cause and port is not None:
            self.entry(port).delivered += 1

    def _train(self, end: End, frames: list[Mbuf]) -> None:
        other = next(each for each in end.wire.ends.values() if each is not end)
        self.entry(other.port).delivered += len(frames)

    # what each must have counted

    def account(self, nic: TapNic) -> dict[str, int]:
        """The counters of a NIC, and what is known of it; the lock must be held."""
        entry, ifp = self.entry(nic), nic.ifp
        if nic.end is not None:
            self.settle(nic.end.wire)
        for end in entry.ends:
            if end is not nic.end:
                entry.sent += end.flow.sent
                self._seen.pop(end, None)
        entry.ends = [nic.end] if nic.end is not None else []
        found = {
            "taken": nic.taken,
            "injected": entry.injected,
            "opackets": ifp.if_opackets,
            "pieces": nic.pieces,
            "oerrors": ifp.if_oerrors,
            "queue drops": ifp.if_snd.ifq_drops,
            "flushed": ifp.if_snd.ifq_flushed,
            "queued": ifp.if_snd.ifq_len,
            "lost in queue": sum(each.dropped.total() - each.turned_away for each in entry.disciplines),
            "sent": entry.sent + (nic.end.flow.sent if nic.end is not None else 0),
            "delivered": entry.delivered,
            "ipackets": ifp.if_ipackets,
            "iqdrops": ifp.if_iqdrops,
            "ierrors": ifp.if_ierrors,
            "filtered": nic.filtered,
            "refused": nic.refused,
        }
        if nic.tap.fd >= 0:
            found["kernel rx"], found["kernel tx"] = kernel_counts(nic.netns, nic.tap.ifindex)
        return found

    def check(self, nic: TapNic) -> dict[str, int]:
        """Compare, note what does not hold, and return the account; the lock must be held."""
        a = self.account(nic)
        handed = a["opackets"] - a["pieces"] + a["oerrors"] + a["queue drops"] + a["flushed"] + a["queued"]
        handed += a["lost in queue"]
        gotten = a["ipackets"] + a["iqdrops"] + a["ierrors"] + a["filtered"] - a["refused"]
        rules = [("sent on cables", a["sent"], "if_opackets", a["opackets"])]
        rules.append(("delivered by cables", a["delivered"], "received and refused", gotten))
        if "kernel tx" in a:  # what a switch's port sends comes from its bridge
            rules.append(("taken and injected", a["taken"] + a["injected"], "handed to the queue", handed))
            rules.append(("the kernel's tx", a["kernel tx"], "taken", a["taken"]))
            rules.append(("the kernel's rx", a["kernel rx"], "handed up", a["ipackets"] - a["refused"]))
        for left, one, right, other in rules:
            if one != other:
                self.errors.append(f"{nic.name}: {left} {one}, {right} {other} ({a})")
        return a

    def leave(self, nic: TapNic, pull: bool) -> None:
        """A NIC is about to go for good: check it while its device is there. The lock must be held until ``left``."""
        if pull:
            self.unplug(nic)
        self.check(nic)

    def left(self, nic: TapNic) -> None:
        """It is gone: what it counted until the end goes into the totals."""
        self.totals.update(self.check(nic))
        self.gone += 1
        del self.entries[nic]

    def check_wire(self, wire: Wire) -> dict[str, Any]:
        """Note what does not hold of a wire, and return its account; the lock must be held."""
        self.settle(wire)
        account = wire.account()
        if not account.balances():
            self.errors.append(f"{wire.name}: {account} does not balance")
        if not all(account.dropped):
            self.errors.append(f"{wire.name}: frames were lost without a cause: {account}")
        if ours := OUR_FAULT & account.dropped.keys():
            self.errors.append(
                f"{wire.name}: the lab itself lost frames ({', '.join(sorted(ours))}): {account}"
            )
        return {
            "wire": wire.name,
            "sent": account.sent,
            "added": account.added,
            "delivered": account.delivered,
            "in flight": account.in_flight,
            "dropped": dict(account.dropped),
        }
