"""A fixed corpus and some new inputs in each run; a million by hand (``python -m tests.fuzz``)."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .beds import BEDS, FUNCTIONS, SLOW, Beds, looked_at, netlink, offload
from .inputs import LONGEST, corpus, cut_at_every_length, mutated, seeds

TARGETS = [*BEDS, *FUNCTIONS, *SLOW]


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_does_no_harm(name):
    with Beds([name]) as beds:
        for m in [*corpus(), *seeds()]:
            beds.feed(m)


@pytest.mark.parametrize("name", [*BEDS, *FUNCTIONS])
def test_frames_cut_short_anywhere_do_no_harm(name):
    inputs = cut_at_every_length()
    with Beds([name]) as beds:
        for m in inputs[::5] if name in BEDS else inputs:
            beds.feed(m)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_what_chance_makes_of_right_frames_does_no_harm(name, seed):
    with Beds([name]) as beds:
        beds.feed(mutated(random.Random(seed)))


octets = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda part, times: (part * times)[:LONGEST], st.binary(min_size=1, max_size=50), st.integers(0, 2000)
    ),
)


@settings(max_examples=300, deadline=None)
@given(octets)
def test_any_octets_can_be_finished_or_refused(m):
    offload(m)


@settings(max_examples=300, deadline=None)
@given(octets)
def test_any_message_of_the_kernel_can_be_read_or_is_lost(m):
    netlink(m)


@settings(max_examples=50, deadline=None)
@given(octets)
def test_any_frame_can_be_looked_at(m):
    looked_at(m)


def test_the_harness_finds_what_is_wrong(monkeypatch):
    """A counter that is off by one, and an exception that is only reported."""
    from iflab.drivers import TapNic

    real = TapNic.to_host

    def miscounts(self, m):
        self.ifp.if_ipackets += 1
        real(self, m)

    def fails(self, m):
        raise RuntimeError("burnt")

    frame = seeds()[-3]
    for broken, text in ((miscounts, "counted"), (fails, "burnt")):
        monkeypatch.setattr(TapNic, "accepts", lambda self, mac, broken=broken: broken(self, b"") or True)
        with Beds(["plain"]) as beds, pytest.raises(AssertionError, match=text):
            [beds.feed(frame) for _ in range(2)]
