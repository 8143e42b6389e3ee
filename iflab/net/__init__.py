"""FreeBSD's interface layer: ``sys/net/if.c`` in Python.

Lines cited anywhere in this package as ``sys/net/if.c`` or by bare number are
those of FreeBSD revision cc3f4b99653c. "Quirk N" is row N of the table of the
original's oddities in ``tests/quirks``; a docstring names it where this port
keeps one on purpose or does better.

Nothing here touches the machine. Below is a ``Driver``, above a ``Stack``; both
are small classes, and tests supply recording ones::

                 protocols            Stack      (iflab/stack.py: Linux)
                     |
      if_input  ^    |    if_transmit
                |    v
              +---------+
              |  ifnet  |   vnet tables, groups, addresses, multicast,
              +---------+   ioctls, link state, events, routing messages
                |    |
                |    v    if_snd -> if_start
                     |
                   driver             Driver     (iflab/drivers)

A ``Kernel`` is one machine; it has vnets, and those have interfaces::

    kernel = Kernel()
    vnet = kernel.vnet_alloc("vnet0")
    ifp = vnet.if_alloc(IFT.ETHER)
    ifp.if_initname("em", 0)
    ifp.if_driver = MyDriver()
    ether_ifattach(ifp, b"\\x02\\0\\0\\0\\0\\x01")

An errno of the original is an ``OSError`` with that errno and leaves everything
as it was; a broken promise is a ``KernelPanic``.
"""

from __future__ import annotations

from .attach import if_attachdomain
from .bpf import BpfSide, BpfTap, bpf_ifdetach, bpf_mtap, bpf_peers_present, bpfattach, bpfdetach
from .clock import Clock, ManualClock, Timer
from .clone import Cloner
from .driver import DeadDriver, Driver
from .errors import ENOIOCTL, KernelPanic, errno_name, report
from .ethernet import (
    Arpcom,
    arpcom_alloc,
    arpcom_free,
    ether_ifattach,
    ether_resolvemulti,
)
from .ethersubr import (
    ETHERTYPE_QINQ,
    ETHERTYPE_VLAN,
    ether_demux,
    ether_demux_local,
    ether_input,
    ether_output,
)
from .flags import (
    IFCAP,
    IFF,
    IFG_ALL,
    IFNAMSIZ,
    IFT,
    IN6_IFF,
    ND6_IFF,
    PRC,
    RTF,
    AddressFamily,
    LinkState,
    flag_names,
)
from .group import Group
from .hooks import Hooks
from .ifaddr import (
    Ifaddr,
    ifa_add_loopback_route,
    ifa_alloc,
    ifa_del_loopback_route,
    ifa_switch_loopback_route,
)
from .ifnet import FRAME_MAX, FRAME_MIN, Ifnet, as_mbuf, if_handoff
from .ifqueue import Discipline, Ifqueue
from .ioctl import Socket, ifioctl
from .kernel import Kernel
from .linkroute import link_init_sdl, link_rtrequest
from .mbuf import NO_PKTHDR, PKTHDR, Mbuf, frame_of, is_broadcast, is_multicast, mbuf
from .multi import Ifmultiaddr, if_delmulti_ifma
from .offload import ACCEPTS_ALL, ACCEPTS_CSUM, ACCEPTS_GSO, OffloadError, finish, is_unfinished, wire_frames
from .priv import Prison, Priv, Thread
from .route import RTM, RtAddrinfo, Rtentry
from .sockaddr import (
    Sockaddr,
    SockaddrDl,
    SockaddrIn,
    SockaddrIn6,
    as_sockaddr,
    link_alloc_sdl,
    link_free_sdl,
    lladdr,
)
from .sockio import Ifaliasreq, Ifconf, Ifgroupreq, Ifreq, UserBuffer
from .stack import Domain, Stack
from .sysctl import VnetSetting
from .taskqueue import Task, TaskQueue
from .vnet import Vnet

__all__ = [
    "ACCEPTS_ALL",
    "ACCEPTS_CSUM",
    "ACCEPTS_GSO",
    "ENOIOCTL",
    "ETHERTYPE_QINQ",
    "ETHERTYPE_VLAN",
    "FRAME_MAX",
    "FRAME_MIN",
    "IFCAP",
    "IFF",
    "IFG_ALL",
    "IFNAMSIZ",
    "IFT",
    "IN6_IFF",
    "ND6_IFF",
    "NO_PKTHDR",
    "PKTHDR",
    "PRC",
    "RTF",
    "RTM",
    "AddressFamily",
    "Arpcom",
    "BpfSide",
    "BpfTap",
    "Clock",
    "Cloner",
    "DeadDriver",
    "Discipline",
    "Domain",
    "Driver",
    "Group",
    "Hooks",
    "Ifaddr",
    "Ifaliasreq",
    "Ifconf",
    "Ifgroupreq",
    "Ifmultiaddr",
    "Ifnet",
    "Ifqueue",
    "Ifreq",
    "Kernel",
    "KernelPanic",
    "LinkState",
    "ManualClock",
    "Mbuf",
    "OffloadError",
    "Prison",
    "Priv",
    "RtAddrinfo",
    "Rtentry",
    "Sockaddr",
    "SockaddrDl",
    "SockaddrIn",
    "SockaddrIn6",
    "Socket",
    "Stack",
    "Task",
    "TaskQueue",
    "Thread",
    "Timer",
    "UserBuffer",
    "Vnet",
    "VnetSetting",
    "arpcom_alloc",
    "arpcom_free",
    "as_mbuf",
    "as_sockaddr",
    "bpf_ifdetach",
    "bpf_mtap",
    "bpf_peers_present",
    "bpfattach",
    "bpfdetach",
    "errno_name",
    "ether_demux",
    "ether_demux_local",
    "ether_ifattach",
    "ether_input",
    "ether_output",
    "ether_resolvemulti",
    "finish",
    "flag_names",
    "frame_of",
    "if_attachdomain",
    "if_delmulti_ifma",
    "if_handoff",
    "ifa_add_loopback_route",
    "ifa_alloc",
    "ifa_del_loopback_route",
    "ifa_switch_loopback_route",
    "ifioctl",
    "is_broadcast",
    "is_multicast",
    "is_unfinished",
    "link_alloc_sdl",
    "link_free_sdl",
    "link_init_sdl",
    "link_rtrequest",
    "lladdr",
    "mbuf",
    "report",
    "wire_frames",
]
