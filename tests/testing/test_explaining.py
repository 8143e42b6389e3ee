"""How expectations explain themselves: the nearest miss, and the ladder as text. No lab is needed."""

from __future__ import annotations

import pytest
from scapy.layers.dhcp6 import DHCP6_Request, DHCP6OptOptReq
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6NIQueryName, IPv6, IPv6ExtHdrSegmentRouting
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.snmp import SNMP, SNMPresponse

from iflab.expect import Event, ExpectationError, Expectations, History, Pattern, ladder
from iflab.net import mbuf
from tests.wire.ports import cabled

ECHO = bytes(
    Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / IP(src="192.0.2.1", dst="192.0.2.2") / ICMP()
)
HTTP = bytes(Ether() / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(sport=40000, dport=80, flags="S"))
TUNNEL = bytes(
    Ether() / IP(src="198.51.100.1", dst="198.51.100.2") / IP(src="192.0.2.1", dst="192.0.2.2") / UDP()
)
QINQ = bytes(Ether() / Dot1Q(vlan=10) / Dot1Q(vlan=20) / IP(src="192.0.2.1", dst="192.0.2.2") / UDP())
SIX = bytes(Ether() / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(dport=53))
ANSWER = bytes(
    Ether() / IP() / UDP() / DNS(id=7, qr=1, qd=DNSQR(qname="www.example.org"), an=DNSRR(rdata="192.0.2.9"))
)
SEGMENTS = bytes(
    Ether() / IPv6() / IPv6ExtHdrSegmentRouting(addresses=["2001:db8::1", "2001:db8::2"]) / UDP()
)
OPTIONS = bytes(Ether() / IPv6() / UDP(sport=546, dport=547) / DHCP6_Request() / DHCP6OptOptReq(reqopts=[39]))
RESPONSE = bytes(Ether() / IP() / UDP(sport=161) / SNMP(PDU=SNMPresponse()))
NODE = bytes(Ether() / IPv6() / ICMPv6NIQueryName(nonce=b"12345678"))


@pytest.mark.parametrize(
    ("pattern", "octets"),
    [
        (IP(dst="192.0.2.2") / ICMP(type="echo-request"), ECHO),
        (Ether(dst="02:00:00:00:00:02") / ICMP(), ECHO),
        (TCP(flags="S", dport="http"), HTTP),
        (TCP(dport=(1, 1024), sport=[39999, 40000]), HTTP),
        (IP(dst="192.0.2.0/24"), HTTP),
        (IP(dst=["192.0.2.9", "192.0.2.2"]), HTTP),
        (IPv6(dst="2001:db8::/64") / UDP(dport="domain"), SIX),
        (IP(src="192.0.2.1") / UDP(), TUNNEL),
        (IP(src="198.51.100.1") / IP(dst="192.0.2.2"), TUNNEL),
        (Dot1Q(vlan=20) / IP(), QINQ),
        (DNS(id=7), ANSWER),
        (DNS(qr=1), ANSWER),
        (UDP() / DNS(qd=DNSQR(qname="www.example.org")), ANSWER),
        (IPv6ExtHdrSegmentRouting(), SEGMENTS),
        (DHCP6OptOptReq(), OPTIONS),
        (SNMP(), RESPONSE),
        (ICMPv6NIQueryName(), NODE),
    ],
)
def test_patterns_that_fit(pattern, octets):
    assert Pattern(pattern).matches(octets)


def test_what_is_set_counts_also_when_it_is_as_scapy_would_have_it():
    assert not Pattern(DNS(qd=DNSQR(qname="www.example.com"))).matches(ANSWER)
    assert not Pattern(IP(ttl=64)).matches(bytes(Ether() / IP(ttl=63)))


def test_a_name_where_no_names_are_known_is_refused(monkeypatch):
    """As of a port on a machine without ``/etc/services``: scapy takes it, and no frame would ever have it."""
    field = TCP().get_field("dport")
    monkeypatch.setattr(field, "s2i", {})
    for value in ("http", [443, "http"]):
        with pytest.raises(ValueError, match=r"TCP\.dport is .*'http'.*give the number"):
            Pattern(IP() / TCP(dport=value))
    assert Pattern(IP() / TCP(dport=80)).matches(HTTP)


@pytest.mark.parametrize(
    ("pattern", "octets", "wrong"),
    [
        (IP(dst="192.0.2.9", ttl=64) / ICMP(), ECHO, ["IP.dst is 192.0.2.2, wanted 192.0.2.9"]),
        (TCP(flags="SA"), HTTP, ["TCP.flags is S, wanted SA"]),
        (TCP(dport=(81, 1024)), HTTP, ["TCP.dport is http, wanted (81, 1024)"]),
        (IP(dst="198.51.100.0/24"), HTTP, ['IP.dst is 192.0.2.2, wanted Net("198.51.100.0/24")']),
        (IP(src="192.0.2.1", dst="192.0.2.3") / UDP(), TUNNEL, ["IP.dst is 192.0.2.2, wanted 192.0.2.3"]),
        (Dot1Q(vlan=20) / Dot1Q(vlan=10), QINQ, ["no Dot1Q"]),
        (IP() / ICMP(), HTTP, ["no ICMP"]),
        (DNS(id=8, qr=1), ANSWER, ["DNS.id is 7, wanted 8"]),
        (IP(ttl=64) / ICMP(), ECHO.replace(b"\x40\x01", b"\x3f\x01"), ["IP.ttl is 63, wanted 64"]),
        (
            DHCP6OptOptReq(reqopts=[23]),
            OPTIONS,
            ["DHCP6OptOptReq.reqopts is [OPTION_CLIENT_FQDN], wanted [DNS Recursive Name Server Option]"],
        ),
    ],
)
def test_patterns_that_do_not_say_what_is_wrong(pattern, octets, wrong):
    assert not Pattern(pattern).matches(octets)
    assert Pattern(pattern).miss(octets)[1] == wrong


def test_the_nearer_one_is_nearer():
    pattern = Pattern(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=53))
    assert pattern.miss(TUNNEL)[0] > pattern.miss(ECHO)[0] > pattern.miss(SIX)[0]


def story(*told):
    """Events out of their kind, source, destination, octets, and cause or what goes on."""
    return [
        Event(number, number / 1000, kind, "hub", src, dst, octets, cause, tuple(others))
        for number, (kind, src, dst, octets, cause, *others) in enumerate(told)
    ]


def test_a_ladder_shows_every_receiver_and_every_loss():
    other = ECHO[:-1] + b"!"
    lines = ladder(
        story(
            ("sent", "a", "", ECHO, ""),
            ("got", "a", "b", ECHO, ""),
            ("lost", "a", "c", ECHO, "cut"),
            ("sent", "c", "", HTTP, ""),
            ("became", "c", "", HTTP, "hook", other),
            ("got", "c", "a", other, ""),
            ("sent", "b", "", SIX, ""),
            ("lost", "b", "", SIX, "too long"),
            ("sent", "b", "", ECHO, ""),
        ),
        0.0,
    ).splitlines()

    assert lines[0].split() == ["a", "b", "c"]
    assert lines[1].startswith(" 0.000000  |")
    assert lines[1].endswith("echo-request 0  [lost: cut]")
    drawn = lines[1][11:]
    assert drawn[25] == ">"
    assert "X" in drawn[:52]
    assert drawn.count("X") == 1
    assert lines[2][12] == "<"
    assert lines[2].endswith("[changed by hook]")
    assert "-" not in lines[3].split("  Ether")[0]
    assert lines[3].endswith("[lost: too long]")
    assert lines[4].endswith("[in flight]")


def test_a_ladder_keeps_the_last_frames():
    told = [each for _ in range(50) for each in (("sent", "a", "", ECHO, ""), ("got", "a", "b", ECHO, ""))]
    assert len(ladder(story(*told), 0.0, most=10).splitlines()) == 11
    assert "in flight" not in ladder(story(*told), 0.0, most=10)
    assert ladder([], 0.0) == "\n"


def overheard(*frames):
    """A cable on which this was sent, and its expectations."""
    cable, one, _ = cabled()
    history = History()
    history.listen(cable)
    for frame in frames:
        one.end.send(mbuf(frame))
    return cable, Expectations(history, 0.0)


def test_frames_that_are_too_many_are_shown_in_their_order():
    cable, few = overheard(ECHO, HTTP, ECHO, ECHO)
    with pytest.raises(ExpectationError) as told:
        few.expect_count(cable, "icmp", at_most=2, within=0)

    first, *lines = str(told.value).splitlines()
    assert first == "cable0: 3 frames icmp within 0 s, wanted at most 2:"
    assert len(lines) == 3
    assert lines == sorted(lines)
    assert all("echo-request" in line for line in lines)


def test_of_very_many_that_are_too_many_the_last_are_shown():
    cable, many = overheard(*[ECHO] * 99, *[HTTP] * 9)
    with pytest.raises(ExpectationError) as told:
        many.expect_count(cable, "icmp", 20, within=0)

    first, *lines = str(told.value).splitlines()
    assert first == "cable0: 99 frames icmp within 0 s, wanted 20; the last of them:"
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "needs count, at_least or at_most"),
        ({"count": -1}, "count is a whole number of frames, 0 or more, not -1"),
        ({"count": 1.5}, "count is a whole number of frames, 0 or more, not 1.5"),
        ({"at_least": "2"}, "at_least is a whole number of frames, 0 or more, not '2'"),
        ({"at_least": 3, "at_most": 2}, "at_least is 3 and at_most 2; no number of frames is both"),
        ({"count": 3, "at_most": 4}, "count, or at_least and at_most, not both"),
        ({"count": 0, "within": -0.1}, "within is a number of seconds, not -0.1; use 0 or more"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options, told):
    cable, expectations = overheard()
    with pytest.raises(ValueError, match=told):
        expectations.expect_count(cable, "icmp", **options)
