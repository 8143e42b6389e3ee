"""A timer that a poll loop can wait for, precise to some tens of microseconds."""

from __future__ import annotations

import contextlib
import os

from .syscalls import timerfd_create, timerfd_settime

__all__ = ["TimerFd"]


class TimerFd:
    """One timer on the monotonic clock; its fd is readable once the deadline has passed."""

    def __init__(self) -> None:
        self._fd = timerfd_create()

    def fileno(self) -> int:
        """The file descriptor to poll."""
        return self._fd

    def set(self, deadline: float | None) -> None:
        """Fire at ``deadline`` (seconds, ``time.monotonic``), at once when that has passed; None: never."""
        timerfd_settime(self._fd, deadline)

    def clear(self) -> None:
        """Take note that it fired."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        """Give the file descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
