"""The promises that every driver keeps, without a kernel and on the real one.

Adding a driver means adding it to ``DRIVERS``; ``test_the_list_is_whole`` fails
until that is done. What is particular to one is tested elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import importlib
import pkgutil
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import iflab.drivers
from iflab.bsd import ifconfig
from iflab.drivers import Device, TapNic, faulty, ng_ether_attach, ng_ether_detach
from iflab.drivers.faulty import FaultyNic
from iflab.net import (
    IFF,
    PKTHDR,
    BpfSide,
    BpfTap,
    Ifnet,
    Ifreq,
    LinkState,
    SockaddrDl,
    UserBuffer,
    Vnet,
    bpfattach,
    ether_output,
    mbuf,
)

from .beds import GROUP, Bed, PureBed, RealBed, up
from .pure.devices import framed

REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP, errno.EADDRNOTAVAIL, errno.EFAULT)


def nic(driver: type[TapNic]) -> Callable[[Bed, Vnet], Ifnet]:
    """A maker of NICs of a class, on a cable to another host."""

    def make(bed: Bed, vnet: Vnet) -> Ifnet:
        ifp = bed.nic(vnet, "em0", driver)
        bed.cable(ifp, up(bed.nic(bed.host("far"), "em0")))
        return ifp

    return make


def clone(words: str, below: str = "") -> Callable[[Bed, Vnet], Ifnet]:
    """A maker of devices by ifconfig's words, after those of ``below``; over an em0 that is up, where they name it."""

    def make(bed: Bed, vnet: Vnet) -> Ifnet:
        if "em0" in words:
            up(nic(TapNic)(bed, vnet))
        if below:
            ifconfig(vnet, below.split())
        ifconfig(vnet, words.split())
        ifp = vnet.ifunit(words.split()[0])
        assert ifp is not None
        return ifp

    return make


def epair(bed: Bed, vnet: Vnet) -> Ifnet:
    """A half of an epair whose other half is up."""
    ifconfig(vnet, ["epair0", "create"])
    far, ifp = vnet.ifunit("epair0b"), vnet.ifunit("epair0a")
    assert far is not None
    assert ifp is not None
    up(far)
    return ifp


FAULTY = (
    faulty.FailingIoctl,
    faulty.StallingStart,
    faulty.FlappingLink,
    faulty.LosesInterrupts,
    faulty.LeakyFilter,
    faulty.ChangingMac,
    faulty.Vanishing,
)


class _Everything(*FAULTY):  # type: ignore[misc]
    """All faults in one NIC, none of them ordered."""


DRIVERS: dict[str, Callable[[Bed, Vnet], Ifnet]] = {
    "TapNic": nic(TapNic),
    **{kind.__name__: nic(kind) for kind in FAULTY},
    "everything faulty": nic(_Everything),
    "Epair": epair,
    "Loopback": clone("lo0 create"),
    "Discard": clone("disc0 create"),
    "Vlan": clone("vlan0 create vlan 10 vlandev em0"),
    "Bridge": clone("bridge0 create addm em0"),
    "Lagg": clone("lagg0 create laggport em0"),
}
"""By the name of the driver's class, what makes one: down, and with a link as soon as what is below has one."""


def every(*names: str) -> Any:
    return pytest.mark.parametrize("driver", names or DRIVERS)


EVERY = every()
NOT_LOOPS = every(*(name for name in DRIVERS if name not in ("Loopback", "Discard")))


@pytest.fixture(params=["pure", "real"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if request.param == "pure":
        yield PureBed()
        return
    yield RealBed(request.getfixturevalue("lab"))


@pytest.fixture
def ifp(bed: Bed, driver: str) -> Ifnet:
    return DRIVERS[driver](bed, bed.host("alice"))


def has_link(ifp: Ifnet) -> bool:
    return ifp.if_link_state is LinkState.UP


def counts(ifp: Ifnet) -> tuple[int, int, int]:
    return ifp.if_opackets, ifp.if_oerrors, ifp.if_snd.ifq_drops


def transmit(ifp: Ifnet, *frames: bytes) -> list[int]:
    with ifp.kernel.giant:
        return [ifp.transmit_mbuf(mbuf(frame)) for frame in frames]


def ours(ifp: Ifnet, count: int = 5) -> list[bytes]:
    """Frames of the interface's own, which no kernel would send."""
    return [framed(f"frame {n}", src=ifp.lladdr, kind=b"\x88\xb5") for n in range(count)]


def test_the_list_is_whole():
    kinds = set()
    for module in pkgutil.iter_modules(iflab.drivers.__path__):
        for thing in vars(importlib.import_module(f"iflab.drivers.{module.name}")).values():
            if isinstance(thing, type) and issubclass(thing, TapNic):
                kinds.add(thing)

    names = {kind.__name__ for kind in kinds - {Device, FaultyNic} if not kind.__name__.startswith("_")}
    assert names == set(DRIVERS) - {"everything faulty"}


@EVERY
def test_it_comes_down_and_with_a_link_level_address_first(ifp, bed):
    assert ifp.if_vnet.ifunit(ifp.if_xname) is ifp
    assert ifp.if_vnet.ifnet_byindex(ifp.if_index) is ifp
    assert not (ifp.if_flags | ifp.if_drv_flags) & (IFF.UP | IFF.RUNNING)
    assert next(iter(ifp.if_addrhead)) is ifp.if_addr
    assert len(ifp.lladdr) == 6
    assert ifp.if_softc is ifp.if_driver
    assert "all" in {group.ifg_group for group in ifp.if_groups}
    netdev = bed.netdev(ifp)
    if netdev is not None:
        assert "UP" not in netdev["flags"]
        assert (netdev["mtu"], netdev["address"]) == (ifp.if_mtu, ifp.lladdr.hex(":"))


@EVERY
def test_it_runs_while_it_is_up(ifp, bed):
    up(ifp)
    assert ifp.if_drv_flags & IFF.RUNNING
    bed.settle(functools.partial(has_link, ifp))
    if bed.real:
        bed.settle(lambda: {"UP", "LOWER_UP"} <= set(bed.netdev(ifp)["flags"]))

    up(ifp, False)
    assert not ifp.if_drv_flags & IFF.RUNNING
    if bed.real:
        assert "UP" not in bed.netdev(ifp)["flags"]


@EVERY
def test_each_frame_that_it_takes_is_counted_once(ifp, bed):
    up(ifp)
    bed.settle(functools.partial(has_link, ifp))
    before, octets = counts(ifp), ifp.if_obytes
    frames = ours(ifp)

    answers = transmit(ifp, *frames)

    assert answers == [0] * len(frames)
    gone = [now - was for now, was in zip(counts(ifp), before, strict=True)]
    if bed.real:  # the host's kernel says something, too, as soon as there is a link
        assert gone[0] >= len(frames)
        assert gone[1:] == [0, 0]
    else:
        assert gone == [len(frames), 0, 0]
        assert ifp.if_obytes - octets == sum(map(len, frames))


@EVERY
def test_while_it_is_down_nothing_leaves_and_nothing_comes_in(ifp, bed):
    up(ifp)
    bed.settle(functools.partial(has_link, ifp))
    up(ifp, False)
    before, came = counts(ifp), ifp.if_ipackets
    frames = ours(ifp)

    answers = transmit(ifp, *frames)
    with ifp.kernel.giant:
        ifp.if_softc.receive(mbuf(framed("in", dst=ifp.lladdr)))

    gone = [now - was for now, was in zip(counts(ifp), before, strict=True)]
    assert gone[0] == 0
    assert gone[1] == len(frames) or (bed.real and gone[1] > len(frames))
    assert all(answer in (0, errno.ENXIO, errno.ENETDOWN) for answer in answers)
    assert ifp.if_ipackets == came
    assert ifp.if_iqdrops + ifp.if_ierrors >= 1
    assert len(ifp.if_snd) == 0


@EVERY
def test_a_busy_one_is_left_alone(ifp, bed):
    """``IFF_DRV_OACTIVE``: frames wait in ``if_snd`` until it can take more, where the driver uses that."""
    up(ifp)
    bed.settle(functools.partial(has_link, ifp))
    if ifp.if_driver.if_transmit is not None:
        assert ifp.if_driver.if_qflush is not None
        return
    with ifp.kernel.giant:
        before = ifp.if_opackets
        ifp.if_drv_flags |= IFF.OACTIVE
        transmit(ifp, *ours(ifp))
        assert len(ifp.if_snd) >= 5
        assert ifp.if_opackets == before

        ifp.if_drv_flags &= ~IFF.OACTIVE
        ifp.if_start()
        assert len(ifp.if_snd) == 0
        assert ifp.if_opackets >= before + 5


@EVERY
def test_a_listener_hears_what_it_sends_and_its_end(ifp, bed):
    up(ifp)
    bed.settle(functools.partial(has_link, ifp))
    seen, ended = [], []
    bpfattach(ifp, BpfTap(lambda ifp, m, side: seen.append(m[PKTHDR:]), BpfSide.OUT, ended.append))
    frames = ours(ifp)

    transmit(ifp, *frames)

    assert [frame for frame in seen if frame in frames] == frames
    ifp.if_detach()
    assert ended == [ifp]
    ifp.if_free()


@EVERY
def test_a_node_stands_between_it_and_its_host(ifp, bed):
    up(ifp)
    bed.settle(functools.partial(has_link, ifp))
    went_down, came_up = [], []
    frames, arrived = ours(ifp), framed("in", dst=ifp.lladdr, kind=b"\x88\xb5")
    with ifp.kernel.giant:
        node = ng_ether_attach(ifp)
        upper = node.connect("upper", lambda frame: went_down.append(frame.raw))
        lower = node.connect("lower", lambda frame: came_up.append(frame.raw))
        before = ifp.if_opackets

        for frame in frames:
            assert ether_output(ifp, mbuf(frame)) == 0
        ifp.if_input_mbuf(mbuf(arrived))

        assert went_down == frames
        assert came_up == [arrived]
        assert ifp.if_opackets == before
        upper.disconnect()
        for frame in frames:
            lower.send(frame)
        assert ifp.if_opackets == before + len(frames)
        lower.disconnect()
    ng_ether_detach(ifp)
    assert ifp.if_l2com.ac_netgraph is None


@EVERY
def test_octets_that_are_no_frame_hurt_nobody(ifp, bed):
    up(ifp)
    bed.settle(functools.partial(has_link, ifp))
    odd = [b"", b"\x00", ifp.lladdr, ifp.lladdr + b"\xff" * 7, b"\xff" * 14, ifp.lladdr * 2 + b"\x81\x00"]

    with ifp.kernel.giant:
        for octets in odd:
            ifp.if_softc.receive(mbuf(octets))
        for octets in odd:
            if len(octets) >= 14:  # as_mbuf and the kernel let no shorter ones in
                ifp.transmit_mbuf(mbuf(octets))
        ifp.transmit_mbuf(b"\x01\x05\xff\xff\x01\x00\xff\xff\xff\xff" + framed("nonsense asked of the chip"))

    answers = transmit(ifp, *ours(ifp))
    assert answers == [0] * 5


@EVERY
def test_what_it_does_not_know_is_refused_and_changes_nothing(ifp, bed):
    def account():
        return ifp.if_flags, ifp.if_mtu, ifp.if_capenable, ifp.lladdr, ifp.if_xname

    before = account()
    for cmd, request in (
        ("SIOCSIFNOTHING", Ifreq(ifp.if_xname)),
        ("SIOCSIFMEDIA", Ifreq(ifp.if_xname)),
        ("SIOCSDRVSPEC", Ifreq(ifp.if_xname, ifr_data=None)),
        ("SIOCSETVLAN", Ifreq(ifp.if_xname, ifr_data=None)),
        ("SIOCSVLANPCP", Ifreq(ifp.if_xname, ifr_data=None)),
        ("SIOCSLAGG", Ifreq(ifp.if_xname, ifr_data=None)),
        ("SIOCSVH", Ifreq(ifp.if_xname, ifr_data=None)),
        ("SIOCSIFMTU", Ifreq(ifp.if_xname, ifr_mtu=20)),
        ("SIOCSIFMTU", Ifreq(ifp.if_xname, ifr_mtu=100_000)),
        ("SIOCSIFLLADDR", Ifreq(ifp.if_xname, ifr_addr=SockaddrDl(sdl_lladdr=b"\x02\x01"))),
        ("SIOCADDMULTI", Ifreq(ifp.if_xname, ifr_addr=SockaddrDl(sdl_lladdr=b"\x02\0\0\0\0\1"))),
    ):
        with pytest.raises(OSError, match=r".") as refused:
            ifp.if_vnet.ioctl(cmd, request)
        assert refused.value.errno in REFUSALS, (cmd, refused.value)

    assert account() == before
    assert b"\x02\0\0\0\0\1" not in ifp.if_multiaddrs.link_addresses()


@EVERY
def test_promiscuous_mode_is_counted_and_the_kernel_follows(ifp, bed):
    up(ifp)

    def mode():
        netdev = bed.netdev(ifp)
        assert netdev is None or ("PROMISC" in netdev["flags"]) == bool(ifp.if_flags & IFF.PROMISC)
        return bool(ifp.if_flags & IFF.PROMISC)

    seen = [mode()]
    for on in (1, 1, 0, 0):
        ifp.ifpromisc(on)
        seen.append(mode())

    assert seen == [False, True, True, True, False]


@EVERY
def test_groups_are_counted_and_the_filter_follows(ifp, bed):
    up(ifp)

    def accepts(mac):
        with ifp.kernel.giant:
            return ifp.if_softc.accepts(mac)

    first = ifp.if_addmulti(SockaddrDl(sdl_lladdr=GROUP))
    assert ifp.if_addmulti(SockaddrDl(sdl_lladdr=GROUP)) is first
    assert accepts(GROUP)
    assert bed.kernel_joined(ifp) in (True, None)

    ifp.if_delmulti(SockaddrDl(sdl_lladdr=GROUP))
    assert GROUP in ifp.if_multiaddrs.link_addresses()
    ifp.if_delmulti(SockaddrDl(sdl_lladdr=GROUP))

    assert GROUP not in ifp.if_multiaddrs.link_addresses()
    assert not accepts(GROUP)
    assert accepts(b"\xff" * 6)
    assert bed.kernel_joined(ifp) in (False, None)


@EVERY
def test_it_keeps_working_under_another_name(ifp, bed):
    up(ifp)
    bed.settle(functools.partial(has_link, ifp))

    ifp.if_vnet.ioctl("SIOCSIFNAME", Ifreq(ifp.if_xname, ifr_buffer=UserBuffer(7, "uplink0")))

    assert ifp.if_vnet.ifunit("uplink0") is ifp
    netdev = bed.netdev(ifp)
    assert netdev is None or netdev["ifname"] == "uplink0"
    assert ifp.if_drv_flags & IFF.RUNNING
    bed.settle(functools.partial(has_link, ifp))
    assert transmit(ifp, *ours(ifp)) == [0] * 5


@NOT_LOOPS
def test_it_takes_another_mac(ifp, bed):
    up(ifp)
    mac = b"\x02\xaa\xbb\xcc\xdd\xee"

    ifp.if_vnet.ioctl("SIOCSIFLLADDR", Ifreq(ifp.if_xname, ifr_addr=SockaddrDl(sdl_lladdr=mac)))

    assert ifp.lladdr == mac
    assert ifp.if_softc.accepts(mac)
    assert ifp.if_flags & IFF.UP
    netdev = bed.netdev(ifp)
    assert netdev is None or netdev["address"] == mac.hex(":")


@EVERY
def test_it_moves_to_another_host_and_comes_home(ifp, bed):
    up(ifp)
    home, mac = ifp.if_vnet, ifp.lladdr
    guest = bed.host("guest")
    left = len(home.ifnets())

    ifp.if_vmove(guest)
    assert guest.ifnets() == (ifp,)
    assert len(home.ifnets()) == left - 1
    assert ifp.lladdr == mac
    up(ifp)
    assert ifp.if_drv_flags & IFF.RUNNING
    if bed.real:
        assert bed.netdev(ifp)["address"] == mac.hex(":")
    ifp.if_vmove(home)

    assert ifp in home.ifnets()
    up(ifp)
    assert transmit(ifp, *ours(ifp)) == [0] * 5


def go(bed: Bed, vnet: Vnet, driver: str) -> tuple[str, list[weakref.ref[Any]], list[Ifnet]]:
    """Let one come, be used and go; its name, who must be gone with it, and who stays."""
    ifp = up(DRIVERS[driver](bed, vnet))
    bed.settle(functools.partial(has_link, ifp))
    ifp.ifpromisc(1)
    ifp.if_addmulti(SockaddrDl(sdl_lladdr=GROUP))
    name, others = ifp.if_xname, [other for other in vnet.ifnets() if other is not ifp]
    gone = [weakref.ref(ifp), weakref.ref(ifp.if_softc)]

    ifp.if_detach()
    assert transmit(ifp, *ours(ifp, 1)) == [errno.ENXIO]
    with contextlib.suppress(OSError):  # pytest.raises would keep it alive
        ifp.driver_ioctl("SIOCSIFMTU", Ifreq(name, ifr_mtu=1400))
        pytest.fail("a dead driver obeys")
    ifp.if_free()
    return name, gone, others


@EVERY
def test_when_it_goes_nothing_of_it_is_left(bed, driver):
    vnet = bed.host("alice")

    name, gone, others = go(bed, vnet, driver)

    assert vnet.ifunit(name) is None
    for other in others:  # whatever was below
        assert not other.if_flags & (IFF.PROMISC | IFF.ALLMULTI), other
        assert other.plain, other
        assert GROUP not in other.if_multiaddrs.link_addresses()
    if bed.real:
        bed.lab.wait_for_closers()
        assert name not in bed.lab.hosts["alice"].run("ls /sys/class/net").stdout.split()
        bed.lab.check()
    else:
        bed.world.settle(0.1)
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
