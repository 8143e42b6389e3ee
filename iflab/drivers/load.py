"""Loading the devices: their cloners, and the hooks that the interface layer calls."""

from __future__ import annotations

from iflab.net import Kernel

from . import ng_ether
from .device import Device, Maker
from .disc import Discard
from .epair import Epair
from .lo import Loopback

__all__ = ["DEVICES", "load_devices"]

DEVICES: tuple[type[Device], ...] = (Epair, Loopback, Discard)
"""Every kind of interface that is made by name."""


def load_devices(kernel: Kernel, maker: Maker) -> None:
    """Offer all of them to the vnets of ``kernel``, once."""
    for device in DEVICES:
        kernel.cloners.register(device.cloner(maker))
    ng_ether.load(kernel.hooks)
