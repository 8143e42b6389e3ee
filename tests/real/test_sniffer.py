"""Sniffers: what they hear, from when on, and what they cost others."""

from __future__ import annotations

import subprocess
import threading

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.plist import PacketList
from scapy.sendrecv import AsyncSniffer

from iflab import LabError
from iflab.bpf import FilterError, Sniffer, compile_filter, filters
from iflab.net import Ifreq
from tests.linux_tools import PATIENCE, eventually, kernel_flags, need, real_root


@pytest.fixture
def pair(lab):
    return lab.pair("192.0.2.1/24", "192.0.2.2/24")


def frame_to(mac, number=0, source="02:00:00:00:00:fe"):
    return bytes(Ether(dst=mac, src=source, type=0x88B5)) + number.to_bytes(4, "big") + bytes(42)


def test_the_first_frame_is_heard_and_100_000_after_it(lab):
    one, other = lab.station(), lab.station()
    cable = lab.cable(one, other)

    sniffer = lab.tap(cable)
    for number in range(100_000):
        one.send(frame_to(other.mac, number))

    heard = sniffer.heard()
    assert [int.from_bytes(each.octets[14:18], "big") for each in heard] == list(range(100_000))
    assert sniffer.dropped == 0


def test_a_nic_hears_both_directions_with_names_and_times(lab, pair):
    alice, _bob, _ = pair
    with lab.tap(alice, filter="icmp") as sniffer:
        assert alice.ping("192.0.2.2", count=2).received == 2
        heard = [sniffer.wait(2 * PATIENCE) for _ in range(4)]

    assert [each.direction for each in heard] == ["out", "in", "out", "in"]
    assert {each.where for each in heard} == {"alice:em0"}
    assert [each.time for each in heard] == sorted(each.time for each in heard)
    assert all(IP in Ether(each.octets) for each in heard)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_one_direction(lab, pair, direction):
    alice, _, _ = pair
    with lab.tap("alice:em0", filter="icmp", direction=direction) as sniffer:
        alice.ping("192.0.2.2", count=2)
        kinds = [
            packet[ICMP].type for packet in (Sniffer.packet(sniffer.wait(2 * PATIENCE)) for _ in range(2))
        ]
        assert sniffer.wait(0.1) is None

    assert kinds == ([0, 0] if direction == "in" else [8, 8])


def test_before_and_after_the_hardware_filter(lab):
    em0 = lab.host("alice").nic("em0", "192.0.2.1/24")
    station = lab.station(em0)
    foreign = frame_to("02:00:00:00:aa:aa")
    with lab.tap(em0, direction="in") as behind, lab.tap(em0, direction="in", before_filter=True) as before:
        station.send(foreign)

        assert before.wait(2 * PATIENCE).octets == foreign
        assert behind.wait(0.1) is None


def test_promisc_opens_the_filter_as_long_as_it_listens(lab):
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24")
    station = lab.station(em0)
    foreign = frame_to("02:00:00:00:aa:aa")

    with lab.tap(em0, direction="in", promisc=True) as sniffer:
        eventually(lambda: "PROMISC" in kernel_flags(alice, "em0"))
        station.send(foreign)
        assert sniffer.wait(2 * PATIENCE).octets == foreign

    eventually(lambda: "PROMISC" not in kernel_flags(alice, "em0"))


@real_root  # tcpdump gives up rights, which outside of hosts fails in a user namespace
def test_expressions_mean_what_tcpdump_means(lab, pair, tmp_path):
    need("tcpdump", "tcpdump")
    alice, bob, cable = pair
    expressions = ["arp", "icmp[icmptype] == icmp-echo", "ip and greater 200", "src 192.0.2.2", "not ip", ""]
    with lab.lock:  # all begin at the same frame, and end so
        sniffers = [lab.tap(cable, filter=expression) for expression in expressions]
        capture = lab.capture(tmp_path / "x.pcapng")
    alice.run(["ping", "-c", "3", "-i", "0.05", "-s", "300", "192.0.2.2"], check=True)
    bob.ping("192.0.2.1", count=2)
    with lab.lock:
        found = [len(sniffer.stop()) for sniffer in sniffers]
        capture.close()

    for expression, count in zip(expressions, found, strict=True):
        words = ["tcpdump", "-nn", "-r", str(tmp_path / "x.pcapng"), *([expression] if expression else [])]
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        assert len(lines) == count, expression
    assert found[1] >= 5


def test_scapys_sniff_with_scapys_signature(lab, pair):
    alice, _, cable = pair
    seen = []
    threading.Timer(0.05, lambda: alice.ping("192.0.2.2", count=5, interval=0.02)).start()

    found = lab.sniff(
        cable,
        filter="ip",
        count=3,
        timeout=5 * PATIENCE,
        lfilter=lambda packet: ICMP in packet and packet[ICMP].type == 8,
        prn=lambda packet: seen.append(packet.summary()),
    )

    assert isinstance(found, PacketList)
    assert len(found) == len(seen) == 3
    assert all(packet[ICMP].type == 8 for packet in found)
    assert len(lab.sniff(iface=["alice:em0", cable], filter="udp port 9", timeout=0.05)) == 0


def test_scapys_own_sniffer_on_ours_misses_nothing(lab):
    one, other = lab.station(), lab.station()
    cable = lab.cable(one, other)
    with lab.tap(cable) as socket:
        sniffer = AsyncSniffer(opened_socket=socket, count=500)
        sniffer.start()
        for number in range(500):
            one.send(frame_to(other.mac, number))
        sniffer.join(timeout=20 * PATIENCE)

        assert len(sniffer.results) == 500


def test_python_functions_instead_of_expressions(lab, pair):
    alice, _, cable = pair
    with lab.tap(cable, filter=lambda packet: ARP in packet) as sniffer:
        alice.run(["ip", "neigh", "flush", "all"], check=True)
        alice.ping("192.0.2.2")

        assert [packet[ARP].op for packet in sniffer.packets()][:2] == [1, 2]


def test_snaplen_and_ring(lab):
    one, other = lab.station(), lab.station()
    cable = lab.cable(one, other)
    with lab.tap(cable, snaplen=18, ring=3) as sniffer:
        for number in range(10):
            one.send(frame_to(other.mac, number))
        heard = sniffer.heard()

    assert [each.octets[14:] for each in heard] == [number.to_bytes(4, "big") for number in (7, 8, 9)]
    assert {each.length for each in heard} == {60}
    assert (sniffer.received, sniffer.dropped) == (10, 0)


def test_who_is_too_slow_loses_its_own_frames_only(lab):
    one, other = lab.station(), lab.station()
    cable = lab.cable(one, other)
    with lab.tap(cable, limit=10) as slow, lab.tap(cable) as quick:
        for number in range(1000):
            one.send(frame_to(other.mac, number))

        assert (len(slow.heard()), slow.received, slow.dropped) == (10, 1000, 990)
        assert len(quick.heard()) == 1000
        assert cable.account().delivered == 1000


def test_a_live_iterator_ends_when_the_nic_goes(lab, pair):
    alice, _, _ = pair
    em0 = alice.vnet.ifunit("em0")
    found = []

    def read(sniffer):
        found.extend(packet[ICMP].type for packet in sniffer)

    sniffer = lab.tap(em0, filter="icmp")
    thread = threading.Thread(target=read, args=(sniffer,))
    thread.start()
    alice.ping("192.0.2.2", count=2)
    em0.if_detach()
    thread.join(5 * PATIENCE)

    assert not thread.is_alive()
    assert found == [8, 0, 8, 0]


def test_closing_the_lab_ends_every_sniffer(lab, pair):
    sniffer = lab.tap("cable0")
    thread = threading.Thread(target=lambda: list(sniffer))
    thread.start()
    lab.close()
    thread.join(5 * PATIENCE)

    assert not thread.is_alive()


def test_listening_on_a_nic_keeps_offloads_from_showing(lab, pair):
    """Frames handed to Python are finished, and whole again for the hosts when nobody listens."""
    alice, bob, cable = pair
    em0 = alice.vnet.ifunit("em0")
    with lab.tap(em0, filter="tcp") as sniffer:
        bob.fetch(alice.serve(500_000)).wait()
        heard = sniffer.heard()
    assert max(len(each.octets) for each in heard) <= 1514
    assert sum(len(each.octets) for each in heard if each.direction == "out") > 500_000
    before = cable.account()
    bob.fetch(alice.serve(500_000)).wait()
    assert cable.account().sent - before.sent < 500_000 / 1500


@pytest.mark.parametrize(
    ("expression", "message", "place"),
    [
        ("tcp prot 80", "syntax error", "prot"),
        ("tcp port 80 and and udp", "syntax error", "and udp"),
        ("ether host foo", "unknown ether host 'foo'", "foo"),
        ("host 192.0.2.300", "invalid IPv4 address '192.0.2.300'", "192"),
        ("tcp[13] & 2 != 0 and (udp or len foo 1)", "syntax error", "foo"),
        ("tcp port", "syntax error", ""),
    ],
)
def test_a_wrong_expression_is_told_with_its_place(lab, expression, message, place):
    with pytest.raises(FilterError) as caught:
        compile_filter(expression)

    first, text, caret = str(caught.value).split("\n")
    assert message in first
    assert text == f"  {expression}"
    assert caret.endswith("^")
    assert text[len(caret) - 1 :].startswith(place)


def test_without_libpcap_functions_still_work(lab, pair, monkeypatch):
    def missing():
        raise FilterError("filter expressions need libpcap, which is not here")

    monkeypatch.setattr(filters, "_libpcap", missing)
    with pytest.raises(FilterError, match="need libpcap"):
        lab.tap("cable0", filter="tcp")
    with lab.tap("cable0", filter=lambda packet: TCP in packet) as sniffer:
        assert len(sniffer.packets()) == 0


def test_what_cannot_be(lab, pair):
    with pytest.raises(LabError, match=r"has no NIC or wire 'em9'; there are alice:em0, bob:em0, cable0"):
        lab.tap("em9")
    with pytest.raises(ValueError, match="a sniffer needs a NIC or a wire"):
        lab.tap()
    with pytest.raises(ValueError, match="'in', 'out' or 'both'"):
        lab.tap("cable0", direction="up")
    with pytest.raises(ValueError, match="cable0 is a wire and has no 'in'; name a NIC at one of its ends"):
        lab.tap("cable0", direction="in")
    with pytest.raises(ValueError, match="cable0 is a wire and has no 'out'"):
        lab.expect("cable0", "icmp", direction="out")
    with pytest.raises(TypeError, match="neither a NIC nor a wire"):
        lab.tap(7)


def test_a_sniffer_follows_its_nic_to_another_host(lab, pair):
    alice, _bob, _ = pair
    em0 = alice.vnet.ifunit("em0")
    carol = lab.host("carol")
    with lab.tap(em0, filter="icmp", direction="out") as sniffer:
        em0.if_vmove(carol.vnet)
        carol.stack.add_address(em0, "192.0.2.1/24")
        carol.vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=em0.if_flags | 1))
        lab.wait_links()
        assert carol.ping("192.0.2.2").received == 1

        assert {each.where for each in sniffer.heard()} == {"carol:em0"}


def test_an_option_that_nobody_knows_is_told(lab):
    lab.pair("192.0.2.1/24", "192.0.2.2/24")
    with pytest.raises(TypeError, match=r"sniff\(\) knows no option 'timout'; it takes chainCC, count, "):
        lab.sniff("alice:em0", timout=0.1)
