"""802.1Q and 802.1ad without a kernel."""

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iflab.drivers.vlan import Vlanreq, tagged, untagged
from iflab.net import IFCAP, IFF, PKTHDR, Ifreq, LinkState, Priv, SockaddrDl, Thread, finish, mbuf

from .devices import World, framed, heard, host_sends, refused, texts


@pytest.fixture
def world():
    return World()


def vlan(world, parent, tag, proto=0x8100, name="vlan"):
    return world.clone(parent.if_vnet, name, Vlanreq(parent.if_xname, tag, proto))


def on_the_wire(ifp):
    """What the NIC puts on its wire from now on."""
    seen = []
    ifp.if_softc.end.wire.add_tap(
        lambda end, m: seen.append(m[PKTHDR:]) if end.port is ifp.if_softc else None
    )
    return seen


def test_tagged_on_the_trunk_untagged_to_the_host(world):
    alice, bob = world.linked()
    a10, b10, b20 = vlan(world, alice, 10), vlan(world, bob, 10), vlan(world, bob, 20)
    seen = on_the_wire(alice)
    frame = framed("hello")

    a10.if_vnet.ioctl("SIOCSVLANPCP", Ifreq("vlan0", ifr_data=5))
    host_sends(a10, frame)

    assert heard(b10) == [frame]
    assert heard(b20) == heard(bob) == []
    assert seen == [frame[:12] + b"\x81\x00\xa0\x0a" + frame[12:]]
    assert (a10.if_opackets, b10.if_ipackets, bob.if_ipackets) == (1, 1, 1)


def test_untagged_and_priority_tagged_frames_are_the_parents(world):
    alice, bob = world.linked()
    b10 = vlan(world, bob, 10)
    frame = framed("plain")

    host_sends(alice, frame)
    host_sends(alice, frame[:12] + b"\x81\x00\xe0\x00" + frame[12:])
    host_sends(alice, frame[:12] + b"\x81\x00\x00\x0b" + frame[12:])

    assert heard(bob) == [frame, frame]
    assert heard(b10) == []
    assert bob.if_vlantrunk.unknown == 1


def test_a_truncated_tag_is_an_input_error(world):
    alice, bob = world.linked()
    vlan(world, bob, 10)

    host_sends(alice, framed("x")[:12] + b"\x81\x00\x00")

    assert bob.if_ierrors == 1


def test_two_tags_for_qinq(world):
    alice, bob = world.linked()
    inner = []
    for ifp in (alice, bob):
        outer = vlan(world, ifp, 100, 0x88A8)
        inner.append(vlan(world, outer, 7))
    seen = on_the_wire(alice)
    frame = framed("deep")

    host_sends(inner[0], frame)

    assert heard(inner[1]) == [frame]
    assert seen == [frame[:12] + b"\x88\xa8\x00\x64\x81\x00\x00\x07" + frame[12:]]
    assert inner[0].if_mtu == 1496


def test_the_packet_header_moves_with_the_tag(world):
    gso = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16) + framed("x" * 100)

    there = tagged(gso, b"\x81\x00\x00\x0a")

    assert struct.unpack_from("=BBHHHH", there) == (1, 1, 58, 1448, 38, 16)
    assert untagged(there) == gso
    assert untagged(tagged(mbuf(framed("y")), b"\x81\x00\x00\x01")) == mbuf(framed("y"))


@settings(max_examples=60, deadline=None)
@given(
    payload=st.binary(min_size=1, max_size=6000),
    size=st.integers(50, 1460),
    v6=st.booleans(),
    tags=st.lists(st.sampled_from([b"\x81\x00\x00\x0a", b"\x88\xa8\x00\x64"]), min_size=1, max_size=2),
)
def test_cutting_and_tagging_may_change_places(payload, size, v6, tags):
    """What a host left to the chip comes out the same, whether it is cut before it is tagged or after."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    ip = IPv6(src="2001:db8::1", dst="2001:db8::2") if v6 else IP(src="192.0.2.1", dst="192.0.2.2")
    tcp = TCP(sport=1, dport=2, seq=7, flags="PA", chksum=0)
    frame = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ip / tcp / payload)
    start = 54 if v6 else 34
    m = struct.pack("=BBHHHH", 1, 4 if v6 else 1, start + 20, size, start, 16) + frame

    both = m
    pieces = finish(m)
    for tag in tags:
        both = tagged(both, tag)
        pieces = [tagged(piece, tag) for piece in pieces]

    assert finish(both) == pieces
    for _ in tags:
        both = untagged(both)
    assert both == m


def test_a_vlan_follows_its_parents_link_mac_and_mtu(world):
    alice, bob = world.nic(world.host("alice")), world.nic(world.host("bob"))
    a10 = vlan(world, alice, 10)
    assert a10.lladdr == alice.lladdr
    assert a10.if_link_state is LinkState.DOWN
    cable = world.cable(alice, bob)
    world.settle()
    assert a10.if_link_state is LinkState.UP

    vnet = alice.if_vnet
    vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=9000))
    assert a10.if_mtu == 9000
    vnet.ioctl("SIOCSIFMTU", Ifreq("vlan0", ifr_mtu=1400))
    vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1500))
    assert a10.if_mtu == 1400
    refused(errno.EINVAL, vnet.ioctl, "SIOCSIFMTU", Ifreq("vlan0", ifr_mtu=1501))
    vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1300))
    assert a10.if_mtu == 1300

    from iflab.net import SockaddrDl

    vnet.ioctl("SIOCSIFLLADDR", Ifreq("em0", ifr_addr=SockaddrDl(sdl_lladdr=b"\x02\0\0\0\x77\x77")))
    assert a10.lladdr == b"\x02\0\0\0\x77\x77"
    cable.cut()
    world.settle()
    world.settle()
    assert a10.if_link_state is LinkState.DOWN


def test_capabilities_follow_and_without_vlan_mtu_four_octets_are_missing(world):
    alice, _ = world.linked()
    a10 = vlan(world, alice, 10)
    assert a10.if_capenable & IFCAP.TSO4

    alice.if_vnet.ioctl(
        "SIOCSIFCAP", Ifreq("em0", ifr_reqcap=alice.if_capenable & ~(IFCAP.TSO4 | IFCAP.VLAN_MTU))
    )

    assert not a10.if_capenable & IFCAP.TSO4
    assert a10.if_mtu == 1496


def test_modes_and_groups_are_passed_to_the_parent_and_taken_back(world):
    alice, _ = world.linked()
    a10 = vlan(world, alice, 10)
    group = b"\x01\x00\x5e\x00\x00\x05"

    a10.ifpromisc(1)
    a10.if_allmulti(1)
    a10.if_addmulti("224.0.0.5")
    assert (alice.if_pcount, alice.if_amcount) == (1, 1)
    assert group in alice.if_multiaddrs.link_addresses()
    a10.if_allmulti(0)
    a10.if_delmulti("224.0.0.5")
    assert (alice.if_pcount, alice.if_amcount) == (1, 0)
    assert group not in alice.if_multiaddrs.link_addresses()

    a10.if_addmulti("224.0.0.5")
    world.up(a10, False)
    assert alice.if_pcount == 0
    world.up(a10)
    assert alice.if_pcount == 1
    a10.if_vnet.ioctl("SIOCIFDESTROY", Ifreq("vlan0"))

    assert (alice.if_pcount, alice.if_flags & IFF.PROMISC) == (0, 0)
    assert alice.if_multiaddrs.link_addresses() == set()
    assert alice.if_vlantrunk is None
    assert alice.plain


def test_what_a_vlan_cannot_be(world):
    alice, _ = world.linked()
    vnet = alice.if_vnet
    a10 = vlan(world, alice, 10)
    other = world.clone(vnet, "vlan")

    def ask(request, name="vlan1"):
        vnet.ioctl("SIOCSETVLAN", Ifreq(name, ifr_data=request))

    refused(errno.EEXIST, ask, Vlanreq("em0", 10))
    refused(errno.EINVAL, ask, Vlanreq("em0", 0))
    refused(errno.EINVAL, ask, Vlanreq("em0", 4095))
    refused(errno.EINVAL, ask, Vlanreq("em0", 11, 0x9100))
    refused(errno.ENOENT, ask, Vlanreq("em9", 11))
    refused(errno.EPROTONOSUPPORT, ask, Vlanreq("vlan1", 11))
    refused(errno.EBUSY, ask, Vlanreq("em0", 11), "vlan0")
    refused(errno.EINVAL, vnet.ioctl, "SIOCSVLANPCP", Ifreq("vlan0", ifr_data=8))
    nobody = Thread(vnet.prison, lambda priv: priv is not Priv.NET_VLAN)
    refused(errno.EPERM, vnet.ioctl, "SIOCSETVLAN", Ifreq("vlan1", ifr_data=Vlanreq("em0", 11)), nobody)
    refused(errno.EEXIST, vnet.ioctl, "SIOCIFCREATE2", Ifreq("vlan", ifr_data=Vlanreq("em0", 10)))

    ask(Vlanreq("em0", 10), "vlan0")
    assert other.if_softc.parent is None
    assert vnet.ioctl("SIOCGETVLAN", Ifreq("vlan0")).ifr_data == Vlanreq("em0", 10)
    assert vnet.ifunit("vlan2") is None
    assert a10.if_softc.parent is alice


def test_nothing_stands_on_itself(world):
    """A frame would go round for ever, with one tag more each time."""
    vnet = world.nic(world.host()).if_vnet
    one, other = (world.clone(vnet, "vlan", Vlanreq(parent, 5)) for parent in ("em0", "vlan0"))
    bridge0 = world.clone(vnet, "bridge")
    bridge0.if_softc.addm(other)
    top = world.clone(vnet, "vlan", Vlanreq("bridge0", 6))

    one.if_softc.unconfigure()
    for parent in ("vlan1", "bridge0", "vlan2"):
        refused(errno.EINVAL, one.if_softc.configure, Vlanreq(parent, 5))
    refused(errno.EINVAL, bridge0.if_softc.addm, top)

    one.if_softc.configure(Vlanreq("em0", 5))
    assert other.if_softc.parent is one


def test_a_membership_that_somebody_else_took_away_is_missed_by_nobody(world):
    em0 = world.nic(world.host())
    vlan0 = world.clone(em0.if_vnet, "vlan", Vlanreq("em0", 5))
    group = SockaddrDl(sdl_lladdr=b"\x01\0\x5e\0\0\x07")
    vlan0.if_addmulti(group)

    em0.if_delmulti(group)
    em0.if_vnet.ioctl("SIOCIFDESTROY", Ifreq("vlan0"))

    assert em0.plain
    assert group.sdl_lladdr not in em0.if_multiaddrs.link_addresses()


def test_other_drivers_ask_through_the_hooks(world):
    alice, bob = world.linked()
    a10 = vlan(world, alice, 10)
    hooks = world.kernel.hooks

    assert hooks.vlan_trunkdev_p(a10) is alice
    assert hooks.vlan_trunkdev_p(alice) is None
    assert hooks.vlan_tag_p(a10) == 10
    assert hooks.vlan_devat_p(alice, 10) is a10
    assert hooks.vlan_devat_p(alice, 11) is hooks.vlan_devat_p(bob, 10) is None
    hooks.vlan_setcookie_p(a10, "mine")
    assert hooks.vlan_cookie_p(a10) == "mine"
    refused(errno.EINVAL, hooks.vlan_tag_p, alice)


def test_a_name_with_a_dot_says_it_all(world):
    alice, _ = world.linked()
    vnet = alice.if_vnet
    assert vnet.ioctl("SIOCIFCREATE", Ifreq("em0.42")).ifr_name == "em0.42"

    assert vnet.ifunit("em0.42").if_softc.vid == 42
    refused(errno.EEXIST, vnet.ioctl, "SIOCIFCREATE", Ifreq("em0.42"))
    refused(errno.EINVAL, vnet.ioctl, "SIOCIFCREATE", Ifreq("em9.42"))
    vnet.ioctl("SIOCIFDESTROY", Ifreq("em0.42"))
    assert alice.if_vlantrunk is None


def test_without_its_parent_a_vlan_has_no_link(world):
    alice, _ = world.linked()
    a10 = vlan(world, alice, 10)
    vnet = alice.if_vnet
    assert texts(a10) == []

    alice.if_detach()
    alice.if_free()
    world.settle()

    assert a10.if_link_state is LinkState.DOWN
    assert vnet.ioctl("SIOCGETVLAN", Ifreq("vlan0")).ifr_data == Vlanreq()
    host_sends(a10, framed("x"))
    assert a10.if_oerrors == 1


def test_a_vlan_serves_in_another_vnet_than_its_parent(world):
    alice, bob = world.linked()
    a10, b10 = vlan(world, alice, 10), vlan(world, bob, 10)
    guest = world.host("guest")
    a10.ifpromisc(1)

    a10.if_vmove(guest)
    world.up(a10)

    host_sends(a10, framed("out"))
    host_sends(b10, framed("in"))
    assert (texts(b10), texts(a10)) == (["out"], ["in"])
    assert alice.if_pcount == 1
    a10.ifpromisc(0)
    assert alice.if_pcount == 0


def test_a_parent_that_is_down_takes_nothing(world):
    alice, bob = world.linked()
    a10, b10 = vlan(world, alice, 10), vlan(world, bob, 10)
    world.up(alice, False)

    host_sends(a10, framed("x"))

    assert (a10.if_oerrors, a10.if_opackets, heard(b10)) == (1, 0, [])
