"""Patterns of frames, and how near a frame comes to one.

A pattern is an expression of tcpdump, a scapy packet whose set fields count
(``IP(dst="192.0.2.2") / UDP(dport=53)``), a scapy layer class, or a function of a
scapy packet.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import scapy.layers.inet
import scapy.layers.inet6  # noqa: F401 - without it IPv6 is Raw
from scapy.base_classes import Gen
from scapy.packet import NoPayload, Packet
from scapy.volatile import RandField

from iflab.bpf import Filter, FilterError, compile_filter
from iflab.wire.frame import dissect

__all__ = ["Miss", "Pattern"]

Miss = tuple[float, list[str]]
"""How near a frame came, from 0 to 1, and what was wrong with it, a line each."""


class Pattern:
    """What a frame should be.

    Raises ``FilterError``, ``TypeError`` for what is no pattern, and ``ValueError`` for a name of a port or
    the like that this machine does not know.
    """

    def __init__(self, what: str | Packet | type | Callable[[Packet], Any] | Pattern) -> None:
        __tracebackhide__ = True
        if isinstance(what, Pattern):
            what = what.what
        self.what: str | Packet | type | Callable[[Packet], Any] = what
        self._filter: Filter | None = None
        self._parts: list[tuple[str, Filter]] = []
        if isinstance(what, str):
            self._filter = compile_filter(what)
            for part in _conjuncts(what):
                try:
                    self._parts.append((part, compile_filter(part)))
                except FilterError:  # it means something only together with the others
                    self._parts = []
                    break
        elif isinstance(what, Packet):
            _check_names(what)
        elif not isinstance(what, type) and not callable(what):
            raise TypeError(
                f"{what!r} is no pattern; give an expression of tcpdump, a scapy packet or a function"
            )

    def __str__(self) -> str:
        if isinstance(self.what, str):
            return self.what or "any frame"
        if isinstance(self.what, Packet):
            return _text(self.what)
        code = getattr(self.what, "__code__", None)
        if code is not None and code.co_name == "<lambda>":
            return f"that fits the lambda at {os.path.basename(code.co_filename)}:{code.co_firstlineno}"
        return str(getattr(self.what, "__name__", repr(self.what)))

    def matches(self, octets: bytes) -> bool:
        """True when a frame is one."""
        if self._filter is not None:
            return self._filter(octets)
        if isinstance(self.what, Packet):
            return not _differences(self.what, dissect(octets))[1]
        if isinstance(self.what, type):
            return self.what in dissect(octets)
        return bool(self.what(dissect(octets)))  # type: ignore[operator]

    def miss(self, octets: bytes) -> Miss:
        """How near a frame comes that does not match, and what is wrong with it."""
        if self._filter is not None:
            wrong = [part for part, each in self._parts if not each(octets)]
            right = len(self._parts) - len(wrong)
            return right / max(1, len(self._parts)), [f"not: {part}" for part in wrong] if right else []
        if isinstance(self.what, Packet):
            return _differences(self.what, dissect(octets))
        return 0.0, []


def _conjuncts(expression: str) -> list[str]:
    """The parts of ``a and b and c``; one part when ``or`` or ``not`` makes it something else."""
    parts, depth, last = [], 0, 0
    for token in re.finditer(r"[()\[\]]|\b(?:and|or|not)\b|&&|\|\||!(?!=)", expression):
        word = token.group()
        if word in "([":
            depth += 1
        elif word in ")]":
            depth -= 1
        elif depth == 0 and word in ("or", "||"):
            return [expression]
        elif depth == 0 and word in ("and", "&&"):
            parts.append(expression[last : token.start()].strip())
            last = token.end()
    return [*parts, expression[last:].strip()]


def _layers(packet: Packet) -> list[Packet]:
    found = []
    while packet and not isinstance(packet, NoPayload):
        found.append(packet)
        packet = packet.payload
    return found


@cache
def _copied(kind: type[Packet]) -> frozenset[str]:
    """The fields that a packet of this kind has set before anybody did: scapy copies defaults that can be changed."""
    return frozenset(kind().fields)


def _chosen(layer: Packet) -> dict[str, Any]:
    """The fields that somebody set: not those that are as scapy copied them, nor empty lists."""
    copied = _copied(layer.__class__)
    return {
        name: value
        for name, value in layer.fields.items()
        if value is not None
        and value != []
        and not (
            name in copied and (_is_copy(value, layer.default_fields[name]) or isinstance(value, RandField))
        )
    }


def _is_copy(value: Any, default: Any) -> bool:
    """True for what scapy copied of a default: of a list it takes the very elements."""
    if isinstance(value, list) and isinstance(default, list):
        return len(value) == len(default) and all(map(operator.is_, value, default))
    return bool(value == default)


def _check_names(pattern: Packet) -> None:
    """Scapy refuses a name it does not know, but takes any where its table is empty, and no frame would have that."""
    for layer in _layers(pattern):
        for name, value in _chosen(layer).items():
            field = layer.get_field(name)
            if getattr(field, "s2i", None) == {} and any(
                isinstance(each, str) for each in (value if isinstance(value, list) else [value])
            ):
                raise ValueError(
                    f"{type(layer).__name__}.{name} is {value!r}, and this machine knows no such names; "
                    "give the number, or apt install netbase, which has those of ports and protocols"
                )


def _differences(pattern: Packet, packet: Packet) -> Miss:
    """Layers of ``pattern`` in their order, each with its set fields, looked for in ``packet``; the best place counts."""
    wanted = _layers(pattern)
    right, wrong = _aligned(wanted, _layers(packet))
    return right / max(1, sum(1 + len(_chosen(layer)) for layer in wanted)), wrong


def _aligned(wanted: list[Packet], there: list[Packet]) -> tuple[int, list[str]]:
    """How much is right, and what is wrong, where these layers fit best: in a tunnel there are several of a kind."""
    if not wanted:
        return 0, []
    first, rest = wanted[0], wanted[1:]
    right, wrong = _aligned(rest, there)
    best = right, [f"no {type(first).__name__}", *wrong]
    for place, layer in enumerate(there):
        if isinstance(layer, type(first)):
            own_right, own_wrong = _compared(first, layer)
            right, wrong = _aligned(rest, there[place + 1 :])
            if own_right + right > best[0]:
                best = own_right + right, own_wrong + wrong
    return best


def _compared(wanted: Packet, layer: Packet) -> tuple[int, list[str]]:
    right, wrong = 1, []
    for name, value in _chosen(wanted).items():
        found = layer.getfieldval(name)
        if _equal(wanted, layer, name, value, found):
            right += 1
        else:
            wrong.append(
                f"{type(wanted).__name__}.{name} is {_shown(layer, name, found)}, wanted {_shown(wanted, name, value)}"
            )
    return right, wrong


def _equal(wanted: Packet, layer: Packet, name: str, value: Any, found: Any) -> bool:
    if value == found:
        return True
    field = wanted.get_field(name)
    if isinstance(value, Gen):  # a network, or another set of values of scapy's
        return found in value
    if isinstance(value, list) and not field.islist:  # scapy's way to write several values
        return any(_equal(wanted, layer, name, each, found) for each in value)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return isinstance(found, int) and value[0] <= found <= value[1]  # a range, as scapy writes it
    try:
        return bool(field.any2i(wanted, value) == field.any2i(layer, found))
    except Exception:  # a field that cannot be read so is another
        return False


def _shown(layer: Packet, name: str, value: Any) -> str:
    try:
        return str(layer.get_field(name).i2repr(layer, value))
    except Exception:  # scapy's fields print what they can
        return repr(value)


def _text(packet: Packet) -> str:
    parts = []
    for layer in _layers(packet):
        fields = ", ".join(f"{name}={_shown(layer, name, value)}" for name, value in _chosen(layer).items())
        parts.append(f"{type(layer).__name__}({fields})")
    return " / ".join(parts)
