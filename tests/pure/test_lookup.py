"""Every look-up answers as the original's scan does, first match included.

The scans below follow sys/net/if.c 1564-1863 line by line, without any table.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from iflab.net import IFF, IFT, AddressFamily, Kernel, as_sockaddr, ether_ifattach

from .doubles import RecordingDriver

ADDRESSES = [f"10.0.{a}.{b}" for a in (0, 1) for b in (1, 2, 255)] + [
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:0:1::1",
]
MASKS = {
    4: ["255.0.0.0", "255.255.255.0", "255.255.255.255", "255.0.255.0", None],
    6: ["ffff:ffff::", "ffff:ffff:ffff:ffff::", None],
}
ASKED = [*ADDRESSES, "10.0.0.77", "10.0.1.77", "11.0.0.1", "2001:db8::77"]


def version(address):
    return 6 if ":" in address else 4


@st.composite
def address_rows(draw):
    address = draw(st.sampled_from(ADDRESSES))
    same = [a for a in ADDRESSES if version(a) == version(address)]
    return (
        address,
        draw(st.sampled_from(MASKS[version(address)])),
        draw(st.sampled_from([None, *same])),
        draw(st.sampled_from([None, None, None, "backup", "master"])),
        draw(st.sampled_from([None, None, None, None, True, False])),
    )


interface_rows = st.tuples(
    st.sampled_from([IFF.BROADCAST, IFF.POINTOPOINT, 0, IFF.BROADCAST | IFF.POINTOPOINT]),
    st.sampled_from([0, 0, 1]),
    st.lists(address_rows(), max_size=5),
)


def build(rows):
    kernel = Kernel()
    kernel.hooks.carp_master_p = lambda ifa: ifa.ifa_carp == "master"
    vnet = kernel.vnet_alloc("v")
    for unit, (flags, fib, addresses) in enumerate(rows):
        ifp = vnet.if_alloc(IFT.ETHER)
        ifp.if_initname("em", unit)
        ifp.if_driver = RecordingDriver()
        ifp.if_flags, ifp.if_fib = flags, fib
        ether_ifattach(ifp, b"\x02\0\0\0\0" + bytes([unit + 1]))
        for address, mask, far, carp, claim in addresses:
            ifa = ifp.ifa_add(address, mask, far)
            ifa.ifa_carp = carp
            if claim is not None:
                ifa.ifa_claim_addr = lambda ifa, sa, answer=claim: answer
    return vnet


def all_addresses(vnet, family):
    return [(ifp, ifa) for ifp in vnet.ifnets() for ifa in ifp.if_addrhead if ifa.ifa_addr.family is family]


def scan_exact(vnet, sa):
    for ifp, ifa in all_addresses(vnet, sa.family):
        if ifa.ifa_addr == sa or (ifp.if_flags & IFF.BROADCAST and ifa.ifa_broadaddr == sa):
            return ifa
    return None


def scan_broadcast(vnet, sa):
    for ifp, ifa in all_addresses(vnet, sa.family):
        if ifp.if_flags & IFF.BROADCAST and ifa.ifa_broadaddr == sa:
            return ifa
    return None


def scan_far(vnet, sa, fib):
    for ifp, ifa in all_addresses(vnet, sa.family):
        if ifp.if_flags & IFF.POINTOPOINT and ifp.if_fib == fib and ifa.ifa_dstaddr == sa:
            return ifa
    return None


def preferred(vnet, current, other):
    if current.ifa_carp is None:
        return False
    return other.ifa_carp is None or (other.ifa_carp == "master" and current.ifa_carp != "master")


def refines(mask, other):
    return mask != other and mask & other == other


def scan_network(vnet, sa, ignore_ptp, fib):
    best = None
    for ifp, ifa in all_addresses(vnet, sa.family):
        if ifp.if_fib != fib:
            continue
        if sa.family is AddressFamily.INET and ifp.if_flags & IFF.POINTOPOINT and not ignore_ptp:
            if ifa.ifa_dstaddr == sa:
                return ifa
            continue
        if ifa.ifa_claim_addr is not None:
            if ifa.ifa_claim_addr(ifa, sa):
                return ifa
            continue
        if ifa.ifa_netmask is None:
            continue
        mask = ifa.ifa_netmask.value
        if (sa.value ^ ifa.ifa_addr.value) & mask:
            continue
        if best is None or preferred(vnet, best, ifa) or refines(mask, best.ifa_netmask.value):
            best = ifa
    return best


def scan_on_interface(ifp, sa):
    first = None
    for ifa in ifp.if_addrhead:
        if ifa.ifa_addr.family is not sa.family:
            continue
        first = first or ifa
        if ifa.ifa_netmask is None:
            if sa in (ifa.ifa_addr, ifa.ifa_dstaddr):
                return ifa
        elif ifp.if_flags & IFF.POINTOPOINT:
            if ifa.ifa_dstaddr == sa:
                return ifa
        elif not (sa.value ^ ifa.ifa_addr.value) & ifa.ifa_netmask.value:
            return ifa
    return first


def compare(vnet):
    for text in ASKED:
        sa = as_sockaddr(text)
        assert vnet.ifa_ifwithaddr(sa) is scan_exact(vnet, sa)
        assert vnet.ifa_ifwithaddr_check(sa) == (scan_exact(vnet, sa) is not None)
        assert vnet.ifa_ifwithbroadaddr(sa) is scan_broadcast(vnet, sa)
        for fib in (0, 1):
            assert vnet.ifa_ifwithdstaddr(sa, fib) is scan_far(vnet, sa, fib)
            for ignore_ptp in (False, True):
                assert vnet.ifa_ifwithnet(sa, ignore_ptp, fib) is scan_network(vnet, sa, ignore_ptp, fib)
        for ifp in vnet.ifnets():
            assert ifp.ifaof_ifpforaddr(sa) is scan_on_interface(ifp, sa)


@settings(max_examples=60, deadline=None)
@given(st.lists(interface_rows, max_size=4), st.data())
def test_look_ups_answer_as_the_scan_does_also_after_changes(rows, data):
    vnet = build(rows)
    compare(vnet)

    for _ in range(3):
        own = [
            ifa
            for ifp in vnet.ifnets()
            for ifa in ifp.if_addrhead
            if ifa.ifa_addr.family is not AddressFamily.LINK
        ]
        if not own:
            break
        ifa = data.draw(st.sampled_from(own))
        same = [a for a in ADDRESSES if version(a) == version(str(ifa.ifa_addr))]
        match data.draw(
            st.sampled_from(["remove", "detach", "address", "mask", "far", "flags", "fib", "carp"])
        ):
            case "remove":
                ifa.ifa_ifp.ifa_remove(ifa)
            case "detach":
                ifa.ifa_ifp.if_detach()
            case "address":
                ifa.ifa_addr = as_sockaddr(data.draw(st.sampled_from(same)))
            case "mask":
                mask = data.draw(st.sampled_from(MASKS[version(same[0])]))
                ifa.ifa_netmask = as_sockaddr(mask) if mask else None
            case "far":
                ifa.ifa_dstaddr = as_sockaddr(data.draw(st.sampled_from(same)))
            case "flags":
                ifa.ifa_ifp.if_flags ^= IFF.POINTOPOINT
            case "fib":
                ifa.ifa_ifp.if_fib ^= 1
            case "carp":
                ifa.ifa_carp = None if ifa.ifa_carp else "master"
        compare(vnet)
