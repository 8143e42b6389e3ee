"""The programs at both ends of a measured cable, each a process of its own.

    python flow.py MODE FD SECONDS

``FD`` is a socket of the host that the caller opened and, for TCP, connected.
One line on the standard output is the result. Imports only the standard library.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import sys
import time


def tcp_send(sock: socket.socket, seconds: float) -> str:
    """Send as fast as TCP takes it, until the time is over."""
    data = bytes(1 << 18)
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end:
        sent += sock.send(data)
    sock.shutdown(socket.SHUT_WR)
    return str(sent)


def tcp_receive(sock: socket.socket, seconds: float) -> str:
    """Bits a second, from the first octet to the last; the first fifth of the time is not counted."""
    buffer = bytearray(1 << 19)
    counted = sock.recv_into(buffer)
    began = time.monotonic()
    skip = began + seconds / 5
    while (count := sock.recv_into(buffer)) > 0:
        now = time.monotonic()
        if now < skip:
            counted, began = 0, now
        else:
            counted += count
    return str(counted * 8 / (time.monotonic() - began))


def udp_send(sock: socket.socket, seconds: float) -> str:
    """Send datagrams of 18 octets as fast as the host takes them."""
    data, send = bytes(18), sock.send
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end:
        for _ in range(200):
            try:
                send(data)
            except OSError:
                continue
            sent += 1
    return str(sent)


def udp_receive(sock: socket.socket, seconds: float) -> str:
    """Datagrams a second, after the first fifth of the time."""
    buffer, receive = bytearray(2048), sock.recv_into
    sock.settimeout(5)
    receive(buffer)
    sock.settimeout(None)
    time.sleep(seconds / 5)
    began = time.monotonic()
    end = began + seconds * 4 / 5
    counted = 0
    while time.monotonic() < end:
        for _ in range(100):
            receive(buffer)
        counted += 100
    return str(counted / (time.monotonic() - began))


def ping(sock: socket.socket, seconds: float) -> str:
    """Median of the round trips of ICMP echo requests (to the connected address), in seconds."""
    trips = []
    end = time.monotonic() + seconds
    sequence = 0
    sock.settimeout(1)
    while (began := time.monotonic()) < end:
        sequence = (sequence + 1) & 0xFFFF
        message = struct.pack("!BBHHH48x", 8, 0, 0, os.getpid() & 0xFFFF, sequence)
        total = sum(struct.unpack("!28H", message))
        total = (total & 0xFFFF) + (total >> 16)
        message = message[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + message[4:]
        began = time.monotonic()
        sock.send(message)
        try:
            while True:
                answer = sock.recv(2048)
                if answer[20] == 0 and answer[26:28] == message[6:8]:
                    break
        except TimeoutError:
            continue
        trips.append(time.monotonic() - began)
    return str(statistics.median(trips))


def main() -> None:
    """Run a mode."""
    mode, fd, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    sock = socket.socket(fileno=fd)
    sock.setblocking(True)
    run = {fn.__name__: fn for fn in (tcp_send, tcp_receive, udp_send, udp_receive, ping)}[mode]
    print(run(sock, seconds))


if __name__ == "__main__":
    main()
