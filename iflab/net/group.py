"""Interface groups (sys/net/if.c 1079-1337).

A group is a name that several interfaces of a vnet share; it lives as long as
one is in it. Names are at most 15 octets and never end in a digit, so that they
cannot be mistaken for an interface. A longer name is cut at the door (quirk
32: the original compares it uncut and stores it cut, which makes twins).

Events come in the original's order (quirk 33): attach before change; detach
after the group is off the list, so a listener may make one of that name anew.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .driver import DeadDriver
from .errors import refuse
from .flags import IFF, IFNAMSIZ
from .sockio import Ifgroupreq

if TYPE_CHECKING:
    from .ifnet import Ifnet
    from .vnet import Vnet

__all__ = [
    "IFG_REQ_SIZE",
    "Group",
    "if_addgroup",
    "if_delgroup",
    "if_delgroups",
    "if_getgroup",
    "if_getgroupmembers",
]

IFG_REQ_SIZE = 16
"""Octets of one entry in the answer of ``SIOCGIFGROUP`` and ``SIOCGIFGMEMB``."""


class Group:
    """A group of a vnet: its name and its members in the order in which they joined."""

    __slots__ = ("ifg_group", "ifg_members")

    def __init__(self, name: str) -> None:
        self.ifg_group = name
        self.ifg_members: list[Ifnet] = []

    @property
    def ifg_refcnt(self) -> int:
        """Memberships; the group goes with the last (1112-1141, 1183)."""
        return len(self.ifg_members)

    def __repr__(self) -> str:
        return f"<Group {self.ifg_group} {[ifp.if_xname for ifp in self.ifg_members]}>"


def _cut(name: str) -> str:
    raw = name.encode("utf-8", "surrogateescape").split(b"\0", 1)[0]
    return raw[: IFNAMSIZ - 1].decode("utf-8", "surrogateescape")


def if_addgroup(ifp: Ifnet, groupname: str) -> None:
    """Put the interface into a group, making the group if need be (1082-1149).

    Raises EINVAL for a name that ends in a digit, EEXIST when it is in already,
    ENXIO when the interface is gone: nobody would ever take it out again.
    """
    name = _cut(groupname)
    if name and name[-1] in "0123456789":
        raise refuse(errno.EINVAL, f"{name!r} ends in a digit, as interface names do; a group name must not")
    kernel = ifp.kernel
    with kernel.giant:
        if ifp.if_flags & IFF.DYING or isinstance(ifp.if_driver, DeadDriver):
            raise refuse(errno.ENXIO, f"{ifp.if_xname}: the interface is gone")
        if any(group.ifg_group == name for group in ifp.if_groups):
            raise refuse(errno.EEXIST, f"{ifp.if_xname} is in the group {name!r} already")
        vnet = ifp.curvnet
        group = vnet.groups.get(name)
        new = group is None
        if group is None:
            group = vnet.groups[name] = Group(name)
            kernel.allocated("temp")
        group.ifg_members.append(ifp)
        ifp.if_groups.append(group)
        kernel.allocated("temp", 2)
        if new:
            kernel.events.invoke("group_attach_event", group)
        kernel.events.invoke("group_change_event", name)


def if_delgroup(ifp: Ifnet, groupname: str) -> None:
    """Take the interface out of a group (1154-1196). Raises ENOENT when it is not in it."""
    name = _cut(groupname)
    with ifp.kernel.giant:
        group = next((g for g in ifp.if_groups if g.ifg_group == name), None)
        if group is None:
            raise refuse(errno.ENOENT, f"{ifp.if_xname} is not in a group {name!r}")
        _leave(ifp, group)


def if_delgroups(ifp: Ifnet) -> None:
    """Take the interface out of all its groups, the oldest membership first (1201-1243)."""
    with ifp.kernel.giant:
        while ifp.if_groups:
            _leave(ifp, ifp.if_groups[0])


def _leave(ifp: Ifnet, group: Group) -> None:
    kernel = ifp.kernel
    ifp.if_groups.remove(group)
    group.ifg_members.remove(ifp)
    kernel.freed("temp", 2)
    if not group.ifg_members:
        groups = ifp.curvnet.groups
        if groups.get(group.ifg_group) is group:
            del groups[group.ifg_group]
        kernel.events.invoke("group_detach_event", group)
        kernel.freed("temp")
    kernel.events.invoke("group_change_event", group.ifg_group)


def if_getgroup(ifp: Ifnet, request: Ifgroupreq) -> None:
    """Answer ``SIOCGIFGROUP``: the names of the interface's groups (1249-1287).

    With ``ifgr_len`` 0 only the length needed is told, in octets. A buffer too
    short for all is EINVAL after the part that fits was copied (quirk 31).
    """
    with ifp.kernel.giant:
        _copy_names(request, [group.ifg_group for group in ifp.if_groups])


def if_getgroupmembers(vnet: Vnet, request: Ifgroupreq) -> None:
    """Answer ``SIOCGIFGMEMB``: the members of the group ``ifgr_name`` (1292-1337). Raises ENOENT, and as above."""
    with vnet.kernel.giant:
        group = vnet.groups.get(_cut(request.ifgr_name))
        if group is None:
            raise refuse(errno.ENOENT, f"there is no group {request.ifgr_name!r}")
        _copy_names(request, [ifp.if_xname for ifp in group.ifg_members])


def _copy_names(request: Ifgroupreq, names: list[str]) -> None:
    needed = len(names) * IFG_REQ_SIZE
    if request.ifgr_len == 0:
        request.ifgr_len = needed
        return
    if request.ifgr_len < 0:
        raise refuse(errno.EINVAL, f"a buffer cannot have {request.ifgr_len} octets")
    fitting = names[: request.ifgr_len // IFG_REQ_SIZE]
    if fitting:
        request.ifgr_groups.copyout(fitting)
    if len(fitting) < len(names):
        raise refuse(errno.EINVAL, f"{needed} octets are needed, the buffer has {request.ifgr_len}")
