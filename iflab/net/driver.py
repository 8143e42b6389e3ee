"""What stands below an ifnet: the contract of a driver.

A driver is a small class. One object serves one ifnet. All its functions run
with the lab's lock held, on whichever thread called in: usually the engine's.
They must not wait.

A frame that the host sends meets the driver like this::

    if_transmit -> if_snd -> if_start -> (the driver takes it off the queue and puts it on its wire)

and one that comes off the wire is handed up with ``ifp.if_input_mbuf(m)``.
"""

from __future__ import annotations

import abc
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import KernelPanic, refuse
from .mbuf import Mbuf
from .sockaddr import Sockaddr, SockaddrDl

if TYPE_CHECKING:
    from .ifnet import Ifnet
    from .vnet import Vnet

__all__ = ["DeadDriver", "Driver", "NoDriver"]


class Driver(abc.ABC):
    """Base of every driver. Only ``if_start`` must be defined.

    Defining ``if_transmit`` takes the whole way out away from the send queue;
    ``if_qflush`` must then be defined too, or attaching panics.
    """

    if_transmit: Callable[[Ifnet, Mbuf], int] | None = None
    """``(ifp, m) -> errno``: take a frame instead of the send queue; 0 when taken."""

    if_qflush: Callable[[Ifnet], None] | None = None
    """``(ifp)``: throw away what such a driver holds."""

    def if_init(self, ifp: Ifnet) -> None:  # noqa: B027 - optional by contract
        """Bring the hardware to life; called when the interface comes up (``net/if_var.h``)."""

    @abc.abstractmethod
    def if_start(self, ifp: Ifnet) -> None:
        """Send what waits: take frames with ``ifp.if_snd.dequeue()`` until it gives None (called at 3384, 3421)."""

    def if_ioctl(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        """Obey an ioctl (``SIOCSIFFLAGS``, ``SIOCSIFMTU``, ``SIOCADDMULTI``, ``SIOCSIFCAP`` ...).

        Called at 2265-2466, 2643, 2715, 3066, 3124, 3192, 3330 and 3334.

        ``data`` is the request (``Ifreq``) or None. Raises ``OSError``; this one
        answers EOPNOTSUPP to everything, like an interface without ``if_ioctl``.
        """
        raise refuse(errno.EOPNOTSUPP, f"{ifp.if_xname}: the driver knows no {cmd}")

    def if_resolvemulti(self, ifp: Ifnet, sa: Sockaddr) -> SockaddrDl | None:
        """Map a group address to the link-level one; None when the link needs none (called at 3006).

        Raises EADDRNOTAVAIL for what is no group address, EAFNOSUPPORT for a
        family that the link does not carry. Runs with the address lock held
        (quirk 52). Ethernet drivers return ``ether_resolvemulti(ifp, sa)``.
        """
        return None

    def if_may_reassign(self, ifp: Ifnet, new_vnet: Vnet) -> None:  # noqa: B027 - optional by contract
        """The interface is about to move to ``new_vnet``. Raises ``OSError`` where that is impossible: then it stays."""

    def if_reassign(self, ifp: Ifnet, new_vnet: Vnet) -> None:  # noqa: B027 - optional by contract
        """The interface moves to ``new_vnet``; it is in no list at this moment (called at 969, quirk 49).

        Raises ``OSError`` where that turns out to be impossible: the interface returns, without what a
        move takes from it.
        """

    def if_snd_changed(self, ifp: Ifnet) -> None:  # noqa: B027 - optional by contract
        """A discipline or regulator came to the send queue, or went (``if_snd.is_managed()``)."""

    def if_detached(self, ifp: Ifnet) -> None:  # noqa: B027 - optional by contract
        """The interface is gone and the dead driver in this one's place: let the hardware go (called after 878)."""


class NoDriver(Driver):
    """Below an ifnet that no driver has claimed yet."""

    def if_start(self, ifp: Ifnet) -> None:
        """Panic: the original would jump through a NULL pointer."""
        raise KernelPanic(f"{ifp.if_xname}: if_start without a driver", 3384)


class DeadDriver(Driver):
    """Below an interface that was detached (``net/if_dead.c``): everything answers ENXIO."""

    def if_start(self, ifp: Ifnet) -> None:
        """Do nothing."""

    def if_ioctl(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        """Answer ENXIO."""
        raise refuse(errno.ENXIO, f"{ifp.if_xname}: the interface is gone")

    def if_resolvemulti(self, ifp: Ifnet, sa: Sockaddr) -> SockaddrDl | None:
        """Answer ENXIO."""
        raise refuse(errno.ENXIO, f"{ifp.if_xname}: the interface is gone")

    def if_transmit(self, ifp: Ifnet, m: Mbuf) -> int:
        """Lose the frame and answer ENXIO."""
        return errno.ENXIO

    def if_qflush(self, ifp: Ifnet) -> None:
        """Do nothing."""
