"""A capture of all wires of a lab in one pcap file, nanosecond times (draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from iflab.net.mbuf import PKTHDR, Mbuf
from iflab.wire import End, Tap, Wire

__all__ = ["Capture"]

_log = logging.getLogger("iflab.capture")
_LINKTYPE_ETHERNET = 1


class Capture:
    """Writes each frame at the moment when it is put on a wire, in that order; ``frames`` counts them.

    The file is readable by its owner only. When it cannot be written (a full
    disk), this capture ends with a line in the log and ``error`` set; the lab
    goes on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from scapy.utils import RawPcapWriter

        self.path = os.fspath(path)
        self.frames = 0
        self.error: OSError | None = None
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(fd, "wb", buffering=1 << 20)
        self._writer: Any = RawPcapWriter(self._file, linktype=_LINKTYPE_ETHERNET, nano=True)
        self._writer.write_header(None)
        self._taps: list[Tap] = []

    def listen(self, wire: Wire) -> None:
        """Hear ``wire`` from now on."""
        self._taps.append(wire.add_tap(self._heard))

    def _heard(self, end: End, m: Mbuf) -> None:
        if self.error is not None:
            return
        now = time.time_ns()
        try:
            self._writer.write_packet(m[PKTHDR:], sec=now // 10**9, usec=now % 10**9)
            self.frames += 1
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.error = error
        _log.error("the capture %s ends after %d frames: %s", self.path, self.frames, error.strerror)

    def close(self) -> None:
        """Write what is left and close the file; safe to call twice."""
        for tap in self._taps:
            tap.remove()
        self._taps.clear()
        if self._file.closed:
            return
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)
