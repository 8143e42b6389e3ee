"""Commands of another terminal that watch a lab or pull its plugs: against a lab that the test holds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from scapy.utils import PcapNgReader

from iflab import Lab
from iflab.faults import Corrupt, Loss
from tests.linux_tools import PATIENCE, eventually, link, need, small_disk, without_ipv6

IFLAB = [sys.executable, "-c", "from iflab.cli import main; main()"]


def iflab(*words, **options):
    return subprocess.run([*IFLAB, *words], capture_output=True, text=True, timeout=60 * PATIENCE, **options)


@pytest.fixture
def pair(lab):
    return lab.pair("192.0.2.1/24", "192.0.2.2/24")


@pytest.fixture
def chatter(pair):
    """Pings all the time."""
    alice, _, _ = pair
    over = threading.Event()

    def ping():
        while not over.is_set():
            alice.ping("192.0.2.2", count=5, interval=0.02)

    thread = threading.Thread(target=ping)
    thread.start()
    yield
    over.set()
    thread.join()


def test_sniff_prints_a_line_a_frame(lab, chatter):
    done = iflab("sniff", lab.name, "alice:em0", "icmp[icmptype] == icmp-echo", "-c", "3")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(
        re.fullmatch(
            r"\d\d:\d\d:\d\d\.\d{6} alice:em0  Ether / IP / ICMP 192.0.2.1 > 192.0.2.2 echo-request .*", line
        )
        for line in lines
    )


def test_sniff_pipes_into_tshark(lab, chatter):
    need("tshark", "tshark")
    ours = subprocess.Popen(
        [*IFLAB, "sniff", lab.name, "cable0", "-c", "4", "-w", "-", "icmp"], stdout=subprocess.PIPE
    )
    words = ["tshark", "-n", "-r", "-", "-T", "fields", "-e", "frame.interface_name", "-e", "ip.proto"]
    theirs = subprocess.run(words, stdin=ours.stdout, capture_output=True, text=True, timeout=60 * PATIENCE)

    assert ours.wait(10 * PATIENCE) == 0
    rows = [line.split("\t") for line in theirs.stdout.splitlines()]
    assert len(rows) == 4
    assert {row[1] for row in rows} == {"1"}
    assert {row[0] for row in rows} == {"alice:em0", "bob:em0"}


def test_a_reader_that_goes_is_no_error_for_anybody(lab, chatter, caplog):
    ours = subprocess.Popen(
        [*IFLAB, "sniff", lab.name, "all", "-w", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert ours.stdout.read(100)
    ours.stdout.close()

    assert ours.wait(20 * PATIENCE) == 0
    assert ours.stderr.read() == b""
    ours.stderr.close()
    eventually(lambda: not lab.wires["cable0"].taps)
    assert "ERROR" not in caplog.text


def test_sniff_writes_a_private_file_until_the_lab_ends(lab, pair, tmp_path):
    alice, _, _ = pair
    path = tmp_path / "x.pcapng"
    ours = subprocess.Popen([*IFLAB, "sniff", lab.name, "cable0", "icmp", "-w", str(path)])
    eventually(lambda: path.exists() and lab.wires["cable0"].taps)
    alice.ping("192.0.2.2", count=5, interval=0.01)
    lab.close()

    assert ours.wait(20 * PATIENCE) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    with PcapNgReader(str(path)) as reader:
        assert len(list(reader)) == 10


def test_a_reader_that_stops_reading_holds_nobody_up(lab, pair):
    alice, bob, cable = pair
    ours = subprocess.Popen([*IFLAB, "sniff", lab.name, "all", "-w", "-"], stdout=subprocess.PIPE)
    ours.stdout.read(1)
    began = time.monotonic()
    bob.fetch(alice.serve(20_000_000)).wait()
    lab.close()

    assert time.monotonic() - began < 30
    ours.stdout.close()
    ours.wait(20 * PATIENCE)
    assert cable.account().dropped.keys() <= {"unplugged"}


def test_top_shows_counters_and_causes(lab, pair, chatter):
    _, _, cable = pair
    hook = cable.add_hook(lambda frame: False)
    eventually(lambda: cable.account().dropped.get("hook"))
    hook.remove()

    done = iflab("top", lab.name, "-n", "2", "-i", "0.2")
    looks = [
        json.loads(line)
        for line in iflab("top", lab.name, "-n", "2", "-i", str(0.3 * PATIENCE), "--json").stdout.splitlines()
    ]

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("alice:em0  up ") == 2
    assert re.search(r"cable0 +2/2 .*hook \d+", done.stdout)
    first, second = looks
    assert second["wires"]["cable0"]["sent"] > first["wires"]["cable0"]["sent"]
    gained = second["nics"]["alice:em0"]["out_frames"] - first["nics"]["alice:em0"]["out_frames"]
    rate = second["rates"]["alice:em0"]["out_frames"]
    assert rate == pytest.approx(gained / (second["time"] - first["time"]), abs=0.1)


def test_top_counts_faults_by_cause(lab, pair):
    alice, bob, cable = pair
    without_ipv6(alice, bob)
    assert alice.ping("192.0.2.2").received == 1  # a lost ARP request would keep all pings back for a second
    cable.impair(Loss(0.5), Corrupt(0.5, within=(42, 90)))
    alice.ping("192.0.2.2", count=100, interval=0.001, timeout=0.05)

    before = cable.account().dropped["loss"]
    wire = json.loads(iflab("top", lab.name, "-n", "1", "--json").stdout)["wires"]["cable0"]

    assert (
        0 < before <= wire["drops"]["loss"] <= cable.account().dropped["loss"]
    )  # Linux may ask for its neighbour
    assert wire["faults"]["corrupt"] > 0


def test_ports_of_a_switch_are_places_like_any_other(lab):
    sw = lab.switch("sw", ports=2)
    lab.cable(lab.host("alice").nic("em0", "192.0.2.1/24"), sw[0])
    lab.cable(lab.host("bob").nic("em0", "192.0.2.2/24"), sw[1])
    lab.wait_ready()
    with lab.tap("sw:p1", filter="icmp", direction="out") as sniffer:
        assert lab.hosts["alice"].ping("192.0.2.2", count=2).received == 2
        assert len(sniffer.packets()) == 2

    nics = json.loads(iflab("top", lab.name, "-n", "1", "--json").stdout)["nics"]
    shown = iflab("ps").stdout

    assert nics["sw:p1"]["out_frames"] >= 2
    assert re.search(rf"{lab.name} +{os.getpid()} +sw +p1 +up", shown)
    assert re.search(rf"{lab.name} +{os.getpid()} +cable1 +bob:em0 sw:p1", shown)


def test_two_labs_of_one_process_and_one_name_for_each(lab, pair):
    with Lab() as second:
        second.host("carol").nic("em0")
        pid = os.getpid()
        both = iflab("top", str(pid), "-n", "1")
        one = iflab("top", f"{second.name}.{pid}", "-n", "1")
        listed = iflab("extcap", "--extcap-interfaces").stdout

    assert both.returncode == 2
    assert ", ".join(sorted([f"{lab.name}.{pid}", f"{second.name}.{pid}"])) in both.stderr
    assert "carol:em0" in one.stdout
    assert "alice:em0" not in one.stdout
    values = re.findall(r"\{value=(.*?)\}", listed)
    assert len(values) == len(set(values))
    assert {f"iflab@{lab.name}.{pid}@all", f"iflab@{second.name}.{pid}@carol:em0"} <= set(values)


def test_a_full_disk_ends_the_sniffing_with_a_line(lab, chatter):
    done = iflab("sniff", lab.name, "cable0", "-w", "/dev/full")

    assert (done.returncode, done.stderr) == (2, "iflab: /dev/full: No space left on device\n")
    eventually(lambda: not lab.wires["cable0"].taps)


def test_what_was_sniffed_onto_a_disk_until_it_was_full_can_be_read(lab, chatter, tmp_path):
    need("tshark", "tshark")
    with small_disk(tmp_path, "8k"):
        path = tmp_path / "x.pcapng"
        done = iflab("sniff", lab.name, "cable0", "-w", str(path))
        assert (done.returncode, done.stderr) == (2, f"iflab: {path}: No space left on device\n")
        read = subprocess.run(["tshark", "-n", "-r", str(path)], capture_output=True, text=True)
        assert read.returncode == 0, read.stderr
        assert len(read.stdout.splitlines()) > 20


def on_a_terminal(words, columns=80, lines=24):
    """What a command prints on a terminal of that size, its control sequences left out."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    ours = subprocess.Popen([*IFLAB, *words], stdout=side, stderr=side, env={**os.environ, "TERM": "xterm"})
    os.close(side)
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(main, 65536):
            shown += part
    os.close(main)
    assert ours.wait(20 * PATIENCE) == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_top_on_a_terminal_is_live_and_fits(lab, pair, chatter):
    shown = on_a_terminal(["top", lab.name, "-n", "3", "-i", "0.2"])

    assert shown.count("alice:em0") >= 3
    assert "…" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert re.search(r"cable0 +2/2 +\d+ +\d+\.\d{3} +\d+ +\d+ +\d+", shown)


def test_top_of_a_large_lab_shows_the_busiest(lab):
    with lab.building():
        nics = [lab.host(f"h{n}").nic("em0", f"10.0.0.{n + 1}/24") for n in range(30)]
        for n in range(0, 30, 2):
            lab.cable(nics[n], nics[n + 1], f"c{n}")
    lab.hosts["h28"].run(["ip", "addr", "add", "192.0.2.1/24", "dev", "em0"], check=True)
    lab.hosts["h29"].run(["ip", "addr", "add", "192.0.2.2/24", "dev", "em0"], check=True)
    over = threading.Event()
    thread = threading.Thread(
        target=lambda: [
            lab.hosts["h28"].ping("192.0.2.2", count=20, interval=0.01) for _ in iter(over.is_set, True)
        ]
    )
    thread.start()
    try:
        shown = on_a_terminal(["top", lab.name, "-n", "3", "-i", "1"])
    finally:
        over.set()
        thread.join()

    last = shown[shown.rindex("NIC ") :]
    assert "h28:em0" in last
    assert "c28" in last
    assert len(re.findall(r"and \d+ that are less busy", last)) == 2
    assert len(last.splitlines()) <= 24


def test_cut_and_mend(lab, pair):
    alice, _bob, cable = pair

    assert iflab("cut", lab.name, "cable0").returncode == 0
    eventually(lambda: link(alice, "em0")["operstate"] == "DOWN")  # that takes a kernel up to a second
    assert iflab("mend", lab.name, "cable0", "--towards", "bob:em0").returncode == 0
    assert not cable.ends[alice.vnet.ifunit("em0").if_softc].up
    assert iflab("mend", lab.name, "cable0").returncode == 0
    lab.wait_links()
    assert alice.ping("192.0.2.2").received == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("sniff", "em7"), "LAB has no NIC or wire 'em7'; there are alice:em0, bob:em0, cable0"),
        (("sniff", "cable0", "tcp", "prot", "80"), "syntax error\n  tcp prot 80\n      ^"),
        (("cut", "nothing"), "LAB has no wire 'nothing'; its wires are cable0"),
        (
            ("mend", "cable0", "--towards", "bob"),
            "bob is not plugged into cable0; plugged in: alice:em0, bob:em0",
        ),
    ],
)
def test_what_is_not_there_is_told_with_what_is(lab, pair, words, error):
    done = iflab(words[0], lab.name, *words[1:])

    assert done.returncode == 2
    assert error.replace("LAB", lab.name) in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_lab(lab, pair):
    for command in (["sniff", "nolab", "x"], ["top", "nolab"], ["cut", "nolab", "x"]):
        done = iflab(*command)
        assert done.returncode == 2
        assert "no running lab is called 'nolab'; running:" in done.stderr
        assert lab.name in done.stderr


def test_wireshark_lists_the_nics_and_captures_on_them(lab, chatter, tmp_path):
    need("tshark", "tshark")
    installed = iflab("extcap", "--install", "--dir", str(tmp_path))
    assert installed.stdout.strip() == str(tmp_path / "iflab")
    folders = subprocess.run(
        ["tshark", "-G", "folders"], capture_output=True, text=True, timeout=60 * PATIENCE
    ).stdout
    (folder,) = (
        line.split(":", 1)[1].strip()
        for line in folders.splitlines()
        if line.startswith(
            ("Extcap path", "Global Extcap path")
        )  # since Wireshark 4.2 there is a personal one, too
    )

    def tshark(*words):
        """With our script where Wireshark looks, in a mount namespace of its own."""
        command = f"mount --bind {tmp_path} {folder} && exec tshark {shlex.join(words)}"
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=60 * PATIENCE
        )

    place = f"iflab@{lab.name}.{os.getpid()}@alice:em0"
    listed = tshark("-D").stdout
    done = tshark(
        "-n", "-i", place, "-f", "icmp[icmptype] == icmp-echo", "-c", "3", "-T", "fields", "-e", "icmp.type"
    )

    assert f"{place} ({lab.name} alice:em0 (iflab))" in listed
    assert done.stdout.split() == ["8"] * 3, done.stderr


def test_the_script_for_wireshark_goes_to_a_folder_whose_parent_is_there(tmp_path):
    (tmp_path / "file").write_text("")

    made = iflab("extcap", "--install", "--dir", str(tmp_path / "extcap"))
    astray = iflab("extcap", "--install", "--dir", str(tmp_path / "no" / "such" / "extcap"))
    file = iflab("extcap", "--install", "--dir", str(tmp_path / "file"))

    assert made.stdout.strip() == str(tmp_path / "extcap" / "iflab")
    assert (astray.returncode, file.returncode) == (2, 2)
    assert (
        f"extcap cannot be made: there is no folder {tmp_path / 'no' / 'such'}; make it first"
        in astray.stderr
    )
    assert f"{tmp_path / 'file'} is no folder" in file.stderr
    assert astray.stderr.count("\n") == file.stderr.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_wireshark_asks_whether_a_filter_is_right():
    good = iflab("extcap", "--extcap-interface", "iflab-1-x", "--extcap-capture-filter", "tcp port 80")
    bad = iflab("extcap", "--extcap-interface", "iflab-1-x", "--extcap-capture-filter", "tcp prot 80")

    assert (good.stdout, good.returncode) == ("", 0)
    assert bad.stdout == "can't parse filter expression: syntax error\n"
