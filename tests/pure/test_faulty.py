"""NICs that fail when told, on an interface without a device, under a clock that stands still."""

from __future__ import annotations

import errno
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from iflab.drivers import TapNic
from iflab.drivers.faulty import (
    ChangingMac,
    FailingIoctl,
    FaultyNic,
    FlappingLink,
    LeakyFilter,
    LosesInterrupts,
    StallingStart,
    Vanishing,
)
from iflab.faults import FaultError, Faults
from iflab.net import IFF, IFT, Ifreq, Kernel, LinkState, ManualClock, Stack, ether_ifattach, mbuf
from iflab.wire import Cable

from ..wire.ports import Recorder
from .doubles import frame

MAC = b"\x02\0\0\0\0\x02"
GROUP = b"\x01\0\x5e\0\0\x07"


class Everything(
    FailingIoctl, StallingStart, FlappingLink, LosesInterrupts, LeakyFilter, ChangingMac, Vanishing
):
    """All of them in one, as far as they go without a kernel."""


class Host(Stack):
    """Remembers what it gets."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def input(self, ifp: Any, m: bytes) -> None:
        self.got.append(m[24:].decode())


class Bench:
    """A NIC on an ifnet, with a cable to a recorder."""

    def __init__(self, kind: type[FaultyNic] = Everything, seed: int = 1) -> None:
        self.clock = ManualClock()
        self.kernel = Kernel()
        self.clock.lock = self.kernel.giant
        self.host = Host()
        self.vnet = self.kernel.vnet_alloc("alice", self.host)
        self.nic = kind()
        self.nic.faults = self.faults = Faults(self.clock, seed)
        self.ifp = ifp = self.vnet.if_alloc(IFT.ETHER)
        ifp.if_initname("em", 0)
        ifp.if_driver = ifp.if_softc = self.nic
        ifp.if_mtu = self.nic.netdev_mtu = 1500
        ifp.if_flags = IFF.BROADCAST | IFF.MULTICAST
        ifp.if_link_state = LinkState.DOWN
        self.nic.ifp = ifp
        self.nic.name = "alice:em0"
        self.nic.tap = SimpleNamespace(fd=-1)
        ether_ifattach(ifp, MAC)
        self.cable = Cable(self.clock, "cable0")
        self.faults.adopt(self.cable)
        self.peer = Recorder("bob:em0")
        self.cable.plug(self.nic)
        self.cable.plug(self.peer)
        self.ioctl("SIOCSIFFLAGS", ifr_flags=ifp.if_flags | IFF.UP)

    def ioctl(self, cmd: str, **fields: Any) -> None:
        self.vnet.ioctl(cmd, Ifreq("em0", **fields))

    def send(self, *texts: str) -> None:
        for text in texts:
            self.ifp.if_transmit(frame(text, dst=b"\xff" * 6))

    def hear(self, *texts: str, dst: bytes = MAC) -> None:
        for text in texts:
            self.peer.end.send(mbuf(frame(text, dst=dst)))


def code(call, *args, **fields) -> int:
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the caller looks at its errno
        call(*args, **fields)
    return refused.value.errno


def test_without_orders_it_is_a_sound_nic():
    bench = Bench()
    bench.send("a", "b")
    bench.hear("c")

    assert bench.peer.texts == ["a", "b"]
    assert bench.host.got == ["c"]
    assert not bench.nic.struck
    assert bench.cable.account().balances()


# ioctls


def test_the_nth_ioctl_fails_and_changes_nothing():
    bench = Bench()
    bench.nic.fail_ioctl("SIOCSIFMTU", errno.ENOMEM, nth=2)
    bench.ioctl("SIOCSIFMTU", ifr_mtu=1500)

    assert code(bench.ioctl, "SIOCSIFMTU", ifr_mtu=1400) == errno.ENOMEM
    assert bench.ifp.if_mtu == 1500
    bench.ioctl("SIOCSIFMTU", ifr_mtu=1500)
    assert bench.nic.struck == {"ioctl": 1}


def test_ioctls_fail_as_often_as_said_or_until_mended():
    bench = Bench()
    bench.nic.fail_ioctl("SIOCSIFMTU", errno.EIO, times=2)
    bench.nic.fail_ioctl(None, errno.EBUSY, nth=3, times=None)
    answers = [code(bench.ioctl, "SIOCSIFMTU", ifr_mtu=1500) for _ in range(4)]
    assert answers == [errno.EIO, errno.EIO, errno.EBUSY, errno.EBUSY]
    assert code(bench.ifp.ifpromisc, 1) == errno.EBUSY
    assert bench.ifp.if_pcount == 0

    bench.nic.mend_ioctls()
    bench.ioctl("SIOCSIFMTU", ifr_mtu=1500)
    bench.ifp.ifpromisc(1)


# stalls


def test_an_ioctl_that_only_the_driver_knows_fails_too():
    bench = Bench()
    bench.nic.fail_ioctl("SIOCSPEED", errno.EIO)

    assert code(bench.ioctl, "SIOCSPEED") == errno.EIO
    assert bench.nic.struck == {"ioctl": 1}


def test_a_stalled_transmitter_keeps_frames_queued_and_sends_them_later():
    bench = Bench()
    bench.nic.stall(1.0)
    bench.send("a", "b")

    assert bench.ifp.if_drv_flags & IFF.OACTIVE
    assert (bench.peer.texts, bench.ifp.if_snd.ifq_len) == ([], 2)
    bench.clock.advance(1.0)
    assert bench.peer.texts == ["a", "b"]
    assert not bench.ifp.if_drv_flags & IFF.OACTIVE
    bench.send("c")
    assert bench.peer.texts == ["a", "b", "c"]


def test_a_stall_begins_after_so_many_frames_exactly():
    bench = Bench()
    bench.nic.stall(1.0, after=2)
    bench.nic.stall(1.0, after=1)
    bench.send("a", "b", "c", "d", "e")

    assert bench.peer.texts == ["a", "b"]
    bench.clock.advance(1.0)
    assert bench.peer.texts == ["a", "b", "c"]
    bench.clock.advance(1.0)
    assert bench.peer.texts == ["a", "b", "c", "d", "e"]
    assert bench.nic.struck == {"stall": 2}


def test_a_full_queue_behind_a_stall_drops_and_counts():
    bench = Bench()
    bench.ifp.if_snd.ifq_maxlen = 3
    bench.nic.stall()
    bench.send("a", "b", "c")

    assert code(bench.ifp.if_transmit, frame("d")) == errno.ENOBUFS
    assert bench.ifp.if_snd.ifq_drops == 1
    bench.nic.resume()
    bench.nic.resume()
    assert bench.peer.texts == ["a", "b", "c"]


def test_down_and_up_does_not_mend_a_stall():
    bench = Bench()
    bench.nic.stall(5.0)
    bench.ioctl("SIOCSIFFLAGS", ifr_flags=bench.ifp.if_flags & ~IFF.UP)
    bench.ioctl("SIOCSIFFLAGS", ifr_flags=bench.ifp.if_flags | IFF.UP)
    bench.send("a")

    assert bench.peer.texts == []
    bench.clock.advance(5)
    assert bench.peer.texts == ["a"]


# the link


def test_a_link_flaps_by_its_pattern():
    bench = Bench()
    states = []
    bench.nic.flap((1.0, 2.0, 0.5), times=2)
    for _ in range(16):
        states.append(bench.ifp.if_link_state == LinkState.UP)
        bench.clock.advance(0.5)

    # down 1, up 2, down 0.5, and once more from the beginning
    up = [0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 1, 1]
    assert states == [bool(x) for x in up]
    assert bench.peer.links == [True]  # the cable is sound


def test_a_dark_nic_neither_sends_nor_receives():
    bench = Bench()
    bench.nic.flap((1.0,))
    bench.send("a")
    bench.hear("b")

    assert (bench.peer.texts, bench.host.got) == ([], [])
    assert (bench.ifp.if_oerrors, bench.ifp.if_ierrors) == (1, 1)
    bench.clock.advance(1)
    bench.send("c")
    bench.hear("d")
    assert (bench.peer.texts, bench.host.got) == (["c"], ["d"])


def test_a_flapping_link_does_not_come_up_on_a_cut_cable():
    bench = Bench()
    bench.nic.flap((1.0, 1.0), times=None)
    bench.cable.cut()
    bench.clock.advance(1.5)
    assert bench.ifp.if_link_state == LinkState.DOWN

    bench.cable.mend()
    assert bench.ifp.if_link_state == LinkState.UP
    bench.clock.advance(1)
    assert bench.ifp.if_link_state == LinkState.DOWN
    bench.nic.stop_flapping()
    assert bench.ifp.if_link_state == LinkState.UP
    bench.clock.advance(100)
    assert bench.ifp.if_link_state == LinkState.UP


# interrupts


def test_frames_wait_for_the_next_interrupt_that_comes():
    bench = Bench()
    bench.nic.lose_interrupts(1.0)
    bench.hear("a", "b")
    assert bench.host.got == []

    bench.nic.lose_interrupts(0.0)
    bench.hear("c")
    assert bench.host.got == ["a", "b", "c"]
    assert bench.nic.struck == {"interrupt": 2}


def test_lost_interrupts_delay_frames_and_lose_none():
    bench = Bench()
    bench.nic.lose_interrupts(0.5)
    texts = [str(n) for n in range(1000)]
    late = 0
    for text in texts:
        bench.hear(text)
        late += text not in bench.host.got
    bench.nic.lose_interrupts(0)

    assert bench.host.got == texts
    assert late == bench.nic.struck["interrupt"]
    assert abs(late - 500) < 5 * (1000 * 0.25) ** 0.5  # five binomial deviations


def test_a_watchdog_empties_the_ring_and_a_full_ring_drops():
    bench = Bench()
    bench.nic.lose_interrupts(1.0, watchdog=2.0, ring=3)
    bench.hear("a", "b", "c", "d")
    bench.clock.advance(1.9)
    assert bench.host.got == []

    bench.clock.advance(0.1)
    assert bench.host.got == ["a", "b", "c"]
    assert (bench.ifp.if_iqdrops, bench.nic.struck["ring full"]) == (1, 1)


# the filter


def test_a_leaky_filter_lets_through_and_keeps_out():
    bench = Bench()
    bench.hear("foreign", dst=GROUP)
    bench.nic.leak(through=1.0)
    bench.hear("let through", dst=GROUP)
    bench.hear("not mine", dst=b"\x02\0\0\0\0\x09")
    bench.ifp.if_addmulti("224.0.0.7")
    bench.nic.leak(lost=1.0)
    bench.hear("kept out", dst=GROUP)
    bench.hear("broadcast", dst=b"\xff" * 6)
    bench.nic.leak()
    bench.hear("own", dst=GROUP)

    assert bench.host.got == ["let through", "broadcast", "own"]
    assert bench.nic.struck == {"let through": 1, "kept out": 1}
    assert bench.nic.filtered == 3


def test_the_seed_decides_which_frames_leak():
    def run(seed: int, others: int) -> list[str]:
        bench = Bench(LeakyFilter, seed)
        bench.nic.leak(through=0.5)
        for number in range(60):
            bench.hear(*["x"] * others, dst=b"\x02\0\0\0\0\x09")
            bench.hear(str(number), dst=GROUP)
        return bench.host.got

    assert run(1, 0) == run(1, 3)
    assert run(1, 0) != run(2, 0)
    assert 10 < len(run(1, 0)) < 50


# the MAC


def test_a_mac_changes_for_filter_and_host():
    bench = Bench()
    bench.nic.change_mac("02:00:00:00:00:77")
    bench.hear("old")
    bench.hear("new", dst=b"\x02\0\0\0\0\x77")

    assert bench.host.got == ["new"]
    assert bench.ifp.lladdr.hex(":") == "02:00:00:00:00:77"


def test_a_chip_that_forgets_its_mac_hears_nothing_for_its_host():
    bench = Bench()
    bench.nic.forget_mac()
    bench.hear("lost")
    bench.ioctl("SIOCSIFFLAGS", ifr_flags=bench.ifp.if_flags & ~IFF.UP)
    bench.ioctl("SIOCSIFFLAGS", ifr_flags=bench.ifp.if_flags | IFF.UP)
    bench.hear("lost too")
    bench.hear("strange", dst=b"\x02\0\0\0\0\xff")
    assert bench.ifp.lladdr == MAC

    bench.nic.remember_mac()
    bench.hear("found")
    assert bench.host.got == ["strange", "found"]


# gone


def test_a_nic_that_vanishes_takes_plug_and_ifnet_with_it():
    bench = Bench()
    bench.send("a")
    bench.nic.vanish()
    bench.nic.vanish()

    assert bench.vnet.ifunit("em0") is None
    assert bench.nic.end is None
    assert bench.peer.links == [True, False]
    assert code(bench.ifp.if_transmit, frame("b")) == errno.ENXIO
    assert bench.peer.texts == ["a"]


def test_it_vanishes_after_so_many_frames_and_is_noticed_a_little_later():
    bench = Bench()
    bench.nic.vanish(after=2)
    bench.send("a", "b", "c")

    assert bench.peer.texts == ["a", "b"]
    assert bench.ifp.if_oerrors == 1
    assert code(bench.ioctl, "SIOCSIFMTU", ifr_mtu=1400) == errno.ENXIO
    assert bench.vnet.ifunit("em0") is bench.ifp
    bench.clock.advance(0)
    assert bench.vnet.ifunit("em0") is None


def test_one_that_vanishes_in_the_midst_of_everything_leaves_no_timer_that_harms():
    bench = Bench()
    bench.nic.stall(1.0)
    bench.nic.flap((0.5, 0.5), times=None)
    bench.nic.lose_interrupts(1.0, watchdog=1.0)
    bench.hear("a")
    bench.send("b")
    bench.nic.vanish()
    bench.clock.advance(10)

    assert (bench.peer.texts, bench.host.got) == ([], [])
    assert bench.cable.account().balances()


# together


class Marked(TapNic):
    """Somebody's own NIC: it signs what it sends."""

    def send(self, m: bytes) -> None:
        super().send(m + b"!")


def test_faults_compose_with_a_nic_of_ones_own():
    class Bad(StallingStart, FailingIoctl, Marked):
        pass

    bench = Bench(Bad)
    bench.nic.stall(1.0, after=1)
    bench.nic.fail_ioctl("SIOCSIFMTU", errno.EIO)
    bench.send("a", "b")
    assert code(bench.ioctl, "SIOCSIFMTU", ifr_mtu=1400) == errno.EIO
    assert bench.peer.texts == ["a!"]
    bench.clock.advance(1)

    assert bench.peer.texts == ["a!", "b!"]


@pytest.mark.parametrize("first", [True, False], ids=["filter first", "ring first"])
def test_what_strikes_a_frame_is_told_with_the_frame(first):
    """Also of a frame that stood in the ring before it came to the filter."""
    order = (LeakyFilter, LosesInterrupts) if first else (LosesInterrupts, LeakyFilter)
    bench = Bench(type("Two", (*order, FlappingLink), {}))
    told: list[tuple[str, str]] = []
    bench.faults.nic_listeners.append(
        lambda struck: told.append(
            (struck.cause, struck.frame[24:].decode() if struck.frame else str(struck))
        )
    )
    ends = []
    bench.cable.add_tap(lambda end, m: None)
    bench.faults.nic_listeners.append(lambda struck: ends.append(struck.end))
    bench.nic.leak(through=1.0)
    bench.nic.lose_interrupts(1.0, ring=2)
    bench.hear("a", "b", "c", dst=GROUP)
    bench.nic.lose_interrupts(0.0)
    bench.nic.flap((1.0,))
    bench.hear("d")

    assert told == [
        ("interrupt", "a"),
        ("interrupt", "b"),
        ("ring full", "c"),
        ("interrupt", "c"),
        ("let through", "a"),
        ("let through", "b"),
        ("flap", "alice:em0: link flaps"),
        ("dark", "d"),
    ]
    peer = bench.peer.end
    assert ends == [peer, peer, peer, peer, None, None, None, peer]  # what stood in the ring came before
    assert bench.nic.struck == Counter(cause for cause, _ in told)


def test_a_listener_to_the_faults_of_nics_that_fails_harms_nothing(caplog):
    bench = Bench()
    bench.faults.nic_listeners.append(lambda struck: 1 / 0)
    bench.nic.lose_interrupts(1.0)
    bench.hear("a")
    bench.nic.lose_interrupts(0.0)

    assert bench.host.got == ["a"]
    assert "a listener to faults failed" in caplog.text


def test_what_strikes_is_in_the_record(tmp_path):
    bench = Bench()
    bench.faults.record(tmp_path / "x.record")
    bench.nic.fail_ioctl("SIOCSIFMTU", errno.ENOMEM)
    code(bench.ioctl, "SIOCSIFMTU", ifr_mtu=1400)
    bench.clock.advance(1)
    bench.nic.stall(0.5)
    bench.faults.close()

    from iflab.faults import Record

    assert Record.read(tmp_path / "x.record").notes == [
        (0.0, "alice:em0: SIOCSIFMTU fails with ENOMEM"),
        (1.0, "alice:em0: if_start stalls for 0.5 s"),
    ]


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (lambda nic: nic.fail_ioctl("X", -5), "no errno"),
        (lambda nic: nic.fail_ioctl("SIOCSIFMUT", 5), "did you mean SIOCSIFMTU"),
        (lambda nic: nic.fail_ioctl("SIOCSIFNAME", 5), "SIOCSIFNAME never comes to a driver"),
        (lambda nic: nic.fail_ioctl("SIOCIFCREATE", 5), "SIOCIFCREATE never comes to a driver"),
        (lambda nic: nic.fail_ioctl("SIOCAIFADDR", 5), "SIOCAIFADDR never comes to a driver"),
        (lambda nic: nic.fail_ioctl(7, 5), "7 is no ioctl; write its name"),
        (lambda nic: nic.fail_ioctl("X", 5, nth=0), "1 or more"),
        (lambda nic: nic.stall(-1), "0 or more"),
        (lambda nic: nic.stall(1, after=-1), "0 or more"),
        (lambda nic: nic.flap(()), "without a pattern"),
        (lambda nic: nic.flap((0.0, 0.0), times=None), "without pause"),
        (lambda nic: nic.flap((1.0, -1.0)), "0 or more"),
        (lambda nic: nic.lose_interrupts(2), "0 to 1"),
        (lambda nic: nic.leak(through=-1), "0 to 1"),
        (lambda nic: nic.vanish(after=-1), "0 or more"),
    ],
)
def test_orders_that_cannot_be_are_refused(order, text):
    with pytest.raises(FaultError, match=text):
        order(Bench().nic)


def test_a_nic_of_no_lab_says_what_it_lacks():
    with pytest.raises(FaultError, match="Faults\\(clock, seed\\)"):
        Everything().stall(1)
