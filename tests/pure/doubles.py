"""Ports, drivers and stacks that only remember."""

from __future__ import annotations

from typing import Any

from iflab.net import (
    IFT,
    Cloner,
    Driver,
    Ifnet,
    Kernel,
    Stack,
    ether_ifattach,
    ether_resolvemulti,
    frame_of,
    mbuf,
)


class FakePort:
    """A port that keeps what it receives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.end = None
        self.frames: list[bytes] = []
        self.links: list[bool] = []

    def receive(self, m: bytes) -> None:
        self.frames.append(frame_of(m))

    def link_change(self, up: bool) -> None:
        self.links.append(up)

    def say(self, text: str) -> None:
        self.end.send(mbuf(frame(text)))

    @property
    def texts(self) -> list[str]:
        return [f[14:].rstrip(b"\0").decode() for f in self.frames]


def frame(text: str, dst: bytes = b"\x02\0\0\0\0\x02") -> bytes:
    """An Ethernet frame that says something."""
    return dst + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + text.encode()


class RecordingDriver(Driver):
    """Sends nothing anywhere, and remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.commands: list[str] = []
        self.fails: dict[str, int] = {}

    def if_start(self, ifp: Ifnet) -> None:
        while (m := ifp.if_snd.dequeue()) is not None:
            self.sent.append(m)

    def if_ioctl(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        self.commands.append(cmd)
        if cmd in self.fails:
            raise OSError(self.fails[cmd], cmd)
        if cmd == "SIOCSIFMTU":
            ifp.if_mtu = data.ifr_mtu

    def if_resolvemulti(self, ifp, sa):
        return ether_resolvemulti(ifp, sa)


def ethernet(kernel: Kernel | None = None, unit: int = 0, stack: Stack | None = None):
    """An attached Ethernet interface ``em0`` in a vnet of its own; ``(vnet, ifp, driver)``."""
    kernel = kernel or Kernel()
    vnet = kernel.vnets[0] if kernel.vnets else kernel.vnet_alloc("v0", stack)
    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_initname("em", unit)
    ifp.if_driver = driver = RecordingDriver()
    ifp.if_flags = 0x8802
    ifp.if_mtu = 1500
    ether_ifattach(ifp, b"\x02\0\0\0\0" + bytes([unit + 1]))
    return vnet, ifp, driver


def discard(ifp: Ifnet) -> None:
    """Unmake what ``disc`` made."""
    ifp.if_detach()
    ifp.if_free()


def disc_cloner() -> Cloner:
    """Makes interfaces ``disc0`` ... over recording drivers."""

    def create(vnet, name, unit, params):
        ifp = vnet.if_alloc(IFT.ETHER)
        ifp.if_initname("disc", unit)
        ifp.if_driver = RecordingDriver()
        ifp.if_mtu = 1500
        ifp.if_attach()
        return ifp

    return Cloner("disc", create, discard)


def code(fn, *args):
    """The errno that a call raises; 0 when it does not."""
    try:
        fn(*args)
    except OSError as refused:
        return refused.errno
    return 0
