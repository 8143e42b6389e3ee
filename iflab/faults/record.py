"""The record of a run: what it was, and every fault with its time and its frame's number.

One JSON value a line. The first one says what ran; then come, as they happen::

    {"direction": 0, "wire": "cable0", "from": "alice:em0", "to": "bob:em0"}
    {"at": 0.000132, "set": 0, "after": 12, "faults": [{"fault": "Loss", "probability": 0.1, …}]}
    [1.203311, 0, 17, 0, "loss", true]
    {"at": 1.5, "note": "cable0: cut", "sent": {"alice:em0": 17, "bob:em0": 12}}
    {"at": 1.7, "note": "bob:em0: if_start stalls for 0.1 s", "nic": "bob:em0", "fault": "stall", "sent": 12, "received": 17}
    {"end": 3.2, "frames": {"0": 4711}}

The array is a decision: seconds since the run began, direction, the frame's number
among those that its sender put on this wire (1 is the first, faults or not), which
copy of it (0: the frame itself), the fault, and what was decided, as ``kinds.py`` has
it. ``after`` is the number of the last frame that the faults do not concern.

A note is what the lab told: of a wire with the number of the last frame that each end had
put on it, of a NIC's fault with the frames that the NIC had sent and received by then.

A run that did not come to its end leaves a record that is good up to there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from iflab.linux import create_private

from .errors import FaultError
from .kinds import Fault, fault_of, in_order

__all__ = ["Direction", "History", "Record", "RecordError", "Recorder", "versions"]

_log = logging.getLogger("iflab.faults")

VERSION = 1
"""Of the format."""

PERIOD = 0.05
"""Seconds between two writes."""

BACKLOG = 1_000_000
"""Lines that may wait to be written."""

Direction = tuple[str, str, str]
"""Wire, sender, receiver, by name."""


class RecordError(FaultError):
    """A file that is no record, or cannot be replayed; the text names file, line and remedy."""


def versions() -> dict[str, str]:
    """What decides how a run goes, apart from seed and parameters."""
    from iflab import __version__

    return {
        "iflab": __version__,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
    }


class Recorder:
    """Writes a record beside the run, from a thread of its own.

    The file is readable by its owner only. When it cannot be written (a full disk) the
    record ends there with a line in the log and ``error`` set; the run goes on.
    ``missing`` counts lines that were not taken because too many waited.
    """

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        self.path = os.fspath(path)
        self._file: BinaryIO = os.fdopen(create_private(self.path), "wb")
        self.error: OSError | None = None
        self.missing = 0
        self._lines: deque[Any] = deque()
        self._ending = threading.Event()
        self.add({"iflab record": VERSION, "versions": versions(), **about})
        self._write_out()
        self._thread = threading.Thread(target=self._run, name="iflab-record", daemon=True)
        self._thread.start()

    def add(self, line: Any) -> None:
        """Take a line; it is written soon."""
        if self.error is None and not self._ending.is_set():
            if len(self._lines) < BACKLOG:
                self._lines.append(line)
            else:
                self.missing += 1

    def _run(self) -> None:
        while not self._ending.wait(PERIOD):
            self._write_out()

    def _write_out(self) -> None:
        encode = json.JSONEncoder(separators=(",", ":"), default=str).encode
        texts = []
        for _ in range(len(self._lines)):
            texts.append(encode(self._lines.popleft()))
            texts.append("\n")
        if not texts or self.error is not None:
            return
        try:
            self._file.write("".join(texts).encode())
            self._file.flush()
        except OSError as error:
            self.error = error
            self._lines.clear()
            _log.error("the record %s ends here: %s", self.path, error.strerror)

    def close(self) -> None:
        """Write what is left and close the file; safe to call twice."""
        if self._ending.is_set():
            return
        if self.missing:
            self.add({"missing": self.missing})
        self._ending.set()
        self._thread.join()
        self._write_out()
        with contextlib.suppress(OSError):
            self._file.close()


@dataclass(slots=True)
class History:
    """What a record says of one direction."""

    settings: list[tuple[int, tuple[Fault, ...]]] = field(default_factory=list)
    """Faults, and the number of the last frame that they did not concern, in order."""
    decisions: dict[tuple[int, int, str], Any] = field(default_factory=dict)
    """By frame, copy and fault."""
    last: int = 0
    """Number of the last frame of the run."""

    def faults(self, number: int) -> tuple[Fault, ...]:
        """Those that concerned frame ``number``."""
        place = bisect_left(self.settings, number, key=itemgetter(0))
        return self.settings[place - 1][1] if place else ()


@dataclass(slots=True)
class Record:
    """A record that was read."""

    path: str
    about: dict[str, Any]
    histories: dict[Direction, History]
    notes: list[tuple[float, str]]
    ended: float | None
    """Seconds that the run took; None: it did not come to its end."""

    @property
    def seed(self) -> int:
        """The run's."""
        return int(self.about["seed"])

    @property
    def decisions(self) -> int:
        """How many there are."""
        return sum(len(history.decisions) for history in self.histories.values())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Record:
        """Read a record. Raises ``RecordError`` for what is none, ``OSError``."""
        name = os.fspath(path)
        reader = _Reader(name)
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # the run ended while it was being written
                reader.take(number, line)
        return reader.done()


class _Reader:
    def __init__(self, path: str) -> None:
        self.path = path
        self.about: dict[str, Any] = {}
        self.directions: dict[int, History] = {}
        self.histories: dict[Direction, History] = {}
        self.notes: list[tuple[float, str]] = []
        self.ended: float | None = None

    def take(self, number: int, octets: bytes) -> None:
        try:
            line = json.loads(octets)
        except ValueError:  # what it is instead may be long, and no text
            raise RecordError(f"{self.path} line {number} is no line of a record: it is no JSON") from None
        try:
            if number == 1:
                self._first(line)
            elif isinstance(line, list):
                _, direction, frame, copy, key, value = line
                history = self.directions[direction]
                history.decisions[int(frame), int(copy), str(key)] = value
                history.last = max(history.last, int(frame))
            else:
                self._event(line)
        except RecordError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{self.path} line {number} is no line of a record: {error!r}") from None

    def _first(self, line: Any) -> None:
        if not isinstance(line, dict) or line.get("iflab record") != VERSION:
            raise RecordError(
                f"{self.path} is no record of format {VERSION}; iflab run --record FILE writes one"
            )
        int(line["seed"])
        self.about = line

    def _event(self, line: dict[str, Any]) -> None:
        if "direction" in line:
            where = (str(line["wire"]), str(line["from"]), str(line["to"]))
            self.directions[int(line["direction"])] = self.histories.setdefault(where, History())
        elif "set" in line:
            faults = in_order(fault_of(kept) for kept in line["faults"])
            history = self.directions[line["set"]]
            history.settings.append((int(line["after"]), faults))
            history.last = max(history.last, int(line["after"]))
        elif "note" in line:
            self.notes.append((float(line["at"]), str(line["note"])))
        elif "end" in line:
            self.ended = float(line["end"])
            for direction, last in line["frames"].items():
                self.directions[int(direction)].last = int(last)

    def done(self) -> Record:
        if not self.about:
            raise RecordError(f"{self.path} is empty; iflab run --record FILE writes a record")
        return Record(self.path, self.about, self.histories, self.notes, self.ended)
