"""Commands that watch a running lab, or pull its plugs: ``sniff``, ``top``, ``cut``, ``mend``."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from iflab.linux import create_private

from .join import the_lab

__all__ = ["plug_command", "sniff_command", "top_command"]

_PACKET = 6


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Type and octets of each block of a pcapng file, as they come."""
    while len(head := file.read(8)) == 8:
        kind, size = struct.unpack("<II", head)
        rest = file.read(size - 8)
        if len(rest) < size - 8:
            return
        yield kind, head + rest


def _limited(file: BinaryIO, count: int | None) -> Iterator[bytes]:
    """The blocks of a pcapng file up to its ``count``-th frame."""
    frames = 0
    for kind, octets in _blocks(file):
        frames += kind == _PACKET
        yield octets
        if count is not None and frames >= count:
            return


def sniff_command(
    lab: str, places: list[str], words: list[str], write: str | None, count: int | None, snaplen: int | None
) -> int:
    """Show or write what passes, until ``count`` frames, Ctrl-C or the lab's end."""
    from iflab.host import LabError

    _, client = the_lab(lab)
    request = {"do": "sniff", "places": places, "filter": " ".join(words), "snaplen": snaplen}
    try:
        with client.stream(**request) as file:
            blocks = _limited(file, count)
            if write is None:
                _show(blocks)
            else:
                _write(blocks, write)
    except ValueError as error:
        raise LabError(str(error)) from error
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # Who read it has gone, as Wireshark does; nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _write(blocks: Iterator[bytes], path: str) -> None:
    """Write whole blocks: of one that does not fit nothing stays in a file, so that it can be read."""
    with contextlib.ExitStack() as undo:
        whole = 0
        if path == "-":
            out: Any = sys.stdout.buffer
        else:
            out = undo.enter_context(os.fdopen(create_private(path), "wb", buffering=0))
        try:
            for octets in blocks:
                rest = memoryview(octets)
                while rest:
                    rest = rest[out.write(rest) :]
                out.flush()
                whole += len(octets)
        except OSError as error:
            with contextlib.suppress(OSError):
                if path != "-" and stat.S_ISREG(os.fstat(out.fileno()).st_mode):
                    os.ftruncate(out.fileno(), whole)
            error.filename = path
            raise


class _Joined:
    """Blocks as the file that scapy reads."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks = blocks
        self.rest = b""
        self.name = "lab"

    def read(self, size: int) -> bytes:
        while len(self.rest) < size:
            block = next(self.blocks, b"")
            if not block:
                break
            self.rest += block
        found, self.rest = self.rest[:size], self.rest[size:]
        return found

    def close(self) -> None:
        """Nothing to do: the blocks belong to somebody else."""


def _show(blocks: Iterator[bytes]) -> None:
    """A line for each frame: time, interface, scapy's summary, and what became of it."""
    from scapy.layers import inet6  # noqa: F401 - without it IPv6 is Raw
    from scapy.utils import PcapNgReader

    for packet in PcapNgReader(_Joined(blocks)):
        when = time.strftime("%H:%M:%S", time.localtime(float(packet.time)))
        fraction = f"{int(packet.time * 1_000_000) % 1_000_000:06d}"
        comments = [
            comment.decode(errors="replace") if isinstance(comment, bytes) else comment
            for comment in (getattr(packet, "comments", None) or ())
        ]
        where = packet.sniffed_on or ""
        print(
            f"{when}.{fraction} {where}  {packet.summary()}" + "".join(f"  [{text}]" for text in comments),
            flush=True,
        )


# top


def top_command(lab: str, interval: float, count: int, as_json: bool) -> int:
    """Show counters and rates, once every ``interval`` seconds, ``count`` times or until Ctrl-C or the lab's end."""
    _, client = the_lab(lab)
    before: dict[str, Any] | None = None
    shown = 0
    live = None
    with contextlib.ExitStack() as undo, contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty() and not as_json:
            from rich.live import Live

            live = undo.enter_context(Live(auto_refresh=False, screen=count == 0))
        while count == 0 or shown < count:
            if shown:
                time.sleep(interval)
            try:
                now, _ = client.ask(do="top")
            except OSError:
                return 0  # the lab has ended
            rows = _rates(now, before)
            if as_json:
                print(json.dumps({**now, "rates": rows}), flush=True)
            elif live is not None:
                live.update(_pretty(lab, now, rows, live.console.height), refresh=True)
            else:
                _plain(now, rows)
            before, shown = now, shown + 1
    return 0


_HEAD = (
    "",
    "link",
    "in frames/s",
    "in Mbit/s",
    "out frames/s",
    "out Mbit/s",
    "queue",
    "drops",
    "faults",
)
_WIRE_HEAD = (
    "",
    "ends up",
    "frames/s",
    "Mbit/s",
    "sent",
    "delivered",
    "in flight",
    "drops",
    "other faults",
)


def _rates(now: dict[str, Any], before: dict[str, Any] | None) -> dict[str, dict[str, float]]:
    """Frames and octets a second since the last look; since the lab's start at the first."""
    seconds = max(1e-9, now["time"] - (before["time"] if before else 0.0))
    rates: dict[str, dict[str, float]] = {}
    for kind, names in (
        ("nics", ("in_frames", "in_octets", "out_frames", "out_octets")),
        ("wires", ("sent", "octets")),
    ):
        for name, counters in now[kind].items():
            old = (before or {}).get(kind, {}).get(name, {})
            rates[name] = {
                each: round(max(0, counters[each] - old.get(each, 0)) / seconds, 1) for each in names
            }
    return rates


def _drops(drops: dict[str, int]) -> str:
    return ", ".join(f"{cause} {number}" for cause, number in drops.items() if number)


def _mbit(octets: float) -> str:
    return f"{octets * 8 / 1e6:.3f}"


def _nic_rows(now: dict[str, Any], rates: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            nic["link"],
            f"{rates[name]['in_frames']:.0f}",
            _mbit(rates[name]["in_octets"]),
            f"{rates[name]['out_frames']:.0f}",
            _mbit(rates[name]["out_octets"]),
            f"{nic['queue']}/{nic['queue_max']}",
            _drops(nic["drops"]),
            _drops(nic["faults"]),
        )
        for name, nic in now["nics"].items()
    ]


def _nic_table(
    now: dict[str, Any], rates: dict[str, dict[str, float]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows; without the column of faults where no NIC has any."""
    head, rows = ("NIC", *_HEAD[1:]), _nic_rows(now, rates)
    if any(row[-1] for row in rows):
        return head, rows
    return head[:-1], [row[:-1] for row in rows]


def _wire_rows(now: dict[str, Any], rates: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{sum(wire['ends'].values())}/{len(wire['ends'])}",
            f"{rates[name]['sent']:.0f}",
            _mbit(rates[name]["octets"]),
            str(wire["sent"]),
            str(wire["delivered"]),
            str(wire["in_flight"]),
            _drops(wire["drops"]),
            _drops(wire["faults"]),
        )
        for name, wire in now["wires"].items()
    ]


def _plain(now: dict[str, Any], rates: dict[str, dict[str, float]]) -> None:
    from .show import table

    print(f"{now['time']:.3f} s")
    table(*_nic_table(now, rates))
    table(("wire", *_WIRE_HEAD[1:]), _wire_rows(now, rates))
    print(flush=True)


def _pretty(lab: str, now: dict[str, Any], rates: dict[str, dict[str, float]], height: int) -> Any:
    """Two tables that fit a terminal of ``height`` lines: where there are too many rows, the busiest."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(f"{lab}  {now['time']:.1f} s", style="bold")]
    (nic_head, nics), wires = _nic_table(now, rates), _wire_rows(now, rates)
    room = max(6, height - 9)  # of lines: title, two heads of two lines, blanks, what is left out
    for_wires = max(min(len(wires), room // 2), room - len(nics))
    for head, rows, most in (
        (nic_head, nics, room - min(len(wires), for_wires)),
        (("wire", *_WIRE_HEAD[1:]), wires, for_wires),
    ):
        pretty = Table(box=None, header_style="bold", pad_edge=False)
        for place, column in enumerate(head):
            words = column in ("drops", "other faults", "faults")
            number = place > 0 and column != "link" and not words
            pretty.add_column(
                column.replace(" ", "\n"),
                justify="right" if number else "left",
                no_wrap=number or column == "link",
                min_width=max(map(len, (*column.split(), *(row[place] for row in rows)))) if number else 4,
                overflow="fold",
            )
        shown = _busiest(rows, most, rates)
        for row in shown:
            pretty.add_row(*row)
        parts += [Text(""), pretty]
        if len(shown) < len(rows):
            parts.append(Text(f"and {len(rows) - len(shown)} that are less busy", style="dim"))
    return Group(*parts)


def _busiest(
    rows: list[tuple[str, ...]], most: int, rates: dict[str, dict[str, float]]
) -> list[tuple[str, ...]]:
    """At most so many rows, in their order."""
    if len(rows) <= most:
        return rows
    by_rate = sorted(rows, key=lambda row: sum(rates[row[0]].values()), reverse=True)
    chosen = {row[0] for row in by_rate[:most]}
    return [row for row in rows if row[0] in chosen]


# plugs


def plug_command(verb: str, lab: str, wire: str, towards: str | None) -> int:
    """Cut or mend a wire."""
    from iflab.host import LabError

    _, client = the_lab(lab)
    try:
        client.ask(do=verb, wire=wire, towards=towards)
    except ValueError as error:
        raise LabError(str(error)) from error
    return 0
