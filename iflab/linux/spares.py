"""Network namespaces for hosts; and a helper that makes them ahead, while somebody builds many hosts.

The kernel takes half a millisecond for one, in which the thread that asks can do
nothing else. A process of its own asks instead, and no interpreter is shared with
it: with a thread the builder waits for the other at every system call.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path

from .netns import Netns
from .ownproc import OwnProc
from .process import interpreter
from .syscalls import CLONE_NEWNET, unshare
from .sysctl import sysctl

__all__ = ["Spares", "new_namespace"]

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_HELPER = "import sys; sys.path.append(sys.argv[1]); from iflab.linux.spares import help_out; help_out()"
_PACKAGE = os.path.abspath(Path(__file__).parents[2])
_PATIENCE = 5.0
"""Seconds that the helper has to end."""


def new_namespace(name: str = "") -> Netns:
    """Make a namespace that is fit for a host. Raises ``OSError``; nothing is left behind then."""
    netns = Netns.create(name)
    try:
        _make_fit(netns)
    except BaseException:
        netns.close()
        raise
    return netns


def _make_fit(netns: Netns, proc: int | None = None) -> None:
    """Bring the loopback up and let an address be used at once: nobody else is on the wire. ``proc`` as for ``sysctl``."""
    with netns.entered():
        sysctl(netns, "net.ipv6.conf.default.accept_dad", 0, proc)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


class Spares:
    """Namespaces that are ready to be taken, ``most`` of them at once.

    What the helper is refused ends it: who finds none ready makes one, and hears why not.
    """

    def __init__(self, most: int = 16) -> None:
        self._batch = max(1, most // 2)
        self._taken = 0
        self._talk, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self._talk.close)
            self._talk.setblocking(False)
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [interpreter(), "-I", "-S", "-c", _HELPER, _PACKAGE],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
            undo.pop_all()
        self._want(most)

    @property
    def pid(self) -> int:
        """The helper's process."""
        return int(self._process.pid)

    def _want(self, count: int) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._talk.send(bytes(count))

    def take(self, name: str) -> Netns | None:
        """One that is ready, the caller's from now on, to be called ``name``; None when none is."""
        try:
            _, fds, _, _ = socket.recv_fds(self._talk, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        if not fds:
            return None
        self._taken += 1
        if self._taken % self._batch == 0:  # to wake a process is dear: not for each
            self._want(self._batch)
        return Netns(fds[0], name)

    def close(self) -> None:
        """Make no more, and let go of those that nobody took."""
        with contextlib.suppress(OSError):
            # The helper can send no more, and ends. To close is not enough: a forked child may hold it, too.
            self._talk.shutdown(socket.SHUT_RDWR)
        while (netns := self.take("")) is not None:
            netns.close()
        self._talk.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def help_out() -> None:
    """What the helper does: make as many as it is asked for, one octet each, and hand them over its standard input."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=0) as talk,
        contextlib.closing(OwnProc()) as proc,
        contextlib.suppress(OSError),
    ):
        while wanted := talk.recv(64):
            for _ in wanted:
                unshare(CLONE_NEWNET)
                with Netns.current() as netns:
                    _make_fit(netns, proc.for_a_look())
                    socket.send_fds(talk, [b"+"], [netns.fileno()])
