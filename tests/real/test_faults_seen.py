"""Every fault is seen where it struck: in captures (by tshark), in reports, in ``iflab top``, in the log."""

from __future__ import annotations

import errno
import html
import json
import re
import socket
import subprocess
from collections import Counter

import pytest

from iflab import Lab, Missing
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
    GilbertElliott,
    LoseEvery,
    LoseFrames,
    Loss,
    Mtu,
    Rate,
    Reorder,
    Truncate,
)
from iflab.net import Ifreq
from iflab.net.altq import CoDel, TokenBucketRegulator, altq_use

from ..linux_tools import eventually, need
from .test_capture import fields
from .test_cli import IFLAB
from .test_faults import BOB, A, B

CABLE = {
    "lost: loss": (Loss(0.2),),
    "lost: loss (bursts)": (GilbertElliott(0.1, 0.5),),
    "lost: loss (every)": (LoseEvery(5),),
    "lost: loss (list)": (LoseFrames(3, 5, 7),),
    "lost: cut": (Cut(),),
    "lost: mtu": (Mtu(100),),
    "lost: queue full": (Rate(1e5, frames=3),),
    "duplicated": (Duplicate(0.2),),
    "corrupted": (Corrupt(0.2, within=(42, 90)),),
    "truncated": (Truncate(0.2),),
    "overtakes": (Delay(0.01), Reorder(0.2, gap=2)),
    "delayed by": (Delay(0.002, jitter=0.001),),
}


@pytest.fixture
def lab():
    try:
        made = Lab(seed=5)
    except Missing as error:
        pytest.skip(str(error))
    with made:
        yield made


def datagrams(alice, bob, count, size):
    """Send some from alice to a socket of bob's that nobody reads."""
    with (
        alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((BOB, 9999))
        before = alice.nics["em0"].if_softc.taken
        for _ in range(count):
            sender.sendto(bytes(size), (BOB, 9999))
        eventually(lambda: alice.nics["em0"].if_softc.taken >= before + count)


@pytest.mark.parametrize("words", CABLE)
def test_what_a_cable_does_to_a_frame_stands_at_the_frame(lab, words, tmp_path):
    """As often in the capture, and in the report, as the lab has counted it."""
    need("tshark", "tshark")
    path, report = tmp_path / "x.pcapng", tmp_path / "x.html"
    alice, bob, cable = lab.pair(A, B)
    alice.ping(BOB)
    with lab.report(report):
        lab.capture(path)
        cable.impair(*CABLE[words], towards=bob.nics["em0"])
        datagrams(alice, bob, 100, size=200)
        cable.impair()
        eventually(lambda: cable.account().in_flight == 0)
    counted = lab.faults.counts.get(("cable0", "alice:em0", "bob:em0"), Counter()).total()
    lab.close()

    said = words.partition(" (")[0]
    rows = fields(path, "frame.comment", "frame.interface_name", where="frame.comment")
    struck = [row for row in rows if said in row[0]]
    assert {row[1] for row in struck} == {"alice:em0"}
    if said == "delayed by":
        assert len(struck) >= 100
    else:
        assert len(struck) == counted > 0
        assert said in html.unescape(re.sub(r"<[^>]+>", " ", report.read_text()))


def test_what_befalls_copies_stands_there_too(lab, tmp_path):
    """All at once, copies that are changed, delayed and lost among them: each cause as often as it was counted."""
    need("tshark", "tshark")
    path = tmp_path / "x.pcapng"
    alice, bob, cable = lab.pair(A, B)
    alice.ping(BOB)
    lab.capture(path)
    cable.impair(
        Loss(0.1),
        Duplicate(0.5, copies=2),
        Corrupt(0.5, within=(42, 90)),
        Truncate(0.3),
        Rate(5e5, frames=40),
        Reorder(0.2),
        Delay(0.01, jitter=0.005),
        towards=bob.nics["em0"],
    )
    datagrams(alice, bob, 100, size=200)
    cable.impair()
    eventually(lambda: cable.account().in_flight == 0)
    counted = dict(lab.faults.counts["cable0", "alice:em0", "bob:em0"])
    lab.close()

    text = "\n".join(row[0] for row in fields(path, "frame.comment", where="frame.comment"))
    words = {
        "loss": "lost: loss",
        "queue full": "lost: queue full",
        "duplicate": "duplicated, 2 copies",
        "corrupt": "corrupted: ",
        "truncate": "truncated to ",
        "reorder": "overtakes",
    }
    assert set(counted) == set(words)
    assert {cause: text.count(said) for cause, said in words.items()} == counted


class Everything(
    FailingIoctl, StallingStart, FlappingLink, LosesInterrupts, LeakyFilter, ChangingMac, Vanishing
):
    """A NIC of every fault."""


def top(lab):
    """What ``iflab top`` shows, as JSON and as text."""
    done = subprocess.run([*IFLAB, "top", lab.name, "-n", "1"], capture_output=True, text=True, timeout=60)
    looked = subprocess.run(
        [*IFLAB, "top", lab.name, "-n", "1", "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(looked.stdout), done.stdout


def test_what_a_nic_does_is_seen_everywhere(tmp_path):
    need("tshark", "tshark")
    path, report, record = (tmp_path / name for name in ("x.pcapng", "x.html", "x.record"))
    said: list[str] = []
    try:
        lab = Lab(seed=5, on_log=lambda seconds, text: said.append(text))
    except Missing as error:
        pytest.skip(str(error))
    group = bytes.fromhex("01005e010203") + bytes.fromhex("020000000002") + b"\x88\xb5" + bytes(46)
    with lab, lab.report(report):
        lab.capture(path)
        lab.record(record)
        alice, bob = lab.host("alice"), lab.host("bob")
        em0 = alice.nic("em0", A, driver=Everything)
        lab.cable(em0, bob.nic("em0", B))
        nic = em0.if_softc
        assert alice.ping(BOB, timeout=5).received == 1

        nic.lose_interrupts(1.0, watchdog=0.02)
        assert alice.ping(BOB, timeout=5).received == 1
        nic.lose_interrupts(0)
        nic.leak(through=1.0)
        bob.nics["em0"].if_transmit(group)
        nic.leak(lost=1.0)
        em0.if_addmulti("233.1.2.3")
        bob.nics["em0"].if_transmit(group)
        nic.leak()
        nic.fail_ioctl("SIOCSIFMTU", errno.EIO)
        with pytest.raises(OSError, match="SIOCSIFMTU"):
            alice.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=1400))
        nic.stall(0.01)
        nic.flap((0.05,))
        bob.nics["em0"].if_transmit(group)
        eventually(lambda: not nic._dark)
        nic.change_mac("02:00:00:00:00:77")
        counters, text = top(lab)
        faults = dict(nic.struck)
        nic.vanish()

    kinds = {"interrupt", "let through", "kept out", "ioctl", "stall", "flap", "dark", "mac"}
    assert set(counters["nics"]["alice:em0"]["faults"]) == kinds == set(faults)
    assert re.search(r"alice:em0 .*interrupt \d+.*let through 1", text)
    comments = " ".join(row[0] for row in fields(path, "frame.comment", where="frame.comment"))
    notes = " ".join(
        json.loads(line).get("note", "") for line in record.read_text().splitlines() if line[0] == "{"
    )
    page = report.read_text()
    assert re.search(r'class="fault"><td>[0-9.]+</td><td>alice:em0: if_start stalls', page)
    shown = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for told in (comments, shown):
        assert "interrupt: alice:em0: interrupt 1 is lost" in told
        assert "let through: alice:em0: the filter lets through group frame" in told
        assert "kept out: alice:em0: the filter keeps out group frame" in told
        assert "dark: alice:em0: received without a link" in told
    for told in (comments, shown, notes, " ".join(said)):
        assert "alice:em0: SIOCSIFMTU fails with EIO" in told
        assert "alice:em0: if_start stalls for 0.01 s" in told
        assert "alice:em0: link flaps" in told
        assert "alice:em0: its MAC changes to 02:00:00:00:00:77" in told
    assert "alice:em0: the NIC is gone" in " ".join(said)
    assert not any(
        "interrupt" in line for line in said
    )  # of a frame its comment tells, and no line of the log


def test_what_a_discipline_drops_is_in_top_by_cause(lab):
    alice, bob, _ = lab.pair(A, B)
    em0 = alice.nics["em0"]
    alice.ping(BOB)
    with lab.lock:
        altq_use(em0, discipline := CoDel(lab.engine, target=0.001, interval=0.01, limit=50))
        TokenBucketRegulator(lab.engine, 1e6, depth=3000).attach(em0)
    datagrams(alice, bob, 400, size=1000)
    eventually(lambda: not len(discipline))
    drops = top(lab)[0]["nics"]["alice:em0"]["drops"]

    assert drops["CoDel: codel"] == discipline.dropped["codel"] > 0
    assert drops["CoDel: full"] == discipline.dropped["full"] > 0
    assert drops["send queue full"] == em0.if_snd.ifq_drops - discipline.dropped["full"] == 0
