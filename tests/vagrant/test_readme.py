"""vagrant/README.md is true, as far as can be seen without a VM."""

import re
import shlex

import pytest

from ..conftest import ROOT
from .script import VAGRANT, qemu

README = (VAGRANT / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))


@pytest.mark.parametrize("line", re.findall(r"^vagrant/qemu (.*?)(?: +#.*)?$", SHELL, re.MULTILINE))
def test_its_commands_for_qemu_are_understood(line, monkeypatch):
    monkeypatch.setattr(qemu.os, "isatty", lambda fd: True)
    assert qemu.parse(shlex.split(line)).what in ("run", "shell")


def test_the_variables_that_it_names_are_read_by_someone():
    sources = [*VAGRANT.iterdir(), ROOT / "tests" / "patience.py"]
    text = "".join(path.read_text() for path in sources if path.is_file() and path.name != "README.md")
    named = set(re.findall(r"\bIFLAB_\w+", README))
    assert named >= {"IFLAB_CPUS", "IFLAB_MEMORY", "IFLAB_BOX", "IFLAB_VM_DIR"}
    for name in named:
        assert name in text, name


def test_the_files_that_it_names_are_there_or_made_by_provisioning():
    provision = (VAGRANT / "provision.sh").read_text()
    for path in re.findall(r"`(/(?:opt|usr|etc)/[\w./]+?)`", README):
        if path not in ("/etc/subuid",):
            assert path in provision, path
    for path in re.findall(r"/vagrant/(scenarios/\w+\.py)", README):
        assert (ROOT / path).exists()


def test_every_package_that_it_names_is_asked_for():
    packages = re.search(r"apt install ([\w -]+)", README)[1].split()
    text = (VAGRANT / "qemu").read_text()
    for package in packages:
        assert f'"{package}"' in text, package
    provision = (VAGRANT / "provision.sh").read_text()
    listed = provision[provision.index("packages=(") :].partition(")")[0].split()
    for package in re.search(r"hosts and tests use: (.*?) and the like", README)[1].split(", "):
        assert package.strip("`") in listed, package
