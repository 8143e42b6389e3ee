"""Listening: tcpdump's filters, and sniffers on NICs and wires.

===================  ================================================================
``compile_filter``   a filter expression as tcpdump knows it, compiled by libpcap
``Sniffer``          a listener; a scapy socket, an iterator, a ring of the last frames
===================  ================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .filters import Filter, FilterError, compile_filter

if TYPE_CHECKING:
    from .sniffer import Sniffer

__all__ = ["Filter", "FilterError", "Sniffer", "compile_filter"]


def __getattr__(name: str) -> Any:
    if name == "Sniffer":  # brings scapy along, which takes a while to import
        from .sniffer import Sniffer

        return Sniffer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
