"""Finishing and cutting, judged by scapy: every length and checksum is what scapy computes."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from iflab.net.mbuf import NO_PKTHDR, frame_of
from iflab.net.offload import (
    ACCEPTS_ALL,
    ACCEPTS_CSUM,
    ACCEPTS_GSO,
    OffloadError,
    finish,
    is_unfinished,
    wire_frames,
)

MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
TAGS = {"plain": [], "802.1Q": [Dot1Q(vlan=7)], "QinQ": [Dot1AD(vlan=5), Dot1Q(vlan=7)]}


def build(version, protocol, payload, tags=(), options=False, flags="A", ident=0xFFFE):
    """A frame as it looks when it is finished, and where its transport header begins."""
    packet = Ether(**MACS)
    for tag in tags:
        packet = packet / tag.copy()
    if version == 4:
        packet = packet / IP(
            src="192.0.2.1", dst="198.51.100.2", id=ident, options=[IPOption_NOP()] * 4 * options
        )
    else:
        packet = packet / IPv6(src="2001:db8::1", dst="2001:db8:1::2")
        if options:
            packet = packet / IPv6ExtHdrDestOpt()
    start = len(bytes(packet))
    if protocol == "tcp":
        layer = TCP(
            sport=1, dport=2, seq=0xFFFFF000, flags=flags, options=[("Timestamp", (1, 2))] if options else []
        )
    else:
        layer = UDP(sport=1, dport=2)
    return packet / layer / Raw(payload), start


def header(flags=0, kind=0, size=0, start=0, offset=0):
    return struct.pack("=BBHHHH", flags, kind, 0, size, start, offset)


def recomputed(octets):
    """The same frame with every length and checksum computed by scapy."""
    packet = Ether(octets)
    for layer in packet.iterpayloads():
        for name in ("len", "plen", "chksum"):
            if name in layer.fields:
                del layer.fields[name]
    return bytes(packet)


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("options", [False, True], ids=["bare", "options"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("octets", [1, 1000, 1001, 5000])
def test_a_super_frame_is_cut_as_scapy_would_build_the_pieces(version, protocol, octets, options, tags):
    payload = bytes(n * 7 & 0xFF for n in range(octets))
    packet, start = build(version, protocol, payload, tags, options)
    kind = {("tcp", 4): 1, ("tcp", 6): 4}.get((protocol, version), 5)
    m = header(1, kind, 1000, start, 16 if protocol == "tcp" else 6) + bytes(packet)

    pieces = finish(m)

    assert len(pieces) == wire_frames(m) == -(-octets // 1000)
    assert not any(map(is_unfinished, pieces))
    seen = b""
    for number, piece in enumerate(pieces):
        frame = frame_of(piece)
        assert recomputed(frame) == frame
        whole = Ether(frame)
        if version == 4:
            assert whole[IP].id == (0xFFFE + number) & 0xFFFF
        if protocol == "tcp":
            assert whole[TCP].seq == (0xFFFFF000 + 1000 * number) & 0xFFFFFFFF
        seen += bytes(whole[TCP if protocol == "tcp" else UDP].payload)
    assert seen == payload


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_a_checksum_that_the_host_began_is_finished(version, protocol, tags):
    packet, start = build(version, protocol, b"payload", tags)
    right = bytes(packet)
    at = 16 if protocol == "tcp" else 6
    length = len(right) - start
    addresses = right[start - 8 : start] if version == 4 else right[start - 32 : start]
    pseudo = addresses + struct.pack("!HH", 6 if protocol == "tcp" else 17, length)
    begun = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    begun = (begun & 0xFFFF) + (begun >> 16)
    left = right[: start + at] + struct.pack("!H", begun) + right[start + at + 2 :]

    (done,) = finish(header(1, 0, 0, start, at) + left)

    assert done == NO_PKTHDR + right


def test_a_udp_checksum_of_zero_is_written_as_all_ones():
    packet, start = build(4, "udp", b"\0\0")
    packet, start = build(4, "udp", bytes(packet)[start + 6 : start + 8])  # now the sum is zero
    assert bytes(packet)[start + 6 : start + 8] == b"\xff\xff"

    (piece,) = finish(header(1, 5, 100, start, 6) + bytes(packet))

    assert frame_of(piece) == bytes(packet)


def test_a_udp_checksum_that_the_host_began_and_that_is_zero_is_written_as_all_ones():
    datagram = struct.pack("!HHHH", 7, 7, 8, 0xFFFF - (7 + 7 + 8))  # a begun sum that makes all words 0xffff

    (done,) = finish(header(1, 0, 0, 34, 6) + bytes(34) + datagram)

    assert done[-2:] == b"\xff\xff"


def test_a_tcp_checksum_that_the_host_began_may_be_zero():
    segment = bytes(16) + b"\xff\xff" + bytes(2)

    (done,) = finish(header(1, 0, 0, 34, 16) + bytes(34) + segment)

    assert done[-4:-2] == b"\0\0"


def test_fin_push_and_cwr_are_where_they_belong():
    packet, start = build(4, "tcp", bytes(3000), flags="FPACE")
    pieces = [Ether(frame_of(m))[TCP].flags for m in finish(header(1, 0x81, 1000, start, 16) + bytes(packet))]

    assert [str(flags) for flags in pieces] == ["AEC", "AE", "FPAE"]


def test_what_the_receiver_accepts_is_left_as_it_is():
    packet, start = build(4, "tcp", bytes(3000))
    whole = header(1, 1, 1000, start, 16) + bytes(packet)
    begun = header(1, 0, 0, start, 16) + bytes(packet)

    assert finish(whole, ACCEPTS_ALL) == [whole]
    assert len(finish(whole, ACCEPTS_CSUM)) == 3
    assert finish(begun, ACCEPTS_CSUM) == [begun]
    assert finish(begun, ACCEPTS_GSO) != [begun]
    assert finish(NO_PKTHDR + bytes(packet)) == [NO_PKTHDR + bytes(packet)]
    assert wire_frames(begun) == 1


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=10, max_size=10), st.binary(min_size=14, max_size=200))
def test_nonsense_is_refused_or_harmless(head, frame):
    with contextlib.suppress(OffloadError):
        pieces = finish(head + frame)
        assert pieces
        assert all(len(piece) <= len(frame) + 10 for piece in pieces)
    assert wire_frames(head + frame) >= 1


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([4, 6]),
    st.sampled_from(["tcp", "udp"]),
    st.binary(min_size=1, max_size=4000),
    st.integers(1, 1500),
    st.booleans(),
)
def test_any_payload_in_any_size(version, protocol, payload, size, options):
    packet, start = build(version, protocol, payload, options=options)
    kind = {("tcp", 4): 1, ("tcp", 6): 4}.get((protocol, version), 5)
    pieces = finish(header(1, kind, size, start, 16 if protocol == "tcp" else 6) + bytes(packet))

    layer = TCP if protocol == "tcp" else UDP
    assert b"".join(bytes(Ether(frame_of(m))[layer].payload) for m in pieces) == payload
    for m in (pieces[0], pieces[-1]):
        assert recomputed(frame_of(m)) == frame_of(m)
