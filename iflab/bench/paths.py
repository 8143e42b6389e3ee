"""Frames through a cable: throughput, small frames, round trips, delays."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from iflab.linux import Netns, ensure_privileges

from .beds import Bed, CLoopBed, LabBed, ScapyBed, VdeBed, VethBed
from .core import Bench, Missing, Row, figure

__all__ = ["capture", "delay", "hook", "ping", "switch", "tcp", "tcp_plain", "tcp_reno", "udp"]

_Maker = Callable[[], Bed]
_Figure = Callable[[Bed, float], float]

TCP_S, UDP_S, PING_S = 1.0, 1.0, 0.5


def _against(
    bench: Bench,
    measure: str,
    unit: str,
    make: _Maker,
    what: _Figure,
    references: list[tuple[str, _Maker, float | None]],
    sense: str = "at least",
    note: str = "",
) -> Iterator[Row]:
    """Measure one bed, and each reference in turn with it; name those that are missing."""
    there: list[tuple[str, _Maker, float | None]] = []
    missing: list[Row] = []
    for name, other, target in references:
        try:
            other().close()
        except Missing as error:
            missing.append(
                Row(measure, unit, 0, reference=name, target=target, sense=sense, note=f"not here: {error}")
            )
        else:
            there.append((name, other, target))

    def once(maker: _Maker) -> float:
        with maker() as bed:
            return what(bed, 1.0)

    bench.tell(f"{measure}: {', '.join(['iflab', *(name for name, _, _ in there)])}")
    ours, theirs = bench.paired(
        lambda: once(make),
        *(partial(once, maker) for _, maker, _ in there),
    )
    for (name, _, target), values in zip(there, theirs, strict=True):
        yield figure(
            measure,
            unit,
            ours,
            reference=name,
            reference_values=values,
            target=target,
            sense=sense,
            note=note,
        )
        note = ""
    for row in missing:
        row.value, row.low, row.high, row.group = statistics.median(ours), min(ours), max(ours), measure
        yield row


def _congestion_control() -> str:
    """The one of new hosts, which decides much of what a stream reaches."""
    ensure_privileges()
    with Netns.create("probe") as netns, netns.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        name = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return f"congestion control: {name.rstrip(bytes(1)).decode()}"


def tcp(bench: Bench) -> Iterator[Row]:
    """One TCP stream over a clean cable, offloads on."""
    seconds = bench.seconds(TCP_S)
    yield from _against(
        bench,
        "TCP, one stream",
        "Gbit/s",
        LabBed,
        lambda bed, _: bed.tcp(seconds),
        [
            ("C loop", CLoopBed, 1.0),
            ("veth", VethBed, 0.85),
            ("vde_switch", VdeBed, 15),
            ("scapy bridge", ScapyBed, 300),
        ],
        note=_congestion_control(),
    )


def tcp_reno(bench: Bench) -> Iterator[Row]:
    """The same with a congestion control that has no pacing: there the processor is the only limit."""
    seconds = bench.seconds(TCP_S)
    yield from _against(
        bench,
        "TCP, one stream, reno",
        "Gbit/s",
        LabBed,
        lambda bed, _: bed.tcp(seconds, "reno"),
        [("C loop", CLoopBed, None), ("veth", VethBed, None)],
    )


def tcp_plain(bench: Bench) -> Iterator[Row]:
    """The same without offloads: frames of 1,500 octets."""
    seconds = bench.seconds(TCP_S)
    yield from _against(
        bench,
        "TCP, offloads off",
        "Gbit/s",
        lambda: LabBed(offload=False),
        lambda bed, _: bed.tcp(seconds),
        [("C loop, offloads off", lambda: CLoopBed(offload=False), 0.75)],
    )


def switch(bench: Bench) -> Iterator[Row]:
    """One TCP stream through a switch with eight ports, offloads on."""
    seconds = bench.seconds(TCP_S)
    yield from _against(
        bench,
        "TCP through a switch",
        "Gbit/s",
        lambda: LabBed(switch=True),
        lambda bed, _: bed.tcp(seconds),
        [("iflab, plain cable", LabBed, 0.8)],
    )


def udp(bench: Bench) -> Iterator[Row]:
    """Datagrams of 18 octets, received by a program."""
    seconds = bench.seconds(UDP_S)
    yield from _against(
        bench,
        "UDP, small frames",
        "1/s",
        LabBed,
        lambda bed, _: bed.udp(seconds),
        [("C loop", CLoopBed, 0.9), ("vde_switch", VdeBed, 1.4), ("scapy bridge", ScapyBed, 15)],
    )


def ping(bench: Bench) -> Iterator[Row]:
    """Median round trip, each request sent when the last was answered."""
    seconds = bench.seconds(PING_S)
    yield from _against(
        bench,
        "ping",
        "µs",
        LabBed,
        lambda bed, _: bed.ping(seconds),
        [("C loop", CLoopBed, 1.3)],
        sense="at most",
    )


def hook(bench: Bench) -> Iterator[Row]:
    """A Python hook that reads the octets of every frame."""
    seconds = bench.seconds(TCP_S)
    yield from _against(
        bench,
        "TCP with a hook",
        "Gbit/s",
        lambda: LabBed(hook=True),
        lambda bed, _: bed.tcp(seconds),
        [("iflab, offloads off", lambda: LabBed(offload=False), 0.6)],
    )


def capture(bench: Bench) -> Iterator[Row]:
    """A pcapng capture of everything."""
    seconds = bench.seconds(TCP_S)
    yield from _against(
        bench,
        "TCP with a capture",
        "Gbit/s",
        lambda: LabBed(capture=True),
        lambda bed, _: bed.tcp(seconds),
        [("iflab, offloads off", lambda: LabBed(offload=False), 0.6)],
    )


def delay(bench: Bench) -> Iterator[Row]:
    """How late a frame leaves a cable of 2 ms, unloaded."""
    from iflab.lab import Lab
    from iflab.net.mbuf import mbuf

    class Port:
        end: Any = None

        def __init__(self, name: str) -> None:
            self.name, self.heard, self.when = name, threading.Event(), 0.0

        def receive(self, m: bytes) -> None:
            self.when = time.monotonic()
            self.heard.set()

        def link_change(self, up: bool) -> None:
            """Nothing."""

    errors: list[float] = []
    medians, late = [], []
    for _ in range(bench.runs):
        errors.clear()
        with Lab(control=False) as lab:
            one, other = Port("one"), Port("other")
            lab.cable(one, other, delay=0.002)
            frame = mbuf(bytes(60))
            for _ in range(50 if bench.quick else 300):
                other.heard.clear()
                with lab.lock:
                    began = time.monotonic()
                    one.end.send(frame)
                other.heard.wait(1)
                errors.append(abs(other.when - began - 0.002) * 1e6)
        errors.sort()
        medians.append(errors[len(errors) // 2])
        late.append(errors[int(len(errors) * 0.99)])
    yield figure("cable of 2 ms, median error", "µs", medians, target=100, sense="at most", group="delay")
    yield figure("cable of 2 ms, 99th percentile", "µs", late, target=400, sense="at most", group="delay")
