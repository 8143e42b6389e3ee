"""The Vagrantfile, as Vagrant itself reads it."""

import os
import re
import shlex
import subprocess

import pytest

from ..linux_tools import PATIENCE, need
from .script import VAGRANT


@pytest.fixture
def vagrant(tmp_path):
    need("vagrant", "vagrant")

    def run(*words, **environment):
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("VAGRANT", "IFLAB_"))
        }
        clean |= {
            "VAGRANT_HOME": str(tmp_path / "home"),
            "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
        }
        return subprocess.run(
            ["vagrant", *words],
            cwd=VAGRANT,
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
        )

    return run


@pytest.fixture
def virtualbox(tmp_path):
    """As if VirtualBox were installed, as far as validating goes."""
    place = tmp_path / "bin"
    place.mkdir()
    program = place / "VBoxManage"
    program.write_text('#!/bin/sh\n[ "$1" != --version ] || echo 7.0.20r163906\n')
    program.chmod(0o755)
    return {"PATH": f"{place}:{os.environ['PATH']}", "VAGRANT_DEFAULT_PROVIDER": "virtualbox"}


def test_it_is_valid_without_a_provider(vagrant):
    done = vagrant("validate", "--ignore-provider")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


def test_it_is_valid_with_virtualbox(vagrant, virtualbox):
    done = vagrant("validate", **virtualbox, IFLAB_CPUS="4", IFLAB_MEMORY="4096")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ignoring" not in done.stdout


def test_it_is_valid_with_libvirt(vagrant):
    if "vagrant-libvirt" not in vagrant("plugin", "list").stdout:
        pytest.skip("vagrant-libvirt is not installed: apt install vagrant-libvirt")
    done = vagrant("validate", VAGRANT_DEFAULT_PROVIDER="libvirt", IFLAB_CPUS="4", IFLAB_MEMORY="4096")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ignoring" not in done.stdout


_VMWARE = """
class Played < Vagrant.plugin("2")
  name "played"
  config(:vmware_desktop, :provider) do
    Class.new(Vagrant.plugin("2", :config)) do
      def vmx = @vmx ||= {}

      def validate(_)
        File.write(ENV["SEEN"], @vmx.sort.join(" "))
        {}
      end
    end
  end
  provider(:vmware_desktop) do
    Class.new(Vagrant.plugin("2", :provider)) do
      def state = Vagrant::MachineState.new(:running, "running", "running")
      def ssh_info = { host: "192.0.2.1", port: 22, username: "vagrant", private_key_path: [ENV["KEY"]] }
      def action(_) = Vagrant::Action::Builder.new.tap { |b| b.use Vagrant::Action::Builtin::SSHRun }
    end
  end
end
"""


@pytest.fixture
def vmware(tmp_path):
    """What plays VMware, in the environment of ``vagrant``."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "Vagrantfile").write_text(_VMWARE)
    return {"VAGRANT_DEFAULT_PROVIDER": "vmware_desktop"}


def test_it_says_to_vmware_what_vmwares_plugin_documents(vagrant, vmware, tmp_path):
    """The plug-in is not free to be had: a played one takes ``vmx`` alone, with the names that VMware gives."""
    seen = tmp_path / "seen"
    for words, expected in (
        ({}, "memsize 2048 numvcpus 2"),
        ({"IFLAB_CPUS": "4"}, "memsize 2048 numvcpus 4"),
    ):
        done = vagrant("validate", SEEN=str(seen), **vmware, **words)

        assert done.returncode == 0, done.stdout + done.stderr
        assert seen.read_text() == expected


def test_no_terminal_spoils_the_capture_that_wireshark_reads(vagrant, vmware, tmp_path):
    """The README's command, with an ssh that tells how it was called."""
    line = re.search(
        r"^vagrant (ssh .*) \| wireshark -k -i -$", (VAGRANT / "README.md").read_text(), re.MULTILINE
    )[1]
    place = tmp_path / "bin"
    place.mkdir()
    (place / "ssh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (place / "ssh").chmod(0o755)
    key = tmp_path / "key"
    key.touch(mode=0o600)
    vmware |= {"PATH": f"{place}:{os.environ['PATH']}", "KEY": str(key), "SEEN": str(tmp_path / "seen")}
    done = vagrant(*shlex.split(line), **vmware)

    assert done.returncode == 0, done.stdout + done.stderr
    words = done.stdout.splitlines()
    assert words[-1] == "bash -l -c 'iflab sniff link_flap alice:em0 -w -'"
    assert "-T" in words
    assert "-t" not in words


def test_debian_13_is_the_machine_that_up_starts(vagrant, virtualbox):
    done = vagrant("status", "--machine-readable", **virtualbox)

    names = re.findall(r"^\d+,(\w+),metadata,provider,virtualbox$", done.stdout, re.MULTILINE)
    assert names == ["debian13", "debian12"], done.stdout
    text = (VAGRANT / "Vagrantfile").read_text()
    assert "primary: first, autostart: first" in text


@pytest.mark.parametrize(
    ("name", "value"), [("IFLAB_CPUS", "0"), ("IFLAB_MEMORY", "2 GB"), ("IFLAB_CPUS", "two")]
)
def test_a_size_that_is_no_number_is_refused_by_name(vagrant, name, value):
    done = vagrant("validate", "--ignore-provider", **{name: value})

    assert done.returncode != 0
    assert f"{name}={value} is no number above 0" in done.stdout + done.stderr
