"""What must come to its end, or not begin at all: detaching, moving, making by name."""

import errno

import pytest

from iflab.net import (
    IFF,
    IFT,
    AddressFamily,
    Cloner,
    Domain,
    Driver,
    Ifaliasreq,
    Ifreq,
    Kernel,
    KernelPanic,
    Priv,
    Stack,
    Thread,
    UserBuffer,
    ether_ifattach,
    ether_resolvemulti,
    mbuf,
)
from iflab.net.altq import Priority
from iflab.net.linkroute import link_init_sdl
from iflab.net.rtsock import Announcement
from iflab.net.sockaddr import SDL_SIZE, link_alloc_sdl

from .doubles import code, frame


class Nic(Driver):
    """One that does what it is told."""

    def if_start(self, ifp):
        while ifp.if_snd.dequeue():
            pass

    def if_ioctl(self, ifp, cmd, data):
        pass

    def if_resolvemulti(self, ifp, sa):
        return ether_resolvemulti(ifp, sa)


def attached(vnet, driver=None, name="em"):
    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_initname(name, 0)
    ifp.if_flags = IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST
    ifp.if_mtu = 1500
    ifp.if_driver = driver or Nic()
    ether_ifattach(ifp, bytes.fromhex("020000000001"))
    return ifp


# detaching


@pytest.mark.parametrize(
    "what", ["pfctlinput", "in_control", "in6_purgeaddr", "in_ifdetach", "in6_ifdetach", "rt_walktree"]
)
@pytest.mark.parametrize("failure", [OSError(errno.EMFILE, "too many open files"), RuntimeError("mine")])
def test_a_detach_comes_to_its_end_whatever_the_protocols_do(what, failure, caplog):
    class Failing(Stack):
        pass

    def fail(*args):
        raise failure

    setattr(Failing, what, fail)
    kernel = Kernel()
    vnet = kernel.vnet_alloc("v", Failing())
    departed, messages = [], []
    kernel.events.register("ifnet_departure_event", departed.append)
    ifp = attached(vnet)
    ifp.if_addgroup("web")
    kernel.rtsock.listen(lambda message: messages.append(message))

    ifp.if_detach()

    assert not vnet.lists(ifp)
    assert ifp.if_groups == []
    assert departed == [ifp]
    assert messages[-1] == Announcement(ifp, "em0", 1, False)
    ifp.if_free()
    assert kernel.live()["ifnet"] == 0


@pytest.mark.parametrize("entry", ["if_qflush", "if_detached"])
def test_a_detach_comes_to_its_end_whatever_the_driver_does(entry, caplog):
    class Failing(Nic):
        def if_transmit(self, ifp, m):
            return 0

        def if_qflush(self, ifp):
            pass

    def fail(self, ifp):
        raise RuntimeError("mine")

    setattr(Failing, entry, fail)
    vnet = Kernel().vnet_alloc("v")
    ifp = attached(vnet, Failing())

    ifp.if_detach()

    assert not vnet.lists(ifp)
    assert f"{entry} of " in caplog.text
    assert "RuntimeError: mine" in caplog.text


def test_a_detach_comes_to_its_end_whatever_a_discipline_does(caplog):
    class Failing(Priority):
        def purge(self):
            raise RuntimeError("mine")

    kernel = Kernel()
    vnet = kernel.vnet_alloc("v")
    ifp = attached(vnet)
    ifp.if_snd.altq_attach(Failing())
    ifp.if_snd.altq_enable()

    ifp.if_detach()
    ifp.if_free()

    assert not vnet.lists(ifp)
    assert (ifp.if_snd.altq_disc, kernel.live()["ifnet"]) == (None, 0)
    assert "altq_disable failed" in caplog.text


def test_a_panic_is_no_failure_to_pass_over():
    class Panicking(Stack):
        def in_ifdetach(self, ifp):
            raise KernelPanic("mine", 860)

    ifp = attached(Kernel().vnet_alloc("v", Panicking()))

    with pytest.raises(KernelPanic, match="mine"):
        ifp.if_detach()


def test_a_flush_that_fails_is_the_drivers_own_harm(caplog):
    class Failing(Nic):
        def if_transmit(self, ifp, m):
            return 0

        def if_qflush(self, ifp):
            raise RuntimeError("mine")

    ifp = attached(Kernel().vnet_alloc("v"), Failing())

    assert ifp.if_qflush() == 0
    ifp.if_down()

    assert caplog.text.count("if_qflush of ") == 2


def test_a_driver_that_fails_to_map_a_group_is_an_errno(caplog):
    class Failing(Nic):
        def if_resolvemulti(self, ifp, sa):
            raise RuntimeError("mine")

    ifp = attached(Kernel().vnet_alloc("v"), Failing())

    assert code(ifp.if_addmulti, "233.252.0.7") == errno.EIO

    assert list(ifp.if_multiaddrs) == []
    assert "if_resolvemulti of " in caplog.text


def test_what_comes_in_after_the_detach_is_lost():
    heard = []

    class Listening(Stack):
        def input(self, ifp, m):
            heard.append(m)

    ifp = attached(Kernel().vnet_alloc("v", Listening()))
    ifp.if_input_mbuf(mbuf(frame("before")))
    ifp.if_detach()

    ifp.if_input_mbuf(mbuf(frame("after")))

    assert len(heard) == ifp.if_ipackets == 1


def test_data_of_a_domain_goes_even_when_it_is_empty():
    kernel = Kernel()
    gone = []
    kernel.domains.append(
        Domain("inet", AddressFamily.INET, lambda ifp: {}, lambda ifp, data: gone.append(data))
    )
    kernel.domains.append(
        Domain("inet6", AddressFamily.INET6, lambda ifp: None, lambda ifp, data: gone.append("none"))
    )
    ifp = attached(kernel.vnet_alloc("v"))

    ifp.if_detach()

    assert gone == [{}]


def test_a_listener_that_another_has_ended_hears_nothing_more():
    kernel = Kernel()
    heard = []
    kernel.events.register("ifnet_arrival_event", lambda ifp: second.deregister())
    second = kernel.events.register("ifnet_arrival_event", heard.append)

    attached(kernel.vnet_alloc("v"))

    assert heard == []


def test_a_panic_of_a_listener_is_one():
    kernel = Kernel()

    def panic(ifp):
        raise KernelPanic("mine", 692)

    kernel.events.register("ifnet_arrival_event", panic)

    with pytest.raises(KernelPanic, match="mine"):
        attached(kernel.vnet_alloc("v"))


def test_an_allocator_that_raises_takes_no_index():
    kernel = Kernel()

    def fail(iftype, ifp):
        raise RuntimeError("mine")

    kernel.if_register_com_alloc(IFT.ETHER, fail, lambda com, iftype: None)
    vnet = kernel.vnet_alloc("v")

    with pytest.raises(RuntimeError, match="mine"):
        vnet.if_alloc(IFT.ETHER)

    assert vnet.if_alloc(IFT.OTHER).if_index == 1


# moving


def test_a_move_that_the_driver_refuses_changes_nothing():
    class Bolted(Nic):
        def if_may_reassign(self, ifp, new_vnet):
            raise OSError(errno.ENODEV, f"bolted down, not for {new_vnet.name}")

    kernel = Kernel()
    home, other = kernel.vnet_alloc("home"), kernel.vnet_alloc("other")
    ifp = attached(home, Bolted())
    ifp.if_addgroup("web")
    ifp.if_up()
    told = []
    kernel.events.register("ifnet_departure_event", told.append)

    assert code(ifp.if_vmove, other) == errno.ENODEV

    assert home.lists(ifp)
    assert ifp.if_flags & IFF.UP
    assert [group.ifg_group for group in ifp.if_groups] == ["all", "web"]
    assert told == []


def test_a_move_to_where_no_index_is_free_changes_nothing(monkeypatch):
    monkeypatch.setattr("iflab.net.vnet.HIGHEST_INDEX", 2)
    kernel = Kernel()
    home, full = kernel.vnet_alloc("home"), kernel.vnet_alloc("full")
    attached(full)
    attached(full, name="re")
    ifp = attached(home)
    ifp.if_up()

    assert code(ifp.if_vmove, full) == errno.ENOSPC

    assert home.lists(ifp)
    assert home.ifnet_byindex(ifp.if_index) is ifp
    assert ifp.if_flags & IFF.UP


def test_a_move_within_one_vnet_takes_no_second_index(monkeypatch):
    monkeypatch.setattr("iflab.net.vnet.HIGHEST_INDEX", 1)
    home = Kernel().vnet_alloc("home")
    ifp = attached(home)

    ifp.if_vmove(home)

    assert home.lists(ifp)
    assert ifp.if_index == 1


# made by name


@pytest.fixture
def made():
    """A kernel with a kind ``foo``, its vnet, and what happens."""
    kernel = Kernel()
    vnet = kernel.vnet_alloc("v")

    def create(vnet, name, unit, params):
        ifp = vnet.if_alloc(IFT.ETHER)
        ifp.if_initname("foo", unit)
        ifp.if_driver = Nic()
        ether_ifattach(ifp, bytes.fromhex("020000000001"))
        return ifp

    def destroy(ifp):
        if ifp.if_description == "busy":
            raise OSError(errno.EBUSY, "in use")
        ifp.if_detach()
        ifp.if_free()

    kernel.cloners.register(Cloner("foo", create, destroy))
    return vnet


def create(vnet, name):
    return vnet.ioctl("SIOCIFCREATE", Ifreq(name)).ifr_name


def destroy(vnet, name):
    vnet.ioctl("SIOCIFDESTROY", Ifreq(name))


def rename(vnet, old, new):
    vnet.ioctl("SIOCSIFNAME", Ifreq(old, ifr_buffer=UserBuffer(len(new) + 1, new)))


def test_what_has_the_name_of_a_kind_is_there_already(made):
    create(made, "foo0")
    rename(made, "foo0", "foo")

    assert code(create, made, "foo") == errno.EEXIST


def test_a_unit_is_kept_whatever_its_interface_is_called(made):
    create(made, "foo")
    rename(made, "foo0", "bar")

    assert code(create, made, "foo0") == errno.EEXIST
    assert create(made, "foo") == "foo1"
    destroy(made, "bar")
    assert create(made, "foo") == "foo0"


def test_a_unit_is_free_when_its_interface_went_in_any_other_way(made):
    create(made, "foo")
    ifp = made.ifunit("foo0")
    ifp.if_detach()
    ifp.if_free()

    assert create(made, "foo") == "foo0"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("foo32768", errno.ENOSPC),
        ("foo2147483647", errno.ENOSPC),
        ("foo2147483648", errno.EINVAL),
        ("foo01", errno.EINVAL),
    ],
)
def test_units_have_an_end(made, name, error):
    assert create(made, "foo32767") == "foo32767"
    assert code(create, made, name) == error


def test_one_that_cannot_go_stays_in_its_group(made):
    create(made, "foo")
    ifp = made.ifunit("foo0")
    ifp.set_description("busy")

    assert code(destroy, made, "foo0") == errno.EBUSY

    assert [group.ifg_group for group in ifp.if_groups] == ["all", "foo"]
    ifp.set_description(None)
    destroy(made, "foo0")
    assert made.ifunit("foo0") is None


def test_what_was_not_made_by_name_is_not_destroyed_by_name(made):
    attached(made, name="foo")
    attached(made, name="em")

    assert code(destroy, made, "foo0") == errno.ENXIO
    assert code(destroy, made, "em0") == errno.EINVAL
    assert made.ifunit("foo0") is not None


# ioctls


@pytest.mark.parametrize(
    "cmd", ["SIOCSIFMTU", "SIOCSIFFLAGS", "SIOCSIFNAME", "SIOCSIFVNET", "SIOCADDMULTI", "SIOCIFGCLONERS"]
)
def test_a_request_of_another_kind_is_a_fault(cmd):
    vnet = Kernel().vnet_alloc("v")
    attached(vnet)

    assert code(vnet.ioctl, cmd, Ifaliasreq("em0")) == errno.EFAULT


def test_octets_are_text_like_any_other():
    vnet = Kernel().vnet_alloc("v")
    ifp = attached(vnet)

    vnet.ioctl("SIOCSIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(5, b"core\0")))
    vnet.ioctl("SIOCSIFNAME", Ifreq("em0", ifr_buffer=UserBuffer(5, b"net0\0")))

    assert (ifp.if_description, ifp.if_xname) == ("core", "net0")


def test_a_negative_length_is_a_huge_one():
    vnet = Kernel().vnet_alloc("v")
    ifp = attached(vnet)

    assert (
        code(vnet.ioctl, "SIOCSIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(-1, "x"))) == errno.ENAMETOOLONG
    )
    assert ifp.if_description is None


def test_a_driver_asks_whoever_made_the_ioctl():
    class Asking(Nic):
        def if_ioctl(self, ifp, cmd, data):
            ifp.kernel.priv_check(Priv.NET_SETIFCAP)

    vnet = Kernel().vnet_alloc("v")
    attached(vnet, Asking())
    nobody = Thread(vnet.prison, lambda priv: False)

    with pytest.raises(PermissionError):
        vnet.ioctl("SIOCGIFGENERIC", Ifreq("em0"), nobody)
    vnet.ioctl("SIOCGIFGENERIC", Ifreq("em0"))
    assert vnet.kernel.curthread is None


def test_a_new_mac_keeps_what_a_driver_changes_of_the_flags_meanwhile():
    given = []

    class Meddling(Nic):
        def if_ioctl(self, ifp, cmd, data):
            if cmd == "SIOCSIFFLAGS":
                given.append(data.ifr_flags)
                if not data.ifr_flags & IFF.UP:
                    ifp.if_flags |= IFF.LINK1

    ifp = attached(Kernel().vnet_alloc("v"), Meddling())
    ifp.if_up()

    ifp.if_setlladdr(bytes.fromhex("020000000002"))

    assert ifp.if_flags & IFF.LINK1
    assert ifp.if_flags & IFF.UP
    assert [bool(flags & IFF.LINK1) for flags in given] == [False, True]
    assert not ifp.if_reinit


def test_monitor_mode_counts_and_hands_nothing_on():
    heard = []

    class Listening(Stack):
        def input(self, ifp, m):
            heard.append(m)

    vnet = Kernel().vnet_alloc("v", Listening())
    ifp = attached(vnet)
    vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=ifp.if_flags | IFF.MONITOR))

    ifp.if_input_mbuf(mbuf(frame("seen")))
    assert (heard, ifp.if_ipackets, ifp.plain) == ([], 1, False)
    vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=ifp.if_flags & ~IFF.MONITOR))
    ifp.if_input_mbuf(mbuf(frame("heard")))

    assert (len(heard), ifp.if_ipackets, ifp.plain) == (1, 2, True)


@pytest.mark.parametrize(("name", "error"), [("a" * 15 + "1", errno.EINVAL), ("a" * 14 + "1b", None)])
def test_the_last_letter_of_a_groups_name_is_that_of_the_name_as_given(name, error):
    ifp = attached(Kernel().vnet_alloc("v"))

    if error:
        assert code(ifp.if_addgroup, name) == error
    else:
        ifp.if_addgroup(name)
        assert ifp.if_groups[-1].ifg_group == name[:15]


def test_a_link_level_address_is_made_anew_whatever_it_was():
    ifp = attached(Kernel().vnet_alloc("v"))

    assert link_init_sdl(ifp, link_alloc_sdl(100), IFT.ETHER).sa_len == SDL_SIZE
