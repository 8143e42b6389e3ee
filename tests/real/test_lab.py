"""Labs, hosts and programs in them."""

import contextlib
import errno
import gc
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

import iflab.lab
from iflab import Lab, LabError, TapNic
from iflab.bsd import CommandError
from iflab.faults import FaultError, Loss
from iflab.linux import InvalidName, KernelRefused, sysctl
from iflab.net import IFF
from iflab.wire import WireError

from ..conftest import ROOT
from ..linux_tools import (
    PATIENCE,
    eventually,
    ip,
    kernel_flags,
    need,
    network_namespaces,
    open_files,
    real_root,
)

ALONE = not os.environ.get("PYTEST_XDIST_WORKER")
"""Only then are all namespaces of the machine ours; beside other workers their labs' come, and take freed numbers.

A namespace is held by processes and file descriptors alone, and those are looked at in any case.
"""


class NotSetUp(TapNic):
    """A driver whose author forgot the class that it is derived from."""

    def __init__(self):
        self.sent = 0


@pytest.mark.parametrize(
    ("attempt", "refusal", "words"),
    [
        (lambda lab, nic, cable: lab.host(5), LabError, "5 is no name for a host"),
        (lambda lab, nic, cable: lab.switch(None, ports=2), LabError, "None is no name for a switch"),
        (lambda lab, nic, cable: lab.hosts["alice"].nic(5), InvalidName, "5 is no interface name"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].nic("x", mtu="a"),
            LabError,
            "x: an MTU of 'a' cannot be",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].nic("x", 5), LabError, "5 is no address for alice"),
        (lambda lab, nic, cable: lab.capture(5), TypeError, "5 is no place for a capture"),
        (lambda lab, nic, cable: lab.capture("/nowhere/x", snaplen="a"), ValueError, "at least, not 'a'"),
        (lambda lab, nic, cable: Lab(on_log=5), LabError, "on_log is 5; give a function"),
        (lambda lab, nic, cable: Lab(seed="x"), LabError, "seed is 'x'; give a whole number"),
        (lambda lab, nic, cable: Lab(host_network="yes"), LabError, "host_network is 'yes'; give True or"),
        (lambda lab, nic, cable: lab.hosts["alice"].nic("x", mtu=-1), LabError, "x: an MTU of -1 cannot be"),
        (lambda lab, nic, cable: lab.hosts["alice"].serve(bytes_=-5), LabError, "cannot serve -5 octets"),
        (lambda lab, nic, cable: lab.at(1, 5), FaultError, "5 cannot be called"),
        (lambda lab, nic, cable: lab.every(1, None), FaultError, "None cannot be called"),
        (lambda lab, nic, cable: cable.set_delay("a"), WireError, "a delay of 'a' s cannot be"),
        (
            lambda lab, nic, cable: cable.impair(Loss(0.1), towards="zz"),
            WireError,
            "zz is not plugged into",
        ),
        (
            lambda lab, nic, cable: cable.impair("loss"),
            FaultError,
            r"'loss' is no fault of a cable; write Loss\(0.1\)",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].run([]), LabError, r"\[\] is no command; write a text"),
        (lambda lab, nic, cable: lab.hosts["alice"].run(5), LabError, "5 is no command; write a text"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].run(["sleep", 0]),
            LabError,
            "is no command; write a text",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].ifconfig(None), CommandError, "None is no word"),
        (lambda lab, nic, cable: lab.hosts["alice"].fetch("foo"), LabError, "alice cannot fetch from 'foo'"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].nic("x", "192.0.2.9"),
            LabError,
            "write it with its prefix",
        ),
        (
            lambda lab, nic, cable: lab.hosts["alice"].nic("x", "fe80::1%em9/64"),
            LabError,
            "no address for alice",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].nic("x", mac=5), LabError, "5 is no MAC"),
        (lambda lab, nic, cable: lab.hosts["alice"].route("default", 5), LabError, "5 is no address"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].serve(port=99999),
            LabError,
            "cannot serve on port 99999",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].serve(address="foo"), LabError, "'foo' is no address"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].ping("192.0.2.2", timeout=-1),
            LabError,
            "a timeout of -1 s",
        ),
        (
            lambda lab, nic, cable: lab.hosts["alice"].ping("192.0.2.2", interval=-1),
            LabError,
            "an interval of -1 s",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].ping("192.0.2.2", count="3"), LabError, "a count of '3'"),
        (lambda lab, nic, cable: lab.hosts["alice"].popen("true", listens=80), LabError, "80 is no port"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].sysctl("kernel.hostname"),
            ValueError,
            "begin with 'net.'",
        ),
        (
            lambda lab, nic, cable: lab.hosts["alice"].sysctl("net.nosuch"),
            KernelRefused,
            "sysctl net.nosuch in alice",
        ),
        (
            lambda lab, nic, cable: lab.hosts["alice"].sysctl("net.link.ifqmaxlen", 9),
            CommandError,
            "read when the lab starts",
        ),
        (
            lambda lab, nic, cable: lab.wait_ready(listening={"carol": ["tcp/80"]}),
            LabError,
            "has no host 'carol'",
        ),
        (lambda lab, nic, cable: lab.wait_ready(listening={"alice": "80"}), LabError, "'80' is no port"),
        (
            lambda lab, nic, cable: lab.cable("alice:em7", nic),
            LabError,
            "no NIC or wire 'alice:em7'; there are alice",
        ),
        (lambda lab, nic, cable: lab.pair("a", "b", names=("k",)), LabError, "a pair has two names"),
        (
            lambda lab, nic, cable: lab.report("/nowhere/x.html"),
            OSError,
            "No such file or directory: '/nowhere",
        ),
        (lambda lab, nic, cable: lab.expect_order(cable), ValueError, "expect_order needs frames"),
        (lambda lab, nic, cable: lab.tap(nic, filter=5), TypeError, "5 is no filter"),
        (lambda lab, nic, cable: lab.expect(5, "icmp"), TypeError, "5 is neither a NIC nor a wire"),
        (
            lambda lab, nic, cable: lab.expect(nic, "icmp", within=float("nan")),
            ValueError,
            "within is a number of seconds, not nan",
        ),
        (
            lambda lab, nic, cable: lab.pair("192.0.2.3/24", 5),
            LabError,
            "5 is no address; write 192.0.2.1/24",
        ),
        (lambda lab, nic, cable: lab.wait_links("5"), LabError, "a timeout of '5' s cannot be"),
        (lambda lab, nic, cable: lab.wait_ready("x"), LabError, "a timeout of 'x' s cannot be"),
        (lambda lab, nic, cable: lab.wait_ready(-1), LabError, "a timeout of -1 s cannot be"),
        (
            lambda lab, nic, cable: lab.capture("/nowhere/x", filter=5),
            TypeError,
            "5 is no filter of a capture",
        ),
        (lambda lab, nic, cable: lab.capture("/nowhere/x", 5), TypeError, "5 is neither a NIC nor a wire"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].route("2001:db8::/32", "192.0.2.2"),
            LabError,
            "2001:db8::/32 is IPv6 and 192.0.2.2 is not; give the route an IPv6 neighbour",
        ),
        (
            lambda lab, nic, cable: lab.hosts["alice"].route("default6", "192.0.2.2"),
            LabError,
            "'default6' is no destination",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].route(5, "192.0.2.2"), LabError, "5 is no destination"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].route("default", "fe80::1"),
            LabError,
            "fe80::1 may be on every link; name the NIC with it, as fe80::1%em0",
        ),
        (
            lambda lab, nic, cable: lab.hosts["alice"].route("default", "fe80::1%em7"),
            LabError,
            "alice has no NIC em7; there are em0",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].address("inet"), LabError, "'inet' is no family"),
        (lambda lab, nic, cable: lab.hosts["alice"].address(5), LabError, "5 is no family"),
        (lambda lab, nic, cable: lab.hosts["alice"].nic("x", mac=b"12345"), LabError, "b'12345' is no MAC"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].nic("x", driver=NotSetUp),
            LabError,
            r"the driver NotSetUp was not set up; its __init__ must call super\(\).__init__\(\) first",
        ),
        (lambda lab, nic, cable: lab.hosts["alice"].nic("x", driver=NotSetUp()), LabError, "was not set up"),
        (
            lambda lab, nic, cable: lab.hosts["alice"].ifconfig([["em0"]]),
            CommandError,
            r"\['em0'\] is no word",
        ),
        (
            lambda lab, nic, cable: lab.expect(nic, "icmp", within="1"),
            ValueError,
            "within is a number of seconds, not '1'",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_name_and_nothing_changes(lab, attempt, refusal, words, caplog):
    alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    before = ip(alice, "link"), set(lab.hosts), set(lab.switches), cable.delay()

    with pytest.raises(refusal, match=words) as refused:
        attempt(lab, alice.nics["em0"], cable)

    assert "\n" not in str(refused.value)
    assert "Traceback" not in caplog.text
    assert (ip(alice, "link"), set(lab.hosts), set(lab.switches), cable.delay()) == before
    assert alice.ping("192.0.2.2").received == 1


def test_a_ping_that_would_hold_up_its_own_frames_is_refused(lab, caplog):
    alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    caplog.set_level("INFO", "iflab.lab")

    event = lab.at(0.0, alice.ping, "192.0.2.2")
    assert eventually(lambda: event.error is not None)
    with lab.lock, pytest.raises(LabError, match=r"alice\.ping waits, and holds the lab's lock"):
        alice.ping("192.0.2.2")
    in_its_own_thread = lab.at(0.0, lambda: threading.Thread(target=alice.ping, args=("192.0.2.2",)).start())

    assert isinstance(event.error, LabError)
    assert eventually(lambda: any("1 of 1 answered" in record.message for record in caplog.records))
    assert in_its_own_thread.error is None


def test_two_hosts_talk_over_both_protocols(lab):
    alice, bob, cable = lab.pair(("192.0.2.1/24", "2001:db8::1/64"), ("192.0.2.2/24", "2001:db8::2/64"))

    assert alice.ping("192.0.2.2", 5, interval=0.01).received == 5
    assert bob.ping("2001:db8::1", 5, interval=0.01).received == 5
    assert cable.account().balances()
    need("ping", "iputils-ping")
    assert "1 received" in alice.run("ping -c1 -W2 192.0.2.2").stdout


def test_a_ping_that_nobody_answers(lab):
    alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")

    result = alice.ping("192.0.2.77", timeout=0.05)

    assert (result.sent, result.received, result.loss) == (1, 0, 1.0)
    with pytest.raises(LabError, match="'nobody' is no address"):
        alice.ping("nobody")


def test_pings_are_sent_at_their_interval_whether_or_not_others_were_answered(lab):
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.ping("192.0.2.2")
    cable.set_delay(0.25)
    # ten octets of Ethernet, IP and ICMP headers before the sequence number: the third and the fourth are lost
    cable.add_hook(
        lambda frame: frame.raw[12:14] != b"\x08\0" or frame.raw[40:42] not in (b"\0\2", b"\0\3"),
        towards=bob.nics["em0"].if_softc,
    )
    began = time.monotonic()

    result = alice.ping("192.0.2.2", 20, interval=0.02, timeout=5)

    assert (result.sent, result.received) == (20, 18)
    assert len(result.times) == len(result.rtts) == 18
    assert all(rtt >= 0.5 for rtt in result.rtts)
    assert result.times == sorted(result.times)
    assert all(
        when >= 0.02 * number for when, number in zip(result.times, (0, 1, *range(4, 20)), strict=True)
    )
    assert result.times[-1] < 0.5 * 20 * 0.9  # one after the other they would take ten seconds
    assert time.monotonic() - began >= 5  # those that are lost are waited for


def test_run_gives_output_and_status(lab):
    alice = lab.host("alice")

    done = alice.run(["sh", "-c", "echo out; echo err >&2; exit 7"])

    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert alice.run("cat", input="hello").stdout == "hello"
    assert alice.run("hostname").stdout == "alice\n"
    with pytest.raises(FileNotFoundError):
        alice.run(["no-such-program"])
    with pytest.raises(subprocess.CalledProcessError):
        alice.run("false", check=True)


def test_a_program_that_takes_too_long_is_ended_with_its_children(lab):
    alice = lab.host("alice")

    with pytest.raises(subprocess.TimeoutExpired):
        alice.run("sleep 61 & sleep 61", timeout=0.2)

    eventually(lambda: "sleep 61" not in alice.run("ps ax").stdout)


def test_a_host_sees_its_own_network_and_processes_only(lab):
    alice = lab.host("alice")
    alice.nic("em0", "192.0.2.1/24")

    assert sorted(alice.run("ls /sys/class/net").stdout.split()) == ["em0", "lo"]
    assert str(os.getpid()) not in alice.run("ps ax -o pid=").stdout.split()
    assert set(alice.call(psutil.net_if_addrs)) == {"em0", "lo"}


@pytest.mark.skipif(not os.path.exists("/etc/resolv.conf"), reason="the machine has no /etc/resolv.conf")
def test_a_host_asks_no_name_server_until_it_is_told_one(lab):
    with open("/etc/resolv.conf") as file:
        machine = file.read()
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.route("default", via="192.0.2.2")

    assert alice.run("cat /etc/resolv.conf").stdout == ""
    assert alice.run("getent hosts name.example", timeout=4 * PATIENCE).returncode == 2
    alice.run("echo nameserver 192.0.2.2 > /etc/resolv.conf", check=True)
    lab.watch()
    with alice.popen("getent hosts name.example") as asking:
        lab.expect(cable, "udp port 53 and src host 192.0.2.1", within=5)
        asking.kill()

    assert alice.run("cat /etc/resolv.conf").stdout == "nameserver 192.0.2.2\n"
    assert bob.run("cat /etc/resolv.conf").stdout == ""
    with open("/etc/resolv.conf") as file:
        assert file.read() == machine


ETCS = {
    "a file": "echo nameserver 192.0.2.53 > /etc/resolv.conf",
    "no file": "true",
    "a link": "mkdir /etc/there; echo nameserver 192.0.2.53 > /etc/there/file; ln -s there/file /etc/resolv.conf",
    "a link to nothing": "ln -s /run/nowhere/stub.conf /etc/resolv.conf",
}


@real_root
@pytest.mark.parametrize("machine", ETCS.values(), ids=ETCS)
def test_what_a_host_writes_into_etc_stays_in_the_host(tmp_path, machine):
    """On a machine whose /etc is made for this test, in a mount namespace of its own."""
    program = """
import os, subprocess, sys
from iflab import Lab
def machine():
    words = "ls -la --time-style=+ /etc/resolv.conf /etc/there /etc | grep -v total; cat /etc/resolv.conf /etc/there/*"
    return subprocess.run(words, shell=True, capture_output=True, text=True)
before = machine()
with Lab() as lab:
    alice, bob = lab.host("alice"), lab.host("bob")
    assert alice.run("cat /etc/resolv.conf", check=True).stdout == ""
    alice.run("echo nameserver 192.0.2.9 > /etc/resolv.conf; echo mine > /etc/mine", check=True)
    os.replace("/etc/hostname", "/etc/hostname")
    with open("/etc/resolv.conf.new", "w") as file:
        file.write("nameserver 192.0.2.54")
    os.replace("/etc/resolv.conf.new", "/etc/renewed")  # as the machine's DHCP client would
    assert alice.run("cat /etc/resolv.conf").stdout == "nameserver 192.0.2.9\\n"
    alice.run("echo nameserver 192.0.2.10 > /etc/new; mv /etc/new /etc/resolv.conf", check=True)
    assert alice.run("cat /etc/resolv.conf /etc/mine").stdout == "nameserver 192.0.2.10\\nmine\\n"
    assert bob.run("cat /etc/resolv.conf; ls /etc/mine").stdout == ""
    os.unlink("/etc/renewed")
assert machine().stdout == before.stdout, (before, machine())
"""
    words = (
        f"mount -t tmpfs tmpfs {tmp_path} && cp -a /etc {tmp_path}/etc && rm -f {tmp_path}/etc/resolv.conf && "
        f'touch {tmp_path}/etc/hostname && mount --bind {tmp_path}/etc /etc && {machine} && exec "$@"'
    )

    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", words, "sh", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60 * PATIENCE,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_socket_of_the_host_in_our_own_process(lab):
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    with (
        alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("192.0.2.1", 5000))
        server.settimeout(2 * PATIENCE)
        client.sendto(b"hello", ("192.0.2.1", 5000))

        data, (address, _) = server.recvfrom(100)

    assert (data, address) == (b"hello", "192.0.2.2")


def test_calling_a_function_inside(lab):
    alice = lab.host("alice")

    assert alice.call(socket.if_nameindex) == [(1, "lo")]
    assert len(socket.if_nameindex()) >= 1


def test_download_of_the_labs_own(lab):
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")

    transfer = bob.fetch(alice.serve(bytes_=3_000_000))

    assert transfer.wait(timeout=20 * PATIENCE) == 3_000_000


def test_iperf3_works_as_on_a_real_machine(lab):
    need("iperf3", "iperf3")
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    server = alice.popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    eventually(lambda: ":5201" in alice.run("ss -ltn").stdout)

    done = bob.run(["iperf3", "-c", "192.0.2.1", "-n", "2M", "-J"])

    assert done.returncode == 0, done.stdout
    assert '"bits_per_second"' in done.stdout
    server.wait(timeout=5 * PATIENCE)


def test_dnsmasq_works_as_on_a_real_machine(lab, tmp_path):
    need("dnsmasq", "dnsmasq-base")
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.popen(
        [
            "dnsmasq",
            "-k",
            "--user=root",
            "--group=",
            "--no-resolv",
            "--no-hosts",
            "--pid-file",
            "--address=/example.test/192.0.2.42",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: "192.0.2.1:53" in alice.run("ss -lun").stdout or ":53 " in alice.run("ss -lun").stdout)
    query = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x07example\x04test\x00\x00\x01\x00\x01"

    with bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3 * PATIENCE)
        sock.sendto(query, ("192.0.2.1", 53))
        answer = sock.recv(512)

    assert socket.inet_aton("192.0.2.42") in answer


def test_scheduled_calls_happen_in_order_and_in_time(lab):
    happened = []
    done = threading.Event()
    began = time.monotonic()

    lab.at(0.03 * PATIENCE, lambda: (happened.append(("b", time.monotonic() - began)), done.set()))
    lab.at(0.01 * PATIENCE, happened.append, ("a", 0))
    cancelled = lab.at(0.005 * PATIENCE, happened.append, ("never", 0))
    cancelled.cancel()

    assert done.wait(2 * PATIENCE)
    assert [name for name, _ in happened] == ["a", "b"]
    assert happened[1][1] >= 0.03 * PATIENCE


def test_several_labs_in_one_process_know_nothing_of_each_other(lab):
    with Lab() as other:
        for each in (lab, other):
            alice, _, _ = each.pair("192.0.2.1/24", "192.0.2.2/24")
            assert alice.ping("192.0.2.2").received == 1
        assert lab.name != other.name


# bad input


def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(lab):
    alice = lab.host("alice")
    em0 = alice.nic("em0", "192.0.2.1/24")
    one, other = lab.station(), lab.station()
    lab.cable(em0, one)
    eventually(
        lambda: "inet6 fe80::" in alice.run("ip addr show em0").stdout
    )  # Linux sees the link when it has time
    addresses = ip(alice, "addr")
    before = (open_files(collect=True), len(lab.wires), addresses)

    for attempt, error, text in [
        (lambda: lab.host("alice"), LabError, "there is a host alice already"),
        (lambda: lab.host("a b"), LabError, "is no name for a host"),
        (lambda: alice.nic("em0"), LabError, "alice has a NIC em0 already; choose another name, such as em1"),
        (lambda: alice.nic("em0123456789abcdef"), InvalidName, "has 18 characters"),
        (lambda: alice.nic("em1", "192.0.2.300/24"), LabError, "'192.0.2.300/24' is no address for alice"),
        (lambda: alice.nic("em1", mac="02:00"), LabError, "'02:00' is no MAC"),
        (lambda: alice.nic("em1", mac="01:00:00:00:00:01"), LabError, "is a group address"),
        (lambda: alice.nic("em1", mtu=12), KernelRefused, "mtu less than device minimum"),
        # Older kernels give their errno alone.
        (lambda: alice.nic("em1", *["192.0.2.1/24"] * 2), KernelRefused, "already assigned|File exists"),
        (lambda: alice.nic("em1", driver=object), LabError, "is no driver for a NIC"),
        (
            lambda: lab.cable(em0, other),
            WireError,
            "alice:em0 is plugged into cable0 already; unplug it first",
        ),
        (
            lambda: lab.cable(other, em0),
            WireError,
            "alice:em0 is plugged into cable0 already; unplug it first",
        ),
        (lambda: lab.cable(other, other), WireError, "is plugged into"),
        (lambda: lab.cable(one, other, name="cable0"), LabError, "there is a wire cable0 already"),
        (lambda: lab.cable("em0", other), LabError, "has no NIC or wire 'em0'; there are alice:em0, cable0"),
        (lambda: lab.cable("cable0", other), WireError, "cable0.* has no plug; use a NIC"),
        (lambda: lab.cable(one, other, delay=-1), WireError, "a delay of -1 s cannot be"),
        (lambda: Lab("no/slash"), LabError, "is no name for a lab"),
        (lambda: em0.if_transmit(b"short"), ValueError, "this one has 5"),
        (lambda: alice.serve(address="192.0.2.77"), OSError, "Cannot assign requested address"),
    ]:
        with pytest.raises(error, match=text) as refused:
            attempt()
        assert "\n" not in str(refused.value)

    lab.wait_for_closers()
    assert other.end is None
    assert (open_files(), len(lab.wires), ip(alice, "addr")) == before


def test_a_driver_that_raises_harms_its_own_nic_only(lab, caplog):
    class Broken(TapNic):
        def if_start(self, ifp):
            raise RuntimeError("burnt out")

    alice, bob = lab.host("alice"), lab.host("bob")
    broken = alice.nic("em0", "192.0.2.1/24", driver=Broken)
    lab.cable(broken, alice.nic("em1"))
    one, other = alice.nic("em2", "198.51.100.1/24"), bob.nic("em0", "198.51.100.2/24")
    lab.cable(one, other)

    alice.ping("192.0.2.2", timeout=0.05)

    assert alice.ping("198.51.100.2").received == 1
    eventually(lambda: "burnt out" in caplog.text)
    assert broken.if_oerrors > 0


# the end


def test_everything_is_gone_afterwards():
    fds = open_files(collect=True)
    namespaces = network_namespaces()
    threads = threading.active_count()
    try:
        with Lab() as lab:
            alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
            sleeper = alice.popen(["sleep", "600"])
            alice.popen("setsid sleep 601 & exit 0").wait()
            directory = os.path.dirname(lab._control.path)
    except RuntimeError as error:
        pytest.skip(str(error))

    assert sleeper.poll() is not None
    assert not any(
        "sleep 60" in " ".join(p.info["cmdline"] or [])
        for p in psutil.process_iter(["cmdline"])
        if p.ppid() == os.getpid()
    )
    assert not os.path.exists(directory)
    assert not ALONE or network_namespaces() <= namespaces
    assert open_files() == fds
    assert threading.active_count() <= threads


def test_an_exception_in_the_with_block_takes_everything_down():
    fds = open_files(collect=True)

    def build():
        with Lab() as lab:
            lab.pair("192.0.2.1/24", "192.0.2.2/24")
            raise KeyError("the user's own")

    with pytest.raises(KeyError):
        build()
    assert open_files() == fds


PROGRAM = """
import sys, time
from iflab import Lab
with Lab(sys.argv[1]) as lab:
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.popen(["sleep", sys.argv[2]])
    print("ready", lab._control.path, *(h.netns.inode for h in lab.hosts.values()), flush=True)
    time.sleep(60)
"""


def start_program(tmp_path, number):
    marker = f"6{os.getpid()}{number}"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"kill{os.getpid()}-{number}", marker],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    return process, marker


def gone(marker, inodes, directory):
    """Nothing is left: no process of the lab, no namespace, no file."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            words = process.info["cmdline"] or []
            if marker in words or directory in words:
                return False
    return not (ALONE and network_namespaces() & inodes) and not os.path.exists(directory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_signals_take_the_lab_down(tmp_path, number):
    process, marker = start_program(tmp_path, int(number))
    words = process.stdout.readline().split()
    if not words:
        pytest.skip("no lab runs here")
    directory, inodes = os.path.dirname(words[1]), {int(word) for word in words[2:]}
    assert os.stat(directory).st_mode & 0o777 == 0o700

    process.send_signal(number)
    process.wait(timeout=10 * PATIENCE)

    eventually(lambda: gone(marker, inodes, directory))
    if number in (signal.SIGTERM, signal.SIGHUP):
        assert process.returncode == 128 + number


def program(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60 * PATIENCE)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated"), (signal.SIGHUP, "Terminated")],
)
def test_a_signal_does_not_end_a_change_in_the_middle(number, error):
    done = program(
        "import os, time\nfrom iflab import Lab\nwith Lab() as lab:\n"
        "    try:\n"
        "        with lab.lock:\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "            for _ in range(1000): pass\n"
        "            print('whole')\n"
        "        time.sleep(30)\n"
        "    except BaseException as error:\n"
        "        print(type(error).__name__, lab.lock.owned())\n"
    )
    assert done.stdout == f"whole\n{error} False\n", done.stderr


def test_signals_come_while_the_lock_is_taken_and_given_back_all_the_time():
    done = program(
        "import os, random, signal, threading, time\nfrom iflab import Lab\n"
        "def send():\n"
        "    for _ in range(300):\n"
        "        want.wait(); want.clear(); time.sleep(random.uniform(0, 0.002))\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "want, came = threading.Event(), 0\n"
        "with Lab() as lab:\n"
        "    threading.Thread(target=send, daemon=True).start()\n"
        "    while came < 300:\n"
        "        try:\n"
        "            want.set()\n"
        "            while True:\n"
        "                with lab.lock: pass\n"
        "        except KeyboardInterrupt:\n"
        "            came += 1\n"
        "            if lab.lock.owned(): print('kept'); lab.lock.release()\n"
        "    print(came)\n"
    )
    assert done.stdout == "300\n", done.stderr


def test_one_who_never_lets_go_of_the_lock_can_be_ended_all_the_same(monkeypatch):
    done = program(
        "import os, time\nfrom iflab import Lab, signals\nsignals.LONGEST = 0.2\n"
        "with Lab() as lab:\n"
        "    try:\n"
        "        with lab.lock:\n"
        "            os.kill(os.getpid(), 2)\n"
        "            time.sleep(0.3)\n"
        "            os.kill(os.getpid(), 2)\n"
        "            time.sleep(30)\n"
        "    except KeyboardInterrupt:\n"
        "        print('ended')\n"
    )
    assert done.stdout == "ended\n", done.stderr


def test_labs_killed_at_random_moments_leave_nothing(tmp_path):
    """A short run of it; the long one kills 200 (IFLAB_KILLS=200)."""
    import random

    kills = int(os.environ.get("IFLAB_KILLS", "8"))
    before = network_namespaces()
    rng = random.Random(4)
    markers = []
    for number in range(kills):
        process, marker = start_program(tmp_path, 1000 + number)
        markers.append(marker)
        threading.Event().wait(rng.uniform(0.2, 1.0))
        process.kill()
        process.wait()
    prefix = f"kill{os.getpid()}-1"

    def clean():
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                if any(m in (process.info["cmdline"] or []) for m in markers):
                    return False
        for base in ("/run/iflab", "/tmp/iflab-0"):
            if os.path.isdir(base) and any(name.startswith(prefix) for name in os.listdir(base)):
                return False
        return True

    eventually(clean)
    assert not {name for name in os.listdir("/sys/class/net") if name.startswith("em")}
    if ALONE:
        eventually(lambda: network_namespaces() <= before)


def test_a_closed_lab_says_so_whatever_is_asked_of_it(lab):
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    server = bob.serve()
    lab.close()

    for ask in (
        lambda: lab.host("carol"),
        lambda: lab.cable("alice:em0", "bob:em0"),
        lambda: lab.at(1, cable.cut),
        lambda: lab.every(1, cable.cut),
        lambda: lab.schedule([(1, cable.cut)]),
        lambda: lab.expect(cable, "icmp"),
        lambda: lab.wait_links(),
        lambda: lab.wait_ready(),
        lambda: lab.building().__enter__(),
        lambda: lab.__enter__(),
        lambda: alice.nic("em1"),
        lambda: alice.run("true"),
        lambda: alice.popen("true"),
        lambda: alice.ping("192.0.2.2"),
        lambda: alice.serve(),
        lambda: alice.fetch(server),
        lambda: alice.socket(),
        lambda: alice.call(os.getpid),
        lambda: alice.listening(),
        lambda: alice.address(),
        lambda: alice.route("default", "192.0.2.2"),
        lambda: alice.sysctl("net.ipv4.ip_forward"),
        lambda: alice.ifconfig(),
        lambda: alice.netstat("-i"),
    ):
        with pytest.raises(LabError, match=f"the lab {lab.name} is closed; make a new one"):
            ask()
    lab.close()


def test_of_a_pair_that_cannot_be_neither_host_is_made(lab):
    lab.host("dave")

    for wrong in (
        lambda: lab.pair("192.0.2.1/24", "192.0.2.300/24"),
        lambda: lab.pair("192.0.2.1/24", ["192.0.2.2/24", "192.0.2.3"]),
        lambda: lab.pair("192.0.2.1/24", "192.0.2.2/24", names=("carol", "dave")),
        lambda: lab.pair("192.0.2.1/24", "192.0.2.2/24", names=("carol", "carol")),
        lambda: lab.pair("192.0.2.1/24", "192.0.2.2/24", names=("carol", "a b")),
    ):
        with pytest.raises(LabError):
            wrong()

    assert list(lab.hosts) == ["dave"]


def test_what_was_watched_may_be_asked_for_when_the_lab_is_closed(lab):
    alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    lab.watch()
    alice.ping("192.0.2.2")
    lab.close()

    assert lab.expect(cable, "icmp[icmptype] == icmp-echo", within=0)["IP"].src == "192.0.2.1"


def test_nics_are_plugged_in_by_name(lab):
    alice, bob = lab.host("alice"), lab.host("bob")
    sw = lab.switch("sw", ports=2)
    alice.nic("em0", "192.0.2.1/24")
    bob.nic("em0", "192.0.2.2/24")

    lab.cable("alice:em0", "sw:p0")
    lab.cable("bob:em0", sw["p1"])
    lab.wait_links()

    assert sw["p1"] is sw[1]
    assert alice.ping("192.0.2.2").received == 1
    with pytest.raises(IndexError, match="sw has no port 'p2'; its ports are 0 to 1"):
        sw["p2"]


@pytest.fixture
def routed(lab):
    alice, router, bob = (lab.host(name) for name in ("alice", "router", "bob"))
    with lab.building():
        lab.cable(
            alice.nic("em0", "192.0.2.1/24", "2001:db8::1/64"),
            router.nic("em0", "192.0.2.254/24", "2001:db8::fe/64"),
        )
        lab.cable(
            bob.nic("em0", "198.51.100.1/24", "2001:db8:1::1/64"),
            router.nic("em1", "198.51.100.254/24", "2001:db8:1::fe/64"),
        )
    for setting in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        assert router.sysctl(setting, 1) == "1"
    for setting in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):  # it says all that it has to
        assert router.sysctl(setting, 0) == "0"
    return alice, router, bob


@pytest.mark.parametrize(
    ("there", "nobody", "elsewhere", "via"),
    [
        ("198.51.100.1", "198.51.100.9", "203.0.113.1", "192.0.2.254"),
        ("2001:db8:1::1", "2001:db8:1::9", "2001:db8:9::1", "2001:db8::fe"),
    ],
)
def test_a_ping_tells_why_nothing_came(routed, there, nobody, elsewhere, via):
    alice, _router, bob = routed

    unrouted = alice.ping(there, 2, interval=0.01)
    assert (unrouted.received, unrouted.errors) == (0, {"Network is unreachable": 2})
    assert str(unrouted) == f"ping {there}: 0 of 2 answered; Network is unreachable, 2 times"
    alice.route("default", via)
    no_way_back = alice.ping(there, timeout=0.2)
    assert (no_way_back.received, no_way_back.errors) == (0, {})
    bob.route("default", "198.51.100.254" if "." in via else "2001:db8:1::fe")
    assert alice.ping(there, 2, interval=0.01).errors == {}
    assert list(alice.ping(elsewhere, timeout=PATIENCE).errors) == [f"Network is unreachable (says {via})"]
    assert list(alice.ping(nobody, timeout=4 * PATIENCE).errors) == [f"No route to host (says {via})"]
    assert alice.ping(there).received == 1


def test_link_local_neighbours_are_pinged_and_served_by_their_nic(lab):
    alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    lab.wait_ready()
    theirs = eventually(lambda: re.search(r"inet6 (fe80::[0-9a-f:]+)/", bob.run("ip addr show em0").stdout))[
        1
    ]

    assert eventually(lambda: alice.ping(f"{theirs}%em0").received)
    server = bob.serve(1000, address=f"{theirs}%em0")
    assert alice.fetch(server).wait(20 * PATIENCE) == 1000
    with pytest.raises(LabError, match="alice has no NIC em7; there are em0"):
        alice.ping(f"{theirs}%em7")


def test_of_many_pings_each_has_its_own_errors(routed):
    alice, _, _ = routed
    alice.route("default", "192.0.2.254")
    found = {}
    pings = [
        threading.Thread(
            target=lambda to=to: found.__setitem__(to, alice.ping(to, 3, interval=0.02, timeout=PATIENCE))
        )
        for to in ("203.0.113.1", "192.0.2.254")
    ]

    for each in pings:
        each.start()
    for each in pings:
        each.join()

    assert found["192.0.2.254"].received == 3
    assert found["192.0.2.254"].errors == {}
    assert list(found["203.0.113.1"].errors) == ["Network is unreachable (says 192.0.2.254)"]


def test_settings_of_the_interface_layer_and_of_linux(lab):
    alice = lab.host("alice")

    assert alice.sysctl("net.link.log_link_state_change") == "1"
    assert alice.sysctl("net.link.log_link_state_change", 0) == "0"
    assert lab.kernel.sysctl["net.link.log_link_state_change"] == 0
    assert alice.sysctl("net.inet.carp.preempt", 1) == "1"
    assert alice.sysctl("net.ipv4.tcp_congestion_control", "reno") == "reno"
    assert alice.run("cat /proc/sys/net/ipv4/tcp_congestion_control").stdout == "reno\n"


def test_words_of_a_command_may_be_numbers_and_stand_in_a_list(lab):
    alice, sw = lab.host("alice"), lab.switch("sw", ports=1)
    alice.nic("em0", up=False)

    alice.ifconfig("em0", "mtu", 1400)
    alice.ifconfig(["em0", "up", "descr", "up there"])

    assert "mtu 1400" in alice.run("ip link show em0").stdout
    assert "description: up there" in alice.ifconfig(["em0"])
    assert sw.ifconfig(["bridge0"]) == sw.ifconfig("bridge0")
    with pytest.raises(CommandError, match="ifconfig: None is no word"):
        sw.ifconfig(None)


def test_a_nic_takes_its_mac_as_octets_too(lab):
    alice, bob = lab.host("alice"), lab.host("bob")
    em0 = alice.nic("em0", mac="02:00:00:00:00:77")

    same = bob.nic("em0", mac=em0.lladdr)

    assert same.lladdr == em0.lladdr
    assert "02:00:00:00:00:77" in bob.run("ip link show em0").stdout


def test_a_route_goes_through_a_link_local_neighbour_that_is_named_with_its_nic(lab):
    alice, bob, _ = lab.pair("2001:db8::1/64", ["2001:db8::2/64", "fe80::2/64"])
    bob.nic("em1", "2001:db8:1::1/64")
    lab.wait_ready()

    alice.route("2001:db8:1::/64", "fe80::2%em0")
    alice.route("default", "fe80::2%em0")

    assert "2001:db8:1::/64 via fe80::2 dev em0" in alice.run("ip -6 route").stdout
    assert "default via fe80::2 dev em0" in alice.run("ip -6 route").stdout
    assert alice.ping("2001:db8:1::1").received == 1


def test_ready_is_waited_for_by_a_hosts_name(lab):
    alice, _, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    server = alice.serve()

    lab.wait_ready(listening={"alice": f"tcp/{server.port}"})
    with pytest.raises(TimeoutError, match="alice: nobody listens on tcp/9"):
        lab.wait_ready(0.1, listening={alice: ["tcp/9"]})


def test_the_flags_of_a_fresh_nic(lab):
    em0 = lab.host("alice").nic("em0")

    assert em0.if_flags == IFF.UP | IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST
    assert em0.if_drv_flags == IFF.RUNNING
    assert em0.lladdr[0] & 3 == 2  # unicast, locally administered


def test_what_takes_more_than_a_second_is_told_as_it_goes_on(monkeypatch):
    told = []
    with Lab() as lab:
        lab.on_log = lambda when, text: told.append(text)
        with lab.building():
            lab.host("alice").nic("em0")
            time.sleep(1.05)
            lab.host("bob").nic("em0")
        assert told == ["building: 2 hosts, 0 wires"]
        slow = threading.Event()
        close = os.close
        monkeypatch.setattr("iflab.lab.os.close", lambda fd: (slow.wait(1.05), close(fd)))

    assert told[1] == "taking down: 1 of 2 devices are gone"
    assert len(told) == 2


def helpers():
    """Processes of ours that make namespaces ahead."""
    return [
        each for each in psutil.Process().children() if any("help_out" in word for word in each.cmdline())
    ]


@pytest.fixture
def own(monkeypatch):
    """Names of hosts whose namespaces were not made ahead."""
    names = []

    def new_namespace(name=""):
        names.append(name)
        return made(name)

    made = iflab.lab.new_namespace
    monkeypatch.setattr("iflab.lab.new_namespace", new_namespace)
    return names


def test_a_large_lab_is_built_of_namespaces_made_ahead_and_none_of_them_stays(lab, own):
    lab.host("early").nic("em0")
    before = open_files(collect=True)
    names = (f"h{number}" for number in itertools.count(1))

    def build():
        name = next(names)
        lab.host(name).nic("em0", f"10.0.{len(lab.hosts) >> 8}.{len(lab.hosts) & 255}/16")
        return name not in own and name

    with lab.building():
        for _ in range(20):
            build()
        assert len(helpers()) == 1
        assert not gc.isenabled()
        ahead = [eventually(build) for _ in range(40)]  # more than are ready at once

    assert helpers() == []
    assert gc.isenabled()
    with lab.lock:
        assert open_files() == before + 2 * (len(lab.hosts) - 1)  # of each its namespace and its NIC
    hosts = [lab.hosts[name] for name in ahead]
    assert len({host.netns.inode for host in lab.hosts.values()}) == len(lab.hosts)
    assert [host.netns.name for host in hosts] == ahead
    for host in (hosts[0], hosts[-1]):
        assert [row["ifname"] for row in ip(host, "link")] == ["lo", "em0"]
        assert "UP" in kernel_flags(host, "lo")
        assert sysctl(host.netns, "net.ipv6.conf.em0.accept_dad") == "0"
    with lab.building():  # fewer are not worth a process
        lab.host("one-more")
        assert helpers() == []
    with lab.building():  # the count begins anew
        for number in range(20):
            lab.host(f"again{number}")
        assert len(helpers()) == 1
    assert helpers() == []


def test_the_engine_has_its_turn_while_hosts_are_built_without_a_pause(lab, monkeypatch):
    monkeypatch.setattr("iflab.engine.REST", 0.02)
    ran = threading.Event()
    lab.engine.rest()
    lab.engine.call_soon(ran.set)
    turns = 0
    while not ran.is_set() and turns < 2000:
        turns += 1
        lab.engine.give_way()
        with lab.lock:
            ends = time.monotonic() + 0.002
            while time.monotonic() < ends:
                pass
    assert (
        turns < 100
    )  # it rests for some ten of them; a lock that is taken again at once keeps it out for long

    ways = []
    monkeypatch.setattr(lab.engine, "give_way", lambda: ways.append(len(lab.hosts)))
    lab.pair("192.0.2.1/24", "192.0.2.2/24")
    assert ways == []
    with lab.building():
        lab.pair("192.0.2.5/24", "192.0.2.6/24", names=("carol", "dave"))
        lab.host("erin")
        with lab.lock:  # who holds it has no way to give
            lab.host("frank")
    assert ways == [2, 4]


def test_while_many_hosts_are_built_frames_may_gather_and_calls_are_on_time(lab, monkeypatch):
    rests = []
    monkeypatch.setattr(lab.engine, "rest", lambda: rests.append(len(lab.hosts)))
    with lab.building():
        for number in range(20):
            lab.host(f"h{number}")
    assert rests == [15, 16, 17, 18, 19]  # before each from the sixteenth on
    monkeypatch.undo()

    monkeypatch.setattr("iflab.engine.REST", 0.2)
    came, again = threading.Event(), threading.Event()
    began = time.monotonic()
    lab.engine.rest()
    lab.engine.call_soon(came.set)
    assert came.wait(5 * PATIENCE)
    assert time.monotonic() >= began + 0.2
    monkeypatch.setattr("iflab.engine.REST", 10 * PATIENCE)
    lab.engine.call_soon(again.set)  # one rest is one rest
    assert again.wait(5 * PATIENCE)
    due = threading.Event()
    lab.engine.call_at(time.monotonic() + 0.5, due.set)
    lab.engine.rest()
    lab.engine.wake()
    assert due.wait(5 * PATIENCE)


def test_a_helper_that_ends_is_told_to_nobody_and_hosts_are_made_all_the_same(lab, own):
    with lab.building():
        for number in range(20):
            lab.host(f"h{number}")
        (helper,) = helpers()
        helper.kill()
        eventually(lambda: helper.status() == psutil.STATUS_ZOMBIE)
        for number in range(40):
            lab.host(f"late{number}")
        assert own[-24:] == [f"late{number}" for number in range(16, 40)]
    assert len(lab.hosts) == 60
    assert helpers() == []


def test_where_no_helper_can_be_started_hosts_are_made_all_the_same(lab, own, monkeypatch):
    def spares():
        raise OSError(errno.EAGAIN, "no process is to be had")

    monkeypatch.setattr("iflab.lab.Spares", spares)
    with lab.building():
        for number in range(20):
            lab.host(f"h{number}")
    assert len(own) == len(lab.hosts) == 20
    assert gc.isenabled()


def test_a_lab_is_not_closed_by_who_holds_its_lock(lab):
    said = []

    def close():
        try:
            lab.close()
        except LabError as error:
            said.append(str(error))

    lab.at(0, close)
    eventually(lambda: said)
    assert said[0].startswith("closing the lab waits, and holds the lab's lock")
    assert not lab.closed
    lab.host("late")


def test_a_nic_is_plugged_in_by_its_ifnet(lab):
    alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    em0 = alice.nics["em0"]
    cable.unplug(em0)

    assert cable.plug(em0) is em0.if_softc.end

    lab.wait_links()
    assert alice.ping("192.0.2.2").received == 1
    alice.ifconfig("vlan0 create vlan 5 vlandev em0")
    with pytest.raises(WireError, match=r"alice:vlan0.* has no plug; use a NIC"):
        cable.plug(alice.nics["vlan0"])


def test_a_wire_is_of_one_lab(lab):
    mine = lab.host("alice").nic("em0")
    with Lab("other") as other:
        theirs = other.host("bob").nic("em0")
        with pytest.raises(LabError, match="is another lab's; a wire is of one lab"):
            lab.cable(mine, theirs)
    assert not lab.wires


def test_a_program_that_forked_while_it_built_goes_on():
    done = program(
        "import os, signal, time\nfrom iflab.lab import Lab\nlab = Lab(control=False)\n"
        "with lab.building():\n"
        "    for number in range(20): lab.host(f'h{number}')\n"
        "    if not (child := os.fork()): time.sleep(600); os._exit(0)\n"
        "    began = time.monotonic()\n"
        "print(time.monotonic() - began)\n"
        "os.kill(child, signal.SIGKILL); os.waitpid(child, 0); lab.close()\n"
    )
    assert float(done.stdout) < 4 * PATIENCE, done.stderr


def test_a_lab_that_is_closed_while_it_is_built_leaves_nothing(lab):
    with Lab("early") as early:
        with early.building():
            for number in range(20):
                early.host(f"h{number}")
            early.close()
        assert helpers() == []
        assert gc.isenabled()


def test_a_helper_ends_with_a_builder_that_is_killed():
    code = (
        "import sys\nfrom iflab.lab import Lab\nlab = Lab()\nwith lab.building():\n"
        "    for number in range(20): lab.host(f'h{number}')\n"
        "    print(lab._spares.pid, flush=True); sys.stdin.read()"
    )
    program = [sys.executable, "-c", code]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as builder:
        helper = psutil.Process(int(builder.stdout.readline()))
        builder.kill()
    eventually(lambda: not helper.is_running())


def test_a_builder_that_fails_leaves_no_namespace_made_ahead(lab):
    before = open_files(collect=True)

    def build():
        with lab.building():
            for number in range(20):
                lab.host(f"h{number}")
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        build()

    assert helpers() == []
    assert gc.isenabled()
    with lab.lock:
        assert open_files() == before + 20
