"""``lab.check()``: every ifnet against the kernel's own account, and what it says of a difference."""

import contextlib
import socket
import struct

import pytest

from iflab.agreement import Disagreement
from iflab.linux import Netlink
from iflab.net import IFF, Ifreq, LinkState, UserBuffer


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
    alice.run(  # Linux before 6.2 renames no device that is up
        "ip link set em0 name up0 || { ip link set em0 down && ip link set em0 name up0 up; };"
        "ip link set up0 allmulticast on",
        check=True,
    )
    lab.check()
    cable.cut()
    lab.check()
    alice.run("ip link set up0 down", check=True)
    lab.check()


@pytest.mark.parametrize(
    ("field", "ifnet", "kernel", "spoil"),
    [
        ("mtu", 1400, 1500, lambda ifp: setattr(ifp, "if_mtu", 1400)),
        ("up", False, True, lambda ifp: setattr(ifp, "if_flags", ifp.if_flags & ~IFF.UP)),
        ("arp", False, True, lambda ifp: setattr(ifp, "if_flags", ifp.if_flags | IFF.NOARP)),
        ("promisc", True, False, lambda ifp: setattr(ifp, "if_flags", ifp.if_flags | IFF.PROMISC)),
        ("allmulti", True, False, lambda ifp: setattr(ifp, "if_flags", ifp.if_flags | IFF.ALLMULTI)),
        ("multicast", False, True, lambda ifp: setattr(ifp, "if_flags", ifp.if_flags & ~IFF.MULTICAST)),
        ("description", "x", "", lambda ifp: setattr(ifp, "if_description", "x")),
        ("link", "down", "up", lambda ifp: setattr(ifp, "if_link_state", LinkState.DOWN)),
        ("group", 7, 0, lambda ifp: setattr(ifp.if_softc, "netdev_group", 7)),
    ],
)
def test_a_difference_names_field_values_and_last_changes(lab, pair, field, ifnet, kernel, spoil):
    em0 = pair[0].nics["em0"]
    before = {name: getattr(em0, name) for name in ("if_mtu", "if_flags", "if_description", "if_link_state")}
    lab.check()
    with deaf(lab):  # else the next notice of the kernel, about anything, would mend it
        with lab.lock:
            spoil(em0)
        with pytest.raises(Disagreement) as caught:
            lab.check()
        with lab.lock:
            for name, value in before.items():
                setattr(em0, name, value)
            em0.if_softc.netdev_group = 0

    (difference,) = caught.value.differences
    assert (difference.nic, difference.field) == ("alice:em0", field)
    assert (difference.ifnet, difference.kernel) == (ifnet, kernel)
    assert difference.ifnet_changed.endswith(f"{kernel!r} before")
    assert str(difference).startswith(f"alice:em0: {field}: the ifnet says {ifnet!r} (")


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
