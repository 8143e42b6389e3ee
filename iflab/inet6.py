"""What IPv6 does with an interface (``netinet6/nd6.c``, ``in6.c``; RFC 4861, 4862), answered by Linux.

The flags of an interface are settings of the kernel's (Documentation/networking/ip-sysctl.rst),
those of an address the kernel's own: both are read each time that somebody asks.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from iflab.drivers import TapNic
from iflab.linux import Addr, KernelRefused, Netlink, sysctl
from iflab.linux.netlink import IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TEMPORARY, IFA_F_TENTATIVE
from iflab.linux.rename import put_back_addrs
from iflab.net import IN6_IFF, ND6_IFF, Ifnet, Priv, Thread

if TYPE_CHECKING:
    from iflab.stack import LinuxStack

__all__ = ["inet6_ioctl"]

_SETTINGS = {
    ND6_IFF.ACCEPT_RTADV: ("accept_ra", 1, 0, 0),
    ND6_IFF.IFDISABLED: ("disable_ipv6", 1, 0, 0),
    ND6_IFF.AUTO_LINKLOCAL: ("addr_gen_mode", 0, 1, 1),
    ND6_IFF.NO_RADR: ("accept_ra_defrtr", 0, 1, 0),
    ND6_IFF.NO_DAD: ("accept_dad", 0, 1, 0),
}
"""Of each flag the kernel's setting, what it is set to for on and off, and the one of these that alone means so."""

_BY_ROUTER = 2
_LINKLOCAL = 253
"""Origin and scope of addresses (linux/if_addr.h, linux/rtnetlink.h)."""


def inet6_ioctl(stack: LinuxStack, cmd: str, data: Any, ifp: Ifnet, td: Thread) -> bool:
    """Carry out an ioctl of an ``Ifreq`` about IPv6; False when ``cmd`` is none, or no kernel is above the interface.

    ``SIOCGIFINFO_IN6`` answers with the interface's ``ND6_IFF`` in ``ifr_flags``,
    ``SIOCSIFINFO_FLAGS`` sets them. ``SIOCGIFAFLAG_IN6`` answers with the ``IN6_IFF`` of
    ``ifr_addr``, ``SIOCGIFALIFETIME_IN6`` with a pair in ``ifr_data``: the seconds for
    which it is preferred, and valid, None for ever.

    Linux takes an interface's addresses away while IPv6 is off (``IFDISABLED``); those
    that it had come back with it. Raises EPERM without the privilege, EADDRNOTAVAIL,
    EINVAL for a flag that Linux cannot change, EAFNOSUPPORT where its kernel has no
    IPv6, and the kernel's errno.
    """
    nic = ifp.if_softc
    if not isinstance(nic, TapNic) or nic.tap.fd < 0:
        return False
    if cmd == "SIOCGIFINFO_IN6":
        data.ifr_flags = _flags(stack, nic)
    elif cmd == "SIOCSIFINFO_FLAGS":
        td.priv_check(Priv.NETINET_ND6)
        with ifp.kernel.giant:
            _set_flags(stack, ifp, data.ifr_flags)
    elif cmd == "SIOCGIFAFLAG_IN6":
        addr = _find(stack, nic, str(data.ifr_addr))
        data.ifr_flags = (
            IN6_IFF.TENTATIVE * bool(addr.flags & IFA_F_TENTATIVE)
            | IN6_IFF.DUPLICATED * bool(addr.flags & IFA_F_DADFAILED)
            | IN6_IFF.DEPRECATED * bool(addr.flags & IFA_F_DEPRECATED)
            | IN6_IFF.TEMPORARY * bool(addr.flags & IFA_F_TEMPORARY)
            | IN6_IFF.AUTOCONF * bool(addr.origin == _BY_ROUTER or addr.flags & IFA_F_TEMPORARY)
        )
    elif cmd == "SIOCGIFALIFETIME_IN6":
        addr = _find(stack, nic, str(data.ifr_addr))
        data.ifr_data = addr.preferred, addr.valid
    else:
        return False
    return True


def _find(stack: LinuxStack, nic: TapNic, address: str) -> Addr:
    with Netlink(stack.netns) as netlink:
        try:
            return netlink.addr_get(nic.tap.ifindex, address)
        except KernelRefused as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            raise OSError(errno.EADDRNOTAVAIL, f"{nic.ifp.if_xname} has no address {address}") from None


def _setting(stack: LinuxStack, nic: TapNic, name: str, value: int | None = None) -> int:
    try:
        return int(sysctl(stack.netns, f"net/ipv6/conf/{nic.tap.name}/{name}", value))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        raise OSError(errno.EAFNOSUPPORT, f"the kernel of {stack.vnet.name} has no IPv6") from None


def _flags(stack: LinuxStack, nic: TapNic) -> int:
    flags = ND6_IFF.PERFORMNUD
    for flag, (name, on, _, telling) in _SETTINGS.items():
        if (_setting(stack, nic, name) == telling) is (telling == on):
            flags |= flag
    return flags


def _set_flags(stack: LinuxStack, ifp: Ifnet, wanted: int) -> None:
    nic: TapNic = ifp.if_softc
    changed = _flags(stack, nic) ^ wanted
    if strange := changed & ~sum(_SETTINGS):
        raise OSError(errno.EINVAL, f"Linux cannot change {strange:#x} of the flags {wanted:#x}")
    index = nic.tap.ifindex
    with Netlink(stack.netns) as netlink:
        if changed & wanted & ND6_IFF.IFDISABLED:
            stack.disabled[ifp] = [
                addr
                for addr in netlink.addrs(index)
                if addr.family == socket.AF_INET6 and addr.scope != _LINKLOCAL
            ]
        for flag, (name, on, off, _) in _SETTINGS.items():
            if changed & flag:
                _setting(stack, nic, name, on if wanted & flag else off)
        if changed & ~wanted & ND6_IFF.IFDISABLED:
            put_back_addrs(netlink, index, stack.disabled.pop(ifp, []))
    stack.look(ifp)
