"""Names whoever holds the lab's lock for seconds, so that nothing else in the lab can go on.

Drivers, hooks, listeners and scheduled calls run with the lab's lock held and must
not wait. One that does anyway stops every cable of the lab. A thread looks now and
then; while the lock is free that is all it does, and a frame costs nothing more::

    lock free?  -> sleep
    taken       -> ring the engine; no answer in time -> whose is the lock, and where is he?

The culprit is the function that the lab called, or that took the lock itself; it is
logged when it is noticed, the first time with its traceback, and when it goes on.
Nobody is stopped: Python has no way to.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from types import CodeType, FrameType

from iflab.net.clock import Bell

__all__ = ["PATIENCE", "Blockage", "Watchdog"]

_log = logging.getLogger("iflab.watchdog")

PATIENCE = 1.0
"""Seconds for which the lock may be held before somebody is named."""

PERIOD = 0.5
"""Seconds between two looks."""

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_OWNER = re.compile(r"owner=(\d+)")


@dataclass(slots=True)
class Blockage:
    """Somebody held the lock: on which thread, in which function of whom, where, and for how long."""

    thread: str
    culprit: str
    """The function and its place: ``slow_hook (lab.py line 12)``."""
    stack: str
    """Its traceback as it was found, innermost call last."""
    since: float
    """On the monotonic clock."""
    seconds: float = 0.0
    """How long it lasted; 0 while it lasts."""

    def __str__(self) -> str:
        return f"{self.culprit} on the thread {self.thread}"


class Watchdog:
    """Watches one engine; ``blockages`` are those that were found, the last ``kept`` of them, ``count`` all.

    ``own`` is the code of the engine's loop: an engine that waits there for the lock
    is nobody's culprit.
    """

    kept = 100

    def __init__(
        self,
        engine: Bell,
        own: CodeType,
        name: str = "iflab",
        patience: float = PATIENCE,
        period: float = PERIOD,
    ) -> None:
        self.engine = engine
        self.patience = patience
        self.period = period
        self.count = 0
        self.blockages: list[Blockage] = []
        self._own = own
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}-watchdog", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        lock = self.engine.lock
        while not self._over.wait(self.period):
            if lock.acquire(blocking=False):
                lock.release()
                continue
            self._look()

    def _look(self) -> None:
        """The lock is taken: give its holder time to come to an end, then name him."""
        heard = threading.Event()
        began = time.monotonic()
        self.engine.call_soon(heard.set)
        if self._waited(heard, self.patience):
            return
        blockage = self._find(began)
        if blockage is None:
            return  # nobody holds it any more: the machine slept, or was very busy
        again = any(str(each) == str(blockage) for each in self.blockages)
        self.count += 1
        self.blockages = [*self.blockages[1 - self.kept :], blockage]
        _log.warning(
            "%s has held the lab's lock for %.1f s and stops everything%s",
            blockage,
            time.monotonic() - began,
            ", again" if again else f"; what the lab calls must not wait\n{blockage.stack.rstrip()}",
        )
        while not self._waited(heard, self.period):
            if self._over.is_set():
                return
        blockage.seconds = time.monotonic() - began
        _log.warning("%s: over after %.1f s", blockage, blockage.seconds)

    def _waited(self, heard: threading.Event, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._over.is_set():
            left = deadline - time.monotonic()
            if heard.wait(min(0.1, max(0.0, left))):
                return True
            if left <= 0:
                return False
        return heard.is_set()

    def _find(self, began: float) -> Blockage | None:
        found = _OWNER.search(repr(self.engine.lock))
        owner = int(found[1]) if found else 0
        frame = sys._current_frames().get(owner)
        if frame is None or frame.f_code is self._own:
            return None
        thread = next((t.name for t in threading.enumerate() if t.ident == owner), str(owner))
        return Blockage(thread, culprit_of(frame), "".join(traceback.format_stack(frame)), began)


def _frames(frame: FrameType) -> list[FrameType]:
    """From the innermost call outwards."""
    frames = []
    at: FrameType | None = frame
    while at is not None:
        frames.append(at)
        at = at.f_back
    return frames


def culprit_of(frame: FrameType) -> str:
    """The function that the lab called and that is not its own; the lab's own where it called nobody."""
    frames = _frames(frame)
    inner = next((n for n, each in enumerate(frames) if each.f_code.co_filename.startswith(_OWN)), 0)
    guilty = frames[max(0, inner - 1)]
    code = guilty.f_code
    return f"{code.co_qualname} ({os.path.basename(code.co_filename)} line {guilty.f_lineno})"
