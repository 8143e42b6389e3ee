"""The world that scripts act on: a kernel whose driver, stack and hooks only record.

Everything that the interface layer calls, logs or announces becomes a line of
``World.trace``, in the order in which it happens.
"""

from __future__ import annotations

import errno
from typing import Any

from iflab.net import (
    IFF,
    IFT,
    PKTHDR,
    PRC,
    RTF,
    RTM,
    AddressFamily,
    Arpcom,
    Domain,
    Driver,
    Ifaddr,
    Ifnet,
    Ifqueue,
    Kernel,
    LinkState,
    Rtentry,
    Stack,
    Thread,
    errno_name,
    ether_resolvemulti,
    flag_names,
)
from iflab.net.rtsock import AddrMessage, Announcement, DevctlNotice, IfMessage, MaddrMessage

TYPES = {
    "ether": IFT.ETHER,
    "loop": IFT.LOOP,
    "l2vlan": IFT.L2VLAN,
    "bridge": IFT.BRIDGE,
    "lagg": IFT.IEEE8023ADLAG,
    "tunnel": IFT.TUNNEL,
}
FLAGS = {name: bit for name, bit in vars(IFF).items() if not name.startswith("_")}
FIBS = 2


def flags_text(flags: int) -> str:
    """Names joined by ``|``; ``-`` for none."""
    return "|".join(flag_names(flags)) or "-"


def flags_value(text: str) -> int:
    """The other way round."""
    return 0 if text == "-" else sum(FLAGS[name] for name in text.split("|"))


class SilentDriver(Driver):
    """The recording driver while it has no ``if_ioctl``."""

    def __init__(self, world: World, ethernet: bool) -> None:
        self.world = world
        self.resolve = ethernet
        self.drains = True
        self.reassigns = False
        self.fails: dict[str, int] = {}

    def if_start(self, ifp: Ifnet) -> None:
        sent = 0
        while self.drains and ifp.if_snd.dequeue() is not None:
            sent += 1
        self.world.say(f"drv_start {ifp.if_xname} sent={sent}")

    def if_resolvemulti(self, ifp, sa):
        return ether_resolvemulti(ifp, sa) if self.resolve else None

    def if_reassign(self, ifp, new_vnet):
        if self.reassigns:
            self.world.say(f"drv_reassign {ifp.if_xname} vnet{new_vnet.prison.pr_id}")

    def if_detached(self, ifp: Ifnet) -> None:
        self.world.say(f"if_dead {ifp.if_xname}")
        ifp.if_driver.if_detached = self.if_detached  # type: ignore[method-assign] # said again after another attach

    def own_transmit(self, ifp: Ifnet, m: bytes) -> int:
        self.world.say(f"drv_transmit {ifp.if_xname} len={len(m) - PKTHDR}")
        return 0

    def own_qflush(self, ifp: Ifnet) -> None:
        self.world.say(f"drv_qflush {ifp.if_xname}")


class RecordingDriver(SilentDriver):
    """The recording driver with its ``if_ioctl``, which obeys MTU and capabilities."""

    def if_ioctl(self, ifp: Ifnet, cmd: str, data: Any) -> None:
        flags = f" flags={flags_text(data.ifr_flags)}" if cmd == "SIOCSIFFLAGS" else ""
        code = self.fails.get(cmd, 0)
        self.world.say(f"drv_ioctl {ifp.if_xname} {cmd}{flags}" + (f" -> {errno_name(code)}" if code else ""))
        if code:
            raise OSError(code, cmd)
        if cmd == "SIOCSIFMTU":
            ifp.if_mtu = data.ifr_mtu
        elif cmd == "SIOCSIFCAP":
            ifp.if_capenable = data.ifr_reqcap


class RecordingStack(Stack):
    """Protocols that record, with one routing table for all vnets."""

    rt_numfibs = FIBS

    def __init__(self, world: World) -> None:
        self.world = world

    def pfctlinput(self, cmd, sa):
        self.world.say(f"pfctlinput {'ifdown' if cmd is PRC.IFDOWN else 'ifup'} {sa}")

    def in_control(self, cmd: str, ifa: Ifaddr, ifp: Ifnet) -> None:
        fails = self.world.in_control_fails
        self.world.say(f"in_control {cmd} {ifp.if_xname} {ifa.ifa_addr}" + (" fails" if fails else ""))
        if fails:
            raise OSError(errno.EADDRNOTAVAIL, cmd)
        ifp.ifa_remove(ifa)

    def in6_purgeaddr(self, ifa: Ifaddr) -> None:
        assert ifa.ifa_ifp is not None
        self.world.say(f"in6_purgeaddr {ifa.ifa_ifp.if_xname} {ifa.ifa_addr}")
        ifa.ifa_ifp.ifa_remove(ifa)

    def in_ifdetach(self, ifp):
        self.world.say(f"in_ifdetach {ifp.if_xname}")

    def in6_ifdetach(self, ifp):
        self.world.say(f"in6_ifdetach {ifp.if_xname}")

    def in6_if_up(self, ifp):
        self.world.say(f"in6_if_up {ifp.if_xname}")

    def nd6_setmtu(self, ifp):
        self.world.say(f"nd6_setmtu {ifp.if_xname} {ifp.if_mtu}")

    def arp_ifinit(self, ifp, ifa):
        self.world.say(f"arp_ifinit {ifp.if_xname} {ifa.ifa_addr}")

    def pru_control(self, cmd: str, data: Any, ifp: Ifnet, td: Thread) -> None:
        code = self.world.proto_error
        self.world.say(f"pru_control {cmd} {ifp.if_xname} -> {errno_name(code)}")
        if code:
            raise OSError(code, cmd)
        if self.world.proto_ups:
            ifp.if_flags |= IFF.UP

    # routes

    def _find(self, dst: Any, fib: int) -> Rtentry | None:
        return next(
            (rt for rt in self.world.routes if str(rt.rt_key) == str(dst) and rt.rt_fibnum == fib), None
        )

    def rt_walktree(self, family: AddressFamily, fib: int):
        return [rt for rt in self.world.routes if rt.rt_key.family is family and rt.rt_fibnum == fib]

    def rtrequest_fib(self, cmd: RTM, rt: Rtentry, fib: int) -> None:
        self.world.say(f"rtrequest delete {rt.rt_key} fib {fib}")
        self.world.routes.remove(rt)

    def rtrequest1_fib(self, cmd, info, fib):
        adds = cmd is RTM.ADD
        self.world.say(f"rtrequest1 {'add' if adds else 'delete'} {info.rti_dst} fib {fib}")
        found = self._find(info.rti_dst, fib)
        if adds:
            if found is not None:
                raise OSError(errno.EEXIST, "route")
            rt = Rtentry(
                info.rti_dst,
                rt_gateway=info.rti_gateway,
                rt_flags=info.rti_flags | RTF.UP,
                rt_ifp=info.rti_ifp,
                rt_fibnum=fib,
            )
            self.world.routes.append(rt)
            return rt
        if found is None:
            raise OSError(errno.ESRCH, "route")
        self.world.routes.remove(found)
        return None

    def rtalloc1_fib(self, sa, fib):
        return self._find(sa, fib)


class RecordingCloners:
    """Cloning by name; a name that begins with ``bad`` is refused."""

    def __init__(self, world: World) -> None:
        self.world = world

    def if_clone_create(self, vnet, name: str, params: Any = None) -> str:
        self.world.say(f"if_clone_create {name}" + (" params" if params is not None else ""))
        if name.startswith("bad"):
            raise OSError(errno.EINVAL, name)
        return name

    def if_clone_destroy(self, vnet, name: str) -> None:
        self.world.say(f"if_clone_destroy {name}")
        if name.startswith("bad"):
            raise OSError(errno.ENXIO, name)

    def if_clone_list(self, vnet) -> list[str]:
        self.world.say("if_clone_list")
        return []


class World:
    """Three vnets, the caller in the first; see README.md for all that holds at the start."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.handles: dict[str, Ifnet | None] = {}
        self.routes: list[Rtentry] = []
        self.denied: set[str] = set()
        self.fault = False
        self.in_control_fails = False
        self.proto_error = errno.EOPNOTSUPP
        self.proto_ups = False
        self.has_proto = True
        self.com_fails = False
        self.orphans: dict[tuple[str, str], Any] = {}
        self.input_queue = Ifqueue(3)
        self.kernel = kernel = Kernel()
        self.vnets = [
            kernel.vnet_alloc(f"vnet{n}", RecordingStack(self), is_default=n == 0) for n in range(3)
        ]
        self.vnet = self.vnets[0]
        kernel.cloners = RecordingCloners(self)  # type: ignore[assignment]
        kernel.hooks.carp_master_p = lambda ifa: ifa.ifa_carp == "master"
        for family in (AddressFamily.INET, AddressFamily.INET6):
            kernel.domains.append(self._domain(family.name.lower(), family))
        for kind in (IFT.ETHER, IFT.L2VLAN):
            self.register_com(kind, aloud=False)
        for event in ("ifnet_arrival_event", "ifnet_departure_event", "iflladdr_event"):
            self._listen(event, lambda ifp: ifp.if_xname)
        self._listen("ifnet_link_event", lambda ifp, state: f"{ifp.if_xname} {LinkState(state).name.lower()}")
        self._listen("group_attach_event", lambda group: group.ifg_group)
        self._listen("group_detach_event", lambda group: group.ifg_group)
        self._listen("group_change_event", lambda name: name)
        kernel.rtsock.listen(self._routing_message)
        kernel.devctl.listen(self._devctl)
        kernel.console.listeners.append(self._console)

    def say(self, line: str) -> None:
        self.trace.append(line)

    def thread(self) -> Thread:
        return Thread(self.vnet.prison, lambda priv: str(priv) not in self.denied)

    def _listen(self, event: str, words: Any) -> None:
        self.kernel.events.register(event, lambda *args: self.say(f"event {event} {words(*args)}".rstrip()))

    def _domain(self, name: str, family: AddressFamily) -> Domain:
        def attach(ifp: Ifnet) -> str:
            self.say(f"dom_ifattach {name} {ifp.if_xname}")
            return name

        return Domain(name, family, attach, lambda ifp, data: self.say(f"dom_ifdetach {name} {ifp.if_xname}"))

    def register_com(self, kind: int, aloud: bool) -> None:
        def alloc(iftype: int, ifp: Ifnet) -> Any:
            if aloud:
                self.say(f"com_alloc {int(iftype)}")
            return None if self.com_fails else Arpcom(ifp)

        def free(l2com: Any, iftype: int) -> None:
            if aloud:
                self.say(f"com_free {int(iftype)}")

        self.kernel.if_register_com_alloc(kind, alloc, free)

    def _routing_message(self, message: Any) -> None:
        match message:
            case IfMessage():
                link = message.link_state.name.lower()
                self.say(f"rt_ifmsg {message.name} flags={flags_text(message.flags)} link={link}")
            case Announcement():
                self.say(f"rt_ifannouncemsg {message.name} {'arrival' if message.arrival else 'departure'}")
            case MaddrMessage():
                self.say(f"rt_newmaddrmsg {'add' if message.new else 'del'} {message.name} {message.address}")
            case AddrMessage():
                raise AssertionError("the recording stack announces no addresses")

    def _devctl(self, notice: DevctlNotice) -> None:
        self.say(f"devctl {notice.system} {notice.subsystem} {notice.type}")

    def _console(self, level: str, text: str) -> None:
        self.say(f"printf {text}" if level == "printf" else f"log {level} {text}")
