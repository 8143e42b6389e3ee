"""``if_lastchange`` and ``if_epoch``: what counts as a change of an interface, and what does not."""

import errno
import time

import pytest

from iflab.net import IFF, Ifreq, LinkState, UserBuffer, lladdr

from .devices import refused
from .doubles import ethernet

NEVER, NOW = 0.0, 1234.5
GROUP = lladdr("01:00:5e:00:00:05")


@pytest.fixture(autouse=True)
def clock_stands_still(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(time, "monotonic", lambda: NOW + 1)


def unchanged():
    """An interface of which nobody knows when it changed."""
    vnet, ifp, driver = ethernet()
    ifp.if_lastchange = NEVER
    return vnet, ifp, driver


def test_an_attach_notes_both_clocks():
    _, ifp, _ = ethernet()

    assert (ifp.if_lastchange, ifp.if_epoch) == (NOW, NOW + 1)


@pytest.mark.parametrize("change", ["if_up", "if_down"])
def test_going_up_and_going_down_are_changes(change):
    _, ifp, _ = unchanged()

    getattr(ifp, change)()

    assert ifp.if_lastchange == NOW


@pytest.mark.parametrize(
    ("cmd", "fields"),
    [
        ("SIOCSIFDESCR", {"ifr_buffer": UserBuffer(7, "uplink")}),
        ("SIOCSIFFLAGS", {"ifr_flags": IFF.BROADCAST | IFF.MULTICAST | IFF.LINK0}),
        ("SIOCSIFCAP", {"ifr_reqcap": 0}),
        ("SIOCSIFMETRIC", {"ifr_metric": 3}),
        ("SIOCSIFPHYS", {"ifr_phys": 1}),
        ("SIOCSIFMTU", {"ifr_mtu": 1400}),
        ("SIOCADDMULTI", {"ifr_addr": GROUP}),
        ("SIOCSIFMEDIA", {"ifr_data": "autoselect"}),
    ],
)
def test_an_ioctl_that_sets_something_notes_when(cmd, fields):
    vnet, ifp, _ = unchanged()

    vnet.ioctl(cmd, Ifreq("em0", **fields))

    assert ifp.if_lastchange == NOW


def test_leaving_a_group_by_ioctl_notes_when():
    vnet, ifp, _ = unchanged()
    ifp.if_addmulti(GROUP)

    vnet.ioctl("SIOCDELMULTI", Ifreq("em0", ifr_addr=GROUP))

    assert ifp.if_lastchange == NOW


@pytest.mark.parametrize(
    ("cmd", "fields"),
    [("SIOCSIFCAP", {}), ("SIOCSIFPHYS", {}), ("SIOCSIFMTU", {"ifr_mtu": 1400}), ("SIOCSIFMEDIA", {})],
)
def test_what_the_driver_refuses_is_no_change(cmd, fields):
    vnet, ifp, driver = unchanged()
    driver.fails[cmd] = errno.EIO

    refused(errno.EIO, vnet.ioctl, cmd, Ifreq("em0", **fields))

    assert ifp.if_lastchange == NEVER


@pytest.mark.parametrize(
    ("cmd", "fields"),
    [
        ("SIOCSIFFIB", {}),
        ("SIOCSIFNAME", {"ifr_buffer": UserBuffer(16, "uplink0")}),
        ("SIOCSIFLLADDR", {"ifr_addr": lladdr("02:00:00:00:00:09")}),
        ("SIOCGIFMTU", {}),
        ("SIOCGIFMEDIA", {}),
    ],
)
def test_some_ioctls_leave_no_note(cmd, fields):
    vnet, ifp, _ = unchanged()

    vnet.ioctl(cmd, Ifreq("em0", **fields))

    assert ifp.if_lastchange == NEVER


def test_a_change_of_the_link_leaves_no_note():
    vnet, ifp, _ = unchanged()

    ifp.if_link_state_change(LinkState.UP)
    vnet.kernel.taskqueue_swi.run()

    assert ifp.if_lastchange == NEVER
