"""A NIC that is busy lets its send queue fill up; what does not fit is counted, exactly.

    alice  ==== cable ====  station

Run:     iflab run scenarios/07_queue_full.py --set frames=200
Expect:  if_snd holds its 50 frames, every further one is ENOBUFS and a drop;
         when the NIC wakes up, the 50 leave in order.
"""

import errno

from scapy.layers.l2 import Ether

from iflab import Lab
from iflab.net import IFF


def scenario(lab: Lab, frames: int = 80) -> None:
    alice = lab.host("alice")
    em0 = alice.nic("em0")
    alice.sysctl("net.ipv6.conf.em0.disable_ipv6", 1)  # alice keeps quiet, so that all frames are ours
    station = lab.station(em0)
    room = em0.if_snd.ifq_maxlen

    with lab.lock:
        em0.if_qflush()
        em0.if_drv_flags |= IFF.OACTIVE  # the NIC says: I am busy, do not start me
    drops_before = em0.if_snd.ifq_drops
    refused = 0
    for number in range(frames):
        try:
            em0.if_transmit(
                Ether(src=em0.lladdr.hex(":"), dst=station.mac, type=0x88B5) / number.to_bytes(2, "big")
            )
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            refused += 1

    assert em0.if_snd.ifq_len == min(frames, room)
    assert refused == max(0, frames - room)
    assert em0.if_snd.ifq_drops - drops_before == refused
    lab.log(f"queue {em0.if_snd.ifq_len} of {room}, {refused} dropped")

    with lab.lock:
        em0.if_drv_flags &= ~IFF.OACTIVE
        em0.if_start()
    assert em0.if_snd.ifq_len == 0
    numbers = []
    while len(numbers) < min(frames, room):
        frame = station.recv_frame(timeout=2)
        assert frame is not None
        if frame[12:14] == b"\x88\xb5":
            numbers.append(int.from_bytes(frame[14:16], "big"))
    assert numbers == list(range(min(frames, room)))
