"""README.md is true: its commands and code blocks run, and its words name what is there."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"<!-- python -->\n```python\n(.*?)```", README, re.DOTALL)
COMMANDS = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)\n```", README, re.DOTALL))


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_every_python_block_runs(lab, number):
    lab.close()  # the fixture has shown that labs run here
    done = subprocess.run(
        [sys.executable, "-c", PYTHON[number]], capture_output=True, text=True, cwd=ROOT, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_no_python_block_is_left_out():
    assert len(PYTHON) == README.count("```python") == 4


def test_the_first_command_sets_everything_up_and_both_pings_are_answered(lab, tmp_path):
    """Word by word, in a checkout without a virtual environment."""
    lab.close()
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "*cache*", ".hypothesis"))

    done = subprocess.run(
        ["sh", "-c", COMMANDS["first"]], capture_output=True, text=True, cwd=checkout, timeout=110
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("3 of 3 answered") == 2
    assert "first_ping: held" in done.stdout


def test_the_tests_command_is_what_ci_runs():
    assert set(COMMANDS) == {"first", "tests"}
    assert COMMANDS["tests"].endswith(".venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest")
    run = (ROOT / ".ci" / "run").read_text()
    assert "$(readme_command tests)" in run
    script = run[run.index("readme_command()") : run.index("# The same set-up")] + "readme_command tests\n"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == COMMANDS["tests"]


def test_commands_of_another_terminal_exist():
    block = README[README.index("From another terminal") :]
    words = re.findall(r"^iflab (\w+)", block, re.MULTILINE)
    assert words == ["ps", "exec", "exec"]
    help_ = subprocess.run(
        [sys.executable, "-c", "from iflab.cli import main; main()", "--help"], capture_output=True, text=True
    ).stdout
    assert all(word in help_ for word in words)


def test_the_rooms_that_it_names_are_there():
    for path in re.findall(r"^\| `([\w./]+)`", README[README.index("## The house") :], re.MULTILINE):
        assert (ROOT / path).exists(), path


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert os.path.exists(ROOT / target), target


def test_the_repo_speaks_of_itself_alone():
    """No path of the machine that it was written on."""
    wrong = re.compile(r"/(?:work|root|home)/")
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".sh", ".ops", ".jsonl"} and path.name != "test_readme.py":
            assert not wrong.search(path.read_text()), name
