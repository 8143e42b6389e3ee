"""Aggregates without a kernel, LACP among them."""

import errno
import random

import pytest
from scapy.contrib.lacp import LACP, SlowProtocol
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from iflab.bsd import CommandError, ifconfig
from iflab.drivers.lacp import Info, Lacp, Lacpdu, LacpPort, Mux, PortState, Receive, decode, encode
from iflab.drivers.lagg import Laggreq, flow_hash
from iflab.drivers.vlan import Vlanreq
from iflab.net import IFF, IFT, PKTHDR, Ifreq, LinkState, Priv, SockaddrDl, Thread, mbuf
from iflab.switch import Switch

from .devices import BROADCAST, World, framed, heard, host_sends, refused, texts


@pytest.fixture
def world():
    return World()


def aggregate(world, name, ports=2, proto="failover", words=""):
    """A host with lagg0 over em0, em1 ..."""
    vnet = world.host(name)
    nics = [world.nic(vnet, f"em{n}") for n in range(ports)]
    lagg0 = world.clone(vnet, "lagg")
    ifconfig(vnet, f"lagg0 laggproto {proto} {words}".split())
    for nic in nics:
        ifconfig(vnet, ["lagg0", "laggport", nic.if_xname])
    return lagg0, nics


def joined(world, proto, ports=2, words=("", "")):
    """Two aggregates back to back; ``(a, b, cables)``."""
    a, a_nics = aggregate(world, "alice", ports, proto, words[0])
    b, b_nics = aggregate(world, "bob", ports, proto, words[1])
    cables = [world.cable(one, other) for one, other in zip(a_nics, b_nics, strict=True)]
    world.settle(5 if proto == "lacp" else 0)
    return a, b, cables


def sent(cable):
    return next(iter(cable.ends.values())).flow.sent


# ports


def test_ports_get_the_aggregates_mac_and_their_own_back(world):
    vnet = world.host()
    em0, em1 = world.nic(vnet), world.nic(vnet, "em1")
    own = em1.lladdr
    lagg0 = world.clone(vnet, "lagg")
    lagg = lagg0.if_softc
    lagg.add(em0)
    lagg.add(em1)

    assert lagg0.lladdr == em0.lladdr == em1.lladdr
    assert em1.if_type == IFT.IEEE8023ADLAG
    vnet.ioctl("SIOCSIFLLADDR", Ifreq("lagg0", ifr_addr=SockaddrDl(sdl_lladdr=b"\x02\0\0\0\x55\x55")))
    assert em0.lladdr == em1.lladdr == b"\x02\0\0\0\x55\x55"
    lagg.remove(em1)
    assert em1.lladdr == own
    assert em1.if_type == IFT.ETHER
    assert em1.plain
    vnet.ioctl("SIOCIFDESTROY", Ifreq("lagg0"))
    assert em0.if_lagg is None


def test_who_cannot_be_a_port(world):
    vnet = world.host()
    em0, em1, em2 = (world.nic(vnet, f"em{n}") for n in range(3))
    lagg0, other = world.clone(vnet, "lagg"), world.clone(vnet, "lagg")
    lagg0.if_softc.add(em0)
    world.clone(vnet, "vlan", Vlanreq("em1", 10))
    bridge0 = world.clone(vnet, "bridge")

    refused(errno.EBUSY, other.if_softc.add, em0)
    refused(errno.EBUSY, lagg0.if_softc.add, em1)
    refused(errno.EINVAL, lagg0.if_softc.add, other)
    refused(errno.EPROTONOSUPPORT, lagg0.if_softc.add, world.clone(vnet, "lo"))
    refused(errno.EPROTONOSUPPORT, lagg0.if_softc.add, lagg0)
    refused(errno.EINVAL, bridge0.if_softc.addm, em0)
    vnet.ioctl("SIOCSIFMTU", Ifreq("em2", ifr_mtu=1400))
    refused(errno.EINVAL, lagg0.if_softc.add, em2)
    refused(errno.ENOENT, lagg0.if_softc.remove, em2)
    nobody = Thread(vnet.prison, lambda priv: priv is not Priv.NET_LAGG)
    refused(errno.EPERM, vnet.ioctl, "SIOCSLAGG", Ifreq("lagg0", ifr_data=Laggreq(proto="lacp")), nobody)
    refused(errno.EPROTONOSUPPORT, vnet.ioctl, "SIOCSLAGG", Ifreq("lagg0", ifr_data=Laggreq(proto="x")))
    refused(errno.EINVAL, vnet.ioctl, "SIOCSLAGGHASH", Ifreq("lagg0", ifr_data=Laggreq(hash=("l9",))))


def test_an_mtu_is_that_of_all_ports_or_of_none(world):
    lagg0, nics = aggregate(world, "alice")
    vnet = lagg0.if_vnet

    vnet.ioctl("SIOCSIFMTU", Ifreq("lagg0", ifr_mtu=9000))
    assert {ifp.if_mtu for ifp in (lagg0, *nics)} == {9000}
    refused(errno.EINVAL, vnet.ioctl, "SIOCSIFMTU", Ifreq("em1", ifr_mtu=1500))


def test_modes_and_groups_go_to_every_port_and_through_a_vlan_on_top(world):
    lagg0, nics = aggregate(world, "alice")
    vlan0 = world.clone(lagg0.if_vnet, "vlan", Vlanreq("lagg0", 10))
    group = b"\x01\x00\x5e\x00\x00\x05"

    vlan0.ifpromisc(1)
    vlan0.if_allmulti(1)
    vlan0.if_addmulti("224.0.0.5")
    for nic in nics:
        assert nic.if_flags & IFF.PROMISC
        assert nic.if_flags & IFF.ALLMULTI
        assert group in nic.if_multiaddrs.link_addresses()
    lagg0.if_softc.remove(nics[1])
    assert not nics[1].if_flags & (IFF.PROMISC | IFF.ALLMULTI)
    assert group not in nics[1].if_multiaddrs.link_addresses()
    vlan0.ifpromisc(0)
    vlan0.if_allmulti(0)
    vlan0.if_delmulti("224.0.0.5")
    assert not nics[0].if_flags & (IFF.PROMISC | IFF.ALLMULTI)
    assert group not in nics[0].if_multiaddrs.link_addresses()


def test_a_ports_own_host_may_not_send(world):
    lagg0, nics = aggregate(world, "alice")

    assert host_sends(nics[0], framed("x")) == errno.ENETDOWN
    assert lagg0.if_opackets == 0


# failover


def test_failover_uses_the_first_port_and_then_the_next(world):
    a, b, cables = joined(world, "failover")
    assert a.if_link_state is LinkState.UP
    host_sends(a, framed("one"))
    assert (sent(cables[0]), sent(cables[1])) == (1, 0)

    cables[0].cut()
    world.settle()
    host_sends(a, framed("two"))
    cables[0].mend()
    world.settle()
    host_sends(a, framed("three"))

    assert texts(b) == ["one", "two", "three"]
    assert (sent(cables[0]), sent(cables[1])) == (2, 1)


def test_failover_loses_nothing_that_is_sent_after_the_link_event(world):
    a, b, cables = joined(world, "failover")
    world.kernel.events.register(
        "ifnet_link_event",
        lambda ifp, state: ifp.if_xname == "em0" and host_sends(a, framed(f"{ifp.if_vnet.name}")),
    )

    cables[0].cut()
    world.settle()

    assert texts(b)[-1] == "bob"
    assert a.if_oerrors == 0


def test_a_port_that_is_not_in_use_hears_nothing(world):
    a, b, cables = joined(world, "failover")

    b_em1 = next(end.port for end in cables[1].ends.values() if end.port.ifp.if_vnet.name == "bob")
    a_em1 = next(end.port for end in cables[1].ends.values() if end.port.ifp.if_vnet.name == "alice")
    a_em1.ifp.transmit_mbuf(mbuf(framed("flooded")))

    assert texts(b) == []
    assert b_em1.ifp.if_iqdrops == 1
    assert a.if_link_state is LinkState.UP


def test_without_any_link_there_is_none_and_frames_are_errors(world):
    a, _, cables = joined(world, "failover")
    for cable in cables:
        cable.cut()
    world.settle()
    world.settle()

    host_sends(a, framed("x"))

    assert a.if_link_state is LinkState.DOWN
    assert a.if_oerrors == 1


def test_a_port_that_is_taken_down_is_passed_over(world):
    a, b, cables = joined(world, "failover")

    world.up(a.if_vnet.ifunit("em0"), False)
    world.up(b.if_vnet.ifunit("em0"), False)
    host_sends(a, framed("x"))

    assert texts(b) == ["x"]
    assert (sent(cables[0]), sent(cables[1])) == (0, 1)


# the others


def test_roundrobin_takes_turns(world):
    a, b, cables = joined(world, "roundrobin", 3)

    for n in range(9):
        host_sends(a, framed(str(n)))

    assert [sent(cable) for cable in cables] == [3, 3, 3]
    assert len(heard(b)) == 9


def test_roundrobin_gives_every_port_several_frames_at_a_time(world):
    a, b, cables = joined(world, "roundrobin")
    ifconfig(a.if_vnet, ["lagg0", "rr_limit", "3"])
    before = [sent(cable) for cable in cables]

    for _ in range(9):
        host_sends(a, framed("x"))

    assert [sent(cable) - was for cable, was in zip(cables, before, strict=True)] == [6, 3]
    assert len(heard(b)) == 9
    assert "\t\trr_limit: 3\n" in ifconfig(a.if_vnet, ["-v", "lagg0"])
    with pytest.raises(CommandError, match="rr_limit is 1 or more, not 0"):
        ifconfig(a.if_vnet, ["lagg0", "rr_limit", "0"])


def test_without_a_protocol_there_is_no_traffic(world):
    a, b, _ = joined(world, "failover")
    ifconfig(a.if_vnet, ["lagg0", "laggproto", "none"])
    world.settle()

    host_sends(a, framed("out"))
    host_sends(b, framed("in"))

    assert heard(a) == heard(b) == []
    assert a.if_oerrors == 1
    assert a.if_link_state is LinkState.DOWN
    ifconfig(a.if_vnet, ["lagg0", "laggproto", "failover"])
    world.settle()
    host_sends(a, framed("again"))
    assert texts(b) == ["again"]


def test_a_port_that_moves_to_another_host_takes_its_own_mac_along(world):
    a, _, _ = joined(world, "failover")
    vnet, guest = a.if_vnet, world.host("guest")
    em0, em1 = (vnet.ifunit(name) for name in ("em0", "em1"))
    own = a.if_softc.ports[em1].lladdr
    world.clone(vnet, "vlan", Vlanreq("lagg0", 5))
    ifconfig(vnet, ["lagg0", "promisc"])

    em1.if_vmove(guest)

    assert em1.lladdr == own != em0.lladdr == a.lladdr
    assert not em1.if_flags & (IFF.PROMISC | IFF.ALLMULTI)
    assert em1.if_type == IFT.ETHER
    assert em1.plain
    assert list(a.if_softc.ports) == [em0]


def test_broadcast_sends_everywhere(world):
    a, b, cables = joined(world, "broadcast")

    host_sends(a, framed("x"))

    assert [sent(cable) for cable in cables] == [1, 1]
    assert texts(b) == ["x", "x"]
    assert a.if_opackets == 1


def test_loadbalance_keeps_a_flow_on_one_link_and_spreads_flows(world):
    a, _, cables = joined(world, "loadbalance")
    rng = random.Random(1)
    flows = [(f"192.0.2.{rng.randrange(1, 255)}", rng.randrange(1024, 65536)) for _ in range(200)]

    for address, port in flows:
        before = [sent(cable) for cable in cables]
        for n in range(3):
            packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(
                src=address, dst="198.51.100.1", id=n
            )
            host_sends(a, bytes(packet / TCP(sport=port, dport=80, seq=n)))
        moved = sorted(sent(cable) - b for cable, b in zip(cables, before, strict=True))
        assert moved == [0, 3]

    shares = [sent(cable) / 600 for cable in cables]
    assert all(0.35 < share < 0.65 for share in shares), shares


def hashed(packet, *layers):
    return flow_hash(mbuf(bytes(packet)), layers or ("l2", "l3", "l4"))


def test_what_the_hash_looks_at():
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    base = ether / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2)
    other_port = ether / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=3)
    other_ip = ether / IP(src="192.0.2.1", dst="192.0.2.3") / UDP(sport=1, dport=2)

    assert hashed(base) != hashed(other_port)
    assert hashed(base, "l2", "l3") == hashed(other_port, "l2", "l3")
    assert hashed(base, "l3") != hashed(other_ip, "l3")
    assert hashed(base, "l2") == hashed(other_ip, "l2")
    v6 = ether / IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(sport=1, dport=2)
    assert hashed(v6) != hashed(ether / IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(sport=1, dport=3))
    assert hashed(ether / Dot1Q(vlan=1) / base[IP]) != hashed(ether / Dot1Q(vlan=2) / base[IP])
    assert hashed(ether / Dot1Q(vlan=1) / base[IP], "l4") == hashed(base, "l4")
    first = ether / IP(src="192.0.2.1", dst="192.0.2.2", flags="MF") / UDP(sport=1, dport=2)
    later = ether / IP(src="192.0.2.1", dst="192.0.2.2", frag=9) / UDP(sport=7, dport=7)
    assert hashed(first) == hashed(later)
    for cut in range(14, 60):
        flow_hash(mbuf(bytes(base)[:cut]))


def test_an_aggregate_of_a_switch_and_spanning_tree_see_one_link(world):
    a, nics = aggregate(world, "alice", 2, "failover")
    sw = Switch(world.kernel.vnet_alloc("sw"), world.maker, 3)
    for n, nic in enumerate(nics):
        world.cable(nic, sw[n])
    b = world.nic(world.host("bob"))
    world.cable(b, sw[2])

    host_sends(a, framed("one", dst=b.lladdr, src=a.lladdr))
    host_sends(b, framed("answer", dst=a.lladdr, src=b.lladdr))
    nics[0].if_softc.end.wire.cut()
    world.settle()
    host_sends(b, framed("after", dst=a.lladdr, src=b.lladdr))

    assert texts(b) == ["one"]
    assert texts(a) == ["answer", "after"]


# LACP


def test_two_hosts_agree_and_use_both_links(world):
    a, b, cables = joined(world, "lacp")

    assert a.if_link_state is b.if_link_state is LinkState.UP
    assert [port.lacp.mux for port in a.if_softc.ports.values()] == [Mux.DISTRIBUTING] * 2
    before = [sent(cable) for cable in cables]
    for n in range(64):
        host_sends(a, framed("x", src=b"\x02\0\0\0\x33" + bytes([n])))
    assert all(sent(cable) > was for cable, was in zip(cables, before, strict=True))
    assert len(heard(b)) == 64
    text = ifconfig(a.if_vnet, ["lagg0"])
    assert "laggproto lacp lagghash l2,l3,l4" in text
    assert "laggport: em1 flags=1c<ACTIVE,COLLECTING,DISTRIBUTING>" in text


def test_a_cut_link_is_left_at_once_and_comes_back(world):
    a, b, cables = joined(world, "lacp")
    cables[0].cut()
    world.settle()
    world.settle()

    for n in range(32):
        host_sends(a, framed("x", src=b"\x02\0\0\0\x33" + bytes([n])))
    assert len(heard(b)) == 32
    cables[0].mend()
    world.settle(5)

    assert all(port.lacp.distributes for port in a.if_softc.ports.values())


def test_a_partner_that_falls_silent_is_forgotten(world):
    """A link that carries one way only has a carrier, and no partner any more."""
    a, b, cables = joined(world, "lacp", words=("lacp_fast_timeout", "lacp_fast_timeout"))
    hook = cables[0].add_hook(lambda frame: False)

    world.settle(7)

    for lagg0 in (a, b):
        first, second = lagg0.if_softc.ports.values()
        assert first.lacp.rx is Receive.DEFAULTED
        assert not first.lacp.collects
        assert second.lacp.distributes
    hook.remove()
    world.settle(6)
    assert all(port.lacp.distributes for port in a.if_softc.ports.values())


def test_one_may_be_passive_but_not_both(world):
    a, _, _ = joined(world, "lacp", words=("", "lacp_passive"))
    assert a.if_link_state is LinkState.UP

    world = World()
    a, _, cables = joined(world, "lacp", words=("lacp_passive", "lacp_passive"))
    assert a.if_link_state is LinkState.DOWN
    assert [sent(cable) for cable in cables] == [0, 0]


def test_fast_and_slow_say_how_often(world):
    _, _, cables = joined(world, "lacp", words=("lacp_fast_timeout", ""))
    world.settle(3)
    counts = {end.port.ifp.if_vnet.name: end.flow.sent for end in cables[0].ends.values()}

    world.settle(30)

    after = {end.port.ifp.if_vnet.name: end.flow.sent for end in cables[0].ends.values()}
    assert 28 <= after["bob"] - counts["bob"] <= 32
    assert 0 <= after["alice"] - counts["alice"] <= 3


def test_ports_to_two_partners_are_not_mixed(world):
    a, a_nics = aggregate(world, "alice", 3, "lacp")
    b, b_nics = aggregate(world, "bob", 2, "lacp")
    c, c_nics = aggregate(world, "carol", 1, "lacp")
    for one, other in zip(a_nics, [*b_nics, *c_nics], strict=True):
        world.cable(one, other)
    world.settle(6)

    flags = [port.lacp.distributes for port in a.if_softc.ports.values()]

    assert flags == [True, True, False]
    assert b.if_link_state is LinkState.UP
    assert c.if_link_state is LinkState.DOWN


def test_frames_before_agreement_are_dropped(world):
    a, a_nics = aggregate(world, "alice", 1, "lacp")
    b = world.nic(world.host("bob"))
    world.cable(a_nics[0], b)

    host_sends(b, framed("early", dst=BROADCAST))

    assert texts(a) == []
    assert a_nics[0].if_iqdrops == 1


def test_an_aggregate_that_is_down_tells_its_partner(world):
    """The partner would send into the void: LACPDUs say that the ports' lights are on, and nobody is at home."""
    a, b, cables = joined(world, "lacp")
    said = []
    for cable in cables:
        cable.add_tap(lambda end, m: said.append(m[PKTHDR + 6 : PKTHDR + 12] == a.lladdr))

    world.up(a, False)
    world.settle()
    assert b.if_link_state is LinkState.DOWN
    assert not any(port.lacp.distributes for port in b.if_softc.ports.values())
    said.clear()
    world.settle(5)
    assert True not in said

    world.up(a)
    world.settle(5)
    assert a.if_link_state is b.if_link_state is LinkState.UP
    assert all(port.lacp.distributes for port in [*a.if_softc.ports.values(), *b.if_softc.ports.values()])


def test_markers_are_answered(world):
    _, a_nics = aggregate(world, "alice", 1, "lacp")
    b = world.nic(world.host("bob"))
    world.cable(a_nics[0], b)
    b.ifpromisc(1)
    marker = b"\x02\x01\x01\x10" + bytes(range(14)) + bytes(92)

    host_sends(b, framed("", dst=b"\x01\x80\xc2\0\0\x02", kind=b"\x88\x09") + marker)

    answers = [f for f in heard(b) if f[12:15] == b"\x88\x09\x02"]
    assert len(answers) == 1
    assert answers[0][14:] == b"\x02\x01\x02" + marker[3:]


def test_a_change_of_protocol_leaves_the_ports(world):
    a, b, _ = joined(world, "lacp")

    for lagg0 in (a, b):
        ifconfig(lagg0.if_vnet, ["lagg0", "laggproto", "failover"])
    host_sends(a, framed("x"))

    assert texts(b) == ["x"]
    assert all(port.lacp is None for port in a.if_softc.ports.values())


@pytest.mark.parametrize("seed", range(20))
def test_lacpdus_survive_being_frames(seed):
    rng = random.Random(seed)

    def info():
        return Info(
            rng.randrange(65536),
            rng.randbytes(6),
            rng.randrange(65536),
            rng.randrange(65536),
            rng.randrange(65536),
            PortState(rng.randrange(256)),
        )

    pdu = Lacpdu(info(), info())
    frame = encode(pdu, b"\x02\0\0\0\0\x01")

    assert decode(frame) == pdu
    assert Ether(frame)[SlowProtocol].payload.name == LACP().name
    assert len(frame) == 124
    for cut in range(len(frame)):
        assert decode(frame[:cut]) is None


def test_a_partner_that_speaks_of_somebody_else_is_not_in_sync():
    lacp = Lacp(b"\x02\0\0\0\0\x01", 1, lambda port, pdu: None, lambda: None)
    port = LacpPort("em0", 1)
    lacp.add(port)
    lacp.port_enabled(port, True)
    state = PortState.ACTIVITY | PortState.AGGREGATION | PortState.SYNC | PortState.COLLECTING
    theirs = Info(32768, b"\x02\0\0\0\0\x02", 1, 32768, 1, state)
    ours = Info(32768, lacp.system, 1, 32768, 1, PortState.ACTIVITY | PortState.AGGREGATION)
    stranger = Info(32768, b"\x02\0\0\0\0\x77", 1, 32768, 1, ours.state)

    for about, expected in ((stranger, Mux.ATTACHED), (ours, Mux.DISTRIBUTING), (stranger, Mux.ATTACHED)):
        for _ in range(4):
            lacp.received(port, Lacpdu(theirs, about))
            lacp.tick()
        assert port.mux is expected


def test_a_cable_from_an_aggregate_to_itself_makes_no_link():
    sent = []
    lacp = Lacp(b"\x02\0\0\0\0\x01", 1, lambda port, pdu: sent.append((port, pdu)), lambda: None)
    one, two = LacpPort("one", 1), LacpPort("two", 2)
    for port in (one, two):
        lacp.add(port)
        lacp.port_enabled(port, True)

    for _ in range(10):
        for port, pdu in sent.copy():
            sent.remove((port, pdu))
            lacp.received(two if port is one else one, pdu)
        lacp.tick()

    assert not one.distributes
    assert not two.distributes


def test_octets_of_an_aggregate_add_up(world):
    a, b, _ = joined(world, "roundrobin")
    frame = framed("x" * 100)

    for _ in range(4):
        host_sends(a, frame)

    nics = [ifp for ifp in b.if_vnet.ifnets() if ifp.if_xname.startswith("em")]
    assert b.if_ibytes == 4 * len(frame) == sum(nic.if_ibytes for nic in nics)
    assert a.if_obytes == 4 * len(frame)
    assert len(mbuf(frame)) - PKTHDR == len(frame)
