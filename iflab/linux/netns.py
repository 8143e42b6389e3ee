"""Network namespaces, each held by a file descriptor and by nothing else.

There is no name in the filesystem: when the last file descriptor and the last
process are gone, so is the namespace with every device in it.

A namespace is entered by one thread at a time, on its own account: other threads
stay where they are. Sockets and devices belong for good to the namespace in
which they were made.
"""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType

from .errors import KernelRefused
from .syscalls import CLONE_NEWNET, setns, unshare

__all__ = ["Netns"]

_OWN = "/proc/thread-self/ns/net"
_inside = threading.local()
"""``netns``: the namespace that the thread has entered; to enter it again takes nothing."""


def _open_own() -> int:
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


class _Entered:
    """The calling thread is inside, until the end of the ``with`` block."""

    __slots__ = ("_back", "_netns", "_outer")

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._back = -1
        self._outer: Netns | None = None

    def __enter__(self) -> None:
        self._outer = getattr(_inside, "netns", None)
        if self._outer is self._netns:
            return
        self._back = _open_own()
        try:
            setns(self._netns.fileno(), CLONE_NEWNET)
        except BaseException:
            os.close(self._back)
            raise
        _inside.netns = self._netns

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._back < 0:
            return  # it was inside before
        _inside.netns = None  # whatever comes between, nobody may take the thread to be there
        try:
            setns(self._back, CLONE_NEWNET)
            _inside.netns = self._outer
        except OSError as error:
            raise SystemError(
                f"a thread cannot leave the network namespace {self._netns.name!r}: {error.strerror}; "
                "whatever it does next would happen there, so it must end"
            ) from error
        finally:
            os.close(self._back)


class Netns:
    """A network namespace. ``name`` is for messages only; ``inode`` tells namespaces apart."""

    def __init__(self, fd: int, name: str = "") -> None:
        """Take over ``fd``, which refers to a network namespace and is closed by ``close``."""
        self._fd = fd
        self.name = name
        self.inode = os.fstat(fd).st_ino

    @classmethod
    def create(cls, name: str = "") -> Netns:
        """Make an empty namespace; its loopback is down. Raises ``KernelRefused`` (EPERM without privileges)."""
        back = _open_own()
        try:
            try:
                unshare(CLONE_NEWNET)
            except OSError as error:
                raise KernelRefused(
                    error.errno or 0, f"a network namespace for {name or 'the lab'}"
                ) from error
            return cls(_open_own(), name)
        finally:
            try:
                setns(back, CLONE_NEWNET)
            finally:
                os.close(back)

    @classmethod
    def current(cls) -> Netns:
        """The namespace of the calling thread."""
        return cls(_open_own(), "current")

    def fileno(self) -> int:
        """The file descriptor. Raises ``ValueError`` once closed."""
        if self._fd < 0:
            raise ValueError(f"the network namespace {self.name!r} is closed")
        return self._fd

    @property
    def fd(self) -> int:
        """The same as ``fileno()``."""
        return self.fileno()

    def entered(self) -> _Entered:
        """Let the calling thread be inside for a ``with`` block; blocks nest, and the way back is always taken."""
        return _Entered(self)

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0
    ) -> socket.socket:
        """Make a socket of this namespace, for any thread to use."""
        with self.entered():
            return socket.socket(family, kind, proto)

    def index_of(self, name: str) -> int:
        """The index of the device of that name in the namespace; 0 when there is none."""
        with self.entered():
            try:
                return socket.if_nametoindex(name)
            except OSError:
                return 0

    def read_list(self, name: str) -> list[bytes]:
        """The lines of ``/proc/net/NAME`` as it is in the namespace; none where the kernel has no such list.

        Names of devices in it are octets: any but spaces, slashes and colons.
        """
        with self.entered():
            try:
                with open(f"/proc/thread-self/net/{name}", "rb", buffering=0) as file:
                    return file.readall().splitlines()
            except FileNotFoundError:
                return []

    def close(self) -> None:
        """Let go of the namespace; it lives on while sockets or processes are in it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Netns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Netns {self.name!r} inode={self.inode}>"
