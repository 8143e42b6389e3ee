"""A customer's VLANs inside a provider's (IEEE 802.1ad): two tags on the cable, none at the hosts.

    alice  vlan0.7  --  vlan0 (802.1ad, 100)  --  em0 ==== em0  --  vlan0  --  vlan0.7  bob

Run:     iflab run scenarios/25_qinq.py
Watch:   iflab exec qinq alice ip -d link
Expect:  ping and a download through 192.0.2.0/24; on the cable 88a8 100, then 8100 7.
"""

from iflab import Lab


def scenario(lab: Lab, outer: int = 100, inner: int = 7, size: int = 2_000_000) -> None:
    alice, bob = lab.host("alice"), lab.host("bob")
    cable = lab.cable(alice.nic("em0"), bob.nic("em0"))
    for number, host in enumerate((alice, bob), start=1):
        host.ifconfig(f"vlan0 create vlan {outer} vlandev em0 vlanproto 802.1ad up")
        host.ifconfig(f"vlan0.{inner} create 192.0.2.{number}/24")
    lab.wait_links()
    heads = set()
    cable.add_tap(lambda end, m: heads.add(m[22:30].hex()))

    assert alice.ping("192.0.2.2", count=3, interval=0.02).received == 3
    assert bob.fetch(alice.serve(bytes_=size)).wait(timeout=30) == size

    lab.log(f"tags on the cable: {sorted(heads)}")
    assert f"88a8{outer:04x}8100{inner:04x}" in heads
    assert not any(head.startswith(("0800", "0806", "8100")) for head in heads)  # no IPv4 or ARP without both
    lab.log(alice.ifconfig(f"vlan0.{inner}").strip())
