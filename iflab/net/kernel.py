"""One machine: what all its vnets share.

The lock, the task queue, listeners, hooks, settings, domains, cloners. There is
nothing global besides: two kernels in one process know nothing of each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .clone import Cloners
from .console import Console
from .errors import KernelPanic
from .events import EventHandlers
from .giant import Giant
from .group import if_freegroups
from .hooks import Hooks
from .priv import Prison, Priv, Thread
from .rtsock import Devctl, RoutingSocket
from .stack import Domain, Stack
from .sysctl import SysctlTree, VnetSetting
from .taskqueue import TaskQueue
from .vnet import Vnet

if TYPE_CHECKING:
    from .ifaddr import Ifaddr
    from .ifnet import Ifnet

__all__ = ["ComAlloc", "Kernel"]

DOMAINS_UP = 2


@dataclass(slots=True)
class ComAlloc:
    """Who makes and frees the layer-2 common data of an interface type."""

    alloc: Callable[[int, Ifnet], Any]
    free: Callable[[Any, int], None]


class Kernel:
    """The interface layer of one machine.

    ``giant`` is the one lock: every public function takes it, callbacks run
    under it, and whoever calls the hot path holds it.
    """

    def __init__(self, giant: Giant | None = None) -> None:
        self.giant = giant or Giant()
        self.taskqueue_swi = TaskQueue()
        self.events = EventHandlers()
        self.rtsock = RoutingSocket()
        self.devctl = Devctl()
        self.console = Console()
        self.hooks = Hooks()
        self.sysctl = SysctlTree()
        self.vnet_settings: dict[str, VnetSetting] = {}
        """Settings that every vnet has for itself, by name."""
        self.cloners = Cloners(self)
        self.domains: list[Domain] = []
        self.domain_init_status = DOMAINS_UP
        self.com_alloc: dict[int, ComAlloc] = {}
        self.vnets: list[Vnet] = []
        self.curvnet: Vnet | None = None
        """The vnet that a call is made in; None outside, where every interface stands for its own."""
        self.curthread: Thread | None = None
        """Who made the ioctl that is carried out; None outside of one."""
        self._live: Counter[str] = Counter()
        self._jids = 0

    # vnets

    def vnet_alloc(self, name: str, stack: Stack | None = None, is_default: bool = True) -> Vnet:
        """Make a vnet with its tables (356-368), and a prison around it."""
        with self.giant:
            vnet = Vnet(self, name, self._jids, stack or Stack(), is_default)
            self._jids += 1
            self.vnets.append(vnet)
            return vnet

    def vnet_destroy(self, vnet: Vnet) -> None:
        """Send borrowed interfaces home, then let the vnet go; panics while one of its own is attached (382-394)."""
        with self.giant:
            for ifp in vnet.ifnets():
                home = ifp.if_home_vnet
                if home is not None and home is not vnet:
                    ifp.if_vmove(home)
            for group in tuple(vnet.groups.values()):
                for ifp in tuple(group.ifg_members):
                    if not vnet.lists(ifp):
                        if_freegroups(ifp)  # joined after its detach, never freed
            vnet.vnet_if_uninit()
            self.vnets.remove(vnet)

    @contextmanager
    def curvnet_set(self, vnet: Vnet | None) -> Iterator[None]:
        """Make calls in the context of ``vnet`` (``CURVNET_SET``); the lock is held meanwhile."""
        with self.giant:
            before, self.curvnet = self.curvnet, vnet
            try:
                yield
            finally:
                self.curvnet = before

    @contextmanager
    def curthread_set(self, td: Thread) -> Iterator[None]:
        """Let ``td`` be whom ``priv_check`` asks; the lock must be held."""
        before, self.curthread = self.curthread, td
        try:
            yield
        finally:
            self.curthread = before

    def prison_find_child(self, prison: Prison, jid: int) -> Prison | None:
        """The prison ``jid`` for a caller in ``prison`` (called at 1001, 1043).

        Any but the caller's own is found: prisons stand side by side here, and an
        interface may go from each to each. None for its own and for one that does
        not exist.
        """
        for vnet in self.vnets:
            if vnet.prison.pr_id == jid and vnet.prison is not prison:
                return vnet.prison
        return None

    def priv_check(self, priv: Priv) -> None:
        """Raise EPERM unless who made the present ioctl holds ``priv``; a call from within holds everything."""
        if self.curthread is not None:
            self.curthread.priv_check(priv)

    # layer-2 common data

    def if_register_com_alloc(
        self, iftype: int, alloc: Callable[[int, Ifnet], Any], free: Callable[[Any, int], None]
    ) -> None:
        """Let ``alloc`` make the common data of interfaces of that type from now on (3425-3437)."""
        with self.giant:
            if iftype in self.com_alloc:
                raise KernelPanic(f"if_register_com_alloc: {int(iftype)} already registered", 3430)
            self.com_alloc[iftype] = ComAlloc(alloc, free)

    def if_deregister_com_alloc(self, iftype: int) -> None:
        """End that; what was made is still freed by who made it (3439-3449)."""
        with self.giant:
            if iftype not in self.com_alloc:
                raise KernelPanic(f"if_deregister_com_alloc: {int(iftype)} not registered", 3444)
            del self.com_alloc[iftype]

    # addresses

    def ifa_preferred(self, current: Ifaddr, other: Ifaddr) -> bool:
        """True when ``other`` beats ``current``: real over virtual, a carp master over any other (1857-1863).

        Without carp nobody is master (quirk 37).
        """
        if current.ifa_carp is None:
            return False
        if other.ifa_carp is None:
            return True
        is_master = self.hooks.carp_master_p
        return is_master is not None and is_master(other) and not is_master(current)

    # what is alive

    def allocated(self, kind: str, count: int = 1) -> None:
        """Count objects made, by the original's malloc type (``ifnet``, ``ifaddr``, ``ether_multi`` ...)."""
        self._live[kind] += count

    def freed(self, kind: str, count: int = 1) -> None:
        """Count objects freed. Panics when more are freed than were made."""
        self._live[kind] -= count
        if self._live[kind] < 0:
            raise KernelPanic(f"{kind}: more freed than allocated", 0)

    def live(self) -> dict[str, int]:
        """Objects alive by kind, as ``vmstat -m`` counts them."""
        kinds = ("ifnet", "ifaddr", "ether_multi", "temp", "ifdescr", "counters")
        return {kind: self._live[kind] for kind in kinds}
