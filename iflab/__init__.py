"""A network lab in Python: FreeBSD's interface layer over real Linux TAP devices.

::

    from iflab import Lab

    with Lab() as lab:
        alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
        print(alice.ping("192.0.2.2"))

Linux is the protocol stack above each NIC; Python is the interface layer, the
driver, the chip and the cable below it. The rooms, each importing only from
those below it:

==================  ====================================================
``iflab.cli``       the command line
``iflab.lab``       ``Lab``, ``Host``: what a user holds
``iflab.control``   the door for other terminals
``iflab.capture``   captures
``iflab.stack``     Linux as the protocols above an ifnet, both ways
``iflab.engine``    the one I/O loop
``iflab.drivers``   NICs, and NICs that fail when told
``iflab.faults``    faults of cables, schedules, records of runs
``iflab.wire``      cables, hubs, scapy stations
``iflab.linux``     namespaces, TAPs, netlink, processes
``iflab.net``       the interface layer: FreeBSD's ``sys/net/if.c``
==================  ====================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .drivers import TapNic
    from .expect import ExpectationError
    from .host import Host, LabError, PingResult
    from .lab import Lab
    from .linux import Missing
    from .wire import Cable, Frame, Segment, Station

__version__ = "0.1.0"

__all__ = [
    "Cable",
    "ExpectationError",
    "Frame",
    "Host",
    "Lab",
    "LabError",
    "Missing",
    "PingResult",
    "Segment",
    "Station",
    "TapNic",
    "__version__",
]

_HOMES = {
    "Cable": "wire",
    "ExpectationError": "expect",
    "Frame": "wire",
    "Host": "host",
    "Lab": "lab",
    "LabError": "host",
    "Missing": "linux",
    "PingResult": "host",
    "Segment": "wire",
    "Station": "wire",
    "TapNic": "drivers",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # on first use: a program that only asks for the version waits for nothing
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
