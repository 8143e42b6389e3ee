"""Look-ups among 10,000 interfaces with 4 addresses each."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address

from iflab.net import IFF, IFT, Driver, Ifnet, Kernel, Vnet

from .core import Bench, Row, figure

__all__ = ["lookups"]

INTERFACES = 10_000
CONSTANT_US, BY_PREFIX_US = 3.0, 15.0


class _Nothing(Driver):
    def if_start(self, ifp: Ifnet) -> None:
        """Send nothing."""


def lookups(bench: Bench) -> Iterator[Row]:
    """Microseconds a look-up, first-match order of the original's scan kept; small tables beside large ones."""
    small, large = _population(10), _population(INTERFACES)
    repeats = 2_000 if bench.quick else 20_000
    for name, target in (
        ("ifunit", CONSTANT_US),
        ("ifnet_byindex", CONSTANT_US),
        ("ifa_ifwithaddr", CONSTANT_US),
        ("ifa_ifwithbroadaddr", CONSTANT_US),
        ("ifa_ifwithdstaddr", CONSTANT_US),
        ("ifa_ifwithnet", BY_PREFIX_US),
        ("ifaof_ifpforaddr", BY_PREFIX_US),
    ):
        ours, (few,) = bench.paired(
            partial(_time, _call(large, name), repeats), partial(_time, _call(small, name), repeats)
        )
        row = figure(
            f"{name}, {INTERFACES} interfaces", "µs", ours, target=target, sense="at most", group="look-ups"
        )
        row.note = f"with 10 interfaces {sorted(few)[len(few) // 2]:.2f} µs"
        yield row


def _population(count: int) -> Vnet:
    vnet = Kernel().vnet_alloc("bench")
    for number in range(count):
        ifp = vnet.if_alloc(IFT.OTHER)
        ifp.if_initname("em", number)
        ifp.if_driver = _Nothing()
        ifp.if_flags = IFF.BROADCAST | IFF.MULTICAST if number % 2 else IFF.POINTOPOINT
        ifp.if_attach()
        for which in range(4):
            base = (10 << 24) | (number << 10) | (which << 8)
            ifp.ifa_add(str(IPv4Address(base | 1)), "255.255.255.0", str(IPv4Address(base | 255)))
    return vnet


def _call(vnet: Vnet, name: str) -> Callable[[], object]:
    middle = vnet.vnet_ifcnt // 2 | 1  # a broadcast interface; the one after it is point-to-point
    base = (10 << 24) | (middle << 10) | (2 << 8)
    address, broadcast, neighbour = (str(IPv4Address(base | last)) for last in (1, 255, 9))
    far = str(IPv4Address(base + 1024 | 255))
    ifp = vnet.ifunit(f"em{middle}")
    assert ifp is not None
    calls: dict[str, Callable[[], object]] = {
        "ifunit": lambda: vnet.ifunit(f"em{middle}"),
        "ifnet_byindex": lambda: vnet.ifnet_byindex(middle),
        "ifa_ifwithaddr": lambda: vnet.ifa_ifwithaddr(address),
        "ifa_ifwithbroadaddr": lambda: vnet.ifa_ifwithbroadaddr(broadcast),
        "ifa_ifwithdstaddr": lambda: vnet.ifa_ifwithdstaddr(far),
        "ifa_ifwithnet": lambda: vnet.ifa_ifwithnet(neighbour),
        "ifaof_ifpforaddr": lambda: ifp.ifaof_ifpforaddr(neighbour),
    }
    assert calls[name]() is not None, name
    return calls[name]


def _time(call: Callable[[], object], repeats: int) -> float:
    return timeit.timeit(call, number=repeats) / repeats * 1e6
