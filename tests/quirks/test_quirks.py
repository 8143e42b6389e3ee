"""One test for each row of README.md."""

import errno
import threading

import pytest

from iflab.net import (
    IFF,
    IFT,
    RTF,
    Arpcom,
    Ifconf,
    Ifgroupreq,
    Ifreq,
    Kernel,
    KernelPanic,
    LinkState,
    Rtentry,
    SockaddrDl,
    Stack,
    UserBuffer,
    as_sockaddr,
    errno_name,
    ether_ifattach,
    if_delmulti_ifma,
    if_handoff,
    ifa_switch_loopback_route,
    lladdr,
    mbuf,
)
from iflab.net.rtsock import IfMessage, MaddrMessage

from ..pure.doubles import RecordingDriver, ethernet, frame

GROUP_MAC = lladdr("01:00:5e:00:00:05")


def code(fn, *args, **kwargs):
    """The errno that a call raises."""
    try:
        fn(*args, **kwargs)
    except OSError as refused:
        return errno_name(refused.errno)
    return "0"


def messages(kernel, kind):
    """Routing messages of a kind, from now on."""
    heard = []
    kernel.rtsock.listen(lambda message: heard.append(message) if isinstance(message, kind) else None)
    return heard


def second_vnet(vnet):
    return vnet.kernel.vnet_alloc("other", is_default=False)


class Routes(Stack):
    """One routing table that remembers."""

    rt_numfibs = 2

    def __init__(self):
        self.routes = []
        self.told = []

    def rt_walktree(self, family, fib):
        return [rt for rt in self.routes if rt.rt_key.family is family and rt.rt_fibnum == fib]

    def rtrequest_fib(self, cmd, rt, fib):
        self.routes.remove(rt)

    def rtalloc1_fib(self, sa, fib):
        return self.routes[0] if self.routes else None

    def nd6_setmtu(self, ifp):
        self.told.append(("mtu", ifp.if_mtu))

    def pru_control(self, cmd, data, ifp, td):
        self.told.append(cmd)


def test_quirk_01_an_unattached_interface_can_be_freed():
    vnet = Kernel().vnet_alloc("v")
    ifp = vnet.if_alloc(IFT.ETHER)

    ifp.if_free()

    assert vnet.kernel.live()["ifnet"] == 0
    assert vnet.if_index == 0


def test_quirk_02_no_free_index_is_an_error():
    vnet = Kernel().vnet_alloc("v")
    for _ in range(65535):
        vnet.ifindex_alloc_locked()

    assert code(vnet.if_alloc, IFT.ETHER) == "ENOSPC"
    vnet.ifindex_free(40000)
    assert vnet.if_alloc(IFT.ETHER).if_index == 40000


def test_quirk_03_the_first_table_has_sixteen_slots():
    assert Kernel().vnet_alloc("v").if_indexlim == 16


def test_quirk_04_threads_that_grow_the_table_get_indexes_of_their_own():
    vnet = Kernel().vnet_alloc("v")
    got = []

    def take():
        got.extend(vnet.if_alloc(IFT.OTHER).if_index for _ in range(100))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(got) == list(range(1, 401))
    assert vnet.if_indexlim == 512


def test_quirk_05_a_failing_companion_leaves_no_index():
    vnet = Kernel().vnet_alloc("v")
    vnet.kernel.if_register_com_alloc(IFT.ETHER, lambda t, ifp: None, lambda l2, t: None)

    assert code(vnet.if_alloc, IFT.ETHER) == "ENOMEM"

    assert vnet.if_index == 0
    assert vnet.kernel.live()["ifnet"] == 0


def test_quirk_06_companions_are_freed_by_who_made_them():
    vnet = Kernel().vnet_alloc("v")
    freed = []
    vnet.kernel.if_register_com_alloc(
        IFT.ETHER, lambda t, ifp: "first", lambda l2, t: freed.append(("first", l2))
    )
    with_data = vnet.if_alloc(IFT.ETHER)
    vnet.kernel.if_deregister_com_alloc(IFT.ETHER)
    without = vnet.if_alloc(IFT.ETHER)
    vnet.kernel.if_register_com_alloc(
        IFT.ETHER, lambda t, ifp: "other", lambda l2, t: freed.append(("other", l2))
    )

    with_data.if_free()
    without.if_free()

    assert freed == [("first", "first")]


def test_quirk_07_a_second_attach_is_refused():
    vnet, ifp, _ = ethernet()

    assert code(ifp.if_attach) == "EEXIST"

    assert vnet.ifnets() == (ifp,)
    assert len(ifp.if_addrhead) == 1


def test_quirk_08_assertions_of_attach_come_after_joining_all():
    vnet = Kernel().vnet_alloc("v")
    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_driver = RecordingDriver()
    ifp.if_hw_tsomax = 1

    with pytest.raises(KernelPanic, match=r"tsomax outside of range \(sys/net/if.c 661\)"):
        ifp.if_attach()

    assert [group.ifg_group for group in ifp.if_groups] == ["all"]
    assert ifp.if_addr is not None
    assert not vnet.lists(ifp)


def test_quirk_09_joining_all_that_fails_comes_out_of_attach(monkeypatch):
    def no_memory(ifp, name):
        raise OSError(errno.ENOMEM, name)

    vnet = Kernel().vnet_alloc("v")
    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_driver = RecordingDriver()
    monkeypatch.setattr("iflab.net.attach.if_addgroup", no_memory)

    assert code(ifp.if_attach) == "ENOMEM"

    assert not vnet.lists(ifp)


def test_quirk_09_who_is_in_all_already_attaches_all_the_same():
    vnet = Kernel().vnet_alloc("v")
    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_driver = RecordingDriver()
    ifp.if_addgroup("all")

    ifp.if_attach()

    assert vnet.lists(ifp)
    assert [group.ifg_group for group in ifp.if_groups] == ["all"]


def test_quirk_10_detaching_the_unlisted_is_silent_and_moving_it_panics():
    vnet, ifp, _ = ethernet()
    ifp.if_detach()

    ifp.if_detach()
    with pytest.raises(KernelPanic, match="not on the ifnet tailq"):
        ifp.if_vmove(second_vnet(vnet))


def test_quirk_11_detach_goes_through_down_even_if_it_was_down():
    vnet, ifp, _ = ethernet()
    heard = messages(vnet.kernel, IfMessage)

    ifp.if_detach()

    assert len(heard) == 1


def test_quirk_12_detach_frees_the_link_address_itself():
    vnet, ifp, _ = ethernet()
    link = ifp.if_addr
    ifp.if_addrhead.remove(link)
    other = ifp.ifa_add(lladdr("02:00:00:00:00:99"))  # a second link-level address, now the first of the list
    ifp.if_addrhead.insert_tail(link)

    ifp.if_detach()

    assert link.ifa_refcnt == 0
    assert other.ifa_refcnt == 1
    assert vnet.kernel.live()["ifaddr"] == 1


@pytest.mark.parametrize("empty", ["purge", "delallmulti"])
def test_quirk_13_emptying_the_list_survives_memberships_that_free_each_other(empty):
    vnet, ifp, _ = ethernet()
    for group in ("224.0.0.5", "224.0.0.6", "ff02::1"):
        ifp.if_addmulti(group)

    if empty == "purge":
        ifp.if_detach()
    else:
        ifp.if_delallmulti()

    assert list(ifp.if_multiaddrs) == []
    assert vnet.kernel.live()["ether_multi"] == 0


def test_quirk_14_a_holder_keeps_an_orphan_that_answers_for_nothing():
    vnet, ifp, driver = ethernet()
    ifma = ifp.if_addmulti("224.0.0.5")
    ifp.if_addmulti("224.0.0.5")
    other = second_vnet(vnet)

    ifp.if_vmove(other)

    assert list(ifp.if_multiaddrs) == []
    assert (ifma.ifma_ifp, ifma.ifma_refcount) == (None, 1)
    fresh = ifp.if_addmulti("224.0.0.5")  # the list is sound: a new one can be made and taken along
    assert fresh is not ifma
    driver.commands.clear()
    if_delmulti_ifma(ifma)
    assert driver.commands == []
    assert fresh in ifp.if_multiaddrs
    ifp.if_detach()
    assert vnet.kernel.live()["ether_multi"] == 0


def test_quirk_15_an_orphan_holds_its_link_membership():
    vnet, ifp, _ = ethernet()
    ifma = ifp.if_addmulti("224.0.0.5")
    ifp.if_addmulti("224.0.0.5")
    ifp.if_detach()

    assert ifma.ifma_llifma.ifma_refcount == 1
    assert vnet.kernel.live()["ether_multi"] == 5
    if_delmulti_ifma(ifma)

    assert vnet.kernel.live()["ether_multi"] == 0
    with pytest.raises(KernelPanic, match="if_freemulti: refcount -1"):
        if_delmulti_ifma(ifma)


def test_quirk_16_the_link_membership_that_goes_along_is_told_of():
    vnet, ifp, _ = ethernet()
    ifp.if_addmulti("224.0.0.5")
    heard = messages(vnet.kernel, MaddrMessage)

    ifp.if_detach()

    assert [(str(m.address), m.new) for m in heard] == [("224.0.0.5", False), ("01:00:5e:00:00:05", False)]


def test_quirk_17_new_is_told_of_each_but_the_implied_and_del_only_at_detach():
    vnet, ifp, _ = ethernet()
    heard = messages(vnet.kernel, MaddrMessage)

    ifp.if_addmulti("224.0.0.5")
    ifp.if_addmulti("224.0.0.5")
    ifp.if_delmulti("224.0.0.5")
    ifp.if_delmulti("224.0.0.5")

    assert [(str(m.address), m.new) for m in heard] == [("224.0.0.5", True)]


def test_quirk_18_delallmulti_drops_one_reference_each_in_silence():
    vnet, ifp, driver = ethernet()
    ifp.if_addmulti(GROUP_MAC)
    ifp.if_addmulti(GROUP_MAC)
    driver.commands.clear()
    heard = messages(vnet.kernel, MaddrMessage)

    ifp.if_delallmulti()

    assert ifp.if_findmulti(GROUP_MAC).ifma_refcount == 1
    assert driver.commands == []
    assert heard == []


def test_quirk_19_drivers_cannot_refuse_a_group():
    _, ifp, driver = ethernet()
    driver.fails = {"SIOCADDMULTI": errno.EIO, "SIOCDELMULTI": errno.EIO}

    ifp.if_addmulti(GROUP_MAC)
    ifp.if_delmulti(GROUP_MAC)

    assert driver.commands == ["SIOCADDMULTI", "SIOCDELMULTI"]


def test_quirk_20_addresses_are_the_same_by_family_length_and_octets():
    _, ifp, _ = ethernet()
    ifp.if_addmulti("224.0.0.1")

    assert ifp.if_findmulti(SockaddrDl(sdl_lladdr=bytes((224, 0, 0, 1)))) is None
    assert ifp.if_findmulti(SockaddrDl(sdl_lladdr=b"\x01\x00\x5e")) is None
    assert ifp.if_findmulti(lladdr("01:00:5e:00:00:01")) is not None


def test_quirk_21_an_address_longer_than_its_field_is_refused():
    vnet, ifp, _ = ethernet()

    assert code(vnet.ioctl, "SIOCADDMULTI", Ifreq("em0", ifr_addr=GROUP_MAC, ifr_addrlen=255)) == "EINVAL"

    assert list(ifp.if_multiaddrs) == []


def test_quirk_22_up_comes_before_the_other_flags_and_the_driver_is_not_heard():
    vnet, ifp, driver = ethernet()
    driver.fails["SIOCSIFFLAGS"] = errno.EIO
    heard = messages(vnet.kernel, IfMessage)

    vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=IFF.UP | IFF.DEBUG | IFF.LOOPBACK | IFF.RENAMING))

    assert [m.flags & (IFF.UP | IFF.DEBUG) for m in heard] == [IFF.UP]
    assert ifp.if_flags & (IFF.DEBUG | IFF.LOOPBACK | IFF.RENAMING)


def test_quirk_23_with_ppromisc_ifpromisc_only_counts():
    vnet, ifp, driver = ethernet()
    said = []
    vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=ifp.if_flags | IFF.PPROMISC))
    vnet.kernel.console.listeners.append(lambda level, text: said.append(text))
    driver.commands.clear()
    assert ifp.if_pcount == 0

    ifp.ifpromisc(1)

    assert ifp.if_pcount == 1
    assert (driver.commands, said) == ([], [])


def test_quirk_24_switching_off_is_undone_when_the_driver_fails():
    _, ifp, driver = ethernet()
    ifp.ifpromisc(1)
    driver.fails["SIOCSIFFLAGS"] = errno.EBUSY

    assert code(ifp.ifpromisc, 0) == "EBUSY"

    assert ifp.if_pcount == 1
    assert ifp.if_flags & IFF.PROMISC


def test_quirk_25_the_range_of_the_mtu_comes_first_and_ipv6_hears_of_any_change():
    stack = Routes()
    vnet, _, driver = ethernet(stack=stack)
    assert code(vnet.ioctl, "SIOCSIFMTU", Ifreq("em0", ifr_mtu=71)) == "EINVAL"
    assert driver.commands == []

    def half_done(ifp, cmd, data):
        ifp.if_mtu = 1300
        raise OSError(errno.EIO, "half done")

    driver.if_ioctl = half_done
    heard = messages(vnet.kernel, IfMessage)
    assert code(vnet.ioctl, "SIOCSIFMTU", Ifreq("em0", ifr_mtu=1300)) == "EIO"

    assert stack.told == [("mtu", 1300)]
    assert heard == []


def test_quirk_26_the_lladdr_event_comes_after_failure_too():
    vnet, ifp, driver = ethernet()
    heard = []
    vnet.kernel.events.register("iflladdr_event", heard.append)
    driver.fails["SIOCSIFFLAGS"] = errno.EIO
    ifp.if_up()
    quiet = messages(vnet.kernel, IfMessage)

    assert code(vnet.ioctl, "SIOCSIFLLADDR", Ifreq("em0", ifr_addr=lladdr("02:00"))) == "EINVAL"
    assert heard == [ifp]
    ifp.if_setlladdr(b"\x02\0\0\0\0\x77")

    assert heard == [ifp]
    assert quiet == []
    assert ifp.if_flags & IFF.UP
    assert ifp.lladdr == b"\x02\0\0\0\0\x77"


def test_quirk_27_a_description_that_does_not_fit_tells_its_length():
    vnet, ifp, _ = ethernet()
    ifp.set_description("uplink")

    short = vnet.ioctl("SIOCGIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(3)))
    assert (short.ifr_buffer.length, short.ifr_buffer.data) == (7, None)
    faulty = Ifreq("em0", ifr_buffer=UserBuffer(99, fault=True))
    assert code(vnet.ioctl, "SIOCGIFDESCR", faulty) == "EFAULT"
    assert faulty.ifr_buffer.length == 7


def test_quirk_28_a_description_of_one_octet_is_empty_but_there():
    vnet, ifp, _ = ethernet()

    vnet.ioctl("SIOCSIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(1, "x")))

    assert ifp.if_description == ""
    assert vnet.ioctl("SIOCGIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(9))).ifr_buffer.length == 1


def test_quirk_29_a_new_name_must_be_new_and_the_driver_name_stays():
    vnet, ifp, _ = ethernet()
    before = ifp.if_lastchange

    def rename(name):
        vnet.ioctl("SIOCSIFNAME", Ifreq(ifp.if_xname, ifr_buffer=UserBuffer(16, name)))

    assert code(rename, "em0") == "EEXIST"
    rename("wän ß")
    assert (ifp.if_xname, ifp.if_dname, ifp.if_dunit, ifp.if_lastchange) == ("wän ß", "em", 0, before)
    assert vnet.ifunit("wän ß") is ifp
    assert vnet.ifunit("em0") is None


def test_quirk_30_fib_leaves_lastchange_and_takes_no_negative():
    vnet, ifp, _ = ethernet(stack=Routes())
    ifp.if_lastchange = 1.0

    vnet.ioctl("SIOCSIFFIB", Ifreq("em0", ifr_fib=1))

    assert (ifp.if_fib, ifp.if_lastchange) == (1, 1.0)
    assert code(vnet.ioctl, "SIOCSIFFIB", Ifreq("em0", ifr_fib=-1)) == "EINVAL"


def test_quirk_31_group_lists_copy_what_fits_and_fail():
    vnet, ifp, _ = ethernet()
    ifp.if_addgroup("lab")
    short = Ifgroupreq("em0", ifgr_len=31)

    assert code(vnet.ioctl, "SIOCGIFGROUP", short) == "EINVAL"
    assert short.ifgr_groups.data == ["all"]
    roomy = vnet.ioctl("SIOCGIFGROUP", Ifgroupreq("em0", ifgr_len=640))
    assert roomy.ifgr_len == 640
    assert code(vnet.ioctl, "SIOCGIFGROUP", Ifgroupreq("em0", ifgr_len=-1)) == "EINVAL"


def test_quirk_32_long_group_names_are_cut_at_the_door():
    vnet, ifp, _ = ethernet()
    ifp.if_addgroup("a-very-long-group-name")

    assert code(ifp.if_addgroup, "a-very-long-group-name") == "EEXIST"
    assert code(ifp.if_addgroup, "a-very-long-grouch") == "EEXIST"
    assert "a-very-long-gro" in vnet.groups
    ifp.if_addgroup("")
    ifp.if_addgroup("cut\0here")
    assert "cut" in vnet.groups
    ifp.if_delgroup("a-very-long-group-name")
    assert "a-very-long-gro" not in vnet.groups


def test_quirk_33_a_listener_of_the_detach_event_may_make_the_group_anew():
    vnet, ifp, _ = ethernet()
    ifp.if_addgroup("lab")
    order = []
    vnet.kernel.events.register("group_change_event", lambda name: order.append("change"))

    def again(group):
        order.append("detach")
        if len(order) == 1:
            ifp.if_addgroup("lab")

    vnet.kernel.events.register("group_detach_event", again)
    ifp.if_delgroup("lab")

    assert order == ["detach", "change", "change"]
    assert vnet.groups["lab"].ifg_members == [ifp]


def test_quirk_34_a_hole_in_the_table_has_no_address():
    vnet, ifp, _ = ethernet()
    _, second, _ = ethernet(vnet.kernel, unit=1)
    ifp.if_detach()
    ifp.if_free()

    assert vnet.ifaddr_byindex(1) is None
    assert vnet.ifaddr_byindex(99) is None
    assert vnet.ifa_ifwithnet("link#1") is None
    assert vnet.ifa_ifwithnet("link#2", fib=1) is second.if_addr


def test_quirk_35_order_decides_between_real_and_finer():
    vnet, ifp, _ = ethernet()
    shared = ifp.ifa_add("10.0.0.1", "255.255.255.0")
    real = ifp.ifa_add("10.0.0.2", "255.0.0.0")
    shared.ifa_carp = "group"
    assert vnet.ifa_ifwithnet("10.0.0.9") is real
    real.ifa_free()

    ifp.ifa_remove(shared)
    shared = ifp.ifa_add("10.0.0.1", "255.255.255.0")
    shared.ifa_carp = "group"
    assert vnet.ifa_ifwithnet("10.0.0.9") is shared  # the same two, met in the other order


def test_quirk_36_an_exact_far_end_wins_for_ipv4_only():
    vnet, ifp, _ = ethernet()
    ifp.ifa_add("10.0.0.1", "255.255.255.255")
    ifp.ifa_add("2001:db8::1", "ffff:ffff:ffff:ffff::")
    _, tunnel, _ = ethernet(vnet.kernel, unit=1)
    tunnel.if_flags = tunnel.if_flags & ~IFF.BROADCAST | IFF.POINTOPOINT
    far = tunnel.ifa_add("172.16.0.1", "255.0.0.0", "10.0.0.1")
    tunnel.ifa_add("fe80::1", "ffff::", "2001:db8::1")

    assert vnet.ifa_ifwithnet("10.0.0.1") is far
    assert vnet.ifa_ifwithnet("10.0.0.1", ignore_ptp=True) is not far
    assert str(vnet.ifa_ifwithnet("2001:db8::1").ifa_addr) == "2001:db8::1"


def test_quirk_37_without_carp_nobody_is_master():
    vnet, ifp, _ = ethernet()
    one, other = (ifp.ifa_add(f"10.0.0.{n}", "255.0.0.0") for n in (1, 2))
    one.ifa_carp = other.ifa_carp = "group"
    vnet.kernel.hooks.carp_master_p = None

    assert vnet.ifa_ifwithnet("10.9.9.9") is one


def test_quirk_38_first_fit_and_a_missing_far_end_is_no_match():
    _, ifp, _ = ethernet()
    first = ifp.ifa_add("10.0.0.1", "255.0.0.0")
    ifp.ifa_add("10.1.1.1", "255.255.255.0")
    assert ifp.ifaof_ifpforaddr("10.1.1.9") is first

    ifp.if_flags |= IFF.POINTOPOINT
    far = ifp.ifa_add("10.2.2.2", "255.255.255.0", "10.1.1.9")
    assert ifp.ifaof_ifpforaddr("10.1.1.9") is far
    assert ifp.ifaof_ifpforaddr("10.7.7.7") is first


def test_quirk_39_a_mac_is_found_by_its_octets():
    vnet, ifp, _ = ethernet()

    assert vnet.ifa_ifwithaddr("02:00:00:00:00:01") is ifp.if_addr
    assert vnet.ifa_ifwithaddr("02:00:00:00:00:02") is None


def test_quirk_40_only_a_link_level_gateway_is_written_to():
    stack = Routes()
    vnet, ifp, _ = ethernet(stack=stack)
    ifa = ifp.ifa_add("10.0.0.1", "255.0.0.0")
    gateway = as_sockaddr("192.0.2.1")
    stack.routes = [Rtentry(ifa.ifa_addr, rt_gateway=gateway)]

    ifa_switch_loopback_route(ifa, ifa.ifa_addr, 0)
    assert stack.routes[0].rt_gateway == gateway
    stack.routes[0].rt_gateway = SockaddrDl()
    ifa_switch_loopback_route(ifa, ifa.ifa_addr, 0)

    assert stack.routes[0].rt_gateway.sdl_index == vnet.ifunit("em0").if_index


def test_quirk_41_routes_that_stay_do_not_point_to_the_gone():
    stack = Routes()
    _, ifp, _ = ethernet(stack=stack)
    up, down, pinned = (
        Rtentry(as_sockaddr(f"10.{n}.0.0"), rt_flags=flags, rt_ifp=ifp)
        for n, flags in ((1, RTF.UP), (2, 0), (3, RTF.UP | RTF.PINNED))
    )
    stack.routes = [up, down, pinned]

    ifp.if_detach()

    assert stack.routes == [down]
    assert down.rt_ifp is None


def test_quirk_42_there_are_three_link_states():
    _, ifp, _ = ethernet()

    assert code(ifp.if_link_state_change, 257) == "EINVAL"

    assert ifp.if_link_state is LinkState.UNKNOWN


def test_quirk_43_a_dying_interface_has_no_link():
    vnet, ifp, _ = ethernet()
    ifp.if_ref()
    ifp.if_detach()
    ifp.if_link_state_change(LinkState.UP)
    ifp.if_free()
    ifp.if_link_state_change(LinkState.DOWN)

    assert vnet.kernel.taskqueue_swi.run() == 0
    ifp.if_rele()


def test_quirk_44_missing_companions_and_hooks_are_passed_over():
    vnet, ifp, _ = ethernet()
    assert ifp.if_l2com is None
    ifp.if_carp = ifp.if_bridge = ifp.if_lagg = ifp.if_vlantrunk = object()
    ifp.if_link_state_change(LinkState.UP)
    vnet.kernel.taskqueue_swi.run()

    ifp.if_l2com = Arpcom(ifp, ac_netgraph=object())
    ifp.if_link_state_change(LinkState.DOWN)
    assert vnet.kernel.taskqueue_swi.run() == 1


def test_quirk_45_broadcast_counts_as_multicast_in_handoff_alone():
    _, ifp, _ = ethernet()
    broadcast = mbuf(frame("x", dst=b"\xff" * 6))

    ifp.transmit_mbuf(broadcast)
    assert ifp.if_omcasts == 0
    assert if_handoff(ifp.if_snd, broadcast, ifp) is True

    assert ifp.if_omcasts == 1


def test_quirk_46_ifconf_of_nothing_is_refused_and_the_rest_left_out():
    vnet, ifp, _ = ethernet()
    ifp.ifa_add("10.0.0.1", "255.0.0.0")

    assert code(vnet.ioctl, "SIOCGIFCONF", Ifconf(0)) == "EINVAL"
    part = vnet.ioctl("SIOCGIFCONF", Ifconf(100))
    assert (part.ifc_len, len(part.ifc_req.data)) == (72, 1)
    faulty = Ifconf(4096, UserBuffer(fault=True))
    assert code(vnet.ioctl, "SIOCGIFCONF", faulty) == "EFAULT"
    assert faulty.ifc_len == 104


def test_quirk_47_a_drivers_enoioctl_goes_on_to_the_protocol():
    stack = Routes()
    vnet, _, driver = ethernet(stack=stack)
    driver.fails["SIOCSIFMEDIA"] = -3

    vnet.ioctl("SIOCSIFMEDIA", Ifreq("em0"))

    assert stack.told == ["SIOCSIFMEDIA"]


def test_quirk_48_loan_and_reclaim_look_for_twins():
    vnet, ifp, _ = ethernet()
    other = second_vnet(vnet)
    twin = other.if_alloc(IFT.ETHER)
    twin.if_initname("em", 0)
    twin.if_driver = RecordingDriver()
    ether_ifattach(twin, b"\x02\0\0\0\0\x09")
    jid = other.prison.pr_id

    assert code(vnet.ioctl, "SIOCSIFVNET", Ifreq("em0", ifr_jid=jid)) == "EEXIST"
    assert code(vnet.ioctl, "SIOCSIFRVNET", Ifreq("em0", ifr_jid=jid)) == "EEXIST"
    assert (vnet.ifnets(), other.ifnets()) == ((ifp,), (twin,))
    assert code(vnet.ioctl, "SIOCSIFVNET", Ifreq("em0", ifr_jid=99)) == "ENXIO"


def test_quirk_49_what_a_move_keeps_and_loses():
    vnet, ifp, driver = ethernet()
    other = second_vnet(vnet)
    ifp.set_description("kept")
    ifp.ifpromisc(1)
    ifp.if_snd.ifq_maxlen = 7
    ifp.if_up()
    ifp.ifa_add("10.0.0.1", "255.0.0.0")
    ifp.if_addgroup("lab")
    seen = []
    driver.if_reassign = lambda ifp, new: seen.append((ifp.if_vnet is vnet, vnet.lists(ifp), new.lists(ifp)))

    ifp.if_vmove(other)

    assert seen == [(True, False, False)]
    assert (ifp.if_description, ifp.if_pcount, ifp.if_snd.ifq_maxlen, ifp.if_home_vnet) == (
        "kept",
        1,
        7,
        vnet,
    )
    assert not ifp.if_flags & IFF.UP
    assert [str(ifa.ifa_addr) for ifa in ifp.if_addrhead] == ["02:00:00:00:00:01"]
    assert [group.ifg_group for group in ifp.if_groups] == ["all"]


def test_quirk_50_per_family_data_goes_with_the_attachment():
    _, ifp, _ = ethernet()
    ifp.if_afdata = dict.fromkeys([2], "data")

    ifp.if_detach()

    assert ifp.if_afdata == {}


def test_quirk_51_the_last_release_of_the_living_counts_nothing():
    _, ifp, _ = ethernet()

    with pytest.raises(KernelPanic, match="if_free_internal: interface not dying"):
        ifp.if_rele()

    assert ifp.if_refcount == 1


def test_quirk_52_walks_and_changes_of_the_list_do_not_meet():
    _, ifp, _ = ethernet()
    failed = []

    def change():
        for n in range(200):
            ifp.ifa_remove(ifp.ifa_add(f"10.0.0.{n}", "255.0.0.0"))

    def walk():
        try:
            for _ in range(100):
                ifp.if_up()
                ifp.if_down()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=change), threading.Thread(target=walk)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert len(ifp.if_addrhead) == 1
