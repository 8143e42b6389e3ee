"""``iflab exec``: a program of this terminal inside a host of a lab that another process holds.

The lab hands over the namespaces; this process enters them and starts the
program, so terminal, signals and exit status are as in any shell. The program
is in the lab's pid namespace and ends with the lab.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

__all__ = ["exec_command"]


def exec_command(lab: str, host: str, command: list[str]) -> int:
    """Run the program, a shell by default, and return its exit status as a shell does (128 + signal)."""
    from iflab.control import find_labs
    from iflab.host import LabError
    from iflab.linux.syscalls import (
        CLONE_NEWNET,
        CLONE_NEWNS,
        CLONE_NEWPID,
        CLONE_NEWUSER,
        CLONE_NEWUTS,
        setns,
    )

    kinds = {
        "user": CLONE_NEWUSER,
        "pid": CLONE_NEWPID,
        "mnt": CLONE_NEWNS,
        "uts": CLONE_NEWUTS,
        "net": CLONE_NEWNET,
    }
    labs = find_labs(lab)
    if len(labs) > 1:
        pids = ", ".join(str(description["pid"]) for description, _ in labs)
        raise LabError(f"{len(labs)} labs are called {lab!r}; name one by its pid: {pids}")
    description, client = labs[0]
    try:
        answer, fds = client.ask(do="exec", host=host)
    except ValueError as error:
        raise LabError(str(error)) from error
    here = os.getcwd()
    for kind, fd in zip(answer["namespaces"], fds, strict=True):
        setns(fd, kinds[kind])
        os.close(fd)
        if kind == "user":
            for become in (os.setgid, os.setuid):
                with contextlib.suppress(OSError):
                    become(0)
    with contextlib.suppress(OSError):
        os.chdir(here)
    argv = command[command[:1] == ["--"] :] or [os.environ.get("SHELL", "/bin/sh")]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program
    try:
        status = subprocess.call(argv)
    except OSError as error:
        raise LabError(f"{host} of {description['name']} cannot run {argv[0]!r}: {error.strerror}") from error
    return 128 - status if status < 0 else status
