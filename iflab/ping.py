"""ping without a program: echo requests on a raw socket (RFC 792, RFC 4443).

What is reported in the place of a reply (no route, no neighbour, a router's word) comes
by the socket's queue of errors (IP_RECVERR, ip(7)).
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import statistics
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PingResult", "ping"]

_AT_ONCE = 100
"""Messages read before the clock is looked at."""

_IP_RECVERR, _IPV6_RECVERR = 11, 25
"""linux/in.h, linux/in6.h; Python has no name for them."""

_EXTENDED_ERR = struct.Struct("=IBBBxII")
"""``struct sock_extended_err`` (linux/errqueue.h): errno, origin, type, code; the sender's address follows."""

_FROM_ICMP = (2, 3)
"""SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6."""


@dataclass(slots=True)
class PingResult:
    """What ``Host.ping`` found: echo requests sent, replies received, round trips in seconds."""

    address: str
    sent: int = 0
    received: int = 0
    rtts: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each of those that were answered was sent, in seconds since the first request."""
    errors: dict[str, int] = field(default_factory=dict)
    """What was reported in the place of replies, and how often: ``"Network is unreachable"``."""

    @property
    def loss(self) -> float:
        """Share of requests without a reply, 0 to 1."""
        return 1 - self.received / self.sent if self.sent else 0.0

    def __str__(self) -> str:
        text = f"ping {self.address}: {self.received} of {self.sent} answered"
        if self.rtts:
            text += f", round trip {statistics.median(self.rtts) * 1000:.3f} ms (median)"
        for error, number in self.errors.items():
            text += f"; {error}" + (f", {number} times" if number > 1 else "")
        return text


def ping(
    make_socket: Callable[[int, int, int], socket.socket],
    address: str,
    to: tuple[Any, ...],
    count: int,
    *,
    interval: float,
    timeout: float,
    size: int,
) -> PingResult:
    """What ``Host.ping`` does, on a socket of the host that ``make_socket`` makes; ``to`` is the address for sockets."""
    v6 = ":" in address
    family, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    with make_socket(family, socket.SOCK_RAW, protocol) as sock:
        pinger = _Pinger(sock, to, v6, size, timeout)
        began = time.monotonic()
        for number in range(1, count + 1):
            pinger.send()
            pinger.listen(began + number * interval if interval and number < count else math.inf)
    answered = pinger.answered()
    return PingResult(
        address,
        count,
        len(answered),
        [round_trip for _, round_trip in answered],
        [sent - began for sent, _ in answered],
        dict(pinger.errors),
    )


class _Pinger:
    """Echo requests on a raw socket, and which of them were answered in time."""

    def __init__(self, sock: socket.socket, to: tuple[Any, ...], v6: bool, size: int, timeout: float) -> None:
        self._sock = sock
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._to = to
        self._v6 = v6
        self._data = bytes(size)
        self._timeout = timeout
        self._identifier = id(sock) & 0xFFFF
        self._requests: list[list[float]] = []
        """When each was sent, and its round trip once that is known."""
        self._waiting: dict[int, int] = {}
        """Those that may still be answered, the oldest first: the number of each by that on the wire."""
        self.errors: Counter[str] = Counter()
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)

    def send(self) -> None:
        """Send one more; one without a route or neighbour is as lost as any other."""
        number, now = len(self._requests), time.monotonic()
        self._requests.append([now])
        sequence = number & 0xFFFF
        message = _echo_request(self._v6, self._identifier, sequence, self._data)
        while True:
            try:
                self._sock.sendto(message, self._to)
                break
            except OSError as error:
                if not self._take_errors():  # else it may have been an earlier one's
                    self.errors[error.strerror or str(error)] += 1
                    return
        self._waiting.pop(sequence, None)
        self._waiting[sequence] = number

    def listen(self, until: float) -> None:
        """Take replies until a moment; with infinity until nothing is waited for."""
        while True:
            deadline = min(until, self._deadline() if self._waiting else until)
            if deadline == math.inf:
                return
            pause = max(0.0, deadline - time.monotonic())
            for _ in range(_AT_ONCE):
                if not self._readable.poll(math.ceil(1000 * pause)):
                    break
                self._take_errors()
                with contextlib.suppress(OSError):
                    self._take(self._sock.recv(65_536, socket.MSG_DONTWAIT))
                pause = 0.0
            now = time.monotonic()
            while self._waiting and self._deadline() <= now:
                del self._waiting[next(iter(self._waiting))]
            if now >= until:
                return

    def _deadline(self) -> float:
        return self._requests[next(iter(self._waiting.values()))][0] + self._timeout

    def _take(self, message: bytes) -> None:
        if not self._v6:
            message = message[(message[0] & 0x0F) * 4 :]
        if len(message) < 8:
            return
        kind, _, _, identifier, sequence = struct.unpack_from("!BBHHH", message)
        if (kind, identifier) == (129 if self._v6 else 0, self._identifier):
            number = self._waiting.pop(sequence, None)
            if number is not None:
                request = self._requests[number]
                request.append(time.monotonic() - request[0])

    def _take_errors(self) -> bool:
        """Count what is in the queue of errors; true when there was anything, also of other programs' requests."""
        there = False
        with contextlib.suppress(OSError):  # until it is empty
            while True:
                message, ancillary, _, _ = self._sock.recvmsg(
                    1024, 1024, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
                )
                there = True
                for level, kind, data in ancillary:
                    if (level, kind) in (
                        (socket.IPPROTO_IP, _IP_RECVERR),
                        (socket.IPPROTO_IPV6, _IPV6_RECVERR),
                    ):
                        self._count_error(message, data)
        return there

    def _count_error(self, message: bytes, data: bytes) -> None:
        number, origin, *_ = _EXTENDED_ERR.unpack_from(data)
        if len(message) < 6 or struct.unpack_from("!H", message, 4)[0] != self._identifier:
            return  # somebody else's request
        text = os.strerror(number)
        if origin in _FROM_ICMP and len(data) > _EXTENDED_ERR.size:
            text += f" (says {_offender(data[_EXTENDED_ERR.size :])})"
        self.errors[text] += 1

    def answered(self) -> list[tuple[float, float]]:
        """When each of those that were answered was sent, and its round trip, in the order in which they were sent."""
        return [(request[0], request[1]) for request in self._requests if len(request) > 1]


def _offender(sockaddr: bytes) -> str:
    """The address in a ``struct sockaddr_in`` or ``sockaddr_in6``."""
    if struct.unpack_from("=H", sockaddr)[0] == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, sockaddr[8:24])
    return socket.inet_ntop(socket.AF_INET, sockaddr[4:8])


def _echo_request(v6: bool, identifier: int, sequence: int, data: bytes) -> bytes:
    """ICMP echo request (RFC 792; RFC 4443, whose checksum the kernel fills in)."""
    kind = 128 if v6 else 8
    message = struct.pack("!BBHHH", kind, 0, 0, identifier, sequence) + data
    if v6:
        return message
    return message[:2] + struct.pack("!H", _checksum(message)) + message[4:]


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)
