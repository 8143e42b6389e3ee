"""What ``ifconfig`` knows of pseudo-devices: their parameters, and the lines that show them.

One table of parameters and one function per kind, in the syntax and layout of
ifconfig(8). The ioctls behind them are those of ``iflab/drivers``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from iflab.drivers import bpdu, lacp
from iflab.drivers.bridge import IFBIF, Bridge, Ifbreq, Member
from iflab.drivers.carp import Address, Carpreq, State
from iflab.drivers.lacp import Info, PortState
from iflab.drivers.lagg import Lagg, Laggreq
from iflab.drivers.vlan import Vlan, Vlanreq
from iflab.net import Ifnet, Thread, Vnet

from .command import CommandError, bits_text, number

__all__ = [
    "CLONE_WORDS",
    "DEVICE_PARAMETERS",
    "Run",
    "carp_addresses",
    "clone_params",
    "finish_devices",
    "load_ahead",
    "lower_lines",
    "upper_lines",
]


class Run(Protocol):
    """A command line being carried out."""

    vnet: Vnet
    td: Thread
    name: str
    out: list[str]
    pending: dict[str, Any]
    """What only takes effect together with what else is written."""

    def ioctl(self, cmd: str, what: str, **fields: Any) -> Any:
        """Make an ioctl on the interface. Raises ``CommandError``."""

    def number(self, text: str, what: str) -> int:
        """Read a number. Raises ``CommandError``."""


Action = Callable[..., None]


def _bounded(text: str, what: str, least: int, most: int) -> int:
    value: int = number("ifconfig", text, what)
    if not least <= value <= most:
        raise CommandError(f"ifconfig: {what}: {least} to {most}, not {text}")
    return value


# vlan

_PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}


def _tag(text: str) -> int:
    return _bounded(text, "vlan", 1, 4094)


def _vlan_protocol(name: str) -> int:
    if name.lower() not in _PROTOCOLS:
        raise CommandError(f"ifconfig: a vlanproto is 802.1q or 802.1ad, not {name!r}")
    return _PROTOCOLS[name.lower()]


def _vlan_tag(run: Run, word: str, tag: str) -> None:
    run.pending["vlan"] = _tag(tag)


def _vlan_dev(run: Run, word: str, parent: str) -> None:
    run.pending["vlandev"] = parent


def _vlan_proto(run: Run, word: str, name: str) -> None:
    run.pending["vlanproto"] = _vlan_protocol(name)


def _vlan_pcp(run: Run, word: str, pcp: str) -> None:
    value = _bounded(pcp, "vlanpcp", 0, 7)
    _finish_vlan(run)
    run.ioctl("SIOCSVLANPCP", "SIOCSVLANPCP", ifr_data=value)


def _vlan_leave(run: Run, word: str, *parent: str) -> None:
    run.ioctl("SIOCSETVLAN", "SIOCSETVLAN", ifr_data=Vlanreq())


CLONE_WORDS = frozenset({"vlan", "vlandev", "vlanproto"})
"""Parameters that describe a device before it is made; a wrong one makes none."""


def clone_params(name: str, words: dict[str, str], left: list[str]) -> tuple[Any, list[str]]:
    """What the device ``name`` is made with, of its ``CLONE_WORDS``, and what is to be done afterwards.

    Raises ``CommandError``.
    """
    kind = name.rstrip("0123456789")
    if kind == "carp":
        raise CommandError(
            "ifconfig: SIOCIFCREATE2: Invalid argument (a shared address lives on an interface: "
            "ifconfig em0 vhid 1 pass secret 192.0.2.100/24 alias)"
        )
    if not words or kind != "vlan":
        return None, [word for pair in words.items() for word in pair] + left
    if "vlan" not in words:
        raise CommandError("ifconfig: must specify a tag for vlan create")
    if "vlandev" not in words:
        raise CommandError("ifconfig: must specify a parent device for vlan create")
    proto = _vlan_protocol(words.get("vlanproto", "802.1q"))
    return Vlanreq(words["vlandev"], _tag(words["vlan"]), proto), left


def _finish_vlan(run: Run) -> None:
    wanted = {key: run.pending.pop(key) for key in ("vlan", "vlandev", "vlanproto") if key in run.pending}
    if not wanted:
        return
    now: Vlanreq = run.ioctl("SIOCGETVLAN", "SIOCGETVLAN").ifr_data
    request = Vlanreq(
        wanted.get("vlandev", now.vlr_parent),
        wanted.get("vlan", now.vlr_tag),
        wanted.get("vlanproto", now.vlr_proto),
    )
    if not request.vlr_parent or not request.vlr_tag:
        raise CommandError("ifconfig: must specify both vlan and vlandev")
    run.ioctl("SIOCSETVLAN", "SIOCSETVLAN", ifr_data=request)


def _vlan_lines(vlan: Vlan) -> list[str]:
    proto = {b"\x81\x00": "802.1q", b"\x88\xa8": "802.1ad"}[vlan.proto]
    parent = vlan.parent.if_xname if vlan.parent is not None else "<none>"
    return [f"\tvlan: {vlan.vid} vlanproto: {proto} vlanpcp: {vlan.pcp} parent interface: {parent}"]


# bridge

_MEMBER_FLAGS = {
    "learn": IFBIF.LEARNING,
    "discover": IFBIF.DISCOVER,
    "stp": IFBIF.STP,
    "sticky": IFBIF.STICKY,
    "private": IFBIF.PRIVATE,
    "edge": IFBIF.EDGE,
    "autoedge": IFBIF.AUTOEDGE,
    "ptp": IFBIF.PTP,
    "autoptp": IFBIF.AUTOPTP,
}
_MEMBER_FLAG_NAMES = (
    (IFBIF.LEARNING, "LEARNING"),
    (IFBIF.DISCOVER, "DISCOVER"),
    (IFBIF.STP, "STP"),
    (IFBIF.SPAN, "SPAN"),
    (IFBIF.STICKY, "STICKY"),
    (IFBIF.EDGE, "EDGE"),
    (IFBIF.AUTOEDGE, "AUTOEDGE"),
    (IFBIF.PTP, "PTP"),
    (IFBIF.AUTOPTP, "AUTOPTP"),
    (IFBIF.PRIVATE, "PRIVATE"),
)


_ADDRESS_FLAGS = {"dynamic": "0<>", "static": "1<STATIC>", "sticky": "2<STICKY>"}


def _bridge(run: Run, cmd: str, what: str, *args: Any, **fields: Any) -> Any:
    get = cmd in ("BRDGGIFS", "BRDGRTS", "BRDGGIFFLGS")
    request = Ifbreq(cmd, *args, **fields)
    run.ioctl("SIOCGDRVSPEC" if get else "SIOCSDRVSPEC", what, ifr_data=request)
    return request.answer


def _bridge_member(cmd: str) -> Action:
    def act(run: Run, word: str, name: str) -> None:
        _bridge(run, cmd, f"{cmd} {name}", name)

    return act


def _bridge_flag(bit: int, on: bool) -> Action:
    def act(run: Run, word: str, name: str) -> None:
        flags = _bridge(run, "BRDGGIFFLGS", f"BRDGGIFFLGS {name}", name)
        _bridge(run, "BRDGSIFFLGS", f"BRDGSIFFLGS {name}", name, flags | bit if on else flags & ~bit)

    return act


def _bridge_number(cmd: str) -> Action:
    def act(run: Run, word: str, value: str) -> None:
        _bridge(run, cmd, f"{cmd} {value}", value=run.number(value, word))

    return act


def _bridge_member_number(cmd: str) -> Action:
    def act(run: Run, word: str, name: str, value: str) -> None:
        _bridge(run, cmd, f"{cmd} {name} {value}", name, run.number(value, word))

    return act


def _bridge_fixed(cmd: str, value: Any) -> Action:
    def act(run: Run, word: str) -> None:
        _bridge(run, cmd, cmd, value=value)

    return act


def _bridge_protocol(run: Run, word: str, name: str) -> None:
    _bridge(run, "BRDGSPROTO", f"BRDGSPROTO {name}", value=name)


def _mac(text: str) -> bytes:
    try:
        octets = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        octets = b""
    if len(octets) != 6:
        raise CommandError(f"ifconfig: {text!r} is no link-level address")
    return octets


def _bridge_static(run: Run, word: str, name: str, mac: str) -> None:
    _bridge(run, "BRDGSADDR", f"BRDGSADDR {mac}", name, mac=_mac(mac))


def _bridge_deladdr(run: Run, word: str, mac: str) -> None:
    _bridge(run, "BRDGDADDR", f"BRDGDADDR {mac}", mac=_mac(mac))


def _bridge_addresses(run: Run, word: str) -> None:
    entries = _bridge(run, "BRDGRTS", "BRDGRTS")
    ifp = run.vnet.ifunit(run.name)
    assert ifp is not None
    bridge: Bridge = ifp.if_softc
    for entry in entries:
        left = max(0, int(entry.heard + bridge.fdb.timeout - bridge.maker.clock.now()))
        left *= entry.kind == "dynamic"
        run.out.append(
            f"{entry.mac.hex(':')} Vlan{entry.vlan} {entry.member.name} {left} "
            f"flags={_ADDRESS_FLAGS[entry.kind]}"
        )


def _vids(text: str) -> frozenset[int]:
    """VLANs as ``10,20-29``; ``none``, ``all``. Raises ``CommandError``."""
    if text in ("none", "all"):
        return frozenset(range(1, 4095) if text == "all" else ())
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (_is_vid(first) and _is_vid(last) and int(first) <= int(last)):
            raise CommandError(
                f"ifconfig: {text!r} is no list of VLANs, which are 1 to 4094; write 10,20-29, all or none"
            )
        found |= set(range(int(first), int(last) + 1))
    return frozenset(found)


def _is_vid(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= 4094


def _bridge_untagged(run: Run, word: str, name: str, vlan: str = "none") -> None:
    value = 0 if vlan == "none" else run.number(vlan, "VLAN")
    _bridge(run, "BRDGSIFUNTAGGED", f"BRDGSIFUNTAGGED {name} {vlan}", name, value)


def _bridge_tagged(run: Run, word: str, name: str, vlans: str) -> None:
    wanted = _vids(vlans)
    if word[0] in "+-":
        members = _bridge(run, "BRDGGIFS", "BRDGGIFS")
        now: frozenset[int] = next((member.tagged for member in members if member.name == name), frozenset())
        wanted = now | wanted if word[0] == "+" else now - wanted
    _bridge(run, "BRDGSIFTAGGED", f"BRDGSIFTAGGED {name} {vlans}", name, wanted)


def _ranges(vids: frozenset[int]) -> str:
    """VLANs in short: ``10,20-29``."""
    runs: list[list[int]] = []
    for vid in sorted(vids):
        if runs and runs[-1][1] == vid - 1:
            runs[-1][1] = vid
        else:
            runs.append([vid, vid])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _id(identifier: int) -> tuple[str, int]:
    return (identifier & (1 << 48) - 1).to_bytes(6, "big").hex(":"), identifier >> 48


def _bridge_lines(bridge: Bridge) -> list[str]:
    stp = bridge.stp
    own = bridge.ifp.lladdr.hex(":") if stp is not None else "00:00:00:00:00:00"
    root, root_priority = _id(stp.root_priority.root) if stp is not None else (own, 32768)
    cost = stp.root_priority.cost if stp is not None else 0
    port = stp.root_port.number if stp is not None and stp.root_port is not None else 0
    lines = [
        f"\tid {own} priority {bridge.priority} hellotime {bridge.hello} fwddelay {bridge.forward_delay}",
        f"\tmaxage {bridge.max_age} holdcnt {bridge.hold_count} proto {'rstp' if bridge.rstp else 'stp'} "
        f"maxaddr {bridge.fdb.maxaddr} timeout {bridge.fdb.timeout:g}",
        f"\troot id {root} priority {root_priority} ifcost {cost} port {port}",
    ]
    if bridge.vlanfilter:
        lines.append("\tbridge flags=1<VLANFILTER>" + f" untagged {bridge.untagged}" * bool(bridge.untagged))
    for member in (*bridge.members.values(), *bridge.spans.values()):
        lines += _member_lines(member)
    return lines


def _member_lines(member: Member) -> list[str]:
    lines = [
        f"\tmember: {member.name} flags={bits_text(member.flags, _MEMBER_FLAG_NAMES)}",
        f"\t        ifmaxaddr {member.addrmax} port {member.number} priority {member.priority} "
        f"path cost {member.cost}",
    ]
    if member.stp is not None:
        lines[-1] += f" proto {'rstp' if member.stp.send_rstp else 'stp'}"
        lines.append(f"\t        role {member.stp.role.name.lower()} state {member.stp.state.name.lower()}")
    lines[-1] += f" untagged {member.untagged}" * bool(member.untagged)
    lines[-1] += f" tagged {_ranges(member.tagged)}" * bool(member.tagged)
    return lines


# lagg

_LACP_STRICT, _LACP_FAST = 0x10, 0x80
_LAGG_OPTIONS = ((_LACP_STRICT, "LACP_STRICT"),)
"""The other has no name there, only its bit is shown."""
_LACP_STATES = tuple((int(bit), bit.name or "") for bit in PortState)
_LAGG_PORT_FLAGS = ((0x1, "MASTER"), (0x4, "ACTIVE"), (0x8, "COLLECTING"), (0x10, "DISTRIBUTING"))


def _lagg(cmd: str) -> Action:
    def act(run: Run, word: str, value: str) -> None:
        run.ioctl(cmd, f"{cmd} {value}", ifr_data=Laggreq(proto=value, port=value))

    return act


def _lagg_hash(run: Run, word: str, layers: str) -> None:
    run.ioctl("SIOCSLAGGHASH", "SIOCSLAGGHASH", ifr_data=Laggreq(hash=tuple(layers.split(","))))


def _lagg_stride(run: Run, word: str, value: str) -> None:
    run.ioctl("SIOCSLAGGOPTS", f"SIOCSLAGGOPTS {word}", ifr_data=Laggreq(stride=run.number(value, word)))


def _lagg_option(fast: bool | None = None, active: bool | None = None) -> Action:
    def act(run: Run, word: str) -> None:
        run.ioctl("SIOCSLAGGOPTS", f"SIOCSLAGGOPTS {word}", ifr_data=Laggreq(fast=fast, active=active))

    return act


def _lagg_lines(lagg: Lagg, verbose: bool) -> list[str]:
    lines = [f"\tlaggproto {lagg.proto} lagghash {','.join(lagg.hash)}"]
    lacp = lagg.lacp
    if verbose:
        lines += [
            "\tlagg options:",
            f"\t\tflags={bits_text(_LACP_STRICT | _LACP_FAST * lagg.fast, _LAGG_OPTIONS)}",
            *([f"\t\trr_limit: {lagg.stride}"] if lagg.proto == "roundrobin" else []),
            "\tlagg statistics:",
            f"\t\tactive ports: {sum(port.has_link for port in lagg.ports.values())}",
            f"\t\tflapping: {lagg.flapping}",
        ]
        ports = [port.lacp for port in lagg.usable if port.lacp is not None]
        if lacp is not None:
            peer = _lacp_peer(lacp.actor(ports[0]), ports[0].partner) if ports else _lacp_peer(Info(), Info())
            lines.append(f"\tlag id: {peer}")
    for port in lagg.ports.values():
        names = lagg.port_flags(port)
        flags = sum(bit for bit, name in _LAGG_PORT_FLAGS if name in names)
        lines.append(f"\tlaggport: {port.ifp.if_xname} flags={bits_text(flags, _LAGG_PORT_FLAGS)}")
        if verbose and lacp is not None and port.lacp is not None:
            actor = lacp.actor(port.lacp)
            lines[-1] += f" state={bits_text(actor.state, _LACP_STATES)}"
            lines.append(f"\t\t{_lacp_peer(actor, port.lacp.partner)}")
    return lines


def _lacp_peer(actor: Info, partner: Info) -> str:
    """Both ends of a link, by system priority, system, key, port priority and port."""

    def one(info: Info) -> str:
        system = info.system.hex("-").upper()
        return (
            f"({info.system_priority:04X},{system},{info.key:04X},{info.port_priority:04X},{info.port:04X})"
        )

    return f"[{one(actor)},\n\t\t {one(partner)}]"


# carp


def _carp_vhid(run: Run, word: str, vhid: str) -> None:
    run.pending["carp"] = Carpreq(_bounded(vhid, "vhid", 1, 255))


def _carp(run: Run, word: str) -> Carpreq:
    request = run.pending.get("carp")
    if not isinstance(request, Carpreq):
        raise CommandError(f"ifconfig: {word} requires vhid")
    return request


def _carp_advbase(run: Run, word: str, value: str) -> None:
    _carp(run, word).advbase = _bounded(value, word, 1, 255)


def _carp_advskew(run: Run, word: str, value: str) -> None:
    _carp(run, word).advskew = _bounded(value, word, 0, 254)


def _carp_pass(run: Run, word: str, text: str) -> None:
    _carp(run, word).key = text.encode()


def _carp_state(run: Run, word: str, name: str) -> None:
    states = {"backup": State.BACKUP, "master": State.MASTER}
    if name.lower() not in states:
        raise CommandError(f"ifconfig: a state is backup or master, not {name!r}")
    _carp(run, word).state = states[name.lower()]


def _finish_carp(run: Run) -> None:
    request = run.pending.pop("carp", None)
    if request is not None:
        run.pending["vhid"] = request.vhid
        run.ioctl("SIOCSVH", "SIOCSVH", ifr_data=request)


def carp_addresses(ifp: Ifnet) -> list[tuple[Address, int]]:
    """Shared addresses that the interface would have as a master, with their vhids: the original lists these, too."""
    if ifp.if_carp is None:
        return []
    waiting = [host for host in ifp.if_carp.hosts.values() if host.state is not State.MASTER]
    return [(address, host.vhid) for host in waiting for address in host.addresses]


def _carp_lines(ifp: Ifnet, keys: bool) -> list[str]:
    lines = []
    for host in ifp.if_carp.hosts.values():
        line = f"\tcarp: {host.state.value} vhid {host.vhid} advbase {host.advbase} advskew {host.advskew}"
        lines.append(line + f' key "{host.key.decode(errors="backslashreplace")}"' * bool(keys and host.key))
    return lines


DEVICE_PARAMETERS: dict[str, tuple[int, Action]] = {
    "vhid": (1, _carp_vhid),
    "advbase": (1, _carp_advbase),
    "advskew": (1, _carp_advskew),
    "pass": (1, _carp_pass),
    "state": (1, _carp_state),
    "laggproto": (1, _lagg("SIOCSLAGG")),
    "laggport": (1, _lagg("SIOCSLAGGPORT")),
    "-laggport": (1, _lagg("SIOCSLAGGDELPORT")),
    "lagghash": (1, _lagg_hash),
    "lacp_fast_timeout": (0, _lagg_option(fast=True)),
    "-lacp_fast_timeout": (0, _lagg_option(fast=False)),
    "rr_limit": (1, _lagg_stride),
    "lacp_passive": (0, _lagg_option(active=False)),
    "-lacp_passive": (0, _lagg_option(active=True)),
    "addm": (1, _bridge_member("BRDGADD")),
    "deletem": (1, _bridge_member("BRDGDEL")),
    "span": (1, _bridge_member("BRDGADDS")),
    "-span": (1, _bridge_member("BRDGDELS")),
    **{word: (1, _bridge_flag(bit, True)) for word, bit in _MEMBER_FLAGS.items()},
    **{f"-{word}": (1, _bridge_flag(bit, False)) for word, bit in _MEMBER_FLAGS.items()},
    "maxaddr": (1, _bridge_number("BRDGSCACHE")),
    "timeout": (1, _bridge_number("BRDGSTO")),
    "priority": (1, _bridge_number("BRDGSPRI")),
    "hellotime": (1, _bridge_number("BRDGSHT")),
    "fwddelay": (1, _bridge_number("BRDGSFD")),
    "maxage": (1, _bridge_number("BRDGSMA")),
    "holdcnt": (1, _bridge_number("BRDGSTXHC")),
    "proto": (1, _bridge_protocol),
    "ifpriority": (2, _bridge_member_number("BRDGSIFPRIO")),
    "ifpathcost": (2, _bridge_member_number("BRDGSIFCOST")),
    "ifmaxaddr": (2, _bridge_member_number("BRDGSIFAMAX")),
    "static": (2, _bridge_static),
    "deladdr": (1, _bridge_deladdr),
    "addr": (0, _bridge_addresses),
    "flush": (0, _bridge_fixed("BRDGFLUSH", 0)),
    "flushall": (0, _bridge_fixed("BRDGFLUSH", 1)),
    "vlanfilter": (0, _bridge_fixed("BRDGSVLANFILTER", 1)),
    "-vlanfilter": (0, _bridge_fixed("BRDGSVLANFILTER", 0)),
    "ifuntagged": (2, _bridge_untagged),
    "-ifuntagged": (1, _bridge_untagged),
    **{f"{sign}iftagged": (2, _bridge_tagged) for sign in ("", "+", "-")},
    "vlan": (1, _vlan_tag),
    "vlandev": (1, _vlan_dev),
    "vlanproto": (1, _vlan_proto),
    "vlanpcp": (1, _vlan_pcp),
    "-vlandev": (0, _vlan_leave),
}
"""Words that an ``ifconfig`` command line may hold, how many values follow each, and what is done."""


def load_ahead(words: Collection[str]) -> None:
    """Import what the protocols that a command line names are made of, before anybody holds the lab's lock for it."""
    if "lacp" in words:
        lacp.load_scapy()
    if "stp" in words:
        bpdu.load_scapy()


def finish_devices(run: Run) -> None:
    """Carry out what waited for the end of the line. Raises ``CommandError``."""
    _finish_vlan(run)
    _finish_carp(run)


def upper_lines(ifp: Ifnet, verbose: bool = False) -> list[str]:
    """The lines of ``ifconfig lagg0`` that stand before the groups: what a bridge or an aggregate is made of."""
    if isinstance(ifp.if_softc, Bridge):
        return _bridge_lines(ifp.if_softc)
    if isinstance(ifp.if_softc, Lagg):
        return _lagg_lines(ifp.if_softc, verbose)
    return []


def lower_lines(ifp: Ifnet, keys: bool = False) -> list[str]:
    """Those that stand behind the groups: shared addresses (with their ``keys``), and what a vlan belongs to."""
    lines = _carp_lines(ifp, keys) if ifp.if_carp is not None else []
    if isinstance(ifp.if_softc, Vlan):
        lines += _vlan_lines(ifp.if_softc)
    return lines
