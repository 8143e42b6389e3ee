"""A segment: a wire with any number of plugs, on which everybody hears everything (a hub)."""

from __future__ import annotations

from .wire import Wire

__all__ = ["Segment"]


class Segment(Wire):
    """Every frame goes to every other port. ``cut(towards=port)`` makes one port deaf."""
