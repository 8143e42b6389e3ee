"""Interfaces made by name (``net/if_clone.c``; called at sys/net/if.c 365, 376, 2573-2590).

A cloner makes interfaces of one kind: ``vlan`` makes ``vlan0``, ``vlan1`` and so
on, or the next free one when it is asked for ``vlan``. Each joins the group of
that name. Cloners are registered with the kernel and serve all its vnets.
"""

from __future__ import annotations

import errno
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import refuse
from .flags import IFNAMSIZ

if TYPE_CHECKING:
    from .ifnet import Ifnet
    from .kernel import Kernel
    from .vnet import Vnet

__all__ = ["Cloner", "Cloners"]

_NAME = re.compile(r"([^0-9]*)([0-9]*)\Z")
_INT_MAX = 0x7FFFFFFF
_IF_MAXUNIT = 0x7FFF
"""The highest unit of a kind (``net/if_var.h``)."""


@dataclass(slots=True)
class Cloner:
    """A kind of interface: its name, how one is made (attached already) and how it is unmade.

    ``create(vnet, name, unit, params)`` returns the attached interface;
    ``destroy(ifp)`` detaches and frees it. Units below ``minifs`` are there for good.
    """

    name: str
    create: Callable[[Vnet, str, int, Any], Ifnet]
    destroy: Callable[[Ifnet], None]
    minifs: int = 0
    match: Callable[[Vnet, str], bool] | None = None
    """Knows names of another form that this kind makes too, such as ``em0.10``."""
    suffixes: tuple[str, ...] = ("",)
    """What follows kind and unit in the names of the interfaces that one creation makes (``epair0a``, ``epair0b``)."""

    def is_taken(self, vnet: Vnet, unit: int) -> bool:
        """True when ``vnet`` has an interface of one of the names that this unit would have."""
        return any(vnet.ifunit(f"{self.name}{unit}{suffix}") is not None for suffix in self.suffixes)


class Cloners:
    """The cloners of a kernel, in the order in which they were registered."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._cloners: dict[str, Cloner] = {}
        self._made: weakref.WeakKeyDictionary[Ifnet, Vnet] = weakref.WeakKeyDictionary()
        """What was made by name, and where: its unit is its own as long as it is, whatever it is called."""

    def register(self, cloner: Cloner) -> None:
        """Offer a kind of interface (``if_clone_simple`` of ``net/if_clone.c``). Raises EEXIST when the name is taken."""
        if cloner.name in self._cloners:
            raise refuse(errno.EEXIST, f"a cloner {cloner.name!r} is registered already")
        self._cloners[cloner.name] = cloner

    def if_clone_create(self, vnet: Vnet, name: str, params: Any = None) -> str:
        """Make the interface ``name``, or the first free of that kind; return its full name (called at 2577).

        Raises EEXIST when there is an interface of that name or unit, EINVAL for an unknown kind or a
        unit that is no plain number, ENOSPC for one above 32767, and what the kind itself refuses.
        """
        with self.kernel.giant:
            if vnet.ifunit(name) is not None:
                raise refuse(errno.EEXIST, f"there is an interface {name} already")
            for other in self._cloners.values():
                if other.match is not None and other.match(vnet, name):
                    return self._create_named(other, vnet, name, params)
            found = _NAME.match(name)
            cloner = self._cloners.get(found[1]) if found else None
            if found is None or cloner is None:
                known = ", ".join(self._cloners) or "none"
                raise refuse(errno.EINVAL, f"no kind of interface makes {name!r}; there are {known}")
            digits = found[2]
            longest = len(name) + max(map(len, cloner.suffixes))
            if (len(digits) > 1 and digits[0] == "0") or longest >= IFNAMSIZ:
                raise refuse(errno.EINVAL, f"{name!r} is no interface name: {digits} is no plain unit number")
            if int(digits or "0") > _INT_MAX:
                raise refuse(errno.EINVAL, f"{name!r} is no interface name: {digits} is no unit number")
            unit = self._unit(cloner, vnet, int(digits) if digits else None)
            return self._create(cloner, vnet, f"{cloner.name}{unit}", unit, params)

    def _create_named(self, cloner: Cloner, vnet: Vnet, name: str, params: Any) -> str:
        if len(name) >= IFNAMSIZ:
            raise refuse(errno.EINVAL, f"{name!r} has {len(name)} octets; an interface name has 15 at most")
        return self._create(cloner, vnet, name, self._unit(cloner, vnet, None), params)

    def _unit(self, cloner: Cloner, vnet: Vnet, wanted: int | None) -> int:
        """The unit that is wanted, or the first that is free (``ifc_alloc_unit``). Raises EEXIST, ENOSPC."""
        held = {
            ifp.if_dunit
            for ifp, where in self._made.items()
            if where is vnet
            and ifp.if_dname == cloner.name
            and ifp.if_vnet is not None
            and ifp.if_vnet.lists(ifp)
        }

        def is_free(unit: int) -> bool:
            return unit not in held and not cloner.is_taken(vnet, unit)

        units = range(_IF_MAXUNIT + 1)
        if wanted is None:
            found = next(filter(is_free, units), None)
            if found is None:
                raise refuse(errno.ENOSPC, f"{vnet.name} has a {cloner.name} of every unit")
            return found
        if wanted not in units:
            raise refuse(errno.ENOSPC, f"{cloner.name}{wanted}: the highest unit is {_IF_MAXUNIT}")
        if not is_free(wanted):
            raise refuse(
                errno.EEXIST, f"there is an interface {cloner.name}{wanted} already, perhaps by another name"
            )
        return wanted

    def _create(self, cloner: Cloner, vnet: Vnet, name: str, unit: int, params: Any) -> str:
        before = set(vnet.ifnets())
        ifp = cloner.create(vnet, name, unit, params)
        for made in vnet.ifnets():
            if made not in before:  # a creation may make two
                self._made[made] = vnet
        ifp.if_addgroup(cloner.name)
        return ifp.if_xname

    def if_clone_destroy(self, vnet: Vnet, name: str) -> None:
        """Unmake an interface (called at 2585).

        Raises ENXIO when there is none or it was not made by name, EINVAL when it is of no kind that is or
        must stay, and what the kind itself refuses: then it stays in the kind's group.
        """
        with self.kernel.giant:
            ifp = vnet.ifunit(name)
            if ifp is None:
                raise refuse(errno.ENXIO, f"there is no interface {name}")
            cloner = self._cloners.get(ifp.if_dname)
            if cloner is None or (ifp.if_dunit is not None and ifp.if_dunit < cloner.minifs):
                raise refuse(errno.EINVAL, f"{name} was not made by name and cannot be destroyed so")
            if ifp not in self._made:
                raise refuse(errno.ENXIO, f"{name} was not made by name and cannot be destroyed so")
            grouped = any(group.ifg_group == cloner.name for group in ifp.if_groups)
            if grouped:
                ifp.if_delgroup(cloner.name)
            try:
                cloner.destroy(ifp)
            except BaseException:
                if grouped and ifp.if_refcount:
                    ifp.if_addgroup(cloner.name)
                raise
            self._made.pop(ifp, None)

    def if_clone_list(self, vnet: Vnet) -> list[str]:
        """The kinds that there are (called at 2590)."""
        return list(self._cloners)
