"""A frame in the hands of Python code: looking changes nothing, editing changes what was edited."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers import inet, inet6, l2
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, LLC, STP, Dot1Q, Dot3, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Padding, Raw

from iflab.net import mbuf
from iflab.net.offload import is_unfinished
from iflab.net.packet import fill_in
from iflab.wire import Frame
from iflab.wire.frame import dissect

from .ports import A_MAC, B_MAC

ETHER = Ether(src=A_MAC, dst=B_MAC)
V4 = IP(src="192.0.2.1", dst="192.0.2.2")
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")

KINDS = [
    bytes(packet)
    for packet in (
        ETHER / V4 / TCP(options=[("MSS", 1460), ("Timestamp", (1, 2))]) / b"hello",
        ETHER / V4 / UDP(sport=53, dport=53) / b"x",
        ETHER / V4 / ICMP(type=3, code=4) / IP(src="192.0.2.2", dst="192.0.2.1") / UDP() / b"quoted",
        ETHER / V6 / ICMPv6ND_NS(tgt="2001:db8::2"),
        ETHER / V6 / IPv6ExtHdrFragment(m=1) / UDP() / b"zz",
        ETHER / ARP(psrc="192.0.2.1", pdst="192.0.2.2", hwsrc=A_MAC) / Padding(bytes(18)),
        ETHER / Dot1Q(vlan=5) / V4 / UDP() / b"v",
        Dot3(src=A_MAC, dst=B_MAC) / LLC() / STP() / Padding(bytes(8)),
        ETHER / V4 / UDP(dport=4789) / VXLAN(vni=5) / ETHER / V4 / UDP(),
        ETHER / IP(src="192.0.2.1", dst="224.0.0.1", proto=2) / bytes.fromhex("1164ee9b00000000"),
    )
]


@pytest.fixture
def no_machine(monkeypatch):
    """Fail when scapy looks at the machine's interfaces, routes or neighbours."""

    def asked(*args, **kwargs):
        pytest.fail(f"the machine's own network was asked: {args}")

    for config in (l2.conf.route, l2.conf.route6):
        monkeypatch.setattr(config, "route", asked)
    monkeypatch.setattr(l2.conf.neighbor, "resolve", asked)
    monkeypatch.setattr(l2, "getmacbyip", asked)
    monkeypatch.setattr(l2, "resolve_iface", asked)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.data(),
)
def test_looking_at_a_packet_changes_nothing_however_malformed(kind, changes, data):
    octets = bytearray(kind)
    for place, value in changes:
        octets[place % len(octets)] = value
    octets = octets[: data.draw(st.integers(0, len(octets)))]
    m = mbuf(bytes(octets))
    frame = Frame(m)

    assert frame.pkt is not None

    assert frame.raw == bytes(octets)
    assert frame.to_mbuf() is m


@given(st.binary(max_size=200))
@example(b"")
@example(bytes(13))
def test_any_octets_at_all_can_be_looked_at(octets):
    m = mbuf(octets)
    frame = Frame(m)

    assert frame.pkt is not None

    assert frame.to_mbuf() is m


def test_what_is_shorter_than_a_header_is_raw(no_machine):
    assert dissect(b"").layers() == [Raw]
    assert dissect(bytes(13)).layers() == [Raw]


def test_ipv6_is_dissected():
    assert ICMPv6ND_NS in Frame(mbuf(KINDS[3])).pkt


def test_an_edit_is_written_back_without_fix_its_checksum_is_stale():
    frame = Frame(mbuf(KINDS[0]))
    frame.pkt[IP].ttl = 7

    stale = Ether(frame.raw)
    frame.fix()
    right = Ether(frame.raw)

    assert (stale[IP].ttl, right[IP].ttl) == (7, 7)
    assert stale[IP].chksum == Ether(KINDS[0])[IP].chksum != right[IP].chksum
    assert frame.to_mbuf()[:10] == bytes(10)


@pytest.mark.parametrize(
    ("packet", "layer", "field"),
    [
        (ETHER / V4 / TCP() / b"x", TCP, "chksum"),
        (ETHER / V4 / UDP() / b"x", UDP, "chksum"),
        (ETHER / V4 / ICMP() / b"x", ICMP, "chksum"),
        (ETHER / V6 / TCP() / b"x", TCP, "chksum"),
        (ETHER / V6 / UDP() / b"x", UDP, "len"),
        (ETHER / V6 / ICMPv6EchoRequest(data=b"x"), ICMPv6EchoRequest, "cksum"),
        (ETHER / V6 / UDP() / b"x", IPv6, "plen"),
        (ETHER / V4 / UDP() / b"x", IP, "len"),
        (ETHER / V4 / UDP() / b"x", IP, "ihl"),
        (ETHER / V4 / TCP() / b"x", TCP, "dataofs"),
        (ETHER / Dot1Q(vlan=3) / V4 / UDP() / b"x", UDP, "chksum"),
    ],
)
def test_fix_mends_every_length_and_checksum(packet, layer, field):
    good = bytes(packet)
    frame = Frame(mbuf(good))
    setattr(frame.pkt[layer], field, 3)
    assert frame.raw != good

    frame.fix()

    assert frame.raw == good


def test_fix_leaves_the_transport_header_of_a_fragment_alone():
    """Its checksum is that of the whole datagram, of which the rest is in other frames."""
    for packet in (
        ETHER / IP(src="192.0.2.1", dst="192.0.2.2", flags="MF") / UDP(len=2000, chksum=0x1234) / bytes(100),
        ETHER / V6 / IPv6ExtHdrFragment(m=1) / UDP(len=2000, chksum=0x1234) / bytes(100),
    ):
        frame = Frame(mbuf(bytes(packet)))

        frame.fix()

        assert frame.raw == bytes(packet)


def test_fix_leaves_the_quotation_of_an_icmp_error_alone():
    quoted = IP(src="192.0.2.2", dst="192.0.2.1", len=1500, chksum=0xABCD) / UDP(len=1480, chksum=0x1234)
    frame = Frame(mbuf(bytes(ETHER / V4 / ICMP(type=3, code=4) / quoted)))

    frame.pkt[ICMP].nexthopmtu = 1400
    frame.fix()

    after = Ether(frame.raw)
    assert (after[IPerror].len, after[IPerror].chksum) == (1500, 0xABCD)
    assert after[ICMP].nexthopmtu == 1400


def test_fix_leaves_the_padding_of_an_802_3_frame_out_of_its_length():
    frame = Frame(mbuf(KINDS[7]))

    frame.fix()

    assert frame.raw == KINDS[7]


def test_assigned_octets_and_packets_replace_the_frame():
    frame = Frame(mbuf(KINDS[0]))

    frame.raw = bytearray(KINDS[1])
    assert frame.pkt[UDP].sport == 53
    frame.pkt = ETHER / V4 / ICMP()

    assert bytes(frame) == frame.raw == frame.to_mbuf()[10:] == bytes(ETHER / V4 / ICMP())


def test_a_packet_without_ethernet_header_is_no_frame():
    frame = Frame(mbuf(KINDS[0]))
    frame.pkt = frame.pkt[IP]

    with pytest.raises(TypeError, match=r"this packet with IP; put Ether\(\) / before it"):
        frame.to_mbuf()


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Ether() / ARP(pdst="192.0.2.1"), {"hwsrc": A_MAC, "psrc": "192.0.2.9"}),
        (Ether() / IP(dst="192.0.2.1"), {"src": "192.0.2.9"}),
        (Ether() / IPv6(dst="2001:db8::1"), {"src": "2001:db8::9"}),
        (Dot3() / LLC(), {}),
        (Ether() / Dot1Q(vlan=1) / IP(dst="192.0.2.1") / UDP(dport=4789) / VXLAN() / Ether() / IP(), {}),
        (Ether() / IP(dst="192.0.2.0/30"), {"src": "192.0.2.9"}),
    ],
)
def test_no_address_is_looked_for_on_the_machine(packet, expected, no_machine):
    filled = fill_in(packet, A_MAC, ["192.0.2.9", "2001:db8::9"])
    assert len(bytes(filled)) >= 14

    first = filled.payload
    assert (filled.src, filled.dst) == (A_MAC, "ff:ff:ff:ff:ff:ff")
    assert {name: getattr(first, name) for name in expected} == expected


def test_without_an_address_the_source_is_the_unspecified_one(no_machine):
    assert fill_in(Ether() / IP(dst="192.0.2.1"))[IP].src == "0.0.0.0"
    assert fill_in(Ether() / IPv6(dst="2001:db8::1"))[IPv6].src == "::"


def test_what_is_sent_to_a_group_gets_the_groups_mac(no_machine):
    assert fill_in(Ether() / IP(dst="239.129.2.3")).dst == "01:00:5e:01:02:03"
    assert fill_in(Ether() / IPv6(dst="ff02::1:ff00:2")).dst == "33:33:ff:00:00:02"


def test_filling_in_changes_neither_a_whole_packet_nor_the_callers():
    whole = ETHER / V4 / UDP()
    blank = Ether() / IP(dst="192.0.2.1")

    assert fill_in(whole) is whole
    assert fill_in(blank, A_MAC) is not blank
    assert "src" not in blank.fields


@pytest.mark.parametrize(
    ("header", "unfinished"),
    [
        (bytes(10), False),
        (b"\x02" + bytes(9), False),  # "the checksum was verified" is no work left over
        (b"\x01" + bytes(9), True),
        (b"\x00\x01" + bytes(8), True),
    ],
)
def test_work_left_to_the_nic_is_seen(header, unfinished):
    assert is_unfinished(header + KINDS[0]) is unfinished


def test_the_layers_are_those_that_the_tests_mean():
    """scapy knows IPv6 only once its layer is loaded."""
    assert l2.conf.l2types is not None
    assert inet.IP is IP
    assert inet6.IPv6 is IPv6
