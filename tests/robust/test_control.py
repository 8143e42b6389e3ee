"""The control socket attacked: nobody gets in, nobody else is slowed."""

import array
import json
import os
import random
import select
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from iflab import Lab, Missing, control
from iflab.control import Client

from ..linux_tools import PATIENCE, eventually, open_files, real_root


@pytest.fixture
def attacked(lab):
    alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    return lab, alice, lab._control.path


def connected(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10 * PATIENCE)
    sock.connect(path)
    return sock


def says(path, data):
    """What comes back for these octets."""
    with connected(path) as sock:
        try:
            sock.sendall(data)
            return sock.makefile("rb").readline()
        except ConnectionError:
            return b""


def hello(path):
    """The answer to a right request, and how long it took."""
    began = time.monotonic()
    answer, fds = Client(path).ask(do="hello")
    assert fds == []
    return answer["name"], time.monotonic() - began


def test_a_flood_of_silent_connections_keeps_nobody_out(attacked):
    lab, alice, path = attacked
    threads = threading.active_count()
    silent = []
    for _ in range(150):
        silent.append(connected(path))
        if len(silent) % 50 == 0:
            name, seconds = hello(path)
            assert name == lab.name
            assert seconds < 2 * PATIENCE
    assert threading.active_count() <= threads + control._MOST_CLIENTS
    assert alice.ping("192.0.2.2", 3, interval=0.01).received == 3

    for sock in silent:
        sock.close()
    eventually(lambda: threading.active_count() <= threads)
    assert hello(path)[0] == lab.name


def test_places_that_are_all_at_work_are_no_ground_to_wait(attacked):
    _, alice, path = attacked
    monitors = []
    for _ in range(control._MOST_CLIENTS):
        sock = connected(path)
        sock.sendall(b'{"do": "monitor"}\n')
        assert json.loads(sock.makefile().readline())["ok"]
        monitors.append(sock)

    refused = json.loads(says(path, b'{"do": "hello"}\n') or b'{"ok": false, "error": "try again"}')

    assert refused["ok"] is False
    assert "try again" in refused["error"]
    assert alice.ping("192.0.2.2").received == 1
    for sock in monitors:
        sock.close()
    eventually(lambda: json.loads(says(path, b'{"do": "hello"}\n') or b'{"ok": false}')["ok"])


def test_a_request_that_comes_by_drops_is_cut_off(attacked, monkeypatch):
    _, _, path = attacked
    monkeypatch.setattr(control, "_TIMEOUT", 0.5)
    began = time.monotonic()

    def drip(sock):
        while time.monotonic() < began + 10 * PATIENCE:
            sock.sendall(b" ")
            time.sleep(0.05)

    with connected(path) as sock, pytest.raises(OSError, match=r"Broken pipe|reset"):
        drip(sock)
    assert time.monotonic() - began < 5 * PATIENCE


def test_garbage_of_every_kind_is_answered_and_changes_nothing(attacked):
    lab, alice, path = attacked
    alice.run("true")  # its namespaces are open from now on
    before = (alice.ifconfig("em0"), set(lab.wires), open_files(collect=True))
    rng = random.Random(5)
    verbs = [
        "hello",
        "exec",
        "ifconfig",
        "netstat",
        "sysctl",
        "monitor",
        "top",
        "cut",
        "mend",
        "sniff",
        "no",
        None,
    ]
    things = [None, 0, -1, 1e400, "", "alice", "nobody", [], {}, ["x"], "\ud800", True, "x" * 5000]
    requests = [
        b"[" * 60_000 + b"\n",
        b'{"a":' * 20_000 + b"\n",
        b"9" * 10_000 + b"\n",
        b"\0" * 70_000,
        b"\xff\xfe" * 100 + b"\n",
        b"\n",
        b"",
        *(rng.randbytes(rng.randrange(300)).replace(b"\n", b"") + b"\n" for _ in range(40)),
    ]
    for _ in range(120):
        request = {"do": rng.choice(verbs)}
        for key in rng.sample(["host", "args", "wire", "towards", "places", "filter", "snaplen"], 3):
            request[key] = rng.choice(things)
        if request["do"] in ("monitor", "sniff", "cut", "mend", "exec") and rng.random() < 0.9:
            request["host"] = request["wire"] = "nobody"
            request["places"] = rng.choice(["x", [1], ["nobody"], None])
        requests.append(json.dumps(request).encode() + b"\n")
    for request in requests:
        with connected(path) as sock:
            try:
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
                answer = sock.makefile("rb").readline()
            except ConnectionError:
                continue
            assert answer == b"" or isinstance(json.loads(answer)["ok"], bool)

    assert hello(path)[0] == lab.name
    assert alice.ping("192.0.2.2").received == 1
    eventually(lambda: (alice.ifconfig("em0"), set(lab.wires), open_files()) == before)


def test_file_descriptors_that_a_caller_sends_are_not_kept(attacked):
    _, _, path = attacked
    before = open_files(collect=True)
    with open("/dev/null") as null:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 50))]
        for _ in range(5):
            with connected(path) as sock:
                sock.sendmsg([b'{"do": "hello"}\n'], rights)
                assert json.loads(sock.makefile().readline())["ok"]
    eventually(lambda: open_files() == before)


@pytest.mark.parametrize(
    "stream", [{"do": "monitor"}, {"do": "sniff", "places": []}], ids=["monitor", "sniff"]
)
def test_a_client_that_stops_reading_holds_up_nobody(stream):
    try:
        lab = Lab()
    except Missing as error:
        pytest.skip(str(error))
    with lab:
        alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
        path = lab._control.path
        deaf = [connected(path) for _ in range(4)]
        for sock in deaf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.sendall(json.dumps(stream).encode() + b"\n")
        for sock in deaf:
            assert select.select([sock], [], [], 5 * PATIENCE)[0]
        em0 = alice.nics["em0"]
        for _ in range(300):
            em0.ifpromisc(1)
            em0.ifpromisc(0)
        result = alice.ping("192.0.2.2", 200, interval=0, size=1400)

        assert result.received == 200
        assert sorted(result.rtts)[100] < 0.05 * PATIENCE
        assert hello(path)[1] < 2 * PATIENCE
        assert cable.account().balances()
        began = time.monotonic()
    assert time.monotonic() - began < 12 * PATIENCE
    for sock in deaf:
        sock.close()


STRANGER = """
import socket, sys
answers = []
for _ in range(300):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    try:
        sock.sendall(b'{"do": "exec", "host": "alice"}\\n')
    except OSError:
        pass
    try:
        data, rights, _, _ = sock.recvmsg(4096, 4096)
    except ConnectionError:
        continue
    answers.append(data)
    assert not rights
print(set(answers))
"""


@real_root
def test_a_stranger_who_got_past_the_folder_is_turned_away_however_often(monkeypatch, tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    monkeypatch.setenv("IFLAB_RUN_DIR", str(place))
    with Lab("guarded") as lab:
        alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
        path = lab._control.path
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        folder = os.path.dirname(path)
        while folder != "/":
            os.chmod(folder, os.stat(folder).st_mode | 0o055)
            folder = os.path.dirname(folder)
            if folder == "/tmp":
                break
        os.chmod(path, 0o666)
        threads = threading.active_count()
        stranger = subprocess.Popen(
            [
                "setpriv",
                "--reuid",
                "65533",
                "--regid",
                "65533",
                "--clear-groups",
                sys.executable,
                "-c",
                STRANGER,
                path,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        most = 0
        while stranger.poll() is None:
            name, seconds = hello(path)
            assert name == "guarded"
            assert seconds < 2 * PATIENCE
            most = max(most, threading.active_count())
        out, err = stranger.communicate()
        assert stranger.returncode == 0, err
        assert "192.0.2" not in out
        assert set(out.strip("{}\n").split(", b")) <= {"set()"} or "belongs to another user" in out
        assert '"ok": true' not in out
        assert most <= threads + 4
        assert alice.ping("192.0.2.2").received == 1
