"""What runs on the bed meanwhile: raw frames of hosts, super-frames, frames put in below the kernel, TCP, pings."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from random import Random

from iflab.drivers import TapNic
from iflab.net import Ifnet

from .bed import Bed

__all__ = ["Traffic"]

_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_QDISC_BYPASS = 263, 15, 20
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e00004d")
_HARMLESS = {
    errno.ENETDOWN,
    errno.ENXIO,
    errno.ENODEV,
    errno.ENOBUFS,
    errno.EAGAIN,
    errno.EMSGSIZE,
    errno.EINVAL,
}


class Traffic:
    """The threads that send; ``frames`` counts what the raw ones were given, ``octets`` what TCP carried."""

    def __init__(self, bed: Bed, seed: int, pause: float) -> None:
        self.bed = bed
        self.pause = pause
        self.frames = 0
        self.octets = 0
        self.pings = 0
        self.seed = seed
        kinds: list[Callable[[Random], None]] = [self._raw, self._injected, self._pinging]
        self.threads = [self._thread(kind) for kind in kinds]
        self.threads += [threading.Thread(target=self._tcp, name="stress-tcp", daemon=True)]

    def _thread(self, kind: Callable[[Random], None]) -> threading.Thread:
        rng = Random(f"{self.seed} traffic {kind.__name__}")

        def run() -> None:
            try:
                kind(rng)
            except BaseException:
                self.bed.unexpected.append(f"traffic{kind.__name__}:\n{traceback.format_exc()}")

        return threading.Thread(target=run, name=f"stress{kind.__name__}", daemon=True)

    def _macs(self, rng: Random) -> bytes:
        """To whom: mostly somebody who is there."""
        with self.bed.lab.lock:
            there = [ifp.lladdr for ifp in self.bed.nics if ifp.lladdr]
        choice = rng.random()
        if choice < 0.05 or not there:
            return BROADCAST
        if choice < 0.1:
            return GROUP
        return rng.choice(there) if choice < 0.9 else b"\x02\0\0\0\xee" + bytes([rng.randrange(256)])

    def _raw(self, rng: Random) -> None:
        """Frames through packet sockets of the hosts: plain ones, and super-frames that are left to the NIC."""
        sockets = []
        for host in self.bed.hosts:
            sock = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            with contextlib.suppress(OSError):
                sock.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            sock.setblocking(False)
            sockets.append((host, sock))
        try:
            while not self.bed.over.is_set():
                host, sock = rng.choice(sockets)
                names = [name for name in host.nics if name.startswith("n")]
                if names:
                    name, dst = rng.choice(names), self._macs(rng)
                    super_frame = rng.random() < 0.1
                    data = _super_frame(rng, dst) if super_frame else bytes(10) + _frame(rng, dst)
                    for _ in range(rng.randrange(1, 5) if super_frame else rng.randrange(1, 100)):
                        try:
                            sock.sendto(data, (name, 0))
                            self.frames += 1
                        except OSError as error:
                            if error.errno not in _HARMLESS:
                                raise
                            break
                time.sleep(self.pause)
        finally:
            for _, sock in sockets:
                sock.close()

    def _injected(self, rng: Random) -> None:
        """Any octets at all, from the NIC's own queue."""
        bed = self.bed
        while not bed.over.is_set():
            nics = tuple(bed.nics)
            if nics:
                self._inject(rng.choice(nics), rng)
            time.sleep(self.pause)

    def _inject(self, ifp: Ifnet, rng: Random) -> None:
        bed = self.bed
        frame = self._macs(rng) + rng.randbytes(rng.choice((8, 46, 200, 1494)))
        for _ in range(rng.randrange(1, 20)):
            with bed.lab.lock:
                nic = ifp.if_softc
                if not bed.live(ifp) or not isinstance(nic, TapNic):
                    return
                bed.ledger.entry(nic).injected += 1
                try:
                    ifp.if_transmit(frame)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise

    def _pinging(self, rng: Random) -> None:
        """Between those who stay, and to anybody."""
        bed = self.bed
        while not bed.over.is_set():
            self.pings += bed.tcp[0].ping("192.0.2.2", timeout=0.2).received
            host = rng.choice(bed.hosts)
            host.ping(f"198.18.{rng.randrange(4)}.{rng.randrange(1, 11)}", timeout=0.02)
            time.sleep(0.02)

    def _tcp(self) -> None:
        """Octets through TCP, however often the cable is cut; a connection that dies is made anew."""
        server, client = self.bed.tcp
        while not self.bed.over.is_set():
            listener = server.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("192.0.2.1", 5001))
            listener.listen(1)
            listener.settimeout(1)
            out = client.socket()
            out.settimeout(1)
            with listener, out, contextlib.suppress(OSError):
                out.connect(("192.0.2.1", 5001))
                into, _ = listener.accept()
                with into:
                    self._pump(out, into)

    def _pump(self, out: socket.socket, into: socket.socket) -> None:
        data, buffer = bytes(1 << 17), bytearray(1 << 18)
        out.setblocking(False)
        into.settimeout(0.05)
        idle = 0
        while not self.bed.over.is_set() and idle < 60:
            with contextlib.suppress(BlockingIOError):
                out.send(data)
            try:
                count = into.recv_into(buffer)
            except TimeoutError:
                idle += 1
                continue
            idle = 0
            if not count:
                return
            self.octets += count

    def start(self) -> None:
        """Begin."""
        for thread in self.threads:
            thread.start()


def _frame(rng: Random, dst: bytes) -> bytes:
    """A frame of any protocol, or none."""
    src = b"\x02\0\0\0\0" + bytes([rng.randrange(1, 100)])
    kind = rng.choice((b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00", b"\x88\xcc", rng.randbytes(2)))
    return dst + src + kind + rng.randbytes(rng.choice((28, 46, 100, 500, 1200)))


def _super_frame(rng: Random, dst: bytes) -> bytes:
    """A TCP segment over IPv4 that is cut on its way, behind its virtio-net header."""
    payload = rng.randrange(2000, 30_000)
    size = rng.choice((200, 536, 1000, 1448))
    header = struct.pack("=BBHHHH", 1, 1, 54, size, 34, 16)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + payload, 1, 0, 64, 6, 0, b"\xc6\x12\0\1", b"\xc6\x12\1\1")
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x10, 100, 0, 0)
    return header + dst + b"\x02\0\0\0\0\x01" + b"\x08\x00" + ip + tcp + bytes(payload)
