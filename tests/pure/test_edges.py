"""Corners of the interface layer that the scripts of the original do not reach."""

import errno
import struct

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from iflab.net import (
    IFF,
    IFT,
    RTM,
    AddressFamily,
    Domain,
    Driver,
    Ifaliasreq,
    Ifgroupreq,
    Ifreq,
    Kernel,
    KernelPanic,
    OffloadError,
    Rtentry,
    SockaddrDl,
    Stack,
    UserBuffer,
    as_sockaddr,
    ether_ifattach,
    ether_resolvemulti,
    finish,
    frame_of,
    ifa_add_loopback_route,
    ifa_alloc,
    lladdr,
    mbuf,
    wire_frames,
)
from iflab.net.counted import if_setflag
from iflab.net.ifqueue import Ifqueue
from iflab.net.packet import fill_in, lacks_ethernet, octets_of

from .doubles import RecordingDriver, ethernet, frame


def refused(code, fn, *args):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
        fn(*args)
    assert caught.value.errno == code


# addresses and what they count


@pytest.mark.parametrize(("address", "kind"), [("192.0.2.1", IP), ("2001:db8::1", IPv6)])
def test_an_address_counts_packets_and_octets_of_ip(address, kind):
    _, ifp, _ = ethernet()
    ifa = ifp.ifa_add(address)
    there = bytes(Ether() / kind(src="192.0.2.9" if kind is IP else "2001:db8::9", dst=address) / UDP())
    back = bytes(Ether() / kind(src=address, dst="192.0.2.9" if kind is IP else "2001:db8::9") / UDP())

    ifp.if_addrhead.count_input(mbuf(there))
    ifp.if_addrhead.count_output(mbuf(back))
    for list_ in (ifp.if_addrhead.count_input, ifp.if_addrhead.count_output):
        list_(mbuf(frame("neither")))

    assert (ifa.ifa_ipackets, ifa.ifa_opackets) == (1, 1)
    assert (ifa.ifa_ibytes, ifa.ifa_obytes) == (len(there) - 14, len(back) - 14)
    assert ifp.if_addrhead.with_octets(as_sockaddr(address).packed) is ifa


def test_the_same_address_with_another_mask_counts_when_the_first_is_gone():
    _, ifp, _ = ethernet()
    first, second = ifp.ifa_add("192.0.2.1", "255.255.255.0"), ifp.ifa_add("192.0.2.1", "255.255.255.255")
    packed = as_sockaddr("192.0.2.1").packed
    assert ifp.if_addrhead.with_octets(packed) is first

    ifp.ifa_remove(first)
    assert ifp.if_addrhead.with_octets(packed) is second
    ifp.ifa_remove(second)

    assert ifp.if_addrhead.with_octets(packed) is None
    refused(errno.EADDRNOTAVAIL, ifp.ifa_remove, second)


def test_the_parts_of_an_address_may_change_while_it_is_listed():
    vnet, ifp, _ = ethernet()
    ifa = ifp.ifa_add("192.0.2.1", "255.255.255.0", "192.0.2.255")
    ifa.ifa_addr = as_sockaddr("192.0.2.2")
    ifa.ifa_broadaddr = as_sockaddr("192.0.2.127")
    ifa.ifa_netmask = as_sockaddr("255.255.255.128")

    assert vnet.ifa_ifwithaddr("192.0.2.2") is ifa
    assert not vnet.ifa_ifwithaddr_check("192.0.2.1")
    assert vnet.ifa_ifwithbroadaddr("192.0.2.127") is ifa
    assert vnet.ifa_ifwithnet("192.0.2.200") is None


def test_an_address_on_no_interface_has_no_loopback_route():
    kernel = Kernel()
    refused(errno.ENXIO, ifa_add_loopback_route, ifa_alloc(kernel, as_sockaddr("192.0.2.1")), None)


def test_an_address_is_on_one_list_at_most():
    kernel = Kernel()
    _, one, _ = ethernet(kernel)
    _, other, _ = ethernet(kernel, 1)
    ifa = one.ifa_add("192.0.2.1")
    refused(errno.EEXIST, other.if_addrhead.insert_tail, ifa)
    other.if_addrhead.remove(ifa)
    assert ifa in one.if_addrhead


def test_a_route_with_a_link_level_gateway_gets_a_real_address():
    _, ifp, _ = ethernet()
    link = ifp.if_addr
    heard = []
    ifa = ifp.ifa_add("192.0.2.1", "255.255.255.0")
    ifa.ifa_rtrequest = lambda cmd, rt, info: heard.append(cmd)
    link.ifa_ref()
    route = Rtentry(as_sockaddr("192.0.2.77"), rt_ifa=link)

    link.ifa_rtrequest(RTM.DELETE, route, None)
    assert route.rt_ifa is link
    link.ifa_rtrequest(RTM.ADD, route, None)

    assert (route.rt_ifa, heard, ifa.ifa_refcnt) == (ifa, [RTM.ADD], 2)
    link.ifa_ref()
    other = Rtentry(as_sockaddr("2001:db8::1"), rt_ifa=link)
    link.ifa_rtrequest(RTM.ADD, other, None)
    assert other.rt_ifa is link  # no address of that family


# what drivers and stacks may leave out


class Least(Driver):
    def if_start(self, ifp):
        pass


def test_a_driver_of_one_function_is_a_driver():
    vnet = Kernel().vnet_alloc("v")
    ifp = vnet.if_alloc(IFT.OTHER)
    ifp.if_initname("x", 0)
    ifp.if_driver = Least()
    ifp.if_flags = IFF.MULTICAST
    ifp.if_attach()

    for cmd in ("SIOCSIFMTU", "SIOCSIFCAP", "SIOCSIFPHYS", "SIOCSIFMEDIA", "SIOCGIFMEDIA"):
        refused(errno.EOPNOTSUPP, vnet.ioctl, cmd, Ifreq("x0", ifr_mtu=1500))
    refused(errno.EOPNOTSUPP, ifp.ifpromisc, 1)
    assert ifp.if_addmulti("224.0.0.5").ifma_lladdr is None
    ifp.if_transmit(frame("x"))
    assert ifp.if_snd.ifq_len == 1


def test_a_stack_of_nothing_holds_no_address_and_no_route():
    stack = Stack()
    vnet = Kernel().vnet_alloc("v", stack)
    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_initname("em", 0)
    ifp.if_driver = RecordingDriver()
    ether_ifattach(ifp, bytes(6))
    for fn, args in (
        (stack.pru_control, ("SIOCAIFADDR", None, ifp, vnet.thread())),
        (stack.rtrequest1_fib, (RTM.ADD, None, 0)),
        (stack.rtrequest_fib, (RTM.DELETE, None, 0)),
    ):
        refused(errno.EOPNOTSUPP, fn, *args)
    assert stack.rtalloc1_fib(as_sockaddr("192.0.2.1"), 0) is None
    ifp.ifa_add("2001:db8::1")
    ifp.ifa_add("192.0.2.1")
    ifp.if_purgeaddrs()
    assert [a.ifa_addr.family for a in ifp.if_addrhead] == [AddressFamily.LINK]
    ifa = ifa_alloc(vnet.kernel, as_sockaddr("2001:db8::1"))
    stack.in6_purgeaddr(ifa)
    assert ifa.ifa_refcnt == 0


def test_addresses_go_although_the_protocol_refuses():
    class Stubborn(Stack):
        def in6_purgeaddr(self, ifa):
            raise OSError(errno.EBUSY, "no")

    _, ifp, _ = ethernet(stack=Stubborn())
    ifp.ifa_add("2001:db8::1")
    ifp.if_purgeaddrs()
    assert len(ifp.if_addrhead) == 1


def test_a_domain_without_functions_is_passed_over():
    kernel = Kernel()
    gone = []
    kernel.domains = [
        Domain("plain", AddressFamily.INET),
        Domain("data", AddressFamily.INET6, lambda ifp: "data", lambda ifp, data: gone.append(data)),
        Domain("empty", AddressFamily.LINK, lambda ifp: None, lambda ifp, data: gone.append(data)),
    ]
    _, ifp, _ = ethernet(kernel)
    assert ifp.if_afdata == {AddressFamily.INET6: "data", AddressFamily.LINK: None}
    ifp.if_detach()
    assert gone == ["data"]


def test_an_address_added_after_the_detach_goes_with_the_last_reference():
    vnet, ifp, _ = ethernet()
    ifp.if_ref()
    ifp.if_detach()
    ifp.ifa_add("192.0.2.1")
    ifp.if_free()
    assert vnet.kernel.live()["ifaddr"] == 1
    ifp.if_rele()

    assert set(vnet.kernel.live().values()) == {0}
    refused(errno.ENXIO, ifp.ifa_add, "192.0.2.1")


def test_a_group_joined_after_the_detach_is_left_with_the_last_reference():
    vnet, ifp, _ = ethernet()
    ifp.if_ref()
    ifp.if_detach()
    ifp.if_addgroup("lab")
    assert vnet.groups["lab"].ifg_members == [ifp]
    refused(errno.ENXIO, ifp.if_addmulti, "224.0.0.5")
    refused(errno.ENXIO, ifp.link_sockaddr)
    assert ifp.lladdr == b""
    ifp.if_free()
    ifp.if_rele()
    assert "lab" not in vnet.groups


@pytest.mark.parametrize("length", [-1, 15])
def test_a_buffer_too_short_for_groups_is_refused(length):
    vnet, _, _ = ethernet()
    refused(errno.EINVAL, vnet.ioctl, "SIOCGIFGROUP", Ifgroupreq("em0", ifgr_len=length))


@pytest.mark.parametrize(
    "cmd", ["SIOCGIFMTU", "SIOCSIFMTU", "SIOCGIFCONF", "SIOCGIFGROUP", "SIOCGIFGMEMB", "SIOCX"]
)
@pytest.mark.parametrize("data", [None, "em0", UserBuffer(4)])
def test_what_is_no_request_is_efault(cmd, data):
    vnet, _, _ = ethernet()
    refused(errno.EFAULT, vnet.ioctl, cmd, data)
    refused(
        errno.EFAULT,
        vnet.ioctl,
        cmd,
        Ifreq("em0") if "GIF" in cmd and "MTU" not in cmd else Ifgroupreq("em0"),
    )


def test_flags_of_the_driver_are_not_counted():
    _, ifp, _ = ethernet()
    with pytest.raises(KernelPanic, match="2672"):
        if_setflag(ifp, IFF.RUNNING, 0, "if_pcount", True)
    ifp.if_pcount = -1
    with pytest.raises(KernelPanic, match="2676"):
        ifp.ifpromisc(1)
    ifp.if_pcount = 0


def test_references_cannot_be_given_back_twice():
    _, ifp, _ = ethernet()
    with pytest.raises(KernelPanic, match="481"):
        ifp.if_rele()
    ifp.if_detach()
    ifp.if_free()
    with pytest.raises(KernelPanic, match="537"):
        ifp.if_rele()
    with pytest.raises(KernelPanic, match="509"):
        ifp.if_free()


def test_the_lists_are_held_still_by_the_one_lock():
    _, ifp, _ = ethernet()
    with ifp.if_addr_rlock(), ifp.if_maddr_rlock():
        pass
    ifp.if_addr_rlock()
    ifp.if_addr_runlock()
    with pytest.raises(KernelPanic, match="1409"):
        ifp.if_maddr_runlock()


# groups, names, sockaddrs


def test_the_unspecified_group_of_ipv6_stands_for_all():
    _, ifp, _ = ethernet()
    assert ether_resolvemulti(ifp, as_sockaddr("::")) is None
    assert ifp.if_flags & IFF.ALLMULTI
    refused(errno.EADDRNOTAVAIL, ether_resolvemulti, ifp, as_sockaddr("2001:db8::1"))
    refused(errno.EADDRNOTAVAIL, ether_resolvemulti, ifp, as_sockaddr("192.0.2.1"))
    refused(errno.EADDRNOTAVAIL, ether_resolvemulti, ifp, lladdr("02:00:00:00:00:01"))


def test_things_say_what_they_are():
    vnet, ifp, _ = ethernet()
    ifa = ifp.ifa_add("192.0.2.1")
    ifma = ifp.if_addmulti("224.0.0.5")
    ifp.if_addgroup("lab")
    assert [repr(thing) for thing in (vnet, ifp, ifa, ifma, ifp.if_groups[1])] == [
        "<Vnet v0>",
        "<Ifnet v0:em0 index=1>",
        "<Ifaddr em0 192.0.2.1 refs=1>",
        "<Ifmultiaddr em0 224.0.0.5 refs=1>",
        "<Group lab ['em0']>",
    ]
    ifp.if_purgeaddrs()
    assert ifma in ifp.if_multiaddrs
    assert len(ifp.if_multiaddrs) == 2
    ifp.if_detach()
    assert repr(ifma) == "<Ifmultiaddr - 224.0.0.5 refs=0>"
    assert str(SockaddrDl(sdl_index=3)) == "link#3"
    index = vnet.ifindex_alloc_locked()
    assert vnet.ifnet_byindex(index) is None
    assert repr(vnet._ifindex_table[index]) == "IFNET_HOLD"


# frames


def test_a_packet_gets_sources_of_the_interface_and_destinations_of_its_group():
    _, ifp, driver = ethernet()
    ifp.ifa_add("192.0.2.1")
    ifp.ifa_add("2001:db8::1")
    for packet in (
        Ether() / IP(dst="224.0.0.5"),
        Ether() / IPv6(dst="ff02::5"),
        Ether() / ARP(pdst="192.0.2.9"),
    ):
        ifp.if_transmit(packet)

    first, second, third = (Ether(frame_of(m)) for m in driver.sent)
    assert (first.dst, first[IP].src) == ("01:00:5e:00:00:05", "192.0.2.1")
    assert (second.dst, second[IPv6].src) == ("33:33:00:00:00:05", "2001:db8::1")
    assert (third.dst, third[ARP].psrc) == ("ff:ff:ff:ff:ff:ff", "192.0.2.1")
    assert third[ARP].hwsrc == third.src == ifp.lladdr.hex(":")


def test_without_addresses_a_packet_names_none():
    filled = fill_in(Ether() / IPv6(dst="2001:db8::9"))
    assert (filled[IPv6].src, filled.src) == ("::", "00:00:00:00:00:00")
    complete = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    assert fill_in(complete) is complete
    many = fill_in(Ether() / IP(dst=["192.0.2.1", "192.0.2.2"]))
    assert many.dst == "ff:ff:ff:ff:ff:ff"


def test_what_begins_above_ethernet_is_no_frame():
    assert lacks_ethernet(IP())
    assert lacks_ethernet(Dot1Q())
    assert not lacks_ethernet(Ether())
    with pytest.raises(TypeError, match="put Ether"):
        octets_of(ARP())
    assert octets_of(bytearray(b"x")) == b"x"


def gso(kind, size, start, octets, flags=1):
    return struct.pack("<BBHHHH", flags, kind, start, size, start, 16) + octets


@pytest.mark.parametrize(
    ("m", "text"),
    [
        (gso(1, 0, 34, bytes(100)), "transport header at octet 34"),
        (gso(1, 500, 34, bytes(100)), "transport header at octet 34"),
        (gso(1, 500, 34, bytes(14) + b"\x45" + bytes(30)), "ends in its TCP header"),
        (gso(1, 500, 34, bytes(14) + b"\x45" + bytes(100)), "a length that cannot be"),
        (gso(9, 500, 34, bytes(14) + b"\x45" + bytes(100)), "unknown kind 9"),
    ],
)
def test_a_super_frame_that_cannot_be_cut_is_refused(m, text):
    with pytest.raises(OffloadError, match=text):
        finish(m, 0)
    assert wire_frames(mbuf(frame("x"))) == 1


def test_a_queue_of_its_own_has_no_regulator_of_a_kernel():
    refused(errno.ENXIO, Ifqueue(2).tbr_set, object())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Ifreq("em0", ifr_mtu="1400"), "ifr_mtu takes a number, not '1400'"),
        (lambda: Ifreq(5), "ifr_name takes a name, not 5"),
        (
            lambda: Ifreq("em0", ifr_addr="192.0.2.1"),
            "ifr_addr takes a Sockaddr, which as_sockaddr() makes of a text, not '192.0.2.1'",
        ),
        (lambda: Ifgroupreq("em0", None), "ifgr_group takes a name, not None"),
        (lambda: Ifgroupreq("em0", "lab", "16"), "ifgr_len takes a number, not '16'"),
        (
            lambda: Ifaliasreq("em0", ifra_mask=24),
            "ifra_mask takes a Sockaddr, which as_sockaddr() makes of a text, not 24",
        ),
    ],
)
def test_a_field_of_the_wrong_type_is_named_before_anything_is_done(make, text):
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value) == text
