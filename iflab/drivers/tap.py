"""The NIC: an ifnet whose host is a network namespace of Linux, over a TAP device.

::

      Linux            netdev em0 (TAP)
         |  frames through the fd  ^
         v                         |
      if_transmit              if_input
         v                         ^
      if_snd -> if_start       hardware filter
         v                         |
      end.send  -------- wire ---- receive

Where nothing is in that way, frames are carried past it, and counted the same: that is
``express.py``.

What the host leaves to the chip (checksums, cutting super-frames) is left undone
as long as the receiver accepts it so: between two NICs on a plain cable. Where
something in between must see wire-sized frames the kernel is told not to leave it
(TUNSETOFFLOAD), and what it had left before is done here (``finish``).
``if_capenable`` says what the NIC may do, not what it is asked to do at the moment.

What the ifnet says is put into force here: flags, MTU, MAC, promiscuous and
all-multicast mode and the multicast list go to the netdev, and make the filter.
The link is there when a wire with somebody at its other end is plugged in.

What others change about the netdev comes in through ``iflab/stack.py``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from iflab.linux import Netns, Tap
from iflab.linux.tap import TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6
from iflab.net import (
    ACCEPTS_ALL,
    ACCEPTS_CSUM,
    ACCEPTS_GSO,
    IFCAP,
    IFF,
    IFT,
    PKTHDR,
    AddressFamily,
    BpfSide,
    Ifnet,
    LinkState,
    Mbuf,
    OffloadError,
    Sockaddr,
    SockaddrDl,
    Vnet,
    bpf_ifdetach,
    bpf_mtap,
    ether_ifattach,
    ether_resolvemulti,
    finish,
)
from iflab.wire import Port

from .express import Express, Loop

__all__ = ["TapNic"]

_log = logging.getLogger("iflab.drivers")

STALE_FOR = 0.1
"""Seconds for which frames may still come out that were queued before the kernel was told to finish them."""

BROADCAST = b"\xff" * 6
MEDIA = "Ethernet 10Gbase-T <full-duplex>"
"""The only one there is, in ifconfig's words."""

# Linux's numbers for the flags that both sides have.
_LINUX_UP, _LINUX_NOARP, _LINUX_PROMISC, _LINUX_ALLMULTI = 0x1, 0x80, 0x100, 0x200
_SIOCADDMULTI, _SIOCDELMULTI = 0x8931, 0x8932
_OF_GROUPS = ("SIOCADDMULTI", "SIOCDELMULTI")


_CAPABILITIES = (
    IFCAP.RXCSUM
    | IFCAP.TXCSUM
    | IFCAP.VLAN_MTU
    | IFCAP.JUMBO_MTU
    | IFCAP.TSO4
    | IFCAP.TSO6
    | IFCAP.LRO
    | IFCAP.LINKSTATE
    | IFCAP.RXCSUM_IPV6
    | IFCAP.TXCSUM_IPV6
)


_CAPABILITY_OF = {
    TUN_F_CSUM: IFCAP.TXCSUM | IFCAP.TXCSUM_IPV6,
    TUN_F_TSO4: IFCAP.TSO4,
    TUN_F_TSO6: IFCAP.TSO6,
}
"""What ``if_capenable`` calls that which the kernel may leave to us."""


def listeners_change(ifp: Ifnet) -> None:
    """Somebody began or ended to listen on ``ifp``: a NIC finishes its frames meanwhile."""
    if isinstance(ifp.if_softc, TapNic):
        ifp.if_softc.listeners_change()


class TapNic(Express):
    """An Ethernet NIC. One object is one NIC; ``attach`` makes device and ifnet.

    It is its wire's ``Port``: ``send`` puts a frame on the wire, ``receive`` takes
    one off it. All functions run with the lab's lock held.

    ``filtered`` counts frames that the hardware filter kept from the host, ``taken``
    what the host sent, ``pieces`` what became more by cutting, ``refused`` what the
    kernel did not take after all, which is an input error or queue drop, too. With
    these every frame is accounted for: off the wire came ``if_ipackets + if_iqdrops +
    if_ierrors + filtered - refused``, unless a device on top counts an error of its own.
    """

    iftype: IFT = IFT.ETHER
    capabilities = _CAPABILITIES
    medium: str | None = MEDIA
    """What ``SIOCGIFMEDIA`` answers; None: there is none."""
    has_plug = True
    """It can be plugged into a wire."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)

        def derived(*names: str) -> bool:
            return any(getattr(cls, name) is not getattr(TapNic, name) for name in names)

        cls._sends_itself = derived("if_start", "send")
        cls._receives_itself = derived("receive", "accepts", "to_host")

    def __init__(self) -> None:
        super().__init__()
        self.filtered = 0
        self.pieces = 0
        self.closer: Callable[[Tap], None] = Tap.close
        """How the device is closed; a lab closes many at once, because each takes 20 ms."""
        self.on_group_miss: Callable[[Ifnet, bytes], bool] | None = None
        """Asked when a multicast frame misses the filter: were there groups we did not know of?"""
        self.on_groups: Callable[[Ifnet], None] | None = None
        """Told when the ifnet's multicast list changed."""
        self.on_change: Callable[[Ifnet], None] | None = None
        """Told when the ifnet changed something else here."""
        self.own_group: Callable[[Ifnet], int] | None = None
        """Tells by the ifnet's groups what number the netdev's group should have."""
        self.netdev_group = 0
        """The number of the netdev's group (``ip link show group``)."""
        self.netdev_flags = 0
        """The netdev's flags (Linux's bits) as last set or seen."""
        self.netdev_mtu = 0
        self.operstate = "DOWN"
        """The netdev's operational state as last heard (RFC 2863): ``"UP"`` once the kernel sends through it."""
        self.kernel_promisc = False
        """One reference of ``if_pcount`` is held for a program of the host that sniffs."""
        self.following = False
        """The ifnet is just following its netdev: nothing of it is asked of the kernel."""
        self.kernel_allmulti = False
        """The same of ``if_amcount``, for programs or for whoever set the flag from the Linux side."""
        self.netns: Netns
        self._groups: set[bytes] = set()
        self._accepts_all = False
        self._accepts_groups = False
        self._pushed: set[bytes] = set()
        self._offload = 0
        """What the kernel may leave to us (``TUN_F_*``)."""
        self._asked = 0
        """What of it the host was last seen to leave: less, where ``ethtool -K`` says so."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # coming and going

    def attach(
        self,
        vnet: Vnet,
        netns: Netns | None,
        loop: Loop | None,
        name: str,
        mac: bytes,
        mtu: int = 1500,
    ) -> Ifnet:
        """Make the device ``name`` in ``netns`` and its ifnet in ``vnet``; return the ifnet, down.

        With neither namespace nor loop there is no device, and no Linux above: a
        NIC of a switch. Raises as ``Tap.create`` and ``if_attach`` do; nothing is
        left behind then.
        """
        tap = Tap.create(netns, name, mac=mac) if netns is not None else Tap(-1, name, 0)
        try:
            ifp = vnet.if_alloc(IFT.ETHER)
        except BaseException:
            tap.close()
            raise
        self.tap, self.ifp, self._mac = tap, ifp, mac
        if netns is not None and loop is not None:
            self.netns, self._loop = netns, loop
        ifp.if_type = self.iftype
        stem = name.rstrip("0123456789")
        if stem and stem != name and str(int(name[len(stem) :])) == name[len(stem) :]:
            ifp.if_initname(stem, int(name[len(stem) :]))
        else:
            ifp.if_initname(name)
        self.name = f"{vnet.name}:{name}"
        ifp.if_flags = IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST
        ifp.if_mtu = self.netdev_mtu = 1500
        ifp.if_capabilities = ifp.if_capenable = self.capabilities
        ifp.if_link_state = LinkState.DOWN
        ifp.if_baudrate = 10_000_000_000
        ifp.if_driver = self
        ifp.if_softc = self
        try:
            self.prepare(ifp)
            if mtu != 1500:
                self._set_mtu(ifp, mtu)
            ether_ifattach(ifp, mac)
        except BaseException:
            ifp.if_free()
            tap.close()
            raise
        self._program()
        if loop is not None and tap.fd >= 0:
            loop.add_reader(tap.fd, self._readable, frames=True)
        return ifp

    def prepare(self, ifp: Ifnet) -> None:
        """Set what the attachment announces; for derived classes."""

    def if_detached(self, ifp: Ifnet) -> None:
        """The interface is gone: pull the plug and close the device."""
        bpf_ifdetach(ifp)
        if self.end is not None:
            self.end.wire.unplug(self)
        if self.tap.fd >= 0:
            self._loop.remove_reader(self.tap.fd)
            self.closer(self.tap)
        self._running = False

    def if_may_reassign(self, ifp: Ifnet, new_vnet: Vnet) -> None:
        """Raise ENODEV where only one of both has a network namespace, EEXIST where a netdev there has this one's name."""
        netns = getattr(new_vnet.stack, "netns", None)
        if self.tap.fd < 0 and netns is None:
            return
        if not isinstance(netns, Netns) or self.tap.fd < 0:
            raise OSError(
                errno.ENODEV,
                f"{self.name}: this NIC and the vnet {new_vnet.name} do not fit: only one of them has a network namespace",
            )
        if self.netns is not netns and netns.index_of(self.tap.name):
            raise OSError(
                errno.EEXIST, f"{new_vnet.name} has a netdev {self.tap.name} of its own; rename one"
            )

    def if_reassign(self, ifp: Ifnet, new_vnet: Vnet) -> None:
        """Move the device into the namespace of ``new_vnet``; fd, wire and MAC stay."""
        if self.tap.fd < 0:
            self.name = f"{new_vnet.name}:{ifp.if_xname}"
            return
        netns = new_vnet.stack.netns  # type: ignore[attr-defined]
        if self.netns is netns:
            return  # it was moved from the Linux side
        self._netdev(netns=netns)
        self.arrived(netns, new_vnet)

    def arrived(self, netns: Netns, vnet: Vnet) -> None:
        """The device is in ``netns`` now, down. Raises ENODEV, and nothing is changed, when it has moved on."""
        self.tap.look_up(netns)
        self.netns = netns
        self._pushed = set()  # a netdev that moves leaves its multicast list behind
        self.name = f"{vnet.name}:{self.ifp.if_xname}"
        self.netdev_flags &= ~_LINUX_UP

    def if_start(self, ifp: Ifnet) -> None:
        """Put what waits in ``if_snd`` on the wire."""
        dequeue, send = ifp.if_snd.dequeue, self.send
        while (m := dequeue()) is not None:
            send(m)

    def send(self, m: Mbuf) -> None:
        """Put one frame on the wire, finished as far as need be.

        Without a wire, or while the NIC is down, it is lost, an output error.
        """
        end = self.end
        if end is None or not self._running:
            self.ifp.if_oerrors += 1
            return
        accepts = 0 if self.ifp.if_bpf else end.accepts
        if accepts != ACCEPTS_ALL and (m[0] & 1 or m[1]):
            try:
                pieces = finish(m, accepts)
            except OffloadError as error:
                _log.debug("%s: the host asks for what cannot be: %s", self.name, error)
                self.ifp.if_oerrors += 1
                return
            self.ifp.if_opackets += len(pieces)
            self.pieces += len(pieces) - 1
            for piece in pieces:
                if self.ifp.if_bpf:
                    bpf_mtap(self.ifp, piece, BpfSide.OUT)
                end.send(piece)
            return
        self.ifp.if_opackets += 1
        if self.ifp.if_bpf:
            bpf_mtap(self.ifp, m, BpfSide.OUT)
        end.send(m)

    # frames in: off the wire

    def receive(self, m: Mbuf) -> None:
        """Let a frame through the filter, and hand it to the host."""
        if self.ifp.if_bpf and self._running:
            bpf_mtap(self.ifp, m, BpfSide.WIRE)
        if not self._running:
            self.ifp.if_iqdrops += 1
        elif len(m) < PKTHDR + 14:
            self.ifp.if_ierrors += 1
        elif m[PKTHDR : PKTHDR + 6] == self._mac or self.accepts(m[PKTHDR : PKTHDR + 6]):
            self.ifp.if_input_mbuf(m)
        else:
            self.filtered += 1

    def takes(self, sender: Port) -> int:
        """What may be left undone on frames for this NIC: nothing if its own code looks at them."""
        able = self.ifp.if_capenable
        if self._receives_itself or self.ifp.if_bpf or not able & (IFCAP.RXCSUM | IFCAP.RXCSUM_IPV6):
            return 0
        theirs = sender.ifp.if_mtu if isinstance(sender, TapNic) else 0
        return ACCEPTS_ALL if able & IFCAP.LRO and theirs <= self.ifp.if_mtu else ACCEPTS_CSUM

    def listeners_change(self) -> None:
        """Somebody began or ended to listen: then both ends finish their frames, or need not any more."""
        self.accepts_change()
        if self.end is not None:
            self.end.wire.rebind()

    def leaves(self) -> int:
        """What the host may leave undone on the frames that it sends."""
        looks = self._sends_itself or self.ifp.if_bpf
        return self.end.accepts if self.end is not None and not looks else 0

    def accepts_change(self) -> None:
        """What the wire accepts has changed: tell the kernel what to leave to us."""
        if self._wanted_offload() == self._offload:
            return
        self.heed_ethtool()
        wanted = self._wanted_offload()
        if wanted != self._offload and self.tap.fd >= 0:
            try:
                self.tap.set_offload(wanted)
            except OSError as error:
                if error.errno != errno.EBADFD:
                    raise
                return  # the device was deleted under us
            self._offload, self._asked = wanted, wanted & sum(_CAPABILITY_OF)
            self._stale_until = time.monotonic() + STALE_FOR
            self._tell_trunk()

    def heed_ethtool(self) -> None:
        """Take over what ``ethtool -K`` switched off in the host, or on again, of what it may leave to us.

        Nobody is told of that; and the kernel forgets it when it is told anew what it may leave.
        """
        if not self._offload or self.tap.fd < 0:
            return
        try:
            asked = self.tap.asked_for(self.netns) & self._offload
        except (OSError, UnicodeError) as error:
            _log.debug("%s: what the host leaves to the chip cannot be read: %s", self.name, error)
            return
        changed, self._asked = asked ^ self._asked, asked
        if not changed:
            return
        able = self.ifp.if_capenable
        for flag, capability in _CAPABILITY_OF.items():
            if changed & flag:
                able = able | capability if asked & flag else able & ~capability
        if able != self.ifp.if_capenable:
            self.ifp.if_capenable = able
            self.ifp.touch()
            self._tell_trunk()

    def _wanted_offload(self) -> int:
        able = self.ifp.if_capenable
        accepts = self.leaves()
        wanted = 0
        if accepts & ACCEPTS_CSUM and able & (IFCAP.TXCSUM | IFCAP.TXCSUM_IPV6):
            wanted = TUN_F_CSUM
            if accepts & ACCEPTS_GSO and not self.ifp.if_snd.is_managed():
                wanted |= TUN_F_TSO4 if able & IFCAP.TSO4 else 0
                wanted |= TUN_F_TSO6 if able & IFCAP.TSO6 else 0
                if able & IFCAP.TSO4 and able & IFCAP.TSO6:
                    wanted |= TUN_F_USO4 | TUN_F_USO6  # Linux wants both or none
        return wanted

    def if_snd_changed(self, ifp: Ifnet) -> None:
        """Who manages the send queue gets it in frames of the wire's size."""
        self.accepts_change()

    def accepts(self, destination: bytes) -> bool:
        """The hardware filter: own MAC, broadcast, the multicast list, or what the modes say."""
        if destination == self._mac or self._accepts_all:
            return True
        if not destination[0] & 1:
            return False
        if destination == BROADCAST or self._accepts_groups or destination in self._groups:
            return True
        ask = self.on_group_miss
        heard = ask is not None and ask(self.ifp, destination)
        return heard and (self._accepts_groups or destination in self._groups)

    # the link

    def link_change(self, up: bool) -> None:
        """The wire's carrier came or went: tell the netdev and the ifnet."""
        if self.tap.fd >= 0:
            with contextlib.suppress(OSError):
                self.tap.set_carrier(up)
        self.ifp.if_link_state_change(LinkState.UP if up else LinkState.DOWN)

    # what the ifnet says

    def if_ioctl(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        """Obey: flags, MTU, multicast, capabilities. Raises the kernel's errno; EINVAL for what it does not know."""
        self._obey(ifp, cmd, data)
        if self.on_change is not None and cmd not in _OF_GROUPS:
            self.on_change(ifp)

    def _obey(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        if cmd == "SIOCSIFFLAGS" and ifp.if_reinit:
            self._program()  # a netdev that really went down would lose its IPv6 addresses and routes
        elif cmd == "SIOCSIFFLAGS":
            self.sync_flags()
        elif cmd == "SIOCSIFMTU":
            if ifp.if_lagg is not None and not ifp.if_lagg.sets_mtu:
                raise OSError(
                    errno.EINVAL,
                    f"{self.name} is a port of {ifp.if_lagg.ifp.if_xname}; change the MTU of that",
                )
            self._set_mtu(ifp, data.ifr_mtu)
        elif cmd in _OF_GROUPS:
            self._program()
            if self.on_groups is not None:
                self.on_groups(ifp)
        elif cmd == "SIOCSIFCAP":
            wanted = data.ifr_reqcap
            if not wanted & (IFCAP.TXCSUM | IFCAP.TXCSUM_IPV6):
                wanted &= ~(IFCAP.TSO4 | IFCAP.TSO6)  # what is cut needs its checksums
            ifp.if_capenable = wanted
            self.rethink()
        elif cmd == "SIOCGIFMEDIA":
            data.ifr_data = {"media": self._medium(), "active": self.end is not None}
        elif cmd == "SIOCSIFMEDIA":
            if data.ifr_data not in (self._medium().partition(" (")[0], "Ethernet autoselect"):
                raise OSError(
                    errno.EINVAL, f"{self.name}: its only media is {self.medium}, not {data.ifr_data}"
                )
        else:
            raise OSError(errno.EINVAL, f"{self.name}: a TAP NIC knows no {cmd}")

    def _medium(self) -> str:
        if self.medium is None:
            raise OSError(errno.EINVAL, f"{self.name} has no medium")
        return self.medium

    def if_resolvemulti(self, ifp: Ifnet, sa: Sockaddr) -> SockaddrDl | None:
        """Map a group as Ethernet does."""
        return ether_resolvemulti(ifp, sa)

    def if_init(self, ifp: Ifnet) -> None:
        """Let frames through, both ways."""
        self._running = True
        ifp.if_drv_flags = ifp.if_drv_flags & ~IFF.OACTIVE | IFF.RUNNING

    def stop(self) -> None:
        """Let nothing through."""
        self._running = False
        self.ifp.if_drv_flags &= ~(IFF.RUNNING | IFF.OACTIVE)

    def wanted_flags(self) -> int:
        """The netdev flags (Linux's bits) that the ifnet asks for.

        Modes that are on only because the kernel itself asked for them are not
        asked of it: that would be an echo.
        """
        ifp = self.ifp
        flags = ifp.if_flags
        own_promisc = bool(flags & IFF.PPROMISC) or ifp.if_pcount > self.kernel_promisc
        own_allmulti = bool(flags & IFF.ALLMULTI) and (
            ifp.if_amcount == 0 or ifp.if_amcount > self.kernel_allmulti
        )
        return (
            (_LINUX_UP if flags & IFF.UP else 0)
            | (_LINUX_NOARP if flags & IFF.NOARP else 0)
            | (_LINUX_PROMISC if own_promisc else 0)
            | (_LINUX_ALLMULTI if own_allmulti else 0)
        )

    def sync_flags(self) -> None:
        """Give the netdev the ifnet's flags, in one message and only if they differ, and program the filter.

        Raises the kernel's errno; flags of the netdev are unchanged then.
        """
        mask = _LINUX_UP | _LINUX_NOARP | _LINUX_PROMISC | _LINUX_ALLMULTI
        wanted = self.wanted_flags()
        if self.kernel_allmulti and self.netdev_flags & _LINUX_ALLMULTI:
            wanted |= _LINUX_ALLMULTI  # somebody else's; switching it off is up to them
        differ = (self.netdev_flags ^ wanted) & mask
        if differ and self.tap.fd >= 0 and not self.following:
            changes: dict[str, Any] = {}
            for key, bit in (("up", _LINUX_UP), ("promisc", _LINUX_PROMISC), ("allmulti", _LINUX_ALLMULTI)):
                if differ & bit:
                    changes[key] = bool(wanted & bit)
            if differ & _LINUX_NOARP:
                changes["arp"] = not wanted & _LINUX_NOARP
            self._netdev(**changes)
            self.netdev_flags = self.netdev_flags & ~mask | wanted
        self._program()
        if not self.ifp.if_flags & IFF.UP:
            if self._running:
                self.stop()
        elif not self._running:
            self.if_init(self.ifp)

    def follow(self) -> None:
        """Give the netdev the ifnet's flags where nobody can be told of a refusal; it is logged."""
        try:
            self.sync_flags()
        except OSError as error:
            gone = error.errno == errno.ENODEV  # and that is told soon
            _log.log(
                logging.DEBUG if gone else logging.WARNING,
                "%s: the kernel refuses its flags: %s",
                self.name,
                error,
            )

    def _set_mtu(self, ifp: Ifnet, mtu: int) -> None:
        if mtu != self.netdev_mtu:
            self._netdev(mtu=mtu)
            self.netdev_mtu = mtu
        ifp.if_mtu = mtu
        self.rethink()

    def rethink(self) -> None:
        """Capabilities or MTU changed: what this NIC takes may be another, and what it leaves to the wire."""
        if self.end is not None:
            self.end.wire.rebind()
        self.accepts_change()
        self._tell_trunk()

    def _tell_trunk(self) -> None:
        tell = self.ifp.kernel.hooks.vlan_trunk_cap_p
        if self.ifp.if_vlantrunk is not None and tell is not None:
            tell(self.ifp)

    def _netdev(self, **changes: Any) -> None:
        from iflab.linux import Netlink

        if self.tap.fd < 0:
            return
        with Netlink(self.netns) as netlink:
            netlink.link_set(self.tap.ifindex, **changes)

    def _program(self) -> None:
        """Program the filter from the ifnet: MAC, modes, multicast list."""
        ifp = self.ifp
        self._mac = ifp.lladdr or self._mac
        self._groups = ifp.if_multiaddrs.link_addresses()
        self._accepts_all = bool(ifp.if_flags & (IFF.PROMISC | IFF.PPROMISC))
        self._accepts_groups = bool(ifp.if_flags & IFF.ALLMULTI)

    def reprogram(self) -> None:
        """The MAC changed: program the filter anew."""
        self._program()

    # groups that were joined here, not by the host

    def push_groups(self, groups: set[bytes]) -> None:
        """Put these MACs, and no others of ours, on the netdev's multicast list (``ip maddress`` shows them)."""
        if groups == self._pushed or self.tap.fd < 0:
            return
        with self.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for mac in groups - self._pushed:
                if self._netdev_group(sock, _SIOCADDMULTI, mac):
                    self._pushed.add(mac)
            for mac in self._pushed - groups:
                self._netdev_group(sock, _SIOCDELMULTI, mac)
                self._pushed.discard(mac)

    def _netdev_group(self, sock: socket.socket, request: int, mac: bytes) -> bool:
        """Ask the kernel, inside the namespace; True when it obeyed."""
        for _ in range(3):  # it goes by name, and the host may give the netdev another one just now
            try:
                name = os.fsencode(socket.if_indextoname(self.tap.ifindex))
                fcntl.ioctl(sock, request, struct.pack("16sH14s8x", name, AddressFamily.UNSPEC, mac))
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ENXIO):
                    break
            else:
                return True
        return False

    @property
    def pushed_groups(self) -> set[bytes]:
        """MACs that are on the netdev's list on our account."""
        return self._pushed
