"""A cable dies in one direction only: carrier stays, one side hears nothing, and a keepalive finds out.

    alice 192.0.2.1 ----------> 192.0.2.2 bob
                    <--- cut ---

Run:     iflab run scenarios/12_one_way_cut.py
Watch:   iflab top one_way_cut
Expect:  alice's link stays up, her pings reach bob and no answer comes; her TCP gives the connection up by keepalive.
"""

import errno
import os
import socket
import time

from iflab import Lab
from iflab.faults import Cut

KEEPALIVE = {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 2}


def scenario(lab: Lab, patience: float = 10.0) -> None:
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    lab.wait_links()
    assert alice.ping("192.0.2.2").received == 1
    server = bob.socket()
    client = alice.socket()
    with server, client:
        server.bind(("192.0.2.2", 7))
        server.listen()
        client.connect(("192.0.2.2", 7))
        accepted, _ = server.accept()
        with accepted:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                client.setsockopt(socket.IPPROTO_TCP, option, value)

            cable.impair(Cut(), towards="alice:em0")
            began = time.monotonic()
            heard = bob.nics["em0"].if_ipackets
            assert alice.ping("192.0.2.2", 3, interval=0.05, timeout=0.3).received == 0
            assert bob.nics["em0"].if_ipackets >= heard + 3
            assert "status: active" in alice.ifconfig("em0")
            lab.log("alice's link is up, bob gets her requests, and she hears nothing")

            client.settimeout(patience)
            cause = given_up(client)
            told = os.strerror(cause) if cause else "nothing told yet, and patience is at its end"
            lab.log(f"keepalive after {time.monotonic() - began:.1f} s: {told}")
            assert cause == errno.ETIMEDOUT
    assert cable.account().dropped["cut"] > 0
    assert cable.account().balances()


def given_up(client: socket.socket) -> int | None:
    """Wait for the end of a connection, and return its errno; None when it goes on."""
    try:
        client.recv(1)
    except TimeoutError as error:
        return error.errno  # the socket's own timeout has none
    return None
