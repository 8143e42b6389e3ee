"""scapy's functions, unchanged, on stations: what they are given, what comes back, and what is never asked."""

import fcntl
import os
import resource
import threading
import time

import pytest
from scapy.ansmachine import AnsweringMachine
from scapy.automaton import ATMT, Automaton
from scapy.config import conf
from scapy.layers import l2
from scapy.layers.inet import ICMP, IP, UDP, ICMPEcho_am
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, LLC, ARP_am, Dot3, Ether
from scapy.packet import Raw
from scapy.sendrecv import AsyncSniffer, bridge_and_sniff, sendp, sndrcv, sniff

from iflab.net import ManualClock, mbuf
from iflab.wire import Cable, Segment, Station, WireError

from ..linux_tools import PATIENCE, eventually, open_files
from .ports import Recorder

ONE, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"


@pytest.fixture
def cable():
    return Cable(ManualClock(), "cable0")


@pytest.fixture
def one(cable):
    with Station(cable.clock, "one", mac=ONE, addresses=["192.0.2.1", "2001:db8::1"]) as station:
        yield station.plug(cable)


@pytest.fixture
def other(cable):
    with Station(cable.clock, "other", mac=OTHER, addresses=["192.0.2.2", "2001:db8::2"]) as station:
        yield station.plug(cable)


@pytest.fixture
def echo(cable):
    """A port that answers pings, as a host would."""
    host = Recorder("host")

    def answer(m):
        packet = Ether(m[10:])
        if ICMP in packet and packet[ICMP].type == 8:
            packet.src, packet.dst = packet.dst, packet.src
            packet[IP].src, packet[IP].dst = packet[IP].dst, packet[IP].src
            packet[ICMP].type = 0
            del packet[ICMP].chksum
            host.end.send(mbuf(bytes(packet)))

    host.then = answer
    cable.plug(host)
    return host


@pytest.fixture
def no_machine(monkeypatch):
    """Fail when scapy looks at the machine's interfaces, routes or neighbours, or opens a socket there."""

    def asked(*args, **kwargs):
        pytest.fail(f"the machine's own network was asked: {args}")

    monkeypatch.setattr(conf.route, "route", asked)
    monkeypatch.setattr(conf.route6, "route", asked)
    monkeypatch.setattr(conf.neighbor, "resolve", asked)
    monkeypatch.setattr(l2, "getmacbyip", asked)
    monkeypatch.setattr(l2, "resolve_iface", asked)
    for name in ("L2socket", "L2listen", "L3socket"):
        monkeypatch.setattr(conf, name, asked)


# questions and answers


def test_a_question_that_names_no_address_gets_the_stations(one, other, no_machine):
    reply = one.sr1(Ether() / ARP(pdst="192.0.2.2"), timeout=2 * PATIENCE)

    asked = Ether(other.recv_frame(timeout=PATIENCE))
    assert (asked.src, asked.dst) == (ONE, "ff:ff:ff:ff:ff:ff")
    assert (asked[ARP].hwsrc, asked[ARP].psrc) == (ONE, "192.0.2.1")
    assert reply[ARP].hwsrc == OTHER


def test_ping_above_ip_gets_its_ethernet_header(one, echo, no_machine):
    reply = one.sr1(IP(dst="192.0.2.7") / ICMP(seq=5), timeout=2 * PATIENCE)

    assert (reply[IP].src, reply[IP].dst, reply[ICMP].seq) == ("192.0.2.7", "192.0.2.1", 5)


def test_srp_expands_a_set_of_addresses(one, other, no_machine):
    answered, unanswered = one.srp(Ether() / ARP(pdst="192.0.2.0/30"), timeout=0.1 * PATIENCE)

    assert [(q[ARP].pdst, a[ARP].psrc) for q, a in answered] == [("192.0.2.2", "192.0.2.2")]
    assert [q[ARP].pdst for q in unanswered] == ["192.0.2.0", "192.0.2.1", "192.0.2.3"]


def test_srp1_and_the_threaded_way_answer_too(one, echo, no_machine):
    ping = Ether(dst=OTHER) / IP(dst="192.0.2.7") / ICMP(id=3)

    assert one.srp1(ping, timeout=2 * PATIENCE)[ICMP].id == 3
    assert len(one.sr([ping, ping / b"x"], timeout=2 * PATIENCE, threaded=True)[0]) == 2


def test_many_questions_are_all_answered(one, echo):
    pings = [Ether(dst=OTHER) / IP(dst="192.0.2.7") / ICMP(id=1, seq=n) for n in range(200)]

    answered, unanswered = one.srp(pings, timeout=5 * PATIENCE)

    assert (len(answered), len(unanswered)) == (200, 0)
    assert all(q[ICMP].seq == a[ICMP].seq for q, a in answered)


def test_an_answer_is_not_older_than_its_question(one, echo):
    stale = Ether(src=OTHER, dst=ONE) / IP(src="192.0.2.7", dst="192.0.2.1") / ICMP(type=0) / b"stale"
    echo.end.send(mbuf(bytes(stale)))

    reply = one.sr1(Ether(dst=OTHER) / IP(dst="192.0.2.7") / ICMP() / b"fresh", timeout=2 * PATIENCE)

    assert reply[Raw].load == b"fresh"


def test_an_answer_has_its_times(one, echo):
    before = time.time()
    ping = Ether(src=ONE, dst=OTHER) / IP(src="192.0.2.1", dst="192.0.2.7") / ICMP()

    answered, _ = sndrcv(one, ping, timeout=2 * PATIENCE, verbose=0)

    question, answer = answered[0]
    assert before <= question.sent_time <= answer.time <= time.time()


def test_a_question_from_nowhere_is_an_error_and_not_silence(cable):
    with Station(cable.clock, "lonely") as lonely:
        with pytest.raises(WireError, match=r"lonely is not plugged into a wire; plug it in"):
            lonely.sr1(Ether() / ARP(pdst="192.0.2.2"), timeout=1)
        with pytest.raises(TypeError, match="iface"):
            lonely.sr1(Ether() / ARP(pdst="192.0.2.2"), timeout=1, iface="eth0")


@pytest.mark.parametrize("question", [bytes(60), "text", 5, None, [Ether(), bytes(60)]])
def test_a_question_that_is_no_packet_is_refused_at_the_door(one, other, question):
    with pytest.raises(
        TypeError, match=r"one: a question is a scapy packet, such as Ether\(octets\), or a list"
    ):
        one.sr1(question, timeout=1)

    assert (one.sent, other.received) == (0, 0)


def test_questions_may_come_from_anything_that_has_packets(one, other):
    answered, _ = one.sr((Ether() / ARP(pdst=f"192.0.2.{n}") for n in (2, 3)), timeout=0.1 * PATIENCE)

    assert [question[ARP].pdst for question, _ in answered] == ["192.0.2.2"]


def test_scapy_prints_nothing_and_keeps_its_settings(one, echo, capfd):
    before = conf.verb

    one.sr1(Ether(dst=OTHER) / IP(dst="192.0.2.7") / ICMP(), timeout=2 * PATIENCE)
    one.sniff(timeout=0.01)

    assert capfd.readouterr() == ("", "")
    assert conf.verb == before != 0


# sending


def test_send_returns_the_octets_of_the_frame_and_counts(one, other):
    assert one.send(bytes(60)) == 60
    assert one.send(Ether() / IP(dst="192.0.2.2")) == 34

    assert (one.sent, other.received) == (2, 2)


def test_frames_that_name_their_addresses_go_as_they_are(one, other):
    frame = Dot3(src="02:00:00:00:00:77", dst="01:80:c2:00:00:00") / LLC() / b"x"

    one.send(frame)
    one.send(Raw(bytes(frame)))
    one.send(memoryview(bytes(frame)))

    assert [other.recv_frame(PATIENCE) for _ in range(3)] == [bytes(frame)] * 3


def test_scapys_sendp_takes_a_station(one, other):
    sendp(
        [Ether(src=ONE, dst=OTHER) / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=n) for n in (1, 2)],
        socket=one,
        verbose=0,
    )

    assert [p[UDP].sport for p in other.sniff(count=2, timeout=2 * PATIENCE)] == [1, 2]


@pytest.mark.parametrize(
    ("frame", "error", "text"),
    [
        (b"", ValueError, "a frame has 14 to 65553 octets, Ethernet header included; this one has 0"),
        (bytes(65554), ValueError, "this one has 65554"),
        (60, TypeError, "one: a frame is bytes or a scapy packet, not int"),
        ("text", TypeError, "not str"),
        ([Ether()], TypeError, "not list"),
        (None, TypeError, "not NoneType"),
    ],
)
def test_what_is_no_frame_is_refused_at_the_door(one, other, frame, error, text):
    with pytest.raises(error, match=text):
        one.send(frame)

    assert (one.sent, other.received) == (0, 0)


# sniffing


def test_sniff_has_scapys_signature(one, other):
    for n in range(6):
        one.send(Ether(dst=OTHER) / IP(dst="192.0.2.2") / UDP(dport=n))
    printed = []

    packets = sniff(
        opened_socket={other: "the other"},
        lfilter=lambda p: p[UDP].dport % 2,
        stop_filter=lambda p: p[UDP].dport == 3,
        prn=lambda p: printed.append(p[UDP].dport),
        timeout=2 * PATIENCE,
    )

    assert [p[UDP].dport for p in packets] == printed == [1, 3]
    assert {p.sniffed_on for p in packets} == {"the other"}


def test_one_sniffer_hears_several_stations(cable):
    hub = Segment(cable.clock, "hub0")
    stations = [Station(cable.clock, f"s{n}", mac=f"02:00:00:00:00:0{n}").plug(hub) for n in range(3)]

    stations[0].send(bytes(60))
    packets = sniff(opened_socket=stations[1:], count=2, timeout=2 * PATIENCE)

    assert sorted(p.sniffed_on for p in packets) == ["socket0", "socket1"]
    for station in stations:
        station.close()


def test_an_async_sniffer_starts_and_stops(one, other):
    started, heard = threading.Event(), threading.Event()
    sniffer = other.async_sniffer(
        started_callback=started.set, prn=lambda p: heard.set() if p[UDP].dport == 2 else None
    )
    sniffer.start()
    assert started.wait(5 * PATIENCE)
    for n in (1, 2):
        one.send(Ether(dst=OTHER) / IP(dst="192.0.2.2") / UDP(dport=n))
    assert heard.wait(5 * PATIENCE)

    packets = sniffer.stop()

    assert [p[UDP].dport for p in packets] == [1, 2]
    assert not other.closed


def test_what_scapy_would_ignore_is_refused(one):
    with pytest.raises(WireError, match=r"one: filter='arp' has no effect on a station; use lfilter"):
        one.sniff(filter="arp", timeout=0.1)
    with pytest.raises(WireError, match="iface='eth0' has no effect"):
        one.async_sniffer(iface="eth0")


def test_a_malformed_frame_is_sniffed_all_the_same(one, other):
    octets = bytes.fromhex("02000000000202000000000108060001")

    one.send(octets)

    packet = other.sniff(count=1, timeout=2 * PATIENCE)[0]
    assert bytes(packet) == octets


# answering machines, automata, bridges


def test_an_answering_machine_in_the_background(one, other, no_machine):
    class Echo(AnsweringMachine):
        def is_request(self, request):
            return UDP in request and request[UDP].dport == 7

        def make_reply(self, request):
            ip, udp = request[IP], request[UDP]
            return (
                Ether(src=OTHER, dst=request.src)
                / IP(src=ip.dst, dst=ip.src)
                / UDP(sport=udp.dport, dport=udp.sport)
                / udp.payload
            )

    machine = other.answering_machine(Echo)
    reply = one.sr1(
        Ether(dst=OTHER) / IP(dst="192.0.2.2") / UDP(sport=1, dport=7) / b"echo", timeout=5 * PATIENCE
    )
    machine.sniffer.stop()

    assert reply[Raw].load == b"echo"


def test_scapys_own_answering_machines(one, other):
    other.addresses = ()
    arp = other.answering_machine(ARP_am, IP_addr="192.0.2.50", ARP_addr=OTHER)
    assert one.sr1(Ether() / ARP(pdst="192.0.2.50"), timeout=5 * PATIENCE)[ARP].hwsrc == OTHER
    arp.sniffer.stop()

    ping = other.answering_machine(ICMPEcho_am)
    assert one.sr1(Ether(dst=OTHER) / IP(dst="192.0.2.50") / ICMP(), timeout=5 * PATIENCE)[ICMP].type == 0
    ping.sniffer.stop()


def test_an_automaton_talks_through_a_station(one, echo):
    class Pinger(Automaton):
        def master_filter(self, packet):
            return ICMP in packet

        @ATMT.state(initial=1)
        def BEGIN(self):
            self.send(Ether(src=ONE, dst=OTHER) / IP(src="192.0.2.1", dst="192.0.2.7") / ICMP(id=9))

        @ATMT.receive_condition(BEGIN)
        def answered(self, packet):
            raise self.END(packet[ICMP].id)

        @ATMT.state(final=1)
        def END(self, number):
            return number

    assert Pinger(sock=one).run() == 9
    eventually(lambda: one.closed)  # as scapy does with the socket of an automaton


def test_scapys_bridge_joins_two_wires(cable, one, other):
    second = Cable(cable.clock, "cable1")
    left = Station(cable.clock, "left", mac="02:00:00:00:00:0a").plug(second)
    far = Station(cable.clock, "far", mac="02:00:00:00:00:0b").plug(second)
    one.send(bytes(59) + b"\x01")

    bridge_and_sniff(other, left, count=1, timeout=5 * PATIENCE, store=False)

    assert far.recv_frame(timeout=PATIENCE) == bytes(59) + b"\x01"
    left.close()
    far.close()


# addresses


@pytest.mark.parametrize("source", ["192.0.2.1", "0.0.0.0"])
def test_arp_is_answered_and_heard(one, other, source):
    one.send(Ether() / ARP(pdst="192.0.2.2", psrc=source))

    answer = Ether(one.recv_frame(timeout=PATIENCE))
    assert (answer.dst, answer[ARP].hwsrc, answer[ARP].psrc, answer[ARP].pdst) == (
        *(ONE, OTHER, "192.0.2.2", source),
    )
    assert Ether(other.recv_frame(timeout=PATIENCE))[ARP].op == 1


def test_a_solicitation_is_answered_to_who_asked(one, other):
    one.send(
        Ether() / IPv6(dst="ff02::1:ff00:2", src="2001:db8::1", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::2")
    )

    answer = Ether(one.recv_frame(timeout=PATIENCE))
    assert (answer.dst, answer[IPv6].dst, answer[ICMPv6ND_NA].S) == (ONE, "2001:db8::1", 1)
    checked = Ether(bytes(answer))
    del checked[ICMPv6ND_NA].cksum
    assert Ether(bytes(checked))[ICMPv6ND_NA].cksum == answer[ICMPv6ND_NA].cksum


def test_who_wants_the_address_for_itself_learns_that_it_is_taken(one, other):
    """Duplicate address detection asks from ::, and the answer goes to all (RFC 4861, 7.2.4)."""
    one.send(Ether() / IPv6(dst="ff02::1:ff00:2", src="::", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::2"))

    answer = Ether(one.recv_frame(timeout=PATIENCE))
    assert (answer.dst, answer[IPv6].dst, answer[ICMPv6ND_NA].S) == ("33:33:00:00:00:01", "ff02::1", 0)


@pytest.mark.parametrize(
    "question",
    [
        Ether() / ARP(pdst="192.0.2.3"),
        Ether() / ARP(op=2, pdst="192.0.2.2"),
        Ether() / IPv6(src="2001:db8::1", dst="ff02::1", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::3"),
        Ether() / IPv6(src="2001:db8::1", dst="ff02::1", hlim=64) / ICMPv6ND_NS(tgt="2001:db8::2"),
        bytes(12) + b"\x08\x06" + b"\xff" * 30,
        bytes(12) + b"\x08\x06",
        bytes(12) + bytes.fromhex("08060001080006040001") + bytes(5),
        bytes(12) + b"\x86\xdd" + bytes(6) + b"\x3a\xff" + bytes(32) + b"\x87\x00",
    ],
    ids=["other", "reply", "other v6", "routed", "garbage", "empty", "cut", "cut v6"],
)
def test_what_is_not_for_us_or_no_question_is_heard_and_not_answered(one, other, question, caplog):
    one.send(question)

    assert one.recv_frame(timeout=0) is None
    assert other.recv_frame(timeout=0) is not None
    assert caplog.text == ""


def test_a_station_is_no_host(one, other):
    assert one.sr1(Ether(dst=OTHER) / IPv6(dst="2001:db8::2") / ICMPv6EchoRequest(), timeout=0.05) is None
    assert ICMPv6EchoReply not in Ether(other.recv_frame(0))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mac": "nonsense"}, "'nonsense' is no MAC address of a station; write six octets"),
        ({"mac": "01:00:5e:00:00:01"}, "is no MAC address of a station"),
        ({"addresses": ["192.0.2.300"]}, "'192.0.2.300' is no IP address; write one without prefix length"),
        ({"addresses": ["192.0.2.9/24"]}, "'192.0.2.9/24' is no IP address"),
    ],
)
def test_bad_addresses_are_refused_and_leave_nothing_open(options, text):
    fds = open_files(collect=True)

    with pytest.raises(WireError, match=f"^s: .*{text}"):
        Station(ManualClock(), "s", **options)

    assert open_files() == fds


def test_a_single_address_needs_no_list(cable):
    with Station(cable.clock, "s", addresses="2001:DB8:0::9") as station:
        assert station.addresses == ("2001:db8::9",)


# the socket itself


def test_a_full_ring_keeps_the_oldest_and_counts_the_rest(cable, one):
    with Station(cable.clock, "slow", limit=2).plug(cable) as slow:
        for n in range(5):
            one.send(bytes(59) + bytes([n]))

        assert [slow.recv_frame(0)[-1] for _ in range(2)] == [0, 1]
        assert slow.recv_frame(0) is None
        assert (slow.received, slow.dropped) == (5, 3)


def test_a_frame_with_work_left_over_does_not_reach_python(cable, one):
    port = Recorder("nic")
    cable.plug(port)

    port.end.send(b"\x01" + bytes(9) + bytes(60))

    assert one.recv_frame(0) is None
    assert one.dropped == 1


def test_reading_nothing_is_an_answer(one):
    assert one.recv() is None
    assert one.recv_raw() == (None, None, None)
    assert one.recv_frame(timeout=0.01) is None


def test_the_descriptor_is_readable_exactly_while_frames_wait(one, other):
    assert Station.select([other], 0) == []

    one.send(bytes(60))
    one.send(bytes(60))
    assert Station.select([one, other], 0) == [other]
    assert other.flush() == 2

    assert Station.select([other], 0) == []


def test_descriptors_above_1023_work(cable, one):
    """select(2) knows none of them; a lab of a thousand hosts has them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("no descriptor above 1,023 may be opened here (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    with Station(cable.clock, "high").plug(cable) as high:
        low, high._ready = high._ready, fcntl.fcntl(high._ready, fcntl.F_DUPFD_CLOEXEC, 1100)
        os.close(low)

        one.send(bytes(60))

        assert high.fileno() >= 1100
        assert len(high.sniff(count=1, timeout=2 * PATIENCE)) == 1
        assert high.recv_frame(timeout=0.01) is None
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_closing_ends_a_sniffer_in_another_thread(cable, one):
    fds = open_files(collect=True)
    station = Station(cable.clock, "closing").plug(cable)
    started = threading.Event()
    sniffer = AsyncSniffer(opened_socket=station, started_callback=started.set)
    sniffer.start()
    assert started.wait(5 * PATIENCE)
    one.send(bytes(60))

    station.close()
    sniffer.join(timeout=5 * PATIENCE)

    assert not sniffer.thread.is_alive()
    assert len(sniffer.results) == 1  # what was there is read first
    assert station.fileno() == -1
    assert open_files() == fds


def test_a_closed_station_is_unplugged_for_good(cable, one):
    station = Station(cable.clock, "closed").plug(cable)
    station.close()
    station.close()

    assert station.end is None
    assert one.end.up is False
    assert station.recv_frame(timeout=5) is None
    with pytest.raises(EOFError, match="closed is closed"):
        station.recv()
    for act in (lambda: station.send(bytes(60)), lambda: station.plug(cable)):
        with pytest.raises(WireError, match="closed is closed; make another"):
            act()


def test_a_forgotten_station_leaves_no_descriptor():
    fds = open_files(collect=True)

    Station(ManualClock(), "forgotten")

    assert open_files() == fds


def test_threads_send_and_read_at_once(cable, one, other):
    """Four threads send, three read: each frame is read once."""
    total, each = 4 * 200, 200
    seen: list[bytes] = []
    done = threading.Event()

    def send(who):
        for n in range(each):
            one.send(bytes(12) + b"\x88\xb5" + bytes([who, n]))

    def read():
        while not done.is_set():
            frame = other.recv_frame(timeout=0.05)
            if frame is not None:
                seen.append(frame[14:])
                if len(seen) == total:
                    done.set()

    threads = [threading.Thread(target=send, args=(who,)) for who in range(4)]
    threads += [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    finished = done.wait(20 * PATIENCE)
    done.set()
    for thread in threads:
        thread.join(5 * PATIENCE)

    assert finished
    assert len(set(seen)) == len(seen) == total
    assert cable.account().delivered == total


def test_the_room_brings_scapy_only_with_the_station():
    import subprocess
    import sys

    program = (
        "import sys, iflab.wire; print('scapy' in sys.modules); iflab.wire.Station; "
        "print('scapy' in sys.modules, 'scapy.all' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True", "False"]
    import iflab.wire

    with pytest.raises(AttributeError, match="no attribute 'Stations'"):
        _ = iflab.wire.Stations
