"""Three switches in a ring: no storm, and when a cable is cut the other way is open before anyone notices.

             s0 ---- alice 192.0.2.1
            /  \\
          s2 == s1 -- bob 192.0.2.2

Run:     iflab run scenarios/21_spanning_tree.py
Watch:   iflab exec spanning_tree bob tcpdump -ni em0 icmp
Expect:  one port of the ring is blocked; after each cut traffic is back in less than a tenth of a second.
"""

import socket
import threading
import time
from itertools import pairwise

from iflab import Host, Lab
from iflab.drivers.rstp import Role


def scenario(lab: Lab, seconds: float = 0.6, most: float = 0.1) -> None:
    switches = [lab.switch(f"s{n}", ports=3, stp=True) for n in range(3)]
    ring = [lab.cable(switches[n][0], switches[(n + 1) % 3][1], name=f"ring{n}") for n in range(3)]
    hosts = []
    for n, name in enumerate(("alice", "bob")):
        switches[n].stp(2, edge=True)
        hosts.append(lab.host(name))
        lab.cable(hosts[n].nic("em0", f"192.0.2.{n + 1}/24"), switches[n][2])
    alice, bob = hosts
    wait_for(alice)

    roles = [role for switch in switches for role, _ in switch.bridge.roles().values()]
    assert roles.count(Role.ALTERNATE) == 1
    assert sum(switch.bridge.stp.is_root for switch in switches) == 1

    for cable in ring:
        gap = longest_gap(lab, alice, bob, cable, seconds)
        lab.log(f"{cable.name} cut: {gap * 1000:.1f} ms without traffic")
        assert gap < most
        cable.mend()
        wait_for(alice)
        time.sleep(0.3)  # until the tree has found back


def wait_for(host: Host) -> None:
    while not host.ping("192.0.2.2", timeout=0.1).received:
        pass


def longest_gap(lab: Lab, alice: Host, bob: Host, cable: object, seconds: float) -> float:
    """Send a datagram every two milliseconds, cut in the middle; the longest time in which none arrived."""
    arrived: list[float] = []
    with bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("192.0.2.2", 7))
        receiver.settimeout(seconds + 0.2)

        def listen() -> None:
            while receiver.recv(10) != b"last":
                arrived.append(time.monotonic())

        thread = threading.Thread(target=listen)
        thread.start()
        with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            lab.at(seconds / 2, cable.cut)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                sender.sendto(b"x", ("192.0.2.2", 7))
                time.sleep(0.002)
            sender.sendto(b"last", ("192.0.2.2", 7))
        thread.join()
    return max(later - earlier for earlier, later in pairwise(arrived))
