"""What the Linux side changes reaches the ifnet, told as a change from inside is, and is not sent back.

The changes are made by ``ip`` and plain sockets; whether something was sent back is
the account of ``ip monitor``.
"""

import errno
import select
import socket
import struct
import subprocess

import pytest

from iflab.bsd import CommandError
from iflab.linux import Netlink, Netns
from iflab.net import IFF, Ifaliasreq, Ifreq, LinkState, UserBuffer, as_sockaddr
from iflab.net.rtsock import Announcement

from ..linux_tools import PATIENCE, eventually, ip, kernel_flags, link, new_name, real_root


@pytest.fixture
def alice(lab):
    return lab.pair("192.0.2.1/24", "192.0.2.2/24")[0]


@pytest.fixture
def em0(lab, alice):
    lab.wait_ready()
    return alice.nics["em0"]


class Heard:
    """Messages of the routing socket about one host, and events, from now on."""

    def __init__(self, lab, host):
        self.lab, self.stream, self.events = lab, lab.kernel.rtsock.stream(), []
        for event in ("ifnet_departure_event", "ifnet_arrival_event", "iflladdr_event", "group_change_event"):
            lab.kernel.events.register(event, lambda what, event=event: self.events.append(event))

    def messages(self, *kinds):
        """All messages so far that begin with one of these."""
        self.lab.check()
        found = []
        while (message := self.stream.get(timeout=0)) is not None:
            if str(message).split(":")[0] in kinds:
                found.append(str(message))
        return found


@pytest.fixture
def heard(lab, alice, em0):
    lab.check()
    return Heard(lab, alice)


class Told:
    """What ``ip monitor`` tells of a host's links while the block runs."""

    def __init__(self, lab, host):
        self.lab, self.host = lab, host

    def _mark(self, name):
        self.host.run(f"ip link set lo alias {name}", check=True)  # the end of what there is to read

    def __enter__(self):
        self.process = self.host.popen(
            ["ip", "-d", "-o", "monitor", "link"], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.lines = []
        self._until("begin")
        self.lines.clear()
        return self

    def _until(self, name):
        for attempt in range(1000):
            self._mark(f"{name}{attempt}")
            while select.select([self.process.stdout], [], [], 0.1 * PATIENCE)[0]:
                line = self.process.stdout.readline()
                if f"alias {name}" in line:
                    return
                self.lines.append(line)
        pytest.fail("ip monitor tells nothing")

    def __exit__(self, *exception):
        self.lab.check()
        self._until("end")
        self.process.terminate()
        self.process.communicate()
        self.lines = [line for line in self.lines if "em0" in line]


def test_flags_that_come_up_together_all_stay_and_nothing_is_sent_back(lab, alice, em0, heard):
    alice.run("ip link set em0 down", check=True)
    lab.check()
    heard.messages()

    with Told(lab, alice) as told:
        alice.run("ip link set em0 up promisc on allmulticast on", check=True)

    assert kernel_flags(alice, "em0") >= {"UP", "PROMISC", "ALLMULTI"}
    assert em0.if_flags & (IFF.UP | IFF.PPROMISC | IFF.ALLMULTI) == IFF.UP | IFF.PPROMISC | IFF.ALLMULTI
    assert all("PROMISC" in line and "ALLMULTI" in line for line in told.lines)
    assert len(heard.messages("RTM_IFINFO")) == 2  # up, and all-multicast: as from inside


@pytest.mark.parametrize(
    ("words", "kinds", "count"),
    [
        ("mtu 1400", ("RTM_IFINFO",), 1),
        ("down", ("RTM_IFINFO",), 1),
        ("multicast off", ("RTM_IFINFO",), 1),
        ("allmulticast on", ("RTM_IFINFO",), 1),
        ("promisc on", ("RTM_IFINFO",), 0),  # PPROMISC by ioctl is silent in if.c, too (quirk 22)
        ("arp off", ("RTM_IFINFO",), 0),
        ("alias x", ("RTM_IFINFO",), 0),
        ("address 02:00:00:00:44:44", ("RTM_IFINFO",), 0),
        ("carrier off", ("RTM_IFINFO",), 1),
        ("name x0", ("RTM_IFANNOUNCE",), 2),
    ],
)
def test_each_change_of_a_link_is_told_once(lab, alice, em0, heard, words, kinds, count):
    with Told(lab, alice) as told:
        alice.run(new_name("em0", "x0") if words == "name x0" else f"ip link set em0 {words}", check=True)
        lab.check()
        eventually(lambda: not lab.kernel.taskqueue_swi)

    assert len(heard.messages(*kinds)) == count
    assert len(told.lines) <= 2  # the change itself, and the state of the link that it brings about
    expected = {
        "address 02:00:00:00:44:44": ["iflladdr_event"],
        "name x0": ["ifnet_departure_event", "ifnet_arrival_event"],
    }
    assert heard.events == expected.get(words, [])


@pytest.mark.parametrize("family", ["inet", "inet6"])
def test_addresses_are_told_once_whoever_changes_them(lab, alice, em0, heard, family):
    text = {"inet": "198.51.100.1/24", "inet6": "2001:db8:5::1/64"}[family]
    inside = lambda *words: alice.ifconfig("em0", family, text.split("/")[0], *words)  # noqa: E731

    alice.run(f"ip addr add {text} dev em0", check=True)
    alice.run(f"ip addr del {text} dev em0", check=True)
    from_outside = heard.messages("RTM_NEWADDR", "RTM_DELADDR")
    with lab.lock:  # the notices of both come when both are over
        inside("prefixlen", text.split("/")[1], "alias")
        inside("-alias")
    from_inside = heard.messages("RTM_NEWADDR", "RTM_DELADDR")

    assert [row.split(":")[0] for row in from_outside] == ["RTM_NEWADDR", "RTM_DELADDR"]
    assert from_inside == from_outside


def test_a_new_broadcast_address_is_told_once(lab, alice, em0, heard):
    mask = as_sockaddr("255.255.255.0")
    for broadcast in ("192.0.2.63", "192.0.2.127"):
        alice.vnet.ioctl(
            "SIOCAIFADDR", Ifaliasreq("em0", as_sockaddr("192.0.2.1"), as_sockaddr(broadcast), mask)
        )
        assert [row.split(":")[0] for row in heard.messages("RTM_NEWADDR", "RTM_DELADDR")] == [
            "RTM_DELADDR",
            "RTM_NEWADDR",
        ]
    alice.run("ip addr del 192.0.2.1/24 dev em0; ip addr add 192.0.2.1/24 brd 192.0.2.31 dev em0", check=True)
    assert len(heard.messages("RTM_NEWADDR", "RTM_DELADDR")) == 2
    assert alice.vnet.ifa_ifwithbroadaddr("192.0.2.31") is not None
    assert alice.vnet.ifa_ifwithbroadaddr("192.0.2.127") is None


def test_an_address_that_is_refused_leaves_the_one_before(lab, alice, em0, monkeypatch):
    alice.vnet.ioctl("SIOCAIFADDR_IN6", Ifreq("em0", ifr_data="2001:db8::1/64"))
    there = lambda: {a["local"]: a["prefixlen"] for a in ip(alice, "addr", "show", "em0")[0]["addr_info"]}  # noqa: E731
    before, real = there(), Netlink.addr_add

    def addr_add(self, index, address, **options):
        if address.endswith("/80"):
            raise OSError(errno.ENOBUFS, "refused")
        real(self, index, address, **options)

    monkeypatch.setattr(Netlink, "addr_add", addr_add)
    with pytest.raises(OSError, match="refused") as caught:
        alice.vnet.ioctl("SIOCAIFADDR_IN6", Ifreq("em0", ifr_data="2001:db8::1/80"))

    assert caught.value.errno == errno.ENOBUFS
    assert there() == before


def test_far_ends_tell_addresses_apart(lab, alice, em0):
    alice.run(
        "ip addr add 10.0.0.1 peer 10.0.0.2/32 dev em0; ip addr add 10.0.0.1 peer 10.0.0.3/32 dev em0;"
        "ip -6 addr add 2001:db8::1 peer 2001:db8::2 dev em0",
        check=True,
    )
    lab.check()
    far = {str(ifa.ifa_dstaddr) for ifa in em0.if_addrhead if str(ifa.ifa_addr) == "10.0.0.1"}
    assert far == {"10.0.0.2", "10.0.0.3"}

    alice.ifconfig("em0 10.0.0.1 -alias")
    lab.check()
    (row,) = [a for a in ip(alice, "addr", "show", "em0")[0]["addr_info"] if a["local"] == "10.0.0.1"]
    assert row["address"] == "10.0.0.3"
    em0.if_purgeaddrs()
    assert ip(alice, "addr", "show", "em0")[0]["addr_info"] == []


def test_interfaces_that_swap_their_names_do_so_here(lab, alice, em0):
    em1, em2 = alice.nic("em1"), alice.nic("em2")
    swap = [("em0", "tmp"), ("em1", "em0"), ("tmp", "em1")]
    turn = [("em0", "tmp"), ("em2", "em0"), ("em1", "em2"), ("tmp", "em1")]
    lab.check()

    with lab.lock:  # all is over when it is heard
        alice.run("; ".join(new_name(*pair) for pair in swap), check=True)
    lab.check()
    assert (em0.if_xname, em1.if_xname) == ("em1", "em0")

    with lab.lock:
        alice.run("; ".join(new_name(*pair) for pair in turn), check=True)
    lab.check()
    assert (em0.if_xname, em1.if_xname, em2.if_xname) == ("em2", "em1", "em0")
    for ifp in (em0, em1, em2):
        assert alice.vnet.ifunit(ifp.if_xname) is ifp
        assert link(alice, ifp.if_xname)["ifindex"] == ifp.if_softc.tap.ifindex


def test_a_name_that_is_taken_on_arrival_is_free_by_then(lab, alice, em0):
    bob = lab.hosts["bob"]
    theirs = bob.nics["em0"]
    with lab.lock:
        bob.run(new_name("em0", "x0"), check=True)
        with Netlink(alice.netns) as netlink:
            netlink.link_set(em0.if_softc.tap.ifindex, netns=bob.netns)
    lab.check()

    assert alice.nics == {}
    assert bob.nics == {"x0": theirs, "em0": em0}
    assert {row["ifname"] for row in ip(bob, "link")} == {"lo", "x0", "em0"}


def test_a_move_that_cannot_be_is_refused_before_anything_is_lost(lab, alice, em0):
    carol = lab.host("carol")
    carol.run("ip link add em0 type veth peer name x1", check=True)
    lab.switch("sw", ports=1)
    em0.if_addgroup("web")
    lab.wait_ready()
    eventually(lambda: "inet6 fe80::" in alice.run("ip addr show em0").stdout)
    before = alice.ifconfig("em0"), ip(alice, "addr"), alice.netstat("-r")
    events = []
    lab.kernel.rtsock.listen(lambda message: isinstance(message, Announcement) and events.append(message))

    with pytest.raises(CommandError, match="carol has a netdev em0 of its own; rename one"):
        alice.ifconfig("em0 vnet carol")
    with pytest.raises(CommandError, match="only one of them has a network namespace"):
        alice.ifconfig("em0 vnet sw")
    with pytest.raises(CommandError, match="only one of them has a network namespace"):
        lab.switches["sw"].ifconfig("p0 vnet alice")
    lab.check()

    assert (alice.ifconfig("em0"), ip(alice, "addr"), alice.netstat("-r")) == before
    assert events == []


def test_a_move_that_the_kernel_refuses_leaves_both_sides_alike(lab, alice, em0, monkeypatch):
    carol = lab.host("carol")
    monkeypatch.setattr(Netns, "index_of", lambda netns, name: 0)  # it came between
    carol.run("ip link add x0 type veth peer name x1", check=True)
    alice.ifconfig("em0 name x0")
    em0.if_addmulti("233.252.0.7")
    assert "01:00:5e:7c:00:07" in alice.run("ip maddress show dev x0", check=True).stdout

    with pytest.raises(OSError, match="move to carol: File exists"):
        em0.if_vmove(carol.vnet)
    lab.check()

    assert alice.nics == {"x0": em0}
    assert not {"UP"} & kernel_flags(alice, "x0")
    assert "01:00:5e:7c:00:07" not in alice.run("ip maddress show dev x0", check=True).stdout
    em0.if_addmulti("233.252.0.7")
    lab.check()
    assert "01:00:5e:7c:00:07" in alice.run("ip maddress show dev x0", check=True).stdout


def test_renames_and_moves_in_rapid_succession(lab, alice, em0):
    bob = lab.hosts["bob"]
    index = em0.if_softc.tap.ifindex
    for turn in range(20):
        here, there = (alice, bob) if turn % 2 == 0 else (bob, alice)
        with Netlink(here.netns) as netlink:
            name = f"n{turn}"
            netlink.link_set(index, name=name, up=False)
            netlink.link_set(index, mtu=1300 + turn)
            netlink.link_set(index, netns=there.netns)
        with Netlink(there.netns) as netlink:
            index = netlink.link_get(name).index
    lab.check()

    assert alice.nics == {"n19": em0}
    assert em0.if_mtu == 1319
    assert link(alice, "n19")["ifindex"] == em0.if_softc.tap.ifindex


def test_a_device_that_is_moved_out_of_the_lab_is_gone(lab, alice, em0):
    theirs = lab.hosts["bob"].nics["em0"]
    elsewhere = Netns.create("elsewhere")
    with Netlink(alice.netns) as netlink:
        netlink.link_set(em0.if_softc.tap.ifindex, netns=elsewhere)
    lab.check()

    assert alice.nics == {}
    assert em0.if_flags & IFF.DYING
    eventually(lambda: theirs.if_link_state is LinkState.DOWN)
    elsewhere.close()


@pytest.mark.parametrize("kind", ["tap", "vlan", "bridge", "lagg", "lo", "disc"])
def test_what_was_made_by_name_follows_and_goes_with_its_device(lab, alice, em0, kind):
    name = alice.ifconfig(f"{kind} create").strip()
    lab.check()
    alice.run(
        f"ip link set {name} mtu 1400 alias hi; ip link set {name} up; ip addr add 10.9.9.1/24 dev {name};"
        + new_name(name, "x0"),
        check=True,
    )
    lab.check()
    ifp = alice.nics["x0"]
    assert (ifp.if_mtu, ifp.if_description) == (1400, "hi")

    alice.run("ip link del x0", check=True)
    lab.check()
    lab.wait_for_closers()

    assert alice.nics == {"em0": em0}
    assert {row["ifname"] for row in ip(alice, "link")} == {"lo", "em0"}


def test_a_fib_that_only_one_family_takes_is_refused_whole(lab, alice, em0, monkeypatch):
    real = Netlink.rule_add

    def rule_add(self, name, table, *, family):
        if family == socket.AF_INET6:
            raise OSError(errno.ENOBUFS, "refused")
        real(self, name, table, family=family)

    monkeypatch.setattr(Netlink, "rule_add", rule_add)
    with pytest.raises(OSError, match="refused") as caught:
        alice.vnet.ioctl("SIOCSIFFIB", Ifreq("em0", ifr_fib=5))

    assert caught.value.errno == errno.ENOBUFS
    assert em0.if_fib == 0
    assert [row for row in ip(alice, "rule") if row.get("iif")] == []


def test_the_rule_of_a_fib_goes_where_the_interface_goes(lab, alice, em0):
    guest = lab.host("guest")

    def rules(host):
        found = [ip(host, family, "rule") for family in ("-4", "-6")]
        return [{(r["iif"], r["table"]) for r in rows if r.get("iif")} for rows in found]

    alice.ifconfig("em0 fib 5")
    alice.run(new_name("em0", "x0"), check=True)
    lab.check()
    assert rules(alice) == [{("x0", "5")}] * 2
    em0.if_vmove(guest.vnet)
    assert (rules(alice), rules(guest)) == ([set()] * 2, [{("x0", "5")}] * 2)

    guest.run("ip link del x0", check=True)
    eventually(lambda: not guest.nics)

    assert rules(guest) == [set()] * 2


def test_a_group_number_set_outside_is_a_group_here(lab, alice, em0, heard):
    alice.nic("em1").if_addgroup("others")
    em0.if_addgroup("uplinks")
    em0.if_addgroup("lab")
    names = lambda: [group.ifg_group for group in em0.if_groups]  # noqa: E731
    heard.events.clear()

    alice.run(f"ip link set em0 group {lab.group_number('others')}", check=True)
    lab.check()
    assert names() == ["all", "lab", "others"]
    alice.run("ip link set em0 group 77", check=True)
    lab.check()
    assert names() == ["all", "lab", "grp77_"]
    assert [row["ifname"] for row in ip(alice, "link", "show", "group", "77") if row] == ["em0"]
    alice.run("ip link set em0 group default", check=True)
    lab.check()

    assert names() == ["all", "lab"]
    assert link(alice, "em0")["group"] == str(lab.group_number("lab"))
    assert heard.events == ["group_change_event"] * 5  # out, in; out, in; out


def test_an_alias_longer_than_ours_may_be_is_shown_all_the_same(lab, alice, em0):
    lab.kernel.sysctl["net.ifdescr_maxlen"] = 4
    alice.run(["ip", "link", "set", "em0", "alias", "é" * 100], check=True)
    lab.check()
    assert em0.if_description == "é" * 100
    alice.run(["ip", "link", "set", "em0", "alias", ""], check=True)
    lab.check()
    assert em0.if_description is None


def test_a_program_that_wants_all_groups_gets_them_although_the_kernel_never_tells(lab, alice, em0):
    """As a multicast router does: a frame that misses the filter has it looked for."""
    bob, cable = lab.hosts["bob"], lab.wires["cable0"]
    cable.unplug(bob.nics["em0"].if_softc)
    station = lab.station(name="probe")
    cable.plug(station)
    index = em0.if_softc.tap.ifindex
    frame = bytes.fromhex("01005e7c0042") + em0.lladdr + b"\x88\xb5" + bytes(46)
    received = lambda: ip(alice, "-s", "link", "show", "em0")[0]["stats64"]["rx"]["packets"]  # noqa: E731

    station.send(frame)
    before = received()
    with alice.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.setsockopt(263, 1, struct.pack("iHH8s", index, 2, 0, b""))  # PACKET_MR_ALLMULTI

        def comes_through():
            station.send(frame)
            return received() > before

        eventually(comes_through)  # it is looked for four times a second
        assert em0.if_flags & IFF.ALLMULTI
        lab.check()
        em0.if_allmulti(1)
        em0.if_allmulti(0)
        assert em0.if_amcount == 1
    lab.check()

    assert not em0.if_flags & IFF.ALLMULTI
    before = received()
    station.send(frame)
    assert received() == before


def test_what_the_kernel_never_tells_of_a_device_that_is_down_is_read(lab, alice, em0):
    alice.run("ip link set em0 down", check=True)
    lab.check()
    alice.run("ip link set em0 alias quietly group 55", check=True)
    lab.check()
    assert em0.if_description == "quietly"
    assert [group.ifg_group for group in em0.if_groups] == ["all", "grp55_"]
    alice.run("ip link set em0 alias again", check=True)

    alice.run("ip link set em0 up", check=True)

    eventually(lambda: em0.if_description == "again")  # what is told next tells of all


def test_what_the_kernel_refuses_is_an_errno_and_changes_neither_side(lab, alice, em0):
    alice.ifconfig("em0 descr before")
    for cmd, code, fields in (
        ("SIOCSIFMTU", errno.EINVAL, {"ifr_mtu": 65535}),
        ("SIOCSIFNAME", errno.EEXIST, {"ifr_buffer": UserBuffer(3, "lo")}),
        ("SIOCSIFNAME", errno.EINVAL, {"ifr_buffer": UserBuffer(4, "a:b")}),
        ("SIOCSIFDESCR", errno.ERANGE, {"ifr_buffer": UserBuffer(301, "y" * 300)}),
        ("SIOCAIFADDR", errno.EINVAL, {"ifr_data": "nonsense"}),
        ("SIOCAIFADDR", errno.EINVAL, {}),
        ("SIOCAIFADDR", errno.EADDRNOTAVAIL, {"ifr_data": "0.0.0.0/0"}),
        ("SIOCAIFADDR_IN6", errno.EADDRNOTAVAIL, {"ifr_data": "ff02::5/64"}),
        ("SIOCDIFADDR", errno.EINVAL, {"ifr_data": "nonsense"}),
        ("SIOCDIFADDR", errno.EADDRNOTAVAIL, {"ifr_data": "192.0.2.77"}),
    ):
        before = (alice.run("ip -d addr show em0; ip rule").stdout, alice.ifconfig("em0"))
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
            alice.vnet.ioctl(cmd, Ifreq("em0", **fields))
        assert caught.value.errno == code, (cmd, fields)
        assert (alice.run("ip -d addr show em0; ip rule").stdout, alice.ifconfig("em0")) == before
        lab.check()


@real_root
def test_ten_thousand_changes_while_the_engine_is_held(lab, alice):
    """More than the monitor can hold: all is read afresh, and nothing is lost but time."""
    nics = [alice.nic(f"n{number}") for number in range(20)]
    lab._listener.monitor.set_buffer(1 << 18)
    before = lab.overflows
    lines = []
    for number in range(10_000):
        turn, nic = divmod(number, 20)
        lines.append(
            (
                f"link set n{nic} mtu {1300 + turn}",
                f"addr add 10.{nic}.{turn // 250}.{1 + turn % 250}/32 dev n{nic}",
                f"link set n{nic} alias a{turn}",
                f"link set n{nic} multicast {'on' if turn % 8 == 3 else 'off'}",
            )[turn % 4]
        )

    with lab.lock:
        batch = "\n".join(lines) + "\n"
        alice.run(["ip", "-batch", "-"], input=batch, timeout=60 * PATIENCE, check=True)
    lab.check()

    assert lab.overflows > before
    assert {ifp.if_mtu for ifp in nics} == {1796}
    assert {ifp.if_description for ifp in nics} == {"a498"}
    for nic, ifp in enumerate(nics):
        ours = [str(ifa.ifa_addr) for ifa in ifp.if_addrhead if str(ifa.ifa_addr).startswith("10.")]
        assert len(ours) == 125
        assert {address.split(".")[1] for address in ours} == {str(nic)}
