"""A switch (IEEE 802.1D, 802.1Q; bridge(4), FreeBSD's ``net/if_bridge.c``).

::

      host of bridge0         host of em0 (keeps its own frames)
            |                      |
        +---+----------------------+--------------------------+
        |  bridge0    fdb: who is where       spanning tree   |
        +---+-----------------+--------------------+----------+
           em0               em1                  em2            members
            |                 |                    |

A frame's way: span ports get a copy; BPDUs go to the spanning tree (``rstp.py``), other
frames to the reserved group addresses no further than the member's own host; what the
port's state forbids ends here; the VLAN is told; the source is learned (``fdb.py``); then
to the host, to the member that leads there, or to all.

VLANs: without ``vlanfilter`` tags pass untouched, and keep what is learned apart. With
it each member has one untagged VLAN (an access port; 0: none) and any number of tagged
ones (a trunk); frames of others are dropped, both ways. The bridge's own host gets and
sends its frames tagged, except those of the bridge's own ``untagged``.

Frames that come back into a bridge while it is still busy with one wait in a queue of
``BACKLOG``, so that a loop without spanning tree fills that instead of the machine.
"""

from __future__ import annotations

import contextlib
import errno
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from iflab.net import (
    ETHERTYPE_VLAN,
    IFF,
    IFT,
    PKTHDR,
    BpfSide,
    Ifnet,
    Kernel,
    LinkState,
    Mbuf,
    Priv,
    Timer,
    Vnet,
    bpf_mtap,
    ether_demux_local,
    ether_input,
    mbuf,
)
from iflab.net.rtsock import IfMessage, RoutingMessage

from . import bpdu
from .carp import VMAC
from .device import Device, Maker, is_leaving, stands_on
from .fdb import Entry, ForwardingTable
from .rstp import Bpdu, Role, Rstp, State, StpPort
from .tap import TapNic
from .vlan import tagged, untagged

__all__ = ["IFBIF", "Bridge", "Ifbreq", "Member", "check_vids", "load"]

BACKLOG = 512
"""Frames that wait while the bridge is busy."""
_AGAIN = 20e-6
"""Seconds after which it looks at them."""
_PRUNE = 300.0
"""Seconds between two looks for addresses that are too old (``BRIDGE_RTABLE_PRUNE_PERIOD``)."""
_COST = 20_000_000_000_000
"""Path cost of a link is this by its speed in bit/s (IEEE 802.1D-2004, table 17-3)."""

_DST, _SRC, _TYPE = slice(PKTHDR, PKTHDR + 6), slice(PKTHDR + 6, PKTHDR + 12), slice(PKTHDR + 12, PKTHDR + 14)
_TCI = slice(PKTHDR + 14, PKTHDR + 16)
_RESERVED = b"\x01\x80\xc2\x00\x00"
_ZERO = bytes(6)
_ONLY_BRIDGE = {"bridge"}


class IFBIF:
    """Flags of a member (``net/if_bridgevar.h``)."""

    LEARNING = 0x001
    DISCOVER = 0x002
    STP = 0x004
    SPAN = 0x008
    STICKY = 0x010
    EDGE = 0x020
    AUTOEDGE = 0x040
    PTP = 0x080
    AUTOPTP = 0x100
    PRIVATE = 0x800


_DEFAULT = IFBIF.LEARNING | IFBIF.DISCOVER | IFBIF.AUTOEDGE | IFBIF.AUTOPTP


@dataclass(slots=True)
class Ifbreq:
    """What ``SIOCSDRVSPEC`` and ``SIOCGDRVSPEC`` take in ``ifr_data``: a command of if_bridgevar.h and its data."""

    cmd: str
    """``"BRDGADD"``, ``"BRDGSIFFLGS"`` ..."""
    ifsname: str = ""
    value: Any = 0
    mac: bytes = b""
    vlan: int = 0
    answer: Any = None


@dataclass(slots=True, eq=False)
class Member:
    """An interface in a bridge (``struct bridge_iflist``).

    Counters: frames ``received`` and ``forwarded`` out of it, ``flooded`` of these to
    unknown or many, and ``dropped`` by cause.
    """

    ifp: Ifnet
    flags: int = _DEFAULT
    priority: int = 128
    path_cost: int = 0
    """As configured; 0: by the speed of the link."""
    addrmax: int = 0
    untagged: int = 0
    tagged: frozenset[int] = frozenset()
    stp: StpPort | None = None
    addrexceeded: int = 0
    received: int = 0
    forwarded: int = 0
    flooded: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The interface's."""
        return self.ifp.if_xname

    @property
    def cost(self) -> int:
        """The path cost in force."""
        return self.path_cost or min(200_000_000, max(1, _COST // max(1, self.ifp.if_baudrate)))

    @property
    def forwards(self) -> bool:
        """True unless the spanning tree forbids it."""
        return self.stp is None or self.stp.forwarding

    @property
    def number(self) -> int:
        """The port's, for the spanning tree and for people: the interface's index."""
        return self.ifp.if_index


class Bridge(Device):
    """``bridge0`` ...; ``members`` by interface, ``fdb`` what it learned, ``stp`` the spanning tree or None."""

    kind = "bridge"
    iftype = IFT.BRIDGE
    medium = None

    def __init__(self, maker: Maker) -> None:
        super().__init__(maker)
        self.members: dict[Ifnet, Member] = {}
        self.spans: dict[Ifnet, Member] = {}
        self.fdb: ForwardingTable[Member] = ForwardingTable()
        self.stp: Rstp | None = None
        self.priority = 32768
        self.hello, self.max_age, self.forward_delay, self.hold_count = 2, 20, 15, 6
        self.rstp = True
        self.vlanfilter = False
        self.untagged = 0
        """VLAN of what the bridge's own host sends untagged; 0: none."""
        self.overrun = 0
        """Frames lost because too many waited."""
        self._local: dict[bytes, Ifnet] = {}
        self._busy = False
        self._waiting: deque[tuple[Callable[[Ifnet, Mbuf], None], Ifnet, Mbuf]] = deque()
        self._again: Timer | None = None
        self._ticker: Timer | None = None
        self._pruner: Timer | None = None

    # coming and going

    def created(self, params: Any) -> None:
        """It has no link until a member has one."""
        self._find_local()
        self._prune()

    def if_detached(self, ifp: Ifnet) -> None:
        """Let all members go."""
        for member in [*self.members]:
            self.deletem(member)
        for span in [*self.spans]:
            self.delspan(span)
        for timer in (self._again, self._ticker, self._pruner):
            if timer is not None:
                timer.cancel()
        self._waiting.clear()
        super().if_detached(ifp)

    def if_reassign(self, ifp: Ifnet, new_vnet: Vnet) -> None:
        """Move to another vnet, and leave the members behind (``bridge_reassign``)."""
        super().if_reassign(ifp, new_vnet)
        for member in [*self.members]:
            self.deletem(member)
        self.spans.clear()

    def if_init(self, ifp: Ifnet) -> None:
        """Begin to forward, and to take part in the spanning tree."""
        super().if_init(ifp)
        self._enable_ports()

    def stop(self) -> None:
        """End that: what was learned is void, and no port speaks (``bridge_stop``)."""
        super().stop()
        self.fdb.flush()
        self._enable_ports()

    def _enable_ports(self) -> None:
        for member in self.members.values():
            if member.stp is not None and self.stp is not None:
                self.stp.port_enabled(member.stp, self._is_enabled(member.ifp))

    def _prune(self) -> None:
        clock = self.maker.clock
        self.fdb.prune(clock.now())
        self._pruner = clock.call_at(clock.now() + _PRUNE, self._prune)

    # members

    def addm(self, ifp: Ifnet, flags: int = _DEFAULT) -> Member:
        """Take an interface in, promiscuous from now on.

        Raises EEXIST for one that is a member already, EBUSY for one in another
        bridge and for a span port, EINVAL for one that is no Ethernet, is this
        bridge, or has another MTU than the members before.
        """
        own = self.ifp
        if ifp in self.members:
            raise OSError(errno.EEXIST, f"{own.if_xname}: {ifp.if_xname} is a member already")
        if ifp.if_bridge is not None or ifp in self.spans:
            raise OSError(errno.EBUSY, f"{own.if_xname}: {ifp.if_xname} is in a bridge already")
        if ifp is own or not self._can_be_member(ifp):
            raise OSError(
                errno.EINVAL, f"{own.if_xname}: {ifp.if_xname} cannot be a member: it is no Ethernet NIC"
            )
        if stands_on(ifp, own):
            raise OSError(errno.EINVAL, f"{own.if_xname}: {ifp.if_xname} stands on it")
        if not self.members:
            if ifp.if_mtu != own.if_mtu:
                self._set_mtu(own, ifp.if_mtu)
        elif ifp.if_mtu != own.if_mtu:
            raise OSError(
                errno.EINVAL,
                f"{own.if_xname}: {ifp.if_xname} has an MTU of {ifp.if_mtu}, the members have {own.if_mtu}; "
                "give it theirs",
            )
        ifp.ifpromisc(1)
        member = self.members[ifp] = Member(ifp, flags)
        ifp.if_bridge = self
        ifp.if_claim("bridge")
        self._find_local()
        self.linkcheck()
        if flags & IFBIF.STP:
            self._stp_member(member)
        return member

    def below(self) -> Iterable[Ifnet]:
        return self.members

    @staticmethod
    def _can_be_member(ifp: Ifnet) -> bool:
        return ifp.if_type in (IFT.ETHER, IFT.L2VLAN) and isinstance(ifp.if_softc, TapNic)

    def deletem(self, ifp: Ifnet) -> None:
        """Let a member go. Raises ENOENT for an interface that is none."""
        member = self.member(ifp)
        if member.stp is not None and self.stp is not None:
            self.stp.remove(member.stp)
            member.stp = None
        del self.members[ifp]
        ifp.if_bridge = None
        ifp.if_claim("bridge", False)
        self.fdb.flush(member, everything=True)
        with contextlib.suppress(OSError):  # a dead driver has no modes any more
            ifp.ifpromisc(0)
        self._find_local()
        self.linkcheck()

    def member(self, ifp: Ifnet | str) -> Member:
        """The member that an interface, or the one of that name, is. Raises ENOENT."""
        for each, member in self.members.items():
            if each is ifp or each.if_xname == ifp:
                return member
        name = ifp if isinstance(ifp, str) else ifp.if_xname
        raise OSError(errno.ENOENT, f"{self.ifp.if_xname}: {name} is no member of it")

    def addspan(self, ifp: Ifnet) -> None:
        """Send a copy of every frame out of an interface.

        Raises EBUSY for one that is in a bridge or a span port already, EINVAL for one that is no Ethernet.
        """
        if ifp in self.spans:
            raise OSError(errno.EBUSY, f"{self.ifp.if_xname}: {ifp.if_xname} is a span port already")
        if ifp.if_bridge is not None:
            raise OSError(errno.EBUSY, f"{self.ifp.if_xname}: {ifp.if_xname} is in a bridge")
        if not self._can_be_member(ifp):
            raise OSError(
                errno.EINVAL,
                f"{self.ifp.if_xname}: {ifp.if_xname} cannot be a span port: it is no Ethernet NIC",
            )
        self.spans[ifp] = Member(ifp, IFBIF.SPAN)

    def delspan(self, ifp: Ifnet) -> None:
        """End that. Raises ENOENT."""
        if self.spans.pop(ifp, None) is None:
            raise OSError(errno.ENOENT, f"{self.ifp.if_xname}: {ifp.if_xname} is no span port of it")

    def departed(self, ifp: Ifnet) -> None:
        """An interface is gone from here."""
        if ifp in self.members:
            self.deletem(ifp)
        self.spans.pop(ifp, None)

    def set_flags(self, member: Member, flags: int) -> None:
        """Give a member other flags: learning, discovery, stickiness, privacy, spanning tree."""
        changed = member.flags ^ flags
        member.flags = flags
        if changed & IFBIF.STP:
            self._stp_member(member)
        port = member.stp
        if port is not None and self.stp is not None:
            port.admin_edge = bool(flags & IFBIF.EDGE)
            port.auto_edge = bool(flags & IFBIF.AUTOEDGE)
            port.point_to_point = bool(flags & (IFBIF.PTP | IFBIF.AUTOPTP))
            if changed & IFBIF.EDGE:
                port.oper_edge = port.admin_edge
            self.stp.run()

    def set_vlans(
        self, member: Member, untagged: int | None = None, tagged: Iterable[int] | None = None
    ) -> None:
        """Give a member its VLANs. Raises EINVAL for a VID that cannot be."""
        if untagged is not None:
            check_vids(self.ifp, [untagged] if untagged else [])
            member.untagged = untagged
        if tagged is not None:
            vids = frozenset(tagged)
            check_vids(self.ifp, vids)
            member.tagged = vids
        self.fdb.flush(member)

    def _find_local(self) -> None:
        self._local = {ifp.lladdr: ifp for ifp in self.members}
        if self.ifp.lladdr:
            self._local[self.ifp.lladdr] = self.ifp

    def _local_at(self, mac: bytes) -> Ifnet | None:
        """The bridge, or the member, whose MAC that is, a virtual one of its carp included."""
        found = self._local.get(mac)
        forus = self.ifp.kernel.hooks.carp_forus_p
        if found is None and mac[:5] == VMAC and forus is not None:
            for ifp in (self.ifp, *self.members):
                if ifp.if_carp is not None and forus(ifp, mac):
                    return ifp
        return found

    # links

    def linkcheck(self) -> None:
        """The bridge has a link while a member has one."""
        up = any(ifp.if_link_state is LinkState.UP for ifp in self.members)
        if up != (self.ifp.if_link_state is LinkState.UP) and not self.ifp.if_flags & IFF.DYING:
            self.link_change(up)

    def member_changed(self, ifp: Ifnet) -> None:
        """A member's link, or its being up, changed (``bridge_linkstate``)."""
        member = self.members.get(ifp)
        if member is None:
            return
        up = self._is_enabled(ifp)
        if member.stp is not None and self.stp is not None:
            if up and not member.path_cost:
                member.stp.path_cost = member.cost
            self.stp.port_enabled(member.stp, up)
        if not up:
            self.fdb.flush(member)
        self.linkcheck()

    def _is_enabled(self, ifp: Ifnet) -> bool:
        return self._running and bool(ifp.if_flags & IFF.UP) and ifp.if_link_state is not LinkState.DOWN

    # the spanning tree

    def _stp_member(self, member: Member) -> None:
        """Let the spanning tree have a member, or take it back."""
        if not member.flags & IFBIF.STP:
            if member.stp is not None and self.stp is not None:
                self.stp.remove(member.stp)
            member.stp = None
            return
        if self.stp is None:
            bpdu.load_scapy()
            self.stp = Rstp(
                self.ifp.lladdr,
                self._transmit_bpdu,
                self._stp_state_changed,
                self._stp_flush,
                priority=self.priority,
                hello=self.hello,
                max_age=self.max_age,
                forward_delay=self.forward_delay,
                tx_hold_count=self.hold_count,
                rstp=self.rstp,
            )
            self._schedule_tick()
        port = member.stp = StpPort(
            member.name,
            member.number,
            member.priority,
            member.cost,
            admin_edge=bool(member.flags & IFBIF.EDGE),
            auto_edge=bool(member.flags & IFBIF.AUTOEDGE),
            point_to_point=bool(member.flags & (IFBIF.PTP | IFBIF.AUTOPTP)),
        )
        self.stp.add(port)
        self.stp.port_enabled(port, self._is_enabled(member.ifp))

    def _schedule_tick(self) -> None:
        self._ticker = self.maker.clock.call_at(self.maker.clock.now() + 1.0, self._tick)

    def _tick(self) -> None:
        self._schedule_tick()
        if self.stp is not None:
            self.stp.tick()

    def _of(self, port: StpPort) -> Member | None:
        return next((member for member in self.members.values() if member.stp is port), None)

    def _transmit_bpdu(self, port: StpPort, message: Bpdu) -> None:
        member = self._of(port)
        if member is not None and member.ifp.if_drv_flags & IFF.RUNNING:
            member.ifp.transmit_mbuf(mbuf(bpdu.encode(message, member.ifp.lladdr)))

    def _stp_state_changed(self, port: StpPort) -> None:
        self.ifp.kernel.console.log(
            "info", f"{self.ifp.if_xname}: {port.name} is {port.role.name.lower()}, {port.state.name.lower()}"
        )

    def _stp_flush(self, port: StpPort) -> None:
        member = self._of(port)
        if member is not None:
            self.fdb.flush(member)

    def reconfigure_stp(self, restart: bool = False) -> None:
        """Put priority, times and protocol into force."""
        stp = self.stp
        if stp is None:
            return
        stp.priority, stp.hello, stp.max_age = self.priority, self.hello, self.max_age
        stp.forward_delay, stp.tx_hold_count, stp.rstp = self.forward_delay, self.hold_count, self.rstp
        stp.mac = self.ifp.lladdr
        if restart:
            stp.restart()
            for member in self.members.values():
                self.member_changed(member.ifp)
        else:
            stp.reselect()

    def roles(self) -> dict[str, tuple[Role, State]]:
        """Role and state of every member in the spanning tree."""
        return {m.name: (m.stp.role, m.stp.state) for m in self.members.values() if m.stp is not None}

    # frames off a member's wire

    def input(self, m: Mbuf) -> None:
        """Hand a frame to the bridge's own host."""
        if self._running:
            self.ifp.if_input_mbuf(m)

    def bridge_input(self, ifp: Ifnet, m: Mbuf) -> Mbuf | None:
        """Take a frame that came off a member's wire; return it when it is (also) for the member's own host."""
        if not self._running:
            return m
        if self.ifp.if_flags & IFF.MONITOR:  # counted and seen, and no more
            if self.ifp.if_bpf:
                bpf_mtap(self.ifp, m, BpfSide.IN)
            self.ifp.if_ipackets += 1
            self.ifp.if_ibytes += len(m) - PKTHDR
            return None
        if self._busy:
            self._defer(self._input_late, ifp, m)
            return None
        self._busy = True
        try:
            return self._input(self.members[ifp], m)
        finally:
            self._busy = False

    def _input(self, member: Member, m: Mbuf) -> Mbuf | None:
        member.received += 1
        for span in self.spans:
            span.transmit_mbuf(m)
        group = m[PKTHDR] & 1
        if group and m[PKTHDR : PKTHDR + 5] == _RESERVED and m[PKTHDR + 5] < 0x10:
            if m[PKTHDR + 5] != 0:
                return m  # for the link only (IEEE 802.1D-2004, 7.12.6): LACP, LLDP, pause
            self._bpdu_received(member, m)
            return None
        port = member.stp
        if port is not None and not port.learning:
            member.dropped["discarding"] += 1
            return m if group or m[_DST] == member.ifp.lladdr else None
        vid, tci = 0, 0
        bare = m
        if m[_TYPE] == ETHERTYPE_VLAN:
            tci = int.from_bytes(m[_TCI], "big")
            vid = tci & 0xFFF
        if self.vlanfilter:
            if vid and vid not in member.tagged:
                member.dropped["vlan"] += 1
                return None
            if m[_TYPE] == ETHERTYPE_VLAN:
                bare = untagged(m)
            vid = vid or member.untagged
            if not vid:
                member.dropped["vlan"] += 1
                return None
        source = m[_SRC]
        if self._local_at(source) is not None:
            member.dropped["own source"] += 1
            return None
        now = self.maker.clock.now()
        if member.flags & IFBIF.LEARNING and not source[0] & 1 and source != _ZERO:
            sticky = bool(member.flags & IFBIF.STICKY)
            if not self.fdb.learn(source, vid, member, now, sticky, member.addrmax) and member.addrmax:
                member.addrexceeded += 1
                member.dropped["too many addresses"] += 1
                return None
        if port is not None and not port.forwarding:
            member.dropped["learning"] += 1
            return m if group or m[_DST] == member.ifp.lladdr else None
        ifp = self.ifp
        if ifp.if_bpf:
            bpf_mtap(ifp, m, BpfSide.WIRE)
        ifp.if_ipackets += 1
        ifp.if_ibytes += len(m) - PKTHDR
        if group:
            self._flood(member, bare, vid, tci, True)
            self._to_own_host(bare, vid, tci)
            return m
        local = self._local_at(m[_DST])
        if local is not None:
            if local is ifp:
                self._to_own_host(bare, vid, tci)
                return None
            if local is member.ifp:
                return m
            self._to_member_host(local, m)
            return None
        target = self.fdb.find(m[_DST], vid, now)
        if target is None:
            self._flood(member, bare, vid, tci, False)
        elif target is member:
            member.dropped["same port"] += 1
        elif target.flags & member.flags & IFBIF.PRIVATE:
            member.dropped["private"] += 1
        else:
            self._emit(target, bare, vid, tci)
        return None

    def _input_late(self, ifp: Ifnet, m: Mbuf) -> None:
        member = self.members.get(ifp)
        if member is not None and self._running:
            kept = self._input(member, m)
            if kept is not None:
                self._to_member_host(ifp, kept)

    @staticmethod
    def _to_member_host(ifp: Ifnet, m: Mbuf) -> None:
        passed = ether_demux_local(ifp, m)
        if passed is not None:
            ifp.stack.input(ifp, passed)

    def _to_own_host(self, m: Mbuf, vid: int, tci: int) -> None:
        if not self._running:
            return
        ifp = self.ifp
        if self.vlanfilter and vid != self.untagged:
            m = tagged(m, ETHERTYPE_VLAN + (tci & 0xF000 | vid).to_bytes(2, "big"))
        if m[PKTHDR] & 1:
            ifp.if_imcasts += 1
        if ifp.if_bpf:
            bpf_mtap(ifp, m, BpfSide.IN)
        passed = ether_input(ifp, m) if ifp.if_claims else m
        if passed is not None:
            ifp.stack.input(ifp, passed)

    def _bpdu_received(self, member: Member, m: Mbuf) -> None:
        message = bpdu.decode(m[PKTHDR:]) if member.stp is not None else None
        if message is None or member.stp is None or self.stp is None:
            member.dropped["bpdu"] += 1
            return
        if not member.stp.port_enabled:
            self.member_changed(member.ifp)  # the far end heard of the link first
        self.stp.received(member.stp, message)

    def _defer(self, fn: Callable[[Ifnet, Mbuf], None], ifp: Ifnet, m: Mbuf) -> None:
        if len(self._waiting) >= BACKLOG:
            self.overrun += 1
            return
        self._waiting.append((fn, ifp, m))
        if self._again is None:
            self._again = self.maker.clock.call_at(self.maker.clock.now() + _AGAIN, self._catch_up)

    def _catch_up(self) -> None:
        self._again = None
        self._busy = True
        try:
            for _ in range(len(self._waiting)):
                fn, ifp, m = self._waiting.popleft()
                fn(ifp, m)
        finally:
            self._busy = False
        if self._waiting and self._again is None:
            self._again = self.maker.clock.call_at(self.maker.clock.now() + _AGAIN, self._catch_up)

    # frames that pass together (iflab/drivers/express.py)

    def express(self, ifp: Ifnet, head: bytes) -> tuple[Member, Member] | None:
        """The members between which all frames with this Ethernet header pass, if nothing else is to be done with them."""
        member = self.members[ifp]
        if (
            not self._running
            or self._busy
            or self.spans
            or self.vlanfilter
            or head[0] & 1
            or head[12:] == ETHERTYPE_VLAN
            or not member.forwards
            or ifp.if_claims != _ONLY_BRIDGE
            or self.ifp.if_bpf
            or self.ifp.if_flags & IFF.MONITOR
            or self._local_at(head[:6]) is not None
        ):
            return None
        now = self.maker.clock.now()
        target = self.fdb.find(head[:6], 0, now)
        if (
            target is None
            or target is member
            or not self.fdb.hear(head[6:12], 0, member, now)
            or target.flags & member.flags & IFBIF.PRIVATE
            or not target.forwards
            or target.ifp.if_claims != _ONLY_BRIDGE
            or not target.ifp.if_drv_flags & IFF.RUNNING
        ):
            return None
        return member, target

    def carried(self, source: Member, target: Member, count: int, octets: int) -> None:
        """So many frames passed together."""
        source.received += count
        target.forwarded += count
        self.ifp.if_ipackets += count
        self.ifp.if_ibytes += octets
        target.ifp.if_opackets += count
        target.ifp.if_obytes += octets

    # frames from hosts

    def send(self, m: Mbuf) -> None:
        """The bridge's own host sends (``bridge_transmit``)."""
        self.ifp.if_opackets += 1
        self._from_host(self.ifp, m)

    def bridge_output(self, ifp: Ifnet, m: Mbuf) -> Mbuf | None:
        """A member's own host sends: by way of the bridge, if that runs."""
        if not self._running:
            return m
        self._from_host(ifp, m)
        return None

    def _from_host(self, ifp: Ifnet, m: Mbuf) -> None:
        if self._busy:
            self._defer(self._from_host_now, ifp, m)
            return
        self._busy = True
        try:
            self._from_host_now(ifp, m)
        finally:
            self._busy = False

    def _from_host_now(self, ifp: Ifnet, m: Mbuf) -> None:
        for span in self.spans:
            span.transmit_mbuf(m)
        member = self.members.get(ifp)
        vid, tci, bare = 0, 0, m
        if m[_TYPE] == ETHERTYPE_VLAN:
            tci = int.from_bytes(m[_TCI], "big")
            vid = tci & 0xFFF
        if self.vlanfilter:
            own = self.untagged if member is None else member.untagged
            if m[_TYPE] == ETHERTYPE_VLAN:
                bare = untagged(m)
            vid = vid or own
            if not vid or (member is not None and vid != own and vid not in member.tagged):
                return
        target = None if m[PKTHDR] & 1 else self.fdb.find(m[_DST], vid, self.maker.clock.now())
        if target is not None:
            self._emit(target, bare, vid, tci)
        else:
            self._flood(None, bare, vid, tci, bool(m[PKTHDR] & 1))

    # frames out

    def _emit(self, member: Member, m: Mbuf, vid: int, tci: int) -> bool:
        """Send a frame, without tag where VLANs are filtered, out of one member."""
        ifp = member.ifp
        if member.stp is not None and not member.stp.forwarding:
            member.dropped["discarding"] += 1
            return False
        if not ifp.if_drv_flags & IFF.RUNNING or ifp.if_link_state is LinkState.DOWN:
            member.dropped["down"] += 1
            return False
        if self.vlanfilter and vid != member.untagged:
            if vid not in member.tagged:
                member.dropped["vlan"] += 1
                return False
            m = tagged(m, ETHERTYPE_VLAN + (tci & 0xF000 | vid).to_bytes(2, "big"))
        if ifp.transmit_mbuf(m):
            member.dropped["queue"] += 1
            return False
        member.forwarded += 1
        return True

    def _flood(self, source: Member | None, m: Mbuf, vid: int, tci: int, group: bool) -> None:
        """Send a frame out of every member that may have it, but not back."""
        private = source is not None and source.flags & IFBIF.PRIVATE
        for member in list(self.members.values()):
            if member is source or (private and member.flags & IFBIF.PRIVATE):
                continue
            if not group and not member.flags & IFBIF.DISCOVER:
                continue
            if self.vlanfilter and vid != member.untagged and vid not in member.tagged:
                continue
            if member.forwards and self._emit(member, m, vid, tci):
                member.flooded += 1

    # ioctls

    def command(self, cmd: str, data: Any) -> bool:
        """``SIOCSDRVSPEC`` and ``SIOCGDRVSPEC`` with an ``Ifbreq``; the members' MTU only; a MAC of its own."""
        if cmd in ("SIOCSDRVSPEC", "SIOCGDRVSPEC"):
            request = self.record(cmd, data, Ifbreq)
            entry = _COMMANDS.get(request.cmd)
            if entry is None or entry[0] != (cmd == "SIOCSDRVSPEC"):
                raise OSError(errno.EINVAL, f"{self.ifp.if_xname}: {request.cmd} is no command of {cmd}")
            if entry[0]:
                self.ifp.kernel.priv_check(Priv.NET_BRIDGE)
            entry[1](self, request)
            return True
        if cmd == "SIOCSIFMTU" and any(ifp.if_mtu != data.ifr_mtu for ifp in self.members):
            raise OSError(
                errno.EINVAL,
                f"{self.ifp.if_xname}: the members have an MTU of {self.ifp.if_mtu}; take them out, or change theirs",
            )
        return False

    def mac_changed(self, ifp: Ifnet) -> None:
        """The bridge, or a member, has another MAC."""
        self._find_local()
        if ifp is self.ifp:
            self.reconfigure_stp(restart=True)

    def find_unit(self, name: str) -> Ifnet:
        """The interface of that name in the bridge's vnet. Raises ENOENT."""
        found = self.ifp.curvnet.ifunit(name)
        if found is None:
            raise OSError(errno.ENOENT, f"{self.ifp.if_xname}: there is no interface {name}")
        return found

    def addresses(self) -> list[Entry[Member]]:
        """What it learned, or was told."""
        self.fdb.prune(self.maker.clock.now())
        return list(self.fdb)


def check_vids(ifp: Ifnet, vids: Iterable[int]) -> None:
    """Raise EINVAL, in the name of the bridge ``ifp``, for a VID that cannot be."""
    for vid in vids:
        if not isinstance(vid, int) or not 1 <= vid <= 4094:
            raise OSError(errno.EINVAL, f"{ifp.if_xname}: a VLAN is 1 to 4094, not {vid!r}")


# the commands of if_bridgevar.h


def _bounded(bridge: Bridge, request: Ifbreq, what: str, least: int, most: int) -> int:
    value = int(request.value)
    if not least <= value <= most:
        raise OSError(errno.EINVAL, f"{bridge.ifp.if_xname}: {what} is {least} to {most}, not {value}")
    return value


def _set_priority(bridge: Bridge, request: Ifbreq) -> None:
    value = _bounded(bridge, request, "a bridge's priority", 0, 61440)
    if value % 4096:
        raise OSError(
            errno.EINVAL, f"{bridge.ifp.if_xname}: a bridge's priority is a multiple of 4096, not {value}"
        )
    bridge.priority = value
    bridge.reconfigure_stp()


def _set_time(attribute: str, what: str, least: int, most: int) -> Callable[[Bridge, Ifbreq], None]:
    def act(bridge: Bridge, request: Ifbreq) -> None:
        value = _bounded(bridge, request, what, least, most)
        times = {name: getattr(bridge, name) for name in ("hello", "max_age", "forward_delay")}
        times |= {attribute: value} if attribute in times else {}
        if not 2 * (times["hello"] + 1) <= times["max_age"] <= 2 * (times["forward_delay"] - 1):
            raise OSError(
                errno.EINVAL,
                f"{bridge.ifp.if_xname}: 2 (hellotime + 1) <= maxage <= 2 (fwddelay - 1) must hold "
                "(IEEE 802.1D-2004, 17.14)",
            )
        setattr(bridge, attribute, value)
        bridge.reconfigure_stp()

    return act


def _set_protocol(bridge: Bridge, request: Ifbreq) -> None:
    if request.value not in ("stp", "rstp"):
        raise OSError(
            errno.EINVAL, f"{bridge.ifp.if_xname}: the protocol is stp or rstp, not {request.value!r}"
        )
    bridge.rstp = request.value == "rstp"
    bridge.reconfigure_stp(restart=True)


def _set_member_priority(bridge: Bridge, request: Ifbreq) -> None:
    member = bridge.member(request.ifsname)
    value = _bounded(bridge, request, "a port's priority", 0, 240)
    if value % 16:
        raise OSError(
            errno.EINVAL, f"{bridge.ifp.if_xname}: a port's priority is a multiple of 16, not {value}"
        )
    member.priority = value
    if member.stp is not None:
        member.stp.priority = value
        bridge.reconfigure_stp()


def _set_member_cost(bridge: Bridge, request: Ifbreq) -> None:
    member = bridge.member(request.ifsname)
    member.path_cost = _bounded(bridge, request, "a path cost", 0, 200_000_000)
    if member.stp is not None:
        member.stp.path_cost = member.cost
        bridge.reconfigure_stp()


def _set_flags(bridge: Bridge, request: Ifbreq) -> None:
    member = bridge.member(request.ifsname)
    bridge.set_flags(member, int(request.value) | member.flags & IFBIF.SPAN)


def _add(bridge: Bridge, request: Ifbreq) -> None:
    bridge.addm(bridge.find_unit(request.ifsname))


def _delete(bridge: Bridge, request: Ifbreq) -> None:
    bridge.deletem(bridge.member(request.ifsname).ifp)


def _add_span(bridge: Bridge, request: Ifbreq) -> None:
    bridge.addspan(bridge.find_unit(request.ifsname))


def _delete_span(bridge: Bridge, request: Ifbreq) -> None:
    bridge.delspan(bridge.find_unit(request.ifsname))


def _set_addrmax(bridge: Bridge, request: Ifbreq) -> None:
    bridge.member(request.ifsname).addrmax = _bounded(bridge, request, "ifmaxaddr", 0, 2**31)


def _set_cache(bridge: Bridge, request: Ifbreq) -> None:
    bridge.fdb.maxaddr = _bounded(bridge, request, "maxaddr", 0, 2**31)


def _set_timeout(bridge: Bridge, request: Ifbreq) -> None:
    bridge.fdb.timeout = float(_bounded(bridge, request, "timeout", 0, 2**31))


def _set_address(bridge: Bridge, request: Ifbreq) -> None:
    member = bridge.member(request.ifsname)
    if len(request.mac) != 6 or request.mac[0] & 1:
        raise OSError(errno.EINVAL, f"{bridge.ifp.if_xname}: {request.mac.hex(':')} is no station's MAC")
    bridge.fdb.set_static(request.mac, request.vlan, member, bridge.maker.clock.now())


def _delete_address(bridge: Bridge, request: Ifbreq) -> None:
    if not bridge.fdb.delete(request.mac, request.vlan):
        raise OSError(errno.ENOENT, f"{bridge.ifp.if_xname}: {request.mac.hex(':')} is not in the table")


def _flush(bridge: Bridge, request: Ifbreq) -> None:
    bridge.fdb.flush(everything=bool(request.value))


def _set_vlanfilter(bridge: Bridge, request: Ifbreq) -> None:
    bridge.vlanfilter = bool(request.value)
    bridge.fdb.flush()


def _set_untagged(bridge: Bridge, request: Ifbreq) -> None:
    if request.ifsname == bridge.ifp.if_xname:
        check_vids(bridge.ifp, [request.value] if request.value else [])
        bridge.untagged = request.value
    else:
        bridge.set_vlans(bridge.member(request.ifsname), untagged=request.value)


def _set_tagged(bridge: Bridge, request: Ifbreq) -> None:
    bridge.set_vlans(bridge.member(request.ifsname), tagged=request.value)


def _get_members(bridge: Bridge, request: Ifbreq) -> None:
    request.answer = [*bridge.members.values(), *bridge.spans.values()]


def _get_addresses(bridge: Bridge, request: Ifbreq) -> None:
    request.answer = bridge.addresses()


def _get_flags(bridge: Bridge, request: Ifbreq) -> None:
    request.answer = bridge.member(request.ifsname).flags


_COMMANDS: dict[str, tuple[bool, Callable[[Bridge, Ifbreq], None]]] = {
    "BRDGADD": (True, _add),
    "BRDGDEL": (True, _delete),
    "BRDGADDS": (True, _add_span),
    "BRDGDELS": (True, _delete_span),
    "BRDGSIFFLGS": (True, _set_flags),
    "BRDGGIFFLGS": (False, _get_flags),
    "BRDGGIFS": (False, _get_members),
    "BRDGRTS": (False, _get_addresses),
    "BRDGSCACHE": (True, _set_cache),
    "BRDGSTO": (True, _set_timeout),
    "BRDGSADDR": (True, _set_address),
    "BRDGDADDR": (True, _delete_address),
    "BRDGFLUSH": (True, _flush),
    "BRDGSPRI": (True, _set_priority),
    "BRDGSHT": (True, _set_time("hello", "hellotime", 1, 2)),
    "BRDGSFD": (True, _set_time("forward_delay", "fwddelay", 4, 30)),
    "BRDGSMA": (True, _set_time("max_age", "maxage", 6, 40)),
    "BRDGSTXHC": (True, _set_time("hold_count", "holdcnt", 1, 10)),
    "BRDGSPROTO": (True, _set_protocol),
    "BRDGSIFPRIO": (True, _set_member_priority),
    "BRDGSIFCOST": (True, _set_member_cost),
    "BRDGSIFAMAX": (True, _set_addrmax),
    "BRDGSVLANFILTER": (True, _set_vlanfilter),
    "BRDGSIFUNTAGGED": (True, _set_untagged),
    "BRDGSIFTAGGED": (True, _set_tagged),
}
"""Whether a command changes something, and what it does."""


# hooks


def _hook_input(ifp: Ifnet, m: Mbuf) -> Mbuf | None:
    bridge: Bridge = ifp.if_bridge
    return bridge.bridge_input(ifp, m)


def _hook_output(ifp: Ifnet, m: Mbuf) -> Mbuf | None:
    bridge: Bridge = ifp.if_bridge
    return bridge.bridge_output(ifp, m)


def _hook_linkstate(ifp: Ifnet) -> None:
    bridge: Bridge = ifp.if_bridge
    bridge.member_changed(ifp)


def _departed(ifp: Ifnet) -> None:
    if not is_leaving(ifp):
        return
    if ifp.if_bridge is not None:
        ifp.if_bridge.departed(ifp)
    for bridge in _bridges(ifp):
        bridge.departed(ifp)


def _bridges(ifp: Ifnet) -> list[Bridge]:
    vnet = ifp.if_vnet
    if vnet is None:
        return []
    return [each.if_softc for each in vnet.ifnets() if isinstance(each.if_softc, Bridge)]


def _lladdr(ifp: Ifnet) -> None:
    if ifp.if_bridge is not None:
        ifp.if_bridge.mac_changed(ifp)
    elif isinstance(ifp.if_softc, Bridge):
        ifp.if_softc.mac_changed(ifp)


def _message(message: RoutingMessage) -> None:
    if isinstance(message, IfMessage) and message.ifp.if_bridge is not None:
        message.ifp.if_bridge.member_changed(message.ifp)


def load(kernel: Kernel) -> None:
    """Fill in bridge's hooks."""
    kernel.hooks.bridge_input_p = _hook_input
    kernel.hooks.bridge_output_p = _hook_output
    kernel.hooks.bridge_linkstate_p = _hook_linkstate
    kernel.events.register("ifnet_departure_event", _departed)
    kernel.events.register("iflladdr_event", _lladdr)
    kernel.rtsock.listen(_message)
