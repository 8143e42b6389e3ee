"""Settings of a network namespace, those that ``/proc/sys/net`` shows."""

from __future__ import annotations

import os

from .errors import KernelRefused
from .netns import Netns

__all__ = ["sysctl"]

_LONGEST = 1 << 16


def sysctl(netns: Netns, name: str, value: int | str | None = None, proc: int | None = None) -> str:
    """Read ``net.ipv6.conf.em0.accept_dad`` or the like in a namespace, after setting it to ``value`` if given.

    A part that holds dots itself is written with '/' between all parts. ``proc`` is a file
    descriptor of another mount of proc than ``/proc``. Raises ``KernelRefused``; ``ValueError`` for
    what is no setting below ``net``.
    """
    parts = name.split("/") if "/" in name else name.split(".")
    if parts[0] != "net" or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is no setting of a network namespace; those begin with 'net.'")
    path = ("/proc/sys/" if proc is None else "sys/") + "/".join(parts)
    with netns.entered():
        try:
            fd = os.open(path, (os.O_RDONLY if value is None else os.O_RDWR) | os.O_CLOEXEC, dir_fd=proc)
            try:
                if value is not None:
                    os.write(fd, str(value).encode())
                return os.pread(fd, _LONGEST, 0).decode().strip()
            finally:
                os.close(fd)
        except OSError as error:
            raise KernelRefused(
                error.errno or 0, f"sysctl {name} in {netns.name or 'this namespace'}"
            ) from error
