"""epair, lo, disc and Python nodes, without a kernel."""

import errno

import pytest

from iflab.drivers import ng_ether_attach, ng_ether_detach
from iflab.net import IFF, PKTHDR, BpfSide, BpfTap, Ifreq, LinkState, bpfattach, mbuf
from iflab.net.altq import Priority

from .devices import BROADCAST, World, framed, heard, host_sends, refused, texts


@pytest.fixture
def world():
    return World()


# epair


def pair(world):
    vnet = world.host()
    a = world.clone(vnet, "epair")
    b = world.up(vnet.ifunit("epair0b"))
    world.settle()
    return vnet, a, b


def test_an_epair_is_two_interfaces_back_to_back(world):
    _, a, b = pair(world)

    assert host_sends(a, framed("there")) == 0
    assert host_sends(b, framed("back")) == 0

    assert (texts(a), texts(b)) == (["back"], ["there"])
    assert (a.if_opackets, a.if_obytes, b.if_ipackets) == (1, 19, 1)
    assert a.if_link_state is b.if_link_state is LinkState.UP
    assert [g.ifg_group for g in b.if_groups] == ["all", "epair"]


def test_units_of_an_epair_are_free_only_when_both_halves_are_gone(world):
    vnet, a, _ = pair(world)
    assert vnet.ioctl("SIOCIFCREATE", Ifreq("epair")).ifr_name == "epair1a"
    refused(errno.EEXIST, vnet.ioctl, "SIOCIFCREATE", Ifreq("epair0"))

    vnet.ioctl("SIOCIFDESTROY", Ifreq("epair0b"))

    assert {ifp.if_xname for ifp in vnet.ifnets()} == {"epair1a", "epair1b"}
    assert a.if_flags & IFF.DYING
    assert vnet.ioctl("SIOCIFCREATE", Ifreq("epair0")).ifr_name == "epair0a"


def test_an_epair_refuses_in_the_originals_order(world):
    _, a, b = pair(world)
    long = mbuf(framed("x" * 1505))
    world.up(a, False)

    assert a.transmit_mbuf(long) == errno.E2BIG
    assert a.transmit_mbuf(mbuf(framed("x"))) == errno.ENXIO
    a.if_drv_flags |= IFF.RUNNING
    assert a.transmit_mbuf(mbuf(framed("x"))) == errno.ENETDOWN
    world.up(a)
    world.up(b, False)
    assert a.transmit_mbuf(mbuf(framed("x"))) == 0

    assert (a.if_oerrors, a.if_opackets, heard(b)) == (4, 0, [])


def test_a_listener_on_an_epair_hears_what_the_far_end_cannot_take(world):
    _, a, b = pair(world)
    seen = []
    bpfattach(a, BpfTap(lambda ifp, m, side: seen.append(m[PKTHDR + 14 :]), BpfSide.OUT))
    world.up(b, False)

    assert a.transmit_mbuf(mbuf(framed("lost"))) == 0

    assert seen == [b"lost"]
    assert (a.if_oerrors, a.if_opackets) == (1, 0)


def test_a_discipline_decides_what_leaves_an_epair(world):
    _, a, b = pair(world)
    a.if_snd.altq_attach(Priority(2, classify=lambda m: int(m[PKTHDR + 14 :] == b"high")))
    a.if_snd.altq_enable()
    a.if_drv_flags |= IFF.OACTIVE

    for text in ("low", "high"):
        assert host_sends(a, framed(text)) == 0
    assert texts(b) == []
    a.if_drv_flags &= ~IFF.OACTIVE
    a.if_start()

    assert texts(b) == ["high", "low"]
    assert a.if_opackets == 2
    world.up(a, False)
    assert len(a.if_snd) == 0


def test_half_an_epair_serves_in_another_vnet_and_loses_its_link_with_the_other(world):
    _, a, b = pair(world)
    guest = world.host("guest")
    b.if_vmove(guest)
    world.up(b)

    host_sends(a, framed("across"))
    assert texts(b) == ["across"]
    a.if_detach()
    world.settle()

    assert b.if_link_state is LinkState.DOWN
    assert host_sends(b, framed("nobody")) == 0
    assert b.if_oerrors == 1


# lo and disc


def test_a_loopback_gives_back_what_it_gets(world):
    vnet = world.host()
    lo0 = world.clone(vnet, "lo")
    lo1 = world.clone(vnet, "lo")

    host_sends(lo1, framed("echo"))

    assert texts(lo1) == ["echo"]
    assert (lo1.if_opackets, lo1.if_ipackets) == (1, 1)
    assert vnet.v_loif is lo0
    assert lo0.if_flags & IFF.LOOPBACK
    assert lo0.if_mtu == 16384
    vnet.ioctl("SIOCIFDESTROY", Ifreq("lo0"))
    assert vnet.v_loif is None


def test_a_loopback_that_is_down_gives_nothing_back(world):
    lo0 = world.clone(world.host(), "lo", up=False)

    host_sends(lo0, framed("x"))

    assert heard(lo0) == []
    assert (lo0.if_oerrors, lo0.if_opackets) == (1, 0)


def test_disc_counts_and_forgets(world):
    disc0 = world.clone(world.host(), "disc")

    host_sends(disc0, framed("gone"))

    assert (disc0.if_opackets, disc0.if_obytes, disc0.if_oerrors, disc0.if_ipackets) == (1, 18, 0, 0)
    assert disc0.if_mtu == 65521


# nodes


def test_a_node_at_lower_gets_what_came_off_the_wire_instead_of_the_host(world):
    alice, bob = world.linked()
    node = ng_ether_attach(bob)
    taken = []
    upper = node.connect("upper", lambda frame: None)
    lower = node.connect("lower", taken.append)

    host_sends(alice, framed("one"))
    upper.send(taken[0])
    upper.send(framed("made up"))

    assert texts(bob) == ["one", "made up"]
    assert [frame.pkt.name for frame in taken] == ["Ethernet"]
    lower.disconnect()
    host_sends(alice, framed("two"))
    assert texts(bob) == ["one", "made up", "two"]


def test_a_node_at_upper_gets_what_the_host_sends_instead_of_the_wire(world):
    alice, bob = world.linked()
    node = ng_ether_attach(alice)
    taken = []
    upper = node.connect("upper", taken.append)
    lower = node.connect("lower", lambda frame: None)

    host_sends(alice, framed("held"))
    assert texts(bob) == []
    lower.send(taken[0])
    assert texts(bob) == ["held"]

    upper.disconnect()
    refused(errno.ENOTCONN, upper.send, framed("x"))


def test_orphans_are_what_no_protocol_knows(world):
    alice, bob = world.linked()
    node = ng_ether_attach(bob)
    orphans = []
    hook = node.connect("orphans", lambda frame: orphans.append(frame.raw))

    host_sends(alice, framed("known"))
    host_sends(alice, framed("unknown", kind=b"\x88\xb5"))

    assert texts(bob) == ["known"]
    assert [raw[14:] for raw in orphans] == [b"unknown"]
    refused(errno.EISCONN, node.connect, "lower", print)
    refused(errno.EISCONN, node.connect, "orphans", print)
    refused(errno.EINVAL, node.connect, "sideways", print)
    hook.disconnect()
    node.connect("lower", print)


def test_a_node_hears_of_the_link_and_one_that_raises_loses_its_frame_only(world):
    alice, bob = world.nic(world.host("alice")), world.nic(world.host("bob"))
    node = ng_ether_attach(bob)
    states = []
    node.connect("lower", lambda frame: 1 / 0, states.append)

    cable = world.cable(alice, bob)
    host_sends(alice, framed("x"))
    cable.cut()
    world.settle()

    assert states == [LinkState.UP, LinkState.DOWN]
    assert heard(bob) == []
    ng_ether_detach(bob)
    assert bob.plain
    assert bob.if_l2com.ac_netgraph is None


def test_only_ethernet_has_nodes(world):
    vnet = world.host()
    bare = vnet.if_alloc(23)

    refused(errno.EPROTONOSUPPORT, ng_ether_attach, bare)


def test_broadcasts_and_groups_are_counted_as_such(world):
    _, a, _ = pair(world)

    host_sends(a, framed("x", dst=BROADCAST))
    host_sends(a, framed("x", dst=b"\x01\0\x5e\0\0\x01"))

    assert a.if_omcasts == 1
