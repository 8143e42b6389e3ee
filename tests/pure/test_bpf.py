"""Who listens on an interface hears finished frames, where and as long as he listens."""

import struct

import pytest

from iflab.net import (
    BpfSide,
    BpfTap,
    bpf_ifdetach,
    bpf_mtap,
    bpf_peers_present,
    bpfattach,
    bpfdetach,
    frame_of,
    mbuf,
)

from .doubles import ethernet, frame


class Ear:
    def __init__(self, ifp, side=BpfSide.IN | BpfSide.OUT | BpfSide.WIRE):
        self.heard, self.gone = [], []
        self.tap = BpfTap(lambda ifp, m, side: self.heard.append((side, frame_of(m))), side, self.gone.append)
        bpfattach(ifp, self.tap)


def test_each_hears_the_side_that_he_asked_for():
    _, ifp, _ = ethernet()
    everything, incoming = Ear(ifp), Ear(ifp, BpfSide.IN)

    for side in BpfSide:
        bpf_mtap(ifp, mbuf(frame(side.name)), side)

    assert everything.heard == [(side, frame(side.name)) for side in BpfSide]
    assert incoming.heard == [(BpfSide.IN, frame("IN"))]


def test_who_ends_hears_no_more_and_the_others_do():
    _, ifp, _ = ethernet()
    one, other = Ear(ifp), Ear(ifp)
    bpfdetach(ifp, one.tap)
    bpfdetach(ifp, one.tap)
    assert bpf_peers_present(ifp)

    ifp.if_input(frame("x"))

    assert (one.heard, other.heard) == ([], [(BpfSide.IN, frame("x"))])
    bpfdetach(ifp, other.tap)
    assert not bpf_peers_present(ifp)


def test_one_that_raises_harms_nobody(caplog):
    _, ifp, _ = ethernet()
    bpfattach(ifp, BpfTap(lambda *args: 1 / 0, BpfSide.IN, lambda ifp: 1 / 0))
    ear = Ear(ifp)

    ifp.if_input(frame("x"))
    bpf_ifdetach(ifp)

    assert ear.heard == [(BpfSide.IN, frame("x"))]
    assert ear.gone == [ifp]
    assert caplog.text.count("ZeroDivisionError") == 2
    assert not bpf_peers_present(ifp)


def test_what_the_chip_would_finish_is_finished_for_him():
    _, ifp, _ = ethernet()
    ear = Ear(ifp)
    octets = frame("x" * 16).ljust(60, b"y")
    unfinished = struct.pack("<BBHHHH", 1, 0, 0, 0, 14, 16) + octets  # its checksum, at octet 30, was left
    impossible = struct.pack("<BBHHHH", 1, 0, 0, 0, 9000, 16) + octets

    bpf_mtap(ifp, unfinished, BpfSide.OUT)
    bpf_mtap(ifp, impossible, BpfSide.OUT)

    ((side, heard),) = ear.heard
    assert (side, len(heard)) == (BpfSide.OUT, 60)
    assert heard[:30] == octets[:30]
    assert heard[30:32] != octets[30:32]


def test_a_listener_with_nothing_to_hear_costs_nothing():
    _, ifp, _ = ethernet()
    ear = Ear(ifp, BpfSide.WIRE)
    bpf_mtap(ifp, mbuf(frame("x")), BpfSide.IN)
    assert ear.heard == []


def test_ctrl_c_goes_through():
    _, ifp, _ = ethernet()

    def interrupted(*args):
        raise KeyboardInterrupt

    bpfattach(ifp, BpfTap(interrupted, BpfSide.IN))
    with pytest.raises(KeyboardInterrupt):
        ifp.if_input(frame("x"))
