"""System calls that Python 3.11 does not have: namespaces and mounts, of the calling thread."""

from __future__ import annotations

import ctypes
import os
import struct

__all__ = [
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "MS_BIND",
    "MS_PRIVATE",
    "MS_REC",
    "checked",
    "mount",
    "mount_detached",
    "setgroups_does_nothing",
    "sethostname",
    "setns",
    "timerfd_create",
    "timerfd_settime",
    "umount",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_BIND = 1 << 12
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18

_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
"""The same on every architecture, as of all that came since Linux 5.2."""
_CLOEXEC, _FSCONFIG_CMD_CREATE = 1, 6

_MNT_DETACH = 2
_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """``result``, unless it is -1: then raises ``OSError`` with the errno that ``ctypes`` kept."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own (unshare(2)). Raises ``OSError``."""
    checked(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Put the calling thread into the namespace that ``fd`` refers to (setns(2)). Raises ``OSError``."""
    checked(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """Mount ``source`` on ``target`` (mount(2)). Raises ``OSError``."""
    checked(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            options.encode() if options else None,
        ),
        f"mount {target}",
    )


_SETGROUPS = {"x86_64": (0xC000003E, 116), "aarch64": (0xC00000B7, 159)}
"""By architecture: what linux/audit.h calls it, and the number of setgroups(2)."""
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_RET_ERRNO, _RET_ALLOW = 0x00050000, 0x7FFF0000


def setgroups_does_nothing() -> None:
    """Let setgroups(2) succeed without doing anything, for this thread and all that it starts (seccomp(2)).

    In a user namespace of one user it always fails, and programs such as tcpdump, which give up rights that
    they have not, end there. Raises ``OSError``; on an architecture that is not known nothing happens.
    """
    arch, number = _SETGROUPS.get(os.uname().machine, (0, 0))
    if not arch:
        return
    rules = (
        (0x20, 0, 0, 4),  # the architecture of the call
        (0x15, 0, 3, arch),
        (0x20, 0, 0, 0),  # its number
        (0x15, 0, 1, number),
        (0x06, 0, 0, _RET_ERRNO),  # errno 0: success
        (0x06, 0, 0, _RET_ALLOW),
    )
    text = b"".join(struct.pack("=HBBI", *rule) for rule in rules)
    memory = ctypes.create_string_buffer(text)
    program = struct.pack("@HP", len(rules), ctypes.addressof(memory))
    checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")


def umount(target: str) -> None:
    """Take the uppermost mount off ``target``, at once (umount2(2), MNT_DETACH). Raises ``OSError``."""
    checked(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def mount_detached(kind: str) -> int:
    """Make a filesystem that has no place in the tree; return its root, which lives as long as the file descriptor.

    Raises ``OSError`` (fsopen(2), fsmount(2)): EPERM without the privilege, ENOSYS before Linux 5.2.
    """
    context = checked(_libc.syscall(_SYS_FSOPEN, kind.encode(), _CLOEXEC), f"fsopen {kind}")
    try:
        checked(
            _libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), f"fsconfig {kind}"
        )
        return checked(_libc.syscall(_SYS_FSMOUNT, context, _CLOEXEC, 0), f"fsmount {kind}")
    finally:
        os.close(context)


def sethostname(name: str) -> None:
    """Set the host name of the calling thread's UTS namespace, at most 64 octets. Raises ``OSError``."""
    octets = name.encode()[:64]
    checked(_libc.sethostname(octets, len(octets)), "sethostname")


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


def timerfd_create() -> int:
    """Make a timer file descriptor on the monotonic clock (timerfd_create(2)); Python has it from 3.13 on."""
    return checked(_libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC), "timerfd_create")


def timerfd_settime(fd: int, deadline: float | None) -> None:
    """Let ``fd`` become readable at ``deadline`` (seconds, ``time.monotonic``); None disarms it."""
    spec = _Itimerspec()
    if deadline is not None:
        nanoseconds = max(1, round(deadline * 1e9))  # 0 would disarm it
        spec.it_value.tv_sec, spec.it_value.tv_nsec = divmod(nanoseconds, 1_000_000_000)
    checked(_libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None), "timerfd_settime")
