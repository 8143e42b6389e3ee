"""Two switches, one cable between them, two networks that never meet.

    office1 --- [0]      [0] --- office2      VLAN 10
                 left ==== right              trunk: both, tagged
    guest1  --- [1]      [1] --- guest2       VLAN 20

Run:     iflab run scenarios/20_trunk.py
Watch:   iflab exec trunk office1 tcpdump -ni em0
Expect:  office reaches office and guest reaches guest, with the same addresses; tags only on the trunk.
"""

from iflab import Lab

VLANS = {"office": 10, "guest": 20}


def scenario(lab: Lab, count: int = 3) -> None:
    left, right = lab.switch("left", ports=3), lab.switch("right", ports=3)
    trunk = lab.cable(left[2], right[2], name="trunk")
    for number, switch in enumerate((left, right), start=1):
        for port, (name, vlan) in enumerate(VLANS.items()):
            host = lab.host(f"{name}{number}")
            lab.cable(host.nic("em0", f"192.0.2.{number}/24"), switch[port])
            switch.access(port, vlan)
        switch.trunk(2, *VLANS.values())
    tags = set()
    trunk.add_tap(lambda end, m: tags.add(int.from_bytes(m[24:26], "big") & 0xFFF))
    lab.wait_links()

    for name in VLANS:
        near, far = lab.hosts[f"{name}1"], lab.hosts[f"{name}2"]
        assert near.ping("192.0.2.2", count=count, interval=0.02).received == count
        assert near.run(["ip", "neigh", "show", "192.0.2.2"]).stdout.split()[4] == far.nics["em0"].lladdr.hex(
            ":"
        )

    assert tags == set(VLANS.values())
    lab.log(left.ifconfig("bridge0 addr").strip())
