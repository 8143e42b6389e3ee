"""An address that several hosts share (carp(4); FreeBSD's ``netinet/ip_carp.c``, protocol 112 as OpenBSD made it).

::

    alice  em0 192.0.2.1  --+-- em0 192.0.2.2  bob
           vhid 1 MASTER    |   vhid 1 BACKUP           192.0.2.100 is alice's, at 00:00:5e:00:01:01
                            |
              advertisement every advbase + advskew/256 s
              to 224.0.0.18 or ff02::12, HMAC-SHA1 over what is shared

A virtual host (*vhid*, 1 to 255) lives on an interface and has addresses
(``SIOCAIFADDR`` with ``ifra_vhid``). While it is MASTER they are the kernel's; what
is sent there, to the virtual MAC, is handed to the host under its own, and what the
host says of them in ARP and neighbour discovery names the virtual MAC. A BACKUP that
hears nothing for three ``advbase`` and its ``advskew`` takes over. A master that
hears one who advertises more often (or as often) gives way; with
``net.inet.carp.preempt`` a backup that would advertise more often takes over.

Trouble raises the *demotion counter* of a vnet (``carp_demote_adj_p``): an interface
without link by 240, and so do advertisements that could not be sent. It is added to
every advskew, up to 240, so that a healthier host takes over everything. A master that
leaves of its own will says so: an advertisement with 255 for both numbers.

Settings of a vnet (``host.bsd("sysctl", ...)``): ``net.inet.carp.allow``, ``.preempt``,
``.log``, ``.ifdown_demotion_factor``, ``.senderr_demotion_factor``, and ``.demotion``, to
which a number is *added*.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hmac
import ipaddress
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from iflab.net import (
    IFF,
    IFT,
    PKTHDR,
    AddressFamily,
    Ifaddr,
    Ifmultiaddr,
    Ifnet,
    Kernel,
    LinkState,
    Mbuf,
    Priv,
    Sockaddr,
    SockaddrIn6,
    Thread,
    Timer,
    Vnet,
    VnetSetting,
    mbuf,
)

from .device import Maker, is_leaving, leave

__all__ = [
    "VMAC",
    "Address",
    "Carp",
    "CarpVnet",
    "Carpreq",
    "State",
    "VirtualHost",
    "load",
    "make_advertisement",
]

CARP_GROUP, CARP_GROUP6 = "224.0.0.18", "ff02::12"
PROTOCOL = 112
KEY_LENGTH = 20
MAXSKEW = 240
_MOST_ERRORS = 3
"""Advertisements that could not be sent and demote, and those that went out and end it."""

_HEADER = struct.Struct("!BBBBBBHII")
_LENGTH = 36
_VERSION, _ADVERTISEMENT = 2, 1
_VERSION_TYPE = _VERSION << 4 | _ADVERTISEMENT
_AUTHLEN = 7
_BOW_OUT = 255
VMAC = b"\x00\x00\x5e\x00\x01"
"""First five octets of a virtual MAC; the vhid is the sixth."""
_ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
_TYPE = slice(PKTHDR + 12, PKTHDR + 14)
_ICMPV6, _NS, _NA = 58, 135, 136

_CARRIERS = (IFT.ETHER, IFT.L2VLAN, IFT.BRIDGE)

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class State(enum.Enum):
    """Of a virtual host."""

    INIT = "INIT"
    BACKUP = "BACKUP"
    MASTER = "MASTER"


@dataclass(slots=True)
class Carpreq:
    """What ``SIOCSVH`` takes and ``SIOCGVH`` gives, in ``ifr_data``.

    None: leave it as it is; a new virtual host has an advbase of 1, an advskew of 0 and no key.
    """

    vhid: int = 0
    """1 to 255; 0 in ``SIOCGVH``: all of the interface."""
    advbase: int | None = None
    """Seconds, 1 to 255."""
    advskew: int | None = None
    """1/256 s, 0 to 254."""
    key: bytes | None = None
    """At most 20 octets."""
    state: State | None = None
    found: list[VirtualHost] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class CarpVnet:
    """What a vnet has: its settings, and its demotion counter."""

    allow: int = 1
    preempt: int = 0
    log: int = 1
    demotion: int = 0
    ifdown_demotion_factor: int = 240
    """Demotion by an interface without link."""
    senderr_demotion_factor: int = 240
    """Demotion by advertisements that could not be sent."""


@dataclass(slots=True, eq=False)
class CarpIf:
    """What an interface has (``if_carp``): its virtual hosts, and the groups joined for them."""

    ifp: Ifnet
    hosts: dict[int, VirtualHost] = field(default_factory=dict)
    joined: list[Ifmultiaddr] = field(default_factory=list)


def _checksum(octets: bytes) -> int:
    """The checksum of RFC 1071; 0 for what holds a right one."""
    return 0xFFFF - (int.from_bytes(octets + b"\0" * (len(octets) & 1), "big") % 0xFFFF or 0xFFFF)


def make_advertisement(
    vhid: int, advbase: int, advskew: int, demotion: int, counter: int, digest: bytes
) -> bytes:
    """Make the 36 octets of an advertisement (``struct carp_header``), checksum included."""
    fields = [_VERSION_TYPE, vhid, advskew, _AUTHLEN, min(255, max(0, demotion)), advbase, 0]
    body = _HEADER.pack(*fields, counter >> 32, counter & 0xFFFFFFFF) + digest
    fields[6] = _checksum(body)
    return _HEADER.pack(*fields, counter >> 32, counter & 0xFFFFFFFF) + digest


class VirtualHost:
    """A vhid on an interface (``struct carp_softc``)."""

    def __init__(self, carp: Carp, ifp: Ifnet, vhid: int) -> None:
        self.carp = carp
        self.ifp = ifp
        self.vhid = vhid
        self.state = State.INIT
        self.advbase = 1
        self.advskew = 0
        self.key = b""
        self.addresses: list[Address] = []
        self.counter = random.getrandbits(64)
        self.demotes = {"interface down": 0, "send error": 0}
        """By how much it demotes its vnet, and why: the interface has no link, or cannot send."""
        self.sent = 0
        self.received = 0
        self.bad = 0
        """Advertisements for this vhid that were passed over: wrong key, checksum, length."""
        self._send_errors = 0
        self._send_successes = 0
        self._timer: Timer | None = None
        self._down_timer: dict[int, Timer] = {}

    def __repr__(self) -> str:
        return f"<VirtualHost {self.vhid}@{self.ifp.if_xname} {self.state.value}>"

    @property
    def lladdr(self) -> bytes:
        """The virtual MAC."""
        return VMAC + bytes((self.vhid,))

    @property
    def settings(self) -> CarpVnet:
        """Those of its vnet."""
        return self.carp.settings(self.ifp.curvnet)

    @property
    def skew(self) -> int:
        """The advskew in force: demotion is added."""
        return max(0, min(MAXSKEW, self.advskew + self.settings.demotion))

    def of_version(self, version: int) -> list[Address]:
        """Its addresses of IPv4 or IPv6, the smallest first."""
        return sorted(a for a in self.addresses if a.version == version)

    # authentication

    def digest(self, counter: int) -> bytes:
        """HMAC-SHA1 (RFC 2104) over version, type and vhid (an octet each), the shared addresses and the counter."""
        mac = hmac.new(self.key, bytes((_VERSION, _ADVERTISEMENT, self.vhid)), "sha1")
        for address in (*self.of_version(4), *self.of_version(6)):
            mac.update(address.ip.packed)
        mac.update(counter.to_bytes(8, "big"))
        return mac.digest()

    # states

    def set_state(self, state: State, why: str) -> None:
        """Become something else: the addresses come with mastership, and go with it."""
        if state is self.state:
            return
        kernel, before = self.ifp.kernel, self.state
        self.state = state
        where = f"{self.vhid}@{self.ifp.if_xname}"
        if self.settings.log:
            kernel.console.log("notice", f"carp: {where}: {before.value} -> {state.value} ({why})")
        kernel.devctl.devctl_notify("CARP", where, state.value)
        if State.MASTER in (before, state):
            for address in self.addresses:
                if state is State.MASTER:
                    self.carp.take(self, address)
                else:
                    self.carp.give_up(self, address)

    def check_interface(self) -> None:
        """The interface came up or down, with its link (``carp_sc_state``)."""
        ifp = self.ifp
        usable = ifp.if_link_state is not LinkState.DOWN and bool(ifp.if_flags & IFF.UP)
        if not usable or not self.settings.allow or not self.addresses:
            self.stop_timers()
            self.set_state(State.INIT, "hardware interface down" if not usable else "not in use")
            if not usable:
                self._demote("interface down", self.settings.ifdown_demotion_factor)
            return
        self._promote("interface down", "interface up")
        if self.state is State.INIT:
            self.set_state(State.BACKUP, "initialization complete")
            self.set_timers()

    def _demote(self, why: str, by: int) -> None:
        """Let the vnet be demoted, once, until ``_promote`` with the same reason."""
        if not self.demotes[why] and by:
            self.demotes[why] = by
            self.carp.demote(self.ifp.curvnet, by, why)

    def _promote(self, why: str, reason: str) -> None:
        by, self.demotes[why] = self.demotes[why], 0
        if by:
            self.carp.demote(self.ifp.curvnet, -by, reason)

    def retire(self) -> None:
        """It demotes nobody any more."""
        for why in self.demotes:
            self._promote(why, "vhid removed")

    def stop_timers(self) -> None:
        """Nothing is due any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timer in self._down_timer.values():
            timer.cancel()
        self._down_timer.clear()

    def set_timers(self, version: int | None = None) -> None:
        """Wait for the next advertisement: to be sent, or to come (``carp_setrun``)."""
        clock = self.carp.maker.clock
        now = clock.now()
        if self.state is State.MASTER:
            if self._timer is not None:
                self._timer.cancel()
            interval = self.advbase + self.skew / 256
            self._timer = clock.call_at(now + interval, self.advertise)
        elif self.state is State.BACKUP:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for each in (4, 6) if version is None else (version,):
                if (old := self._down_timer.pop(each, None)) is not None:
                    old.cancel()
                if self.of_version(each):
                    self._down_timer[each] = clock.call_at(now + self.patience, self._master_down)

    @property
    def patience(self) -> float:
        """Seconds without advertisement after which a backup takes over."""
        return 3 * self.advbase + self.skew / 256

    def _master_down(self) -> None:
        self.take_over("master timed out")

    def take_over(self, why: str) -> None:
        """Become MASTER (``carp_master_down``)."""
        if self.state is not State.BACKUP:
            return
        self.stop_timers()
        self.set_state(State.MASTER, why)
        self.advertise()
        self.announce()

    # advertisements

    def advertise(self) -> None:
        """Send one, and wait for the next (``carp_send_ad``)."""
        if self.state is not State.MASTER:
            return
        self._send(self.advbase, self.skew)
        self.set_timers()

    def bow_out(self) -> None:
        """Tell the backups not to wait."""
        if self.state is State.MASTER and self.ifp.if_flags & IFF.UP:
            self._send(_BOW_OUT, _BOW_OUT)

    def _send(self, advbase: int, advskew: int) -> None:
        for version in (4, 6):
            if not self.of_version(version):
                continue
            self.counter = (self.counter + 1) % 2**64
            body = make_advertisement(
                self.vhid, advbase, advskew, self.settings.demotion, self.counter, self.digest(self.counter)
            )
            packet = self._ipv4(body) if version == 4 else self._ipv6(body)
            failed = self.ifp.transmit_mbuf(mbuf(packet))
            self.sent += not failed
            self._count_errors(bool(failed))

    def _count_errors(self, failed: bool) -> None:
        if failed:
            self._send_successes = 0
            self._send_errors += 1
            if self._send_errors == _MOST_ERRORS:
                self._demote("send error", self.settings.senderr_demotion_factor)
            return
        self._send_errors = 0
        if self.demotes["send error"]:
            self._send_successes += 1
            if self._send_successes >= _MOST_ERRORS:
                self._send_successes = 0
                self._promote("send error", "send ok")

    def _own_source(self, family: AddressFamily) -> bytes:
        """The interface's own address to send from; all zeros without one."""
        shared = {address.ip.packed for address in self.addresses}
        for ifa in self.ifp.if_addrhead:
            sa = ifa.ifa_addr
            if sa.family is not family or ifa.ifa_carp is not None or sa.key in shared:
                continue
            if family is AddressFamily.INET or (sa.key[0] == 0xFE and sa.key[1] & 0xC0 == 0x80):
                return sa.key
        return bytes(4 if family is AddressFamily.INET else 16)

    def _ipv4(self, body: bytes) -> bytes:
        group = ipaddress.IPv4Address(CARP_GROUP).packed
        head = struct.pack("!BBHHHBBH", 0x45, 0x10, 20 + len(body), 0, 0x4000, 255, PROTOCOL, 0)
        head += self._own_source(AddressFamily.INET) + group
        head = head[:10] + _checksum(head).to_bytes(2, "big") + head[12:]
        return b"\x01\x00\x5e" + group[1:] + self.lladdr + _IPV4 + head + body

    def _ipv6(self, body: bytes) -> bytes:
        group = ipaddress.IPv6Address(CARP_GROUP6).packed
        head = struct.pack("!IHBB", 6 << 28, len(body), PROTOCOL, 255)
        head += self._own_source(AddressFamily.INET6) + group
        return b"\x33\x33" + group[12:] + self.lladdr + _IPV6 + head + body

    def announce(self) -> None:
        """Tell the link where the addresses are: gratuitous ARP, unsolicited neighbour advertisements."""
        mac = self.lladdr
        for address in self.addresses:
            ip = address.ip.packed
            if address.version == 4:
                arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, ip, b"", ip)
                self.ifp.transmit_mbuf(mbuf(b"\xff" * 6 + mac + _ARP + arp))
            else:
                group = ipaddress.IPv6Address("ff02::1").packed
                icmp = struct.pack("!BBHI", _NA, 0, 0, 0x20000000) + ip + b"\x02\x01" + mac
                pseudo = ip + group + struct.pack("!II", len(icmp), _ICMPV6)
                check = _checksum(pseudo + icmp)
                icmp = icmp[:2] + check.to_bytes(2, "big") + icmp[4:]
                head = struct.pack("!IHBB", 6 << 28, len(icmp), _ICMPV6, 255) + ip + group
                self.ifp.transmit_mbuf(mbuf(b"\x33\x33" + group[12:] + mac + _IPV6 + head + icmp))

    def heard(self, body: bytes, version: int) -> None:
        """Judge an advertisement for this vhid (``carp_input_c``)."""
        if len(body) < _LENGTH or body[0] != _VERSION_TYPE or body[3] != _AUTHLEN:
            self.bad += 1
            return
        body = body[:_LENGTH]
        _, _, advskew, _, _, advbase, _, high, low = _HEADER.unpack_from(body)
        if _checksum(body) or not hmac.compare_digest(self.digest(high << 32 | low), body[16:]):
            self.bad += 1
            return
        self.received += 1
        mine, theirs = self.advbase + self.skew / 256, advbase + advskew / 256
        if self.state is State.MASTER:
            if mine >= theirs:
                self.stop_timers()
                self.set_state(State.BACKUP, "more frequent advertisement received")
                self.set_timers()
        elif self.state is State.BACKUP:
            if self.settings.preempt and mine < theirs:
                self.take_over("preempting a slower master")
            elif 3 * self.advbase < theirs:
                self.take_over("master will time out")
            else:
                self.set_timers(version)


class Carp:
    """The protocol of one kernel; ``load`` makes it."""

    def __init__(self, kernel: Kernel, maker: Maker) -> None:
        self.kernel = kernel
        self.maker = maker
        self._vnets: WeakKeyDictionary[Vnet, CarpVnet] = WeakKeyDictionary()
        self._moving = False
        """It is carp itself that puts an address on an interface, or takes it off."""

    def settings(self, vnet: Vnet) -> CarpVnet:
        """Settings and demotion counter of a vnet."""
        return self._vnets.setdefault(vnet, CarpVnet())

    def hosts(self, vnet: Vnet | None = None) -> Iterator[VirtualHost]:
        """The virtual hosts of a vnet, or of all."""
        for each in self.kernel.vnets if vnet is None else (vnet,):
            for ifp in each.ifnets():
                if ifp.if_carp is not None:
                    yield from ifp.if_carp.hosts.values()

    def demote(self, vnet: Vnet, by: int, why: str) -> None:
        """Change the demotion counter of a vnet, and let every master say so at once (``carp_demote_adj``)."""
        settings = self.settings(vnet)
        settings.demotion += by
        self.kernel.console.log("notice", f"carp: demoted by {by} to {settings.demotion} ({why})")
        for host in list(self.hosts(vnet)):
            host.advertise()

    # virtual hosts and their addresses

    def host(self, ifp: Ifnet, vhid: int) -> VirtualHost | None:
        """The virtual host of that number on an interface."""
        cif: CarpIf | None = ifp.if_carp
        return cif.hosts.get(vhid) if cif is not None else None

    def create(self, ifp: Ifnet, vhid: int) -> VirtualHost:
        """Make a virtual host, in INIT until it has an address."""
        if not 1 <= vhid <= 255:
            raise OSError(errno.EINVAL, f"{ifp.if_xname}: a vhid is 1 to 255, not {vhid}")
        if ifp.if_type not in _CARRIERS:
            raise OSError(
                errno.EOPNOTSUPP, f"{ifp.if_xname} is no Ethernet, which carp needs, or serves another device"
            )
        if not ifp.if_flags & IFF.MULTICAST:
            raise OSError(errno.EADDRNOTAVAIL, f"{ifp.if_xname} carries no multicast, which carp needs")
        cif: CarpIf | None = ifp.if_carp
        if cif is None:
            ifp.ifpromisc(1)
            cif = ifp.if_carp = CarpIf(ifp)
            cif.joined = [ifp.if_addmulti(group) for group in (CARP_GROUP, CARP_GROUP6)]
            ifp.if_claim("carp")
        host = cif.hosts[vhid] = VirtualHost(self, ifp, vhid)
        return host

    def destroy(self, host: VirtualHost, departing: bool = False) -> None:
        """Let a virtual host go; a master says good-bye."""
        ifp = host.ifp
        cif: CarpIf = ifp.if_carp
        if not departing:
            host.bow_out()
        host.stop_timers()
        if departing:
            host.state = State.INIT
        else:
            host.set_state(State.INIT, "removed")
        host.retire()
        cif.hosts.pop(host.vhid, None)
        if cif.hosts:
            return
        ifp.if_carp = None
        ifp.if_claim("carp", False)
        if not departing:
            for ifma in cif.joined:
                leave(ifma)
        with contextlib.suppress(OSError):  # a dead driver has no modes any more
            ifp.ifpromisc(0)

    def attach(self, ifa: Ifaddr, vhid: int) -> None:
        """Give an address to a virtual host (``carp_attach``). Raises ENOENT, EEXIST, EPROTOTYPE.

        ``ifa`` is not on the interface's list: it comes there with mastership.
        """
        ifp = ifa.ifa_ifp
        assert ifp is not None
        host = self.host(ifp, vhid)
        if host is None:
            raise OSError(errno.ENOENT, f"{ifp.if_xname} has no vhid {vhid}; make it with SIOCSVH")
        if ifa.ifa_addr.family not in (AddressFamily.INET, AddressFamily.INET6):
            raise OSError(errno.EPROTOTYPE, f"{ifp.if_xname}: only IPv4 and IPv6 addresses are shared")
        bits = ifa.mask_value.bit_count() if ifa.ifa_netmask is not None else len(ifa.ifa_addr.key) * 8
        address = ipaddress.ip_interface((ifa.ifa_addr.key, bits))
        if any(address.ip == other.ip for other in host.addresses):
            raise OSError(errno.EEXIST, f"vhid {vhid} of {ifp.if_xname} has {address.ip} already")
        host.addresses.append(address)
        if host.state is State.MASTER:
            self.take(host, address)
            host.announce()
        host.check_interface()
        if host.state is State.BACKUP:
            host.set_timers()

    def detach(self, ifa: Ifaddr) -> None:
        """An address that a virtual host had was taken off its interface (``carp_detach``)."""
        host: VirtualHost | None = ifa.ifa_carp
        ifa.ifa_carp = None
        if host is not None and not self._moving:
            self._forget(host, ifa.ifa_addr)

    def remove_address(self, ifp: Ifnet, sa: Sockaddr) -> bool:
        """Take an address away from the virtual host that has it; False when none has."""
        for host in list(ifp.if_carp.hosts.values()) if ifp.if_carp is not None else ():
            for address in host.addresses:
                if address.ip.packed == sa.key:
                    if host.state is State.MASTER:
                        self.give_up(host, address)
                    self._forget(host, sa)
                    return True
        return False

    def _forget(self, host: VirtualHost, sa: Sockaddr) -> None:
        left = [address for address in host.addresses if address.ip.packed != sa.key]
        if not left:
            self.destroy(host)  # its last advertisement still speaks of the address
        host.addresses = left

    def take(self, host: VirtualHost, address: Address) -> None:
        """Put a shared address on the interface: it is the kernel's now."""
        ifp, add = host.ifp, getattr(host.ifp.stack, "add_address", None)
        self._moving = True
        try:
            if add is not None:
                ifa = add(ifp, str(address))
            else:
                ifa = ifp.ifa_add(str(address.ip), str(address.netmask))
            ifa.ifa_carp = host
        except OSError as error:
            self.kernel.console.log("err", f"carp: {host.vhid}@{ifp.if_xname}: {address}: {error}")
        finally:
            self._moving = False

    def give_up(self, host: VirtualHost, address: Address) -> None:
        """Take a shared address off the interface: it is another host's now."""
        ifp, delete = host.ifp, getattr(host.ifp.stack, "del_address", None)
        found = next(
            (a for a in ifp.if_addrhead if a.ifa_carp is host and a.ifa_addr.key == address.ip.packed), None
        )
        if found is None:
            return
        self._moving = True
        try:
            found.ifa_carp = None
            if delete is not None:
                delete(ifp, found)
            else:
                ifp.ifa_remove(found)
        except OSError as error:
            self.kernel.console.log("err", f"carp: {host.vhid}@{ifp.if_xname}: {address}: {error}")
        finally:
            self._moving = False

    # ioctls

    def ioctl(self, data: Any, cmd: str, td: Thread) -> None:
        """``SIOCSVH``, ``SIOCGVH`` with a ``Carpreq``. Raises ENXIO, EINVAL, ENOENT, EPERM; EFAULT without one."""
        vnet = td.prison.pr_vnet
        ifp = (self.kernel.curvnet or vnet).ifunit(data.ifr_name)
        if ifp is None:
            raise OSError(errno.ENXIO, f"there is no interface {data.ifr_name!r}")
        request = data.ifr_data
        if not isinstance(request, Carpreq):
            raise OSError(errno.EFAULT, f"{ifp.if_xname}: {cmd} takes a Carpreq in ifr_data, not {request!r}")
        if cmd == "SIOCGVH":
            self._get(ifp, request, td)
            return
        td.priv_check(Priv.NETINET_CARP)
        for what, value, least, most in (
            ("vhid", request.vhid, 1, 255),
            ("advbase", request.advbase, 1, 255),
            ("advskew", request.advskew, 0, 254),
            ("length of a key", len(request.key or b""), 0, KEY_LENGTH),
        ):
            if value is not None and not least <= value <= most:
                raise OSError(errno.EINVAL, f"{ifp.if_xname}: {what}: {least} to {most}, not {value}")
        host = self.host(ifp, request.vhid) or self.create(ifp, request.vhid)
        if request.advbase is not None:
            host.advbase = request.advbase
        if request.advskew is not None:
            host.advskew = request.advskew
        if request.key is not None:
            host.key = request.key
        if request.state is State.BACKUP and host.state is State.MASTER:
            host.bow_out()
            host.stop_timers()
            host.set_state(State.BACKUP, "user requested via ifconfig")
            host.set_timers()
        elif request.state is State.MASTER:
            host.take_over("user requested via ifconfig")
        elif host.state is not State.INIT:
            host.set_timers()

    def _get(self, ifp: Ifnet, request: Carpreq, td: Thread) -> None:
        if request.vhid:
            host = self.host(ifp, request.vhid)
            if host is None:
                raise OSError(errno.ENOENT, f"{ifp.if_xname} has no vhid {request.vhid}")
            request.found = [host]
            request.advbase, request.advskew, request.state = host.advbase, host.advskew, host.state
            request.key = host.key if td.holds(Priv.NETINET_CARP) else None
        else:
            request.found = list(ifp.if_carp.hosts.values()) if ifp.if_carp is not None else []

    # frames

    def input(self, ifp: Ifnet, m: Mbuf) -> Mbuf | None:
        """Hear advertisements, and hand what is for a virtual MAC of ours to the host as its own."""
        kind = m[_TYPE]
        if kind == _IPV4 and len(m) >= PKTHDR + 34 and m[PKTHDR + 23] == PROTOCOL:
            self._heard(ifp, m, 4)
        elif kind == _IPV6 and len(m) >= PKTHDR + 54 and m[PKTHDR + 20] == PROTOCOL:
            self._heard(ifp, m, 6)
        if self.forus(ifp, m[PKTHDR : PKTHDR + 6]):
            return m[:PKTHDR] + ifp.lladdr + m[PKTHDR + 6 :]
        return m

    def _heard(self, ifp: Ifnet, m: Mbuf, version: int) -> None:
        ip = m[PKTHDR + 14 :]
        if version == 4:
            head, total = (ip[0] & 0x0F) * 4, int.from_bytes(ip[2:4], "big")
            body, hops = ip[head:total], ip[8]
            ok = head >= 20 and not _checksum(ip[:head])
        else:
            body, hops, ok = ip[40 : 40 + int.from_bytes(ip[4:6], "big")], ip[7], True
        host = self.host(ifp, body[1]) if len(body) > 1 else None
        if host is None:
            return
        if hops != 255 or not ok:  # it came from beyond the link
            host.bad += 1
        else:
            host.heard(body, version)

    def forus(self, ifp: Ifnet, destination: bytes) -> bool:
        """True for the virtual MAC of a master here (``carp_forus``)."""
        if destination[:5] != VMAC:
            return False
        host = self.host(ifp, destination[5])
        return host is not None and host.state is State.MASTER

    def output(self, ifp: Ifnet, m: Mbuf, sa: Sockaddr | None = None) -> Mbuf | None:
        """Let what the host says of a shared address in ARP and neighbour discovery name the virtual MAC."""
        kind = m[_TYPE]
        if kind == _ARP and len(m) >= PKTHDR + 42:
            host = self._owner(ifp, m[PKTHDR + 28 : PKTHDR + 32])
            if host is not None:
                at = PKTHDR + 6
                return b"".join((m[:at], host.lladdr, m[at + 6 : PKTHDR + 22], host.lladdr, m[PKTHDR + 28 :]))
        elif kind == _IPV6 and len(m) >= PKTHDR + 78 and m[PKTHDR + 20] == _ICMPV6:
            return self._neighbour(ifp, m)
        return m

    def _neighbour(self, ifp: Ifnet, m: Mbuf) -> Mbuf:
        """A neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4) of the host's."""
        icmp = m[PKTHDR + 54]
        if icmp not in (_NS, _NA):
            return m
        about = m[PKTHDR + 62 : PKTHDR + 78] if icmp == _NA else m[PKTHDR + 22 : PKTHDR + 38]
        host = self._owner(ifp, about)
        if host is None:
            return m
        frame = bytearray(m)
        frame[PKTHDR + 6 : PKTHDR + 12] = host.lladdr
        at = PKTHDR + 78
        while at + 8 <= len(frame) and frame[at + 1]:
            if frame[at] == (2 if icmp == _NA else 1) and frame[at + 1] == 1:
                frame[at + 2 : at + 8] = host.lladdr
            at += frame[at + 1] * 8
        check = slice(PKTHDR + 56, PKTHDR + 58)
        frame[check] = b"\0\0"
        body = bytes(frame[PKTHDR + 54 :])
        pseudo = bytes(frame[PKTHDR + 22 : PKTHDR + 54]) + struct.pack("!II", len(body), _ICMPV6)
        frame[check] = _checksum(pseudo + body).to_bytes(2, "big")
        frame[:PKTHDR] = bytes(PKTHDR)  # the checksum is complete
        return bytes(frame)

    def _owner(self, ifp: Ifnet, packed: bytes) -> VirtualHost | None:
        """The master here that has an address."""
        for host in ifp.if_carp.hosts.values():
            if host.state is State.MASTER and any(a.ip.packed == packed for a in host.addresses):
                found: VirtualHost = host
                return found
        return None

    # hooks

    def linkstate(self, ifp: Ifnet) -> None:
        """An interface went up or down, or its link did (``carp_linkstate``)."""
        cif: CarpIf | None = ifp.if_carp
        for host in list(cif.hosts.values()) if cif is not None else ():
            host.check_interface()

    def iamatch(self, ifa: Ifaddr) -> bytes | None:
        """The virtual MAC to answer ARP for an address with; None while another is master (``carp_iamatch``)."""
        host: VirtualHost | None = ifa.ifa_carp
        return host.lladdr if host is not None and host.state is State.MASTER else None

    def iamatch6(self, ifp: Ifnet, sa: Sockaddr) -> Ifaddr | None:
        """The address ``sa`` of a master here (``carp_iamatch6``)."""
        for ifa in ifp.if_addrhead:
            if isinstance(ifa.ifa_addr, SockaddrIn6) and ifa.ifa_addr.key == sa.key and self.master(ifa):
                return ifa
        return None

    def macmatch6(self, ifp: Ifnet, m: Mbuf, sa: Sockaddr) -> bytes | None:
        """The virtual MAC of the shared address ``sa`` (``carp_macmatch6``)."""
        host = self._owner(ifp, sa.key) if ifp.if_carp is not None else None
        return host.lladdr if host is not None else None

    @staticmethod
    def master(ifa: Ifaddr) -> bool:
        """True for a shared address that is ours at the moment."""
        return isinstance(ifa.ifa_carp, VirtualHost) and ifa.ifa_carp.state is State.MASTER

    def demote_adj(self, by: int, why: str) -> None:
        """Change the demotion counter of the current vnet."""
        vnet = self.kernel.curvnet
        for each in self.kernel.vnets if vnet is None else (vnet,):
            self.demote(each, by, why)

    def departed(self, ifp: Ifnet) -> None:
        """An interface is gone from here, and its virtual hosts with it."""
        if ifp.if_carp is not None and is_leaving(ifp):
            for host in list(ifp.if_carp.hosts.values()):
                self.destroy(host, departing=True)

    def lladdr(self, ifp: Ifnet) -> None:
        """An interface has another MAC; virtual ones stay, but switches must learn where they are."""
        if ifp.if_carp is not None:
            for host in ifp.if_carp.hosts.values():
                host.advertise()


def load(kernel: Kernel, maker: Maker) -> Carp:
    """Fill in carp's hooks and settings."""
    carp = Carp(kernel, maker)
    hooks = kernel.hooks
    hooks.carp_linkstate_p = carp.linkstate
    hooks.carp_demote_adj_p = carp.demote_adj
    hooks.carp_master_p = carp.master
    hooks.carp_forus_p = carp.forus
    hooks.carp_input_p = carp.input
    hooks.carp_output_p = carp.output
    hooks.carp_ioctl_p = carp.ioctl
    hooks.carp_attach_p = carp.attach
    hooks.carp_detach_p = carp.detach
    hooks.carp_remove_p = carp.remove_address
    hooks.carp_iamatch_p = carp.iamatch
    hooks.carp_iamatch6_p = carp.iamatch6
    hooks.carp_macmatch6_p = carp.macmatch6
    kernel.events.register("ifnet_departure_event", carp.departed)
    kernel.events.register("iflladdr_event", carp.lladdr)

    def setting(name: str, description: str) -> None:
        def get(vnet: Vnet) -> int:
            return int(getattr(carp.settings(vnet), name))

        def put(vnet: Vnet, value: int) -> None:
            if name == "demotion":
                carp.demote(vnet, value, "sysctl")
                return
            setattr(carp.settings(vnet), name, value)
            for host in list(carp.hosts(vnet)):
                host.check_interface()

        kernel.vnet_settings[f"net.inet.carp.{name}"] = VnetSetting(description, get, put)

    setting("allow", "accept and send advertisements")
    setting("preempt", "take over from a slower master")
    setting("log", "log changes of state")
    setting("demotion", "demotion counter; a number is added")
    setting("ifdown_demotion_factor", "demotion by an interface without link")
    setting("senderr_demotion_factor", "demotion by advertisements that could not be sent")
    return carp
