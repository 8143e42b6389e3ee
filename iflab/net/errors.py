"""How the interface layer says no.

Two ways only. An errno of the C code is an ``OSError`` with that errno, made by
``refuse``. A KASSERT or a panic is ``KernelPanic``: a broken promise between
parts of the program, with the line of the original that would have stopped the
machine.
"""

from __future__ import annotations

import errno
import logging

__all__ = ["ENOIOCTL", "KernelPanic", "errno_name", "refuse", "report"]

ENOIOCTL = -3
"""What an ioctl handler answers for a command that it does not know; never leaves the kernel (sys/errno.h)."""

_BSD_NAMES = {
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    errno.EAGAIN: "EAGAIN",
    errno.EDEADLK: "EDEADLK",
    ENOIOCTL: "ENOIOCTL",
}


class KernelPanic(Exception):
    """The original would have stopped the machine here.

    ``message`` is the original's text with every pointer written ``PTR``;
    ``line`` the line of ``sys/net/if.c`` that says it.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return f"{self.message.rstrip()} (sys/net/if.c {self.line})"


def refuse(code: int, why: str) -> OSError:
    """Make the exception for an errno of the original; ``why`` names the thing and the reason."""
    return OSError(code, why)


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came: the program ends, and with it its labs."""


def report(log: logging.Logger, error: BaseException, text: str, *args: object) -> None:
    """Log what code of a user's has raised, with its traceback, so that the caller can go on.

    ``SystemExit`` and the like too: no callback may end a thread of the lab. Raises
    ``KeyboardInterrupt`` and ``Terminated`` again.
    """
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        raise error
    log.error(text, *args, exc_info=error)


def errno_name(code: int) -> str:
    """Return BSD's name of an errno; ``"0"`` for success."""
    if code == 0:
        return "0"
    return _BSD_NAMES.get(code) or errno.errorcode.get(code, str(code))
