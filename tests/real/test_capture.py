"""Captures, read by tshark: what is in the file is what the lab's account says."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import stat
import subprocess
import threading
import time
import weakref
from collections import Counter

import pytest
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapReader

import iflab.capture.capture as capture_module
from iflab.capture import Capture
from iflab.drivers import TapNic
from iflab.drivers.faulty import Vanishing
from iflab.faults import Corrupt, Duplicate, Rate
from iflab.net import IFF
from tests.linux_tools import PATIENCE, eventually, need, open_files, small_disk, without_ipv6


@pytest.fixture(autouse=True)
def tools():
    need("tshark", "tshark")


def tshark(path, *words):
    """What tshark prints; it must have nothing to complain of."""
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), *words], capture_output=True, text=True, timeout=60 * PATIENCE
    )
    complaints = [line for line in done.stderr.splitlines() if "Running as user" not in line]
    assert done.returncode == 0, done.stderr
    assert complaints == []
    return done.stdout


def fields(path, *names, where=""):
    """A row of fields for each frame of the file."""
    words = [word for name in names for word in ("-e", name)]
    out = tshark(path, "-T", "fields", *words, *(("-Y", where) if where else ()))
    return [line.split("\t") for line in out.splitlines()]


def blocks(path):
    """The blocks of a pcapng file as Wireshark's dissector of such files tells them."""
    return tshark(path, "-X", "read_format:MIME Files Format", "-V")


def statistics(path):
    """Frames received and dropped of each interface statistics block, as Wireshark's dissector of such files reads them."""
    out = blocks(path)
    received, dropped = (
        [int(number) for number in re.findall(rf"Number of {word} Packets: (\d+)", out)]
        for word in ("Received", "Dropped")
    )
    return list(zip(received, dropped, strict=True))


def test_it_holds_every_frame_in_order_with_its_interface_and_direction(lab, tmp_path):
    path = tmp_path / "run.pcapng"
    lab.capture(path)
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    assert alice.ping("192.0.2.2", count=20).received == 20
    before = cable.account()  # hosts go on talking by themselves
    macs = {host.vnet.ifunit("em0").lladdr.hex(":"): f"{host.name}:em0" for host in (alice, bob)}
    lab.close()

    rows = fields(
        path,
        "frame.time_epoch",
        "frame.interface_name",
        "frame.packet_flags_direction",
        "eth.src",
        "frame.len",
    )

    after = cable.account()
    assert before.sent <= len(rows) <= after.sent
    assert before.octets <= sum(int(row[4]) for row in rows) <= after.octets
    times = [float(row[0]) for row in rows]
    assert times == sorted(times)
    assert abs(times[-1] - time.time()) < 60
    assert {row[2] for row in rows} == {"0x00000002"}
    assert all(macs[row[3]] == row[1] for row in rows)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_describes_its_interfaces(lab, tmp_path):
    path = tmp_path / "run.pcapng"
    lab.capture(path)
    alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.ping("192.0.2.2")
    lab.close()

    about = subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=True).stdout

    assert "Name = alice:em0" in about
    assert "Description = on cable0" in about
    assert "Time precision = nanoseconds (9)" in about
    assert "Speed = 1000000000" in about
    assert "seed" in about


def test_a_lost_frame_bears_its_cause_and_events_are_comments(lab, tmp_path):
    path = tmp_path / "run.pcapng"
    alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.ping("192.0.2.2")  # both know the other's MAC
    lab.capture(path)
    hook = cable.add_hook(lambda frame: frame.raw[12:14] != b"\x08\x00")
    alice.ping("192.0.2.2", count=3, interval=0.01, timeout=0.5)
    hook.remove()
    cable.cut()
    cable.mend()
    lab.wait_links()
    alice.ping("192.0.2.2")
    lost = dict(cable.account().dropped)
    lab.close()

    comments = [row[0] for row in fields(path, "frame.comment") if row[0]]

    assert lost["hook"] >= 1
    assert sum("lost: hook, on its way to bob:em0" in text for text in comments) == lost["hook"]
    assert any("cable0: cut" in text for text in comments)
    assert any("cable0: mended" in text for text in comments)


def lost_in(path):
    """The causes of losses that frames of a file bear, counted."""
    comments = (row[0] for row in fields(path, "frame.comment"))
    return Counter(found for text in comments for found in re.findall(r"lost: ([a-z ]+), on its way", text))


def test_a_frame_that_a_hook_changed_bears_what_became_of_it(lab, tmp_path, monkeypatch):
    path = tmp_path / "run.pcapng"
    monkeypatch.setattr(capture_module, "PATIENCE", 3600.0)  # what is not known is not written
    one, other = lab.station(name="one"), lab.station(name="other")
    cable = lab.cable(one, other)
    cable.add_hook(
        lambda frame: [frame.raw + b"!", frame.raw + b"?"] if frame.raw[14] == 2 else frame.raw + b"!"
    )
    cable.add_hook(lambda frame: frame.raw[14] != 1)
    capture = lab.capture(path)
    head = bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5))
    for kind in (0, 1, 2, 0):
        one.send(head + bytes([kind]) + bytes(46))
    eventually(lambda: path.stat().st_size > 4 * 100)
    account = cable.account()
    lab.close()

    comments = [row[0] for row in fields(path, "frame.comment")]
    assert comments[0] == comments[3] == "altered by a hook"
    assert comments[1] == "altered by a hook,lost: hook, on its way to other"
    assert comments[2] == "altered by a hook into 2 frames"
    assert lost_in(path) == account.dropped == {"hook": 1}
    assert capture.frames == account.sent == 4
    assert capture.under_way == 0


def test_every_lost_copy_of_a_frame_is_told(lab, tmp_path):
    path = tmp_path / "run.pcapng"
    one, other = lab.station(name="one"), lab.station(name="other")
    cable = lab.cable(one, other)
    cable.impair(Duplicate(1.0), Corrupt(0.5), Rate(1e6 / PATIENCE, burst=1500, frames=3), towards=other)
    capture = lab.capture(path)
    for _ in range(200):
        one.send(bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5)) + bytes(46))
    eventually(lambda: cable.account().in_flight == 0)
    account = cable.account()
    lab.close()

    assert account.added == 200
    assert account.dropped["queue full"] > 0
    assert lost_in(path) == account.dropped
    assert capture.under_way == 0


def test_a_frame_that_a_switch_sends_on_is_told_apart_from_the_one_it_got(lab, tmp_path):
    path = tmp_path / "run.pcapng"
    sw = lab.switch("sw", ports=2)
    one, other = lab.station(name="one"), lab.station(name="other")
    lab.cable(one, sw[0], name="before")
    after = lab.cable(sw[1], other, name="after")
    hook = after.add_hook(lambda frame: frame.raw[12:14] != b"\x88\xb5", towards=other)
    capture = lab.capture(path)
    for _ in range(50):
        one.send(bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5)) + bytes(46))
    hook.remove()
    lab.close()

    rows = fields(path, "frame.interface_description", "frame.comment", where="eth.type == 0x88b5")
    # What else happened, a link that came up, say, is told with the frame behind it.
    fates = [(where, comment if "lost" in comment else "") for where, comment in rows]
    assert Counter(fates) == {
        ("on before", ""): 50,
        ("on after", "lost: hook, on its way to other"): 50,
    }
    assert capture.under_way == 0


def test_a_port_that_sends_the_same_frame_twice(lab, tmp_path):
    path = tmp_path / "run.pcapng"

    class Repeater(TapNic):
        def if_start(self, ifp):
            while (m := ifp.if_snd.dequeue()) is not None:
                self.end.send(m)
                self.end.send(m)

    em0 = lab.host("alice").nic("em0", "192.0.2.1/24", driver=Repeater)
    bob = lab.host("bob").nic("em0", "192.0.2.2/24")
    without_ipv6(*lab.hosts.values())
    capture = lab.capture(path)
    cable = lab.cable(em0, bob, delay=0.02)
    numbers = itertools.count()
    cable.add_hook(lambda frame: next(numbers) % 2 == 1, towards=bob.if_softc)
    lab.hosts["alice"].ping("192.0.2.2", count=3, timeout=0.3)
    eventually(lambda: cable.account().in_flight == 0)
    account = cable.account()
    lab.close()

    assert account.dropped["hook"] > 0
    assert lost_in(path)["hook"] == account.dropped["hook"]
    assert capture.under_way == 0


def test_ends_that_send_nothing_are_in_the_file_and_what_their_nics_turned_away(lab, tmp_path):
    path = tmp_path / "run.pcapng"
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24")
    alice.ifconfig("em0 descr 'to nobody'")
    station = lab.station(em0, name="mute", mac="02:00:00:00:00:99")
    capture = lab.capture(path)
    with lab.lock:
        em0.if_qflush()
        em0.if_drv_flags |= IFF.OACTIVE
        before = em0.if_snd.ifq_drops
        for _ in range(em0.if_snd.ifq_maxlen + 7):
            with contextlib.suppress(OSError):
                em0.if_transmit(
                    bytes(Ether(dst=station.mac, src=em0.lladdr.hex(":"), type=0x88B5)) + bytes(46)
                )
        dropped = em0.if_snd.ifq_drops - before
        em0.if_drv_flags &= ~IFF.OACTIVE
        em0.if_start()
    lab.log("the end")
    capture.close()

    about = blocks(path)
    assert dropped >= 7
    assert f"dropped by the NIC: send queue full {dropped}" in about
    assert "the end" in about  # an event after the last frame is not lost
    info = subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=True).stdout
    assert "Number of interfaces in file: 2" in info
    assert "Name = mute" in info
    assert "Description = on cable0: to nobody" in info
    assert {"02:00:00:00:00:99", em0.lladdr.hex(":")} <= set(
        re.findall(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", about)
    )


def test_plain_pcap_is_read_by_scapy_and_tshark(lab, tmp_path):
    path = tmp_path / "run.pcap"
    lab.capture(path)
    alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.ping("192.0.2.2", count=3)
    lab.close()
    sent = cable.account().sent

    assert len(fields(path, "frame.number")) == sent
    with RawPcapReader(str(path)) as reader:
        assert len(list(reader)) == sent


def test_a_burst_of_100_000_frames_is_in_the_file_to_the_last(lab, tmp_path):
    path = tmp_path / "burst.pcapng"
    one, other = lab.station(name="one"), lab.station(name="other")
    cable = lab.cable(one, other)
    cable.add_hook(lambda frame: frame.raw[14] != 0)
    capture = lab.capture(path)
    frames = [bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5)) + bytes([n]) * 46 for n in range(100)]
    for _ in range(1000):
        with lab.lock:
            for frame in frames:
                one.send(frame)
    account = cable.account()
    lab.close()

    assert capture.frames == account.sent == 100_000
    assert capture.dropped == 0
    assert account.dropped == {"hook": 1000}
    rows = fields(path, "frame.comment")
    assert len(rows) == 100_000
    assert sum("lost: hook" in row[0] for row in rows) == 1000


def test_a_full_queue_and_a_flapping_link_in_100_000_frames(lab, tmp_path):
    """Counts of the file, by cause, are those of the lab's account."""
    path = tmp_path / "flap.pcapng"
    one, other = lab.station(name="one"), lab.station(name="other")
    cable = lab.cable(one, other)
    cable.impair(Rate(2e6 / PATIENCE, burst=1500, frames=50), towards=other)
    capture = lab.capture(path)
    frame = bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5)) + bytes(46)
    for number in range(1000):
        with lab.lock:
            for _ in range(100):
                one.send(frame)
        if number % 100 == 50:
            cable.cut()
        elif number % 100 == 60:
            cable.mend()
    eventually(lambda: cable.account().in_flight == 0, timeout=30)
    account = cable.account()
    lab.close()

    lost = lost_in(path)
    assert capture.frames == account.sent == 100_000
    assert account.dropped["queue full"] > 0
    assert account.dropped["cut"] >= 10_000
    assert lost == account.dropped


def test_what_it_cannot_hold_is_counted_in_the_file(lab, tmp_path, monkeypatch):
    path = tmp_path / "small.pcapng"
    one, other = lab.station(name="one"), lab.station(name="other")
    lab.cable(one, other)
    frame = bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5)) + bytes(46)
    monkeypatch.setattr(capture_module, "BACKLOG", int(50_000 / PATIENCE))
    capture = lab.capture(path)
    with lab.lock:  # the writer gets no frame out meanwhile, or few
        for _ in range(2000):
            one.send(frame)
    lab.close()

    rows = len(fields(path, "frame.number"))
    assert capture.frames == 2000
    assert capture.dropped > 0
    assert rows + capture.dropped == 2000
    assert statistics(path) == [(2000, capture.dropped), (0, 0)]


def test_a_full_disk_ends_the_capture_alone(lab, caplog):
    alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    capture = lab.capture("/dev/full")

    eventually(lambda: capture.error)

    assert alice.ping("192.0.2.2", count=3).received == 3
    assert "the capture /dev/full ends after" in caplog.text
    assert "No space left on device" in caplog.text
    assert cable.account().dropped == {}


def test_what_fitted_on_a_full_disk_can_be_read(lab, tmp_path, caplog):
    one, other = lab.station(name="one"), lab.station(name="other")
    lab.cable(one, other)
    small = tmp_path / "small"
    small.mkdir()
    with small_disk(small, "64k"):
        capture = lab.capture(small / "x.pcapng")
        beside = lab.capture(tmp_path / "y.pcapng")
        for _ in range(3000):
            one.send(bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5)) + bytes(46))
        eventually(lambda: capture.error)
        lab.close()

        assert 100 < len(fields(small / "x.pcapng", "frame.number")) < 3000
        assert len(fields(tmp_path / "y.pcapng", "frame.number")) == beside.frames == 3000
        assert caplog.text.count("No space left on device") == 1


def test_a_nic_that_is_pulled_out_is_not_kept_by_a_capture(lab, tmp_path):
    alice, bob = lab.host("alice"), lab.host("bob")
    em0 = alice.nic("em0", "192.0.2.1/24", driver=Vanishing)
    lab.cable(em0, bob.nic("em0", "192.0.2.2/24"))
    path = tmp_path / "run.pcapng"
    with lab.capture(path) as capture:
        assert alice.ping("192.0.2.2").received == 1
        em0.if_iqdrops += 3
        time.sleep(1)  # it looks four times a second
        em0.if_softc.vanish()
        gone = weakref.ref(em0)
        del em0
        lab.wait_for_closers()
        eventually(lambda: (gc.collect(), gone())[1] is None)
        for number in range(20):  # they may get the place in memory that it had
            nic = alice.nic(f"em{number + 1}", f"10.0.{number}.1/24")
            lab.cable(nic, bob.nic(f"em{number + 1}", f"10.0.{number}.2/24"))
            assert alice.ping(f"10.0.{number}.2").received == 1
        frames = capture.frames

    assert len(fields(path, "frame.number")) == frames
    names = {name for (name,) in fields(path, "frame.interface_name")}
    assert {f"alice:em{number}" for number in range(21)} <= names
    assert b"dropped by the NIC: in queue full 3" in path.read_bytes()


def test_very_long_words_are_cut_and_the_file_is_whole(lab, tmp_path):
    path = tmp_path / "run.pcapng"
    one, other = lab.station(name="one"), lab.station(name="other")
    lab.cable(one, other)
    long = " or ".join(["ether[14] == 0"] * 6000)
    with lab.capture(path, filter=long) as capture:
        lab.log("ä" * 40_000)
        one.send(bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5)) + bytes(46))

    (row,) = fields(path, "frame.comment")
    assert set(row[0].split(" s ")[1]) == {"ä"}
    assert capture.error is None


def test_a_folder_that_is_not_there(lab, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/x\.pcapng"):
        lab.capture(tmp_path / "nowhere" / "x.pcapng")


def test_a_closed_capture_leaves_no_thread_and_no_fd(lab, tmp_path):
    before = open_files(collect=True), threading.active_count()
    capture = Capture(tmp_path / "x.pcapng")
    capture.close()
    capture.close()

    assert (open_files(), threading.active_count()) == before


def test_one_nic_with_a_filter_and_a_snaplen(lab, tmp_path):
    path = tmp_path / "nic.pcapng"
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    with lab.capture(path, "alice:em0", filter="icmp", snaplen=50):
        alice.ping("192.0.2.2", count=3)
        bob.ping("192.0.2.1")

    rows = fields(
        path,
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.cap_len",
        "frame.len",
        "_ws.col.Protocol",
    )
    assert len(rows) == 8
    assert {row[0] for row in rows} == {"alice:em0"}
    assert [row[1] for row in rows] == ["0x00000002", "0x00000001"] * 3 + ["0x00000001", "0x00000002"]
    assert {row[2] for row in rows} == {"50"}
    assert all(int(row[3]) > 50 for row in rows)
    about = subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=True).stdout
    assert "Filter string = icmp" in about
    assert "Capture length = 50" in about


def test_a_whole_capture_leaves_the_super_frames(lab, tmp_path):
    path = tmp_path / "whole.pcapng"
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.run("sysctl -qw net.ipv4.tcp_min_tso_segs=32", check=True)  # or a slow machine sends little at once
    capture = lab.capture(path, whole=True)
    bob.fetch(alice.serve(2_000_000)).wait(30 * PATIENCE)
    capture.close()

    lengths = [int(row[0]) for row in fields(path, "frame.len")]
    assert max(lengths) > 10_000
    assert sum(lengths) > 2_000_000
