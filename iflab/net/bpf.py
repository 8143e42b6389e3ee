"""Listeners on an interface: the calls of ``bpf(4)`` that drivers and protocols make.

``ether_ifattach`` gives every Ethernet interface an empty list (``bpfattach``).
The driver shows what it sends (``BPF_MTAP`` in ``if_start``), ``if_input`` what it
hands up; ``bpf_peers_present`` is asked first, so that nobody pays for listeners
that are not there. A driver with a filter in its chip may show what arrived
before that filter, to listeners that want it so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntFlag
from typing import TYPE_CHECKING

from .errors import report
from .mbuf import Mbuf
from .offload import OffloadError, finish, is_unfinished

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = ["BpfSide", "BpfTap", "bpf_ifdetach", "bpf_mtap", "bpf_peers_present", "bpfattach", "bpfdetach"]

_log = logging.getLogger("iflab.net")


class BpfSide(IntFlag):
    """Where a listener listens."""

    OUT = 1
    """What the interface sends."""
    IN = 2
    """What it hands to the protocols, behind the hardware filter."""
    WIRE = 4
    """What arrives, before the hardware filter."""


class BpfTap:
    """A listener: ``fn(ifp, m, side)`` is called with the lab's lock held, for each finished frame.

    ``gone(ifp)`` is called when the interface goes for good.
    """

    __slots__ = ("fn", "gone", "side")

    def __init__(
        self,
        fn: Callable[[Ifnet, Mbuf, BpfSide], None],
        side: BpfSide,
        gone: Callable[[Ifnet], None] = lambda ifp: None,
    ) -> None:
        self.fn = fn
        self.side = side
        self.gone = gone


def bpfattach(ifp: Ifnet, tap: BpfTap) -> None:
    """Let ``tap`` hear ``ifp`` from now on."""
    with ifp.kernel.giant:
        ifp.if_bpf = (*ifp.if_bpf, tap)


def bpfdetach(ifp: Ifnet, tap: BpfTap) -> None:
    """Let it hear no more; nothing happens when it does not."""
    with ifp.kernel.giant:
        ifp.if_bpf = tuple(other for other in ifp.if_bpf if other is not tap)


def bpf_ifdetach(ifp: Ifnet) -> None:
    """The interface goes: its listeners hear of it, and no more of anything else (``bpfdetach`` of the driver)."""
    with ifp.kernel.giant:
        taps, ifp.if_bpf = ifp.if_bpf, ()
        for tap in taps:
            try:
                tap.gone(ifp)
            except BaseException as error:
                report(_log, error, "%s: a listener failed at its end: %r", ifp.if_xname, tap.gone)


def bpf_peers_present(ifp: Ifnet) -> bool:
    """True when somebody listens."""
    return bool(ifp.if_bpf)


def bpf_mtap(ifp: Ifnet, m: Mbuf, side: BpfSide) -> None:
    """Show a frame to those who listen at ``side``; what the chip would do to it is done for them first.

    A listener that raises is reported and harms nobody.
    """
    taps = [tap for tap in ifp.if_bpf if tap.side & side]
    if not taps:
        return
    pieces = [m]
    if is_unfinished(m):
        try:
            pieces = finish(m, 0)
        except OffloadError:
            return  # the driver refuses it, too
    for tap in taps:
        for piece in pieces:
            try:
                tap.fn(ifp, piece, side)
            except BaseException as error:
                report(_log, error, "%s: a listener failed: %r", ifp.if_xname, tap.fn)
