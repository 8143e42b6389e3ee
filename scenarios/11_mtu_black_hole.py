"""A link in the middle takes only small frames: with the router's word TCP learns it at once; silently, it probes.

    alice 192.0.2.1 ==== router ==== 198.51.100.2 bob
                             \\__ this cable takes 1,000 octets

Run:     iflab run scenarios/11_mtu_black_hole.py
Watch:   iflab exec mtu_black_hole alice ip route get 198.51.100.2
Expect:  first the router knows its MTU, says "fragmentation needed" (RFC 1191), and the download works. Then only the
         cable is narrow and nobody says so: a black hole. Packetization-layer path-MTU discovery (RFC 4821) finds out.
"""

from iflab import Lab
from iflab.faults import Mtu

NARROW = 1000


def scenario(lab: Lab, size: int = 300_000) -> None:
    alice, router, bob = (lab.host(name) for name in ("alice", "router", "bob"))
    lab.cable(alice.nic("em0", "192.0.2.1/24"), router.nic("em0", "192.0.2.254/24"))
    narrow = lab.cable(
        router.nic("em1", "198.51.100.254/24"), bob.nic("em0", "198.51.100.2/24"), name="narrow"
    )
    alice.route("198.51.100.0/24", via="192.0.2.254")
    bob.route("192.0.2.0/24", via="198.51.100.254")
    router.sysctl("net.ipv4.ip_forward", 1)
    lab.wait_links()

    router.ifconfig(f"em1 mtu {NARROW}")
    narrow.impair(Mtu(NARROW))
    with lab.tap("alice:em0", filter="icmp[icmptype] == icmp-unreach and icmp[icmpcode] == 4") as words:
        download = bob.fetch(alice.serve(bytes_=size))
        assert download.wait(timeout=30) == size
    told = {packet["ICMP"].nexthopmtu for packet in words.packets()}
    lost = narrow.account().dropped["mtu"]
    lab.log(f"the router says {told}: {download.seconds:.2f} s, {lost} frames lost")
    assert told == {NARROW}
    assert lost == 0

    router.ifconfig("em1 mtu 1500")
    alice.run("ip route del 198.51.100.0/24", check=True)  # and with it what it knew of the way
    alice.route("198.51.100.0/24", via="192.0.2.254")
    alice.sysctl("net.ipv4.tcp_mtu_probing", 0)
    stuck = bob.fetch(alice.serve(bytes_=size))
    try:
        stuck.wait(timeout=1.5)
        raise AssertionError("the cable was to be a black hole")
    except TimeoutError:
        lost = narrow.account().dropped["mtu"]
        lab.log(f"nobody says so: stuck after 1.5 s, {lost} frames lost")
        assert lost > 0

    alice.sysctl("net.ipv4.tcp_mtu_probing", 2)
    alice.sysctl("net.ipv4.tcp_base_mss", 512)
    found = bob.fetch(alice.serve(bytes_=size))
    assert found.wait(timeout=30) == size
    lab.log(f"TCP probes by itself: {found.seconds:.2f} s")
    assert narrow.account().balances()
