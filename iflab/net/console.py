"""Kernel messages: ``log(9)`` and ``printf(9)``.

They go to the logger ``iflab.kernel`` and to any listener. A line has no
newline at its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["Console"]

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warning": logging.WARNING,
    "err": logging.ERROR,
}
_logger = logging.getLogger("iflab.kernel")


class Console:
    """Where the kernel's lines go. Listeners get ``(level, text)``; the level of ``printf`` is ``"printf"``."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[str, str], None]] = []

    def log(self, level: str, text: str) -> None:
        """Say ``text`` at a syslog level: debug, info, notice, warning or err."""
        _logger.log(_LEVELS[level], "%s", text)
        self._tell(level, text)

    def printf(self, text: str) -> None:
        """Say ``text`` on the console."""
        _logger.info("%s", text)
        self._tell("printf", text)

    def _tell(self, level: str, text: str) -> None:
        for listener in tuple(self.listeners):
            listener(level, text)
