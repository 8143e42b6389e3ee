"""A segment: a wire with any number of plugs, on which everybody hears everything (a hub)."""

from __future__ import annotations

from .port import Plugged
from .wire import Wire

__all__ = ["Segment"]


class Segment(Wire):
    """Every frame goes to every other port.

    Each port hangs on a lead of its own: ``cut(port)`` isolates it, both ways, and
    leaves the others alone; ``cut()`` cuts every lead.
    """

    def cut(self, towards: Plugged | None = None) -> None:
        """Cut a port's lead, or all. What is in flight to or from it is lost."""
        with self.clock.lock:
            if towards is not None:
                self._mute.add(self._end(towards).port)
            super().cut(towards)

    def mend(self, towards: Plugged | None = None) -> None:
        """Mend a port's lead, or all."""
        with self.clock.lock:
            if towards is not None and self._severed:
                self._end(towards)
                self._mute.update(self.ends)
            super().mend(towards)
