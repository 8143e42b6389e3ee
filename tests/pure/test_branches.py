"""Small promises of the interface layer, each kept by one branch of its code."""

import errno

import pytest

from iflab.net import (
    IFF,
    IFG_ALL,
    IFT,
    NO_PKTHDR,
    PRC,
    RTF,
    AddressFamily,
    Cloner,
    Domain,
    Driver,
    Ifgroupreq,
    Ifqueue,
    Ifreq,
    Kernel,
    KernelPanic,
    LinkState,
    Rtentry,
    SockaddrDl,
    SockaddrIn6,
    Stack,
    Task,
    TaskQueue,
    UserBuffer,
    as_sockaddr,
    ifa_add_loopback_route,
    ifa_del_loopback_route,
    ifa_switch_loopback_route,
    is_broadcast,
    is_multicast,
    mbuf,
)
from iflab.net.flags import IP_MAXPACKET
from iflab.net.ifqueue import ifq_delete
from iflab.net.sysctl import SysctlTree

from .devices import refused
from .doubles import RecordingDriver, disc_cloner, discard, ethernet, frame


def bare(vnet, name="x", unit=0, **fields):
    """An interface that is allocated, and not attached yet."""
    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_initname(name, unit)
    ifp.if_driver = RecordingDriver()
    for field, value in fields.items():
        setattr(ifp, field, value)
    return ifp


class UnwillingStack(Stack):
    """Refuses every change that it is asked for."""

    def __init__(self):
        self.asked = []

    def consent(self, ifp, what, value):
        self.asked.append((what, value))
        raise OSError(errno.EBUSY, "no")


# coming and going


@pytest.mark.parametrize("size", [IP_MAXPACKET // 8, IP_MAXPACKET])
def test_the_ends_of_the_range_of_tsomax_are_in_it(size):
    ifp = bare(Kernel().vnet_alloc("v"), if_hw_tsomax=size)

    ifp.if_attach()

    assert ifp.if_hw_tsomax == size


@pytest.mark.parametrize("size", [1, IP_MAXPACKET // 8 - 1, IP_MAXPACKET + 1])
def test_a_tsomax_out_of_range_panics_before_the_interface_is_listed(size):
    vnet = Kernel().vnet_alloc("v")
    ifp = bare(vnet, if_hw_tsomax=size)

    with pytest.raises(KernelPanic, match="tsomax outside of range"):
        ifp.if_attach()

    assert vnet.ifnets() == ()


def test_the_mask_of_the_link_level_address_covers_the_name():
    _, ifp, _ = ethernet()
    assert ifp.if_addr.ifa_netmask.sdl_name == "em0"


def test_a_rename_makes_a_mask_for_the_new_name():
    vnet, ifp, _ = ethernet()
    old_mask = ifp.if_addr.ifa_netmask

    vnet.ioctl("SIOCSIFNAME", Ifreq("em0", ifr_buffer=UserBuffer(16, "uplink0")))

    assert (ifp.if_xname, ifp.link_sockaddr().sdl_name) == ("uplink0", "uplink0")
    assert ifp.if_addr.ifa_netmask.sdl_name == "uplink0"
    assert old_mask.sdl_name == "em0"


def test_an_attach_forgets_what_stood_for_the_broadcast_address():
    ifp = bare(Kernel().vnet_alloc("v"), if_broadcastaddr=b"stale")

    ifp.if_attach()

    assert ifp.if_broadcastaddr is None


def test_domains_that_come_up_later_begin_with_clean_tables():
    kernel = Kernel()
    kernel.domains = [Domain("old", AddressFamily.INET, lambda ifp: "old")]
    _, ifp, _ = ethernet(kernel)
    assert ifp.if_afdata == {AddressFamily.INET: "old"}

    kernel.domains = [Domain("new", AddressFamily.INET6, lambda ifp: "new")]
    kernel.domain_init_status += 1
    ifp.if_attachdomain1()

    assert ifp.if_afdata == {AddressFamily.INET6: "new"}


def test_domains_that_never_attached_are_told_of_no_detach():
    kernel = Kernel()
    told = []
    kernel.domains = [Domain("late", AddressFamily.INET, None, lambda ifp, data: told.append(data))]
    kernel.domain_init_status = 0
    _, ifp, _ = ethernet(kernel)
    ifp.if_afdata[AddressFamily.INET] = "somebody else's"

    ifp.if_detach()

    assert told == []


def test_a_link_level_address_that_was_taken_off_is_not_freed_twice():
    vnet, ifp, _ = ethernet()
    link = ifp.if_addr
    ifp.ifa_remove(link)

    ifp.if_detach()

    assert (link.ifa_refcnt, ifp.if_addr) == (0, None)
    assert vnet.kernel.live()["ifaddr"] == 0


def test_an_interface_is_not_lent_to_the_vnet_that_it_is_in():
    kernel = Kernel()
    there = kernel.vnet_alloc("there")
    here = kernel.vnet_alloc("here")
    ifp = bare(there)
    ifp.if_attach()
    index = ifp.if_index

    refused(
        errno.EEXIST,
        there.ioctl,
        "SIOCSIFVNET",
        Ifreq("x0", ifr_jid=there.prison.pr_id),
        here.thread(),
    )

    assert (ifp.if_vnet, ifp.if_index) == (there, index)


def test_a_vnet_with_an_interface_of_its_own_stays_and_tells_nobody():
    vnet, ifp, _ = ethernet()
    told = []
    for event in ("ifnet_departure_event", "ifnet_arrival_event"):
        vnet.kernel.events.register(event, told.append)

    with pytest.raises(KernelPanic, match="387"):
        vnet.kernel.vnet_destroy(vnet)

    assert told == []
    assert vnet.ifnets() == (ifp,)


def test_calls_return_to_the_vnet_that_they_came_from():
    kernel = Kernel()
    outer, inner = kernel.vnet_alloc("outer"), kernel.vnet_alloc("inner")

    with kernel.curvnet_set(outer):
        with kernel.curvnet_set(inner):
            assert kernel.curvnet is inner
        assert kernel.curvnet is outer

    assert kernel.curvnet is None


def test_layer_2_data_is_freed_under_the_type_that_it_was_made_for():
    kernel = Kernel()
    freed = []
    kernel.if_register_com_alloc(IFT.ETHER, lambda iftype, ifp: "common", lambda *what: freed.append(what))
    ifp = bare(kernel.vnet_alloc("v"))
    ifp.if_type = IFT.L2VLAN

    ifp.if_free()

    assert freed == [("common", IFT.ETHER)]


# up and down


class ListeningStack(Stack):
    """Keeps the addresses that it is told of."""

    def __init__(self):
        self.told = []

    def pfctlinput(self, cmd, sa):
        self.told.append((cmd, str(sa)))


@pytest.mark.parametrize(("change", "cmd"), [("if_unroute", PRC.IFDOWN), ("if_route", PRC.IFUP)])
def test_a_change_for_one_family_is_told_to_its_addresses_only(change, cmd):
    stack = ListeningStack()
    _, ifp, _ = ethernet(stack=stack)
    ifp.ifa_add("192.0.2.1")
    ifp.ifa_add("2001:db8::1")

    getattr(ifp, change)(AddressFamily.INET6)
    assert stack.told == [(cmd, "2001:db8::1")]
    stack.told.clear()
    getattr(ifp, change)()

    assert stack.told == [(cmd, "02:00:00:00:00:01"), (cmd, "192.0.2.1"), (cmd, "2001:db8::1")]


def test_carp_hears_of_going_down_when_the_queue_is_empty_already():
    vnet, ifp, _ = ethernet()
    seen = []
    ifp.if_carp = "a group"
    vnet.kernel.hooks.carp_linkstate_p = lambda ifp: seen.append((ifp.if_flags & IFF.UP, ifp.if_snd.ifq_len))
    ifp.if_up()
    ifp.if_drv_flags |= IFF.OACTIVE
    ifp.if_transmit(frame("waits"))

    ifp.if_down()

    assert seen == [(IFF.UP, 0), (0, 0)]
    assert ifp.if_snd.ifq_flushed == 1


@pytest.mark.parametrize(
    "iftype",
    [
        IFT.ETHER,
        IFT.FDDI,
        IFT.XETHER,
        IFT.ISO88025,
        IFT.L2VLAN,
        IFT.BRIDGE,
        IFT.ARCNET,
        IFT.IEEE8023ADLAG,
        IFT.IEEE80211,
    ],
)
def test_interfaces_of_these_types_take_another_mac(iftype):
    _, ifp, _ = ethernet()
    ifp.if_type = iftype

    ifp.if_setlladdr(b"\x02\0\0\0\0\x09")

    assert ifp.lladdr == b"\x02\0\0\0\0\x09"


@pytest.mark.parametrize("iftype", [IFT.OTHER, IFT.LOOP, IFT.TUNNEL, IFT.CARP])
def test_interfaces_of_other_types_keep_theirs(iftype):
    _, ifp, _ = ethernet()
    ifp.if_type = iftype

    refused(errno.ENODEV, ifp.if_setlladdr, b"\x02\0\0\0\0\x09")

    assert ifp.lladdr == b"\x02\0\0\0\0\x01"


def test_a_mac_that_the_protocols_refuse_is_not_taken():
    stack = UnwillingStack()
    _, ifp, driver = ethernet(stack=stack)
    ifp.if_up()

    refused(errno.EBUSY, ifp.if_setlladdr, b"\x02\0\0\0\0\x09")

    assert stack.asked == [("lladdr", b"\x02\0\0\0\0\x09")]
    assert ifp.lladdr == b"\x02\0\0\0\0\x01"
    assert driver.commands == []


def test_the_driver_can_tell_a_new_mac_from_going_down():
    _, ifp, driver = ethernet()
    seen = []
    driver.if_ioctl = lambda ifp, cmd, data: seen.append((cmd, data.ifr_flags & IFF.UP, ifp.if_reinit))
    ifp.if_up()

    ifp.if_setlladdr(b"\x02\0\0\0\0\x09")

    assert seen == [("SIOCSIFFLAGS", 0, True), ("SIOCSIFFLAGS", IFF.UP, True)]
    assert not ifp.if_reinit


# ioctls


def test_only_the_second_create_command_passes_parameters():
    kernel = Kernel()
    vnet = kernel.vnet_alloc("v")
    passed = []

    def create(vnet, name, unit, params):
        passed.append(params)
        ifp = bare(vnet, "gen", unit)
        ifp.if_attach()
        return ifp

    kernel.cloners.register(Cloner("gen", create, discard))
    vnet.ioctl("SIOCIFCREATE", Ifreq("gen", ifr_data="left over"))
    vnet.ioctl("SIOCIFCREATE2", Ifreq("gen", ifr_data="meant"))

    assert passed == [None, "meant"]


def test_a_name_that_the_protocols_refuse_leaves_no_trace():
    stack = UnwillingStack()
    vnet, ifp, _ = ethernet(stack=stack)
    flags = ifp.if_flags
    stream = vnet.kernel.rtsock.stream()

    refused(errno.EBUSY, vnet.ioctl, "SIOCSIFNAME", Ifreq("em0", ifr_buffer=UserBuffer(16, "uplink0")))

    assert stack.asked == [("name", "uplink0")]
    assert (ifp.if_xname, ifp.if_flags) == ("em0", flags)
    assert stream.get(timeout=0) is None


@pytest.mark.parametrize(("length", "code"), [(None, 0), (16, 0), (17, errno.EINVAL)])
def test_a_group_address_longer_than_the_request_is_refused(length, code):
    vnet, ifp, _ = ethernet()
    request = Ifreq("em0", ifr_addr=as_sockaddr("01:00:5e:00:00:05"), ifr_addrlen=length)

    if code:
        refused(code, vnet.ioctl, "SIOCADDMULTI", request)
    else:
        vnet.ioctl("SIOCADDMULTI", request)

    assert len(ifp.if_multiaddrs) == (0 if code else 1)


def test_flags_have_32_bits():
    vnet, ifp, _ = ethernet()
    flags = ifp.if_flags

    vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=flags | 1 << 32))

    assert ifp.if_flags == flags


def test_an_ioctl_finds_the_interface_behind_a_dying_one_of_its_name():
    kernel = Kernel()
    vnet, dying, _ = ethernet(kernel)
    _, alive, _ = ethernet(kernel, 1)
    alive.if_xname = "em0"
    dying.if_flags |= IFF.DYING

    assert vnet.ioctl("SIOCGIFINDEX", Ifreq("em0")).ifr_index == alive.if_index
    assert vnet.ifunit("em0") is dying
    alive.if_flags |= IFF.DYING
    refused(errno.ENXIO, vnet.ioctl, "SIOCGIFINDEX", Ifreq("em0"))


def test_of_two_interfaces_of_one_name_the_one_attached_first_has_it():
    kernel = Kernel()
    vnet, first, _ = ethernet(kernel)
    _, second, _ = ethernet(kernel, 1)
    assert vnet.ifunit("em1") is second

    first.if_xname = "em1"

    assert vnet.ifunit("em1") is first
    first.if_xname = "em0"
    assert vnet.ifunit("em1") is second


def test_a_negative_buffer_for_names_is_refused_before_a_name_is_copied():
    vnet, ifp, _ = ethernet()
    ifp.if_addgroup("lab")
    request = Ifgroupreq("em0", ifgr_len=-1)

    refused(errno.EINVAL, vnet.ioctl, "SIOCGIFGROUP", request)

    assert request.ifgr_groups.data is None


def test_the_members_of_a_group_are_found_by_its_uncut_name():
    vnet, ifp, _ = ethernet()
    name = "a-group-with-a-long-name"
    ifp.if_addgroup(name)
    assert list(vnet.groups) == [IFG_ALL, name[:15]]

    answer = vnet.ioctl("SIOCGIFGMEMB", Ifgroupreq(name, ifgr_len=16))

    assert answer.ifgr_groups.data == ["em0"]


# the driver below


def test_a_driver_whose_if_ioctl_was_put_on_later_has_one():
    class Least(Driver):
        def if_start(self, ifp):
            pass

    vnet, ifp, _ = ethernet()
    ifp.if_driver = driver = Least()
    asked = []
    refused(errno.EOPNOTSUPP, vnet.ioctl, "SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400))

    driver.if_ioctl = lambda ifp, cmd, data: asked.append((cmd, data.ifr_mtu))
    vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400))

    assert asked == [("SIOCSIFMTU", 1400)]


@pytest.mark.parametrize("answer", [ZeroDivisionError("no"), "nonsense"])
def test_an_if_transmit_that_fails_is_eio_and_an_output_error(answer, caplog):
    class Own(RecordingDriver):
        def if_transmit(self, ifp, m):
            if isinstance(answer, Exception):
                raise answer
            return answer

        def if_qflush(self, ifp):
            pass

    vnet = Kernel().vnet_alloc("v")
    ifp = bare(vnet)
    ifp.if_driver = Own()
    ifp.if_attach()

    refused(errno.EIO, ifp.if_transmit, frame("x"))

    assert ifp.if_oerrors == 1
    assert "if_transmit" in caplog.text


def test_group_frames_off_the_wire_are_counted_apart():
    _, ifp, _ = ethernet()

    for destination in (b"\x02\0\0\0\0\x01", b"\x01\0\x5e\0\0\x05", b"\xff" * 6):
        ifp.if_input(frame("x", destination))

    assert (ifp.if_ipackets, ifp.if_imcasts) == (3, 2)


def test_an_interface_is_plain_again_when_the_last_claim_ends():
    _, ifp, _ = ethernet()
    ifp.if_claim("vlan")
    ifp.if_claim("bridge")

    ifp.if_claim("vlan", False)
    assert not ifp.plain
    ifp.if_claim("bridge", False)

    assert ifp.plain


# routes through the loopback


class RoutingStack(Stack):
    """Keeps what it is asked to do to its routes."""

    def __init__(self):
        self.asked = []
        self.route = Rtentry(as_sockaddr("192.0.2.1"), rt_gateway=SockaddrDl())

    def rtrequest1_fib(self, cmd, info, fib):
        self.asked.append(info)
        return self.route

    def rtalloc1_fib(self, sa, fib):
        return self.route


def address_of_a_vlan():
    stack = RoutingStack()
    _, ifp, _ = ethernet(stack=stack)
    ifp.if_type = IFT.L2VLAN
    ifa = ifp.ifa_add("192.0.2.1")
    ifa.ifa_flags = RTF.UP
    return stack, ifp, ifa


def test_a_loopback_route_has_the_flags_of_its_address_and_names_the_real_interface():
    stack, ifp, ifa = address_of_a_vlan()

    ifa_add_loopback_route(ifa, ifa.ifa_addr)

    (info,) = stack.asked
    gateway = stack.route.rt_gateway
    assert info.rti_flags == RTF.UP | RTF.HOST | RTF.STATIC
    assert (gateway.sdl_index, gateway.sdl_type) == (ifp.if_index, IFT.L2VLAN)


def test_a_loopback_route_is_deleted_by_flags_and_gateway():
    stack, ifp, ifa = address_of_a_vlan()

    ifa_del_loopback_route(ifa, ifa.ifa_addr)

    (info,) = stack.asked
    assert info.rti_flags == RTF.UP | RTF.HOST | RTF.STATIC
    assert (info.rti_gateway.sdl_index, info.rti_gateway.sdl_type) == (ifp.if_index, IFT.L2VLAN)


def test_a_switched_loopback_route_names_the_new_interface():
    stack, ifp, ifa = address_of_a_vlan()
    stack.route.rt_gateway = SockaddrDl(99, IFT.ETHER)

    ifa_switch_loopback_route(ifa, ifa.ifa_addr, 0)

    gateway = stack.route.rt_gateway
    assert (gateway.sdl_index, gateway.sdl_type) == (ifp.if_index, IFT.L2VLAN)


# look-ups


def test_a_link_level_look_up_by_name_asks_for_the_table():
    vnet, ifp, _ = ethernet()
    ifp.if_fib = 1
    wanted = SockaddrDl(sdl_name="em0")

    assert vnet.ifa_ifwithnet(wanted, fib=0) is None
    assert vnet.ifa_ifwithnet(wanted, fib=1) is ifp.if_addr


def test_an_interface_without_a_name_matches_any():
    vnet = Kernel().vnet_alloc("v")
    nameless = bare(vnet, "", None)
    nameless.if_attach()
    assert vnet.ifa_ifwithnet(SockaddrDl(sdl_name="em0")) is nameless.if_addr

    named = bare(vnet, "em")
    named.if_attach()

    assert vnet.ifa_ifwithnet(SockaddrDl(sdl_name="em0")) is named.if_addr


def test_a_link_level_look_up_by_an_index_that_cannot_be_goes_by_the_name():
    vnet, ifp, _ = ethernet()
    assert vnet.ifa_ifwithnet(SockaddrDl(7, sdl_name="em0")) is ifp.if_addr


def test_the_same_ipv6_address_in_two_zones_is_two_addresses():
    kernel = Kernel()
    vnet, one, _ = ethernet(kernel)
    _, other, _ = ethernet(kernel, 1)
    packed = as_sockaddr("fe80::1").packed
    addresses = [ifp.ifa_add(SockaddrIn6(packed, ifp.if_index)) for ifp in (one, other)]

    found = [vnet.ifa_ifwithaddr(SockaddrIn6(packed, zone)) for zone in (one.if_index, other.if_index, 0)]

    assert found == [*addresses, None]


def test_a_filled_in_link_level_address_has_no_name_and_no_mac():
    _, ifp, _ = ethernet()

    sdl = ifp.link_init_sdl(SockaddrDl(9, 9, "old", b"\x02\0\0\0\0\x09"), IFT.BRIDGE)

    assert (sdl.sdl_index, sdl.sdl_type, sdl.sdl_nlen, sdl.sdl_alen) == (1, IFT.BRIDGE, 0, 0)


def test_the_length_of_a_link_level_name_is_in_octets():
    sdl = SockaddrDl(sdl_name="größe0", sdl_lladdr=b"\x02\0\0\0\0\x01")

    assert (sdl.sdl_nlen, sdl.sdl_alen) == (8, 6)
    assert len(sdl.sdl_data) == sdl.sdl_nlen + sdl.sdl_alen


def test_any_prison_but_the_callers_own_is_found():
    kernel = Kernel()
    one, other = kernel.vnet_alloc("one"), kernel.vnet_alloc("other")
    jids = [vnet.prison.pr_id for vnet in (one, other)]

    assert [kernel.prison_find_child(one.prison, jid) for jid in jids] == [None, other.prison]
    assert [kernel.prison_find_child(other.prison, jid) for jid in jids] == [one.prison, None]
    assert kernel.prison_find_child(one.prison, 99) is None


# tasks


def test_a_task_that_asks_for_itself_runs_once_more():
    queue = TaskQueue()
    ran = []

    def once_more(pending):
        ran.append(pending)
        if len(ran) == 1:
            queue.enqueue(task)

    task = Task(once_more)
    queue.enqueue(task)
    queue.enqueue(task)

    assert queue.run() == 2
    assert (ran, task.pending, len(queue)) == ([2, 1], 0, 0)


def test_a_link_change_that_a_listener_causes_is_told_too():
    vnet, ifp, _ = ethernet()
    heard = []

    def flap(ifp, state):
        heard.append(state)
        ifp.if_link_state_change(LinkState.UP)

    vnet.kernel.events.register("ifnet_link_event", flap)
    ifp.if_link_state_change(LinkState.DOWN)
    vnet.kernel.taskqueue_swi.run()

    assert heard == [LinkState.DOWN, LinkState.UP]


def test_the_engine_is_woken_when_the_queue_stops_being_empty():
    queue = TaskQueue()
    woken = []
    queue.on_work = lambda: woken.append(len(queue))

    for _ in range(3):
        queue.enqueue(Task(lambda pending: None))
    assert woken == [1]
    queue.run()
    queue.enqueue(Task(lambda pending: None))

    assert woken == [1, 1]


# interfaces made by name


def named_cloner():
    """Makes whatever has a dot in its name."""

    def create(vnet, name, unit, params):
        ifp = bare(vnet, "dot", unit)
        ifp.if_xname = name
        ifp.if_attach()
        return ifp

    return Cloner("dot", create, discard, match=lambda vnet, name: "." in name)


def test_a_name_of_another_form_may_have_15_octets():
    kernel = Kernel()
    vnet = kernel.vnet_alloc("v")
    kernel.cloners.register(named_cloner())

    assert kernel.cloners.if_clone_create(vnet, "fifteen.octets1") == "fifteen.octets1"
    refused(errno.EINVAL, kernel.cloners.if_clone_create, vnet, "fifteen.octets16")

    assert len(vnet.ifnets()) == 1


def test_a_name_of_another_form_is_given_once():
    kernel = Kernel()
    vnet = kernel.vnet_alloc("v")
    kernel.cloners.register(named_cloner())
    kernel.cloners.if_clone_create(vnet, "em0.10")

    refused(errno.EEXIST, kernel.cloners.if_clone_create, vnet, "em0.10")

    assert len(vnet.ifnets()) == 1


def test_an_interface_leaves_the_group_of_its_kind_before_it_departs():
    kernel = Kernel()
    vnet = kernel.vnet_alloc("v")
    kernel.cloners.register(disc_cloner())
    kernel.cloners.if_clone_create(vnet, "disc0")
    order = []
    kernel.events.register("group_change_event", order.append)
    kernel.events.register("ifnet_departure_event", lambda ifp: order.append(ifp.if_xname))

    kernel.cloners.if_clone_destroy(vnet, "disc0")

    assert order == ["disc", "disc0", IFG_ALL]


def test_an_interface_that_left_the_group_of_its_kind_may_be_destroyed():
    kernel = Kernel()
    vnet = kernel.vnet_alloc("v")
    kernel.cloners.register(disc_cloner())
    kernel.cloners.if_clone_create(vnet, "disc0")
    vnet.ifunit("disc0").if_delgroup("disc")

    kernel.cloners.if_clone_destroy(vnet, "disc0")

    assert vnet.ifnets() == ()


# queues, settings, frames


class Shelf:
    """A discipline that gives nothing back."""

    def __init__(self):
        self.frames = []

    def enqueue(self, m):
        self.frames.append(m)
        return 0

    def dequeue(self):
        return None

    poll = dequeue

    def purge(self):
        count = len(self.frames)
        self.frames.clear()
        return count

    def __len__(self):
        return len(self.frames)


def test_frames_that_a_purge_throws_away_are_counted():
    queue = Ifqueue(2)
    for text in ("one", "two", "turned away"):
        queue.enqueue(mbuf(frame(text)))

    assert queue.purge() == 2
    assert queue.purge() == 0

    assert (queue.ifq_len, queue.ifq_flushed, queue.ifq_drops) == (0, 2, 1)


def test_frames_that_go_with_a_discipline_are_counted():
    queue = Ifqueue(2)
    queue.altq_attach(Shelf())
    queue.altq_enable()
    queue.enqueue(mbuf(frame("on the shelf")))

    queue.altq_disable()

    assert (queue.ifq_len, queue.ifq_flushed) == (0, 1)


def test_a_queue_without_room_is_not_plain():
    assert Ifqueue(1).is_plain()
    assert not Ifqueue(0).is_plain()


def test_a_deleted_queue_throws_away_what_waits():
    _, ifp, _ = ethernet()
    queue = ifp.if_snd
    queue.enqueue(mbuf(frame("waits")))

    ifq_delete(queue)

    assert (queue.ifq_len, queue.ifq_flushed, queue.altq_ifp) == (0, 1, None)


def test_a_setting_has_32_bits():
    tree = SysctlTree()
    tree["net.ifdescr_maxlen"] = 2**32 - 1

    refused(errno.EINVAL, tree.__setitem__, "net.ifdescr_maxlen", 2**32)

    assert tree["net.ifdescr_maxlen"] == 2**32 - 1


def test_a_frame_without_a_destination_is_addressed_to_nobody():
    assert not is_broadcast(NO_PKTHDR)
    assert not is_multicast(NO_PKTHDR)
    assert is_broadcast(NO_PKTHDR + b"\xff")
