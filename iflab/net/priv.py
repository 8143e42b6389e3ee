"""Who calls, and what they may do (``sys/priv.h``, ``sys/jail.h``).

Every privilege that the interface layer asks for is named here. A caller is a
``Thread``: it sits in a prison, and each prison has its own vnet.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import refuse

if TYPE_CHECKING:
    from .vnet import Vnet

__all__ = ["Prison", "Priv", "Thread", "allow_all", "allow_none"]


class Priv(enum.StrEnum):
    """The privileges of the interface layer."""

    SYSCTL_WRITE = "PRIV_SYSCTL_WRITE"
    NET_SETIFDESCR = "PRIV_NET_SETIFDESCR"
    NET_SETIFFIB = "PRIV_NET_SETIFFIB"
    NET_SETIFFLAGS = "PRIV_NET_SETIFFLAGS"
    NET_SETIFCAP = "PRIV_NET_SETIFCAP"
    NET_SETIFNAME = "PRIV_NET_SETIFNAME"
    NET_SETIFVNET = "PRIV_NET_SETIFVNET"
    NET_SETIFMETRIC = "PRIV_NET_SETIFMETRIC"
    NET_SETIFPHYS = "PRIV_NET_SETIFPHYS"
    NET_SETIFMTU = "PRIV_NET_SETIFMTU"
    NET_ADDIFADDR = "PRIV_NET_ADDIFADDR"
    NET_DELIFADDR = "PRIV_NET_DELIFADDR"
    NET_ADDMULTI = "PRIV_NET_ADDMULTI"
    NET_DELMULTI = "PRIV_NET_DELMULTI"
    NET_HWIOCTL = "PRIV_NET_HWIOCTL"
    NET_SETLLADDR = "PRIV_NET_SETLLADDR"
    NET_ADDIFGROUP = "PRIV_NET_ADDIFGROUP"
    NET_DELIFGROUP = "PRIV_NET_DELIFGROUP"
    NET_IFCREATE = "PRIV_NET_IFCREATE"
    NET_IFDESTROY = "PRIV_NET_IFDESTROY"
    NET_BRIDGE = "PRIV_NET_BRIDGE"
    NET_LAGG = "PRIV_NET_LAGG"
    NET_VLAN = "PRIV_NET_VLAN"
    NETINET_CARP = "PRIV_NETINET_CARP"
    NETINET_ND6 = "PRIV_NETINET_ND6"


def allow_all(priv: Priv) -> bool:
    """Hold every privilege: root, and the owner of the lab."""
    return True


def allow_none(priv: Priv) -> bool:
    """Hold none: may look, may not touch."""
    return False


@dataclass(slots=True, eq=False)
class Prison:
    """A jail with its own vnet; ``pr_id`` is its jid."""

    pr_id: int
    pr_vnet: Vnet


@dataclass(slots=True)
class Thread:
    """A caller: its prison and the privileges that it holds."""

    prison: Prison
    holds: Callable[[Priv], bool] = allow_all

    def priv_check(self, priv: Priv) -> None:
        """Raise EPERM unless the caller holds ``priv`` (called at 2187-2499, 2566, 2575, 2583)."""
        if not self.holds(priv):
            raise refuse(errno.EPERM, f"the caller lacks {priv}")
