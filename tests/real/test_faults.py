"""Faults seen by real kernels: what ping, TCP and ``ip`` make of them."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import re
import socket
import statistics
import struct
import subprocess
import threading
import time

import pytest

from iflab import Lab, LabError
from iflab.drivers.faulty import (
    ChangingMac,
    FailingIoctl,
    FlappingLink,
    LeakyFilter,
    LosesInterrupts,
    StallingStart,
    Vanishing,
)
from iflab.faults import (
    Corrupt,
    Cut,
    Delay,
    Duplicate,
    Every,
    FaultError,
    GilbertElliott,
    LoseEvery,
    Loss,
    Mtu,
    Rate,
    Record,
    Reorder,
    Truncate,
)
from iflab.net import Ifreq
from iflab.net.altq import CoDel, FqCoDel, TokenBucketRegulator, altq_forgo, altq_use

from ..linux_tools import PATIENCE, eventually, kernel_flags, link, without_ipv6
from .test_cli import IFLAB

A, B = "192.0.2.1/24", "192.0.2.2/24"
BOB = "192.0.2.2"


def put_on_the_wire(host, frames):
    return host.nics["em0"].if_softc.end.flow.sent >= frames


def datagrams(alice, bob, count, size=100, gap=0.0):
    """Send numbered datagrams from alice to bob; the numbers that arrived, in their order."""
    got = []
    receiver = bob.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind((BOB, 9999))
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    receiver.settimeout(3.0 * PATIENCE)

    def receive():
        with contextlib.suppress(TimeoutError):
            while True:
                got.append(struct.unpack(">I", receiver.recv(65536)[:4])[0])

    thread = threading.Thread(target=receive)
    thread.start()
    before = alice.nics["em0"].if_softc.end.flow.sent
    with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, receiver:
        for number in range(1, count + 1):
            sender.sendto(struct.pack(">I", number).ljust(size, b"\0"), (BOB, 9999))
            if gap:
                time.sleep(gap)
            if number % 50 == 0:  # the queue of a TAP holds 1,000
                eventually(functools.partial(put_on_the_wire, alice, before + number), timeout=30)
        thread.join()
    return got


# cables


def test_losses_are_counted_exactly_where_a_kernel_loses_them(lab):
    alice, bob, cable = lab.pair(A, B)
    without_ipv6(alice, bob)
    assert alice.ping(BOB).received == 1
    cable.impair(Loss(0.2), towards=bob.nics["em0"])

    got = datagrams(alice, bob, 2000)

    with lab.lock:
        account = cable.account()
        lost = lab.faults.counts["cable0", "alice:em0", "bob:em0"]["loss"]
    assert account.balances()
    assert abs(len(got) - 1600) < 5 * math.sqrt(2000 * 0.2 * 0.8)
    assert lost == account.dropped["loss"]
    assert 0 <= lost - (2000 - len(got)) <= 5  # ARP may lose as well


def test_a_delay_is_in_every_round_trip(lab):
    alice, bob, cable = lab.pair(A, B)
    alice.ping(BOB)
    cable.impair(Delay(0.02), towards=bob.nics["em0"])
    cable.impair(Delay(0.03), towards=alice.nics["em0"])

    rtts = alice.ping(BOB, 10, interval=0.01).rtts

    assert 0.05 <= min(rtts) < 0.05 + 0.01 * PATIENCE  # the others may wait for a busy machine


def test_every_second_ping_is_lost(lab):
    alice, bob, cable = lab.pair(A, B)
    alice.ping(BOB)
    alice.run("ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev em0 nud permanent", check=True)
    cable.impair(LoseEvery(2), towards=bob.nics["em0"])

    assert alice.ping(BOB, 10, timeout=0.1 * PATIENCE, interval=0.01).received in (
        4,
        5,
        6,
    )  # Linux talks unasked


def test_duplicates_reach_the_kernel(lab):
    alice, bob, cable = lab.pair(A, B)
    alice.ping(BOB)
    cable.impair(Duplicate(1.0), towards=bob.nics["em0"])

    got = datagrams(alice, bob, 100)

    assert got == [number for number in range(1, 101) for _ in range(2)]


def test_reordering_reaches_the_kernel_and_loses_nothing(lab):
    alice, bob, cable = lab.pair(A, B)
    alice.ping(BOB)
    cable.impair(Delay(0.05), Reorder(0.25, gap=4), towards=bob.nics["em0"])

    got = datagrams(alice, bob, 400)

    assert sorted(got) == list(range(1, 401))
    assert got != sorted(got)
    assert lab.faults.counts["cable0", "alice:em0", "bob:em0"]["reorder"] > 10


def test_an_mtu_black_hole_swallows_only_what_is_long(lab):
    alice, bob, cable = lab.pair(A, B)
    cable.impair(Mtu(1400), towards=bob.nics["em0"])

    assert alice.ping(BOB, size=1372).received == 1  # 20 of IP and 8 of ICMP make 1,400
    assert alice.ping(BOB, size=1373, timeout=0.2).received == 0
    assert link(alice, "em0")["mtu"] == 1500
    assert cable.account().dropped["mtu"] == 1


def test_nobody_is_told_of_a_silent_cut(lab):
    alice, bob, cable = lab.pair(A, B)
    assert alice.ping(BOB).received == 1
    cable.impair(Cut(), towards=bob.nics["em0"])

    assert alice.ping(BOB, timeout=0.2).received == 0
    assert "LOWER_UP" in kernel_flags(alice, "em0") & kernel_flags(bob, "em0")
    cable.impair()
    assert alice.ping(BOB).received == 1


def test_a_rate_is_what_tcp_gets(lab):
    alice, bob, cable = lab.pair(A, B)
    rate = 20e6 / PATIENCE  # what an emulated processor can do as well; the queue is as long
    cable.impair(Rate(rate, burst=20_000, latency=0.1 * PATIENCE))
    size = 2_000_000

    download = bob.fetch(alice.serve(bytes_=size))

    assert download.wait(timeout=30 * PATIENCE) == size
    ideal = (size - 20_000) * 8 / rate  # headers make it longer, nothing can make it shorter
    assert ideal <= download.seconds < 1.5 * ideal
    assert cable.account().balances()


def test_tcp_gets_every_octet_through_all_of_it(lab):
    alice, bob, cable = lab.pair(A, B)
    cable.impair(
        Loss(0.01),
        Duplicate(0.02),
        Corrupt(0.01),  # one bit: of two, one pair in 32 cancels out in TCP's checksum
        Truncate(0.005),
        Reorder(0.02),
        Delay(0.002, jitter=0.0005, keep_order=True),
        Rate(100e6, frames=200),
    )
    data = lab.faults.stream("content").randbytes(2_000_000)
    server = alice.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.bind(("192.0.2.1", 8000))
    server.listen()

    def serve():
        connection, _ = server.accept()
        with connection:
            connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    received = hashlib.sha256()
    with server, bob.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(60 * PATIENCE)
        client.connect(("192.0.2.1", 8000))
        count = 0
        while chunk := client.recv(65536):
            count += len(chunk)
            received.update(chunk)
        thread.join()

    assert (count, received.hexdigest()) == (len(data), hashlib.sha256(data).hexdigest())
    counts = lab.faults.counts["cable0", "alice:em0", "bob:em0"]
    assert set(counts) >= {"loss", "duplicate", "corrupt", "truncate", "reorder"}
    eventually(lambda: cable.account().in_flight == 0)
    assert cable.account().balances()


def test_without_faults_a_cable_is_as_fast_as_before(lab):
    """Offload comes back, so frames are super-frames again."""
    alice, bob, cable = lab.pair(A, B)
    cable.impair(Loss(0.0))
    assert alice.nics["em0"].if_softc.end.accepts == 0
    cable.impair()

    assert alice.nics["em0"].if_softc.end.accepts == 3
    assert alice.nics["em0"].if_softc.end.straight_to is bob.nics["em0"].if_softc
    size = 20_000_000
    assert bob.fetch(alice.serve(bytes_=size)).wait() == size


# schedules


def test_a_schedule_cuts_and_mends_and_says_so():
    said: list[str] = []
    with Lab(on_log=lambda seconds, text: said.append(text)) as lab:
        alice, _, cable = lab.pair(A, B)
        lab.schedule([(0.1, cable.cut), (2.0, "cable0.mend"), (Every(0.05, times=3), "alice:em0.rebooted")])
        with pytest.raises(FaultError, match="0 or more seconds"):
            lab.at(-1, cable.cut)
        eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "em0"))
        eventually(lambda: "LOWER_UP" in kernel_flags(alice, "em0"))
        assert alice.ping(BOB, timeout=2 * PATIENCE).received == 1

    assert said.index("cable0.cut()") < said.index("cable0: cut") < said.index("cable0.mend()")
    assert said.count("alice:em0.rebooted()") == 3
    assert sum("names nothing to call" in text for text in said) == 3


def test_names_in_a_schedule_find_wires_and_nics(lab):
    _, _, cable = lab.pair(A, B)
    assert lab._find("cable0.cut") == cable.cut
    assert lab._find("alice:em0.send").__self__ is lab.hosts["alice"].nics["em0"].if_softc
    for name in ("cable1.cut", "cable0._cut", "cable0.nothing", "alice:em1.send", "cut", "eve:em0.send"):
        with pytest.raises(LabError, match="names nothing to call"):
            lab._find(name)


# records


def test_a_lab_is_replayed_frame_for_frame(tmp_path):
    """The second run sends at other moments, without a seed, and with live faults that would do something else."""
    faults = (Loss(0.2), Duplicate(0.1), Corrupt(0.2, within=(60, 100)), Delay(0.001, jitter=0.001))

    def run(path, gap, seed, replay, faults):
        with Lab(seed=seed, replay=replay) as lab:
            lab.record(path)
            alice, bob, cable = lab.pair(A, B)
            for host in (alice, bob):
                for other in (1, 2):
                    mac = f"02:00:00:00:00:0{other}"
                    host.run(f"ip neigh replace 192.0.2.{other} lladdr {mac} dev em0 nud permanent")
            time.sleep(0.5)  # until Linux has said all that it says of itself
            cable.impair(*faults, towards=bob.nics["em0"])
            got = datagrams(alice, bob, 500, gap=gap)
            return sorted(got), lab.seed

    one, two = tmp_path / "one.record", tmp_path / "two.record"
    first, _ = run(one, 0.0, 11, None, faults)
    second, seed = run(two, 0.001, None, one, (Loss(0.9),))

    assert seed == 11
    before, after = (Record.read(path).histories["cable0", "alice:em0", "bob:em0"] for path in (one, two))
    shared = {key for key in before.decisions if key[0] <= min(before.last, after.last)}
    assert len(shared) > 500
    assert {key: after.decisions.get(key) for key in shared} == {key: before.decisions[key] for key in shared}
    assert abs(len(set(first)) - len(set(second))) <= 10  # but for what Linux says unasked


def test_a_tcp_transfer_is_replayed_frame_for_frame_with_another_timing(tmp_path):
    """The replay's cable is longer and its engine is busy: what each frame meets is the same."""
    size = 500_000

    def run(path, replay, delay):
        with Lab(seed=9, replay=replay) as lab:
            lab.record(path)
            alice, bob, cable = lab.pair(A, B)
            cable.impair(
                Loss(0.01),
                GilbertElliott(0.002, 0.3),
                Duplicate(0.01),
                Corrupt(0.003),
                Reorder(0.02, correlation=0.3),
                Delay(0.002, jitter=0.001, spread="pareto", correlation=0.5),
                Rate(50e6, frames=40),
                towards=bob.nics["em0"],
            )
            cable.impair(LoseEvery(50), Delay(0.001, jitter=0.0005), towards=alice.nics["em0"])
            if delay:
                cable.set_delay(delay)
                lab.every(0.01, time.sleep, 0.004)
            assert bob.fetch(alice.serve(bytes_=size)).wait(timeout=60) == size
        return lab.faults.replayed

    one, two = tmp_path / "one.record", tmp_path / "two.record"
    run(one, None, 0)
    replayed = run(two, one, 0.003)

    first, second = Record.read(one), Record.read(two)
    shared = 0
    for direction, history in first.histories.items():
        again = second.histories[direction]
        last = min(history.last, again.last)
        assert last > 100
        before, after = (
            {key: what for key, what in each.decisions.items() if key[0] <= last} for each in (history, again)
        )
        assert after == before
        shared += len(before)
    assert replayed == shared
    kinds = {key[2] for history in first.histories.values() for key in history.decisions}
    assert kinds >= {"loss", "duplicate", "reorder", "delay", "loseevery"}


DUE = 0.5 * PATIENCE
SCENARIO = f'''"""A lossy cable."""

import time

from iflab.faults import Loss

SCHEDULE = [({DUE}, "cable0.set_delay", 0.001)]


def scenario(lab, loss: float = 0.1, count: int = 5):
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    cable.impair(Loss(loss))
    alice.ping("192.0.2.2", count, timeout=0.05, interval=0.01)
    time.sleep({DUE})
    lab.log(f"lost {{cable.account().dropped['loss']}} of {{count}}")
'''


def test_the_command_line_records_and_replays(tmp_path):
    (tmp_path / "lossy.py").write_text(SCENARIO)

    def iflab(*words):
        return subprocess.run(
            [*IFLAB, *words], capture_output=True, text=True, timeout=60 * PATIENCE, cwd=tmp_path, env=None
        )

    ran = iflab("run", "lossy.py", "--set", "loss=0.5", "--seed", "3", "--pcap", "x.pcapng")
    assert ran.returncode == 0, ran.stderr
    assert "cable0.set_delay(0.001)" in ran.stdout
    about = json.loads((tmp_path / "x.pcapng.record").read_text().splitlines()[0])
    assert (about["seed"], about["parameters"]) == (3, {"loss": 0.5, "count": 5})
    assert (tmp_path / "x.pcapng.record").stat().st_mode & 0o777 == 0o600

    again = iflab("replay", "x.pcapng.record", "--pcap", "y.pcapng", "--report", "y.html")
    assert again.returncode == 0, again.stderr
    assert "replaying x.pcapng.record: seed 3" in again.stdout
    made = re.search(r"(\d+) of (\d+) decisions were made again", again.stdout)
    assert 0 < int(made[1]) <= int(made[2])
    record = Record.read(tmp_path / "y.pcapng.record")
    assert (record.seed, record.about["parameters"]) == (3, {"loss": 0.5, "count": 5})
    assert "lossy" in (tmp_path / "y.html").read_text()
    for words in (["--pcap", "x.pcapng"], ["--record", "x.pcapng.record"]):
        over = iflab("replay", "x.pcapng.record", *words)
        assert over.returncode == 2
        assert "x.pcapng.record is what is to be replayed" in over.stderr
    assert Record.read(tmp_path / "x.pcapng.record").ended
    assert "--seed 3 --set loss=0.5 --set count=5" in again.stdout

    for garbage in (b"hello\n", bytes(range(256))):
        (tmp_path / "bad.record").write_bytes(garbage)
        wrong = iflab("replay", "bad.record")
        assert wrong.returncode == 2
        assert wrong.stderr == "iflab: bad.record line 1 is no line of a record: it is no JSON\n"
    assert iflab("replay", "none.record").returncode == 2


# send queues


def round_trips_under_load(lab, alice, bob):
    """Pings that go out behind a download, and what it got.

    Reno fills a queue; CUBIC's HyStart leaves slow start as soon as delays rise.
    """
    alice.run("echo reno > /proc/sys/net/ipv4/tcp_congestion_control", check=True)
    server = alice.serve(bytes_=100_000_000)
    download = bob.fetch(server, idle=10 * PATIENCE)
    time.sleep(1.0 * PATIENCE)  # slow start is over
    rtts = alice.ping(BOB, 10, interval=0.05, timeout=3 * PATIENCE).rtts
    assert not download.done()
    server.close()
    return statistics.median(rtts), download.received


def test_codel_ends_bufferbloat(lab):
    """The same download through 10 Mbit/s, with a plain queue of 1,000 frames and with CoDel and FQ-CoDel."""
    delays = {}
    for number, kind in enumerate(("plain", CoDel, FqCoDel)):
        names = (f"alice{number}", f"bob{number}")
        alice, bob, _ = lab.pair(A, B, names=names)
        em0 = alice.nics["em0"]
        with lab.lock:
            em0.if_snd.ifq_maxlen = 1000
            if kind != "plain":
                altq_use(em0, kind(lab.engine))
            TokenBucketRegulator(lab.engine, 10e6, depth=3000).attach(em0)
        for _ in range(3):  # a busy machine takes from a link, and never gives
            delays[kind], octets = round_trips_under_load(lab, alice, bob)
            if octets > 0.7 * 10e6 / 8:
                break
        assert octets > 0.7 * 10e6 / 8  # the link is used all the same
        with lab.lock:
            em0.if_snd.altq_tbr.detach()
            if kind != "plain":
                altq_forgo(em0)

    assert delays["plain"] > 0.1
    assert delays[CoDel] < delays["plain"] / 3
    assert delays[FqCoDel] < min(0.03 * PATIENCE, delays["plain"] / 3)


# NICs


def faulty_pair(lab, *kinds):
    kind = type("Faulty", kinds, {})
    alice, bob = lab.host("alice"), lab.host("bob")
    em0 = alice.nic("em0", A, driver=kind)
    cable = lab.cable(em0, bob.nic("em0", B))
    return alice, bob, em0, em0.if_softc, cable


def test_an_ioctl_that_fails_leaves_kernel_and_ifnet_alone(lab):
    alice, _, em0, nic, _ = faulty_pair(lab, FailingIoctl)
    nic.fail_ioctl("SIOCSIFMTU", errno.ENOMEM, nth=2)
    alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400))

    with pytest.raises(OSError, match="SIOCSIFMTU") as refused:
        alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1300))
    assert refused.value.errno == errno.ENOMEM
    assert (em0.if_mtu, link(alice, "em0")["mtu"]) == (1400, 1400)
    alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1300))
    assert link(alice, "em0")["mtu"] == 1300


def test_a_stall_holds_pings_back(lab):
    alice, _, em0, nic, _ = faulty_pair(lab, StallingStart)
    alice.ping(BOB)
    nic.stall(0.2)

    assert alice.ping(BOB, timeout=2 * PATIENCE).rtts[0] > 0.15
    assert em0.if_snd.ifq_len == 0


def test_a_flapping_link_is_seen_by_the_kernel(lab):
    alice, bob, _, nic, _ = faulty_pair(lab, FlappingLink)
    assert alice.ping(BOB).received == 1
    nic.flap((0.3 * PATIENCE, 0.1))

    eventually(lambda: "LOWER_UP" not in kernel_flags(alice, "em0"))
    assert "LOWER_UP" in kernel_flags(bob, "em0")
    eventually(lambda: "LOWER_UP" in kernel_flags(alice, "em0"))
    assert alice.ping(BOB, timeout=2 * PATIENCE).received == 1
    assert nic.struck["flap"] == 1


def test_lost_interrupts_are_latency(lab):
    alice, _, _, nic, _ = faulty_pair(lab, LosesInterrupts)
    alice.ping(BOB)
    nic.lose_interrupts(1.0, watchdog=0.1)

    assert 0.09 < alice.ping(BOB, timeout=2 * PATIENCE).rtts[0] < 0.5
    nic.lose_interrupts(0.0)
    assert alice.ping(BOB).rtts[0] < 0.09


def test_a_leaky_filter_shows_in_the_kernels_counter(lab):
    _, bob, em0, nic, _ = faulty_pair(lab, LeakyFilter)
    group = bytes.fromhex("01005e010203")
    stranger = group + bytes.fromhex("020000000002") + b"\x88\xb5" + bytes(46)
    bob.nics["em0"].if_transmit(stranger)
    before = em0.if_imcasts
    nic.leak(through=1.0)
    for _ in range(5):
        bob.nics["em0"].if_transmit(stranger)

    eventually(lambda: em0.if_imcasts - before >= 5)
    assert nic.struck["let through"] >= 5


def test_a_changed_mac_is_learnt_by_the_neighbour(lab):
    alice, bob, _, nic, _ = faulty_pair(lab, ChangingMac)
    assert bob.ping("192.0.2.1").received == 1
    nic.change_mac("02:00:00:00:00:77")

    assert link(alice, "em0")["address"] == "02:00:00:00:00:77"
    assert eventually(lambda: bob.ping("192.0.2.1", timeout=1).received, timeout=20)
    assert "02:00:00:00:00:77" in bob.run("ip neigh").stdout


def test_a_nic_is_pulled_out_under_load(lab):
    alice, bob, _, nic, cable = faulty_pair(lab, Vanishing, StallingStart)
    download = bob.fetch(alice.serve(bytes_=500_000_000), idle=1.0)
    eventually(lambda: download.received > 100_000)
    lab.at(0.0, nic.vanish)

    eventually(lambda: "em0" not in alice.run("ip -o link").stdout)
    eventually(lambda: "NO-CARRIER" in kernel_flags(bob, "em0"))  # before Linux 6.8 it takes up to a second
    with pytest.raises(OSError, match=r"timed out|unreachable|reset"):
        download.wait(timeout=20 * PATIENCE)
    assert alice.nics == {}
    assert cable.account().balances()
    em0 = alice.nic("em0", A)  # another one into the same slot
    lab.cable(em0, bob.nic("em1"))
    lab.check()


def test_a_nic_of_every_fault_is_a_sound_nic_until_told(lab):
    alice, bob, _, _, cable = faulty_pair(
        lab, FailingIoctl, StallingStart, FlappingLink, LosesInterrupts, LeakyFilter, ChangingMac, Vanishing
    )
    size = 5_000_000
    assert bob.fetch(alice.serve(bytes_=size)).wait() == size
    assert alice.ping(BOB, 5, interval=0.01).received == 5
    assert cable.account().balances()
