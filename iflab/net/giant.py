"""The lab's one lock, named after FreeBSD's.

Nothing of a lab changes but under it. It counts how often it was taken, so whoever
remembers something about the lab sees by one comparison whether that may have
changed since: ``iflab/drivers/express.py`` remembers the way of a frame.
"""

from __future__ import annotations

from _thread import RLock
from typing import Any

__all__ = ["Giant"]

_take = RLock.acquire
_retake: Any = RLock._acquire_restore  # type: ignore[attr-defined]
_owned: Any = RLock._is_owned  # type: ignore[attr-defined]


class Giant(RLock):  # type: ignore[misc]
    """A reentrant lock; ``turns`` changes whenever it is taken.

    The engine takes it for frames, too, which change nothing of the lab. It does so
    ``quietly``, and adds a turn itself for whatever else it runs.
    """

    quietly = RLock.acquire
    """Take it without a turn."""

    def __init__(self) -> None:
        self.turns = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, as ``threading.RLock`` does."""
        taken = _take(self, blocking, timeout)
        self.turns += taken
        return taken

    def owned(self) -> bool:
        """True when the calling thread holds it (``mtx_owned``)."""
        return bool(_owned(self))

    def __enter__(self) -> bool:  # type: ignore[override]
        _take(self)
        self.turns += 1
        return True

    def _acquire_restore(self, state: Any) -> None:  # so a condition takes it after its wait
        _retake(self, state)
        self.turns += 1
