"""The targets: everything that looks into a frame, each in surroundings in which it does.

``Beds.feed`` gives an input to all of them and then looks at every counter that must
agree with another. What raises where an exception would be reported and passed over is
an error, too: a handler collects what the lab logs.
"""

from __future__ import annotations

import ipaddress
import itertools
import logging
import struct
import traceback

from iflab.bpf import compile_filter
from iflab.bsd import ifconfig
from iflab.capture.files import PcapFile, PcapngFile
from iflab.drivers import bpdu, lacp
from iflab.drivers.carp import Carpreq
from iflab.drivers.ng_ether import ng_ether_attach
from iflab.drivers.vlan import Vlanreq
from iflab.faults import Corrupt, Delay, Duplicate, Faults, Loss, Mtu, Rate, Truncate
from iflab.linux.netlink import parse_addr, parse_link, parse_maddr, parse_route
from iflab.net import (
    ACCEPTS_ALL,
    ACCEPTS_CSUM,
    ACCEPTS_GSO,
    FRAME_MAX,
    FRAME_MIN,
    PKTHDR,
    Ifreq,
    ManualClock,
    OffloadError,
    as_sockaddr,
    ether_output,
    finish,
    ifa_alloc,
    is_unfinished,
    wire_frames,
)
from iflab.net.altq import CoDel, FqCoDel, Priority, by_precedence, flow_of, mark_ce
from iflab.switch import Switch
from iflab.wire import Frame, Segment

from ..pure.devices import World

FILTERS = ("arp", "tcp port 80", "vlan 10 and ip", "ip6 proto 58", "ether[100] = 1", "len > 1000")


class Sender:
    """A port that sends anything."""

    def __init__(self, name):
        self.name = name
        self.end = None
        self.received = 0

    def receive(self, m):
        self.received += 1

    def link_change(self, up):
        pass


class Complaints(logging.Handler):
    """What the lab reported and passed over."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.texts = []

    def emit(self, record):
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        self.texts.append(text)


class Bed:
    """A world with a sender that is plugged into it, and the interfaces whose hosts send, too."""

    def __init__(self):
        self.world = World()
        self.sender = Sender("sender")
        self.hosts = []

    def plug(self, ifp):
        """A cable from the sender to a NIC."""
        self.cable = self.world.cable_to(self.sender, ifp)
        return ifp

    def feed(self, m):
        """Off the wire, and from each host, alone and in a train."""
        world = self.world
        self.sender.end.send(m)
        for ifp in self.hosts:
            if len(m) >= PKTHDR:  # no kernel gives less
                with world.kernel.giant:
                    if len(m) >= PKTHDR + FRAME_MIN:  # what others hand over is looked at before
                        ether_output(ifp, m)
                    ifp.if_softc._express([m])
                    ifp.if_softc._express([m, m])
        world.settle()
        world.clock.advance(0.01)

    def check(self):
        """Every wire's and every NIC's account."""
        delivered = {}
        for wire in self.world.wires:
            account = wire.account()
            assert account.balances(), f"{wire.name}: {account}"
            assert all(account.dropped), f"{wire.name}: {account}"
            assert "receiver error" not in account.dropped, f"{wire.name}: {account}"
            assert account.octets >= 0
            if len(wire.ends) == 2:
                one, other = wire.ends.values()
                delivered[one.port] = other.flow.delivered
                delivered[other.port] = one.flow.delivered
        for ifp in self.world.nics:
            nic = ifp.if_softc
            counted = ifp.if_ipackets + ifp.if_iqdrops + ifp.if_ierrors + nic.filtered - nic.refused
            if nic in delivered and ifp.if_claims:
                # A device on top may find fault with what the NIC has counted as received already.
                assert ifp.if_ipackets + nic.filtered <= delivered[nic] <= counted, f"{nic.name}: {counted}"
            elif nic in delivered:
                assert counted == delivered[nic], f"{nic.name}: {counted} counted, {delivered[nic]} delivered"
                assert nic.end.flow.sent == ifp.if_opackets, f"{nic.name}: {nic.end.flow}, {ifp.if_opackets}"
            for name in ("if_ibytes", "if_obytes", "if_imcasts", "if_omcasts"):
                assert getattr(ifp, name) >= 0, f"{nic.name}: {name} {getattr(ifp, name)}"
        for vnet in self.world.kernel.vnets:
            heard = getattr(vnet.stack, "heard", None)
            if heard is not None:
                heard.clear()


class Tracked(World):
    """A world that remembers its wires and NICs."""

    def __init__(self):
        super().__init__()
        self.wires = []
        self.nics = []

    def nic(self, *args, **options):
        ifp = super().nic(*args, **options)
        self.nics.append(ifp)
        return ifp

    def cable(self, *args, **options):
        wire = super().cable(*args, **options)
        self.wires.append(wire)
        return wire

    def cable_to(self, port, ifp):
        from iflab.wire import Cable

        wire = Cable(self.clock, f"to-{ifp.if_xname}")
        wire.plug(port)
        wire.plug(ifp.if_softc)
        self.wires.append(wire)
        self.settle()
        return wire


def bed():
    made = Bed()
    made.world = Tracked()
    return made


# the surroundings


def plain():
    """A NIC in promiscuous mode with a listener, netgraph and a filter; a cable between two NICs beside it."""
    made = bed()
    nic = made.plug(made.world.nic(made.world.host()))
    nic.ifpromisc(1)
    one, other = made.world.linked()
    made.hosts = [one, other]
    return made


def closed():
    """A NIC whose filter is shut, and one that is down."""
    made = bed()
    made.plug(made.world.nic(made.world.host(), up=False))
    hub = Segment(made.world.clock, "hub")
    shut = made.world.nic(made.world.host("h1"))
    for port in (Sender("a"), Sender("b"), shut.if_softc):
        hub.plug(port)
    made.world.wires.append(hub)
    made.hosts = [shut]
    return made


def netgraph():
    """Python nodes below and above the protocols."""
    made = bed()
    nic = made.plug(made.world.nic(made.world.host()))
    nic.ifpromisc(1)
    node = ng_ether_attach(nic)
    for name in ("lower", "upper"):
        node.connect(name, lambda frame: None)
    made.hosts = [nic]
    return made


def vlans():
    """Children with 802.1Q and 802.1ad tags, one on top of another."""
    made = bed()
    world = made.world
    nic = made.plug(world.nic(world.host()))
    nic.ifpromisc(1)
    vnet = nic.if_vnet
    c10 = world.clone(vnet, "vlan", Vlanreq("em0", 10, 0x8100))
    s5 = world.clone(vnet, "vlan", Vlanreq("em0", 5, 0x88A8))
    inner = world.clone(vnet, "vlan", Vlanreq(s5.if_xname, 10, 0x8100))
    made.hosts = [nic, c10, s5, inner]
    return made


def switched(filtering):
    """A switch with spanning tree, with or without VLAN filtering, the sender on one port."""
    made = bed()
    world = made.world
    sw = Switch(world.kernel.vnet_alloc("sw"), world.maker, 4, stp=filtering)
    made.plug(sw[0])
    world.nics += sw.ports
    for number in (1, 2):
        host = world.nic(world.host(f"h{number}"))
        host.ifpromisc(1)
        world.cable(host, sw[number])
        made.hosts.append(host)
    if filtering:
        sw.access(0, 10)
        sw.access(1, 10)
        sw.trunk(2, 10, 5, native=7)
        world.settle(4)
    return made


def bridged_host():
    """A host that bridges its NICs and has a stack of its own on the bridge, with a shared address."""
    made = bed()
    world = made.world
    vnet = world.host()
    one, other = world.nic(vnet, "em0"), world.nic(vnet, "em1")
    made.plug(one)
    world.cable(other, world.nic(world.host("far")))
    world.clone(vnet, "bridge")
    ifconfig(vnet, ["bridge0", "addm", "em0", "addm", "em1", "up"])
    share(world, vnet.ifunit("bridge0"))
    made.hosts = [vnet.ifunit("bridge0"), one]
    return made


def aggregated(proto):
    """An aggregate, the sender on one of its ports."""
    made = bed()
    world = made.world
    vnet = world.host()
    one, other = world.nic(vnet, "em0"), world.nic(vnet, "em1")
    lagg0 = world.clone(vnet, "lagg")
    ifconfig(vnet, f"lagg0 laggproto {proto} laggport em0 laggport em1 up".split())
    made.plug(one)
    world.cable(other, world.nic(world.host("far")))
    world.settle(2)
    made.hosts = [lagg0]
    return made


def shared():
    """Shared addresses of both families."""
    made = bed()
    world = made.world
    nic = made.plug(world.nic(world.host()))
    nic.ifpromisc(1)
    share(world, nic)
    made.hosts = [nic]
    return made


def share(world, ifp):
    """Give an interface a virtual host with addresses of both families."""
    vnet = ifp.if_vnet
    vnet.ioctl("SIOCSVH", Ifreq(ifp.if_xname, ifr_data=Carpreq(1, 1, 0, b"secret")))
    for text in ("192.0.2.100/24", "2001:db8::100/64"):
        interface = ipaddress.ip_interface(text)
        ifa = ifa_alloc(world.kernel, as_sockaddr(str(interface.ip)))
        ifa.ifa_netmask = as_sockaddr(str(interface.netmask))
        ifa.ifa_ifp = ifp
        with world.kernel.curvnet_set(vnet):
            world.kernel.hooks.carp_attach_p(ifa, 1)
        ifa.ifa_ifp = None
        ifp.if_addrhead.insert_tail(ifa)


def paired():
    """Two interfaces back to back, a loopback and a sink."""
    made = bed()
    world = made.world
    made.plug(world.nic(world.host("v1")))
    vnet = world.host("v2")
    made.hosts = [world.clone(vnet, "epair"), world.clone(vnet, "lo"), world.clone(vnet, "disc")]
    world.up(vnet.ifunit("epair0b"))
    return made


def faulty():
    """A cable with faults that look into frames."""
    made = bed()
    world = made.world
    nic = made.plug(world.nic(world.host()))
    nic.ifpromisc(1)
    made.cable.impairer = Faults(world.clock, 7)
    made.cable.impair(
        Corrupt(0.3, bits=3),
        Corrupt(0.3, field="IP.ttl"),
        Truncate(0.3),
        Duplicate(0.2, copies=2),
        Loss(0.05),
        Mtu(1500),
        Delay(0.001),
        Rate(1e9, frames=50),
    )
    made.hosts = [nic]
    return made


BEDS = {
    "plain": plain,
    "closed": closed,
    "netgraph": netgraph,
    "vlan": vlans,
    "switch": lambda: switched(False),
    "switch with VLANs and spanning tree": lambda: switched(True),
    "bridge": bridged_host,
    **{
        f"lagg {proto}": (lambda proto=proto: aggregated(proto))
        for proto in ("failover", "loadbalance", "lacp")
    },
    "carp": shared,
    "epair, lo, disc": paired,
    "faults": faulty,
}


# functions of octets alone


def offload(m):
    """Finishing gives frames that need nothing more, and whose payloads are the payload."""
    if len(m) < PKTHDR:
        return
    for accepts in (0, ACCEPTS_CSUM, ACCEPTS_GSO, ACCEPTS_ALL):
        try:
            pieces = finish(m, accepts)
        except OffloadError:
            continue
        assert pieces
        if accepts == ACCEPTS_ALL:
            assert pieces == [m]
        if accepts:
            continue
        if is_unfinished(m):
            assert not any(is_unfinished(piece) for piece in pieces)
        if m[1]:
            assert len(pieces) == wire_frames(m), (len(pieces), wire_frames(m))
            kind, size, start = m[1] & 0x7F, *struct.unpack_from("=HH", m, 4)
            head = PKTHDR + start + (8 if kind == 5 else (m[PKTHDR + start + 12] >> 4) * 4)
            assert b"".join(piece[head:] for piece in pieces) == m[head:]
            assert all(len(piece) <= head + size for piece in pieces)
        else:
            assert [len(piece) for piece in pieces] == [len(m)]


def queues(m):
    """Disciplines take what they classify, and give it back or count it."""
    if len(m) <= PKTHDR:
        return
    assert 0 <= by_precedence(m) <= 7
    assert isinstance(flow_of(m), bytes)
    marked = mark_ce(m)
    assert marked is None or len(marked) == len(m)
    clock = ManualClock()
    for discipline in (Priority(limit=5), CoDel(clock, ecn=True), FqCoDel(clock)):
        taken = sum(discipline.enqueue(m) == 0 for _ in range(8))
        clock.advance(0.2)
        given = sum(1 for _ in iter(discipline.dequeue, None))
        lost = discipline.dropped.total()
        assert given + lost == 8, (type(discipline), taken, given, lost)
        assert len(discipline) == 0


def protocols(m):
    """Readers of spanning tree and LACP frames; files of captures."""
    frame = m[PKTHDR:]
    bpdu.decode(frame)
    lacp.decode(frame)
    for kind in (PcapngFile, PcapFile):
        block = kind.packet(0, 1, frame[:1000], len(frame))
        assert len(block) >= len(frame[:1000])


def netlink(m):
    """Messages of the kernel."""
    for parse in (parse_link, parse_addr, parse_route, parse_maddr):
        try:
            parse(m, 0, len(m))
        except (ValueError, IndexError, struct.error):
            continue  # the monitor counts it as lost, and looks afresh


_compiled = []


def filters(m):
    """Compiled filters run on anything."""
    if not _compiled:
        _compiled.extend(compile_filter(text) for text in FILTERS)
    for each in _compiled:
        assert each(m[PKTHDR:]) in (True, False)


def looked_at(m):
    """A hook that looks at a frame's packet has not changed it."""
    if FRAME_MIN <= len(m) - PKTHDR <= FRAME_MAX:
        frame = Frame(m)
        _ = frame.pkt
        repr(frame.pkt)
        assert frame.to_mbuf() is m


FUNCTIONS = {
    "offload": offload,
    "queues": queues,
    "protocols": protocols,
    "netlink": netlink,
    "filters": filters,
}
SLOW = {"dissection": looked_at}
"""By scapy: a tenth of a millisecond and more each."""


class Beds:
    """All targets, or those that are named. Built anew every ``lifetime`` inputs."""

    def __init__(self, names=None, lifetime=2000):
        self.names = [*BEDS, *FUNCTIONS, *SLOW] if names is None else list(names)
        self.lifetime = lifetime
        self.fed = 0
        self._beds = {}
        self.complaints = Complaints()

    def __enter__(self):
        logger = logging.getLogger("iflab")
        logger.addHandler(self.complaints)
        self._propagate, logger.propagate = logger.propagate, False
        return self

    def __exit__(self, *exc):
        logger = logging.getLogger("iflab")
        logger.removeHandler(self.complaints)
        logger.propagate = self._propagate

    def feed(self, m, names=None):
        """Give an input to targets. Raises what they raise, with the input in hexadecimal and the target's name."""
        if self.fed % self.lifetime == 0:
            self._beds = {name: make() for name, make in BEDS.items() if name in self.names}
        self.fed += 1
        for name in self.names if names is None else names:
            try:
                if name in self._beds:
                    self._beds[name].feed(m)
                    self._beds[name].check()
                else:
                    (FUNCTIONS.get(name) or SLOW[name])(m)
            except Exception as error:
                reported = "\n".join(self.complaints.texts)
                self.complaints.texts.clear()
                raise AssertionError(f"{name}: {error!r}\n{reported}\ninput {m.hex()}") from error
            if self.complaints.texts:
                text = self.complaints.texts.pop()
                self.complaints.texts.clear()
                raise AssertionError(f"{name} reported an error:\n{text}\ninput {m.hex()}")


def rounds(count):
    """Which targets get the next inputs: each goes into surroundings and through a function, one in 20 to a slow one."""
    beds, functions, slow = (itertools.cycle(each) for each in ([*BEDS][:-1], FUNCTIONS, [*SLOW, "faults"]))
    for number in range(count):
        names = [next(beds), next(functions)]
        yield [*names, next(slow)] if number % 20 == 0 else names
