"""A Linux bridge and our switch joined by two cables: they elect one root and block one end.

    a 192.0.2.1 -- [2] sw [0] ==== em0 linux br0 192.0.2.9    (STP, priority 4096: the root)
                      [1] ==== em1

Run:     iflab run scenarios/26_linux_bridge.py
Watch:   iflab exec linux_bridge linux bridge -d link
Expect:  the switch, which would speak RSTP, falls back to STP; its second port is blocked until the first is cut.
"""

import json
import time

from iflab import Lab, Missing
from iflab.drivers.rstp import Role, State


def scenario(lab: Lab, forward_delay: int = 2, patience: float = 30.0) -> None:
    linux, a = lab.host("linux"), lab.host("a")
    sw = lab.switch("sw", ports=3, stp=True)
    cables = [lab.cable(linux.nic(f"em{n}"), sw[n]) for n in range(2)]
    sw.stp(2, edge=True)
    lab.cable(a.nic("em0", "192.0.2.1/24"), sw[2])
    made = linux.run(
        f"ip link add br0 type bridge stp_state 1 priority 4096 forward_delay {forward_delay * 100} "
        "hello_time 100 max_age 600 && ip link set em0 master br0 && ip link set em1 master br0 && "
        "ip link set br0 up && ip addr add 192.0.2.9/24 dev br0"
    )
    if made.returncode:
        raise Missing(f"this kernel has no bridge: {made.stderr.strip()}")

    def ports() -> dict[str, tuple[Role, State]]:
        return {name: found for name, found in sw.bridge.roles().items() if name != "p2"}

    def linux_port(name: str) -> str:
        """What Linux says of its port: ``forwarding``, ``listening`` ..."""
        link = json.loads(linux.run(["ip", "-j", "-d", "link", "show", name]).stdout)[0]
        return link["linkinfo"]["info_slave_data"]["state"]

    settled = {"p0": (Role.ROOT, State.FORWARDING), "p1": (Role.ALTERNATE, State.DISCARDING)}
    wait(lambda: ports() == settled and linux_port("em0") == "forwarding", patience)
    assert not sw.bridge.stp.is_root
    assert a.ping("192.0.2.9", count=3, interval=0.05).received == 3
    lab.log(sw.ifconfig("bridge0").strip())

    began = time.monotonic()
    cables[0].cut()
    wait(lambda: ports()["p1"] == (Role.ROOT, State.FORWARDING), patience)
    wait(lambda: a.ping("192.0.2.9", timeout=0.5).received, patience)
    lab.log(f"back after {time.monotonic() - began:.1f} s")


def wait(condition: object, patience: float) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "that took too long"
