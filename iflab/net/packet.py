"""Scapy packets at the door of the interface layer: made octets without asking the machine.

Left to itself scapy fills an address that a packet leaves open from the machine's
own interfaces and routes, and sends ARP requests there. ``fill_in`` closes what is
open before scapy looks. scapy itself is not imported: packets are known by shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

__all__ = ["fill_in", "lacks_ethernet", "layers_of", "octets_of"]

_BLANKS = ("DestMACField", "SourceMACField", "SourceIPField", "SourceIP6Field")
_candidates: dict[type, tuple[Any, ...]] = {}
"""By class of layer: its fields that scapy would fill from the machine's network."""


def lacks_ethernet(packet: Any) -> bool:
    """True for a scapy packet that begins above Ethernet: with IP, ARP, a VLAN tag."""
    if any(kind.__name__ in ("Ether", "Dot3") for kind in type(packet).__mro__):
        return False
    return any(below.__name__ == "Ether" for below in packet.overload_fields)


def fill_in(packet: Any, mac: str = "00:00:00:00:00:00", addresses: Iterable[str] = ()) -> Any:
    """Return a scapy packet none of whose layers leaves an address open that scapy would fill in itself.

    It would ask the machine's interfaces and routes, and send ARP requests there.
    Sources become ``mac`` and the first of ``addresses`` that fits (0.0.0.0 and ::
    without one). A destination MAC becomes that of the IP group, or broadcast. The
    packet itself is not changed.
    """
    layers = list(layers_of(packet))
    blanks = [
        (number, field.name, kind)
        for number, layer in enumerate(layers)
        for field in _fillable(layer)
        if layer.getfieldval(field.name) is None and (kind := _kind(field, layer)) in _BLANKS
    ]
    if not blanks:
        return packet
    given = [ip_address(address) for address in addresses]
    filled = packet.copy()
    layers = list(layers_of(filled))
    for number, name, kind in blanks:
        value: str
        if kind == "SourceMACField":
            value = mac
        elif kind == "DestMACField":
            value = _group_mac(layers[number].payload)
        elif kind == "SourceIPField":
            value = next((str(a) for a in given if a.version == 4), "0.0.0.0")
        else:
            value = next((str(a) for a in given if a.version == 6), "::")
        layers[number].setfieldval(name, value)
    return filled


def layers_of(packet: Any) -> Iterable[Any]:
    """Yield a packet's layers, outermost first."""
    while packet:  # NoPayload is false
        yield packet
        packet = packet.payload


def _fillable(layer: Any) -> tuple[Any, ...]:
    fields = _candidates.get(type(layer))
    if fields is None:
        fields = _candidates[type(layer)] = tuple(
            field
            for field in layer.fields_desc
            if type(_bare(field)).__name__ in (*_BLANKS, "MultipleTypeField")
        )
    return fields


def _bare(field: Any) -> Any:
    while type(field).__name__ in ("Emph", "ConditionalField"):
        field = field.fld
    return field


def _kind(field: Any, layer: Any) -> str:
    field = _bare(field)
    if type(field).__name__ == "MultipleTypeField":  # of one type or another, as in ARP
        field = _bare(field._find_fld_pkt_val(layer, None)[0])
    return type(field).__name__


def _group_mac(payload: Any) -> str:
    """The MAC for what is sent to an IP group (RFC 1112, RFC 2464); broadcast for all else."""
    try:
        address = ip_address(str(payload.getfieldval("dst"))) if payload.name in ("IP", "IPv6") else None
    except ValueError:  # a set of addresses
        address = None
    if isinstance(address, IPv4Address) and address.is_multicast:
        return (b"\x01\x00\x5e" + (int(address) & 0x7FFFFF).to_bytes(3, "big")).hex(":")
    if isinstance(address, IPv6Address) and address.is_multicast:
        return (b"\x33\x33" + address.packed[12:]).hex(":")
    return "ff:ff:ff:ff:ff:ff"


def octets_of(frame: Any, mac: str = "00:00:00:00:00:00", addresses: Iterable[str] = ()) -> bytes:
    """Return the octets of a frame: ``bytes``, or a scapy packet, its open addresses filled in.

    Raises ``TypeError`` for a packet that has no Ethernet header.
    """
    if not hasattr(frame, "fields_desc"):
        return bytes(frame)
    if lacks_ethernet(frame):
        raise TypeError(
            f"a frame begins with its Ethernet header, this packet with {frame.name}; put Ether() / before it"
        )
    return bytes(fill_in(frame, mac, addresses))
