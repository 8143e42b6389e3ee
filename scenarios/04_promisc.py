"""A frame for somebody else reaches a host only while its NIC is promiscuous.

    alice 192.0.2.1  ==== cable ====  station

Run:     iflab run scenarios/04_promisc.py
Watch:   iflab exec promisc alice ip -d link show em0
Expect:  a packet socket of alice sees the foreign frame in promiscuous mode, and not before or after.

Who switches the mode on does not matter: here it is the BSD side, ifpromisc(1).
"""

import socket

from iflab import Lab

FOREIGN = "02:00:00:00:99:99"
ETH_P_ALL = 3


def scenario(lab: Lab, wait: float = 0.2) -> None:
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24")
    station = lab.station(em0)
    listener = alice.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    listener.bind(("em0", 0))
    listener.settimeout(wait)

    def seen(text: str) -> bool:
        """Does alice hear a frame that is addressed to somebody else?"""
        frame = (
            bytes.fromhex(FOREIGN.replace(":", "")) + bytes(6) + b"\x88\xb5" + text.encode().ljust(46, b"\0")
        )
        station.send(frame)
        try:
            while True:
                if text.encode() in listener.recv(2048):
                    return True
        except TimeoutError:
            return False

    with listener:
        assert not seen("before")
        em0.ifpromisc(1)
        lab.log("em0 is promiscuous: " + alice.run("ip -o link show em0").stdout.strip()[:60])
        assert seen("during")
        em0.ifpromisc(0)
        assert not seen("after")
    assert em0.if_softc.filtered == 2
    lab.log(f"the hardware filter kept {em0.if_softc.filtered} frames away")
