"""Two hosts on one cable ping each other, over IPv4 and IPv6.

    alice 192.0.2.1  ==== cable ====  192.0.2.2 bob
          2001:db8::1                 2001:db8::2

Run:     iflab run scenarios/01_first_ping.py --set count=5
Expect:  every request is answered. Both hosts are real Linux, the cable is Python.
"""

from iflab import Lab


def scenario(lab: Lab, count: int = 3) -> None:
    alice, bob, cable = lab.pair(
        ("192.0.2.1/24", "2001:db8::1/64"),
        ("192.0.2.2/24", "2001:db8::2/64"),
    )

    over_ipv4 = alice.ping("192.0.2.2", count, interval=0.01)
    over_ipv6 = bob.ping("2001:db8::1", count, interval=0.01)

    assert over_ipv4.received == count
    assert over_ipv6.received == count
    assert cable.account().balances()  # every frame was delivered, or is accounted for
