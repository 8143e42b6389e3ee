"""Finding the octets of a field of scapy's in a frame, to change a bit of it and nothing else."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from random import Random
from typing import Any

from iflab.net.packet import layers_of, octets_of
from iflab.wire.frame import dissect, load_scapy

from .errors import FaultError

__all__ = ["check_field", "flip_in_field"]

_log = logging.getLogger("iflab.faults")


def check_field(name: str) -> None:
    """Raise ``FaultError`` for a field (``"IP.ttl"``) of no layer that scapy has loaded."""
    load_scapy()
    from scapy.packet import Packet

    kind, _, field_name = name.partition(".")
    layers: dict[str, set[str]] = {}
    todo = [Packet]
    while todo:
        todo += (layer := todo.pop()).__subclasses__()
        layers.setdefault(layer.__name__, set()).update(field.name for field in layer.fields_desc)
    if kind not in layers:
        near = _like(kind, layers) or "import the module of scapy.contrib that has it"
        raise FaultError(f"{name!r}: scapy has loaded no layer {kind!r}; {near}")
    if field_name not in layers[kind]:
        fields = ", ".join(sorted(layers[kind])) or "none"
        raise FaultError(f"{name!r}: the layer {kind} has no field {field_name!r}; it has {fields}")


def _like(name: str, names: Iterable[str]) -> str:
    same = [each for each in names if each.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, list(names), 1)
    return f"did you mean {near[0]}?" if near else ""


def flip_in_field(octets: bytes, name: str, random: Random) -> list[list[int]]:
    """Masks ``[octet, mask]`` that flip one random bit of the field ``name`` (``"IP.ttl"``); none when it is not there.

    The packet is built as it is and with the bit flipped; where the two differ is
    where the field lies. scapy's field types need say nothing of offsets for that.
    """
    kind, _, field_name = name.partition(".")
    packet = dissect(octets)
    layer = next((each for each in layers_of(packet) if type(each).__name__ == kind), None)
    if layer is None or field_name not in layer.fields:
        return []
    try:
        before = octets_of(packet)
        _flip(layer, field_name, random)
        after = octets_of(packet)
    except Exception:
        _log.debug("cannot flip a bit of %s in %s", name, octets.hex(), exc_info=True)
        return []
    if len(before) != len(after):
        return []
    return [[at, old ^ new] for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]


def _flip(layer: Any, name: str, random: Random) -> None:
    field, value = layer.getfield_and_val(name)
    wire = field.i2m(layer, value)
    if isinstance(wire, (bytes, bytearray)):
        changed = bytearray(wire)
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
        layer.setfieldval(name, field.m2i(layer, bytes(changed)))
        return
    width = getattr(field, "size", None)  # a field of bits
    if width is None:
        width = 8 * int(field.sz)
    layer.setfieldval(name, field.m2i(layer, int(wire) ^ 1 << random.randrange(abs(width))))
