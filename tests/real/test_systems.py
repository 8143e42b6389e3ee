"""The systems of if.c on the real kernel, a test each, named after the row of the list of systems.

What is told here is always the account of something that is not ours: ``ip``,
``psutil``, ``/proc``, ``tcpdump``, a plain socket.
"""

import errno
import gc
import json
import os
import socket
import struct
import threading
import time
import weakref

import psutil
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from iflab.net import (
    IFCAP,
    IFF,
    IFT,
    AddressFamily,
    Cloner,
    Ifaliasreq,
    Ifconf,
    Ifgroupreq,
    Ifreq,
    KernelPanic,
    LinkState,
    SockaddrDl,
    Thread,
    UserBuffer,
    as_sockaddr,
    ifa_add_loopback_route,
    ifa_del_loopback_route,
    ifa_switch_loopback_route,
)
from iflab.net.altq import Priority, TokenBucketRegulator, altq_forgo, altq_use
from iflab.net.priv import allow_none
from iflab.net.sockio import GENERIC_GET, GENERIC_SET

from ..linux_tools import PATIENCE, eventually, ip, kernel_flags, kernel_has, link, need


@pytest.fixture
def pair(lab):
    return lab.pair("192.0.2.1/24", "192.0.2.2/24")


@pytest.fixture
def em0(pair):
    return pair[0].nics["em0"]


def refused(code, fn, *args):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
        fn(*args)
    assert caught.value.errno == code


def messages(stream):
    found = []
    while (message := stream.get(timeout=0.05)) is not None:
        found.append(str(message))
    return found


def test_row_01_index_table(lab, pair):
    """The lowest free index is reused; the netdev's own index is kept beside it."""
    vnet = pair[0].vnet
    em0, em1, em2 = pair[0].nics["em0"], pair[0].nic("em1"), pair[0].nic("em2")
    assert [vnet.ifnet_byindex(n) for n in (1, 2, 3, 4)] == [em0, em1, em2, None]

    em1.if_detach()
    em1.if_free()
    again = pair[0].nic("em9")

    assert again.if_index == 2
    assert vnet.ifaddr_byindex(2).ifa_addr.sdl_name == "em9"
    for ifp in vnet.ifnets():
        assert link(pair[0], ifp.if_xname)["ifindex"] == ifp.if_softc.tap.ifindex


def test_row_02_vnet_life(lab):
    """A vnet is a network namespace; while an interface is left it cannot go."""
    host = lab.host("solo")
    assert os.stat(f"/proc/self/fd/{host.netns.fileno()}").st_ino != os.stat("/proc/self/ns/net").st_ino
    assert [row["ifname"] for row in ip(host, "link")] == ["lo"]

    host.nic("em0")
    with pytest.raises(KernelPanic, match="387"):
        host.vnet.vnet_if_uninit()


def test_row_03_references(lab, pair):
    """The TAP goes with the interface, which lives until its last reference."""
    host = pair[0]
    em1 = host.nic("em1")
    em1.if_ref()
    em1.if_detach()
    em1.if_free()
    lab.wait_for_closers()
    assert {row["ifname"] for row in ip(host, "link")} == {"lo", "em0"}
    assert em1.if_flags & IFF.DYING
    em1.if_rele()

    gone = weakref.ref(em1)
    del em1
    lab.engine.call_at(0, lambda: None)

    def collected():
        gc.collect()
        return gone() is None

    eventually(collected)


def test_row_04_layer_two_data_that_cannot_be_had_leaves_nothing(lab, pair):
    host = pair[0]
    lab.kernel.if_register_com_alloc(IFT.ARCNET, lambda kind, ifp: None, lambda com, kind: None)
    before = [row["ifname"] for row in ip(host, "link")]

    refused(errno.ENOMEM, host.vnet.if_alloc, IFT.ARCNET)

    assert host.vnet.ifnet_byindex(2) is None
    assert [row["ifname"] for row in ip(host, "link")] == before
    lab.kernel.if_deregister_com_alloc(IFT.ARCNET)


def test_row_05_frames_of_the_kernel_pass_the_send_queue(lab, pair, em0):
    """While the driver is busy they wait in ``if_snd``; beyond its length they are dropped and counted."""
    alice = pair[0]
    alice.ping("192.0.2.2")
    with lab.lock:
        em0.if_drv_flags |= IFF.OACTIVE
    limit, drops = em0.if_snd.ifq_maxlen, em0.if_snd.ifq_drops
    sock = alice.socket(kind=socket.SOCK_DGRAM)
    for _ in range(limit + 20):
        sock.sendto(b"x", ("192.0.2.2", 9))
        time.sleep(0.0005)  # the device's own queue is short
    sock.close()
    eventually(lambda: em0.if_snd.ifq_drops >= drops + 20)
    assert em0.if_snd.ifq_len == limit

    with lab.lock:
        em0.if_drv_flags &= ~IFF.OACTIVE
        em0.if_start()

    assert em0.if_snd.ifq_len == 0
    assert "Drop" in alice.netstat("-id").splitlines()[0]


def test_row_05_a_discipline_and_a_regulator_stand_in_the_way_of_real_frames(lab, pair, em0):
    """Put in, purged, disabled, detached; the receiver's kernel counts what came, and all is accounted for."""
    alice, bob = pair[:2]
    alice.ping("192.0.2.2")
    came = lambda: link_stats(bob, "em0")["rx"]["packets"]  # noqa: E731
    sock = alice.socket(kind=socket.SOCK_DGRAM)

    def send(count, tos=0):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        before = em0.if_softc.taken
        for _ in range(count):
            sock.sendto(bytes(1000), ("192.0.2.2", 9))
            time.sleep(0.0005)  # the device's own queue is short
        eventually(lambda: em0.if_softc.taken >= before + count)

    with lab.lock:
        altq_use(em0, Priority(limit=30))
        regulator = TokenBucketRegulator(lab.engine, 8_000 / PATIENCE, depth=1500).attach(em0)
    drops, before, flushed = em0.if_snd.ifq_drops, came(), em0.if_snd.ifq_flushed
    send(40)
    send(10, tos=0xE0)
    assert int(alice.netstat("-dI", "em0").splitlines()[1].split()[-1]) == em0.if_snd.ifq_drops > drops
    assert 30 <= em0.if_snd.ifq_len <= 40
    assert came() - before < 10

    waiting = em0.if_snd.ifq_len
    with lab.lock:
        assert em0.if_snd.purge() == waiting  # nothing left meanwhile: the lock is held
    assert (em0.if_snd.ifq_len, em0.if_snd.ifq_flushed) == (0, flushed + waiting)

    send(20)
    with lab.lock:
        waiting = em0.if_snd.ifq_len
        altq_forgo(em0)
        regulator.detach()
    assert em0.if_snd.ifq_flushed >= flushed + waiting
    assert em0.if_snd.is_plain()
    before = came()
    send(20)
    eventually(lambda: came() >= before + 20)
    sock.close()


def test_row_06_attach_makes_the_device(lab, pair, em0):
    row = link(pair[0], "em0")
    assert row["address"] == em0.lladdr.hex(":")
    assert row["linkinfo"]["info_kind"] == "tun"
    assert next(iter(em0.if_addrhead)).ifa_addr.family is AddressFamily.LINK
    assert [g.ifg_group for g in em0.if_groups] == ["all"]


def test_row_07_detach_takes_device_addresses_and_routes(lab, pair, em0):
    """A program with a socket of the host sees it as it would when a card is pulled."""
    alice = pair[0]
    alice.route("198.51.100.0/24", "192.0.2.2")
    packets = alice.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    packets.bind(("em0", 3))
    packets.settimeout(5 * PATIENCE)
    stream = lab.kernel.rtsock.stream()

    em0.if_detach()
    em0.if_free()
    lab.wait_for_closers()

    assert [row["ifname"] for row in ip(alice, "addr")] == ["lo"]
    assert ip(alice, "route") == []
    codes = set()
    for _ in range(2000):
        try:
            packets.recv(2048)
        except OSError as error:
            codes.add(error.errno)
            break
    assert codes == {errno.ENETDOWN}
    packets.close()
    assert any("departure" in text for text in messages(stream))


def test_row_08_an_interface_is_lent_and_comes_home(lab, pair, em0):
    alice = pair[0]
    guest = lab.host("guest")
    mac, fd = em0.lladdr, em0.if_softc.tap.fd
    alice.vnet.ioctl("SIOCSIFVNET", Ifreq("em0", ifr_jid=guest.vnet.prison.pr_id))
    assert link(guest, "em0")["address"] == mac.hex(":")
    assert em0.if_softc.tap.fd == fd
    assert em0.if_home_vnet is alice.vnet
    refused(errno.ENXIO, alice.vnet.ioctl, "SIOCGIFFLAGS", Ifreq("em0"))

    alice.vnet.ioctl("SIOCSIFRVNET", Ifreq("em0", ifr_jid=guest.vnet.prison.pr_id))

    assert link(alice, "em0")["address"] == mac.hex(":")
    assert [row["ifname"] for row in ip(guest, "link")] == ["lo"]
    alice.ifconfig("em0 192.0.2.1/24 up")
    lab.wait_links()
    assert alice.ping("192.0.2.2").received == 1  # the cable came along both ways

    em0.if_vmove(guest.vnet)
    lab.kernel.vnet_destroy(guest.vnet)
    assert link(alice, "em0")["address"] == mac.hex(":")


def test_row_09_ip_link_finds_the_group(lab, pair, em0):
    alice = pair[0]
    em0.if_addgroup("uplinks")
    number = lab.group_number("uplinks")
    assert number > 0
    assert [row["ifname"] for row in ip(alice, "link", "show", "group", str(number)) if row] == ["em0"]
    refused(errno.EINVAL, em0.if_addgroup, "lab1")
    refused(errno.EEXIST, em0.if_addgroup, "uplinks")
    request = Ifgroupreq(ifgr_name="uplinks", ifgr_len=16)
    assert alice.vnet.ioctl("SIOCGIFGMEMB", request).ifgr_groups.data == ["em0"]

    em0.if_delgroup("uplinks")

    assert link(alice, "em0")["group"] == "default"
    refused(errno.ENOENT, em0.if_delgroup, "uplinks")


def test_row_10_every_route_through_an_interface_goes_in_every_table(lab, pair, em0):
    alice = pair[0]
    alice.run(
        "ip route add 198.51.100.0/24 via 192.0.2.2; ip route add 203.0.113.0/24 dev em0 table 7;"
        "ip -6 route add 2001:db8:7::/48 dev em0",
        check=True,
    )
    packets = ip(alice, "route", "show", "table", "all", "dev", "em0")
    assert {"198.51.100.0/24", "203.0.113.0/24"} <= {row["dst"] for row in packets}

    em0.if_detach()

    assert routes_through(alice, "em0") == []
    em0.if_free()


@pytest.mark.parametrize("way", ["detach", "move"])
def test_row_10_routes_of_every_kind_go_at_once_however_the_interface_goes(lab, pair, em0, way):
    alice = pair[0]
    em1 = alice.nic("em1", "198.51.100.1/24")
    lab.cable(em1, pair[1].nic("em1", "198.51.100.2/24"))
    lab.wait_links()
    alice.run(
        "ip route add 203.0.113.0/25 via 192.0.2.2 table 4000; ip route add 10.3.0.0/16 via 192.0.2.2 tos 0x10;"
        "ip route add 10.1.0.0/16 via 192.0.2.2 metric 50; ip route add 10.1.0.0/16 via 192.0.2.2 metric 60;"
        "ip route add multicast 239.0.0.0/8 dev em0 table 200; ip route add local 10.9.0.0/16 dev em0 table 201;"
        "ip -6 route add 2001:db8:7::/48 dev em0 table 100; ip route add 10.7.0.0/16 dev em1;"
        "ip route add 203.0.113.128/25 nexthop via 192.0.2.2 nexthop via 198.51.100.2",
        check=True,
    )
    assert {str(r.get("table")) for r in routes_through(alice, "em0")} >= {"100", "200", "201", "4000"}

    with lab.lock:  # at once: the device itself goes a moment later
        if way == "detach":
            em0.if_detach()
        else:
            em0.if_vmove(lab.host("guest").vnet)
        left = routes_through(alice, "em0")
    if way == "detach":
        em0.if_free()

    assert left == []
    assert {"10.7.0.0/16", "198.51.100.0/24"} <= {r["dst"] for r in routes_through(alice, "em1")}


def routes_through(host, name):
    rows = [*ip(host, "route", "show", "table", "all"), *ip(host, "-6", "route", "show", "table", "all")]
    return [row for row in rows if row.get("dev") == name]


def test_row_11_drivers_hold_the_lists_still(lab, em0):
    """The address lock is the lab's one lock: while it is held nobody else changes the list."""
    done = threading.Event()

    def change():
        em0.if_addmulti("233.252.0.9")
        done.set()

    with em0.if_addr_rlock():
        before = [str(a.ifa_addr) for a in em0.if_addrhead]
        thread = threading.Thread(target=change)
        thread.start()
        assert not done.wait(0.05)
        assert [str(a.ifa_addr) for a in em0.if_addrhead] == before
    assert done.wait(5 * PATIENCE)
    thread.join()
    em0.if_maddr_rlock()
    assert bytes.fromhex("01005e7c0009") in em0.if_multiaddrs.link_addresses()
    em0.if_maddr_runlock()
    with pytest.raises(KernelPanic, match="1395"):
        em0.if_addr_runlock()


def test_row_12_addresses_count_real_frames(lab, pair, em0):
    alice, bob = pair[:2]
    bob.nics["em0"].if_vnet.ioctl("SIOCAIFADDR", Ifreq("em0", ifr_data="198.51.100.2/24"))
    alice.run("ip route add 198.51.100.0/24 dev em0", check=True)
    bob.run("ip route add 192.0.2.1/32 dev em0 src 198.51.100.2", check=True)
    counted = {str(a.ifa_addr): a for a in bob.nics["em0"].if_addrhead}

    assert alice.ping("192.0.2.2", 3, interval=0.01).received == 3
    assert alice.ping("198.51.100.2", 2, interval=0.01).received == 2

    for address, packets in (("192.0.2.2", 3), ("198.51.100.2", 2)):
        ifa = counted[address]
        assert (ifa.ifa_ipackets, ifa.ifa_opackets) == (packets, packets)
        assert (ifa.ifa_ibytes, ifa.ifa_obytes) == (packets * 84, packets * 84)
    names, values = (line.split() for line in bob.run("grep ^Icmp: /proc/net/snmp").stdout.splitlines())
    snmp = dict(zip(names, values, strict=True))
    assert int(snmp["InEchos"]) == 5


def test_row_13_a_loopback_route_to_an_address(lab, pair, em0):
    """The host route through ``lo`` is the namespace's, in the table of the interface's fib."""
    alice = pair[0]
    alice.vnet.ioctl("SIOCSIFFIB", Ifreq("em0", ifr_fib=5))
    ifa = next(a for a in em0.if_addrhead if str(a.ifa_addr) == "192.0.2.1")
    ifa_add_loopback_route(ifa, ifa.ifa_addr)
    (route,) = ip(alice, "route", "show", "table", "5")
    assert (route["dst"], route["dev"]) == ("192.0.2.1", "lo")
    refused(errno.EEXIST, ifa_add_loopback_route, ifa, ifa.ifa_addr)
    em1 = alice.nic("em1", "203.0.113.1/24")
    other = next(a for a in em1.if_addrhead if str(a.ifa_addr) == "203.0.113.1")
    ifa_switch_loopback_route(other, ifa.ifa_addr, 5)
    assert alice.stack.rtalloc1_fib(ifa.ifa_addr, 5).rt_gateway.sdl_index == em1.if_index

    ifa_del_loopback_route(ifa, ifa.ifa_addr)

    assert ip(alice, "route", "show", "table", "5") == []
    refused(errno.ESRCH, ifa_del_loopback_route, ifa, ifa.ifa_addr)
    refused(errno.EHOSTUNREACH, ifa_switch_loopback_route, other, ifa.ifa_addr, 5)


@pytest.mark.parametrize(
    ("address", "family"), [("192.0.2.1", "-4"), ("2001:db8::1", "-6")], ids=["IPv4", "IPv6"]
)
def test_row_13_loopback_routes_of_both_families_in_the_main_table(lab, pair, em0, address, family):
    alice = pair[0]
    alice.ifconfig("em0 inet6 2001:db8::1/64")
    ifa = next(a for a in em0.if_addrhead if str(a.ifa_addr) == address)
    routes = lambda: [r for r in ip(alice, family, "route") if r["dst"] == address]  # noqa: E731

    ifa_add_loopback_route(ifa, ifa.ifa_addr)
    assert [row["dev"] for row in routes()] == ["lo"]
    rt = alice.stack.rtalloc1_fib(ifa.ifa_addr, 0)
    assert (rt.rt_gateway.sdl_index, rt.rt_gateway.sdl_type) == (em0.if_index, IFT.ETHER)
    ifa_del_loopback_route(ifa, ifa.ifa_addr)

    assert routes() == []
    refused(errno.ESRCH, ifa_del_loopback_route, ifa, ifa.ifa_addr)


def test_row_14_look_ups_agree_with_the_kernel_whoever_set_the_address(lab, pair, em0):
    alice = pair[0]
    alice.run(
        "ip addr add 198.51.100.1/24 brd 198.51.100.255 dev em0; ip addr add 2001:db8:9::1/64 dev em0",
        check=True,
    )
    eventually(lambda: any(str(a.ifa_addr) == "2001:db8:9::1" for a in em0.if_addrhead))
    rows = [a for row in ip(alice, "addr") if row["ifname"] == "em0" for a in row["addr_info"]]
    for row in rows:
        ifa = alice.vnet.ifa_ifwithaddr(row["local"])
        assert ifa is not None
        assert str(ifa.ifa_addr) == row["local"]
        assert ifa.ifa_netmask.value.bit_count() == row["prefixlen"]
        if "broadcast" in row:
            assert alice.vnet.ifa_ifwithbroadaddr(row["broadcast"]).ifa_addr == ifa.ifa_addr
    for target in ("192.0.2.77", "198.51.100.9", "2001:db8:9::77"):
        (way,) = ip(alice, "route", "get", target)
        assert str(alice.vnet.ifa_ifwithnet(target).ifa_addr) == way["prefsrc"]
    assert alice.vnet.ifa_ifwithnet("203.0.113.1") is None
    assert str(em0.ifaof_ifpforaddr("198.51.100.200").ifa_addr) == "198.51.100.1"


def test_row_15_link_level_sockaddrs_name_the_real_device(lab, pair, em0):
    sdl = em0.if_addr.ifa_addr
    assert (sdl.sdl_name, sdl.sdl_index, sdl.sdl_type) == ("em0", em0.if_index, IFT.ETHER)
    found = {a.address for a in pair[0].call(psutil.net_if_addrs)["em0"] if a.family == psutil.AF_LINK}
    assert found == {sdl.key.hex(":")}


def test_row_16_up_and_down(lab, pair, em0):
    alice = pair[0]
    stream = lab.kernel.rtsock.stream()
    with lab.lock:
        em0.if_drv_flags |= IFF.OACTIVE
    em0.if_transmit(Ether() / IP(dst="192.0.2.2") / UDP())
    assert em0.if_snd.ifq_len >= 1

    em0.if_down()
    assert "UP" not in kernel_flags(alice, "em0")
    assert em0.if_snd.ifq_len == 0
    em0.if_up()
    assert "UP" in kernel_flags(alice, "em0")
    assert alice.call(psutil.net_if_stats)["em0"].isup

    assert sum("RTM_IFINFO" in text for text in messages(stream)) >= 2


def test_row_17_link_state(lab, pair, em0):
    """Carrier, operstate, and routes that are marked ``linkdown``; changes in a burst coalesce."""
    alice, _, cable = pair
    cable.cut()
    eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "em0"))  # at once since Linux 6.8
    eventually(lambda: link(alice, "em0")["operstate"] == "DOWN")
    eventually(lambda: any("linkdown" in r["flags"] for r in ip(alice, "route")))
    notices = lab.kernel.devctl.stream()
    cable.mend()
    lab.wait_links()
    assert {"LOWER_UP", "UP"} <= kernel_flags(alice, "em0")
    assert all("linkdown" not in r["flags"] for r in ip(alice, "route"))
    assert "LINK_UP" in "".join(messages(notices))
    heard = []
    lab.kernel.events.register("ifnet_link_event", lambda ifp, state: heard.append((ifp, state)))

    with lab.lock:
        for state in (LinkState.DOWN, LinkState.UP, LinkState.DOWN, LinkState.UP):
            em0.if_link_state_change(state)

    eventually(lambda: heard)
    assert heard == [(em0, LinkState.UP)]


def test_row_18_names(lab, pair, em0):
    alice = pair[0]
    assert alice.vnet.ifunit("em0") is em0
    alice.vnet.ioctl("SIOCSIFNAME", Ifreq("em0", ifr_buffer=UserBuffer(6, "uplink")))

    assert {row["ifname"] for row in ip(alice, "link")} == {"lo", "uplink"}
    assert alice.vnet.ifunit("em0") is None
    assert alice.vnet.ifunit("uplink") is em0
    assert "uplink" in alice.call(psutil.net_if_stats)
    assert alice.ping("192.0.2.2").received == 1


@pytest.mark.parametrize("size", [1280, 9000])
def test_row_19_interface_ioctls_reach_the_netdev(lab, pair, em0, size):
    alice = pair[0]
    vnet = alice.vnet
    vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=size))
    vnet.ioctl("SIOCSIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(9, "to bob's")))
    vnet.ioctl("SIOCSIFFIB", Ifreq("em0", ifr_fib=3))
    vnet.ioctl("SIOCSIFMETRIC", Ifreq("em0", ifr_metric=4))
    row = link(alice, "em0")

    assert (row["mtu"], row["ifalias"]) == (size, "to bob's")
    assert {"iif": "em0", "table": "3"} in [
        {k: r.get(k) for k in ("iif", "table")} for r in ip(alice, "rule")
    ]
    assert vnet.ioctl("SIOCGIFMETRIC", Ifreq("em0")).ifr_metric == 4
    assert vnet.ioctl("SIOCGIFINDEX", Ifreq("em0")).ifr_index == em0.if_index
    assert vnet.ioctl("SIOCGIFCAP", Ifreq("em0")).ifr_reqcap & IFCAP.VLAN_MTU
    refused(errno.EINVAL, vnet.ioctl, "SIOCSIFMTU", Ifreq("em0", ifr_mtu=71))
    refused(errno.EINVAL, vnet.ioctl, "SIOCSIFFIB", Ifreq("em0", ifr_fib=999))
    refused(errno.EEXIST, vnet.ioctl, "SIOCSIFNAME", Ifreq("em0", ifr_buffer=UserBuffer(3, "em0")))
    assert link(alice, "em0")["mtu"] == size

    vnet.ioctl("SIOCSIFFIB", Ifreq("em0", ifr_fib=0))
    vnet.ioctl("SIOCSIFNAME", Ifreq("em0", ifr_buffer=UserBuffer(3, "em7")))
    assert [r for r in ip(alice, "rule") if r.get("iif")] == []


def test_row_19_offloads_reach_the_device(lab, pair, em0):
    need("ethtool", "ethtool")
    vnet = pair[0].vnet
    features = lambda: pair[0].run(["ethtool", "-k", "em0"], check=True).stdout  # noqa: E731
    able = vnet.ioctl("SIOCGIFCAP", Ifreq("em0"))
    assert "tcp-segmentation-offload: on" in features()

    vnet.ioctl("SIOCSIFCAP", Ifreq("em0", ifr_reqcap=able.ifr_curcap & ~(IFCAP.TXCSUM | IFCAP.TXCSUM_IPV6)))
    assert "tx-checksumming: off" in features()
    assert "tcp-segmentation-offload: off" in features()
    assert not vnet.ioctl("SIOCGIFCAP", Ifreq("em0")).ifr_curcap & (IFCAP.TSO4 | IFCAP.TXCSUM)
    refused(errno.EINVAL, vnet.ioctl, "SIOCSIFCAP", Ifreq("em0", ifr_reqcap=IFCAP.POLLING))
    vnet.ioctl("SIOCSIFCAP", Ifreq("em0", ifr_reqcap=able.ifr_curcap))

    assert "tcp-segmentation-offload: on" in features()


def test_row_19_what_is_asked_is_what_the_kernel_says(lab, pair, em0):
    alice = pair[0]
    alice.run("ip link set em0 alias 'to bob' mtu 1400", check=True)
    lab.check()
    vnet, row = alice.vnet, link(alice, "em0")

    flags = vnet.ioctl("SIOCGIFFLAGS", Ifreq("em0")).ifr_flags
    assert bool(flags & IFF.UP) == ("UP" in row["flags"])
    assert flags & IFF.RUNNING
    assert vnet.ioctl("SIOCGIFMTU", Ifreq("em0")).ifr_mtu == row["mtu"] == 1400
    text = UserBuffer(64)
    assert vnet.ioctl("SIOCGIFDESCR", Ifreq("em0", ifr_buffer=text)).ifr_buffer.length == 7
    assert text.data == row["ifalias"] == "to bob"
    assert vnet.ioctl("SIOCGIFFIB", Ifreq("em0")).ifr_fib == 0
    assert vnet.ioctl("SIOCGIFPHYS", Ifreq("em0")).ifr_phys == 0
    assert vnet.ioctl("SIOCGIFMEDIA", Ifreq("em0")).ifr_data["active"]
    groups = vnet.ioctl("SIOCGIFGROUP", Ifgroupreq("em0", ifgr_len=16)).ifgr_groups.data
    assert groups == ["all"]
    for cmd in (
        "SIOCSIFPHYS",
        *sorted(GENERIC_SET - {"SIOCSIFMEDIA"}),
        *sorted(GENERIC_GET - {"SIOCGIFMEDIA"}),
    ):
        refused(errno.EINVAL, vnet.ioctl, cmd, Ifreq("em0"))  # a NIC's driver does not know them
    refused(errno.EINVAL, vnet.ioctl, "SIOCNOSUCH", Ifreq("em0"))
    group = as_sockaddr("01:00:5e:00:00:77")
    vnet.ioctl("SIOCADDMULTI", Ifreq("em0", ifr_addr=group))
    refused(errno.EADDRINUSE, vnet.ioctl, "SIOCADDMULTI", Ifreq("em0", ifr_addr=group))
    assert "01:00:5e:00:00:77" in {m.get("link") for r in ip(alice, "maddr") for m in r["maddr"]}
    vnet.ioctl("SIOCDELMULTI", Ifreq("em0", ifr_addr=group))
    refused(errno.ENOENT, vnet.ioctl, "SIOCDELMULTI", Ifreq("em0", ifr_addr=group))
    assert "01:00:5e:00:00:77" not in {m.get("link") for r in ip(alice, "maddr") for m in r["maddr"]}


def test_row_19_a_refusal_of_the_kernel_is_an_errno_and_changes_nothing(lab, pair, em0):
    alice = pair[0]
    for name in ("a/b", "bad name"):
        refused(errno.EINVAL, alice.vnet.ioctl, "SIOCSIFNAME", Ifreq("em0", ifr_buffer=UserBuffer(9, name)))
    mac = em0.lladdr
    group = SockaddrDl(sdl_lladdr=bytes.fromhex("010000000001"))
    refused(errno.EADDRNOTAVAIL, alice.vnet.ioctl, "SIOCSIFLLADDR", Ifreq("em0", ifr_addr=group))

    assert (em0.if_xname, em0.lladdr) == ("em0", mac)
    assert link(alice, "em0")["address"] == mac.hex(":")


def test_row_20_addresses_by_ioctl_are_the_kernels(lab, pair, em0):
    alice = pair[0]

    def kernel_addresses():
        (row,) = [r for r in ip(alice, "addr") if r["ifname"] == "em0"]
        return {(a["local"], a["prefixlen"], a.get("broadcast")) for a in row["addr_info"]}

    alice.vnet.ioctl(
        "SIOCAIFADDR",
        Ifaliasreq(
            "em0", as_sockaddr("198.51.100.1"), as_sockaddr("198.51.100.127"), as_sockaddr("255.255.255.128")
        ),
    )
    alice.vnet.ioctl("SIOCAIFADDR_IN6", Ifreq("em0", ifr_data="2001:db8::1/48"))
    assert {("198.51.100.1", 25, "198.51.100.127"), ("2001:db8::1", 48, None)} <= kernel_addresses()
    assert str(alice.vnet.ioctl("SIOCGIFADDR", Ifreq("em0")).ifr_addr) == "192.0.2.1"
    asked = Ifreq("em0", ifr_addr=as_sockaddr("198.51.100.1"))
    assert str(alice.vnet.ioctl("SIOCGIFNETMASK", asked).ifr_addr) == "255.255.255.128"
    asked = Ifreq("em0", ifr_addr=as_sockaddr("198.51.100.1"))
    assert str(alice.vnet.ioctl("SIOCGIFBRDADDR", asked).ifr_addr) == "198.51.100.127"
    refused(errno.EINVAL, alice.vnet.ioctl, "SIOCGIFDSTADDR", Ifreq("em0"))
    refused(errno.EINVAL, alice.vnet.ioctl, "SIOCSIFADDR", Ifreq("em0", ifr_addr=as_sockaddr("10.0.0.1")))

    alice.vnet.ioctl("SIOCDIFADDR", Ifreq("em0", ifr_addr=as_sockaddr("198.51.100.1")))

    assert "198.51.100.1" not in {a[0] for a in kernel_addresses()}
    refused(
        errno.EADDRNOTAVAIL,
        alice.vnet.ioctl,
        "SIOCDIFADDR",
        Ifreq("em0", ifr_addr=as_sockaddr("198.51.100.1")),
    )
    refused(errno.ENXIO, alice.vnet.ioctl, "SIOCGIFADDR", Ifreq("em9"))
    refused(errno.EFAULT, alice.vnet.ioctl, "SIOCGVH", Ifreq("em0"))  # carp is there, its record is not


def test_row_20_ipv6_addresses_by_ioctl_are_the_kernels(lab, pair, em0):
    alice = pair[0]
    ask = lambda cmd, address=None: str(  # noqa: E731
        alice.vnet.ioctl(cmd, Ifreq("em0", ifr_addr=address and as_sockaddr(address))).ifr_addr
    )
    local = ask("SIOCGIFADDR_IN6")
    assert local.startswith("fe80::")
    alice.vnet.ioctl(
        "SIOCAIFADDR_IN6",
        Ifaliasreq("em0", as_sockaddr("2001:db8::1"), None, as_sockaddr("ffff:ffff:ffff::")),
    )
    rows = {a["local"]: a["prefixlen"] for a in ip(alice, "-6", "addr", "show", "em0")[0]["addr_info"]}
    assert rows == {local: 64, "2001:db8::1": 48}
    assert ask("SIOCGIFADDR_IN6", "2001:db8::1") == "2001:db8::1"
    assert ask("SIOCGIFNETMASK_IN6", "2001:db8::1") == "ffff:ffff:ffff::"
    assert ask("SIOCGIFNETMASK_IN6") == "ffff:ffff:ffff:ffff::"
    refused(errno.EINVAL, ask, "SIOCGIFDSTADDR_IN6")
    refused(errno.EADDRNOTAVAIL, ask, "SIOCDIFADDR_IN6", "2001:db8::9")

    alice.vnet.ioctl("SIOCAIFADDR_IN6", Ifreq("em0", ifr_data="2001:db8::1/64"))  # another length
    rows = {a["local"]: a["prefixlen"] for a in ip(alice, "-6", "addr", "show", "em0")[0]["addr_info"]}
    assert rows == {local: 64, "2001:db8::1": 64}
    alice.vnet.ioctl("SIOCDIFADDR_IN6", Ifreq("em0", ifr_addr=as_sockaddr("2001:db8::1")))
    alice.vnet.ioctl("SIOCDIFADDR", Ifreq("em0"))  # the first of its family

    assert [a["local"] for a in ip(alice, "addr", "show", "em0")[0]["addr_info"]] == [local]
    refused(errno.EADDRNOTAVAIL, alice.vnet.ioctl, "SIOCGIFADDR", Ifreq("em0"))
    for cmd in ("SIOCSIFADDR", "SIOCSIFBRDADDR", "SIOCSIFDSTADDR", "SIOCSIFNETMASK"):
        refused(errno.EINVAL, alice.vnet.ioctl, cmd, Ifreq("em0", ifr_addr=as_sockaddr("10.0.0.1")))
    assert alice.vnet.ioctl("SIOCIFGCLONERS", Ifreq()).ifr_data[0] == "tap"
    refused(errno.ENOENT, alice.vnet.ioctl, "SIOCGIFGMEMB", Ifgroupreq("nobody"))


def test_row_21_counted_modes_open_and_close_the_filter(lab, pair, em0):
    alice = pair[0]
    station = lab.station(name="probe")
    pair[2].unplug(pair[1].nics["em0"].if_softc)
    pair[2].plug(station)
    foreign = bytes(
        Ether(dst="02:00:00:00:99:99", src=station.mac) / IP(src="1.2.3.4", dst="5.6.7.8") / UDP()
    )
    group = bytes(
        Ether(dst="01:00:5e:00:77:77", src=station.mac) / IP(src="1.2.3.4", dst="233.252.0.1") / UDP()
    )
    received = lambda: link_stats(alice, "em0")["rx"]["packets"]  # noqa: E731

    for mode, frame, flag in ((em0.ifpromisc, foreign, "PROMISC"), (em0.if_allmulti, group, "ALLMULTI")):
        before = received()
        station.send(frame)
        assert received() == before
        mode(1)
        mode(1)
        assert flag in kernel_flags(alice, "em0")
        station.send(frame)
        assert received() == before + 1
        mode(0)
        assert flag in kernel_flags(alice, "em0")
        mode(0)
        assert flag not in kernel_flags(alice, "em0")
        station.send(frame)
        assert received() == before + 1


def link_stats(host, name):
    return json.loads(host.run(["ip", "-j", "-s", "link", "show", name], check=True).stdout)[0]["stats64"]


def test_row_22_the_list_of_addresses(lab, pair, em0):
    alice = pair[0]
    alice.ifconfig("em0 198.51.100.1/24 alias")
    buffer = UserBuffer(4096)
    alice.vnet.ioctl("SIOCGIFCONF", Ifconf(4096, buffer))
    listed = {str(address) for name, address in buffer.data if address.family is AddressFamily.INET}
    (row,) = [r for r in ip(alice, "-4", "addr") if r["ifname"] == "em0"]
    assert listed == {a["local"] for a in row["addr_info"]} == {"192.0.2.1", "198.51.100.1"}
    refused(errno.EINVAL, alice.vnet.ioctl, "SIOCGIFCONF", Ifconf(0))


def heard_of_group(host, nic, group):
    """The group in the NIC's list; where Linux (before 6.14) does not tell who joined, once somebody asks for the list."""
    if not kernel_has("multicast notices"):
        host.netstat("-g")
    return nic.if_findmulti(group)


def test_row_23_multicast(lab, pair, em0):
    """Our groups are on the netdev's list; those that programs join are on ours."""
    alice = pair[0]

    def listed():
        (row,) = [r for r in ip(alice, "maddr") if r["ifname"] == "em0"]
        return {m.get("link") or m.get("address") for m in row["maddr"]}

    em0.if_addmulti("233.252.0.5")
    assert "01:00:5e:7c:00:05" in listed()
    sock = alice.socket(kind=socket.SOCK_DGRAM)
    membership = socket.inet_aton("233.252.0.6") + socket.inet_aton("192.0.2.1")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    eventually(lambda: heard_of_group(alice, em0, "233.252.0.6") is not None)
    assert bytes.fromhex("01005e7c0006") in em0.if_multiaddrs.link_addresses()

    sock.close()
    em0.if_delmulti("233.252.0.5")

    eventually(lambda: heard_of_group(alice, em0, "233.252.0.6") is None)
    assert "01:00:5e:7c:00:05" not in listed()
    refused(errno.ENOENT, em0.if_delmulti, "233.252.0.5")


@pytest.mark.parametrize(
    ("family", "group", "mac"),
    [
        (socket.AF_INET, "233.252.0.6", "01:00:5e:7c:00:06"),
        (socket.AF_INET6, "ff02::1:234", "33:33:00:01:02:34"),
    ],
    ids=["IPv4", "IPv6"],
)
def test_row_23_a_group_that_a_program_joins_opens_the_filter_for_it(lab, pair, em0, family, group, mac):
    alice, bob, cable = pair
    cable.unplug(bob.nics["em0"].if_softc)
    station = lab.station(name="probe")
    cable.plug(station)
    index = em0.if_softc.tap.ifindex
    layer = IP(src="192.0.2.9", dst=group) if family == socket.AF_INET else IPv6(src="fe80::9", dst=group)
    message = bytes(Ether(src=station.mac, dst=mac) / layer / UDP(sport=9, dport=7777) / b"hello")
    stream = lab.kernel.rtsock.stream()
    sock = alice.socket(family, socket.SOCK_DGRAM)
    sock.bind(("", 7777))
    sock.settimeout(5 * PATIENCE)

    station.send(message)
    before = em0.if_softc.filtered
    packed = socket.inet_pton(family, group)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, packed + socket.inet_aton("192.0.2.1"))
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed + struct.pack("@I", index))
    eventually(lambda: heard_of_group(alice, em0, group) is not None)
    station.send(message)

    assert sock.recv(100) == b"hello"
    assert before >= 1
    assert em0.if_findmulti(mac).ifma_refcount == 1  # held by the network-layer group alone
    em0.if_addmulti(group)
    em0.if_delmulti(group)
    assert em0.if_findmulti(group) is not None  # the program's is left
    sock.close()
    eventually(lambda: heard_of_group(alice, em0, mac) is None)
    told = [text.split(":")[0] for text in messages(stream) if text.endswith(f"group: {group}")]
    assert told == ["RTM_NEWMADDR"]  # that a program leaves is no message of if_delmulti's (3132-3270)


def test_row_24_a_new_mac_is_learned_by_the_neighbours(lab, pair, em0):
    alice, bob = pair[:2]
    bob.ping("192.0.2.1")
    new = bytes.fromhex("020000005555")
    em0.if_setlladdr(new)

    assert link(alice, "em0")["address"] == new.hex(":")
    eventually(lambda: [n["lladdr"] for n in ip(bob, "neigh") if n["dst"] == "192.0.2.1"] == [new.hex(":")])
    assert bob.ping("192.0.2.1").received == 1


def test_row_25_cloning(lab, pair):
    alice = pair[0]
    assert "tap" in alice.ifconfig("-C").split()
    assert alice.ifconfig("tap create") == "tap0\n"
    assert alice.ifconfig("tap7 create") == ""
    assert {"tap0", "tap7"} <= {row["ifname"] for row in ip(alice, "link")}
    cable = lab.cable(alice.nics["tap7"], pair[1].nic("em1", "203.0.113.2/24"))
    alice.ifconfig("tap7 203.0.113.1/24")
    lab.wait_links()
    assert alice.ping("203.0.113.2").received == 1
    refused(errno.EEXIST, lab.kernel.cloners.register, Cloner("tap", None, None))

    alice.ifconfig("tap7 destroy")
    lab.wait_for_closers()

    assert "tap7" not in {row["ifname"] for row in ip(alice, "link")}
    assert [port.name for port in cable.ends] == ["bob:em1"]
    refused(errno.EINVAL, lab.kernel.cloners.if_clone_destroy, alice.vnet, "em0")


def test_row_31_events_in_order(lab, pair):
    alice = pair[0]
    heard = []
    for event in ("ifnet_arrival_event", "ifnet_departure_event", "iflladdr_event", "group_change_event"):
        lab.kernel.events.register(
            event, lambda what, event=event: heard.append((event.split("_event")[0], str(what)))
        )
        lab.kernel.events.register(event, lambda what, event=event: heard.append(("second", str(what))))
    em1 = alice.nic("em1")
    name = str(em1)
    alice.run("ip link set em1 address 02:00:00:00:44:44", check=True)
    eventually(lambda: ("iflladdr", name) in heard)
    em1.if_detach()
    em1.if_free()

    firsts = [row for row in heard if row[0] != "second"]
    assert firsts.index(("ifnet_arrival", name)) < firsts.index(("iflladdr", name))
    assert firsts.index(("iflladdr", name)) < firsts.index(("ifnet_departure", name))
    assert [row[1] for row in heard[::2]] == [row[1] for row in heard[1::2]]
    assert all(row[0] == "second" for row in heard[1::2])


def test_row_32_routing_socket_and_devctl_interleave_with_the_kernel(lab, pair, em0):
    alice = pair[0]
    stream = lab.kernel.rtsock.stream()
    alice.run("ip addr add 198.51.100.1/24 dev em0", check=True)
    alice.run("ip route add 203.0.113.0/24 via 192.0.2.2", check=True)
    alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400))
    em0.if_addmulti("233.252.0.1")
    eventually(lambda: any(str(a.ifa_addr) == "198.51.100.1" for a in em0.if_addrhead))
    lab.check()

    text = "\n".join(messages(stream))
    for part in ("RTM_NEWADDR", "198.51.100.1", "RTM_ADD", "203.0.113.0/24", "mtu: 1400", "RTM_NEWMADDR"):
        assert part in text


def test_row_33_settings(lab, pair):
    tree = lab.kernel.sysctl
    alice = pair[0]
    refused(errno.EPERM, tree.__setitem__, "net.link.ifqmaxlen", 9)
    tree["net.ifdescr_maxlen"] = 4
    refused(
        errno.ENAMETOOLONG, alice.vnet.ioctl, "SIOCSIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(5, "long"))
    )
    assert "ifalias" not in link(alice, "em0")
    assert "net.ifdescr_maxlen: 4 -> 64" in alice.bsd("sysctl", ["net.ifdescr_maxlen=64"])
    alice.vnet.ioctl("SIOCSIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(5, "long")))
    assert link(alice, "em0")["ifalias"] == "long"
    tree.tunable("net.link.ifqmaxlen", 9)
    assert alice.nic("em1").if_snd.ifq_maxlen == 9


@pytest.mark.parametrize(
    "words",
    [
        ["em0", "down"],
        ["em0", "mtu", "1400"],
        ["em0", "name", "x0"],
        ["em0", "descr", "x"],
        ["em0", "group", "x"],
        ["em0", "fib", "1"],
        ["em0", "metric", "1"],
        ["em0", "-vlanmtu"],
        ["em0", "ether", "02:00:00:00:11:11"],
        ["em0", "vnet", "bob"],
        ["em0", "10.0.0.1/8"],
        ["em0", "inet", "192.0.2.1", "-alias"],
        ["tap", "create"],
        ["em0", "destroy"],
    ],
    ids=" ".join,
)
def test_row_34_without_the_privilege_nothing_happens(lab, pair, words):
    """Who calls from outside holds what the control socket grants; a caller with nothing gets EPERM."""
    from iflab.bsd import CommandError

    alice = pair[0]
    before = alice.run("ip -d addr; ip rule").stdout
    with pytest.raises(CommandError, match="Operation not permitted"):
        alice.bsd("ifconfig", words, allow_none)
    refused(
        errno.EPERM,
        alice.vnet.ioctl,
        "SIOCSIFMTU",
        Ifreq("em0", ifr_mtu=1400),
        Thread(alice.vnet.prison, allow_none),
    )

    assert alice.bsd("ifconfig", ["em0"], allow_none).startswith("em0: flags=")
    assert alice.run("ip -d addr; ip rule").stdout == before


def test_row_34_every_ioctl_that_changes_something_asks_first(lab, pair, em0):
    alice = pair[0]
    nobody = Thread(alice.vnet.prison, allow_none)
    look = lambda: alice.run("ip -d addr; ip rule; ip maddr; ip route show table all").stdout  # noqa: E731
    before = look()
    for cmd, fields in (
        ("SIOCSIFFLAGS", {"ifr_flags": 0}),
        ("SIOCSIFCAP", {"ifr_reqcap": 0}),
        ("SIOCSIFNAME", {"ifr_buffer": UserBuffer(3, "x0")}),
        ("SIOCSIFDESCR", {"ifr_buffer": UserBuffer(3, "x0")}),
        ("SIOCSIFFIB", {"ifr_fib": 3}),
        ("SIOCSIFMTU", {"ifr_mtu": 1400}),
        ("SIOCSIFMETRIC", {"ifr_metric": 1}),
        ("SIOCSIFPHYS", {"ifr_phys": 1}),
        ("SIOCSIFLLADDR", {"ifr_addr": as_sockaddr("02:00:00:00:00:77")}),
        ("SIOCSIFVNET", {"ifr_jid": 1}),
        ("SIOCSIFRVNET", {"ifr_jid": 1}),
        ("SIOCADDMULTI", {"ifr_addr": as_sockaddr("01:00:5e:00:00:77")}),
        ("SIOCDELMULTI", {"ifr_addr": as_sockaddr("01:00:5e:00:00:01")}),
        ("SIOCAIFADDR", {"ifr_data": "10.0.0.1/8"}),
        ("SIOCDIFADDR", {"ifr_data": "192.0.2.1"}),
        ("SIOCAIFADDR_IN6", {"ifr_data": "2001:db8::1/64"}),
        ("SIOCIFDESTROY", {}),
        ("SIOCSVH", {"ifr_data": None}),
        *((cmd, {}) for cmd in sorted(GENERIC_SET)),
    ):
        code = errno.EFAULT if cmd == "SIOCSVH" else errno.EPERM  # carp looks at the record first
        refused(code, alice.vnet.ioctl, cmd, Ifreq("em0", **fields), nobody)
    for cmd in ("SIOCIFCREATE", "SIOCIFCREATE2"):
        refused(errno.EPERM, alice.vnet.ioctl, cmd, Ifreq("tap"), nobody)
    for cmd in ("SIOCAIFGROUP", "SIOCDIFGROUP"):
        refused(errno.EPERM, alice.vnet.ioctl, cmd, Ifgroupreq("em0", "all"), nobody)

    assert look() == before
    lab.check()


def test_the_neighbour_asks_and_the_host_answers(lab, em0):
    """Not a row: a frame made by hand goes down through the same queue and comes back from a real ARP."""
    need("tcpdump", "tcpdump")
    seen = []
    em0.if_softc.end.wire.add_tap(lambda end, m: seen.append(Ether(m[10:])))
    em0.if_transmit(
        Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=em0.lladdr.hex(":"), psrc="192.0.2.1", pdst="192.0.2.2")
    )
    eventually(lambda: [p for p in seen if ARP in p and p[ARP].op == 2])
    assert ICMP not in seen[0]
