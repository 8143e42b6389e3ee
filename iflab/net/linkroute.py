"""Link-level routes and addresses (sys/net/if.c 1865-1924)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lookup import find_best_on_interface
from .route import RTM, RtAddrinfo, Rtentry
from .sockaddr import SDL_SIZE, SockaddrDl

if TYPE_CHECKING:
    from .ifnet import Ifnet

__all__ = ["link_init_sdl", "link_rtrequest"]


def link_rtrequest(cmd: RTM, rt: Rtentry, info: RtAddrinfo | None) -> None:
    """Give a new route with a link-level gateway a real address of its interface (1872-1892)."""
    if cmd is not RTM.ADD or rt.rt_ifa is None or rt.rt_ifa.ifa_ifp is None:
        return
    ifa = find_best_on_interface(rt.rt_ifa.ifa_ifp, rt.rt_key)
    if ifa is None:
        return
    ifa.ifa_ref()
    old, rt.rt_ifa = rt.rt_ifa, ifa
    old.ifa_free()
    if ifa.ifa_rtrequest is not None and ifa.ifa_rtrequest is not link_rtrequest:
        ifa.ifa_rtrequest(cmd, rt, info)


def link_init_sdl(ifp: Ifnet, sdl: SockaddrDl, iftype: int) -> SockaddrDl:
    """Fill ``sdl`` with the interface's index and ``iftype``; all else is as in a fresh one (1911-1924)."""
    sdl.sa_len = SDL_SIZE
    sdl.sdl_index = ifp.if_index
    sdl.sdl_type = iftype
    sdl.sdl_name = ""
    sdl.sdl_lladdr = b""
    return sdl
