"""Every script does what the original did, line by line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT
from . import run_lines

SCRIPTS = sorted((Path(__file__).parent).glob("*/*.ops"))


def expected(script: Path) -> list[dict]:
    return [json.loads(line) for line in script.with_suffix(".jsonl").read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_port_does_what_the_original_did(script):
    got = list(run_lines(script.read_text().splitlines()))

    assert [json.loads(json.dumps(row)) for row in got] == expected(script)


def test_there_are_scripts():
    assert len(SCRIPTS) >= 29


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
