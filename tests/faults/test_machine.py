"""Anything in any order on a cable and on a hub: the account is right at every moment, and nothing stays behind."""

from __future__ import annotations

import functools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iflab.faults import (
    Corrupt,
    Cut,
    Delay,
    Duplicate,
    Faults,
    LoseEvery,
    Loss,
    Mtu,
    Rate,
    Reorder,
    Truncate,
)
from iflab.net import ManualClock, mbuf
from iflab.wire import Cable, Segment

from ..wire import ports

SETS = [
    (),
    (Loss(0.3),),
    (Delay(0.01),),
    (Delay(0.02, jitter=0.02), Reorder(0.3)),
    (Rate(1e5, frames=3),),
    (Rate(5e4, burst=300, octets=600), Delay(0.005), Duplicate(0.5)),
    (Duplicate(0.5, copies=3), Corrupt(0.5), Truncate(0.5), Mtu(90)),
    (LoseEvery(2), Cut()),
]


class Machine(RuleBasedStateMachine):
    @initialize(hub=st.booleans())
    def begin(self, hub: bool) -> None:
        self.clock = ManualClock()
        self.wire = (Segment if hub else Cable)(self.clock, "wire0")
        self.faults = Faults(self.clock, 1)
        self.faults.adopt(self.wire)
        self.ports = [ports.Recorder(name) for name in ("abc" if hub else "ab")]
        for port in self.ports:
            self.wire.plug(port)
            port.then = functools.partial(self.received, port)
        self.wrong: list[str] = []

    def received(self, port: ports.Recorder, m: bytes) -> None:
        if port.end is None or self.wire.is_cut(port):
            self.wrong.append(f"{port.name} got a frame without a cable")

    def port(self, who: int) -> ports.Recorder:
        return self.ports[who % len(self.ports)]

    @rule(who=st.integers(0, 2), octets=st.sampled_from([0, 13, 14, 60, 100, 120]), count=st.integers(1, 4))
    def send(self, who: int, octets: int, count: int) -> None:
        port = self.port(who)
        for _ in range(count):
            if port.end is not None:
                port.end.send(mbuf(bytes(octets)))

    @rule(who=st.integers(0, 2), faults=st.sampled_from(SETS), everywhere=st.booleans())
    def impair(self, who: int, faults: tuple, everywhere: bool) -> None:
        port = self.port(who)
        if everywhere:
            self.wire.impair(*faults)
        elif port.end is not None:
            self.wire.impair(*faults, towards=port)

    @rule(who=st.integers(0, 2), everywhere=st.booleans())
    def cut(self, who: int, everywhere: bool) -> None:
        if everywhere:
            self.wire.cut()
        elif self.port(who).end is not None:
            self.wire.cut(towards=self.port(who))

    @rule()
    def mend(self) -> None:
        self.wire.mend()

    @rule(who=st.integers(0, 2))
    def replug(self, who: int) -> None:
        port = self.port(who)
        if port.end is not None:
            self.wire.unplug(port)
        else:
            self.wire.plug(port)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01, 1.0]), late=st.booleans())
    def wait(self, seconds: float, late: bool) -> None:
        if late:
            self.clock._now += seconds
            seconds = 0.0
        self.clock.advance(seconds)

    @rule(delay=st.sampled_from([0.0, 0.005]))
    def delay(self, delay: float) -> None:
        self.wire.set_delay(delay)

    @invariant()
    def the_account_is_right(self) -> None:
        if not hasattr(self, "wire"):
            return
        assert not self.wrong
        assert self.wire.account().balances()
        for port, end in self.wire.ends.items():
            assert end.flow.balances()
            if end.straight_to is not None:
                assert end.straight_to not in self.wire.impairments
            assert port in self.wire.ends

    def teardown(self) -> None:
        if not hasattr(self, "wire"):
            return
        self.wire.impair()
        self.clock.advance(1000)
        account = self.wire.account()
        assert not self.wrong
        assert account.in_flight == 0
        assert account.balances()
        assert not self.wire.impairments
        assert account.delivered == sum(len(port.mbufs) for port in self.ports)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
