"""Signals that end a program: they do so, and never in the middle of a change of a lab.

Ctrl-C, SIGTERM and SIGHUP raise on the main thread, wherever it is. While that
holds a lab's lock something is half made, and an exception there may leave it so,
or the lock taken for ever. Such a signal waits until the lock is free::

    signal -> lock ours? -> no:  KeyboardInterrupt, Terminated
                         -> yes: the engine sends it again when it has the lock
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from functools import partial
from types import FrameType
from typing import Any, Protocol

from iflab.net.clock import Bell
from iflab.net.errors import Terminated

__all__ = ["Signals"]

LONGEST = 2.0
"""Seconds that a signal waits; one that comes then raises at once, for whoever holds the lock may never let go of it."""

_HANDLED_IN = 0.1
"""Seconds that the engine gives the main thread to raise, before it lets go of the lock."""


class _Engine(Bell, Protocol):
    @property
    def stopping(self) -> bool:
        """It runs no calls any more."""


_engines: set[_Engine] = set()
"""Of the labs that are used in a ``with`` block."""
_since: dict[int, float] = {}
"""When signals that wait came first."""
_raised = threading.Event()


def _came(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    for engine in tuple(_engines):
        if engine.lock.owned() and not engine.stopping and now < _since.setdefault(number, now) + LONGEST:
            engine.call_soon(partial(_again, number))
            return
    _since.pop(number, None)
    _raised.set()
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)


def _again(number: int) -> None:
    """On an engine's thread, with the lock held: so the main thread has not got it."""
    if number not in _since:
        return  # one that came later has raised for both
    _raised.clear()
    main = threading.main_thread().ident
    if main is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pthread_kill(main, number)
        _raised.wait(_HANDLED_IN)


class Signals:
    """Those of a lab while it is used in a ``with`` block; what the program itself has set is left alone."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._before: dict[signal.Signals, Any] = {}

    def begin(self) -> None:
        """From now on; only on the main thread, which signals are for."""
        if threading.current_thread() is not threading.main_thread():
            return
        _engines.add(self._engine)
        for number, usual in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
            (signal.SIGHUP, signal.SIG_DFL),
        ):
            if signal.getsignal(number) == usual:
                self._before[number] = signal.signal(number, _came)

    def end(self) -> None:
        """As it was before; what the program has set meanwhile stays."""
        _engines.discard(self._engine)
        while self._before:
            number, before = self._before.popitem()
            if signal.getsignal(number) is _came:
                signal.signal(number, before)
