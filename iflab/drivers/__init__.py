"""NICs and pseudo-devices: what stands between an ifnet and a wire, or between ifnets.

``TapNic`` is the plain one, an Ethernet card above which Linux is the host. A
NIC of your own is a subclass; all it must keep is the contract of
``iflab.net.Driver``::

    class Repeater(TapNic):
        def if_start(self, ifp):
            while (m := ifp.if_snd.dequeue()) is not None:
                self.send(m)
                self.send(m)

NICs that fail in ways one can order are in ``faulty.py``.

Pseudo-devices are made by name (``ifconfig vlan create``, ``SIOCIFCREATE2``),
each in a file of its own:

============  ====================================================  =======================
``epair``     two NICs back to back (``epair0a``, ``epair0b``)        epair(4)
``lo``        everything sent comes back                            lo(4)
``disc``      everything sent is gone                               disc(4)
``vlan``      a tagged network on a parent                          IEEE 802.1Q, 802.1ad
``bridge``    a switch: learning, spanning tree, VLANs              IEEE 802.1D, 802.1w
``lagg``      several links as one                                  IEEE 802.1AX
============  ====================================================  =======================

Three more are no interfaces of their own but live on one: ``ng_ether`` (Python
nodes in the way of its frames), ``carp`` (an address that several hosts share),
and ``SwitchPort``, the NIC of a switch, which has no Linux above.

How they are used, from outside in:

* ``host.ifconfig("vlan0 create vlan 10 vlandev em0 192.0.2.1/24")``, as on
  FreeBSD, or the ioctls behind it with their records (``Vlanreq``, ``Ifbreq`` ...)
  through ``vnet.ioctl``. Whoever changes something holds the privilege for it.
* ``ifp.if_softc`` is the driver's object, with plain methods (``addm``, ``stats``)
  that expect the lab's lock (``lab.lock``) and privileges checked.
* ``lab.switch("sw", ports=8)`` makes a vnet without Linux whose NICs are members
  of one bridge.

How they are built: a ``Device`` is a ``TapNic`` without a plug. In a host it has a
TAP, so that Linux puts addresses on it; in a switch, or in a test, it has none and
nothing else changes. What the host sends arrives at ``send``; ``input`` hands a
frame to the host. The interface below is *claimed* (``ifp.if_claim``): its frames
then pass ``iflab/net/ethersubr.py``, which offers them to the devices through the
hooks of ``if.c`` and ``if_ethersubr.c``; ``load_devices`` fills these in. A device
follows its parent by ``ifnet_departure_event`` and the link-state hooks. Time comes
from ``Maker.clock``, so a test holds it still. Frames keep their packet header
(``iflab/net/mbuf.py``) all the way: checksums and the cutting that a host left
undone are done by the NIC whose wire needs it, however many devices are between.
"""

from __future__ import annotations

from .device import Device, Maker
from .express import Loop
from .load import load_devices
from .ng_ether import NgEther, NgHook, ng_ether_attach, ng_ether_detach
from .tap import TapNic, listeners_change

__all__ = [
    "Device",
    "Loop",
    "Maker",
    "NgEther",
    "NgHook",
    "TapNic",
    "listeners_change",
    "load_devices",
    "ng_ether_attach",
    "ng_ether_detach",
]
