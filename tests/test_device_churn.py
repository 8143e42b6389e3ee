"""Devices made, joined, changed, moved and destroyed in any order: nobody fails, and afterwards nothing is left.

Each seed is another story. What is refused is refused with an errno; everything else
that is raised, or logged as an error, fails the test.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from random import Random

import pytest

from iflab.bsd import CommandError, ifconfig
from iflab.drivers.lagg import PROTOCOLS
from iflab.net import IFF, IFT, Ifnet, SockaddrDl, Vnet, ether_output, mbuf

from .beds import GROUP, Bed, PureBed, RealBed, up
from .pure.devices import framed

NICS, STEPS = 3, 150
KINDS = ("vlan", "bridge", "lagg", "epair", "disc", "lo")
ABOUT = (  # x and y are interfaces of the host
    "vlan create vlan {vid} vlandev {x}",
    "vlan{n} vlan {vid} vlandev {x} vlanproto {proto}",
    "vlan{n} vlan {vid} vlandev vlan{m}",
    "vlan{m} vlan {vid} vlandev bridge{n}",
    "bridge{n} addm vlan{m}",
    "vlan{n} -vlandev",
    "bridge{n} addm {x}",
    "bridge{n} addm {x} stp {x}",
    "bridge{n} deletem {x}",
    "bridge{n} span {x}",
    "bridge{n} -span {x}",
    "bridge{n} private {x} sticky {x} edge {x}",
    "bridge{n} -stp {x}",
    "bridge{n} vlanfilter iftagged {x} 1-3 ifuntagged {x} 2",
    "bridge{n} -vlanfilter proto stp",
    "lagg{n} laggport {x}",
    "lagg{n} laggport {y}",
    "lagg{n} -laggport {x}",
    "lagg{n} laggproto {protocol}",
    "lagg{n} lacp_fast_timeout",
    "{x} vhid {vid} advskew {n} pass secret",
    "{x} up",
    "{y} up",
    "{x} down",
    "{x} mtu {mtu}",
    "{x} promisc",
    "{x} -promisc",
    "{x} name other",
    "other name {x}",
    "{x} vnet {guest}",
    "{x} destroy",
)


class Story:
    """Two hosts with NICs on cables to a third, and what happens to them."""

    def __init__(self, bed: Bed, seed: int) -> None:
        self.bed = bed
        self.random = Random(seed)
        self.told: list[str] = []
        self.hosts = [bed.host(name) for name in ("alice", "bob")]
        far = bed.host("far")
        self.macs: dict[Ifnet, bytes] = {}
        self.opened: list[Ifnet] = []
        for host in self.hosts:
            for n in range(NICS):
                ifp = up(bed.nic(host, f"em{n}"))
                bed.cable(ifp, up(bed.nic(far, f"{host.name}{n}")))
                self.macs[ifp] = ifp.lladdr
        self.acts: list[Callable[[Vnet, Ifnet, Ifnet], None]] = [
            self.make,
            self.listen,
            self.join,
            self.plug,
            self.say,
        ]

    def step(self) -> None:
        host = self.random.choice(self.hosts)
        if not host.ifnets():
            return
        one, other = (self.random.choice(host.ifnets()) for _ in range(2))
        act = self.random.choice([self.configure] * 6 + self.acts)
        with contextlib.suppress(CommandError, OSError):
            act(host, one, other)
        if self.random.random() < 0.1:
            self.bed.rest(self.random.choice((0.02, 0.1)))

    def configure(self, host: Vnet, one: Ifnet, other: Ifnet) -> None:
        pick = self.random.choice
        words = pick(ABOUT).format(
            x=one.if_xname,
            y=other.if_xname,
            n=pick((0, 0, 1)),
            m=pick((0, 1, 1)),
            vid=pick((1, 2, 3)),
            proto=pick(("802.1q", "802.1ad")),
            protocol=pick(PROTOCOLS),
            mtu=pick((1400, 1496, 1500, 9000)),
            guest=pick(self.hosts).name,
        )
        self.told.append(f"{host.name}: {words}")
        ifconfig(host, words.split())

    def make(self, host: Vnet, one: Ifnet, other: Ifnet) -> None:
        ifconfig(host, [self.random.choice(KINDS), "create"])

    def listen(self, host: Vnet, one: Ifnet, other: Ifnet) -> None:
        one.ifpromisc(1)
        self.opened.append(one)

    def join(self, host: Vnet, one: Ifnet, other: Ifnet) -> None:
        one.if_addmulti(SockaddrDl(sdl_lladdr=GROUP))

    def plug(self, host: Vnet, one: Ifnet, other: Ifnet) -> None:
        end = self.random.choice(list(self.macs)).if_softc.end
        self.random.choice((end.wire.cut, end.wire.mend))()

    def say(self, host: Vnet, one: Ifnet, other: Ifnet) -> None:
        kind = self.random.choice((b"\x08\0", b"\x81\0\0\1\x08\0", b"\x88\xa8\0\1\x81\0\0\2\x08\0"))
        dst = self.random.choice((b"\xff" * 6, GROUP, other.lladdr))
        with one.kernel.giant:
            ether_output(one, mbuf(framed("x" * 46, dst=dst, src=one.lladdr, kind=kind)))

    # the end

    def clear(self) -> None:
        """Undo what is somebody's own to undo, and destroy every device."""
        for ifp in self.opened:
            with contextlib.suppress(OSError):  # it is gone
                if ifp.if_vnet is not None:
                    ifp.ifpromisc(0)
        devices = [ifp for host in self.hosts for ifp in host.ifnets() if ifp not in self.macs]
        self.random.shuffle(devices)
        for ifp in devices:
            if ifp.if_vnet is not None and ifp.if_vnet.lists(ifp):
                ifconfig(ifp.if_vnet, [ifp.if_xname, "destroy"])
        for ifp in self.macs:
            for host in list(ifp.if_carp.hosts.values()) if ifp.if_carp is not None else ():
                with ifp.kernel.curvnet_set(ifp.if_vnet):
                    host.carp.destroy(host)

    def left_overs(self) -> list[str]:
        """What is not as it was."""
        found = [
            f"{ifp.if_xname} is left" for host in self.hosts for ifp in host.ifnets() if ifp not in self.macs
        ]
        for ifp, mac in self.macs.items():
            permanent = bool(ifp.if_flags & IFF.PPROMISC)
            wrong = {
                "mac": ifp.lladdr != mac,
                "type": ifp.if_type != IFT.ETHER,
                "claims": not ifp.plain or bool(ifp.if_claims),
                "devices": any((ifp.if_bridge, ifp.if_lagg, ifp.if_carp, ifp.if_vlantrunk)),
                "modes": bool(ifp.if_flags & IFF.ALLMULTI)
                or ifp.if_pcount > permanent
                or bool(ifp.if_flags & IFF.PROMISC) != permanent,
            }
            found += [f"{ifp.if_xname}: {what}" for what, is_wrong in wrong.items() if is_wrong]
        demotion = ifp.kernel.vnet_settings["net.inet.carp.demotion"]
        return found + [f"{host.name}: demotion" for host in self.hosts if demotion.get(host)]


def play(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    def errors() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]

    for _ in range(STEPS):
        story.step()
        assert not errors(), story.told[-10:]
    story.clear()
    story.bed.rest(0.1)

    assert story.left_overs() == []
    assert not errors(), story.told[-10:]
    story.bed.check()


@pytest.mark.parametrize("seed", range(15))
def test_any_story_ends_well(seed, caplog):
    play(Story(PureBed(), seed), caplog)


@pytest.mark.parametrize("seed", range(100, 105))
def test_any_story_ends_well_on_the_real_kernel(seed, lab, caplog):
    play(Story(RealBed(lab), seed), caplog)
