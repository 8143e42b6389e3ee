"""Event handlers, in the order in which they were registered (``sys/eventhandler.h``).

The events and what a listener is called with:

| event | arguments |
| --- | --- |
| ``ifnet_arrival_event``, ``ifnet_departure_event``, ``iflladdr_event`` | ifnet |
| ``ifnet_link_event`` | ifnet, ``LinkState`` |
| ``group_attach_event``, ``group_detach_event`` | ``Group`` |
| ``group_change_event`` | group name |

Listeners run on the thread that made the change, with the lab's lock held. One
that raises is reported with its traceback and does not stop the others; a panic does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .errors import KernelPanic, report

__all__ = ["EVENTS", "EventHandler", "EventHandlers"]

EVENTS = (
    "ifnet_arrival_event",
    "ifnet_departure_event",
    "ifnet_link_event",
    "iflladdr_event",
    "group_attach_event",
    "group_detach_event",
    "group_change_event",
)

_log = logging.getLogger("iflab.net")


class EventHandler:
    """A registration; ``deregister`` ends it and may be called twice."""

    __slots__ = ("_owner", "event", "fn")

    def __init__(self, owner: EventHandlers, event: str, fn: Callable[..., None]) -> None:
        self.event = event
        self.fn = fn
        self._owner = owner

    def deregister(self) -> None:
        """Stop listening."""
        self._owner.deregister(self)


class EventHandlers:
    """The lists of listeners of one kernel."""

    def __init__(self) -> None:
        self._lists: dict[str, list[EventHandler]] = {event: [] for event in EVENTS}

    def register(self, event: str, fn: Callable[..., None]) -> EventHandler:
        """Call ``fn`` at each ``event`` from now on. Raises ``ValueError`` for one that does not exist."""
        if event not in self._lists:
            raise ValueError(f"no event is called {event!r}; there are {', '.join(EVENTS)}")
        handler = EventHandler(self, event, fn)
        self._lists[event].append(handler)
        return handler

    def deregister(self, handler: EventHandler) -> None:
        """End a registration; nothing happens when it has ended already."""
        handlers = self._lists[handler.event]
        if handler in handlers:
            handlers.remove(handler)

    def invoke(self, event: str, *args: Any) -> None:
        """Call the listeners of ``event`` in order (``EVENTHANDLER_INVOKE``: 692, 913, 1145, 2030, 2475 ...)."""
        handlers = self._lists[event]
        for handler in tuple(handlers):
            if handler not in handlers:
                continue  # one before it has ended it
            try:
                handler.fn(*args)
            except KernelPanic:
                raise
            except BaseException as error:
                report(_log, error, "a listener of %s failed: %r", event, handler.fn)
