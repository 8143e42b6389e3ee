"""What stands above an ifnet: the protocols, as far as this layer calls them.

One ``Stack`` serves one vnet. This base answers for a machine without
protocols: it takes every notice, holds no address and no route. The real one
is Linux (``iflab/stack.py``); tests have a recording one. Its functions run with
the lab's lock held.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import refuse
from .flags import PRC, AddressFamily
from .mbuf import Mbuf
from .route import RTM, RtAddrinfo, Rtentry
from .sockaddr import Sockaddr

if TYPE_CHECKING:
    from .ifaddr import Ifaddr
    from .ifnet import Ifnet
    from .priv import Thread

__all__ = ["Domain", "Stack"]


@dataclass(slots=True)
class Domain:
    """A protocol family (``struct domain``): what it keeps per interface, made and unmade by these two."""

    dom_name: str
    dom_family: AddressFamily
    dom_ifattach: Callable[[Ifnet], Any] | None = None
    dom_ifdetach: Callable[[Ifnet, Any], None] | None = None


class Stack:
    """The protocols above the interfaces of one vnet."""

    hands_to_driver = False
    """``input`` counts a frame at its address and gives it to ``ifp.if_softc.to_host``; nothing else."""

    rt_numfibs: int = 1
    """Number of routing tables (fibs)."""

    def input(self, ifp: Ifnet, m: Mbuf) -> None:
        """Take a frame that came off ``ifp``'s wire (``if_input`` of ``net/if_var.h``)."""

    def consent(self, ifp: Ifnet, what: str, value: Any) -> None:
        """Agree to a change of ``ifp`` before it happens, or raise ``OSError``: nothing is changed then.

        ``what`` and ``value`` are ``"name"`` and the new one, ``"description"``
        and text or None, ``"fib"`` and a number, ``"lladdr"`` and the octets.
        """

    def pfctlinput(self, cmd: PRC, sa: Sockaddr) -> None:
        """Tell every protocol that the interface with address ``sa`` went up or down (called at 1941, 1964)."""

    def pru_control(self, cmd: str, data: Any, ifp: Ifnet, td: Thread) -> None:
        """Obey a protocol's ioctl (``SIOCAIFADDR`` ...). EOPNOTSUPP sends it on to the driver (called at 2638)."""
        raise refuse(errno.EOPNOTSUPP, f"{ifp.if_xname}: no protocol knows {cmd}")

    def in_control(self, cmd: str, ifa: Ifaddr, ifp: Ifnet) -> None:
        """Obey ``SIOCDIFADDR`` for an IPv4 address: take it off the list and free it (called at 760). Raises ``OSError``."""
        raise refuse(errno.EADDRNOTAVAIL, f"{ifp.if_xname}: no IPv4 here")

    def in6_purgeaddr(self, ifa: Ifaddr) -> None:
        """Take an IPv6 address off its interface's list and free it (called at 767)."""
        if ifa.ifa_ifp is not None:
            ifa.ifa_ifp.if_addrhead.remove(ifa)
        ifa.ifa_free()

    def in_ifdetach(self, ifp: Ifnet) -> None:
        """Forget what IPv4 keeps about ``ifp`` (called at 860)."""

    def in6_ifdetach(self, ifp: Ifnet) -> None:
        """Forget what IPv6 keeps about ``ifp`` (called at 870)."""

    def in6_if_up(self, ifp: Ifnet) -> None:
        """IPv6 may start on ``ifp``, which came up (called at 1969, 2648)."""

    def nd6_setmtu(self, ifp: Ifnet) -> None:
        """The MTU of ``ifp`` changed (called at 2395)."""

    def arp_ifinit(self, ifp: Ifnet, ifa: Ifaddr) -> None:
        """Announce ``ifa`` with ``ifp``'s present MAC (gratuitous ARP; called at 3343)."""

    def rtrequest1_fib(self, cmd: RTM, info: RtAddrinfo, fib: int) -> Rtentry | None:
        """Add or delete the route that ``info`` describes in table ``fib``; return an added one (called at 1488, 1520).

        Raises ``OSError``.
        """
        raise refuse(errno.EOPNOTSUPP, "this vnet has no routes")

    def rtrequest_fib(self, cmd: RTM, rt: Rtentry, fib: int) -> None:
        """Delete ``rt`` from table ``fib``, pinned or not (called at 1370). Raises ``OSError``."""
        raise refuse(errno.EOPNOTSUPP, "this vnet has no routes")

    def rtalloc1_fib(self, sa: Sockaddr, fib: int) -> Rtentry | None:
        """Find the route to ``sa`` in table ``fib`` (called at 1533)."""
        return None

    def rt_walktree(self, family: AddressFamily, fib: int) -> Iterable[Rtentry]:
        """Give all routes of a family in table ``fib``; the caller may delete while it walks (called at 906)."""
        return ()
