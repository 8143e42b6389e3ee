"""Interfaces made by name (``net/if_clone.c``; called at sys/net/if.c 365, 376, 2573-2590).

A cloner makes interfaces of one kind: ``vlan`` makes ``vlan0``, ``vlan1`` and so
on, or the next free one when it is asked for ``vlan``. Each joins the group of
that name. Cloners are registered with the kernel and serve all its vnets.
"""

from __future__ import annotations

import errno
import re
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
        """True when an interface of that unit exists in ``vnet``."""
        return any(vnet.ifunit(f"{self.name}{unit}{suffix}") is not None for suffix in self.suffixes)


class Cloners:
    """The cloners of a kernel, in the order in which they were registered."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._cloners: dict[str, Cloner] = {}

    def register(self, cloner: Cloner) -> None:
        """Offer a kind of interface (``if_clone_simple`` of ``net/if_clone.c``). Raises EEXIST when the name is taken."""
        if cloner.name in self._cloners:
            raise refuse(errno.EEXIST, f"a cloner {cloner.name!r} is registered already")
        self._cloners[cloner.name] = cloner

    def if_clone_create(self, vnet: Vnet, name: str, params: Any = None) -> str:
        """Make the interface ``name``, or the first free of that kind; return its full name (called at 2577).

        Raises EINVAL for an unknown kind or a unit that is no plain number,
        EEXIST when there is one of that name, and what the kind itself refuses.
        """
        with self.kernel.giant:
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
            if digits:
                unit = int(digits)
                if cloner.is_taken(vnet, unit):
                    raise refuse(errno.EEXIST, f"there is an interface {name} already")
            else:
                unit = next(n for n in range(2**16) if not cloner.is_taken(vnet, n))
            ifp = cloner.create(vnet, f"{cloner.name}{unit}", unit, params)
            ifp.if_addgroup(cloner.name)
            return ifp.if_xname

    @staticmethod
    def _create_named(cloner: Cloner, vnet: Vnet, name: str, params: Any) -> str:
        if len(name) >= IFNAMSIZ:
            raise refuse(errno.EINVAL, f"{name!r} has {len(name)} octets; an interface name has 15 at most")
        if vnet.ifunit(name) is not None:
            raise refuse(errno.EEXIST, f"there is an interface {name} already")
        unit = next(n for n in range(2**16) if not cloner.is_taken(vnet, n))
        ifp = cloner.create(vnet, name, unit, params)
        ifp.if_addgroup(cloner.name)
        return ifp.if_xname

    def if_clone_destroy(self, vnet: Vnet, name: str) -> None:
        """Unmake an interface (called at 2585).

        Raises ENXIO when there is none, EINVAL when it was not made by name or must stay.
        """
        with self.kernel.giant:
            ifp = vnet.ifunit(name)
            if ifp is None:
                raise refuse(errno.ENXIO, f"there is no interface {name}")
            cloner = self._cloners.get(ifp.if_dname)
            if cloner is None or (ifp.if_dunit is not None and ifp.if_dunit < cloner.minifs):
                raise refuse(errno.EINVAL, f"{name} was not made by name and cannot be destroyed so")
            if any(group.ifg_group == cloner.name for group in ifp.if_groups):
                ifp.if_delgroup(cloner.name)
            cloner.destroy(ifp)

    def if_clone_list(self, vnet: Vnet) -> list[str]:
        """The kinds that there are (called at 2590)."""
        return list(self._cloners)
