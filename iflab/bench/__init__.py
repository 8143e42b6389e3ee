"""``iflab bench``: figures that anyone can repeat, against references measured in the same run.

A *measure* is a function that yields rows. A row is one figure: a median of
several runs with its spread, and, where there is one, the same figure of a
reference measured in turn with it, run by run, so that whatever else the machine
does meanwhile strikes both. What counts is their ratio.

What each measure does is in its module: ``lookups``, ``paths`` (frames through
cables), ``scale`` (large labs), ``program`` (the command itself).
"""

from __future__ import annotations

from .core import MEASURES, Bench, Row, run_measures

__all__ = ["MEASURES", "Bench", "Row", "run_measures"]
