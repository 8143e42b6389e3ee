"""The fast way of frames from one NIC's TAP to another's.

The way through every stage (``iflab/drivers/tap.py``) costs a dozen calls a frame.
Where nothing is in it, frames are carried past the stages here, and counted the same:

* All frames that waited together go in one call, ``_express``.
* For frames that come one by one even to look whether something is in the way would
  take longer than to carry them, and super-frames are carried fastest while they are
  still in the processor's cache. For these the way is remembered until the lab
  changes: a ``_Lane``.
* A train is written in one system call (``iflab/linux/aio.py``) where the program
  that receives would else run for each frame alone.

::

      Linux (TAP)                                              Linux (TAP)
         | _readable                                              ^
         v                                                        | _take, _write
      _express --- sender's stages empty? -- _way? -- _straight_to
         |                                    |
         v else                               v else
      if_transmit, if_snd, if_start ...    end.send ... receive, if_input
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import time
from abc import abstractmethod
from collections.abc import Callable
from operator import itemgetter
from resource import RUSAGE_THREAD, getrusage
from typing import Any, Protocol

from iflab.linux import Batch, Tap
from iflab.net import (
    ACCEPTS_ALL,
    FRAME_MIN,
    IFF,
    PKTHDR,
    Driver,
    Ifnet,
    Mbuf,
    ether_output,
    is_multicast,
    is_unfinished,
    report,
)
from iflab.net.giant import Giant
from iflab.net.ifaddr import Ifaddr
from iflab.wire import End, Flow

__all__ = ["Express", "Loop"]

_log = logging.getLogger("iflab.drivers")

READ_SIZE = 65536 + 32
"""Octets of the longest thing that a TAP hands out: a super-frame with its header."""

BUDGET = 512 * 1024
"""What is taken from one TAP before the others have their turn, in octets, where each frame counts as ..."""

FRAME_WEIGHT = 8192
"""... so many more than it has: some 60 small frames, or 7 of 64 KiB."""

LEISURE = 4
"""So many times the budget when nobody else waits as the turn begins, and no Python code looks at the frames.

Who has longer turns is woken, and wakes others, less often. Who comes meanwhile waits
longer: another cable's ping under a flood of small datagrams 0.7 ms instead of 0.4.
"""

LONG = 16384
"""Octets from which on frames are carried one by one even when there are more, or else in short turns: many of them fit
in no cache ...
"""

TRAIN = 64
"""... up to so many, with the same leisure."""

TOGETHER = 8
"""Frames from which on they may be written in one system call."""

_LOOK_EVERY = 8
"""Times that frames are written one by one until it is looked at again what that does."""

_STAY = 1024
"""Times that frames are written together, before one by one is tried again."""

_MOST_HOPS = 8
"""Bridges that frames pass together."""

_HOPS_FOR = 0.1
"""Seconds for which a way through bridges is remembered, which forget who is not heard for a second, at the least."""

_MOST_ANSWERS = 16
"""Frames to and fro before the others have their turn."""


class Loop(Protocol):
    """What a NIC needs of the engine."""

    rounds: int
    """Rises each time that it calls."""
    unhurried: bool
    """Hardly anybody else waits for it."""
    batch: Batch
    """What writes many frames in one system call."""

    def add_reader(self, fd: int, fn: Callable[[], None], *, frames: bool = False) -> None:
        """Call ``fn``, with the lab's lock held, whenever ``fd`` is readable; ``frames``: it changes nothing else."""

    def remove_reader(self, fd: int) -> None:
        """Stop that."""


_IPV4 = b"\x08\x00"
_head: Callable[[Mbuf], bytes] = itemgetter(slice(PKTHDR, PKTHDR + 14))
_ipv4_pair: Callable[[Mbuf], bytes] = itemgetter(slice(36, 44))


_Way = tuple[list[End], list[tuple["Express", tuple[Any, Any]]], "Express"]
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

    As long as nobody took the lab's lock it is as it was: between two NICs on a wire,
    or through bridges that have nothing else to do with such frames.
    """

    __slots__ = (
        *("flags", "flows", "giant", "head", "hops", "ifp", "pair", "peer", "sent_from", "sent_to", "turns"),
        "until",
    )

    giant: Giant
    turns: int
    """The lock's, when it was found."""
    ifp: Ifnet
    flags: int
    """The driver's flags then, which drivers change without a call."""
    head: bytes
    pair: bytes
    peer: Express
    flows: list[Flow]
    """Of the wires on the way."""
    hops: list[tuple[Express, tuple[Any, Any], Express, int]]
    """At each bridge: the NIC that frames come in by, the members, the NIC that they go out by, its driver's flags."""
    until: float
    """When the bridges want to hear again that the sender is there."""
    sent_from: Ifaddr | None
    sent_to: Ifaddr | None

    @classmethod
    def along(cls, nic: Express, way: _Way, head: bytes, pair: bytes) -> _Lane | None:
        """Remember ``way``; None where somebody on it wants to see each frame, or wants it finished."""
        ends, hops, peer = way
        if any(end.gate is not None or end.listeners for end in ends):
            return None
        if any(end.accepts != ACCEPTS_ALL for end in ends[1:]):
            return None
        lane = cls()
        lane.ifp, lane.peer, lane.head, lane.pair = nic.ifp, peer, head, pair
        lane.flows = [end.flow for end in ends]
        outs: list[Express] = [hop[1].ifp.if_softc for _, hop in hops]
        lane.hops = [(*hop, out, out.ifp.if_drv_flags) for hop, out in zip(hops, outs, strict=True)]
        lane.until = time.monotonic() + _HOPS_FOR
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
            and (not self.hops or self._bridged())
        )

    def _bridged(self) -> bool:
        return time.monotonic() < self.until and all(
            out.ifp.if_drv_flags == flags for _, _, out, flags in self.hops
        )

    def carry(self, nic: Express, m: Mbuf, more: int = 0) -> None:
        """Do with one frame of ``nic`` what ``_express`` would, and then with those that come at once.

        These are ``more`` of the same NIC, or what its receiver answers.
        """
        lane, train = self, more
        for left in reversed(range(more + 1 if train else _MOST_ANSWERS)):
            ifp, peer, octets = lane.ifp, lane.peer, len(m) - PKTHDR
            nic.taken += 1
            ifp.if_opackets += 1
            ifp.if_obytes += octets
            if (ifa := lane.sent_from) is not None:
                ifa.ifa_opackets += 1
                ifa.ifa_obytes += octets - 14
            for flow in lane.flows:
                flow.sent += 1
                flow.octets += octets
                flow.delivered += 1
            for into, hop, _, _ in lane.hops:
                into.hopped(hop, 1, octets)
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
                if not peer._answers or peer._lane is None or peer._stale_until:
                    return
                nic, lane = peer, peer._lane
            del m  # so the next one finds the same memory, which the processor has at hand
            try:
                m = os.read(nic.tap.fd, READ_SIZE)
            except OSError:  # the loop will see what else it may be
                if not train:
                    nic._answers = False
                elif left == train:
                    nic._appetite = 1
                return
            if not lane.leads(m):
                nic.taken += 1
                nic._express([m])
                return


class Express(Driver):
    """A NIC's fast way for frames: what the host sends is taken and passed on, what comes for the host is written.

    A derived class attaches it and has the stages of the way that is taken else.
    """

    _sends_itself = _receives_itself = False
    """A derived class has its own way for frames, out or in: it gets them one by one, and finished."""

    def __init__(self) -> None:
        self.name = "unattached NIC"
        self.end: End | None = None
        self.taken = 0
        self.refused = 0
        self.ifp: Ifnet
        self.tap: Tap
        self._loop: Loop
        self._mac = b""
        self._running = False
        self._stale_until = 0.0
        """Frames may come out until then that the kernel was told too late to finish; 0: none do."""
        self._appetite = 1
        """Frames to take when there are more in the loop's next round: twice as many as there were, for to find out
        that no more wait costs as much as a frame."""
        self._round = 0
        """The loop's round after the last in which there were frames."""
        self._lane: _Lane | None = None
        self._straight = False
        """The last frames went the fast way, and no hook looked at them."""
        self._answers = False
        """Its host was seen to answer at once."""
        self._together = False
        """Frames for its host are best written in one system call: one by one, each wakes a program that runs first."""
        self._writes = 0
        """Times that many frames are still written in this way, until that is looked at."""

    # the stages

    @abstractmethod
    def send(self, m: Mbuf) -> None:
        """Put one frame on the wire."""

    @abstractmethod
    def receive(self, m: Mbuf) -> None:
        """Take one frame off the wire."""

    # frames out: the host sent them

    def _readable(self) -> None:
        """Take what the host sends, up to the budget, and pass it on together."""
        fd, read = self.tap.fd, os.read
        frames: list[Mbuf] = []
        take = frames.append
        settled = False
        loop, lane = self._loop, self._lane
        more: int | None = None
        now = loop.rounds
        appetite = self._appetite if self._round == now else 1
        if self._stale_until:
            appetite = max(2, appetite)  # to find out when no more wait
        self._round = now + 1
        try:
            m = read(fd, READ_SIZE)
            if appetite == 1:
                if lane is not None and lane.leads(m):
                    more = 0
                else:
                    take(m)
                self._appetite = 2
            else:
                leisure = loop.unhurried and self._straight
                if len(m) >= LONG and lane is not None and not self._stale_until and lane.leads(m):
                    more = TRAIN if leisure else TRAIN // 8
                    self._appetite = 2
                else:
                    take(m)
                    budget = BUDGET * LEISURE if leisure and len(m) < LONG else BUDGET
                    # The last round may have had more leisure.
                    for _ in range(min(appetite, budget // (len(m) + FRAME_WEIGHT)) - 1):
                        take(read(fd, READ_SIZE))
                    self._appetite = min(2 * appetite, budget // (len(frames[-1]) + FRAME_WEIGHT))
        except BlockingIOError:
            self._appetite = max(1, len(frames))
            settled = bool(self._stale_until) and time.monotonic() > self._stale_until
        except OSError as error:
            if error.errno not in (errno.EBADFD, errno.EIO):
                _log.error("%s: the kernel gives no frame: %s", self.name, error)
            self._loop.remove_reader(fd)  # the device was deleted under us
        if lane is not None and more is not None:
            if not more and lane.peer._round == now:
                self._answers = True
            lane.carry(self, m, more)
        elif frames:
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
            self._straight = False
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
        self._straight = way is not None and end.gate is None
        if way is not None:
            one_by_one = len(frames) == 1 or octets >= LONG * len(frames)
            if pair and one_by_one and (accepts == ACCEPTS_ALL or not accepts):
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
        if not head or not isinstance(peer, Express):
            return None
        ends: list[End] = [end]
        hops: list[tuple[Express, tuple[Any, Any]]] = []
        while peer.ifp.if_bridge is not None:
            if not peer._receives_straight() or peer.ifp.if_bpf or end.gate is not None:
                return None
            hop = peer.ifp.if_bridge.express(peer.ifp, head)
            if hop is None or len(hops) == _MOST_HOPS:
                return None
            hops.append((peer, hop))
            nic: Express = hop[1].ifp.if_softc
            out = nic.end
            if out is None or not nic._sends_straight() or nic.ifp.if_bpf or out.gate is not None:
                return None
            if not isinstance(out.straight_to, Express):
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
                nic.hopped(hop, len(frames), octets)
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

    def hopped(self, hop: tuple[Any, Any], count: int, octets: int) -> None:
        """So many frames came in here and went on through the bridge."""
        ifp = self.ifp
        ifp.if_ipackets += count
        ifp.if_ibytes += octets
        ifp.if_bridge.carried(*hop, count, octets)

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
                results = self._loop.batch.write(self.tap.fd, frames)
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
