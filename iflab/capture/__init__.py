"""Captures: what passes on the wires, as files that other programs read."""

from __future__ import annotations

from .pcap import Capture

__all__ = ["Capture"]
