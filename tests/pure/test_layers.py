"""The smaller parts of the interface layer, each by itself."""

import errno

import pytest

from iflab.net import (
    IFF,
    IFT,
    PRC,
    RTM,
    Cloner,
    Ifgroupreq,
    Ifqueue,
    Ifreq,
    Kernel,
    KernelPanic,
    LinkState,
    Priv,
    RtAddrinfo,
    Rtentry,
    SockaddrDl,
    Stack,
    Thread,
    arpcom_alloc,
    arpcom_free,
    as_sockaddr,
    ether_resolvemulti,
    frame_of,
    link_alloc_sdl,
    link_free_sdl,
    mbuf,
)
from iflab.net.priv import allow_none
from iflab.net.sockio import GENERIC_SET

from .doubles import RecordingDriver, code, ethernet, frame


class Lifo:
    """A discipline that turns the order round, holds three frames and refuses small ones."""

    def __init__(self):
        self.frames = []

    def enqueue(self, m):
        if len(self.frames) == 3 or len(m) < 20:
            return errno.ENOBUFS
        self.frames.append(m)
        return 0

    def dequeue(self):
        return self.frames.pop() if self.frames else None

    def poll(self):
        return self.frames[-1] if self.frames else None

    def purge(self):
        freed, self.frames = len(self.frames), []
        return freed

    def __len__(self):
        return len(self.frames)


# the send queue, its disciplines and its regulator


def test_a_discipline_takes_over_and_is_taken_out():
    queue, lifo = Ifqueue(50), Lifo()
    assert code(queue.altq_enable) == errno.ENXIO
    assert code(queue.altq_detach) == errno.ENXIO
    queue.altq_attach(lifo)
    assert code(queue.altq_attach, lifo) == errno.EBUSY
    queue.enqueue(mbuf(frame("lost when it takes over")))
    queue.altq_enable()
    queue.altq_enable()
    assert code(queue.altq_detach) == errno.EBUSY

    answers = [queue.enqueue(mbuf(frame(n))) for n in "abcd"] + [queue.enqueue(b"small")]

    assert answers == [0, 0, 0, errno.ENOBUFS, errno.ENOBUFS]
    assert (queue.ifq_len, queue.ifq_drops) == (3, 2)
    assert frame_of(queue.poll()) == frame_of(queue.dequeue()) == frame("c")
    assert queue.purge() == 2
    queue.enqueue(mbuf(frame("x")))
    queue.altq_disable()
    queue.altq_detach()
    assert (queue.ifq_len, queue.altq_disc, lifo.frames) == (0, None, [])


def test_detaching_an_interface_takes_its_discipline_out():
    _, ifp, _ = ethernet()
    ifp.if_snd.altq_attach(Lifo())
    ifp.if_snd.altq_enable()

    ifp.if_detach()

    assert ifp.if_snd.altq_disc is None
    assert not ifp.if_snd.altq_is_enabled()


def test_a_regulator_decides_when_a_frame_may_leave():
    queue, allowed = Ifqueue(50), []

    def regulate(queue, poll_only):
        if not allowed:
            return None
        return queue.poll_unregulated() if poll_only else (allowed.pop(), queue.dequeue_unregulated())[1]

    queue.tbr_set(object(), regulate)
    queue.enqueue(mbuf(frame("a")))
    queue.enqueue(mbuf(frame("b")))

    assert queue.dequeue() is None
    allowed.append(1)
    assert frame_of(queue.poll()) == frame("a")
    assert frame_of(queue.dequeue()) == frame("a")
    assert queue.dequeue() is None
    queue.tbr_set(None, None)
    assert frame_of(queue.poll()) == frame_of(queue.dequeue()) == frame("b")
    assert queue.dequeue() is None


def test_the_kernels_own_regulator_serves_a_queue_that_names_none():
    vnet, ifp, driver = ethernet()
    with pytest.raises(OSError, match="no regulator is loaded") as refused:
        ifp.if_snd.tbr_set(object())
    assert refused.value.errno == errno.ENXIO
    assert ifp.if_snd.is_plain()

    asked = []
    vnet.kernel.hooks.tbr_dequeue_ptr = lambda ifq, look: asked.append(look)
    ifp.if_snd.tbr_set(object())
    ifp.if_transmit(frame("x"))

    assert (asked, driver.sent, ifp.if_snd.ifq_len) == ([False], [], 1)


# privileges


@pytest.mark.parametrize(
    ("cmd", "request_", "privilege"),
    [
        ("SIOCSIFDESCR", {}, Priv.NET_SETIFDESCR),
        ("SIOCSIFFIB", {}, Priv.NET_SETIFFIB),
        ("SIOCSIFFLAGS", {"ifr_flags": IFF.UP}, Priv.NET_SETIFFLAGS),
        ("SIOCSIFCAP", {"ifr_reqcap": 1}, Priv.NET_SETIFCAP),
        ("SIOCSIFNAME", {}, Priv.NET_SETIFNAME),
        ("SIOCSIFVNET", {"ifr_jid": 1}, Priv.NET_SETIFVNET),
        ("SIOCSIFRVNET", {"ifr_jid": 1}, Priv.NET_SETIFVNET),
        ("SIOCSIFMETRIC", {"ifr_metric": 5}, Priv.NET_SETIFMETRIC),
        ("SIOCSIFPHYS", {}, Priv.NET_SETIFPHYS),
        ("SIOCSIFMTU", {"ifr_mtu": 1400}, Priv.NET_SETIFMTU),
        ("SIOCADDMULTI", {"ifr_addr": as_sockaddr("01:00:5e:00:00:05")}, Priv.NET_ADDMULTI),
        ("SIOCDELMULTI", {"ifr_addr": as_sockaddr("01:00:5e:00:00:05")}, Priv.NET_DELMULTI),
        *((cmd, {}, Priv.NET_HWIOCTL) for cmd in sorted(GENERIC_SET)),
        ("SIOCSIFLLADDR", {"ifr_addr": as_sockaddr("02:00:00:00:00:42")}, Priv.NET_SETLLADDR),
        ("SIOCIFCREATE", {}, Priv.NET_IFCREATE),
        ("SIOCIFCREATE2", {}, Priv.NET_IFCREATE),
        ("SIOCAIFGROUP", None, Priv.NET_ADDIFGROUP),
        ("SIOCDIFGROUP", None, Priv.NET_DELIFGROUP),
        ("SIOCIFDESTROY", {}, Priv.NET_IFDESTROY),
    ],
)
def test_without_the_privilege_nothing_happens(cmd, request_, privilege):
    vnet, ifp, driver = ethernet()
    before = (ifp.if_flags, ifp.if_mtu, ifp.if_metric, ifp.lladdr, ifp.if_xname, len(ifp.if_multiaddrs))
    asked = []

    def none_but_note(priv):
        asked.append(priv)
        return False

    data = Ifgroupreq("em0", "all") if request_ is None else Ifreq("em0", **request_)
    with pytest.raises(OSError, match=f"the caller lacks {privilege}") as refused:
        vnet.ioctl(cmd, data, Thread(vnet.prison, none_but_note))

    assert refused.value.errno == errno.EPERM
    assert asked == [privilege]
    assert before == (
        ifp.if_flags,
        ifp.if_mtu,
        ifp.if_metric,
        ifp.lladdr,
        ifp.if_xname,
        len(ifp.if_multiaddrs),
    )
    assert driver.commands == []
    assert vnet.ioctl("SIOCGIFMTU", Ifreq("em0"), Thread(vnet.prison, allow_none)).ifr_mtu == 1500


# settings


def test_settings_are_a_tree_with_rules():
    tree = Kernel().sysctl

    assert [row.name for row in tree] == [
        "net.link.ifqmaxlen",
        "net.link.log_link_state_change",
        "net.ifdescr_maxlen",
    ]
    tree["net.ifdescr_maxlen"] = 64
    assert tree["net.ifdescr_maxlen"] == 64
    with pytest.raises(OSError, match="is read when the lab starts"):
        tree["net.link.ifqmaxlen"] = 7
    with pytest.raises(OSError, match=r"no setting is called 'net\.nothing'; there are net\.link"):
        tree["net.nothing"] = 1
    with pytest.raises(OSError, match="cannot be 0; its least value is 1"):
        tree.tunable("net.link.ifqmaxlen", 0)


# cloning


def tap_cloner(kernel):
    def create(vnet, name, unit, params):
        ifp = vnet.if_alloc(IFT.ETHER)
        ifp.if_initname("tap", unit)
        ifp.if_driver = RecordingDriver()
        ifp.if_attach()
        return ifp

    def destroy(ifp):
        ifp.if_detach()
        ifp.if_free()

    kernel.cloners.register(Cloner("tap", create, destroy, minifs=1))


def test_interfaces_are_made_and_unmade_by_name():
    vnet, _, _ = ethernet()
    tap_cloner(vnet.kernel)

    assert vnet.ioctl("SIOCIFCREATE", Ifreq("tap")).ifr_name == "tap0"
    assert vnet.ioctl("SIOCIFCREATE", Ifreq("tap7")).ifr_name == "tap7"
    assert vnet.ioctl("SIOCIFCREATE2", Ifreq("tap")).ifr_name == "tap1"
    assert [g.ifg_group for g in vnet.ifunit("tap7").if_groups] == ["all", "tap"]
    assert vnet.ioctl("SIOCIFGCLONERS", Ifreq()).ifr_data == ["tap"]
    assert code(vnet.ioctl, "SIOCIFCREATE", Ifreq("tap7")) == errno.EEXIST
    assert code(vnet.ioctl, "SIOCIFCREATE", Ifreq("tap07")) == errno.EINVAL
    assert code(vnet.ioctl, "SIOCIFCREATE", Ifreq("tun0")) == errno.EINVAL
    assert code(vnet.ioctl, "SIOCIFCREATE", Ifreq("ta1p")) == errno.EINVAL
    assert code(vnet.ioctl, "SIOCIFDESTROY", Ifreq("tap9")) == errno.ENXIO
    assert code(vnet.ioctl, "SIOCIFDESTROY", Ifreq("em0")) == errno.EINVAL
    assert code(vnet.ioctl, "SIOCIFDESTROY", Ifreq("tap0")) == errno.EINVAL
    vnet.ioctl("SIOCIFDESTROY", Ifreq("tap7"))

    assert vnet.ifunit("tap7") is None
    assert code(tap_cloner, vnet.kernel) == errno.EEXIST


# messages


def test_streams_carry_messages_and_count_what_nobody_reads():
    vnet, ifp, _ = ethernet()
    kernel = vnet.kernel
    stream, narrow, notices = kernel.rtsock.stream(), kernel.rtsock.stream(limit=1), kernel.devctl.stream()

    ifp.if_up()
    ifp.if_addmulti("224.0.0.5")
    kernel.rtsock.rt_newaddrmsg(ifp, as_sockaddr("192.0.2.1"), as_sockaddr("255.255.255.0"), True)
    ifp.if_link_state_change(LinkState.UP)
    kernel.taskqueue_swi.run()
    ifp.if_detach()
    for each in (stream, narrow, notices):
        each.close()

    said = [str(message) for message in stream]
    assert said[0] == (
        "RTM_IFINFO: iface status change: if# 1 (em0), link: unknown, mtu: 1500, "
        "flags:<BROADCAST,MULTICAST,SIMPLEX,UP>"
    )
    assert said[1] == "RTM_NEWMADDR: multicast group joined: if# 1 (em0), group: 224.0.0.5"
    assert said[2] == "RTM_NEWADDR: address added to iface: if# 1 (em0), 192.0.2.1 netmask 255.255.255.0"
    assert said[-1] == "RTM_IFANNOUNCE: interface arrival/departure: if# 1 (em0), what: departure"
    assert narrow.dropped > 3
    assert [str(notice) for notice in notices] == [
        "!system=IFNET subsystem=em0 type=LINK_UP",
        "!system=IFNET subsystem=em0 type=DETACH",
    ]
    assert stream.get(timeout=0.001) is None


def test_a_listener_that_raises_is_passed_over(caplog):
    vnet, ifp, _ = ethernet()
    heard = []
    vnet.kernel.rtsock.listen(lambda message: 1 / 0)
    vnet.kernel.rtsock.listen(heard.append)

    ifp.if_up()

    assert len(heard) == 1
    assert "ZeroDivisionError" in caplog.text
    vnet.kernel.rtsock.remove(heard.append)


def test_listeners_of_events_can_leave_and_must_name_what_there_is():
    kernel = Kernel()
    heard = []
    handler = kernel.events.register("ifnet_arrival_event", heard.append)
    handler.deregister()
    handler.deregister()
    ethernet(kernel)

    assert heard == []
    with pytest.raises(
        ValueError, match="no event is called 'ifnet_arival_event'; there are ifnet_arrival_event"
    ):
        kernel.events.register("ifnet_arival_event", heard.append)


# addresses


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1", "02:00:00:00:00:01", "link#3"])
def test_addresses_read_and_print_the_same(text):
    assert str(as_sockaddr(text)) == text


def test_what_is_no_address_is_told():
    with pytest.raises(ValueError, match="'nowhere' is no address; write"):
        as_sockaddr("nowhere")
    sdl = link_alloc_sdl()
    sdl.sdl_lladdr = b"\x01"
    link_free_sdl(sdl)
    assert (sdl.sdl_alen, sdl.sdl_nlen) == (0, 0)


@pytest.mark.parametrize(
    ("group", "mac"),
    [
        ("224.0.0.5", "01:00:5e:00:00:05"),
        ("239.255.1.2", "01:00:5e:7f:01:02"),
        ("ff02::1:ff00:1", "33:33:ff:00:00:01"),
        ("01:00:5e:00:00:05", None),
        ("::", None),
    ],
)
def test_groups_map_to_macs(group, mac):
    _, ifp, _ = ethernet()

    found = ether_resolvemulti(ifp, as_sockaddr(group))

    assert (found and str(found)) == mac
    assert bool(ifp.if_flags & IFF.ALLMULTI) == (group == "::")


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1", "02:00:00:00:00:01"])
def test_what_is_no_group_is_refused(address):
    _, ifp, _ = ethernet()

    assert code(ifp.if_addmulti, address) == errno.EADDRNOTAVAIL


def test_companion_data_goes_with_the_interface():
    vnet = Kernel().vnet_alloc("v")
    vnet.kernel.if_register_com_alloc(IFT.ETHER, arpcom_alloc, arpcom_free)
    ifp = vnet.if_alloc(IFT.ETHER)
    arpcom = ifp.if_l2com
    assert arpcom.ac_ifp is ifp

    ifp.if_free()

    assert arpcom.ac_ifp is None


# the ends of things


def test_a_vnet_that_dies_sends_borrowed_interfaces_home():
    vnet, ifp, _ = ethernet()
    guest = vnet.kernel.vnet_alloc("guest")
    ifp.if_vmove(guest)

    vnet.kernel.vnet_destroy(guest)

    assert vnet.ifnets() == (ifp,)
    assert vnet.kernel.vnets == [vnet]


def test_a_move_that_the_driver_refuses_leads_back():
    vnet, ifp, driver = ethernet()
    guest = vnet.kernel.vnet_alloc("guest")

    def refuse(ifp, new):
        raise OSError(errno.ENODEV, "bolted down")

    driver.if_reassign = refuse

    assert code(ifp.if_vmove, guest) == errno.ENODEV
    assert (vnet.ifnets(), guest.ifnets(), ifp.if_vnet) == ((ifp,), (), vnet)


def test_interfaces_go_between_prisons_by_ioctl():
    vnet, ifp, _ = ethernet()
    guest = vnet.kernel.vnet_alloc("guest")
    jid = guest.prison.pr_id

    assert vnet.ioctl("SIOCSIFVNET", Ifreq("em0", ifr_jid=jid)).ifr_name == "em0"
    assert guest.ifnets() == (ifp,)
    assert code(vnet.ioctl, "SIOCSIFRVNET", Ifreq("em9", ifr_jid=jid)) == errno.ENXIO
    assert code(vnet.ioctl, "SIOCSIFRVNET", Ifreq("em0", ifr_jid=77)) == errno.ENXIO
    assert vnet.ioctl("SIOCSIFRVNET", Ifreq("em0", ifr_jid=jid)).ifr_name == "em0"

    assert vnet.ifnets() == (ifp,)


def test_a_dying_interface_is_not_handed_out():
    vnet, ifp, _ = ethernet()
    ifp.if_ref()
    ifp.if_flags |= IFF.DYING

    assert vnet.ifunit_ref("em0") is None
    assert vnet.ifnet_byindex_ref(1) is None
    assert vnet.ifunit("em0") is ifp


def test_promises_that_are_broken_panic_with_their_line():
    vnet, ifp, _ = ethernet()
    bare = vnet.if_alloc(IFT.ETHER)
    with pytest.raises(KernelPanic, match="if_start without a driver"):
        bare.if_start()
    ifa = ifp.ifa_add("10.0.0.1")
    assert code(ifp.if_addrhead.insert_tail, ifa) == errno.EEXIST
    ifp.ifa_remove(ifa)
    assert code(ifp.ifa_remove, ifa) == errno.EADDRNOTAVAIL
    with pytest.raises(KernelPanic, match=r"refcount PTR underflow \(sys/net/if.c 1466\)"):
        ifa.ifa_free()
    ifp.if_detach()
    with pytest.raises(KernelPanic, match="if_delmulti: ifnet went away"):
        ifp.if_delmulti("224.0.0.1")
    ifp.if_free()
    with pytest.raises(KernelPanic, match="em0: freeing unallocated ifnet"):
        ifp.if_free()


def test_a_driver_that_fails_in_any_way_is_an_errno(caplog):
    vnet, _, driver = ethernet()
    driver.if_ioctl = lambda ifp, cmd, data: {}["not there"]

    assert code(vnet.ioctl, "SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400)) == errno.EIO
    assert "KeyError" in caplog.text


def test_a_driver_that_fails_at_its_end_keeps_no_interface_alive(caplog):
    vnet, ifp, driver = ethernet()
    driver.if_detached = lambda ifp: {}["not there"]

    ifp.if_detach()
    ifp.if_free()

    assert vnet.ifnets() == ()
    assert "em0: if_detached of" in caplog.text


def test_a_stack_that_is_not_there_refuses_or_takes_note():
    stack = Stack()
    vnet, ifp, _ = ethernet(stack=stack)
    ifa = ifp.ifa_add("2001:db8::1")
    stack.pfctlinput(PRC.IFUP, ifa.ifa_addr)
    ifp.if_input(frame("into the void"))
    assert ifp.if_ipackets == 1
    assert stack.rtalloc1_fib(ifa.ifa_addr, 0) is None
    info = RtAddrinfo(ifa.ifa_addr)
    assert code(stack.rtrequest1_fib, RTM.ADD, info, 0) == errno.EOPNOTSUPP
    assert code(stack.rtrequest_fib, RTM.DELETE, Rtentry(ifa.ifa_addr), 0) == errno.EOPNOTSUPP
    assert code(vnet.ioctl, "SIOCSIFADDR", Ifreq("em0")) == errno.EOPNOTSUPP  # never goes down to the driver

    ifp.if_detach()

    assert len(ifp.if_addrhead) == 0


def test_link_level_addresses_by_name():
    vnet, ifp, _ = ethernet()

    assert vnet.ifa_ifwithnet(SockaddrDl(sdl_name="em0")) is ifp.if_addr
    assert vnet.ifa_ifwithnet(SockaddrDl(sdl_name="em0", sdl_lladdr=b"\x02")) is ifp.if_addr
    assert vnet.ifa_ifwithnet(SockaddrDl(sdl_name="em1")) is None
    assert ifp.ifaof_ifpforaddr("02:00:00:00:00:99") is ifp.if_addr
