"""vagrant/qemu: its arguments, what it takes over from this machine, and a VM, played and real."""

import argparse
import gc
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import psutil
import pytest

from ..conftest import ROOT
from ..linux_tools import PATIENCE, eventually, need
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
    monkeypatch.delenv("IFLAB_PATIENCE", raising=False)
    assert (
        qemu.guest_command(["echo", "a b"]) == "cd /vagrant/vagrant\nexec env PYTHONUNBUFFERED=1 echo 'a b'\n"
    )
    monkeypatch.chdir("/")
    assert qemu.guest_command(["ls"]) == "cd /vagrant\nexec env PYTHONUNBUFFERED=1 ls\n"


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


@pytest.mark.parametrize("told", ["zero", "0", "-1", "inf", "nan"])
def test_patience_of_the_caller_is_passed_on_and_else_that_of_an_emulated_processor(told, monkeypatch):
    monkeypatch.delenv("IFLAB_PATIENCE", raising=False)
    assert "IFLAB_PATIENCE" not in qemu.guest_command(["true"])
    assert "IFLAB_PATIENCE=10 PYTEST_TIMEOUT=1200 true" in qemu.guest_command(["true"], emulated=True)
    monkeypatch.setenv("IFLAB_PATIENCE", "2.5")
    for settings in ({}, {"emulated": True}, {"user": True}):
        assert "IFLAB_PATIENCE=2.5 PYTEST_TIMEOUT=300 true" in qemu.guest_command(["true"], **settings)
    monkeypatch.setenv("IFLAB_PATIENCE", told)
    with pytest.raises(qemu.Failure, match=f"IFLAB_PATIENCE={told} is no number above 0"):
        qemu.guest_command(["true"])


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
    (copy / "provision.sh").write_bytes((VAGRANT / "provision.sh").read_bytes())
    monkeypatch.setattr(qemu, "_INITRAMFS_HOOK", "")
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


@pytest.fixture
def building(tmp_path, monkeypatch):
    """``building(text)``: mmdebstrap is that shell program now, and the folder of the image is what is returned."""
    if os.geteuid() != 0:
        pytest.skip("the mounts of a build are those of root here")
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        pytest.skip("debian-archive-keyring is not installed: apt install debian-archive-keyring")
    need("mke2fs", "e2fsprogs")
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("IFLAB_VM_DIR", str(tmp_path / "images"))

    def become(text):
        program = place / "mmdebstrap"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        return tmp_path / "images" / "debian13"

    return become


def test_a_build_that_fails_is_told_with_its_last_words_and_leaves_its_log_alone(building):
    folder = building("echo E: no mirror answers; exit 1")
    done = run("build")

    assert done.returncode == 125
    assert f"the image was not built; {folder}/build.log ends with:\nE: no mirror answers\n" in done.stderr
    assert sorted(os.listdir(folder)) == ["build.log", "lock"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_of_a_build_that_is_ended_no_process_and_no_mount_stays_and_the_next_one_clears_away(
    number, building, tmp_path
):
    mark = f"{time.monotonic_ns() % 10**9}.5"
    target = tmp_path / "mounted"
    target.mkdir()
    folder = building(
        f"mount -t tmpfs none {target}; touch {target}/here; sleep {mark} & touch {tmp_path}/begun; wait"
    )

    def sleepers():
        return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", mark]]

    program = subprocess.Popen(
        [sys.executable, str(SCRIPT), "build"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    eventually((tmp_path / "begun").exists)
    eventually(sleepers)
    program.send_signal(number)
    program.communicate()

    eventually(lambda: not sleepers())
    assert str(target) not in Path("/proc/mounts").read_text()
    assert list(target.iterdir()) == []

    building("exit 1")
    assert run("build").returncode == 125
    assert sorted(os.listdir(folder)) == ["build.log", "lock"]


def test_an_image_is_deleted_when_nobody_uses_it_and_who_waits_finds_a_fresh_folder(image, capfd):
    deleted = threading.Event()

    def clean():
        qemu.clean(image)
        deleted.set()

    with qemu.ready(image):
        other = threading.Thread(target=clean)
        other.start()
        text = "vagrant/qemu: the image of Debian 13 is in use: waiting until its other users are done\n"
        eventually(lambda: text in capfd.readouterr().err)
        assert not deleted.wait(0.1)
        assert image.key.exists()
    assert deleted.wait(5 * PATIENCE)
    other.join()
    assert not image.folder.exists()
    with qemu.locked(image, alone=True):
        assert os.listdir(image.folder) == ["lock"]
    assert run("clean", "now").returncode == 2
    assert run("clean").returncode == 0
    assert run("clean").returncode == 0  # nothing there is nothing to say


@pytest.mark.parametrize("words", [["build"], ["run", "true"]])
@pytest.mark.parametrize("place", ["/proc/nowhere", "/etc/passwd"])
def test_a_folder_that_cannot_be_gets_one_line(words, place):
    need(qemu.QEMU, "qemu-system-x86")
    done = run(*words, IFLAB_VM_DIR=place)

    assert done.returncode == 2
    assert re.fullmatch(
        rf"vagrant/qemu: no image can be in {place}/debian13 \(.*\): name another folder in IFLAB_VM_DIR\n",
        done.stderr,
    )


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
    gc.collect()  # what earlier tests left to it
    before = os.listdir("/proc/self/fd"), os.listdir(tempfile.gettempdir())
    vm = qemu.Vm(image, SETTINGS, ["true"])
    assert vm.run(None) == 0
    vm.close()

    assert os.listdir("/proc/self/fd") == before[0]
    assert not [
        name
        for name in os.listdir(tempfile.gettempdir())
        if name not in before[1] and name.startswith("iflab-vm")
    ]


def waiting(pid):
    """A played qemu that tells its number and waits."""
    return f"open({str(pid)!r} + '.new', 'w').write(str(os.getpid()))\n" + (
        f"os.rename({str(pid)!r} + '.new', {str(pid)!r}); time.sleep(600)"
    )


def gone(pid):
    return not Path("/proc", pid).exists()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_run_that_is_ended_from_outside_takes_its_vm_along(number, status, image, play, tmp_path):
    pid = tmp_path / "pid"
    play(waiting(pid))
    program = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--accel", "tcg", "run", "true"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    eventually(pid.exists)
    before = sorted(tmp_path.iterdir())
    program.send_signal(number)
    out, err = program.communicate()

    assert (program.returncode, out) == (status, "")
    assert err == "vagrant/qemu: Debian 13, Linux 6.12.0-test, software emulation, 2 cores\n"
    eventually(lambda: gone(pid.read_text()))
    assert sorted(tmp_path.iterdir()) == before


def test_the_terminal_is_as_it_was_after_a_shell_whose_time_is_over(image, play, tmp_path):
    """A qemu that is killed cannot do so itself."""
    play("import tty; tty.setraw(0); os.set_blocking(0, False); time.sleep(600)")
    ours, theirs = os.openpty()
    try:
        before = termios.tcgetattr(theirs)
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--accel", "tcg", "--timeout", str(int(2 * PATIENCE)), "shell"],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 124, done.stderr
        assert termios.tcgetattr(theirs) == before
        assert os.get_blocking(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


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
