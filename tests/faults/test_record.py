"""A run's record, and the same decisions again from it."""

from __future__ import annotations

import gc
import json
import random
import stat
import weakref

import pytest

from iflab import __version__
from iflab.faults import (
    Corrupt,
    Cut,
    Delay,
    Duplicate,
    Fault,
    FaultError,
    Faults,
    GilbertElliott,
    LoseEvery,
    LoseFrames,
    Loss,
    Measured,
    Mtu,
    Rate,
    Record,
    RecordError,
    Reorder,
    Stream,
    Table,
    Truncate,
)
from iflab.faults.kinds import fault_of
from iflab.net import ManualClock
from iflab.wire import Segment

from ..wire.ports import plugged
from .bed import Bed, numbered

EVERYTHING = (
    Loss(0.1, correlation=0.3),
    GilbertElliott(0.05, 0.4),
    Duplicate(0.2, copies=2),
    Corrupt(0.3, bits=2),
    Truncate(0.2),
    Rate(2e5, frames=4),
    Reorder(0.1, gap=3),
    Delay(0.02, jitter=0.01, spread="pareto", correlation=0.2),
)


class Decided:
    """What was decided, without its moment."""

    def __init__(self, bed: Bed) -> None:
        self.all: list[tuple] = []
        bed.faults.listeners.append(
            lambda s: self.all.append((s.direction, s.frame, s.copy, type(s.fault).__name__, s.decision))
        )

    def sorted(self) -> list[tuple]:
        return sorted(self.all, key=repr)


def traffic(bed: Bed, timing: random.Random, longest: float, count: int = 400) -> None:
    """The same frames both ways, at moments of chance."""
    for number in range(1, count + 1):
        bed.send(1, octets=60 + number % 200)
        if number % 2:
            bed.b.end.send(numbered(number))
        bed.clock.advance(timing.random() * longest)
    bed.clock.advance(100)


def test_a_replay_decides_the_same_whatever_the_timing(tmp_path):
    path = tmp_path / "run.record"
    bed = Bed(seed=42)
    bed.b.then = lambda m: None
    bed.faults.record(path)
    first = Decided(bed)
    bed.cable.impair(*EVERYTHING)
    traffic(bed, random.Random(1), 0.002)
    bed.faults.close()
    assert {kind for *_, kind, _ in first.all} == {type(fault).__name__ for fault in EVERYTHING}

    # three times as slow: live, the queue would never be full; and another seed
    record = Record.read(path)
    again = Bed(seed=7, replay=record)
    again.b.then = lambda m: None
    second = Decided(again)
    again.cable.impair(*EVERYTHING)
    traffic(again, random.Random(2), 0.05)

    assert second.sorted() == first.sorted()
    assert sorted(again.b.mbufs) == sorted(bed.b.mbufs)
    assert again.cable.account().dropped == bed.cable.account().dropped
    assert again.cable.account().dropped["queue full"] > 0
    again.check()


def test_the_record_of_a_replay_says_what_the_first_one_said(tmp_path):
    """Whenever the replay's own calls come: too late, too early, or for something else."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))

    def run(path, replay, timing):
        bed = Bed(seed=3, replay=None if replay is None else Record.read(replay))
        bed.b.then = lambda m: None
        bed.faults.record(path)
        bed.send(5 if replay is None else 25)
        bed.cable.impair(*EVERYTHING)
        traffic(bed, random.Random(timing), 0.002, count=100)
        bed.cable.impair(Delay(0.01, jitter=0.005), LoseEvery(4), towards=bed.b)
        bed.send(30, gap=0.001)
        bed.faults.close()
        return bed

    run(one, None, 1)
    replays = [run(two, one, 2), run(three, two, 3)]
    first, *others = (Record.read(path) for path in (one, two, three))

    for record, replay in zip(others, replays, strict=True):
        assert replay.faults.replayed == replay.faults.replay.decisions >= first.decisions
        for direction, history in first.histories.items():
            again = record.histories[direction]
            assert [each for each in again.settings if each[0] < history.last] == history.settings
            assert {key: value for key, value in again.decisions.items() if key[0] <= history.last} == (
                history.decisions
            )
    # behind the end of the first record it is this run's own calls that count
    beyond = others[0].histories["cable0", "a", "b"]
    assert beyond.last == first.histories["cable0", "a", "b"].last + 20
    assert beyond.faults(beyond.last) == (LoseEvery(4), Delay(0.01, jitter=0.005))


def test_what_a_full_queue_refuses_changes_nothing_for_the_frames_behind_it():
    """Memory of what was before (gaps, correlations) counts every frame, so that the seed decides whatever the timing."""

    def run(gap):
        bed = Bed(
            Rate(1e5, frames=3),
            Delay(0.05, jitter=0.02, correlation=0.8),
            Reorder(0.4, gap=3, correlation=0.5),
            seed=8,
        )
        decided = Decided(bed)
        bed.send(600, gap=gap)
        bed.clock.advance(10)
        return bed, {(frame, kind): what for _, frame, _, kind, what in decided.all if kind != "Rate"}

    fast, quick = run(0.002)
    slow, calm = run(0.01)

    assert fast.cable.account().dropped["queue full"] > 100
    assert not slow.cable.account().dropped
    assert len(quick) < len(calm) == 600
    assert quick.items() <= calm.items()


def test_without_a_record_the_same_seed_decides_the_same(tmp_path):
    runs = []
    for timing in (1, 2):
        bed = Bed(*[f for f in EVERYTHING if not isinstance(f, Rate)], seed=42)
        bed.b.then = lambda m: None
        decided = Decided(bed)
        traffic(bed, random.Random(timing), 0.01)
        runs.append(decided.sorted())

    assert runs[0] == runs[1]
    assert len(runs[0]) > 400


def test_changes_are_replayed_at_the_frame_at_which_they_were_made(tmp_path):
    path = tmp_path / "run.record"
    bed = Bed(seed=5)
    bed.faults.record(path)
    bed.send(10)
    bed.cable.impair(LoseEvery(2), towards=bed.b)
    bed.send(7)
    bed.cable.impair(LoseEvery(3), towards=bed.b)
    bed.send(9)
    bed.cable.impair()
    bed.send(4)
    bed.faults.close()
    lost = bed.lost
    assert lost == {12, 14, 16, 20, 23, 26}

    again = Bed(seed=5, replay=Record.read(path))
    again.send(26)  # late: nobody has set any fault yet
    again.cable.impair(Cut(), towards=again.b)  # frames 27 to 30 are in the record, and had none
    again.send(6)

    assert again.lost == lost | {31, 32}  # from then on what is set here
    again.check()


def test_a_run_that_was_killed_can_be_replayed_as_far_as_it_went(tmp_path):
    path = tmp_path / "run.record"
    bed = Bed(seed=5)
    recorder = bed.faults.record(path)
    bed.cable.impair(Loss(0.5), towards=bed.b)
    bed.send(100)
    recorder.close()  # no last line
    lines = path.read_bytes()
    path.write_bytes(lines[: len(lines) - 5])

    record = Record.read(path)
    assert record.ended is None
    again = Bed(seed=5, replay=record)
    again.send(50)
    again.cable.impair(Loss(0.5), towards=again.b)
    again.send(50)

    assert {n for n in again.lost if n <= max(bed.lost) - 5} == {
        n for n in bed.lost if n <= max(bed.lost) - 5
    }


def test_each_sender_of_a_hub_is_replayed_by_itself(tmp_path):
    def run(replay, order):
        clock = ManualClock()
        hub = Segment(clock, "hub0")
        faults = Faults(clock, 3, replay=replay)
        faults.adopt(hub)
        a, b, c = plugged(hub, "abc")
        if replay is None:
            faults.record(tmp_path / "run.record")
        hub.impair(Loss(0.4), towards=c)
        numbers = dict.fromkeys("ab", 0)
        for sender in order:
            numbers[sender] += 1
            {"a": a, "b": b}[sender].send(f"{sender}{numbers[sender]}")
        faults.close()
        return sorted(c.texts)

    first = run(None, "ab" * 100)
    second = run(Record.read(tmp_path / "run.record"), "a" * 100 + "b" * 100)

    assert second == first
    assert 80 < len(first) < 160


def test_the_record_says_what_ran(tmp_path):
    path = tmp_path / "run.record"
    path.touch(0o644)  # also one that was there and everybody's
    bed = Bed(seed=9)
    bed.faults.record(path, {"scenario": "x", "parameters": {"loss": 0.5}})
    bed.cable.impair(LoseFrames(2), towards=bed.b)
    bed.clock.advance(1.5)
    bed.send(3)
    bed.faults.note("cable0: cut", bed.cable)
    bed.faults.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    about = lines[0]
    assert (about["seed"], about["scenario"], about["parameters"]) == (9, "x", {"loss": 0.5})
    assert about["versions"]["iflab"] == __version__
    assert set(about["versions"]) == {"iflab", "python", "kernel"}
    direction = {"direction": 0, "wire": "cable0", "from": "a", "to": "b"}
    assert direction in lines
    assert [101.5, 0, 2, 0, "loseframes", True] in lines
    assert {"at": 101.5, "note": "cable0: cut", "sent": {"a": 3, "b": 0}} in lines
    assert lines[-1] == {"end": 101.5, "frames": {"0": 3}}
    record = Record.read(path)
    assert (record.seed, record.decisions, record.notes) == (9, 1, [(101.5, "cable0: cut")])


@pytest.mark.parametrize(
    "fault",
    [
        *EVERYTHING,
        Cut(),
        Mtu(1400),
        LoseEvery(3),
        LoseFrames(5, range(9, 12)),
        Corrupt(0.1, octets=2, within=(3, 9)),
        Corrupt(0.1, field="IP.ttl"),
        Rate(1e6, burst=5000, frames=None, latency=0.1, overhead=24),
        Delay(0.1, spread=Measured.of([0.2, 0.1])),
        Delay(0.1, jitter=0.2, spread=Table((-1.0, 1.0)), keep_order=True),
    ],
    ids=repr,
)
def test_a_fault_survives_being_written(fault: Fault):
    assert fault_of(json.loads(json.dumps(fault.as_dict()))) == fault


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is empty"),
        ("hello\n", "line 1 is no line"),
        ("{}\n", "no record of format 1"),
        ('{"iflab record": 2, "seed": 1}\n', "no record of format 1"),
        ('{"iflab record": 1}\n', "line 1 is no line"),
        ('{"iflab record": 1, "seed": 1}\n[1, 0, 1, 0, "loss", true]\n', "line 2 is no line"),
        ('{"iflab record": 1, "seed": 1}\n[1]\n', "line 2 is no line"),
        ('{"iflab record": 1, "seed": 1}\n7\n', "line 2 is no line"),
        (
            '{"iflab record": 1, "seed": 1}\n{"direction": 0, "wire": "w", "from": "a", "to": "b"}\n'
            '{"set": 0, "after": 0, "faults": [{"fault": "Gremlin"}]}\n',
            "line 3",
        ),
    ],
)
def test_what_is_no_record_is_refused_with_its_line(tmp_path, content, text):
    path = tmp_path / "x.record"
    path.write_text(content)
    with pytest.raises(RecordError, match=text):
        Record.read(path)


def test_a_fault_that_nobody_knows_is_refused():
    with pytest.raises(FaultError, match="there are Cut"):
        fault_of({"fault": "Gremlin"})
    with pytest.raises(FaultError, match="no parameters for Loss"):
        fault_of({"fault": "Loss", "chance": 1})


def test_frames_are_counted_on_when_other_nics_of_the_name_are_plugged_in(tmp_path):
    bed = Bed(seed=5)
    bed.faults.record(tmp_path / "one")
    bed.cable.impair(Loss(0.5))
    bed.send(20)
    bed.cable.unplug(bed.a)
    (bed.a,) = plugged(bed.cable, "a")
    bed.send(20)
    bed.cable.unplug(bed.b)
    plugged(bed.cable, "b")
    bed.send(20)
    bed.faults.close()

    history = Record.read(tmp_path / "one").histories["cable0", "a", "b"]
    assert history.last == 60
    assert {frame for frame, _, _ in history.decisions} == {
        n for n in range(1, 61) if Stream(5, "cable0|a|b|loss").seek(n).random() < 0.5
    }
    assert len(bed.faults._channels) == 2


def test_a_listener_that_fails_harms_no_frame(caplog):
    bed = Bed(Corrupt(1.0, within=(40, 41)))
    bed.faults.listeners.append(lambda struck: 1 / 0)
    bed.send(3)

    assert bed.numbers == [1, 2, 3]
    assert "a listener to faults failed" in caplog.text
    bed.check()


def test_a_record_may_begin_in_the_middle_and_another_follow_it(tmp_path):
    bed = Bed(Loss(0.5), seed=5)
    bed.send(20)
    bed.faults.record(tmp_path / "one")
    bed.send(20)
    bed.faults.record(tmp_path / "two")
    bed.send(20)
    bed.faults.close()

    one, two = (Record.read(tmp_path / name).histories["cable0", "a", "b"] for name in ("one", "two"))
    assert [after for after, _ in one.settings] == [20]
    assert {frame for frame, _, _ in one.decisions} == {n for n in bed.lost if 20 < n <= 40}
    assert {frame for frame, _, _ in two.decisions} == {n for n in bed.lost if n > 40}
    assert two.last == 60


def test_a_full_disk_ends_the_record_and_nothing_else(caplog):
    bed = Bed(seed=1)
    recorder = bed.faults.record("/dev/full")
    bed.cable.impair(Loss(0.5), towards=bed.b)
    bed.send(100)
    bed.faults.close()

    assert recorder.error is not None
    assert "the record /dev/full ends here: No space left on device" in caplog.text
    assert bed.numbers
    bed.check()


def test_of_a_port_that_is_gone_nothing_is_kept_but_numbers(tmp_path):
    """Unplugged, another one plugged in, and then gone for good: nobody may hold on to it."""
    bed = Bed(seed=5)
    bed.faults.record(tmp_path / "one")
    bed.cable.impair(Loss(0.5), Delay(0.01))
    bed.send(20)
    bed.clock.advance(1)
    bed.cable.unplug(bed.b)
    old = bed.b
    (bed.b,) = plugged(bed.cable, "c")
    bed.send(20)
    bed.clock.advance(1)
    bed.faults.forget(old)  # as a lab does when an interface is detached
    gone, old = weakref.ref(old), None
    gc.collect()
    assert gone() is None

    bed.cable.unplug(bed.b)
    plugged(bed.cable, "b")
    bed.cable.impair()
    bed.send(20)
    bed.faults.close()
    history = Record.read(tmp_path / "one").histories["cable0", "a", "b"]
    assert history.last == 60
    assert history.settings[-1] == (40, ())
