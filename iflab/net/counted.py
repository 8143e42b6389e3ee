"""Counted flags: promiscuous and all-multicast mode (sys/net/if.c 2656-2749, 2853-2861).

Several listeners may want the same mode. The first switches it on, the last
off; the driver hears of these two only. When the driver fails, count and flags
go back to what they were, switching off included (quirk 24).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import KernelPanic
from .flags import IFF
from .sockio import Ifreq

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = ["if_allmulti", "if_setflag", "ifpromisc"]


def if_setflag(ifp: Ifnet, flag: int, pflag: int, counter: str, onswitch: bool) -> None:
    """Count one holder more or less of ``flag`` in the attribute ``counter`` (2664-2727).

    ``pflag``, when set on the interface, makes the mode permanent: only the
    count changes, and neither driver nor log hears of it (quirk 23). Raises the
    driver's errno; panics when there is nobody left to let go.
    """
    if flag & (IFF.OACTIVE | IFF.RUNNING):
        raise KernelPanic(f"if_setflag: setting driver-owned flag {flag}", 2672)
    count: int = getattr(ifp, counter)
    if onswitch and count < 0:
        raise KernelPanic(f"if_setflag: increment negative refcount {count} for flag {flag}", 2676)
    if not onswitch and count <= 0:
        raise KernelPanic(f"if_setflag: decrement non-positive refcount {count} for flag {flag}", 2680)
    new_count = count + (1 if onswitch else -1)
    others = count if onswitch else new_count
    if ifp.if_flags & pflag or others:
        setattr(ifp, counter, new_count)
        return

    old_flags = ifp.if_flags
    setattr(ifp, counter, new_count)
    ifp.if_flags = (old_flags | flag) if onswitch else (old_flags & ~flag)
    try:
        ifp.driver_ioctl("SIOCSIFFLAGS", Ifreq(ifp.if_xname, ifr_flags=ifp.if_flags))
    except OSError:
        setattr(ifp, counter, count)
        ifp.if_flags = old_flags
        raise
    ifp.kernel.rtsock.rt_ifmsg(ifp)


def ifpromisc(ifp: Ifnet, pswitch: int) -> None:
    """One more (1) or one less (0) who wants every frame of the wire (2729-2749).

    Raises the driver's errno, EOPNOTSUPP without an ``if_ioctl``; panics when
    switched off more often than on.
    """
    with ifp.kernel.giant:
        before = ifp.if_flags
        if_setflag(ifp, IFF.PROMISC, IFF.PPROMISC, "if_pcount", bool(pswitch))
        if (ifp.if_flags ^ before) & IFF.PROMISC:
            mode = "enabled" if ifp.if_flags & IFF.PROMISC else "disabled"
            ifp.kernel.console.log("info", f"{ifp.if_xname}: promiscuous mode {mode}")


def if_allmulti(ifp: Ifnet, onswitch: int) -> None:
    """One more or one less who wants every multicast frame (2853-2861); errors as for ``ifpromisc``."""
    with ifp.kernel.giant:
        if_setflag(ifp, IFF.ALLMULTI, 0, "if_amcount", bool(onswitch))
