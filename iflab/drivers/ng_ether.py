"""Python nodes in the way of an interface's frames, like netgraph's ng_ether(4) (FreeBSD's ``netgraph/ng_ether.c``).

::

          protocols of the host
             ^            |
             |            v     hook "upper"
      . . . . . . . . . . . . .
             ^            |     hook "lower"
             |            v
             NIC and its wire

A connected ``lower`` gets every frame that came off the wire, instead of the host; a
connected ``upper`` every frame that the host sends, instead of the NIC. A frame sent
*into* ``lower`` goes out on the wire, one sent into ``upper`` up to the host. So the
node of nothing at all is two lines, and everything else is what stands between::

    node = ng_ether_attach(em0)
    lower = node.connect("lower", lambda frame: upper.send(frame))
    upper = node.connect("upper", lambda frame: lower.send(frame))

``orphans`` gets what comes off the wire and is no protocol's of the host (neither
IPv4 nor IPv6 nor ARP), instead of ``lower``; the two exclude each other. Functions
run with the lab's lock held and must not wait. One that raises loses its frame.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from iflab.net import (
    PKTHDR,
    Arpcom,
    Hooks,
    Ifnet,
    LinkState,
    Mbuf,
    as_mbuf,
    ether_demux,
)
from iflab.wire import Frame

__all__ = ["HOOKS", "NgEther", "NgHook", "load", "ng_ether_attach", "ng_ether_detach"]

_log = logging.getLogger("iflab.drivers")

HOOKS = ("lower", "upper", "orphans")
_OURS = (b"\x08\x00", b"\x86\xdd", b"\x08\x06")


class NgHook:
    """One end of a connection with the node; ``disconnect`` ends it and may be called twice."""

    __slots__ = ("fn", "name", "node", "on_link")

    def __init__(
        self,
        node: NgEther,
        name: str,
        fn: Callable[[Frame], object],
        on_link: Callable[[LinkState], object] | None,
    ) -> None:
        self.node = node
        self.name = name
        self.fn = fn
        self.on_link = on_link

    def send(self, frame: Any) -> None:
        """Send a frame into the node: a ``Frame``, octets or a scapy packet.

        Out on the wire from ``lower`` and ``orphans``, up to the host from ``upper``. Raises
        ENOTCONN when the hook is not connected any more, ``ValueError`` for what is no frame.
        """
        m = frame.to_mbuf() if isinstance(frame, Frame) else as_mbuf(frame)
        ifp = self.node.ifp
        with ifp.kernel.giant:
            if self.node.hooks.get(self.name) is not self:
                raise OSError(errno.ENOTCONN, f"{ifp.if_xname}: the hook {self.name} is not connected")
            if self.name != "upper":
                ifp.transmit_mbuf(m)
            elif (passed := ether_demux(ifp, m)) is not None:
                ifp.stack.input(ifp, passed)

    def disconnect(self) -> None:
        """End the connection: frames take their usual way again."""
        with self.node.ifp.kernel.giant:
            if self.node.hooks.get(self.name) is self:
                del self.node.hooks[self.name]


class NgEther:
    """The node of an interface; made by ``ng_ether_attach``, gone with the interface."""

    def __init__(self, ifp: Ifnet) -> None:
        self.ifp = ifp
        self.hooks: dict[str, NgHook] = {}

    def __repr__(self) -> str:
        return f"<NgEther {self.ifp.if_xname}: {', '.join(self.hooks) or 'nothing connected'}>"

    def connect(
        self,
        hook: str,
        fn: Callable[[Frame], object],
        on_link: Callable[[LinkState], object] | None = None,
    ) -> NgHook:
        """Let ``fn`` have every frame that leaves the node by ``hook``; ``on_link`` hears the link's changes.

        Raises EINVAL for a hook that does not exist, EISCONN for one that is
        connected, and for ``lower`` and ``orphans`` together.
        """
        if hook not in HOOKS:
            raise OSError(
                errno.EINVAL, f"{self.ifp.if_xname}: no hook is called {hook!r}; use {', '.join(HOOKS)}"
            )
        with self.ifp.kernel.giant:
            taken = {hook} if hook == "upper" else {"lower", "orphans"}
            if taken & set(self.hooks):
                raise OSError(errno.EISCONN, f"{self.ifp.if_xname}: the hook {hook} is in use; disconnect it")
            connected = self.hooks[hook] = NgHook(self, hook, fn, on_link)
            return connected

    def divert(self, name: str, m: Mbuf) -> bool:
        """Give a frame to whoever is connected to ``name``; False when nobody is."""
        hook = self.hooks.get(name)
        if hook is None:
            return False
        try:
            hook.fn(Frame(m))
        except Exception:
            _log.exception("%s: the node at hook %s lost its frame: %r", self.ifp.if_xname, name, hook.fn)
        return True


def ng_ether_attach(ifp: Ifnet) -> NgEther:
    """The node of an Ethernet interface, made at first use. Raises EPROTONOSUPPORT for one without Ethernet."""
    with ifp.kernel.giant:
        if not isinstance(ifp.if_l2com, Arpcom):
            raise OSError(errno.EPROTONOSUPPORT, f"{ifp.if_xname} is no Ethernet interface")
        if ifp.if_l2com.ac_netgraph is None:
            ifp.if_l2com.ac_netgraph = NgEther(ifp)
            ifp.if_claim("ng_ether")
        node: NgEther = ifp.if_l2com.ac_netgraph
        return node


def ng_ether_detach(ifp: Ifnet) -> None:
    """Disconnect everything and let the node go; nothing happens when there is none."""
    with ifp.kernel.giant:
        node = getattr(ifp.if_l2com, "ac_netgraph", None)
        if node is not None:
            node.hooks.clear()
            ifp.if_l2com.ac_netgraph = None
            ifp.if_claim("ng_ether", False)


def _input(ifp: Ifnet, m: Mbuf) -> Mbuf | None:
    node: NgEther = ifp.if_l2com.ac_netgraph
    if node.divert("lower", m):
        return None
    if m[PKTHDR + 12 : PKTHDR + 14] not in _OURS and node.divert("orphans", m):
        return None
    return m


def _output(ifp: Ifnet, m: Mbuf) -> Mbuf | None:
    node: NgEther = ifp.if_l2com.ac_netgraph
    return None if node.divert("upper", m) else m


def _link_state(ifp: Ifnet, state: LinkState) -> None:
    node: NgEther = ifp.if_l2com.ac_netgraph
    for name in ("lower", "orphans"):
        hook = node.hooks.get(name)
        if hook is None or hook.on_link is None:
            continue
        try:
            hook.on_link(state)
        except Exception:
            _log.exception("%s: the node at hook %s failed: %r", ifp.if_xname, name, hook.on_link)


def load(hooks: Hooks) -> None:
    """Fill in netgraph's hooks."""
    hooks.ng_ether_input_p = _input
    hooks.ng_ether_output_p = _output
    hooks.ng_ether_link_state_p = _link_state
