"""Faults of cables one by one, together, and changed while traffic flows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from iflab.faults import (
    Corrupt,
    Cut,
    Delay,
    Duplicate,
    FaultError,
    Faults,
    GilbertElliott,
    LoseEvery,
    LoseFrames,
    Loss,
    Measured,
    Mtu,
    Rate,
    Reorder,
    Stream,
    Table,
    Truncate,
)
from iflab.net import ManualClock, frame_of, mbuf
from iflab.wire import Cable, Segment, WireError

from ..wire.ports import Recorder, cabled, framed, plugged
from .bed import Bed, number_of, numbered

# one by one


def test_a_silent_cut_loses_one_direction_and_keeps_the_carrier():
    bed = Bed(Cut())
    bed.send(3)
    bed.b.end.send(numbered(9))

    assert (bed.numbers, len(bed.a.mbufs)) == ([], 1)
    assert bed.b.links == [True]
    assert bed.cable.account().dropped == {"cut": 3}
    bed.check()


@pytest.mark.parametrize(
    ("tags", "octets", "passes"), [(0, 1414, 1), (0, 1415, 0), (1, 1418, 1), (2, 1423, 0)]
)
def test_an_mtu_counts_neither_header_nor_tags(tags, octets, passes):
    bed = Bed(Mtu(1400))
    frame = bytes(12) + b"\x81\x00\x00\x05" * tags + b"\x08\x00"

    bed.a.end.send(mbuf(frame.ljust(octets, b"\0")))

    assert len(bed.b.mbufs) == passes
    assert bed.cable.account().dropped == ({} if passes else {"mtu": 1})


@pytest.mark.parametrize(
    "field", ["IP.ttl", "IP.src", "TCP.seq", "TCP.flags", "Ether.dst", "IP.ihl", "TCP.dport"]
)
def test_corruption_of_a_field_changes_one_bit_of_it_and_nothing_else(field):
    packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2")
    octets = bytes(packet / TCP(seq=7) / Raw(b"x" * 30))
    bed = Bed(Corrupt(1.0, field=field))
    bed.b.then = lambda m: None
    for _ in range(20):
        bed.a.end.send(mbuf(octets))

    where = {"IP.ttl": (22, 23), "IP.src": (26, 30), "TCP.seq": (38, 42), "TCP.flags": (46, 48)}
    where |= {"Ether.dst": (0, 6), "IP.ihl": (14, 15), "TCP.dport": (36, 38)}
    first, behind = where[field]
    for frame in bed.b.frames:
        differ = [at for at in range(len(octets)) if frame[at] != octets[at]]
        assert len(frame) == len(octets)
        assert len(differ) == 1
        assert first <= differ[0] < behind
        assert (frame[differ[0]] ^ octets[differ[0]]).bit_count() == 1
    assert len(set(bed.b.frames)) > 1


def test_a_frame_without_the_field_passes_as_it_is():
    bed = Bed(Corrupt(1.0, field="UDP.len"))
    bed.b.then = lambda m: None
    arp = bytes(
        Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
        / ARP(psrc="192.0.2.1", hwsrc="02:00:00:00:00:01")
    )

    bed.a.end.send(mbuf(arp))

    assert bed.b.frames == [arp]
    assert not bed.faults.counts


def test_octets_are_corrupted_within_a_range():
    bed = Bed(Corrupt(1.0, octets=4, within=(20, 30)))
    bed.b.then = lambda m: None
    bed.a.end.send(numbered(1))
    sound = frame_of(numbered(1))

    differ = [at for at in range(60) if bed.b.frames[0][at] != sound[at]]
    assert len(differ) == 4
    assert min(differ) >= 20
    assert max(differ) < 30


def test_truncation_to_a_length():
    bed = Bed(Truncate(1.0, octets=40))
    bed.send(1, octets=100)
    bed.send(1, octets=40)
    bed.send(1, octets=30)

    assert [len(frame) for frame in bed.b.frames] == [40, 40, 30]
    assert bed.faults.counts["cable0", "a", "b"] == {"truncate": 1}


def test_a_delay_is_exact_and_keeps_the_order():
    bed = Bed(Delay(0.5))
    bed.send(3, gap=0.1)
    bed.clock.advance(1)

    assert [(round(when, 9), n) for when, n in bed.arrived] == [(0.5, 1), (0.6, 2), (0.7, 3)]


def test_a_shorter_delay_does_not_let_frames_overtake():
    bed = Bed(Delay(0.5))
    bed.send(1)
    bed.cable.impair(Delay(0.1), towards=bed.b)
    bed.send(1)
    bed.clock.advance(1)

    assert [(round(when, 9), n) for when, n in bed.arrived] == [(0.5, 1), (0.5, 2)]


def test_jitter_reorders_unless_the_order_is_kept():
    loose, strict = Bed(Delay(0.1, jitter=0.1)), Bed(Delay(0.1, jitter=0.1, keep_order=True))
    for bed in (loose, strict):
        bed.send(100, gap=0.001)
        bed.clock.advance(1)

    assert sorted(loose.numbers) == strict.numbers == list(range(1, 101))
    assert loose.numbers != strict.numbers


def test_delays_add_up_with_the_wires_own():
    bed = Bed(Delay(0.5))
    bed.cable.set_delay(0.25)
    bed.send(1)
    bed.clock.advance(1)

    assert bed.arrived == [(0.75, 1)]
    bed.check()


# together


def test_a_copy_meets_what_follows_by_itself():
    bed = Bed(Delay(0.1, jitter=0.05), Duplicate(1.0, copies=3))
    bed.send(1)
    bed.clock.advance(1)

    times = [when for when, _ in bed.arrived]
    assert len(set(times)) == 4
    bed.check()


def test_the_order_of_faults_is_theirs_not_that_of_the_call():
    one, other = Bed(Duplicate(1.0), LoseFrames(2)), Bed(LoseFrames(2), Duplicate(1.0))
    for bed in (one, other):
        bed.send(3)

    assert one.numbers == other.numbers == [1, 1, 3, 3]


def test_two_losses_in_one_direction_both_lose():
    """The second counts what the first has left."""
    bed = Bed(LoseEvery(2), LoseFrames(1, [3]), Loss(0.0))
    bed.send(6)

    assert bed.numbers == [3]


def test_hooks_come_before_faults():
    bed = Bed(LoseFrames(1))
    bed.cable.add_hook(lambda frame: [frame.raw, frame.raw])
    bed.send(1)

    assert bed.numbers == [1]
    bed.check()


def test_directions_are_apart():
    bed = Bed()
    bed.cable.impair(LoseEvery(1), towards=bed.b)
    bed.cable.impair(Delay(1.0), towards=bed.a)
    bed.send(1)
    bed.b.end.send(numbered(5))

    assert (bed.numbers, bed.a.mbufs) == ([], [])
    bed.clock.advance(1)
    assert [number_of(frame) for frame in bed.a.frames] == [5]


# changed while traffic flows


def test_without_faults_frames_take_the_straight_way_again():
    bed = Bed(Delay(1.0))
    assert bed.a.end.straight_to is None
    bed.send(1)
    bed.cable.impair()
    bed.send(1)

    assert bed.a.end.straight_to is None  # nothing overtakes what is under way
    bed.clock.advance(1)
    assert bed.arrived == [(1.0, 1), (1.0, 2)]
    assert bed.a.end.straight_to is bed.b
    bed.send(1)
    assert bed.numbers == [1, 2, 3]
    bed.check()


def test_a_fault_that_stays_goes_on_where_it_was():
    bed = Bed(LoseEvery(3))
    bed.send(2)
    bed.cable.impair(LoseEvery(3), Delay(0.0), towards=bed.b)
    bed.send(2)

    assert bed.lost == {3}


def test_what_is_refused_changes_nothing():
    bed = Bed(LoseEvery(1))
    with pytest.raises(FaultError, match="Reorder without Delay"):
        bed.cable.impair(Reorder(0.1), towards=bed.b)
    bed.send(1)

    assert bed.lost == {1}
    assert bed.faults.of(bed.cable, bed.b) == (LoseEvery(1),)


@pytest.mark.parametrize("end", ["cut", "one way", "unplug receiver", "unplug sender"])
def test_what_is_under_way_is_lost_with_the_cable(end):
    bed = Bed(Rate(8000, frames=None), Delay(1.0, jitter=0.1))
    bed.send(20)
    bed.clock.advance(0.5)
    assert bed.cable.account().in_flight == 20

    if end == "cut":
        bed.cable.cut()
    elif end == "one way":
        bed.cable.cut(towards=bed.b)
    else:
        bed.cable.unplug(bed.b if end == "unplug receiver" else bed.a)
    bed.clock.advance(10)

    assert bed.numbers == []
    assert bed.cable.account().dropped == {"unplugged" if "unplug" in end else "cut": 20}
    bed.check()


def test_faults_outlast_a_plug():
    bed = Bed(LoseFrames(2))
    bed.send(1)
    bed.cable.unplug(bed.b)
    bed.cable.plug(bed.b)
    bed.send(2)

    assert bed.numbers == [1, 3]


def test_faults_of_every_way_hold_for_who_comes_later():
    clock = ManualClock()
    hub = Segment(clock, "hub0")
    faults = Faults(clock, 1)
    faults.adopt(hub)
    a, b = plugged(hub, "ab")
    hub.impair(LoseFrames(1))
    (c,) = plugged(hub, "c")
    a.send("x")
    b.send("y")
    a.send("z")

    assert (a.texts, b.texts, c.texts) == ([], ["z"], ["z"])
    assert hub.account().balances()


def test_on_a_hub_each_sender_has_numbers_of_its_own():
    clock = ManualClock()
    hub = Segment(clock, "hub0")
    Faults(clock, 1).adopt(hub)
    a, b, c = plugged(hub, "abc")
    hub.impair(LoseFrames(2), towards=c)
    for sender in (a, b, a, b, a):
        sender.send(sender.name)

    assert c.texts == ["a", "b", "a"]


def test_a_receiver_that_answers_at_once_harms_no_account():
    bed = Bed()
    bed.cable.impair(Duplicate(1.0))
    bed.b.then = lambda m: bed.b.end.send(m) if len(bed.b.mbufs) < 8 else None
    bed.a.then = lambda m: bed.a.end.send(m) if len(bed.a.mbufs) < 8 else None
    bed.send(1)

    assert len(bed.b.mbufs) >= 8
    assert bed.cable.account().in_flight == 0
    bed.check()


def test_a_receiver_that_raises_harms_only_its_frame():
    bed = Bed(Delay(0.1))
    bed.b.then = lambda m: 1 / 0
    bed.send(2)
    bed.clock.advance(1)

    assert bed.cable.account().dropped == {"receiver error": 2}


# repeatable


def test_what_happens_to_a_frame_depends_on_nothing_but_its_number():
    """Other faults, copies and gaps in time draw numbers of their own."""
    plain, busy = Bed(Loss(0.3)), Bed(Loss(0.3), Delay(0.1, jitter=0.1), Duplicate(0.5), Corrupt(0.5))
    busy.b.then = lambda m: None
    lost: set[int] = set()
    busy.faults.listeners.append(lambda s: lost.add(s.frame) if s.fault.cause == "loss" else None)
    plain.send(500)
    busy.send(500, gap=0.003)

    assert lost == plain.lost
    assert 100 < len(lost) < 200


def test_traffic_the_other_way_changes_nothing():
    one, other = Bed(Loss(0.3)), Bed(Loss(0.3))
    other.cable.impair(Loss(0.3), towards=other.a)
    for _ in range(200):
        one.send(1)
        other.b.end.send(numbered(0))
        other.send(1)

    assert one.lost == other.lost


def test_a_stream_is_the_same_from_any_place():
    stream = Stream(7, "x")
    first = [stream.seek(n).random() for n in range(50)]
    again = [stream.seek(n).random() for n in reversed(range(50))]

    assert first == again[::-1]
    assert len(set(first)) == 50
    assert all(0 <= x < 1 for x in first)
    assert stream.seek(3, 1).random() != first[3]
    assert Stream(8, "x").seek(3).random() != first[3]
    assert Stream(7, "y").seek(3).random() != first[3]
    assert stream.seek(1).getrandbits(200).bit_length() > 128
    assert sorted(stream.seek(4).sample(range(1000), 1000)) == list(range(1000))


def test_what_struck_is_told_in_words_with_the_frame():
    bed = Bed(
        Duplicate(1.0, copies=2),
        Corrupt(1.0, within=(50, 51)),
        Truncate(1.0, octets=55),
        Delay(0.5, jitter=0.1),
    )
    struck = []
    bed.faults.listeners.append(struck.append)
    bed.send(1)
    tapped = bed.a.end.flow.sent

    assert tapped == 1
    assert str(struck[0]) == "duplicated, 2 copies"
    assert str(struck[1]).startswith("corrupted: octet 50 ^ 0x")
    assert str(struck[2]) == "truncated to 55 octets"
    assert str(struck[3]).startswith("delayed by ")
    assert [s.copy for s in struck] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert struck[0].before is struck[0].after is struck[1].before
    assert struck[1].after is struck[2].before
    assert len(struck[2].after) == 65

    bed = Bed(LoseFrames(1), Rate(1e3, frames=1), Delay(0.0), Reorder(1.0))
    bed.faults.listeners.append(struck.append)
    del struck[:]
    bed.send(3)
    assert [str(s) for s in struck] == ["lost: loss", "overtakes", "lost: queue full"]


# refused


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Loss(5), "write 5 percent as 0.05"),
        (lambda: Loss(0.1, correlation=-1), "0 to 1"),
        (lambda: GilbertElliott(0.1, 2), "r of a Gilbert-Elliott model"),
        (lambda: Delay(-1), "0 or more seconds"),
        (lambda: Delay(float("inf")), "0 or more seconds"),
        (lambda: Delay(0.1, spread="gauss"), "use uniform, normal, pareto"),
        (lambda: Rate(0), "more than 0"),
        (lambda: Rate("10M"), "ten megabits are 10e6"),
        (lambda: Loss("5%"), "write 5 percent as 0.05"),
        (lambda: Delay("20ms"), "write 20 milliseconds as 0.02"),
        (lambda: Delay(0.1, jitter=None), "the jitter of a delay"),
        (lambda: Rate(1e6, frames=0), "1 or more"),
        (lambda: Rate(1e6, octets=5, latency=1), "the one follows from the other"),
        (lambda: LoseEvery(0), "1 or more"),
        (lambda: LoseFrames(0), "1 or more"),
        (lambda: Duplicate(0.5, copies=0), "1 or more"),
        (lambda: Corrupt(0.5, field="ttl"), "IP.ttl"),
        (lambda: Corrupt(0.5, octets=2, bits=3), "choose one"),
        (lambda: Corrupt(0.5, within=(4, 4)), "behind the last"),
        (lambda: Truncate(0.5, octets=3), "14 or more"),
        (lambda: Mtu(0), "1 or more"),
        (lambda: Measured.of([]), "no values"),
        (lambda: Measured.of([-1.0]), "0 or more seconds"),
        (lambda: Bed(Loss), "write Loss"),
        (lambda: Bed(Rate(1), Rate(2)), "one is all it takes"),
        (lambda: Bed(0.1), "no fault of a cable"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(make, text):
    with pytest.raises(FaultError, match=text):
        make()


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("ip.ttl", "'ip.ttl': scapy has loaded no layer 'ip'; did you mean IP\\?"),
        ("IP.tttl", "the layer IP has no field 'tttl'; it has chksum, dst, flags, frag, id"),
        ("Gremlin.x", "no layer 'Gremlin'; import the module of scapy.contrib that has it"),
    ],
)
def test_a_field_that_scapy_does_not_know_is_refused_when_it_is_set(field, text):
    bed = Bed(LoseEvery(1))
    with pytest.raises(FaultError, match=text):
        bed.cable.impair(Corrupt(0.5, field=field), towards=bed.b)

    assert bed.faults.of(bed.cable, bed.b) == (LoseEvery(1),)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Loss(0.1), "Loss(0.1)"),
        (Delay(0.02, jitter=0.005, spread="pareto"), "Delay(0.02, jitter=0.005, spread=pareto)"),
        (Delay(0.02, spread=Measured.of([0.1, 0.2])), "Delay(0.02, spread=Measured of 2 values)"),
        (Rate(10e6, burst=15_000, frames=None), "Rate(1e+07, burst=15000, frames=None)"),
        (LoseFrames(range(1, 13)), "LoseFrames(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … 2 more)"),
        (Corrupt(0.1, field="IP.ttl"), "Corrupt(0.1, field=IP.ttl)"),
        (Cut(), "Cut()"),
    ],
)
def test_a_fault_is_told_as_one_would_write_it(fault, text):
    assert str(fault) == text


def test_files_that_are_no_distributions_are_refused(tmp_path):
    for name, content, text in (
        ("a", "0.1 x", "no number"),
        ("b", "# nothing", "no values"),
        ("c", "nan", "infinite"),
        ("d", "-1", "0 or more"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(FaultError, match=text):
            Measured.read(tmp_path / name)
    (tmp_path / "e").write_text("0.5")
    with pytest.raises(FaultError, match=r"Measured\.read"):
        Table.read(tmp_path / "e")
    (tmp_path / "f").write_text("1 " * 16385)
    with pytest.raises(FaultError, match="16384 at most"):
        Table.read(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        Table.read(tmp_path / "none")


def test_a_wire_of_no_lab_and_a_stranger_are_refused():
    cable, _, _ = cabled()
    with pytest.raises(WireError, match="adopt"):
        cable.impair(Loss(0.1))
    bed = Bed()
    with pytest.raises(WireError, match="not plugged"):
        bed.cable.impair(Loss(0.1), towards=Recorder("stranger"))


# whatever comes


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                Loss(0.2),
                Loss(0.5, correlation=0.5),
                GilbertElliott(0.1, 0.3),
                Duplicate(0.3, copies=2),
                Corrupt(0.5, bits=4),
                Corrupt(0.5, field="IP.len"),
                Truncate(0.5),
                Delay(0.01, jitter=0.02, spread="pareto"),
                Mtu(100),
            ]
        ),
        max_size=5,
        unique_by=lambda f: (type(f), getattr(f, "field", None)),
    ),
    st.lists(st.tuples(st.binary(min_size=0, max_size=200), st.sampled_from([0, 0.003, 0.1])), max_size=30),
    st.sampled_from([None, Rate(1e5, frames=3), Rate(1e5, burst=150, octets=400)]),
)
def test_every_frame_is_accounted_for(faults, frames, rate):
    """Any octets, any faults: nothing is lost but by a named cause, nothing else arrives but copies."""
    bed = Bed(*faults, *([rate] if rate else []))
    bed.b.then = lambda m: None
    for octets, gap in frames:
        bed.a.end.send(mbuf(octets))
        bed.clock.advance(gap)
        bed.check()
    bed.clock.advance(100)

    flow = bed.cable.account()
    bed.check()
    assert flow.in_flight == 0
    assert flow.delivered == len(bed.b.mbufs)


def test_faults_see_frames_as_they_are_on_a_wire():
    """With a fault in the way nothing may be left undone on a frame."""
    clock = ManualClock()
    cable = Cable(clock, "cable0")
    Faults(clock, 1).adopt(cable)
    a, b = plugged(cable, "ab")
    b.takes = lambda sender: 3
    told: list[int] = []
    a.accepts_change = lambda: told.append(a.end.accepts)
    cable.impair(Loss(0.0), towards=b)
    cable.impair(Delay(0.1), towards=a)
    cable.impair(towards=b)

    assert told[-1] == 3
    cable.impair(Loss(0.0), towards=b)
    assert told[-1] == 0
    a.end.send(framed("x"))
    assert b.texts == ["x"]


def test_a_tagged_udp_frame_loses_its_port_only():
    octets = bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / Dot1Q(vlan=5)
        / IP(src="192.0.2.1", dst="192.0.2.2")
        / UDP(sport=1, dport=2)
        / Raw(b"y" * 20)
    )
    bed = Bed(Corrupt(1.0, field="UDP.sport"))
    bed.b.then = lambda m: None
    bed.a.end.send(mbuf(octets))

    differ = [at for at in range(len(octets)) if bed.b.frames[0][at] != octets[at]]
    assert len(differ) == 1
    assert differ[0] in (38, 39)
