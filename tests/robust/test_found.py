"""What the stress run found, each in its smallest form."""

import gc
import socket
import struct
import weakref

import pytest

from iflab import Lab, Missing
from iflab.faults import Delay, Loss
from iflab.linux import Netlink
from iflab.net import IFF, Ifreq, UserBuffer, is_unfinished

from ..linux_tools import eventually, new_name, open_files
from ..pure.devices import World, framed


def test_frames_of_a_train_are_finished_when_the_first_of_them_changed_the_wire():
    """The receiver's reaction took an offload off: those behind it in the same train were lost as unfinished."""
    world = World()
    alice, bob = world.linked()
    cable = alice.if_softc.end.wire
    assert alice.if_softc.end.accepts
    udp = struct.pack("!HHHH", 1, 2, 28, 0) + bytes(20)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 48, 1, 0, 64, 17, 0, b"\xc0\0\2\1", b"\xc0\0\2\2")
    m = struct.pack("=BBHHHH", 1, 0, 0, 0, 34, 6) + framed("", kind=b"\x08\0") + ip + udp
    heard, seen = [], []

    def receive(ifp, frame):
        heard.append(frame)
        if len(heard) == 1:
            cable.add_tap(lambda end, each: seen.append(each))

    bob.if_vnet.stack.input = receive
    with world.kernel.giant:
        alice.if_softc._express([m, m, m])

    assert len(heard) == 3
    assert [is_unfinished(each) for each in heard] == [True, False, False]
    assert len(seen) == 2
    assert cable.account().dropped == {}
    assert alice.if_opackets == alice.if_softc.end.flow.sent == 3


def test_what_an_interface_that_goes_down_throws_away_is_counted():
    world = World()
    alice, _ = world.linked()
    alice.if_drv_flags |= IFF.OACTIVE
    for _ in range(3):
        alice.if_transmit(framed("x" * 60))

    world.up(alice, False)

    assert (alice.if_snd.ifq_len, alice.if_snd.ifq_flushed, alice.if_snd.ifq_drops) == (0, 3, 0)


def multicast(host, name):
    with Netlink(host.netns) as netlink:
        index = netlink.link_get(name).index
        return {maddr.address for maddr in netlink.maddrs() if maddr.index == index}


GROUP = "01:00:5e:7c:00:09"


def test_groups_follow_a_nic_to_another_host_and_through_a_change_of_its_name(lab):
    alice, bob = lab.host("alice"), lab.host("bob")
    em0 = alice.nic("em0")
    em0.if_addmulti("233.252.0.9")
    assert GROUP in multicast(alice, "em0")
    em0.if_vmove(bob.vnet)
    assert GROUP not in multicast(bob, "em0")

    em0.if_addmulti("233.252.0.9")
    assert GROUP in multicast(bob, "em0")
    em0.if_delmulti("233.252.0.9")
    with lab.lock:  # the ifnet has not heard of the name yet
        bob.run(new_name("em0", "lan0"), check=True)
        assert em0.if_xname == "em0"
        em0.if_addmulti("233.252.0.9")
    assert GROUP in multicast(bob, "lan0")
    eventually(lambda: em0.if_xname == "lan0")
    lab.check()


def test_a_nic_that_is_renamed_by_the_host_while_it_moves_is_found_there(lab):
    alice, bob = lab.host("alice"), lab.host("bob")
    em0 = alice.nic("em0", "192.0.2.1/24")
    with lab.lock:
        alice.run(new_name("em0", "lan0"), check=True)
        em0.if_vmove(bob.vnet)

    eventually(lambda: em0.if_xname == "lan0")
    assert set(bob.nics) == {"lan0"}
    assert em0.if_softc.tap.ifindex == bob.call(socket.if_nametoindex, "lan0")
    lab.check()


def test_an_interface_without_ipv6_any_more_can_be_taken_away(lab):
    """Linux takes IPv6 off a device whose MTU is below 1280; the address is gone before it is deleted."""
    alice = lab.host("alice")
    em0 = alice.nic("em0", "2001:db8::1/64")
    with lab.lock:  # nobody hears of it meanwhile
        alice.run("ip link set em0 mtu 576", check=True)
        em0.if_detach()
        em0.if_free()
    lab.wait_for_closers()

    assert alice.nics == {}
    assert alice.run("ip -br link").stdout.split()[0] == "lo"


def test_nothing_keeps_a_nic_that_is_gone(lab):
    """Faults of its cable, names of their directions, the account of what it said: all of it goes."""
    alice, bob = lab.host("alice"), lab.host("bob")
    wire = lab.segment(bob.nic("em0"))
    wire.impair(Loss(0.5), Delay(0.001))
    gone = []
    for _ in range(5):
        em0 = alice.nic("em0", "192.0.2.1/24")
        wire.plug(em0.if_softc)
        wire.impair(Loss(0.1), towards=em0.if_softc)
        em0.if_transmit(framed("x" * 50))
        em0.if_detach()
        em0.if_free()
        gone += [weakref.ref(em0), weakref.ref(em0.if_softc)] if em0.if_softc else [weakref.ref(em0)]
        del em0
        lab.wait_for_closers()

    eventually(lambda: gc.collect() >= 0 and not [each for each in gone if each() is not None])
    assert wire.account().balances()


def test_frames_of_a_direction_are_counted_on_when_a_nic_of_the_same_name_comes_back(lab, tmp_path):
    """Numbers of frames must not begin anew in the middle of a record, nor must what a fault has counted."""
    from iflab.faults import LoseFrames

    one, hub = lab.station(name="one"), lab.segment()
    hub.plug(one)
    hub.impair(LoseFrames(frozenset({4})))
    alice = lab.host("alice")
    alice.run("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6", check=True)  # its kernel says nothing
    for _ in range(2):
        em0 = alice.nic("em0")
        hub.plug(em0.if_softc)
        for _ in range(3):
            em0.if_transmit(framed("x" * 50))
        em0.if_detach()
        em0.if_free()
        lab.wait_for_closers()

    assert dict(hub.account().dropped) == {"loss": 1}
    assert hub.account().sent == 6


def test_a_lab_whose_end_fails_somewhere_takes_everything_else_down():
    fds = open_files(collect=True)
    try:
        lab = Lab()
    except Missing as error:
        pytest.skip(str(error))
    alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    sleeper = alice.popen(["sleep", "600"])

    def fails(vnet):
        raise RuntimeError("not today")

    lab.kernel.vnet_destroy = fails
    with pytest.raises(RuntimeError, match="not today"):
        lab.close()

    assert sleeper.poll() is not None
    assert open_files() == fds
    assert not lab.engine._thread.is_alive()


def test_a_nic_that_is_plugged_in_elsewhere_finishes_its_frames_there(lab):
    """On the cable super-frames passed whole; the hub takes none, and the kernel must hear of that."""
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    others = [lab.host(f"h{n}").nic("em0") for n in range(2)]
    hub = lab.segment(*others)
    nics = [host.nics["em0"].if_softc for host in (alice, bob)]
    assert nics[0].end.accepts
    # what was queued before an offload was taken off is finished anyway: wait until that is over
    eventually(lambda: alice.ping("192.0.2.2").received and not any(nic._stale_until for nic in nics))

    for nic in nics:
        cable.unplug(nic)
        hub.plug(nic)
    lab.wait_links()

    assert bob.fetch(alice.serve(bytes_=1_000_000)).wait(timeout=20) == 1_000_000
    assert hub.account().dropped.keys() <= {"unplugged"}
    assert hub.account().balances()


def test_flags_read_during_a_rename_and_written_back_leave_no_interface_behind(lab):
    """``IFF_RENAMING`` stayed set, and nobody heard of the interface's departure any more."""
    alice, bob = lab.host("alice"), lab.host("bob")
    em0 = alice.nic("em0", "192.0.2.1/24")
    alice.vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=em0.if_flags | IFF.RENAMING))
    alice.vnet.ioctl("SIOCSIFNAME", Ifreq("em0", ifr_buffer=UserBuffer(8, "up0")))
    assert em0.if_flags & IFF.RENAMING == 0
    alice.vnet.ioctl("SIOCSIFFLAGS", Ifreq("up0", ifr_flags=em0.if_flags | IFF.RENAMING))

    em0.if_vmove(bob.vnet)
    assert (alice.stack.interfaces(), bob.stack.interfaces()) == ([], [em0])
    em0.if_detach()
    em0.if_free()

    assert bob.stack.interfaces() == []
    lab.check()


def test_a_detach_comes_to_its_end_whatever_the_protocols_refuse(lab, monkeypatch):
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24", "2001:db8::1/64")

    def refuses(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(alice.stack, "in6_purgeaddr", refuses)
    monkeypatch.setattr(alice.stack, "in_control", refuses)
    em0.if_detach()

    assert list(em0.if_addrhead) == []
    assert alice.vnet.ifnets() == ()
    em0.if_free()
    assert alice.vnet.groups == {}
