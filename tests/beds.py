"""Hosts for tests that run twice: without a kernel, and on the real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from iflab.drivers import TapNic
from iflab.net import IFF, Ifnet, Ifreq, Vnet

from .linux_tools import eventually, link
from .pure.devices import World

__all__ = ["GROUP", "Bed", "PureBed", "RealBed", "up"]

GROUP = b"\x01\x00\x5e\x7c\x00\x07"
"""A group that no kernel joins by itself."""


class PureBed:
    """Hosts without a kernel, and time in the hand."""

    real = False

    def __init__(self) -> None:
        self.world = World()
        self.kernel = self.world.kernel

    def host(self, name: str) -> Vnet:
        return self.world.host(name)

    def nic(self, vnet: Vnet, name: str, driver: type[TapNic] = TapNic) -> Ifnet:
        return driver().attach(vnet, None, None, name, self.world.next_mac())

    def cable(self, one: Ifnet, other: Ifnet) -> None:
        self.world.cable(one, other)

    def settle(self, done: Callable[[], object]) -> None:
        """Let what is to happen happen, until ``done``."""
        self.world.settle(0.1)
        assert done()

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        self.world.settle(seconds)

    def check(self) -> None:
        """Nothing disagrees with the kernel."""

    def netdev(self, ifp: Ifnet) -> dict[str, Any] | None:
        """What the kernel says of the interface; None: there is no kernel."""
        return None

    def kernel_joined(self, ifp: Ifnet) -> bool | None:
        """Whether ``GROUP`` is on the netdev's list."""
        return None


class RealBed:
    """The same in a lab."""

    real = True

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.kernel = lab.kernel

    def host(self, name: str) -> Vnet:
        vnet: Vnet = self.lab.host(name).vnet
        return vnet

    def nic(self, vnet: Vnet, name: str, driver: type[TapNic] = TapNic) -> Ifnet:
        ifp: Ifnet = self.lab.hosts[vnet.name].nic(name, driver=driver, up=False)
        return ifp

    def cable(self, one: Ifnet, other: Ifnet) -> None:
        self.lab.cable(one, other)

    def settle(self, done: Callable[[], object]) -> None:
        eventually(done)

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)

    def check(self) -> None:
        self.lab.wait_for_closers()
        self.lab.check()

    def netdev(self, ifp: Ifnet) -> dict[str, Any] | None:
        assert ifp.if_vnet is not None
        return link(self.lab.hosts[ifp.if_vnet.name], ifp.if_xname)

    def kernel_joined(self, ifp: Ifnet) -> bool | None:
        assert ifp.if_vnet is not None
        listed = self.lab.hosts[ifp.if_vnet.name].run(
            ["ip", "maddr", "show", "dev", ifp.if_xname], check=True
        )
        return GROUP.hex(":") in listed.stdout


Bed = PureBed | RealBed


def up(ifp: Ifnet, on: bool = True) -> Ifnet:
    flags = ifp.if_flags | IFF.UP if on else ifp.if_flags & ~IFF.UP
    ifp.if_vnet.ioctl("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=flags))
    return ifp
