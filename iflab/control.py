"""The door for other terminals: a UNIX socket per lab.

It lies in a directory that only its owner may enter, and goes with the lab. Who
connects is asked of the kernel (``SO_PEERCRED``): the owner and root hold every
privilege of the interface layer, anyone else none, not even to look; he is turned away
before anything is done for him. A caller has a few seconds for his request. When all
places are taken, the one who has been silent longest makes room.

A request is one line of JSON, and so is the answer; ``exec`` also hands over the
file descriptors of the host's namespaces, so that the program runs on the
caller's own terminal::

    {"do": "hello"}                   -> {"ok": true, "name": ..., "hosts": ...}
    {"do": "exec", "host": "alice"}   -> {"ok": true, "namespaces": [...]} and the descriptors
    {"do": "ifconfig", "host": "alice", "args": ["em0", "up"]}  -> {"ok": true, "text": ...}
    {"do": "monitor"}                 -> {"ok": true}, then {"text": ...} for each message, until either end hangs up
    {"do": "top"}                     -> {"ok": true, "nics": {...}, "wires": {...}, "time": ...}: counters
    {"do": "cut", "wire": "cable0"}   -> {"ok": true}; "mend" likewise, "towards" names one port
    {"do": "sniff", "places": ["alice:em0"], "filter": "arp"}   -> {"ok": true}, then a pcapng file as it grows
"""

from __future__ import annotations

import array
import contextlib
import errno
import glob
import json
import logging
import os
import queue
import select
import socket
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from iflab.bpf import compile_filter
from iflab.bsd import devctl_text, message_text
from iflab.drivers.faulty import FaultyNic
from iflab.linux import in_user_namespace
from iflab.net import LinkState, Priv
from iflab.net.altq import Altq
from iflab.net.priv import allow_all
from iflab.net.rtsock import DevctlNotice, RouteMessage, RoutingMessage

if TYPE_CHECKING:
    from iflab.linux.process import Keeper
    from iflab.net import Ifnet
    from iflab.net.ifqueue import Ifqueue

    from .host import Host
    from .lab import Lab
    from .switch import Switch
    from .wire import Wire

__all__ = [
    "Client",
    "ControlServer",
    "LabBusy",
    "NoSuchLab",
    "find_labs",
    "full_name",
    "make_private_directory",
    "remove_private_directory",
]

_log = logging.getLogger("iflab.control")

SOCKET_NAME = "control"
_TIMEOUT = 5.0
_MOST_CLIENTS = 32
_BACKLOG = 1024
_LONGEST = 1 << 16
_LONGEST_PATH = 107
"""Octets of a path in ``struct sockaddr_un`` (unix(7))."""
_MOST_WAITING = 10_000
_OVERFLOW_UID = 65534


class NoSuchLab(LookupError):
    """No running lab has that name; the text lists those that there are."""


class LabBusy(TimeoutError):
    """A lab that runs does not answer in time; the text names it."""

    def __init__(self, path: str) -> None:
        name = os.path.basename(os.path.dirname(path))
        super().__init__(
            f"{name} does not answer within {_TIMEOUT:g} s: it is stopped, or something holds its lock (its log says what)"
        )
        self.lab = name


def _owner() -> int:
    """The uid that the machine knows this process by, also from inside a user namespace."""
    with open("/proc/self/uid_map") as file:
        inside, outside, _ = (int(word) for word in file.readline().split())
    return os.geteuid() - inside + outside


def _base_directories(uid: int) -> list[str]:
    """Where the directories of a user's labs lie, the preferred place first; ``IFLAB_RUN_DIR`` names another."""
    chosen = os.environ.get("IFLAB_RUN_DIR")
    if chosen:
        return [os.path.join(chosen, "iflab")]
    if uid == 0:
        return ["/run/iflab", "/tmp/iflab-0"]
    return [f"/run/user/{uid}/iflab", f"/tmp/iflab-{uid}"]


def make_private_directory(name: str, keeper: Keeper) -> str:
    """Make the directory for a lab's socket, mode 0700, and return its path; ``keeper`` removes it, come what may.

    Raises ``PermissionError`` when the place is somebody else's, or none may be written to.
    """
    uid = _owner()
    places = _base_directories(uid)
    base = next((path for path in places if os.access(os.path.dirname(path), os.W_OK)), None)
    if base is None:
        folders = " nor ".join(os.path.dirname(path) for path in places)
        raise PermissionError(
            f"a lab's socket needs a directory that is there and may be written to, and {folders} is not; "
            "name another with IFLAB_RUN_DIR"
        )
    path = os.path.join(base, f"{name}.{os.getpid()}")
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(base, 0o700)
        try:
            found = os.lstat(base)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise PermissionError(f"{base} is not a private directory of this user; remove it")
            keeper.guard(path)
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            continue  # the last lab just took the directory with it
        except FileExistsError:
            if _answers(path):
                keeper.unguard(path)  # of this very process, and it goes with it
                raise FileExistsError(
                    errno.EEXIST, f"a lab {name!r} runs in this process already; choose another name"
                ) from None
            remove_private_directory(path)  # of a lab that was killed, whose process number is ours now
            if os.path.exists(path):
                raise
            continue
        return path


def _answers(path: str) -> bool:
    """True when somebody listens on the socket in a directory."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(os.path.join(path, SOCKET_NAME))
        except OSError:
            return False
    return True


def remove_private_directory(path: str) -> None:
    """Take the directory away again, and the one above it if no other lab uses it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, SOCKET_NAME))
    for folder in (path, os.path.dirname(path)):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _peer(connection: socket.socket) -> tuple[int, int]:
    pid, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return pid, uid


class ControlServer:
    """Answers on a lab's socket, one thread a client and not too many of them."""

    def __init__(self, lab: Lab, directory: str) -> None:
        self.lab = lab
        self.path = os.path.join(directory, SOCKET_NAME)
        self._streams: dict[str, Callable[[socket.socket, dict[str, Any]], None]] = {
            "monitor": self._monitor,
            "sniff": self._sniff,
        }
        self._ends: list[Callable[[None], None]] = []
        """Called when the lab closes: they end what streams."""
        self._closed = False
        self._slots = threading.BoundedSemaphore(_MOST_CLIENTS)
        self._silent: dict[socket.socket, None] = {}
        """Who has not made a request yet, the oldest first."""
        if len(os.fsencode(self.path)) > _LONGEST_PATH:
            raise OSError(
                errno.ENAMETOOLONG,
                f"a socket's path has {_LONGEST_PATH} octets at most; set IFLAB_RUN_DIR to a shorter folder",
                self.path,
            )
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(self.path)
        os.chmod(self.path, 0o600)
        self._listener.listen(_BACKLOG)
        self._thread = threading.Thread(target=self._run, name=f"{lab.name}-control", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.05)  # no file descriptor is free, or the caller has gone: the next may do better
                continue
            connection.settimeout(0)  # what is said here fits the buffer, or is not said
            try:
                mine = self._may(_peer(connection)[1])
            except OSError:
                mine = False
            if not mine:
                self._turn_away(connection, "this lab belongs to another user")
            elif not self._room():
                self._turn_away(connection, f"the lab serves {_MOST_CLIENTS} callers already; try again")
            else:
                self._silent[connection] = None
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _turn_away(connection: socket.socket, why: str) -> None:
        with connection, contextlib.suppress(OSError):
            _send(connection, {"ok": False, "error": why})

    def _room(self) -> bool:
        """Take a place; whoever has been silent longest loses his when there is none."""
        if self._slots.acquire(blocking=False):
            return True
        for connection in tuple(self._silent)[:1]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return self._slots.acquire(timeout=0.2)

    def _serve(self, connection: socket.socket) -> None:
        holds = allow_all
        try:
            with connection, contextlib.suppress(OSError):
                try:
                    line = _read_line(connection, time.monotonic() + _TIMEOUT)
                finally:
                    self._silent.pop(connection, None)
                connection.settimeout(_TIMEOUT)
                try:
                    request = json.loads(line)
                    if isinstance(request, dict) and request.get("do") in self._streams:
                        self._streams[request["do"]](connection, request)
                        return
                    answer, fds = self._answer(request, holds)
                except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
                    answer, fds = {"ok": False, "error": str(error) or type(error).__name__}, []
                except Exception as error:
                    _log.exception("%s: a request from outside failed", self.lab.name)
                    answer, fds = {"ok": False, "error": f"{type(error).__name__}: {error}"}, []
                _send(connection, answer, fds)
        finally:
            self._slots.release()

    @staticmethod
    def _may(uid: int) -> bool:
        if uid in (0, os.geteuid()):
            return True
        # From inside a user namespace root outside looks like nobody; only root gets past the directory's mode.
        return uid == _OVERFLOW_UID and in_user_namespace()

    def _answer(self, request: Any, holds: Callable[[Priv], bool]) -> tuple[dict[str, Any], list[int]]:
        if not isinstance(request, dict):
            raise ValueError("a request is a JSON object")
        verb = request.get("do")
        if verb == "hello":
            return {"ok": True, **self.describe()}, []
        if verb in ("ifconfig", "netstat", "sysctl"):
            host = self.lab.switches.get(str(request.get("host"))) or self._host(request)
            args = request.get("args", [])
            if not isinstance(args, list) or not all(isinstance(word, str) for word in args):
                raise ValueError("args is a list of words")
            return {"ok": True, "text": host.bsd(verb, args, holds)}, []
        if verb == "exec":
            host = self._host(request)
            fds = self.lab.keeper.namespaces(host.netns, host.name)
            return {"ok": True, "namespaces": list(fds)}, list(fds.values())
        if verb == "top":
            return {"ok": True, **self.counters()}, []
        if verb in ("cut", "mend"):
            wire = self._wire(request)
            with self.lab.lock:
                (wire.cut if verb == "cut" else wire.mend)(request.get("towards"))
            return {"ok": True}, []
        raise ValueError(
            f"the lab cannot do {verb!r}; "
            "it can do hello, exec, ifconfig, netstat, sysctl, monitor, top, cut, mend and sniff"
        )

    def _wire(self, request: dict[str, Any]) -> Wire:
        wire = self.lab.wires.get(str(request.get("wire")))
        if wire is None:
            there = ", ".join(self.lab.wires) or "none"
            raise ValueError(f"{self.lab.name} has no wire {request.get('wire')!r}; its wires are {there}")
        return wire

    def _host(self, request: dict[str, Any]) -> Host:
        host = self.lab.hosts.get(str(request.get("host")))
        if host is None:
            there = ", ".join(self.lab.hosts) or "none"
            raise ValueError(f"{self.lab.name} has no host {request.get('host')!r}; its hosts are {there}")
        return host

    def _monitor(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """Send routing messages and devctl notices, each as text, until the client goes or the lab ends."""
        wanted = request.get("host")
        vnet = self._host(request).vnet if wanted is not None else None
        kernel = self.lab.kernel
        waiting: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)

        def offer(text: str | None) -> None:
            with contextlib.suppress(queue.Full):  # who does not read loses messages; nobody waits for them
                waiting.put_nowait(text)

        def routing(message: RoutingMessage) -> None:
            where = message.vnet if isinstance(message, RouteMessage) else message.ifp.curvnet.name
            if vnet is None or where == vnet.name:
                offer(message_text(message))

        def devctl(notice: DevctlNotice) -> None:
            offer(devctl_text(notice))

        kernel.rtsock.listen(routing)
        kernel.devctl.listen(devctl)
        self._ends.append(offer)
        try:
            _send(connection, {"ok": True})
            while not self._closed:
                try:
                    text = waiting.get(timeout=0.5)
                except queue.Empty:
                    if _hung_up(connection):
                        return
                    continue
                if text is None:
                    return
                _send(connection, {"text": text})
        finally:
            self._ends.remove(offer)
            kernel.rtsock.remove(routing)
            kernel.devctl.remove(devctl)

    def _sniff(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """Send a capture as it grows, until the client goes or the lab ends."""
        places = request.get("places")
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise ValueError("places is a list of names of NICs and wires; none: every wire")
        found = [self.lab.place(place) for place in places]
        expression, snaplen = request.get("filter") or "", request.get("snaplen")
        compile_filter(expression)  # refused before anything is sent
        if snaplen is not None and not (isinstance(snaplen, int) and snaplen > 0):
            raise ValueError(f"snaplen is a number of octets, 1 at least, not {snaplen!r}")
        over = threading.Event()
        with connection.makefile("wb", buffering=0) as file:
            _send(connection, {"ok": True})
            connection.settimeout(None)  # a reader that takes its time loses frames, no more
            out = cast(BinaryIO, file)
            capture = self.lab.capture(out, *found, filter=expression, snaplen=snaplen)

            def end(_: None) -> None:
                over.set()

            self._ends.append(end)
            try:
                while not over.wait(0.2) and capture.error is None and not _hung_up(connection):
                    pass
            finally:
                self._ends.remove(end)
                # Its last words block where nobody reads; then the connection is cut.
                patience = threading.Timer(1.0, connection.shutdown, (socket.SHUT_RDWR,))
                patience.start()
                capture.close()
                patience.cancel()

    def counters(self) -> dict[str, Any]:
        """Counters of every NIC and wire at one moment, for ``iflab top``."""
        lab = self.lab
        with lab.lock:
            nics = {
                f"{owner.name}:{ifp.if_xname}": {
                    "link": LinkState(ifp.if_link_state).name.lower(),
                    "in_frames": ifp.if_ipackets,
                    "in_octets": ifp.if_ibytes,
                    "out_frames": ifp.if_opackets,
                    "out_octets": ifp.if_obytes,
                    "queue": ifp.if_snd.ifq_len,
                    "queue_max": ifp.if_snd.ifq_maxlen,
                    "drops": {
                        "in errors": ifp.if_ierrors,
                        "in queue": ifp.if_iqdrops,
                        "out errors": ifp.if_oerrors,
                        **_queue_drops(ifp.if_snd),
                    },
                    "faults": _nic_faults(ifp),
                }
                for owner in lab.owners()
                for ifp in owner.vnet.ifnets()
            }
            struck: dict[str, Counter[str]] = {}
            for (name, _, _), causes in lab.faults.counts.items():
                struck.setdefault(name, Counter()).update(causes)
            wires = {}
            for name, wire in lab.wires.items():
                account = wire.account()
                wires[name] = {
                    "ends": {port.name: end.up for port, end in wire.ends.items()},
                    "sent": account.sent,
                    "octets": account.octets,
                    "delivered": account.delivered,
                    "in_flight": account.in_flight,
                    "drops": dict(account.dropped),
                    "faults": {
                        cause: number
                        for cause, number in struck.get(name, {}).items()
                        if cause not in account.dropped
                    },
                }
            return {"time": lab.elapsed(), "nics": nics, "wires": wires}

    def describe(self) -> dict[str, Any]:
        """The lab at this moment, for ``iflab ps``."""
        lab = self.lab
        with lab.lock:
            hosts = {name: _nics_of(host) for name, host in lab.hosts.items()}
            switches = {name: _nics_of(switch) for name, switch in lab.switches.items()}
            wires = {name: [port.name for port in wire.ends] for name, wire in lab.wires.items()}
        return {
            "name": lab.name,
            "pid": os.getpid(),
            "started": lab.started,
            "hosts": hosts,
            "switches": switches,
            "wires": wires,
        }

    def close(self) -> None:
        """Answer nobody any more, and take the socket away."""
        self._closed = True
        for end in tuple(self._ends):
            end(None)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _nics_of(owner: Host | Switch) -> dict[str, dict[str, Any]]:
    return {
        ifp.if_xname: {
            "mac": ifp.lladdr.hex(":"),
            "link": LinkState(ifp.if_link_state).name.lower(),
            "mtu": ifp.if_mtu,
            "addresses": [str(a.ifa_addr) for a in ifp.if_addrhead][1:],
        }
        for ifp in owner.vnet.ifnets()
    }


def _queue_drops(queue: Ifqueue) -> dict[str, int]:
    """What a send queue lost, by cause; its discipline's causes have the discipline's name before them."""
    discipline = queue.altq_disc
    if not isinstance(discipline, Altq):
        return {"send queue full": queue.ifq_drops}
    name = type(discipline).__name__
    own = {f"{name}: {cause}": number for cause, number in discipline.dropped.items()}
    return {"send queue full": queue.ifq_drops - discipline.turned_away, **own}


def _nic_faults(ifp: Ifnet) -> dict[str, int]:
    """How often which fault of a NIC struck, and what its queue's discipline did short of dropping."""
    nic, discipline = ifp.if_softc, ifp.if_snd.altq_disc
    faults = dict(nic.struck) if isinstance(nic, FaultyNic) else {}
    if isinstance(discipline, Altq) and discipline.marked:
        faults["marked (ECN)"] = discipline.marked
    return faults


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """Read a request. Raises ``TimeoutError`` when it is not there in time."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no request in time")
        connection.settimeout(left)
        part = connection.recv(4096)
        if not part:
            break
        line += part
    return line


def _hung_up(connection: socket.socket) -> bool:
    look = select.poll()
    look.register(connection, select.POLLIN)
    # Not by reading alone: with a timeout set, Python waits for it whatever MSG_DONTWAIT says.
    return bool(look.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""


def _send(connection: socket.socket, answer: dict[str, Any], fds: list[int] | None = None) -> None:
    data = json.dumps(answer).encode() + b"\n"
    if fds:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        sent = connection.sendmsg([data], rights)
        connection.sendall(data[sent:])
    else:
        connection.sendall(data)


class Client:
    """A caller's side of a lab's socket. Raises ``LabBusy``, ``PermissionError``, ``ValueError``."""

    def __init__(self, path: str) -> None:
        self.path = path

    def ask(self, **request: Any) -> tuple[dict[str, Any], list[int]]:
        """Send one request; return the answer and the file descriptors that came with it, the caller's to close."""
        with self._asked(request) as connection:
            data, fds = b"", []
            while not data.endswith(b"\n"):
                with self._patience():
                    part, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(64))
                for level, kind, value in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        fds += array.array("i", value[: len(value) // 4 * 4]).tolist()
                if not part:
                    break
                data += part
        return self._understood(data), fds

    @contextlib.contextmanager
    def stream(self, **request: Any) -> Iterator[BinaryIO]:
        """Send a request that is answered with a file, and give that to read."""
        with self._asked(request) as connection, connection.makefile("rb") as file:
            with self._patience():
                first = file.readline()
            self._understood(first)
            connection.settimeout(None)
            yield file

    def follow(self, **request: Any) -> Iterator[dict[str, Any]]:
        """Send a request whose answer goes on; yield each part until the lab ends it or the caller stops."""
        with self.stream(**request) as lines:
            for line in lines:
                yield json.loads(line)

    @contextlib.contextmanager
    def _asked(self, request: dict[str, Any]) -> Iterator[socket.socket]:
        """A connection on which the request was sent."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(self.path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            yield connection

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise LabBusy(self.path) from None

    @staticmethod
    def _understood(data: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(data or b'{"ok": false, "error": "the lab did not answer"}')
        if not answer["ok"]:
            raise ValueError(answer["error"])
        return answer


def _sockets() -> Iterator[str]:
    uid = _owner()
    bases = _base_directories(uid)
    if uid == 0:
        bases += sorted(glob.glob("/run/user/*/iflab") + glob.glob("/tmp/iflab-*"))
    for base in dict.fromkeys(bases):
        yield from sorted(glob.glob(os.path.join(base, "*", SOCKET_NAME)))


def full_name(about: dict[str, Any]) -> str:
    """The name of a lab that no other has: that of its directory."""
    return f"{about['name']}.{about['pid']}"


def find_labs(
    name: str | None = None, silent: Callable[[LabBusy], object] = lambda busy: None
) -> list[tuple[dict[str, Any], Client]]:
    """All running labs that the caller may see, or those called ``name``: what each says of itself, and its client.

    ``name`` may also be a pid, or both: ``name.pid``. ``silent`` is told of those that do not answer. With a
    name, raises ``NoSuchLab`` when there is none, ``LabBusy`` when that is one of the silent.
    """
    found = []
    for path in _sockets():
        client = Client(path)
        try:
            found.append((client.ask(do="hello")[0], client))
        except LabBusy as busy:
            if name is not None and name in (busy.lab, *busy.lab.rsplit(".", 1)):
                raise
            silent(busy)
        except (OSError, ValueError):
            continue  # it has ended, or is somebody else's
    if name is None:
        return found
    matching = [row for row in found if name in (row[0]["name"], str(row[0]["pid"]), full_name(row[0]))]
    if not matching:
        names = ", ".join(str(row[0]["name"]) for row in found) or "none"
        raise NoSuchLab(f"no running lab is called {name!r}; running: {names}")
    return matching
