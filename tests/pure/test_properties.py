"""Random interleavings of everything keep the interface layer's promises, in one thread and in several."""

import errno
import random
import threading
import weakref

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iflab.net import (
    IFF,
    IFT,
    Ifreq,
    Kernel,
    KernelPanic,
    LinkState,
    UserBuffer,
    ether_ifattach,
    if_delmulti_ifma,
    mbuf,
)

from .doubles import RecordingDriver, frame

GROUPS = ["224.0.0.5", "225.128.0.5", "ff02::1", "01:00:5e:00:00:05"]
NAMES = ["lab", "team", "x"]


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


def tolerated(fn, *args):
    """Call, and pass over what the original refuses as well."""
    try:
        return fn(*args)
    except OSError:
        return None


class Machine(RuleBasedStateMachine):
    """Interfaces by handle; ``holders`` are memberships whose reference the test holds."""

    def __init__(self):
        super().__init__()
        self.kernel = Kernel()
        self.vnets = [self.kernel.vnet_alloc(f"v{n}", is_default=n == 0) for n in range(2)]
        self.ifps = []
        self.holders = []
        self.unit = 0

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
        gone = weakref.ref(ifp)
        del ifp
        assert gone() is None  # at once, without a collection

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

    def teardown(self):
        for holder in self.holders:
            if_delmulti_ifma(holder)
        for ifp in self.ifps:
            ifp.if_detach()
            ifp.if_free()
        assert set(self.kernel.live().values()) == {0}
        for vnet in self.vnets:
            vnet.vnet_if_uninit()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


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
