"""Two hosts agree by LACP that their two cables are one link, and which of them can be used.

    alice  em0 ==== em0  bob
      lagg0             lagg0        LACPDUs every second (IEEE 802.1AX)
           em1 ==== em1

Run:     iflab run scenarios/23_lacp.py
Watch:   iflab ifconfig lacp alice -v lagg0
Expect:  both cables carry flows; one that loses LACPDUs, but keeps its light, is given up.
"""

import time

from iflab import Lab
from iflab.net import LinkState


def scenario(lab: Lab, patience: float = 10.0) -> None:
    hosts = [lab.host("alice"), lab.host("bob")]
    for number, host in enumerate(hosts, start=1):
        for name in ("em0", "em1"):
            host.nic(name)
        host.ifconfig(
            f"lagg0 create laggproto lacp lacp_fast_timeout laggport em0 laggport em1 192.0.2.{number}/24"
        )
    alice, bob = hosts
    cables = [lab.cable(alice.nics[name], bob.nics[name], name=name) for name in ("em0", "em1")]

    def using() -> list[int]:
        return [host.ifconfig("lagg0").count("DISTRIBUTING") for host in hosts]

    wait(lambda: using() == [2, 2], patience)
    assert alice.nics["lagg0"].if_link_state is LinkState.UP
    lab.log(bob.ifconfig("lagg0").strip())
    wait(lambda: alice.ping("192.0.2.2", timeout=0.2).received, patience)

    lab.log("em0 loses every LACPDU from now on")
    cables[0].add_hook(lambda frame: frame.raw[12:14] != b"\x88\x09")
    wait(lambda: using() == [1, 1], patience)
    assert alice.ping("192.0.2.2", count=5, interval=0.02).received == 5


def wait(condition: object, patience: float) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "that took too long"
        time.sleep(0.01)
