"""``ifconfig em0 inet6 ...``: what an interface does with IPv6, held against ``sysctl`` and ``ip``."""

from __future__ import annotations

import errno

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import Ether

from iflab.bsd import CommandError, ifconfig
from iflab.linux import Netlink
from iflab.linux.rename import rename
from iflab.net import Ifreq, Thread, as_sockaddr

from ..linux_tools import eventually, ip


@pytest.fixture
def alice(lab):
    host = lab.pair("2001:db8::1/64", "2001:db8::2/64")[0]
    eventually(lambda: "inet6 fe80::" in host.ifconfig("em0"))  # the kernel makes it when it sees the link
    return host


def options(host):
    """The flags of ``nd6 options``, by name."""
    (line,) = [line for line in host.ifconfig("em0 inet6").splitlines() if line.startswith("\tnd6 ")]
    return set(line.partition("<")[2].rstrip(">").split(","))


def setting(host, name):
    return int(host.run(f"sysctl -n net.ipv6.conf.em0.{name}", check=True).stdout)


def addresses(host):
    """What ``ip`` tells of the IPv6 addresses, by address."""
    (row,) = ip(host, "-6", "addr", "show", "dev", "em0")[:1] or [{"addr_info": []}]
    return {info["local"]: info for info in row.get("addr_info", ()) if info}


def line_of(host, address, modes=""):
    return next(
        line.strip()
        for line in host.ifconfig(f"{modes} em0 inet6").splitlines()
        if f"inet6 {address} " in line
    )


@pytest.mark.parametrize(
    ("word", "flag", "name", "on", "off"),
    [
        ("accept_rtadv", "ACCEPT_RTADV", "accept_ra", 1, 0),
        ("no_radr", "NO_RADR", "accept_ra_defrtr", 0, 1),
        ("no_dad", "NO_DAD", "accept_dad", 0, 1),
        ("auto_linklocal", "AUTO_LINKLOCAL", "addr_gen_mode", 0, 1),
    ],
)
def test_flags_of_neighbour_discovery_are_settings_of_the_kernel(alice, word, flag, name, on, off):
    assert "PERFORMNUD" in options(alice)
    for _ in range(2):
        alice.ifconfig(f"em0 inet6 -{word}")
        assert (setting(alice, name), flag in options(alice)) == (off, False)
        alice.ifconfig(f"em0 inet6 {word}")
        assert (setting(alice, name), flag in options(alice)) == (on, True)
    alice.run(f"sysctl -qw net.ipv6.conf.em0.{name}={off}", check=True)
    assert flag not in options(alice)


def test_a_setting_of_two_is_on(alice):
    alice.run("sysctl -qw net.ipv6.conf.em0.accept_ra=2 net.ipv6.conf.em0.accept_dad=2", check=True)

    assert "ACCEPT_RTADV" in options(alice)
    assert "NO_DAD" not in options(alice)


def test_without_ipv6_an_interface_has_no_addresses_and_gets_them_back(lab, alice):
    alice.ifconfig("em0 inet6 2001:db8:7::1/64 deprecated vltime 5000")
    before = set(addresses(alice))
    assert len(before) == 3

    alice.ifconfig("em0 inet6 ifdisabled")
    assert setting(alice, "disable_ipv6") == 1
    assert "IFDISABLED" in options(alice)
    assert addresses(alice) == {}
    assert "inet6 " not in alice.ifconfig("em0")
    lab.check()

    alice.ifconfig("em0 inet6 -ifdisabled")
    assert setting(alice, "disable_ipv6") == 0
    eventually(lambda: set(addresses(alice)) == before)
    back = addresses(alice)["2001:db8:7::1"]
    assert back["deprecated"]
    assert 4000 < back["valid_life_time"] <= 5000
    assert alice.ping("2001:db8::2").received == 1
    lab.check()


def test_the_last_64_bits_come_from_the_link_local_address(lab, alice):
    alice.ifconfig("em0 inet6 2001:db8:1::/64 eui64")

    local = next(address for address in addresses(alice) if address.startswith("fe80::"))
    assert local.replace("fe80::", "2001:db8:1::") in addresses(alice)
    lab.check()


def test_lifetimes_are_the_kernels(lab, alice):
    alice.ifconfig("em0 inet6 2001:db8:2::5/64 pltime 1000 vltime 2000 alias")
    there = addresses(alice)["2001:db8:2::5"]
    assert 900 < there["preferred_life_time"] <= 1000
    assert 1900 < there["valid_life_time"] <= 2000
    assert "pltime" not in alice.ifconfig("em0")
    words = line_of(alice, "2001:db8:2::5", "-L").split()
    assert words[:4] + words[4::2] == ["inet6", "2001:db8:2::5", "prefixlen", "64", "pltime", "vltime"]
    assert 900 < int(words[5]) <= 1000
    assert line_of(alice, "2001:db8::1", "-L") == "inet6 2001:db8::1 prefixlen 64"

    with Netlink(alice.netns) as netlink:  # as an older kernel does it, which loses addresses on the way
        rename(netlink, netlink.link_get("em0").index, "em1")
        rename(netlink, netlink.link_get("em1").index, "em0")
    assert 900 < addresses(alice)["2001:db8:2::5"]["preferred_life_time"] <= 1000

    alice.ifconfig("em0 inet6 2001:db8:2::5/64 deprecated")
    assert addresses(alice)["2001:db8:2::5"]["deprecated"]
    assert line_of(alice, "2001:db8:2::5") == "inet6 2001:db8:2::5 prefixlen 64 deprecated"
    alice.ifconfig("em0 inet6 2001:db8:2::5/64")
    assert "deprecated" not in addresses(alice)["2001:db8:2::5"]
    assert line_of(alice, "2001:db8:2::5", "-L") == "inet6 2001:db8:2::5 prefixlen 64"
    lab.check()


def test_an_address_that_a_router_gave_is_told_apart(lab):
    em0 = lab.host("alice").nic("em0")
    router = lab.station(em0, name="router")
    lab.wait_ready()
    alice = lab.hosts["alice"]
    source = "fe80::1"
    advertisement = (
        Ether(src=router.mac, dst="33:33:00:00:00:01")
        / IPv6(src=source, dst="ff02::1")
        / ICMPv6ND_RA(routerlifetime=600)
        / ICMPv6NDOptPrefixInfo(
            prefix="2001:db8:9::", prefixlen=64, validlifetime=3000, preferredlifetime=2000
        )
    )

    def gateways():
        return {row.get("gateway") for row in ip(alice, "-6", "route", "show", "default")}

    alice.ifconfig("em0 inet6 -accept_rtadv")
    router.send(advertisement)
    alice.ping("fe80::1%em0", timeout=0.2)
    assert not any(address.startswith("2001:") for address in addresses(alice))
    assert gateways() == set()

    alice.ifconfig("em0 inet6 accept_rtadv no_radr")
    router.send(advertisement)
    given = "2001:db8:9::ff:fe00:1"
    eventually(lambda: given in addresses(alice))
    eventually(lambda: given in alice.ifconfig("em0"))
    assert line_of(alice, given) == f"inet6 {given} prefixlen 64 autoconf"
    assert gateways() == set()

    alice.ifconfig("em0 inet6 -no_radr")
    router.send(advertisement)
    eventually(lambda: gateways() == {source})


def test_what_linux_cannot_is_refused_in_a_line(lab, alice):
    before = alice.ifconfig("em0"), addresses(alice).keys()
    for words, why in (
        ("inet6 -nud", r"SIOCSIFINFO_FLAGS \(-nud\): Invalid argument \(Linux cannot change 0x1 "),
        ("inet6 prefer_source", r"SIOCSIFINFO_FLAGS \(prefer_source\): Invalid argument"),
        ("inet6 2001:db8:5::1/64 anycast", "of an address's flags Linux lets 'deprecated' alone be set"),
        ("inet6 2001:db8::1/48 tentative", "of an address's flags Linux lets 'deprecated' alone be set"),
        (
            "inet6 2001:db8:5::1/64 pltime 7 vltime 5",
            "address 2001:db8:5::1/64 on device [0-9]+: Invalid argument",
        ),
        ("inet6 2001:db8:5::1/64 pltime soon", "'soon' is no number of seconds for pltime"),
        ("inet6 2001:db8:5::1/64 vltime 4294967296", "vltime is 0 to 4294967295 seconds"),
        ("192.0.2.1/24 deprecated", "'deprecated' is for an inet6 address; write 'inet6' before it"),
        ("inet6 eui64", "'eui64' stands behind a prefix"),
        ("inet6 2001:db8:5::1/64 eui64", "'eui64' stands behind a prefix"),
    ):
        with pytest.raises(CommandError, match=why):
            alice.ifconfig(f"em0 {words}")
        assert (alice.ifconfig("em0"), addresses(alice).keys()) == before
    lab.check()


def test_who_may_not_changes_nothing(alice):
    nobody = Thread(alice.vnet.prison, lambda priv: False)
    with pytest.raises(CommandError, match="Operation not permitted"):
        ifconfig(alice.vnet, ["em0", "inet6", "-accept_rtadv"], nobody)
    assert "ACCEPT_RTADV" in options(alice)


def test_an_address_that_is_not_there_has_neither_flags_nor_lifetime(alice):
    for cmd in ("SIOCGIFAFLAG_IN6", "SIOCGIFALIFETIME_IN6"):
        request = Ifreq("em0", ifr_addr=as_sockaddr("2001:db8::99"))
        with pytest.raises(OSError, match="has no address") as refused:
            alice.vnet.ioctl(cmd, request)
        assert refused.value.errno == errno.EADDRNOTAVAIL


def test_an_interface_without_linux_above_has_no_such_flags(lab):
    sw = lab.switch("sw", ports=1)

    assert "nd6" not in sw.ifconfig("")
    with pytest.raises(CommandError, match="SIOCGIFINFO_IN6"):
        sw.ifconfig(f"{sw[0].if_xname} inet6 accept_rtadv")
