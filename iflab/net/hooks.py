"""Hooks that devices elsewhere fill in (sys/net/if.c 128-152, 1973-1979).

The interface layer calls them at the right moments and works without any of
them. Where the original calls a hook without asking whether it is there, this
one asks (quirks 37 and 44). The devices live in ``iflab/drivers/``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .flags import LinkState
from .sockaddr import Sockaddr

if TYPE_CHECKING:
    from .ifaddr import Ifaddr
    from .ifnet import Ifnet
    from .ifqueue import Ifqueue
    from .mbuf import Mbuf
    from .priv import Thread

__all__ = ["Hooks"]


@dataclass(slots=True)
class Hooks:
    """One field per hook; None: the device is not loaded."""

    # bridge, netgraph, lagg
    bridge_linkstate_p: Callable[[Ifnet], None] | None = None
    ng_ether_link_state_p: Callable[[Ifnet, LinkState], None] | None = None
    lagg_linkstate_p: Callable[[Ifnet, LinkState], None] | None = None

    # frames of an interface that somebody claims (net/ethersubr.py): None when taken, else what goes on
    lagg_input_p: Callable[[Ifnet, Mbuf], Mbuf | None] | None = None
    ng_ether_input_p: Callable[[Ifnet, Mbuf], Mbuf | None] | None = None
    ng_ether_output_p: Callable[[Ifnet, Mbuf], Mbuf | None] | None = None
    bridge_input_p: Callable[[Ifnet, Mbuf], Mbuf | None] | None = None
    bridge_output_p: Callable[[Ifnet, Mbuf], Mbuf | None] | None = None
    carp_input_p: Callable[[Ifnet, Mbuf], Mbuf | None] | None = None
    vlan_input_p: Callable[[Ifnet, Mbuf], Mbuf | None] | None = None

    # carp
    carp_linkstate_p: Callable[[Ifnet], None] | None = None
    carp_demote_adj_p: Callable[[int, str], None] | None = None
    carp_master_p: Callable[[Ifaddr], bool] | None = None
    carp_forus_p: Callable[[Ifnet, bytes], bool] | None = None
    carp_output_p: Callable[[Ifnet, Mbuf, Sockaddr | None], Mbuf | None] | None = None
    carp_ioctl_p: Callable[[Any, str, Thread], None] | None = None
    carp_attach_p: Callable[[Ifaddr, int], None] | None = None
    carp_detach_p: Callable[[Ifaddr], None] | None = None
    carp_remove_p: Callable[[Ifnet, Sockaddr], bool] | None = None
    """Takes a shared address away for good, whoever has it at the moment; False when it is not shared."""
    carp_iamatch_p: Callable[[Ifaddr], bytes | None] | None = None
    carp_iamatch6_p: Callable[[Ifnet, Sockaddr], Ifaddr | None] | None = None
    carp_macmatch6_p: Callable[[Ifnet, Mbuf, Sockaddr], bytes | None] | None = None

    # vlan
    vlan_link_state_p: Callable[[Ifnet], None] | None = None
    vlan_trunk_cap_p: Callable[[Ifnet], None] | None = None
    vlan_trunkdev_p: Callable[[Ifnet], Ifnet | None] | None = None
    vlan_devat_p: Callable[[Ifnet, int], Ifnet | None] | None = None
    vlan_tag_p: Callable[[Ifnet], int] | None = None
    vlan_setcookie_p: Callable[[Ifnet, Any], None] | None = None
    vlan_cookie_p: Callable[[Ifnet], Any] | None = None

    # ALTQ's token-bucket regulator: (queue, poll only?) -> frame
    tbr_dequeue_ptr: Callable[[Ifqueue, bool], Mbuf | None] | None = None
