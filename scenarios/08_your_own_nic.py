"""A NIC of your own in ten lines: it sends everything twice, and the hosts cope.

    alice 192.0.2.1 (Repeater) ==== cable ==== 192.0.2.2 bob

Run:     iflab run scenarios/08_your_own_nic.py
Watch:   iflab exec your_own_nic bob tcpdump -ni em0 icmp
Expect:  each of alice's echo requests reaches bob twice, and bob answers both.
"""

import socket

from iflab import Lab, TapNic


class Repeater(TapNic):
    """A NIC that sends every frame twice: the smallest possible fault."""

    def if_start(self, ifp):
        while (m := ifp.if_snd.dequeue()) is not None:
            self.send(m)
            self.send(m)


def scenario(lab: Lab, count: int = 3) -> None:
    alice = lab.host("alice")
    bob = lab.host("bob")
    em0 = alice.nic("em0", "192.0.2.1/24", driver=Repeater)
    lab.cable(em0, bob.nic("em0", "192.0.2.2/24"))
    icmp = bob.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

    with icmp:
        icmp.settimeout(2)
        assert alice.ping("192.0.2.2", count, interval=0.01).received == count
        requests = [icmp.recv(2048)[26:28] for _ in range(2 * count)]

    lab.log(f"bob got {len(requests)} requests for {count} pings")
    assert requests == [seq.to_bytes(2, "big") for seq in range(count) for _ in range(2)]
    assert em0.if_opackets >= 2 * count
