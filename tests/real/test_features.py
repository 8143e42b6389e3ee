"""What kernels differ in: found by trying, named by ``iflab check``, and made up for where it is missing."""

import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import time

import pytest

from iflab import Lab, stack
from iflab.linux import KernelRefused, Netlink, Netns, Tap, check, monitor
from iflab.linux.features import features
from iflab.linux.netlink import IFF_UP
from iflab.linux.rename import rename
from iflab.linux.tap import TUN_F_USO4

from ..linux_tools import ip, link


@pytest.fixture
def netns(lab):
    with Netns.create("test") as fresh:
        yield fresh


@pytest.fixture
def tap(netns):
    fresh = Tap.create(netns, "em0")
    yield fresh
    fresh.close()


def found(netns, tap):
    return {feature.name: feature for feature in features(netns, tap)}


class OldNetlink(Netlink):
    """A kernel before 6.2: no new name for a device that is up."""

    def link_set(self, index, **changes):
        if changes.get("name") and self.link_get(index).flags & IFF_UP:
            raise KernelRefused(errno.EBUSY, f"name {changes['name']}")
        super().link_set(index, **changes)


def test_check_names_every_feature_and_what_is_used_instead(netns, tap):
    told = {finding.name: finding for finding in check()}

    for name, feature in found(netns, tap).items():
        assert (told[name].ok, told[name].detail) == (feature.there, feature.detail)
        assert not told[name].required
        assert bool(told[name].remedy) is not feature.there


def test_trying_agrees_with_what_iproute2_gets(lab, netns, tap):
    features = found(netns, tap)
    alice = lab.host("alice")
    alice.nic("em0")

    renamed = alice.run("ip link set em0 name em7")
    assert (renamed.returncode == 0) is features["rename while up"].there
    if renamed.returncode:
        assert "busy" in renamed.stderr
    else:
        alice.run("ip link set em7 name em0", check=True)
    assert ("allmulti" in link(alice, "em0")) is features["allmulticast count"].there


def test_trying_leaves_the_device_as_it_was_named(netns, tap):
    found(netns, tap)

    with Netlink(netns) as netlink:
        assert netlink.link_get(tap.ifindex).name == "em0"
        assert not netlink.link_get(tap.ifindex).carrier


def test_an_offload_that_would_be_left_out_is_not_claimed(netns, tap, monkeypatch):
    real = Tap._ioctl

    def without_uso(self, request, argument, what):
        if what.startswith("offload") and argument & TUN_F_USO4:
            raise KernelRefused(errno.EINVAL, what)
        real(self, request, argument, what)

    monkeypatch.setattr(Tap, "_ioctl", without_uso)
    features = found(netns, tap)

    assert features["offload TSO"].there
    assert not features["offload USO"].there
    assert "itself" in features["offload USO"].detail


def test_any_other_refusal_of_an_offload_is_an_error():
    with open(os.devnull) as file, pytest.raises(KernelRefused, match="offload") as refused:
        Tap(file.fileno(), "em0", 0).offers(TUN_F_USO4)
    assert refused.value.errno == errno.ENOTTY


def test_a_device_that_is_up_is_renamed_on_an_older_kernel_with_all_that_it_had(lab):
    alice = lab.host("alice")
    alice.nic("em0", "192.0.2.1/24", "2001:db8::1/64")
    alice.run(
        "ip route add default via 192.0.2.254; ip route add 198.51.100.0/24 via 192.0.2.9 table 100 metric 5;"
        "ip -6 route add 2001:db8:9::/48 via 2001:db8::9; ip -6 route add default via 2001:db8::fe;"
        "ip route add unreachable 203.0.113.0/24; ip addr add 192.0.2.7 peer 192.0.2.8 dev em0;"
        "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev em0;"
        "ip neigh add 2001:db8::9 lladdr 02:00:00:00:00:09 dev em0",
        check=True,
    )

    def account():
        addresses = {(a["local"], a["prefixlen"]) for row in ip(alice, "addr") for a in row["addr_info"]}
        routes = [
            alice.run(f"ip -{version} route show table {table}", check=True).stdout.split("\n")
            for version in (4, 6)
            for table in ("main", "100")
            if version == 4 or table == "main"
        ]
        drop = (" proto static", " proto boot", " linkdown", " onlink")
        lines = {line for block in routes for line in block if line and "fe80" not in line}
        for word in drop:
            lines = {line.replace(word, "") for line in lines}
        neighbours = {(row["dst"], row["lladdr"]) for row in ip(alice, "neigh", "show", "nud", "permanent")}
        assert len(neighbours) == 2
        return addresses, neighbours, {" ".join(line.replace("em7", "em0").split()) for line in lines}

    before = account()
    with OldNetlink(alice.netns) as netlink:
        index = netlink.link_get("em0").index
        rename(netlink, index, "em7")

    assert link(alice, "em7")["ifindex"] == index
    assert "UP" in link(alice, "em7")["flags"]
    assert account() == before


def test_a_name_that_is_taken_leaves_the_device_up_and_as_it_was(lab):
    alice = lab.host("alice")
    alice.nic("em0", "2001:db8::1/64")
    alice.nic("em1")
    with OldNetlink(alice.netns) as netlink:
        index = netlink.link_get("em0").index
        with pytest.raises(KernelRefused) as refused:
            rename(netlink, index, "em1")
        assert refused.value.errno == errno.EEXIST
        addresses = [a.address for a in netlink.addrs(index) if a.family == socket.AF_INET6]

    assert "UP" in link(alice, "em0")["flags"]
    assert "2001:db8::1" in addresses


def test_check_as_json_has_them_for_programs(lab):
    lab.close()
    program = [sys.executable, "-c", "from iflab.cli import main; main()", "check", "--json"]
    rows = json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)

    assert {"offload USO", "multicast notices", "rename while up"} <= {row["name"] for row in rows}


class TestWithoutNoticesOfGroups:
    """As on Linux before 6.14, where nobody tells that a program joined."""

    GROUP, MAC = "233.252.0.1", bytes.fromhex("01005e7c0001")
    MEMBERSHIP = socket.inet_aton(GROUP) + socket.inet_aton("192.0.2.1")

    @pytest.fixture
    def alice(self, lab, monkeypatch):
        monkeypatch.setattr(monitor, "_MCADDR_GROUPS", ())
        with Lab("deaf") as deaf:
            alice = deaf.host("alice")
            alice.nic("em0", "192.0.2.1/24")
            yield alice
            deaf.check()

    def news(self, alice, times):
        """Let so many frames to the group arrive at the NIC; return how many it lets through."""
        em0 = alice.nics["em0"]
        frame = self.MAC + bytes.fromhex("02000000009988b5") + bytes(46)
        with alice.lab.lock:
            return sum(em0.if_softc.accepts(frame[:6]) for _ in range(times))

    def test_a_frame_right_after_the_join_passes(self, alice):
        for _ in range(3):
            assert self.news(alice, 1) == 0
            with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
                program.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, self.MEMBERSHIP)
                assert self.news(alice, 1) == 1
            alice.lab.check()  # learns that it left; until then the filter may let too much through

    def test_a_notice_of_another_group_stands_for_none(self, lab):
        """Of memberships of packet sockets no kernel tells: what it tells of others must not end the search."""
        alice = lab.host("told")
        em0 = alice.nic("em0", "192.0.2.1/24")
        other = bytes.fromhex("01005e7c0009")
        with (
            alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as program,
            alice.socket(socket.AF_PACKET, socket.SOCK_RAW) as sniffer,
            lab.lock,
        ):
            program.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, self.MEMBERSHIP)
            membership = struct.pack("iHH8s", em0.if_softc.tap.ifindex, 0, 6, other)
            sniffer.setsockopt(
                263, 1, membership
            )  # SOL_PACKET, PACKET_ADD_MEMBERSHIP; PACKET_MR_MULTICAST is 0
            assert em0.if_softc.accepts(other)
            assert em0.if_softc.accepts(self.MAC)
        lab.check()

    @pytest.mark.parametrize("how", ["ip", "packet socket"])
    def test_who_wants_all_groups_has_them_while_others_are_built(self, lab, how):
        alice = lab.host("early")
        em0 = alice.nic("em0", "192.0.2.1/24")
        with lab.building(), contextlib.ExitStack() as undo:
            for number in range(20):
                lab.host(f"h{number}")
            if how == "ip":
                alice.run("ip link set em0 allmulticast on", check=True)
            else:
                sniffer = undo.enter_context(alice.socket(socket.AF_PACKET, socket.SOCK_RAW))
                sniffer.setsockopt(
                    263, 1, struct.pack("iHH8s", em0.if_softc.tap.ifindex, 2, 6, b"")
                )  # PACKET_MR_ALLMULTI
                time.sleep(0.3)  # so often it is asked
            assert self.news(alice, 1) == 1

    def test_looks_are_rationed(self):
        allowance = stack._Allowance(20, 50, now=100.0)
        assert sum(allowance.take(100.0) for _ in range(100)) == 20
        assert sum(allowance.take(100.11) for _ in range(100)) == 5
        assert not allowance.take(100.14, 3)
        assert allowance.take(100.18, 3)
        assert sum(allowance.take(999.0) for _ in range(100)) == 20

    def test_netstat_lists_what_a_program_joined_a_moment_ago(self, alice):
        with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            assert self.GROUP not in alice.netstat("-g")
            program.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, self.MEMBERSHIP)
            assert self.GROUP in alice.netstat("-g", "-n")
        assert self.GROUP not in alice.netstat("-gn")

    def test_a_flood_of_strange_frames_is_not_looked_into_one_by_one(self, alice, monkeypatch):
        looks = []
        look = Netlink.hearers
        monkeypatch.setattr(Netlink, "hearers", lambda netlink: looks.append(1) or look(netlink))
        began = time.monotonic()
        assert self.news(alice, 1000) == 0
        assert len(looks) == 1  # they came together: one look tells of all
        assert sum(self.news(alice, 1) for _ in range(1000)) == 0

        took = time.monotonic() - began
        assert 10 <= len(looks) <= 21 + 50 * took
