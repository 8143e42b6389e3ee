"""Cables and segments, without a kernel and with the clock held still."""

import logging
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iflab.net import ManualClock, mbuf
from iflab.net.packet import octets_of
from iflab.wire import Cable, Segment, WireError

from .doubles import FakePort, frame


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def cabled(clock):
    a, b = FakePort("a"), FakePort("b")
    cable = Cable(clock, "cable0")
    cable.plug(a)
    cable.plug(b)
    return cable, a, b


def test_a_frame_reaches_the_other_end_only(cabled):
    cable, a, b = cabled

    a.say("hello")

    assert b.texts == ["hello"]
    assert a.texts == []
    assert cable.account().delivered == 1


def test_the_very_mbuf_passes_a_plain_cable(cabled):
    _, a, b = cabled
    got = []
    b.receive = got.append
    b.end.wire.rebind()
    m = mbuf(frame("x"))

    a.end.send(m)

    assert got[0] is m


def test_a_link_needs_somebody_at_the_other_end(clock):
    a, b = FakePort("a"), FakePort("b")
    cable = Cable(clock, "cable0")

    cable.plug(a)
    assert a.links == []
    cable.plug(b)
    assert (a.links, b.links) == ([True], [True])
    cable.unplug(b)

    assert (a.links, b.links) == ([True, False], [True, False])
    assert b.end is None


def test_a_cut_takes_the_link_and_the_frames(cabled):
    cable, a, b = cabled

    cable.cut()
    a.say("lost")
    cable.mend()
    a.say("found")

    assert b.texts == ["found"]
    assert a.links == b.links == [True, False, True]
    assert cable.account().dropped == {"cut": 1}


def test_one_direction_can_be_cut(cabled):
    cable, a, b = cabled

    cable.cut(towards=b)
    a.say("to b")
    b.say("to a")

    assert (a.texts, b.texts) == (["to a"], [])
    assert (a.end.up, b.end.up) == (True, False)


def test_ports_may_be_named_wherever_a_wire_asks_for_one(cabled, clock):
    cable, a, b = cabled

    cable.cut(towards="b")
    assert cable.is_cut("b")
    assert not cable.is_cut("a")
    cable.mend(towards="b")
    cable.set_delay(0.01, towards="a")
    assert (cable.delay("a"), cable.delay("b"), cable.delay(a)) == (0.01, 0.0, 0.01)
    hook = cable.add_hook(lambda frame: False, towards="b")
    assert hook.towards is b
    a.say("lost")
    b.say("late")
    clock.advance(0.011)
    assert (a.texts, b.texts) == (["late"], [])
    cable.unplug("b")
    assert b.end is None
    with pytest.raises(WireError, match="5 has no plug; use a NIC, a station"):
        Cable(clock, "other").plug(5)
    with pytest.raises(WireError, match="c is not plugged into cable0; plugged in: a"):
        cable.cut("c")


def test_only_what_changes_is_told(cabled):
    cable, _, b = cabled
    told = []
    cable.on_change = lambda wire, what: told.append(what)

    cable.mend()
    cable.cut(b)
    cable.cut("b")
    cable.cut()
    cable.cut()
    cable.mend("b")
    cable.mend()
    cable.mend()

    assert told == ["cut towards b", "cut", "mended towards b", "mended"]


@pytest.mark.parametrize("hook", [None, 5, "name"])
def test_what_is_no_function_is_no_hook(cabled, hook):
    cable, a, b = cabled

    with pytest.raises(WireError, match=f"cable0: {hook!r} is no hook"):
        cable.add_hook(hook)
    a.say("passes")

    assert b.texts == ["passes"]


def test_a_delay_holds_every_frame_that_long_and_keeps_the_order(cabled, clock):
    cable, a, b = cabled
    cable.set_delay(0.010)

    a.say("1")
    clock.advance(0.004)
    a.say("2")
    clock.advance(0.005999)
    assert b.texts == []
    clock.advance(0.000002)
    assert b.texts == ["1"]
    cable.set_delay(0)
    a.say("3")  # does not overtake
    assert b.texts == ["1"]
    clock.advance(0.01)

    assert b.texts == ["1", "2", "3"]


def test_what_is_in_flight_at_a_cut_is_lost(cabled, clock):
    cable, a, b = cabled
    cable.set_delay(1)
    a.say("x")
    assert cable.account().in_flight == 1

    cable.cut()
    clock.advance(2)

    assert b.texts == []
    assert cable.account().dropped == {"cut": 1}
    assert cable.account().balances()


def test_what_is_in_flight_when_the_plug_is_pulled_is_lost(cabled, clock):
    cable, a, b = cabled
    cable.set_delay(1)
    a.say("x")
    b.say("y")

    cable.unplug(a)
    clock.advance(2)

    assert a.texts == b.texts == []
    assert cable.account().dropped == {"unplugged": 2}
    assert cable.account().balances()


@pytest.mark.parametrize(
    ("answer", "expected", "dropped"),
    [
        (lambda f: None, ["x"], {}),
        (lambda f: True, ["x"], {}),
        (lambda f: False, [], {"hook": 1}),
        (lambda f: f, ["x"], {}),
        (lambda f: [f, f], ["x", "x"], {}),
        (lambda f: [], [], {"hook": 1}),
        (lambda f: frame("other"), ["other"], {}),
        (lambda f: setattr(f, "raw", f.raw + b"!"), ["x!"], {}),
        (lambda f: 42, [], {"hook error": 1}),
        (lambda f: "text", [], {"hook error": 1}),
        (lambda f: 1 / 0, [], {"hook error": 1}),
    ],
)
def test_what_a_hook_answers_decides(cabled, answer, expected, dropped, caplog):
    cable, a, b = cabled
    cable.add_hook(answer)

    with caplog.at_level(logging.CRITICAL):
        a.say("x")

    assert b.texts == expected
    assert cable.account().dropped == dropped
    assert cable.account().balances()


def test_a_hook_that_fails_is_named_with_its_traceback(cabled, caplog):
    cable, a, _ = cabled

    def broken(frame):
        raise RuntimeError("the hook's own fault")

    cable.add_hook(broken)
    a.say("x")

    assert "broken" in caplog.text
    assert "the hook's own fault" in caplog.text


def test_a_hook_may_edit_the_scapy_packet(cabled):
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    cable, a, b = cabled

    def age(frame):
        frame.pkt[IP].ttl -= 1
        frame.fix()

    cable.add_hook(age, towards=b)
    a.end.send(mbuf(octets_of(Ether() / IP(src="192.0.2.1", dst="192.0.2.2", ttl=9) / UDP())))

    arrived = Ether(b.frames[0])
    assert arrived[IP].ttl == 8
    fresh = IP(bytes(arrived[IP]))
    del fresh.chksum
    assert IP(bytes(fresh)).chksum == arrived[IP].chksum


def test_a_malformed_frame_is_raw_and_no_error(cabled):
    cable, a, _ = cabled
    seen = []
    cable.add_hook(lambda f: seen.append(f.pkt))

    a.end.send(mbuf(b"\xff" * 13 + b"\x00"))
    a.end.send(mbuf(b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\x00\x4f"))

    assert len(seen) == 2


def test_hooks_run_in_order_and_can_be_removed(cabled):
    cable, a, b = cabled
    first = cable.add_hook(lambda f: setattr(f, "raw", f.raw + b"1"))
    cable.add_hook(lambda f: setattr(f, "raw", f.raw + b"2"))

    a.say("")
    first.remove()
    first.remove()
    a.say("")

    assert b.texts == ["12", "2"]


def test_a_tap_sees_frames_before_they_are_lost(cabled):
    cable, a, _ = cabled
    seen = []
    tap = cable.add_tap(lambda end, m: seen.append((end.port.name, m[24:])))
    cable.cut()

    a.say("x")
    tap.remove()
    a.say("y")

    assert seen == [("a", b"x")]


def test_everybody_on_a_segment_hears_everything(clock):
    ports = [FakePort(name) for name in "abc"]
    hub = Segment(clock, "hub")
    for port in ports:
        hub.plug(port)

    ports[0].say("x")
    hub.cut(towards=ports[2])
    ports[0].say("y")

    assert [p.texts for p in ports] == [[], ["x", "y"], ["x"]]
    assert hub.account().balances()


def test_bad_plugs_are_refused_and_change_nothing(cabled, clock):
    cable, a, b = cabled
    c = FakePort("c")

    with pytest.raises(WireError, match="a is plugged into cable0 already; unplug it first"):
        Cable(clock, "other").plug(a)
    with pytest.raises(WireError, match="both are plugged; use a segment"):
        cable.plug(c)
    with pytest.raises(WireError, match="c is not plugged into cable0; plugged in: a, b"):
        cable.unplug(c)
    with pytest.raises(WireError, match="a delay of -1 s cannot be"):
        cable.set_delay(-1)

    assert c.end is None
    a.say("still works")
    assert b.texts == ["still works"]


def test_a_port_that_fails_harms_its_own_frame(cabled, caplog):
    cable, a, b = cabled

    def fail(m):
        raise RuntimeError

    b.receive = fail
    cable.rebind()
    a.say("x")

    assert cable.account().dropped == {"receiver error": 1}
    assert cable.account().balances()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "send a",
                "send b",
                "cut",
                "cut a",
                "mend",
                "delay",
                "no delay",
                "wait",
                "unplug",
                "plug",
                "drop",
                "double",
            ]
        ),
        max_size=40,
    )
)
def test_every_frame_is_accounted_for(steps):
    clock = ManualClock()
    a, b = FakePort("a"), FakePort("b")
    cable = Cable(clock, "cable0")
    cable.plug(a)
    cable.plug(b)
    hooks = {"drop": lambda f: False, "double": lambda f: [f, f]}
    for step in steps:
        match step:
            case "send a" | "send b":
                port = a if step == "send a" else b
                if port.end is not None:
                    port.say("x")
            case "cut":
                cable.cut()
            case "cut a":
                if a.end is not None:
                    cable.cut(towards=a)
            case "mend":
                cable.mend()
            case "delay":
                cable.set_delay(0.01)
            case "no delay":
                cable.set_delay(0)
            case "wait":
                clock.advance(0.007)
            case "unplug":
                if b.end is not None:
                    cable.unplug(b)
            case "plug":
                if b.end is None:
                    cable.plug(b)
            case _:
                cable.add_hook(hooks[step])
        assert cable.account().balances(), step
    clock.advance(10)
    account = cable.account()
    assert account.in_flight == 0
    assert account.delivered == len(a.frames) + len(b.frames)


def test_threads_that_send_cut_and_plug_lose_no_count(clock):
    a, b = FakePort("a"), FakePort("b")
    cable = Cable(clock, "cable0")
    cable.plug(a)
    cable.plug(b)

    def send():
        for _ in range(500):
            with clock.lock:
                if a.end is not None:
                    a.say("x")

    def disturb():
        for _ in range(50):
            cable.cut()
            cable.mend()
            cable.unplug(b)
            cable.plug(b)

    threads = [threading.Thread(target=t) for t in (send, send, disturb)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    account = cable.account()
    assert account.sent == 1000
    assert account.balances()
    assert account.delivered == len(b.frames)


def test_scapy_never_asks_the_machines_network_for_an_address(cabled, monkeypatch):
    """Left to itself it would send ARP requests there for every frame without a destination."""
    from scapy.layers import l2
    from scapy.layers.inet import IP

    asked = []
    monkeypatch.setattr(l2, "getmacbyip", lambda *args, **kwargs: asked.append(args))
    monkeypatch.setattr(l2.conf.neighbor, "resolve", lambda *args, **kwargs: asked.append(args))
    cable, a, b = cabled
    cable.add_hook(lambda f: l2.Ether() / IP(src="192.0.2.1", dst="192.0.2.2"))
    cable.add_hook(
        lambda f: setattr(f, "pkt", l2.Ether(src="02:00:00:00:00:07") / IP(src="192.0.2.1", dst="192.0.2.2"))
    )

    a.say("x")

    assert b.frames[0][:12] == b"\xff" * 6 + b"\x02\0\0\0\0\x07"
    assert asked == []
