"""The send queue of an interface (``net/if_var.h``, ``altq/``; sys/net/if.c 542-562).

A bounded first-in-first-out queue that counts what it turns away. A queue
discipline (ALTQ) can be put in its place, a token-bucket regulator in front of
its way out; without them nothing of either costs anything.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .errors import refuse
from .mbuf import Mbuf

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = ["Discipline", "Ifqueue", "ifq_delete", "ifq_init"]


class Discipline(Protocol):
    """A queue discipline. It holds the frames itself and counts its own drops inside ``enqueue``'s answer."""

    def enqueue(self, m: Mbuf) -> int:
        """Take a frame; 0, or an errno when it is turned away."""

    def dequeue(self) -> Mbuf | None:
        """Give the next frame, None when there is none (yet)."""

    def poll(self) -> Mbuf | None:
        """Show what ``dequeue`` would give."""

    def purge(self) -> int:
        """Throw everything away and return how many frames that were."""

    def __len__(self) -> int: ...


class Ifqueue:
    """A queue of frames with a length limit (``struct ifqueue``, ``struct ifaltq``).

    ``ifq_drops`` counts the frames turned away because it was full, or because
    the discipline refused them, ``ifq_flushed`` those that ``purge`` threw away
    (the original counts none: an interface that goes down loses them silently).
    """

    __slots__ = (
        "_discipline",
        "_frames",
        "_tbr_dequeue",
        "altq_disc",
        "altq_ifp",
        "altq_tbr",
        "ifq_drops",
        "ifq_flushed",
        "ifq_maxlen",
    )

    def __init__(self, maxlen: int, ifp: Ifnet | None = None) -> None:
        self._frames: deque[Mbuf] = deque()
        self.ifq_maxlen = maxlen
        self.ifq_drops = 0
        self.ifq_flushed = 0
        self.altq_ifp = ifp
        self.altq_disc: Discipline | None = None
        self.altq_tbr: Any = None
        self._discipline: Discipline | None = None
        self._tbr_dequeue: Callable[[Ifqueue, bool], Mbuf | None] | None = None

    @property
    def ifq_len(self) -> int:
        """Frames waiting."""
        return len(self._frames) + (len(self._discipline) if self._discipline is not None else 0)

    def __len__(self) -> int:
        return self.ifq_len

    def enqueue(self, m: Mbuf) -> int:
        """Put ``m`` at the tail (``IFQ_ENQUEUE``). Returns 0, or ENOBUFS counting a drop when it is full."""
        if self._discipline is not None:
            error = self._discipline.enqueue(m)
        elif len(self._frames) >= self.ifq_maxlen:
            error = errno.ENOBUFS
        else:
            self._frames.append(m)
            return 0
        if error:
            self.ifq_drops += 1
        return error

    def is_plain(self) -> bool:
        """True when it is empty, and neither a discipline nor a regulator has a say."""
        return (
            not self._frames
            and self._discipline is None
            and self._tbr_dequeue is None
            and self.ifq_maxlen > 0
        )

    def dequeue(self) -> Mbuf | None:
        """Take the frame at the head (``IFQ_DEQUEUE``); None: nothing to send now."""
        if self._tbr_dequeue is not None:
            return self._tbr_dequeue(self, False)
        return self.dequeue_unregulated()

    def dequeue_unregulated(self) -> Mbuf | None:
        """Take the next frame past the regulator: what the regulator itself calls."""
        if self._discipline is not None:
            return self._discipline.dequeue()
        return self._frames.popleft() if self._frames else None

    def poll(self) -> Mbuf | None:
        """Look at what ``dequeue`` would give (``IFQ_POLL``)."""
        if self._tbr_dequeue is not None:
            return self._tbr_dequeue(self, True)
        return self.poll_unregulated()

    def poll_unregulated(self) -> Mbuf | None:
        """Look at the next frame past the regulator."""
        if self._discipline is not None:
            return self._discipline.poll()
        return self._frames[0] if self._frames else None

    def purge(self) -> int:
        """Throw everything away and return how many frames that were (``IFQ_PURGE``)."""
        freed = self._discipline.purge() if self._discipline is not None else 0
        freed += len(self._frames)
        self._frames.clear()
        self.ifq_flushed += freed
        return freed

    # ALTQ

    def altq_attach(self, discipline: Discipline) -> None:
        """Put a discipline in; it takes over at ``altq_enable``. Raises EBUSY when one is in already."""
        if self.altq_disc is not None:
            raise refuse(errno.EBUSY, "the queue has a discipline; detach it first")
        self.altq_disc = discipline

    def altq_enable(self) -> None:
        """Let the discipline decide from now on; what waits is lost, as on purge. Raises ENXIO without one."""
        if self.altq_disc is None:
            raise refuse(errno.ENXIO, "the queue has no discipline; attach one first")
        if self._discipline is None:
            self.purge()
            self._discipline = self.altq_disc
            self._tell()

    def altq_disable(self) -> None:
        """Throw the discipline's frames away and go on without it (called at 852)."""
        if self._discipline is not None:
            discipline, self._discipline = self._discipline, None
            try:
                self.ifq_flushed += discipline.purge()
            finally:
                self._tell()

    def altq_detach(self) -> None:
        """Take the discipline out (called at 854). Raises EBUSY while it is enabled, ENXIO when there is none."""
        if self._discipline is not None:
            raise refuse(errno.EBUSY, "the discipline is enabled; disable it first")
        if self.altq_disc is None:
            raise refuse(errno.ENXIO, "the queue has no discipline")
        self.altq_disc = None

    def altq_is_enabled(self) -> bool:
        """True while a discipline decides (``ALTQ_IS_ENABLED``; asked at 851)."""
        return self._discipline is not None

    def tbr_set(self, regulator: Any, dequeue: Callable[[Ifqueue, bool], Mbuf | None] | None = None) -> None:
        """Put a token-bucket regulator on the way out, or take it off with None.

        ``dequeue`` is called with the queue and whether it is only asked to look; the
        kernel's ``tbr_dequeue_ptr`` serves a regulator that brings none. Raises ENXIO
        when there is none either (152; ``altq/altq_subr.c``).
        """
        if regulator is not None and dequeue is None:
            hooks = self.altq_ifp.kernel.hooks if self.altq_ifp is not None else None
            dequeue = hooks.tbr_dequeue_ptr if hooks is not None else None
            if dequeue is None:
                raise refuse(errno.ENXIO, "no regulator is loaded that could serve the queue")
        self.altq_tbr = regulator
        self._tbr_dequeue = dequeue if regulator is not None else None
        self._tell()

    def is_managed(self) -> bool:
        """True while a discipline or a regulator has a say: they count on frames as they go on the wire."""
        return self._discipline is not None or self._tbr_dequeue is not None

    def _tell(self) -> None:
        if self.altq_ifp is not None:
            self.altq_ifp.if_driver.if_snd_changed(self.altq_ifp)


def ifq_init(ifp: Ifnet) -> Ifqueue:
    """Make the send queue of ``ifp``: as long as ``net.link.ifqmaxlen`` says, without a discipline (542-556)."""
    return Ifqueue(ifp.kernel.sysctl["net.link.ifqmaxlen"], ifp)


def ifq_delete(ifq: Ifqueue) -> None:
    """Let a send queue go, and what waits in it (558-562)."""
    ifq.purge()
    ifq.altq_ifp = None
