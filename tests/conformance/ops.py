"""The ops of the language, one small function each; ``README.md`` says what each does."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from iflab.net import (
    ENOIOCTL,
    IFF,
    RTF,
    RTM,
    Ifaddr,
    Ifconf,
    Ifgroupreq,
    Ifnet,
    Ifreq,
    KernelPanic,
    LinkState,
    Rtentry,
    SockaddrDl,
    Socket,
    UserBuffer,
    as_sockaddr,
    errno_name,
    if_attachdomain,
    if_delmulti_ifma,
    if_handoff,
    ifa_add_loopback_route,
    ifa_del_loopback_route,
    ifa_switch_loopback_route,
    ifioctl,
    link_rtrequest,
    lladdr,
    mbuf,
)
from iflab.net.driver import DeadDriver

from .world import TYPES, RecordingDriver, SilentDriver, World, flags_text, flags_value

Op = Callable[..., Any]
OPS: dict[str, Op] = {}
WITH_ERRNO = set()


def op(fn: Op) -> Op:
    OPS[fn.__name__.rstrip("_")] = fn
    return fn


def op_errno(fn: Op) -> Op:
    WITH_ERRNO.add(fn.__name__.rstrip("_"))
    return op(fn)


class ScriptError(Exception):
    """A line that is no op of the language; ``line`` is its number."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


class Failed(Exception):
    """An op that answers an errno and a result all the same."""

    def __init__(self, code: int, result: Any) -> None:
        super().__init__(code)
        self.code = code
        self.result = result


def run_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Run a script in a fresh world; give a row an op. Raises ``ScriptError`` at a line that is none."""
    world = World()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                yield run_op(world, text)
            except ScriptError as error:
                raise ScriptError(f"{text!r}: {error}", number) from error


def run_op(world: World, text: str) -> dict[str, Any]:
    """Run one op and tell what came of it."""
    name, *words = text.split()
    if name not in OPS:
        raise ScriptError(f"no op is called {name!r}")
    try:
        inspect.signature(OPS[name]).bind(world, *words)
    except TypeError as error:
        raise ScriptError(f"{name}: {error}") from None
    world.trace = []
    row: dict[str, Any] = {"op": text}
    code, result = 0, None
    try:
        with world.kernel.curvnet_set(world.vnet):
            result = OPS[name](world, *words)
    except KernelPanic as panic:
        return row | {"panic": panic.message, "trace": world.trace}
    except Failed as failed:
        code, result = failed.code, failed.result
    except OSError as error:
        code = error.errno or 0
    except (ValueError, LookupError) as error:  # a number, a type or a flag that is none
        raise ScriptError(f"{type(error).__name__}: {error}") from error
    if name in WITH_ERRNO:
        row["errno"] = errno_name(code)
    return row | {"result": result, "trace": world.trace}


def handle(world: World, h: str) -> Ifnet:
    if h not in world.handles:
        raise ScriptError(f"there is no interface {h}")
    ifp = world.handles[h]
    if ifp is None:
        raise OSError(errno.ENXIO, f"{h} could not be allocated")
    return ifp


def find_ifa(world: World, h: str, address: str) -> Ifaddr:
    wanted = str(as_sockaddr(address))
    for ifa in handle(world, h).if_addrhead:
        if str(ifa.ifa_addr) == wanted:
            return ifa
    raise OSError(errno.EADDRNOTAVAIL, f"{h} has no address {address}")


def shown(ifa: Ifaddr | None) -> str | None:
    """What a look-up found; its reference is given back."""
    if ifa is None:
        return None
    assert ifa.ifa_ifp is not None
    text = f"{ifa.ifa_ifp.if_xname} {ifa.ifa_addr}"
    ifa.ifa_free()
    return text


def name_of(ifp: Ifnet | None) -> str | None:
    return ifp.if_xname if ifp is not None else None


def u_short(text: str) -> int:
    return int(text) & 0xFFFF


def errno_value(name: str) -> int:
    code = ENOIOCTL if name == "ENOIOCTL" else getattr(errno, name, None)
    if code is None:
        raise ScriptError(f"no errno is called {name!r}")
    return code


# the world


@op
def vnet(world: World, number: str) -> None:
    world.vnet = world.vnets[int(number)]


@op
def domains(world: World, number: str) -> None:
    world.kernel.domain_init_status = int(number)


@op
def attachdomain(world: World) -> None:
    if_attachdomain(world.vnet)


@op
def priv(world: World, what: str, name: str) -> None:
    (world.denied.add if what == "deny" else world.denied.discard)(name)


@op
def efault(world: World, state: str) -> None:
    world.fault = state == "on"


@op
def in_control(world: World, state: str) -> None:
    world.in_control_fails = state == "fails"


@op
def proto(world: World, answer: str) -> None:
    world.has_proto = answer != "none"
    world.proto_ups = answer == "up"
    world.proto_error = 0 if answer in ("ok", "up", "none") else errno_value(answer)


@op
def sysctl(world: World, name: str, value: str) -> None:
    full = "net.ifdescr_maxlen" if name == "ifdescr_maxlen" else f"net.link.{name}"
    setting = world.kernel.sysctl.find(full)
    setting.value = (
        int(value) % 2**32 if name == "ifdescr_maxlen" else int(value)
    )  # as the C variable, unchecked


@op
def com(world: World, what: str, kind: str = "") -> None:
    if what in ("fail", "ok"):
        world.com_fails = what == "fail"
    elif what == "register":
        world.register_com(TYPES[kind], aloud=True)
    else:
        world.kernel.if_deregister_com_alloc(TYPES[kind])


@op
def carp_ioctl(world: World, state: str) -> None:
    def answer(data: Any, cmd: str, td: Any) -> None:
        world.say(f"carp_ioctl {cmd} {data.ifr_name}")

    world.kernel.hooks.carp_ioctl_p = answer if state == "on" else None


@op
def hook(world: World, kind: str, h: str, state: str) -> None:
    ifp, hooks, device = handle(world, h), world.kernel.hooks, object() if state == "on" else None
    match kind:
        case "bridge":
            ifp.if_bridge = device
            hooks.bridge_linkstate_p = lambda ifp: world.say(f"hook bridge_linkstate {ifp.if_xname}")
        case "lagg":
            ifp.if_lagg = device
            hooks.lagg_linkstate_p = lambda ifp, s: world.say(
                f"hook lagg_linkstate {ifp.if_xname} {link_word(s)}"
            )
        case "carp":
            ifp.if_carp = device
            hooks.carp_linkstate_p = lambda ifp: world.say(f"hook carp_linkstate {ifp.if_xname}")
        case "vlan":
            ifp.if_vlantrunk = device
            hooks.vlan_link_state_p = lambda ifp: world.say(f"hook vlan_link_state {ifp.if_xname}")
        case "netgraph":
            if ifp.if_l2com is not None:
                ifp.if_l2com.ac_netgraph = device
            hooks.ng_ether_link_state_p = lambda ifp, s: world.say(
                f"hook ng_ether_link_state {ifp.if_xname} {link_word(s)}"
            )


def link_word(state: int) -> str:
    return LinkState(state).name.lower()


# interfaces


@op
def alloc(world: World, h: str, kind: str, name: str, unit: str) -> int:
    world.handles[h] = None
    ifp = world.handles[h] = world.vnet.if_alloc(TYPES[kind])
    ifp.if_initname(name, None if unit == "-" else int(unit))
    ethernet = kind not in ("loop", "tunnel")
    ifp.if_flags = {
        "loop": IFF.LOOPBACK | IFF.MULTICAST,
        "tunnel": IFF.POINTOPOINT | IFF.MULTICAST,
    }.get(kind, IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST)
    ifp.if_mtu = 1500
    ifp.if_capabilities = 15
    ifp.if_addrlen = 6 if ethernet else 0
    ifp.if_driver = RecordingDriver(world, ethernet)
    ifp.bind_driver()
    return ifp.if_index


@op
def attach(world: World, h: str, mac: str = "") -> None:
    ifp = handle(world, h)
    ifp.if_attach()
    sdl = ifp.link_sockaddr()
    sdl.sdl_type = ifp.if_type
    if mac:
        sdl.sdl_lladdr = lladdr(mac).sdl_lladdr
    if ifp.if_type == TYPES["loop"]:
        world.vnet.v_loif = ifp


@op
def detach(world: World, h: str) -> None:
    handle(world, h).if_detach()


@op
def free(world: World, h: str) -> None:
    handle(world, h).if_free()


@op
def ref(world: World, h: str) -> int:
    return handle(world, h).if_ref()


@op
def rele(world: World, h: str) -> None:
    handle(world, h).if_rele()


@op
def up(world: World, h: str) -> None:
    handle(world, h).if_up()


@op
def down(world: World, h: str) -> None:
    handle(world, h).if_down()


@op
def start(world: World, h: str) -> None:
    handle(world, h).if_start()


@op
def driver(world: World, h: str, what: str, *words: str) -> None:
    ifp = handle(world, h)
    below: Any = ifp.if_driver
    if isinstance(below, DeadDriver):  # the one that it was; nothing reaches it any more
        below = RecordingDriver(world, ethernet=False)
    on = words[0] == "on"
    match what:
        case "ioctl":
            below.__class__ = SilentDriver if words[0] == "none" else RecordingDriver
            below.fails = {words[1]: errno_value(words[2])} if words[0] == "fail" else {}
        case "start":
            below.drains = words[0] == "drain"
        case "oactive":
            ifp.if_drv_flags = ifp.if_drv_flags | IFF.OACTIVE if on else ifp.if_drv_flags & ~IFF.OACTIVE
        case "running":
            ifp.if_drv_flags = ifp.if_drv_flags | IFF.RUNNING if on else ifp.if_drv_flags & ~IFF.RUNNING
        case "multicast":
            ifp.if_flags = ifp.if_flags | IFF.MULTICAST if on else ifp.if_flags & ~IFF.MULTICAST
        case "resolvemulti":
            below.resolve = words[0] == "ether"
        case "reassign":
            below.reassigns = on
        case "maxlen":
            ifp.if_snd.ifq_maxlen = int(words[0])
        case "transmit":
            below.if_transmit = below.own_transmit
            below.if_qflush = below.own_qflush if words[0] == "own" else None
            ifp.bind_driver()
        case _:
            raise ScriptError(f"a driver has no {what!r}")


@op
def initname(world: World, h: str, name: str, unit: str) -> str:
    return handle(world, h).if_initname(name, None if unit == "-" else int(unit))


@op
def printf(world: World, h: str, word: str) -> int:
    return handle(world, h).if_printf(f"{word}\n")


@op
def vmove(world: World, h: str, number: str) -> None:
    handle(world, h).if_vmove(world.vnets[int(number)])


@op
def vnet_uninit(world: World) -> None:
    world.vnet.vnet_if_uninit()


@op
def linkstate(world: World, h: str, state: str) -> None:
    handle(world, h).if_link_state_change(LinkState[state.upper()])


@op
def run_tasks(world: World) -> None:
    world.kernel.taskqueue_swi.run()


# flags, groups, multicast


@op_errno
def promisc(world: World, h: str, on: str) -> None:
    handle(world, h).ifpromisc(int(on))


@op_errno
def allmulti(world: World, h: str, on: str) -> None:
    handle(world, h).if_allmulti(int(on))


@op_errno
def addgroup(world: World, h: str, group: str) -> None:
    handle(world, h).if_addgroup(group)


@op_errno
def delgroup(world: World, h: str, group: str) -> None:
    handle(world, h).if_delgroup(group)


@op_errno
def addmulti(world: World, h: str, address: str) -> int:
    ifma = handle(world, h).if_addmulti(address)
    world.orphans[h, address] = ifma
    return ifma.ifma_refcount


@op_errno
def delmulti(world: World, h: str, address: str) -> None:
    handle(world, h).if_delmulti(address)


@op
def delallmulti(world: World, h: str) -> None:
    handle(world, h).if_delallmulti()


@op
def delmulti_ifma(world: World, h: str, address: str) -> None:
    """By the membership itself: the one on the list, else the one that a holder kept when the list lost it."""
    ifma = handle(world, h).if_findmulti(address) or world.orphans.get((h, address))
    if ifma is not None and ifma.ifma_refcount:
        if_delmulti_ifma(ifma)


@op_errno
def setlladdr(world: World, h: str, mac: str) -> None:
    handle(world, h).if_setlladdr(lladdr(mac).sdl_lladdr)


# frames


def frame_of_length(length: int, kind: str) -> bytes:
    destination = {"bcast": b"\xff" * 6, "mcast": b"\x01\x00\x5e\x00\x00\x01"}.get(kind, b"\x02" + bytes(5))
    return mbuf((destination + bytes(length))[:length])


@op_errno
def transmit(world: World, h: str, length: str, kind: str = "") -> Any:
    ifp = handle(world, h)
    code = ifp.transmit_mbuf(frame_of_length(int(length), kind))
    raise Failed(code, {"queued": ifp.if_snd.ifq_len, "drops": ifp.if_snd.ifq_drops})


@op
def handoff(world: World, h: str, length: str, adjust: str, kind: str = "") -> int:
    ifp = handle(world, h)
    return int(if_handoff(ifp.if_snd, frame_of_length(int(length), kind), ifp, int(adjust)))


@op
def handoff_input(world: World, length: str) -> dict[str, int]:
    queue = world.input_queue
    accepted = if_handoff(queue, frame_of_length(int(length), ""), None)
    return {"accepted": int(accepted), "len": queue.ifq_len, "drops": queue.ifq_drops}


@op
def qflush(world: World, h: str) -> dict[str, int]:
    ifp = handle(world, h)
    freed = ifp.if_qflush()
    return {"freed": freed, "queued": ifp.if_snd.ifq_len}


# addresses and routes


@op
def ifa_add(world: World, h: str, address: str, *parts: str) -> None:
    named = dict(zip(parts[::2], parts[1::2], strict=True))
    far = named.get("dst", named.get("brd"))
    handle(world, h).ifa_add(address, named.get("mask"), far)


@op
def ifa_del(world: World, h: str, address: str) -> None:
    handle(world, h).ifa_remove(find_ifa(world, h, address))


@op
def ifa_ref(world: World, h: str, address: str) -> int:
    return find_ifa(world, h, address).ifa_ref()


@op
def carp(world: World, h: str, address: str, state: str) -> None:
    find_ifa(world, h, address).ifa_carp = None if state == "none" else state


@op
def claim(world: World, h: str, address: str, answer: str) -> None:
    find_ifa(world, h, address).ifa_claim_addr = None if answer == "none" else lambda ifa, sa: answer == "yes"


@op
def ifwithaddr(world: World, address: str) -> str | None:
    return shown(world.vnet.ifa_ifwithaddr(address))


@op
def ifwithaddr_check(world: World, address: str) -> int:
    return int(world.vnet.ifa_ifwithaddr_check(address))


@op
def ifwithbroadaddr(world: World, address: str) -> str | None:
    return shown(world.vnet.ifa_ifwithbroadaddr(address))


@op
def ifwithdstaddr(world: World, address: str, fib: str) -> str | None:
    return shown(world.vnet.ifa_ifwithdstaddr(address, int(fib)))


@op
def ifwithnet(world: World, address: str, ignore_ptp: str, fib: str) -> str | None:
    return shown(world.vnet.ifa_ifwithnet(address, bool(int(ignore_ptp)), int(fib)))


@op
def ifaof(world: World, h: str, address: str) -> str | None:
    return shown(handle(world, h).ifaof_ifpforaddr(address))


@op
def ifaddr_byindex(world: World, index: str) -> str | None:
    return shown(world.vnet.ifaddr_byindex(u_short(index)))


@op
def byindex(world: World, index: str) -> str | None:
    return name_of(world.vnet.ifnet_byindex(u_short(index)))


@op
def byindex_ref(world: World, index: str) -> str | None:
    return name_of(world.vnet.ifnet_byindex_ref(u_short(index)))


@op
def ifunit(world: World, name: str) -> str | None:
    return name_of(world.vnet.ifunit(name))


@op
def ifunit_ref(world: World, name: str) -> str | None:
    return name_of(world.vnet.ifunit_ref(name))


@op
def route(world: World, h: str, destination: str, fib: str, state: str = "") -> None:
    flags = 0 if state == "down" else RTF.UP
    world.routes.append(
        Rtentry(as_sockaddr(destination), rt_flags=flags, rt_ifp=handle(world, h), rt_fibnum=int(fib))
    )


@op
def routes(world: World) -> list[str]:
    return [f"{rt.rt_key} fib {rt.rt_fibnum}" for rt in world.routes]


@op_errno
def loopback_route(world: World, what: str, h: str, address: str) -> None:
    ifa = find_ifa(world, h, address)
    if what == "switch":
        ifa_switch_loopback_route(ifa, ifa.ifa_addr, handle(world, h).if_fib)
    else:
        (ifa_add_loopback_route if what == "add" else ifa_del_loopback_route)(ifa, ifa.ifa_addr)


@op
def link_rtrequest_(world: World, h: str, destination: str, what: str) -> str | None:
    link = handle(world, h).if_addr
    if link is None:
        raise OSError(errno.ENXIO, f"{h} is not attached")
    link.ifa_ref()
    rt = Rtentry(as_sockaddr(destination), rt_ifp=handle(world, h), rt_ifa=link)
    link_rtrequest(RTM.ADD if what == "add" else RTM.DELETE, rt, None)
    return shown(rt.rt_ifa)


@op
def link_sdl(world: World, h: str, kind: str) -> dict[str, int]:
    sdl = handle(world, h).link_init_sdl(SockaddrDl(), TYPES[kind])
    return {"index": sdl.sdl_index, "type": int(sdl.sdl_type), "alen": sdl.sdl_alen}


# ioctls


@op_errno
def ioctl(world: World, cmd: str, name: str = "", argument: str = "") -> Any:
    request = make_request(world, cmd, name, argument)
    so = Socket(world.vnet, world.vnet.stack if world.has_proto else None)
    ifioctl(so, cmd, request, world.thread())
    return answer_of(cmd, request)


_NUMBERS = {
    "MTU": "ifr_mtu",
    "METRIC": "ifr_metric",
    "PHYS": "ifr_phys",
    "FIB": "ifr_fib",
    "CAP": "ifr_reqcap",
}


def make_request(world: World, cmd: str, name: str, argument: str) -> Any:
    if cmd == "SIOCGIFCONF":
        return Ifconf(int(name), UserBuffer(fault=world.fault))
    if cmd in ("SIOCAIFGROUP", "SIOCDIFGROUP"):
        return Ifgroupreq(name, ifgr_group=argument)
    if cmd in ("SIOCGIFGROUP", "SIOCGIFGMEMB"):
        return Ifgroupreq(name, ifgr_len=int(argument), ifgr_groups=UserBuffer(fault=world.fault))
    request = Ifreq(name, ifr_buffer=UserBuffer(fault=world.fault))
    if cmd == "SIOCSIFFLAGS":
        request.ifr_flags = flags_value(argument)
    elif cmd == "SIOCSIFDESCR":
        text = None if argument == "-" else argument
        if text is not None and text.startswith("!"):
            request.ifr_buffer.length = int(text[1:])
            request.ifr_buffer.data = "x" * int(text[1:])
        elif text is not None:
            request.ifr_buffer.length = len(text.encode()) + 1
            request.ifr_buffer.data = text
    elif cmd == "SIOCGIFDESCR":
        request.ifr_buffer.length = int(argument) % 2**64  # a size_t
    elif cmd == "SIOCSIFNAME":
        request.ifr_buffer.data = "" if argument == "''" else argument
    elif cmd in ("SIOCADDMULTI", "SIOCDELMULTI", "SIOCSIFLLADDR"):
        request.ifr_addr = as_sockaddr(argument)
    elif cmd in ("SIOCSIFVNET", "SIOCSIFRVNET"):
        request.ifr_jid = int(argument)
    elif cmd.startswith("SIOCSIF") and cmd[7:] in _NUMBERS:
        setattr(request, _NUMBERS[cmd[7:]], int(argument))
    elif cmd == "SIOCIFCREATE2":
        request.ifr_data = "params"
    return request


def answer_of(cmd: str, request: Any) -> Any:
    if cmd == "SIOCGIFCONF":
        entries = [f"{name} {address or '-'}" for name, address in request.ifc_req.data or []]
        return {"len": request.ifc_len, "entries": entries}
    if cmd in ("SIOCGIFGROUP", "SIOCGIFGMEMB"):
        return {"len": request.ifgr_len, "names": request.ifgr_groups.data or []}
    if cmd == "SIOCGIFDESCR":
        return {"len": request.ifr_buffer.length, "text": request.ifr_buffer.data}
    if cmd == "SIOCGIFFLAGS":
        return flags_text(request.ifr_flags)
    if cmd == "SIOCGIFCAP":
        return [request.ifr_reqcap, request.ifr_curcap]
    if cmd == "SIOCGIFINDEX":
        return request.ifr_index
    if cmd in ("SIOCSIFVNET", "SIOCSIFRVNET"):
        return request.ifr_name
    if cmd.startswith("SIOCGIF") and cmd[7:] in _NUMBERS:
        return getattr(request, _NUMBERS[cmd[7:]])
    return None


# looking


@op
def dump(world: World, h: str) -> dict[str, Any]:
    ifp = handle(world, h)
    return {
        "xname": ifp.if_xname,
        "index": ifp.if_index,
        "refcount": ifp.if_refcount,
        "flags": flags_text(ifp.if_flags),
        "drv_flags": flags_text(ifp.if_drv_flags),
        "pcount": ifp.if_pcount,
        "amcount": ifp.if_amcount,
        "link_state": link_word(ifp.if_link_state),
        "mtu": ifp.if_mtu,
        "metric": ifp.if_metric,
        "fib": ifp.if_fib,
        "capabilities": ifp.if_capabilities,
        "capenable": ifp.if_capenable,
        "physical": ifp.if_physical,
        "description": ifp.if_description,
        "obytes": ifp.if_obytes,
        "omcasts": ifp.if_omcasts,
        "snd_len": ifp.if_snd.ifq_len,
        "snd_maxlen": ifp.if_snd.ifq_maxlen,
        "snd_drops": ifp.if_snd.ifq_drops,
        "vnet": ifp.if_vnet.prison.pr_id if ifp.if_vnet is not None else -1,
        "home_vnet": ifp.if_home_vnet.prison.pr_id if ifp.if_home_vnet is not None else -1,
        "hw_tsomax": ifp.if_hw_tsomax,
        "addrs": [f"{ifa.ifa_addr} refs={ifa.ifa_refcnt}" for ifa in ifp.if_addrhead],
        "multiaddrs": [
            f"{ifma.ifma_addr} refs={ifma.ifma_refcount}"
            + (f" lladdr={ifma.ifma_lladdr}" if ifma.ifma_lladdr is not None else "")
            for ifma in ifp.if_multiaddrs
        ],
        "groups": [group.ifg_group for group in ifp.if_groups],
    }


@op
def dumpvnet(world: World) -> dict[str, Any]:
    v = world.vnet
    return {
        "vnet": v.prison.pr_id,
        "if_index": v.if_index,
        "indexlim": v.if_indexlim,
        "ifcnt": v.vnet_ifcnt,
        "list": [ifp.if_xname for ifp in v.ifnets()],
        "index": {str(index): ifp.if_xname for index, ifp in v.indexes().items()},
        "groups": {
            name: {"refcnt": group.ifg_refcnt, "members": [ifp.if_xname for ifp in group.ifg_members]}
            for name, group in v.groups.items()
        },
    }


@op
def leaks(world: World) -> dict[str, int]:
    return world.kernel.live()
