"""Captures: what passes on the wires, as files that other programs read."""

from __future__ import annotations

from .capture import Capture
from .files import SNAPLEN, Interface

__all__ = ["SNAPLEN", "Capture", "Interface"]
