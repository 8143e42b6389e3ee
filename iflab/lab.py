"""What a user holds: a lab, its hosts, their NICs, and the wires between them.

::

    with Lab() as lab:
        alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
        assert alice.ping("192.0.2.2").received == 1

A lab is made of namespaces, file descriptors and threads of this process. It
changes nothing on the machine's own network and leaves nothing behind, however
it ends: at the end of the ``with``, by an exception, Ctrl-C, SIGTERM or SIGKILL.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from iflab.agreement import Disagreement
from iflab.control import ControlServer, make_private_directory, remove_private_directory
from iflab.drivers import Maker, TapNic, bpdu, load_devices
from iflab.drivers.device import is_leaving
from iflab.engine import Engine, ProcessWide
from iflab.faults import Event, Faults, Record, Recorder, Schedule
from iflab.host import Host, LabError, check_interface, check_ports
from iflab.linux import (
    Keeper,
    Missing,
    Netns,
    Spares,
    Tap,
    check_place,
    ensure_privileges,
    explained,
    new_namespace,
    open_tun,
    raise_fd_limit,
)
from iflab.net import (
    IFF,
    IFG_ALL,
    IFT,
    Cloner,
    Ifnet,
    Kernel,
    LinkState,
    Vnet,
    arpcom_alloc,
    arpcom_free,
    report,
)
from iflab.net.clock import is_span
from iflab.net.driver import DeadDriver
from iflab.net.errors import Terminated
from iflab.net.flags import IF_MAXMTU, IF_MINMTU
from iflab.signals import Signals
from iflab.stack import LinuxStack, Listener
from iflab.switch import Switch
from iflab.wire import Cable, Port, Segment, Wire

if TYPE_CHECKING:
    from iflab.bpf import Sniffer
    from iflab.capture import Capture
    from iflab.expect import Expectations
    from iflab.faults import NicStruck, Struck
    from iflab.report import Recorder as ReportRecorder
    from iflab.wire import Station

__all__ = ["Lab", "LabError", "Terminated"]

_log = logging.getLogger("iflab.lab")
_FOREIGN_GROUP = re.compile(r"grp([0-9]{1,10})_")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}\Z")
_numbers = itertools.count()


def _collect_no_more() -> bool:
    before = gc.isenabled()
    gc.disable()
    return before


def _collect_again(before: bool) -> None:
    if before:
        gc.enable()


_collecting = ProcessWide(_collect_no_more, _collect_again)
"""While somebody builds many hosts Python does not look for garbage: among what a lab is made of there is none."""

LINK_PATIENCE = 1.0
"""Seconds that plugging waits for the kernels to see their links; a NIC that is late is no error."""

BUILD_STEP = 25
"""Wires after which ``building`` reads what the kernel has told."""

_SNIFF_OPTIONS = {
    *("count", "timeout", "prn", "lfilter", "stop_filter", "store", "offline", "quiet", "session"),
    *("started_callback", "chainCC"),
}
"""Of scapy's ``sniff``, which takes all others for those of a socket that it would open, and passes over them."""

MANY = 16
"""Hosts after which ``building`` has namespaces made ahead."""

BUILD_PATIENCE = 30.0
"""Seconds that ``building`` waits at its end."""

RETRY = 0.5
"""Seconds after which what the kernel told is looked at once more, when that was not possible."""

CLOSERS = 32
"""File descriptors of TAPs closed at once: the kernel makes each closer wait, all at the same time."""


def _check_name(name: object, kind: str) -> None:
    if not isinstance(name, str) or not _NAME.match(name):
        raise LabError(f"{name!r} is no name for a {kind}; use letters, digits, '.', '-' and '_', 40 at most")


def _check_timeout(timeout: float) -> None:
    if not is_span(timeout):
        raise LabError(f"a timeout of {timeout!r} s cannot be; use 0 or more seconds")


class Lab:
    """A lab that runs until ``close``; best used in a ``with`` block.

    ``name`` is how other terminals reach it (``iflab ps``, ``iflab exec``);
    ``seed`` decides every random choice; without ``control`` no other terminal
    gets in. ``on_log`` is called with the seconds since the start and a line of
    text whenever something worth telling happens, on any thread. With ``replay``, a
    record or its path, faults of cables decide as they did then, and the seed is the
    record's.

    The machine's own network is never touched, unless ``host_network`` asks for it: then
    ``machine`` is a host like the others that stands for it.

    ``hosts``, ``switches`` and ``wires`` are what it has, by name. ``random`` makes random
    choices that the seed decides. ``lock`` holds all of it still. ``patience`` multiplies the
    time that expectations and ``wait_ready`` wait. ``faults`` counts what struck. ``kernel`` is
    the interface layer, ``engine`` the thread that moves the frames.

    Raises ``Missing`` when the machine lacks something that a lab needs, and ``LabError`` for
    arguments that cannot be.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        seed: int | None = None,
        control: bool = True,
        on_log: Callable[[float, str], None] | None = None,
        replay: Record | str | os.PathLike[str] | None = None,
        host_network: bool = False,
    ) -> None:
        number = next(_numbers)
        self.name = name or (f"lab{os.getpid()}" if number == 0 else f"lab{os.getpid()}-{number}")
        _check_name(self.name, "lab")
        if on_log is not None and not callable(on_log):
            raise LabError(
                f"on_log is {on_log!r}; give a function of the seconds since the start and a line of text"
            )
        if seed is not None and not isinstance(seed, int):
            raise LabError(f"seed is {seed!r}; give a whole number")
        if not isinstance(host_network, bool):
            raise LabError(f"host_network is {host_network!r}; give True or False")
        if replay is not None and not isinstance(replay, Record):
            replay = Record.read(replay)
        if seed is None:
            seed = random.randrange(2**32) if replay is None else replay.seed
        self.seed = seed
        self.random = random.Random(self.seed)
        self.on_log = on_log
        self.started = time.time()
        self.hosts: dict[str, Host] = {}
        self.switches: dict[str, Switch] = {}
        self.wires: dict[str, Wire] = {}
        self._first_free: dict[str, int] = {}
        """Of each kind of wires the number below which all names are taken."""
        self._began = time.monotonic()
        self._macs = itertools.count(1)
        self._captures: list[Capture] = []
        self._capturing_all: list[Capture] = []
        self._stations: list[Station] = []
        self._sniffers: list[Sniffer] = []
        self._reports: list[ReportRecorder] = []
        self._expectations: Expectations | None = None
        self.patience = 1.0
        """Multiplies the time that expectations and ``wait_ready`` wait: more than 1 on a slow machine."""
        self._closers: list[threading.Thread] = []
        self._group_numbers = {"": 0}
        self._building = 0
        self._built = 0
        """Hosts that were made since ``building`` began."""
        self._spares: Spares | None = None
        self._told = 0.0
        """When it was last told how far the building or the taking down has come."""
        self._closed = False
        with contextlib.ExitStack() as undo:  # what was built goes again if a later step fails
            own = undo.enter_context(Netns.current()) if host_network else None
            ensure_privileges()
            if own is not None:
                _check_still_in(own)
            os.close(open_tun())
            raise_fd_limit()
            self.kernel = Kernel()
            self.kernel.if_register_com_alloc(IFT.ETHER, arpcom_alloc, arpcom_free)
            self.lock = self.kernel.giant
            self._home = Netns.create(f"{self.name}'s own")
            undo.callback(self._home.close)
            self._listener = Listener(self._home, self.elapsed)
            self._heard = threading.Condition(self.lock)
            self._listener.on_heard = self._heard.notify_all
            undo.callback(self._listener.close)
            self.keeper = Keeper()
            undo.callback(self.keeper.close)
            directory = make_private_directory(self.name, self.keeper) if control else None
            if directory:
                undo.callback(remove_private_directory, directory)
            self.engine = Engine(self.lock, self.kernel.taskqueue_swi, self.name)
            self._signals = Signals(self.engine)
            undo.callback(self.engine.stop)
            self._listener.later = lambda: self.engine.call_at(
                self.engine.now() + RETRY, self._listener.readable
            )
            self.faults = Faults(self.engine, self.seed, elapsed=self.elapsed, replay=replay)
            """The faults of its cables: counts, streams of random numbers, the record."""
            self.faults.nic_listeners.append(self._nic_struck)
            self._schedule = Schedule(self.engine, self.log, self._find)
            self.engine.start()
            self.engine.add_reader(self._listener.monitor.fileno(), self._listener.readable)
            events = self.kernel.events
            events.register("ifnet_arrival_event", self._arrived)
            events.register("ifnet_departure_event", self._departed)
            events.register("ifnet_link_event", self._link_changed)
            events.register("group_change_event", self._groups_changed)
            self.kernel.rtsock.listen(self._listener.heard)
            self.kernel.cloners.register(Cloner("tap", self._clone_tap, self._unclone))
            self.maker = Maker(self.engine, self.next_mac, self.engine, self.close_tap)
            load_devices(self.kernel, self.maker)
            self._machine = self._host("machine", own, foreign=True) if own is not None else None
            self._control = ControlServer(self, directory) if directory else None
            undo.pop_all()

    def __repr__(self) -> str:
        return f"<Lab {self.name}: {len(self.hosts)} hosts, {len(self.wires)} wires>"

    def __enter__(self) -> Lab:
        self.check_open()
        self._signals.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        finally:
            self._signals.end()

    @property
    def closed(self) -> bool:
        """True once ``close`` began."""
        return self._closed

    def log(self, text: str, about: Wire | Ifnet | None = None) -> None:
        """Tell something worth telling, of a wire or an interface perhaps: ``iflab run`` shows it."""
        if not self._closed:
            self.faults.note(text, about if isinstance(about, Wire) else None)
            self._say(text, about)

    def _say(self, text: str, about: Wire | Ifnet | None, kind: str = "") -> None:
        """Tell all who show what happens; the record knows already. ``kind`` is for the report."""
        if self._closed:
            return  # plugs that are pulled now are no news
        for capture in self._captures:
            capture.note(f"{self.elapsed():.3f} s {text}")
        for recorder in self._reports:
            recorder.note(text, about, kind)
        self._show(text)

    def _tell_now_and_then(self, text: str) -> None:
        """Show how far something has come that takes more than a second; once a second."""
        if time.monotonic() >= self._told + 1:
            self._told = time.monotonic()
            self._show(text)

    def _show(self, text: str) -> None:
        _log.info("%s: %s", self.name, text)
        if self.on_log is not None:
            try:
                self.on_log(self.elapsed(), text)
            except BaseException as error:
                report(_log, error, "%s: on_log failed: %r", self.name, self.on_log)

    @property
    def overflows(self) -> int:
        """How often the kernel told more than could be heard; everything was read afresh then."""
        return self._listener.overflows

    def elapsed(self) -> float:
        """Seconds since the lab began."""
        return time.monotonic() - self._began

    # building

    def check_open(self) -> None:
        """Raise ``LabError`` once the lab is closed."""
        if self._closed:
            raise LabError(f"the lab {self.name} is closed; make a new one")

    def host(self, name: str) -> Host:
        """Make a host.

        Raises ``LabError`` for a second one of that name, ``Missing`` when no open file
        is left, ``OSError`` when the kernel refuses.
        """
        self.check_open()
        _check_name(name, "host")
        self._give_way()
        with self.lock, explained():
            self._check_new(name)
            return self._host(name, self._namespace(name))

    def _give_way(self) -> None:
        """Let the engine have its turn while many hosts are built."""
        if self._building and not self.lock.owned():
            self.engine.give_way()

    def _namespace(self, name: str) -> Netns:
        """A namespace for a host of the lab's own."""
        if self._building:
            self._built += 1
            if self._built == MANY:
                _collecting.acquire()
                with contextlib.suppress(OSError):  # without a helper it takes longer
                    self._spares = Spares()
            if self._built >= MANY:
                self.engine.rest()
        spare = self._spares.take(name) if self._spares is not None else None
        return spare or new_namespace(name)

    def _host(self, name: str, netns: Netns, foreign: bool = False) -> Host:
        """A host whose network is ``netns``, which is the lab's from now on."""
        with self.lock:
            vnet = None
            try:
                stack = LinuxStack(netns, self.engine.now, foreign)
                vnet = self.kernel.vnet_alloc(name, stack)
                stack.vnet = vnet
                stack.unsettled = self._building > 0 and self._built >= MANY
                stack.group_number, stack.group_name = self.group_number, self.group_name
                self._listener.watch(stack)
            except BaseException:
                if vnet is not None:
                    self.kernel.vnet_destroy(vnet)
                netns.close()
                raise
            host = self.hosts[name] = Host(self, name, vnet, netns, stack)
        if self._building:
            self._tell_now_and_then(f"building: {len(self.hosts)} hosts, {len(self.wires)} wires")
        return host

    @property
    def machine(self) -> Host:
        """The machine's own network as a host; only in a ``Lab(host_network=True)``.

        ::

            with Lab(host_network=True) as lab:
                mine = lab.machine.nic("lab0", "192.0.2.1/24")
                lab.cable(mine, lab.host("alice").nic("em0", "192.0.2.2/24"))

        NICs that are made here, or moved here, are the only devices that the lab touches.
        They go with the lab, however it ends, and with them their addresses and routes;
        what would outlast them (rules, routes through ``lo``) is refused with EPERM. What
        programs run here change is their own affair. Raises ``LabError`` in any other lab.
        """
        if self._machine is None:
            raise LabError(
                f"{self.name} has nothing to do with the machine's own network; Lab(host_network=True) lets it"
            )
        return self._machine

    def _check_new(self, name: str) -> None:
        if name in self.hosts or name in self.switches:
            what = "host" if name in self.hosts else "switch"
            raise LabError(f"there is a {what} {name} already; choose another name")

    def switch(self, name: str, ports: int = 8, *, stp: bool = False, mtu: int = 1500) -> Switch:
        """Make a switch with that many ports, which knows no VLANs until told.

        With ``stp`` all its ports take part in the rapid spanning tree; then one to
        which a host is cabled forwards after three seconds, or at once as an edge.
        Raises ``LabError`` for a second host or switch of that name, and for a number of
        ports or an MTU that cannot be.
        """
        self.check_open()
        _check_name(name, "switch")
        if not isinstance(ports, int) or ports < 0 or not IF_MINMTU <= mtu <= IF_MAXMTU:
            raise LabError(
                f"{name}: {ports!r} ports with an MTU of {mtu} cannot be; "
                f"use 0 ports or more, and {IF_MINMTU} to {IF_MAXMTU}"
            )
        if stp:
            bpdu.load_scapy()  # takes a while, and the lock is for everybody
        with self.lock:
            self._check_new(name)
            vnet = self.kernel.vnet_alloc(name, is_default=False)
            try:
                made = self.switches[name] = Switch(vnet, self.maker, ports, stp=stp, mtu=mtu)
            except BaseException:
                for ifp in vnet.ifnets():
                    ifp.if_detach()
                    ifp.if_free()
                self.kernel.vnet_destroy(vnet)
                raise
            return made

    def cable(
        self,
        one: Ifnet | Port | str,
        other: Ifnet | Port | str,
        name: str | None = None,
        *,
        delay: float = 0.0,
    ) -> Cable:
        """Connect two NICs or stations; ``delay`` is in seconds, each way. Raises ``LabError``, ``WireError``.

        A NIC may be named, as ``"alice:em0"`` or ``"sw:p0"``, here and for segments and stations.
        """
        wire = Cable(self.engine, self._wire_name(name, "cable"), delay)
        self._plug_all(wire, (one, other))
        return wire

    def segment(self, *ports: Ifnet | Port | str, name: str | None = None, delay: float = 0.0) -> Segment:
        """Connect any number of NICs and stations to one hub. Raises ``LabError``, ``WireError``."""
        wire = Segment(self.engine, self._wire_name(name, "segment"), delay)
        self._plug_all(wire, ports)
        return wire

    def station(
        self,
        *far: Ifnet | Port | str,
        name: str | None = None,
        mac: str | None = None,
        addresses: str | Iterable[str] = (),
    ) -> Station:
        """Make a scapy station, on a cable to ``far`` if that is given. Raises ``LabError``, ``WireError``."""
        from iflab.wire import Station

        self.check_open()
        if len(far) > 1:
            raise LabError(
                "a station is cabled to one port; make a segment of more and plug the station into that"
            )
        number = len(self._stations)
        station = Station(
            self.engine,
            name or f"station{number}",
            mac=mac or self.next_mac().hex(":"),
            addresses=(addresses,) if isinstance(addresses, str) else tuple(addresses),
        )
        for port in far:
            self.cable(port, station)
        self._stations.append(station)
        return station

    def pair(
        self,
        one: str | Iterable[str],
        other: str | Iterable[str],
        *,
        names: tuple[str, str] = ("alice", "bob"),
        delay: float = 0.0,
    ) -> tuple[Host, Host, Cable]:
        """Make two hosts with a NIC ``em0`` each, addressed and up, and the cable between them.

        Raises as ``host``, ``Host.nic`` and ``cable``; for names and addresses that cannot be, neither host is made.
        """
        if len(names) != 2 or names[0] == names[1]:
            raise LabError(f"a pair has two names, not {names!r}")
        self.check_open()
        wanted: dict[str, list[str]] = {}
        for name, addresses in zip(names, (one, other), strict=True):
            if not isinstance(addresses, Iterable):
                raise LabError(f"{addresses!r} is no address; write 192.0.2.1/24, or a list of such")
            _check_name(name, "host")
            each = (addresses,) if isinstance(addresses, str) else addresses
            wanted[name] = [check_interface(address, name) for address in each]
        # Of many it is made in one go: whoever lets go of the lock waits for the engine to be done with it.
        self._give_way()
        with self.lock if self._building else contextlib.nullcontext():
            for name in wanted:
                self._check_new(name)
            nics = [self.host(name).nic("em0", *interfaces) for name, interfaces in wanted.items()]
            cable = self.cable(nics[0], nics[1], delay=delay)
        return self.hosts[names[0]], self.hosts[names[1]], cable

    def next_mac(self) -> bytes:
        """The next MAC of the lab: locally administered, counted up from 02:00:00:00:00:01."""
        return bytes((2, 0)) + next(self._macs).to_bytes(4, "big")

    def _wire_name(self, name: str | None, kind: str) -> str:
        self.check_open()
        if name is None:
            number = self._first_free.get(kind, 0)
            while f"{kind}{number}" in self.wires:
                number += 1
            self._first_free[kind] = number
            return f"{kind}{number}"
        _check_name(name, "wire")
        if name in self.wires:
            raise LabError(f"there is a wire {name} already; choose another name")
        return name

    def _plug_all(self, wire: Wire, things: Iterable[Ifnet | Port | str]) -> None:
        with self.lock:
            try:
                self.faults.adopt(wire)
                for thing in things:
                    wire.plug(self._plug_of(thing))
            except BaseException:
                wire.close()
                raise
            self.wires[wire.name] = wire
            if self._expectations is not None:
                self._expectations.history.listen(wire)
            for recorder in self._reports:
                recorder.listen(wire)
            for capture in self._capturing_all:
                capture.listen(wire)
            wire.on_change = lambda wire, what: self.log(f"{wire.name}: {what}", wire)
        if not self._building:
            self._wait_operational(wire.ends, LINK_PATIENCE)
        elif len(self.wires) % BUILD_STEP == 0:
            with self.lock:
                self._listener.readable(limit=None)

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Plug many cables in a ``with`` block, and wait for all their links together at its end.

        Kernels take some 10 ms to see a link: one after another that adds up. What
        takes longer than a second is told as it goes on. When there are many, frames
        of those that are ready may wait 0.1 s meanwhile, and that a program in a new one
        wants all multicast groups is noticed at the end.
        """
        self.check_open()
        began = time.monotonic()
        if not self._building:  # the builder reads the kernel's notices itself, many at once
            self._told, self._built = began, 0
            self.engine.remove_reader(self._listener.monitor.fileno())
        self._building += 1
        with contextlib.ExitStack() as undo:
            undo.callback(self._built_up)
            yield
        while not self._building:
            waiting = self._wait_operational(self._nics(), LINK_PATIENCE)
            if not waiting or time.monotonic() > began + BUILD_PATIENCE:
                return
            self._tell_now_and_then(f"{len(self.hosts)} hosts; {len(waiting)} links are still to come")

    def _built_up(self) -> None:
        """A ``with`` block of ``building`` has ended, however; so have all when it was the outermost."""
        with contextlib.ExitStack() as undo, self.lock:  # under which spares come to be
            self._building -= 1
            if self._building:
                return
            if self._built >= MANY:
                undo.callback(_collecting.release)
            self._built = 0
            for host in self.hosts.values():
                host.stack.unsettled = False
            if not self._closed:
                self.engine.add_reader(self._listener.monitor.fileno(), self._listener.readable)
            spares, self._spares = self._spares, None
            if spares is not None:
                undo.callback(spares.close)

    def _nics(self) -> list[Any]:
        return [ifp.if_softc for host in tuple(self.hosts.values()) for ifp in host.vnet.ifnets()]

    def _plug_of(self, thing: Ifnet | Port | str) -> Port | Ifnet:
        """What ``thing`` names, which is of this lab."""
        place: Any = self.place(thing) if isinstance(thing, str) else thing
        if isinstance(place, Ifnet) and place.kernel is not self.kernel:
            raise LabError(f"{thing!r} is another lab's; a wire is of one lab")
        found: Port | Ifnet = place
        return found

    # while it runs

    def at(self, seconds: float, fn: Callable[..., object] | str, *args: Any, **options: Any) -> Event:
        """Call ``fn(*args, **options)`` in ``seconds`` from now, on the engine's thread; logged, and can be cancelled.

        ``fn`` may be a name, looked up when the time has come: ``"cable0.cut"`` of a
        wire, ``"alice:em0.vanish"`` of a NIC. Raises ``FaultError`` for a time below 0.
        """
        self.check_open()
        return self._schedule.at(seconds, fn, *args, **options)

    def every(
        self,
        period: float,
        fn: Callable[..., object] | str,
        *args: Any,
        first: float | None = None,
        times: int | None = None,
        **options: Any,
    ) -> Event:
        """Call it every ``period`` seconds, the first time in ``first`` (None: a period), ``times`` in all; as ``at``."""
        self.check_open()
        return self._schedule.every(period, fn, *args, first=first, times=times, **options)

    @property
    def failed_calls(self) -> list[str]:
        """Which calls of ``at``, ``every`` and ``schedule`` failed, and how; the first hundred."""
        return list(self._schedule.failed)

    def schedule(self, table: Iterable[tuple[Any, ...]]) -> list[Event]:
        """Call what a table says, its seconds counted from now: ``[(1.5, cable.cut), (Every(2.0), "cable0.mend")]``."""
        self.check_open()
        return self._schedule.table(table)

    def _find(self, name: str) -> Callable[..., object]:
        """The function of a name in a schedule. Raises ``LabError``."""
        whose, _, what = name.rpartition(".")
        host, _, nic = whose.partition(":")
        owner: Any = self.wires.get(whose)
        if owner is None and host in self.hosts and nic in self.hosts[host].nics:
            owner = self.hosts[host].nics[nic].if_softc
        function = getattr(owner, what, None)
        if owner is None or what.startswith("_") or not callable(function):
            there = ", ".join(self.wires) or "no wires"
            raise LabError(
                f"{name!r} names nothing to call; write WIRE.function or HOST:NIC.function; there are {there}"
            )
        found: Callable[..., object] = function
        return found

    def record(self, path: str | os.PathLike[str], **about: Any) -> Recorder:
        """Write a record of all faults from now on, with seed and versions; ``about`` goes to its first line.

        ``Lab(replay=path)`` lets faults of cables decide the same again. Raises ``OSError``.
        """
        self.check_open()
        return self.faults.record(path, {"lab": self.name, "started": self.started, **about})

    def check_may_wait(self, what: str) -> None:
        """Raise ``LabError`` where the caller holds the lab's lock: no frame moves while it waits for one.

        Calls of ``at`` and ``every``, drivers and hooks hold it.
        """
        if self.lock.owned():
            raise LabError(
                f"{what} waits, and holds the lab's lock, without which no frame moves; call it without the lock, "
                "or in a thread of its own where lab.at, lab.every, a driver or a hook calls"
            )

    def wait_links(self, timeout: float = 5.0) -> None:
        """Wait until every NIC that is up and has a carrier sends: its kernel needs a moment after the plug.

        Raises ``TimeoutError`` naming those that do not, ``LabError`` for what is no time.
        """
        self.check_open()
        _check_timeout(timeout)
        waiting = self._wait_operational(self._nics(), timeout)
        if waiting:
            raise TimeoutError(f"no link after {timeout:g} s: {', '.join(nic.name for nic in waiting)}")

    def wait_ready(
        self, timeout: float = 5.0, listening: Mapping[Host | str, Iterable[str]] | None = None
    ) -> None:
        """Wait until the lab can be used: links, addresses (duplicate address detection over), daemons.

        Daemons are those that ``host.popen`` was told the ports of, and the ports in
        ``listening``, by host or its name. ``patience`` multiplies the timeout. Raises ``TimeoutError``
        naming what is not ready, ``LabError`` when a daemon has ended, an
        address turned out to be somebody else's, or ``timeout`` is no time.
        """
        __tracebackhide__ = True
        _check_timeout(timeout)
        deadline = time.monotonic() + timeout * self.patience
        wanted: dict[Host, set[str]] = {}
        for who, ports in (listening or {}).items():
            wanted.setdefault(self._host_called(who), set()).update(check_ports(ports))
        self.wait_links(max(0.01, deadline - time.monotonic()))
        while missing := self._not_ready(wanted):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready after {timeout * self.patience:g} s: {', '.join(missing)}")
            time.sleep(0.005)  # nobody tells when a program begins to listen

    def _host_called(self, who: Host | str) -> Host:
        host = self.hosts.get(who) if isinstance(who, str) else who
        if host is None or host not in self.hosts.values():
            there = ", ".join(self.hosts) or "none"
            raise LabError(f"{self.name} has no host {who!r}; there are {there}")
        return host

    def _not_ready(self, wanted: Mapping[Host, set[str]]) -> list[str]:
        missing: list[str] = []
        for host in tuple(self.hosts.values()):
            try:
                missing += host.stack.unusable_addresses()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise LabError(error.strerror) from error
            ports = wanted.get(host, set()) | {port for port, _ in host.awaited}
            if not ports:
                continue
            there = host.listening()
            missing += [f"{host.name}: nobody listens on {port}" for port in sorted(ports - there)]
            for port, process in host.awaited:
                if port not in there and process.poll() is not None:
                    raise LabError(
                        f"{host.name}: {process.args!r} ended with status {process.returncode}, "
                        f"and was to listen on {port}"
                    )
        return missing

    # expectations

    def watch(self) -> Expectations:
        """Keep from now on what passes on every wire, for expectations; a lab's first expectation begins it, too."""
        from iflab.expect import Expectations, History

        with self.lock:
            if self._expectations is None:
                self.check_open()  # what was watched may be asked for afterwards, too
                history = History()
                for wire in self.wires.values():
                    history.listen(wire)
                self._expectations = Expectations(history, self._began)
            self._expectations.scale = self.patience
            return self._expectations

    def mark(self) -> None:
        """Expectations look from here on; what was before is no answer to any."""
        self.watch().mark()

    def expect(
        self, place: Ifnet | Wire | str, what: Any, within: float = 1.0, direction: str = "both"
    ) -> Any:
        """Wait for a frame on a NIC or wire, and return it as a scapy packet; see ``Expectations``.

        ``what`` is an expression of tcpdump, a scapy packet whose set fields count, or a
        function. The frame may have come since the lab was first watched, or the last
        ``mark``. Raises ``ExpectationError`` with the nearest miss.
        """
        __tracebackhide__ = True
        return self.watch().expect(self._place(place), what, within, direction)

    def expect_no(
        self, place: Ifnet | Wire | str, what: Any, within: float = 0.5, direction: str = "both"
    ) -> None:
        """Wait all of ``within`` for a frame that must not come, nor have come."""
        __tracebackhide__ = True
        self.watch().expect_no(self._place(place), what, within, direction)

    def expect_count(
        self, place: Ifnet | Wire | str, what: Any, count: int | None = None, **options: Any
    ) -> list[Any]:
        """Wait for so many frames: ``count``, ``at_least``, ``at_most``; see ``Expectations``."""
        __tracebackhide__ = True
        return self.watch().expect_count(self._place(place), what, count, **options)

    def expect_order(self, place: Ifnet | Wire | str, *whats: Any, **options: Any) -> list[Any]:
        """Wait for frames one after the other; others may be between them."""
        __tracebackhide__ = True
        return self.watch().expect_order(self._place(place), *whats, **options)

    def _place(self, place: Ifnet | Wire | str) -> Ifnet | Wire:
        __tracebackhide__ = True
        return self.place(place) if isinstance(place, str) else place

    def unaccounted(self) -> list[str]:
        """Wires whose account does not hold: frames that were sent, and are neither delivered, lost nor in flight."""
        with self.lock:
            return [
                f"{wire.name}: {account}"
                for wire in self.wires.values()
                if not (account := wire.account()).balances() or not all(account.dropped)
            ]

    def _wait_operational(self, nics: Iterable[Any], timeout: float) -> list[TapNic]:
        """Wait for the kernel to use these NICs; return those that it does not use in time."""
        if self.engine.is_current():
            return []
        deadline = time.monotonic() + timeout
        with self._heard:
            while True:
                waiting = [
                    nic
                    for nic in nics
                    if isinstance(nic, TapNic)
                    and nic.tap.fd >= 0
                    and nic.ifp.if_link_state is LinkState.UP
                    and nic.ifp.if_flags & IFF.UP
                    and nic.operstate != "UP"
                ]
                left = deadline - time.monotonic()
                if not waiting or left <= 0:
                    return waiting
                self._heard.wait(left)

    def check(self) -> None:
        """Compare every ifnet with the kernel's own account of its netdev, field by field.

        Raises ``Disagreement``, which names for each difference the field, both
        values and the last change of each. Run it at any moment, and at the end of
        a test.
        """
        self.check_open()
        with self.lock:
            differences = self._listener.disagreements()
        if differences:
            raise Disagreement(differences)

    def group_number(self, name: str) -> int:
        """The number by which ``ip link show group`` knows a group of interfaces; 0 for no group."""
        numbers = self._group_numbers
        if name not in numbers:
            foreign = _FOREIGN_GROUP.fullmatch(name)
            taken = numbers.values()
            wanted = [int(foreign[1])] if foreign else itertools.count(1)
            numbers[name] = next(n for n in itertools.chain(wanted, itertools.count(1)) if n not in taken)
        return numbers[name]

    def group_name(self, number: int) -> str:
        """The group with that number: ``grp77_`` where only the Linux side has given a number; empty for 0."""
        known = (name for name, each in self._group_numbers.items() if each == number)
        return next(known, f"grp{number}_")

    def owners(self) -> list[Host | Switch]:
        """Who has interfaces: hosts and switches."""
        return [*self.hosts.values(), *self.switches.values()]

    def place(self, name: str) -> Ifnet | Wire:
        """The NIC (``alice:em0``) or the wire (``cable0``) of that name. Raises ``LabError`` with those that there are."""
        __tracebackhide__ = True
        with self.lock:
            whose, _, nic = str(name).partition(":")
            owner = self.hosts.get(whose, self.switches.get(whose))
            ifp = owner.vnet.ifunit(nic) if owner is not None else None
            found = ifp or self.wires.get(name)
            if found is None:
                nics = [f"{who.name}:{ifp.if_xname}" for who in self.owners() for ifp in who.vnet.ifnets()]
                there = ", ".join([*nics, *self.wires]) or "none"
                raise LabError(f"{self.name} has no NIC or wire {name!r}; there are {there}")
            return found

    def tap(self, *places: Ifnet | Wire | Host | Switch | str, **options: Any) -> Sniffer:
        """Listen on NICs and wires from this moment on; see ``Sniffer``. A host stands for all its NICs.

        ::

            with lab.tap(em0, filter="tcp port 80") as sniffer:
                ...
                for packet in sniffer.packets(): ...
        """
        from iflab.bpf import Sniffer

        self.check_open()
        sniffer = Sniffer(*self._places(places), **options)
        with self.lock:
            self._sniffers = [each for each in self._sniffers if not each.closed]
            self._sniffers.append(sniffer)
        return sniffer

    def sniff(self, *places: Ifnet | Wire | Host | Switch | str, filter: Any = None, **options: Any) -> Any:
        """scapy's ``sniff`` on NICs and wires: ``count``, ``timeout``, ``prn``, ``lfilter``, ``stop_filter`` …

        Returns scapy's ``PacketList``. ``iface`` names places, too. Options of
        ``Sniffer`` (``direction``, ``before_filter``, ``promisc``, ``snaplen``, ``limit``)
        are taken as well.
        """
        more = options.pop("iface", None) or ()
        own = {
            name: options.pop(name)
            for name in ("direction", "before_filter", "promisc", "snaplen", "limit", "budget")
            if name in options
        }
        unknown = sorted(options.keys() - _SNIFF_OPTIONS)
        if unknown:
            raise TypeError(
                f"sniff() knows no option {unknown[0]!r}; it takes {', '.join(sorted(_SNIFF_OPTIONS))}"
            )
        everywhere = (*places, *(more if isinstance(more, (list, tuple)) else (more,)))
        with self.tap(*everywhere, filter=filter, **own) as sniffer:
            return sniffer.sniff(**options)

    def capture(
        self,
        path: str | os.PathLike[str] | BinaryIO,
        *places: Ifnet | Wire | Host | Switch | str,
        filter: str | None = None,
        snaplen: int | None = None,
        whole: bool = False,
    ) -> Capture:
        """Write what passes to a file: on these NICs and wires, or on every wire, also on those made later.

        ``.pcap`` in its name makes plain pcap, all else pcapng, with the cause at
        every frame that was lost, and what happened in the lab, as comments. See
        ``Capture`` for the rest. Raises ``OSError``, ``FilterError``, ``TypeError`` for what is no place or no filter.
        """
        from iflab.capture import SNAPLEN, Capture

        self.check_open()
        things = self._places(places)
        capture = Capture(
            path,
            f"iflab: {self.name}, seed {self.seed}",
            filter=filter,
            snaplen=SNAPLEN if snaplen is None else snaplen,
            whole=whole,
        )
        with self.lock:
            for thing in things or self.wires.values():
                if isinstance(thing, Wire):
                    capture.listen(thing)
                else:
                    capture.listen_nic(thing)
            self._captures = [each for each in self._captures if not each.closed]
            self._captures.append(capture)
            self._capturing_all = [each for each in self._capturing_all if not each.closed]
            if not things:
                self._capturing_all.append(capture)
            capture.on_close(self._tell_of_faults(capture.struck))
        return capture

    def _tell_of_faults(self, fn: Callable[[Struck | NicStruck], None]) -> Callable[[], None]:
        """Call ``fn`` whenever a fault of a cable or of a NIC strikes a frame; returns what ends that."""

        def of_nic(struck: NicStruck) -> None:
            if struck.frame is not None:
                fn(struck)

        def end() -> None:
            faults.listeners.remove(fn)
            faults.nic_listeners.remove(of_nic)

        faults = self.faults
        faults.listeners.append(fn)
        faults.nic_listeners.append(of_nic)
        return end

    def _nic_struck(self, struck: NicStruck) -> None:
        """A fault of a NIC that strikes no single frame is worth telling; of a frame its comment tells."""
        if struck.frame is None:
            self._say(str(struck), struck.nic.ifp, "fault")

    def report(self, path: str | os.PathLike[str] | None = None) -> ReportRecorder:
        """Record for a report what happens from now on, on all wires, also on those made later.

        ``recorder.write("report.html")`` writes it at any time, also after the lab's end.
        In a ``with`` block the report goes to ``path`` at its end. Raises ``OSError`` where none can be
        written, and ``ReportError`` without the extra ``report``.
        """
        from iflab.report import Recorder as ReportRecorder
        from iflab.report import check_libraries

        self.check_open()
        if path is not None:
            check_libraries()
            check_place(path)
        recorder = ReportRecorder(self, path)
        with self.lock:
            for wire in self.wires.values():
                recorder.listen(wire)
            self._reports = [each for each in self._reports if not each.stopped]
            self._reports.append(recorder)
            recorder.on_stop(self._tell_of_faults(recorder.struck))
        return recorder

    def _places(self, places: Iterable[Ifnet | Wire | Host | Switch | str]) -> list[Any]:
        """NICs and wires as they are given; a host or a switch stands for its NICs."""
        things: list[Any] = []
        for place in places:
            if isinstance(place, (Host, Switch)):
                things += [ifp for ifp in place.vnet.ifnets() if isinstance(ifp.if_softc, TapNic)]
            elif isinstance(place, (Ifnet, Wire)):
                things.append(place)
            elif isinstance(place, str):
                things.append(self.place(place))
            else:
                raise TypeError(f"{place!r} is neither a NIC nor a wire")
        return things

    # what the kernel's events do here

    @staticmethod
    def _stack_of(ifp: Ifnet) -> LinuxStack | None:
        stack = ifp.stack
        return stack if isinstance(stack, LinuxStack) and isinstance(ifp.if_softc, TapNic) else None

    def _arrived(self, ifp: Ifnet) -> None:
        stack = self._stack_of(ifp)
        if (
            stack is not None and stack.interface(ifp.if_softc.tap.ifindex) is not ifp
        ):  # else it has a new name
            stack.attached(ifp)

    def _departed(self, ifp: Ifnet) -> None:
        nic = ifp.if_softc
        if isinstance(ifp.if_driver, DeadDriver) and isinstance(nic, TapNic):
            if nic.end is not None or nic.tap.fd >= 0:
                TapNic.if_detached(nic, ifp)  # a derived class's own failed before it came to that
            self.faults.forget(nic)  # gone for good, not moved or renamed
            self._sniffers = [each for each in self._sniffers if not each.closed]  # they may know it
        stack = self._stack_of(ifp)
        if stack is not None and is_leaving(ifp):
            stack.detached(ifp)

    def _link_changed(self, ifp: Ifnet, state: LinkState) -> None:
        self.log(f"{getattr(ifp.if_softc, 'name', ifp.if_xname)}: link {state.name.lower()}", ifp)

    def _groups_changed(self, name: str) -> None:
        if name in (IFG_ALL, ""):
            return  # that says nothing about one interface
        here = self.kernel.curvnet
        for vnet in self.kernel.vnets if here is None else (here,):
            if isinstance(vnet.stack, LinuxStack):
                for ifp in vnet.stack.interfaces():
                    vnet.stack.push_group_number(ifp)

    # interfaces made by name

    def _clone_tap(self, vnet: Vnet, name: str, unit: int, params: Any) -> Ifnet:
        """``ifconfig tap create``: a NIC without a cable."""
        stack = vnet.stack
        if not isinstance(stack, LinuxStack):
            raise OSError(errno.EOPNOTSUPP, f"{vnet.name} is no host: it has no Linux above its interfaces")
        nic = TapNic()
        nic.closer = self.close_tap
        return nic.attach(vnet, stack.netns, self.engine, name, self.next_mac())

    def _unclone(self, ifp: Ifnet) -> None:
        ifp.if_detach()
        ifp.if_free()

    # the end

    def close_tap(self, tap: Tap) -> None:
        """Close a TAP without waiting for the kernel."""
        fd, tap.fd = tap.fd, -1
        closer = threading.Thread(target=os.close, args=(fd,), name=f"{self.name}-closer", daemon=True)
        self._closers = [thread for thread in self._closers if thread.is_alive()]
        self._closers.append(closer)
        closer.start()

    def wait_for_closers(self) -> None:
        """Wait until the devices of detached NICs are gone, so that their names are free."""
        for closer in self._closers:
            closer.join()

    def close(self) -> None:
        """End everything: programs, wires, NICs, hosts. Safe to call twice, and from any thread but the engine's."""
        if self._closed:
            return
        self.check_may_wait("closing the lab")
        self._closed = True
        with contextlib.ExitStack() as rest:  # whatever fails, the rest is taken down too, last line first
            rest.callback(self._home.close)
            for host in self.hosts.values():
                rest.callback(host.netns.close)
            rest.callback(self._listener.close)
            rest.callback(self.faults.close)
            for capture in self._captures:
                rest.callback(capture.close)
            rest.callback(self.engine.stop)
            rest.callback(self.wait_for_closers)
            rest.callback(self._take_down)
            for recorder in self._reports:
                rest.callback(recorder.stop)
            rest.callback(self.keeper.close)
            for host in self.hosts.values():
                for server in host.servers:
                    rest.callback(server.close)
            rest.callback(self._schedule.cancel)
            if self._control is not None:
                rest.callback(self._control.close)

    def _take_down(self) -> None:
        """Detach and close all that has a device."""
        fds: list[int] = []
        self._told = time.monotonic()
        try:
            with self.lock, contextlib.ExitStack() as rest:
                rest.callback(self._detach_all)
                rest.callback(lambda: fds.extend(self._take_fds()))
                closing: list[Any] = [*self.wires.values(), *self._stations, *self._sniffers]
                for each in closing:
                    rest.callback(each.close)
        finally:
            with ThreadPoolExecutor(min(CLOSERS, len(fds)) or 1, f"{self.name}-closer") as pool:
                for gone, _ in enumerate(pool.map(os.close, fds), start=1):
                    self._tell_now_and_then(f"taking down: {gone} of {len(fds)} devices are gone")

    def _take_fds(self) -> list[int]:
        """The file descriptors of all devices, which are not the NICs' any more."""
        fds = []
        for vnet in list(self.kernel.vnets):
            if isinstance(vnet.stack, LinuxStack):
                vnet.stack.closing = True
            for ifp in vnet.ifnets():
                nic = ifp.if_softc
                if isinstance(nic, TapNic) and nic.tap.fd >= 0:
                    self.engine.remove_reader(nic.tap.fd)
                    fds.append(nic.tap.fd)
                    nic.tap.fd = -1
        return fds

    def _detach_all(self) -> None:
        """Detach and free every interface.

        The devices go with them, so the kernel need not be asked to take off
        addresses one by one.
        """
        vnets = list(self.kernel.vnets)
        for gone, vnet in enumerate(vnets):
            self._tell_now_and_then(f"taking down: {len(vnets) - gone} hosts are left")
            for ifp in vnet.ifnets():
                ifp.if_detach()
                ifp.if_free()
        for vnet in vnets:
            self.kernel.vnet_destroy(vnet)


def _check_still_in(own: Netns) -> None:
    with Netns.current() as now:
        if now.inode != own.inode:
            raise Missing(
                "an ordinary user's lab is cut off from the machine's own network; run as root for host_network=True"
            )
