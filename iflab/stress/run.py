"""``stress``: build the bed, let everything loose for a while, and take stock."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import resource
import statistics
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from iflab.lab import Lab
from iflab.linux import Missing
from iflab.net import IFF, Ifnet

from .bed import HOSTS, NAMES, Bed
from .churn import Churn
from .traffic import Traffic

__all__ = ["Result", "stress"]

THREADS = 8
PATIENCE = 30.0
"""Seconds within which every thread must end once it is told to: else it is a deadlock."""
_SAMPLES = 120
MAY_GROW = 8.0
"""MiB by which the memory may grow between the second and the last quarter of a run, and ..."""
MAY_GROW_BY = 0.04
"""... this share of it; in less than five minutes names are still met for the first time."""


@dataclass(slots=True)
class Result:
    """What a run found. ``errors`` is empty when every account holds and nothing is left."""

    seed: int
    duration: float
    threads: int
    frames: int = 0
    """That were put on wires."""
    octets: int = 0
    done: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    wires: list[dict[str, Any]] = field(default_factory=list)
    nics: dict[str, dict[str, int]] = field(default_factory=dict)
    """The account of every NIC that was there at the end, and of all that had gone, together."""
    gone: int = 0
    tcp_octets: int = 0
    pings: int = 0
    overflows: int = 0
    blockages: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """Resident memory in MiB, as time went by."""
    left: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What is counted before and after: file descriptors, threads, interfaces, namespaces."""
    errors: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True when nothing was wrong."""
        return not self.errors

    @property
    def growth(self) -> float:
        """MiB between the medians of the second and the last quarter of the run."""
        quarter = len(self.memory) // 4
        if quarter < 2:
            return 0.0
        return statistics.median(self.memory[-quarter:]) - statistics.median(
            self.memory[quarter : 2 * quarter]
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"holds": self.holds, "growth": self.growth, **asdict(self)}


class _Complaints(logging.Handler):
    """Keeps what the lab logs as an error: something failed where it should not."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        if len(self.texts) < 100:
            self.texts.append(text)


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def _held_namespaces() -> int:
    """Network namespaces that this process and its children hold by file descriptors."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("net:["):
            found.add(target)
    return len(found)


def _counts() -> dict[str, int]:
    return {
        "file descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "namespaces": _held_namespaces(),
    }


def _objects() -> int:
    """Interfaces that are in memory, attached or not."""
    return sum(isinstance(each, Ifnet) for each in gc.get_objects())


def stress(
    duration: float = 60.0,
    seed: int = 1,
    *,
    threads: int = THREADS,
    rest: float = 0.005,
    pause: float = 0.002,
    tell: Callable[[str], None] = lambda text: None,
) -> Result:
    """Stress a lab of its own for ``duration`` seconds, and return the account.

    ``threads`` change the lab, each about every ``rest`` seconds; four more send, with
    ``pause`` seconds between two bursts. ``tell`` hears a line now and then. Raises ``Missing``.
    """
    result = Result(seed, duration, threads)
    complaints = _Complaints()
    logger = logging.getLogger("iflab")
    gc.collect()
    before = _counts()
    logger.addHandler(complaints)
    try:
        with Lab(seed=seed, control=False) as lab:
            _in_lab(lab, result, rest, pause, tell)
    except Missing:
        raise
    except Exception as error:
        result.errors.append("".join(traceback.format_exception(error)))
    finally:
        logger.removeHandler(complaints)
    gc.collect()
    for what, count in _counts().items():
        result.left[what] = (before[what], count)
        if count > before[what]:
            result.errors.append(f"{count - before[what]} {what} are left after the lab")
    result.errors += complaints.texts
    return result


def _in_lab(lab: Lab, result: Result, rest: float, pause: float, tell: Callable[[str], None]) -> None:
    bed = Bed(lab, result.seed)
    try:
        _run(lab, bed, result, rest, pause, tell)
    finally:
        result.errors += bed.ledger.errors + bed.unexpected


def _run(lab: Lab, bed: Bed, result: Result, rest: float, pause: float, tell: Callable[[str], None]) -> None:
    with lab.lock:
        idle = (_counts(), lab.kernel.live()["ifnet"], _objects())
    _furnish(bed)
    workers = [Churn(bed, number, result.seed, rest) for number in range(result.threads)]
    traffic = Traffic(bed, result.seed, pause)
    traffic.start()
    for worker in workers:
        worker.thread.start()
    _sample(bed, result, tell)
    bed.over.set()
    alive = _join([*(worker.thread for worker in workers), *traffic.threads])
    if alive:
        result.errors.append(f"these threads do not end: {', '.join(alive)}\n{_stacks()}")
        return
    _settle(bed)
    _take_stock(bed, result, traffic)
    del workers, traffic
    _empty(bed)
    with lab.lock:  # under it the engine opens a socket for a question, and closes it
        was, now = idle[0], _counts()
    for what in ("file descriptors", "namespaces", "threads"):
        if now[what] > was[what]:
            result.errors.append(f"{now[what] - was[what]} {what} are left when all NICs are gone")
    ifnets = lab.kernel.live()["ifnet"]
    result.left["interfaces"] = (idle[1], ifnets)
    if ifnets != idle[1]:
        result.errors.append(f"{ifnets - idle[1]} interfaces are left when all NICs are gone")
    held = _objects()
    result.left["interfaces in memory"] = (idle[2], held)
    if held != idle[2]:
        result.errors.append(f"{held - idle[2]} interfaces that are gone are still held by something")


def _furnish(bed: Bed) -> None:
    """NICs to begin with."""
    for number in range(8):
        ifp = bed.attach(bed.hosts[number % len(HOSTS)], NAMES[number // len(HOSTS)])
        bed.ledger.plug(bed.wires[number], ifp.if_softc)


def _empty(bed: Bed) -> None:
    """Let all NICs go, and whatever waits to be collected."""
    for ifp in list(bed.nics):
        bed.detach(ifp)
    bed.lab.wait_for_closers()
    gc.collect()


def _sample(bed: Bed, result: Result, tell: Callable[[str], None]) -> None:
    """Let it run, and look at the memory now and then."""
    began = time.monotonic()
    step = max(0.25, result.duration / _SAMPLES)
    told = began
    while (now := time.monotonic()) < began + result.duration:
        bed.over.wait(min(step, max(0.0, began + result.duration - now)))
        result.memory.append(round(_resident(), 1))
        if bed.unexpected:
            return
        if time.monotonic() > told + 10:
            told = time.monotonic()
            with bed.lab.lock:
                frames = sum(wire.account().sent for wire in bed.wires)
                tell(
                    f"{told - began:.0f} s: {frames} frames, {sum(bed.done.values())} changes, "
                    f"{len(bed.nics)} NICs, {result.memory[-1]} MiB"
                )


def _join(threads: list[threading.Thread]) -> list[str]:
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _settle(bed: Bed) -> None:
    """Let what is under way arrive, and both sides agree."""
    bed.calm()
    with bed.lab.lock:
        for ifp in bed.nics:
            ifp.if_drv_flags &= ~IFF.OACTIVE
            ifp.if_start()
    deadline = time.monotonic() + 10
    while bed.in_flight() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)  # the kernel tells of what the last changes made


def _take_stock(bed: Bed, result: Result, traffic: Traffic) -> None:
    lab, ledger = bed.lab, bed.ledger
    try:
        lab.check()
    except Exception as error:
        result.errors.append(f"Python and the kernel disagree at the end: {error}")
    with lab.lock:
        for wire in bed.wires:
            result.wires.append(ledger.check_wire(wire))
        for nic in bed.all_nics():
            result.nics[nic.name] = ledger.check(nic)
        seen = ledger.entry(bed.reflector).delivered
        if seen != bed.reflector.received:
            ledger.errors.append(f"reflector: delivered {seen}, received {bed.reflector.received}")
        result.gone = ledger.gone
        result.nics[f"{ledger.gone} that are gone"] = dict(ledger.totals)
        result.frames = sum(wire["sent"] for wire in result.wires)
        result.octets = sum(wire.account().octets for wire in bed.wires)
        result.done, result.refused = dict(bed.done), dict(bed.refused)
        result.overflows = lab.overflows
    result.tcp_octets, result.pings = traffic.octets, traffic.pings
    result.blockages = [str(each) for each in lab.engine.watchdog.blockages]
    limit = MAY_GROW + MAY_GROW_BY * (result.memory[0] if result.memory else 0)
    if result.duration >= 300 and result.growth > limit:
        result.errors.append(f"the memory grew by {result.growth:.1f} MiB: {result.memory}")
    if not traffic.octets or not traffic.pings:
        result.errors.append(f"TCP carried {traffic.octets} octets, {traffic.pings} pings came back")
