"""NICs: what stands between an ifnet and a wire.

``TapNic`` is the plain one, an Ethernet card above which Linux is the host. A
NIC of your own is a subclass; all it must keep is the contract of
``iflab.net.Driver``::

    class Repeater(TapNic):
        def if_start(self, ifp):
            while (m := ifp.if_snd.dequeue()) is not None:
                self.send(m)
                self.send(m)

NICs that fail in ways one can order are in ``faulty.py``.
"""

from __future__ import annotations

from .tap import Loop, TapNic, listeners_change

__all__ = ["Loop", "TapNic", "listeners_change"]
