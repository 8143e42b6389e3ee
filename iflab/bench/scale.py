"""Large labs: up, down, memory, and how the cost grows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from iflab.lab import Lab

from .beds import _flow, _result
from .core import Bench, Missing, Row, figure

__all__ = ["cables", "hosts"]

MININET = str(Path(__file__).with_name("mininet_hosts.py"))
_PYTHON = "/usr/bin/python3"


def _lab_of(count: int) -> tuple[float, float, float]:
    """Milliseconds a host to bring ``count`` hosts on cables up, and down; megabytes resident when idle."""
    code = f"from iflab.bench.scale import build; build({count})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    up, down, resident = map(float, done.stdout.split())
    return up * 1000 / count, down * 1000 / count, resident


def build(count: int) -> None:
    """Build a lab of ``count`` hosts, print seconds up, seconds down and megabytes; in a process of its own."""
    import psutil  # type: ignore[import-untyped]

    began = time.perf_counter()
    lab = Lab(control=False)
    with lab.building():
        for number in range(0, count, 2):
            net = f"10.{number >> 8 & 255}.{number & 255}"
            lab.pair(f"{net}.1/30", f"{net}.2/30", names=(f"h{number}", f"h{number + 1}"))
    up = time.perf_counter() - began
    me = psutil.Process()
    resident = sum(p.memory_info().rss for p in (me, *me.children(recursive=True))) / 1e6
    began = time.perf_counter()
    lab.close()
    print(up, time.perf_counter() - began, resident)


def _mininet(count: int) -> tuple[float, float]:
    """The same of Mininet with its Linux bridge, in a network namespace of its own."""
    done = subprocess.run(
        ["unshare", "-n", "-m", _PYTHON, MININET, str(count)], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        raise Missing(f"Mininet that works: {(done.stderr.splitlines() or ['?'])[-1]}")
    up, down = map(float, done.stdout.split()[-2:])
    return up * 1000 / count, down * 1000 / count


def _mininet_or_why() -> str:
    if os.geteuid() != 0:
        return "Mininet needs root"
    needs = {"mnexec": "mininet", "brctl": "bridge-utils", "ifconfig": "net-tools", _PYTHON: "python3"}
    if missing := [package for program, package in needs.items() if shutil.which(program) is None]:
        return f"Mininet with a Linux bridge (apt install {' '.join(missing)})"
    try:
        _mininet(2)
    except Missing as error:
        return str(error)
    return ""


def hosts(bench: Bench) -> Iterator[Row]:
    """Milliseconds a host, up and down; the curve over 10, 100 and 1,000 hosts."""
    why = _mininet_or_why()
    theirs = 10 if bench.quick else 40
    counts = (10, 100) if bench.quick else (10, 100, 1000)
    runs = min(bench.runs, 2 if bench.quick else 3)
    found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in counts}
    reference: list[tuple[float, float]] = []
    for _ in range(runs):
        for count in counts:
            bench.tell(f"a lab of {count} hosts")
            found[count].append(_lab_of(count))
        if not why:
            bench.tell(f"Mininet with {theirs} hosts")
            reference.append(_mininet(theirs))
    most = counts[-1]
    for side, word in ((0, "up"), (1, "down")):
        for count in counts[:-1]:
            yield figure(
                f"{count} hosts, {word}", "ms/host", [row[side] for row in found[count]], group="hosts"
            )
        row = figure(
            f"{most} hosts, {word}",
            "ms/host",
            [row[side] for row in found[most]],
            reference=f"Mininet, {theirs} hosts",
            reference_values=[pair[side] for pair in reference],
            target=0.1,
            sense="at most",
            group="hosts",
        )
        if why:
            row.note = f"not here: {why}"
        yield row
    resident = [row[2] for row in found[most]]
    target = 150 if most == 1000 else None
    yield figure(
        f"{most} idle hosts, resident", "MB", resident, target=target, sense="at most", group="memory"
    )


def cables(bench: Bench) -> Iterator[Row]:
    """TCP through 1, 2, 4 and 8 cables at once, all together."""
    for count in (1, 2, 4, 8):
        bench.tell(f"{count} cables at once")
        values = [_together(count, bench.seconds(1.0)) for _ in range(bench.runs)]
        yield figure(f"TCP, {count} cables at once", "Gbit/s", values, group="cables")


def _together(count: int, seconds: float) -> float:
    import socket

    with Lab(control=False) as lab:
        flows = []
        with lab.building():
            for number in range(count):
                net = f"10.0.{number}"
                lab.pair(f"{net}.1/24", f"{net}.2/24", names=(f"a{number}", f"b{number}"))
        for number in range(count):
            listener = lab.hosts[f"b{number}"].socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.bind((f"10.0.{number}.2", 0))
            listener.listen(1)
            sender = lab.hosts[f"a{number}"].socket(socket.AF_INET, socket.SOCK_STREAM)
            sender.connect(listener.getsockname())
            receiver, _ = listener.accept()
            flows.append((_flow("tcp_send", sender, seconds), _flow("tcp_receive", receiver, seconds)))
            for sock in (listener, sender, receiver):
                sock.close()
        total = 0.0
        for sending, receiving in flows:
            _result(sending, seconds)
            total += _result(receiving, seconds) / 1e9
    return total
