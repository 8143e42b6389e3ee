"""Reports: what is in them, that they open anywhere, and that writing them harms nothing."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scapy.layers.l2 import Ether

from iflab.cli.errors import explain
from iflab.faults import Corrupt, Duplicate, Loss
from iflab.net.altq import TokenBucketRegulator
from iflab.report import ReportError, recorder
from iflab.report.ladder import Column, Ladder, build
from iflab.report.page import LETTER, LINE, _Geometry
from iflab.report.topology import lay_out
from iflab.report.words import seconds
from tests.linux_tools import PATIENCE, eventually, need, real_root, small_disk

ROOT = Path(__file__).parents[2]
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium(page, *words):
    """What headless Chromium prints for a page, with a profile of its own."""
    need("chromium", "chromium")
    profile = tempfile.mkdtemp(prefix="iflab-test-")
    try:
        command = ["chromium", *QUIET, f"--user-data-dir={profile}", *words, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110 * PATIENCE)
    finally:
        shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def text_of(page):
    """The words of a page, its style and script left out."""
    text = re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


@pytest.fixture(scope="module")
def flap(tmp_path_factory):
    """The report of scenario 06, as the command line writes it."""
    path = tmp_path_factory.mktemp("report") / "flap.html"
    words = ["run", "06", "--report", str(path), "--seed", "7"]
    command = [sys.executable, "-c", "from iflab.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=110 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_the_flap_is_seen_at_a_glance(flap):
    text = text_of(flap.read_text())

    assert "A cable is cut in the middle of a download, and mended. TCP survives." in text
    assert re.search(r"cable0\s+was cut at [\d.]+ m?s, back after\s+(1\.\d+ s|9\d\d ms)", text)
    assert re.search(r"TCP segments retransmitted [1-9]", text)
    assert re.search(r"frames lost: cut [1-9]", text)
    assert "lost: cut" in text
    assert "cable0: mended" in text
    assert re.search(r"account of frames: sent = delivered \+ lost \+ in flight balanced", text)


def test_assertions_parameters_seed_and_versions(flap):
    text = text_of(flap.read_text())

    assert "download.wait(timeout=60) == size" in text
    assert "cable.account().balances()" in text
    assert "iflab run link_flap --seed 7" in text
    for word in ("cut_after", "cut_for", "size", "Python", "scapy", "Linux"):
        assert word in text


def test_it_opens_offline(flap):
    page = flap.read_text()

    assert "Content-Security-Policy" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert re.findall(r"@import|url\((?!#|['\"]?data:)", page) == []


def test_a_real_browser_draws_it_light_dark_and_on_paper(flap, tmp_path):
    dom = chromium(flap, "--dump-dom")
    assert "lost: cut" in dom
    light, dark, paper = tmp_path / "light.png", tmp_path / "dark.png", tmp_path / "paper.pdf"
    chromium(flap, f"--screenshot={light}", "--window-size=1100,1000")
    chromium(
        flap, f"--screenshot={dark}", "--window-size=1100,1000", "--blink-settings=preferredColorScheme=0"
    )
    chromium(flap, f"--print-to-pdf={paper}", "--no-pdf-header-footer")

    assert light.read_bytes()[:4] == dark.read_bytes()[:4] == b"\x89PNG"
    assert light.stat().st_size > 20_000
    assert light.read_bytes() != dark.read_bytes()
    assert paper.read_bytes().startswith(b"%PDF")


def test_faults_of_cables_are_marked_where_they_struck(lab, tmp_path):
    path = tmp_path / "faulty.html"
    with lab.report(path) as recording:
        alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
        assert (
            alice.ping("192.0.2.2").received == 1
        )  # a lost ARP request would keep all pings back for a second
        cable.impair(Loss(0.3), Corrupt(0.3, within=(34, 90)), towards=bob.nics["em0"].if_softc)
        alice.ping("192.0.2.2", count=80, interval=0.002, timeout=0.2)
        recording.check("bob was pinged", True)
    text = text_of(path.read_text())

    assert "lost: loss" in text
    assert "corrupted: octet" in text
    assert "bob was pinged" in text
    assert re.search(r"frames lost: loss [1-9]", text)


def test_fifty_hosts(lab, tmp_path):
    path = tmp_path / "fifty.html"
    with lab.report(path):
        with lab.building():
            nics = [lab.host(f"h{n}").nic("em0", f"10.0.0.{n + 1}/24") for n in range(50)]
            lab.segment(*nics, name="hub")
        lab.hosts["h0"].ping("10.0.0.50", count=2)
    text = text_of(path.read_text())

    assert re.search(r"hosts and stations, 0 cables, 1 hub 50 ", text)
    assert "h49" in text
    assert path.stat().st_size < 3_000_000


def drawn(page, selector):
    """The texts inside the SVG groups of a class."""
    return [
        text_of(group).strip()
        for group in re.findall(rf'<g class="{selector}[^"]*"[^>]*>.*?</g>', page, flags=re.S)
    ]


def test_fifty_hosts_on_switches(lab, tmp_path):
    """A switch is a node and a column of the ladder, and not as many as it has ports."""
    path = tmp_path / "tree.html"
    with lab.report(path) as recording:
        core = lab.switch("core", ports=5)
        with lab.building():
            for s in range(5):
                sw = lab.switch(f"sw{s}", ports=11)
                lab.cable(core[s], sw[0])
                for n in range(10):
                    lab.cable(lab.host(f"h{s}-{n}").nic("em0", f"10.0.{s}.{n + 1}/16"), sw[n + 1])
        lab.hosts["h0-0"].ping("10.0.4.10", count=2)
    page = path.read_text()
    found = recording.recording()
    picture = lay_out(found)

    assert re.search(r"hosts, switches and stations, 55 cables 56 ", text_of(page))
    assert len(drawn(page, "node host")) == 50
    assert drawn(page, "node switch") == [
        f"{name} (switch) {name}" for name in ("core", "sw0", "sw1", "sw2", "sw3", "sw4")
    ]
    assert len(picture.lines) == 55
    for number, one in enumerate(picture.boxes):  # nobody stands on anybody
        for other in picture.boxes[number + 1 :]:
            assert abs(one.x - other.x) > (one.width + other.width) / 2 or abs(one.y - other.y) > 28, (
                one,
                other,
            )
    columns = build(found).columns
    assert sorted(column.name for column in columns) == sorted(node.name for node in found.nodes)
    assert page.count('class="say"') > 20


def test_a_frame_that_a_hook_changed_or_a_fault_copied_is_one_line(lab, tmp_path):
    path = tmp_path / "changed.html"
    with lab.report(path) as recording:
        sw = lab.switch("sw", ports=2)
        one, other = lab.station(name="one"), lab.station(name="other")
        lab.cable(one, sw[0])
        cable = lab.cable(sw[1], other)
        cable.add_hook(lambda frame: frame.raw + b"!", towards=other)
        cable.impair(Duplicate(1.0), towards=other)
        for _ in range(20):
            one.send(bytes(Ether(dst=other.mac, src=one.mac, type=0x88B5)) + bytes(46))
    rows = build(recording.recording()).rows

    assert recording.recording().frames_seen == 40  # 20 on each cable, and none made up
    shown = [row for row in rows if row.kind == "frame" and row.wire == "cable1"]
    assert shown
    for row in shown:
        assert [mark.text for mark in row.marks] == ["altered by a hook", "duplicated"]
        assert [arrow.end for arrow in row.arrows] == ["arrived"]
    for row in rows:
        assert not any(mark.kind == "lost" for mark in row.marks)
        assert row.tone != "lost"


def test_how_long_frames_wait_in_a_send_queue_is_told(lab, tmp_path):
    alice, _bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.ping("192.0.2.2", count=3, interval=0.001)
    with lab.lock:
        TokenBucketRegulator(lab.engine, 1e6, depth=2000).attach(alice.nics["em0"])
    with lab.report(tmp_path / "queue.html"):
        with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(40):
                sock.sendto(bytes(1250 - 42), ("192.0.2.2", 9))  # each takes 10 ms to go out
        assert alice.ping("192.0.2.2", count=1, timeout=5 * PATIENCE).received == 1
        eventually(
            lambda: not alice.nics["em0"].if_snd.ifq_len
        )  # its kernel may have said something after it

    text = text_of((tmp_path / "queue.html").read_text())
    (told,) = re.findall(r"Latency: at most ([\d.e+]+) ms in a send queue;", text)
    assert 350 < float(told) < 450 * PATIENCE
    (shown,) = re.findall(
        r"round trip from the wire on, mean; in a send queue before it (\d+) ms at most", text
    )
    assert abs(int(shown) - float(told)) < 1


def test_frames_that_leave_a_queue_tell_how_long_they_were_in_it():
    place = recorder._Place(None, 0, 0, None)
    arrivals = [0.001 * n for n in range(200)]  # a thousand a second come, a hundred a second go
    held, left = [], 0.0
    for n, came in enumerate(arrivals):
        left = max(left + 0.01, came)
        behind = sum(1 for later in arrivals[n + 1 :] if later <= left)
        held.append((place.leaves(left, behind), left - came))

    known = [(said, true) for said, true in held if said]
    assert len(known) > 15
    assert all(true - 0.011 <= said <= true + 1e-9 for said, true in known)
    assert place.leaves(9.0, 0) == 0.0  # it came when nobody waited
    assert not place.marks


def test_on_a_hub_every_receiver_is_shown(lab, tmp_path):
    path = tmp_path / "hub.html"
    with lab.report(path) as recording:
        stations = [lab.station(name=f"s{n}") for n in range(10)]
        lab.segment(*stations)
        stations[0].send(bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=stations[0].mac, type=0x88B5)) + bytes(46))
    (row,) = (row for row in build(recording.recording()).rows if row.kind == "frame")

    assert sorted(arrow.stop for arrow in row.arrows) == list(range(1, 10))
    assert path.read_text().count('class="from"') == 1


@pytest.mark.parametrize("columns", [1, 2, 6, 7, 12, 40])
@pytest.mark.parametrize("host", ["h", "office1", "a-name-of-forty-letters-which-is-longest"])
def test_the_names_of_a_ladders_columns_have_room(columns, host):
    names = [f"{host}:em0"] * columns
    geometry = _Geometry(Ladder([Column(name, host) for name in names], [], 0, 0))

    letters = (geometry.pitch - 8) // LETTER
    if geometry.upright:
        assert geometry.pitch < 90
        assert geometry.head <= 118
    elif geometry.stacked:  # broken, and high enough for it
        assert geometry.head >= LINE * sum(math.ceil(len(line) / letters) for line in (host, "em0"))
    else:
        assert len(names[0]) <= letters


def test_six_names_of_columns_are_upon_each_other_and_twelve_upright():
    def head(columns, host):
        return _Geometry(Ladder([Column(f"{host}:em0", host)] * columns, [], 0, 0))

    assert (head(2, "office1").stacked, head(2, "office1").upright) == (False, False)
    assert (head(6, "office1").stacked, head(6, "office1").upright) == (True, False)
    assert (head(12, "h1").stacked, head(12, "h1").upright) == (True, False)
    assert head(12, "office1").upright


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.99961, "1.00 s"), (0.9994, "999 ms"), (0.00099961, "1 ms"), (0.000126, "126 µs"), (123.4, "123 s")],
)
def test_times_in_words(value, text):
    assert seconds(value) == text


def test_what_a_frame_or_a_name_says_is_text_and_no_more(lab, tmp_path):
    path = tmp_path / "evil.html"
    evil = "<script>alert(1)</script>"
    with lab.report(path) as recording:
        one, other = lab.station(), lab.station()
        lab.cable(one, other)
        one.send(bytes(12) + b"\x88\xb5" + evil.encode() * 3)
        recording.about.purpose = evil
        lab.log(evil)

    page = path.read_text()
    assert evil not in page
    assert html.escape(evil) in page


def test_frames_it_cannot_keep_are_counted_and_the_account_stays_exact(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "ENTRIES", 1000)
    path = tmp_path / "many.html"
    one, other = lab.station(), lab.station()
    cable = lab.cable(one, other)
    with lab.report(path) as recording, lab.lock:
        for _ in range(5000):
            one.send(bytes(60))
    found = recording.recording()

    assert cable.account().sent == 5000
    assert found.wires[0].sent == 5000
    assert found.wires[0].missed + found.frames_seen == 5000
    assert found.wires[0].missed > 0


def test_an_exception_is_the_runs_failure(lab, tmp_path):
    path = tmp_path / "failed.html"
    with pytest.raises(RuntimeError, match="by purpose"), lab.report(path):
        raise RuntimeError("failed by purpose\n  and in two lines")

    page = path.read_text()
    assert "Failed: RuntimeError: failed by purpose and in two lines" in text_of(page)  # no place is known
    assert "failed by purpose\n  and in two lines</code>" in page
    assert ".failure code { white-space: pre-wrap }" in page


def test_a_failed_scenario_is_told_with_its_assertions(tmp_path):
    scenario, path = tmp_path / "wrong.py", tmp_path / "wrong.html"
    scenario.write_text(
        '"""It is wrong."""\ndef scenario(lab):\n    assert lab\n    assert 1 == 2\n    assert 3 == 3\n'
    )
    command = [sys.executable, "-c", "from iflab.cli import main; main()", "run", str(scenario)]
    done = subprocess.run(
        [*command, "--report", str(path), "--json"], capture_output=True, text=True, timeout=60 * PATIENCE
    )

    assert done.returncode == 1
    assert json.loads(done.stdout)["held"] is False
    text = text_of(path.read_text())
    assert "Failed at wrong.py line 4: assert 1 == 2" in text
    assert text.index("1 == 2") < text.index("3 == 3")


def test_a_place_where_no_report_can_be(tmp_path):
    def run(report):
        command = [
            sys.executable,
            "-c",
            "from iflab.cli import main; main()",
            "run",
            "01",
            "--report",
            report,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE, cwd=ROOT)

    early = run(str(tmp_path / "nowhere" / "x.html"))
    assert (early.returncode, early.stdout) == (2, "")
    assert early.stderr == f"iflab: [Errno 2] No such file or directory: '{tmp_path}/nowhere/x.html'\n"
    folder = run(str(tmp_path))
    assert (folder.returncode, folder.stdout) == (2, "")
    with small_disk(tmp_path, "16k"):
        full = run(str(tmp_path / "x.html"))
        assert full.returncode == 2
        assert "first_ping: held" in full.stdout
        assert full.stderr == f"iflab: {tmp_path}/x.html: No space left on device\n"
        assert list(tmp_path.iterdir()) == []


@real_root
def test_what_is_there_and_no_file_is_written_to(lab, tmp_path):
    lab.pair("192.0.2.1/24", "192.0.2.2/24")
    with lab.report(tmp_path / "page.html") as made:
        pass
    (tmp_path / "link").symlink_to("old.html")
    (tmp_path / "old.html").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    os.mknod(tmp_path / "full", 0o600 | stat.S_IFCHR, os.makedev(1, 7))

    made.write(tmp_path / "link")
    with ThreadPoolExecutor(1) as readers:
        reading = readers.submit((tmp_path / "pipe").read_text)
        made.write(tmp_path / "pipe")
    with pytest.raises(OSError, match="No space left on device") as full:
        made.write(tmp_path / "full")

    assert (tmp_path / "link").is_symlink()
    assert text_of((tmp_path / "old.html").read_text()) == text_of(reading.result())
    assert "alice" in reading.result()
    assert full.value.filename == str(tmp_path / "full")
    assert stat.S_ISCHR((tmp_path / "full").stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "link", "old.html", "pipe", "full"}


def test_a_report_that_has_ended_hears_nothing_more(lab, tmp_path):
    path = tmp_path / "first.html"
    with lab.report(path) as first:
        lab.pair("192.0.2.1/24", "192.0.2.2/24")
    size = len(first.recording().happenings)
    cable = lab.cable(lab.station(), lab.station())
    cable.cut()

    assert cable.taps == []
    first.write(path)
    assert len(first.recording().happenings) == size
    assert "cable1" not in path.read_text()


def test_without_its_libraries_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ReportError, match=r"pip install 'iflab\[report\]'"):
        recorder.check_libraries()


def test_without_its_libraries_the_command_says_that_the_machine_lacks_something():
    assert explain(ReportError("a report needs jinja2")) == (3, "a report needs jinja2")


def test_a_folder_that_is_not_there(lab, tmp_path):
    recording = lab.report()
    with pytest.raises(FileNotFoundError):
        recording.write(tmp_path / "nowhere" / "x.html")
    recording.write(tmp_path / "x.html")

    assert (tmp_path / "x.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]
