"""A multicast frame passes the filter when the group is joined, or in all-multicast mode.

    alice 192.0.2.1  ==== cable ====  station

Run:     iflab run scenarios/05_allmulti.py
Watch:   iflab exec allmulti alice ip maddress show em0
Expect:  nothing of a group that nobody joined; everything of one that a program joined,
         and of any group at all while if_allmulti(1) is in force.
"""

import socket

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from iflab import Lab

GROUP, OTHER, PORT = "233.252.0.1", "233.252.0.2", 5000  # MCAST-TEST-NET, RFC 5771


def group_mac(group: str) -> str:
    """The MAC that an IPv4 group maps to (RFC 1112, 6.4)."""
    low = socket.inet_aton(group)
    return bytes((1, 0, 0x5E, low[1] & 0x7F, low[2], low[3])).hex(":")


def scenario(lab: Lab, wait: float = 0.2) -> None:
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24")
    station = lab.station(em0)

    def passes(group: str) -> bool:
        """Does the NIC let a datagram to this group through?"""
        before = em0.if_imcasts
        datagram = Ether(dst=group_mac(group)) / IP(src="192.0.2.9", dst=group) / UDP(dport=PORT) / b"news"
        station.send(datagram)
        return em0.if_imcasts > before

    assert not passes(GROUP)

    program = alice.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with program:
        program.settimeout(wait)
        program.bind(("", PORT))
        membership = socket.inet_aton(GROUP) + socket.inet_aton("192.0.2.1")
        program.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        assert passes(GROUP)
        assert program.recv(100) == b"news"
        lab.log(
            f"alice joined {GROUP} and got the news; the NIC's list: {sorted(map(str, memberships(em0)))}"
        )
        assert not passes(OTHER)

    em0.if_allmulti(1)
    assert passes(OTHER)
    em0.if_allmulti(0)
    assert not passes(OTHER)


def memberships(ifp: object) -> list[object]:
    return [ifma.ifma_addr for ifma in ifp.if_multiaddrs]
