"""The command line, run as a user runs it."""

import inspect
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from iflab import Lab
from iflab.cli.app import app
from iflab.cli.errors import explain
from iflab.control import LabBusy, find_labs

from ..conftest import ROOT, interpreter_for_all
from ..linux_tools import PATIENCE, eventually, need, real_root

SCENARIOS = sorted((ROOT / "scenarios").glob("*.py"))
IFLAB = [sys.executable, "-c", "from iflab.cli import main; main()"]


# What 'unshare -Ur' does, in one process: an ordinary user may not reach the interpreter's folder a second time.
UNDER_UNSHARE = [
    sys.executable,
    "-c",
    "import os; from iflab.linux.syscalls import CLONE_NEWUSER, unshare; uid = os.geteuid(); unshare(CLONE_NEWUSER)\n"
    "for path, text in (('setgroups', 'deny'), ('uid_map', f'0 {uid} 1'), ('gid_map', f'0 {uid} 1')):\n"
    "    with open(f'/proc/self/{path}', 'w') as file: file.write(text)\n"
    "from iflab.cli import main; main()",
]


def iflab(*words, cwd=ROOT, **options):
    return subprocess.run(
        [*IFLAB, *words], capture_output=True, text=True, cwd=cwd, timeout=60 * PATIENCE, **options
    )


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_holds(path):
    done = iflab("run", str(path))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "held" in done.stdout


def test_run_shows_what_happens_and_how_to_repeat_it():
    done = iflab("run", "01", "--set", "count=2", "--seed", "7")

    assert "ping 192.0.2.2: 2 of 2 answered" in done.stdout
    assert done.stdout.rstrip().endswith("first_ping: held  (--seed 7 --set count=2)")
    assert done.stderr == ""


def test_an_assertion_that_fails_is_told_with_its_line(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text('"""It is wrong."""\ndef scenario(lab, n: int = 1):\n    assert n == 2\n')

    done = iflab("run", str(path))
    well = iflab("run", str(path), "--set", "n=2")

    assert (done.returncode, well.returncode) == (1, 0)
    assert "wrong: FAILED at wrong.py line 3: assert n == 2" in done.stdout


def test_what_a_scenario_must_be_told_is_told_with_set(tmp_path):
    path = tmp_path / "scenarios" / "70_par.py"
    path.parent.mkdir()
    path.write_text('"""It has no default."""\ndef scenario(lab, n: int):\n    assert n == 5\n')

    told, not_told = iflab("run", str(path), "--set", "n=5"), iflab("run", str(path))

    assert told.returncode == 0, told.stderr
    assert "--set n=5" in told.stdout
    assert not_told.returncode == 2
    assert not_told.stderr == "iflab: 70_par.py needs a value for n; write --set n=<int>\n"
    assert "n=<int>" in iflab("list", cwd=tmp_path).stdout
    assert {"n": None} in [
        row["parameters"] for row in json.loads(iflab("list", "--json", cwd=tmp_path).stdout)
    ]


def test_python_runs_the_command_by_the_name_of_the_package():
    by_name = subprocess.run([sys.executable, "-m", "iflab", "--version"], capture_output=True, text=True)
    wrong = subprocess.run([sys.executable, "-m", "iflab", "run", "xyzzy"], capture_output=True, text=True)

    assert by_name.stdout == iflab("--version").stdout
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("iflab: there is no scenario 'xyzzy'")


def test_paragraphs_of_the_help_are_a_line_each_and_wrap_where_the_terminal_ends():
    for command in app.registered_commands:
        for paragraph in inspect.getdoc(command.callback).split("\n\n"):
            assert "\n" not in paragraph, command.callback.__name__


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def scenario(lab):\n    raise SystemExit(0)\n", "FAILED at wrong.py line 2: raise SystemExit(0)"),
        (
            "class Odd(BaseException): ...\ndef scenario(lab):\n    raise Odd('odd')\n",
            "FAILED at wrong.py line 3: raise Odd('odd')  Odd: odd",
        ),
        (
            "SCHEDULE = 5\ndef scenario(lab): ...\n",
            "FAILED at SCHEDULE of wrong.py: a schedule of 5; write a list",
        ),
        (
            "SCHEDULE = [(0.1, 'cable0.cut'), ('soon', print)]\ndef scenario(lab): ...\n",
            "FAILED at SCHEDULE of wrong.py: row 2 of the schedule begins with 'soon'",
        ),
        (
            "import time\nSCHEDULE = [(0.0, 'cable9.cut')]\ndef scenario(lab):\n    time.sleep(0.3)\n",
            "FAILED at its schedule: cable9.cut() failed: LabError: 'cable9.cut' names nothing to call",
        ),
    ],
    ids=["exit", "odd", "no table", "wrong row", "wrong name"],
)
def test_whatever_a_scenario_does_instead_of_coming_to_its_end_it_has_not_held(tmp_path, text, said):
    path = tmp_path / "wrong.py"
    path.write_text(text)

    done = iflab("run", str(path))

    assert done.returncode == 1, done.stderr
    assert said in done.stdout


def test_a_scenario_that_raises_is_told_with_its_traceback(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("def scenario(lab):\n    {}['key']\n")

    done = iflab("run", str(path))

    assert done.returncode == 1
    assert "KeyError: 'key'" in done.stderr
    assert "Traceback" in done.stderr


def test_json_is_for_programs():
    done = iflab("run", "01", "--json", "--seed", "3")

    outcome = json.loads(done.stdout)
    assert (outcome["scenario"], outcome["held"], outcome["seed"]) == ("first_ping", True, 3)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run", "frist_ping"], "there is no scenario 'frist_ping'; did you mean first_ping?"),
        (["run", "xyzzy"], "there is no scenario 'xyzzy'; 'iflab list' shows those that there are"),
        (["run", "01", "--set", "count=many"], "count='many' is no int; the default is 3"),
        (["run", "01", "--set", "cuont=3"], "01_first_ping.py has no parameter 'cuont'; it has count (int)"),
        (["run", "01", "--set", "count"], "--set 'count' sets nothing; write --set name=value"),
        (
            ["run", "01", "--pcap", "/nowhere/at/all.pcap"],
            "No such file or directory: '/nowhere/at/all.pcap'",
        ),
        (["exec", "nolab", "alice", "true"], "no running lab is called 'nolab'; running:"),
    ],
)
def test_bad_words_get_one_line_and_status_2(words, text):
    done = iflab(*words)

    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_list_and_check_for_people_and_programs():
    listed = json.loads(iflab("list", "--json").stdout)
    assert listed[0]["name"] == "first_ping"
    assert listed[0]["parameters"] == {"count": 3}
    assert "TCP survives" in iflab("list").stdout

    findings = {row["name"]: row for row in json.loads(iflab("check", "--json").stdout)}
    assert findings["kernel"]["ok"]
    assert findings["tcpdump"]["required"] is False


def test_check_names_a_missing_tun_with_the_remedy():
    done = iflab("check", env={**os.environ, "IFLAB_TUN": "/dev/net/nowhere"})
    ran = iflab("run", "01", env={**os.environ, "IFLAB_TUN": "/dev/net/nowhere"})

    assert done.returncode == 3
    assert "modprobe tun" in done.stdout
    assert ran.returncode == 3
    assert (
        "/dev/net/nowhere is not there; load the module with 'modprobe tun' as root"
        in ran.stdout + ran.stderr
    )


def test_help_teaches_by_example():
    done = iflab("--help")

    for words in ("iflab check", "iflab run scenarios/01_first_ping.py", "iflab exec link_flap alice"):
        assert words in done.stdout


def test_the_shell_has_a_lab_at_hand():
    done = iflab(
        "shell",
        input="alice, bob, cable = lab.pair('192.0.2.1/24', '192.0.2.2/24')\nprint(alice.ping('192.0.2.2'))\n",
    )

    assert done.returncode == 0
    assert "1 of 1 answered" in done.stdout


def test_pcap_is_read_by_tshark(tmp_path):
    need("tshark", "tshark")
    path = tmp_path / "ping.pcap"

    assert iflab("run", "01", "--set", "count=4", "--pcap", str(path)).returncode == 0
    read = subprocess.run(
        [
            "tshark",
            "-r",
            str(path),
            "-Y",
            "icmp || icmpv6.type == 128 || icmpv6.type == 129",
            "-T",
            "fields",
            "-e",
            "frame.protocols",
        ],
        capture_output=True,
        text=True,
    )

    assert len(read.stdout.split()) == 16
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_ends_cleanly_and_its_files_are_whole(tmp_path, number):
    need("capinfos", "tshark")
    pcap, page = tmp_path / "run.pcapng", tmp_path / "run.html"
    process = subprocess.Popen(
        [*IFLAB, "run", "link_flap", "--set", "cut_for=30", "--pcap", str(pcap), "--report", str(page)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    for line in process.stdout:
        if "cut" in line and "cable0" in line:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=20 * PATIENCE)

    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert "link_flap: interrupted  (--seed" in out
    assert subprocess.run(["capinfos", str(pcap)], capture_output=True).returncode == 0
    assert "interrupted" in page.read_text()
    assert json.loads(Path(f"{pcap}.record").read_text().splitlines()[-1]).keys() >= {"end"}


def test_a_reader_that_goes_stops_no_run():
    process = subprocess.Popen(
        [*IFLAB, "run", "01"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    process.stdout.readline()
    process.stdout.close()

    assert process.wait(timeout=60 * PATIENCE) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize("words", ["list", "check", "ps", "run 01"])
def test_without_a_standard_output_there_is_no_traceback(words):
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {words} >&-', "sh", *IFLAB], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", ["--pcap", "--record"])
def test_a_run_whose_file_is_cut_short_says_so_with_its_status(option):
    done = iflab("run", "01", option, "/dev/full", *(["--record", "/dev/null"] if option == "--pcap" else []))

    assert done.returncode == 2
    assert "first_ping: held" in done.stdout
    assert "No space left on device" in done.stderr


def test_two_files_are_not_one(tmp_path):
    done = iflab("run", "01", "--pcap", str(tmp_path / "x"), "--record", str(tmp_path / "." / "x"))

    assert done.returncode == 2
    assert re.fullmatch(r"iflab: --pcap and --record would both write \S+; name another file\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_no_folder_is_refused_before_the_run(tmp_path):
    done = iflab("run", "01", "--pcap", str(tmp_path / "none" / "x"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file or directory" in done.stderr


def test_a_record_that_was_cut_short_is_replayed_with_a_word(tmp_path):
    whole, half = tmp_path / "whole.record", tmp_path / "half.record"
    assert iflab("run", "01", "--record", str(whole)).returncode == 0
    half.write_bytes(whole.read_bytes()[:-10])

    assert "has no end" not in iflab("replay", str(whole)).stdout
    assert f"{half} has no end: its run, or its file, was cut short" in iflab("replay", str(half)).stdout


@pytest.mark.parametrize(
    ("variable", "value", "words", "status", "text"),
    [
        ("IFLAB_TUN", "/dev/null", "run 01", 3, "/dev/null is not the TUN clone device"),
        ("IFLAB_TUN", "/dev/null", "check", 3, "/dev/null is not the TUN clone device"),
        ("IFLAB_TUN", "/etc/passwd", "check", 3, "/etc/passwd is not the TUN clone device"),
        ("IFLAB_RUN_DIR", "relative", "run 01", 2, "name another with IFLAB_RUN_DIR"),
        ("IFLAB_RUN_DIR", "/proc/x", "run 01", 2, "/proc/x is not"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(variable, value, words, status, text):
    done = iflab(*words.split(), env={**os.environ, variable: value})

    assert done.returncode == status
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "chmod" not in done.stdout + done.stderr


# from another terminal


@pytest.fixture
def running(lab):
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    return lab, alice, bob


def test_ps_lists_hosts_nics_and_addresses(running):
    lab, _, _ = running

    shown = [line.split() for line in iflab("ps").stdout.splitlines()]
    described = {row["name"]: row for row in json.loads(iflab("ps", "--json").stdout)}

    assert [lab.name, str(os.getpid()), "alice", "em0", "up", "192.0.2.1"] in [row[:6] for row in shown]
    assert described[lab.name]["wires"] == {"cable0": ["alice:em0", "bob:em0"]}


def test_exec_runs_in_the_host_and_gives_the_status_back(running):
    lab, _, _ = running

    done = iflab("exec", lab.name, "bob", "sh", "-c", "hostname; ip -br addr show em0; exit 5")

    assert done.returncode == 5
    assert done.stdout.startswith("bob\n")
    assert "192.0.2.2/24" in done.stdout
    assert iflab("exec", lab.name, "bob", "--", "ls", "/sys/class/net").stdout.split() == ["em0", "lo"]


@pytest.mark.parametrize(
    ("words", "status"),
    [(["exec", "LAB", "alice", "true"], 2), (["cut", "LAB", "cable0"], 2), (["ps"], 0)],
    ids=["exec", "cut", "ps"],
)
def test_a_lab_that_is_busy_is_told_in_one_line(running, words, status):
    lab, _, _ = running

    with lab.lock:
        done = iflab(*(lab.name if word == "LAB" else word for word in words))

    assert done.returncode == status
    (said,) = [line for line in done.stderr.splitlines() if lab.name in line]
    assert said.startswith(f"iflab: {lab.name}.{os.getpid()} does not answer within 5 s")
    assert "Traceback" not in done.stderr


def test_a_request_that_takes_too_long_is_no_traceback(running, monkeypatch):
    lab, _, _ = running
    ((_, client),) = find_labs(lab.name)
    monkeypatch.setattr("iflab.control._TIMEOUT", 0.2)

    with lab.lock, pytest.raises(LabBusy, match=r"does not answer within 0\.2 s") as refused:
        client.ask(do="cut", wire="cable0")

    assert explain(refused.value) == (2, str(refused.value))


def test_exec_says_what_is_there_instead(running):
    lab, _, _ = running

    no_host = iflab("exec", lab.name, "carol", "true")
    no_program = iflab("exec", lab.name, "bob", "no-such-program")
    no_right = iflab("exec", lab.name, "bob", "/etc")

    assert (no_host.returncode, no_program.returncode, no_right.returncode) == (2, 127, 126)
    assert "cannot run '/etc': Permission denied" in no_right.stderr
    assert "has no host 'carol'; its hosts are alice, bob" in no_host.stderr
    assert "cannot run 'no-such-program': No such file or directory" in no_program.stderr


def test_what_exec_started_ends_with_the_lab(running):
    lab, _, _ = running
    process = subprocess.Popen([*IFLAB, "exec", lab.name, "alice", "sleep", "600"], cwd=ROOT)
    eventually(lambda: "sleep 600" in lab.hosts["alice"].run("ps ax").stdout)

    lab.close()

    assert process.wait(timeout=10 * PATIENCE) == 137


@real_root
def test_a_stranger_gets_nothing(open_place, monkeypatch):
    monkeypatch.setenv("IFLAB_RUN_DIR", str(open_place))
    with Lab() as lab:
        lab.pair("192.0.2.1/24", "192.0.2.2/24")
        strangers_try(lab)


def strangers_try(lab):
    path = lab._control.path
    other = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups"]
    program = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r})"

    barred = subprocess.run([*other, sys.executable, "-c", program], capture_output=True, text=True)
    assert "PermissionError" in barred.stderr

    # Even one who got past the modes of directory and socket is told nothing.
    directory = os.path.dirname(path)
    for place, mode in ((os.path.dirname(directory), 0o755), (directory, 0o755), (path, 0o666)):
        os.chmod(place, mode)
    asked = subprocess.run(
        [*other, sys.executable, "-c", program + "; print(s.recv(1000))"],
        capture_output=True,
        text=True,
    )
    assert "this lab belongs to another user" in asked.stdout
    assert "192.0.2.1" not in asked.stdout


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"not json\n", b"[1]\n", b'{"do": "destroy"}\n', b"\xff" * 100 + b"\n", b'{"do": {}}\n'],
)
def test_garbage_gets_an_answer_and_harms_nothing(running, garbage):
    lab, alice, _ = running
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5 * PATIENCE)
        client.connect(lab._control.path)
        client.sendall(garbage)
        answer = client.makefile().readline()

    assert json.loads(answer)["ok"] is False
    assert alice.ping("192.0.2.2").received == 1


def test_a_client_that_says_nothing_holds_up_nobody(running):
    lab, _, _ = running
    silent = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for client in silent:
        client.connect(lab._control.path)

    assert lab.name in iflab("ps").stdout
    for client in silent:
        client.close()


# an ordinary user


@pytest.mark.parametrize(
    ("scenario", "program"),
    [(path.stem, IFLAB) for path in SCENARIOS] + [(path.stem, UNDER_UNSHARE) for path in SCENARIOS[:5]],
    ids=[path.stem for path in SCENARIOS] + [f"{path.stem} under unshare -Ur" for path in SCENARIOS[:5]],
)
def test_the_same_scenario_as_an_ordinary_user(ordinary_user, scenario, program):
    """Without root, in a user namespace, with nothing but a tun device that may be opened."""
    done = ordinary_user.run(*program, "run", f"scenarios/{scenario}.py", cwd=ordinary_user.source)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "held" in done.stdout


def test_programs_that_give_up_rights_run_for_an_ordinary_user(ordinary_user):
    """tcpdump sets its groups, which fails in a user namespace of one user; in hosts it does nothing."""
    need("tcpdump", "tcpdump")
    program = """
import os, subprocess, sys
from iflab import Lab
tcpdump = ["tcpdump", "-Z", "root", "-nlti", "em0", "-c", "2", "icmp"]
with Lab("groups") as lab:
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    iflab = [sys.executable, "-c", "from iflab.cli import main; main()"]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for start in (
        lambda: alice.popen(tcpdump, **options),
        lambda: subprocess.Popen([*iflab, "exec", "groups", "alice", *tcpdump], **options),
    ):
        watching = start()
        for line in watching.stderr:
            print(line, end="")
            if "listening" in line:
                break
        print(alice.ping("192.0.2.2"))
        print(watching.communicate(timeout=30)[0])
    for number in range(5):
        subprocess.run([*iflab, "exec", "groups", "bob", "true"], check=True)
        if number == 0:  # bob's namespaces are open from now on
            files = len(os.listdir("/proc/self/fd"))
    print("files left open:", len(os.listdir("/proc/self/fd")) - files)
"""
    python = interpreter_for_all()

    done = ordinary_user.run(python, "-c", program)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("192.0.2.1 > 192.0.2.2: ICMP echo request") == 2
    assert "files left open: 0" in done.stdout


def test_without_user_namespaces_the_remedy_is_named(monkeypatch):
    from iflab.linux import Missing, userns

    monkeypatch.setattr(userns, "have_cap", lambda cap: False)
    monkeypatch.setattr(userns, "thread_count", lambda: 1)

    def refuse(flags):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(userns, "unshare", refuse)
    with pytest.raises(Missing, match=r"user namespaces are not to be had \(Operation not permitted\); "):
        userns.ensure_privileges()
    monkeypatch.setattr(
        userns, "unshare", lambda flags: None
    )  # and then no map may be written: AppArmor's way
    monkeypatch.setattr(userns, "_unshare_as_root", lambda flags: refuse(flags))
    with pytest.raises(Missing, match=r"user namespaces are not to be had \(Operation not permitted\); "):
        userns.ensure_privileges()
    monkeypatch.setattr(userns, "thread_count", lambda: 2)
    monkeypatch.setenv(userns.WHY_NOT, "user namespaces are switched off")
    with pytest.raises(Missing, match="user namespaces are switched off"):
        userns.ensure_privileges()
    monkeypatch.delenv(userns.WHY_NOT)
    with pytest.raises(Missing, match=re.escape("call iflab.linux.ensure_privileges() first thing")):
        userns.ensure_privileges()
