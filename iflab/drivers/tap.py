"""The NIC: an ifnet whose host is a network namespace of Linux, over a TAP device.

::

      Linux            netdev em0 (TAP)
         |  frames through the fd  ^
         v                         |
      if_transmit              if_input
         v                         ^
      if_snd -> if_start       hardware filter
         v                         |
      end.send  -------- wire ---- receive

That way costs a dozen calls a frame. Where nothing is in it, ``_express`` carries
all frames that waited together from one NIC's TAP to the other's in one call, and
counts the same. For frames that come one by one even to look whether something is in
it would take longer than to carry them, and super-frames are carried fastest while
they are still in the processor's cache, so for these the way is remembered until the
lab changes: a ``_Lane``.

What the host leaves to the chip (checksums, cutting super-frames) is left undone
as long as the receiver accepts it so: between two NICs on a plain cable. Where
something in between must see wire-sized frames the kernel is told not to leave it
(TUNSETOFFLOAD), and what it had left before is done here (``finish``).
``if_capenable`` says what the NIC may do, not what it is asked to do at the moment.

What the ifnet says is put into force here: flags, MTU, MAC, promiscuous and
all-multicast mode and the multicast list go to the netdev, and make the filter.
The link is there when a wire with somebody at its other end is plugged in.

What others change about the netdev comes in through ``iflab/stack.py``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from operator import itemgetter
from resource import RUSAGE_THREAD, getrusage
from typing import Any, Protocol

from iflab.linux import Netns, Tap
from iflab.linux.aio import write_together
from iflab.linux.tap import TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6
from iflab.net import (
    ACCEPTS_ALL,
    ACCEPTS_CSUM,
    ACCEPTS_GSO,
    FRAME_MIN,
    IFCAP,
    IFF,
    IFT,
    PKTHDR,
    AddressFamily,
    BpfSide,
    Driver,
    Ifnet,
    LinkState,
    Mbuf,
    OffloadError,
    Sockaddr,
    SockaddrDl,
    Vnet,
    bpf_ifdetach,
    bpf_mtap,
    ether_ifattach,
    ether_output,
    ether_resolvemulti,
    finish,
    is_multicast,
    is_unfinished,
    report,
)
from iflab.net.giant import Giant
from iflab.net.ifaddr import Ifaddr
from iflab.wire import End, Flow, Port

__all__ = ["Loop", "TapNic"]

_log = logging.getLogger("iflab.drivers")

READ_SIZE = 65536 + 32
"""Octets of the longest thing that a TAP hands out: a super-frame with its header."""

BUDGET = 512 * 1024
"""What is taken from one TAP before the others have their turn, in octets, where each frame counts as ..."""

FRAME_WEIGHT = 8192
"""... so many more than it has: some 60 small frames, or 7 of 64 KiB."""

LEISURE = 4
"""So many times the budget when nobody else waits: who has longer turns is woken, and wakes others, less often."""

LONG = 16384
"""Octets from which on frames are carried one by one even when there are more ..."""

TRAIN = 64
"""... up to so many, when nobody else waits."""

TOGETHER = 8
"""Frames from which on they may be written in one system call."""

_LOOK_EVERY = 8
"""Times that frames are written one by one until it is looked at again what that does."""

_STAY = 1024
"""Times that frames are written together, before one by one is tried again."""

_MOST_HOPS = 8
"""Bridges that frames pass together."""

_MOST_ANSWERS = 16
"""Frames to and fro before the others have their turn."""

STALE_FOR = 0.1
"""Seconds for which frames may still come out that were queued before the kernel was told to finish them."""

BROADCAST = b"\xff" * 6
MEDIA = "Ethernet 10Gbase-T <full-duplex>"
"""The only one there is, in ifconfig's words."""

# Linux's numbers for the flags that both sides have.
_LINUX_UP, _LINUX_NOARP, _LINUX_PROMISC, _LINUX_ALLMULTI = 0x1, 0x80, 0x100, 0x200
_SIOCADDMULTI, _SIOCDELMULTI = 0x8931, 0x8932
_OF_GROUPS = ("SIOCADDMULTI", "SIOCDELMULTI")


class Loop(Protocol):
    """What a NIC needs of the engine."""

    rounds: int
    """Rises each time that it calls."""
    unhurried: bool
    """Hardly anybody else waits for it."""

    def add_reader(self, fd: int, fn: Callable[[], None], *, frames: bool = False) -> None:
        """Call ``fn``, with the lab's lock held, whenever ``fd`` is readable; ``frames``: it changes nothing else."""

    def remove_reader(self, fd: int) -> None:
        """Stop that."""


_IPV4 = b"\x08\x00"
_head: Callable[[Mbuf], bytes] = itemgetter(slice(PKTHDR, PKTHDR + 14))
_ipv4_pair: Callable[[Mbuf], bytes] = itemgetter(slice(36, 44))


_Way = tuple[list[End], list[tuple["TapNic", tuple[Any, Any]]], "TapNic"]
"""The ends that frames pass, the bridges between them, and the NIC that gets them."""


def _in_common(frames: list[Mbuf]) -> tuple[bytes, bytes, int]:
    """The Ethernet header that all frames share, their IPv4 source and destination, and their octets.

    Header and addresses are empty where frames differ, or are not IPv4. The loops
    run inside the interpreter.
    """
    if len(frames) == 1:
        (m,) = frames
        head, octets = m[PKTHDR : PKTHDR + 14], len(m) - PKTHDR
        return head if octets >= 14 else b"", m[36:44] if head[12:] == _IPV4 else b"", octets
    octets = sum(map(len, frames)) - PKTHDR * len(frames)
    heads = set(map(_head, frames))
    head = heads.pop()
    if heads or len(head) != 14:
        return b"", b"", octets
    pairs = set(map(_ipv4_pair, frames)) if head[12:] == _IPV4 else set()
    return head, pairs.pop() if len(pairs) == 1 else b"", octets


class _Lane:
    """The straight way of the IPv4 frames of one pair of addresses, remembered by the NIC that sends them.

    As long as nobody took the lab's lock it is as it was: between two NICs on a wire
    with nothing in between.
    """

    __slots__ = ("flags", "flow", "giant", "head", "ifp", "pair", "peer", "sent_from", "sent_to", "turns")

    giant: Giant
    turns: int
    """The lock's, when it was found."""
    ifp: Ifnet
    flags: int
    """The driver's flags then, which drivers change without a call."""
    head: bytes
    pair: bytes
    peer: TapNic
    flow: Flow
    sent_from: Ifaddr | None
    sent_to: Ifaddr | None

    @classmethod
    def along(cls, nic: TapNic, way: _Way, head: bytes, pair: bytes) -> _Lane | None:
        """Remember ``way``; None where somebody on it wants to see each frame."""
        (end, *more), _, peer = way
        if more or end.gate is not None or end.listeners:
            return None
        lane = cls()
        lane.ifp, lane.peer, lane.flow, lane.head, lane.pair = nic.ifp, peer, end.flow, head, pair
        lane.giant = nic.ifp.kernel.giant
        lane.turns = lane.giant.turns
        lane.flags = nic.ifp.if_drv_flags
        lane.sent_from = nic.ifp.if_addrhead.with_octets(pair[:4])
        lane.sent_to = peer.ifp.if_addrhead.with_octets(pair[4:])
        return lane

    def leads(self, m: Mbuf) -> bool:
        """True when ``m`` goes this way."""
        return (
            self.turns == self.giant.turns
            and m[PKTHDR : PKTHDR + 14] == self.head
            and m[36:44] == self.pair
            and self.ifp.if_drv_flags == self.flags
        )

    def carry(self, nic: TapNic, m: Mbuf, more: int = 0) -> None:
        """Do with one frame of ``nic`` what ``_express`` would, and then with those that come at once.

        These are ``more`` of the same NIC, or what its receiver answers.
        """
        lane, train = self, more
        for left in reversed(range(more + 1 if train else _MOST_ANSWERS)):
            ifp, peer, flow, octets = lane.ifp, lane.peer, lane.flow, len(m) - PKTHDR
            nic.taken += 1
            ifp.if_opackets += 1
            ifp.if_obytes += octets
            if (ifa := lane.sent_from) is not None:
                ifa.ifa_opackets += 1
                ifa.ifa_obytes += octets - 14
            flow.sent += 1
            flow.octets += octets
            flow.delivered += 1
            ifp = peer.ifp
            ifp.if_ipackets += 1
            ifp.if_ibytes += octets
            if (ifa := lane.sent_to) is not None:
                ifa.ifa_ipackets += 1
                ifa.ifa_ibytes += octets - 14
            try:
                os.write(peer.tap.fd, m)
            except OSError as error:
                peer._write_failed(error)
            if not left:
                return
            if not train:
                if not peer._answers or peer._lane is None:
                    return
                nic, lane = peer, peer._lane
            del m  # so the next one finds the same memory, which the processor has at hand
            try:
                m = os.read(nic.tap.fd, READ_SIZE)
            except OSError:  # the loop will see what else it may be
                nic._answers = False
                if left == train:
                    nic._appetite = 1
                return
            if not lane.leads(m):
                nic.taken += 1
                nic._express([m])
                return


_CAPABILITIES = (
    IFCAP.RXCSUM
    | IFCAP.TXCSUM
    | IFCAP.VLAN_MTU
    | IFCAP.JUMBO_MTU
    | IFCAP.TSO4
    | IFCAP.TSO6
    | IFCAP.LRO
    | IFCAP.LINKSTATE
    | IFCAP.RXCSUM_IPV6
    | IFCAP.TXCSUM_IPV6
)


_CAPABILITY_OF = {
    TUN_F_CSUM: IFCAP.TXCSUM | IFCAP.TXCSUM_IPV6,
    TUN_F_TSO4: IFCAP.TSO4,
    TUN_F_TSO6: IFCAP.TSO6,
}
"""What ``if_capenable`` calls that which the kernel may leave to us."""


def listeners_change(ifp: Ifnet) -> None:
    """Somebody began or ended to listen on ``ifp``: a NIC finishes its frames meanwhile."""
    if isinstance(ifp.if_softc, TapNic):
        ifp.if_softc.listeners_change()


class TapNic(Driver):
    """An Ethernet NIC. One object is one NIC; ``attach`` makes device and ifnet.

    It is its wire's ``Port``: ``send`` puts a frame on the wire, ``receive`` takes
    one off it. All functions run with the lab's lock held.

    ``filtered`` counts frames that the hardware filter kept from the host, ``taken``
    what the host sent, ``pieces`` what became more by cutting, ``refused`` what the
    kernel did not take after all, which is an input error or queue drop, too. With
    these every frame is accounted for: off the wire came ``if_ipackets + if_iqdrops +
    if_ierrors + filtered - refused``, unless a device on top counts an error of its own.
    """

    iftype: IFT = IFT.ETHER
    capabilities = _CAPABILITIES
    medium: str | None = MEDIA
    """What ``SIOCGIFMEDIA`` answers; None: there is none."""
    has_plug = True
    """It can be plugged into a wire."""

    _sends_itself = _receives_itself = False
    """A derived class has its own way for frames, out or in: it gets them one by one, and finished."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)

        def derived(*names: str) -> bool:
            return any(getattr(cls, name) is not getattr(TapNic, name) for name in names)

        cls._sends_itself = derived("if_start", "send")
        cls._receives_itself = derived("receive", "accepts", "to_host")

    def __init__(self) -> None:
        self.name = "unattached NIC"
        self.end: End | None = None
        self.filtered = 0
        self.taken = 0
        self.pieces = 0
        self.refused = 0
        self.closer: Callable[[Tap], None] = Tap.close
        """How the device is closed; a lab closes many at once, because each takes 20 ms."""
        self.on_group_miss: Callable[[Ifnet, bytes], bool] | None = None
        """Asked when a multicast frame misses the filter: were there groups we did not know of?"""
        self.on_groups: Callable[[Ifnet], None] | None = None
        """Told when the ifnet's multicast list changed."""
        self.on_change: Callable[[Ifnet], None] | None = None
        """Told when the ifnet changed something else here."""
        self.own_group: Callable[[Ifnet], int] | None = None
        """Tells by the ifnet's groups what number the netdev's group should have."""
        self.netdev_group = 0
        """The number of the netdev's group (``ip link show group``)."""
        self.netdev_flags = 0
        """The netdev's flags (Linux's bits) as last set or seen."""
        self.netdev_mtu = 0
        self.operstate = "DOWN"
        """The netdev's operational state as last heard (RFC 2863): ``"UP"`` once the kernel sends through it."""
        self.kernel_promisc = False
        """One reference of ``if_pcount`` is held for a program of the host that sniffs."""
        self.following = False
        """The ifnet is just following its netdev: nothing of it is asked of the kernel."""
        self.kernel_allmulti = False
        """The same of ``if_amcount``, for programs or for whoever set the flag from the Linux side."""
        self.ifp: Ifnet
        self.tap: Tap
        self.netns: Netns
        self._loop: Loop
        self._mac = b""
        self._groups: set[bytes] = set()
        self._accepts_all = False
        self._accepts_groups = False
        self._running = False
        self._pushed: set[bytes] = set()
        self._offload = 0
        """What the kernel may leave to us (``TUN_F_*``)."""
        self._asked = 0
        """What of it the host was last seen to leave: less, where ``ethtool -K`` says so."""
        self._stale_until = 0.0
        self._appetite = 1
        """Frames to take when there are more in the loop's next round: twice as many as there were, for to find out
        that no more wait costs as much as a frame."""
        self._round = 0
        """The loop's round after the last in which there were frames."""
        self._lane: _Lane | None = None
        self._answers = False
        """Its host was seen to answer at once."""
        self._together = False
        """Frames for its host are best written in one system call: one by one, each wakes a program that runs first."""
        self._writes = 0
        """Times that many frames are still written in this way, until that is looked at."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # coming and going

    def attach(
        self,
        vnet: Vnet,
        netns: Netns | None,
        loop: Loop | None,
        name: str,
        mac: bytes,
        mtu: int = 1500,
    ) -> Ifnet:
        """Make the device ``name`` in ``netns`` and its ifnet in ``vnet``; return the ifnet, down.

        With neither namespace nor loop there is no device, and no Linux above: a
        NIC of a switch. Raises as ``Tap.create`` and ``if_attach`` do; nothing is
        left behind then.
        """
        tap = Tap.create(netns, name, mac=mac) if netns is not None else Tap(-1, name, 0)
        try:
            ifp = vnet.if_alloc(IFT.ETHER)
        except BaseException:
            tap.close()
            raise
        self.tap, self.ifp, self._mac = tap, ifp, mac
        if netns is not None and loop is not None:
            self.netns, self._loop = netns, loop
        ifp.if_type = self.iftype
        stem = name.rstrip("0123456789")
        if stem and stem != name and str(int(name[len(stem) :])) == name[len(stem) :]:
            ifp.if_initname(stem, int(name[len(stem) :]))
        else:
            ifp.if_initname(name)
        self.name = f"{vnet.name}:{name}"
        ifp.if_flags = IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST
        ifp.if_mtu = self.netdev_mtu = 1500
        ifp.if_capabilities = ifp.if_capenable = self.capabilities
        ifp.if_link_state = LinkState.DOWN
        ifp.if_baudrate = 10_000_000_000
        ifp.if_driver = self
        ifp.if_softc = self
        try:
            self.prepare(ifp)
            if mtu != 1500:
                self._set_mtu(ifp, mtu)
            ether_ifattach(ifp, mac)
        except BaseException:
            ifp.if_free()
            tap.close()
            raise
        self._program()
        if loop is not None and tap.fd >= 0:
            loop.add_reader(tap.fd, self._readable, frames=True)
        return ifp

    def prepare(self, ifp: Ifnet) -> None:
        """Set what the attachment announces; for derived classes."""

    def if_detached(self, ifp: Ifnet) -> None:
        """The interface is gone: pull the plug and close the device."""
        bpf_ifdetach(ifp)
        if self.end is not None:
            self.end.wire.unplug(self)
        if self.tap.fd >= 0:
            self._loop.remove_reader(self.tap.fd)
            self.closer(self.tap)
        self._running = False

    def if_reassign(self, ifp: Ifnet, new_vnet: Vnet) -> None:
        """Move the device into the namespace of ``new_vnet``; fd, wire and MAC stay."""
        netns = getattr(new_vnet.stack, "netns", None)
        if self.tap.fd < 0 and netns is None:
            self.name = f"{new_vnet.name}:{ifp.if_xname}"
            return
        if not isinstance(netns, Netns) or self.tap.fd < 0:
            raise OSError(
                errno.ENODEV,
                f"{self.name}: this NIC and the vnet {new_vnet.name} do not fit: only one of them has a network namespace",
            )
        if self.netns is netns:
            return  # it was moved from the Linux side
        self._netdev(netns=netns)
        self.arrived(netns, new_vnet)

    def arrived(self, netns: Netns, vnet: Vnet) -> None:
        """The device is in ``netns`` now, down. Raises ENODEV, and nothing is changed, when it has moved on."""
        self.tap.look_up(netns)
        self.netns = netns
        self._pushed = set()  # a netdev that moves leaves its multicast list behind
        self.name = f"{vnet.name}:{self.ifp.if_xname}"
        self.netdev_flags &= ~_LINUX_UP

    # frames out: the host sent them

    def _readable(self) -> None:
        """Take what the host sends, up to the budget, and pass it on together."""
        fd, read = self.tap.fd, os.read
        frames: list[Mbuf] = []
        take = frames.append
        settled = False
        loop = self._loop
        now = loop.rounds
        appetite = self._appetite if self._round == now else 1
        if self._stale_until:
            appetite = max(2, appetite)  # to find out when no more wait
        self._round = now + 1
        try:
            m = read(fd, READ_SIZE)
            lane = self._lane
            if lane is not None and appetite == 1 and lane.leads(m):
                self._appetite = 2
                if lane.peer._round == now:
                    self._answers = True
                lane.carry(self, m)
                return
            budget, train = (BUDGET * LEISURE, TRAIN) if loop.unhurried else (BUDGET, TRAIN // 8)
            if lane is not None and len(m) >= LONG and not self._stale_until and lane.leads(m):
                self._appetite = 2
                lane.carry(self, m, train)
                return
            take(m)
            for _ in range(appetite - 1):
                take(read(fd, READ_SIZE))
            self._appetite = min(2 * appetite, budget // (len(frames[-1]) + FRAME_WEIGHT))
        except BlockingIOError:
            self._appetite = max(1, len(frames))
            settled = bool(self._stale_until) and time.monotonic() > self._stale_until
        except OSError as error:
            if error.errno not in (errno.EBADFD, errno.EIO):
                _log.error("%s: the kernel gives no frame: %s", self.name, error)
            self._loop.remove_reader(fd)  # the device was deleted under us
        if frames:
            self.taken += len(frames)
            self._express(frames)
        if settled:  # all that was queued before is through
            self._stale_until = 0.0

    def _express(self, frames: list[Mbuf]) -> None:
        """Send what the host sent, in one go as far as every stage would let it pass.

        First half, the sender's stages: ``if_transmit`` with an empty, plain
        ``if_snd`` and a driver that is not busy, ``if_start`` and ``send`` of this
        class. If one of them has a say, frames go one by one. Second half, from the
        wire on, see ``_way`` and ``_straight_to``; else ``end.send`` takes them.
        """
        ifp, end = self.ifp, self.end
        self._lane = None
        if end is None or not self._running or not ifp.plain or ifp.if_bpf or not self._sends_straight():
            ifp.kernel.giant.turns += 1
            count, transmit = ifp.if_addrhead.count_output, ifp.transmit_mbuf
            if ifp.if_claims:
                transmit = functools.partial(ether_output, ifp)
            for m in frames:
                if len(m) < PKTHDR + FRAME_MIN:  # no kernel sends such
                    ifp.if_oerrors += 1
                    continue
                count(m)
                transmit(m)
            return
        head, pair, octets = _in_common(frames)
        if pair:
            if (ifa := ifp.if_addrhead.with_octets(pair[:4])) is not None:
                ifa.ifa_opackets += len(frames)
                ifa.ifa_obytes += octets - 14 * len(frames)
        else:
            for m in frames:
                ifp.if_addrhead.count_output(m)
        if not head or head[0] & 1:
            ifp.if_omcasts += sum(map(is_multicast, frames))
        ifp.if_obytes += octets
        accepts = end.accepts
        if accepts != ACCEPTS_ALL and (accepts or self._stale_until) and any(map(is_unfinished, frames)):
            ifp.kernel.giant.turns += 1
            for m in frames:
                self.send(m)
            return
        ifp.if_opackets += len(frames)
        way = self._way(end, head, frames)
        if way is not None:
            alone = len(frames) == 1 or octets >= LONG * len(frames)
            if pair and alone and (accepts == ACCEPTS_ALL or not accepts):
                self._lane = _Lane.along(self, way, head, pair)
            self._straight_to(way, frames, pair, octets)
        else:
            ifp.kernel.giant.turns += 1
            # All is looked up each time: what a frame brings about may change the wire for the next.
            for m in frames:
                if end.accepts == accepts or not is_unfinished(m):
                    end.send(m)
                else:
                    ifp.if_opackets -= 1
                    self.send(m)

    @staticmethod
    def _way(end: End, head: bytes, frames: list[Mbuf]) -> _Way | None:
        """Where frames with the Ethernet header ``head`` come out, if nothing there has a say; bridges are passed through.

        A wire on the way has no delay or cut, and at most the first a hook, its
        gate. ``receive`` is this class's, on a NIC that runs, and the frames are for
        its MAC; ``if_input`` has no listeners and Linux above it.
        """
        peer = end.straight_to
        if not head or not isinstance(peer, TapNic):
            return None
        ends: list[End] = [end]
        hops: list[tuple[TapNic, tuple[Any, Any]]] = []
        while peer.ifp.if_bridge is not None:
            if not peer._receives_straight() or peer.ifp.if_bpf or end.gate is not None:
                return None
            hop = peer.ifp.if_bridge.express(peer.ifp, head)
            if hop is None or len(hops) == _MOST_HOPS:
                return None
            hops.append((peer, hop))
            nic: TapNic = hop[1].ifp.if_softc
            out = nic.end
            if out is None or not nic._sends_straight() or nic.ifp.if_bpf or out.gate is not None:
                return None
            if not isinstance(out.straight_to, TapNic):
                return None
            if out.accepts != ACCEPTS_ALL and any(map(is_unfinished, frames)):
                return None
            ends.append(out)
            peer = out.straight_to
        if (
            head[:6] != peer._mac
            or not peer._receives_straight()
            or not peer.ifp.plain
            or peer.ifp.if_bpf
            or not peer.ifp.stack.hands_to_driver
        ):
            return None
        return ends, hops, peer

    @staticmethod
    def _straight_to(way: _Way, frames: list[Mbuf], pair: bytes, octets: int) -> None:
        """The second half of ``_express``: what wires and NICs on the way would do, left out one by one."""
        ends, hops, peer = way
        first = ends[0]
        gate = first.gate
        if gate is None:
            for end in ends:
                for heard in end.listeners:
                    try:
                        heard(end, frames)
                    except BaseException as error:
                        report(_log, error, "a tap on %s failed: %r", end.wire.name, heard)
                flow = end.flow
                flow.sent += len(frames)
                flow.octets += octets
                flow.delivered += len(frames)
            for nic, hop in hops:
                nic.ifp.if_ipackets += len(frames)
                nic.ifp.if_ibytes += octets
                nic.ifp.if_bridge.carried(*hop, len(frames), octets)
            peer._take(frames, pair, octets)
            return
        # The hook looks at all of them first: frames that are written in one go cost their host less.
        passed: list[Mbuf] = []
        for m in frames:
            changed = first.gate is not gate or not peer._running  # by the hook
            rest = functools.partial(first.send, m) if changed else gate(m)
            if rest is None:
                passed.append(m)
            else:
                peer._take(passed, pair)  # nothing overtakes
                passed = []
                rest()
        peer._take(passed, pair)

    def _take(self, frames: list[Mbuf], pair: bytes, octets: int | None = None) -> None:
        """Hand frames that came straight to the host; they have the addresses ``pair``, or any."""
        if not frames:
            return
        if not self._running:  # a hook has stopped it, or taken it away
            for m in frames:
                self.receive(m)
            return
        if octets is None:
            octets = sum(map(len, frames)) - PKTHDR * len(frames)
        ifp = self.ifp
        ifp.if_ipackets += len(frames)
        ifp.if_ibytes += octets
        if not pair:
            for m in frames:
                ifp.if_addrhead.count_input(m)
        elif (ifa := ifp.if_addrhead.with_octets(pair[4:])) is not None:
            ifa.ifa_ipackets += len(frames)
            ifa.ifa_ibytes += octets - 14 * len(frames)
        self._write(frames)  # after counting: whoever is woken by it finds the frames counted

    def _write(self, frames: list[Mbuf]) -> None:
        """Write frames to the device: one by one; or together, if else they were seen to take the processor from us."""
        before = None
        if len(frames) >= TOGETHER:
            self._writes -= 1
            if self._writes > 0 and self._together:
                results = write_together(self.tap.fd, frames)
                if results is not None:
                    for result in results:
                        if result < 0:
                            self._write_failed(OSError(-result, os.strerror(-result)))
                    return
            elif self._writes <= 0:
                before = getrusage(RUSAGE_THREAD).ru_nivcsw
        fd, write = self.tap.fd, os.write
        for m in frames:
            try:
                write(fd, m)
            except OSError as error:
                self._write_failed(error)
        if before is not None:
            switches = getrusage(RUSAGE_THREAD).ru_nivcsw - before
            self._together = switches * TOGETHER >= len(frames)
            self._writes = _STAY if self._together else _LOOK_EVERY

    def _sends_straight(self) -> bool:
        """Nothing on the way out has a say: neither queue nor driver."""
        ifp = self.ifp
        return not (
            self._sends_itself
            or not ifp.if_snd.is_plain()
            or ifp.if_drv_flags & IFF.OACTIVE
            or ifp.if_driver.if_transmit is not None
        )

    def _receives_straight(self) -> bool:
        """Nothing of the driver's on the way in has a say."""
        return self._running and not self._receives_itself

    def if_start(self, ifp: Ifnet) -> None:
        """Put what waits in ``if_snd`` on the wire."""
        dequeue, send = ifp.if_snd.dequeue, self.send
        while (m := dequeue()) is not None:
            send(m)

    def send(self, m: Mbuf) -> None:
        """Put one frame on the wire, finished as far as need be.

        Without a wire, or while the NIC is down, it is lost, an output error.
        """
        end = self.end
        if end is None or not self._running:
            self.ifp.if_oerrors += 1
            return
        accepts = 0 if self.ifp.if_bpf else end.accepts
        if accepts != ACCEPTS_ALL and (m[0] & 1 or m[1]):
            try:
                pieces = finish(m, accepts)
            except OffloadError as error:
                _log.debug("%s: the host asks for what cannot be: %s", self.name, error)
                self.ifp.if_oerrors += 1
                return
            self.ifp.if_opackets += len(pieces)
            self.pieces += len(pieces) - 1
            for piece in pieces:
                if self.ifp.if_bpf:
                    bpf_mtap(self.ifp, piece, BpfSide.OUT)
                end.send(piece)
            return
        self.ifp.if_opackets += 1
        if self.ifp.if_bpf:
            bpf_mtap(self.ifp, m, BpfSide.OUT)
        end.send(m)

    # frames in: off the wire

    def receive(self, m: Mbuf) -> None:
        """Let a frame through the filter, and hand it to the host."""
        if self.ifp.if_bpf and self._running:
            bpf_mtap(self.ifp, m, BpfSide.WIRE)
        if not self._running:
            self.ifp.if_iqdrops += 1
        elif len(m) < PKTHDR + 14:
            self.ifp.if_ierrors += 1
        elif m[PKTHDR : PKTHDR + 6] == self._mac or self.accepts(m[PKTHDR : PKTHDR + 6]):
            self.ifp.if_input_mbuf(m)
        else:
            self.filtered += 1

    def takes(self, sender: Port) -> int:
        """What may be left undone on frames for this NIC: nothing if its own code looks at them."""
        able = self.ifp.if_capenable
        if self._receives_itself or self.ifp.if_bpf or not able & (IFCAP.RXCSUM | IFCAP.RXCSUM_IPV6):
            return 0
        theirs = sender.ifp.if_mtu if isinstance(sender, TapNic) else 0
        return ACCEPTS_ALL if able & IFCAP.LRO and theirs <= self.ifp.if_mtu else ACCEPTS_CSUM

    def listeners_change(self) -> None:
        """Somebody began or ended to listen: then both ends finish their frames, or need not any more."""
        self.accepts_change()
        if self.end is not None:
            self.end.wire.rebind()

    def leaves(self) -> int:
        """What the host may leave undone on the frames that it sends."""
        looks = self._sends_itself or self.ifp.if_bpf
        return self.end.accepts if self.end is not None and not looks else 0

    def accepts_change(self) -> None:
        """What the wire accepts has changed: tell the kernel what to leave to us."""
        if self._wanted_offload() == self._offload:
            return
        self.heed_ethtool()
        wanted = self._wanted_offload()
        if wanted != self._offload and self.tap.fd >= 0:
            try:
                self.tap.set_offload(wanted)
            except OSError as error:
                if error.errno != errno.EBADFD:
                    raise
                return  # the device was deleted under us
            self._offload, self._asked = wanted, wanted & sum(_CAPABILITY_OF)
            self._stale_until = time.monotonic() + STALE_FOR
            self._tell_trunk()

    def heed_ethtool(self) -> None:
        """Take over what ``ethtool -K`` switched off in the host, or on again, of what it may leave to us.

        Nobody is told of that; and the kernel forgets it when it is told anew what it may leave.
        """
        if not self._offload or self.tap.fd < 0:
            return
        try:
            asked = self.tap.asked_for(self.netns) & self._offload
        except (OSError, UnicodeError) as error:
            _log.debug("%s: what the host leaves to the chip cannot be read: %s", self.name, error)
            return
        changed, self._asked = asked ^ self._asked, asked
        if not changed:
            return
        able = self.ifp.if_capenable
        for flag, capability in _CAPABILITY_OF.items():
            if changed & flag:
                able = able | capability if asked & flag else able & ~capability
        if able != self.ifp.if_capenable:
            self.ifp.if_capenable = able
            self.ifp.touch()
            self._tell_trunk()

    def _wanted_offload(self) -> int:
        able = self.ifp.if_capenable
        accepts = self.leaves()
        wanted = 0
        if accepts & ACCEPTS_CSUM and able & (IFCAP.TXCSUM | IFCAP.TXCSUM_IPV6):
            wanted = TUN_F_CSUM
            if accepts & ACCEPTS_GSO and not self.ifp.if_snd.is_managed():
                wanted |= TUN_F_TSO4 if able & IFCAP.TSO4 else 0
                wanted |= TUN_F_TSO6 if able & IFCAP.TSO6 else 0
                if able & IFCAP.TSO4 and able & IFCAP.TSO6:
                    wanted |= TUN_F_USO4 | TUN_F_USO6  # Linux wants both or none
        return wanted

    def if_snd_changed(self, ifp: Ifnet) -> None:
        """Who manages the send queue gets it in frames of the wire's size."""
        self.accepts_change()

    def accepts(self, destination: bytes) -> bool:
        """The hardware filter: own MAC, broadcast, the multicast list, or what the modes say."""
        if destination == self._mac or self._accepts_all:
            return True
        if not destination[0] & 1:
            return False
        if destination == BROADCAST or self._accepts_groups or destination in self._groups:
            return True
        ask = self.on_group_miss
        heard = ask is not None and ask(self.ifp, destination)
        return heard and (self._accepts_groups or destination in self._groups)

    def to_host(self, m: Mbuf) -> None:
        """Write a frame to the device: the host receives it."""
        try:
            os.write(self.tap.fd, m)
        except OSError as error:
            self._write_failed(error)

    def _write_failed(self, error: OSError) -> None:
        # EIO: the netdev is down. EINVAL: no kernel takes such a frame.
        self.refused += 1
        if isinstance(error, BlockingIOError):
            self.ifp.if_iqdrops += 1
        elif error.errno in (errno.EIO, errno.EINVAL, errno.EBADF, errno.EBADFD, errno.ENOBUFS):
            self.ifp.if_ierrors += 1
        else:
            self.ifp.if_ierrors += 1
            _log.error("%s: the kernel takes no frame: %s", self.name, error)

    # the link

    def link_change(self, up: bool) -> None:
        """The wire's carrier came or went: tell the netdev and the ifnet."""
        if self.tap.fd >= 0:
            with contextlib.suppress(OSError):
                self.tap.set_carrier(up)
        self.ifp.if_link_state_change(LinkState.UP if up else LinkState.DOWN)

    # what the ifnet says

    def if_ioctl(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        """Obey: flags, MTU, multicast, capabilities. Raises the kernel's errno; EINVAL for what it does not know."""
        self._obey(ifp, cmd, data)
        if self.on_change is not None and cmd not in _OF_GROUPS:
            self.on_change(ifp)

    def _obey(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        if cmd == "SIOCSIFFLAGS" and ifp.if_reinit:
            self._program()  # a netdev that really went down would lose its IPv6 addresses and routes
        elif cmd == "SIOCSIFFLAGS":
            self.sync_flags()
        elif cmd == "SIOCSIFMTU":
            if ifp.if_lagg is not None and not ifp.if_lagg.sets_mtu:
                raise OSError(
                    errno.EINVAL,
                    f"{self.name} is a port of {ifp.if_lagg.ifp.if_xname}; change the MTU of that",
                )
            self._set_mtu(ifp, data.ifr_mtu)
        elif cmd in _OF_GROUPS:
            self._program()
            if self.on_groups is not None:
                self.on_groups(ifp)
        elif cmd == "SIOCSIFCAP":
            wanted = data.ifr_reqcap
            if not wanted & (IFCAP.TXCSUM | IFCAP.TXCSUM_IPV6):
                wanted &= ~(IFCAP.TSO4 | IFCAP.TSO6)  # what is cut needs its checksums
            ifp.if_capenable = wanted
            self.rethink()
        elif cmd == "SIOCGIFMEDIA":
            data.ifr_data = {"media": self._medium(), "active": self.end is not None}
        elif cmd == "SIOCSIFMEDIA":
            if data.ifr_data not in (self._medium().partition(" (")[0], "Ethernet autoselect"):
                raise OSError(
                    errno.EINVAL, f"{self.name}: its only media is {self.medium}, not {data.ifr_data}"
                )
        else:
            raise OSError(errno.EINVAL, f"{self.name}: a TAP NIC knows no {cmd}")

    def _medium(self) -> str:
        if self.medium is None:
            raise OSError(errno.EINVAL, f"{self.name} has no medium")
        return self.medium

    def if_resolvemulti(self, ifp: Ifnet, sa: Sockaddr) -> SockaddrDl | None:
        """Map a group as Ethernet does."""
        return ether_resolvemulti(ifp, sa)

    def if_init(self, ifp: Ifnet) -> None:
        """Let frames through, both ways."""
        self._running = True
        ifp.if_drv_flags = ifp.if_drv_flags & ~IFF.OACTIVE | IFF.RUNNING

    def stop(self) -> None:
        """Let nothing through."""
        self._running = False
        self.ifp.if_drv_flags &= ~(IFF.RUNNING | IFF.OACTIVE)

    def wanted_flags(self) -> int:
        """The netdev flags (Linux's bits) that the ifnet asks for.

        Modes that are on only because the kernel itself asked for them are not
        asked of it: that would be an echo.
        """
        ifp = self.ifp
        flags = ifp.if_flags
        own_promisc = bool(flags & IFF.PPROMISC) or ifp.if_pcount > self.kernel_promisc
        own_allmulti = bool(flags & IFF.ALLMULTI) and (
            ifp.if_amcount == 0 or ifp.if_amcount > self.kernel_allmulti
        )
        return (
            (_LINUX_UP if flags & IFF.UP else 0)
            | (_LINUX_NOARP if flags & IFF.NOARP else 0)
            | (_LINUX_PROMISC if own_promisc else 0)
            | (_LINUX_ALLMULTI if own_allmulti else 0)
        )

    def sync_flags(self) -> None:
        """Give the netdev the ifnet's flags, in one message and only if they differ, and program the filter.

        Raises the kernel's errno; flags of the netdev are unchanged then.
        """
        mask = _LINUX_UP | _LINUX_NOARP | _LINUX_PROMISC | _LINUX_ALLMULTI
        wanted = self.wanted_flags()
        if self.kernel_allmulti and self.netdev_flags & _LINUX_ALLMULTI:
            wanted |= _LINUX_ALLMULTI  # somebody else's; switching it off is up to them
        differ = (self.netdev_flags ^ wanted) & mask
        if differ and self.tap.fd >= 0 and not self.following:
            changes: dict[str, Any] = {}
            for key, bit in (("up", _LINUX_UP), ("promisc", _LINUX_PROMISC), ("allmulti", _LINUX_ALLMULTI)):
                if differ & bit:
                    changes[key] = bool(wanted & bit)
            if differ & _LINUX_NOARP:
                changes["arp"] = not wanted & _LINUX_NOARP
            self._netdev(**changes)
            self.netdev_flags = self.netdev_flags & ~mask | wanted
        self._program()
        if not self.ifp.if_flags & IFF.UP:
            if self._running:
                self.stop()
        elif not self._running:
            self.if_init(self.ifp)

    def follow(self) -> None:
        """Give the netdev the ifnet's flags where nobody can be told of a refusal; it is logged."""
        try:
            self.sync_flags()
        except OSError as error:
            gone = error.errno == errno.ENODEV  # and that is told soon
            _log.log(
                logging.DEBUG if gone else logging.WARNING,
                "%s: the kernel refuses its flags: %s",
                self.name,
                error,
            )

    def _set_mtu(self, ifp: Ifnet, mtu: int) -> None:
        if mtu != self.netdev_mtu:
            self._netdev(mtu=mtu)
            self.netdev_mtu = mtu
        ifp.if_mtu = mtu
        self.rethink()

    def rethink(self) -> None:
        """Capabilities or MTU changed: what this NIC takes may be another, and what it leaves to the wire."""
        if self.end is not None:
            self.end.wire.rebind()
        self.accepts_change()
        self._tell_trunk()

    def _tell_trunk(self) -> None:
        tell = self.ifp.kernel.hooks.vlan_trunk_cap_p
        if self.ifp.if_vlantrunk is not None and tell is not None:
            tell(self.ifp)

    def _netdev(self, **changes: Any) -> None:
        from iflab.linux import Netlink

        if self.tap.fd < 0:
            return
        with Netlink(self.netns) as netlink:
            netlink.link_set(self.tap.ifindex, **changes)

    def _program(self) -> None:
        """Program the filter from the ifnet: MAC, modes, multicast list."""
        ifp = self.ifp
        self._mac = ifp.lladdr or self._mac
        self._groups = ifp.if_multiaddrs.link_addresses()
        self._accepts_all = bool(ifp.if_flags & (IFF.PROMISC | IFF.PPROMISC))
        self._accepts_groups = bool(ifp.if_flags & IFF.ALLMULTI)

    def reprogram(self) -> None:
        """The MAC changed: program the filter anew."""
        self._program()

    # groups that were joined here, not by the host

    def push_groups(self, groups: set[bytes]) -> None:
        """Put these MACs, and no others of ours, on the netdev's multicast list (``ip maddress`` shows them)."""
        if groups == self._pushed or self.tap.fd < 0:
            return
        with self.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for mac in groups - self._pushed:
                if self._netdev_group(sock, _SIOCADDMULTI, mac):
                    self._pushed.add(mac)
            for mac in self._pushed - groups:
                self._netdev_group(sock, _SIOCDELMULTI, mac)
                self._pushed.discard(mac)

    def _netdev_group(self, sock: socket.socket, request: int, mac: bytes) -> bool:
        """Ask the kernel, inside the namespace; True when it obeyed."""
        for _ in range(3):  # it goes by name, and the host may give the netdev another one just now
            try:
                name = os.fsencode(socket.if_indextoname(self.tap.ifindex))
                fcntl.ioctl(sock, request, struct.pack("16sH14s8x", name, AddressFamily.UNSPEC, mac))
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ENXIO):
                    break
            else:
                return True
        return False

    @property
    def pushed_groups(self) -> set[bytes]:
        """MACs that are on the netdev's list on our account."""
        return self._pushed
