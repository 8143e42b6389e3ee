"""ifconfig, netstat, sysctl and route monitor on vnets without a kernel below: words in, FreeBSD's text out."""

import pytest

from iflab.bsd import CommandError, devctl_text, ifconfig, message_text, netstat, sysctl
from iflab.bsd.netstat import RouteRow
from iflab.net import IFF, RTF, AddressFamily, Kernel, LinkState, ether_ifattach
from iflab.net.rtsock import RouteMessage

from .doubles import RecordingDriver, disc_cloner


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
        ("em0 group lab7", "ifconfig: setifgroup: group names may not end in a digit"),
        ("em0 group sixteen-octets-x", "ifconfig: setifgroup: group name too long"),
        ("em0 -group lab7", "ifconfig: unsetifgroup: group names may not end in a digit"),
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
        ("-g", "-g needs a value"),
        ("-a em0", "take an address family and nothing else"),
        ("vlan create", "no kind of interface makes 'vlan'"),
        ("em0 tunnel 192.0.2.1", "'tunnel' needs 2 values"),
        ("em0 ether 02:00:00:00:00:001", "is no link-level address"),
        ("em0 metric 99999999999", "more than 32 bits"),
        ("em0 10.0.0.256", "neither a parameter nor an address"),
        ("em0 create", "interface em0 already exists"),
        ("-al", "-l and -a do not go together"),
        ("-lm", "-l and -m do not go together"),
        ("-ud", "-u and -d do not go together"),
    ],
)
def test_bad_words_get_one_line(vnet, em0, words, text):
    with pytest.raises(CommandError, match=text) as caught:
        ifconfig(vnet, words.split())

    assert str(caught.value).startswith("ifconfig: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "mac"),
    [
        ("ether 2:0:0:0:0:8", "020000000008"),
        ("link 02-00-00-00-00-09", "020000000009"),
        ("lladdr 02.0.0.0.0.0a", "02000000000a"),
    ],
)
def test_link_level_addresses_are_read_as_link_addr_does(vnet, em0, words, mac):
    ifconfig(vnet, ["em0", *words.split()])
    assert em0.lladdr.hex() == mac


def test_a_random_link_level_address_is_local_and_no_group(vnet, em0):
    ifconfig(vnet, ["em0", "ether", "random"])
    assert em0.lladdr[0] & 3 == 2
    assert em0.lladdr != bytes.fromhex("020000000001")


@pytest.mark.parametrize(
    ("words", "address", "bits", "far"),
    [
        ("inet 192.0.2.5 netmask 0xffffff80", "192.0.2.5", 25, None),
        ("192.0.2.5 netmask 255.255.255.0 broadcast 192.0.2.63", "192.0.2.5", 24, "192.0.2.63"),
        ("192.0.2.5/26", "192.0.2.5", 26, None),
        ("10.1", "10.0.0.1", 8, None),
        ("172.16.0.1", "172.16.0.1", 16, None),
        ("inet 192.0.2.5 prefixlen 30 alias", "192.0.2.5", 30, None),
        ("alias 192.0.2.5", "192.0.2.5", 24, None),
        ("inet6 2001:db8::5 prefixlen 48 alias", "2001:db8::5", 48, None),
        ("inet6 2001:db8::5/56", "2001:db8::5", 56, None),
        ("inet6 fe80::5%em0", "fe80::5", 64, None),
    ],
)
def test_addresses_as_a_bsd_user_writes_them(vnet, em0, words, address, bits, far):
    asked = []
    vnet.stack.pru_control = lambda cmd, data, ifp, td: asked.append((cmd, data))
    ifconfig(vnet, ["em0", *words.split()])

    cmd, alias = asked[-1]
    assert cmd == ("SIOCAIFADDR_IN6" if ":" in address else "SIOCAIFADDR")
    assert (str(alias.ifra_addr), alias.ifra_mask.value.bit_count()) == (address, bits)
    assert (str(alias.ifra_broadaddr) if alias.ifra_broadaddr else None) == far
    clears = "alias" not in words and ":" not in address
    assert [name for name, _ in asked[:-1]] == ["SIOCDIFADDR"] * clears


@pytest.mark.parametrize("word", ["-alias", "delete", "remove"])
def test_an_address_is_taken_off_by_any_of_its_words(vnet, em0, word):
    asked = []
    vnet.stack.pru_control = lambda cmd, data, ifp, td: asked.append((cmd, str(data.ifr_addr)))
    ifconfig(vnet, ["em0", "192.0.2.5", word])
    ifconfig(vnet, ["em0", "inet6", "2001:db8::5", word])
    ifconfig(vnet, ["em0", word])
    assert asked == [
        ("SIOCDIFADDR", "192.0.2.5"),
        ("SIOCDIFADDR_IN6", "2001:db8::5"),
        ("SIOCDIFADDR", "None"),
    ]


def test_which_interfaces_are_shown(vnet, em0):
    assert ifconfig(vnet, ["-gall"]) == ifconfig(vnet, ["-l"]) == ifconfig(vnet, ["-ld"]) == "em0\n"
    assert ifconfig(vnet, ["-lu"]) == "\n"
    assert ifconfig(vnet, ["-u", "em0"]) == ""
    assert ifconfig(vnet, ["-d", "em0"]) == ifconfig(vnet, ["-a"]) == ifconfig(vnet, [])
    assert ifconfig(vnet, ["-l", "inet"]) == "\n"
    em0.ifa_add("192.0.2.1", "255.255.255.0")
    assert ifconfig(vnet, ["-l", "inet"]) == "em0\n"
    assert "capabilities" not in ifconfig(vnet, ["-m", "em0"])


def test_an_empty_description_is_none(vnet, em0):
    ifconfig(vnet, ["em0", "descr", "x"])
    ifconfig(vnet, ["em0", "descr", ""])
    assert em0.if_description is None


def test_interfaces_are_made_and_unmade_by_name(kernel, vnet):
    kernel.cloners.register(disc_cloner())

    assert ifconfig(vnet, ["-C"]) == "disc\n"
    assert ifconfig(vnet, ["disc", "create", "mtu", "900"]) == "disc0\n"
    assert ifconfig(vnet, ["disc5", "create"]) == ""
    assert ifconfig(vnet, ["-l"]) == "disc0 disc5\n"
    assert vnet.ifunit("disc0").if_mtu == 900
    ifconfig(vnet, ["disc0", "destroy"])
    assert ifconfig(vnet, ["-l"]) == "disc5\n"
    assert ifconfig(vnet, ["disc", "create", "name", "foo"]) == "foo\n"


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

    assert netstat(vnet, ["-i"]) == (
        "Name    Mtu Network       Address              Ipkts Ierrs Idrop    Opkts Oerrs  Coll\n"
        "em0*   1500 <Link#1>      02:00:00:00:00:01        7     1     2        5     3     0\n"
        "em0*      - 192.0.2.0/24  192.0.2.1                6     -     -        4     -     -\n"
    )
    ifconfig(vnet, ["em0", "up"])
    assert netstat(vnet, ["-iIem0"]).splitlines()[1].startswith("em0    1500")
    head, link, address = (line.split() for line in netstat(vnet, ["-ibd"]).splitlines())
    assert (link[head.index("Ibytes")], link[head.index("Obytes")]) == ("700", "500")
    assert head[-1] == "Drop"
    assert address[-2:] == ["-", "-"]
    assert netstat(vnet, ["-I", "em0", "-d"]).splitlines()[0].split()[-1] == "Drop"
    assert len(netstat(vnet, ["-i", "-f", "link"]).splitlines()) == 2
    assert len(netstat(vnet, ["-i4"]).splitlines()) == 2


def test_counters_for_people_and_groups_below_their_addresses(vnet, em0):
    em0.ifa_add("192.0.2.1", "255.255.255.0", "192.0.2.255")
    em0.if_addmulti("233.252.0.1")
    em0.if_ipackets, em0.if_opackets, em0.if_ibytes = 999, 12_345, 3_500_000
    lines = [line.split() for line in netstat(vnet, ["-iabh"]).splitlines()]

    assert [lines[1][i] for i in (4, 7, 8)] == ["999", "3.3M", "12K"]
    assert lines[2:] == [
        ["01:00:5e:7c:00:01"],
        ["em0*", "-", "192.0.2.0/24", "192.0.2.1", "0", "-", "-", "0", "0", "-", "0", "-"],
        ["233.252.0.1"],
    ]


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
        "\nInternet:\n"
        "Destination        Gateway            Flags     Netif Expire\n"
        "default            192.0.2.9          UGS         em0\n"
        "\nInternet6:\n"
        "Destination                       Gateway                       Flags     Netif Expire\n"
        "2001:db8::/64                     link#1                        U           em0\n"
    )
    assert "Internet6" not in netstat(vnet, ["-r", "-f", "inet"], routes=lambda fib: rows)
    vnet.stack.rt_numfibs = 4
    found = netstat(vnet, ["-rF3"], routes=lambda fib: rows if fib == 0 else [])
    assert found == "Routing tables (fib: 3)\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "say what: -i interfaces, -g groups or -r routes"),
        (["-z"], "there is no option -z"),
        (["-I"], "-I needs a value"),
        (["-I", "em7"], "interface em7 does not exist; there are em0"),
        (["-r", "-f", "ipx"], "there is no family 'ipx'"),
        (["-r", "-F", "x"], "'x' is no fib"),
        (["-r", "-F", "9"], "there is no fib 9; there are 1, from 0"),
        (["-i", "--wide"], "there is no option -wide"),
        (["em0"], "'em0' is no option"),
    ],
)
def test_netstat_refuses_in_one_line(vnet, em0, words, text):
    with pytest.raises(CommandError, match=text):
        netstat(vnet, words)


def test_settings(vnet):
    assert sysctl(vnet, ["net.link.ifqmaxlen"]) == "net.link.ifqmaxlen: 50\n"
    assert sysctl(vnet, ["net.ifdescr_maxlen=64"]) == "net.ifdescr_maxlen: 1024 -> 64\n"
    assert sysctl(vnet, ["-n", "net.ifdescr_maxlen=65"]) == "64 -> 65\n"
    assert sysctl(vnet, []) == sysctl(vnet, ["-a"]) == sysctl(vnet, ["net"])
    assert sysctl(vnet, ["net.link"]) == "net.link.ifqmaxlen: 50\nnet.link.log_link_state_change: 1\n"
    assert sysctl(vnet, ["-n", "net.link"]) == "50\n1\n"
    assert sysctl(vnet, ["-e", "net.ifdescr_maxlen"]) == "net.ifdescr_maxlen=65\n"
    assert sysctl(vnet, ["-N", "net.link.ifqmaxlen"]) == "net.link.ifqmaxlen\n"
    assert sysctl(vnet, ["-d", "net.link.ifqmaxlen"]) == "net.link.ifqmaxlen: max send queue size\n"
    for words, text in (
        (["net.link.ifqmaxlen=9"], "Operation not permitted"),
        (["net.nothing"], "unknown oid 'net.nothing'"),
        (["net.lin"], "unknown oid 'net.lin'"),
        (["net.link=1"], "stands for several"),
        (["net.ifdescr_maxlen=many"], "'many' is no number"),
        (["net.ifdescr_maxlen=-1"], "Invalid argument"),
        (["-x"], "there is no option -x"),
    ):
        with pytest.raises(CommandError, match=text) as caught:
            sysctl(vnet, words)
        assert "\n" not in str(caught.value)


def test_messages_read_as_route_monitor_prints_them(kernel, vnet, em0):
    stream, notices = kernel.rtsock.stream(), kernel.devctl.stream()
    em0.if_up()
    em0.if_addmulti("233.252.0.1")
    ifa = em0.ifa_add("192.0.2.1", "255.255.255.0", "192.0.2.255")
    kernel.rtsock.rt_newaddrmsg(em0, ifa.ifa_addr, ifa.ifa_netmask, True, ifa.ifa_dstaddr)
    kernel.rtsock.post(RouteMessage("198.51.100.0/24", "192.0.2.9", "em0", 0, True, "alice", RTF.STATIC))
    kernel.rtsock.post(RouteMessage("2001:db8::1/128", None, "em0", 3, False, "alice"))
    kernel.rtsock.post(RouteMessage("default", "192.0.2.9", "em0", 0, True, "alice"))
    em0.if_link_state_change(LinkState.UP)
    kernel.taskqueue_swi.run()
    em0.if_detach()

    texts = []
    while (message := stream.get(timeout=0)) is not None:
        empty, first, *body, last = message_text(message).split("\n")
        assert (empty, last) == ("", "")
        assert first.startswith("got message of size ")
        texts.append("\n".join([first[first.index("(") :], *body]))
    assert texts[0] == (
        "(alice:em0, mtu 1500)\n"
        "RTM_IFINFO: iface status change: len 168, if# 1, link: unknown, "
        "flags:<UP,BROADCAST,SIMPLEX,MULTICAST>"
    )
    assert texts[1] == (
        "(alice:em0)\n"
        "RTM_NEWMADDR: new multicast group membership on iface: len 144, \n"
        "sockaddrs: <GATEWAY,IFP,IFA>\n"
        " 1.0.5e.7c.0.1 em0 233.252.0.1"
    )
    assert texts[2] == (
        "(alice:em0)\n"
        "RTM_NEWADDR: address being added to iface: len 124, metric 0, flags:\n"
        "sockaddrs: <NETMASK,IFP,IFA,BRD>\n"
        " 255.255.255.0 em0 192.0.2.1 192.0.2.255"
    )
    assert texts[3] == (
        "(alice, fib 0)\n"
        "RTM_ADD: Add Route: len 200, pid: 0, seq 0, errno 0, flags:<UP,GATEWAY,DONE,STATIC>\n"
        "locks:  inits: \n"
        "sockaddrs: <DST,GATEWAY,NETMASK>\n"
        " 198.51.100.0 192.0.2.9 255.255.255.0"
    )
    assert texts[4] == (
        "(alice, fib 3)\n"
        "RTM_DELETE: Delete Route: len 216, pid: 0, seq 0, errno 0, flags:<UP,HOST,DONE>\n"
        "locks:  inits: \n"
        "sockaddrs: <DST,GATEWAY>\n"
        " 2001:db8::1 em0"
    )
    assert "(alice, fib 0)" in texts[5]
    assert texts[5].endswith("\n 0.0.0.0 192.0.2.9 0.0.0.0")
    assert any(text.endswith("if# 1, what: departure") for text in texts)
    assert any(
        "RTM_DELMADDR: multicast group membership removed from iface: len 128" in text for text in texts
    )
    lines = []
    while (notice := notices.get(timeout=0)) is not None:
        lines.append(devctl_text(notice))
    assert lines == [
        "!system=IFNET subsystem=em0 type=LINK_UP\n",
        "!system=IFNET subsystem=em0 type=DETACH\n",
    ]
