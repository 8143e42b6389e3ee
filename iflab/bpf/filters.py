"""Filter expressions of tcpdump (pcap-filter(7)), compiled and run by libpcap.

libpcap is reached through scapy's binding of it. Where it is missing a Python
function does the same: whatever takes an expression takes that too.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

__all__ = ["Filter", "FilterError", "compile_filter"]

DLT_EN10MB = 1
SNAPLEN = 1 << 18
_NETMASK_UNKNOWN = 0xFFFFFFFF

_NEVER = "expression rejects all packets"
"""libpcap's word for a filter that is right and useless."""

_COMPLETIONS = (
    "",
    " ip",
    " 1",
    " = 1",
    " 192.0.2.1",
    " 2001:db8::1",
    " 02:00:00:00:00:01",
    " host 192.0.2.1",
    " proto 1",
    "0] = 1",
    "] = 1",
    " 1] = 1",
    " mask 255.0.0.0",
)
"""Endings that make a filter of the beginning of one."""

_TOKEN = re.compile(r"&&|\|\||<<|>>|[!<>=]=|[\w.:\\/-]+|\S")


class FilterError(ValueError):
    """A filter that libpcap does not take: its own message, and a caret below the place."""


@functools.lru_cache(maxsize=1)
def _libpcap() -> Any:
    try:
        from scapy.libs import winpcapy
    except OSError as error:
        raise FilterError(
            "filter expressions need libpcap, which is not here; install it (apt install libpcap0.8) or give a "
            "Python function instead"
        ) from error
    return winpcapy


@functools.lru_cache(maxsize=1)
def _offline_filter() -> Any:
    """``pcap_offline_filter`` of the library that scapy's binding has open; the binding names it for Windows only."""
    run = _libpcap()._lib.pcap_offline_filter
    run.restype = ctypes.c_int
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]
    return run


class Filter:
    """A compiled filter: call it with the octets of an Ethernet frame; true when they match."""

    __slots__ = ("_header", "_match", "_program", "text")

    def __init__(self, text: str, program: Any) -> None:
        pcap = _libpcap()
        self.text = text
        self._program = program
        self._header = pcap.pcap_pkthdr()
        self._match = _offline_filter()

    def __repr__(self) -> str:
        return f"<Filter {self.text!r}>"

    def __call__(self, octets: bytes, length: int | None = None) -> bool:
        """True when a frame matches of which ``octets`` are here, and which had ``length``."""
        self._header.caplen = len(octets)
        self._header.len = len(octets) if length is None else length
        return bool(self._match(ctypes.byref(self._program), ctypes.byref(self._header), octets))

    def __del__(self) -> None:
        if hasattr(self, "_program"):
            _libpcap().pcap_freecode(ctypes.byref(self._program))


def _compiled(text: str) -> Any:
    """The program, or libpcap's message as a string."""
    pcap = _libpcap()
    handle = pcap.pcap_open_dead(DLT_EN10MB, SNAPLEN)
    try:
        program = pcap.bpf_program()
        source = ctypes.create_string_buffer(text.encode())
        if pcap.pcap_compile(handle, ctypes.byref(program), source, 1, _NETMASK_UNKNOWN) < 0:
            message = ctypes.cast(pcap.pcap_geterr(handle), ctypes.c_char_p).value or b"?"
            return message.decode(errors="replace")
        return program
    finally:
        pcap.pcap_close(handle)


def compile_filter(text: str) -> Filter:
    """Compile a filter expression for Ethernet frames; the empty one matches all.

    Raises ``FilterError`` with libpcap's message and the place.
    """
    __tracebackhide__ = True
    if "\0" in text:
        raise FilterError(f"{text!r} holds a NUL; a filter is text")
    program = _compiled(text)
    if isinstance(program, str):
        place = _place(text, program)
        raise FilterError(f"{program}\n  {text}\n  {' ' * place}^")
    return Filter(text, program)


def as_predicate(what: str | Filter | Callable[..., Any] | None) -> Callable[[bytes, int], bool] | None:
    """What to ask of each frame's octets for a filter expression; None for what is none."""
    if isinstance(what, str):
        return compile_filter(what) if what.strip() else None
    return what if isinstance(what, Filter) else None


def _place(text: str, message: str) -> int:
    """Where in ``text`` the fault is: the word that the message quotes, else the first that nothing can follow up."""
    text = text.replace("\n", " ")
    quoted = re.search(r"'([^']+)'|: (\S+)\Z|\"([^\"]+)\"", message)
    if quoted is not None:
        word = next(group for group in quoted.groups() if group)
        if (found := re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)) is not None:
            return found.start()
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return 0
    for token in tokens:
        if not _may_go_on(text[: token.end()]):
            return token.start()
    return len(text)  # all that is there is right; something is missing


def _may_go_on(beginning: str) -> bool:
    """True when some ending makes a filter of ``beginning``."""
    closing = ")" * max(0, beginning.count("(") - beginning.count(")"))
    endings = dict.fromkeys(
        first + second
        for first, second in itertools.product(_COMPLETIONS, (closing, f"{closing} = 1", f" = 1{closing}"))
    )
    return any(
        not isinstance(found := _compiled(beginning + ending), str) or found == _NEVER for ending in endings
    )
