"""Disciplines for a send queue, and the regulator at its end (``net/altq/``).

They plug into ``if_snd`` (``ifqueue.py``)::

    with lab.lock:
        altq_use(ifp, CoDel(lab.engine))
        TokenBucketRegulator(lab.engine, 10e6, depth=3000).attach(ifp)

=========================  ==================================================
``Priority``               strict priority, a queue for each class (PRIQ)
``CoDel``                  RFC 8289
``FqCoDel``                RFC 8290
``Red``                    Floyd and Jacobson, 1993
``TokenBucketRegulator``   ``altq_subr.c``, ``tbr_dequeue``
=========================  ==================================================

A NIC here sends as fast as it is asked to, so nothing waits in its queue unless the
regulator slows it down. On a NIC with either of them the host cuts its super-frames
itself: what waits are frames as they go on the wire.

What an ``enqueue`` turns away, ``ifq_drops`` counts. ``dropped`` of a discipline
counts by cause all that it lost, also what it had taken before. Lengths are octets
of frame, times seconds of the clock that was given.
"""

from __future__ import annotations

import abc
import errno
import hashlib
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from .clock import Clock, Timer
from .errors import refuse
from .flags import IFF
from .ifqueue import Discipline, Ifqueue
from .mbuf import PKTHDR, Mbuf

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = [
    "Altq",
    "CoDel",
    "FqCoDel",
    "Priority",
    "Red",
    "TokenBucketRegulator",
    "altq_forgo",
    "altq_use",
    "by_precedence",
    "flow_of",
    "mark_ce",
]

_VLAN = (b"\x81\x00", b"\x88\xa8")
_TCP, _UDP, _DCCP, _SCTP, _UDPLITE = 6, 17, 33, 132, 136
_WITH_PORTS = (_TCP, _UDP, _DCCP, _SCTP, _UDPLITE)


def altq_use(ifp: Ifnet, discipline: Discipline) -> None:
    """Attach a discipline to the send queue of ``ifp`` and enable it; what waits is lost. Raises EBUSY for a second one."""
    ifp.if_snd.altq_attach(discipline)
    ifp.if_snd.altq_enable()


def altq_forgo(ifp: Ifnet) -> None:
    """Disable and detach the discipline; what waits is lost. Raises ENXIO when there is none."""
    ifp.if_snd.altq_disable()
    ifp.if_snd.altq_detach()


# what frames say of themselves


def _network(m: Mbuf) -> int:
    """Where the network header begins, behind any VLAN tags."""
    at = PKTHDR + 12
    while m[at : at + 2] in _VLAN:
        at += 4
    return at + 2


def by_precedence(m: Mbuf) -> int:
    """The class of a frame, 0 to 7: priority of its VLAN tag (IEEE 802.1Q, PCP), else class selector (RFC 2474, 4.2.2)."""
    if m[PKTHDR + 12 : PKTHDR + 14] in _VLAN and len(m) > PKTHDR + 14:
        return m[PKTHDR + 14] >> 5
    at = PKTHDR + 14
    kind = m[PKTHDR + 12 : at]
    if kind == b"\x08\x00" and len(m) > at + 1:
        return m[at + 1] >> 5
    if kind == b"\x86\xdd" and len(m) > at:
        return m[at] >> 1 & 7
    return 0


def flow_of(m: Mbuf) -> bytes:
    """The octets that all frames of a flow share: protocol, addresses and ports (RFC 8290, 4.1.1).

    Fragments have no ports that could be relied on, what is not IP only its Ethernet header.
    """
    ip = _network(m)
    kind = m[ip - 2 : ip]
    if kind == b"\x08\x00" and len(m) >= ip + 20:
        protocol, addresses = m[ip + 9], m[ip + 12 : ip + 20]
        ports = ip + (m[ip] & 15) * 4
        is_fragment = bool(int.from_bytes(m[ip + 6 : ip + 8], "big") & 0x3FFF)
        has_ports = protocol in _WITH_PORTS and not is_fragment
    elif kind == b"\x86\xdd" and len(m) >= ip + 40:
        protocol, addresses, ports = m[ip + 6], m[ip + 8 : ip + 40], ip + 40
        has_ports = protocol in _WITH_PORTS
    else:
        return m[PKTHDR : PKTHDR + 14]
    return bytes((protocol,)) + addresses + (m[ports : ports + 4] if has_ports else b"")


def mark_ce(m: Mbuf) -> Mbuf | None:
    """The frame with "congestion experienced" in its IP header (RFC 3168); None when it is not capable of ECN."""
    ip = _network(m)
    kind = m[ip - 2 : ip]
    if kind == b"\x08\x00" and len(m) >= ip + 20:
        codepoint = m[ip + 1] & 3
        if codepoint == 0:
            return None
        if codepoint == 3:
            return m
        marked = bytearray(m)
        marked[ip + 1] |= 3
        old = int.from_bytes(m[ip : ip + 2], "big")
        new = old | 3
        check = int.from_bytes(m[ip + 10 : ip + 12], "big")
        total = (~check & 0xFFFF) + (~old & 0xFFFF) + new  # RFC 1624, equation 3
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        marked[ip + 10 : ip + 12] = (~total & 0xFFFF).to_bytes(2, "big")
        return bytes(marked)
    if kind == b"\x86\xdd" and len(m) >= ip + 40:
        codepoint = m[ip + 1] >> 4 & 3
        if codepoint == 0:
            return None
        marked = bytearray(m)
        marked[ip + 1] |= 0x30
        return bytes(marked)
    return None


# disciplines


class Altq(abc.ABC):
    """Base of the disciplines here. What ``poll`` has shown is what ``dequeue`` gives next."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        """Frames lost, by cause."""
        self.turned_away = 0
        """Those of them that ``enqueue`` refused, and ``ifq_drops`` counts."""
        self.marked = 0
        """Frames marked instead (ECN)."""
        self._shown: Mbuf | None = None

    @abc.abstractmethod
    def enqueue(self, m: Mbuf) -> int:
        """Take a frame; 0, or ENOBUFS when it is turned away."""

    @abc.abstractmethod
    def _next(self) -> Mbuf | None:
        """The next frame, taken out."""

    @abc.abstractmethod
    def _clear(self) -> int:
        """Throw away what waits; how many frames that were."""

    @abc.abstractmethod
    def _count(self) -> int:
        """How many wait."""

    def dequeue(self) -> Mbuf | None:
        """Give the next frame, None when none waits."""
        if self._shown is not None:
            m, self._shown = self._shown, None
            return m
        return self._next()

    def poll(self) -> Mbuf | None:
        """Show what ``dequeue`` would give now. A discipline that drops at its head drops at this moment."""
        if self._shown is None:
            self._shown = self._next()
        return self._shown

    def purge(self) -> int:
        """Throw everything away and return how many frames that were."""
        shown, self._shown = self._shown is not None, None
        return self._clear() + shown

    def __len__(self) -> int:
        return self._count() + (self._shown is not None)

    def _drop(self, cause: str) -> None:
        self.dropped[cause] += 1

    def _refuse(self, cause: str) -> int:
        self._drop(cause)
        self.turned_away += 1
        return errno.ENOBUFS


class Priority(Altq):
    """Strict priority (``altq_priq.c``): a frame leaves when no class above its own has any.

    ``classify`` tells a frame's class, 0 to ``classes`` - 1, the highest leaves first;
    other numbers count as the nearest of these. Each class holds ``limit`` frames.
    """

    def __init__(
        self, classes: int = 8, *, limit: int = 50, classify: Callable[[Mbuf], int] = by_precedence
    ) -> None:
        super().__init__()
        if classes < 1 or limit < 1:
            raise ValueError(f"{classes} classes of {limit} frames: both are 1 or more")
        self.classify = classify
        self.limit = limit
        self.queues: list[deque[Mbuf]] = [deque() for _ in range(classes)]

    def enqueue(self, m: Mbuf) -> int:
        """Put a frame at the tail of its class; ENOBUFS when that is full."""
        queue = self.queues[min(max(self.classify(m), 0), len(self.queues) - 1)]
        if len(queue) >= self.limit:
            return self._refuse("full")
        queue.append(m)
        return 0

    def _next(self) -> Mbuf | None:
        for queue in reversed(self.queues):
            if queue:
                return queue.popleft()
        return None

    def _clear(self) -> int:
        count = self._count()
        for queue in self.queues:
            queue.clear()
        return count

    def _count(self) -> int:
        return sum(map(len, self.queues))


class _Codel:
    """One queue under CoDel's control: the state and steps of RFC 8289, section 5."""

    __slots__ = (
        "count",
        "drop_next",
        "dropping",
        "first_above",
        "frames",
        "interval",
        "last_count",
        "max_packet",
        "octets",
        "target",
    )

    def __init__(self, target: float, interval: float) -> None:
        self.target = target
        self.interval = interval
        self.frames: deque[tuple[float, Mbuf]] = deque()
        self.octets = 0
        self.max_packet = 0
        """Octets of the longest frame so far: with less than that waiting, the link is no bottleneck."""
        self.count = 0
        self.last_count = 0
        self.drop_next = 0.0
        self.first_above: float | None = None
        self.dropping = False

    def put(self, now: float, m: Mbuf) -> None:
        length = len(m) - PKTHDR
        self.frames.append((now, m))
        self.octets += length
        self.max_packet = max(self.max_packet, length)

    def take(self) -> Mbuf | None:
        """The head, whatever CoDel thinks of it."""
        if not self.frames:
            return None
        _, m = self.frames.popleft()
        self.octets -= len(m) - PKTHDR
        return m

    def _look(self, now: float) -> tuple[Mbuf | None, bool]:
        """Take the head; may it be dropped, because the sojourn time was above the target for an interval?"""
        if not self.frames:
            self.first_above = None
            return None, False
        came, m = self.frames.popleft()
        self.octets -= len(m) - PKTHDR
        if now - came < self.target or self.octets <= self.max_packet:
            self.first_above = None
            return m, False
        if self.first_above is None:
            self.first_above = now + self.interval
            return m, False
        return m, now >= self.first_above

    def _law(self, t: float) -> float:
        return t + self.interval / math.sqrt(self.count)

    def next(self, now: float, strike: Callable[[Mbuf], Mbuf | None]) -> Mbuf | None:
        """The next frame to send; ``strike`` drops one (None) or marks it, and then it is sent."""
        m, ok_to_drop = self._look(now)
        if self.dropping:
            if not ok_to_drop:
                self.dropping = False
            while self.dropping and m is not None and now >= self.drop_next:
                marked = strike(m)
                self.count += 1
                if marked is not None:
                    self.drop_next = self._law(self.drop_next)
                    return marked
                m, ok_to_drop = self._look(now)
                if ok_to_drop:
                    self.drop_next = self._law(self.drop_next)
                else:
                    self.dropping = False
        elif ok_to_drop and m is not None:
            marked = strike(m)
            m = self._look(now)[0] if marked is None else marked
            self.dropping = True
            # What controlled the queue the last time, if that is not long ago, is a good beginning.
            delta = self.count - self.last_count
            self.count = delta if delta > 1 and now - self.drop_next < 16 * self.interval else 1
            self.drop_next = self._law(now)
            self.last_count = self.count
        return m


class CoDel(Altq):
    """Controlled delay (RFC 8289): drops at the head when frames waited above ``target`` for all of an ``interval``.

    Both in seconds. ``limit`` frames wait at most. With ``ecn`` frames that are capable
    of it are marked instead of dropped.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        target: float = 0.005,
        interval: float = 0.1,
        limit: int = 1000,
        ecn: bool = False,
    ) -> None:
        super().__init__()
        _check_codel(target, interval, limit)
        self.clock = clock
        self.limit = limit
        self.ecn = ecn
        self._queue = _Codel(target, interval)

    def enqueue(self, m: Mbuf) -> int:
        """Put a frame at the tail; ENOBUFS when it is full."""
        if len(self._queue.frames) >= self.limit:
            return self._refuse("full")
        self._queue.put(self.clock.now(), m)
        return 0

    def _strike(self, m: Mbuf) -> Mbuf | None:
        if self.ecn and (marked := mark_ce(m)) is not None:
            self.marked += 1
            return marked
        self._drop("codel")
        return None

    def _next(self) -> Mbuf | None:
        return self._queue.next(self.clock.now(), self._strike)

    def _clear(self) -> int:
        count = len(self._queue.frames)
        self._queue.frames.clear()
        self._queue.octets = 0
        return count

    def _count(self) -> int:
        return len(self._queue.frames)


def _check_codel(target: float, interval: float, limit: int) -> None:
    if not 0 < target < interval < math.inf:
        raise ValueError(
            f"a target of {target} s in an interval of {interval} s: the target is shorter, both are above 0"
        )
    if limit < 1:
        raise ValueError(f"a limit of {limit} frames: use 1 or more")


class _Flow(_Codel):
    """A queue of FQ-CoDel, with its credit in octets."""

    __slots__ = ("deficit",)

    def __init__(self, target: float, interval: float) -> None:
        super().__init__(target, interval)
        self.deficit = 0


class FqCoDel(Altq):
    """Fair queueing with CoDel in each queue (RFC 8290).

    Frames are spread over ``flows`` queues by a hash of addresses, protocol and ports
    (``flow_of``), which ``seed`` perturbs. Queues take turns of ``quantum`` octets; one
    that begins to send has its first turn before those that have had theirs. At most
    ``limit`` frames wait in all: beyond that the longest queue loses its oldest ones.
    """

    BATCH = 64
    """Frames that are lost at once at most when the limit is reached (RFC 8290, 4.1.3)."""

    def __init__(
        self,
        clock: Clock,
        *,
        flows: int = 1024,
        quantum: int = 1514,
        limit: int = 10240,
        target: float = 0.005,
        interval: float = 0.1,
        ecn: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_codel(target, interval, limit)
        if flows < 1 or quantum < 1:
            raise ValueError(f"{flows} flows with a quantum of {quantum} octets: both are 1 or more")
        self.clock = clock
        self.flows = flows
        self.quantum = quantum
        self.limit = limit
        self.ecn = ecn
        self._target, self._interval = target, interval
        self._key = str(seed).encode()[:64]
        self._queues: dict[int, _Flow] = {}
        self._new: OrderedDict[int, _Flow] = OrderedDict()
        self._old: OrderedDict[int, _Flow] = OrderedDict()
        self._waiting = 0

    def bucket(self, m: Mbuf) -> int:
        """The number of the queue in which a frame waits."""
        digest = hashlib.blake2b(flow_of(m), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") % self.flows

    def enqueue(self, m: Mbuf) -> int:
        """Put a frame into the queue of its flow. Never turned away: what goes when it is full is the longest queue's."""
        number = self.bucket(m)
        queue = self._queues.get(number)
        if queue is None:
            queue = self._queues[number] = _Flow(self._target, self._interval)
        queue.put(self.clock.now(), m)
        self._waiting += 1
        if number not in self._new and number not in self._old:
            queue.deficit = self.quantum
            self._new[number] = queue
        if self._waiting > self.limit:
            self._relieve()
        return 0

    def _relieve(self) -> None:
        """Drop half of the longest queue, by octets, from its head."""
        longest = max(self._queues.values(), key=lambda queue: queue.octets)
        for _ in range(min(self.BATCH, max(1, len(longest.frames) // 2))):
            longest.take()
            longest.count += 1  # CoDel is to be stricter with it from now on
            self._waiting -= 1
            self._drop("full")

    def _strike(self, m: Mbuf) -> Mbuf | None:
        if self.ecn and (marked := mark_ce(m)) is not None:
            self.marked += 1
            return marked
        self._drop("codel")
        return None

    def _next(self) -> Mbuf | None:
        now = self.clock.now()
        while True:
            schedule = self._new or self._old
            if not schedule:
                return None
            number, queue = next(iter(schedule.items()))
            if queue.deficit <= 0:
                queue.deficit += self.quantum
                del schedule[number]
                self._old[number] = queue
                continue
            before = len(queue.frames)
            m = queue.next(now, self._strike)
            self._waiting -= before - len(queue.frames)
            if m is not None:
                queue.deficit -= len(m) - PKTHDR
                return m
            del schedule[number]
            if schedule is self._new:  # one more turn as an old one, or a thin flow would starve the others
                self._old[number] = queue

    def _clear(self) -> int:
        count, self._waiting = self._waiting, 0
        self._queues.clear()
        self._new.clear()
        self._old.clear()
        return count

    def _count(self) -> int:
        return self._waiting


class Red(Altq):
    """Random early detection (S. Floyd, V. Jacobson, IEEE/ACM ToN 1(4), 1993; ``altq_red.c``).

    The average length, in frames, is weighted by ``weight`` at each arrival. Below
    ``low`` all frames are taken; from there to ``high`` they are turned away with a
    probability that rises to ``probability``, spread so that losses do not come in
    bunches; from ``high`` on all are, or with ``gentle`` ever more up to twice that. A
    queue that was idle for some time is taken to have sent an empty frame every
    ``frame_time`` seconds of it. ``limit`` is the most that waits in any case.
    """

    def __init__(
        self,
        clock: Clock,
        random: Random,
        *,
        low: float = 5,
        high: float = 15,
        probability: float = 0.1,
        weight: float = 0.002,
        limit: int = 60,
        gentle: bool = False,
        ecn: bool = False,
        frame_time: float = 0.001,
    ) -> None:
        super().__init__()
        if not 0 <= low < high or not 0 < probability <= 1 or not 0 < weight <= 1:
            raise ValueError(
                f"RED with low={low}, high={high}, probability={probability}, weight={weight}: "
                "low is below high, the others are above 0 and at most 1"
            )
        if limit < 1 or not frame_time > 0:
            raise ValueError(f"RED with limit={limit}, frame_time={frame_time}: both are above 0")
        self.clock = clock
        self.random = random
        self.low, self.high, self.probability, self.weight = low, high, probability, weight
        self.limit = limit
        self.gentle = gentle
        self.ecn = ecn
        self.frame_time = frame_time
        self.average = 0.0
        """Of the length, in frames."""
        self._since = 0
        """Frames taken since the last that was struck, or since the average was low."""
        self._idle_since: float | None = clock.now()
        self._frames: deque[Mbuf] = deque()

    def enqueue(self, m: Mbuf) -> int:
        """Put a frame at the tail, or not."""
        self._reckon()
        if self._strikes():
            marked = mark_ce(m) if self.ecn and self.average < self.high else None
            if marked is None:
                return self._refuse("red")
            self.marked += 1
            m = marked
        if len(self._frames) >= self.limit:
            self._since = 0
            return self._refuse("full")
        self._frames.append(m)
        return 0

    def _reckon(self) -> None:
        if self._idle_since is not None:
            idle = (self.clock.now() - self._idle_since) / self.frame_time
            self.average *= (1 - self.weight) ** idle
            self._idle_since = None
        self.average += self.weight * (len(self._frames) - self.average)

    def _strikes(self) -> bool:
        average = self.average
        if average < self.low:
            self._since = 0
            return False
        if average < self.high:
            base = self.probability * (average - self.low) / (self.high - self.low)
        elif self.gentle and average < 2 * self.high:
            base = self.probability + (1 - self.probability) * (average - self.high) / self.high
        else:
            self._since = 0
            return True
        left = 1 - self._since * base
        if left > 0 and self.random.random() >= base / left:
            self._since += 1
            return False
        self._since = 0
        return True

    def _next(self) -> Mbuf | None:
        if not self._frames:
            return None
        m = self._frames.popleft()
        if not self._frames:
            self._idle_since = self.clock.now()
        return m

    def _clear(self) -> int:
        count = len(self._frames)
        self._frames.clear()
        self._idle_since = self.clock.now()
        return count

    def _count(self) -> int:
        return len(self._frames)


# the regulator


class TokenBucketRegulator:
    """Lets a send queue go at ``rate`` bits a second, with bursts of ``depth`` octets (``tbr_dequeue``).

    A frame may leave while there is any token; it takes as many as it has octets, so
    the bucket may be overdrawn by one frame. When frames wait for tokens the driver is
    started as soon as there are some.
    """

    def __init__(self, clock: Clock, rate: float, depth: int) -> None:
        if not 0 < rate < math.inf or depth < 1:
            raise ValueError(
                f"a regulator of {rate} bits a second and {depth} octets: both are above 0; ten megabits are 10e6"
            )
        self.clock = clock
        self.rate = rate
        self.depth = depth
        self._tokens = float(depth)
        self._last = clock.now()
        self._ifp: Ifnet | None = None
        self._timer: Timer | None = None

    def attach(self, ifp: Ifnet) -> TokenBucketRegulator:
        """Regulate the send queue of ``ifp``; return itself. Raises EBUSY when another one does."""
        other = ifp.if_snd.altq_tbr
        if other is not None and other is not self:
            raise refuse(errno.EBUSY, f"{ifp.if_xname}: the send queue has a regulator; detach it first")
        self._ifp = ifp
        ifp.if_snd.tbr_set(self, self.dequeue)
        return self

    def detach(self) -> None:
        """Regulate no more, and let what waits go; nothing happens when it does not."""
        ifp, self._ifp = self._ifp, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if ifp is not None and ifp.if_snd.altq_tbr is self:
            ifp.if_snd.tbr_set(None, None)
            self._start(ifp)

    def dequeue(self, ifq: Ifqueue, look: bool) -> Mbuf | None:
        """Give the next frame of ``ifq`` if there are tokens, or only look at it."""
        now = self.clock.now()
        self._tokens = min(self.depth, self._tokens + (now - self._last) * self.rate / 8)
        self._last = now
        if self._tokens <= 0:
            self._wait(ifq)
            return None
        if look:
            return ifq.poll_unregulated()
        m = ifq.dequeue_unregulated()
        if m is not None:
            self._tokens -= len(m) - PKTHDR
        return m

    def _wait(self, ifq: Ifqueue) -> None:
        if self._timer is None and len(ifq):
            # an octet more than none: tokens are reckoned in floating point
            need = (1e-6 - self._tokens) * 8 / self.rate
            self._timer = self.clock.call_at(self._last + need, self._again)

    def _again(self) -> None:
        self._timer = None
        ifp = self._ifp
        if ifp is not None:
            self._start(ifp)

    @staticmethod
    def _start(ifp: Ifnet) -> None:
        if len(ifp.if_snd) and not ifp.if_drv_flags & IFF.OACTIVE:
            ifp.if_start()
