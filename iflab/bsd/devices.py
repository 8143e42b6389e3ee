"""What ``ifconfig`` knows of pseudo-devices: their parameters, and the lines that show them.

One table of parameters and one function per kind, in the syntax and layout of
ifconfig(8). The ioctls behind them are those of ``iflab/drivers``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from iflab.drivers.vlan import Vlan, Vlanreq
from iflab.net import Ifnet, Thread, Vnet

from .command import CommandError

__all__ = ["DEVICE_PARAMETERS", "Run", "device_lines", "finish_devices"]


class Run(Protocol):
    """A command line being carried out."""

    vnet: Vnet
    td: Thread
    name: str
    pending: dict[str, Any]
    """What only takes effect together with what else is written."""

    def ioctl(self, cmd: str, what: str, **fields: Any) -> Any:
        """Make an ioctl on the interface. Raises ``CommandError``."""

    def number(self, text: str, what: str) -> int:
        """Read a number. Raises ``CommandError``."""


Action = Callable[..., None]


def _bounded(run: Run, text: str, what: str, least: int, most: int) -> int:
    value = run.number(text, what)
    if not least <= value <= most:
        raise CommandError(f"ifconfig: {what}: {least} to {most}, not {text}")
    return value


# vlan

_PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}


def _vlan_tag(run: Run, word: str, tag: str) -> None:
    run.pending["vlan"] = _bounded(run, tag, "vlan", 1, 4094)


def _vlan_dev(run: Run, word: str, parent: str) -> None:
    run.pending["vlandev"] = parent


def _vlan_proto(run: Run, word: str, name: str) -> None:
    if name.lower() not in _PROTOCOLS:
        raise CommandError(f"ifconfig: a vlanproto is 802.1q or 802.1ad, not {name!r}")
    run.pending["vlanproto"] = _PROTOCOLS[name.lower()]


def _vlan_pcp(run: Run, word: str, pcp: str) -> None:
    value = _bounded(run, pcp, "vlanpcp", 0, 7)
    _finish_vlan(run)
    run.ioctl("SIOCSVLANPCP", "SIOCSVLANPCP", ifr_data=value)


def _vlan_leave(run: Run, word: str, *parent: str) -> None:
    run.ioctl("SIOCSETVLAN", "SIOCSETVLAN", ifr_data=Vlanreq())


def _finish_vlan(run: Run) -> None:
    wanted = {key: run.pending.pop(key) for key in ("vlan", "vlandev", "vlanproto") if key in run.pending}
    if not wanted:
        return
    now: Vlanreq = run.ioctl("SIOCGETVLAN", "SIOCGETVLAN").ifr_data
    request = Vlanreq(
        wanted.get("vlandev", now.vlr_parent),
        wanted.get("vlan", now.vlr_tag),
        wanted.get("vlanproto", now.vlr_proto),
    )
    if not request.vlr_parent or not request.vlr_tag:
        raise CommandError("ifconfig: must specify both vlan and vlandev")
    run.ioctl("SIOCSETVLAN", "SIOCSETVLAN", ifr_data=request)


def _vlan_lines(vlan: Vlan) -> list[str]:
    proto = {b"\x81\x00": "802.1q", b"\x88\xa8": "802.1ad"}[vlan.proto]
    parent = vlan.parent.if_xname if vlan.parent is not None else "<none>"
    return [f"\tvlan: {vlan.vid} vlanproto: {proto} vlanpcp: {vlan.pcp} parent interface: {parent}"]


DEVICE_PARAMETERS: dict[str, tuple[int, Action]] = {
    "vlan": (1, _vlan_tag),
    "vlandev": (1, _vlan_dev),
    "vlanproto": (1, _vlan_proto),
    "vlanpcp": (1, _vlan_pcp),
    "-vlandev": (0, _vlan_leave),
}
"""Words that an ``ifconfig`` command line may hold, how many values follow each, and what is done."""


def finish_devices(run: Run) -> None:
    """Carry out what waited for the end of the line. Raises ``CommandError``."""
    _finish_vlan(run)


def device_lines(ifp: Ifnet) -> list[str]:
    """The lines of ``ifconfig em0`` that speak of its device."""
    if isinstance(ifp.if_softc, Vlan):
        return _vlan_lines(ifp.if_softc)
    return []
