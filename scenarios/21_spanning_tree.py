"""Three switches in a ring: no storm, and when a cable is cut the other way is open before anyone notices.

             s0 ---- alice 192.0.2.1
            /  \\
          s2 == s1 -- bob 192.0.2.2

Run:     iflab run scenarios/21_spanning_tree.py
Watch:   iflab exec spanning_tree bob tcpdump -ni em0 icmp
Expect:  one port of the ring is blocked; after each cut traffic is back in less than a tenth of a second.
"""

import contextlib
import socket
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

    gaps = []
    for cable in ring:
        wait_for_rest(lab)
        before, after = longest_gaps(lab, alice, bob, cable, seconds)
        lab.log(f"{cable.name} cut: {after * 1000:.1f} ms without traffic, {before * 1000:.1f} ms before")
        assert after < 0.8 * seconds / 2  # it did not last
        gaps.append(after - before)
        cable.mend()
        wait_for(alice)
    assert sorted(gaps)[1] < most  # the median, without the gaps that a busy machine makes by itself


def wait_for(host: Host) -> None:
    while not host.ping("192.0.2.2", timeout=0.1).received:
        pass


def wait_for_rest(lab: Lab) -> None:
    """A port that has sent six BPDUs waits a second for each more (TxHoldCount): begin with few sent."""
    ports = [m.stp for sw in lab.switches.values() for m in sw.bridge.members.values()]
    while any(port.tx_count > 2 for port in ports):
        time.sleep(0.02)


def longest_gaps(lab: Lab, alice: Host, bob: Host, cable: object, seconds: float) -> list[float]:
    """Send a datagram every two milliseconds, cut in the middle; the longest time without one, before and after."""
    with (
        alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("192.0.2.2", 7))
        receiver.setblocking(False)
        arrived = [time.monotonic()]
        cut = arrived[0] + seconds / 2
        lab.at(seconds / 2, cable.cut)
        while (now := time.monotonic()) < cut + seconds / 2:
            sender.sendto(b"x", ("192.0.2.2", 7))
            time.sleep(0.002)
            with contextlib.suppress(BlockingIOError):
                while receiver.recv(10):
                    arrived.append(time.monotonic())
    gaps = [(later > cut, later - earlier) for earlier, later in pairwise([*arrived, max(now, arrived[-1])])]
    return [max(gap for after, gap in gaps if after is half) for half in (False, True)]
