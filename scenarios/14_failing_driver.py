"""A driver that fails in three ways, each survived: a refused ioctl, a stalled transmitter, a link that flaps.

    alice 192.0.2.1 (the driver fails) ==== cable ==== 192.0.2.2 bob

Run:     iflab run scenarios/14_failing_driver.py
Watch:   iflab monitor failing_driver
Expect:  a refused MTU leaves everything as it was; what was sent during a stall goes out when it is over; after the
         flaps the hosts talk again.
"""

import errno

from iflab import Host, Lab
from iflab.drivers.faulty import FailingIoctl, FlappingLink, StallingStart
from iflab.net import Ifreq


class Failing(FailingIoctl, StallingStart, FlappingLink):
    """A NIC with three faults on order."""


def scenario(lab: Lab, stall: float = 0.3) -> None:
    alice, bob = lab.host("alice"), lab.host("bob")
    em0 = alice.nic("em0", "192.0.2.1/24", driver=Failing)
    cable = lab.cable(em0, bob.nic("em0", "192.0.2.2/24"))
    lab.wait_links()
    nic = em0.if_softc
    assert alice.ping("192.0.2.2").received == 1

    nic.fail_ioctl("SIOCSIFMTU", errno.EIO)
    refusal = refused(alice, 1400)
    lab.log(f"refused: {refusal}")
    assert refusal is not None
    assert refusal.errno == errno.EIO
    assert em0.if_mtu == 1500
    assert refused(alice, 1400) is None
    assert em0.if_mtu == 1400

    nic.stall(stall)
    result = alice.ping("192.0.2.2", timeout=5)
    lab.log(f"stalled: {result}")
    assert result.received == 1
    assert result.rtts[0] > stall / 2

    nic.flap([0.1, 0.1], times=2)
    result = alice.ping("192.0.2.2", 20, interval=0.05, timeout=0.5)
    assert nic.struck["flap"] == 2
    assert result.received < 20
    assert result.times[-1] > 0.4  # when both flaps were over
    lab.log("flapped, and back")
    assert cable.account().balances()
    lab.check()


def refused(host: Host, mtu: int) -> OSError | None:
    """Ask for an MTU; the driver's answer when it refuses."""
    try:
        host.vnet.ioctl("SIOCSIFMTU", Ifreq("em0", ifr_mtu=mtu))
    except OSError as error:
        return error
    return None
