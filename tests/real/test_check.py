"""``lab.check()``: every ifnet against the kernel's own account, and what it says of a difference."""

import contextlib
import socket
import struct

import pytest

from iflab.agreement import Disagreement, full_ifnet_account
from iflab.linux import Netlink
from iflab.net import IFF, Group, Ifreq, LinkState, UserBuffer, as_sockaddr

from ..linux_tools import new_name


@pytest.fixture
def pair(lab):
    return lab.pair("192.0.2.1/24", "192.0.2.2/24")


@contextlib.contextmanager
def deaf(lab):
    """Keep the lab from hearing the kernel; answers to what it asks itself still come."""
    listener = lab._listener
    lab.engine.remove_reader(listener.monitor.fileno())
    read, listener.monitor.read = listener.monitor.read, lambda limit=None: []
    yield
    listener.monitor.read = read
    with lab.lock:
        listener.readable()
    lab.engine.add_reader(listener.monitor.fileno(), listener.readable)


def test_it_holds_after_everything_that_changes_an_interface(lab, pair):
    alice, _, cable = pair
    em0 = alice.nics["em0"]
    lab.check()

    em0.ifpromisc(1)
    alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400))
    alice.vnet.ioctl("SIOCSIFDESCR", Ifreq("em0", ifr_buffer=UserBuffer(7, "uplink")))
    em0.if_addgroup("lab")
    em0.if_addmulti("233.252.0.1")
    lab.check()
    alice.run("ip link set em0 mtu 1300 alias other; ip addr add 198.51.100.1/30 dev em0", check=True)
    lab.check()
    alice.run(new_name("em0", "up0") + "; ip link set up0 allmulticast on", check=True)
    lab.check()
    cable.cut()
    lab.check()
    alice.run("ip link set up0 down", check=True)
    lab.check()


def flag(bit, on):
    return lambda ifp: (ifp, "if_flags", ifp.if_flags | bit if on else ifp.if_flags & ~bit)


def attribute(name, value):
    return lambda ifp: (ifp, name, value)


FIELDS = [
    ("name", "x0", "em0", attribute("_if_xname", "x0")),
    ("mtu", 1400, 1500, attribute("if_mtu", 1400)),
    ("up", False, True, flag(IFF.UP, False)),
    ("arp", False, True, flag(IFF.NOARP, True)),
    ("promisc", True, False, flag(IFF.PROMISC, True)),
    ("allmulti", True, False, flag(IFF.ALLMULTI, True)),
    ("multicast", False, True, flag(IFF.MULTICAST, False)),
    (
        "lladdr",
        "02:00:00:00:00:77",
        "02:00:00:00:00:01",
        lambda ifp: (ifp.link_sockaddr(), "sdl_lladdr", bytes.fromhex("020000000077")),
    ),
    ("description", "x", "", attribute("if_description", "x")),
    ("link", "down", "up", attribute("if_link_state", LinkState.DOWN)),
    ("group", 1, 0, attribute("if_groups", [Group("lab", {})])),
    ("fib", 3, 0, attribute("if_fib", 3)),
    (
        "addresses",
        ["192.0.2.1/25 192.0.2.255"],
        ["192.0.2.1/24 192.0.2.255"],
        lambda ifp: (list(ifp.if_addrhead)[1], "ifa_netmask", as_sockaddr("255.255.255.128")),
    ),
]


def without_ipv6(value):
    return [row for row in value if not row.startswith("fe80")] if isinstance(value, list) else value


@pytest.mark.parametrize(("field", "ifnet", "kernel", "spoil"), FIELDS, ids=[row[0] for row in FIELDS])
def test_a_difference_names_field_values_and_last_changes(lab, pair, field, ifnet, kernel, spoil):
    em0 = pair[0].nics["em0"]
    lab.check()
    with deaf(lab):  # else the next notice of the kernel, about anything, would mend it
        with lab.lock:
            thing, name, value = spoil(em0)
            before = getattr(thing, name)
            setattr(thing, name, value)
        with pytest.raises(Disagreement) as caught:
            lab.check()
        with lab.lock:
            setattr(thing, name, before)

    (difference,) = caught.value.differences
    assert (difference.nic, difference.field) == ("alice:em0", field)
    assert (without_ipv6(difference.ifnet), without_ipv6(difference.kernel)) == (ifnet, kernel)
    if field != "addresses":
        assert difference.ifnet_changed.endswith(f"{kernel!r} before")
    assert str(difference).startswith(f"alice:em0: {field}: the ifnet says {difference.ifnet!r} (")


def test_every_field_that_is_compared_has_its_test(lab, pair):
    account = full_ifnet_account(pair[0].nics["em0"])
    assert set(account) - {row[0] for row in FIELDS} == {"groups joined"}


def test_a_group_that_only_one_side_has_is_a_difference(lab, pair):
    em0 = pair[0].nics["em0"]
    with deaf(lab):
        with lab.lock:
            before, em0.if_softc.on_groups = em0.if_softc.on_groups, None
            em0.if_addmulti("233.252.0.1")
        with pytest.raises(Disagreement, match="groups joined"):
            lab.check()
        with lab.lock:
            em0.if_delmulti("233.252.0.1")
            em0.if_softc.on_groups = before


def test_the_last_change_of_each_side_is_told_with_its_time(lab, pair):
    alice = pair[0]
    alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400))
    lab.check()
    with deaf(lab):
        alice.run("ip link set em0 mtu 1300; ip addr del 192.0.2.1/24 dev em0", check=True)
        with pytest.raises(Disagreement) as caught:
            lab.check()

    found = {each.field: each for each in caught.value.differences}
    assert set(found) == {"mtu", "addresses"}
    assert (found["mtu"].ifnet, found["mtu"].kernel) == (1400, 1300)
    assert "1500 before" in found["mtu"].ifnet_changed
    assert found["mtu"].ifnet_changed.startswith("since ")
    assert found["mtu"].kernel_changed == "unannounced, 1400 before"
    assert "192.0.2.1/24 192.0.2.255" in found["addresses"].ifnet
    assert "192.0.2.1/24 192.0.2.255" not in found["addresses"].kernel


def test_a_device_that_went_unheard_is_a_difference(lab, pair):
    alice = pair[0]
    with deaf(lab):
        with Netlink(alice.netns) as netlink:
            netlink.link_del(alice.nics["em0"].if_softc.tap.ifindex)
        with pytest.raises(Disagreement, match=r"alice:em0: netdev: .* 'no such device'"):
            lab.check()

    assert alice.nics == {}


def test_groups_of_packet_sockets_are_found_although_the_kernel_never_tells(lab, pair):
    alice = pair[0]
    index = alice.nics["em0"].if_softc.tap.ifindex
    sock = alice.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sock:
        sock.setsockopt(263, 1, struct.pack("iHH8s", index, 0, 6, bytes.fromhex("01005e7f0001")))
        lab.check()
        assert bytes.fromhex("01005e7f0001") in alice.nics["em0"].if_multiaddrs.link_addresses()
    lab.check()


def test_it_waits_for_what_the_kernel_is_just_telling(lab, pair):
    alice = pair[0]
    for number in range(20):
        alice.run(f"ip link set em0 mtu {1400 + number}", check=True)
        lab.check()
        assert alice.nics["em0"].if_mtu == 1400 + number
