"""A switch of the lab: a vnet without Linux, whose NICs are members of one bridge.

::

    sw = lab.switch("sw", ports=8, stp=True)
    lab.cable(alice_em0, sw[0])
    sw.access(0, 10)            # untagged, VLAN 10
    sw.trunk(7, 10, 20)         # tagged
    print(sw.ifconfig("bridge0"))

Ports are counted from 0 and called ``p0``, ``p1`` ...: either names one. Their ifnets have no TAP, so a
switch costs no device and no file descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iflab.drivers import Maker, TapNic, bpdu
from iflab.drivers.bridge import IFBIF, Bridge, Ifbreq, Member, check_vids
from iflab.net import IFF, Ifnet, Ifreq, Thread, Vnet
from iflab.net.priv import allow_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iflab.bsd import Words
    from iflab.net import Priv

__all__ = ["Switch"]


class Switch:
    """A switch. ``sw[3]`` or ``sw["p3"]`` is port 3, for ``lab.cable``; ``sw.bridge`` what connects them."""

    def __init__(self, vnet: Vnet, maker: Maker, ports: int, *, stp: bool = False, mtu: int = 1500) -> None:
        self.vnet = vnet
        self.name = vnet.name
        self._maker = maker
        self.ports: list[Ifnet] = []
        name = vnet.ioctl("SIOCIFCREATE2", Ifreq("bridge")).ifr_name
        self.ifp = vnet.ifunit(name)
        assert self.ifp is not None
        self.bridge: Bridge = self.ifp.if_softc
        self._up(self.ifp)
        for _ in range(ports):
            self.add_port(stp=stp, mtu=mtu)

    def __repr__(self) -> str:
        return f"<Switch {self.name}: {len(self.ports)} ports>"

    def __getitem__(self, number: int | str) -> Ifnet:
        for ifp in self.ports if isinstance(number, str) else ():
            if ifp.if_xname == number:
                return ifp
        if isinstance(number, int) and -len(self) <= number < len(self):
            return self.ports[number]
        there = f"its ports are 0 to {len(self) - 1}" if self.ports else "it has none"
        raise IndexError(f"{self.name} has no port {number!r}; {there}")

    def __len__(self) -> int:
        return len(self.ports)

    def _up(self, ifp: Ifnet) -> None:
        self.vnet.ioctl("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=ifp.if_flags | IFF.UP))

    def add_port(self, *, stp: bool = False, mtu: int = 1500) -> Ifnet:
        """Add a port, up, and return it. Raises ``OSError`` for an MTU that the others do not have."""
        ifp = TapNic().attach(self.vnet, None, None, f"p{len(self.ports)}", self._maker.next_mac(), mtu)
        try:
            self._up(ifp)
            self._do("BRDGADD", ifp.if_xname)
            if stp:
                self.stp(len(self.ports), ifp=ifp)
        except BaseException:
            ifp.if_detach()
            ifp.if_free()
            raise
        self.ports.append(ifp)
        return ifp

    def _do(self, cmd: str, ifsname: str = "", value: object = 0) -> None:
        assert self.ifp is not None
        self.vnet.ioctl("SIOCSDRVSPEC", Ifreq(self.ifp.if_xname, ifr_data=Ifbreq(cmd, ifsname, value)))

    def member(self, port: int | str) -> Member:
        """A port as the bridge knows it: flags, VLANs and counters."""
        return self.bridge.member(self[port])

    # VLANs

    def access(self, port: int | str, vlan: int) -> None:
        """Let a port have one VLAN, untagged. VLANs are kept apart from the first such call on.

        Raises ``IndexError`` for a port that is not there, EINVAL for a VLAN that cannot be.
        """
        self._give(port, (vlan,), vlan, ())

    def trunk(self, port: int | str, *vlans: int, native: int = 0) -> None:
        """Let a port have these VLANs tagged, and ``native`` untagged (0: none). Raises as ``access`` does."""
        self._give(port, (*vlans, *((native,) if native else ())), native, vlans)

    def _give(self, port: int | str, vlans: tuple[int, ...], untagged: int, tagged: tuple[int, ...]) -> None:
        name = self[port].if_xname
        check_vids(self.bridge.ifp, vlans)
        self._filter()
        self._do("BRDGSIFUNTAGGED", name, untagged)
        self._do("BRDGSIFTAGGED", name, tagged)

    def _filter(self) -> None:
        """Every port that was told nothing stays in VLAN 1, as switches are when they are bought."""
        if not self.bridge.vlanfilter:
            for ifp in self.ports:
                self._do("BRDGSIFUNTAGGED", ifp.if_xname, 1)
            self._do("BRDGSVLANFILTER", value=1)

    # the spanning tree

    def stp(self, port: int | str, *, edge: bool = False, ifp: Ifnet | None = None) -> None:
        """Let a port take part in the spanning tree; as an ``edge`` it forwards at once: a host is there."""
        bpdu.load_scapy()
        name = (ifp or self[port]).if_xname
        flags = self.bridge.member(name).flags | IFBIF.STP | (IFBIF.EDGE if edge else 0)
        self._do("BRDGSIFFLGS", name, flags)

    def set_priority(self, priority: int) -> None:
        """Give the bridge a priority, a multiple of 4096; the lowest becomes the root."""
        self._do("BRDGSPRI", value=priority)

    # FreeBSD's commands

    def ifconfig(self, *words: Words) -> str:
        """Do what FreeBSD's ``ifconfig`` does, on the switch, and return what it prints. Raises ``CommandError``."""
        from iflab.bsd import as_words

        return self.bsd("ifconfig", as_words("ifconfig", words))

    def bsd(self, command: str, args: Sequence[str], holds: Callable[[Priv], bool] = allow_all) -> str:
        """Carry out one of FreeBSD's commands for a caller who holds these privileges."""
        from iflab import bsd

        bsd.load_ahead(args)
        with self.vnet.kernel.giant:
            td = Thread(self.vnet.prison, holds)
            return bsd.carry_out(command, self.vnet, args, td, lambda fib: [])
