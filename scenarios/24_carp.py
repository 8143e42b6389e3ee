"""Two hosts share an address; the master's cable is cut under ping, and the other takes over.

    alice 192.0.2.1 ---+
                       sw --- carol 192.0.2.3 pings 192.0.2.100
    bob   192.0.2.2 ---+

Run:     iflab run scenarios/24_carp.py --set advskew=200
Watch:   iflab ifconfig carp bob em0
Expect:  192.0.2.100 is silent for three advertisement intervals and the backup's skew at most.
"""

import time

from iflab import Lab


def scenario(lab: Lab, advskew: int = 20, patience: float = 10.0) -> None:
    sw = lab.switch("sw", ports=3)
    for number, name in enumerate(("alice", "bob", "carol")):
        lab.cable(lab.host(name).nic("em0", f"192.0.2.{number + 1}/24"), sw[number])
    alice, bob, carol = lab.hosts.values()
    alice.ifconfig("em0 vhid 1 advskew 0 pass secret 192.0.2.100/24 alias")
    bob.ifconfig(f"em0 vhid 1 advskew {advskew} pass secret 192.0.2.100/24 alias")

    began = time.monotonic()
    while "carp: MASTER" not in alice.ifconfig("em0") or not answers(carol):
        assert time.monotonic() < began + patience
    lab.log("alice is master")
    neighbour = carol.run(["ip", "neigh", "show", "192.0.2.100"]).stdout.split()
    assert neighbour[4] == "00:00:5e:00:01:01"  # the virtual MAC, whoever is master

    began = time.monotonic()
    alice.nics["em0"].if_softc.end.wire.cut()
    while not answers(carol):
        assert time.monotonic() < began + patience
    gap = time.monotonic() - began
    lab.log(f"bob is master; nobody answered for {gap:.2f} s")
    assert gap < 3 + advskew / 256 + 0.3
    assert "carp: MASTER" in bob.ifconfig("em0")
    assert "carp: INIT" in alice.ifconfig("em0")


def answers(host: object) -> bool:
    return bool(host.ping("192.0.2.100", timeout=0.1).received)
