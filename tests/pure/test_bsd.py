"""ifconfig, netstat, sysctl and route monitor on vnets without a kernel below: words in, FreeBSD's text out."""

import pytest

from iflab.bsd import CommandError, devctl_text, ifconfig, message_text, netstat, sysctl
from iflab.bsd.netstat import RouteRow
from iflab.net import IFF, AddressFamily, Cloner, Kernel, LinkState, ether_ifattach
from iflab.net.rtsock import RouteMessage

from .doubles import RecordingDriver


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def vnet(kernel):
    return kernel.vnet_alloc("alice")


@pytest.fixture
def em0(vnet):
    from iflab.net import IFT

    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_initname("em", 0)
    ifp.if_driver = RecordingDriver()
    ifp.if_flags = IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST
    ifp.if_mtu = 1500
    ether_ifattach(ifp, bytes.fromhex("020000000001"))
    return ifp


def test_an_interface_in_freebsds_layout(vnet, em0):
    em0.ifa_add("192.0.2.1", "255.255.255.0", "192.0.2.255")
    em0.ifa_add("fe80::1", "ffff:ffff:ffff:ffff::")
    em0.if_link_state = LinkState.UP
    ifconfig(vnet, ["em0", "up", "promisc", "group", "lab", "descr", "to bob"])

    assert ifconfig(vnet, ["em0"]) == (
        "em0: flags=28903<UP,BROADCAST,PROMISC,SIMPLEX,MULTICAST,PPROMISC> metric 0 mtu 1500\n"
        "\tdescription: to bob\n"
        "\tether 02:00:00:00:00:01\n"
        "\tinet 192.0.2.1 netmask 0xffffff00 broadcast 192.0.2.255\n"
        "\tinet6 fe80::1%em0 prefixlen 64 scopeid 0x1\n"
        "\tgroups: lab\n"
        "\tstatus: active\n"
    )
    assert ifconfig(vnet, ["em0", "inet"]).splitlines()[1:] == [
        "\tdescription: to bob",
        "\tinet 192.0.2.1 netmask 0xffffff00 broadcast 192.0.2.255",
    ]
    assert ifconfig(vnet, ["-l"]) == "em0\n"
    assert ifconfig(vnet, ["-g", "lab"]) == "em0\n"
    assert ifconfig(vnet, ["-d"]) == ""
    assert ifconfig(vnet, ["-u", "-l"]) == "em0\n"


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("mtu 1400", "if_mtu", 1400),
        ("metric 7", "if_metric", 7),
        ("name uplink", "if_xname", "uplink"),
        ("description x", "if_description", "x"),
    ],
)
def test_parameters_change_the_interface(vnet, em0, words, field, value):
    out = ifconfig(vnet, ["em0", *words.split()])

    assert getattr(em0, field) == value
    assert out == ("uplink\n" if "name" in words else "")


def test_flags_are_set_and_taken_back(vnet, em0):
    for word, bit in (("up", IFF.UP), ("debug", IFF.DEBUG), ("link0", IFF.LINK0), ("-arp", IFF.NOARP)):
        ifconfig(vnet, ["em0", word])
        assert em0.if_flags & bit, word
    ifconfig(vnet, ["em0", "down", "-debug", "-link0", "arp", "-description"])

    assert em0.if_flags == IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST
    assert em0.if_description is None


def test_what_came_before_a_bad_word_stays_done(vnet, em0):
    with pytest.raises(CommandError, match="'nonsense' is neither a parameter nor an address"):
        ifconfig(vnet, ["em0", "mtu", "1400", "nonsense"])

    assert em0.if_mtu == 1400


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("em9", "interface em9 does not exist"),
        ("em0 mtu", "'mtu' needs a value"),
        ("em0 mtu many", "'many' is no mtu"),
        ("em0 mtu 1", "ioctl SIOCSIFMTU .set mtu.: Invalid argument"),
        ("em0 group lab7", "'lab7' ends in a digit"),
        ("em0 -group lab", "not in a group 'lab'"),
        ("em0 192.0.2.1/33", "a prefix length is 0 to 32, not 33"),
        ("em0 inet 2001:db8::1", "no address of the family before it"),
        ("em0 10.0.0.1 netmask 255.0.255.0", "its ones must stand together"),
        ("em0 10.0.0.1 netmask x", "'x' is no netmask"),
        ("em0 ether 02:zz", "'02:zz' is no link-level address"),
        ("em0 vnet nobody", "there is no host 'nobody'; there are alice"),
        ("em0 txcsum", "em0 cannot do txcsum"),
        ("em0 destroy", "was not made by name"),
        ("em0 10.0.0.1 10.0.0.2 10.0.0.3", "'10.0.0.3' is no parameter"),
        ("-x", "there is no option -x"),
        ("-g", "-g needs the name of a group"),
        ("-a em0", "take an address family and nothing else"),
        ("vlan create", "no kind of interface makes 'vlan'"),
    ],
)
def test_bad_words_get_one_line(vnet, em0, words, text):
    with pytest.raises(CommandError, match=text) as caught:
        ifconfig(vnet, words.split())

    assert str(caught.value).startswith("ifconfig: ")
    assert "\n" not in str(caught.value)


def test_interfaces_are_made_and_unmade_by_name(kernel, vnet):
    def create(vnet, name, unit, params):
        from iflab.net import IFT

        ifp = vnet.if_alloc(IFT.ETHER)
        ifp.if_initname("disc", unit)
        ifp.if_driver = RecordingDriver()
        ifp.if_mtu = 1500
        ifp.if_attach()
        return ifp

    def destroy(ifp):
        ifp.if_detach()
        ifp.if_free()

    kernel.cloners.register(Cloner("disc", create, destroy))

    assert ifconfig(vnet, ["-C"]) == "disc\n"
    assert ifconfig(vnet, ["disc", "create", "mtu", "900"]) == "disc0\n"
    assert ifconfig(vnet, ["disc5", "create"]) == ""
    assert ifconfig(vnet, ["-l"]) == "disc0 disc5\n"
    assert vnet.ifunit("disc0").if_mtu == 900
    ifconfig(vnet, ["disc0", "destroy"])
    assert ifconfig(vnet, ["-l"]) == "disc5\n"


def test_moving_between_vnets(kernel, vnet, em0):
    kernel.vnet_alloc("bob")
    ifconfig(vnet, ["em0", "vnet", "bob"])
    assert ifconfig(vnet, ["-l"]) == "\n"

    with pytest.raises(CommandError, match="interface em0 does not exist"):
        ifconfig(vnet, ["em0"])

    ifconfig(vnet, ["em0", "-vnet", "bob", "mtu", "1400"])

    assert ifconfig(vnet, ["-l"]) == "em0\n"
    assert em0.if_mtu == 1400
    with pytest.raises(CommandError, match="SIOCSIFRVNET"):
        ifconfig(vnet, ["em9", "-vnet", "bob"])


def test_counters_and_their_columns(vnet, em0):
    ifa = em0.ifa_add("192.0.2.1", "255.255.255.0", "192.0.2.255")
    em0.if_ipackets, em0.if_opackets, em0.if_ierrors, em0.if_iqdrops, em0.if_oerrors = 7, 5, 1, 2, 3
    em0.if_ibytes, em0.if_obytes = 700, 500
    ifa.ifa_ipackets, ifa.ifa_opackets = 6, 4

    plain = [line.split() for line in netstat(vnet, ["-i"]).splitlines()]
    assert plain == [
        ["Name", "Mtu", "Network", "Address", "Ipkts", "Ierrs", "Idrop", "Opkts", "Oerrs", "Coll"],
        ["em0", "1500", "<Link#1>", "02:00:00:00:00:01", "7", "1", "2", "5", "3", "0"],
        ["em0", "-", "192.0.2.0/24", "192.0.2.1", "6", "-", "-", "4", "-", "-"],
    ]
    assert "Ibytes" in netstat(vnet, ["-ib"])
    assert netstat(vnet, ["-I", "em0", "-d"]).splitlines()[0].split()[-1] == "Drop"
    assert len(netstat(vnet, ["-i", "-f", "link"]).splitlines()) == 2


def test_groups(vnet, em0):
    em0.if_addmulti("233.252.0.1")

    assert netstat(vnet, ["-g"]) == (
        "IPv4 Multicast Group Memberships\n"
        "Group       Link-layer Address Netif\n"
        "233.252.0.1 01:00:5e:7c:00:01  em0\n"
        "\n"
        "Link-layer Multicast Group Memberships\n"
        "Group             Link-layer Address Netif\n"
        "01:00:5e:7c:00:01 <none>             em0\n"
        "\n"
    )


def test_routes(vnet):
    rows = [
        RouteRow(AddressFamily.INET, "default", "192.0.2.9", "UGS", "em0"),
        RouteRow(AddressFamily.INET6, "2001:db8::/64", "link#1", "U", "em0"),
    ]

    assert netstat(vnet, ["-rn"], routes=lambda fib: rows) == (
        "Routing tables\n"
        "\nInternet:\nDestination Gateway   Flags Netif Expire\ndefault     192.0.2.9 UGS     em0\n"
        "\nInternet6:\nDestination   Gateway Flags Netif Expire\n2001:db8::/64 link#1  U       em0\n"
    )
    assert "Internet6" not in netstat(vnet, ["-r", "-f", "inet"], routes=lambda fib: rows)
    assert netstat(vnet, ["-r", "-F", "3"], routes=lambda fib: rows if fib == 0 else []) == "Routing tables\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "say what: -i interfaces, -g groups or -r routes"),
        (["-z"], "there is no option -z"),
        (["-I"], "-I needs a value"),
        (["-I", "em7"], "interface em7 does not exist; there are em0"),
        (["-r", "-f", "ipx"], "there is no family 'ipx'"),
        (["-r", "-F", "x"], "'x' is no fib"),
        (["em0"], "'em0' is no option"),
    ],
)
def test_netstat_refuses_in_one_line(vnet, em0, words, text):
    with pytest.raises(CommandError, match=text):
        netstat(vnet, words)


def test_settings(vnet):
    assert sysctl(vnet, ["net.link.ifqmaxlen"]) == "net.link.ifqmaxlen: 50\n"
    assert sysctl(vnet, ["net.ifdescr_maxlen=64"]) == "net.ifdescr_maxlen: 1024 -> 64\n"
    assert len(sysctl(vnet, []).splitlines()) == 3
    for word, text in (
        ("net.link.ifqmaxlen=9", "Operation not permitted"),
        ("net.nothing", "No such file"),
        ("net.ifdescr_maxlen=many", "'many' is no number"),
        ("net.ifdescr_maxlen=-1", "Invalid argument"),
    ):
        with pytest.raises(CommandError, match=text):
            sysctl(vnet, [word])


def test_messages_read_as_route_monitor_prints_them(kernel, vnet, em0):
    stream, notices = kernel.rtsock.stream(), kernel.devctl.stream()
    em0.if_up()
    em0.if_addmulti("233.252.0.1")
    ifa = em0.ifa_add("192.0.2.1", "255.255.255.0")
    kernel.rtsock.rt_newaddrmsg(em0, ifa.ifa_addr, ifa.ifa_netmask, True)
    kernel.rtsock.post(RouteMessage("198.51.100.0/24", "192.0.2.9", "em0", 0, True, "alice"))
    kernel.rtsock.post(RouteMessage("2001:db8::1/128", None, "em0", 0, False, "alice"))
    em0.if_link_state_change(LinkState.UP)
    kernel.taskqueue_swi.run()
    em0.if_detach()

    texts = []
    while (message := stream.get(timeout=0)) is not None:
        texts.append(message_text(message).splitlines())
    assert all(lines[0].startswith("got message of size ") for lines in texts)
    bodies = ["\n".join(lines[1:]) for lines in texts]
    assert bodies[0] == (
        "RTM_IFINFO: iface status change: len 168, if# 1 (alice:em0), link: unknown, mtu: 1500, "
        "flags:<UP,BROADCAST,SIMPLEX,MULTICAST>"
    )
    assert "RTM_NEWADDR: address being added to iface: len 108" in "".join(bodies)
    assert "sockaddrs: <NETMASK,IFP,IFA>\n 255.255.255.0 em0 192.0.2.1" in "".join(bodies)
    assert "RTM_NEWMADDR: new multicast group membership on iface" in "".join(bodies)
    assert "RTM_ADD: Add Route: len 200, pid: 0, seq 0, errno 0, flags:<UP,GATEWAY,DONE>" in "".join(bodies)
    assert "RTM_DELETE: Delete Route: len 216" in "".join(bodies)
    assert bodies[-1] == "RTM_IFANNOUNCE: iface arrival/departure: len 24, if# 1 (em0), what: departure" or (
        "what: departure" in "".join(bodies)
    )
    lines = []
    while (notice := notices.get(timeout=0)) is not None:
        lines.append(devctl_text(notice))
    assert lines == [
        "!system=IFNET subsystem=em0 type=LINK_UP\n",
        "!system=IFNET subsystem=em0 type=DETACH\n",
    ]
