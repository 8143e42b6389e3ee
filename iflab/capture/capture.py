"""A capture: what passes on wires, and what became of it, written to a file beside the traffic.

The engine only appends to a list what it hears (a time, the frames); a thread of
the capture's own makes blocks of it and writes them in large pieces. When it
cannot keep up, frames beyond ``BACKLOG`` octets are not taken, counted, and told in
the file's interface statistics. Traffic waits for nobody.

A frame is written when it is known what became of it, so that one that was lost
bears the cause as a comment; what happens in the lab meanwhile is a comment of
the next frame.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from iflab.bpf import compile_filter
from iflab.drivers import listeners_change
from iflab.linux import create_private
from iflab.net import BpfSide, BpfTap, Ifnet, bpfattach, bpfdetach
from iflab.net.mbuf import PKTHDR, Mbuf
from iflab.wire import HOOK, End, Port, UnderWay, Watched, Wire

from .files import INBOUND, OUTBOUND, SNAPLEN, Interface, PcapFile, PcapngFile, packets

if TYPE_CHECKING:
    from iflab.faults import NicStruck, Struck

__all__ = ["Capture"]

_log = logging.getLogger("iflab.capture")

BACKLOG = 256 << 20
"""Octets that may wait to be written."""

PERIOD = 0.02
"""Seconds between two writes."""

LOOK_EVERY = 0.25
"""Seconds between two looks at what the NICs turned away, for one that goes meanwhile."""

PATIENCE = 2.0
"""Seconds that a frame waits for its fate (it may be in a long cable) before it is written without."""


class _Record(Watched):
    """Frames that were put on a wire at one moment by one end, written when their fate is known."""

    __slots__ = ("comments", "flags", "frames", "heard", "interface")

    def __init__(self, interface: int, heard: int, frames: list[Mbuf], open_: int, flags: int) -> None:
        self.open = open_
        self.others = None
        self.interface = interface
        self.flags = flags
        self.heard = heard
        self.frames = frames
        self.comments: list[str] = []


class Capture:
    """Writes every frame of the wires that it listens to, in the order in which they were sent.

    The name of the file chooses the format: ``.pcap`` is plain pcap, everything
    else pcapng. ``frames`` counts what was heard, ``dropped`` what of it is not in
    the file. The file is readable by its owner only. When it cannot be written (a
    full disk), this capture ends with a line in the log and ``error`` set; the lab
    goes on. ``path`` may be an open binary file. It ends with ``close``, with the lab, or
    with the ``with`` block that it is used in.

    ``filter`` is an expression of tcpdump: only frames that match are heard and
    counted. ``snaplen`` octets of a frame are written. ``whole``: super-frames as
    hosts hand them to their NICs, which leaves the cables' offloads on.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | BinaryIO,
        comment: str = "",
        *,
        filter: str | None = None,
        snaplen: int = SNAPLEN,
        whole: bool = False,
    ) -> None:
        if not isinstance(snaplen, int) or snaplen < 1:
            raise ValueError(f"snaplen is a whole number of octets, 1 at least, not {snaplen!r}")
        if not isinstance(path, (str, os.PathLike)) and not callable(getattr(path, "write", None)):
            raise TypeError(f"{path!r} is no place for a capture; give a path or an open binary file")
        if filter is not None and not isinstance(filter, str):
            raise TypeError(f"{filter!r} is no filter of a capture; give an expression of tcpdump")
        self.filter = compile_filter(filter) if filter and filter.strip() else None
        self.snaplen = snaplen
        self._limits = (filter if self.filter is not None and filter else "", snaplen)
        self.whole = whole
        if isinstance(path, (str, os.PathLike)):
            self.path = os.fspath(path)
            self._file: Any = os.fdopen(create_private(self.path), "wb", buffering=0)
        else:
            self.path = str(getattr(path, "name", path))
            self._file = path
        self._format: type[PcapngFile] | type[PcapFile] = (
            PcapFile if self.path.endswith(".pcap") else PcapngFile
        )
        self.error: OSError | None = None
        self.frames = 0
        self.dropped = 0
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._undo: list[Callable[[], None]] = []
        self._interfaces: dict[int, int] = {}
        """Numbers of NICs and ends of wires by their ``id``; those that go are taken out, before another one has that."""
        self._heard_by: list[list[int]] = []
        self._records: deque[_Record | Interface | str] = deque()
        self._under_way: UnderWay[_Record] = UnderWay()
        self._accounts: list[_Account] = []
        """Of the NICs among the interfaces."""
        self._waiting = 0
        self._ending = threading.Event()
        self._write(self._format.begin(comment))
        self._thread = threading.Thread(target=self._run, name="iflab-capture", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Capture {self.path}: {self.frames} frames, {self.dropped} dropped>"

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """True once ``close`` began."""
        return self._ending.is_set()

    @property
    def under_way(self) -> int:
        """Frames whose fate is not known yet."""
        return self._under_way.count

    # on the engine's thread, lock held

    def listen(self, wire: Wire) -> None:
        """Hear ``wire`` from now on."""
        if self.closed:
            return
        for end in wire.ends.values():
            self._of_end(end)
        tap = wire.add_tap(
            self._heard,
            self._fate,
            became=self._became,
            train=self._heard_train,
            whole=self.whole,
        )
        self._undo.append(tap.remove)

    def listen_nic(self, ifp: Ifnet) -> None:
        """Hear what ``ifp`` sends, and what it hands to its host."""
        self._of_nic(ifp)
        tap = BpfTap(self._heard_nic, BpfSide.IN | BpfSide.OUT)
        bpfattach(ifp, tap)
        listeners_change(ifp)

        def undo() -> None:
            bpfdetach(ifp, tap)
            listeners_change(ifp)

        self._undo.append(undo)

    def note(self, text: str) -> None:
        """Something happened: a comment of the next frame."""
        if not self.closed:
            self._records.append(text)

    def struck(self, struck: Struck | NicStruck) -> None:
        """A fault struck a frame: a comment of it."""
        text = str(struck)
        if struck.end is None or text.startswith("lost"):  # of that its fate will tell
            return
        record = self._under_way.of(struck.end, struck.before)
        if record is not None:
            record.comments.append(text)

    def on_close(self, fn: Callable[[], None]) -> None:
        """Call ``fn`` when the capture ends."""
        self._undo.append(fn)

    def _interface(self, key: Any, about: Interface, ifp: Ifnet | None) -> int:
        """The number of a new interface, which is told to the file."""
        place, number = id(key), len(self._heard_by)
        self._interfaces[place] = number
        weakref.finalize(key, self._interfaces.pop, place, None).atexit = False
        self._heard_by.append([0, 0])
        if ifp is not None:
            self._accounts.append(_Account(number, ifp))
        self._records.append(about)
        return number

    def _of_end(self, end: End) -> int:
        number = self._interfaces.get(id(end))
        if number is not None:
            return number
        ifp = getattr(end.port, "ifp", None)
        about, mac, speed = f"on {end.wire.name}", b"", 0
        if ifp is not None:
            mac, speed = ifp.lladdr, ifp.if_baudrate
            about += f": {ifp.if_description}" if ifp.if_description else ""
        elif isinstance(text := getattr(end.port, "mac", None), str):  # a station
            mac = bytes.fromhex(text.replace(":", ""))
        return self._interface(end, Interface(end.port.name, about, mac, speed, *self._limits), ifp)

    def _of_nic(self, ifp: Ifnet) -> int:
        number = self._interfaces.get(id(ifp))
        if number is not None:
            return number
        name = ifp.if_softc.name if ifp.if_softc is not None else ifp.if_xname
        about = Interface(name, ifp.if_description or "", ifp.lladdr, ifp.if_baudrate, *self._limits)
        return self._interface(ifp, about, ifp)

    def _take(
        self, number: int, frames: list[Mbuf], end: End | None = None, copies: int = 0, flags: int = OUTBOUND
    ) -> None:
        """Keep what was heard; ``copies`` of the one frame that ``end`` sent have a fate that will be told."""
        if self.error is not None:
            return
        if self.filter is not None:
            frames = [m for m in frames if self.filter(m[PKTHDR:])]
            if not frames:
                return
        count = len(frames)
        self.frames += count
        counted = self._heard_by[number]
        counted[0] += count
        octets = sum(map(len, frames))
        if self._waiting + octets > BACKLOG:
            self.dropped += count
            counted[1] += count
            return
        self._waiting += octets
        record = _Record(number, time.monotonic_ns(), frames, copies, flags)
        if end is not None:
            self._under_way.add(end, frames[0], record)
        self._records.append(record)

    def _heard(self, end: End, m: Mbuf) -> None:
        self._take(self._of_end(end), [m], end, max(1, len(end.wire.ends) - 1))

    def _heard_train(self, end: End, frames: list[Mbuf]) -> None:
        self._take(self._of_end(end), frames)  # they go straight to the other end

    def _heard_nic(self, ifp: Ifnet, m: Mbuf, side: BpfSide) -> None:
        self._take(self._of_nic(ifp), [m], flags=OUTBOUND if side is BpfSide.OUT else INBOUND)

    def _became(self, end: End, m: Mbuf, frames: list[Mbuf], by: str) -> None:
        record = self._under_way.became(end, m, frames)
        if record is not None and by == HOOK:  # faults tell themselves what they did
            record.comments.append(
                "altered by a hook" + (f" into {len(frames)} frames" if len(frames) > 1 else "")
            )

    def _fate(self, end: End, port: Port | None, m: Mbuf, cause: str) -> None:
        record = self._under_way.of(end, m)
        if record is None:
            return  # it was not taken
        if cause:
            record.comments.append(
                f"lost: {cause}" + (f", on its way to {port.name}" if port is not None else "")
            )
        self._under_way.decided(end, record, everything=port is None and bool(cause))

    # on the thread of its own

    def _run(self) -> None:
        try:
            looked = time.monotonic()
            while not self._ending.wait(PERIOD):
                self._write_out(False)
                if time.monotonic() > looked + LOOK_EVERY:
                    looked = time.monotonic()
                    for account in self._accounts:
                        account.look()
            self._write_out(True)
        except (
            Exception
        ) as error:  # a fault of ours: it ends this capture, and nobody may think that it goes on
            self.error = self.error or OSError(errno.EIO, repr(error))
            _log.exception("the capture %s ends after %d frames", self.path, self.frames)

    def _write_out(self, everything: bool) -> None:
        records, packet, part = self._records, self._format.packet, slice(PKTHDR, PKTHDR + self.snaplen)
        blocks: list[bytes] = []
        remarks: list[str] = []
        late = time.monotonic_ns() - int(PATIENCE * 1e9)
        while records:
            record = records[0]
            if isinstance(record, str):
                if len(records) == 1 and not everything:
                    break
                remarks.append(record)
                records.popleft()
                continue
            if isinstance(record, Interface):
                blocks.append(self._format.interface(record))
                records.popleft()
                continue
            if record.open > 0 and not everything and record.heard > late:
                break
            records.popleft()
            when, number = record.heard + self._epoch, record.interface
            comments = [*remarks, *record.comments]
            remarks.clear()
            frames = record.frames
            self._waiting -= sum(map(len, frames))
            if comments:  # of the first one
                m, *frames = frames
                blocks.append(packet(number, when, m[part], len(m) - PKTHDR, record.flags, comments))
            blocks += packets(self._format, number, when, frames, part, record.flags)
            if len(blocks) >= 2000:
                self._write(*blocks)
                blocks.clear()
        if everything:
            blocks += self._last_words(remarks)
        elif remarks:  # the frame that they belong to is still to come
            records.extendleft(reversed(remarks))
        if blocks:
            self._write(*blocks)

    def _last_words(self, remarks: list[str]) -> list[bytes]:
        """Statistics of every interface; what its NIC turned away meanwhile is a comment, and so are the remarks left."""
        now = time.monotonic_ns() + self._epoch
        comments: dict[int, list[str]] = {0: remarks}
        for account in self._accounts:
            told = ", ".join(f"{cause} {count}" for cause, count in account.look().items() if count > 0)
            if told:
                comments.setdefault(account.number, []).append(f"dropped by the NIC: {told}")
        return [
            self._format.statistics(number, now, heard, dropped, comments.get(number, ()))
            for number, (heard, dropped) in enumerate(self._heard_by)
        ]

    def _write(self, *blocks: bytes) -> None:
        """Write whole blocks: of one that does not fit nothing stays, so that what is there can be read."""
        if self.error is not None:
            return
        view = memoryview(b"".join(blocks))
        total = len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
            flush = getattr(self._file, "flush", None)
            if flush is not None:
                flush()
        except OSError as error:
            self.error = error
            self._records.clear()
            self._cut_back(total - len(view), blocks)
            if isinstance(error, (BrokenPipeError, ConnectionResetError)):
                _log.info("who read the capture of %d frames has gone", self.frames)
                return
            _log.error("the capture %s ends after %d frames: %s", self.path, self.frames, error.strerror)

    def _cut_back(self, written: int, blocks: tuple[bytes, ...]) -> None:
        """Take the beginning of a block that did not fit off the file, where that is one."""
        whole = 0
        for block in blocks:
            if whole + len(block) > written:
                break
            whole += len(block)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if written > whole and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                os.ftruncate(self._file.fileno(), self._file.tell() - (written - whole))

    def close(self) -> None:
        """Write what is left and close the file; safe to call twice."""
        while self._undo:
            self._undo.pop()()
        if self._ending.is_set():
            return
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._file.close()


class _Account:
    """What the NIC of an interface turned away since it was first heard; it may go, and is not kept for this."""

    def __init__(self, number: int, ifp: Ifnet) -> None:
        self.number = number
        self._ifp = weakref.ref(ifp)
        self._before = _turned_away(ifp)
        self._more: dict[str, int] = {}

    def look(self) -> dict[str, int]:
        """Frames by cause; of a NIC that is gone as they were when somebody last looked."""
        ifp = self._ifp()
        if ifp is not None:
            self._more = {cause: count - self._before[cause] for cause, count in _turned_away(ifp).items()}
        return self._more


def _turned_away(ifp: Ifnet) -> dict[str, int]:
    """Frames that a NIC dropped, by cause: they were on no wire, or got no further than the NIC."""
    return {
        "send queue full": ifp.if_snd.ifq_drops,
        "out errors": ifp.if_oerrors,
        "in queue full": ifp.if_iqdrops,
        "in errors": ifp.if_ierrors,
    }
