"""``netstat -i``, ``-g`` and ``-r``: counters, groups and routes of a vnet in FreeBSD's layout (netstat(1)).

::

    netstat -i [-b] [-d] [-n] [-I interface] [-f family]
    netstat -g [-n] [-f family]
    netstat -r [-n] [-f family] [-F fib]
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iflab.net import AddressFamily, Ifaddr, Ifnet, SockaddrDl, Thread, Vnet

from .command import CommandError, number

__all__ = ["RouteRow", "netstat"]

_FAMILIES = {"inet": AddressFamily.INET, "inet6": AddressFamily.INET6, "link": AddressFamily.LINK}


@dataclass(slots=True, frozen=True)
class RouteRow:
    """A route to be shown: ``destination`` is a network or ``default``; ``flags`` are netstat's letters."""

    family: AddressFamily
    destination: str
    gateway: str
    flags: str
    netif: str


@dataclass(slots=True)
class _Options:
    what: str = ""
    octets: bool = False
    drops: bool = False
    interface: str | None = None
    family: AddressFamily | None = None
    fib: int = 0


def netstat(
    vnet: Vnet,
    args: Sequence[str],
    td: Thread | None = None,
    routes: Callable[[int], list[RouteRow]] | None = None,
) -> str:
    """Return what ``netstat`` prints for ``vnet``; ``routes(fib)`` gives its routes. Raises ``CommandError``."""
    options = _read(list(args))
    if options.what == "r":
        return _routes(routes(options.fib) if routes is not None else [], options.family)
    if options.interface is not None and vnet.ifunit(options.interface) is None:
        there = ", ".join(ifp.if_xname for ifp in vnet.ifnets()) or "none"
        raise CommandError(f"netstat: interface {options.interface} does not exist; there are {there}")
    if options.what == "g":
        return _groups(vnet, options.family)
    return _interfaces(vnet, options)


def _read(words: list[str]) -> _Options:
    options = _Options()
    while words:
        word = words.pop(0)
        if len(word) < 2 or word[0] != "-":
            raise CommandError(f"netstat: {word!r} is no option; use -i, -g or -r")
        for letter in word[1:]:
            if letter in "igr":
                options.what = letter
            elif letter == "b":
                options.octets = True
            elif letter == "d":
                options.drops = True
            elif letter in "IfF":
                if not words:
                    raise CommandError(f"netstat: -{letter} needs a value")
                _value(options, letter, words.pop(0))
            elif letter not in "naW46":
                raise CommandError(
                    f"netstat: there is no option -{letter}; there are -i -g -r -n -b -d -I -f -F"
                )
            if letter in "46":
                options.family = AddressFamily.INET if letter == "4" else AddressFamily.INET6
    if not options.what:
        options.what = "i" if options.interface is not None else ""
    if not options.what:
        raise CommandError("netstat: say what: -i interfaces, -g groups or -r routes")
    return options


def _value(options: _Options, letter: str, value: str) -> None:
    if letter == "I":
        options.interface = value
        options.what = options.what or "i"
    elif letter == "F":
        options.fib = number("netstat", value, "fib")
    elif value in _FAMILIES:
        options.family = _FAMILIES[value]
    else:
        raise CommandError(f"netstat: there is no family {value!r}; there are {', '.join(_FAMILIES)}")


# -i


def _interfaces(vnet: Vnet, options: _Options) -> str:
    head = ["Name", "Mtu", "Network", "Address", "Ipkts", "Ierrs", "Idrop"]
    head += ["Ibytes"] * options.octets + ["Opkts", "Oerrs"] + ["Obytes"] * options.octets + ["Coll"]
    head += ["Drop"] * options.drops
    rows = [head]
    for ifp in vnet.ifnets():
        if options.interface not in (None, ifp.if_xname):
            continue
        if options.family in (None, AddressFamily.LINK):
            rows.append(_link_row(ifp, options))
        rows += [
            _address_row(ifp, ifa, options)
            for ifa in ifp.if_addrhead
            if ifa.ifa_addr.family is not AddressFamily.LINK and options.family in (None, ifa.ifa_addr.family)
        ]
    return _columns(rows, left=(0, 2, 3))


def _link_row(ifp: Ifnet, options: _Options) -> list[str]:
    return [
        ifp.if_xname,
        str(ifp.if_mtu),
        f"<Link#{ifp.if_index}>",
        ifp.lladdr.hex(":"),
        str(ifp.if_ipackets),
        str(ifp.if_ierrors),
        str(ifp.if_iqdrops),
        *([str(ifp.if_ibytes)] * options.octets),
        str(ifp.if_opackets),
        str(ifp.if_oerrors),
        *([str(ifp.if_obytes)] * options.octets),
        "0",
        *([str(ifp.if_snd.ifq_drops)] * options.drops),
    ]


def _address_row(ifp: Ifnet, ifa: Ifaddr, options: _Options) -> list[str]:
    mask = ifa.ifa_netmask
    bits = mask.value.bit_count() if mask is not None and not isinstance(mask, SockaddrDl) else 0
    network = ipaddress.ip_network(f"{ifa.ifa_addr}/{bits}", strict=False)
    zone = f"%{ifp.if_xname}" if network.is_link_local and network.version == 6 else ""
    return [
        ifp.if_xname,
        "-",
        f"{network.network_address}{zone}/{bits}",
        f"{ifa.ifa_addr}",
        str(ifa.ifa_ipackets),
        "-",
        "-",
        *([str(ifa.ifa_ibytes)] * options.octets),
        str(ifa.ifa_opackets),
        "-",
        *([str(ifa.ifa_obytes)] * options.octets),
        "-",
        *(["-"] * options.drops),
    ]


# -g

_TITLES = (
    (AddressFamily.INET6, "IPv6 Multicast Group Memberships"),
    (AddressFamily.INET, "IPv4 Multicast Group Memberships"),
    (AddressFamily.LINK, "Link-layer Multicast Group Memberships"),
)


def _groups(vnet: Vnet, family: AddressFamily | None) -> str:
    out = ""
    for each, title in _TITLES:
        rows = [["Group", "Link-layer Address", "Netif"]]
        for ifp in vnet.ifnets():
            for ifma in ifp.if_multiaddrs:
                if ifma.ifma_addr.family is each:
                    zone = f"%{ifp.if_xname}" if each is AddressFamily.INET6 else ""
                    mac = "<none>" if ifma.ifma_lladdr is None else ifma.ifma_lladdr.key.hex(":")
                    own = ifma.ifma_addr.key.hex(":") if each is AddressFamily.LINK else str(ifma.ifma_addr)
                    rows.append([f"{own}{zone}", mac, ifp.if_xname])
        if len(rows) > 1 and family in (None, each):
            out += f"{title}\n{_columns(rows, left=(0, 1, 2))}\n"
    return out


# -r


def _routes(rows: list[RouteRow], family: AddressFamily | None) -> str:
    out = "Routing tables\n"
    for each, title in ((AddressFamily.INET, "Internet"), (AddressFamily.INET6, "Internet6")):
        mine = [row for row in rows if row.family is each]
        if family in (None, each) and mine:
            table = [["Destination", "Gateway", "Flags", "Netif", "Expire"]]
            table += [[row.destination, row.gateway, row.flags, row.netif, ""] for row in mine]
            out += f"\n{title}:\n{_columns(table, left=(0, 1, 2))}"
    return out


def _columns(rows: list[list[str]], left: tuple[int, ...]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(" ".join(cells).rstrip())
    return "".join(f"{line}\n" for line in lines)
