"""A scapy program, plugged into a cable, talks to a real kernel: ARP, then ICMP.

    alice 192.0.2.1  ==== cable ====  station (scapy; 192.0.2.9)

Run:     iflab run scenarios/02_scapy_station.py
Watch:   iflab exec scapy_station alice tcpdump -ni em0
Expect:  sr1 gets an ARP reply and an echo reply, both made by Linux.

The three lines that make the smallest lab are the first three.
"""

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether

from iflab import Lab


def scenario(lab: Lab, timeout: float = 2.0) -> None:
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24")
    station = lab.station(
        em0, addresses=["192.0.2.9"]
    )  # answers ARP for this address, so that alice can reply

    asked = Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="192.0.2.1", psrc="192.0.2.9", hwsrc=station.mac)
    arp = station.sr1(asked, timeout=timeout)
    assert arp is not None
    assert bytes.fromhex(arp[ARP].hwsrc.replace(":", "")) == em0.lladdr
    lab.log(f"alice says: {arp[ARP].psrc} is at {arp[ARP].hwsrc}")

    echo = (
        Ether(dst=arp[ARP].hwsrc)
        / IP(src="192.0.2.9", dst="192.0.2.1")
        / ICMP(id=7, seq=1)
        / b"hello, kernel"
    )
    reply = station.sr1(echo, timeout=timeout)
    assert reply is not None
    assert reply[ICMP].type == 0
    assert bytes(reply[ICMP].payload) == b"hello, kernel"
    lab.log(f"alice answers: {reply.summary()}")
