"""``netstat -i``, ``-g`` and ``-r``: counters, groups and routes of a vnet in FreeBSD's layout (netstat(1)).

::

    netstat -i [-abdhnW] [-I interface] [-f family]
    netstat -g [-nW] [-f family]
    netstat -r [-nW] [-f family] [-F fib]

Nothing is looked up by name, with ``-n`` or without, and nothing is cut off: a column
is as wide as the original's, or as what stands in it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from iflab.net import IFF, AddressFamily, Ifaddr, Ifmultiaddr, Ifnet, SockaddrDl, Thread, Vnet

from .command import CommandError, number, options

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
    groups: bool = False
    human: bool = False
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
    chosen = _read(list(args))
    if chosen.what == "r":
        fibs = vnet.stack.rt_numfibs
        if not 0 <= chosen.fib < fibs:
            raise CommandError(f"netstat: there is no fib {chosen.fib}; there are {fibs}, from 0")
        return _routes(routes(chosen.fib) if routes is not None else [], chosen)
    if chosen.interface is not None and vnet.ifunit(chosen.interface) is None:
        there = ", ".join(ifp.if_xname for ifp in vnet.ifnets()) or "none"
        raise CommandError(f"netstat: interface {chosen.interface} does not exist; there are {there}")
    if chosen.what == "g":
        return _groups(vnet, chosen.family)
    return _interfaces(vnet, chosen)


def _read(words: list[str]) -> _Options:
    chosen = _Options()
    found, rest = options("netstat", words, "igrabdhnWI:f:F:46")
    if rest:
        raise CommandError(f"netstat: {rest[0]!r} is no option; use -i, -g or -r")
    for letter, value in found:
        if letter in "igr":
            chosen.what = letter
        elif letter in "IfF":
            _value(chosen, letter, value)
        elif letter in "46":
            chosen.family = AddressFamily.INET if letter == "4" else AddressFamily.INET6
        chosen.octets |= letter == "b"
        chosen.drops |= letter == "d"
        chosen.groups |= letter == "a"
        chosen.human |= letter == "h"
    if not chosen.what:
        raise CommandError("netstat: say what: -i interfaces, -g groups or -r routes")
    return chosen


def _value(chosen: _Options, letter: str, value: str) -> None:
    if letter == "I":
        chosen.interface = value
        chosen.what = chosen.what or "i"
    elif letter == "F":
        chosen.fib = number("netstat", value, "fib")
    elif value in _FAMILIES:
        chosen.family = _FAMILIES[value]
    else:
        raise CommandError(f"netstat: there is no family {value!r}; there are {', '.join(_FAMILIES)}")


# -i


def _interfaces(vnet: Vnet, chosen: _Options) -> str:
    head = ["Name", "Mtu", "Network ", "Address ", "Ipkts", "Ierrs", "Idrop"]
    head += ["Ibytes"] * chosen.octets + ["Opkts", "Oerrs"] + ["Obytes"] * chosen.octets + ["Coll"]
    head += ["Drop"] * chosen.drops
    rows = [head]
    for ifp in vnet.ifnets():
        if chosen.interface not in (None, ifp.if_xname):
            continue
        for ifa in ifp.if_addrhead:
            family = ifa.ifa_addr.family
            if chosen.family not in (None, family):
                continue
            is_link = family is AddressFamily.LINK
            rows.append(_row(ifp, _of_link(ifp) if is_link else _of_address(ifp, ifa), chosen))
            if chosen.groups:
                rows += [_group_row(ifma, len(head)) for ifma in _memberships(ifp, family)]
    least = {"Name": 5, "Mtu": 5, "Network ": 9, "Ipkts": 8, "Opkts": 8, "Ibytes": 10, "Obytes": 10}
    return _columns(rows, left=(0, 2, 3), least=[least.get(name, 5) for name in head])


def _of_link(ifp: Ifnet) -> list[str | int | None]:
    return [
        str(ifp.if_mtu),
        f"<Link#{ifp.if_index}> ",
        ifp.lladdr.hex(":"),
        ifp.if_ipackets,
        ifp.if_ierrors,
        ifp.if_iqdrops,
        ifp.if_ibytes,
        ifp.if_opackets,
        ifp.if_oerrors,
        ifp.if_obytes,
        0,
        ifp.if_snd.ifq_drops,
    ]


def _of_address(ifp: Ifnet, ifa: Ifaddr) -> list[str | int | None]:
    mask = ifa.ifa_netmask
    bits = mask.value.bit_count() if mask is not None and not isinstance(mask, SockaddrDl) else 0
    network = ipaddress.ip_network(f"{ifa.ifa_addr}/{bits}", strict=False)
    zone = f"%{ifp.if_xname}" if network.is_link_local and network.version == 6 else ""
    return [
        "-",
        f"{network.network_address}{zone}/{bits} ",
        f"{ifa.ifa_addr}{zone}",
        ifa.ifa_ipackets,
        None,
        None,
        ifa.ifa_ibytes,
        ifa.ifa_opackets,
        None,
        ifa.ifa_obytes,
        None,
        None,
    ]


def _row(ifp: Ifnet, cells: list[str | int | None], chosen: _Options) -> list[str]:
    """The cells that were asked for, as text. A name with an asterisk is down."""
    ibytes, obytes, drops = 6, 9, 11
    left_out = {*((ibytes, obytes) if not chosen.octets else ()), *((drops,) if not chosen.drops else ())}
    name = ifp.if_xname if ifp.if_flags & IFF.UP else f"{ifp.if_xname}*"
    return [
        name,
        *(_cell(c, i in (ibytes, obytes), chosen) for i, c in enumerate(cells) if i not in left_out),
    ]


def _cell(value: str | int | None, octets: bool, chosen: _Options) -> str:
    if value is None:
        return "-"
    return (
        _humanize(value, 1024 if octets else 1000) if chosen.human and isinstance(value, int) else str(value)
    )


def _humanize(value: float, step: int) -> str:
    """As ``humanize_number(3)`` writes it in four places: ``999``, ``1.2K``, ``12K``, ``3.4M``."""
    for suffix in ("", "K", "M", "G", "T", "P"):
        if value < (1000 if suffix else step) or suffix == "P":
            return f"{value:.1f}{suffix}" if suffix and value < 9.95 else f"{value:.0f}{suffix}"
        value /= step
    raise AssertionError


def _memberships(ifp: Ifnet, family: AddressFamily) -> list[Ifmultiaddr]:
    return [ifma for ifma in ifp.if_multiaddrs if ifma.ifma_addr.family is family]


def _group_row(ifma: Ifmultiaddr, columns: int) -> list[str]:
    address = ifma.ifma_addr
    text = address.key.hex(":") if isinstance(address, SockaddrDl) else str(address)
    return ["", "", "", text, *[""] * (columns - 4)]


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
            for ifma in _memberships(ifp, each):
                zone = f"%{ifp.if_xname}" if each is AddressFamily.INET6 else ""
                mac = "<none>" if ifma.ifma_lladdr is None else ifma.ifma_lladdr.key.hex(":")
                own = ifma.ifma_addr.key.hex(":") if each is AddressFamily.LINK else str(ifma.ifma_addr)
                rows.append([f"{own}{zone}", mac, ifp.if_xname])
        if len(rows) > 1 and family in (None, each):
            out += f"{title}\n{_columns(rows, left=(0, 1, 2))}\n"
    return out


# -r


def _routes(rows: list[RouteRow], chosen: _Options) -> str:
    out = f"Routing tables (fib: {chosen.fib})\n" if chosen.fib else "Routing tables\n"
    for each, title, widths in (
        (AddressFamily.INET, "Internet", (18, 18, 6, 8, 6)),
        (AddressFamily.INET6, "Internet6", (33, 29, 6, 8, 6)),
    ):
        mine = [row for row in rows if row.family is each]
        if chosen.family in (None, each) and mine:
            table = [["Destination", "Gateway", "Flags", "Netif", "Expire"]]
            table += [[row.destination, row.gateway, row.flags, row.netif, ""] for row in mine]
            out += f"\n{title}:\n{_columns(table, left=(0, 1, 2), least=widths)}"
    return out


def _columns(rows: list[list[str]], left: tuple[int, ...], least: Sequence[int] = ()) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths = [max(pair) for pair in zip_longest(widths, least, fillvalue=0)]
    lines = []
    for row in rows:
        cells = [
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(" ".join(cells).rstrip())
    return "".join(f"{line}\n" for line in lines)
