"""The address ioctls of the protocols (``netinet/in.c`` and ``netinet6/in6.c``), answered by Linux.

``ifioctl`` hands down to the protocol what the interface layer does not know.
Addresses live in the kernel: what is added or deleted here is asked of it over
netlink, and the ifnet's list follows what it then says.
"""

from __future__ import annotations

import errno
import ipaddress
from typing import TYPE_CHECKING, Any

from iflab.net import (
    IFF,
    IN6_IFF,
    AddressFamily,
    Ifaddr,
    Ifaliasreq,
    Ifnet,
    Ifreq,
    Priv,
    Sockaddr,
    SockaddrDl,
    Thread,
    as_sockaddr,
    ifa_alloc,
)

if TYPE_CHECKING:
    from iflab.stack import LinuxStack

__all__ = ["address_ioctl", "prefixlen"]

_OLD_SETTERS = frozenset({"SIOCSIFADDR", "SIOCSIFBRDADDR", "SIOCSIFDSTADDR", "SIOCSIFNETMASK"})
_ADDERS = frozenset({"SIOCAIFADDR", "SIOCAIFADDR_IN6"})
_DELETERS = frozenset({"SIOCDIFADDR", "SIOCDIFADDR_IN6"})
_GETTERS = frozenset({"SIOCGIFADDR", "SIOCGIFNETMASK", "SIOCGIFBRDADDR", "SIOCGIFDSTADDR"})


def prefixlen(mask: Sockaddr | None, address: Sockaddr) -> int:
    """Bits of network in ``mask``; all of them without one."""
    if mask is None or isinstance(mask, SockaddrDl):
        return 32 if address.family is AddressFamily.INET else 128
    return mask.value.bit_count()


def address_ioctl(stack: LinuxStack, cmd: str, data: Any, ifp: Ifnet, td: Thread) -> bool:
    """Carry out an address ioctl; False when ``cmd`` is none.

    ``SIOCAIFADDR`` takes an ``Ifaliasreq``, or an ``Ifreq`` whose ``ifr_data`` is
    ``"192.0.2.1/24"``; an address that is there already gets the new mask and
    broadcast address. ``SIOCDIFADDR`` takes the address, or without one the first.
    The getters answer for ``ifr_addr`` if that is one of the interface's, else for
    the first of the family. Commands that end in ``_IN6`` do the same for IPv6.

    Raises EPERM without the privilege, EADDRNOTAVAIL, EINVAL for the old setters
    (gone since FreeBSD 10), and the kernel's errno.
    """
    if cmd in _OLD_SETTERS:
        raise OSError(errno.EINVAL, f"{ifp.if_xname}: {cmd} is served no more; use SIOCAIFADDR")
    if cmd in _ADDERS:
        td.priv_check(Priv.NET_ADDIFADDR)
        _add(stack, ifp, _alias(data))
    elif cmd in _DELETERS:
        td.priv_check(Priv.NET_DELIFADDR)
        wanted, shared = _wanted(data), ifp.kernel.hooks.carp_remove_p
        if wanted is not None and shared is not None and shared(ifp, wanted):
            return True
        ifa = _chosen(ifp, _family(cmd), _wanted(data), strict=True)
        stack.del_address(ifp, ifa)
    elif cmd.removesuffix("_IN6") in _GETTERS:
        _get(ifp, cmd.removesuffix("_IN6"), _family(cmd), data)
    else:
        return False
    return True


def _family(cmd: str) -> AddressFamily:
    return AddressFamily.INET6 if cmd.endswith("_IN6") else AddressFamily.INET


def _alias(data: Any) -> Ifaliasreq:
    if isinstance(data, Ifaliasreq):
        return data
    try:
        interface = ipaddress.ip_interface(str(data.ifr_data))
    except ValueError:
        raise OSError(
            errno.EINVAL,
            f"{data.ifr_name}: SIOCAIFADDR needs an address such as 192.0.2.1/24, not {data.ifr_data!r}",
        ) from None
    return Ifaliasreq(
        ifra_name=data.ifr_name,
        ifra_addr=as_sockaddr(str(interface.ip)),
        ifra_mask=as_sockaddr(str(interface.network.netmask)),
    )


def _wanted(data: Any) -> Sockaddr | None:
    if isinstance(data, Ifaliasreq):
        return data.ifra_addr
    if data.ifr_data is not None:
        try:
            return as_sockaddr(str(data.ifr_data).split("/")[0])
        except ValueError as error:
            raise OSError(errno.EINVAL, f"{data.ifr_name}: {error}") from None
    found: Sockaddr | None = data.ifr_addr
    return found


def _chosen(ifp: Ifnet, family: AddressFamily, wanted: Sockaddr | None, strict: bool) -> Ifaddr:
    """The address that an ioctl means: the one named, or the first; ``strict``: only the one named."""
    if wanted is not None and wanted.family is not AddressFamily.LINK:
        family = wanted.family
    ours = [ifa for ifa in ifp.if_addrhead if ifa.ifa_addr.family is family]
    if wanted is not None:
        named = [ifa for ifa in ours if ifa.ifa_addr.key == wanted.key]
        if named or strict:
            ours = named
    if not ours:
        what = f"no address {wanted}" if wanted is not None else f"no {family.name} address"
        raise OSError(errno.EADDRNOTAVAIL, f"{ifp.if_xname} has {what}")
    return ours[0]


def _get(ifp: Ifnet, cmd: str, family: AddressFamily, data: Ifreq) -> None:
    ifa = _chosen(ifp, family, data.ifr_addr, strict=False)
    if cmd == "SIOCGIFADDR":
        data.ifr_addr = ifa.ifa_addr
    elif cmd == "SIOCGIFNETMASK":
        data.ifr_addr = ifa.ifa_netmask
    else:
        needed = IFF.BROADCAST if cmd == "SIOCGIFBRDADDR" else IFF.POINTOPOINT
        if not ifp.if_flags & needed:
            kind = "broadcasts" if needed == IFF.BROADCAST else "is point-to-point"
            raise OSError(errno.EINVAL, f"{ifp.if_xname}: {cmd} is for an interface that {kind}")
        data.ifr_addr = ifa.ifa_dstaddr


def _add(stack: LinuxStack, ifp: Ifnet, alias: Ifaliasreq) -> None:
    address, far = alias.ifra_addr, alias.ifra_broadaddr
    if address is None or address.family is AddressFamily.LINK:
        raise OSError(errno.EINVAL, f"{ifp.if_xname}: SIOCAIFADDR needs an IPv4 or IPv6 address")
    bits = prefixlen(alias.ifra_mask, address)
    if alias.ifra_vhid:
        _share(ifp, alias)
        return
    lifetime = _lifetime(alias)
    there = next((ifa for ifa in ifp.if_addrhead if ifa.ifa_addr == address), None)
    if there is not None:
        if prefixlen(there.ifa_netmask, address) == bits and far in (None, there.ifa_dstaddr):
            if lifetime is not None:
                _put(stack, ifp, address, bits, far, lifetime, replace=True)
            return
        stack.del_address(ifp, there)
    try:
        _put(stack, ifp, address, bits, far, lifetime)
    except OSError:
        if there is not None:
            _put(stack, ifp, address, prefixlen(there.ifa_netmask, address), there.ifa_dstaddr)
        raise
    ifp.if_flags |= IFF.UP  # as every driver does that is given an address; ifioctl tells the rest


def _lifetime(alias: Ifaliasreq) -> tuple[int | None, int | None] | None:
    """For how long: an address that is deprecated is one that is preferred no more. Raises EINVAL."""
    if alias.ifra_flags & ~IN6_IFF.DEPRECATED:
        raise OSError(errno.EINVAL, "of an address's flags Linux lets 'deprecated' alone be set")
    if alias.ifra_flags:
        return 0, (alias.ifra_lifetime or (None, None))[1]
    return alias.ifra_lifetime


def _put(
    stack: LinuxStack,
    ifp: Ifnet,
    address: Sockaddr,
    bits: int,
    far: Sockaddr | None,
    lifetime: tuple[int | None, int | None] | None = None,
    replace: bool = False,
) -> None:
    point_to_point = far is not None and bool(ifp.if_flags & IFF.POINTOPOINT)
    stack.add_address(
        ifp,
        f"{address}/{bits}",
        peer=str(far) if point_to_point else None,
        broadcast="auto" if far is None or point_to_point else str(far),
        lifetime=lifetime,
        replace=replace,
    )


def _share(ifp: Ifnet, alias: Ifaliasreq) -> None:
    """Give an address to a virtual host of carp, which puts it on the interface while it is master."""
    attach = ifp.kernel.hooks.carp_attach_p
    if attach is None or alias.ifra_addr is None:
        raise OSError(errno.EPROTONOSUPPORT, "carp is not loaded")
    ifa = ifa_alloc(ifp.kernel, alias.ifra_addr)
    ifa.ifa_netmask = alias.ifra_mask
    ifa.ifa_ifp = ifp
    try:
        attach(ifa, alias.ifra_vhid)
    finally:
        ifa.ifa_ifp = None
        ifa.ifa_free()
    ifp.if_flags |= IFF.UP
