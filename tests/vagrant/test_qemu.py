"""vagrant/qemu: its arguments, what it takes over from this machine, and a VM, played and real."""

import argparse
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ..conftest import ROOT
from ..linux_tools import PATIENCE
from .script import SCRIPT, VAGRANT, qemu

SETTINGS = argparse.Namespace(accel="tcg", cpus=2, memory=512, user=False, quiet=True)


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
    )


@pytest.fixture
def image(tmp_path, monkeypatch):
    """An image that was built, as far as its folder tells."""
    monkeypatch.setenv("IFLAB_VM_DIR", str(tmp_path / "images"))
    image = qemu.image_for("13")
    image.folder.mkdir(parents=True)
    (image.folder / "release").write_text("6.12.0-test\n")
    image.key.write_text(qemu.wanted_key(image))
    return image


@pytest.fixture
def play(tmp_path, monkeypatch):
    """``play(text)``: qemu is that Python program now. ``fds`` are the ports by name, ``given`` what the VM is told."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    preface = (
        f"#!{sys.executable}\n"
        "import os, re, sys, time\n"
        "line = ' '.join(sys.argv)\n"
        r"sets = {number: int(fd) for fd, number in re.findall(r'fd=(\d+),set=(\d+)', line)}" + "\n"
        r"fds = {name: sets[n] for name, n in re.findall(r'file,id=(\w+),path=/dev/fdset/(\d+)', line)}"
        + "\n"
        r"given = {n: open(f).read() for n, f in re.findall(r'name=opt/iflab/(\w+),file=(\S+)', line)}" + "\n"
    )

    def become(text):
        program = place / qemu.QEMU
        program.write_text(preface + text)
        program.chmod(0o755)

    return become


# What it is told


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([], 2, "the following arguments are required: {build,run,shell,clean} (--help tells what there is)"),
        (["run"], 2, "run needs a command, or say shell (--help tells what there is)"),
        (["shell"], 2, "shell needs a terminal, or say run COMMAND (--help tells what there is)"),
        (
            ["--cpus", "0", "run", "true"],
            2,
            "argument --cpus: '0' is no whole number above 0 (--help tells what there is)",
        ),
    ],
)
def test_arguments_that_cannot_be_get_one_line_and_status_2(words, status, text):
    done = run(*words)

    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"vagrant/qemu: {text}\n")


def test_words_after_run_are_the_commands_own():
    assert qemu.parse(["--debian", "12", "run", "pytest", "--debian", "-q"]).command == [
        "pytest",
        "--debian",
        "-q",
    ]
    assert qemu.parse(["run", "--", "ls", "-l"]).command == ["ls", "-l"]


def test_the_command_runs_where_the_caller_stands(monkeypatch):
    monkeypatch.chdir(VAGRANT)
    assert qemu.guest_command(["echo", "a b"]) == "cd /vagrant/vagrant\nexec echo 'a b'\n"
    monkeypatch.chdir("/")
    assert qemu.guest_command(["ls"]) == "cd /vagrant\nexec ls\n"


def test_the_script_for_the_vm_is_one_that_a_shell_runs(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    text = qemu.guest_command(["printf", "%s|", "it's", "$HOME", "*"], emulated=True)
    done = subprocess.run(
        ["sh", "-c", text.replace("cd /vagrant", f"cd {tmp_path}")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "it's|$HOME|*|"
    assert "IFLAB_PATIENCE=10" in text


def test_an_ordinary_user_gets_nothing_of_roots_environment(monkeypatch):
    monkeypatch.chdir("/")
    words = shlex.split(qemu.guest_command(["id"], user=True).splitlines()[1])
    assert words[:3] == ["exec", "setpriv", "--reuid=vagrant"]
    assert "--reset-env" in words
    assert words[-1] == "id"


# What it takes over


def test_pips_settings_lead_to_the_same_places_inside(tmp_path):
    wheels, index = tmp_path / "wheels", tmp_path / "index"
    for folder in (wheels, index / "simple"):
        folder.mkdir(parents=True)
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    environment, shown = qemu.pip_settings(
        f"global.index-url='https://pypi.example/simple'\n"
        f"global.extra-index-url='file://{index}/simple https://other.example/simple'\n"
        f"global.find-links='elsewhere'\n:env:.find-links='{wheels}'\nglobal.cert='{bundle}'\n"
        f"global.user='true'\nnonsense\n"
    )

    assert environment == {
        "PIP_INDEX_URL": "https://pypi.example/simple",
        "PIP_EXTRA_INDEX_URL": f"file://{shown[index]}/simple https://other.example/simple",
        "PIP_FIND_LINKS": shown[wheels],
        "PIP_CERT": shown[bundle],
    }
    assert set(shown) == {index, wheels, bundle}


def test_the_requirements_are_all_that_a_checkout_installs():
    wanted = qemu.requirements()
    for name in ("hatchling", "editables", "scapy", "pyroute2", "pytest", "matplotlib", "jinja2"):
        assert any(each.startswith(name) for each in wanted)
    assert not any(each.startswith("iflab") for each in wanted)  # no index has it


def test_an_image_is_built_again_when_what_it_was_built_from_changes(image, tmp_path, monkeypatch):
    before = qemu.wanted_key(image)
    assert qemu.wanted_key(qemu.image_for("12")) != before
    copy = tmp_path / "vagrant"
    copy.mkdir()
    for name in ("provision.sh", "guest-init"):
        (copy / name).write_bytes((VAGRANT / name).read_bytes())
    monkeypatch.setattr(qemu, "HERE", copy)
    assert qemu.wanted_key(image) == before
    (copy / "provision.sh").write_text("#")
    assert qemu.wanted_key(image) != before

    def build(image):
        built.append(image)
        image.key.write_text(qemu.wanted_key(image))

    built = []
    monkeypatch.setattr(qemu, "build", build)
    for _ in range(2):
        with qemu.ready(image):
            assert built == [image]


def test_runs_of_one_image_go_beside_each_other(image):
    entered = threading.Event()

    def another_run():
        with qemu.ready(image):
            entered.set()

    with qemu.ready(image):
        threading.Thread(target=another_run).start()
        assert entered.wait(5 * PATIENCE)


def test_an_image_in_use_is_not_built_again_under_its_user(image, monkeypatch):
    built = threading.Event()

    def build(image):
        built.set()
        image.key.write_text("new")

    monkeypatch.setattr(qemu, "build", build)
    with qemu.ready(image):
        monkeypatch.setattr(qemu, "wanted_key", lambda image: "new")
        other = threading.Thread(target=lambda: qemu.ready(image).__enter__(), daemon=True)
        other.start()
        assert not built.wait(0.3)
    assert built.wait(5 * PATIENCE)
    other.join()


def test_a_script_of_the_build_is_one_that_a_shell_reads(image, tmp_path):
    text = qemu._build_script(image, tmp_path)
    for script in (text, (tmp_path / "customize").read_text(), (tmp_path / "essential").read_text()):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


# KVM


@pytest.mark.parametrize(
    ("text", "works"),
    [("sys.exit(0)", True), ("sys.exit(1)", False), ("time.sleep(600)", False)],
    ids=["the kernel runs and panics", "no KVM at all", "a guest hangs"],
)
def test_kvm_is_tried_with_a_time_limit_and_the_answer_kept(text, works, image, play, monkeypatch):
    monkeypatch.setattr(qemu, "KVM_PATIENCE", 1.0 * PATIENCE)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    play(text)
    began = time.monotonic()
    assert qemu.kvm_works(image) is works
    assert time.monotonic() - began < 30 * PATIENCE

    play("raise AssertionError('asked again')")
    assert qemu.kvm_works(image) is works


def test_without_the_device_there_is_no_kvm(image, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not qemu.kvm_works(image)


# A VM, played


def test_output_errors_and_status_come_back_apart(image, play, capfd):
    play(
        "os.write(fds['out'], b'x' * 100_000)\n"
        "os.write(fds['err'], given['command'].encode())\n"
        "os.write(fds['status'], b'7\\n')"
    )
    vm = qemu.Vm(image, SETTINGS, ["echo", "hello"])
    try:
        assert vm.run(None) == 7
    finally:
        vm.close()

    out, err = capfd.readouterr()
    assert out == "x" * 100_000
    assert err.endswith("echo hello\n")


def test_a_vm_that_ends_too_early_is_told_with_its_last_words(image, play):
    play("sys.stderr.write('qemu: no such machine\\n'); sys.exit(1)")
    vm = qemu.Vm(image, SETTINGS, ["true"])
    with pytest.raises(qemu.Failure, match="no such machine") as failure:
        vm.run(None)
    vm.close()

    assert failure.value.status == 125


def test_a_command_that_takes_too_long_is_ended(image, play, tmp_path):
    pid = tmp_path / "pid"
    play(f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    vm = qemu.Vm(image, SETTINGS, ["sleep", "60"])
    with pytest.raises(qemu.Failure, match="not done within") as failure:
        vm.run(2 * PATIENCE)
    vm.close()

    assert failure.value.status == 124
    assert not Path("/proc", pid.read_text()).exists()


def test_nothing_is_left_of_a_vm(image, play):
    play("os.write(fds['status'], b'0')")
    vm = qemu.Vm(image, SETTINGS, ["true"])
    assert vm._work.is_dir()
    vm.run(None)
    vm.close()

    assert not vm._work.exists()


def test_a_comma_in_a_path_is_no_option_of_qemu(tmp_path, monkeypatch, play):
    monkeypatch.setenv("IFLAB_VM_DIR", str(tmp_path / "a,b"))
    image = qemu.image_for("13")
    image.folder.mkdir(parents=True)
    (image.folder / "release").write_text("x")
    play("")
    vm = qemu.Vm(image, SETTINGS, ["true"])
    vm.close()

    drive = vm._argv[vm._argv.index("-drive") + 1]
    assert f"file={str(image.root).replace(',', ',,')},format=raw" in drive


# A VM, real


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("debian", qemu.RELEASES)
class TestBooted:
    def test_a_command_runs_on_debians_kernel_and_its_status_comes_back(self, debian):
        done = run("--debian", debian, "run", "sh", "-c", "uname -r; pwd; echo bad >&2; exit 7")

        assert done.returncode == 7, done.stderr
        release, place = done.stdout.split()
        assert release == qemu.image_for(debian).release
        assert place == "/vagrant"
        assert done.stderr.endswith("bad\n")

    def test_the_checkout_is_shared_and_the_disk_forgotten(self, debian):
        digest = "sha256sum pyproject.toml; ls /srv/kept; touch /srv/kept"
        for _ in range(2):
            done = run("--debian", debian, "run", "sh", "-c", digest)
            assert (
                done.stdout.split()[0]
                == subprocess.check_output(["sha256sum", "pyproject.toml"], cwd=ROOT, text=True).split()[0]
            )
            assert "kept" in done.stderr  # not there

    @pytest.mark.parametrize("who", ["root", "an ordinary user"])
    def test_the_first_scenario_holds(self, debian, who):
        user = ["--user"] if who != "root" else []
        done = run("--debian", debian, *user, "run", "iflab", "run", "scenarios/01_first_ping.py")

        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("3 of 3 answered") == 2

    def test_a_command_that_is_not_done_in_time_ends_with_124(self, debian):
        done = run("--debian", debian, "--timeout", "3", "run", "sleep", "600")

        assert done.returncode == 124
        assert "not done within 3 s" in done.stderr
