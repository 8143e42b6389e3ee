"""Both sides change the same interfaces at once, at random: afterwards they agree, and nothing is left behind.

Outside, messages of netlink and sockets of the hosts; inside, ioctls and moves. Devices
swap names and hosts under each other's hands.
"""

import contextlib
import random
import socket
import struct
import threading

import pytest

from iflab.linux import Netlink
from iflab.net import IFF, Ifreq, SockaddrDl, UserBuffer

from ..linux_tools import ip

CHANGES = 400
NAMES = ["em0", "em1", "em2", "x0", "x1"]


def random_mac(rng, fifth):
    return bytes((2, 0, 0, 0, fifth, rng.randrange(250)))


def random_address(rng):
    return f"10.0.{rng.randrange(4)}.{rng.randrange(1, 5)}/{rng.choice([24, 25, 32])}"


def outside(rng, hosts):
    """One change by Linux's own means; a socket that goes on changing something, or None."""
    host = rng.choice(hosts)
    with Netlink(host.netns) as netlink:
        links = [link for link in netlink.links() if link.index != 1]
        if not links:
            return None
        index = rng.choice(links).index
        what = rng.randrange(12)
        if what == 0:
            netlink.link_set(index, up=rng.random() < 0.8)
        elif what == 1:
            netlink.link_set(index, mtu=rng.randrange(1280, 3000), alias=rng.choice(["", "x", "yy"]))
        elif what == 2:
            netlink.link_set(index, promisc=rng.random() < 0.5, allmulti=rng.random() < 0.5)
        elif what == 3:
            netlink.link_set(index, multicast=rng.random() < 0.7, arp=rng.random() < 0.7)
        elif what == 4:
            netlink.link_set(index, name=rng.choice(NAMES))
        elif what == 5:
            netlink.addr_add(index, random_address(rng), broadcast=rng.choice(["auto", "10.0.0.255"]))
        elif what == 6:
            for addr in netlink.addrs(index)[:1]:
                netlink.addr_del(index, f"{addr.address}/{addr.prefixlen}", peer=addr.peer)
        elif what == 7:
            netlink.addr_add(index, f"2001:db8::{rng.randrange(1, 5)}/64")
        elif what == 8:
            netlink.link_set(index, group=rng.randrange(4), mac=random_mac(rng, 9))
        elif what == 9:
            netlink.link_set(index, netns=rng.choice(hosts).netns)
        elif what == 10:
            sniffer = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sniffer.setsockopt(263, 1, struct.pack("iHH8s", index, rng.choice([1, 2]), 0, b""))
            return sniffer
        else:
            member = host.socket(kind=socket.SOCK_DGRAM)
            group = socket.inet_aton(f"233.252.0.{rng.randrange(1, 5)}")
            member.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", group, bytes(4), index)
            )
            return member
    return None


def inside(rng, hosts, held):
    """One change through the interface layer; ``held`` are modes that were switched on."""
    host = rng.choice(hosts)
    vnet, nics = host.vnet, list(host.nics.values())
    if not nics:
        return
    ifp = rng.choice(nics)
    vnet.ioctl(*_request(rng, ifp)) if rng.random() < 0.7 else _call(rng, ifp, hosts, held)


def _request(rng, ifp):
    up = ifp.if_flags ^ IFF.UP if rng.random() < 0.3 else ifp.if_flags | IFF.UP
    cmd, fields = rng.choice(
        [
            ("SIOCSIFFLAGS", {"ifr_flags": up}),
            ("SIOCSIFMTU", {"ifr_mtu": rng.randrange(1280, 3000)}),
            ("SIOCSIFNAME", {"ifr_buffer": UserBuffer(3, rng.choice(NAMES))}),
            ("SIOCAIFADDR", {"ifr_data": random_address(rng)}),
            ("SIOCDIFADDR", {}),
            ("SIOCAIFADDR_IN6", {"ifr_data": f"2001:db8::{rng.randrange(1, 5)}/64"}),
            ("SIOCSIFLLADDR", {"ifr_addr": SockaddrDl(sdl_lladdr=random_mac(rng, 8))}),
            ("SIOCSIFFIB", {"ifr_fib": rng.randrange(4)}),
            ("SIOCSIFDESCR", {"ifr_buffer": UserBuffer(3, rng.choice(["ab", "cd"]))}),
        ]
    )
    return cmd, Ifreq(ifp.if_xname, **fields)


def _call(rng, ifp, hosts, held):
    what = rng.randrange(4)
    if what == 0:
        ifp.if_vmove(next(host for host in hosts if host.vnet is not ifp.if_vnet).vnet)
    elif what == 1:
        rng.choice([ifp.if_addgroup, ifp.if_delgroup])(rng.choice(["lab", "team"]))
    elif what == 2 and held:
        mode = held.pop(rng.randrange(len(held)))
        mode(0)
    else:
        mode = rng.choice([ifp.ifpromisc, ifp.if_allmulti])
        mode(1)
        held.append(mode)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_both_sides_do_they_agree_afterwards(lab, seed, caplog):
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    nics = [alice.nics["em0"], bob.nics["em0"], alice.nic("em1"), alice.nic("em2", "203.0.113.1/24")]
    hosts, sockets, unexpected = [alice, bob], [], []

    def work(number, change):
        rng = random.Random(f"{seed}/{number}")
        try:
            for _ in range(CHANGES):
                with contextlib.suppress(OSError):  # what either side refuses
                    change(rng)
                if sockets and rng.random() < 0.05:
                    sockets.pop().close()
        except BaseException as error:
            unexpected.append(error)

    def from_outside(rng):
        made = outside(rng, hosts)
        if made is not None:
            sockets.append(made)

    held = []

    def from_inside(rng):
        with lab.lock:
            inside(rng, hosts, held)

    threads = [
        threading.Thread(target=work, args=each)
        for each in ((0, from_outside), (1, from_outside), (2, from_inside))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lab.check()
    for sock in sockets:
        sock.close()
    lab.check()

    assert unexpected == []
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    there = [ifp for host in hosts for ifp in host.nics.values()]
    assert set(there) == set(nics)
    for host in hosts:
        names = {row["ifname"] for row in ip(host, "link")} - {"lo"}
        assert names == set(host.nics)
        rules = {(r["iif"], int(r["table"])) for r in ip(host, "rule") if r.get("iif")}
        assert rules == {(ifp.if_xname, ifp.if_fib) for ifp in host.nics.values() if ifp.if_fib}
