"""``ifconfig``: FreeBSD's syntax and layout (ifconfig(8)), on a vnet of the lab.

::

    ifconfig [-a] [-dLmu] [interface] [address_family]
    ifconfig -l [-du] [address_family]
    ifconfig -C | -g group
    ifconfig interface [address_family] [address [dest_address]] [parameters]
    ifconfig kind create
    ifconfig interface destroy

Parameters are carried out in the order written, addresses last. One that fails
ends the command; those before it stay done, as on the original.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import socket
import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from iflab.net import (
    IFCAP,
    IFF,
    IFT,
    IN6_IFF,
    ND6_IFF,
    AddressFamily,
    Ifaddr,
    Ifaliasreq,
    Ifgroupreq,
    Ifnet,
    Ifreq,
    LinkState,
    Priv,
    Sockaddr,
    SockaddrDl,
    SockaddrIn6,
    Thread,
    UserBuffer,
    Vnet,
    as_sockaddr,
)
from iflab.net.flags import IFNAMSIZ

from .command import CommandError, bits_text, number, options, reason
from .devices import (
    CLONE_WORDS,
    DEVICE_PARAMETERS,
    carp_addresses,
    clone_params,
    finish_devices,
    lower_lines,
    upper_lines,
)

__all__ = ["CAPABILITY_NAMES", "FLAG_NAMES", "ND6_NAMES", "ifconfig"]

FLAG_NAMES = (
    (IFF.UP, "UP"),
    (IFF.BROADCAST, "BROADCAST"),
    (IFF.DEBUG, "DEBUG"),
    (IFF.LOOPBACK, "LOOPBACK"),
    (IFF.POINTOPOINT, "POINTOPOINT"),
    (IFF.RUNNING, "RUNNING"),
    (IFF.NOARP, "NOARP"),
    (IFF.PROMISC, "PROMISC"),
    (IFF.ALLMULTI, "ALLMULTI"),
    (IFF.OACTIVE, "OACTIVE"),
    (IFF.SIMPLEX, "SIMPLEX"),
    (IFF.LINK0, "LINK0"),
    (IFF.LINK1, "LINK1"),
    (IFF.LINK2, "LINK2"),
    (IFF.MULTICAST, "MULTICAST"),
    (IFF.PPROMISC, "PPROMISC"),
    (IFF.MONITOR, "MONITOR"),
    (IFF.STATICARP, "STATICARP"),
)


def _bit_names(flags: type) -> tuple[tuple[int, str], ...]:
    names = [name for name in vars(flags) if not name.startswith("_")]  # Python has numbers of its own there
    return tuple(sorted((getattr(flags, name), name) for name in names))


CAPABILITY_NAMES = _bit_names(IFCAP)
ND6_NAMES = _bit_names(ND6_IFF)
_ADDRESS_WORDS = tuple((bit, name.lower()) for bit, name in _bit_names(IN6_IFF))
_SETTABLE = ("anycast", "tentative", "deprecated", "autoconf")

_FLAGS = {
    "up": IFF.UP,
    "promisc": IFF.PPROMISC,
    "debug": IFF.DEBUG,
    "link0": IFF.LINK0,
    "link1": IFF.LINK1,
    "link2": IFF.LINK2,
    "monitor": IFF.MONITOR,
    "staticarp": IFF.STATICARP,
}
_FLAG_WORDS = {
    **{name: (bit, True) for name, bit in _FLAGS.items()},
    **{f"-{name}": (bit, False) for name, bit in _FLAGS.items() if name != "up"},
    "down": (IFF.UP, False),
    "arp": (IFF.NOARP, False),
    "-arp": (IFF.NOARP, True),
    "normal": (IFF.LINK0, False),
    "compress": (IFF.LINK0, True),
    "noicmp": (IFF.LINK1, True),
}
_CAPABILITIES = {
    "netcons": IFCAP.NETCONS,
    "toe": IFCAP.TOE4 | IFCAP.TOE6,
    "wol": IFCAP.WOL_UCAST | IFCAP.WOL_MCAST | IFCAP.WOL_MAGIC,
    "wol_ucast": IFCAP.WOL_UCAST,
    "wol_mcast": IFCAP.WOL_MCAST,
    "wol_magic": IFCAP.WOL_MAGIC,
    "vlanhwfilter": IFCAP.VLAN_HWFILTER,
    "vlanhwtso": IFCAP.VLAN_HWTSO,
    "rxcsum": IFCAP.RXCSUM,
    "txcsum": IFCAP.TXCSUM,
    "rxcsum6": IFCAP.RXCSUM_IPV6,
    "txcsum6": IFCAP.TXCSUM_IPV6,
    "tso4": IFCAP.TSO4,
    "tso6": IFCAP.TSO6,
    "tso": IFCAP.TSO4 | IFCAP.TSO6,
    "lro": IFCAP.LRO,
    "vlanmtu": IFCAP.VLAN_MTU,
    "vlanhwtag": IFCAP.VLAN_HWTAGGING,
    "vlanhwcsum": IFCAP.VLAN_HWCSUM,
    "polling": IFCAP.POLLING,
}
_ND6_WORDS = {
    "accept_rtadv": ND6_IFF.ACCEPT_RTADV,
    "auto_linklocal": ND6_IFF.AUTO_LINKLOCAL,
    "ifdisabled": ND6_IFF.IFDISABLED,
    "no_dad": ND6_IFF.NO_DAD,
    "no_prefer_iface": ND6_IFF.NO_PREFER_IFACE,
    "no_radr": ND6_IFF.NO_RADR,
    "nud": ND6_IFF.PERFORMNUD,
    "prefer_source": ND6_IFF.PREFER_SOURCE,
}
_FAMILIES = {
    "inet": AddressFamily.INET,
    "inet6": AddressFamily.INET6,
    "ether": AddressFamily.LINK,
    "link": AddressFamily.LINK,
    "lladdr": AddressFamily.LINK,
}


@dataclass
class _Address:
    """The address that a command line describes, bit by bit."""

    address: str | None = None
    bits: int | None = None
    far: str | None = None
    mask: str | None = None
    adds: bool = True
    clears: bool = True
    flags: int = 0
    preferred: int | None = None
    valid: int | None = None


@dataclass
class _Run:
    """One command line being carried out."""

    vnet: Vnet
    td: Thread
    name: str
    out: list[str] = field(default_factory=list)
    address: _Address = field(default_factory=_Address)
    family: AddressFamily | None = None
    pending: dict[str, Any] = field(default_factory=dict)
    renamed: bool = False

    def ioctl(self, cmd: str, what: str, **fields: Any) -> Any:
        """Make an ioctl on the interface. Raises ``CommandError`` as the original prints it."""
        return self.request(cmd, what, Ifreq(self.name, **fields))

    def request(self, cmd: str, what: str, request: Any) -> Any:
        try:
            return self.vnet.ioctl(cmd, request, self.td)
        except OSError as error:
            failed = f"ioctl {what}" if what.startswith(cmd) else f"ioctl {cmd} ({what})"
            raise CommandError(f"ifconfig: {self.name}: {failed}: {reason(error)}") from error

    def number(self, text: str, what: str) -> int:
        return number("ifconfig", text, what)

    def rename(self, name: str) -> None:
        """Go on with the interface under another name, and print that at the end."""
        self.renamed |= name != self.name
        self.name = name

    def text(self) -> str:
        """What is printed."""
        return "".join(f"{line}\n" for line in [*self.out, *[self.name] * self.renamed])


def ifconfig(vnet: Vnet, args: Sequence[str], td: Thread | None = None) -> str:
    """Carry out a command line in ``vnet`` and return what it prints. Raises ``CommandError``."""
    td = td or vnet.thread()
    modes, group, words = _modes(args)
    if "C" in modes:
        names = vnet.ioctl("SIOCIFGCLONERS", Ifreq(), td).ifr_data
        return " ".join(names) + "\n" * bool(names)
    if group is not None:
        found = vnet.groups.get(group)
        return "".join(f"{ifp.if_xname}\n" for ifp in (found.ifg_members if found else ()))
    if not words or words[0] in _FAMILIES or "a" in modes or "l" in modes:
        if len(words) > 1 or (words and words[0] not in _FAMILIES):
            raise CommandError("ifconfig: -a and -l take an address family and nothing else")
        return _listing(vnet, td, modes, _FAMILIES.get(words[0]) if words else None)
    name, rest = words[0], words[1:]
    if rest and rest[0] in ("create", "plumb"):
        return _create(vnet, td, name, rest[1:])
    ifp = vnet.ifunit(name)
    if rest[:1] == ["-vnet"] and ifp is None:  # it is lent out, so it cannot be seen here
        return _reclaim(_Run(vnet, td, name), rest[1:])
    if ifp is None:
        raise CommandError(f"ifconfig: interface {name} does not exist")
    if not _is_meant(ifp, modes):
        return ""
    if not rest or (len(rest) == 1 and rest[0] in _FAMILIES):
        return show(ifp, _FAMILIES.get(rest[0]) if rest else None, _permitted(modes, td))
    run = _Run(vnet, td, name)
    _carry_out(run, rest)
    return run.text()


def _modes(args: Sequence[str]) -> tuple[set[str], str | None, list[str]]:
    found, words = options("ifconfig", args, "aludmCLvkng:")
    modes = {letter for letter, _ in found}
    group = next((value for letter, value in found if letter == "g"), None)
    for one, other in (("l", "a"), ("l", "m"), ("u", "d")):
        if {one, other} <= modes:
            raise CommandError(f"ifconfig: -{one} and -{other} do not go together")
    return modes, group, words


def _is_meant(ifp: Ifnet, modes: set[str]) -> bool:
    """Whether ``-u`` or ``-d`` leave it in."""
    return ("d" if ifp.if_flags & IFF.UP else "u") not in modes


def _permitted(modes: set[str], td: Thread) -> set[str]:
    """The modes without ``k`` for one who may not see keys."""
    return modes if td.holds(Priv.NETINET_CARP) else modes - {"k"}


def _listing(vnet: Vnet, td: Thread, modes: set[str], family: AddressFamily | None) -> str:
    shown = [
        ifp
        for ifp in vnet.ifnets()
        if _is_meant(ifp, modes)
        and (family is None or "l" not in modes or any(a.ifa_addr.family is family for a in ifp.if_addrhead))
    ]
    if "l" in modes:
        return " ".join(ifp.if_xname for ifp in shown) + "\n"
    return "".join(show(ifp, family, _permitted(modes, td)) for ifp in shown)


def _create(vnet: Vnet, td: Thread, name: str, rest: list[str]) -> str:
    if vnet.ifunit(name) is not None:
        raise CommandError(f"ifconfig: interface {name} already exists")
    run = _Run(vnet, td, name)
    params, rest = clone_params(name, *_clone_words(rest))
    run.rename(run.request("SIOCIFCREATE2", "create", Ifreq(name, ifr_data=params)).ifr_name)
    _carry_out(run, rest)
    return run.text()


def _clone_words(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Words that describe a device before there is one, each with its value, and all the others."""
    found: dict[str, str] = {}
    left: list[str] = []
    at = 0
    while at < len(words):
        count = _PARAMETERS[words[at]][0] if words[at] in _PARAMETERS else 0
        part, at = words[at : at + 1 + count], at + 1 + count
        if part[0] in CLONE_WORDS and len(part) == 2:
            found[part[0]] = part[1]
        else:
            left += part
    return found, left


def _reclaim(run: _Run, rest: list[str]) -> str:
    if not rest:
        raise CommandError("ifconfig: '-vnet' needs a value")
    run.ioctl("SIOCSIFRVNET", f"-vnet {rest[0]}", ifr_jid=_jid(run, rest.pop(0)))
    _carry_out(run, rest)
    return run.text()


# showing


def show(ifp: Ifnet, family: AddressFamily | None = None, modes: Collection[str] = ()) -> str:
    """An interface as ``ifconfig em0`` prints it; ``family`` chooses which addresses.

    ``modes``: ``m`` capabilities, too; ``L`` lifetimes; ``v`` more of an aggregate; ``k`` keys.
    """
    flags = ifp.if_flags | ifp.if_drv_flags
    lines = [f"{ifp.if_xname}: flags={bits_text(flags, FLAG_NAMES)} metric {ifp.if_metric} mtu {ifp.if_mtu}"]
    if ifp.if_description:
        lines.append(f"\tdescription: {ifp.if_description}")
    if ifp.if_capenable:
        lines.append(f"\toptions={bits_text(ifp.if_capenable, CAPABILITY_NAMES)}")
    if "m" in modes and ifp.if_capabilities:
        lines.append(f"\tcapabilities={bits_text(ifp.if_capabilities, CAPABILITY_NAMES)}")
    if family in (None, AddressFamily.LINK) and ifp.lladdr and ifp.if_type != IFT.LOOP:
        lines.append(f"\tether {ifp.lladdr.hex(':')}")
    lines += [
        f"\t{_address_line(ifp, ifa, 'L' in modes)}"
        for ifa in ifp.if_addrhead
        if ifa.ifa_addr.family is not AddressFamily.LINK and family in (None, ifa.ifa_addr.family)
    ]
    lines += _waiting_lines(ifp, family)
    if family is None:
        lines += upper_lines(ifp, "v" in modes)
        groups = [g.ifg_group for g in ifp.if_groups if g.ifg_group != "all"]
        if groups:
            lines.append(f"\tgroups: {' '.join(groups)}")
        lines += lower_lines(ifp, "k" in modes)
        if ifp.if_fib:
            lines.append(f"\tfib: {ifp.if_fib}")
        lines += _media_lines(ifp, "m" in modes)
    if family in (None, AddressFamily.INET6) and (nd6 := _ask(ifp, "SIOCGIFINFO_IN6")) and nd6.ifr_flags:
        lines.append(f"\tnd6 options={bits_text(nd6.ifr_flags, ND6_NAMES)}")
    return "".join(f"{line}\n" for line in lines)


def _ask(ifp: Ifnet, cmd: str, address: Sockaddr | None = None) -> Ifreq | None:
    """Ask the protocol above; None when there is none that knows."""
    request = Ifreq(ifp.if_xname, ifr_addr=address)
    try:
        ifp.stack.pru_control(cmd, request, ifp, ifp.alloc_vnet.thread())
    except OSError:
        return None
    return request


def _waiting_lines(ifp: Ifnet, family: AddressFamily | None) -> list[str]:
    """Shared addresses that another host has at the moment: the original keeps them on its list."""
    lines = []
    for address, vhid in carp_addresses(ifp):
        if address.version == 6 and family in (None, AddressFamily.INET6):
            lines.append(f"\tinet6 {address.ip} prefixlen {address.network.prefixlen} vhid {vhid}")
        elif address.version == 4 and family in (None, AddressFamily.INET):
            text = f"\tinet {address.ip} netmask {int(address.netmask):#010x}"
            if ifp.if_flags & IFF.BROADCAST and address.network.prefixlen < 31:
                text += f" broadcast {address.network.broadcast_address}"
            lines.append(f"{text} vhid {vhid}")
    return lines


def _address_line(ifp: Ifnet, ifa: Ifaddr, lifetimes: bool) -> str:
    mask = ifa.ifa_netmask
    bits = 0 if mask is None or isinstance(mask, SockaddrDl) else mask.value
    far = ifa.ifa_dstaddr
    if isinstance(ifa.ifa_addr, SockaddrIn6):
        local = ifa.ifa_addr.packed[0] == 0xFE and ifa.ifa_addr.packed[1] & 0xC0 == 0x80
        zone = f"%{ifp.if_xname}" if local else ""
        scope = f" scopeid {ifp.if_index:#x}" if local else ""
        there = f" --> {far}" if far is not None else ""
        found = _ask(ifp, "SIOCGIFAFLAG_IN6", ifa.ifa_addr)
        is_so = "".join(f" {word}" for bit, word in _ADDRESS_WORDS if found and found.ifr_flags & bit)
        how_long = _lifetime(ifp, ifa) if lifetimes else ""
        return f"inet6 {ifa.ifa_addr}{zone}{there} prefixlen {bits.bit_count()}{is_so}{scope}{how_long}{_vhid(ifa)}"
    text = f"inet {ifa.ifa_addr}"
    if far is not None and ifp.if_flags & IFF.POINTOPOINT:
        text += f" --> {far}"
    text += f" netmask {bits:#010x}"
    if far is not None and ifp.if_flags & IFF.BROADCAST:
        text += f" broadcast {far}"
    return text + _vhid(ifa)


def _lifetime(ifp: Ifnet, ifa: Ifaddr) -> str:
    """How long it is preferred and valid, if not for ever."""
    found = _ask(ifp, "SIOCGIFALIFETIME_IN6", ifa.ifa_addr)
    if found is None or found.ifr_data == (None, None):
        return ""
    preferred, valid = ("infty" if seconds is None else seconds for seconds in found.ifr_data)
    return f" pltime {preferred} vltime {valid}"


def _vhid(ifa: Ifaddr) -> str:
    return f" vhid {ifa.ifa_carp.vhid}" if ifa.ifa_carp is not None else ""


def _media_lines(ifp: Ifnet, more: bool) -> list[str]:
    try:
        request = Ifreq(ifp.if_xname)
        ifp.driver_ioctl("SIOCGIFMEDIA", request)
    except OSError:
        return []
    status = {LinkState.UP: "active", LinkState.DOWN: "no carrier"}.get(LinkState(ifp.if_link_state))
    media = request.ifr_data
    lines = [f"\tstatus: {status}"] if status else []
    if isinstance(media, dict) and "media" in media:
        lines.insert(0, f"\tmedia: {media['media']}")
        if more:
            subtype, options = _media_words(media["media"])
            lines += ["\tsupported media:", f"\t\tmedia {subtype}" + f" mediaopt {options}" * bool(options)]
    return lines


def _media_words(media: str) -> tuple[str, str]:
    """Subtype and options of ``Ethernet 10Gbase-T <full-duplex>``."""
    subtype, _, options = media.removeprefix("Ethernet ").partition(" (")[0].partition(" <")
    return subtype, options.rstrip(">")


# changing


def _carry_out(run: _Run, words: list[str]) -> None:
    while words:
        word = words.pop(0)
        action = _PARAMETERS.get(word)
        if action is not None:
            count, act = action
            if len(words) < count:
                needed = "a value" if count == 1 else f"{count} values"
                raise CommandError(f"ifconfig: {word!r} needs {needed}")
            act(run, word, *(words.pop(0) for _ in range(count)))
        elif word in _FAMILIES:
            run.family = _FAMILIES[word]
        elif run.family is AddressFamily.LINK:
            _set_lladdr(run, word)
        elif run.address.address is None:
            _read_address(run, word)
        elif run.address.far is None:
            run.address.far = _ip(word)
        else:
            raise CommandError(f"ifconfig: {word!r} is no parameter")
    finish_devices(run)
    _finish_media(run)
    wanted = run.address
    if wanted.address is not None or wanted.mask is not None or (not wanted.adds and run.family is not None):
        _set_address(run)


def _ip(text: str) -> str:
    """An address; of IPv4 also the short forms of ``inet_aton``: ``10.1`` is 10.0.0.1."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text.split("%")[0]))
    with contextlib.suppress(OSError):
        if text.replace(".", "").isalnum():
            return str(ipaddress.IPv4Address(socket.inet_aton(text)))
    raise CommandError(f"ifconfig: {text!r} is neither a parameter nor an address")


def _read_address(run: _Run, word: str) -> None:
    text, slash, bits = word.partition("/")
    address = ipaddress.ip_address(_ip(text))
    wanted = AddressFamily.INET if address.version == 4 else AddressFamily.INET6
    if run.family not in (None, wanted):
        raise CommandError(f"ifconfig: {word!r} is no address of the family before it")
    run.family = wanted
    run.address.address = str(address)
    if slash:
        run.address.bits = _bits(run, bits)


def _bits(run: _Run, text: str) -> int:
    bits = run.number(text, "prefix length")
    most = 128 if run.family is AddressFamily.INET6 else 32
    if not 0 <= bits <= most:
        raise CommandError(f"ifconfig: a prefix length is 0 to {most}, not {text}")
    return bits


def _mask(run: _Run) -> str:
    """The mask that was written, or that of the address's class (RFC 791), or /64."""
    wanted = run.address
    if run.family is AddressFamily.INET6:
        return str(ipaddress.IPv6Network(f"::/{64 if wanted.bits is None else wanted.bits}").netmask)
    if wanted.bits is not None:
        return str(ipaddress.IPv4Network(f"0.0.0.0/{wanted.bits}").netmask)
    if wanted.mask is not None:
        try:
            value = (
                int(wanted.mask, 16)
                if wanted.mask.startswith("0x")
                else int(ipaddress.IPv4Address(wanted.mask))
            )
        except ValueError:
            raise CommandError(f"ifconfig: {wanted.mask!r} is no netmask") from None
        zeros = ~value & 0xFFFFFFFF
        if not 0 <= value < 2**32 or zeros & (zeros + 1):
            raise CommandError(
                f"ifconfig: {wanted.mask!r} is no netmask: its ones must stand together on the left"
            )
        return str(ipaddress.IPv4Address(value))
    if wanted.address is None:
        return "255.255.255.255"
    first = int(wanted.address.split(".")[0])
    return "255.0.0.0" if first < 128 else "255.255.0.0" if first < 192 else "255.255.255.0"


def _set_address(run: _Run) -> None:
    wanted, v6 = run.address, run.family is AddressFamily.INET6
    suffix = "_IN6" if v6 else ""
    address = as_sockaddr(wanted.address) if wanted.address else None
    if not wanted.adds:
        run.ioctl(f"SIOCDIFADDR{suffix}", "delete address", ifr_addr=address)
        return
    alias = Ifaliasreq(
        run.name,
        ifra_addr=address,
        ifra_mask=as_sockaddr(_mask(run)),
        ifra_broadaddr=as_sockaddr(wanted.far) if wanted.far else None,
        ifra_vhid=run.pending.pop("vhid", 0),
        ifra_flags=wanted.flags,
        ifra_lifetime=(wanted.preferred, wanted.valid) if v6 else None,
    )
    if wanted.clears and not v6 and not alias.ifra_vhid:
        try:
            run.vnet.ioctl("SIOCDIFADDR", Ifreq(run.name), run.td)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise CommandError(f"ifconfig: {run.name}: ioctl SIOCDIFADDR: {reason(error)}") from error
    run.request(f"SIOCAIFADDR{suffix}", "add address", alias)


_IF_FLAGS, _ND6_FLAGS = ("SIOCGIFFLAGS", "SIOCSIFFLAGS"), ("SIOCGIFINFO_IN6", "SIOCSIFINFO_FLAGS")


def _flags(get: str, put: str, bit: int, on: bool) -> Callable[..., None]:
    def act(run: _Run, word: str) -> None:
        flags = run.ioctl(get, get).ifr_flags
        run.ioctl(put, word, ifr_flags=flags | bit if on else flags & ~bit)

    return act


def _of_inet6(run: _Run, word: str) -> None:
    if run.family is not AddressFamily.INET6:
        raise CommandError(f"ifconfig: {word!r} is for an inet6 address; write 'inet6' before it")


def _address_flag(bit: int, on: bool) -> Callable[..., None]:
    def act(run: _Run, word: str) -> None:
        _of_inet6(run, word)
        run.address.flags = run.address.flags | bit if on else run.address.flags & ~bit

    return act


def _seconds(run: _Run, word: str, value: str) -> None:
    _of_inet6(run, word)
    seconds = run.number(value, f"number of seconds for {word}")
    if not 0 <= seconds < 2**32:
        raise CommandError(f"ifconfig: {word} is 0 to {2**32 - 1} seconds, not {value}")
    setattr(run.address, {"pltime": "preferred", "vltime": "valid"}[word], seconds)


def _eui64(run: _Run, word: str) -> None:
    """Fill the last 64 bits with those of the link-local address (RFC 4291, appendix A)."""
    _of_inet6(run, word)
    prefix = ipaddress.IPv6Address(run.address.address or "::")
    if run.address.address is None or int(prefix) & (1 << 64) - 1:
        raise CommandError("ifconfig: 'eui64' stands behind a prefix whose last 64 bits are zero")
    ifp = run.vnet.ifunit(run.name)
    for ifa in ifp.if_addrhead if ifp is not None else ():
        own = ipaddress.ip_address(str(ifa.ifa_addr)) if isinstance(ifa.ifa_addr, SockaddrIn6) else None
        if own is not None and own.is_link_local:
            run.address.address = str(prefix + (int(own) & (1 << 64) - 1))
            return
    raise CommandError(f"ifconfig: {run.name} has no link-local address, which 'eui64' takes its bits from")


def _capability(bits: int, on: bool) -> Callable[..., None]:
    def act(run: _Run, word: str) -> None:
        able = run.ioctl("SIOCGIFCAP", "get capabilities")
        wanted = able.ifr_curcap | bits & able.ifr_reqcap if on else able.ifr_curcap & ~bits
        if on and not bits & able.ifr_reqcap:
            raise CommandError(f"ifconfig: {run.name} cannot do {word}")
        run.ioctl("SIOCSIFCAP", f"set capabilities: {word}", ifr_reqcap=wanted)

    return act


def _set_number(cmd: str, key: str, what: str) -> Callable[..., None]:
    def act(run: _Run, word: str, value: str) -> None:
        wanted = run.number(value, what)
        if not -(2**31) <= wanted < 2**31:
            raise CommandError(f"ifconfig: {value} is no {what}: it has more than 32 bits")
        run.ioctl(cmd, f"set {what}", **{key: wanted})

    return act


def _set_name(run: _Run, word: str, name: str) -> None:
    run.ioctl("SIOCSIFNAME", "set name", ifr_buffer=UserBuffer(len(name), name))
    run.rename(name)


def _set_description(run: _Run, word: str, text: str) -> None:
    if not text:
        _unset_description(run, word)
        return
    run.ioctl("SIOCSIFDESCR", "set description", ifr_buffer=UserBuffer(len(text.encode()) + 1, text))


def _unset_description(run: _Run, word: str) -> None:
    run.ioctl("SIOCSIFDESCR", "unset description", ifr_buffer=UserBuffer(0, None))


def _group(cmd: str) -> Callable[..., None]:
    who = "setifgroup" if cmd == "SIOCAIFGROUP" else "unsetifgroup"

    def act(run: _Run, word: str, name: str) -> None:
        if name[-1:].isdigit():
            raise CommandError(f"ifconfig: {who}: group names may not end in a digit")
        if len(name.encode()) >= IFNAMSIZ:
            raise CommandError(f"ifconfig: {who}: group name too long")
        run.request(cmd, f"{word} {name}", Ifgroupreq(ifgr_name=run.name, ifgr_group=name))

    return act


def _set_lladdr(run: _Run, text: str) -> None:
    """As ``link_addr(3)`` reads it: octets of one or two digits with ``:``, ``-`` or ``.`` between; or ``random``."""
    octets = text.replace("-", ":").replace(".", ":").split(":")
    if text == "random":
        mac = bytes((random.randrange(256) & 0xFC | 0x02, *(random.randrange(256) for _ in range(5))))
    elif all(len(octet) in (1, 2) and set(octet) <= set(string.hexdigits) for octet in octets):
        mac = bytes(int(octet, 16) for octet in octets)
    else:
        raise CommandError(f"ifconfig: {text!r} is no link-level address")
    run.ioctl("SIOCSIFLLADDR", "set address", ifr_addr=SockaddrDl(sdl_lladdr=mac))


def _media(run: _Run, word: str, value: str) -> None:
    if "media" not in run.pending:
        now = run.ioctl("SIOCGIFMEDIA", "SIOCGIFMEDIA").ifr_data
        run.pending["media"] = _media_words(now["media"]) if isinstance(now, dict) else ("", "")
    subtype, options = run.pending["media"]
    chosen = {*filter(None, options.split(","))}
    if word == "media":
        subtype, chosen = value, chosen if value == subtype else set()
    elif word == "mediaopt":
        chosen |= {*value.split(",")}
    else:
        chosen -= {*value.split(",")}
    run.pending["media"] = subtype, ",".join(sorted(chosen))


def _finish_media(run: _Run) -> None:
    wanted = run.pending.pop("media", None)
    if wanted is not None:
        subtype, options = wanted
        media = f"Ethernet {subtype}" + f" <{options}>" * bool(options)
        run.ioctl("SIOCSIFMEDIA", "media", ifr_data=media)


def _tunnel(run: _Run, word: str, source: str, destination: str) -> None:
    ends = Ifaliasreq(run.name, as_sockaddr(_ip(source)), as_sockaddr(_ip(destination)))
    run.request("SIOCSIFPHYADDR", "SIOCSIFPHYADDR", ends)


def _untunnel(run: _Run, word: str) -> None:
    run.ioctl("SIOCDIFPHYADDR", "SIOCDIFPHYADDR")


def _jid(run: _Run, text: str) -> int:
    for vnet in run.vnet.kernel.vnets:
        if text in (vnet.name, str(vnet.prison.pr_id)):
            return vnet.prison.pr_id
    there = ", ".join(vnet.name for vnet in run.vnet.kernel.vnets)
    raise CommandError(f"ifconfig: there is no host {text!r}; there are {there}")


def _move(cmd: str) -> Callable[..., None]:
    def act(run: _Run, word: str, jail: str) -> None:
        run.ioctl(cmd, f"{word} {jail}", ifr_jid=_jid(run, jail))

    return act


def _destroy(run: _Run, word: str) -> None:
    run.ioctl("SIOCIFDESTROY", "destroy")


def _far(run: _Run, word: str, address: str) -> None:
    run.address.far = _ip(address)


def _netmask(run: _Run, word: str, mask: str) -> None:
    run.address.mask = mask


def _set_prefixlen(run: _Run, word: str, bits: str) -> None:
    run.address.bits = _bits(run, bits)


def _alias(run: _Run, word: str) -> None:
    run.address.clears = False


def _unalias(run: _Run, word: str) -> None:
    run.address.adds = False
    run.family = run.family or AddressFamily.INET


_PARAMETERS: dict[str, tuple[int, Callable[..., None]]] = {
    **{word: (0, _flags(*_IF_FLAGS, bit, on)) for word, (bit, on) in _FLAG_WORDS.items()},
    **{name: (0, _capability(bits, True)) for name, bits in _CAPABILITIES.items()},
    **{f"-{name}": (0, _capability(bits, False)) for name, bits in _CAPABILITIES.items()},
    "mtu": (1, _set_number("SIOCSIFMTU", "ifr_mtu", "mtu")),
    "metric": (1, _set_number("SIOCSIFMETRIC", "ifr_metric", "metric")),
    "fib": (1, _set_number("SIOCSIFFIB", "ifr_fib", "fib")),
    "name": (1, _set_name),
    "description": (1, _set_description),
    "descr": (1, _set_description),
    "-description": (0, _unset_description),
    "-descr": (0, _unset_description),
    "group": (1, _group("SIOCAIFGROUP")),
    "-group": (1, _group("SIOCDIFGROUP")),
    "vnet": (1, _move("SIOCSIFVNET")),
    "-vnet": (1, _move("SIOCSIFRVNET")),
    "media": (1, _media),
    "mediaopt": (1, _media),
    "-mediaopt": (1, _media),
    "tunnel": (2, _tunnel),
    "-tunnel": (0, _untunnel),
    "deletetunnel": (0, _untunnel),
    "destroy": (0, _destroy),
    "unplumb": (0, _destroy),
    **{word: (0, _flags(*_ND6_FLAGS, bit, True)) for word, bit in _ND6_WORDS.items()},
    **{f"-{word}": (0, _flags(*_ND6_FLAGS, bit, False)) for word, bit in _ND6_WORDS.items()},
    **{word: (0, _address_flag(bit, True)) for bit, word in _ADDRESS_WORDS if word in _SETTABLE},
    **{f"-{word}": (0, _address_flag(bit, False)) for bit, word in _ADDRESS_WORDS if word in _SETTABLE},
    "pltime": (1, _seconds),
    "vltime": (1, _seconds),
    "eui64": (0, _eui64),
    "netmask": (1, _netmask),
    "prefixlen": (1, _set_prefixlen),
    "broadcast": (1, _far),
    "alias": (0, _alias),
    "add": (0, _alias),
    "-alias": (0, _unalias),
    "delete": (0, _unalias),
    "remove": (0, _unalias),
    **DEVICE_PARAMETERS,
}
