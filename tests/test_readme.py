"""README.md is true: its commands and code blocks run, and its words name what is there."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT
from .linux_tools import PATIENCE

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(
    r"<!-- python -->\n```python\n(.*?)```(?:\n\n```\n(.*?)```)?", README, re.DOTALL
)  # and what it prints
COMMANDS = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)\n```", README, re.DOTALL))


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_every_python_block_runs_and_prints_what_stands_there(lab, number, tmp_path):
    lab.close()  # the fixture has shown that labs run here
    block, printed = PYTHON[number]
    done = subprocess.run(
        [sys.executable, "-c", block],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60 * PATIENCE,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stdout.strip() == (printed or done.stdout).strip()


def test_no_python_block_is_left_out():
    assert len(PYTHON) == README.count("```python") == 9
    assert sum(bool(printed) for _, printed in PYTHON) == 2


@pytest.mark.timeout(600 * PATIENCE)
def test_the_first_command_sets_everything_up_and_both_pings_are_answered(lab, tmp_path):
    """Word by word, in a checkout without a virtual environment."""
    lab.close()
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "*cache*", ".hypothesis"))

    done = subprocess.run(
        ["sh", "-c", COMMANDS["first"]], capture_output=True, text=True, cwd=checkout, timeout=590 * PATIENCE
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


@pytest.mark.timeout(300 * PATIENCE)
def test_the_commands_of_another_terminal_work(tmp_path, open_place, monkeypatch):
    """Each line of that block, against a lab of the name that it uses; what never ends is ended after a while."""
    from iflab import Lab

    block = re.search(r"From another terminal.*?```sh\n(.*?)```", README, re.DOTALL)[1]
    monkeypatch.setenv("IFLAB_RUN_DIR", str(open_place))  # other tests run a lab of that name as well
    program = f"'{sys.executable}' -c 'from iflab.cli import main; main()'"
    endless = re.compile(r"iflab (exec .* (tcpdump|bash)|monitor|sniff|top)\b")
    name = f"link_flap{os.getpid()}"  # root's commands see other users' labs, too
    with Lab(name) as lab:
        lab.pair("192.0.2.1/24", "192.0.2.2/24")
        for line in block.replace("link_flap", name).splitlines():
            patience = (5 if endless.search(line) else 60) * PATIENCE
            iflab = f'iflab() {{ timeout -k 5 {patience:g} {program} "$@"; }}\n'
            done = subprocess.run(
                ["bash", "-c", iflab + line],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode in ((0, 124) if endless.search(line) else (0,)), (line, done.stderr)
            assert (name in done.stdout) == (" ps " in line)
            assert ("cable0" in done.stdout) == (" top " in line or " ps " in line)
            assert ("listening on em0" in done.stderr) == ("alice tcpdump" in line)


def test_the_other_commands_that_it_names_work():
    for words in (["check"], ["list"]):
        assert f"iflab {words[0]}`" in README
        program = [sys.executable, "-c", "from iflab.cli import main; main()", *words]
        assert subprocess.run(program, capture_output=True, cwd=ROOT).returncode == 0
    for path in re.search(r"`\.venv/bin/pytest (tests/.*?)`", README)[1].split():
        assert list((ROOT / path).glob("test_*.py")), path


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
