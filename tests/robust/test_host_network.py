"""The machine's own network: untouched by any lab, and by one that asks for it put back as it was.

Each test is a program in a network namespace of its own, which is the machine's own
network for it.
"""

import subprocess
import sys

import pytest

from ..conftest import ROOT
from ..linux_tools import PATIENCE

BEGIN = """
import errno, json, os, signal, subprocess, sys, time
from iflab.linux.syscalls import CLONE_NEWNET, unshare
from iflab import Lab, LabError, Missing
from iflab.linux import ensure_privileges
ensure_privileges()
unshare(CLONE_NEWNET)

def ip(*words):
    return subprocess.run(["ip", "-j", *words], capture_output=True, text=True).stdout

def snapshot():
    with open("/proc/sys/net/ipv6/conf/default/accept_dad") as file:
        dad = file.read()
    with open("/proc/self/net/dev_mcast") as file:
        groups = file.read()
    tables = [ip("addr"), ip("route", "show", "table", "all"), ip("-6", "route", "show", "table", "all")]
    return [dad, groups, *tables, ip("rule"), ip("-6", "rule"), ip("neigh"), ip("link", "show", "type", "tun")]

before = snapshot()
"""


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60 * PATIENCE,
    )
    if "Missing" in done.stderr and "host_network" not in done.stderr:
        pytest.skip(done.stderr[-300:])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_lab_touches_the_machines_own_network_unasked():
    out = run("""
with Lab() as lab:
    alice, bob, cable = lab.pair(("192.0.2.1/24", "2001:db8::1/64"), "192.0.2.2/24")
    assert alice.ping("192.0.2.2").received == 1
    alice.ifconfig("em0 promisc mtu 1400")
    during = snapshot()
    try:
        lab.machine
    except LabError as error:
        print(error)
assert before == during == snapshot()
""")
    assert "has nothing to do with the machine's own network; Lab(host_network=True) lets it" in out


def test_a_lab_that_asks_speaks_with_the_machine_and_leaves_it_as_it_was():
    out = run("""
with Lab(host_network=True) as lab:
    assert snapshot() == before
    machine = lab.machine
    mine = machine.nic("lab0", "192.0.2.1/24", "2001:db8::1/64")
    alice = lab.host("alice")
    lab.cable(mine, alice.nic("em0", "192.0.2.2/24", "2001:db8::2/64"))
    lab.wait_ready()
    assert alice.ping("192.0.2.1").received == 1
    assert machine.ping("2001:db8::2").received == 1
    forwarding = machine.sysctl("net.ipv4.ip_forward")
    try:
        machine.sysctl("net.ipv4.ip_forward", 1)
        raise SystemExit("a setting of the machine's was changed")
    except PermissionError as error:
        print(error)
    assert machine.sysctl("net.ipv4.ip_forward") == forwarding
    assert machine.sysctl("net.ipv4.conf.lab0.forwarding", 1) == "1"
    if os.path.exists("/etc/resolv.conf"):
        assert machine.run("cat /etc/resolv.conf").stdout == open("/etc/resolv.conf").read()
    machine.route("198.51.100.0/24", "192.0.2.2")
    mine.ifpromisc(1)
    mine.if_addmulti("233.252.0.9")
    mine.if_addgroup("uplinks")
    machine.ifconfig("lab0 descr 'to the lab'")
    names = {row["ifname"]: row for row in json.loads(ip("addr"))}
    print(sorted(names), "UP" in names["lo"]["flags"], "PROMISC" in names["lab0"]["flags"])
    print(machine.run("ip -br link show lab0").stdout.split()[0])
    for attempt in (lambda: machine.ifconfig("lab0 fib 5"),):
        try:
            attempt()
        except Exception as error:
            print(error)
    assert before[5:7] == snapshot()[5:7]
    lab.check()
    moved = alice.nic("em1", "203.0.113.1/24")
    moved.if_vmove(machine.vnet)
    assert "em1" in ip("link")
assert snapshot() == before, snapshot()
""")
    assert "['lab0', 'lo'] False True" in out
    assert "lab0\n" in out
    assert "Operation not permitted" in out or "would stay in the machine's own network" in out


def test_an_exception_and_a_kill_leave_it_as_it_was_too():
    run("""
try:
    with Lab(host_network=True) as lab:
        lab.machine.nic("lab0", "192.0.2.1/24")
        raise KeyError
except KeyError:
    pass
assert snapshot() == before

program = '''
import sys, time
from iflab import Lab
lab = Lab(host_network=True)
lab.machine.nic("lab0", "192.0.2.1/24")
print("ready", flush=True)
time.sleep(60)
'''
child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
assert child.stdout.readline() == b"ready\\n"
assert "lab0" in ip("link")
child.send_signal(signal.SIGKILL)
child.wait()
deadline = time.monotonic() + 20
while snapshot() != before and time.monotonic() < deadline:
    time.sleep(0.05)
assert snapshot() == before
""")


def test_names_that_are_taken_and_users_who_may_not():
    out = run("""
subprocess.run(["ip", "link", "add", "lab0", "type", "veth", "peer", "name", "lab1"], check=True)
before = snapshot()
with Lab(host_network=True) as lab:
    try:
        lab.machine.nic("lab0")
    except OSError as error:
        print(error)
    try:
        lab.host("machine")
    except LabError as error:
        print(error)
assert snapshot() == before
import iflab.lab
iflab.lab.ensure_privileges = lambda: unshare(CLONE_NEWNET)  # as an ordinary user's does
fds = len(os.listdir("/proc/self/fd"))
try:
    Lab(host_network=True)
except Missing as error:
    print(error)
assert len(os.listdir("/proc/self/fd")) == fds
""")
    assert "the name is taken" in out
    assert "there is a host machine already" in out
    assert "run as root for host_network=True" in out
