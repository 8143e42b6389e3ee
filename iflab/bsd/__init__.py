"""FreeBSD's own commands, on a running lab: ifconfig, netstat, sysctl, and what route monitor prints.

Each works on a vnet through the ioctls of ``iflab.net``, as the caller that it is
given, and returns text. How they are reached from a terminal is in
``iflab/control.py`` and ``iflab/cli``.
"""

from __future__ import annotations

from .command import CommandError
from .ifconfig import ifconfig
from .monitor import devctl_text, message_text
from .netstat import netstat
from .sysctl import sysctl

__all__ = ["CommandError", "devctl_text", "ifconfig", "message_text", "netstat", "sysctl"]
