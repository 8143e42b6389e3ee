"""Hosts and switches without a kernel: devices with no TAP, a stack that remembers, a clock in the hand."""

from __future__ import annotations

import itertools

import pytest

from iflab.drivers import Maker, TapNic, load_devices
from iflab.net import (
    IFF,
    IFT,
    Ifnet,
    Ifreq,
    Kernel,
    ManualClock,
    Stack,
    Vnet,
    arpcom_alloc,
    arpcom_free,
    frame_of,
    mbuf,
)
from iflab.wire import Cable

BROADCAST = b"\xff" * 6
IPV4 = b"\x08\x00"


class Remembering(Stack):
    """Keeps what each interface hands up."""

    def __init__(self) -> None:
        self.heard: dict[str, list[bytes]] = {}

    def input(self, ifp: Ifnet, m: bytes) -> None:
        self.heard.setdefault(ifp.if_xname, []).append(frame_of(m))


class World:
    """A kernel with all devices loaded; ``host`` makes vnets, ``nic`` and ``cable`` what is between them."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.kernel.if_register_com_alloc(IFT.ETHER, arpcom_alloc, arpcom_free)
        self.clock = ManualClock()
        self._macs = itertools.count(1)
        self.maker = Maker(self.clock, self.next_mac)
        load_devices(self.kernel, self.maker)

    def next_mac(self) -> bytes:
        return b"\x02\0" + next(self._macs).to_bytes(4, "big")

    def host(self, name: str = "v0") -> Vnet:
        return self.kernel.vnet_alloc(name, Remembering())

    def nic(self, vnet: Vnet, name: str = "em0", up: bool = True) -> Ifnet:
        ifp = TapNic().attach(vnet, None, None, name, self.next_mac())
        if up:
            self.up(ifp)
        return ifp

    def up(self, ifp: Ifnet, on: bool = True) -> Ifnet:
        flags = ifp.if_flags | IFF.UP if on else ifp.if_flags & ~IFF.UP
        ifp.if_vnet.ioctl("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=flags))
        return ifp

    def clone(self, vnet: Vnet, name: str, params=None, up: bool = True) -> Ifnet:
        made = vnet.ioctl("SIOCIFCREATE2", Ifreq(name, ifr_data=params)).ifr_name
        ifp = vnet.ifunit(made)
        return self.up(ifp) if up else ifp

    def cable(self, one: Ifnet, other: Ifnet, delay: float = 0.0) -> Cable:
        cable = Cable(self.clock, f"{one.if_xname}-{other.if_xname}", delay)
        cable.plug(one.if_softc)
        cable.plug(other.if_softc)
        self.settle()
        return cable

    def settle(self, seconds: float = 0.0) -> None:
        """Let link-state tasks run, and time pass in small steps."""
        self.kernel.taskqueue_swi.run()
        for _ in range(round(seconds / 0.01)):
            self.clock.advance(0.01)
            self.kernel.taskqueue_swi.run()

    def linked(self) -> tuple[Ifnet, Ifnet]:
        """Two hosts with a NIC each and a cable between them."""
        one, other = self.nic(self.host("alice")), self.nic(self.host("bob"))
        self.cable(one, other)
        return one, other


def heard(ifp: Ifnet) -> list[bytes]:
    """Frames that the host got from this interface."""
    return ifp.if_vnet.stack.heard.get(ifp.if_xname, [])


def texts(ifp: Ifnet) -> list[str]:
    """What they say."""
    return [f[14:].rstrip(b"\0").decode() for f in heard(ifp)]


def framed(
    text: str, dst: bytes = BROADCAST, src: bytes = b"\x02\0\0\0\xaa\x01", kind: bytes = IPV4
) -> bytes:
    return dst + src + kind + text.encode()


def host_sends(ifp: Ifnet, frame: bytes) -> int:
    """What comes out of the host's protocols."""
    from iflab.net import ether_output

    with ifp.kernel.giant:
        return ether_output(ifp, mbuf(frame))


def refused(code, fn, *args, **kwargs):
    """A call raises an ``OSError`` with that errno, and says why."""
    with pytest.raises(OSError, match=r".") as error:
        fn(*args, **kwargs)
    assert error.value.errno == code
