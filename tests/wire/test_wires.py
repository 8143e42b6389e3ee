"""Cables and segments where it gets difficult: re-entrance, nonsense, taps, hubs, and the account through it all."""

import itertools
import logging
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iflab.net import ManualClock, mbuf
from iflab.wire import Cable, Segment, WireError

from ..patience import PATIENCE
from .ports import Recorder, cabled, framed, hubbed, plugged

# cuts and plugs


def test_a_cut_cable_stays_cut_when_it_is_plugged_anew():
    cable, a, b = cabled()
    cable.cut()
    cable.unplug(b)
    cable.plug(b)

    a.send("x")

    assert b.texts == []
    assert b.links == [True, False]
    assert (a.end.up, cable.is_cut(b)) == (False, True)


def test_of_a_cut_cable_one_direction_can_be_mended():
    cable, a, b = cabled()
    cable.cut()

    cable.mend(towards=b)
    a.send("to b")
    b.send("to a")

    assert (a.texts, b.texts) == ([], ["to b"])
    assert (a.end.up, b.end.up) == (False, True)


def test_the_mended_direction_loses_nothing_when_the_other_is_cut():
    cable, a, b = cabled()
    cable.set_delay(1)
    a.send("x")
    b.send("y")

    cable.cut(towards=a)
    cable.clock.advance(1)

    assert (a.texts, b.texts) == ([], ["x"])
    assert cable.account().dropped == {"cut": 1}


def test_a_port_that_fails_at_its_link_change_harms_nobody_else(caplog):
    cable = Cable(ManualClock(), "cable0")
    a, b = Recorder("a"), Recorder("b")
    a.link_change = lambda up: 1 / 0
    cable.plug(a)

    cable.plug(b)
    a.send("x")

    assert b.links == [True]
    assert b.texts == ["x"]
    assert "cable0: a failed to take the change of its link" in caplog.text


def test_an_end_that_somebody_kept_loses_and_counts():
    cable, a, _ = cabled()
    end = a.end
    cable.unplug(a)

    end.send(framed("x"))

    assert cable.account().sent == 1
    assert cable.account().dropped == {"unplugged": 1}


def test_close_pulls_every_plug_and_a_port_is_free_again():
    cable, a, b = cabled()

    cable.close()
    plugged_again = Cable(cable.clock, "cable1").plug(a)

    assert (b.end, a.end) == (None, plugged_again)
    assert repr(cable) == "<Cable cable0: nothing>"


def test_every_change_is_told():
    cable, a, _ = cabled()
    told = []
    cable.on_change = lambda wire, what: told.append(f"{wire.name}: {what}")

    cable.cut()
    cable.mend(towards=a)
    cable.unplug(a)

    assert told == ["cable0: cut", "cable0: mended towards a", "cable0: a unplugged"]


def test_bad_delays_and_directions_are_refused():
    cable, _, b = cabled()
    stranger = Recorder("stranger")

    for seconds in (-0.1, float("nan"), float("inf")):
        with pytest.raises(WireError, match="use 0 or more seconds"):
            cable.set_delay(seconds)
    for act in (cable.cut, cable.mend):
        with pytest.raises(WireError, match="stranger is not plugged into cable0; plugged in: a, b"):
            act(towards=stranger)
    with pytest.raises(WireError, match="stranger is not plugged"):
        cable.add_hook(print, towards=stranger)

    assert cable.delay(b) == 0
    assert cable.hooks == []


# segments


def test_a_port_of_a_segment_is_isolated_both_ways():
    hub, (a, b, c) = hubbed("abc")

    hub.cut(c)
    a.send("from a")
    c.send("from c")
    hub.mend(c)
    c.send("again")

    assert (a.texts, b.texts, c.texts) == (["again"], ["from a", "again"], [])
    assert (a.links, c.links) == ([True], [True, False, True])
    assert hub.account().balances()
    assert hub.account().dropped == {"cut": 3}


def test_who_is_left_alone_on_a_segment_has_no_carrier():
    hub, (a, b) = hubbed("ab")

    hub.cut(b)

    assert (a.end.up, b.end.up) == (False, False)


def test_of_a_segment_cut_altogether_one_lead_can_be_mended():
    hub, (a, b, c) = hubbed("abc")
    hub.cut()
    hub.mend(a)
    assert [port.end.up for port in (a, b, c)] == [False, False, False]

    hub.mend(b)
    c.send("x")
    a.send("y")

    assert (a.texts, b.texts, c.texts) == ([], ["y"], [])


def test_an_isolated_port_loses_what_it_had_in_flight():
    hub, (a, b, c) = hubbed("abc")
    hub.set_delay(1)
    c.send("from c")
    a.send("from a")

    hub.cut(c)
    hub.clock.advance(1)

    assert (a.texts, b.texts, c.texts) == ([], ["from a"], [])
    assert hub.account().dropped == {"cut": 3}
    assert hub.account().balances()


def test_a_thousand_ports_are_plugged_into_a_segment_in_no_time():
    """What is done at a plug may not grow with the square of the plugs."""
    _, ports = hubbed([f"p{n}" for n in range(1000)])

    ports[0].send("x")

    assert sum(len(port.mbufs) for port in ports) == 999


# frames that are none


@pytest.mark.parametrize(
    ("octets", "cause"), [(0, "too short"), (13, "too short"), (65554, "too long"), (100_000, "too long")]
)
def test_what_is_no_frame_is_dropped_with_its_cause(octets, cause):
    cable, a, b = cabled()

    a.end.send(mbuf(bytes(octets)))

    assert b.mbufs == []
    assert cable.account().dropped == {cause: 1}


@pytest.mark.parametrize("octets", [14, 65553])
def test_the_shortest_and_the_longest_frame_pass(octets):
    _, a, b = cabled()

    a.end.send(mbuf(bytes(octets)))

    assert [len(frame) for frame in b.frames] == [octets]


def test_a_frame_with_work_left_over_passes_a_plain_cable_and_no_hook():
    cable, a, b = cabled()
    unfinished = b"\x01" + framed("x")[1:]

    a.end.send(unfinished)
    cable.add_hook(lambda frame: pytest.fail("a hook saw it"))
    a.end.send(unfinished)

    assert b.mbufs == [unfinished]
    assert b.mbufs[0] is unfinished
    assert cable.account().dropped == {"unfinished": 1}


# hooks


def test_a_hook_learns_whence_whither_and_when():
    cable, a, b = cabled()
    seen = []
    cable.clock.advance(3)
    cable.add_hook(lambda frame: seen.append((frame.src, frame.dst, frame.time)))

    a.send("x")

    assert seen == [(a.end, b, 3.0)]


def test_a_hook_for_one_direction_leaves_the_other_its_straight_way():
    cable, a, b = cabled()
    cable.add_hook(lambda frame: False, towards=b)
    m = framed("x")

    a.end.send(m)
    b.end.send(m)

    assert b.mbufs == []
    assert a.mbufs[0] is m
    assert b.end.send.__name__ == "straight"


def test_a_frame_doubled_is_two_frames_to_the_next_hook():
    cable, a, b = cabled()
    cable.add_hook(lambda frame: [frame, frame])
    cable.add_hook(lambda frame: setattr(frame, "raw", frame.raw + b"!"))

    a.send("x")

    assert b.texts == ["x!", "x!"]
    assert (cable.account().added, cable.account().delivered) == (1, 2)


def test_a_frame_held_back_can_go_with_the_next():
    cable, a, b = cabled()
    held = []

    def swap(frame):
        if not held:
            held.append(frame)
            return False
        return [frame, held.pop()]

    cable.add_hook(swap)
    a.send("1")
    a.send("2")

    assert b.texts == ["2", "1"]
    assert cable.account().balances()


@pytest.mark.parametrize(
    "answer",
    [
        lambda frame: itertools.repeat(frame),
        lambda frame: [frame, "text"],
        lambda frame: [[[[42]]]],
        lambda frame: b"short",
        lambda frame: bytes(65554),
        lambda frame: setattr(frame, "raw", b""),
        lambda frame: setattr(frame, "pkt", "no packet"),
        lambda frame: frame.pkt.payload.__class__,
        lambda frame: exec("raise SystemExit"),
        lambda frame: pytest.fail("the hook's own"),
    ],
    ids=["endless", "text", "number", "short", "long", "empty", "no packet", "class", "exit", "pytest"],
)
def test_nonsense_of_a_hook_costs_its_frame_only(answer, caplog):
    cable, a, b = cabled()
    hook = cable.add_hook(answer)
    a.send("x")
    hook.remove()

    a.send("y")

    assert b.texts == ["y"]
    assert cable.account().dropped == {"hook error": 1}
    assert cable.account().balances()
    assert [record.levelname for record in caplog.records if record.name == "iflab.wire"] == ["ERROR"]
    assert "a hook on cable0 failed" in caplog.text
    assert caplog.records[-1].exc_info is not None


def test_a_packet_without_ethernet_header_is_nonsense_that_is_explained(caplog):
    from scapy.layers.inet import IP

    cable, a, _ = cabled()
    cable.add_hook(lambda frame: IP(src="192.0.2.1", dst="192.0.2.2"))

    a.send("x")

    assert "put Ether() / before it" in caplog.text
    assert cable.account().dropped == {"hook error": 1}


def test_ctrl_c_in_a_hook_gets_through_and_the_account_holds():
    cable, a, _ = cabled()

    def interrupted(frame):
        raise KeyboardInterrupt

    cable.add_hook(interrupted)

    with pytest.raises(KeyboardInterrupt):
        a.send("x")
    assert cable.account().balances()
    assert cable.account().in_flight == 0


@pytest.mark.parametrize("act", ["cut", "unplug", "close"])
def test_a_hook_may_do_to_its_own_wire_what_anybody_may(act):
    cable, a, b = cabled()
    balances = []

    def hook(frame):
        balances.append(cable.account().balances())
        {"cut": cable.cut, "unplug": lambda: cable.unplug(b), "close": cable.close}[act]()
        balances.append(cable.account().balances())

    cable.add_hook(hook)
    a.send("x")

    assert b.texts == []
    assert balances == [True, True]
    assert cable.account().balances()
    assert cable.account().dropped == {"cut" if act == "cut" else "unplugged": 1}
    assert (cable.account().sent, cable.account().in_flight) == (1, 0)


@pytest.mark.parametrize("delay", [0, 0.5])
def test_a_receiver_may_answer_and_pull_the_plug_at_once(delay):
    cable, a, b = cabled()
    cable.set_delay(delay)
    balances = []

    def react(m):
        balances.append(cable.account().balances())
        b.send("answer")
        cable.unplug(b)
        balances.append(cable.account().balances())

    b.then = react
    a.send("question")
    cable.clock.advance(2)

    assert balances == [True, True]
    assert cable.account().balances()
    assert a.texts == ([] if delay else ["answer"])


def test_a_delayed_answer_to_a_delayed_question_keeps_its_time():
    cable, a, b = cabled()
    cable.set_delay(0.25)
    b.then = lambda m: b.send("pong")
    times = []
    a.then = lambda m: times.append(cable.clock.now())

    a.send("ping")
    cable.clock.advance(1)

    assert times == [0.5]


def test_each_direction_has_its_own_delay():
    cable, a, b = cabled()
    cable.set_delay(1, towards=b)
    a.send("slow")
    b.send("fast")

    assert (a.texts, b.texts) == (["fast"], [])
    cable.clock.advance(1)
    assert b.texts == ["slow"]


def test_many_frames_in_flight_take_one_timer():
    clock = ManualClock()
    calls = []
    real = clock.call_at
    clock.call_at = lambda when, fn: (calls.append(when), real(when, fn))[1]
    cable, a, b = cabled(clock)
    cable.set_delay(0.5)

    for n in range(100):
        a.send(str(n))
    clock.advance(1)

    assert calls == [0.5]
    assert b.texts == [str(n) for n in range(100)]


# taps


def test_a_tap_hears_every_fate():
    cable, a, b = cabled()
    fates = []
    cable.add_tap(
        lambda end, m: fates.append(("sent", end.port.name)),
        lambda end, port, m, cause: fates.append((cause or "delivered", port and port.name)),
    )

    a.send("x")
    cable.cut(towards=b)
    a.send("x")
    cable.mend()
    verdicts = iter([False, True, True, True])
    cable.add_hook(lambda frame: [frame, frame])
    cable.add_hook(lambda frame: next(verdicts))
    a.send("x")
    cable.set_delay(1)
    a.send("x")
    cable.unplug(b)
    a.send("x")

    sent = ("sent", "a")
    assert fates == [
        *(sent, ("delivered", "b")),
        *(sent, ("cut", "b")),
        *(sent, ("hook", "b"), ("delivered", "b")),
        *(sent, ("unplugged", "b"), ("unplugged", "b")),
        *(sent, ("unplugged", None)),
    ]


def test_a_tap_that_fails_harms_nobody(caplog):
    cable, a, b = cabled()
    cable.add_tap(lambda end, m: 1 / 0, lambda end, port, m, cause: 1 / 0)

    a.send("x")

    assert b.texts == ["x"]
    assert caplog.text.count("a tap on cable0 failed") == 2
    assert cable.account().balances()


def test_a_tap_removed_leaves_the_straight_way():
    cable, a, _ = cabled()
    tap = cable.add_tap(print)
    assert a.end.send.__name__ == "winding"

    tap.remove()
    tap.remove()

    assert a.end.send.__name__ == "straight"


# the account


class Bench(RuleBasedStateMachine):
    """A hub and anything that can happen to it; every frame is accounted for after every step."""

    def __init__(self):
        super().__init__()
        self.log = logging.getLogger("iflab.wire")
        self.log.disabled = True  # its hooks and receivers fail by the hundred
        self.clock = ManualClock()
        self.wire = Segment(self.clock, "hub0")
        self.ports = plugged(self.wire, "abcd")
        self.said = 0
        self.fates = 0
        self.hooks = []
        for port in self.ports:
            port.then = self.react
        self.reaction = None

    def react(self, m):
        assert self.wire.account().balances()
        act, self.reaction = self.reaction, None
        if act is not None:
            act()
            assert self.wire.account().balances()

    @property
    def plugged(self):
        return [port for port in self.ports if port.end is not None]

    who = st.integers(0, 3)

    @rule(who=who)
    def send(self, who):
        if self.ports[who].end is not None:
            self.said += 1
            self.ports[who].send("x")

    @rule(who=who)
    def plug_or_unplug(self, who):
        port = self.ports[who]
        (self.wire.plug if port.end is None else self.wire.unplug)(port)

    @rule(who=who, next_time=st.booleans())
    def pull_the_plug_while_receiving(self, who, next_time):
        port = self.ports[who]
        self.reaction = lambda: self.wire.unplug(port) if port.end is not None else self.wire.plug(port)
        if not next_time:
            self.send(who)

    @rule(who=who)
    def fail_while_receiving(self, who):
        self.reaction = lambda: 1 / 0
        self.send(who)

    @rule(who=who)
    def cut(self, who):
        if self.ports[who].end is not None:
            self.wire.cut(self.ports[who])

    @rule()
    def cut_all(self):
        self.wire.cut()

    @rule()
    def mend_all(self):
        self.wire.mend()

    @rule(who=who)
    def mend(self, who):
        if self.ports[who].end is not None:
            self.wire.mend(self.ports[who])

    @rule(delay=st.sampled_from([0, 0.1, 0.5]))
    def delay(self, delay):
        self.wire.set_delay(delay)

    @rule(who=who, delay=st.sampled_from([0, 0.3]))
    def delay_one(self, who, delay):
        if self.ports[who].end is not None:
            self.wire.set_delay(delay, towards=self.ports[who])

    @rule(seconds=st.sampled_from([0.05, 0.1, 1]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(
        fn=st.sampled_from(
            [
                lambda f: None,
                lambda f: False,
                lambda f: [f, f],
                lambda f: [f, b"x" * 20, f.raw],
                lambda f: 1 / 0,
                lambda f: 7,
                lambda f: setattr(f, "raw", f.raw + b"."),
            ]
        )
    )
    def hook(self, fn):
        if len(self.hooks) < 3:
            self.hooks.append(self.wire.add_hook(fn))

    @precondition(lambda self: self.hooks)
    @rule()
    def unhook(self):
        self.hooks.pop(0).remove()

    @rule()
    def tap(self):
        if not self.wire.taps:
            self.wire.add_tap(lambda end, m: None, lambda *args: None)
        else:
            self.wire.taps[0].remove()

    @invariant()
    def every_frame_is_accounted_for(self):
        account = self.wire.account()
        assert account.balances(), account
        assert account.sent == self.said
        received = sum(len(port.mbufs) for port in self.ports)
        assert account.delivered == received - account.dropped["receiver error"]

    @invariant()
    def each_port_knows_its_link(self):
        for port in self.plugged:
            assert (port.links or [False])[-1] == port.end.up == self.wire._carrier(port)

    def teardown(self):
        self.log.disabled = False
        self.reaction = None
        self.clock.advance(10)
        self.every_frame_is_accounted_for()
        assert self.wire.account().in_flight == 0


TestBench = Bench.TestCase
TestBench.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_two_senders_and_a_vandal_lose_no_count():
    """Two threads send while a third cuts, delays, plugs, hooks and taps."""
    cable, a, b = cabled()
    clock = cable.clock
    vandal_done = threading.Event()

    def send(port):
        count = 0
        while not vandal_done.is_set() or count < 300:
            with clock.lock:
                if port.end is not None:
                    port.send("x")
                    sent.append(1)
            count += 1

    def vandal():
        for _ in range(60):
            cable.cut()
            cable.mend(towards=a)
            cable.mend()
            cable.set_delay(0.01)
            clock.advance(0.005)
            hook = cable.add_hook(lambda frame: [frame, frame])
            tap = cable.add_tap(lambda end, m: None)
            cable.unplug(b)
            cable.plug(b)
            hook.remove()
            tap.remove()
            cable.set_delay(0)
            assert cable.account().balances()
        vandal_done.set()

    sent: list[int] = []
    threads = [
        threading.Thread(target=t, args=args) for t, args in ((send, (a,)), (send, (b,)), (vandal, ()))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30 * PATIENCE)

    clock.advance(1)
    account = cable.account()
    assert vandal_done.is_set()
    assert account.sent == len(sent)
    assert account.balances()
    assert account.in_flight == 0
    assert account.delivered == len(a.mbufs) + len(b.mbufs)
