"""Network namespaces that are made ahead, while somebody builds many hosts.

The kernel takes half a millisecond for one, in which the thread that asks can do
nothing else. Here another thread asks, and always has a few ready.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from .netns import Netns
from .ownproc import OwnProc

__all__ = ["Spares"]


class Spares:
    """Namespaces that are ready to be taken, ``most`` of them at once; ``make`` is called on a thread of its own.

    It is given ``proc``, the file descriptor of a proc in which few namespaces were asked for before.
    What it is refused ends the making: who finds none ready makes one, and hears why not.
    """

    def __init__(self, make: Callable[..., Netns], name: str, most: int = 16) -> None:
        self._make = make
        self._batch = most // 2
        self._taken = 0
        self._ready: queue.SimpleQueue[Netns] = queue.SimpleQueue()
        self._room = threading.Semaphore(most)
        self._over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.closing(OwnProc()) as proc, contextlib.suppress(OSError):
            while self._room.acquire() and not self._over:
                self._ready.put(self._make(proc=proc.for_a_look()))

    def take(self, name: str) -> Netns | None:
        """One that is ready, the caller's from now on, to be called ``name``; None when none is."""
        try:
            netns = self._ready.get_nowait()
        except queue.Empty:
            return None
        self._taken += 1
        if self._taken % self._batch == 0:  # to wake a thread is dear: not for each
            self._room.release(self._batch)
        netns.name = name
        return netns

    def close(self) -> None:
        """Make no more, and let go of those that nobody took."""
        self._over = True
        self._room.release()
        self._thread.join()
        while (netns := self.take("")) is not None:
            netns.close()
