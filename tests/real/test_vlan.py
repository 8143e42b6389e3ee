"""802.1Q and 802.1ad between hosts, told by tshark and the kernel."""

from __future__ import annotations

import pytest

from ..linux_tools import PATIENCE, eventually, kernel_flags, link, need


def trunk(lab, *tags):
    alice, bob = lab.host("alice"), lab.host("bob")
    cable = lab.cable(alice.nic("em0"), bob.nic("em0"))
    for host, end in ((alice, 1), (bob, 2)):
        for number, tag in enumerate(tags):
            host.ifconfig(f"vlan{number} create vlan {tag} vlandev em0 192.0.{tag}.{end}/24")
    lab.wait_links()
    return alice, bob, cable


def dissected(lab, path, *fields, options=()):
    """Fields of every frame as tshark reads them, and that none is malformed."""
    host = lab.host("reader")
    base = ["tshark", "-n", "-r", str(path), *options]
    malformed = host.run([*base, "-Y", "_ws.malformed"]).stdout
    assert malformed == ""
    rows = host.run([*base, "-T", "fields", *(word for f in fields for word in ("-e", f))], check=True)
    return [line.split("\t") for line in rows.stdout.splitlines()]


def test_two_vlans_on_one_cable(lab, tmp_path):
    need("tshark", "tshark")
    path = tmp_path / "trunk.pcapng"
    capture = lab.capture(path)
    alice, _bob, _ = trunk(lab, 10, 20)

    assert alice.ping("192.0.10.2").received == 1
    assert alice.ping("192.0.20.2").received == 1
    assert "vlan: 20 vlanproto: 802.1q vlanpcp: 0 parent interface: em0" in alice.ifconfig("vlan1")
    assert link(alice, "vlan0")["address"] == link(alice, "em0")["address"]

    capture.close()
    rows = dissected(lab, path, "vlan.id", "icmp.type")
    assert {tuple(row) for row in rows} >= {("10", "8"), ("10", "0"), ("20", "8"), ("20", "0")}


@pytest.mark.parametrize("hooked", [False, True], ids=["offloads", "finished"])
def test_tcp_through_a_vlan_with_what_hosts_leave_undone(lab, hooked):
    alice, bob, cable = trunk(lab, 10)
    longest = []
    if hooked:
        cable.add_hook(lambda frame: longest.append(len(frame)))

    assert bob.fetch(alice.serve(bytes_=5_000_000, address="192.0.10.1")).wait(20 * PATIENCE) == 5_000_000

    if hooked:
        assert max(longest) == 1518
    lab.check()


def test_a_vlan_follows_mtu_and_link_as_linux_sees_them(lab):
    alice, _, cable = trunk(lab, 10)

    alice.run("ip link set em0 mtu 1400", check=True)
    eventually(lambda: link(alice, "vlan0")["mtu"] == 1400)
    cable.cut()
    eventually(lambda: "NO-CARRIER" in kernel_flags(alice, "vlan0"))
    cable.mend()

    assert eventually(lambda: alice.ping("192.0.10.2", timeout=0.2).received)


def test_a_pseudo_device_has_no_plug(lab):
    from iflab.wire import WireError

    alice, bob, _ = trunk(lab, 10)

    with pytest.raises(WireError, match="has no plug; use a NIC"):
        lab.cable(alice.nics["vlan0"], bob.nic("em1"))


def test_qinq(lab, tmp_path):
    need("tshark", "tshark")
    path = tmp_path / "qinq.pcapng"
    capture = lab.capture(path)
    alice, bob = lab.host("alice"), lab.host("bob")
    lab.cable(alice.nic("em0"), bob.nic("em0"))
    for host, end in ((alice, 1), (bob, 2)):
        host.ifconfig("vlan0 create vlan 100 vlandev em0 vlanproto 802.1ad up")
        host.ifconfig(f"vlan0.7 create 192.0.2.{end}/24")
    lab.wait_links()

    assert alice.ping("192.0.2.2", size=1400).received == 1
    assert bob.fetch(alice.serve(bytes_=1_000_000)).wait(20 * PATIENCE) == 1_000_000

    capture.close()
    rows = dissected(lab, path, "ieee8021ad.id", "vlan.id", "icmp.type")
    assert ["100", "7", "8"] in rows


def test_groups_that_a_program_joins_on_a_vlan_open_the_parents_filter(lab):
    alice, _bob, _ = trunk(lab, 10)
    em0 = alice.nics["em0"]

    alice.run("ip maddress add 01:00:5e:7c:00:09 dev vlan0", check=True)
    with lab.lock:
        alice.stack.look_groups(alice.stack.interfaces())

    assert b"\x01\x00\x5e\x7c\x00\x09" in em0.if_multiaddrs.link_addresses()
    assert "01:00:5e:7c:00:09" in alice.run("ip maddress show dev em0").stdout
    alice.ifconfig("vlan0 destroy")
    assert b"\x01\x00\x5e\x7c\x00\x09" not in em0.if_multiaddrs.link_addresses()
    lab.check()
