"""Two hosts share an address; the master's cable is cut under ping, and the other takes over.

    alice 192.0.2.1 ---+
                       sw --- carol 192.0.2.3 pings 192.0.2.100
    bob   192.0.2.2 ---+

Run:     iflab run scenarios/24_carp.py --set advskew=200
Watch:   iflab ifconfig carp bob em0
Expect:  192.0.2.100 is silent for three advertisement intervals and the backup's skew at most.
"""

import time
from itertools import pairwise

from iflab import Lab

SHARED = "192.0.2.100"


def scenario(lab: Lab, advskew: int = 20, interval: float = 0.05, patience: float = 10.0) -> None:
    sw = lab.switch("sw", ports=3)
    cables = []
    for number, name in enumerate(("alice", "bob", "carol")):
        cables.append(lab.cable(lab.host(name).nic("em0", f"192.0.2.{number + 1}/24"), sw[number], name=name))
    alice, bob, carol = lab.hosts.values()
    alice.ifconfig(f"em0 vhid 1 advskew 0 pass secret {SHARED}/24 alias")
    bob.ifconfig(f"em0 vhid 1 advskew {advskew} pass secret {SHARED}/24 alias")

    began = time.monotonic()
    while "carp: MASTER" not in alice.ifconfig("em0"):
        assert time.monotonic() < began + patience
        time.sleep(0.01)
    lab.log("alice is master")
    assert carol.ping(SHARED, count=3, interval=interval).received == 3
    neighbour = carol.run(["ip", "neigh", "show", SHARED]).stdout.split()
    assert neighbour[4] == "00:00:5e:00:01:01"  # the virtual MAC, whoever is master

    most = 3 + advskew / 256
    with lab.tap("carol:em0", filter="icmp[icmptype] == icmp-echoreply", direction="in") as replies:
        lab.at(0.5, cables[0].cut)  # alice answers ten pings first: the silence has a beginning
        answered = carol.ping(SHARED, count=round((most + 1) / interval), interval=interval, timeout=interval)
        times = [float(packet.time) for packet in replies.packets()]
    assert len(times) >= answered.received

    gap = max(later - earlier for earlier, later in pairwise(times))
    lab.log(f"bob is master; nobody answered for {gap:.2f} s, of {most:.2f} s that the protocol allows")
    assert 1 < gap < most + interval + 0.2
    assert "carp: MASTER" in bob.ifconfig("em0")
    assert "carp: INIT" in alice.ifconfig("em0")
