"""Offloads on the real kernel: what crosses a cable whole, and who sees frames finished."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import subprocess
import threading

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from iflab.net import IFCAP, frame_of, mbuf
from tests.linux_tools import PATIENCE, kernel_has, need

ONE, OTHER = ("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2")
OCTETS = 2_000_000
UDP_SEGMENT = 103
WHOLE = 10_000 if PATIENCE == 1 else 2000
"""No frame of wire size is as long; a slow host's TCP sends smaller super-frames, by its own pacing."""
SOL_PACKET, PACKET_VNET_HDR = 263, 15


@pytest.fixture
def pair(lab):
    return lab.pair(*([f"{v4}/24", f"{v6}/64"] for v4, v6 in (ONE, OTHER)))


def ears(cable, whole=True):
    """Lengths of all frames of 100 octets and more that are put on the cable; and the frames."""
    heard: list[bytes] = []
    cable.add_tap(lambda end, m: heard.append(m), whole=whole)
    return heard


def upload(alice, bob, version=4, octets=OCTETS):
    """A TCP transfer between two programs' sockets; returns what arrived."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = OTHER[version == 6]
    with bob.socket(family, socket.SOCK_STREAM) as server, alice.socket(family, socket.SOCK_STREAM) as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, 5001))
        server.listen()
        sent = bytes(range(256)) * (octets // 256)
        got = bytearray()

        def receive():
            accepted, _ = server.accept()
            with accepted:
                while piece := accepted.recv(1 << 20):
                    got.extend(piece)

        thread = threading.Thread(target=receive)
        thread.start()
        client.settimeout(20 * PATIENCE)
        client.connect((address, 5001))
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        thread.join(20 * PATIENCE)
        assert bytes(got) == sent


def send_train(client, datagrams, address):
    """Send datagrams of one size in one call, or as a program does where Linux refuses that."""
    client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(datagrams[0]))
    try:
        client.sendto(b"".join(datagrams), address)
    except OSError as error:
        if error.errno != errno.EIO or kernel_has("UDP_SEGMENT anywhere"):
            raise
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        for datagram in datagrams:
            client.sendto(datagram, address)


def segments(alice, bob, size=1000, count=8, version=4):
    """One send of ``count`` UDP segments with the kernel's UDP_SEGMENT; the datagrams that bob's program gets."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = OTHER[version == 6]
    with bob.socket(family, socket.SOCK_DGRAM) as server, alice.socket(family, socket.SOCK_DGRAM) as client:
        server.bind((address, 5002))
        server.settimeout(5 * PATIENCE)
        send_train(client, [bytes([number]) * size for number in range(count)], (address, 5002))
        got = [server.recv(65536) for _ in range(count)]
    assert sorted(got) == [bytes([number]) * size for number in range(count)]


def recomputed(octets):
    """The frame as scapy builds it with all lengths and checksums left to it."""
    packet = Ether(octets)
    for layer in packet.iterpayloads():
        for name in ("len", "plen", "chksum"):
            if name in layer.fields:
                layer.delfieldval(name)
    return bytes(packet)


def assert_finished(frames, version=4):
    assert frames
    assert max(map(len, frames)) <= 1514
    for octets in [f for f in frames if len(f) > 1000][:50]:
        again = recomputed(octets)
        if again != octets:  # the kernel writes a checksum of zero as 0xffff, which means the same
            assert b"\x00\x00" in again
            assert [a for a, b in zip(again, octets, strict=True) if a != b] == [0, 0]


@pytest.mark.parametrize("version", [4, 6])
def test_super_frames_cross_a_plain_cable_whole(pair, version):
    alice, bob, cable = pair
    heard = ears(cable)

    upload(alice, bob, version)

    assert max(map(len, heard)) > WHOLE
    assert cable.account().octets > OCTETS
    assert cable.account().sent < OCTETS / 1500  # most of it went in large frames
    assert cable.account().dropped == {}


def test_the_kernel_of_the_receiver_gets_them_whole(pair):
    need("tcpdump", "tcpdump")
    alice, bob, _ = pair
    words = ["tcpdump", "-Z", "root", "-c", "20", "-nn", "-i", "em0", "tcp and greater 4000"]
    watch = bob.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert any("listening on em0" in line for line in watch.stderr)

    upload(alice, bob)

    assert "20 packets captured" in watch.communicate(timeout=10 * PATIENCE)[1]


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_train_crosses_whole(pair, version):
    alice, bob, cable = pair
    heard = ears(cable)

    segments(alice, bob, version=version)

    if kernel_has("offload USO"):
        assert max(map(len, heard)) > 8000
    else:  # the host cut it itself
        assert sum(len(m) > 1000 for m in heard) == 8


@pytest.mark.parametrize("version", [4, 6])
def test_a_hook_sees_finished_frames_of_tcp_and_udp(lab, pair, version):
    alice, bob, cable = pair
    seen: list[bytes] = []
    with lab.lock:
        before = cable.account().octets
        cable.add_hook(lambda frame: seen.append(frame.raw))

    upload(alice, bob, version)
    segments(alice, bob, version=version)

    with lab.lock:  # one moment: IPv6 speaks unasked
        octets, counted = sum(map(len, seen)), cable.account().octets - before
    assert octets == counted
    assert_finished(seen)
    assert sum(1 for octets in seen if UDP in Ether(octets) and len(octets) > 1000) == 8


def test_a_capture_that_asks_for_it_sees_finished_frames(pair):
    alice, bob, cable = pair
    heard = ears(cable, whole=False)

    upload(alice, bob)
    segments(alice, bob)

    assert_finished([frame_of(m) for m in heard])


def test_when_the_listener_is_gone_frames_are_whole_again(pair):
    alice, bob, cable = pair
    tap = cable.add_tap(lambda end, m: None, whole=False)
    assert "tcp-segmentation-offload: off" in features(alice)

    tap.remove()

    assert "tcp-segmentation-offload: on" in features(alice)
    heard = ears(cable)
    upload(alice, bob)
    assert max(map(len, heard)) > WHOLE


def features(host):
    need("ethtool", "ethtool")
    return host.run(["ethtool", "-k", "em0"], check=True).stdout


@pytest.mark.parametrize(
    ("command", "feature", "bits"),
    [
        ("-tso4", "tx-tcp-segmentation: off", IFCAP.TSO4),
        ("-tso6", "tx-tcp6-segmentation: off", IFCAP.TSO6),
        ("-txcsum -txcsum6", "tx-checksumming: off", IFCAP.TXCSUM),
    ],
)
def test_a_capability_switched_off_is_off_in_the_kernel(pair, command, feature, bits):
    alice, bob, _cable = pair
    em0 = alice.vnet.ifunit("em0")
    before = features(alice)
    assert feature not in before
    assert em0.if_capenable & bits

    alice.ifconfig(f"em0 {command}")

    assert not em0.if_capenable & bits
    assert feature in features(alice)
    upload(alice, bob)
    alice.ifconfig("em0 " + command.replace("-", "") + " tso4 tso6")  # no TSO without checksums: it went too
    assert features(alice) == before


@pytest.mark.parametrize(
    ("switch", "names"),
    [
        ("tso", "TSO4 TSO6"),
        ("tx-tcp6-segmentation", "TSO6"),
        ("tx", "TXCSUM TXCSUM_IPV6 TSO4 TSO6"),  # no TSO without checksums
        ("sg", "TSO4 TSO6"),
    ],
)
def test_what_ethtool_switches_in_the_host_is_so_in_the_ifnet(pair, tmp_path, lab, switch, names):
    alice, _, _ = pair
    need("ethtool", "ethtool")

    def options():
        (line,) = [line for line in alice.ifconfig("em0").splitlines() if line.startswith("\toptions=")]
        return set(line.partition("<")[2].rstrip(">").split(","))

    def switched_off():
        shown = alice.run(["ethtool", "-k", "em0"], check=True).stdout
        names = ("tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation")
        return {name for name in names if f"{name}: off" in shown}

    before = options()
    alice.run(["ethtool", "-K", "em0", switch, "off"], check=True)
    off = switched_off()
    assert options() == before - set(names.split())
    alice.run(["ethtool", "-K", "em0", switch, "on"], check=True)
    assert options() == before
    assert switched_off() == set()

    alice.run(["ethtool", "-K", "em0", switch, "off"], check=True)
    with lab.capture(tmp_path / "x.pcapng", whole=False):
        assert len(switched_off()) == 3  # nothing is left undone meanwhile
    assert switched_off() == off != set()
    alice.run(["ethtool", "-K", "em0", switch, "on"])  # refused where the NIC is not to do it any more
    alice.ifconfig("em0 txcsum txcsum6 tso4 tso6")
    assert switched_off() == set()
    assert options() == before


def test_what_ethtool_switches_off_stays_off_when_the_cable_is_another(lab, pair):
    alice, bob, cable = pair
    need("ethtool", "ethtool")
    alice.run(["ethtool", "-K", "em0", "tso", "off"], check=True)
    cable.close()
    other = lab.cable(alice.nics["em0"], bob.nics["em0"])
    lab.wait_ready()
    heard = ears(other)

    upload(alice, bob)

    assert not alice.nics["em0"].if_capenable & (IFCAP.TSO4 | IFCAP.TSO6)
    assert max(map(len, heard)) <= len(mbuf(bytes(1514)))


def test_without_tso_frames_are_wire_sized(pair):
    alice, bob, cable = pair
    alice.ifconfig("em0 -tso4 -tso6")
    heard = ears(cable)

    upload(alice, bob)

    assert max(map(len, heard)) <= len(mbuf(bytes(1514)))


@pytest.mark.parametrize("command", ["-lro", "-rxcsum -rxcsum6"])
def test_a_receiver_without_the_capability_gets_what_it_can_take(pair, command):
    alice, bob, cable = pair
    bob.ifconfig(f"em0 {command}")
    heard = ears(cable)

    upload(alice, bob)
    segments(alice, bob)

    towards_bob = [frame_of(m) for m in heard if frame_of(m)[:6] == bob.vnet.ifunit("em0").lladdr]
    assert max(map(len, towards_bob)) <= 1514
    if "rxcsum" in command:
        assert_finished(towards_bob)


def test_a_receiver_with_a_smaller_mtu_gets_no_super_frames(pair):
    alice, bob, cable = pair
    bob.ifconfig("em0 mtu 1000")
    heard = ears(cable)

    upload(alice, bob, octets=200_000)

    towards_bob = [len(frame_of(m)) for m in heard if frame_of(m)[:6] == bob.vnet.ifunit("em0").lladdr]
    assert max(towards_bob) <= 1014


def test_a_station_gets_finished_frames(lab):
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24")
    station = lab.station(em0, addresses=["192.0.2.9"])
    alice.run(["ip", "neigh", "add", "192.0.2.9", "lladdr", station.mac, "dev", "em0"], check=True)
    with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        send_train(client, [bytes(1000)] * 4, ("192.0.2.9", 9))
        got = []
        while len(got) < 4:
            octets = station.recv_frame(timeout=2 * PATIENCE)
            assert octets is not None
            if UDP in Ether(octets):
                got.append(octets)

    assert_finished(got)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_tagged_super_frame_is_cut_for_who_must_see_its_pieces(lab, protocol):
    """As a driver of 802.1Q above would send it: through a packet socket that gives the virtio header."""
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24")
    station = lab.station(em0)
    layer = TCP(sport=1, dport=2, flags="A") if protocol == "tcp" else UDP(sport=1, dport=2)
    head = (
        Ether(dst=station.mac, src=em0.lladdr.hex(":")) / Dot1Q(vlan=7) / IP(src="10.7.0.1", dst="10.7.0.2")
    )
    start = len(head)
    frame = bytearray(bytes(head / layer / Raw(bytes(3000))))
    offset = 16 if protocol == "tcp" else 6
    length = len(frame) - start
    pseudo = 0x0A07 * 2 + 0x0001 + 0x0002 + (6 if protocol == "tcp" else 17) + length
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    frame[start + offset : start + offset + 2] = struct.pack("!H", pseudo)
    kind = 1 if protocol == "tcp" else 5
    virtio = struct.pack("=BBHHHH", 1, kind, start + (20 if protocol == "tcp" else 8), 1000, start, offset)
    with alice.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.bind(("em0", 0))
        if protocol == "udp" and not kernel_has("offload USO"):  # Linux takes no header that it never gives
            with pytest.raises(OSError, match="Invalid argument"):
                raw.send(virtio + frame)
            return
        raw.send(virtio + frame)

    got = []
    while len(got) < 3:
        octets = station.recv_frame(timeout=2 * PATIENCE)
        assert octets is not None
        if Dot1Q in Ether(octets):
            got.append(octets)
    assert [len(octets) for octets in got] == [1000 + start + (20 if protocol == "tcp" else 8)] * 3
    assert_finished(got)


def test_changing_everything_under_traffic_loses_no_octet(lab, pair):
    """Offloads, listeners and hooks come and go while a program transfers."""
    alice, bob, cable = pair
    stop = threading.Event()

    def unrest():
        tap = None
        while not stop.wait(0.02):
            with contextlib.ExitStack() as undo:
                hook = cable.add_hook(lambda frame: None if frame.raw else False)
                undo.callback(hook.remove)
                tap = cable.add_tap(lambda end, m: None, whole=False)
                undo.callback(tap.remove)
                bob.ifconfig("em0 -lro")
                stop.wait(0.02)
            bob.ifconfig("em0 lro")

    thread = threading.Thread(target=unrest)
    thread.start()
    try:
        for _ in range(10):
            upload(alice, bob, octets=4_000_000)
    finally:
        stop.set()
        thread.join()
    account = cable.account()
    assert account.balances()
    assert account.dropped == {}
