"""Expectations: what a test says that frames will do, waited for, and explained when they do not.

====================  ==========================================================
``History``           everything that was put on wires, and what became of it
``Pattern``           a frame as it should be: a filter, a scapy packet, a function
``ExpectationError``  an expectation that did not come true, with the nearest miss
====================  ==========================================================
"""

from __future__ import annotations

from .expectations import ExpectationError, Expectations
from .history import Event, History
from .ladder import ladder
from .pattern import Pattern

__all__ = ["Event", "ExpectationError", "Expectations", "History", "Pattern", "ladder"]
