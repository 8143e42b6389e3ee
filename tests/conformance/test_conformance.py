"""Every script does what the original did, line by line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT
from . import ScriptError, run_lines

SCRIPTS = sorted((Path(__file__).parent).glob("*/*.ops"))


def expected(script: Path) -> list[dict]:
    return [json.loads(line) for line in script.with_suffix(".jsonl").read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_port_does_what_the_original_did(script):
    got = list(run_lines(script.read_text().splitlines()))

    assert [json.loads(json.dumps(row)) for row in got] == expected(script)


def test_there_are_scripts():
    assert len(SCRIPTS) >= 65


def test_a_single_wrong_word_would_be_found():
    script = next(path for path in SCRIPTS if path.stem == "07-detach")
    wanted = expected(script)
    detach = next(row for row in wanted if row["op"] == "detach A")
    detach["trace"][3], detach["trace"][4] = detach["trace"][4], detach["trace"][3]

    assert list(run_lines(script.read_text().splitlines())) != wanted


def test_as_a_program():
    script = next(path for path in SCRIPTS if path.stem == "10-groups")

    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", str(script)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )

    assert [json.loads(line) for line in done.stdout.splitlines()] == expected(script)


@pytest.mark.parametrize(
    "line", ["frob A", "alloc A ether em", "alloc A token em 0", "up B", "driver A colour red", "proto EWHAT"]
)
def test_a_line_that_is_no_op_is_refused_by_its_number(line):
    script = ["# a comment", "alloc A ether em 0", line]

    with pytest.raises(ScriptError) as refused:
        list(run_lines(script))

    assert refused.value.line == 3
    assert line in str(refused.value)


def test_a_bad_script_as_a_program_says_where(tmp_path):
    script = tmp_path / "bad.ops"
    script.write_text("dumpvnet\nfrob\n")

    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", str(script)], capture_output=True, text=True, cwd=ROOT
    )

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == f"{script}:2: 'frob': no op is called 'frob'\n"


def test_what_is_not_there_is_no_crash():
    script = [
        "com fail",
        "alloc A ether em 0",
        "up A",
        "promisc A 1",
        "com ok",
        "alloc A ether em 0",
        "attach A 02:00:00:00:00:01",
        "ifa_del A 10.0.0.1",
        "loopback_route add A 10.0.0.1",
        "delmulti_ifma A 224.0.0.1",
        "detach A",
        "driver A ioctl ok",
        "driver A transmit own",
        "transmit A 60",
    ]

    rows = list(run_lines(script))

    assert [row.get("errno") for row in rows if "errno" in row] == ["ENXIO", "EADDRNOTAVAIL", "ENXIO"]
