"""Hearing what the kernel changes, in every namespace of the lab, on one socket.

The socket lives in a namespace of the lab's own and hears all namespaces that
have been given an id there (``NETLINK_LISTEN_ALL_NSID``). It is non-blocking: the
engine polls it. When more happens than its buffer holds, the kernel drops
messages and says so once: ``overflow``; whoever listens must then look afresh.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from .errors import KernelRefused
from .netlink import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    SOL_NETLINK,
    Addr,
    Link,
    Maddr,
    Route,
    parse_addr,
    parse_link,
    parse_maddr,
    parse_route,
)
from .netns import Netns

__all__ = ["Change", "Monitor"]

_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_LISTEN_ALL_NSID = 8
_SO_RCVBUFFORCE = 33
_RTM_NEWNSID, _RTM_GETNSID = 88, 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_GROUPS = (1, 5, 9, 7, 11)  # link, IPv4 and IPv6 addresses, IPv4 and IPv6 routes
_MCADDR_GROUPS = (37, 38)  # Linux 6.14
_BUFFER = 32 << 20
_FIRST_ID = 1 << 20
"""Ids of namespaces count down from here. For every notice the kernel looks for the id of the namespace in a list, from
the lowest on (``peernet2id`` in net/core/net_namespace.c): most come from those that were made last."""
_SO_ATTACH_FILTER = 26
_LD_HALF, _LD_OCTET, _EQUALS, _RETURN = 0x28, 0x30, 0x15, 0x06  # classic BPF (linux/filter.h)
_TYPE, _TABLE, _LOCAL = 4, 20, 255
"""Where a message has its type, and a route its table (``rtm_table``); the table ``local``."""
_WITHOUT_LOCAL_ROUTES = (
    (_LD_HALF, 0, 0, _TYPE),
    (_EQUALS, 1, 0, socket.htons(24)),  # new and deleted routes; a filter takes numbers for the network's
    (_EQUALS, 0, 2, socket.htons(25)),
    (_LD_OCTET, 0, 0, _TABLE),
    (_EQUALS, 1, 0, _LOCAL),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)
"""They come and go with addresses, two or three for each, and nobody asks for them: the kernel keeps them."""

_NEWLINK, _DELLINK = 16, 17
_KINDS: dict[int, tuple[str, Callable[[bytes, int, int], Link | Addr | Route | Maddr]]] = {
    _NEWLINK: ("newlink", parse_link),
    _DELLINK: ("dellink", parse_link),
    20: ("newaddr", parse_addr),
    21: ("deladdr", parse_addr),
    24: ("newroute", parse_route),
    25: ("delroute", parse_route),
    56: ("newmaddr", parse_maddr),
    57: ("delmaddr", parse_maddr),
}


@dataclass(slots=True, frozen=True)
class Change:
    """One thing that happened: ``kind`` (newlink, deladdr, overflow ...), in which namespace, and to what."""

    kind: str
    nsid: int
    record: Link | Addr | Route | Maddr | None


_Message = tuple[int, int, bytes, int, int]
"""A message's type and namespace, and where it is: data, offset, length."""
_LOST: _Message = (0, -1, b"", 0, 0)


def _read(kind: int, nsid: int, data: bytes, offset: int, length: int) -> Change:
    """What a message says; what cannot be read is as good as lost, and everything must be looked at afresh."""
    try:
        word, parse = _KINDS[kind]
        return Change(word, nsid, parse(data, offset + 16, offset + length))
    except (LookupError, ValueError, struct.error):
        return Change("overflow", -1, None)


class Monitor:
    """One socket that hears every watched namespace. ``has_mcaddr``: the kernel tells of joined groups."""

    def __init__(self, home: Netns) -> None:
        self._home = home
        self._socket = home.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
        )
        self._questions = home.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sequence = 0
        self._next_id = _FIRST_ID
        self.has_mcaddr = True
        self.drained = False
        """The last ``read`` left nothing to be read."""
        try:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            except OSError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._attach(_WITHOUT_LOCAL_ROUTES)
            self._socket.bind((0, 0))  # a socket without an address hears nothing
            self._socket.setsockopt(SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
            for group in _GROUPS:
                self._socket.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
            try:
                for group in _MCADDR_GROUPS:
                    self._socket.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
            except OSError:
                self.has_mcaddr = False
        except BaseException:
            self.close()
            raise

    def _attach(self, program: tuple[tuple[int, int, int, int], ...]) -> None:
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
        filter = struct.pack("HP", len(program), ctypes.addressof(code))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter)

    def fileno(self) -> int:
        """The file descriptor to poll."""
        return self._socket.fileno()

    def set_buffer(self, octets: int) -> None:
        """Change how much may wait to be read; a small one overflows soon."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)

    def watch(self, netns: Netns) -> int:
        """Hear ``netns`` from now on; return the id by which its changes are marked. Raises ``KernelRefused``."""
        fd = struct.pack("HHI", 8, _NETNSA_FD, netns.fileno())
        for number in (self._next_id, -1):  # the next one, or any: that may be somebody's by now
            try:
                self._ask(_RTM_NEWNSID, NLM_F_ACK, struct.pack("HHi", 8, _NETNSA_NSID, number) + fd, netns)
            except KernelRefused as error:
                if error.errno != errno.EEXIST:
                    raise
            else:
                if number >= 0:
                    self._next_id = number - 1
                    return number
        answer = self._ask(_RTM_GETNSID, 0, fd, netns)
        offset = 16 + 4
        while offset + 8 <= len(answer):
            length, kind, value = struct.unpack_from("HHi", answer, offset)
            if kind == _NETNSA_NSID:
                return int(value)
            offset += (length + 3) & ~3
        raise KernelRefused(errno.ENOENT, f"an id for the namespace {netns.name!r}")

    def _ask(self, kind: int, flags: int, attributes: bytes, netns: Netns) -> bytes:
        self._sequence += 1
        body = struct.pack("4x") + attributes
        self._questions.send(
            struct.pack("IHHII", 16 + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0) + body
        )
        answer = self._questions.recv(8192)
        got = struct.unpack_from("H", answer, 4)[0]
        code = -struct.unpack_from("i", answer, 16)[0] if got == NLMSG_ERROR else 0
        if code:
            raise KernelRefused(code, f"an id for the namespace {netns.name!r}")
        return answer

    def read(self, limit: int | None = None) -> list[Change]:
        """Return what has happened since the last call, of at most about ``limit`` messages; never waits.

        Routes of the table ``local`` are not among them. Of several messages about
        one device the last counts, which tells all that those before it did.
        """
        self.drained = False
        messages: list[_Message | None] = []
        last: dict[tuple[int, bytes], int] = {}
        while limit is None or len(messages) < limit:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(1 << 16, 64)
            except BlockingIOError:
                self.drained = True
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                messages.append(_LOST)
                continue
            nsid = -1
            for level, kind, value in ancillary:
                if level == SOL_NETLINK and kind == _NETLINK_LISTEN_ALL_NSID:
                    nsid = struct.unpack("i", value)[0]
            offset = 0
            while offset + 16 <= len(data):
                length, kind = struct.unpack_from("IH", data, offset)
                if not 16 <= length <= len(data) - offset:
                    messages.append(_LOST)
                    break
                if kind == _NEWLINK:
                    device = nsid, data[offset + 16 : offset + 24]
                    if device in last:
                        messages[last[device]] = None
                    last[device] = len(messages)
                elif kind == _DELLINK:
                    last.pop((nsid, data[offset + 16 : offset + 24]), None)
                if kind in _KINDS:
                    messages.append((kind, nsid, data, offset, length))
                offset += (length + 3) & ~3
        return [_read(*each) for each in messages if each is not None]

    def close(self) -> None:
        """Stop hearing."""
        for sock in (self._socket, self._questions):
            with contextlib.suppress(OSError):
                sock.close()
