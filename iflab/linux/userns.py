"""Privileges: having them, or getting them in a user namespace.

An ordinary user may make a user namespace, is root in it, and can then make
network namespaces and devices that nobody else sees. The process must do that
before it starts a second thread, and is cut off from the machine's own network
from then on.
"""

from __future__ import annotations

import os
import threading

from .errors import Missing
from .syscalls import CLONE_NEWNET, CLONE_NEWUSER, setns, unshare

__all__ = [
    "CAP_NET_ADMIN",
    "CAP_SYS_ADMIN",
    "ensure_privileges",
    "have_cap",
    "in_user_namespace",
    "run_inside",
    "thread_count",
]

WHY_NOT = "IFLAB_NO_USER_NAMESPACE"
"""A variable of the environment: why a program that was to begin in a user namespace could not."""

CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21


def have_cap(cap: int) -> bool:
    """True when the calling thread holds the capability in its user namespace."""
    with open("/proc/thread-self/status") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> cap & 1)
    return False


def in_user_namespace() -> bool:
    """True when the process is not in the machine's first user namespace."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def thread_count() -> int:
    """Threads of this process, those that Python does not know of included."""
    return len(os.listdir("/proc/self/task"))


def ensure_privileges() -> None:
    """Hold the privileges to make namespaces and devices, entering a user namespace if need be.

    Raises ``Missing`` with the remedy: threads run already, or user namespaces
    are switched off.
    """
    if _privileged():
        if not _may_return():  # as under 'unshare -Ur', which leaves the machine's network namespace in place
            unshare(CLONE_NEWNET)
        return
    # A thread may enter a namespace only if the user namespace owns it, and must find its way back:
    # so the process leaves the machine's own network namespace for good.
    _enter(CLONE_NEWUSER | CLONE_NEWNET)


def run_inside(argv: list[str]) -> None:
    """Become another program, which has the privileges if that can be; its network is still the machine's."""
    try:
        if not _privileged():
            _enter(CLONE_NEWUSER)
    except Missing as error:
        os.environ[WHY_NOT] = str(error)  # what comes to be may have threads before it asks
    os.execv(argv[0], argv)


def _privileged() -> bool:
    return have_cap(CAP_NET_ADMIN) and have_cap(CAP_SYS_ADMIN)


def _enter(namespaces: int) -> None:
    """Enter a new user namespace and others that it owns, and be its root. Raises ``Missing``; nothing has changed then."""
    count = thread_count()
    if count > 1:
        if WHY_NOT in os.environ:
            raise Missing(os.environ[WHY_NOT])
        known = [thread.name for thread in threading.enumerate()]
        names = ", ".join([*known, *(["some of a library"] if len(known) < count else [])])
        raise Missing(
            "a lab without root enters a user namespace, which Linux refuses to a process with threads "
            f"(there are {count}: {names}); "
            "call iflab.linux.ensure_privileges() first thing in the program, or run it under 'unshare -Ur'"
        )
    if error := _tried_by_a_child(namespaces):
        raise Missing(f"user namespaces are not to be had ({os.strerror(error)}); {_remedy()}")
    _unshare_as_root(namespaces)


def _tried_by_a_child(namespaces: int) -> int:
    """The errno that it gives; 0 when it works. Some kernels refuse in the middle, and there is no way back then."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _unshare_as_root(namespaces)
            status = 0
        except OSError as error:
            status = error.errno or 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _unshare_as_root(namespaces: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    unshare(namespaces)
    for path, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{path}", "w") as file:
            file.write(text)


def _may_return() -> bool:
    """True when a thread that leaves its network namespace may come back: our user namespace owns it."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(own, CLONE_NEWNET)
    except PermissionError:
        return False
    finally:
        os.close(own)
    return True


def _remedy() -> str:
    for path, bad, fix in (
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ):
        try:
            with open(f"/proc/sys/{path}") as file:
                if file.read().strip() == bad:
                    return f"as root: {fix}"
        except OSError:
            continue
    return "run as root"
