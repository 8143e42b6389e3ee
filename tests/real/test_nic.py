"""The NIC: what the ifnet says is what the kernel does, and the other way round."""

import contextlib
import errno
import socket

import psutil
import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from iflab.net import IFF, Ifreq, LinkState

from ..linux_tools import PATIENCE, eventually, ip, kernel_flags, link, need, real_root


@pytest.fixture
def alice_em0(lab):
    alice = lab.host("alice")
    return alice, alice.nic("em0", "192.0.2.1/24")


def test_without_a_cable_there_is_no_carrier(alice_em0):
    alice, em0 = alice_em0

    eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "em0"))  # at once since Linux 6.8
    assert em0.if_link_state is LinkState.DOWN
    assert alice.call(psutil.net_if_stats)["em0"].mtu == 1500


def test_plug_cut_mend_unplug_are_the_kernels_carrier(lab, alice_em0):
    alice, em0 = alice_em0
    bob_em0 = lab.host("bob").nic("em0")
    cable = lab.cable(em0, bob_em0)
    lab.wait_links()
    assert "LOWER_UP" in kernel_flags(alice, "em0")
    assert em0.if_link_state is LinkState.UP

    cable.cut()
    eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "em0"))  # at once since Linux 6.8
    cable.mend()
    assert "LOWER_UP" in kernel_flags(alice, "em0")
    cable.unplug(bob_em0.if_softc)

    eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "em0"))  # at once since Linux 6.8
    assert em0.if_link_state is LinkState.DOWN


def test_up_and_down_from_the_bsd_side(alice_em0):
    alice, em0 = alice_em0
    alice.vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=em0.if_flags & ~IFF.UP))
    assert "UP" not in kernel_flags(alice, "em0")

    em0.if_up()

    assert "UP" in kernel_flags(alice, "em0")
    assert em0.if_drv_flags & IFF.RUNNING


def test_up_and_down_from_the_linux_side(alice_em0):
    alice, em0 = alice_em0
    stream = alice.vnet.kernel.rtsock.stream()

    alice.run("ip link set em0 down", check=True)
    eventually(lambda: not em0.if_flags & IFF.UP)
    with alice.lab.lock:  # both change while it is held
        assert not em0.if_drv_flags & IFF.RUNNING
    alice.run("ip link set em0 up", check=True)
    eventually(lambda: em0.if_flags & IFF.UP)

    messages = []
    while (message := stream.get(timeout=0.05)) is not None:
        messages.append(str(message))
    assert any("RTM_IFINFO" in m and "UP" in m for m in messages)


def test_last_promisc_holder_closes_the_filter(alice_em0):
    alice, em0 = alice_em0
    em0.ifpromisc(1)
    em0.ifpromisc(1)
    em0.ifpromisc(0)
    assert "PROMISC" in kernel_flags(alice, "em0")

    em0.ifpromisc(0)

    assert "PROMISC" not in kernel_flags(alice, "em0")
    assert not em0.if_flags & IFF.PROMISC


def test_allmulti_is_the_kernels(alice_em0):
    alice, em0 = alice_em0

    em0.if_allmulti(1)
    assert "ALLMULTI" in kernel_flags(alice, "em0")
    em0.if_allmulti(0)

    assert "ALLMULTI" not in kernel_flags(alice, "em0")


def test_promisc_by_ip_is_permanent_mode_and_is_not_echoed(alice_em0):
    alice, em0 = alice_em0

    alice.run("ip link set em0 promisc on", check=True)
    eventually(lambda: em0.if_flags & IFF.PPROMISC)
    assert em0.if_flags & IFF.PROMISC
    assert link(alice, "em0")["promiscuity"] == 1
    alice.run("ip link set em0 promisc off", check=True)
    eventually(lambda: not em0.if_flags & IFF.PPROMISC)

    assert not em0.if_flags & IFF.PROMISC
    assert link(alice, "em0")["promiscuity"] == 0


def test_tcpdump_opens_and_closes_the_filter(lab, alice_em0):
    need("tcpdump", "tcpdump")
    alice, em0 = alice_em0
    station = lab.station(em0)
    foreign = Ether(dst="02:00:00:00:99:99") / IP(src="192.0.2.8", dst="192.0.2.7") / ICMP()

    tcpdump = alice.popen(
        ["tcpdump", "-Z", "root", "-ni", "em0", "-c", "1", "icmp"], stdout=-1, stderr=-1, text=True
    )
    eventually(lambda: em0.if_flags & IFF.PROMISC)
    assert em0.if_pcount == 1
    eventually(lambda: station.send(foreign) and tcpdump.poll() is not None)
    out, _ = tcpdump.communicate()

    assert "192.0.2.8 > 192.0.2.7: ICMP echo request" in out
    eventually(lambda: not em0.if_flags & IFF.PROMISC)
    assert em0.if_pcount == 0


def test_the_filter_knows_own_broadcast_and_joined(lab, alice_em0):
    _, em0 = alice_em0
    nic = em0.if_softc

    with lab.lock:
        assert nic.accepts(em0.lladdr)
        assert nic.accepts(b"\xff" * 6)
        assert nic.accepts(b"\x01\x00\x5e\x00\x00\x01")  # 224.0.0.1: every host is in it
        assert not nic.accepts(b"\x02\0\0\0\x99\x99")
        assert not nic.accepts(b"\x01\x00\x5e\x01\x02\x03")


def test_a_group_joined_from_the_bsd_side_is_on_the_kernels_list(alice_em0):
    alice, em0 = alice_em0

    ifma = em0.if_addmulti("233.252.0.7")
    assert "01:00:5e:7c:00:07" in alice.run("ip maddress show em0").stdout
    assert em0.if_softc.accepts(b"\x01\x00\x5e\x7c\x00\x07")
    em0.if_delmulti("233.252.0.7")

    assert ifma.ifma_refcount == 0
    assert "01:00:5e:7c:00:07" not in alice.run("ip maddress show em0").stdout


def test_mtu_both_ways(alice_em0):
    alice, em0 = alice_em0

    alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400))
    assert link(alice, "em0")["mtu"] == 1400
    alice.run("ip link set em0 mtu 9000", check=True)
    eventually(lambda: em0.if_mtu == 9000)


def test_an_mtu_that_the_kernel_refuses_changes_nothing(alice_em0):
    alice, em0 = alice_em0

    with pytest.raises(OSError, match="mtu greater than device maximum") as refused:
        alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=65535))

    assert refused.value.errno == errno.EINVAL
    assert em0.if_mtu == link(alice, "em0")["mtu"] == 1500


def test_mac_name_and_description_both_ways(alice_em0):
    alice, em0 = alice_em0
    em0.if_setlladdr(b"\x02\0\0\0\0\x42")
    assert link(alice, "em0")["address"] == "02:00:00:00:00:42"
    assert em0.if_softc.accepts(b"\x02\0\0\0\0\x42")

    alice.run("ip link set em0 address 02:00:00:00:00:43 alias 'by hand'", check=True)
    eventually(lambda: em0.lladdr == b"\x02\0\0\0\0\x43" and em0.if_description == "by hand")
    alice.run("ip link set em0 down && ip link set em0 name wan0 && ip link set wan0 up", check=True)
    eventually(lambda: em0.if_xname == "wan0")

    assert alice.nics == {"wan0": em0}
    eventually(lambda: em0.if_flags & IFF.UP)


def test_a_new_mac_keeps_addresses_and_is_announced(lab):
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24", "2001:db8::1/64")
    station = lab.station(em0)

    em0.if_setlladdr(b"\x02\0\0\0\0\x42")

    assert "2001:db8::1" in {row["local"] for row in ip(alice, "addr", "show", "em0")[0]["addr_info"]}
    assert "UP" in kernel_flags(alice, "em0")
    gratuitous = b"\xff" * 6 + em0.lladdr + b"\x08\x06"
    eventually(lambda: (station.recv_frame(timeout=1) or b"").startswith(gratuitous))


def test_addresses_that_others_set_are_known(alice_em0):
    alice, _ = alice_em0

    alice.run("ip addr add 198.51.100.1/24 brd + dev em0", check=True)
    ifa = eventually(lambda: alice.vnet.ifa_ifwithaddr("198.51.100.255"))
    assert str(ifa.ifa_addr) == "198.51.100.1"
    ifa.ifa_free()
    alice.run("ip addr del 198.51.100.1/24 dev em0", check=True)

    eventually(lambda: not alice.vnet.ifa_ifwithaddr_check("198.51.100.1"))


def test_a_netdev_that_somebody_deletes_takes_its_ifnet_along(alice_em0):
    alice, _ = alice_em0

    alice.run("ip link del em0", check=True)

    eventually(lambda: alice.nics == {})


def test_detaching_takes_the_device_away(lab, alice_em0):
    alice, em0 = alice_em0

    em0.if_detach()
    em0.if_free()
    lab.wait_for_closers()

    assert [row["ifname"] for row in ip(alice, "link")] == ["lo"]
    assert alice.nic("em0", "192.0.2.1/24").if_xname == "em0"


def test_a_move_takes_device_fd_and_cable_along(lab, alice_em0):
    alice, em0 = alice_em0
    bob = lab.host("bob")
    station = lab.station(em0)
    mac = em0.lladdr

    em0.if_vmove(bob.vnet)

    assert [row["ifname"] for row in ip(alice, "link")] == ["lo"]
    assert link(bob, "em0")["address"] == mac.hex(":")
    bob.stack.add_address(em0, "192.0.2.1/24")
    bob.vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=em0.if_flags | IFF.UP))
    lab.wait_links()
    reply = station.sr1(Ether(dst=mac.hex(":")) / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(), timeout=0.2)
    assert reply is None  # bob asks who 192.0.2.9 is
    assert (
        b"\x08\x06" in {frame[12:14] for frame in iter(lambda: station.recv_frame(timeout=0.2), None)}
        or em0.if_opackets
    )


@real_root
def test_lost_notices_cost_nothing_but_time(lab, alice_em0):
    alice, em0 = alice_em0
    lab._listener.monitor.set_buffer(4096)
    with lab.lock:  # the engine cannot read meanwhile
        alice.run("for i in $(seq 60); do ip link set em0 mtu $((1300 + i)); done", check=True)
        alice.run("ip addr add 198.51.100.1/24 dev em0", check=True)

    eventually(lambda: em0.if_mtu == 1360)
    eventually(lambda: alice.vnet.ifa_ifwithaddr_check("198.51.100.1"))
    assert lab._listener.overflows > 0


def test_a_frame_from_if_input_is_the_hosts(alice_em0, lab):
    alice, em0 = alice_em0
    lab.station(em0)
    with alice.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as listener:
        listener.bind(("em0", 0x88B5))
        listener.settimeout(2 * PATIENCE)

        em0.if_input(em0.lladdr + bytes(6) + b"\x88\xb5" + b"from nowhere".ljust(46, b"\0"))

        assert listener.recv(2048)[14:26] == b"from nowhere"


def test_a_frame_from_if_transmit_is_on_the_cable_in_queue_order(alice_em0, lab):
    _, em0 = alice_em0
    station = lab.station(em0)

    for n in range(20):
        em0.if_transmit(Ether(dst=station.mac, src=em0.lladdr.hex(":"), type=0x88B5) / bytes([n]))

    numbers = []
    while len(numbers) < 20:
        frame = station.recv_frame(timeout=2 * PATIENCE)
        if frame[12:14] == b"\x88\xb5":
            numbers.append(frame[14])
    assert numbers == list(range(20))


def test_what_the_kernel_sends_comes_through_if_snd(alice_em0, lab):
    alice, em0 = alice_em0
    lab.station(em0)
    with lab.lock:
        em0.if_drv_flags |= IFF.OACTIVE
        em0.if_qflush()
    with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(7):
            sock.sendto(b"x" * 100, ("192.0.2.255", 9))

    eventually(lambda: em0.if_snd.ifq_len >= 7)


def test_a_device_that_somebody_moves_takes_its_ifnet_along(lab, alice_em0):
    alice, em0 = alice_em0
    bob = lab.host("bob")
    station = lab.station(em0)
    bob.popen(["sleep", "987"])
    pid = eventually(lambda: alice.run(["pgrep", "-x", "sleep"]).stdout.strip())

    alice.run(["ip", "link", "set", "em0", "netns", pid], check=True)

    eventually(lambda: bob.nics == {"em0": em0})
    assert alice.nics == {}
    assert em0.if_softc.end is station.end.wire.ends[em0.if_softc]
    bob.run("ip addr add 192.0.2.1/24 dev em0 && ip link set em0 up", check=True)
    eventually(lambda: em0.if_flags & IFF.UP)
    lab.wait_links()
    bob.run(["ip", "neigh", "add", "192.0.2.9", "lladdr", station.mac, "dev", "em0"], check=True)
    ping = Ether(dst=em0.lladdr.hex(":")) / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP()
    assert station.sr1(ping, timeout=2 * PATIENCE) is not None


def test_borrowed_nics_come_home_when_their_host_dies(lab, alice_em0):
    alice, em0 = alice_em0
    guest = lab.host("guest")
    em0.if_vmove(guest.vnet)
    assert link(guest, "em0")["ifname"] == "em0"

    with lab.lock:
        lab.kernel.vnet_destroy(guest.vnet)

    assert alice.nics == {"em0": em0}
    assert link(alice, "em0")["ifname"] == "em0"


def test_carrier_from_the_linux_side(lab, alice_em0):
    alice, em0 = alice_em0
    lab.station(em0)
    heard = []
    lab.kernel.events.register("ifnet_link_event", lambda ifp, state: heard.append(state))

    alice.run("ip link set em0 carrier off", check=True)
    eventually(lambda: heard == [LinkState.DOWN])
    alice.run("ip link set em0 carrier on", check=True)

    eventually(lambda: heard == [LinkState.DOWN, LinkState.UP])
    assert em0.if_link_state is LinkState.UP


def test_allmulti_by_ip_opens_the_filter_and_is_not_echoed(alice_em0):
    alice, em0 = alice_em0

    alice.run("ip link set em0 allmulticast on", check=True)
    eventually(lambda: em0.if_flags & IFF.ALLMULTI)
    assert em0.if_amcount == 1
    assert link(alice, "em0")["allmulti"] == 1
    em0.if_allmulti(1)
    em0.if_allmulti(0)
    assert "ALLMULTI" in kernel_flags(alice, "em0")  # it was not ours to switch off
    alice.run("ip link set em0 allmulticast off", check=True)

    eventually(lambda: not em0.if_flags & IFF.ALLMULTI)
    assert link(alice, "em0")["allmulti"] == 0


def test_monitor_mode_counts_and_lets_listeners_see_and_the_host_hears_nothing(lab):
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    em0 = alice.nics["em0"]
    assert bob.ping("192.0.2.1", 3, interval=0.01).received == 3

    alice.ifconfig("em0 monitor")
    before = em0.if_ipackets
    with lab.tap(em0, filter="icmp", direction="in") as sniffer:
        assert bob.ping("192.0.2.1", timeout=0.2).received == 0
        assert len(sniffer.packets()) == 1
    assert em0.if_ipackets > before
    sent = em0.if_opackets
    assert alice.ping("192.0.2.2", timeout=0.2).received == 0
    assert em0.if_opackets == sent  # nothing goes out either
    assert "MONITOR" in alice.ifconfig("em0")
    alice.ifconfig("em0 -monitor")

    assert bob.ping("192.0.2.1").received == 1
