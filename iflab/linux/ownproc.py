"""A proc filesystem that is mounted nowhere, for whoever sets something in many namespaces.

``/proc/sys/net`` shows each network namespace its own settings. The kernel
remembers, for each mount of proc, the entries of all namespaces that were ever
asked for them, in one list for each name (``proc_sys_compare`` in
fs/proc/proc_sysctl.c): the first look into one more of a thousand namespaces passes
the entries of the others. A mount of one's own begins with an empty list.
"""

from __future__ import annotations

import contextlib
import os

from .syscalls import mount_detached

__all__ = ["OwnProc"]


class OwnProc:
    """Another mount for every ``looks`` new namespaces; ``/proc`` itself for who may not mount proc."""

    def __init__(self, looks: int = 64) -> None:
        self._looks = looks
        self._left = 0
        self._fd = -1

    def for_a_look(self) -> int:
        """A file descriptor of proc's root, good until the next call. Raises ``OSError`` when none is left."""
        if self._left == 0:
            self.close()
            with contextlib.suppress(OSError):
                self._fd = mount_detached("proc")
            if self._fd < 0:
                self._fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._left = self._looks
        self._left -= 1
        return self._fd

    def close(self) -> None:
        """Let go of it."""
        self._left = 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
