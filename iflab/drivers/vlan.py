"""A tagged network on a parent interface (IEEE 802.1Q; vlan(4), FreeBSD's ``net/if_vlan.c``).

::

       host             host               before   dst src      type payload
        |                |                 after    dst src TAG  type payload
      vlan0 (10)       vlan1 (20)
         \\              /                  TAG      0x8100 or 0x88a8, then
          +--- trunk ---+                           priority (3 bits), DEI, VID (12 bits)
                |
             parent  (em0, a lagg, a bridge, or another vlan)

A vlan on a vlan carries two tags: give the outer one ``ETHERTYPE_QINQ`` (802.1ad).

The vlan follows its parent: link state, MAC, capabilities, and the MTU unless it was
given one of its own. Promiscuous and all-multicast mode and the multicast list are
passed down. Frames of the trunk with a VID that no vlan has are dropped and counted;
those with a mere priority tag (VID 0) are the parent's own.

The parent's driver must carry 4 octets more than its MTU (``IFCAP.VLAN_MTU``), else the
vlan's MTU is 4 less.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from iflab.net import (
    ETHERTYPE_QINQ,
    ETHERTYPE_VLAN,
    IFCAP,
    IFF,
    IFT,
    PKTHDR,
    Cloner,
    Ifmultiaddr,
    Ifnet,
    Kernel,
    LinkState,
    Mbuf,
    Priv,
    SockaddrDl,
    Vnet,
)

from .device import Device, Maker, is_leaving, leave, stands_on
from .tap import TapNic

__all__ = ["Trunk", "Vlan", "Vlanreq", "load", "tagged", "untagged"]

_ENCAP = 4
_SOURCE_END = PKTHDR + 12
_PARENTS = (IFT.ETHER, IFT.L2VLAN, IFT.BRIDGE)
_FOLLOWED = (
    IFCAP.RXCSUM
    | IFCAP.TXCSUM
    | IFCAP.RXCSUM_IPV6
    | IFCAP.TXCSUM_IPV6
    | IFCAP.TSO4
    | IFCAP.TSO6
    | IFCAP.LRO
    | IFCAP.JUMBO_MTU
    | IFCAP.LINKSTATE
)
_PROTOCOLS = {0x8100: ETHERTYPE_VLAN, 0x88A8: ETHERTYPE_QINQ}
_U16 = struct.Struct("=H")


@dataclass(slots=True)
class Vlanreq:
    """What ``SIOCSETVLAN`` takes and ``SIOCGETVLAN`` gives, in ``ifr_data``; an empty parent: none."""

    vlr_parent: str = ""
    vlr_tag: int = 0
    """VID, 1 to 4094."""
    vlr_proto: int = 0x8100
    """0x8100 (802.1Q) or 0x88a8 (802.1ad)."""


def _moved(m: Mbuf, octets: int) -> bytes:
    """The packet header of ``m`` when its network header moves by so many octets; nonsense stays nonsense.

    A ``hdr_len`` of 0 is what Linux writes where nothing is to be cut.
    """
    if not m[0] & 1 and not m[1]:
        return m[:PKTHDR]
    hdr_len, start = _U16.unpack_from(m, 2)[0], _U16.unpack_from(m, 6)[0]
    hdr_len = min(0xFFFF, max(0, hdr_len + octets)) if hdr_len else 0
    return m[:2] + _U16.pack(hdr_len) + m[4:6] + _U16.pack(start + octets & 0xFFFF) + m[8:PKTHDR]


def tagged(m: Mbuf, tag: bytes) -> Mbuf:
    """Put a tag of 4 octets behind the source MAC (``ether_vlanencap``)."""
    return b"".join((_moved(m, _ENCAP), m[PKTHDR:_SOURCE_END], tag, m[_SOURCE_END:]))


def untagged(m: Mbuf) -> Mbuf:
    """Take the outer tag away."""
    return b"".join((_moved(m, -_ENCAP), m[PKTHDR:_SOURCE_END], m[_SOURCE_END + _ENCAP :]))


class Trunk:
    """What a parent carries (``if_vlantrunk``): its vlans by protocol and VID."""

    def __init__(self, parent: Ifnet) -> None:
        self.parent = parent
        self.vlans: dict[tuple[bytes, int], Vlan] = {}
        self.unknown = 0
        """Frames with a VID that no vlan has."""


class Vlan(Device):
    """``vlan0`` ...; without a parent until ``SIOCSETVLAN``."""

    kind = "vlan"
    iftype = IFT.L2VLAN
    capabilities = 0

    def __init__(self, maker: Maker) -> None:
        super().__init__(maker)
        self.parent: Ifnet | None = None
        self.vid = 0
        self.proto = ETHERTYPE_VLAN
        self.pcp = 0
        """Priority code point of what is sent (IEEE 802.1Q, 6.9.3), 0 to 7."""
        self.cookie: Any = None
        self._tag = b""
        self._own_mtu: int | None = None
        self._joined: dict[bytes, Ifmultiaddr] = {}
        self._passed = {"promisc": False, "allmulti": False}

    @classmethod
    def cloner(cls, maker: Maker) -> Cloner:
        """Makes ``vlan0``, and ``em0.10`` for VID 10 of em0 as well."""
        cloner = super().cloner(maker)
        cloner.match = _match
        return cloner

    def create(self, vnet: Vnet, name: str, unit: int, params: Any) -> Ifnet:
        """Make ``name``; ``params`` is a ``Vlanreq`` or None."""
        if _match(vnet, name):
            parent, _, vid = name.rpartition(".")
            params = Vlanreq(parent, int(vid))
        return super().create(vnet, name, unit, params)

    def created(self, params: Any) -> None:
        """Take the parent, if one was named."""
        if params is not None:
            self.configure(params)

    def if_detached(self, ifp: Ifnet) -> None:
        """Leave the parent."""
        self.unconfigure()
        super().if_detached(ifp)

    # the parent

    def configure(self, request: Vlanreq) -> None:
        """Become the vlan of a parent (``vlan_config``); with no parent in the request leave it.

        Raises EINVAL for a VID that cannot be and for a parent that stands on this
        one, ENOENT without the parent, EBUSY when there is one already,
        EPROTONOSUPPORT for a parent that is no Ethernet, EEXIST when it has such a vlan.
        """
        ifp = self.ifp
        if not request.vlr_parent:
            self.unconfigure()
            return
        if not 0 < request.vlr_tag < 0xFFF:
            raise OSError(errno.EINVAL, f"{ifp.if_xname}: a VID is 1 to 4094, not {request.vlr_tag}")
        proto = _PROTOCOLS.get(request.vlr_proto)
        if proto is None:
            raise OSError(
                errno.EINVAL, f"{ifp.if_xname}: a tag is 0x8100 or 0x88a8, not {request.vlr_proto:#x}"
            )
        parent = ifp.curvnet.ifunit(request.vlr_parent)
        if parent is None:
            raise OSError(errno.ENOENT, f"{ifp.if_xname}: there is no interface {request.vlr_parent}")
        if self.parent is not None:
            if (self.parent, self.vid, self.proto) == (parent, request.vlr_tag, proto):
                return
            raise OSError(
                errno.EBUSY,
                f"{ifp.if_xname} is VID {self.vid} of {self.parent.if_xname}; take that off first",
            )
        if parent is ifp or not self._can_carry(parent):
            raise OSError(errno.EPROTONOSUPPORT, f"{ifp.if_xname}: {parent.if_xname} carries no tags")
        if stands_on(parent, ifp):
            raise OSError(errno.EINVAL, f"{ifp.if_xname}: {parent.if_xname} stands on it")
        trunk: Trunk = parent.if_vlantrunk or Trunk(parent)
        if (proto, request.vlr_tag) in trunk.vlans:
            raise OSError(errno.EEXIST, f"{parent.if_xname} has a vlan {request.vlr_tag} already")
        self.parent, self.vid, self.proto = parent, request.vlr_tag, proto
        self._retag()
        trunk.vlans[proto, self.vid] = self
        parent.if_vlantrunk = trunk
        parent.if_claim("vlan")
        if parent.lladdr != ifp.lladdr:
            self._take_mac(parent)
        self.follow_parent()
        self._pass_down()
        self.follow_link()

    def below(self) -> Iterable[Ifnet]:
        return () if self.parent is None else (self.parent,)

    @staticmethod
    def _can_carry(parent: Ifnet) -> bool:
        return parent.if_type in _PARENTS and isinstance(parent.if_softc, TapNic)

    def unconfigure(self, departing: bool = False) -> None:
        """Leave the parent (``vlan_unconfig``); nothing happens without one.

        One that is ``departing`` has lost all its groups already.
        """
        parent, self.parent = self.parent, None
        if parent is None:
            return
        trunk: Trunk = parent.if_vlantrunk
        trunk.vlans.pop((self.proto, self.vid), None)
        if not trunk.vlans:
            parent.if_vlantrunk = None
            parent.if_claim("vlan", False)
        if not departing:
            for ifma in self._joined.values():
                leave(ifma)
        self._joined.clear()
        for mode, on in self._passed.items():
            if on:
                with contextlib.suppress(OSError):  # a dead driver has no modes any more
                    self._pass_mode(parent, mode, False)
        self.vid = self.pcp = 0
        self.ifp.if_capabilities = self.ifp.if_capenable = 0
        if not self.ifp.if_flags & IFF.DYING:
            self.link_change(False)

    def _take_mac(self, parent: Ifnet) -> None:
        ifp = self.ifp
        ifp.if_setlladdr(parent.lladdr)
        self.reprogram()
        ifp.kernel.events.invoke("iflladdr_event", ifp)

    def follow_mac(self) -> None:
        """The parent's MAC changed: so does this one's."""
        if self.parent is not None and self.ifp.lladdr != self.parent.lladdr:
            self._take_mac(self.parent)

    def follow_link(self) -> None:
        """The parent's link changed: so does this one's (``vlan_link_state``)."""
        if self.parent is not None:
            self.ifp.if_baudrate = self.parent.if_baudrate
            self.link_change(self.parent.if_link_state is LinkState.UP)

    @property
    def most_mtu(self) -> int:
        """The largest MTU that the parent carries."""
        assert self.parent is not None
        fudge = 0 if self.parent.if_capenable & IFCAP.VLAN_MTU else _ENCAP
        return self.parent.if_mtu - fudge

    def follow_parent(self) -> None:
        """The parent's capabilities or MTU changed: so do this one's (``vlan_trunk_capabilities``)."""
        ifp, parent = self.ifp, self.parent
        if parent is None:
            return
        ifp.if_capabilities = parent.if_capabilities & _FOLLOWED
        ifp.if_capenable = parent.if_capenable & _FOLLOWED
        ifp.if_hw_tsomax = parent.if_hw_tsomax
        wanted = self.most_mtu if self._own_mtu is None else min(self._own_mtu, self.most_mtu)
        if wanted != ifp.if_mtu and wanted > 0:
            self._set_mtu(ifp, wanted)
            ifp.touch()
            ifp.kernel.rtsock.rt_ifmsg(ifp)
            ifp.stack.nd6_setmtu(ifp)
        else:
            self.rethink()

    # modes and groups

    def _program(self) -> None:
        super()._program()
        if self.parent is not None:
            self._pass_down()

    def _pass_down(self) -> None:
        """Give the parent the modes and groups of this one (``vlan_setflags``, ``vlan_setmulti``)."""
        ifp, parent = self.ifp, self.parent
        assert parent is not None
        up = bool(ifp.if_flags & IFF.UP)
        for mode, flags in (("promisc", IFF.PROMISC | IFF.PPROMISC), ("allmulti", IFF.ALLMULTI)):
            wanted = up and bool(ifp.if_flags & flags)
            if wanted != self._passed[mode]:
                self._pass_mode(parent, mode, wanted)
        macs = ifp.if_multiaddrs.link_addresses()
        for mac in macs - set(self._joined):
            self._joined[mac] = parent.if_addmulti(SockaddrDl(sdl_lladdr=mac))
        for mac in set(self._joined) - macs:
            leave(self._joined.pop(mac))

    def _pass_mode(self, parent: Ifnet, mode: str, on: bool) -> None:
        self._passed[mode] = on
        if mode == "promisc":
            parent.ifpromisc(on)
        else:
            parent.if_allmulti(on)

    # ioctls

    def command(self, cmd: str, data: Any) -> bool:
        """``SIOCSETVLAN``, ``SIOCGETVLAN``, ``SIOCSVLANPCP``, ``SIOCGVLANPCP``; MTU at most what the parent carries."""
        if cmd == "SIOCSETVLAN":
            self.ifp.kernel.priv_check(Priv.NET_VLAN)
            self.configure(self.record(cmd, data, Vlanreq))
        elif cmd == "SIOCGETVLAN":
            parent = self.parent.if_xname if self.parent is not None else ""
            data.ifr_data = Vlanreq(parent, self.vid, int.from_bytes(self.proto, "big"))
        elif cmd == "SIOCSVLANPCP":
            self.ifp.kernel.priv_check(Priv.NET_VLAN)
            self.set_pcp(self.record(cmd, data, int))
        elif cmd == "SIOCGVLANPCP":
            data.ifr_data = self.pcp
        elif cmd == "SIOCSIFMTU":
            if self.parent is not None and data.ifr_mtu > self.most_mtu:
                raise OSError(
                    errno.EINVAL,
                    f"{self.ifp.if_xname}: {self.parent.if_xname} carries an MTU of {self.most_mtu} at most, "
                    f"not {data.ifr_mtu}",
                )
            self._set_mtu(self.ifp, data.ifr_mtu)
            self._own_mtu = data.ifr_mtu
        elif cmd == "SIOCGIFMEDIA":
            if self.parent is None:
                raise OSError(errno.EINVAL, f"{self.ifp.if_xname} has no parent")
            self.parent.driver_ioctl(cmd, data)
        else:
            return False
        return True

    def set_pcp(self, pcp: int) -> None:
        """Send with this priority, 0 to 7, from now on. Raises EINVAL for another."""
        if not 0 <= pcp <= 7:
            raise OSError(errno.EINVAL, f"{self.ifp.if_xname}: a priority is 0 to 7, not {pcp}")
        self.pcp = pcp
        self._retag()

    def _retag(self) -> None:
        self._tag = self.proto + (self.pcp << 13 | self.vid).to_bytes(2, "big")

    # frames

    def leaves(self) -> int:
        """As much as the parent's host may."""
        return self.parent.if_softc.leaves() if self.parent is not None else 0

    def send(self, m: Mbuf) -> None:
        """Tag a frame and let the parent transmit it; while that is not up and running it is an output error."""
        ifp, parent = self.ifp, self.parent
        if (
            parent is None
            or not parent.if_flags & IFF.UP
            or not parent.if_drv_flags & IFF.RUNNING
            or parent.transmit_mbuf(tagged(m, self._tag))
        ):
            ifp.if_oerrors += 1
        else:
            ifp.if_opackets += 1


def _match(vnet: Vnet, name: str) -> bool:
    """True for ``em0.10``, when there is an em0."""
    parent, dot, vid = name.rpartition(".")
    return bool(dot) and vid.isascii() and vid.isdecimal() and vnet.ifunit(parent) is not None


def _input(parent: Ifnet, m: Mbuf) -> Mbuf | None:
    """A tagged frame of a parent: to its vlan (``vlan_input``)."""
    if len(m) < PKTHDR + 18:
        parent.if_ierrors += 1
        return None
    vid = int.from_bytes(m[_SOURCE_END + 2 : _SOURCE_END + 4], "big") & 0xFFF
    if vid == 0:
        return untagged(m)
    trunk: Trunk = parent.if_vlantrunk
    vlan = trunk.vlans.get((m[_SOURCE_END : _SOURCE_END + 2], vid))
    if vlan is None:
        trunk.unknown += 1
    else:
        vlan.input(untagged(m))
    return None


def _children(parent: Ifnet) -> list[Vlan]:
    return list(parent.if_vlantrunk.vlans.values()) if parent.if_vlantrunk is not None else []


def _link_state(parent: Ifnet) -> None:
    for vlan in _children(parent):
        vlan.follow_link()


def _trunk_cap(parent: Ifnet) -> None:
    for vlan in _children(parent):
        vlan.follow_parent()


def _departed(parent: Ifnet) -> None:
    if is_leaving(parent):
        for vlan in _children(parent):
            vlan.unconfigure(departing=True)


def _lladdr(parent: Ifnet) -> None:
    for vlan in _children(parent):
        vlan.follow_mac()


def _vlan(ifp: Ifnet) -> Vlan:
    if not isinstance(ifp.if_softc, Vlan):
        raise OSError(errno.EINVAL, f"{ifp.if_xname} is no vlan")
    return ifp.if_softc


def _trunkdev(ifp: Ifnet) -> Ifnet | None:
    return ifp.if_softc.parent if isinstance(ifp.if_softc, Vlan) else None


def _devat(parent: Ifnet, vid: int) -> Ifnet | None:
    return next((vlan.ifp for vlan in _children(parent) if vlan.vid == vid), None)


def _tag_of(ifp: Ifnet) -> int:
    return _vlan(ifp).vid


def _cookie(ifp: Ifnet) -> Any:
    return _vlan(ifp).cookie


def _setcookie(ifp: Ifnet, cookie: Any) -> None:
    _vlan(ifp).cookie = cookie


def load(kernel: Kernel) -> None:
    """Fill in vlan's hooks: ``vlan_trunkdev_p``, ``vlan_tag_p``, ``vlan_devat_p`` and cookies for other drivers too."""
    hooks = kernel.hooks
    hooks.vlan_input_p = _input
    hooks.vlan_link_state_p = _link_state
    hooks.vlan_trunk_cap_p = _trunk_cap
    hooks.vlan_trunkdev_p = _trunkdev
    hooks.vlan_devat_p = _devat
    hooks.vlan_tag_p = _tag_of
    hooks.vlan_cookie_p = _cookie
    hooks.vlan_setcookie_p = _setcookie
    kernel.events.register("ifnet_departure_event", _departed)
    kernel.events.register("iflladdr_event", _lladdr)
