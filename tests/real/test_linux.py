"""iflab.linux against the kernel's own account."""

import errno
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from iflab.linux import InvalidName, KernelRefused, Monitor, Netlink, Netns, Tap, TimerFd, sysctl
from iflab.linux.ownproc import OwnProc

from ..linux_tools import PATIENCE, eventually, open_files, real_root


@pytest.fixture
def netns(lab):  # the fixture of the lab skips where no namespace can be made
    with Netns.create("test") as fresh:
        yield fresh


def nsenter(netns, *words):
    """Run a program in a namespace that only a file descriptor of this process holds."""
    path = f"/proc/{os.getpid()}/fd/{netns.fileno()}"
    return subprocess.run(
        ["nsenter", f"--net={path}", *words], capture_output=True, text=True, check=True
    ).stdout


def test_a_namespace_is_empty_and_not_ours(netns):
    assert netns.inode != os.stat("/proc/self/ns/net").st_ino
    assert nsenter(netns, "ip", "-br", "link").split()[:2] == ["lo", "DOWN"]
    assert not os.path.exists("/run/netns") or netns.name not in os.listdir("/run/netns")


def test_entering_is_for_one_thread_and_always_undone(netns):
    def own():
        return os.stat("/proc/thread-self/ns/net").st_ino

    def fail_inside():
        with netns.entered():
            assert own() == netns.inode
            other = threading.Thread(target=lambda: elsewhere.append(own()))
            other.start()
            other.join()
            raise ZeroDivisionError

    before, elsewhere = own(), []
    with pytest.raises(ZeroDivisionError):
        fail_inside()

    assert own() == before
    assert elsewhere == [
        netns.inode
    ]  # a thread begins where its maker is, and is its own master from then on


def test_many_threads_make_enter_and_leave_at_once(lab):
    wrong = []

    def work():
        before = os.stat("/proc/thread-self/ns/net").st_ino
        for _ in range(10):
            with Netns.create() as one, Netns.create() as two, one.entered():
                if os.stat("/proc/thread-self/ns/net").st_ino != one.inode:
                    wrong.append("one")
                with two.entered():
                    if os.stat("/proc/thread-self/ns/net").st_ino != two.inode:
                        wrong.append("two")
        if os.stat("/proc/thread-self/ns/net").st_ino != before:
            wrong.append("back")

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_a_tap_is_in_its_namespace_only_and_goes_with_its_fd(netns):
    tap = Tap.create(netns, "em0", mac=b"\x02\0\0\0\0\x05")

    shown = nsenter(netns, "ip", "-d", "link", "show", "em0")
    assert "02:00:00:00:00:05" in shown
    assert "tun type tap pi off vnet_hdr on persist off" in shown
    assert "NO-CARRIER" not in shown  # it is down; up it would be
    assert "em0" not in os.listdir("/sys/class/net")
    assert not os.get_blocking(tap.fd)
    tap.close()
    assert "em0" not in nsenter(netns, "ip", "-br", "link")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("em0123456789abcdef", r"'em0123456789abcdef' has 18 characters; .* holds 15 at most \(IFNAMSIZ\)"),
        ("", "cannot be empty"),
        ("em 0", "must not hold"),
        ("em/0", "must not hold"),
        ("..", "must not hold"),
    ],
)
def test_names_that_linux_does_not_take(netns, name, complaint):
    fds = open_files(collect=True)

    with pytest.raises(InvalidName, match=complaint):
        Tap.create(netns, name)

    assert open_files() == fds


def test_a_name_that_is_taken(netns):
    tap = Tap.create(netns, "em0")

    with pytest.raises(KernelRefused, match="the name is taken") as refused:
        Tap.create(netns, "em0")

    assert refused.value.errno == errno.EEXIST
    tap.close()


def test_changes_are_seen_by_ip(netns):
    tap = Tap.create(netns, "em0")
    with Netlink(netns) as netlink:
        netlink.link_set(
            tap.ifindex, up=True, mtu=1400, alias="the uplink", group=7, promisc=True, allmulti=True
        )
        netlink.addr_add(tap.ifindex, "192.0.2.1/24")
        netlink.addr_add(tap.ifindex, "2001:db8::1/64")
        netlink.route_add("198.51.100.0/24", via="192.0.2.9", table=100)
        netlink.rule_add("em0", 100)
    tap.set_carrier(True)

    shown = nsenter(netns, "ip", "-d", "addr", "show", "em0")
    for expected in ("PROMISC", "ALLMULTI", "LOWER_UP", "mtu 1400", "alias the uplink", "group 7"):
        assert expected in shown
    assert "inet 192.0.2.1/24 brd 192.0.2.255" in shown
    assert "inet6 2001:db8::1/64 scope global nodad" in shown
    assert "198.51.100.0/24 via 192.0.2.9" in nsenter(netns, "ip", "route", "show", "table", "100")
    assert "iif em0 lookup 100" in nsenter(netns, "ip", "rule")
    with Netlink(netns) as netlink:
        netlink.link_set(tap.ifindex, up=False, alias="", promisc=False, mac=b"\x02\0\0\0\0\x77", name="em7")
    shown = nsenter(netns, "ip", "-d", "link", "show", "em7")
    assert "alias" not in shown
    assert "ALLMULTI" in shown
    assert "PROMISC" not in shown
    assert "02:00:00:00:00:77" in shown
    tap.close()


def test_what_the_kernel_refuses_comes_with_its_own_words(netns):
    tap = Tap.create(netns, "em0")
    with Netlink(netns) as netlink:
        with pytest.raises(OSError, match="mtu less than device minimum") as refused:
            netlink.link_set(tap.ifindex, mtu=10)
        assert refused.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="No such device"):
            netlink.link_get("nosuch0")
        with pytest.raises(ValueError, match=r"'192\.0\.2\.999/24' is no address"):
            netlink.addr_add(tap.ifindex, "192.0.2.999/24")
    tap.close()


def test_a_batch_names_the_message_that_failed_and_does_the_others(netns):
    tap = Tap.create(netns, "em0")
    with Netlink(netns) as netlink:

        def three_things():
            with netlink.batch():
                netlink.addr_add(tap.ifindex, "192.0.2.1/24")
                netlink.link_set(99, up=True)
                netlink.addr_add(tap.ifindex, "192.0.2.2/24")

        with pytest.raises(OSError, match="device 99"):
            three_things()
        assert [addr.address for addr in netlink.addrs(tap.ifindex)] == ["192.0.2.1", "192.0.2.2"]
    tap.close()


def test_a_device_moves_between_namespaces_with_its_fd(netns):
    tap = Tap.create(netns, "em0")
    with Netns.create("other") as other:
        with Netlink(netns) as netlink:
            netlink.link_set(tap.ifindex, netns=other)

        assert "em0" not in nsenter(netns, "ip", "-br", "link")
        assert "em0" in nsenter(other, "ip", "-br", "link")
        tap.set_carrier(True)
        assert "em0" in nsenter(other, "ip", "-br", "link")
        tap.close()


def test_the_monitor_hears_every_namespace_and_tells_them_apart(lab, netns):
    with Netns.create("home") as home, Netns.create("other") as other:
        monitor = Monitor(home)
        ids = {monitor.watch(netns): "one", monitor.watch(other): "other"}
        taps = [Tap.create(space, "em0") for space in (netns, other)]
        for space in (netns, other):
            nsenter(space, "ip", "link", "set", "em0", "up")
        nsenter(netns, "ip", "addr", "add", "192.0.2.1/24", "dev", "em0")
        nsenter(netns, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.9")

        changes = monitor.read()
        heard = {(c.kind, ids[c.nsid]) for c in changes}

        nsenter(netns, "ip", "addr", "del", "192.0.2.1/24", "dev", "em0")
        routes = [c for c in changes + monitor.read() if c.kind.endswith("route")]
        assert {c.kind for c in routes} == {"newroute", "delroute"}
        assert {c.record.table for c in routes} == {
            254
        }  # those of the table local come and go with addresses
        assert {("newlink", "one"), ("newlink", "other"), ("newaddr", "one"), ("newroute", "one")} <= heard
        assert ("newaddr", "other") not in {
            (kind, who) for kind, who in heard if kind == "newaddr" and who == "other"
        }
        for tap in taps:
            tap.close()
        eventually(lambda: [c for c in monitor.read() if c.kind == "dellink"])
        monitor.close()


def test_of_several_notices_about_a_device_the_last_is_told(netns):
    with Netns.create("home") as home:
        monitor = Monitor(home)
        monitor.watch(netns)
        tap = Tap.create(netns, "em0")
        other = Tap.create(netns, "em1")
        with Netlink(netns) as netlink:
            monitor.read()
            for mtu in (1300, 1350, 1400):
                netlink.link_set(tap.ifindex, mtu=mtu)
            netlink.link_set(other.ifindex, mtu=1360)
            netlink.link_set(tap.ifindex, up=True)
            changes = monitor.read()
            assert [
                (c.kind, c.record.name, c.record.mtu, c.record.flags & 1)
                for c in changes
                if c.kind == "newlink"
            ] == [
                ("newlink", "em1", 1360, 0),
                ("newlink", "em0", 1400, 1),
            ]
            assert monitor.drained

            netlink.link_set(tap.ifindex, up=False)
            monitor.read()
            netlink.link_set(tap.ifindex, mtu=1300)
            netlink.link_set(tap.ifindex, mtu=1400)
            assert [c.record.mtu for c in monitor.read(limit=1)] == [1300]
            assert not monitor.drained
            tap.close()  # what was told of a device that went is told, too
            again = Tap.create(netns, "em0")
            told = [c.kind for c in monitor.read() if c.kind.endswith("link") and c.record.name == "em0"]
            assert told == ["newlink", "dellink", "newlink"]
        for each in (again, other):
            each.close()
        monitor.close()


@real_root
def test_an_overflow_is_told(lab, netns):
    with Netns.create("home") as home:
        monitor = Monitor(home)
        monitor.set_buffer(4096)
        monitor.watch(netns)
        tap = Tap.create(netns, "em0")
        with Netlink(netns) as netlink:
            for mtu in range(1000, 1100):
                netlink.link_set(tap.ifindex, mtu=mtu)

        assert "overflow" in {c.kind for c in monitor.read()}
        tap.close()
        monitor.close()


def test_joined_groups_are_listed(netns):
    with Netlink(netns) as netlink:
        netlink.link_set(1, up=True)
        listed = {(m.family, m.address) for m in netlink.maddrs() if m.index == 1}

    assert (socket.AF_INET, "224.0.0.1") in listed
    assert (socket.AF_INET6, "ff02::1") in listed


def test_a_list_of_the_kernel_is_whole_and_as_it_is_now(netns):
    """Longer than a page, and with a name that only octets can be told apart in."""
    assert netns.read_list("dev_mcast") == []
    assert netns.read_list("no_such_list") == []
    tap = Tap.create(netns, "em0")
    nsenter(netns, "ip", "link", "set", "em0", "name", "em\x1c0")
    groups = [f"01:00:5e:00:01:{last:02x}" for last in range(150)]
    for group in groups:
        nsenter(netns, "ip", "maddress", "add", group, "dev", "em\x1c0")

    told = nsenter(netns, "ip", "-0", "maddress", "show")
    assert told.count("01:00:5e:00:01:") == 150
    with Netlink(netns) as netlink:
        found = {maddr.address for maddr in netlink.maddrs() if maddr.family == socket.AF_PACKET}
        assert found - {"33:33:00:00:00:01", "01:00:5e:00:00:01"} == set(
            groups
        )  # every device is in those two
        last = groups[149].replace(":", "").encode()
        assert netlink.hearers()[last] == {tap.ifindex}
        nsenter(netns, "ip", "maddress", "del", groups[149], "dev", "em\x1c0")
        assert last not in netlink.hearers()
    tap.close()


def test_settings_of_a_namespace_are_its_own(netns):
    ours = Path("/proc/sys/net/ipv4/ip_forward")
    here = ours.read_text()

    assert sysctl(netns, "net.ipv4.ip_forward", 1) == "1"
    assert ours.read_text() == here
    for wrong in ("kernel.hostname", "net/../kernel/hostname", "net..x"):
        with pytest.raises(ValueError, match="no setting of a network namespace"):
            sysctl(netns, wrong)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_proc_of_ones_own_shows_the_same_settings_and_is_mounted_nowhere(lab, netns, monkeypatch, allowed):
    if not allowed:

        def refused(kind):
            raise OSError(errno.EPERM, f"fsmount {kind}")

        monkeypatch.setattr("iflab.linux.ownproc.mount_detached", refused)
    mounts, files = Path("/proc/self/mountinfo").read_text(), open_files(collect=True)
    ours = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    proc = OwnProc(looks=2)
    with Netns.create("other") as other:
        for value in (1, 0, 1):  # the third is another mount
            assert sysctl(netns, "net.ipv4.ip_forward", value, proc.for_a_look()) == str(value)
            assert sysctl(netns, "net.ipv4.ip_forward") == str(value)
        assert nsenter(netns, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
        there = nsenter(other, "cat", "/proc/sys/net/ipv4/ip_forward").strip()
        assert sysctl(other, "net.ipv4.ip_forward", proc=proc.for_a_look()) == there
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == ours
    proc.close()
    proc.close()
    assert open_files() == files


def test_a_timer_fires_once_and_in_time():
    import select
    import time

    timer = TimerFd()
    began = time.monotonic()
    timer.set(began + 0.02)

    assert select.select([timer], [], [], PATIENCE)[0]
    assert time.monotonic() - began >= 0.02
    timer.clear()
    assert not select.select([timer], [], [], 0)[0]
    timer.close()
