"""Interface ioctls (sys/net/if.c 2120-2654, 2758-2851).

``ifioctl`` is the door: it serves what concerns no single interface, finds the
interface for the rest, and sends what ``ifhwioctl`` does not know to the
protocol and then to the driver. Whoever calls is a ``Thread``; what changes
something asks for its privilege first, before anything else is looked at.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .attach import if_vmove_loan, if_vmove_reclaim
from .errors import ENOIOCTL, refuse
from .flags import IF_MAXMTU, IF_MINMTU, IFF, IFF_CANTCHANGE, IFNAMSIZ, AddressFamily
from .group import if_getgroupmembers
from .priv import Priv, Thread
from .sockaddr import SockaddrDl
from .sockio import GENERIC_GET, GENERIC_SET, IFREQ_SIZE, Ifaliasreq, Ifconf, Ifgroupreq, Ifreq

if TYPE_CHECKING:
    from .ifnet import Ifnet
    from .stack import Stack
    from .vnet import Vnet

__all__ = ["Socket", "ifconf", "ifhwioctl", "ifioctl"]

_SIZEOF_SOCKADDR = 16
_REQUESTS: dict[str, tuple[type, ...]] = {
    "SIOCGIFCONF": (Ifconf,),
    **dict.fromkeys(("SIOCAIFGROUP", "SIOCDIFGROUP", "SIOCGIFGROUP", "SIOCGIFGMEMB"), (Ifgroupreq,)),
}
_ALIASES = frozenset({"SIOCAIFADDR", "SIOCDIFADDR", "SIOCSIFPHYADDR"})
_ADDRESS_SETTERS = frozenset({"SIOCSIFADDR", "SIOCSIFBRDADDR", "SIOCSIFDSTADDR", "SIOCSIFNETMASK"})


@dataclass(slots=True)
class Socket:
    """The socket that an ioctl is made on: its vnet, and its protocol (None: a socket without one)."""

    so_vnet: Vnet
    so_proto: Stack | None


_log = logging.getLogger("iflab.net")


def ifioctl(so: Socket, cmd: str, data: Any, td: Thread) -> None:
    """Carry out an interface ioctl; the answer is written into ``data`` (2528-2654).

    Raises EPERM without the privilege, ENXIO without the interface, EFAULT for what
    is no request of the command's kind, and what the command's own function raises.
    """
    _check_request(cmd, data)
    vnet = so.so_vnet
    kernel = vnet.kernel
    _log.debug("%s: %s %s", vnet.name, cmd, getattr(data, "ifr_name", ""))
    with kernel.curvnet_set(vnet), kernel.curthread_set(td):
        if cmd == "SIOCGIFCONF":
            ifconf(vnet, data)
        elif cmd == "SIOCSIFRVNET":
            td.priv_check(Priv.NET_SETIFVNET)
            data.ifr_name = if_vmove_reclaim(td, vnet, data.ifr_name, data.ifr_jid)
        elif cmd in ("SIOCIFCREATE", "SIOCIFCREATE2"):
            td.priv_check(Priv.NET_IFCREATE)
            params = data.ifr_data if cmd == "SIOCIFCREATE2" else None
            data.ifr_name = kernel.cloners.if_clone_create(vnet, data.ifr_name, params)
        elif cmd == "SIOCIFDESTROY":
            td.priv_check(Priv.NET_IFDESTROY)
            kernel.cloners.if_clone_destroy(vnet, data.ifr_name)
        elif cmd == "SIOCIFGCLONERS":
            data.ifr_data = kernel.cloners.if_clone_list(vnet)
        elif cmd == "SIOCGIFGMEMB":
            if_getgroupmembers(vnet, data)
        elif cmd in ("SIOCSVH", "SIOCGVH"):
            if kernel.hooks.carp_ioctl_p is None:
                raise refuse(errno.EPROTONOSUPPORT, "carp is not loaded")
            kernel.hooks.carp_ioctl_p(data, cmd, td)
        else:
            ifp = vnet.ifunit_ref(data.ifr_name)
            if ifp is None:
                raise refuse(errno.ENXIO, f"there is no interface {data.ifr_name!r}")
            try:
                _to_interface(so, ifp, cmd, data, td)
            finally:
                ifp.if_rele()


def _check_request(cmd: str, data: Any) -> None:
    """Raise EFAULT for what is no request of the command's kind: the original would read strange memory."""
    alias = cmd.endswith("_IN6") or cmd in _ALIASES
    wanted: tuple[type, ...] = _REQUESTS.get(cmd, (Ifreq, Ifaliasreq) if alias else (Ifreq,))
    if not isinstance(data, wanted):
        raise refuse(errno.EFAULT, f"{cmd} takes an {wanted[0].__name__}, not {type(data).__name__}")


def _to_interface(so: Socket, ifp: Ifnet, cmd: str, data: Any, td: Thread) -> None:
    try:
        ifhwioctl(cmd, ifp, data, td)
        return
    except OSError as error:
        if error.errno != ENOIOCTL:
            raise
    # Neither the interface layer nor (quirk 47) the driver knows it: the protocol may.
    if so.so_proto is None:
        raise refuse(errno.EOPNOTSUPP, f"{ifp.if_xname}: the socket has no protocol to obey {cmd}")
    was_up = ifp.if_flags & IFF.UP
    try:
        try:
            so.so_proto.pru_control(cmd, data, ifp, td)
        except OSError as error:
            # Drivers trust that who sets an address was checked, so that never goes down to them.
            if error.errno != errno.EOPNOTSUPP or cmd in _ADDRESS_SETTERS:
                raise
            ifp.driver_ioctl(cmd, data)
    finally:
        if ifp.if_flags & IFF.UP and not was_up:
            ifp.stack.in6_if_up(ifp)


def _changed(ifp: Ifnet) -> None:
    ifp.if_lastchange = time.time()


def _get_index(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    ifr.ifr_index = ifp.if_index


def _get_flags(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    ifr.ifr_flags = ifp.if_flags | ifp.if_drv_flags


def _get_cap(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    ifr.ifr_reqcap = ifp.if_capabilities
    ifr.ifr_curcap = ifp.if_capenable


def _get_metric(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    ifr.ifr_metric = ifp.if_metric


def _get_mtu(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    ifr.ifr_mtu = ifp.if_mtu


def _get_phys(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    ifr.ifr_phys = ifp.if_physical


def _get_fib(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    ifr.ifr_fib = ifp.if_fib


def _get_descr(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    """A buffer too short is no error: no text, and the length needed (2168-2184, quirk 27)."""
    if ifp.if_description is None:
        raise refuse(errno.ENOMSG, f"{ifp.if_xname} has no description")
    text = ifp.if_description
    needed = len(text.encode("utf-8", "surrogateescape")) + 1
    buffer = ifr.ifr_buffer
    try:
        if buffer.length < needed:
            buffer.data = None
        else:
            buffer.copyout(text)
    finally:
        buffer.length = needed


def _set_descr(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    """The length counts a NUL that need not be there: one octet less is read (2186-2219, quirk 28)."""
    td.priv_check(Priv.NET_SETIFDESCR)
    buffer = ifr.ifr_buffer
    limit = ifp.kernel.sysctl["net.ifdescr_maxlen"]
    if not 0 <= buffer.length <= limit:  # a negative length is a huge one
        raise refuse(
            errno.ENAMETOOLONG,
            f"{ifp.if_xname}: a description of {buffer.length} octets is longer than net.ifdescr_maxlen, {limit}",
        )
    text: str | None = None
    if buffer.length != 0:
        raw = buffer.copyin_text().encode("utf-8", "surrogateescape")[: buffer.length - 1]
        text = raw.decode("utf-8", "surrogateescape")
    ifp.stack.consent(ifp, "description", text)
    ifp.set_description(text)
    _changed(ifp)


def _set_fib(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    """A negative table is a huge one; ``lastchange`` stays (2225-2233, quirk 30)."""
    td.priv_check(Priv.NET_SETIFFIB)
    tables = ifp.stack.rt_numfibs
    if not 0 <= ifr.ifr_fib < tables:
        raise refuse(
            errno.EINVAL, f"{ifp.if_xname}: there is no fib {ifr.ifr_fib}; there are {tables}, from 0"
        )
    ifp.stack.consent(ifp, "fib", ifr.ifr_fib)
    ifp.if_fib = ifr.ifr_fib


def _set_flags(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    """Up or down first, with its messages; then the rest, without any (2235-2268, quirk 22)."""
    td.priv_check(Priv.NET_SETIFFLAGS)
    new_flags = ifr.ifr_flags & 0xFFFFFFFF
    if ifp.if_flags & IFF.UP and not new_flags & IFF.UP:
        ifp.if_down()
    elif new_flags & IFF.UP and not ifp.if_flags & IFF.UP:
        ifp.if_up()
    if (ifp.if_flags ^ new_flags) & IFF.PPROMISC:
        if new_flags & IFF.PPROMISC:
            ifp.if_flags |= IFF.PROMISC
        elif ifp.if_pcount == 0:
            ifp.if_flags &= ~IFF.PROMISC
        mode = "enabled" if new_flags & IFF.PPROMISC else "disabled"
        ifp.kernel.console.log("info", f"{ifp.if_xname}: permanently promiscuous mode {mode}")
    ifp.if_flags = (ifp.if_flags & IFF_CANTCHANGE) | (new_flags & ~IFF_CANTCHANGE)
    ifp.if_claim("monitor", bool(ifp.if_flags & IFF.MONITOR))
    ifp.driver_ioctl_unheeded("SIOCSIFFLAGS", ifr)
    _changed(ifp)


def _set_cap(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    td.priv_check(Priv.NET_SETIFCAP)
    ifp.need_ioctl("SIOCSIFCAP")
    if ifr.ifr_reqcap & ~ifp.if_capabilities:
        raise refuse(
            errno.EINVAL,
            f"{ifp.if_xname}: capabilities {ifr.ifr_reqcap:#x} are not all among {ifp.if_capabilities:#x}",
        )
    ifp.driver_ioctl("SIOCSIFCAP", ifr)
    _changed(ifp)


def _set_name(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    """The interface departs under its old name and arrives under the new one (2289-2344).

    Its own name is EEXIST; ``if_dname`` and ``if_dunit`` stay (quirk 29). The
    look-up and the change are one step here.
    """
    td.priv_check(Priv.NET_SETIFNAME)
    kernel, vnet = ifp.kernel, ifp.curvnet
    new_name = ifr.ifr_buffer.copyin_text()
    if len(new_name.encode("utf-8", "surrogateescape")) >= IFNAMSIZ:
        raise refuse(
            errno.ENAMETOOLONG,
            f"{new_name!r} is too long; an interface name has {IFNAMSIZ - 1} octets at most",
        )
    if new_name == "":
        raise refuse(errno.EINVAL, f"{ifp.if_xname}: the new name is empty")
    if vnet.ifunit(new_name) is not None:
        raise refuse(errno.EEXIST, f"there is an interface {new_name} already")
    ifp.stack.consent(ifp, "name", new_name)
    ifp.if_flags |= IFF.RENAMING
    kernel.rtsock.rt_ifannouncemsg(ifp, False)
    kernel.events.invoke("ifnet_departure_event", ifp)
    kernel.console.log("info", f"{ifp.if_xname}: changing name to '{new_name}'")
    ifp.if_xname = new_name
    if ifp.if_addr is not None:
        ifp.link_sockaddr().sdl_name = new_name
        ifp.if_addr.ifa_netmask = SockaddrDl(sdl_name=new_name)
    kernel.events.invoke("ifnet_arrival_event", ifp)
    kernel.rtsock.rt_ifannouncemsg(ifp, True)
    ifp.if_flags &= ~IFF.RENAMING


def _set_vnet(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    td.priv_check(Priv.NET_SETIFVNET)
    ifr.ifr_name = if_vmove_loan(td, ifp, ifr.ifr_jid)


def _set_metric(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    td.priv_check(Priv.NET_SETIFMETRIC)
    ifp.if_metric = ifr.ifr_metric
    _changed(ifp)


def _set_phys(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    td.priv_check(Priv.NET_SETIFPHYS)
    ifp.driver_ioctl("SIOCSIFPHYS", ifr)
    _changed(ifp)


def _set_mtu(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    """Range before driver; IPv6 is told whenever the value changed, a message goes out on success (2374-2399, quirk 25)."""
    td.priv_check(Priv.NET_SETIFMTU)
    if not IF_MINMTU <= ifr.ifr_mtu <= IF_MAXMTU:
        raise refuse(
            errno.EINVAL, f"{ifp.if_xname}: an MTU is between {IF_MINMTU} and {IF_MAXMTU}, not {ifr.ifr_mtu}"
        )
    ifp.need_ioctl("SIOCSIFMTU")
    old_mtu = ifp.if_mtu
    try:
        ifp.driver_ioctl("SIOCSIFMTU", ifr)
        _changed(ifp)
        ifp.kernel.rtsock.rt_ifmsg(ifp)
    finally:
        if ifp.if_mtu != old_mtu:
            ifp.stack.nd6_setmtu(ifp)


def _check_group(ifp: Ifnet, ifr: Ifreq) -> None:
    if not ifp.if_flags & IFF.MULTICAST:
        raise refuse(errno.EOPNOTSUPP, f"{ifp.if_xname} carries no multicast")
    address = ifr.ifr_addr
    if address is None or address.family is not AddressFamily.LINK:
        raise refuse(
            errno.EINVAL, f"{ifp.if_xname}: {address} is no link-level address; protocols join their own"
        )
    # The original copies as many octets as the caller claims (quirk 21).
    if ifr.ifr_addrlen is not None and ifr.ifr_addrlen > _SIZEOF_SOCKADDR:
        raise refuse(
            errno.EINVAL, f"{ifp.if_xname}: an address of {ifr.ifr_addrlen} octets does not fit a request"
        )


def _add_multi(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    """Userland may join a group once, because it holds no pointer to its membership (2401-2440)."""
    td.priv_check(Priv.NET_ADDMULTI)
    _check_group(ifp, ifr)
    assert ifr.ifr_addr is not None
    if ifp.if_findmulti(ifr.ifr_addr) is not None:
        raise refuse(errno.EADDRINUSE, f"{ifp.if_xname} is in the group {ifr.ifr_addr} already")
    ifp.if_addmulti(ifr.ifr_addr)
    _changed(ifp)


def _del_multi(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    td.priv_check(Priv.NET_DELMULTI)
    _check_group(ifp, ifr)
    assert ifr.ifr_addr is not None
    ifp.if_delmulti(ifr.ifr_addr)
    _changed(ifp)


def _set_lladdr(ifp: Ifnet, ifr: Ifreq, td: Thread) -> None:
    """The event comes after a failure as well (2469-2476, quirk 26)."""
    td.priv_check(Priv.NET_SETLLADDR)
    try:
        ifp.if_setlladdr(ifr.ifr_addr.key if ifr.ifr_addr is not None else b"")
    finally:
        ifp.kernel.events.invoke("iflladdr_event", ifp)


def _add_group(ifp: Ifnet, ifgr: Ifgroupreq, td: Thread) -> None:
    td.priv_check(Priv.NET_ADDIFGROUP)
    ifp.if_addgroup(ifgr.ifgr_group)


def _get_group(ifp: Ifnet, ifgr: Ifgroupreq, td: Thread) -> None:
    ifp.if_getgroup(ifgr)


def _del_group(ifp: Ifnet, ifgr: Ifgroupreq, td: Thread) -> None:
    td.priv_check(Priv.NET_DELIFGROUP)
    ifp.if_delgroup(ifgr.ifgr_group)


_COMMANDS: dict[str, Callable[[Ifnet, Any, Thread], None]] = {
    "SIOCGIFINDEX": _get_index,
    "SIOCGIFFLAGS": _get_flags,
    "SIOCGIFCAP": _get_cap,
    "SIOCGIFMETRIC": _get_metric,
    "SIOCGIFMTU": _get_mtu,
    "SIOCGIFPHYS": _get_phys,
    "SIOCGIFDESCR": _get_descr,
    "SIOCSIFDESCR": _set_descr,
    "SIOCGIFFIB": _get_fib,
    "SIOCSIFFIB": _set_fib,
    "SIOCSIFFLAGS": _set_flags,
    "SIOCSIFCAP": _set_cap,
    "SIOCSIFNAME": _set_name,
    "SIOCSIFVNET": _set_vnet,
    "SIOCSIFMETRIC": _set_metric,
    "SIOCSIFPHYS": _set_phys,
    "SIOCSIFMTU": _set_mtu,
    "SIOCADDMULTI": _add_multi,
    "SIOCDELMULTI": _del_multi,
    "SIOCSIFLLADDR": _set_lladdr,
    "SIOCAIFGROUP": _add_group,
    "SIOCGIFGROUP": _get_group,
    "SIOCDIFGROUP": _del_group,
}


COMMANDS = frozenset(_COMMANDS)
"""Those that the interface layer knows itself."""


def ifhwioctl(cmd: str, ifp: Ifnet, data: Any, td: Thread) -> None:
    """Carry out a command that concerns one interface (2120-2512). Raises ENOIOCTL for one it does not know."""
    command = _COMMANDS.get(cmd)
    if command is not None:
        command(ifp, data, td)
    elif cmd in GENERIC_SET:
        td.priv_check(Priv.NET_HWIOCTL)
        ifp.driver_ioctl(cmd, data)
        _changed(ifp)
    elif cmd in GENERIC_GET:
        ifp.driver_ioctl(cmd, data)
    else:
        raise refuse(ENOIOCTL, f"{ifp.if_xname}: {cmd} is not for the interface layer")


def ifconf(vnet: Vnet, ifc: Ifconf) -> None:
    """Answer ``SIOCGIFCONF``: name and address of everything, interface by interface (2758-2851).

    An entry takes 32 octets, or 16 and the address's own length when that is
    above 16. What does not fit is left out from there on, without an error;
    ``ifc_len`` tells what was copied, also after EFAULT. Length 0 is EINVAL, not
    a question for the size (quirk 46).
    """
    if ifc.ifc_len <= 0:
        raise refuse(errno.EINVAL, f"SIOCGIFCONF into a buffer of {ifc.ifc_len} octets")
    entries: list[tuple[str, Any]] = []
    used = 0
    for name, address in _conf_entries(vnet):
        size = IFREQ_SIZE
        if address is not None and address.sa_len > _SIZEOF_SOCKADDR:
            size = IFNAMSIZ + address.sa_len
        if used + size > ifc.ifc_len:
            break
        used += size
        entries.append((name, address))
    ifc.ifc_len = used
    ifc.ifc_req.copyout(entries)


def _conf_entries(vnet: Vnet) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for ifp in vnet.ifnets():
        addresses: list[Any] = [ifa.ifa_addr for ifa in ifp.if_addrhead]
        rows += [(ifp.if_xname, address) for address in addresses or [None]]
    return rows
