"""A station on a hub sniffs what two hosts say to each other, with scapy's own sniff.

    alice 192.0.2.1 ====+==== 192.0.2.2 bob
                        |
                     station

Run:     iflab run scenarios/03_sniff.py --pcap hub.pcap
Expect:  the sniffer has all echo requests and replies, each kind in order and none before its request; the pcap file too.
"""

from scapy.layers.inet import ICMP

from iflab import Lab


def scenario(lab: Lab, count: int = 5) -> None:
    alice = lab.host("alice")
    bob = lab.host("bob")
    station = lab.station(name="sniffer")
    lab.segment(alice.nic("em0", "192.0.2.1/24"), bob.nic("em0", "192.0.2.2/24"), station, name="hub")

    sniffer = station.async_sniffer(lfilter=lambda packet: ICMP in packet, count=2 * count)
    sniffer.start()
    assert alice.ping("192.0.2.2", count, interval=0.01).received == count
    sniffer.join(timeout=5)

    heard = [(packet[ICMP].type, packet[ICMP].seq) for packet in sniffer.results]
    lab.log(f"the sniffer heard {len(heard)} ICMP messages: {heard[:4]} ...")
    requests, replies = ([seq for kind, seq in heard if kind == wanted] for wanted in (8, 0))
    assert requests == replies == list(range(count))
    assert all(heard.index((8, seq)) < heard.index((0, seq)) for seq in range(count))
