"""A cable: a wire with two ends. Nearly all of it is what every wire has (``wire.py``)."""

from __future__ import annotations

from .wire import Wire

__all__ = ["Cable"]


class Cable(Wire):
    """Two ends; full duplex. ``cut(towards=port)`` cuts one direction only."""

    max_ports = 2
