"""A NIC is pulled out of its slot while it carries a download; the host goes on over the other one.

    alice  em0 192.0.2.1 ====  em0 192.0.2.2     bob
           em1 198.51.100.1 == em1 198.51.100.2

Run:     iflab run scenarios/15_nic_pulled_out.py
Watch:   iflab monitor nic_pulled_out
Expect:  em0 vanishes with its addresses and routes, the download over it ends with an error, one over em1 works; no
         device and no file descriptor is left.
"""

import os

from iflab import Lab
from iflab.drivers.faulty import Vanishing


def scenario(lab: Lab, size: int = 50_000_000) -> None:
    alice, bob = lab.host("alice"), lab.host("bob")
    em0 = alice.nic("em0", "192.0.2.1/24", driver=Vanishing)
    first = lab.cable(em0, bob.nic("em0", "192.0.2.2/24"), name="first", delay=0.01)
    second = lab.cable(alice.nic("em1", "198.51.100.1/24"), bob.nic("em1", "198.51.100.2/24"), name="second")
    lab.wait_links()
    taps = open_taps()

    download = bob.fetch(alice.serve(bytes_=size, address="192.0.2.1"), idle=1.5)
    em0.if_softc.vanish(after=500)
    try:
        download.wait(timeout=30)
        raise AssertionError("the download was to fail")
    except (OSError, TimeoutError) as error:
        lab.log(f"{download.received} octets, and then: {error}")
    assert download.received < size
    assert "em0" not in alice.nics
    assert "em0" not in alice.run("ip -br link", check=True).stdout
    assert "192.0.2" not in alice.run("ip route", check=True).stdout
    lab.wait_for_closers()
    assert open_taps() == max(0, taps - 1)

    assert bob.fetch(alice.serve(bytes_=1_000_000, address="198.51.100.1")).wait(timeout=30) == 1_000_000
    lab.log("em1 goes on")
    assert first.account().balances()
    assert second.account().balances()
    lab.check()


def open_taps() -> int:
    """How many TAP devices this process holds."""
    fds = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(fd) and os.readlink(fd).endswith("/tun") for fd in fds)
