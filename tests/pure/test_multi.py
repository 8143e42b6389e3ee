"""Who holds a multicast membership, who may leave it, and what is left of it afterwards."""

import errno

import pytest

from iflab.net import KernelPanic, SockaddrDl, if_delmulti_ifma

from .devices import refused
from .doubles import ethernet

GROUP, MAC = "224.0.0.5", "01:00:5e:00:00:05"


def test_a_link_level_join_may_be_left_after_the_group_that_shared_it():
    vnet, ifp, _ = ethernet()
    ifp.if_addmulti(GROUP)
    link = ifp.if_addmulti(MAC)
    ifp.if_delmulti(GROUP)
    assert (link.ifma_refcount, link.held) == (1, 1)

    ifp.if_delmulti(MAC)

    assert len(ifp.if_multiaddrs) == 0
    assert vnet.kernel.live()["ether_multi"] == 0


def test_a_link_level_group_that_only_a_group_holds_cannot_be_left():
    _, ifp, driver = ethernet()
    ifp.if_addmulti(GROUP)
    driver.commands.clear()

    refused(errno.ENOENT, ifp.if_delmulti, MAC)

    assert ifp.if_findmulti(MAC).ifma_refcount == 1
    assert driver.commands == []


def test_dropping_one_reference_of_all_leaves_what_a_group_still_needs():
    vnet, ifp, _ = ethernet()
    group = ifp.if_addmulti(GROUP)
    ifp.if_addmulti(GROUP)

    ifp.if_delallmulti()

    assert (group.ifma_refcount, ifp.if_findmulti(MAC).ifma_refcount) == (1, 1)
    ifp.if_delallmulti()
    assert len(ifp.if_multiaddrs) == 0
    assert vnet.kernel.live()["ether_multi"] == 0


@pytest.mark.parametrize("address", [GROUP, MAC])
def test_a_reference_that_nobody_holds_cannot_be_given_back(address):
    vnet, ifp, _ = ethernet()
    membership = ifp.if_addmulti(address)
    if_delmulti_ifma(membership)

    with pytest.raises(KernelPanic, match=r"refcount -1 \(sys/net/if.c 2942\)"):
        if_delmulti_ifma(membership)

    assert membership.ifma_refcount == 0
    assert vnet.kernel.live()["ether_multi"] == 0


def test_a_membership_that_is_over_belongs_to_no_interface():
    _, ifp, _ = ethernet()
    group = ifp.if_addmulti(GROUP)
    link = group.ifma_llifma

    ifp.if_delmulti(GROUP)

    assert (group.ifma_ifp, link.ifma_ifp) == (None, None)
    assert [repr(ifma) for ifma in (group, link)] == [
        f"<Ifmultiaddr - {GROUP} refs=0>",
        f"<Ifmultiaddr - {MAC} refs=0>",
    ]


def test_a_membership_keeps_its_address_when_the_caller_writes_to_his():
    _, ifp, _ = ethernet()
    address = SockaddrDl(3, 6, "em0", bytes.fromhex(MAC.replace(":", "")))

    membership = ifp.if_addmulti(address)
    address.sdl_lladdr = b"\x01\0\0\0\0\x01"
    address.sdl_index = 9

    own = membership.ifma_addr
    assert (str(own), own.sdl_index, own.sdl_type, own.sdl_name) == (MAC, 3, 6, "")
    assert ifp.if_findmulti(MAC) is membership
    ifp.if_delmulti(MAC)
    assert len(ifp.if_multiaddrs) == 0
