"""Random interleavings of everything keep the interface layer's promises, in one thread and in several."""

import errno
import random
import sys
import threading
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iflab.net import (
    IFF,
    IFT,
    AddressFamily,
    Ifreq,
    Kernel,
    KernelPanic,
    LinkState,
    SockaddrDl,
    UserBuffer,
    ether_ifattach,
    if_delmulti_ifma,
    mbuf,
)
from iflab.net.altq import Priority, altq_forgo, altq_use

from .doubles import RecordingDriver, disc_cloner, discard, frame

GROUPS = ["224.0.0.5", "225.128.0.5", "ff02::1", "01:00:5e:00:00:05"]
NAMES = ["lab", "team", "x"]
AF_LINK = AddressFamily.LINK


def sound(kernel):
    """Tables agree with lists, counts with holders, flags with counts."""
    for vnet in kernel.vnets:
        listed = vnet.ifnets()
        indexes = vnet.indexes()
        assert max(indexes, default=0) == vnet.if_index < vnet.if_indexlim
        for index, ifp in indexes.items():
            assert ifp.if_index == index
            assert not ifp.if_flags & IFF.DYING
        members = {}
        for ifp in listed:
            assert indexes[ifp.if_index] is ifp
            assert vnet.ifunit(ifp.if_xname) is not None
            assert ifp.if_vnet is vnet
            assert ifp.if_addr in list(ifp.if_addrhead)
            for group in ifp.if_groups:
                members.setdefault(group.ifg_group, []).append(ifp)
        assert {name: set(group.ifg_members) for name, group in vnet.groups.items()} == {
            name: set(ifps) for name, ifps in members.items()
        }
        for ifp in {*listed, *indexes.values()}:
            assert ifp.if_refcount > 0
            assert ifp.if_pcount >= 0
            assert ifp.if_amcount >= 0
            assert bool(ifp.if_flags & IFF.PROMISC) == bool(ifp.if_pcount or ifp.if_flags & IFF.PPROMISC)
            assert bool(ifp.if_flags & IFF.ALLMULTI) == bool(ifp.if_amcount)
            assert 0 <= ifp.if_snd.ifq_len <= ifp.if_snd.ifq_maxlen
            for ifma in ifp.if_multiaddrs:
                assert ifma.ifma_ifp is ifp
                assert ifma.ifma_refcount > 0
                assert 0 <= ifma.ifma_owners <= ifma.ifma_refcount
                assert ifp.if_findmulti(ifma.ifma_addr) is ifma
                if ifma.ifma_llifma is not None:
                    assert ifma.ifma_llifma in ifp.if_multiaddrs
            for ifa in ifp.if_addrhead:
                assert ifa.ifa_refcnt > 0
                assert ifa.ifa_ifp is ifp
            assert (ifp.if_snd.altq_is_enabled()) <= (ifp.if_snd.altq_disc is not None)
        addresses = [ifa for ifp in listed for ifa in ifp.if_addrhead if ifa.ifa_addr.family is not AF_LINK]
        for ifa in addresses:  # what is on a list is found, the first of several
            found = vnet.ifa_ifwithaddr(ifa.ifa_addr)
            assert found is next(a for a in addresses if a.ifa_addr == ifa.ifa_addr)
            found.ifa_free()
        assert not vnet.ifa_ifwithaddr_check("10.9.9.9")
        for name in {ifp.if_xname for ifp in listed}:
            assert vnet.ifunit(name) is next(ifp for ifp in listed if ifp.if_xname == name)


def tolerated(fn, *args):
    """Call, and pass over what the original refuses as well."""
    try:
        return fn(*args)
    except OSError:
        return None


class Machine(RuleBasedStateMachine):
    """Interfaces by handle; the test holds references of memberships (``holders``), interfaces (``held``), addresses."""

    def __init__(self):
        super().__init__()
        self.kernel = Kernel()
        self.vnets = [self.kernel.vnet_alloc(f"v{n}", is_default=n == 0) for n in range(2)]
        self.ifps = []
        self.holders, self.held, self.ifas = [], [], []
        self.unit = 0
        self.kernel.cloners.register(disc_cloner())

    def pick(self, data):
        return self.ifps[data.draw(st.integers(0, len(self.ifps) - 1))]  # a drawn object would be kept alive

    @rule(n=st.integers(0, 1))
    def attach(self, n):
        ifp = self.vnets[n].if_alloc(IFT.ETHER)
        ifp.if_initname("em", self.unit)
        self.unit += 1
        ifp.if_driver = RecordingDriver()
        ifp.if_flags = IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST
        ifp.if_mtu = 1500
        ether_ifattach(ifp, b"\x02\0\0\0\0" + bytes([self.unit % 256]))
        self.ifps.append(ifp)

    @precondition(lambda self: self.ifps)
    @rule(data=st.data())
    def go(self, data):
        ifp = self.pick(data)
        self.ifps.remove(ifp)
        self.purged(ifp)
        ifp.if_detach()
        ifp.if_free()
        if ifp in self.held:
            assert ifp.if_flags & IFF.DYING
            assert ifp.if_vnet.ifnet_byindex_ref(ifp.if_index) is not ifp
            return
        pointed_to = any(
            ifa.ifa_ifp is ifp for ifa in self.ifas
        )  # an address that is held is its interface's for ever
        gone = weakref.ref(ifp)
        del ifp
        assert (gone() is not None) == pointed_to  # at once, without a collection

    @precondition(lambda self: self.ifps)
    @rule(data=st.data())
    def hold(self, data):
        ifp = self.pick(data)
        assert ifp.if_vnet.ifunit_ref(ifp.if_xname) is not None
        assert ifp.if_vnet.ifnet_byindex(ifp.if_index) is ifp
        if ifp.if_vnet.ifunit(ifp.if_xname) is ifp:
            self.held.append(ifp)
        else:
            ifp.if_vnet.ifunit(ifp.if_xname).if_rele()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data):
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).if_rele()

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), n=st.integers(1, 5))
    def hold_address(self, data, n):
        ifa = self.pick(data).if_vnet.ifa_ifwithaddr(f"10.0.0.{n}")
        if ifa is not None:
            self.ifas.append(ifa)

    @precondition(lambda self: self.ifas)
    @rule()
    def let_address_go(self):
        self.ifas.pop().ifa_free()

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), back=st.booleans())
    def lend(self, data, back):
        ifp = self.pick(data)
        here, there = ifp.if_vnet, self.vnets[1 - self.vnets.index(ifp.if_vnet)]
        if back:
            caller, request = there, Ifreq(ifp.if_xname, ifr_jid=here.prison.pr_id)
            taken = there.ifunit(ifp.if_xname), here.ifunit(ifp.if_xname)
        else:
            caller, request = here, Ifreq(ifp.if_xname, ifr_jid=there.prison.pr_id)
            taken = there.ifunit(ifp.if_xname), here.ifunit(ifp.if_xname)
        if taken == (None, ifp):
            self.purged(ifp)
            caller.ioctl("SIOCSIFRVNET" if back else "SIOCSIFVNET", request)
            assert ifp.if_vnet is there
        elif taken[1] is ifp:
            with pytest.raises(OSError, match="of its own"):
                caller.ioctl("SIOCSIFRVNET" if back else "SIOCSIFVNET", request)

    @precondition(lambda self: self.ifps)
    @rule(
        data=st.data(),
        what=st.sampled_from(
            [
                ("SIOCSIFMTU", {"ifr_mtu": 1400}),
                ("SIOCSIFMTU", {"ifr_mtu": 71}),
                ("SIOCSIFMETRIC", {"ifr_metric": 3}),
                ("SIOCSIFPHYS", {"ifr_phys": 3}),
                ("SIOCSIFFIB", {"ifr_fib": 0}),
                ("SIOCSIFFIB", {"ifr_fib": 1}),
                ("SIOCSIFCAP", {"ifr_reqcap": 1}),
                ("SIOCSIFDESCR", {"ifr_buffer": UserBuffer(4, "abc")}),
                ("SIOCSIFDESCR", {"ifr_buffer": UserBuffer(0)}),
                ("SIOCSIFDESCR", {"ifr_buffer": UserBuffer(4, "abc", fault=True)}),
                ("SIOCSIFLLADDR", {"ifr_addr": SockaddrDl(sdl_lladdr=bytes(6))}),
                ("SIOCSIFLLADDR", {"ifr_addr": SockaddrDl(sdl_lladdr=bytes(5))}),
                ("SIOCADDMULTI", {"ifr_addr": SockaddrDl(sdl_lladdr=bytes(6))}),
                ("SIOCNOSUCH", {}),
            ]
        ),
    )
    def ioctl(self, data, what):
        ifp = self.pick(data)
        tolerated(ifp.if_vnet.ioctl, what[0], Ifreq(ifp.if_xname, **what[1]))

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), up=st.booleans())
    def up_and_down(self, data, up):
        ifp = self.pick(data)
        (ifp.if_up if up else ifp.if_down)()
        assert bool(ifp.if_flags & IFF.UP) == up

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), on=st.booleans())
    def queue(self, data, on):
        ifp = self.pick(data)
        tolerated(altq_use, ifp, Priority()) if on else tolerated(altq_forgo, ifp)
        assert ifp.if_snd.altq_is_enabled() or not on

    @precondition(lambda self: self.ifps)
    @rule(data=st.data())
    def leave_all(self, data):
        ifp = self.pick(data)
        for ifma in {id(h): h for h in self.holders if h.ifma_ifp is ifp}.values():
            self.holders.remove(ifma)
        ifp.if_delallmulti()

    @rule(n=st.integers(0, 1), unit=st.integers(0, 3), make=st.booleans())
    def clone(self, n, unit, make):
        cloners, name = self.kernel.cloners, f"disc{unit}"
        there = self.vnets[n].ifunit(name) is not None
        made = tolerated(cloners.if_clone_create if make else cloners.if_clone_destroy, self.vnets[n], name)
        assert made == (name if make and not there else None)
        assert (self.vnets[n].ifunit(name) is not None) == make

    def purged(self, ifp):
        """The list of an interface that goes takes one reference of each membership along (782-795)."""
        for ifma in {id(h): h for h in self.holders if h.ifma_ifp is ifp}.values():
            self.holders.remove(ifma)

    @precondition(lambda self: self.ifps)
    @rule(data=st.data())
    def move(self, data):
        ifp = self.pick(data)
        self.purged(ifp)
        ifp.if_vmove(self.vnets[1 - self.vnets.index(ifp.if_vnet)])

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), name=st.sampled_from(NAMES), join=st.booleans())
    def group(self, data, name, join):
        ifp = self.pick(data)
        tolerated(ifp.if_addgroup if join else ifp.if_delgroup, name)

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), address=st.sampled_from(GROUPS))
    def join(self, data, address):
        self.holders.append(self.pick(data).if_addmulti(address))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def leave(self, data):
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        if_delmulti_ifma(holder)

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), on=st.booleans(), fails=st.booleans(), promisc=st.booleans())
    def mode(self, data, on, fails, promisc):
        ifp = self.pick(data)
        ifp.if_driver.fails = {"SIOCSIFFLAGS": errno.EIO} if fails else {}
        before = (ifp.if_flags, ifp.if_pcount, ifp.if_amcount)
        try:
            (ifp.ifpromisc if promisc else ifp.if_allmulti)(on)
        except KernelPanic:
            assert not on
            assert (ifp.if_flags, ifp.if_pcount, ifp.if_amcount) == before
        except OSError:
            assert fails
            assert (ifp.if_flags, ifp.if_pcount, ifp.if_amcount) == before

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), bits=st.integers(0, 2**20))
    def flags(self, data, bits):
        ifp = self.pick(data)
        ifp.if_vnet.ioctl("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=bits & ~IFF.DYING))

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), name=st.sampled_from(["wan", "lan", "em0", ""]))
    def rename(self, data, name):
        ifp = self.pick(data)
        tolerated(ifp.if_vnet.ioctl, "SIOCSIFNAME", Ifreq(ifp.if_xname, ifr_buffer=UserBuffer(16, name)))

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), state=st.sampled_from(LinkState), run=st.booleans())
    def link(self, data, state, run):
        self.pick(data).if_link_state_change(state)
        if run:
            self.kernel.taskqueue_swi.run()

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), busy=st.booleans())
    def send(self, data, busy):
        ifp = self.pick(data)
        ifp.if_drv_flags = IFF.OACTIVE if busy else 0
        assert ifp.transmit_mbuf(mbuf(frame("x"))) in (0, errno.ENOBUFS)

    @precondition(lambda self: self.ifps)
    @rule(data=st.data(), n=st.integers(1, 5), add=st.booleans())
    def address(self, data, n, add):
        ifp = self.pick(data)
        if add:
            ifp.ifa_add(f"10.0.0.{n}", "255.0.0.0")
        else:
            ifp.if_purgeaddrs()

    @invariant()
    def promises(self):
        sound(self.kernel)
        gone = {ifp for ifp in self.held if ifp not in self.ifps}
        clones = sum(ifp.if_dname == "disc" for vnet in self.vnets for ifp in vnet.ifnets())
        assert self.kernel.live()["ifnet"] == len(self.ifps) + len(gone) + clones
        for ifp in {*self.ifps, *gone}:
            assert ifp.if_refcount == (ifp in self.ifps) + self.held.count(ifp)

    def teardown(self):
        for vnet in self.vnets:
            for ifp in [ifp for ifp in vnet.ifnets() if ifp.if_dname == "disc"]:
                discard(ifp)
        while self.held:
            self.held.pop().if_rele()
        for ifa in self.ifas:
            ifa.ifa_free()
        for holder in self.holders:
            if_delmulti_ifma(holder)
        for ifp in self.ifps:
            ifp.if_detach()
            ifp.if_free()
        assert set(self.kernel.live().values()) == {0}
        for vnet in self.vnets:
            vnet.vnet_if_uninit()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_several_threads_at_once_keep_the_promises_too():
    kernel = Kernel()
    vnets = [kernel.vnet_alloc(f"v{n}") for n in range(2)]
    unexpected = []

    def work(seed):
        rng = random.Random(seed)
        try:
            for _ in range(40):
                vnet = rng.choice(vnets)
                ifp = vnet.if_alloc(IFT.ETHER)
                ifp.if_initname(f"t{seed}x", rng.randrange(1000))
                ifp.if_driver = RecordingDriver()
                ifp.if_flags = IFF.BROADCAST | IFF.MULTICAST
                ether_ifattach(ifp, b"\x02\0\0\0\0\1")
                for _ in range(rng.randrange(6)):
                    rng.choice(
                        [
                            lambda ifp=ifp: ifp.if_addmulti(rng.choice(GROUPS)),
                            lambda ifp=ifp: tolerated(ifp.if_addgroup, rng.choice(NAMES)),
                            lambda ifp=ifp: ifp.ifpromisc(1),
                            lambda ifp=ifp: ifp.if_vmove(
                                rng.choice([v for v in vnets if v is not ifp.if_vnet])
                            ),
                            lambda ifp=ifp: ifp.if_transmit(frame("x")),
                            lambda ifp=ifp: ifp.if_link_state_change(rng.choice(list(LinkState))),
                            lambda ifp=ifp: vnets[0].ifa_ifwithnet("10.0.0.1"),
                        ]
                    )()
                ifp.if_detach()
                ifp.if_free()
        except Exception as error:
            unexpected.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert unexpected == []
    sound(kernel)
    live = kernel.live()
    assert live["ifnet"] == live["ifaddr"] == live["temp"] == 0
    assert [vnet.vnet_ifcnt for vnet in vnets] == [0, 0]


def test_several_threads_at_the_same_interfaces_keep_the_promises():
    """Whoever takes an interface from under another one's hands: references hold, refusals are errnos."""
    kernel = Kernel()
    vnets = [kernel.vnet_alloc(f"v{n}") for n in range(2)]
    kernel.cloners.register(disc_cloner())
    unexpected, done = [], []

    def join_and_leave(ifp, group):
        with kernel.giant:  # an interface that goes in between takes a reference along (782-795)
            if_delmulti_ifma(ifp.if_addmulti(group))

    def while_attached(ifp, fn, *args):
        with kernel.giant:  # what joins a group or gets an address when it is gone keeps it until it is freed
            if ifp.if_vnet.lists(ifp):
                fn(*args)

    def operate(rng, ifp):
        other = rng.choice(vnets)
        operations = (
            lambda: while_attached(ifp, ifp.if_addgroup, rng.choice(NAMES)),
            lambda: ifp.if_delgroup(rng.choice(NAMES)),
            lambda: join_and_leave(ifp, rng.choice(GROUPS)),
            lambda: (ifp.ifpromisc(1), ifp.ifpromisc(0)),
            lambda: (ifp.if_allmulti(1), ifp.if_allmulti(0)),
            lambda: ifp.if_transmit(frame("x")),
            lambda: ifp.if_link_state_change(rng.choice(list(LinkState))),
            lambda: while_attached(ifp, ifp.ifa_add, f"10.0.0.{rng.randrange(1, 9)}", "255.0.0.0"),
            lambda: ifp.if_purgeaddrs(),
            lambda: ifp.if_up(),
            lambda: ifp.if_down(),
            lambda: ifp.if_setlladdr(bytes((2, 0, 0, 0, 0, rng.randrange(256)))),
            lambda: altq_use(ifp, Priority()),
            lambda: altq_forgo(ifp),
            lambda: ifp.if_vnet.ioctl("SIOCSIFMTU", Ifreq(ifp.if_xname, ifr_mtu=rng.randrange(60, 1600))),
            lambda: ifp.if_vnet.ioctl("SIOCSIFVNET", Ifreq(ifp.if_xname, ifr_jid=other.prison.pr_id)),
            lambda: kernel.cloners.if_clone_destroy(ifp.if_vnet, ifp.if_xname),
            lambda: [a.ifa_free() for a in (other.ifa_ifwithnet("10.0.0.1"), other.ifaddr_byindex(1)) if a],
            lambda: kernel.taskqueue_swi.run(),
        )
        rng.choice(operations)()

    def work(seed):
        rng = random.Random(seed)
        try:
            for _ in range(150):
                vnet = rng.choice(vnets)
                tolerated(kernel.cloners.if_clone_create, vnet, f"disc{rng.randrange(3)}")
                ifp = rng.choice(vnets).ifunit_ref(f"disc{rng.randrange(3)}")
                if ifp is None:
                    continue
                try:
                    operate(rng, ifp)
                except OSError:
                    done.append("refused")
                finally:
                    ifp.if_rele()
                with kernel.giant:
                    sound(kernel)
        except BaseException as error:
            unexpected.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert unexpected == []
    assert done  # some came too late
    for vnet in vnets:
        for ifp in vnet.ifnets():
            discard(ifp)
        vnet.vnet_if_uninit()
    kernel.taskqueue_swi.run()
    assert set(kernel.live().values()) == {0}
