"""Frames that wait to be read: the receiving half of a scapy socket.

One thread puts frames in, any number of others read them, with scapy's functions
or their own loop. What is too much for the reader is its own loss, and counted.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from scapy.data import MTU
from scapy.layers.l2 import Ether
from scapy.supersocket import SuperSocket

__all__ = ["Heard", "Inbox"]


class Heard(NamedTuple):
    """A frame that was heard: ``time`` in seconds since the epoch, ``length`` what it had before it was cut short."""

    time: float
    octets: bytes
    where: str = ""
    direction: str = ""
    length: int = 0


class Inbox(SuperSocket):  # type: ignore[misc]
    """What scapy calls a ``SuperSocket``, as far as receiving goes; readable while a frame waits.

    At most ``limit`` frames of ``budget`` octets together wait; ``dropped`` counts
    those that came when it was full. With ``ring`` the oldest make room instead.
    """

    _ready = -1

    def __init__(
        self, name: str, *, limit: int = 100_000, budget: int = 256 << 20, ring: bool = False
    ) -> None:
        self.name = name
        self.limit = limit
        self.budget = budget
        self.ring = ring
        self.received = 0
        self.dropped = 0
        self.basecls = Ether
        self.LL = Ether
        self.iface = name
        self.promisc = True
        self.closed = False
        self._waiting: deque[Heard] = deque()
        self._octets = 0
        self._mutex = threading.Lock()
        """Guards ``_ready`` against being closed while somebody waits on it."""
        self._holders = 0
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)

    @property
    def ins(self) -> Inbox:
        """scapy asks for it; ``fileno`` is what counts."""
        return self

    outs = ins

    def put(self, heard: Heard) -> None:
        """Let a frame wait to be read, if there is room."""
        self.received += 1
        size = len(heard.octets)
        with self._mutex:
            if self.closed:
                self.dropped += 1
                return
            if len(self._waiting) >= self.limit or self._octets + size > self.budget:
                if not self.ring or not self._waiting:
                    self.dropped += 1
                    return
                self._octets += size - len(self._waiting.popleft().octets)
                self._waiting.append(heard)
                return
            self._octets += size
            self._waiting.append(heard)
            os.eventfd_write(self._ready, 1)

    def fileno(self) -> int:
        """Readable while a frame waits; -1 once closed."""
        return self._ready

    def take(self) -> Heard | None:
        """The next frame; None when none waits. Raises ``EOFError`` once closed and everything is read."""
        with self._mutex:
            if self.closed:
                if not self._waiting:
                    raise EOFError(f"{self.name} is closed")
            else:
                try:
                    os.eventfd_read(self._ready)
                except BlockingIOError:
                    return None
            heard = self._waiting.popleft()
            self._octets -= len(heard.octets)
            return heard

    def wait(self, timeout: float | None = None) -> Heard | None:
        """Wait for the next frame; None when ``timeout`` seconds pass without one, or at the end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            remain = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.select([self], remain):
                return None
            try:
                heard = self.take()
            except EOFError:
                return None
            if heard is not None:  # else another thread was quicker
                return heard

    def recv_raw(self, x: int = MTU) -> tuple[Any, bytes | None, float | None]:
        """Return the next frame as scapy wants it; blank when none waits.

        Raises ``EOFError`` once closed and everything is read.
        """
        heard = self.take()
        return (None, None, None) if heard is None else (Ether, heard.octets[:x], heard.time)

    def recv_frame(self, timeout: float | None = None) -> bytes | None:
        """Wait for the next frame and return its octets; None when ``timeout`` seconds pass without one."""
        heard = self.wait(timeout)
        return None if heard is None else heard.octets

    def flush(self) -> int:
        """Throw away what waits to be read; return how many frames that was."""
        count = 0
        with contextlib.suppress(EOFError):
            while self.take() is not None:
                count += 1
        return count

    @staticmethod
    def select(sockets: list[SuperSocket], remain: float | None = None) -> list[SuperSocket]:
        """Wait until one of ``sockets`` is readable (scapy's contract); a closed one is, it tells its end."""
        held = [s for s in sockets if isinstance(s, Inbox) and s._hold()]
        try:
            ended = [s for s in sockets if isinstance(s, Inbox) and s not in held]
            by_fd = {s.fileno(): s for s in sockets if s not in ended}
            poll = select.poll()  # select() itself knows no fd above 1,023
            for fd in by_fd:
                poll.register(fd, select.POLLIN)
            patience = 0 if ended else None if remain is None else max(0, math.ceil(remain * 1000))
            return ended + [by_fd[fd] for fd, _ in poll.poll(patience)]
        finally:
            for s in held:
                s._let_go()

    def _hold(self) -> bool:
        with self._mutex:
            if self.closed:
                return False
            self._holders += 1
            return True

    def _let_go(self) -> None:
        with self._mutex:
            self._holders -= 1
            self._close_fd()

    def _close_fd(self) -> None:
        if self.closed and not self._holders and self._ready >= 0:
            os.close(self._ready)
            self._ready = -1

    def close(self) -> None:
        """Take no more. Whoever reads in another thread reads what is left, and then the end."""
        with self._mutex:
            if self.closed:
                return
            self.closed = True
            os.eventfd_write(self._ready, 1)
            self._close_fd()

    def __del__(self) -> None:
        if self._ready >= 0:
            os.close(self._ready)
