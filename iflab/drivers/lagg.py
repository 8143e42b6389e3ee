"""Several links as one (IEEE 802.1AX; lagg(4), FreeBSD's ``net/if_lagg.c``).

::

         host of lagg0
              |   one MAC, one MTU: those of the first port
           lagg0
          /  |  \\     failover    the first port with a link, frames of others dropped
       em0  em1  em2   roundrobin  one after the other: order may suffer
        |    |    |    loadbalance by a hash of the flow's addresses
                       broadcast   all of them
                       lacp        as loadbalance, among the ports on which both ends agreed
                       none        no port at all: no traffic, as long as that is wanted

Ports keep no protocols of their own: what their hosts send is refused (ENETDOWN), what
they receive is the aggregate's. They get the aggregate's MAC, modes and groups, and
their own MAC back when they leave. The aggregate has a link while a port can be used.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from iflab.net import (
    ACCEPTS_ALL,
    ETHERTYPE_QINQ,
    ETHERTYPE_VLAN,
    IFF,
    IFT,
    PKTHDR,
    DeadDriver,
    Ifmultiaddr,
    Ifnet,
    Ifreq,
    Kernel,
    LinkState,
    Mbuf,
    Priv,
    SockaddrDl,
    Timer,
    mbuf,
)

from . import lacp
from .device import Device, Maker, is_leaving, leave
from .lacp import Lacp, LacpPort
from .tap import TapNic

__all__ = ["HASHES", "PROTOCOLS", "Lagg", "LaggPort", "Laggreq", "flow_hash", "load"]

PROTOCOLS = ("failover", "loadbalance", "roundrobin", "broadcast", "lacp", "none")
HASHES = ("l2", "l3", "l4")
_FRAGMENT = 0x3FFF
_COMMANDS = frozenset(
    {"SIOCGLAGG", "SIOCSLAGG", "SIOCSLAGGPORT", "SIOCSLAGGDELPORT", "SIOCSLAGGHASH", "SIOCSLAGGOPTS"}
)


@dataclass(slots=True)
class Laggreq:
    """What the ioctls of lagg(4) take and give in ``ifr_data``.

    ``SIOCSLAGG`` ``proto``, ``SIOCSLAGGPORT`` and ``SIOCSLAGGDELPORT`` ``port``,
    ``SIOCSLAGGHASH`` ``hash``, ``SIOCSLAGGOPTS`` ``fast``, ``active`` and ``stride``;
    ``SIOCGLAGG`` fills everything in.
    """

    proto: str | None = None
    port: str = ""
    hash: tuple[str, ...] | None = None
    fast: bool | None = None
    active: bool | None = None
    stride: int | None = None
    """Frames that a port sends before the next has its turn (``roundrobin``), 1 or more."""
    ports: list[tuple[str, frozenset[str]]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class LaggPort:
    """A port, with what it gets back when it leaves."""

    ifp: Ifnet
    lladdr: bytes
    iftype: int
    joined: dict[bytes, Ifmultiaddr] = field(default_factory=dict)
    promisc: bool = False
    allmulti: bool = False
    had_link: bool = False
    lacp: LacpPort | None = None

    @property
    def has_link(self) -> bool:
        """Up, and with a carrier."""
        return self.ifp.if_link_state is LinkState.UP and bool(self.ifp.if_flags & IFF.UP)


def flow_hash(m: Mbuf, layers: tuple[str, ...] = HASHES, key: int = 0) -> int:
    """A number that is the same for all frames of a flow, by its addresses at these layers.

    Both fragments and whole packets of IPv4 count: where one says that it is a
    fragment its ports are passed over.
    """
    frame = m[PKTHDR:]
    value = key
    if "l2" in layers:
        value = zlib.crc32(frame[:12], value)
    at = 12
    while frame[at : at + 2] in (ETHERTYPE_VLAN, ETHERTYPE_QINQ):
        if "l2" in layers:
            value = zlib.crc32(frame[at + 2 : at + 4], value)
        at += 4
    kind, ip = frame[at : at + 2], at + 2
    protocol, above = 0, 0
    if kind == b"\x08\x00" and len(frame) >= ip + 20:
        if "l3" in layers:
            value = zlib.crc32(frame[ip + 12 : ip + 20], value)
        if not int.from_bytes(frame[ip + 6 : ip + 8], "big") & _FRAGMENT:
            protocol, above = frame[ip + 9], ip + (frame[ip] & 0x0F) * 4
    elif kind == b"\x86\xdd" and len(frame) >= ip + 40:
        if "l3" in layers:
            value = zlib.crc32(frame[ip + 8 : ip + 40], value)
        protocol, above = frame[ip + 6], ip + 40
    if "l4" in layers and protocol in (6, 17, 132):
        value = zlib.crc32(frame[above : above + 4], value)
    return value


class Lagg(Device):
    """``lagg0`` ...; ``ports`` in the order in which they joined, the first is the primary one."""

    kind = "lagg"

    def __init__(self, maker: Maker) -> None:
        super().__init__(maker)
        self.proto = "failover"
        self.hash: tuple[str, ...] = HASHES
        self.ports: dict[Ifnet, LaggPort] = {}
        self.lacp: Lacp | None = None
        self.fast = False
        self.active = True
        self.stride = 1
        """Frames that a port sends before it is the next one's turn (``roundrobin``)."""
        self.sets_mtu = False
        """The ports' MTU is changed by the aggregate itself."""
        self.flapping = 0
        """How often a port lost its link."""
        self._key = random.getrandbits(32)
        self._sent = 0
        self._usable: list[LaggPort] = []
        self._ticker: Timer | None = None
        self._starts: dict[str, Callable[[Mbuf], bool]] = {
            "failover": self._failover,
            "loadbalance": self._loadbalance,
            "lacp": self._loadbalance,
            "roundrobin": self._roundrobin,
            "broadcast": self._broadcast,
            "none": lambda m: False,
        }

    def if_detached(self, ifp: Ifnet) -> None:
        """Let all ports go."""
        for port in [*self.ports]:
            self.remove(port)
        if self._ticker is not None:
            self._ticker.cancel()
        super().if_detached(ifp)

    # ports

    def add(self, ifp: Ifnet) -> LaggPort:
        """Take a port in.

        Raises EBUSY for one that is in an aggregate or a bridge or carries vlans,
        EPROTONOSUPPORT for what is no Ethernet NIC, EINVAL for another MTU than
        the ports before.
        """
        own = self.ifp
        if ifp.if_lagg is not None or ifp.if_bridge is not None or ifp.if_vlantrunk is not None:
            raise OSError(errno.EBUSY, f"{own.if_xname}: {ifp.if_xname} is in use by another device")
        if ifp is own or ifp.if_type != IFT.ETHER or not isinstance(ifp.if_softc, TapNic):
            raise OSError(errno.EPROTONOSUPPORT, f"{own.if_xname}: {ifp.if_xname} is no Ethernet NIC")
        if isinstance(ifp.if_softc, Lagg):
            raise OSError(errno.EINVAL, f"{own.if_xname}: {ifp.if_xname} is an aggregate itself")
        if not self.ports:
            self._take_over(ifp)
        elif ifp.if_mtu != own.if_mtu:
            raise OSError(
                errno.EINVAL,
                f"{own.if_xname}: {ifp.if_xname} has an MTU of {ifp.if_mtu}, the ports have {own.if_mtu}; "
                "give it theirs",
            )
        port = LaggPort(ifp, ifp.lladdr, ifp.if_type)
        port.had_link = port.has_link
        self.ports[ifp] = port
        ifp.if_lagg = self
        ifp.if_type = IFT.IEEE8023ADLAG
        ifp.if_claim("lagg")
        _set_mac(ifp, own.lladdr)
        self._pass_down(port)
        self._lacp_port(port)
        self.follow_link()
        self.accepts_change()
        return port

    def below(self) -> Iterable[Ifnet]:
        return self.ports

    def _take_over(self, ifp: Ifnet) -> None:
        """The first port gives the aggregate its MAC and MTU."""
        own = self.ifp
        if own.if_mtu != ifp.if_mtu:
            self._set_mtu(own, ifp.if_mtu)
        if own.lladdr != ifp.lladdr:
            own.if_setlladdr(ifp.lladdr)
            self.reprogram()
            own.kernel.events.invoke("iflladdr_event", own)

    def remove(self, ifp: Ifnet, departing: bool = False) -> None:
        """Let a port go, with its own MAC. Raises ENOENT for an interface that is none."""
        port = self.ports.get(ifp)
        if port is None:
            raise OSError(errno.ENOENT, f"{self.ifp.if_xname}: {ifp.if_xname} is no port of it")
        self._lacp_leave(port)
        del self.ports[ifp]
        ifp.if_lagg = None
        ifp.if_type = port.iftype
        ifp.if_claim("lagg", False)
        with contextlib.suppress(OSError):  # a dead driver has no modes any more
            if port.promisc:
                ifp.ifpromisc(0)
            if port.allmulti:
                ifp.if_allmulti(0)
        if not departing:
            for ifma in port.joined.values():
                leave(ifma)
        if not isinstance(ifp.if_driver, DeadDriver):  # it may only be moving to another vnet
            _set_mac(ifp, port.lladdr)
        self.follow_link()
        self.accepts_change()

    # links

    @property
    def usable(self) -> list[LaggPort]:
        """The ports that frames may go out of, as things are."""
        return self._usable

    def _find_usable(self) -> list[LaggPort]:
        if self.proto == "lacp":
            return [p for p in self.ports.values() if p.lacp is not None and p.lacp.distributes]
        if self.proto == "none":
            return []
        return [port for port in self.ports.values() if port.has_link]

    def follow_link(self) -> None:
        """A port's link changed: use what can be used, and have a link while something can."""
        self._usable = self._find_usable()
        up = bool(self._usable)
        ifp = self.ifp
        if self._usable:
            speeds = [port.ifp.if_baudrate for port in self._usable]
            ifp.if_baudrate = max(speeds) if self.proto in ("failover", "broadcast") else sum(speeds)
        if up != (ifp.if_link_state is LinkState.UP) and not ifp.if_flags & IFF.DYING:
            self.link_change(up)

    def port_changed(self, ifp: Ifnet) -> None:
        """A port's link, or its being up, changed."""
        port = self.ports.get(ifp)
        if port is None:
            return
        self.flapping += port.had_link and not port.has_link
        port.had_link = port.has_link
        if port.lacp is not None and self.lacp is not None:
            self.lacp.port_enabled(port.lacp, port.has_link)
        self.follow_link()

    # modes, groups, MAC, MTU

    def _program(self) -> None:
        super()._program()
        for port in list(self.ports.values()):
            self._pass_down(port)

    def _pass_down(self, port: LaggPort) -> None:
        """Give a port the modes and groups of the aggregate."""
        own, ifp = self.ifp, port.ifp
        promisc = bool(own.if_flags & (IFF.PROMISC | IFF.PPROMISC))
        allmulti = bool(own.if_flags & IFF.ALLMULTI)
        if promisc != port.promisc:
            port.promisc = promisc
            ifp.ifpromisc(promisc)
        if allmulti != port.allmulti:
            port.allmulti = allmulti
            ifp.if_allmulti(allmulti)
        macs = own.if_multiaddrs.link_addresses()
        if self.proto == "lacp":
            macs.add(lacp.GROUP)
        for mac in macs - set(port.joined):
            port.joined[mac] = ifp.if_addmulti(SockaddrDl(sdl_lladdr=mac))
        for mac in set(port.joined) - macs:
            leave(port.joined.pop(mac))

    def mac_changed(self) -> None:
        """The aggregate has another MAC: so have its ports."""
        for port in self.ports.values():
            _set_mac(port.ifp, self.ifp.lladdr)
        if self.lacp is not None:
            self.lacp.system = self.ifp.lladdr
            self.lacp.reconfigure()

    # LACP

    def set_protocol(self, proto: str) -> None:
        """Use the ports in another way. Raises EPROTONOSUPPORT for one that does not exist."""
        if proto not in PROTOCOLS:
            raise OSError(
                errno.EPROTONOSUPPORT,
                f"{self.ifp.if_xname}: no way to use ports is called {proto!r}; use {', '.join(PROTOCOLS)}",
            )
        if proto == self.proto:
            return
        if self.lacp is not None:
            for port in self.ports.values():
                self._lacp_leave(port)
            self.lacp = None
            if self._ticker is not None:
                self._ticker.cancel()
        self.proto = proto
        if proto == "lacp":
            lacp.load_scapy()
            self.lacp = Lacp(
                self.ifp.lladdr,
                (self.ifp.if_dunit or 0) + 1,
                self._transmit_lacpdu,
                self.follow_link,
                active=self.active,
                fast=self.fast,
            )
            self._tick_later()
            for port in self.ports.values():
                self._pass_down(port)
                self._lacp_port(port)
        else:
            for port in self.ports.values():
                self._pass_down(port)
        self.follow_link()

    def if_init(self, ifp: Ifnet) -> None:
        """Begin to carry frames, and to speak LACP."""
        super().if_init(ifp)
        for port in self.ports.values():
            self._lacp_port(port)

    def stop(self) -> None:
        """End that, and tell the partners (``lacp_stop``): what they still sent would be lost here."""
        super().stop()
        for port in self.ports.values():
            self._lacp_leave(port)

    def _lacp_leave(self, port: LaggPort) -> None:
        if port.lacp is not None and self.lacp is not None:
            self.lacp.remove(port.lacp)
            port.lacp = None
            self.follow_link()

    def _lacp_port(self, port: LaggPort) -> None:
        """Let a port speak LACP, where that is the protocol and the aggregate is up."""
        if self.lacp is None or port.lacp is not None or not self._running:
            return
        self.lacp.system = self.ifp.lladdr
        port.lacp = LacpPort(port.ifp.if_xname, port.ifp.if_index)
        self.lacp.add(port.lacp)
        self.lacp.port_enabled(port.lacp, port.has_link)

    def set_options(
        self, fast: bool | None = None, active: bool | None = None, stride: int | None = None
    ) -> None:
        """Ask for LACPDUs each second; speak unasked; frames at a turn. Raises EINVAL for a stride below 1."""
        if stride is not None:
            if stride < 1:
                raise OSError(errno.EINVAL, f"{self.ifp.if_xname}: rr_limit is 1 or more, not {stride}")
            self.stride, self._sent = stride, 0
        if fast is None and active is None:
            return
        self.fast = self.fast if fast is None else fast
        self.active = self.active if active is None else active
        if self.lacp is not None:
            self.lacp.fast, self.lacp.active = self.fast, self.active
            self.lacp.reconfigure()

    def _tick_later(self) -> None:
        self._ticker = self.maker.clock.call_at(self.maker.clock.now() + 1.0, self._tick)

    def _tick(self) -> None:
        if self.lacp is not None:
            self._tick_later()
            self.lacp.tick()

    def _transmit_lacpdu(self, port: LacpPort, pdu: lacp.Lacpdu) -> None:
        for each in self.ports.values():
            if each.lacp is port and each.ifp.if_drv_flags & IFF.RUNNING:
                each.ifp.transmit_mbuf(mbuf(lacp.encode(pdu, self.ifp.lladdr)))

    def _slow_protocol(self, port: LaggPort, m: Mbuf) -> None:
        """A LACPDU, or a marker, which is answered (5.5 of the standard)."""
        subtype = m[PKTHDR + 14] if len(m) > PKTHDR + 16 else 0
        if subtype == 1 and port.lacp is not None and self.lacp is not None:
            pdu = lacp.decode(m[PKTHDR:])
            if pdu is not None:
                if not port.lacp.enabled:
                    self.port_changed(port.ifp)  # the far end heard of the link first
                self.lacp.received(port.lacp, pdu)
        elif subtype == 2 and m[PKTHDR + 16] == 1:
            head = lacp.GROUP + port.ifp.lladdr + m[PKTHDR + 12 : PKTHDR + 16]
            port.ifp.transmit_mbuf(mbuf(head + b"\x02" + m[PKTHDR + 17 :]))

    # frames

    def leaves(self) -> int:
        """What every port's host may leave undone."""
        return functools.reduce(
            lambda accepts, port: accepts & port.ifp.if_softc.leaves(), self.ports.values(), ACCEPTS_ALL
        )

    def send(self, m: Mbuf) -> None:
        """Let a port transmit the frame, or several; with none that can it is an output error."""
        if self._usable and self._starts[self.proto](m):
            self.ifp.if_opackets += 1
        else:
            self.ifp.if_oerrors += 1

    @staticmethod
    def _out(port: LaggPort, m: Mbuf) -> bool:
        return not port.ifp.transmit_mbuf(m)

    def _failover(self, m: Mbuf) -> bool:
        return self._out(self._usable[0], m)

    def _roundrobin(self, m: Mbuf) -> bool:
        turn = self._sent // self.stride % len(self._usable)
        self._sent += 1
        return self._out(self._usable[turn], m)

    def _loadbalance(self, m: Mbuf) -> bool:
        if len(self._usable) == 1:
            return self._out(self._usable[0], m)
        return self._out(self._usable[flow_hash(m, self.hash, self._key) % len(self._usable)], m)

    def _broadcast(self, m: Mbuf) -> bool:
        sent = [self._out(port, m) for port in self._usable]
        return any(sent)

    def lagg_input(self, ifp: Ifnet, m: Mbuf) -> None:
        """Take a frame that came off a port's wire."""
        port = self.ports[ifp]
        if m[PKTHDR + 12 : PKTHDR + 14] == lacp.ETHERTYPE and m[PKTHDR : PKTHDR + 6] == lacp.GROUP:
            self._slow_protocol(port, m)
            return
        if self.proto == "lacp":
            if port.lacp is None or not port.lacp.collects:
                ifp.if_iqdrops += 1
                return
        elif self.proto == "none" or (
            self.proto == "failover" and self._usable and self._usable[0] is not port
        ):
            ifp.if_iqdrops += 1  # what a switch floods would be heard twice
            return
        self.input(m)

    # ioctls

    def command(self, cmd: str, data: Any) -> bool:
        """The ioctls of lagg(4) with a ``Laggreq``; an MTU for all ports."""
        if cmd == "SIOCSIFMTU":
            self._set_all_mtu(data.ifr_mtu)
            return True
        if cmd == "SIOCGIFMEDIA":
            data.ifr_data = {"media": "Ethernet autoselect", "active": bool(self._usable)}
            return True
        if cmd not in _COMMANDS:
            return False
        request = self.record(cmd, data, Laggreq)
        if cmd == "SIOCGLAGG":
            request.proto, request.hash = self.proto, self.hash
            request.fast, request.active, request.stride = self.fast, self.active, self.stride
            request.ports = [(p.ifp.if_xname, self.port_flags(p)) for p in self.ports.values()]
            return True
        self.ifp.kernel.priv_check(Priv.NET_LAGG)
        if cmd == "SIOCSLAGG":
            self.set_protocol(request.proto or "")
        elif cmd == "SIOCSLAGGHASH":
            self._set_hash(request.hash or ())
        elif cmd == "SIOCSLAGGOPTS":
            self.set_options(request.fast, request.active, request.stride)
        else:
            found = self.ifp.curvnet.ifunit(request.port)
            if found is None:
                raise OSError(errno.ENOENT, f"{self.ifp.if_xname}: there is no interface {request.port}")
            if cmd == "SIOCSLAGGPORT":
                self.add(found)
            else:
                self.remove(found)
        return True

    def _set_hash(self, layers: tuple[str, ...]) -> None:
        if not layers or not set(layers) <= set(HASHES):
            raise OSError(errno.EINVAL, f"{self.ifp.if_xname}: a hash is over some of {', '.join(HASHES)}")
        self.hash = tuple(layer for layer in HASHES if layer in layers)

    def _set_all_mtu(self, mtu: int) -> None:
        """Change the MTU of every port and the aggregate's; all keep theirs when one refuses."""
        before = self.ifp.if_mtu
        done: list[Ifnet] = []
        self.sets_mtu = True
        try:
            for ifp in self.ports:
                ifp.driver_ioctl("SIOCSIFMTU", Ifreq(ifp.if_xname, ifr_mtu=mtu))
                done.append(ifp)
            self._set_mtu(self.ifp, mtu)
        except OSError:
            for ifp in done:
                ifp.driver_ioctl_unheeded("SIOCSIFMTU", Ifreq(ifp.if_xname, ifr_mtu=before))
            raise
        finally:
            self.sets_mtu = False

    def port_flags(self, port: LaggPort) -> frozenset[str]:
        """``MASTER``, ``ACTIVE``, ``COLLECTING``, ``DISTRIBUTING`` as ifconfig shows them."""
        flags = set()
        if self.proto == "failover" and port.ifp is next(iter(self.ports), None):
            flags.add("MASTER")
        if port.lacp is not None:
            flags |= {"COLLECTING"} if port.lacp.collects else set()
            flags |= {"DISTRIBUTING"} if port.lacp.distributes else set()
        active = self._usable[:1] if self.proto == "failover" else self._usable
        if port in active:
            flags.add("ACTIVE")
        return frozenset(flags)


def _set_mac(ifp: Ifnet, mac: bytes) -> None:
    if ifp.lladdr and ifp.lladdr != mac:
        with contextlib.suppress(OSError):  # the interface is on its way out
            ifp.if_setlladdr(mac)
            ifp.if_softc.reprogram()
            ifp.kernel.events.invoke("iflladdr_event", ifp)


def _input(ifp: Ifnet, m: Mbuf) -> Mbuf | None:
    lagg: Lagg = ifp.if_lagg
    lagg.lagg_input(ifp, m)
    return None


def _linkstate(ifp: Ifnet, state: LinkState) -> None:
    ifp.if_lagg.port_changed(ifp)


def _message(message: Any) -> None:
    ifp = getattr(message, "ifp", None)
    if ifp is not None and ifp.if_lagg is not None:
        ifp.if_lagg.port_changed(ifp)


def _departed(ifp: Ifnet) -> None:
    if ifp.if_lagg is not None and is_leaving(ifp):
        ifp.if_lagg.remove(ifp, departing=True)


def _lladdr(ifp: Ifnet) -> None:
    if isinstance(ifp.if_softc, Lagg):
        ifp.if_softc.mac_changed()


def load(kernel: Kernel) -> None:
    """Fill in lagg's hooks."""
    kernel.hooks.lagg_input_p = _input
    kernel.hooks.lagg_linkstate_p = _linkstate
    kernel.events.register("ifnet_departure_event", _departed)
    kernel.events.register("iflladdr_event", _lladdr)
    kernel.rtsock.listen(_message)
