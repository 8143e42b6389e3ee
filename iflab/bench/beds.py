"""Test beds: two hosts with 192.0.2.1 and 192.0.2.2, and something between them that carries frames.

Every bed has the same two network namespaces and sockets, and the same programs
run at its ends (``flow.py``); only what is between differs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from iflab.lab import Lab
from iflab.linux import Netlink, Netns, Tap, ensure_privileges
from iflab.linux.tap import TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6

from .core import Missing

__all__ = ["Bed", "CLoopBed", "LabBed", "ScapyBed", "VdeBed", "VethBed"]

FLOW = str(Path(__file__).with_name("flow.py"))
OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6
ADDRESSES = ("192.0.2.1", "192.0.2.2")


class Bed(ABC):
    """Something that carries frames between two hosts; used in a ``with`` block."""

    name = "a bed"

    @abstractmethod
    def sides(self) -> tuple[Netns, Netns]:
        """The namespaces of both hosts."""

    @abstractmethod
    def close(self) -> None:
        """Take it down."""

    def __enter__(self) -> Bed:
        try:
            self._wait_until_it_carries()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _wait_until_it_carries(self) -> None:
        here, _ = self.sides()
        deadline = time.monotonic() + 10
        while True:
            with here.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.settimeout(0.2)
                try:
                    if probe.connect_ex((ADDRESSES[1], 9)) == 111:  # refused: somebody answered
                        return
                except TimeoutError:
                    pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} carries nothing after 10 s")

    # what is measured on it

    def tcp(self, seconds: float, congestion: str | None = None) -> float:
        """Gigabits a second of one TCP stream; ``congestion``: its congestion control, if not the host's own."""
        here, there = self.sides()
        with there.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((ADDRESSES[1], 0))
            listener.listen(1)
            with here.socket(socket.AF_INET, socket.SOCK_STREAM) as sender:
                if congestion is not None:
                    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
                sender.connect(listener.getsockname())
                receiver, _ = listener.accept()
                with receiver:
                    sending = _flow("tcp_send", sender, seconds)
                    receiving = _flow("tcp_receive", receiver, seconds)
        _result(sending, seconds)
        return _result(receiving, seconds) / 1e9

    def udp(self, seconds: float) -> float:
        """Small frames a second that a program at the other host receives."""
        here, there = self.sides()
        with (
            there.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
            here.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        ):
            sink.bind((ADDRESSES[1], 0))
            source.connect(sink.getsockname())
            receiving = _flow("udp_receive", sink, seconds)
            sending = _flow("udp_send", source, seconds + 1)
            count = _result(receiving, seconds)
            sending.kill()
            sending.communicate()
        return count

    def ping(self, seconds: float) -> float:
        """Microseconds of the median round trip."""
        here, _ = self.sides()
        with here.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.connect((ADDRESSES[1], 0))
            return _result(_flow("ping", sock, seconds), seconds) * 1e6


def _flow(mode: str, sock: socket.socket, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", "-E", FLOW, mode, str(sock.fileno()), str(seconds)],
        pass_fds=[sock.fileno()],
        stdout=subprocess.PIPE,
        text=True,
    )


def _result(process: subprocess.Popen[str], seconds: float) -> float:
    out, _ = process.communicate(timeout=seconds + 30)
    return float(out)


class LabBed(Bed):
    """This lab: a pair of hosts on a cable. ``offload`` off: the NICs do nothing for the host; ``switch``: one of eight
    ports is between them."""

    def __init__(
        self, *, offload: bool = True, hook: bool = False, capture: bool = False, switch: bool = False
    ) -> None:
        self.name = "iflab"
        self.lab = Lab(control=False)
        self.folder: str | None = None
        try:
            alice, bob, cable = self.lab.pair(*(f"{a}/24" for a in ADDRESSES))
            if switch:
                cable.close()
                sw = self.lab.switch("sw", ports=8)
                for number, host in enumerate((alice, bob)):
                    self.lab.cable(host.nics["em0"], sw[number])
            if not offload:
                for host in (alice, bob):
                    host.ifconfig("em0 -txcsum -rxcsum -tso -lro -txcsum6 -rxcsum6")
            if hook:
                cable.add_hook(_look)
            if capture:
                self.folder = tempfile.mkdtemp(prefix="iflab-bench-")
                self.lab.capture(Path(self.folder) / "bench.pcapng")
        except BaseException:
            self.close()
            raise

    def sides(self) -> tuple[Netns, Netns]:
        alice, bob = self.lab.hosts.values()
        return alice.netns, bob.netns

    def close(self) -> None:
        self.lab.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)


def _look(frame: Any) -> None:
    """A hook that reads octets only."""
    len(frame.raw)


class _Namespaces(Bed):
    """Two namespaces of the bed's own."""

    def __init__(self) -> None:
        ensure_privileges()
        self.undo = contextlib.ExitStack()
        self.netns = tuple(Netns.create(name) for name in ("alice", "bob"))
        for netns in self.netns:
            self.undo.callback(netns.close)

    def sides(self) -> tuple[Netns, Netns]:
        return self.netns[0], self.netns[1]

    def close(self) -> None:
        self.undo.close()

    def address(self, number: int, index: int) -> None:
        with Netlink(self.netns[number]) as netlink:
            netlink.addr_add(index, f"{ADDRESSES[number]}/24")
            netlink.link_set(index, up=True)

    def start(self, argv: list[str], **options: Any) -> subprocess.Popen[Any]:
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(argv, **options)

        def stop() -> None:
            process.kill()
            process.wait()

        self.undo.callback(stop)
        return process


class CLoopBed(_Namespaces):
    """Two TAPs and a C program that reads and writes."""

    _program: str | None = None

    def __init__(self, *, offload: bool = True) -> None:
        program = self.compiled()
        super().__init__()
        self.name = "C loop" if offload else "C loop, no offloads"
        try:
            taps = [Tap.create(netns, "em0") for netns in self.netns]
            for number, tap in enumerate(taps):
                self.undo.callback(tap.close)
                tap.set_offload(OFFLOADS if offload else 0)
                tap.set_carrier(True)
                self.address(number, tap.ifindex)
            fds = [tap.fd for tap in taps]
            self.start([program, *map(str, fds)], pass_fds=fds)
        except BaseException:
            self.close()
            raise

    @classmethod
    def compiled(cls) -> str:
        """Compile the program once. Raises ``Missing`` without a compiler."""
        if cls._program is None:
            compiler = shutil.which("cc")
            if compiler is None:
                raise Missing("a C compiler (apt install gcc libc6-dev)")
            folder = tempfile.TemporaryDirectory(prefix="iflab-bench-")
            path = os.path.join(folder.name, "cloop")
            source = str(Path(__file__).with_name("cloop.c"))
            done = subprocess.run([compiler, "-O2", "-o", path, source], capture_output=True, text=True)
            if done.returncode:
                raise Missing(
                    f"a C compiler that works (apt install gcc libc6-dev): {done.stderr.splitlines()[0]}"
                )
            cls._program, cls._folder = path, folder
        return cls._program

    _folder: Any = None


class VethBed(_Namespaces):
    """Two ends of a veth, in the kernel."""

    name = "veth"

    def __init__(self) -> None:
        super().__init__()
        try:
            ip = shutil.which("ip") or "/usr/sbin/ip"
            here, there = self.netns
            if not os.path.exists(ip):
                raise Missing("ip (apt install iproute2)")
            with here.entered():
                peer = f"/proc/{os.getpid()}/fd/{there.fileno()}"
                subprocess.run(
                    [ip, "link", "add", "em0", "type", "veth", "peer", "name", "em0", "netns", peer],
                    check=True,
                )
            for number, netns in enumerate(self.netns):
                with Netlink(netns) as netlink:
                    index = netlink.link_get("em0").index
                self.address(number, index)
        except BaseException:
            self.close()
            raise


class VdeBed(_Namespaces):
    """Debian's ``vde_switch`` between two TAPs."""

    name = "vde_switch"

    def __init__(self) -> None:
        program = shutil.which("vde_switch")
        if program is None:
            raise Missing("vde_switch (apt install vde2)")
        super().__init__()
        try:
            home = Netns.create("switch")
            self.undo.callback(home.close)
            folder = tempfile.mkdtemp(prefix="iflab-bench-")
            self.undo.callback(shutil.rmtree, folder, ignore_errors=True)
            with home.entered():
                self.start(
                    [program, "-s", f"{folder}/ctl", "-t", "em0", "-t", "em1"],
                    stdin=subprocess.PIPE,  # it ends with its standard input
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # it complains of every frame for a TAP that is not up
                )
            for number in (0, 1):
                index = _await_device(home, f"em{number}")
                with Netlink(home) as netlink:
                    netlink.link_set(index, netns=self.netns[number])
                self.address(number, _await_device(self.netns[number], f"em{number}"))
        except TimeoutError as error:
            self.close()
            raise Missing("a vde_switch that makes TAPs (it may want root)") from error
        except BaseException:
            self.close()
            raise


class ScapyBed(_Namespaces):
    """scapy's ``bridge_and_sniff`` between two packet sockets."""

    name = "scapy bridge"

    def __init__(self) -> None:
        super().__init__()
        try:
            ip = shutil.which("ip") or "/usr/sbin/ip"
            home = Netns.create("bridge")
            self.undo.callback(home.close)
            with home.entered():
                for number, netns in enumerate(self.netns):
                    peer = f"/proc/{os.getpid()}/fd/{netns.fileno()}"
                    words = [
                        "link",
                        "add",
                        f"h{number}",
                        "type",
                        "veth",
                        "peer",
                        "name",
                        "em0",
                        "netns",
                        peer,
                    ]
                    subprocess.run([ip, *words], check=True)
                    subprocess.run([ip, "link", "set", f"h{number}", "up", "promisc", "on"], check=True)
                self.start(
                    [
                        sys.executable,
                        "-c",
                        "from scapy.all import bridge_and_sniff; bridge_and_sniff('h0', 'h1', store=False)",
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            for number, netns in enumerate(self.netns):
                index = _await_device(netns, "em0")
                self.address(number, index)
                with netns.entered():  # it carries frames as they are: the hosts must finish them
                    if shutil.which("ethtool"):
                        subprocess.run(
                            ["ethtool", "-K", "em0", "tx", "off", "tso", "off", "gso", "off"],
                            stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL,
                        )
        except BaseException:
            self.close()
            raise


def _await_device(netns: Netns, name: str) -> int:
    deadline = time.monotonic() + 5
    while True:
        with Netlink(netns) as netlink:
            for link in netlink.links():
                if link.name == name:
                    return link.index
        if time.monotonic() > deadline:
            raise TimeoutError(f"no device {name} in {netns.name} after 5 s")
        time.sleep(0.01)
