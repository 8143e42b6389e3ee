"""The interface itself (``struct ifnet``; sys/net/if.c 476-540, 2056-2080, 3350-3423).

What an interface does is written in one module per idea and gathered here under
the original's names.

A frame that the host sends comes in at ``transmit_mbuf`` and leaves through the
driver's ``if_start``; one off the wire goes up at ``if_input_mbuf``. These two
are the hot path: they take mbufs (``iflab/net/mbuf.py``), expect the lab's lock
to be held, and answer with an errno instead of raising. ``if_transmit`` and
``if_input`` are the same for people: they take frames or scapy packets.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from . import attach, counted, group, lookup, multi, state
from .bpf import BpfSide, BpfTap, bpf_mtap
from .driver import DeadDriver, Driver, NoDriver
from .errors import KernelPanic, refuse, report
from .ethersubr import ether_input
from .flags import IFF, IFNAMSIZ, AddressFamily, LinkState
from .ifaddr import AddressList, Ifaddr, ifa_alloc
from .ifqueue import Ifqueue, ifq_delete, ifq_init
from .linkroute import link_init_sdl
from .mbuf import PKTHDR, Mbuf, is_broadcast, mbuf
from .packet import octets_of
from .sockaddr import Sockaddr, SockaddrDl, as_sockaddr
from .taskqueue import Task

if TYPE_CHECKING:
    from .stack import Stack
    from .vnet import Vnet

__all__ = ["FRAME_MAX", "FRAME_MIN", "Ifnet", "as_mbuf", "if_handoff"]

FRAME_MIN = 14
"""Octets of the shortest frame that can be told apart from noise: an Ethernet header."""

FRAME_MAX = 65535 + 18
"""Octets of the longest: a full IP packet, Ethernet header and one VLAN tag."""

_OACTIVE = IFF.OACTIVE
_log = logging.getLogger("iflab.net")


def as_mbuf(frame: Any, mac: str = "00:00:00:00:00:00", addresses: Iterable[str] = ()) -> Mbuf:
    """Make an mbuf of a whole Ethernet frame: ``bytes`` or a scapy packet.

    Addresses that a packet leaves open are filled in as by ``fill_in``. Raises
    ``ValueError`` for what is too short or too long to be a frame, ``TypeError``
    for a packet without Ethernet header.
    """
    octets = octets_of(frame, mac, addresses)
    if not FRAME_MIN <= len(octets) <= FRAME_MAX:
        raise ValueError(
            f"a frame has {FRAME_MIN} to {FRAME_MAX} octets, Ethernet header included; this one has {len(octets)}"
        )
    return mbuf(octets)


class _Held:
    """A lock that is held already; leaving the block gives it back."""

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        self._release()


class Ifnet:
    """One interface. Made by ``vnet.if_alloc``; counters are in frames and octets of frame."""

    def __init__(self, vnet: Vnet, iftype: int, index: int) -> None:
        self.kernel = vnet.kernel
        self.alloc_vnet = vnet
        """Where it was allocated: its vnet until it is attached (quirk 1)."""
        self.if_vnet: Vnet | None = None
        self.if_home_vnet: Vnet | None = None
        self.if_index = index
        self.list_position = 0
        self._if_xname = ""
        self.if_dname = ""
        self.if_dunit: int | None = None
        self.if_type = iftype
        self.if_alloctype = iftype
        self.if_addrlen = 0
        self.if_flags = 0
        self.if_drv_flags = 0
        self.if_capabilities = 0
        self.if_capenable = 0
        self.if_mtu = 0
        self.if_metric = 0
        self.if_physical = 0
        self.if_fib = 0
        self.if_baudrate = 0
        self.if_hw_tsomax = 0
        self.if_link_state = LinkState.UNKNOWN
        self.if_description: str | None = None
        self.if_pcount = 0
        self.if_amcount = 0
        self.if_lastchange = 0.0
        self.if_epoch = 0.0
        self.if_refcount = 1
        self.if_l2com: Any = None
        self.com_free: Callable[[Any, int], None] | None = None
        self.if_broadcastaddr: bytes | None = None
        self.if_reinit = False
        """True while ``if_setlladdr`` takes the interface down and up, only to have the hardware programmed anew."""
        self.if_addr: Ifaddr | None = None
        self.if_addrhead = AddressList(self)
        self.if_multiaddrs = multi.MulticastList()
        self.if_groups: list[group.Group] = []
        self.if_afdata: dict[AddressFamily, Any] = {}
        self.if_afdata_initialized = 0
        # What the devices behind the hooks hang here.
        self.if_vlantrunk: Any = None
        self.if_carp: Any = None
        self.if_bridge: Any = None
        self.if_lagg: Any = None
        # Counters.
        self.if_ipackets = 0
        self.if_ibytes = 0
        self.if_imcasts = 0
        self.if_ierrors = 0
        self.if_iqdrops = 0
        self.if_opackets = 0
        self.if_obytes = 0
        self.if_omcasts = 0
        self.if_oerrors = 0

        self.plain = True
        """Nobody but driver and protocols deals with its frames; who else does (a listener, a device on top) unsets it."""
        self.if_bpf: tuple[BpfTap, ...] = ()
        self.if_claims: set[str] = set()
        """Kinds of devices on top of it (``if_claim``)."""
        self.if_snd = ifq_init(self)
        self.if_linktask = Task(functools.partial(state.do_link_state_change, self))
        self.if_driver: Driver = NoDriver()
        self.if_softc: Any = None
        self.transmit_mbuf: Callable[[Mbuf], int]
        self.bind_driver()

    def __repr__(self) -> str:
        where = self.if_vnet.name if self.if_vnet is not None else "-"
        return f"<Ifnet {where}:{self.if_xname or '?'} index={self.if_index}>"

    # names

    @property
    def if_xname(self) -> str:
        """The name, at most 15 octets."""
        return self._if_xname

    @if_xname.setter
    def if_xname(self, name: str) -> None:
        old, self._if_xname = self._if_xname, name
        if self.if_vnet is not None:
            self.if_vnet.renamed(self, old)

    def if_initname(self, name: str, unit: int | None = None) -> str:
        """Set driver name and unit, and the name made of both (3350-3365)."""
        with self.kernel.giant:
            self.if_dname, self.if_dunit = name, unit
            full = name if unit is None else f"{name}{unit}"
            self.if_xname = full.encode("utf-8", "surrogateescape")[: IFNAMSIZ - 1].decode(
                "utf-8", "surrogateescape"
            )
            return self.if_xname

    def if_printf(self, text: str) -> int:
        """Say ``text`` on the console behind the interface's name; return how many octets that were (3367-3378)."""
        line = f"{self.if_xname}: {text}"
        self.kernel.console.printf(line.removesuffix("\n"))
        return len(line.encode("utf-8", "surrogateescape"))

    # where it is

    @property
    def curvnet(self) -> Vnet:
        """The vnet in whose context a call runs: the current one where there is one, else its own."""
        return self.kernel.curvnet or self.if_vnet or self.alloc_vnet

    @property
    def stack(self) -> Stack:
        """The protocols above it."""
        return (self.if_vnet or self.alloc_vnet).stack

    def link_sockaddr(self) -> SockaddrDl:
        """Its own link-level address. Raises ENXIO while it is not attached."""
        if self.if_addr is None:
            raise refuse(errno.ENXIO, f"{self.if_xname} is not attached and has no link-level address")
        return cast(SockaddrDl, self.if_addr.ifa_addr)

    @property
    def lladdr(self) -> bytes:
        """Its MAC; empty when it has none."""
        return self.link_sockaddr().sdl_lladdr if self.if_addr is not None else b""

    def set_description(self, text: str | None) -> None:
        """Replace the description; None takes it away."""
        for value, account in ((self.if_description, self.kernel.freed), (text, self.kernel.allocated)):
            if value is not None:
                account("ifdescr")
        self.if_description = text

    # life

    def if_ref(self) -> int:
        """Take a reference; return the new count (525-531)."""
        with self.kernel.giant:
            self.if_refcount += 1
            return self.if_refcount

    def if_ref_unless_dying(self) -> bool:
        """Take a reference unless the interface is dying; True when it was taken (249-263, 2086-2101)."""
        if self.if_flags & IFF.DYING:
            return False
        self.if_refcount += 1
        return True

    def if_rele(self) -> None:
        """Give a reference back; the last one frees (533-540).

        Panics when it is the last of an interface that is not dying, before
        anything is counted (quirk 51).
        """
        with self.kernel.giant:
            if self.if_refcount <= 0:
                raise KernelPanic("refcount PTR underflow", 537)
            if self.if_refcount == 1 and not self.if_flags & IFF.DYING:
                raise KernelPanic("if_free_internal: interface not dying", 481)
            self.if_refcount -= 1
            if self.if_refcount == 0:
                self.if_free_internal()

    def if_free(self) -> None:
        """Give up the interface: its index is free at once, itself with the last reference (499-518)."""
        kernel = self.kernel
        with kernel.giant:
            vnet = self.if_vnet = self.if_vnet or self.alloc_vnet  # quirk 1
            if vnet.ifnet_byindex(self.if_index) is not self:
                raise KernelPanic(f"{self.if_xname}: freeing unallocated ifnet", 509)
            self.if_flags |= IFF.DYING
            kernel.taskqueue_swi.cancel(self.if_linktask)
            vnet.ifindex_free(self.if_index)
            self.if_rele()

    def if_free_internal(self) -> None:
        """Let everything go that the interface made (476-496), and what it was given after it was detached."""
        if self.com_free is not None:
            self.com_free(self.if_l2com, self.if_alloctype)
            self.com_free = self.if_l2com = None
        if self.if_vnet is None or not self.if_vnet.lists(self):
            group.if_freegroups(self)
            for ifa in self.if_addrhead:
                self.ifa_remove(ifa)
        self.set_description(None)
        ifq_delete(self.if_snd)
        self.kernel.freed("ifnet")
        # Cut the circles, so that the object goes now and not with the next collection.
        self.if_softc = None
        self.if_driver = NoDriver()
        self.if_linktask = Task(lambda pending: None)
        self.if_addrhead.disown()
        self.transmit_mbuf = _gone

    # the driver below

    def bind_driver(self) -> None:
        """Let frames take the way of the present ``if_driver`` (611-614)."""
        own = self.if_driver.if_transmit
        self.transmit_mbuf = self._transmit_queued if own is None else self._transmit_own

    def need_ioctl(self, cmd: str) -> None:
        """Raise EOPNOTSUPP when the driver has no ``if_ioctl`` at all (2274, 2367, 2383)."""
        if type(self.if_driver).if_ioctl is Driver.if_ioctl and "if_ioctl" not in vars(self.if_driver):
            raise refuse(errno.EOPNOTSUPP, f"{self.if_xname}: the driver knows no {cmd}")

    def driver_ioctl(self, cmd: str, data: Any) -> None:
        """Send a command down (``ifp->if_ioctl``). Raises the driver's ``OSError``; EIO when it failed in any other way."""
        try:
            self.if_driver.if_ioctl(self, cmd, data)
        except (OSError, KernelPanic):
            raise
        except BaseException as error:
            report(_log, error, "%s: if_ioctl(%s) of %r failed", self.if_xname, cmd, self.if_driver)
            raise refuse(errno.EIO, f"{self.if_xname}: the driver failed at {cmd}: {error!r}") from error

    def driver_ioctl_unheeded(self, cmd: str, data: Any) -> None:
        """Send a command down where the original does not look at the answer (2265, 3066, 3124, 3192, 3330)."""
        try:
            self.driver_ioctl(cmd, data)
        except OSError as error:
            _log.debug("%s: %s: %s", self.if_xname, cmd, error)

    # frames out

    def if_start(self) -> None:
        """Let the driver send what waits (3380-3385). One that raises is reported, and its frames stay queued."""
        try:
            self.if_driver.if_start(self)
        except KernelPanic:
            raise
        except BaseException as error:
            self.if_oerrors += 1
            report(_log, error, "%s: if_start of %r failed", self.if_xname, self.if_driver)

    def _transmit_queued(self, m: Mbuf) -> int:
        """Put ``m`` on the send queue and start the driver unless it is busy (3387-3398).

        Counts octets, and groups without broadcast (quirk 45). Returns ENOBUFS when full.
        """
        error = self.if_snd.enqueue(m)
        if error:
            return error
        self.if_obytes += len(m) - PKTHDR
        if m[PKTHDR:] and m[PKTHDR] & 1 and not is_broadcast(m):
            self.if_omcasts += 1
        if not self.if_drv_flags & _OACTIVE:
            self.if_start()
        return 0

    def _transmit_own(self, m: Mbuf) -> int:
        """Hand ``m`` to a driver with an ``if_transmit``. EIO, and an output error, when that raises or answers nonsense."""
        driver = self.if_driver
        try:
            assert driver.if_transmit is not None
            answer = driver.if_transmit(self, m)
            if not isinstance(answer, int):
                raise TypeError(f"if_transmit answers an errno, 0 for success, not {answer!r}")
        except KernelPanic:
            raise
        except BaseException as error:
            self.if_oerrors += 1
            report(_log, error, "%s: if_transmit of %r failed", self.if_xname, driver)
            return errno.EIO
        return answer

    def if_transmit(self, frame: Any) -> None:
        """Send a frame (``bytes``, or a scapy packet with its Ethernet header) from this interface.

        It passes the send queue and the driver like one from the host. A packet
        that names no sources gets this interface's MAC and addresses, one that
        names no destination MAC goes to everybody. Raises
        ENOBUFS when the queue is full, ENXIO when the interface is gone,
        ``ValueError`` for what is no frame.
        """
        m = as_mbuf(frame, self.lladdr.hex(":") or "00:00:00:00:00:00", self._addresses())
        with self.kernel.giant:
            error = self.transmit_mbuf(m)
        if error:
            raise refuse(error, f"{self.if_xname}: {os.strerror(error)}")

    def if_qflush(self) -> int:
        """Throw away what waits to be sent, and return how many frames that were (2059-2080)."""
        with self.kernel.giant:
            own = self.if_driver.if_qflush
            if own is None:
                return self.if_snd.purge()
            try:
                own(self)
            except KernelPanic:
                raise
            except BaseException as error:
                report(_log, error, "%s: if_qflush of %r failed", self.if_xname, self.if_driver)
            return 0

    def if_resolvemulti(self, sa: Sockaddr) -> SockaddrDl | None:
        """Ask the driver for a group's link-level address. Raises its ``OSError``; EIO when it failed in any other way."""
        try:
            return self.if_driver.if_resolvemulti(self, sa)
        except (OSError, KernelPanic):
            raise
        except BaseException as error:
            report(_log, error, "%s: if_resolvemulti of %r failed", self.if_xname, self.if_driver)
            raise refuse(errno.EIO, f"{self.if_xname}: the driver failed to map {sa}: {error!r}") from error

    def if_claim(self, who: str, on: bool = True) -> None:
        """Let a device on top of this interface, of the kind ``who``, see its frames (``net/ethersubr.py``), or end that."""
        if on:
            self.if_claims.add(who)
        else:
            self.if_claims.discard(who)
        self.plain = not self.if_claims

    # frames in

    def if_input_mbuf(self, m: Mbuf) -> None:
        """Hand a frame that came off the wire to the protocols (``if_input`` of ``net/if_var.h``); one of a dead
        interface is lost (``net/if_dead.c``)."""
        if type(self.if_driver) is DeadDriver:
            return
        if self.if_bpf:
            bpf_mtap(self, m, BpfSide.IN)
        self.if_ipackets += 1
        self.if_ibytes += len(m) - PKTHDR
        if m[PKTHDR] & 1:
            self.if_imcasts += 1
        if self.if_claims:
            passed = ether_input(self, m)
            if passed is None:
                return
            m = passed
        self.stack.input(self, m)

    def if_input(self, frame: Any) -> None:
        """Hand a frame (``bytes`` or a scapy packet) to the host as if it had come off the wire. Raises ``ValueError``."""
        m = as_mbuf(frame)
        with self.kernel.giant:
            self.if_input_mbuf(m)

    # addresses

    def if_addr_rlock(self) -> AbstractContextManager[None]:
        """Hold the list of addresses still (1388-1393): in a ``with`` block, or until ``if_addr_runlock``.

        The lab has one lock; this takes it.
        """
        self.kernel.giant.acquire()
        return _Held(self.if_addr_runlock)

    def if_addr_runlock(self) -> None:
        """Let it change again (1395-1400); panics when the caller does not hold it."""
        self._unlock("if_addr_runlock", 1395)

    def if_maddr_rlock(self) -> AbstractContextManager[None]:
        """Hold the multicast list still (1402-1407), as ``if_addr_rlock``."""
        self.kernel.giant.acquire()
        return _Held(self.if_maddr_runlock)

    def if_maddr_runlock(self) -> None:
        """Let it change again (1409-1414); panics when the caller does not hold it."""
        self._unlock("if_maddr_runlock", 1409)

    def _unlock(self, what: str, line: int) -> None:
        try:
            self.kernel.giant.release()
        except RuntimeError:
            raise KernelPanic(f"{what}: {self.if_xname} is not locked by the caller", line) from None

    def _addresses(self) -> list[str]:
        """The IP addresses, as text."""
        return [
            str(ifa.ifa_addr) for ifa in self.if_addrhead if ifa.ifa_addr.family is not AddressFamily.LINK
        ]

    def ifa_add(
        self,
        addr: Sockaddr | str,
        netmask: Sockaddr | str | None = None,
        dstaddr: Sockaddr | str | None = None,
    ) -> Ifaddr:
        """Put an address last on the list, as a protocol does; the list holds its reference.

        ``dstaddr`` is the broadcast address or the far end, by the interface's flags.
        Raises ``ValueError`` for what is no address, ENXIO for an interface that was freed.
        """
        with self.kernel.giant:
            if self.if_refcount == 0:
                raise refuse(errno.ENXIO, f"{self.if_xname}: the interface was freed")
            ifa = ifa_alloc(self.kernel, as_sockaddr(addr))
            ifa.ifa_netmask = as_sockaddr(netmask) if netmask is not None else None
            ifa.ifa_dstaddr = as_sockaddr(dstaddr) if dstaddr is not None else None
            self.if_addrhead.insert_tail(ifa)
            return ifa

    def ifa_remove(self, ifa: Ifaddr) -> None:
        """Take an address off the list and give the list's reference back."""
        with self.kernel.giant:
            if ifa not in self.if_addrhead:
                raise refuse(errno.EADDRNOTAVAIL, f"{self.if_xname} has no address {ifa.ifa_addr}")
            self.if_addrhead.remove(ifa)
            ifa.ifa_free()

    def ifaof_ifpforaddr(self, addr: Sockaddr | str) -> Ifaddr | None:
        """Its address that fits ``addr`` first, else its first of that family; with a reference (1803-1848)."""
        with self.kernel.giant:
            ifa = lookup.find_best_on_interface(self, as_sockaddr(addr))
            if ifa is not None:
                ifa.ifa_ref()
            return ifa

    def link_init_sdl(self, sdl: SockaddrDl, iftype: int) -> SockaddrDl:
        """Fill ``sdl`` with its index and ``iftype`` (1911-1924)."""
        return link_init_sdl(self, sdl, iftype)

    def touch(self) -> None:
        """Note that something about it changed now."""
        self.if_lastchange = time.time()

    # the rest, by idea

    if_attach = attach.if_attach
    if_attachdomain1 = attach.if_attachdomain1
    if_detach = attach.if_detach
    if_vmove = attach.if_vmove
    if_purgeaddrs = attach.if_purgeaddrs
    if_up = state.if_up
    if_down = state.if_down
    if_route = state.if_route
    if_unroute = state.if_unroute
    if_link_state_change = state.if_link_state_change
    if_setlladdr = state.if_setlladdr
    ifpromisc = counted.ifpromisc
    if_allmulti = counted.if_allmulti
    if_addgroup = group.if_addgroup
    if_delgroup = group.if_delgroup
    if_getgroup = group.if_getgroup
    if_findmulti = multi.if_findmulti
    if_addmulti = multi.if_addmulti
    if_delmulti = multi.if_delmulti
    if_delallmulti = multi.if_delallmulti


def _gone(m: Mbuf) -> int:
    return errno.ENXIO


def if_handoff(ifq: Ifqueue, m: Mbuf, ifp: Ifnet | None, adjust: int = 0) -> bool:
    """Put ``m`` at the tail of ``ifq`` and start ``ifp``'s driver unless it is busy (3400-3423).

    ``adjust`` (octets) is added to the byte counter, for headers not yet in the
    frame. Returns False, counting a drop, when the queue is full. With ``ifp``
    None the queue is an input queue and nobody is started. Broadcast counts as
    multicast here (quirk 45). The lab's lock must be held.
    """
    if ifq.enqueue(m):
        return False
    if ifp is not None:
        ifp.if_obytes += len(m) - PKTHDR + adjust
        if m[PKTHDR:] and m[PKTHDR] & 1:
            ifp.if_omcasts += 1
        if not ifp.if_drv_flags & _OACTIVE:
            ifp.if_start()
    return True
