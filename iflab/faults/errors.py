"""What is wrong with a fault that was asked for."""

from __future__ import annotations

from numbers import Real

from iflab.net.clock import is_span

__all__ = ["FaultError", "check_count", "check_probability", "check_seconds"]


class FaultError(ValueError):
    """A fault that cannot be: the text names it, the value, and what is possible."""


def check_probability(what: str, value: float) -> None:
    """Raise ``FaultError`` for what is no probability."""
    if not isinstance(value, Real) or not 0 <= value <= 1:
        raise FaultError(f"{what} of {value!r}: a probability is 0 to 1; write 5 percent as 0.05")


def check_seconds(what: str, value: float) -> None:
    """Raise ``FaultError`` for what is no duration."""
    if not is_span(value):
        raise FaultError(f"{what} of {value!r}: use 0 or more seconds; write 20 milliseconds as 0.02")


def check_count(what: str, value: int, least: int = 1) -> None:
    """Raise ``FaultError`` for a number that is not whole or below ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FaultError(f"{what} of {value!r}: use a whole number, {least} or more")
