"""The one I/O loop of a lab.

One thread waits for everything: file descriptors (TAPs, the netlink monitor), a
timer, and a bell that other threads ring. It holds the lab's lock while it works
and lets go of it while it waits::

    wait -> lock -> readers, timers, calls, task queue -> unlock -> wait

Other threads call into the lab under the same lock. Whatever a callback raises
is reported with its traceback and harms nothing else. Whoever keeps the lock for
seconds is named (``watchdog.py``).
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from iflab.linux.aio import Batch
from iflab.linux.timerfd import TimerFd
from iflab.net.giant import Giant
from iflab.net.taskqueue import TaskQueue
from iflab.watchdog import Watchdog

__all__ = ["Engine", "ProcessWide"]

_T = TypeVar("_T")

_log = logging.getLogger("iflab.engine")

SWITCH_INTERVAL = 0.0005
"""Seconds after which a busy Python thread lets another run while a lab is up.

Measured with one thread of the user's that computes: a ping through a cable
takes 34 to 65 ms (mean) at the interpreter's own 5 ms, 1.5 ms at this. Two such
threads pay for it with a seventh of their speed, one with next to nothing.
"""

LINGER = 50e-6 if len(os.sched_getaffinity(0)) > 1 else 0.0
"""Seconds for which the engine looks for more before it sleeps.

To wake a sleeping thread takes the kernel, and more so a virtual machine's, longer
than to carry a frame, and what comes after a frame often comes at once: its
answer. Measured against a C loop that sleeps: ping 1.5 times its round trip
without, 0.8 with 50 µs; one TCP stream 0.86 and 1.0 of its speed. An idle lab
costs nothing.
"""


LEAD = LINGER
"""Seconds by which the engine wakes before a call is due, and waits awake: a frame leaves a delayed cable by so much
nearer to its time, on a virtual machine above all."""

SOON = 0.002
"""Seconds before a call is due from which on nobody takes long turns."""

REST = 0.05
"""Seconds for which the engine lets work gather while somebody builds many hosts.

Each host's kernel sends a handful of frames when a NIC comes up. To take each at
once makes two threads wait for each other's lock all the time.
"""

MOST = 64
"""File descriptors looked at in one round; the kernel hands out the rest in the next ones."""


class _Timer:
    __slots__ = ("fn",)

    def __init__(self, fn: Callable[[], None]) -> None:
        self.fn: Callable[[], None] | None = fn

    def cancel(self) -> None:
        self.fn = None


class ProcessWide(Generic[_T]):
    """A setting of the process that is another while anybody holds it: ``change`` tells what it was, for ``restore``."""

    def __init__(self, change: Callable[[], _T], restore: Callable[[_T], object]) -> None:
        self._change, self._restore = change, restore
        self._lock = threading.Lock()
        self._before: list[_T] = []
        self._holders = 0

    def acquire(self) -> None:
        """Hold it."""
        with self._lock:
            if self._holders == 0:
                self._before = [self._change()]
            self._holders += 1

    def release(self) -> None:
        """Let go of it."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._restore(self._before.pop())


def _switch_soon() -> float:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_INTERVAL))
    return before


_switching = ProcessWide(_switch_soon, sys.setswitchinterval)
"""Short while any engine of the process runs."""


class Engine:
    """The loop and its clock (``iflab.net.Clock``). ``lock`` is the lab's one lock."""

    def __init__(self, lock: Giant, tasks: TaskQueue, name: str = "iflab") -> None:
        self.lock = lock
        self.tasks = tasks
        self.rounds = 0
        """How often the loop has turned with something to do."""
        self.unhurried = True
        """No more than two file descriptors wait in this round, a cable's ends perhaps, and no call is due soon."""
        self.batch = Batch()
        """What writes many frames in one system call, with the lock held."""
        self._readers: dict[int, Callable[[], None]] = {}
        self._due: list[tuple[float, int, _Timer]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._armed: float | None = None
        """What the timer is set for: the first deadline."""
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._timer = TimerFd()
        self._stopping = False
        self._resting = False
        self._turnstile = threading.Lock()
        """Held while the engine, rested, waits for the lab's lock."""
        self.add_reader(self._bell, self._rung, frames=True)
        self.add_reader(self._timer.fileno(), self._timer.clear, frames=True)
        tasks.on_work = self.wake
        self._thread = threading.Thread(target=self._run, name=f"{name}-engine", daemon=True)
        self.watchdog = Watchdog(self, Engine._run.__code__, name)

    def start(self) -> None:
        """Begin."""
        _switching.acquire()
        self._thread.start()
        self.watchdog.start()

    def stop(self) -> None:
        """End the loop and wait for it; what is still due never happens. Not from the engine's own thread."""
        if self._stopping:
            return
        self._stopping = True
        self.watchdog.stop()
        self.wake()
        if self._thread.is_alive():
            self._thread.join()
        _switching.release()
        self.tasks.on_work = None
        with self.lock:
            self.batch.close()
        self._epoll.close()
        os.close(self._bell)
        self._timer.close()

    @property
    def stopping(self) -> bool:
        """It runs no calls any more."""
        return self._stopping

    def is_current(self) -> bool:
        """True on the engine's own thread, which must never wait."""
        return threading.current_thread() is self._thread

    # what other rooms use

    now = staticmethod(time.monotonic)
    """Seconds on the monotonic clock."""

    def call_at(self, when: float, fn: Callable[[], None]) -> _Timer:
        """Run ``fn`` at ``when`` on the engine's thread with the lock held."""
        timer = _Timer(fn)
        with self.lock:
            heapq.heappush(self._due, (when, next(self._order), timer))
            if self._due[0][2] is timer:
                self._arm()
        return timer

    def call_soon(self, fn: Callable[[], None]) -> None:
        """Run ``fn`` on the engine's thread, with the lock held, as soon as it gets there; from any thread."""
        self._calls.append(fn)
        self.wake()

    def rest(self) -> None:
        """Let what comes next wait for ``REST`` seconds, once; a call that is due does not wait."""
        self._resting = True

    def give_way(self) -> None:
        """Let the engine, rested, have the lock before the caller takes it again; not with the lock held.

        A lock goes to whoever asks first when it is free: one who lets go of it and
        takes it again at once keeps out another who has to be woken.
        """
        with self._turnstile:
            pass

    def add_reader(self, fd: int, fn: Callable[[], None], *, frames: bool = False) -> None:
        """Call ``fn``, with the lock held, whenever ``fd`` is readable.

        ``frames``: it moves frames, and adds a turn to the lock itself when more
        than that may have happened.
        """
        with self.lock:
            self._readers[fd] = fn if frames else partial(self._turn, fn)
            self._epoll.register(fd, select.EPOLLIN)

    def remove_reader(self, fd: int) -> None:
        """Stop that; to be called before ``fd`` is closed."""
        with self.lock:
            if self._readers.pop(fd, None) is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._epoll.unregister(fd)

    def wake(self) -> None:
        """Let the loop turn once, now."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._bell, 1)

    # the loop

    def _arm(self) -> None:
        while self._due and self._due[0][2].fn is None:
            heapq.heappop(self._due)
        deadline = self._due[0][0] if self._due else None
        if deadline != self._armed:
            self._armed = deadline
            self._timer.set(None if deadline is None else deadline - LEAD)

    def _run(self) -> None:
        poll, reader_of, tasks, now = self._epoll.poll, self._readers.get, self.tasks, time.monotonic
        take, release = self.lock.quietly, self.lock.release
        while not self._stopping:
            events = poll(0, MOST)
            if not events:
                events = self._wait(poll)
            if self._resting:
                events = self._rest(poll)
                with self._turnstile:
                    take()
            else:
                take()
            try:
                self.rounds += 1
                self.unhurried = len(events) <= 2
                if (due := self._armed) is not None and (left := due - now()) < SOON:
                    self.unhurried = False
                    if left <= 0:
                        self._run_due()
                for fd, _ in events:
                    reader = reader_of(fd)
                    if reader is not None:
                        try:
                            reader()
                        except BaseException:
                            self._failed(reader)
                if self._calls or len(tasks):
                    self._work()
            finally:
                release()

    def _wait(self, poll: Callable[[float | None, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
        """Wait for something to do: awake for ``LINGER``, and for a call that is due in ``LEAD``."""
        now = time.monotonic
        until = now() + LINGER
        while True:
            at, due = now(), self._armed
            if due is not None and at >= due:
                return []
            if at >= until and (due is None or at < due - LEAD):
                events = poll(None, MOST)
                if events:
                    return events
            elif events := poll(0, MOST):
                return events

    def _rest(self, poll: Callable[[float | None, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
        self._resting = False
        due = self._armed
        time.sleep(REST if due is None else max(0.0, min(REST, due - time.monotonic())))
        return poll(0, MOST)

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _run_due(self) -> None:
        """Calls that are due."""
        self._armed = None
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            fn = heapq.heappop(self._due)[2].fn
            if fn is not None:
                self._guard(fn)
        self._arm()
        self.lock.turns += 1

    def _work(self) -> None:
        """Calls from other threads, the task queue."""
        for _ in range(len(self._calls)):
            self._guard(self._calls.popleft())
        while len(self.tasks):  # one that fails leaves those behind it
            self._guard(self._run_tasks)
        self.lock.turns += 1

    def _run_tasks(self) -> None:
        self.tasks.run()

    def _turn(self, fn: Callable[[], None]) -> None:
        self._guard(fn)
        self.lock.turns += 1

    def _guard(self, fn: Callable[[], None]) -> None:
        try:
            fn()
        except BaseException:  # SystemExit too: no callback may end the engine
            self._failed(fn)

    @staticmethod
    def _failed(fn: Callable[[], None]) -> None:
        _log.exception("%r failed on the engine's thread", fn)
