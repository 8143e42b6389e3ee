"""What this machine has of what a lab needs, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .errors import Missing
from .netns import Netns
from .tap import NOT_TUN, Tap, is_tun, no_tun, tun_path
from .userns import ensure_privileges, in_user_namespace

__all__ = ["Finding", "check"]

_PROGRAMS = (
    ("tcpdump", "tcpdump", "sniffing inside a host"),
    ("tshark", "tshark", "reading captures"),
    ("wireshark", "wireshark", "looking at captures"),
    ("iperf3", "iperf3", "measuring throughput"),
    ("dnsmasq", "dnsmasq-base", "DHCP and DNS in a host"),
    ("ping", "iputils-ping", "pinging by hand; the lab's own ping needs no program"),
    ("ip", "iproute2", "looking at devices by hand"),
)
FDS_PER_HOST = 3


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing looked at. ``required``: without it no lab runs. ``remedy`` is empty when it is there."""

    name: str
    ok: bool
    required: bool
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For printing as JSON."""
        return asdict(self)


def check() -> list[Finding]:
    """Look at everything, in the order in which it matters. Enters a user namespace when there is no root."""
    findings = [_kernel(), _tun(), _privileges()]
    if all(finding.ok for finding in findings if finding.required):
        findings += _in_a_namespace()
    findings.append(_fd_limit())
    for program, package, purpose in _PROGRAMS:
        path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        findings.append(
            Finding(
                program, path is not None, False, path or purpose, "" if path else f"apt install {package}"
            )
        )
    return findings


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    new_enough = numbers >= (5, 10)
    return Finding("kernel", new_enough, True, release, "" if new_enough else "use Linux 5.10 or later")


def _tun() -> Finding:
    path = tun_path()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return _lacking("tun", no_tun(error))
    try:
        return Finding("tun", True, True, path) if is_tun(fd) else _lacking("tun", NOT_TUN.format(path))
    finally:
        os.close(fd)


def _lacking(name: str, text: str) -> Finding:
    """Something required is not there; ``text`` says so and, after a semicolon, the remedy."""
    what, _, remedy = text.partition("; ")
    return Finding(name, False, True, what, remedy)


def _privileges() -> Finding:
    try:
        ensure_privileges()
    except Missing as error:
        return _lacking("privileges", str(error))
    where = "root in a user namespace" if in_user_namespace() else "root"
    return Finding("privileges", True, True, where)


def _in_a_namespace() -> list[Finding]:
    try:
        with Netns.create("check") as netns:
            tap = Tap.create(netns, "check0")
            try:
                return [
                    Finding("network namespace and TAP", True, True, "made and closed"),
                    *_features(netns, tap),
                ]
            finally:
                tap.close()
    except (OSError, Missing) as error:
        return [Finding("network namespace and TAP", False, True, str(error), "run as root, or in a VM")]


def _features(netns: Netns, tap: Tap) -> Iterator[Finding]:
    from .features import features

    for feature in features(netns, tap):
        remedy = "" if feature.there else "none needed; a newer kernel"
        yield Finding(feature.name, feature.there, False, feature.detail, remedy)


def _fd_limit() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hosts = hard // FDS_PER_HOST
    detail = f"{soft} now, {hard} at most: about {hosts} hosts"
    enough = hosts >= 1000
    return Finding("open files", enough, False, detail, "" if enough else "raise the hard limit (ulimit -Hn)")
