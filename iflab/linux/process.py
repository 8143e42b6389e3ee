"""Programs inside hosts, which die with the lab whatever happens to it.

One helper, the keeper, is the first process of a pid namespace of the lab's own.
It waits on a pipe that only the lab holds the other end of. When the lab ends,
or is killed, the pipe closes; the keeper removes the files it was told of and
exits, and with the first process the kernel kills every other in that
namespace.

All programs are started from one long-lived thread, which is inside the
namespaces of the host at that moment. A host has its own network, mount (for
``/sys``, ``/proc`` and ``/etc``) and UTS (for its name) namespace. No Python code runs in a
child: only the interpreter's own fork and exec.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Missing
from .netns import Netns
from .syscalls import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    mount,
    setgroups_does_nothing,
    sethostname,
    setns,
    umount,
    unshare,
)
from .userns import in_user_namespace

__all__ = ["DEATH_PATIENCE", "Keeper", "interpreter"]

_log = logging.getLogger("iflab.linux")

DEATH_PATIENCE = 5.0
"""Seconds that the end of a lab waits for killed programs; one that the kernel holds (state D) may take for ever."""

_KEEPER = r"""
import os, signal
for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
paths, told = set(), b""
while got := os.read(0, 4096):
    *lines, told = (told + got).split(b"\n")
    for line in lines:
        (paths.add if line[:1] == b"+" else paths.discard)(line[1:])
for path in paths:
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            try: os.unlink(os.path.join(folder, name))
            except OSError: pass
        try: os.rmdir(folder)
        except OSError: pass
    try: os.rmdir(os.path.dirname(path))
    except OSError: pass
"""


def interpreter() -> str:
    """A Python to run a helper: the one that runs, even where its path is closed to this user."""
    return sys.executable if os.access(sys.executable, os.X_OK) else "/proc/self/exe"


def _state(pid: int) -> str:
    """The state of a process as ps(1) shows it."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return "gone"


def _mount_own_etc() -> None:
    """Give this mount namespace an ``/etc`` of its own: the machine's, in which no name server is told.

    The machine's name servers are out of a host's reach: whoever asked them would wait in vain. What is
    written there stays in the host. Where the kernel has no overlayfs for us, only ``resolv.conf`` is
    the host's own, and that only if it is a plain file. Raises ``OSError``.
    """
    mount("tmpfs", "/sys", "tmpfs")  # any folder will do, for a moment
    try:
        for name in ("etc", "work"):
            os.mkdir(f"/sys/{name}", 0o755)
        before = os.stat("/etc").st_dev
        try:
            _overlay("lowerdir=/etc,upperdir=/sys/etc,workdir=/sys/work")
        except OSError:
            if os.path.isfile("/etc/resolv.conf") and not os.path.islink("/etc/resolv.conf"):
                with open("/sys/resolv.conf", "w"):
                    pass
                mount("/sys/resolv.conf", "/etc/resolv.conf", None, MS_BIND)
            return
    finally:
        umount("/sys")
    if os.stat("/etc").st_dev != before:  # else it would be the machine's
        with contextlib.suppress(FileNotFoundError):
            os.unlink("/etc/resolv.conf")
        with open("/etc/resolv.conf", "w"):
            pass


def _overlay(options: str) -> None:
    try:
        mount(
            "overlay", "/etc", "overlay", options=f"{options},userxattr"
        )  # for an ordinary user, Linux 5.11
    except OSError:
        mount("overlay", "/etc", "overlay", options=options)


@dataclass(slots=True)
class _Places:
    """The mount and UTS namespaces of one host, as file descriptors."""

    mnt: int
    uts: int


class Keeper:
    """Starts programs in hosts, and ends them with the lab."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._places: dict[int, _Places] = {}
        with Netns.current() as own:
            self._own_inode = own.inode
        self._own_ns = -1
        self._pid_ns = -1
        self._user_ns = -1
        self._base_mnt = -1
        self._closed = False
        self._children: list[subprocess.Popen[Any]] = []
        read_end, self._pipe = os.pipe2(os.O_CLOEXEC)
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="iflab-keeper", daemon=True)
        self._thread.start()
        try:
            self._do(lambda: self._start(read_end))
        except BaseException:
            os.close(self._pipe)
            self._jobs.put(None)
            raise
        finally:
            os.close(read_end)

    @property
    def pid(self) -> int:
        """The keeper's process."""
        assert self._process is not None
        return self._process.pid

    def guard(self, path: str) -> None:
        """Remove a folder when the lab is gone; said before it is made, so that no kill comes between."""
        os.write(self._pipe, b"+" + os.fsencode(path) + b"\n")

    def unguard(self, path: str) -> None:
        """It was not made, or is somebody else's."""
        os.write(self._pipe, b"-" + os.fsencode(path) + b"\n")

    # the thread

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _do(self, fn: Callable[[], Any]) -> Any:
        """Run ``fn`` on the keeper's thread and return what it returns, or raise what it raises."""
        done = threading.Event()
        outcome: list[Any] = [None, None]

        def job() -> None:
            try:
                outcome[0] = fn()
            except BaseException as error:
                outcome[1] = error
            finally:
                done.set()

        self._jobs.put(job)
        done.wait()
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _start(self, read_end: int) -> None:
        # Kept open because /proc will show the inner processes only, and this thread is not one of them.
        self._own_ns = os.open("/proc/thread-self/ns", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unshare(CLONE_NEWPID)
        except OSError as error:
            raise Missing(f"a pid namespace is not to be had ({error.strerror}); run as root") from error
        self._process = subprocess.Popen(
            [interpreter(), "-I", "-S", "-c", _KEEPER],
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._pid_ns = os.open(f"/proc/{self._process.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        if in_user_namespace():
            self._user_ns = self._open_own("user")
            with contextlib.suppress(OSError):  # then some programs do not run
                setgroups_does_nothing()

    def _open_own(self, kind: str) -> int:
        return os.open(kind, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._own_ns)

    def _make_base(self) -> None:
        """Make the mount namespace that the hosts' are copied from, with a /proc of the lab's processes."""
        unshare(CLONE_NEWNS)
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        # proc shows the pid namespace of who mounts it, so an inner process has to.
        subprocess.run(
            ["mount", "-t", "proc", "proc", "/proc"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,  # where it is refused, programs see the machine's processes as well
        )
        self._base_mnt = self._open_own("mnt")

    def _enter(self, netns: Netns, hostname: str) -> _Places:
        """Put this thread into the host's namespaces, making mount and UTS ones at the first time."""
        places = self._places.get(netns.inode)
        if places is None:
            if self._base_mnt < 0:
                self._make_base()
            setns(self._base_mnt, CLONE_NEWNS)
            unshare(CLONE_NEWNS | CLONE_NEWUTS)
            setns(netns.fileno(), CLONE_NEWNET)
            if netns.inode != self._own_inode:
                with contextlib.suppress(OSError):
                    _mount_own_etc()
            with contextlib.suppress(OSError):
                mount("sysfs", "/sys", "sysfs")
            sethostname(hostname)
            places = self._places[netns.inode] = _Places(self._open_own("mnt"), self._open_own("uts"))
        else:
            setns(places.mnt, CLONE_NEWNS)
            setns(places.uts, CLONE_NEWUTS)
            setns(netns.fileno(), CLONE_NEWNET)
        return places

    # what the lab calls

    def spawn(
        self, netns: Netns, argv: Sequence[str], *, hostname: str = "host", **popen: Any
    ) -> subprocess.Popen[Any]:
        """Start a program in the host whose network is ``netns``.

        ``popen`` goes to ``subprocess.Popen``; the working directory is the
        caller's unless ``cwd`` says otherwise. Raises as ``Popen`` does.
        """
        if self._closed:
            raise ValueError("the lab is closed; no program can be started in it")
        popen.setdefault("cwd", os.getcwd())
        popen.setdefault("start_new_session", True)

        def start() -> subprocess.Popen[Any]:
            self._enter(netns, hostname)
            self._children = [child for child in self._children if child.poll() is None]
            child = subprocess.Popen(list(argv), **popen)
            self._children.append(child)
            _log.debug("%s: process %d is %s", hostname, child.pid, shlex.join(map(str, argv)))
            return child

        process: subprocess.Popen[Any] = self._do(start)
        return process

    def namespaces(self, netns: Netns, hostname: str = "host") -> dict[str, int]:
        """File descriptors of the host's namespaces by kind, for another process to join in that order.

        They stay the keeper's. The user namespace is among them where the lab made one.
        """
        places: _Places = self._do(lambda: self._enter(netns, hostname))
        user = {"user": self._user_ns} if self._user_ns >= 0 else {}
        return user | {"pid": self._pid_ns, "mnt": places.mnt, "uts": places.uts, "net": netns.fileno()}

    def close(self) -> None:
        """End every program, remove the paths, and wait until all is gone."""
        if self._closed:
            return
        self._closed = True
        os.close(self._pipe)
        # The kernel lets the first process of a pid namespace go only when its killed ones are reaped.
        deadline = time.monotonic() + DEATH_PATIENCE
        for child in [*self._children, *([self._process] if self._process is not None else [])]:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error(
                    "process %d (%s) was killed and does not die (state %s): the kernel holds it; "
                    "its namespaces go when it does",
                    child.pid,
                    " ".join(child.args) if isinstance(child.args, list) else child.args,
                    _state(child.pid),
                )
        self._jobs.put(None)
        self._thread.join()
        fds = [self._own_ns, self._user_ns, self._pid_ns, self._base_mnt]
        fds += [fd for places in self._places.values() for fd in (places.mnt, places.uts)]
        self._places.clear()
        for fd in fds:
            if fd >= 0:
                os.close(fd)
