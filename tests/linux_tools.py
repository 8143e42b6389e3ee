"""The kernel's own account, read by programs that are not ours."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from iflab import Host
from iflab.linux import check, in_user_namespace

from .patience import PATIENCE


def ip(host: Host, *words: str) -> list[dict[str, Any]]:
    """``ip -j WORDS`` inside a host."""
    return json.loads(host.run(["ip", "-j", "-d", *words], check=True).stdout or "[]")


def link(host: Host, name: str) -> dict[str, Any]:
    """What ``ip link show`` says of a device."""
    return ip(host, "link", "show", name)[0]


def kernel_flags(host: Host, name: str) -> set[str]:
    """The flags of a device as ``ip`` prints them."""
    return set(link(host, name)["flags"])


def without_ipv6(*hosts: Host) -> None:
    """The kernels of these hosts send nothing unasked from now on, but for ARP."""
    for host in hosts:
        host.sysctl("net.ipv6.conf.all.disable_ipv6", 1)


def new_name(old: str, new: str) -> str:
    """Shell words that give a device, up or not, a new name, also where Linux (before 6.2) wants it down for that."""
    words = f"ip link set {old} name {new}"
    return f"{{ {words} 2>/dev/null || {{ ip link set {old} down && {words} up; }}; }}"


REAL_ROOT = os.geteuid() == 0 and not in_user_namespace()
real_root = pytest.mark.skipif(not REAL_ROOT, reason="needs the machine's root")


def need(program: str, package: str) -> None:
    """Skip unless a program is there."""
    import shutil

    if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
        pytest.skip(f"{program} is not installed: apt install {package}")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk in a folder, soon full (``size``: ``64k``); skips where nothing may be mounted."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.splitlines()[0]}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@functools.cache
def kernel_has(feature: str) -> bool:
    """True when this kernel has what ``iflab check`` calls so."""
    return {finding.name: finding.ok for finding in check()}[feature]


def eventually(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    """Wait until ``condition()`` is true and return it; fail after ``timeout`` seconds, times ``PATIENCE``."""
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {condition}")
        time.sleep(0.005)  # between two looks at something that sends no event


def open_files(*, collect: bool = False) -> int:
    """Files that this process holds open: the fewest of a few looks, for a lab opens some for an instant.

    With ``collect`` those that earlier tests left to the garbage collector are closed first.
    """
    if collect:
        gc.collect()
    looks = []
    for _ in range(10):
        looks.append(len(os.listdir("/proc/self/fd")))
        time.sleep(0.002)
    return min(looks)


def network_namespaces() -> set[int]:
    """Inodes of all network namespaces that a process or an open file holds."""
    found = set()
    for process in psutil.process_iter():
        base = f"/proc/{process.pid}"
        try:
            found.add(os.stat(f"{base}/ns/net").st_ino)
            for fd in os.listdir(f"{base}/fd"):
                target = os.readlink(f"{base}/fd/{fd}")
                if target.startswith("net:["):
                    found.add(int(target[5:-1]))
        except OSError:
            continue
    return found
