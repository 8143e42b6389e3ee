"""Shared addresses without a kernel."""

import errno
import hashlib
import hmac
import ipaddress

import pytest

from iflab.bsd import ifconfig, sysctl
from iflab.drivers.carp import Carpreq, State, make_advertisement
from iflab.net import (
    IFF,
    PKTHDR,
    AddressFamily,
    Ifaddr,
    Ifreq,
    LinkState,
    Priv,
    Thread,
    as_sockaddr,
    ifa_alloc,
    mbuf,
)

from .devices import World, framed, heard, host_sends, refused

SHARED = "192.0.2.100/24"
VMAC = b"\x00\x00\x5e\x00\x01\x01"


@pytest.fixture
def world():
    return World()


def share(ifp, vhid=1, advskew=0, *, address=SHARED, key=b"secret", advbase=1):
    """Make a virtual host with an address; return it."""
    vnet = ifp.if_vnet
    vnet.ioctl("SIOCSVH", Ifreq(ifp.if_xname, ifr_data=Carpreq(vhid, advbase, advskew, key)))
    give(ifp, vhid, address)
    return ifp.if_carp.hosts[vhid]


def give(ifp, vhid, address):
    interface = ipaddress.ip_interface(address)
    ifa: Ifaddr = ifa_alloc(ifp.kernel, as_sockaddr(str(interface.ip)))
    ifa.ifa_netmask = as_sockaddr(str(interface.netmask))
    ifa.ifa_ifp = ifp
    with ifp.kernel.curvnet_set(ifp.if_vnet):
        try:
            ifp.kernel.hooks.carp_attach_p(ifa, vhid)
        finally:
            ifa.ifa_ifp = None
            ifa.ifa_free()


def two(world, skews=(0, 100), **options):
    alice, bob = world.linked()
    alice.ifa_add("192.0.2.1", "255.255.255.0")
    bob.ifa_add("192.0.2.2", "255.255.255.0")
    one = share(alice, advskew=skews[0], **options)
    other = share(bob, advskew=skews[1], **options)
    return alice, bob, one, other


def addresses(ifp):
    return [str(ifa.ifa_addr) for ifa in ifp.if_addrhead if ifa.ifa_addr.family is not AddressFamily.LINK]


def test_the_more_frequent_becomes_master_and_has_the_address(world):
    alice, bob, one, other = two(world)
    assert (one.state, other.state) == (State.BACKUP, State.BACKUP)

    world.settle(3.2)

    assert (one.state, other.state) == (State.MASTER, State.BACKUP)
    assert "192.0.2.100" in addresses(alice)
    assert "192.0.2.100" not in addresses(bob)
    assert alice.if_flags & IFF.PROMISC
    assert "carp: MASTER vhid 1 advbase 1 advskew 0" in ifconfig(alice.if_vnet, ["em0"])
    assert "carp: BACKUP vhid 1 advbase 1 advskew 100" in ifconfig(bob.if_vnet, ["em0"])
    assert "inet 192.0.2.100 netmask 0xffffff00 vhid 1" in ifconfig(alice.if_vnet, ["em0"])


def test_the_backup_takes_over_within_three_intervals_and_its_skew(world):
    alice, bob, one, other = two(world)
    world.settle(5)
    assert one.state is State.MASTER
    began = world.clock.now()

    alice.if_softc.end.wire.add_hook(lambda frame: False)
    while other.state is not State.MASTER:
        world.settle(0.01)

    assert world.clock.now() - began <= 3 * 1 + 100 / 256 + 0.02
    assert "192.0.2.100" in addresses(bob)


def test_of_two_masters_the_slower_gives_way(world):
    alice, _, one, other = two(world)
    hook = alice.if_softc.end.wire.add_hook(lambda frame: False)
    world.settle(5)
    assert (one.state, other.state) == (State.MASTER, State.MASTER)

    hook.remove()
    world.settle(2)

    assert (one.state, other.state) == (State.MASTER, State.BACKUP)


def test_a_faster_backup_takes_over_only_with_preemption(world):
    alice, _, one, other = two(world, (100, 0))
    world.kernel.hooks.carp_ioctl_p(
        Ifreq("em0", ifr_data=Carpreq(1, state=State.MASTER)), "SIOCSVH", alice.if_vnet.thread()
    )
    assert one.state is State.MASTER
    world.settle(4)
    assert (one.state, other.state) == (State.MASTER, State.BACKUP)

    assert sysctl(other.ifp.if_vnet, ["net.inet.carp.preempt=1"]) == "net.inet.carp.preempt: 0 -> 1\n"
    world.settle(2)

    assert (one.state, other.state) == (State.BACKUP, State.MASTER)
    assert sysctl(alice.if_vnet, ["net.inet.carp.preempt"]) == "net.inet.carp.preempt: 0\n"


def test_link_loss_demotes_and_hands_everything_over(world):
    """Two networks; when one of alice's links fails, bob takes over both addresses."""
    a, b = world.host("alice"), world.host("bob")
    cables, hosts = [], []
    for n in range(2):
        one, other = world.nic(a, f"em{n}"), world.nic(b, f"em{n}")
        cables.append(world.cable(one, other))
        hosts.append(
            (
                share(one, n + 1, 0, address=f"192.0.{n}.100/24"),
                share(other, n + 1, 100, address=f"192.0.{n}.100/24"),
            )
        )
    sysctl(b, ["net.inet.carp.preempt=1"])
    world.settle(5)
    assert [(one.state, other.state) for one, other in hosts] == [(State.MASTER, State.BACKUP)] * 2

    cables[0].cut()
    world.settle(5)

    assert hosts[0][0].state is State.INIT
    assert sysctl(a, ["net.inet.carp.demotion"]) == "net.inet.carp.demotion: 240\n"
    assert hosts[1][0].state is State.MASTER
    assert hosts[1][1].state is State.BACKUP  # bob's own link is gone too, so he is no better
    sysctl(b, ["net.inet.carp.demotion=-240"])
    world.settle(3)
    assert (hosts[1][0].state, hosts[1][1].state) == (State.BACKUP, State.MASTER)

    sysctl(b, ["net.inet.carp.demotion=240"])
    cables[0].mend()
    world.settle(5)
    assert sysctl(a, ["net.inet.carp.demotion"]) == "net.inet.carp.demotion: 0\n"


def test_advertisements_that_cannot_be_sent_demote(world):
    alice, bob, one, _ = two(world)
    vnet = alice.if_vnet
    world.up(bob, False)  # or it would take over meanwhile
    world.settle(4)

    def demotion_after(seconds):
        world.settle(seconds)
        return one.settings.demotion

    def send_queue(maxlen):
        alice.if_snd.ifq_maxlen = maxlen
        alice.if_drv_flags = alice.if_drv_flags & ~IFF.OACTIVE | (0 if maxlen else IFF.OACTIVE)

    send_queue(0)
    assert demotion_after(1.5) == 0
    assert demotion_after(3) == 240
    send_queue(50)
    assert demotion_after(8) == 0  # three that went out, each at 1 + 240/256 s

    sysctl(vnet, ["net.inet.carp.senderr_demotion_factor=17"])
    send_queue(0)
    assert demotion_after(4) == 17
    assert vnet.kernel.hooks.carp_remove_p(alice, as_sockaddr("192.0.2.100"))
    assert one.settings.demotion == 0
    assert sorted(sysctl(vnet, ["net.inet.carp"]).splitlines()) == [
        "net.inet.carp.allow: 1",
        "net.inet.carp.demotion: 0",
        "net.inet.carp.ifdown_demotion_factor: 240",
        "net.inet.carp.log: 1",
        "net.inet.carp.preempt: 0",
        "net.inet.carp.senderr_demotion_factor: 17",
    ]


def test_how_much_a_link_demotes_can_be_set(world):
    alice, _, one, _ = two(world)
    sysctl(alice.if_vnet, ["net.inet.carp.ifdown_demotion_factor=9"])
    world.up(alice, False)
    assert one.settings.demotion == 9
    sysctl(alice.if_vnet, ["net.inet.carp.ifdown_demotion_factor=50"])
    world.up(alice)

    assert one.settings.demotion == 0


def test_an_interface_that_is_down_is_no_master(world):
    alice, _, one, other = two(world)
    world.settle(4)

    world.up(alice, False)
    assert one.state is State.INIT
    assert "192.0.2.100" not in addresses(alice)
    world.settle(4)
    assert other.state is State.MASTER
    world.up(alice)
    assert one.state is State.BACKUP


def test_a_master_that_leaves_says_so(world):
    alice, _, one, other = two(world)
    world.settle(4)
    assert one.state is State.MASTER

    world.kernel.hooks.carp_remove_p(alice, as_sockaddr("192.0.2.100"))
    world.settle(0.01)

    assert other.state is State.MASTER
    assert alice.if_carp is None
    assert alice.plain
    assert not alice.if_flags & IFF.PROMISC
    assert addresses(alice) == ["192.0.2.1"]


def test_wrong_keys_addresses_and_sums_are_passed_over(world):
    alice, bob = world.linked()
    one, other = share(alice, key=b"secret"), share(bob, advskew=100, key=b"wrong")
    world.settle(5)
    assert (one.state, other.state) == (State.MASTER, State.MASTER)
    assert one.bad
    assert not one.received

    body = make_advertisement(1, 1, 0, 0, 7, one.digest(7))
    before = one.bad
    for spoiled in (body[:20], body[:-1] + b"\0", b"\x31" + body[1:], body[:7] + b"\xff" + body[8:]):
        one.heard(spoiled, 4)
    assert one.bad == before + 4
    assert one.received == 0


def sniff(ifp):
    frames = []
    ifp.if_softc.end.wire.add_tap(lambda end, m: frames.append(m[PKTHDR:]))
    return frames


def test_the_advertisement_is_the_published_one(world):
    """Computed anew, from the layout of struct carp_header and RFC 2104, and read by scapy."""
    alice, _, one, _ = two(world)
    frames = sniff(alice)
    give(alice, 1, "192.0.2.50/24")
    world.settle(4.5)
    ads = [f for f in frames if f[12:14] == b"\x08\x00" and f[23] == 112]

    frame = ads[-1]
    body = frame[34:]
    shared = b"".join(bytes(map(int, a.split("."))) for a in ("192.0.2.50", "192.0.2.100"))
    digest = hmac.new(
        b"secret".ljust(20, b"\0"), b"\x02\x01\x01" + shared + body[8:16], hashlib.sha1
    ).digest()
    assert body[16:] == digest
    assert frame[:6] == b"\x01\x00\x5e\x00\x00\x12"
    assert frame[6:12] == VMAC
    assert frame[26:34] == bytes((192, 0, 2, 1, 224, 0, 0, 18))

    from scapy.contrib.carp import CARP
    from scapy.layers.l2 import Ether

    packet = Ether(frame)
    assert packet["IP"].ttl == 255
    carp = CARP(body)
    assert (carp.version, carp.type, carp.vhid, carp.advbase, carp.authlen) == (2, 1, 1, 1, 7)
    del carp.chksum
    assert bytes(carp) == body
    assert one.sent >= 1


def test_ipv6_alone_and_with_ipv4(world):
    alice, bob = world.linked()
    for ifp in (alice, bob):
        ifp.ifa_add("fe80::1" if ifp is alice else "fe80::2", "ffff:ffff:ffff:ffff::")
    one = share(alice, address="2001:db8::100/64")
    other = share(bob, advskew=50, address="2001:db8::100/64")
    frames = sniff(alice)
    world.settle(4)
    assert (one.state, other.state) == (State.MASTER, State.BACKUP)

    ads = [f for f in frames if f[12:14] == b"\x86\xdd" and f[20] == 112]
    assert ads[0][:6] == b"\x33\x33\x00\x00\x00\x12"
    assert ads[0][21] == 255
    assert ads[0][22:38] == as_sockaddr("fe80::1").key
    announced = [f for f in frames if f[12:14] == b"\x86\xdd" and f[54] == 136]
    assert announced[0][80:86] == VMAC
    for host in (alice, bob):
        give(host, 1, SHARED)
    world.settle(5)
    assert (one.state, other.state) == (State.MASTER, State.BACKUP)
    assert {"192.0.2.100", "2001:db8::100"} <= set(addresses(alice))


def test_frames_for_the_virtual_mac_are_the_masters(world):
    alice, bob, _, _ = two(world)
    world.settle(4)

    host_sends(bob, framed("hello", dst=VMAC, src=bob.lladdr))
    host_sends(alice, framed("not yours", dst=VMAC, src=alice.lladdr))

    assert [f[:6] for f in heard(alice) if f[14:] == b"hello"] == [alice.lladdr]
    assert [f[:6] for f in heard(bob) if f[14:] == b"not yours"] == [VMAC]


def test_arp_of_the_shared_address_names_the_virtual_mac(world):
    from scapy.layers.l2 import ARP, Ether

    alice, _, _, _ = two(world)
    world.settle(4)
    frames = sniff(alice)
    mac = alice.lladdr.hex(":")
    for address in ("192.0.2.100", "192.0.2.1"):
        reply = ARP(op=2, hwsrc=mac, psrc=address, hwdst="02:00:00:00:00:09", pdst="192.0.2.9")
        host_sends(alice, bytes(Ether(src=mac, dst="02:00:00:00:00:09") / reply))

    shared, own = (Ether(f) for f in frames if f[12:14] == b"\x08\x06")
    assert (shared.src, shared[ARP].hwsrc) == (VMAC.hex(":"),) * 2
    assert (own.src, own[ARP].hwsrc) == (mac, mac)


def test_neighbour_discovery_of_the_shared_address_names_the_virtual_mac(world):
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
    from scapy.layers.l2 import Ether

    alice, _ = world.linked()
    share(alice, address="2001:db8::100/64")
    world.settle(4)
    frames = sniff(alice)
    mac = alice.lladdr.hex(":")
    ether = Ether(src=mac, dst="02:00:00:00:00:09")
    na = IPv6(src="2001:db8::1", dst="2001:db8::9") / ICMPv6ND_NA(tgt="2001:db8::100")
    ns = IPv6(src="2001:db8::100", dst="2001:db8::9") / ICMPv6ND_NS(tgt="2001:db8::9")
    host_sends(alice, bytes(ether / na / ICMPv6NDOptDstLLAddr(lladdr=mac)))
    host_sends(alice, bytes(ether / ns / ICMPv6NDOptSrcLLAddr(lladdr=mac)))

    advert, solicit = (Ether(f) for f in frames if f[12:14] == b"\x86\xdd" and f[20] == 58)
    assert advert[ICMPv6NDOptDstLLAddr].lladdr == solicit[ICMPv6NDOptSrcLLAddr].lladdr == VMAC.hex(":")
    for packet, layer in ((advert, ICMPv6ND_NA), (solicit, ICMPv6ND_NS)):
        said = packet[layer].cksum
        del packet[layer].cksum
        assert Ether(bytes(packet))[layer].cksum == said


def test_the_hooks_answer_for_masters_only(world):
    alice, bob, one, _ = two(world)
    world.settle(4)
    hooks = world.kernel.hooks
    ifa = next(ifa for ifa in alice.if_addrhead if ifa.ifa_carp is one)
    own = next(ifa for ifa in alice.if_addrhead if str(ifa.ifa_addr) == "192.0.2.1")

    assert hooks.carp_master_p(ifa)
    assert not hooks.carp_master_p(own)
    assert hooks.carp_iamatch_p(ifa) == VMAC
    assert hooks.carp_forus_p(alice, VMAC)
    assert not hooks.carp_forus_p(bob, VMAC)
    assert alice.kernel.ifa_preferred(ifa, own)
    assert not alice.kernel.ifa_preferred(own, ifa)


def test_what_cannot_be(world):
    alice, _ = world.linked()
    vnet = alice.if_vnet

    def ask(request, td=None, name="em0"):
        vnet.ioctl("SIOCSVH", Ifreq(name, ifr_data=request), td)

    nobody = Thread(vnet.prison, lambda priv: priv is not Priv.NETINET_CARP)
    refused(errno.EPERM, ask, Carpreq(1), nobody)
    refused(errno.ENXIO, ask, Carpreq(1), name="em9")
    refused(errno.EINVAL, ask, Carpreq(0))
    refused(errno.EINVAL, ask, Carpreq(256))
    refused(errno.EINVAL, ask, Carpreq(1, advbase=0))
    refused(errno.EINVAL, ask, Carpreq(1, advskew=255))
    refused(errno.EINVAL, ask, Carpreq(1, key=b"x" * 21))
    refused(errno.ENOENT, give, alice, 1, SHARED)
    refused(errno.ENOENT, vnet.ioctl, "SIOCGVH", Ifreq("em0", ifr_data=Carpreq(1)))
    assert alice.if_carp is None
    share(alice)
    refused(errno.EEXIST, give, alice, 1, SHARED)
    answer = Carpreq(1)
    vnet.ioctl("SIOCGVH", Ifreq("em0", ifr_data=answer), nobody)
    assert (answer.advbase, answer.advskew, answer.key, answer.state) == (1, 0, None, State.BACKUP)


def test_an_advertisement_from_beyond_the_link_is_none(world):
    _, bob, one, other = two(world)
    world.settle(4)
    body = make_advertisement(1, 1, 100, 0, 7, other.digest(7))
    frame = other._ipv4(body)

    bob.transmit_mbuf(mbuf(frame))
    assert (one.received, one.bad) == (1, 0)
    from scapy.layers.l2 import Ether

    packet = Ether(frame)
    packet["IP"].ttl = 64
    del packet["IP"].chksum
    bob.transmit_mbuf(mbuf(bytes(packet)))

    assert (one.received, one.bad) == (1, 1)


def test_an_interface_that_goes_takes_its_virtual_hosts_along(world):
    alice, _, one, other = two(world)
    world.settle(4)

    alice.if_detach()
    alice.if_free()
    world.settle(4)

    assert one.state is State.INIT
    assert other.ifp.if_link_state is LinkState.DOWN  # the cable has no far end any more
    assert other.state is State.INIT
    assert other.settings.demotion == 240
