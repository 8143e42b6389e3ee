"""How Linux says no, and what to do about it."""

from __future__ import annotations

import os

__all__ = ["InvalidName", "KernelRefused", "Missing", "check_name"]

IFNAMSIZ = 16


class KernelRefused(OSError):
    """The kernel refused a request: its errno, what was asked, and the kernel's own words (extended ack)."""

    def __init__(self, code: int, what: str, words: str | None = None) -> None:
        super().__init__(code, f"{what}: {os.strerror(code)}" + (f" ({words})" if words else ""))
        self.what = what
        self.words = words


class Missing(RuntimeError):
    """The machine lacks something that the lab needs; the text names it and the remedy."""


class InvalidName(ValueError):
    """A text that Linux takes for no interface name."""


def check_name(name: str) -> str:
    """Return ``name`` if Linux takes it for an interface, else raise ``InvalidName`` (dev_valid_name)."""
    if not isinstance(name, str):
        raise InvalidName(f"{name!r} is no interface name; use em0 or the like")
    octets = len(name.encode("utf-8", "surrogateescape"))
    if octets == 0:
        raise InvalidName("an interface name cannot be empty; use em0 or the like")
    if octets >= IFNAMSIZ:
        raise InvalidName(
            f"{name!r} has {octets} characters; a Linux interface name holds {IFNAMSIZ - 1} at most (IFNAMSIZ)"
        )
    if name in (".", "..") or any(c in "/:" or c.isspace() or c == "\0" for c in name):
        raise InvalidName(f"{name!r} is no interface name; it must not hold '/', ':' or blanks")
    return name
