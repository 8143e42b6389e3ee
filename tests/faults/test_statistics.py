"""100,000 frames through each fault: shares, bursts and delays are those of the parameters.

Each bound is that of the distribution: five standard deviations for shares and means,
Dvoretzky, Kiefer, Wolfowitz and Massart's for a distribution function. Seeds are
fixed, so what passes once passes always; ``test_a_wrong_parameter_is_noticed`` shows
that the bounds are no wider than they must be.
"""

from __future__ import annotations

import bisect
import glob
import itertools
import math
from collections import Counter
from statistics import NormalDist, fmean

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from iflab.faults import (
    Corrupt,
    Delay,
    Duplicate,
    GilbertElliott,
    LoseEvery,
    LoseFrames,
    Loss,
    Measured,
    Normal,
    Pareto,
    Reorder,
    Table,
    Truncate,
)
from iflab.net import mbuf

from .bed import FRAMES, SIGMAS, Bed, ks_bound, ks_distance, share_bound


def flags_of(bed: Bed) -> list[bool]:
    """Was the frame lost, for each frame."""
    arrived = set(bed.numbers)
    return [number not in arrived for number in range(1, bed.sent + 1)]


def lag_one(values: list[float]) -> float:
    """The correlation of each value with the next."""
    mean = fmean(values)
    own = fmean((x - mean) ** 2 for x in values)
    return fmean((x - mean) * (y - mean) for x, y in itertools.pairwise(values)) / own


def runs_of(flags: list[bool]) -> list[int]:
    """Lengths of the runs of true values."""
    return [len(list(group)) for value, group in itertools.groupby(flags) if value]


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5])
def test_independent_losses(probability):
    bed = Bed(Loss(probability))
    bed.send(FRAMES)
    flags = flags_of(bed)

    assert abs(sum(flags) / FRAMES - probability) < share_bound(probability)
    assert abs(lag_one(flags)) < SIGMAS / math.sqrt(FRAMES)  # the deviation of no correlation at all
    assert bed.cable.account().dropped == {"loss": sum(flags)}
    bed.check()


def test_correlated_losses_keep_their_share():
    """netem's do not: its losses of 10 % with a correlation of 50 % are 2 %."""
    probability, rho = 0.1, 0.5
    bed = Bed(Loss(probability, correlation=rho))
    bed.send(FRAMES)
    flags = flags_of(bed)

    # a chain with correlation rho^k at distance k: the sum's variance grows by (1 + rho) / (1 - rho)
    assert abs(sum(flags) / FRAMES - probability) < share_bound(probability, inflation=(1 + rho) / (1 - rho))
    # after a loss comes a loss with probability rho + (1 - rho) p: a binomial share among the losses
    after = rho + (1 - rho) * probability
    pairs = Counter(itertools.pairwise(flags))
    losses = pairs[True, True] + pairs[True, False]
    assert abs(pairs[True, True] / losses - after) < share_bound(after, losses)


def test_gilbert_loses_in_bursts():
    p, r = 0.01, 0.25
    bed = Bed(GilbertElliott(p, r))
    bed.send(FRAMES)
    flags = flags_of(bed)
    bursts = runs_of(flags)

    share, rho = p / (p + r), 1 - p - r
    assert GilbertElliott(p, r).loss == pytest.approx(share)
    assert abs(sum(flags) / FRAMES - share) < share_bound(share, inflation=(1 + rho) / (1 - rho))
    # bursts are geometric: mean 1 / r, variance (1 - r) / r²
    assert abs(fmean(bursts) - 1 / r) < SIGMAS * math.sqrt((1 - r) / r**2 / len(bursts))
    for length in (1, 2, 5):
        expected = (1 - r) ** (length - 1) * r
        found = sum(burst == length for burst in bursts) / len(bursts)
        assert abs(found - expected) < share_bound(expected, len(bursts))


def test_gilbert_elliott_loses_a_share_in_each_state():
    model = GilbertElliott(0.02, 0.1, bad_loss=0.6, good_loss=0.01)
    bed = Bed(model)
    bed.send(FRAMES)
    flags = flags_of(bed)

    bad, rho = 0.02 / 0.12, 1 - 0.12
    loss = bad * 0.6 + (1 - bad) * 0.01
    # covariance at distance k: bad (1 - bad) (0.6 - 0.01)² rho^k
    variance = loss * (1 - loss) + 2 * bad * (1 - bad) * 0.59**2 * rho / (1 - rho)
    assert abs(sum(flags) / FRAMES - loss) < SIGMAS * math.sqrt(variance / FRAMES)
    covariance = bad * (1 - bad) * 0.59**2 * rho
    expected = covariance / (loss * (1 - loss))
    # the pairs' products, correlated over about (1 + rho) / (1 - rho) frames
    assert abs(lag_one(flags) - expected) < SIGMAS * math.sqrt((1 + rho) / (1 - rho) / FRAMES)


def test_every_nth_and_the_frames_of_a_list_are_lost_exactly():
    bed = Bed(LoseEvery(7))
    bed.send(FRAMES)
    assert bed.lost == set(range(7, FRAMES + 1, 7))

    chosen = {1, 2, 17, 99_999}
    bed = Bed(LoseFrames(chosen))
    bed.send(FRAMES)
    assert bed.lost == chosen


@pytest.mark.parametrize("kind", [Duplicate, Corrupt, Truncate])
def test_what_is_correlated_keeps_its_share_and_repeats_as_often_as_said(kind):
    probability, rho = 0.2, 0.6
    bed = Bed(kind(probability, correlation=rho))
    flags = [False] * (FRAMES + 1)

    def strikes(struck):
        flags[struck.frame] = True

    bed.faults.listeners.append(strikes)
    bed.b.then = lambda m: None
    bed.send(FRAMES)
    del flags[0]

    assert abs(sum(flags) / FRAMES - probability) < share_bound(probability, inflation=(1 + rho) / (1 - rho))
    after = rho + (1 - rho) * probability
    pairs = Counter(itertools.pairwise(flags))
    hits = pairs[True, True] + pairs[True, False]
    assert abs(pairs[True, True] / hits - after) < share_bound(after, hits)


def test_duplicates():
    probability = 0.05
    bed = Bed(Duplicate(probability, copies=2))
    bed.send(FRAMES)

    times = Counter(Counter(bed.numbers).values())
    assert set(times) == {1, 3}
    assert abs(times[3] / FRAMES - probability) < share_bound(probability)
    flow = bed.cable.account()
    assert (flow.sent, flow.added, flow.delivered) == (FRAMES, 2 * times[3], FRAMES + 2 * times[3])
    bed.check()


def test_corrupted_bits_are_as_many_as_said_and_everywhere_alike():
    probability, octets = 0.2, 60
    bed = Bed(Corrupt(probability, bits=3))
    flipped: Counter[int] = Counter()
    bed.faults.listeners.append(
        lambda struck: flipped.update(
            8 * at + bit for at, mask in struck.decision for bit in range(8) if mask >> bit & 1
        )
    )
    bed.b.then = lambda m: None
    bed.send(FRAMES, octets=octets)

    corrupted = bed.faults.counts["cable0", "a", "b"]["corrupt"]
    assert abs(corrupted / FRAMES - probability) < share_bound(probability)
    assert flipped.total() == 3 * corrupted
    # each of 480 bits is among the 3 with the same probability; 480 bounds, so one sigma more
    each = 3 / (8 * octets)
    assert len(flipped) == 8 * octets
    worst = max(abs(count / corrupted - each) for count in flipped.values())
    assert worst < (SIGMAS + 1) * math.sqrt(each * (1 - each) / corrupted)


def test_corrupted_octets_get_any_other_value_anywhere_in_their_range():
    probability, first, behind = 0.3, 20, 36
    bed = Bed(Corrupt(probability, octets=2, within=(first, behind)))
    where: Counter[int] = Counter()
    masks: Counter[int] = Counter()

    def strikes(struck):
        assert len(struck.decision) == 2
        where.update(at for at, _ in struck.decision)
        masks.update(mask for _, mask in struck.decision)

    bed.faults.listeners.append(strikes)
    bed.b.then = lambda m: None
    bed.send(FRAMES)

    corrupted = masks.total() // 2
    assert abs(corrupted / FRAMES - probability) < share_bound(probability)
    assert set(where) == set(range(first, behind))
    each = 2 / (behind - first)
    worst = max(abs(count / corrupted - each) for count in where.values())
    assert worst < share_bound(each, corrupted)
    assert set(masks) == set(range(1, 256))  # never 0: that would be no corruption
    worst = max(abs(count / masks.total() - 1 / 255) for count in masks.values())
    assert worst < (SIGMAS + 1) * math.sqrt(1 / 255 / masks.total())  # 255 bounds, so one sigma more


def test_each_bit_of_a_field_is_flipped_as_often_as_the_others():
    """20,000 frames: scapy takes a tenth of a millisecond for each."""
    frames, probability = 20_000, 0.5
    bed = Bed(Corrupt(probability, field="IP.ttl"))
    octets = bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2")
    )
    flipped: Counter[tuple[int, int]] = Counter()
    bed.faults.listeners.append(lambda struck: flipped.update((at, mask) for at, mask in struck.decision))
    bed.b.then = lambda m: None
    for _ in range(frames):
        bed.a.end.send(mbuf(octets))

    assert abs(flipped.total() / frames - probability) < share_bound(probability, frames)
    assert set(flipped) == {(22, 1 << bit) for bit in range(8)}
    assert max(abs(n / flipped.total() - 1 / 8) for n in flipped.values()) < share_bound(
        1 / 8, flipped.total()
    )


def test_truncated_lengths_are_uniform():
    probability, octets = 0.5, 114
    bed = Bed(Truncate(probability))
    lengths: list[int] = []
    bed.b.then = lambda m: lengths.append(len(m) - 10)
    bed.send(FRAMES, octets=octets)

    short = [length for length in lengths if length < octets]
    assert abs(len(short) / FRAMES - probability) < share_bound(probability)
    assert (min(short), max(short)) == (14, octets - 1)
    # whole numbers in 14..113: the distance of a stepped function from its own steps
    found = Counter(short)
    seen, worst = 0, 0.0
    for length in range(14, octets):
        seen += found[length]
        worst = max(worst, abs(seen / len(short) - (length - 13) / (octets - 14)))
    assert worst < ks_bound(len(short))


def delays(delay: Delay, gap: float = 1.0) -> list[float]:
    """The delay of each of 100,000 frames, sent ``gap`` apart, as it was decided; checked against the clock for some."""
    bed = Bed(delay)
    decided: list[float] = []
    bed.faults.listeners.append(lambda struck: decided.append(struck.decision))
    bed.send(FRAMES)
    bed.clock.advance(1000)

    arrivals = {number: when for when, number in bed.arrived}
    assert len(decided) == FRAMES == len(arrivals)
    assert all(abs(arrivals[n] - decided[n - 1]) < 1e-9 for n in range(1, FRAMES + 1))
    bed.check()
    return decided


def test_uniform_jitter():
    found = delays(Delay(0.1, jitter=0.02))

    assert ks_distance(found, lambda x: min(1.0, max(0.0, (x - 0.08) / 0.04))) < ks_bound()


def test_normal_jitter():
    found = delays(Delay(0.1, jitter=0.01, spread="normal"))

    assert ks_distance(found, NormalDist(0.1, 0.01).cdf) < ks_bound()
    assert abs(fmean(found) - 0.1) < SIGMAS * 0.01 / math.sqrt(FRAMES)


def test_pareto_jitter():
    found = delays(Delay(0.1, jitter=0.01, spread="pareto"))

    def cdf(x: float) -> float:
        v = (x - 0.1) / 0.01 * 3 / 4 + 1.5
        return 0.0 if v <= 1 else 1 - v**-3 if v < 4.5 else 1.0

    # a part of the mass sits at the table's end: the distance is measured below it
    below = sorted(found)
    worst = max(
        max(abs((i + 1) / FRAMES - cdf(x)), abs(i / FRAMES - cdf(x)))
        for i, x in enumerate(below)
        if x < 0.1399
    )
    assert worst < ks_bound()
    tail = 4.5**-3
    assert abs(sum(x > 0.1399999 for x in found) / FRAMES - tail) < share_bound(tail)
    # mean of min(v, 4.5) for Pareto's v of shape 3: 1 + (1 - 4.5^-2) / 2
    mean = 0.1 + 0.01 * ((1 + (1 - 4.5**-2) / 2) - 1.5) * 4 / 3
    second = 1 + 2 * (1 - 1 / 4.5)
    deviation = 0.01 * 4 / 3 * math.sqrt(second - (1 + (1 - 4.5**-2) / 2) ** 2)
    assert abs(fmean(found) - mean) < SIGMAS * deviation / math.sqrt(FRAMES)


def test_correlated_jitter_keeps_its_distribution():
    rho = 0.75
    found = delays(Delay(0.1, jitter=0.01, spread="normal", correlation=rho))

    # a process with correlation rho^k: as if there were (1 - rho) / (1 + rho) times as many frames
    fewer = int(FRAMES * (1 - rho) / (1 + rho))
    assert ks_distance(found, NormalDist(0.1, 0.01).cdf) < ks_bound(fewer)
    # Bartlett: the variance of the correlation of such a process is (1 - rho²) / n
    assert abs(lag_one(found) - rho) < SIGMAS * math.sqrt((1 - rho**2) / FRAMES)


def test_measured_delays_come_as_often_as_they_were_measured(tmp_path):
    path = tmp_path / "rtts"
    path.write_text("# seconds\n0.010 0.010 0.010\n0.020\n0.5 # once\n")
    found = delays(Delay(0.001, spread=Measured.read(path)))

    shares = Counter(round(x, 6) for x in found)
    assert set(shares) == {0.011, 0.021, 0.501}
    for value, share in ((0.011, 0.6), (0.021, 0.2), (0.501, 0.2)):
        assert abs(shares[value] / FRAMES - share) < share_bound(share)


def test_a_table_of_tc_is_in_standard_deviations(tmp_path):
    path = tmp_path / "two.dist"
    path.write_text("# a coin\n-8192 8192\n")
    found = delays(Delay(0.1, jitter=0.02, spread=Table.read(path)))

    shares = Counter(round(x, 6) for x in found)
    assert set(shares) == {0.08, 0.12}
    assert abs(shares[0.08] / FRAMES - 0.5) < share_bound(0.5)


@pytest.mark.parametrize(("name", "ours"), [("normal", Normal()), ("pareto", Pareto())])
def test_distributions_are_those_of_the_tables_that_netem_uses(name, ours):
    """iproute2's own files, value by value; between the tails, where its tables have their own ends."""
    paths = [
        p
        for folder in ("/usr/lib/*/tc", "/usr/lib/tc", "/usr/share/tc")
        for p in glob.glob(f"{folder}/{name}.dist")
    ]
    if not paths:
        pytest.skip("iproute2's tables are not installed: apt install iproute2")
    values = Table.read(paths[0]).values
    n = len(values)

    apart = [abs(ours.at((i + 0.5) / n) - value) for i, value in enumerate(values)]

    assert max(apart[n // 50 : -n // 50]) < 0.02
    assert max(apart) < 0.5
    assert abs(ours.at(0.0) - values[0]) < 0.01
    assert fmean(values) == pytest.approx(fmean(ours.at((i + 0.5) / n) for i in range(n)), abs=0.002)


def test_the_measured_distribution_of_iproute2_can_be_used():
    paths = glob.glob("/usr/lib/*/tc/experimental.dist") + glob.glob("/usr/lib/tc/experimental.dist")
    if not paths:
        pytest.skip("iproute2's tables are not installed: apt install iproute2")
    table = Table.read(paths[0])
    found = delays(Delay(0.1, jitter=0.01, spread=table))

    # the distance of the stepped function from its own steps: every value is one of 4,096
    ordered, n = sorted(found), len(table.values)
    steps = [0.1 + 0.01 * value for value in table.values]
    worst = max(
        abs(
            bisect.bisect_right(ordered, step + 1e-12) / FRAMES - bisect.bisect_right(steps, step + 1e-12) / n
        )
        for step in steps
    )
    assert worst < ks_bound()


def test_reordering_with_a_gap():
    """At the earliest every fifth may overtake, and then it does with probability 1/4."""
    gap, probability = 5, 0.25
    bed = Bed(Delay(10.0), Reorder(probability, gap=gap))
    bed.send(FRAMES)
    early = list(bed.numbers)
    bed.clock.advance(10)

    assert len(bed.arrived) == FRAMES
    distances = [b - a for a, b in itertools.pairwise([0, *early])]
    assert min(distances) >= gap
    # from one to the next: gap - 1 frames, and then a geometric number of tries
    mean, deviation = gap - 1 + 1 / probability, math.sqrt(1 - probability) / probability
    assert abs(fmean(distances) - mean) < SIGMAS * deviation / math.sqrt(len(distances))
    assert bed.numbers[len(early) :] == sorted(set(range(1, FRAMES + 1)) - set(early))
    bed.check()


def test_correlated_reordering_keeps_its_share_and_comes_in_bunches():
    probability, rho = 0.2, 0.5
    bed = Bed(Delay(10.0), Reorder(probability, correlation=rho))
    bed.send(FRAMES)
    early = set(bed.numbers)
    flags = [number in early for number in range(1, FRAMES + 1)]

    assert abs(sum(flags) / FRAMES - probability) < share_bound(probability, inflation=(1 + rho) / (1 - rho))
    after = rho + (1 - rho) * probability
    pairs = Counter(itertools.pairwise(flags))
    hits = pairs[True, True] + pairs[True, False]
    assert abs(pairs[True, True] / hits - after) < share_bound(after, hits)


def test_a_wrong_parameter_is_noticed():
    bed = Bed(Loss(0.11))
    bed.send(FRAMES)

    assert abs(len(bed.lost) / FRAMES - 0.1) > share_bound(0.1)


def test_directions_faults_and_seeds_are_independent():
    """The losses of two streams coincide as often as chance has it."""

    def flags(fault: Loss, seed: int = 1, name: str = "cable0") -> list[bool]:
        bed = Bed(fault, seed=seed, name=name)
        bed.send(20_000)
        return flags_of(bed)

    one = flags(Loss(0.3))
    assert flags(Loss(0.3)) == one
    for other in (flags(Loss(0.3), seed=2), flags(Loss(0.3), name="cable1")):
        both = sum(x and y for x, y in zip(one, other, strict=True)) / 20_000
        assert abs(both - 0.09) < share_bound(0.09, 20_000)
