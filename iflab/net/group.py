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

from .errors import refuse
from .flags import IFNAMSIZ
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
    "if_freegroups",
    "if_getgroup",
    "if_getgroupmembers",
]

IFG_REQ_SIZE = 16
"""Octets of one entry in the answer of ``SIOCGIFGROUP`` and ``SIOCGIFGMEMB``."""


class Group:
    """A group of a vnet: its name and its members in the order in which they joined.

    ``groups`` is the table that it stands in, and leaves with its last member.
    """

    __slots__ = ("groups", "ifg_group", "ifg_members")

    def __init__(self, name: str, groups: dict[str, Group]) -> None:
        self.ifg_group = name
        self.ifg_members: list[Ifnet] = []
        self.groups = groups
        groups[name] = self

    @property
    def ifg_refcnt(self) -> int:
        """Memberships; the group goes with the last (1133, 1182-1186)."""
        return len(self.ifg_members)

    def __repr__(self) -> str:
        return f"<Group {self.ifg_group} {[ifp.if_xname for ifp in self.ifg_members]}>"


def _cut(name: str) -> str:
    raw = name.encode("utf-8", "surrogateescape").split(b"\0", 1)[0]
    return raw[: IFNAMSIZ - 1].decode("utf-8", "surrogateescape")


def if_addgroup(ifp: Ifnet, groupname: str) -> None:
    """Put the interface into a group, making the group if need be (1082-1149).

    Raises EINVAL for a name that ends in a digit, EEXIST when it is in already,
    ENXIO for an interface that was freed; one that is only detached may join.
    """
    name = _cut(groupname)
    whole = groupname.split("\0", 1)[0]
    if whole and whole[-1] in "0123456789":  # of the name as it was given
        raise refuse(errno.EINVAL, f"{whole!r} ends in a digit, as interface names do; a group name must not")
    kernel = ifp.kernel
    with kernel.giant:
        if ifp.if_refcount == 0:
            raise refuse(errno.ENXIO, f"{ifp.if_xname}: the interface was freed")
        if any(group.ifg_group == name for group in ifp.if_groups):
            raise refuse(errno.EEXIST, f"{ifp.if_xname} is in the group {name!r} already")
        vnet = ifp.curvnet
        group = vnet.groups.get(name)
        new = group is None
        if group is None:
            group = Group(name, vnet.groups)
            kernel.allocated("temp")
        group.ifg_members.append(ifp)
        ifp.if_groups.append(group)
        kernel.allocated("temp", 2)
        if new:
            kernel.events.invoke("group_attach_event", group)
        kernel.events.invoke("group_change_event", name)


def if_delgroup(ifp: Ifnet, groupname: str) -> None:
    """Take the interface out of a group (1154-1195). Raises ENOENT when it is not in it."""
    name = _cut(groupname)
    with ifp.kernel.giant:
        group = next((g for g in ifp.if_groups if g.ifg_group == name), None)
        if group is None:
            raise refuse(errno.ENOENT, f"{ifp.if_xname} is not in a group {name!r}")
        _leave(ifp, group)


def if_delgroups(ifp: Ifnet) -> None:
    """Take the interface out of all its groups, the oldest membership first (1200-1243)."""
    with ifp.kernel.giant:
        while ifp.if_groups:
            _leave(ifp, ifp.if_groups[0])


def if_freegroups(ifp: Ifnet) -> None:
    """Take a freed interface out of what it joined after its detach. The original leaves a dangling pointer there."""
    for group in tuple(ifp.if_groups):
        _unlink(ifp, group)


def _leave(ifp: Ifnet, group: Group) -> None:
    events = ifp.kernel.events
    _unlink(ifp, group)
    if not group.ifg_members:
        events.invoke("group_detach_event", group)
    events.invoke("group_change_event", group.ifg_group)


def _unlink(ifp: Ifnet, group: Group) -> None:
    ifp.if_groups.remove(group)
    group.ifg_members.remove(ifp)
    ifp.kernel.freed("temp", 2)
    if not group.ifg_members:
        del group.groups[group.ifg_group]
        ifp.kernel.freed("temp")


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
