"""What ifconfig says of each device, word for word as FreeBSD's does, and of words that make no sense."""

import pytest

from iflab.bsd import CommandError, ifconfig, netstat

from .devices import World
from .test_bridge import switch
from .test_carp import share
from .test_lagg import joined


@pytest.fixture
def world():
    return World()


def body(ifp, *words):
    """The lines of ``ifconfig`` behind those that every interface has."""
    lines = ifconfig(ifp.if_vnet, [*words, ifp.if_xname]).splitlines()
    return [
        line for line in lines if not line.startswith((f"{ifp.if_xname}: flags=", "\toptions=", "\tether "))
    ]


def test_a_vlan(world):
    em0, _ = world.linked()
    ifconfig(
        em0.if_vnet,
        ["vlan0", "create", "vlan", "7", "vlandev", "em0", "vlanproto", "802.1ad", "vlanpcp", "3", "up"],
    )
    world.settle()

    assert body(em0.if_vnet.ifunit("vlan0")) == [
        "\tgroups: vlan",
        "\tvlan: 7 vlanproto: 802.1ad vlanpcp: 3 parent interface: em0",
        "\tmedia: Ethernet 10Gbase-T <full-duplex>",
        "\tstatus: active",
    ]
    ifconfig(em0.if_vnet, ["vlan0", "-vlandev"])
    assert "\tvlan: 0 vlanproto: 802.1ad vlanpcp: 0 parent interface: <none>" in body(
        em0.if_vnet.ifunit("vlan0")
    )


def test_a_bridge(world):
    sw = switch(world, ports=3)
    sw.ifconfig("bridge0 stp p0 edge p0 private p1 ifmaxaddr p1 9 ifpathcost p1 55 ifpriority p1 64")
    sw.ifconfig("bridge0 deletem p2 span p2 vlanfilter ifuntagged p0 10 iftagged p0 20-22,30 iftagged p1 all")
    mac = sw.ifp.lladdr.hex(":")

    assert body(sw.ifp) == [
        f"\tid {mac} priority 32768 hellotime 2 fwddelay 15",
        "\tmaxage 20 holdcnt 6 proto rstp maxaddr 2000 timeout 1200",
        f"\troot id {mac} priority 32768 ifcost 0 port 0",
        "\tbridge flags=1<VLANFILTER>",
        "\tmember: p0 flags=167<LEARNING,DISCOVER,STP,EDGE,AUTOEDGE,AUTOPTP>",
        "\t        ifmaxaddr 0 port 2 priority 128 path cost 2000 proto rstp",
        "\t        role disabled state discarding untagged 10 tagged 20-22,30",
        "\tmember: p1 flags=943<LEARNING,DISCOVER,AUTOEDGE,AUTOPTP,PRIVATE>",
        "\t        ifmaxaddr 9 port 3 priority 64 path cost 55 tagged 1-4094",
        "\tmember: p2 flags=8<SPAN>",
        "\t        ifmaxaddr 0 port 4 priority 128 path cost 2000",
        "\tgroups: bridge",
    ]
    sw.ifconfig("bridge0 +iftagged p0 23,40 -iftagged p0 21,30 -ifuntagged p0")
    assert "\t        role disabled state discarding tagged 20,22-23,40" in body(sw.ifp)


def test_the_addresses_that_a_bridge_knows(world):
    sw = switch(world)
    sw.ifconfig("bridge0 static p1 02:00:00:00:bb:01")
    sw.bridge.fdb.learn(b"\2\0\0\0\xcc\1", 0, sw.member(0), world.clock.now())
    sw.bridge.fdb.learn(b"\2\0\0\0\xcc\2", 5, sw.member(2), world.clock.now(), sticky=True)
    world.settle(1.5)

    assert sw.ifconfig("bridge0 addr").splitlines() == [
        "02:00:00:00:bb:01 Vlan0 p1 0 flags=1<STATIC>",
        "02:00:00:00:cc:01 Vlan0 p0 1198 flags=0<>",
        "02:00:00:00:cc:02 Vlan5 p2 0 flags=2<STICKY>",
    ]


def test_an_aggregate(world):
    lagg0, _, cables = joined(world, "failover")

    assert body(lagg0) == [
        "\tlaggproto failover lagghash l2,l3,l4",
        "\tlaggport: em0 flags=5<MASTER,ACTIVE>",
        "\tlaggport: em1 flags=0<>",
        "\tgroups: lagg",
        "\tmedia: Ethernet autoselect",
        "\tstatus: active",
    ]
    cables[0].cut()
    world.settle()
    assert body(lagg0)[1:3] == ["\tlaggport: em0 flags=1<MASTER>", "\tlaggport: em1 flags=4<ACTIVE>"]


def test_an_aggregate_in_detail(world):
    lagg0, other, cables = joined(world, "lacp", words=("lacp_fast_timeout", ""))
    cables[1].cut()
    world.settle()
    mine, theirs = (ifp.lladdr.hex("-").upper() for ifp in (lagg0, other))

    def peer(port):
        return (
            f"[(8000,{mine},0001,8000,000{port}),",
            f"\t\t (8000,{theirs},0001,8000,000{port})]",
        )

    first, second = peer(1)
    detail = body(lagg0, "-v")
    assert detail[:10] == [
        "\tlaggproto lacp lagghash l2,l3,l4",
        "\tlagg options:",
        "\t\tflags=90<LACP_STRICT>",
        "\tlagg statistics:",
        "\t\tactive ports: 1",
        "\t\tflapping: 1",
        f"\tlag id: {first}",
        second,
        "\tlaggport: em0 flags=1c<ACTIVE,COLLECTING,DISTRIBUTING> "
        "state=3f<ACTIVITY,TIMEOUT,AGGREGATION,SYNC,COLLECTING,DISTRIBUTING>",
        f"\t\t{first}",
    ]
    assert detail[11].startswith("\tlaggport: em1 flags=0<> state=7<ACTIVITY,TIMEOUT,AGGREGATION>")


def test_shared_addresses_of_a_master_and_of_a_backup(world):
    """A backup lists them, too, as on the original, which keeps them; the kernel has them with mastership only."""
    alice, bob = world.linked()
    for ifp, skew in ((alice, 0), (bob, 100)):
        share(ifp, advskew=skew)
    share(bob, 6, address="2001:db8::100/64", advskew=7)
    world.settle(5)

    assert "carp: MASTER vhid 1 advbase 1 advskew 0" in ifconfig(alice.if_vnet, ["em0"])
    assert body(bob) == [
        "\tinet6 2001:db8::100 prefixlen 64 vhid 6",
        "\tinet 192.0.2.100 netmask 0xffffff00 broadcast 192.0.2.255 vhid 1",
        "\tcarp: BACKUP vhid 1 advbase 1 advskew 100",
        "\tcarp: MASTER vhid 6 advbase 1 advskew 7",
        "\tmedia: Ethernet 10Gbase-T <full-duplex>",
        "\tstatus: active",
    ]
    assert '\tcarp: BACKUP vhid 1 advbase 1 advskew 100 key "secret"' in body(bob, "-k")
    assert ifconfig(bob.if_vnet, ["em0", "inet"]).count("vhid") == 1


def test_keys_are_for_those_who_may_see_them(world):
    from iflab.net import Priv, Thread

    alice, _ = world.linked()
    share(alice)
    nobody = Thread(alice.if_vnet.prison, lambda priv: priv is not Priv.NETINET_CARP)

    for words in (["-k", "em0"], ["-ak"]):
        assert "secret" in ifconfig(alice.if_vnet, words)
        assert "secret" not in ifconfig(alice.if_vnet, words, nobody)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "lo",
            "lo0: flags=80c9<UP,LOOPBACK,RUNNING,NOARP,MULTICAST> metric 0 mtu 16384\n"
            "\toptions=680003<RXCSUM,TXCSUM,LINKSTATE,RXCSUM_IPV6,TXCSUM_IPV6>\n"
            "\tgroups: lo\n",
        ),
        (
            "disc",
            "disc0: flags=80c9<UP,LOOPBACK,RUNNING,NOARP,MULTICAST> metric 0 mtu 65521\n\tgroups: disc\n",
        ),
    ],
)
def test_interfaces_without_a_medium(world, kind, text):
    ifp = world.clone(world.host(), kind)

    assert ifconfig(ifp.if_vnet, [ifp.if_xname]) == text


def test_an_epair(world):
    ifp = world.clone(world.host(), "epair")
    world.settle()

    assert body(ifp) == [
        "\tgroups: epair",
        "\tmedia: Ethernet 10Gbase-T (10Gbase-T <full-duplex>)",
        "\tstatus: active",
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("vlan0 create vlan 10", "must specify a parent device for vlan create"),
        ("vlan0 create vlandev em0", "must specify a tag for vlan create"),
        ("vlan0 create vlan 4095 vlandev em0", "vlan: 1 to 4094, not 4095"),
        ("vlan0 create vlan 10 vlandev em9", "No such file or directory (vlan0: there is no interface em9)"),
        ("vlan0 create vlan 10 vlandev lo0", "Protocol not supported (vlan0: lo0 carries no tags)"),
        ("vlan0 create vlan 11 vlandev em0", "File exists (em0 has a vlan 11 already)"),
        ("vlan0 create vlan 9 vlandev em0 vlanproto 802.3", "a vlanproto is 802.1q or 802.1ad, not '802.3'"),
        ("em0.0 create", "a VID is 1 to 4094, not 0"),
        ("vlan7 vlan 12", "Device or resource busy (vlan7 is VID 11 of em0; take that off first)"),
        ("vlan7 vlanpcp 8", "vlanpcp: 0 to 7, not 8"),
        ("em0 vlanpcp 1", "Invalid argument"),
        ("bridge0 addm em9", "(BRDGADD em9): No such file or directory"),
        ("bridge0 addm em1", "(BRDGADD em1): File exists"),
        ("bridge1 addm em1", "(BRDGADD em1): Device or resource busy"),
        ("bridge0 addm lo0", "(BRDGADD lo0): Invalid argument"),
        ("bridge0 addm bridge1", "(BRDGADD bridge1): Invalid argument"),
        ("bridge0 span em1", "(BRDGADDS em1): Device or resource busy"),
        ("bridge0 deletem em0", "(BRDGDEL em0): No such file or directory"),
        ("bridge0 stp em9", "(BRDGGIFFLGS em9): No such file or directory"),
        ("bridge0 maxaddr x", "'x' is no maxaddr"),
        ("bridge0 priority 5", "a bridge's priority is a multiple of 4096, not 5"),
        ("bridge0 hellotime 3", "hellotime is 1 to 2, not 3"),
        ("bridge0 proto mstp", "the protocol is stp or rstp, not 'mstp'"),
        ("bridge0 ifpathcost em1 -1", "a path cost is 0 to 200000000, not -1"),
        ("bridge0 static em1 01:00:5e:00:00:01", "01:00:5e:00:00:01 is no station's MAC"),
        ("bridge0 deladdr 02:00:00:00:00:99", "is not in the table"),
        ("bridge0 iftagged em1 5-1", "'5-1' is no list of VLANs"),
        ("bridge0 iftagged em1 1-99999999999", "'1-99999999999' is no list of VLANs"),
        ("bridge0 iftagged em1 10,,20", "'10,,20' is no list of VLANs"),
        ("bridge0 ifuntagged em1 4095", "a VLAN is 1 to 4094, not 4095"),
        ("em0 addm em1", "Invalid argument"),
        ("lagg0 laggport em9", "No such file or directory (lagg0: there is no interface em9)"),
        ("lagg0 laggport em2", "Device or resource busy"),
        ("lagg0 laggport vlan7", "Protocol not supported"),
        ("lagg0 -laggport em0", "em0 is no port of it"),
        ("lagg0 laggproto magic", "use failover, loadbalance, roundrobin, broadcast, lacp"),
        ("lagg0 lagghash l5", "a hash is over some of l2, l3, l4"),
        ("em2 mtu 1400", "a port of lagg0; change the MTU of that"),
        ("em0 vhid 256", "vhid: 1 to 255, not 256"),
        ("em0 vhid 1 advskew 255", "advskew: 0 to 254, not 255"),
        ("em0 vhid 1 advbase 0", "advbase: 1 to 255, not 0"),
        ("em0 vhid 1 pass 123456789012345678901", "length of a key: 0 to 20, not 21"),
        ("em0 vhid 1 state happy", "a state is backup or master, not 'happy'"),
        ("em0 advskew 5", "advskew requires vhid"),
        ("lo0 vhid 1", "Operation not supported"),
        ("em2 vhid 1", "Operation not supported"),
        ("epair0a create", "no kind of interface makes 'epair0a'"),
        ("epair1234567890 create", "'epair1234567890' is no interface name"),
        ("bridge0 create", "interface bridge0 already exists"),
        ("carp create", "a shared address lives on an interface: ifconfig em0 vhid 1"),
    ],
)
def test_a_bad_word_is_told_in_one_line_and_changes_nothing(world, line, text):
    vnet = world.host()
    for n in range(3):
        world.nic(vnet, f"em{n}")
    for words in ("lo0", "bridge0", "bridge1", "lagg0", "vlan7"):
        world.clone(vnet, words)
    ifconfig(vnet, ["vlan7", "vlan", "11", "vlandev", "em0"])
    ifconfig(vnet, ["bridge0", "addm", "em1"])
    ifconfig(vnet, ["lagg0", "laggport", "em2"])
    before = ifconfig(vnet, ["-a"]), netstat(vnet, ["-g"])

    with pytest.raises(CommandError) as caught:
        ifconfig(vnet, line.split())

    assert text in str(caught.value)
    assert str(caught.value).startswith("ifconfig: ")
    assert "\n" not in str(caught.value)
    assert (ifconfig(vnet, ["-a"]), netstat(vnet, ["-g"])) == before
