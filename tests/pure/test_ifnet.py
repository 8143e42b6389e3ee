"""The interface layer over a recording driver: what the rest of the lab leans on."""

import errno
import gc
import weakref

import pytest

from iflab.net import IFF, IFT, Ifreq, Kernel, KernelPanic, LinkState, frame_of, if_handoff, mbuf

from .doubles import ethernet, frame


def test_transmit_goes_through_the_queue_to_the_driver():
    _, ifp, driver = ethernet()

    ifp.if_transmit(frame("hello"))

    assert [frame_of(m) for m in driver.sent] == [frame("hello")]
    assert ifp.if_obytes == len(frame("hello"))


def test_a_busy_driver_lets_the_queue_fill_and_drops_are_counted():
    _, ifp, driver = ethernet()
    ifp.if_drv_flags |= IFF.OACTIVE
    for _ in range(50):
        ifp.if_transmit(frame("x"))

    with pytest.raises(OSError, match="em0") as refused:
        ifp.if_transmit(frame("one too many"))

    assert refused.value.errno == errno.ENOBUFS
    assert (ifp.if_snd.ifq_len, ifp.if_snd.ifq_drops, driver.sent) == (50, 1, [])


def test_handoff_to_an_input_queue_starts_nobody():
    _, ifp, driver = ethernet()
    ifp.if_drv_flags |= IFF.OACTIVE

    assert if_handoff(ifp.if_snd, mbuf(frame("x")), None)

    assert driver.sent == []
    assert ifp.if_obytes == 0


def test_a_driver_that_raises_is_reported_and_the_next_frame_goes_its_way(caplog):
    _, ifp, driver = ethernet()
    good = driver.if_start
    driver.if_start = lambda ifp: 1 / 0
    ifp.if_transmit(frame("x"))
    driver.if_start = good
    ifp.if_transmit(frame("y"))

    assert "ZeroDivisionError" in caplog.text
    assert ifp.if_oerrors == 1
    assert len(driver.sent) == 2


def test_the_last_promisc_holder_switches_off():
    _, ifp, driver = ethernet()

    ifp.ifpromisc(1)
    ifp.ifpromisc(1)
    ifp.ifpromisc(0)
    assert ifp.if_flags & IFF.PROMISC
    ifp.ifpromisc(0)

    assert not ifp.if_flags & IFF.PROMISC
    assert driver.commands == ["SIOCSIFFLAGS", "SIOCSIFFLAGS"]
    with pytest.raises(
        KernelPanic, match=r"decrement non-positive refcount 0 for flag 256 \(sys/net/if.c 2680\)"
    ):
        ifp.ifpromisc(0)


def test_a_driver_that_refuses_leaves_flags_and_count():
    _, ifp, driver = ethernet()
    driver.fails["SIOCSIFFLAGS"] = errno.EIO

    with pytest.raises(OSError, match="SIOCSIFFLAGS"):
        ifp.if_allmulti(1)

    assert ifp.if_amcount == 0
    assert not ifp.if_flags & IFF.ALLMULTI


def test_link_changes_wait_for_the_task_and_become_one():
    vnet, ifp, _ = ethernet()
    heard = []
    vnet.kernel.events.register("ifnet_link_event", lambda ifp, state: heard.append(state))

    for state in (LinkState.UP, LinkState.DOWN, LinkState.UP, LinkState.UP):
        ifp.if_link_state_change(state)
    assert heard == []
    vnet.kernel.taskqueue_swi.run()

    assert heard == [LinkState.UP]


def test_events_come_in_the_order_of_registration_past_one_that_raises(caplog):
    kernel = Kernel()
    order = []
    kernel.events.register("ifnet_arrival_event", lambda ifp: order.append(1))
    kernel.events.register("ifnet_arrival_event", lambda ifp: 1 / 0)
    kernel.events.register("ifnet_arrival_event", lambda ifp: order.append(3))

    ethernet(kernel)

    assert order == [1, 3]
    assert "ZeroDivisionError" in caplog.text


def test_detached_and_freed_nothing_is_left():
    vnet, ifp, _ = ethernet()
    ifp.if_addmulti("224.0.0.5")
    ifp.if_detach()
    ifp.if_free()
    gone = weakref.ref(ifp)
    del ifp
    gc.collect()

    assert gone() is None
    assert set(vnet.kernel.live().values()) == {0}


def test_what_joins_a_group_after_its_detach_leaves_it_when_it_is_freed():
    vnet, ifp, _ = ethernet()
    other = vnet.if_alloc(IFT.ETHER)
    ifp.if_detach()
    ifp.if_addgroup("late")
    ifp.if_addgroup("shared")
    other.if_addgroup("shared")

    ifp.if_free()

    assert list(vnet.groups) == ["shared"]
    assert vnet.groups["shared"].ifg_members == [other]
    with pytest.raises(OSError, match="was freed") as refused:
        ifp.if_addgroup("later")
    assert refused.value.errno == errno.ENXIO
    other.if_delgroup("shared")
    other.if_free()
    assert set(vnet.kernel.live().values()) == {0}


def test_an_interface_may_be_attached_anew_and_has_the_dead_driver_then():
    vnet, ifp, _ = ethernet()
    ifp.if_detach()

    ifp.if_attach()

    assert vnet.ifunit("em0") is ifp
    with pytest.raises(OSError, match="em0") as refused:
        ifp.if_transmit(frame("x"))
    assert refused.value.errno == errno.ENXIO


def test_a_detached_interface_answers_enxio():
    _, ifp, _ = ethernet()
    ifp.if_detach()

    with pytest.raises(OSError, match="em0") as refused:
        ifp.if_transmit(frame("x"))

    assert refused.value.errno == errno.ENXIO


@pytest.mark.parametrize("octets", [b"", b"x" * 13, b"x" * 65554])
def test_what_is_no_frame_is_refused(octets):
    _, ifp, driver = ethernet()

    with pytest.raises(ValueError, match=f"this one has {len(octets)}"):
        ifp.if_transmit(octets)

    assert driver.sent == []


def test_flags_by_ioctl_bring_up_with_messages():
    vnet, ifp, driver = ethernet()
    stream = vnet.kernel.rtsock.stream()

    vnet.ioctl("SIOCSIFFLAGS", Ifreq("em0", ifr_flags=ifp.if_flags | IFF.UP))

    assert ifp.if_flags & IFF.UP
    assert "flags:<BROADCAST,MULTICAST,SIMPLEX,UP>" in str(stream.get(timeout=1))
    assert driver.commands == ["SIOCSIFFLAGS"]


def test_a_scapy_packet_without_addresses_goes_from_this_nic_to_everybody(monkeypatch):
    from scapy.layers import l2
    from scapy.layers.inet import IP

    asked = []
    monkeypatch.setattr(l2.conf.neighbor, "resolve", lambda *args, **kwargs: asked.append(args))
    _, ifp, driver = ethernet()

    ifp.if_transmit(l2.Ether() / IP(src="192.0.2.1", dst="192.0.2.2"))

    assert frame_of(driver.sent[0])[:12] == b"\xff" * 6 + ifp.lladdr
    assert asked == []
