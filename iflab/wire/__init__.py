"""Cables, and what happens on them.

=============  =====================================================
``Cable``      a wire with two ends
``Segment``    a wire with any number of ports: a hub
``Station``    a scapy socket plugged into a wire
``Frame``      what a hook gets: octets, and a scapy packet on demand
``End``        one end of a wire; a port transmits through it
``Port``       what can be plugged in
``UnderWay``   what became of each frame, for listeners
=============  =====================================================

The rooms above are not known here: time and the lab's lock come in as a
``Clock``, frames as mbufs (``iflab/net/mbuf.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .cable import Cable
from .frame import Frame
from .port import End, Flow, Port, WireError
from .segment import Segment
from .underway import UnderWay, Watched
from .wire import HOOK, Hook, Tap, Wire

if TYPE_CHECKING:
    from .station import Station

__all__ = [
    "HOOK",
    "Cable",
    "End",
    "Flow",
    "Frame",
    "Hook",
    "Port",
    "Segment",
    "Station",
    "Tap",
    "UnderWay",
    "Watched",
    "Wire",
    "WireError",
]


def __getattr__(name: str) -> Any:
    if name == "Station":  # brings scapy along, which takes a while to import
        from .station import Station

        return Station
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
