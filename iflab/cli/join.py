"""Commands on a lab that another process holds: ``exec``, ``ifconfig``, ``netstat``, ``sysctl``, ``monitor``.

For ``exec`` the lab hands over the namespaces; this process enters them and starts the
program, so terminal, signals and exit status are as in any shell. The program
is in the lab's pid namespace and ends with the lab.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iflab.control import Client

__all__ = ["bsd_command", "exec_command", "monitor_command", "the_lab"]


def the_lab(name: str) -> tuple[dict[str, Any], Client]:
    """The one running lab of that name or pid. Raises ``NoSuchLab``, ``LabError`` when there are several."""
    from iflab.control import find_labs, full_name
    from iflab.host import LabError

    labs = find_labs(name)
    if len(labs) > 1:
        names = ", ".join(full_name(description) for description, _ in labs)
        raise LabError(f"{len(labs)} labs are called {name!r}; name one with its pid: {names}")
    return labs[0]


def bsd_command(command: str, lab: str, host: str | None, words: list[str]) -> int:
    """Let the lab carry out one of FreeBSD's commands; 1 when it refuses."""
    description, client = the_lab(lab)
    if host is None:
        host = next(iter(description["hosts"]), "")
    try:
        answer, _ = client.ask(do=command, host=host, args=words[words[:1] == ["--"] :])
    except ValueError as error:
        text = str(error)
        print(text if text.startswith(f"{command}: ") else f"{command}: {text}", file=sys.stderr)
        return 1
    print(answer["text"], end="")
    return 0


def monitor_command(lab: str, host: str | None) -> int:
    """Print what the lab tells until it ends."""
    from iflab.host import LabError

    _, client = the_lab(lab)
    request = {"do": "monitor"} | ({"host": host} if host is not None else {})
    try:
        for part in client.follow(**request):
            print(part["text"], end="", flush=True)
    except ValueError as error:
        raise LabError(str(error)) from error
    return 0


def exec_command(lab: str, host: str, command: list[str]) -> int:
    """Run the program, a shell by default, and return its exit status as a shell does.

    128 + signal for one that was killed, 127 for one that is not there, 126 for one that cannot be run.
    """
    from iflab.host import LabError
    from iflab.linux.syscalls import (
        CLONE_NEWNET,
        CLONE_NEWNS,
        CLONE_NEWPID,
        CLONE_NEWUSER,
        CLONE_NEWUTS,
        setgroups_does_nothing,
        setns,
    )

    kinds = {
        "user": CLONE_NEWUSER,
        "pid": CLONE_NEWPID,
        "mnt": CLONE_NEWNS,
        "uts": CLONE_NEWUTS,
        "net": CLONE_NEWNET,
    }
    description, client = the_lab(lab)
    try:
        answer, fds = client.ask(do="exec", host=host)
    except ValueError as error:
        raise LabError(str(error)) from error
    here = os.getcwd()
    for kind, fd in zip(answer["namespaces"], fds, strict=True):
        if kind == "user" and os.fstat(fd).st_ino == os.stat("/proc/self/ns/user").st_ino:
            os.close(fd)  # nobody may enter the one that he is in
            continue
        try:
            setns(fd, kinds[kind])
        except OSError as error:
            raise LabError(
                f"{host} of {description['name']} cannot be entered from here ({kind} namespace: {error.strerror}); "
                "be the user who runs the lab, outside of other namespaces"
            ) from error
        os.close(fd)
        if kind == "user":
            for become in (os.setgid, os.setuid):
                with contextlib.suppress(OSError):
                    become(0)
    with contextlib.suppress(OSError):
        if "user" in answer["namespaces"]:
            setgroups_does_nothing()
    with contextlib.suppress(OSError):
        os.chdir(here)
    argv = command[command[:1] == ["--"] :] or [os.environ.get("SHELL", "/bin/sh")]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program
    try:
        status = subprocess.call(argv)
    except OSError as error:
        print(
            f"iflab: {host} of {description['name']} cannot run {argv[0]!r}: {error.strerror}",
            file=sys.stderr,
        )
        return 127 if isinstance(error, FileNotFoundError) else 126
    return 128 - status if status < 0 else status
