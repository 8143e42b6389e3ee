"""FreeBSD's own commands, on a running lab: ifconfig, netstat, sysctl, and what route monitor prints.

Each works on a vnet through the ioctls of ``iflab.net``, as the caller that it is
given, and returns text. How they are reached from a terminal is in
``iflab/control.py`` and ``iflab/cli``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iflab.net import Thread, Vnet

from .command import CommandError, Words, as_words
from .devices import load_ahead
from .ifconfig import ifconfig
from .monitor import devctl_text, message_text
from .netstat import RouteRow, netstat
from .sysctl import sysctl

__all__ = [
    "CommandError",
    "Words",
    "as_words",
    "carry_out",
    "devctl_text",
    "ifconfig",
    "load_ahead",
    "message_text",
    "netstat",
    "sysctl",
]

_COMMANDS = {"ifconfig": ifconfig, "sysctl": sysctl}


def carry_out(
    command: str, vnet: Vnet, args: Sequence[str], td: Thread, routes: Callable[[int], list[RouteRow]]
) -> str:
    """Carry out one of the commands for ``td`` in ``vnet``, whose routes ``netstat -r`` gets by fib; return what it prints.

    Raises ``CommandError``, also for a command that there is not.
    """
    if command == "netstat":
        return netstat(vnet, args, td, routes)
    if command not in _COMMANDS:
        raise CommandError(f"{command}: no such command; there are {', '.join((*_COMMANDS, 'netstat'))}")
    return _COMMANDS[command](vnet, args, td)
