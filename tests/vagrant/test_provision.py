"""provision.sh: what it refuses here, and in a fresh Debian root all that it does."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from ..linux_tools import need, real_root
from .script import VAGRANT, qemu

PROVISION = VAGRANT / "provision.sh"


def provision(*words, **options):
    return subprocess.run(["bash", str(PROVISION), *words], capture_output=True, text=True, **options)


@pytest.mark.parametrize("name", ["provision.sh", "guest-init"])
def test_shellcheck_has_nothing_to_say(name):
    need("shellcheck", "shellcheck")
    done = subprocess.run(["shellcheck", str(VAGRANT / name)], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["provision.sh", "guest-init", "qemu"])
def test_the_programs_may_be_executed(name):
    assert os.access(VAGRANT / name, os.X_OK)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--frobnicate"], 2, "--frobnicate is not known; 'provision.sh --help' tells what is"),
        (["--repo"], 2, "--repo needs a directory"),
        (
            ["--repo", "/usr"],
            2,
            "/usr is no checkout of iflab: it has no pyproject.toml; name one with --repo",
        ),
        (["--venv", "venv"], 2, "--venv venv is not absolute"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_done(words, status, text):
    done = provision(*words)

    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"provision: {text}\n")


@pytest.mark.parametrize("name", ["folder", "file", "folder/precious"])
def test_no_virtual_environment_is_made_in_place_of_what_is_there(name, tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder" / "precious", tmp_path / "file"):
        path.write_text("precious")
    done = provision("--venv", str(tmp_path / name))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"provision: --venv {tmp_path / name} is there and no virtual environment; "
        "name another, or an empty directory\n"
    )
    assert (tmp_path / "folder" / "precious").read_text() == (tmp_path / "file").read_text() == "precious"


def test_help_names_every_option():
    done = provision("--help")

    assert done.returncode == 0
    assert set(re.findall(r"--\w+", done.stdout)) == {"--repo", "--venv"}


@real_root
def test_it_is_for_root_alone():
    need("setpriv", "util-linux")
    need("dpkg-query", "dpkg")
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as name:  # the checkout may lie where others cannot read
        place = Path(name)
        place.chmod(0o755)
        (place / "vagrant").mkdir()
        (place / "pyproject.toml").write_text("")
        (place / "vagrant" / "provision.sh").write_text(PROVISION.read_text())
        done = subprocess.run(
            [*as_nobody, "bash", str(place / "vagrant" / "provision.sh")], capture_output=True, text=True
        )

    assert (done.returncode, done.stderr) == (3, "provision: only root can install; run it with sudo\n")


# In a root of its own: packages and requirements are fetched, and taken from the disk the second time.

_TWICE = r"""
set -eu
root=$1
{mounts}
listing() {{ (cd "$root" && find etc opt usr var/lib/dpkg -xdev -printf '%p %y %m %s %T@ %l\n' | sort) }}
{inside} bash /vagrant/vagrant/provision.sh >"$root/first" 2>&1
listing >"$root/before"
{inside} bash /vagrant/vagrant/provision.sh >"$root/second" 2>&1
listing >"$root/after"
{inside} rm /opt/iflab/bin/iflab /etc/motd.d/iflab
{inside} bash /vagrant/vagrant/provision.sh >"$root/third" 2>&1
{inside} iflab --version >"$root/version"
{inside} bash -c '. /usr/share/bash-completion/bash_completion
    _comp_load iflab || __load_completion iflab; complete -p iflab' >"$root/completion"
"""


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("codename", qemu.RELEASES.values())
def test_in_a_fresh_root_it_runs_to_the_end_and_changes_nothing_when_run_again(codename, tmp_path):
    need("mmdebstrap", "mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("mounting into a root of our own needs root here")
    mounts, inside = qemu.chrooted()
    hook = tmp_path / "hook"
    hook.write_text(_TWICE.format(mounts="\n".join(mounts), inside=inside))
    root = tmp_path / "root"
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--include=ca-certificates"]
    command += [f"--aptopt={option}" for option in qemu.apt_options()]
    command += [
        f'--customize-hook=unshare --mount sh {hook} "$1"',
        codename,
        str(root),
        *qemu.sources(codename),
    ]

    try:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:] + (root / "first").read_text()[-3000:]

        first, second, third = ((root / name).read_text() for name in ("first", "second", "third"))
        for expected in (
            "installed bash-completion",
            "made /opt/iflab with Python 3",
            "installed iflab[",
            "wrote /etc/motd.d/iflab",
        ):
            assert f"provision: {expected}" in first
        assert second == "provision: nothing to change\n"
        assert (root / "before").read_text() == (root / "after").read_text()
        assert re.findall("^provision: (.*)", third, re.MULTILINE) == [
            re.search("^provision: (installed iflab.*)", first, re.MULTILINE)[1],
            "wrote /etc/motd.d/iflab",
        ]
        assert (root / "version").read_text().startswith("iflab ")
        assert "iflab" in (root / "completion").read_text()
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
