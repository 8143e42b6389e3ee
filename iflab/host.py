"""A host of the lab: a network namespace with NICs, in which programs and Python functions run."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from iflab.drivers import TapNic
from iflab.drivers.faulty import FaultyNic
from iflab.linux import Netns, check_name, explained, sysctl
from iflab.linux.netlink import as_interface
from iflab.net import IFF, Ifnet, Ifreq, Priv, Thread, Vnet
from iflab.net.clock import is_span
from iflab.net.flags import IF_MAXMTU
from iflab.net.priv import allow_all
from iflab.ping import PingResult, ping
from iflab.stack import LinuxStack

if TYPE_CHECKING:
    from iflab.bsd import Words

    from .lab import Lab

__all__ = ["Host", "LabError", "PingResult", "Server", "Transfer"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CHUNK = bytes(1 << 18)


class LabError(ValueError):
    """Something about a lab that cannot be; the text names the thing and the remedy."""


class Transfer:
    """A download that runs in the background."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.received = 0
        """Octets so far."""
        self.seconds = 0.0
        self._done = threading.Event()
        self._error: BaseException | None = None

    def _run(self, sock: socket.socket, address: tuple[Any, ...], idle: float) -> None:
        began = time.monotonic()
        try:
            with sock:
                sock.settimeout(idle)
                sock.connect(address)
                buffer = bytearray(1 << 18)
                while count := sock.recv_into(buffer):
                    self.received += count
        except BaseException as error:
            self._error = error
        finally:
            self.seconds = time.monotonic() - began
            self._done.set()

    def done(self) -> bool:
        """True when it has ended, well or not."""
        return self._done.is_set()

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end and return the octets received.

        Raises ``TimeoutError`` after ``timeout`` seconds, and what stopped the download.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(
                f"{self.description}: {self.received} octets after {timeout:g} s, and not at its end"
            )
        if self._error is not None:
            raise self._error
        return self.received


class Server:
    """A TCP server in a host that sends ``size`` octets to everyone who connects."""

    def __init__(self, listener: socket.socket, address: str, size: int, name: str) -> None:
        self.address = address
        self.port: int = listener.getsockname()[1]
        self.size = size
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name=f"{name}-server", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            left = self.size
            while left > 0:
                left -= connection.send(_CHUNK[:left])

    def close(self) -> None:
        """Stop accepting."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Host:
    """One host. Made by ``lab.host(name)``; its NICs by ``host.nic(name, addresses...)``.

    When its lab is closed nothing can be done with it any more: ``LabError``.
    """

    def __init__(self, lab: Lab, name: str, vnet: Vnet, netns: Netns, stack: LinuxStack) -> None:
        self.lab = lab
        self.name = name
        self.vnet = vnet
        self.netns = netns
        self.stack = stack
        self.servers: list[Server] = []
        self.awaited: list[tuple[str, subprocess.Popen[Any]]] = []
        """Ports that programs were started to listen on, not yet seen."""

    def __repr__(self) -> str:
        return f"<Host {self.name}: {', '.join(self.nics) or 'no NIC'}>"

    # NICs

    @property
    def nics(self) -> dict[str, Ifnet]:
        """The interfaces by name, those that moved in included."""
        return {ifp.if_xname: ifp for ifp in self.vnet.ifnets()}

    def nic(
        self,
        name: str,
        *addresses: str,
        mac: str | bytes | None = None,
        mtu: int = 1500,
        driver: type[TapNic] | TapNic = TapNic,
        up: bool = True,
    ) -> Ifnet:
        """Make a NIC with addresses such as ``192.0.2.1/24``, and bring it up; return its ifnet.

        ``mac`` is made up, locally administered, unless given; ``driver`` is a
        ``TapNic`` or a class derived from it. Raises ``LabError`` for an address
        or MAC that cannot be and for a second NIC of one name, ``InvalidName``,
        ``Missing`` when there is no tun device or no open file is left, and ``OSError``
        when the kernel refuses; nothing is left behind then.
        """
        self.lab.check_open()
        check_name(name)
        interfaces = [check_interface(address, self.name) for address in addresses]
        if not isinstance(mtu, int) or not 0 < mtu <= IF_MAXMTU:  # what is too small, the kernel says
            raise LabError(f"{name}: an MTU of {mtu!r} cannot be; use 1500 or the like, {IF_MAXMTU} at most")
        octets = self.lab.next_mac() if mac is None else _mac(mac)
        nic = driver() if isinstance(driver, type) else driver
        if not isinstance(nic, TapNic):
            raise LabError(f"{driver!r} is no driver for a NIC; derive it from iflab.drivers.TapNic")
        if "closer" not in vars(nic):
            raise LabError(
                f"the driver {type(nic).__name__} was not set up; its __init__ must call super().__init__() first"
            )
        self.lab.wait_for_closers()
        with explained(), self.lab.lock, self.netns.entered():
            if self.vnet.ifunit(name) is not None:
                raise LabError(
                    f"{self.name} has a NIC {name} already; choose another name, such as {self._free(name)}"
                )
            nic.closer = self.lab.close_tap
            if isinstance(nic, FaultyNic):
                nic.faults = self.lab.faults
            ifp = nic.attach(self.vnet, self.netns, self.lab.engine, name, octets, mtu)
            try:
                self._configure(ifp, interfaces, up)
            except BaseException:
                ifp.if_detach()
                ifp.if_free()
                raise
        return ifp

    def _configure(self, ifp: Ifnet, interfaces: Sequence[str], up: bool) -> None:
        if interfaces:
            self.stack.add_addresses(ifp, interfaces)
        if up:
            self.vnet.ioctl("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=ifp.if_flags | IFF.UP))

    def _free(self, name: str) -> str:
        stem = name.rstrip("0123456789") or name
        return next(f"{stem}{n}" for n in range(10_000) if self.vnet.ifunit(f"{stem}{n}") is None)

    def route(self, destination: str, via: str) -> None:
        """Add a route, ``"default"`` or a network, through the neighbour ``via``. Raises ``LabError``, ``OSError``.

        A link-local neighbour is named with the NIC that it is reached by: ``fe80::1%em0``.
        """
        from iflab.linux import Netlink

        self.lab.check_open()
        gateway = ipaddress.ip_address(_check_address(via))
        if destination not in (("default",) if gateway.version == 4 else ("default", "default6")):
            _check_destination(destination, gateway)
        nic = getattr(gateway, "scope_id", None)
        if nic is None and gateway.version == 6 and gateway.is_link_local:
            raise LabError(f"{via} may be on every link; name the NIC with it, as {via}%em0")
        index = None if nic is None else self._netdev(nic)
        with Netlink(self.netns) as netlink:
            netlink.route_add(destination, via=via.partition("%")[0], index=index)

    def _sockaddr(self, address: str, port: int) -> tuple[Any, ...]:
        """An address as sockets of this host take it: ``fe80::1%em0`` with the number of the NIC."""
        plain, _, nic = address.partition("%")
        return (plain, port, 0, self._netdev(nic)) if nic else (plain, port)

    def _netdev(self, name: str) -> int:
        """The number that the host's kernel has for a device."""
        index = self.netns.index_of(name)
        if not index:
            there = ", ".join(self.nics) or "none"
            raise LabError(f"{self.name} has no NIC {name}; there are {there}")
        return index

    def address(self, family: int = socket.AF_INET) -> str:
        """The host's first address of a family (``AF_INET``, ``AF_INET6``) that is not link-local. Raises ``LabError``."""
        self.lab.check_open()
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise LabError(f"{family!r} is no family of addresses; use socket.AF_INET or socket.AF_INET6")
        for ifp in self.vnet.ifnets():
            for ifa in ifp.if_addrhead:
                text = str(ifa.ifa_addr)
                v6 = ":" in text
                if ifa.ifa_netmask is None or v6 != (family == socket.AF_INET6) or text.startswith("fe80"):
                    continue
                if len(getattr(ifa.ifa_addr, "packed", b"")) in (4, 16):
                    return text
        raise LabError(
            f"{self.name} has no {'IPv6' if family == socket.AF_INET6 else 'IPv4'} address; give a NIC one"
        )

    # FreeBSD's commands

    def ifconfig(self, *words: Words) -> str:
        """Do what FreeBSD's ``ifconfig`` does, and return what it prints: ``host.ifconfig("em0 promisc mtu 1400")``.

        One text is split as a shell splits it; a list holds words. Raises ``CommandError``
        with the one line that the original prints.
        """
        from iflab.bsd import as_words

        return self.bsd("ifconfig", as_words("ifconfig", words))

    def netstat(self, *words: Words) -> str:
        """Return what FreeBSD's ``netstat`` prints, with ``-i``, ``-g`` or ``-r``. Raises ``CommandError``."""
        from iflab.bsd import as_words

        return self.bsd("netstat", as_words("netstat", words))

    def bsd(self, command: str, args: Sequence[str], holds: Callable[[Priv], bool] = allow_all) -> str:
        """Carry out one of FreeBSD's commands for a caller who holds these privileges."""
        from iflab import bsd

        self.lab.check_open()
        bsd.load_ahead(args)
        with self.lab.lock:
            self.stack.hear()  # what was changed with Linux's own means, and told, is not late here
            if command == "ifconfig":
                for ifp in self.stack.interfaces():
                    ifp.if_softc.heed_ethtool()
            if command == "netstat" and any(word.startswith("-") and "g" in word for word in args):
                # Linux before 6.14 tells nobody who joined, and no Linux of what packet sockets did.
                self.stack.look_groups(self.nics.values())
            td = Thread(self.vnet.prison, holds)
            return bsd.carry_out(command, self.vnet, args, td, self.stack.route_rows)

    def sysctl(self, name: str, value: int | str | None = None) -> str:
        """Read a setting, after setting it to ``value`` if given: ``host.sysctl("net.ipv4.ip_forward", 1)``.

        Names of the interface layer are FreeBSD's (``net.link.log_link_state_change``), all
        others those of Linux above it (Documentation/networking/ip-sysctl.rst). Raises
        ``CommandError`` for the former, ``KernelRefused`` and ``ValueError`` for the latter, and
        EPERM for what would outlast the lab (``Lab.machine``).
        """
        self.lab.check_open()
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is no name of a setting; write net.ipv4.ip_forward or the like")
        kernel = self.vnet.kernel
        if name not in kernel.vnet_settings and name not in kernel.sysctl:
            if value is not None and not set(re.split("[./]", name)) & self.nics.keys():
                self.stack.only_ours(f"the setting {name}")
            return sysctl(self.netns, name, value)
        if value is not None:
            self.bsd("sysctl", [f"{name}={value}"])
        return self.bsd("sysctl", ["-n", name]).strip()

    # programs

    def run(
        self,
        cmd: str | Sequence[str],
        *,
        timeout: float | None = 30.0,
        input: str | None = None,
        check: bool = False,
        **popen: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and return its output and status, as ``subprocess.run`` does.

        A text is given to the shell, a list is run as it is. Raises
        ``FileNotFoundError``, ``subprocess.TimeoutExpired``, with ``check``
        ``subprocess.CalledProcessError``, and ``LabError`` for what is no command.
        """
        popen.setdefault("stdin", subprocess.PIPE if input is not None else subprocess.DEVNULL)
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        popen.setdefault("text", True)
        with self.popen(cmd, **popen) as process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except BaseException:
                self._kill(process)
                raise
        done = subprocess.CompletedProcess(cmd, process.returncode, out, err)
        if check:
            done.check_returncode()
        return done

    @staticmethod
    def _kill(process: subprocess.Popen[Any]) -> None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, 9)
        process.kill()
        process.wait()

    def popen(
        self, cmd: str | Sequence[str], *, listens: str | Iterable[str] = (), **popen: Any
    ) -> subprocess.Popen[Any]:
        """Start a program that dies with the lab; ``popen`` goes to ``subprocess.Popen``. Raises as that does.

        ``listens`` names ports that it will listen on, ``"tcp/80"`` or ``"udp/67"``:
        ``lab.wait_ready`` waits for them.
        """
        self.lab.check_open()
        ports = check_ports(listens)
        process = self.lab.keeper.spawn(self.netns, _argv(cmd), hostname=self.name, **popen)
        self.awaited += [(port, process) for port in ports]
        return process

    def listening(self) -> set[str]:
        """Ports that programs of this host listen on: ``"tcp/80"``, ``"udp/67"``, both families together."""
        self.lab.check_open()
        found = set()
        with self.netns.entered():
            for table, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
                for line in self.netns.read_list(table)[1:]:
                    words = line.decode().split()
                    if words[3] == state:
                        found.add(f"{table[:3]}/{int(words[1].rpartition(':')[2], 16)}")
        return found

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0
    ) -> socket.socket:
        """Open a socket of this host, for use from any thread of this process."""
        self.lab.check_open()
        return self.netns.socket(family, kind, proto)

    def call(self, fn: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call ``fn`` inside the host, on this thread: the sockets it makes are the host's."""
        self.lab.check_open()
        with self.netns.entered():
            return fn(*args, **kwargs)

    # things that every host can do by itself

    def ping(
        self,
        address: str,
        count: int = 1,
        *,
        interval: float = 0.2,
        timeout: float = 1.0,
        size: int = 56,
    ) -> PingResult:
        """Send ``count`` ICMP or ICMPv6 echo requests of ``size`` octets of data; needs no program.

        One is sent every ``interval`` seconds, whether or not those before it were
        answered; with 0 each waits for the one before it. A request is lost when there
        is no reply within ``timeout`` seconds; ``PingResult.errors`` says what was reported
        instead, such as no route. Raises ``LabError`` for what is no address
        or no count, and where waiting would hold up the lab (``Lab.check_may_wait``).
        """
        _check_address(address)
        if not isinstance(count, int) or not isinstance(size, int) or count < 1 or not 0 <= size <= 65_507:
            raise LabError(
                f"ping: a count of {count!r} and {size!r} octets of data cannot be; use 1 or more, and 0 to 65507"
            )
        for what, seconds in (("a timeout", timeout), ("an interval", interval)):
            if not is_span(seconds):
                raise LabError(f"ping: {what} of {seconds!r} s cannot be; use 0 or more seconds")
        self.lab.check_may_wait(f"{self.name}.ping")
        to = self._sockaddr(address, 0)
        result = ping(self.socket, address, to, count, interval=interval, timeout=timeout, size=size)
        self.lab.log(f"{self.name}: {result}")
        return result

    def serve(self, bytes_: int = 1_000_000, port: int = 0, address: str | None = None) -> Server:
        """Serve ``bytes_`` octets over TCP to everyone who connects; ``port`` 0 is any free one.

        Raises ``LabError`` for a number of octets, a port or an address that cannot be, and
        ``OSError`` for those that are not to be had.
        """
        if not isinstance(bytes_, int) or bytes_ < 0:
            raise LabError(f"{self.name} cannot serve {bytes_!r} octets; use a whole number, 0 or more")
        if not isinstance(port, int) or not 0 <= port < 65536:
            raise LabError(f"{self.name} cannot serve on port {port!r}; use 1 to 65535, or 0 for any")
        address = self.address() if address is None else _check_address(address)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = self.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._sockaddr(address, port))
            listener.listen()
        except OSError as error:
            listener.close()
            raise OSError(
                error.errno, f"{self.name} cannot serve on {address}, port {port}: {error.strerror}"
            ) from error
        server = Server(listener, address, bytes_, f"{self.name}-{address}")
        self.servers.append(server)
        return server

    def fetch(self, server: Server, idle: float = 30.0) -> Transfer:
        """Download from ``server`` in the background; ``idle`` seconds without progress end it.

        Raises ``LabError`` for what no ``serve`` returned.
        """
        if not isinstance(server, Server):
            raise LabError(
                f"{self.name} cannot fetch from {server!r}; give it what another host's serve() returned"
            )
        family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
        sock = self.socket(family, socket.SOCK_STREAM)
        transfer = Transfer(f"{self.name}: download from {server.address}")
        threading.Thread(
            target=transfer._run,
            args=(sock, self._sockaddr(server.address, server.port), idle),
            name=f"{self.name}-fetch",
            daemon=True,
        ).start()
        return transfer


def _mac(text: str | bytes) -> bytes:
    try:
        octets = (
            text if isinstance(text, bytes) else bytes.fromhex(str(text).replace(":", "").replace("-", ""))
        )
    except ValueError:
        octets = b""
    if len(octets) != 6:
        raise LabError(f"{text!r} is no MAC; write 02:00:00:00:00:01")
    if octets[0] & 1:
        raise LabError(
            f"{octets.hex(':')} is a group address (its first octet is odd); a NIC needs one of its own"
        )
    return octets


def _argv(cmd: str | Sequence[str]) -> list[str]:
    """What is executed for a command: a text is the shell's. Raises ``LabError`` for what is none."""
    if isinstance(cmd, str):
        return ["/bin/sh", "-c", cmd]
    words = list(cmd) if isinstance(cmd, Iterable) else []
    if not words or not all(isinstance(word, (str, bytes, os.PathLike)) for word in words):
        raise LabError(f"{cmd!r} is no command; write a text for the shell, or a list of texts")
    return words


def check_interface(address: str, host: str) -> str:
    """Read an address with its prefix, for a host of that name. Raises ``LabError`` for what is none."""
    try:
        # A number would be an address, too; without its prefix one would be alone on its wire.
        if not isinstance(address, str) or "/" not in address or "%" in address:
            raise ValueError
        return str(as_interface(address))
    except ValueError:
        raise LabError(
            f"{address!r} is no address for {host}; write it with its prefix, as 192.0.2.1/24 or 2001:db8::1/64"
        ) from None


def _check_address(address: str) -> str:
    try:
        ipaddress.ip_address(address if isinstance(address, str) else "")  # a number would be one, too
    except ValueError:
        raise LabError(f"{address!r} is no address; write 192.0.2.1 or 2001:db8::1") from None
    return address


def _check_destination(destination: str, gateway: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Refuse what is no network, and one of the other family than its gateway. Raises ``LabError``."""
    try:
        network = ipaddress.ip_network(destination if isinstance(destination, str) else "", strict=False)
    except ValueError:
        raise LabError(f"{destination!r} is no destination; write 192.0.2.0/24 or 'default'") from None
    if network.version != gateway.version:
        raise LabError(
            f"{destination} is IPv{network.version} and {gateway} is not; "
            f"give the route an IPv{network.version} neighbour"
        )


def check_ports(ports: str | Iterable[str]) -> list[str]:
    """Read what names one port or several. Raises ``LabError`` for what is none."""
    found = list(ports) if isinstance(ports, Iterable) and not isinstance(ports, str) else [ports]
    for text in found:
        protocol, _, number = str(text).partition("/")
        if protocol not in ("tcp", "udp") or not number.isdecimal() or not 0 < int(number) < 65536:
            raise LabError(f"{text!r} is no port; write tcp/80 or udp/67")
    return [str(text) for text in found]
