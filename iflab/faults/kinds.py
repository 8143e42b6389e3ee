"""The faults of a cable: what each is called, what its parameters mean, how it decides.

A fault here is a record of parameters and does nothing by itself; ``channel.py``
lets frames pass through those that are set for a direction. A frame meets them in
this order, whatever the order in which they were given:

=================  ==================================================================
``Cut``            nothing passes; the carrier stays, so nobody is told
``Mtu``            what is longer is lost
``Loss``           lost, each by itself
``GilbertElliott`` lost in bursts
``LoseEvery``      every n-th is lost
``LoseFrames``     those of a list are lost
``Duplicate``      copies are made; each meets what follows by itself
``Corrupt``        bits, octets or a field are changed
``Truncate``       the end is missing
``Rate``           a queue, and a token bucket at its end
``Reorder``        passes by the delay, and so overtakes
``Delay``          is under way for some time
=================  ==================================================================

The parameters mean what they mean to ``netem`` and ``tbf`` (tc-netem(8), tc-tbf(8),
net/sched/sch_netem.c, sch_tbf.c), in seconds, octets, bits a second and
probabilities from 0 to 1, with one exception: ``correlation``. netem mixes each
random number with the one before, which narrows their distribution, so that
``loss 10% 50%`` loses far less than 10 %. Here every parameter keeps its meaning and
the correlation is that of successive frames: of what happened or did not
(``Happening``), of the delays' quantiles (``Delay``).

What is decided for one frame is a small value that JSON can hold, so that it can be
recorded and decided again (``record.py``); None: nothing happens to it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from numbers import Real
from statistics import NormalDist
from typing import Any, ClassVar, Protocol

from iflab.net.ifnet import FRAME_MIN
from iflab.net.mbuf import PKTHDR, Mbuf

from .distribution import Distribution, distribution
from .errors import FaultError, check_count, check_probability, check_seconds
from .field import check_field, flip_in_field
from .stream import Stream

__all__ = [
    "Corrupt",
    "Cut",
    "Decide",
    "Decider",
    "Delay",
    "Does",
    "Duplicate",
    "Fault",
    "GilbertElliott",
    "LoseEvery",
    "LoseFrames",
    "Loss",
    "Mtu",
    "Rate",
    "Reorder",
    "Truncate",
    "fault_of",
    "in_order",
]

_VLAN = (b"\x81\x00", b"\x88\xa8")
_STANDARD = NormalDist()


class Does(Enum):
    """What a decision does to a frame."""

    LOSE = "lose"
    COPY = "copy"
    CHANGE = "change"
    HOLD = "hold"
    HASTEN = "hasten"
    DELAY = "delay"


class Decider(Protocol):
    """Decides for one direction of one cable, frame by frame; it may remember the frames before."""

    def __call__(self, stream: Stream, number: int, m: Mbuf) -> Any:
        """What becomes of frame ``number``; ``stream`` stands at its numbers. None: nothing."""


class Decide:
    """A decider that remembers nothing."""

    __slots__ = ("fn",)

    def __init__(self, fn: Decider) -> None:
        self.fn = fn

    def __call__(self, stream: Stream, number: int, m: Mbuf) -> Any:
        return self.fn(stream, number, m)


@dataclass(frozen=True, slots=True)
class Fault(ABC):
    """Base of all. Two faults with the same parameters are equal; none can be changed once made."""

    does: ClassVar[Does]
    cause: ClassVar[str]
    """Under which the frames that it loses, or strikes otherwise, are counted."""
    single: ClassVar[bool] = False
    """True: a direction has one of them at most."""

    @abstractmethod
    def decider(self) -> Decider:
        """Begin to decide for a direction."""

    def __str__(self) -> str:
        """As one would write it: without the parameters that are as they are anyway."""
        words = []
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Distribution):
                value = str(value)
            if each.default is MISSING:
                words.append(_short(value))
            elif value != each.default:
                words.append(f"{each.name}={_short(value)}")
        return f"{type(self).__name__}({', '.join(words)})"

    @property
    def is_recorded(self) -> bool:
        """False when every frame is struck alike, so that nothing need be written down."""
        return True

    def check(self) -> None:  # noqa: B027 - most have nothing to look up
        """Look up, when it is set, what nobody could know when it was made. Raises ``FaultError``."""

    def change(self, decision: Any, m: Mbuf) -> Mbuf:
        """The frame as a decision leaves it."""
        return m

    def tell(self, decision: Any) -> str:
        """A decision in words."""
        return f"lost: {self.cause}"

    def as_dict(self) -> dict[str, Any]:
        """What a record keeps of it; ``fault_of`` reads it again."""
        kept: dict[str, Any] = {"fault": type(self).__name__}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Distribution):
                value = value.as_dict()
            elif isinstance(value, frozenset):
                value = sorted(value)
            elif isinstance(value, tuple):
                value = list(value)
            kept[each.name] = value
        return kept


def _short(value: Any) -> str:
    if isinstance(value, frozenset):
        some = sorted(value)
        return ", ".join(map(str, some[:10])) + (f", … {len(some) - 10} more" if len(some) > 10 else "")
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else repr(value)


class _Happening:
    """Happens with a probability; correlated, it repeats with that probability what it did before.

    So the share of frames stays the probability, and the correlation of what happens
    to two frames in a row is the parameter: a Markov chain of two states.
    """

    __slots__ = ("before", "correlation", "probability")

    def __init__(self, probability: float, correlation: float) -> None:
        self.probability = probability
        self.correlation = correlation
        self.before: bool | None = None

    def __call__(self, stream: Stream) -> bool:
        if not self.correlation:
            return stream.random() < self.probability
        repeats = stream.random() < self.correlation
        if self.before is None or not repeats:
            self.before = stream.random() < self.probability
        return self.before


# lost


@dataclass(frozen=True, slots=True)
class Cut(Fault):
    """Nothing passes, and no carrier tells: a fibre of which the far end doesn't see that it is dark.

    A cut that both ends' NICs notice is ``wire.cut()``.
    """

    does = Does.LOSE
    cause = "cut"
    single = True

    def decider(self) -> Decider:
        """Lose all."""
        return Decide(lambda stream, number, m: True)


@dataclass(frozen=True, slots=True)
class Mtu(Fault):
    """What is longer than ``octets`` is lost, and nobody is told: a black hole.

    As with a NIC's MTU, the Ethernet header and up to two VLAN tags do not count.
    """

    octets: int

    does = Does.LOSE
    cause = "mtu"
    single = True

    def __post_init__(self) -> None:
        check_count("an MTU", self.octets)

    def decider(self) -> Decider:
        """Lose what is too long."""
        most = self.octets + PKTHDR + 14

        def too_long(stream: Stream, number: int, m: Mbuf) -> Any:
            if len(m) <= most:
                return None
            at = PKTHDR + 12
            while at < PKTHDR + 20 and m[at : at + 2] in _VLAN:
                at += 4
            return True if len(m) - at - 2 > self.octets else None

        return Decide(too_long)


@dataclass(frozen=True, slots=True)
class Loss(Fault):
    """Each frame is lost with ``probability`` (``netem loss random``)."""

    probability: float
    correlation: float = 0.0

    does = Does.LOSE
    cause = "loss"

    def __post_init__(self) -> None:
        check_probability("a loss", self.probability)
        check_probability("a correlation of losses", self.correlation)

    def decider(self) -> Decider:
        """Lose with the probability."""
        happens = _Happening(self.probability, self.correlation)
        return Decide(lambda stream, number, m: happens(stream) or None)


class _GilbertElliott:
    __slots__ = ("bad", "model")

    def __init__(self, model: GilbertElliott) -> None:
        self.model = model
        self.bad = False

    def __call__(self, stream: Stream, number: int, m: Mbuf) -> Any:
        model, bad = self.model, self.bad
        changes = stream.random() < (model.r if bad else model.p)
        lost = stream.random() < (model.bad_loss if bad else model.good_loss)
        self.bad = bad is not changes
        return lost or None


@dataclass(frozen=True, slots=True)
class GilbertElliott(Fault):
    """Losses in bursts: a good and a bad state with losses of their own (``netem loss gemodel p r 1-h 1-k``).

    ``p`` is the probability to go from good to bad at a frame, ``r`` to go back;
    ``bad_loss`` (1 - h) and ``good_loss`` (1 - k) those of losing a frame in either. In
    the long run ``p / (p + r)`` of all frames meet the bad state, ``1 / r`` in a row.

    E. O. Elliott, "Estimates of Error Rates for Codes on Burst-Noise Channels", 1963;
    with ``bad_loss`` 1 and ``good_loss`` 0 the simple Gilbert model.
    """

    p: float
    r: float
    bad_loss: float = 1.0
    good_loss: float = 0.0

    does = Does.LOSE
    cause = "loss"

    def __post_init__(self) -> None:
        for name in ("p", "r", "bad_loss", "good_loss"):
            check_probability(f"{name} of a Gilbert-Elliott model", getattr(self, name))

    @property
    def loss(self) -> float:
        """The share of frames that is lost in the long run."""
        if not self.p:
            return self.good_loss
        bad = self.p / (self.p + self.r)
        return bad * self.bad_loss + (1 - bad) * self.good_loss

    def decider(self) -> Decider:
        """Begin in the good state."""
        return _GilbertElliott(self)


class _Counting:
    __slots__ = ("count", "every")

    def __init__(self, every: int) -> None:
        self.every = every
        self.count = 0

    def __call__(self, stream: Stream, number: int, m: Mbuf) -> Any:
        self.count += 1
        return True if self.count % self.every == 0 else None


@dataclass(frozen=True, slots=True)
class LoseEvery(Fault):
    """Every ``n``-th frame is lost, of those that come to it since it was set."""

    n: int

    does = Does.LOSE
    cause = "loss"

    def __post_init__(self) -> None:
        check_count("the n of every n-th frame", self.n)

    def decider(self) -> Decider:
        """Count."""
        return _Counting(self.n)


class _Chosen:
    __slots__ = ("count", "frames")

    def __init__(self, frames: frozenset[int]) -> None:
        self.frames = frames
        self.count = 0

    def __call__(self, stream: Stream, number: int, m: Mbuf) -> Any:
        self.count += 1
        return True if self.count in self.frames else None


@dataclass(frozen=True, slots=True)
class LoseFrames(Fault):
    """The frames of a list are lost: 1 is the first one that comes to it after it was set."""

    frames: frozenset[int]

    does = Does.LOSE
    cause = "loss"

    def __init__(self, *frames: int | Iterable[int]) -> None:
        chosen: set[int] = set()
        for each in frames:
            chosen.update([each] if isinstance(each, int) else each)
        for number in chosen:
            check_count("the number of a frame to lose", number)
        object.__setattr__(self, "frames", frozenset(chosen))

    def decider(self) -> Decider:
        """Count."""
        return _Chosen(self.frames)


# more, and other than was sent


@dataclass(frozen=True, slots=True)
class Duplicate(Fault):
    """A frame is followed by ``copies`` of itself with ``probability`` (``netem duplicate``).

    Copies are not duplicated again by the same fault.
    """

    probability: float
    correlation: float = 0.0
    copies: int = 1

    does = Does.COPY
    cause = "duplicate"

    def __post_init__(self) -> None:
        check_probability("a duplication", self.probability)
        check_probability("a correlation of duplications", self.correlation)
        check_count("copies of a frame", self.copies)

    def decider(self) -> Decider:
        """Copy with the probability."""
        happens = _Happening(self.probability, self.correlation)
        return Decide(lambda stream, number, m: self.copies if happens(stream) else None)

    def tell(self, decision: Any) -> str:
        """A decision in words."""
        return "duplicated" if decision == 1 else f"duplicated, {decision} copies"


@dataclass(frozen=True, slots=True)
class Corrupt(Fault):
    """A frame is changed with ``probability`` (``netem corrupt``). Sums are not mended: finding out is the receiver's part.

    ``bits`` different bits are flipped; with ``octets`` so many octets get other
    values instead; with ``field``, such as ``"IP.ttl"`` or ``"TCP.seq"``, one bit of
    that field of scapy's, if the frame has it. ``within`` keeps the first two to the
    octets of a range ``(first, behind the last)`` of the frame. netem flips one bit.

    What is decided is a list of ``[octet, mask]``: the octet is XORed with the mask.
    """

    probability: float
    bits: int = 1
    octets: int = 0
    field: str = ""
    within: tuple[int, int] | None = None
    correlation: float = 0.0

    does = Does.CHANGE
    cause = "corrupt"

    def __post_init__(self) -> None:
        check_probability("a corruption", self.probability)
        check_probability("a correlation of corruptions", self.correlation)
        check_count("corrupted bits", self.bits)
        check_count("corrupted octets", self.octets, 0)
        if self.octets and self.bits != 1:
            raise FaultError("a corruption of bits and of octets: choose one, or set two faults")
        if self.field and (self.octets or self.bits != 1 or self.within):
            raise FaultError(
                f"a corruption of the field {self.field!r} flips one bit of it; leave out the rest"
            )
        if self.field and len(self.field.split(".")) != 2:
            raise FaultError(f"{self.field!r} is no field; write the layer and the field of scapy: IP.ttl")
        if self.within is not None:
            object.__setattr__(self, "within", (int(self.within[0]), int(self.within[1])))
            if not 0 <= self.within[0] < self.within[1]:
                raise FaultError(
                    f"a corruption within {self.within}: give the first octet and the one behind the last"
                )

    def check(self) -> None:
        """scapy must know the field, or nothing would ever be corrupted."""
        if self.field:
            check_field(self.field)

    def decider(self) -> Decider:
        """Corrupt with the probability."""
        happens = _Happening(self.probability, self.correlation)
        return Decide(lambda stream, number, m: (self._masks(stream, m) or None) if happens(stream) else None)

    def _masks(self, stream: Stream, m: Mbuf) -> list[list[int]]:
        if self.field:
            return flip_in_field(m[PKTHDR:], self.field, stream)
        first, behind = 0, len(m) - PKTHDR
        if self.within is not None:
            first, behind = self.within[0], min(self.within[1], behind)
        if first >= behind:
            return []
        if self.octets:
            chosen = stream.sample(range(first, behind), min(self.octets, behind - first))
            return [[at, stream.randrange(1, 256)] for at in sorted(chosen)]
        masks: dict[int, int] = {}
        for bit in stream.sample(range(8 * first, 8 * behind), min(self.bits, 8 * (behind - first))):
            masks[bit >> 3] = masks.get(bit >> 3, 0) | 1 << (bit & 7)
        return [[at, masks[at]] for at in sorted(masks)]

    def change(self, decision: Any, m: Mbuf) -> Mbuf:
        """Apply the masks; those behind the frame's end are left out."""
        changed = bytearray(m)
        for at, mask in decision:
            if PKTHDR + at < len(changed):
                changed[PKTHDR + at] ^= mask
        return bytes(changed)

    def tell(self, decision: Any) -> str:
        """A decision in words."""
        return "corrupted: " + ", ".join(f"octet {at} ^ {mask:#04x}" for at, mask in decision)


@dataclass(frozen=True, slots=True)
class Truncate(Fault):
    """The end of a frame is missing with ``probability``: all behind ``octets``, or behind a random place.

    At least the Ethernet header, 14 octets, is left. The length that is decided is
    that of the frame.
    """

    probability: float
    octets: int | None = None
    correlation: float = 0.0

    does = Does.CHANGE
    cause = "truncate"

    def __post_init__(self) -> None:
        check_probability("a truncation", self.probability)
        check_probability("a correlation of truncations", self.correlation)
        if self.octets is not None:
            check_count("octets that are left of a frame", self.octets, FRAME_MIN)

    def decider(self) -> Decider:
        """Truncate with the probability."""
        happens = _Happening(self.probability, self.correlation)

        def cut(stream: Stream, number: int, m: Mbuf) -> Any:
            length = len(m) - PKTHDR
            if not happens(stream) or length <= FRAME_MIN:
                return None
            left = stream.randrange(FRAME_MIN, length) if self.octets is None else self.octets
            return left if left < length else None

        return Decide(cut)

    def change(self, decision: Any, m: Mbuf) -> Mbuf:
        """Cut the end off."""
        return m[: PKTHDR + decision]

    def tell(self, decision: Any) -> str:
        """A decision in words."""
        return f"truncated to {decision} octets"


# later


class _Nothing:
    def __call__(self, stream: Stream, number: int, m: Mbuf) -> Any:
        return None


@dataclass(frozen=True, slots=True)
class Rate(Fault):
    """A token bucket with a queue before it (``tbf rate … burst … limit …``, or ``latency``).

    ``bits`` a second leave the queue in the long run, ``burst`` octets at once after
    a pause; a frame longer than the burst can never leave, and is lost with the cause
    "burst". Burst 0 is a line, as ``netem rate``: each frame takes the time of its own
    bits, and arrives with its last one.

    The queue holds ``frames`` frames and ``octets`` octets at most (None: any number),
    or what leaves within ``latency`` seconds, the burst besides. What comes when it is
    full is lost with the cause "queue full". ``overhead`` octets are added to each
    frame: 24 on Ethernet for preamble, check sequence and gap (IEEE 802.3, 3.1.1).
    """

    bits: float
    burst: int = 0
    frames: int | None = 1000
    octets: int | None = None
    latency: float | None = None
    overhead: int = 0

    does = Does.HOLD
    cause = "queue full"
    single = True

    def __post_init__(self) -> None:
        if not isinstance(self.bits, Real) or not 0 < self.bits < math.inf:
            raise FaultError(f"a rate of {self.bits!r} bits a second: use more than 0; ten megabits are 10e6")
        check_count("a burst in octets", self.burst, 0)
        check_count("an overhead in octets", self.overhead, 0)
        for name in ("frames", "octets"):
            if getattr(self, name) is not None:
                check_count(f"a queue's limit in {name}", getattr(self, name))
        if self.latency is not None:
            check_seconds("the latency of a queue", self.latency)
            if self.octets is not None:
                raise FaultError(
                    "a queue with a limit in octets and a latency: the one follows from the other"
                )

    @property
    def limit(self) -> float:
        """Octets that wait at most."""
        if self.octets is not None:
            return self.octets
        return math.inf if self.latency is None else self.bits / 8 * self.latency + self.burst

    def decider(self) -> Decider:
        """Decide nothing: what is lost depends on the queue (``shaper.py``)."""
        return _Nothing()

    def tell(self, decision: Any) -> str:
        """A decision in words."""
        return f"lost: {decision}"


class _Reordering:
    __slots__ = ("count", "gap", "happens")

    def __init__(self, fault: Reorder) -> None:
        self.gap = fault.gap
        self.happens = _Happening(fault.probability, fault.correlation)
        self.count = 0

    def __call__(self, stream: Stream, number: int, m: Mbuf) -> Any:
        if self.count < self.gap - 1 or not self.happens(stream):
            self.count += 1
            return None
        self.count = 0
        return True


@dataclass(frozen=True, slots=True)
class Reorder(Fault):
    """A frame is not delayed with ``probability``, and so overtakes those under way (``netem reorder … gap``).

    With a ``gap`` of n, n - 1 frames are delayed before one may overtake. It takes a
    ``Delay`` to overtake anything.
    """

    probability: float
    correlation: float = 0.0
    gap: int = 1

    does = Does.HASTEN
    cause = "reorder"
    single = True

    def __post_init__(self) -> None:
        check_probability("a reordering", self.probability)
        check_probability("a correlation of reorderings", self.correlation)
        check_count("the gap of a reordering", self.gap)

    def decider(self) -> Decider:
        """Count and choose."""
        return _Reordering(self)

    def tell(self, decision: Any) -> str:
        """A decision in words."""
        return "overtakes"


class _Scattering:
    """Quantiles of the delays: with a correlation, those of a first-order autoregressive process.

    A normal process keeps its distribution under correlation; its values' quantiles
    are uniform, and make delays of any distribution (a Gaussian copula).
    """

    __slots__ = ("fault", "fresh", "rho", "state")

    def __init__(self, fault: Delay) -> None:
        self.fault = fault
        self.rho = fault.correlation
        self.fresh = math.sqrt(1 - self.rho * self.rho)
        self.state: float | None = None

    def __call__(self, stream: Stream, number: int, m: Mbuf) -> Any:
        u = stream.random()
        if self.rho:
            z = _STANDARD.inv_cdf(u or 2.0**-54)
            self.state = z if self.state is None else self.rho * self.state + self.fresh * z
            u = min(_STANDARD.cdf(self.state), 1 - 2.0**-53)
        return self.fault.at(u)


@dataclass(frozen=True, slots=True)
class Delay(Fault):
    """Each frame is under way for ``seconds``, give or take ``jitter`` (``netem delay``).

    ``spread`` says how the jitter scatters (``distribution.py``): ``"uniform"`` within
    it, ``"normal"`` with it as standard deviation, ``"pareto"``, a ``Table`` of tc's, or
    ``Measured`` delays, which come on top of ``seconds`` without any jitter. A delay
    below 0 is 0. ``correlation`` is the rank correlation of successive frames' delays,
    nearly: that of the normal process from which they are made.

    With jitter a frame may overtake another, as in netem, unless ``keep_order``.
    """

    seconds: float
    jitter: float = 0.0
    spread: Distribution | str = "uniform"
    correlation: float = 0.0
    keep_order: bool = False

    does = Does.DELAY
    cause = "delay"

    def __post_init__(self) -> None:
        check_seconds("a delay", self.seconds)
        check_seconds("the jitter of a delay", self.jitter)
        check_probability("a correlation of delays", self.correlation)
        object.__setattr__(self, "spread", distribution(self.spread))

    @property
    def scatters(self) -> bool:
        """True when not every frame takes the same time."""
        spread = self.spread
        assert isinstance(spread, Distribution)
        return self.jitter > 0 or spread.in_seconds

    @property
    def is_recorded(self) -> bool:
        """False without jitter."""
        return self.scatters

    def at(self, u: float) -> float:
        """The delay in seconds below which a share ``u`` of all delays lies."""
        spread = self.spread
        assert isinstance(spread, Distribution)
        return max(0.0, self.seconds + (spread.at(u) if spread.in_seconds else self.jitter * spread.at(u)))

    def decider(self) -> Decider:
        """Scatter, or always the same."""
        if self.scatters:
            return _Scattering(self)
        return Decide(lambda stream, number, m: self.seconds)

    def tell(self, decision: Any) -> str:
        """A decision in words."""
        return f"delayed by {decision * 1000:.3f} ms"


_ORDER: tuple[type[Fault], ...] = (
    Cut,
    Mtu,
    Loss,
    GilbertElliott,
    LoseEvery,
    LoseFrames,
    Duplicate,
    Corrupt,
    Truncate,
    Rate,
    Reorder,
    Delay,
)


def in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """The faults in the order in which frames meet them. Raises ``FaultError`` for what cannot be together."""
    ranked = []
    for fault in faults:
        if not isinstance(fault, _ORDER):
            example = (
                f"{fault.__name__}(...)" if isinstance(fault, type) else "Loss(0.1), Delay(0.02) or the like"
            )
            raise FaultError(f"{fault!r} is no fault of a cable; write {example}")
        ranked.append(fault)
    ranked.sort(key=lambda fault: _ORDER.index(type(fault)))
    for kind in _ORDER:
        count = sum(type(fault) is kind for fault in ranked)
        if kind.single and count > 1:
            raise FaultError(f"{count} faults {kind.__name__} in one direction; one is all it takes")
    if any(isinstance(f, Reorder) for f in ranked) and not any(isinstance(f, Delay) for f in ranked):
        raise FaultError("Reorder without Delay: with nothing under way there is nothing to overtake")
    return tuple(ranked)


def fault_of(kept: Mapping[str, Any]) -> Fault:
    """The fault that a record keeps. Raises ``FaultError``."""
    kinds = {kind.__name__: kind for kind in _ORDER}
    parameters = dict(kept)
    kind = kinds.get(str(parameters.pop("fault", "")))
    if kind is None:
        raise FaultError(f"{kept!r} is no fault; there are {', '.join(kinds)}")
    try:
        if kind is LoseFrames:
            return LoseFrames(parameters["frames"])
        if kind is Corrupt and parameters.get("within") is not None:
            parameters["within"] = tuple(parameters["within"])
        if kind is Delay:
            parameters["spread"] = distribution(parameters["spread"])
        return kind(**parameters)
    except (TypeError, KeyError) as error:
        raise FaultError(f"{kept!r} has no parameters for {kind.__name__}: {error}") from None
