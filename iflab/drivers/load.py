"""Loading the devices: their cloners, and the hooks that the interface layer calls."""

from __future__ import annotations

from iflab.net import Kernel

from . import bridge, carp, lagg, ng_ether, vlan
from .bridge import Bridge
from .device import Device, Maker
from .disc import Discard
from .epair import Epair
from .lagg import Lagg
from .lo import Loopback
from .vlan import Vlan

__all__ = ["DEVICES", "load_devices"]

DEVICES: tuple[type[Device], ...] = (Epair, Loopback, Discard, Vlan, Bridge, Lagg)
"""Every kind of interface that is made by name."""


def load_devices(kernel: Kernel, maker: Maker) -> None:
    """Offer all of them to the vnets of ``kernel``, once."""
    for device in DEVICES:
        kernel.cloners.register(device.cloner(maker))
    ng_ether.load(kernel.hooks)
    vlan.load(kernel)
    bridge.load(kernel)
    lagg.load(kernel)
    carp.load(kernel, maker)
