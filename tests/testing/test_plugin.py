"""The pytest plug-in, run as its users run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iflab.testing.workers import asks_for_labs

from ..conftest import interpreter_for_all
from ..linux_tools import PATIENCE, eventually

pytest_plugins = ["pytester"]

PAIR = """
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP

@pytest.fixture
def pair(lab):
    return lab.pair("192.0.2.1/24", "192.0.2.2/24")
"""


def run(pytester, code, *words):
    """pytest in a process of its own, without what this project's own tests are configured with."""
    pytester.makepyfile(PAIR + code)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *words)


def test_expectations_that_come_true(pytester):
    done = run(
        pytester,
        """
def test_all(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2", count=3, interval=0.01)
    packet = lab.expect("alice:em0", "arp and arp[6:2] == 2", within=1)
    assert packet[ARP].psrc == "192.0.2.2"
    assert lab.expect(cable, IP(src="192.0.2.1") / ICMP(type="echo-request"))[IP].dst == "192.0.2.2"
    lab.expect("bob:em0", ICMP, direction="in")
    lab.expect("bob:em0", lambda packet: IP in packet and packet[IP].ttl == 64)
    lab.expect_no(cable, "udp port 53", within=0.05)
    assert len(lab.expect_count(cable, "icmp[icmptype] == icmp-echo", 3, within=0.1)) == 3
    lab.expect_count(cable, "icmp", at_least=6)
    lab.expect_count(cable, "icmp", at_most=6, within=0.05)
    order = lab.expect_order(cable, "arp[6:2] == 1", "arp[6:2] == 2", ICMP(type=8), ICMP(type=0))
    assert [packet.time for packet in order] == sorted(packet.time for packet in order)
    lab.mark()
    lab.expect_no(cable, "icmp[icmptype] == icmp-echo", within=0.05)

def test_a_frame_that_is_still_to_come(lab, pair):
    import threading
    alice, bob, cable = pair
    threading.Timer(0.1, alice.ping, ("192.0.2.2",)).start()
    lab.expect("bob:em0", ICMP(type=8), within=5)
""",
    )
    done.assert_outcomes(passed=2)


def test_the_nearest_miss_is_shown_field_by_field(pytester):
    done = run(
        pytester,
        """
def test_pattern(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2")
    lab.expect(cable, IP(src="192.0.2.1", dst="192.0.2.9", ttl=64) / ICMP(type="echo-request"), within=0.1)

def test_filter(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2")
    lab.expect("alice:em0", "icmp and src host 192.0.2.2 and icmp[icmptype] == icmp-echo", within=0.1)

def test_order(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2")
    lab.expect_order(cable, ICMP(type=8), ICMP(type=0), "udp port 53", within=0.1)

def test_too_early(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2")
    lab.expect_order(cable, ICMP(type=0), ICMP(type=8), within=0.1)

def test_count(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2", count=2, interval=0.01)
    lab.expect_count(cable, ICMP(type=8), 3, within=0.1)

def test_too_many(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2", count=3, interval=0.01)
    lab.expect_count(cable, ICMP(type=8), at_most=2, within=0.1)

def test_none(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2")
    lab.expect_no(cable, "icmp", within=0.1)

def test_lost(lab, pair):
    alice, bob, cable = pair
    cable.add_hook(lambda frame: False)
    alice.ping("192.0.2.2", timeout=0.3)
    lab.expect("bob:em0", "arp", within=0.1, direction="in")
""",
    )
    done.assert_outcomes(failed=8)
    out = done.stdout.str()
    assert (
        "cable0: no frame IP(ttl=64, src=192.0.2.1, dst=192.0.2.9) / ICMP(type=echo-request) within 0.1 s"
        in out
    )
    assert "IP.dst is 192.0.2.2, wanted 192.0.2.9" in out
    assert "not: icmp[icmptype] == icmp-echo" in out or "not: src host 192.0.2.2" in out
    assert "number 3 of 3 is missing within 0.1 s: udp port 53" in out
    assert re.search(
        r"one came too early: \d\.\d{6} s  Ether / IP / ICMP 192.0.2.1 > 192.0.2.2 echo-request", out
    )
    assert "passed there since" in out
    assert "2 frames ICMP(type=echo-request) within 0.1 s, wanted 3" in out
    request = r"\n.* +(\d\.\d{6}) s  alice:em0  Ether / IP / ICMP 192.0.2.1 > 192.0.2.2 echo-request 0.*"
    too_many = re.search(
        rf"3 frames ICMP\(type=echo-request\) within 0.1 s, wanted at most 2:{request}{request}{request}\n",
        out,
    )
    assert too_many
    assert list(too_many.groups()) == sorted(too_many.groups())
    assert "there is a frame icmp, " in out
    assert re.search(r"lost meanwhile: cable0: hook \d+", out)


def test_a_failure_keeps_and_names_capture_ladder_and_events(pytester):
    done = run(
        pytester,
        """
@pytest.mark.iflab(seed=77)
def test_it(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2")
    cable.cut()
    lab.expect(cable, "udp", within=0.1)

def test_passes(lab, pair, tmp_path):
    pair[0].ping("192.0.2.2")
    print("FOLDER", tmp_path)
""",
        "-rP",
    )
    done.assert_outcomes(failed=1, passed=1)
    out = done.stdout.str()
    assert "seed 77 (--iflab-seed=77)" in out
    paths = kept(out)
    assert set(paths) == {"lab.pcapng", "ladder.txt", "events.txt", "report.html"}
    ladder = paths["ladder.txt"].read_text()
    there, back = r"\|-+>\|", r"\|<-+\|"
    if ladder.split()[0] == "bob:em0":  # whose first frame went first has the left column
        there, back = back, there
    assert re.search(there + r"  Ether / IP / ICMP 192.0.2.1 > 192.0.2.2 echo-request", ladder)
    assert re.search(back + r"  Ether / IP / ICMP 192.0.2.2 > 192.0.2.1 echo-reply", ladder)
    assert "cable0: cut" in paths["events.txt"].read_text()
    assert "test_it" in paths["report.html"].read_text()
    read = subprocess.run(
        ["tshark", "-n", "-r", str(paths["lab.pcapng"]), "-Y", "icmp"], capture_output=True, text=True
    )
    assert len(read.stdout.splitlines()) == 2
    (folder,) = re.findall(r"^FOLDER (\S+)$", out, re.M)
    assert not (Path(folder) / "iflab").exists()


def kept(out):
    """What a failure says that it left, by name."""
    return {Path(name).name: Path(name) for name in re.findall(r"^(\S+/iflab/\S+)$", out, re.M)}


def test_a_fixture_that_fails_leaves_the_same(pytester):
    done = run(
        pytester,
        """
@pytest.fixture
def ready(lab, pair):
    pair[0].ping("192.0.2.2")
    lab.wait_ready(timeout=0.1, listening={pair[1]: ["udp/67"]})

@pytest.mark.iflab(capture="never")
def test_never(ready):
    pass

def test_it(ready):
    pass
""",
        "-p",
        "no:randomly",
    )
    done.assert_outcomes(errors=2)
    out = done.stdout.str()
    assert "bob: nobody listens on udp/67" in out
    assert "nothing could be kept" not in out
    paths = kept(out)
    assert set(paths) == {"lab.pcapng", "ladder.txt", "events.txt", "report.html"}
    assert "echo-request" in paths["ladder.txt"].read_text()
    assert "nobody listens on udp/67" in paths["report.html"].read_text()


def test_somebodys_own_log_goes_on(pytester):
    done = run(
        pytester,
        """
told = []

@pytest.fixture
def iflab_params(iflab_params):
    return {**iflab_params, "on_log": lambda seconds, text: told.append(text)}

def test_it(lab, pair):
    pair[2].cut()
    assert "cable0: cut" in told
""",
    )
    done.assert_outcomes(passed=1)


def test_an_account_that_does_not_hold_fails_the_test(pytester):
    done = run(
        pytester,
        """
def test_it(lab, pair):
    alice, bob, cable = pair
    alice.ping("192.0.2.2")
    cable.history.sent += 1

def drift(host):
    host.vnet.ifunit("em0").if_fib = 3  # of all fields the one that no late notice brings back

def test_drift(lab, pair):
    drift(pair[0])

@pytest.mark.iflab(check=False)
def test_drift_is_fine(lab, pair):
    drift(pair[0])
""",
    )
    done.assert_outcomes(passed=3, errors=2)
    done.stdout.fnmatch_lines(["*frames that are not accounted for:*", "*cable0: Flow(sent=*"])
    out = done.stdout.str()
    assert "alice:em0: fib" in out
    assert "alice:em0: fib" in kept(out)["report.html"].read_text()  # of the last one that failed


def test_markers_options_and_params(pytester):
    done = run(
        pytester,
        """
@pytest.mark.iflab(seed=5, capture="always")
def test_marked(lab, tmp_path):
    assert lab.seed == 5
    assert (tmp_path / "iflab" / "lab.pcapng").exists()

def test_option(lab):
    assert lab.seed == 9
    assert lab.patience == 4

class TestOwn:
    @pytest.fixture
    def iflab_params(self, iflab_params):
        return {**iflab_params, "name": "mine"}

    def test_name(self, lab):
        assert lab.name == "mine"
""",
        "--iflab-seed=9",
        "--iflab-slow=4",
    )
    done.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        ("sed=3", "takes capture, check, seed, not sed"),
        ("capture='now'", "capture is one of failed, always, never"),
    ],
)
def test_a_wrong_marker_is_told(pytester, marker, error):
    done = run(pytester, f"@pytest.mark.iflab({marker})\ndef test_it(lab):\n    pass\n")

    assert error in done.stdout.str() + done.stderr.str()
    assert done.ret != 0


def test_in_parallel(pytester):
    done = run(
        pytester,
        """
@pytest.mark.parametrize("number", range(6))
def test_it(lab, pair, number):
    pair[0].ping("192.0.2.2")
    lab.expect("bob:em0", ICMP)
""",
        "-n2",
    )
    done.assert_outcomes(passed=6)


def test_a_call_that_failed_at_its_time_fails_the_test(pytester):
    done = run(
        pytester,
        """
import time

def wait_for_it(lab):
    deadline = time.monotonic() + 20
    while not lab.failed_calls and time.monotonic() < deadline:
        time.sleep(0.01)

def test_it(lab, pair):
    lab.at(0.01, "cabel0.cut")
    wait_for_it(lab)

@pytest.mark.iflab(check=False)
def test_it_is_expected(lab, pair):
    lab.at(0.01, "cabel0.cut")
    wait_for_it(lab)
""",
    )
    done.assert_outcomes(passed=2, errors=1)
    done.stdout.fnmatch_lines(["*calls that failed at their time:*", "*'cabel0.cut' names nothing to call*"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("where", ["test", "fixture"])
def test_a_signal_ends_the_run_and_takes_the_lab_down(pytester, tmp_path, number, status, where):
    ready = tmp_path / "ready"
    nap = f"62.{os.getpid()}{int(number)}{len(where)}"  # not another test's
    pytester.makepyfile(
        f"""
import os, time, pytest

@pytest.fixture
def slow(lab):
    if {where == "fixture"}:
        stay(lab)

def stay(lab):
    lab.host("alice").popen("sleep {nap}")
    open({str(ready)!r}, "a").write(lab.name)
    time.sleep(62)

@pytest.mark.parametrize("number", range(3))
def test_it(lab, slow, number):
    stay(lab)
"""
    )
    process = pytester.popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert eventually(lambda: ready.exists() and ready.read_text())

    process.send_signal(number)
    out, _ = process.communicate(timeout=30 * PATIENCE)

    assert process.returncode == status
    assert f"ended by signal {int(number)}" in out
    assert ready.read_text().count("lab") == 1
    assert not subprocess.run(["pgrep", "-f", f"^sleep {nap}$"], capture_output=True).stdout


def test_the_workers_of_an_ordinary_user_have_labs(ordinary_user):
    """Each begins in a user namespace; a project that speaks of no lab is left alone."""
    python = interpreter_for_all()
    (ordinary_user.place / "labs").mkdir()
    (ordinary_user.place / "labs" / "test_labs.py").write_text(
        """
import os, pytest

@pytest.mark.parametrize("number", range(4))
def test_it(lab, number, tmp_path):
    alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    assert alice.ping("192.0.2.2").received == 1
    (tmp_path / "file").write_text("mine")
"""
    )
    (ordinary_user.place / "others").mkdir()
    (ordinary_user.place / "others" / "test_others.py").write_text(
        f"import os\n\ndef test_it():\n    assert os.getuid() == {ordinary_user.uid}\n"
    )
    pytest_ = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.")

    done = ordinary_user.run(*pytest_, "-n2", "labs")
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    done = ordinary_user.run(*pytest_, "-n2", "others")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    done = ordinary_user.run(*pytest_, "-n2", "-o", "iflab_user_namespace=false", "labs")
    assert "4 errors" in done.stdout
    assert "or set iflab_user_namespace = true" in done.stdout
    done = ordinary_user.run(*pytest_, "labs")  # in one process the first lab enters it
    assert "4 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "text", "asks"),
    [
        ("test_a.py", "def test_it(lab):\n    pass\n", True),
        ("test_a.py", "def test_it(tmp_path,\n            lab):\n    pass\n", True),
        ("test_a.py", "from iflab import Lab\n", True),
        ("pyproject.toml", "[project]\ndependencies = ['iflab']\n", True),
        ("test_a.py", "def test_it(label, slab):\n    pass\n", False),
        ("notes.txt", "iflab\n", False),
        (".venv/lib/a.py", "import iflab\n", False),
    ],
)
def test_who_asks_for_labs(tmp_path, name, text, asks):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

    assert asks_for_labs(tmp_path, [str(tmp_path)]) is asks
    assert asks_for_labs(tmp_path, [f"{path}::test_it"]) is (asks or name in ("notes.txt", ".venv/lib/a.py"))


def test_readiness(pytester):
    done = run(
        pytester,
        """
from iflab import LabError

def asks(host):
    # hosts of a lab do not ask whether an address is free
    host.run("sysctl -qw net.ipv6.conf.em0.accept_dad=1 net.ipv6.conf.em0.dad_transmits=1", check=True)

def test_ready(lab, pair):
    alice, bob, cable = pair
    bob.popen("sleep 0.3; exec python3 -m http.server 80", listens="tcp/80", stderr=-3, stdout=-3)
    lab.wait_ready(timeout=20)
    assert "tcp/80" in bob.listening()

def test_late(lab, pair):
    alice, bob, cable = pair
    with pytest.raises(TimeoutError, match="not ready after 0.2 s: bob: nobody listens on udp/67"):
        lab.wait_ready(timeout=0.2, listening={bob: ["udp/67"]})

def test_dead(lab, pair):
    alice, bob, cable = pair
    bob.popen("exit 3", listens="udp/67")
    with pytest.raises(LabError, match="bob: .* ended with status 3, and was to listen on udp/67"):
        lab.wait_ready()

def test_an_address_that_is_taken(lab, pair):
    alice, bob, cable = pair
    alice.run("ip addr add 2001:db8::1/64 dev em0 nodad", check=True)
    asks(bob)
    bob.run("ip addr add 2001:db8::1/64 dev em0", check=True)
    with pytest.raises(LabError, match="bob:em0 2001:db8::1 is somebody else's, too"):
        lab.wait_ready(timeout=20)

def test_an_address_that_is_tried(lab, pair):
    asks(pair[0])
    pair[0].run("ip addr add 2001:db8::7/64 dev em0", check=True)
    with pytest.raises(TimeoutError, match="not ready after 0.01 s: alice:em0 2001:db8::7 is tentative"):
        lab.wait_ready(timeout=0.01)
    lab.wait_ready(timeout=20)

def test_no_port(lab, pair):
    with pytest.raises(LabError, match="'67' is no port; write tcp/80 or udp/67"):
        pair[0].popen("true", listens="67")
""",
    )
    done.assert_outcomes(passed=6)


def test_a_slow_machine_waits_longer(pytester):
    done = run(
        pytester,
        """
import time
from iflab import ExpectationError

def test_it(lab, pair):
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="not ready after 0.4 s"):
        lab.wait_ready(timeout=0.1, listening={pair[1]: ["udp/67"]})
    assert time.monotonic() - began >= 0.4
    began = time.monotonic()
    with pytest.raises(ExpectationError, match="within 0.4 s"):
        lab.expect("cable0", "udp port 9", within=0.1)
    assert time.monotonic() - began >= 0.4
""",
        "--iflab-slow=4",
    )
    done.assert_outcomes(passed=1)


def test_without_a_lab_nothing_is_imported(pytester):
    pytester.makepyfile(
        """
import sys

def test_it():
    assert "scapy" not in sys.modules
    assert "iflab.lab" not in sys.modules
"""
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest").assert_outcomes(
        passed=1
    )


def test_where_no_lab_can_run(pytester, monkeypatch):
    monkeypatch.setenv("IFLAB_TUN", "/dev/net/nowhere")
    code = "def test_it(lab):\n    pass\n"
    run(pytester, code).assert_outcomes(skipped=1)
    run(pytester, code, "--iflab-require").assert_outcomes(errors=1)
