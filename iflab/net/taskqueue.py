"""Work put off until the caller's locks are gone (``sys/taskqueue.h``).

A task that is queued again before it ran runs once and is told how often it was
asked for: that is how changes of the link state coalesce. The queue runs
nothing by itself: the engine does (``iflab/engine.py``), or a test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ["Task", "TaskQueue"]


class Task:
    """A function of ``pending``: how often it was asked for since it last ran."""

    __slots__ = ("fn", "pending")

    def __init__(self, fn: Callable[[int], None]) -> None:
        self.fn = fn
        self.pending = 0


class TaskQueue:
    """First in, first out. ``on_work`` is called when the queue stops being empty."""

    def __init__(self) -> None:
        self._queue: deque[Task] = deque()
        self.on_work: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def enqueue(self, task: Task) -> None:
        """Ask for ``task`` to run once more (called at 1996)."""
        task.pending += 1
        if task.pending == 1:
            self._queue.append(task)
            if len(self._queue) == 1 and self.on_work is not None:
                self.on_work()

    def run(self) -> int:
        """Run what is queued, also what joins meanwhile, and return how many tasks ran."""
        ran = 0
        while self._queue:
            self._execute(self._queue.popleft())
            ran += 1
        return ran

    def drain(self, task: Task) -> None:
        """Run ``task`` now if it is queued, so that nothing of it is left when its owner goes (called at 844)."""
        if task.pending:
            self._queue.remove(task)
            self._execute(task)

    def cancel(self, task: Task) -> None:
        """Take ``task`` out of the queue without running it."""
        if task.pending:
            self._queue.remove(task)
            task.pending = 0

    @staticmethod
    def _execute(task: Task) -> None:
        pending, task.pending = task.pending, 0
        task.fn(pending)
