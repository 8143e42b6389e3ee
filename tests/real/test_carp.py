"""A shared address of Linux hosts, also with Debian's ucarp in one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from iflab.drivers.carp import State

from ..linux_tools import eventually, ip
from .test_vlan import dissected

SHARED = "192.0.2.100"


def ucarp():
    """Where ucarp is; ``UCARP`` names another place."""
    found = os.environ.get("UCARP") or shutil.which("ucarp", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        pytest.skip("ucarp is not installed: apt install ucarp")
    return found


def trio(lab):
    """Two hosts that share, and one that asks, on a switch."""
    sw = lab.switch("sw", ports=4)
    hosts = []
    for n, name in enumerate(("alice", "bob", "carol")):
        host = lab.host(name)
        lab.cable(host.nic("em0", f"192.0.2.{n + 1}/24"), sw[n])
        hosts.append(host)
    return hosts


def state(host, vhid=1):
    carp = host.nics["em0"].if_carp
    return carp.hosts[vhid].state if carp is not None else None


def has_it(host):
    rows = ip(host, "addr", "show", "em0")
    return SHARED in {a["local"] for row in rows for a in row["addr_info"]}


def test_the_master_answers_at_the_virtual_mac_and_the_backup_takes_over(lab, tmp_path):
    path = tmp_path / "carp.pcapng"
    capture = lab.capture(path)
    alice, bob, carol = trio(lab)
    alice.ifconfig("em0 vhid 1 advskew 0 pass secret 192.0.2.100/24 alias")
    bob.ifconfig("em0 vhid 1 advskew 100 pass secret 192.0.2.100/24 alias")

    eventually(lambda: state(alice) is State.MASTER, timeout=6)
    assert eventually(lambda: carol.ping(SHARED, timeout=0.3).received)
    assert has_it(alice)
    assert not has_it(bob)
    neighbour = [n for n in ip(carol, "neigh") if n["dst"] == SHARED]
    assert neighbour[0]["lladdr"] == "00:00:5e:00:01:01"
    lab.check()

    nic = alice.nics["em0"].if_softc
    began = time.monotonic()
    nic.end.wire.cut()
    eventually(lambda: state(bob) is State.MASTER, timeout=6)
    took = time.monotonic() - began
    assert took <= 3 + 100 / 256 + 0.3
    assert eventually(lambda: carol.ping(SHARED, timeout=0.3).received)
    assert state(alice) is State.INIT
    assert has_it(bob)
    assert not has_it(alice)
    assert "carp: INIT vhid 1 advbase 1 advskew 0" in alice.ifconfig("em0")
    assert alice.bsd("sysctl", ["net.inet.carp.demotion"]) == "net.inet.carp.demotion: 240\n"

    capture.close()
    if shutil.which("tshark"):
        options = ("-d", "ip.proto==112,carp")  # VRRP has the number too
        rows = dissected(lab, path, "carp.vhid", "carp.advskew", "carp.checksum.status", options=options)
        ads = [row for row in rows if row[0]]
        assert {row[0] for row in ads} == {"1"}
        assert {row[2] for row in ads} <= {"1", "Good"}


def test_the_gap_under_ping_when_the_master_leaves_and_when_it_dies(lab):
    alice, bob, carol = trio(lab)
    alice.ifconfig("em0 vhid 1 advskew 0 pass secret 192.0.2.100/24 alias")
    bob.ifconfig("em0 vhid 1 advskew 20 pass secret 192.0.2.100/24 alias")
    eventually(lambda: state(alice) is State.MASTER and state(bob) is State.BACKUP, timeout=6)
    eventually(lambda: carol.ping(SHARED, timeout=0.3).received)

    began = time.monotonic()
    alice.ifconfig("em0 vhid 1 state backup")
    assert eventually(lambda: state(bob) is State.MASTER)
    assert eventually(lambda: carol.ping(SHARED, timeout=0.05).received)
    assert time.monotonic() - began < 0.5

    eventually(lambda: state(alice) is State.MASTER or state(bob) is State.MASTER)
    master, other = (alice, bob) if state(alice) is State.MASTER else (bob, alice)
    eventually(lambda: carol.ping(SHARED, timeout=0.3).received)
    began = time.monotonic()
    master.nics["em0"].if_softc.end.wire.cut()
    eventually(lambda: state(other) is State.MASTER, timeout=6)
    eventually(lambda: carol.ping(SHARED, timeout=0.05).received)
    assert time.monotonic() - began <= 3 + 20 / 256 + 0.5


def test_an_address_that_is_taken_off_by_linux_is_not_shared_any_more(lab):
    alice, bob, carol = trio(lab)
    alice.ifconfig("em0 vhid 1 advskew 0 pass secret 192.0.2.100/24 alias")
    bob.ifconfig("em0 vhid 1 advskew 20 pass secret 192.0.2.100/24 alias")
    eventually(lambda: state(alice) is State.MASTER and state(bob) is State.BACKUP, timeout=6)

    alice.run(f"ip addr del {SHARED}/24 dev em0", check=True)

    eventually(lambda: state(bob) is State.MASTER, timeout=1)
    assert state(alice) is None
    assert "carp:" not in alice.ifconfig("em0")
    assert eventually(lambda: carol.ping(SHARED, timeout=0.3).received)
    bob.ifconfig(f"em0 inet {SHARED} -alias")
    assert not has_it(bob)
    assert state(bob) is None
    lab.check()


def test_ipv6_is_shared_too(lab):
    alice, bob, carol = trio(lab)
    carol.ifconfig("em0 inet6 2001:db8::3/64")
    for n, host in enumerate((alice, bob)):
        host.ifconfig(f"em0 inet6 2001:db8::{n + 1}/64")
        host.ifconfig(f"em0 inet6 vhid 6 advskew {n * 50} pass secret 2001:db8::100/64")
    eventually(lambda: state(alice, 6) is State.MASTER, timeout=6)

    assert eventually(lambda: carol.ping("2001:db8::100", timeout=0.5).received)

    neighbour = [n for n in ip(carol, "neigh") if n["dst"] == "2001:db8::100"]
    assert neighbour[0]["lladdr"] == "00:00:5e:00:01:06"
    lab.check()


def start_ucarp(host, tmp_path, address, *words):
    """Run ucarp, with scripts that put the address on em0 and off."""
    scripts = {}
    for name, verb in (("up", "add"), ("down", "del")):
        script = scripts[name] = tmp_path / f"{host.name}-{name}.sh"
        script.write_text(f"#!/bin/sh\nip addr {verb} {SHARED}/24 dev em0\nexit 0\n")
        script.chmod(0o755)
    return host.popen(
        [
            ucarp(),
            "-i",
            "em0",
            "-s",
            address,
            "-v",
            "1",
            "-p",
            "secret",
            "-a",
            SHARED,
            f"--upscript={scripts['up']}",
            f"--downscript={scripts['down']}",
            "-n",
            *words,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )


def test_ucarp_and_carp_swap_mastership_both_ways(lab, tmp_path):
    ucarp()
    alice, bob, carol = trio(lab)
    alice.ifconfig("em0 vhid 1 advskew 50 pass secret 192.0.2.100/24 alias")
    eventually(lambda: state(alice) is State.MASTER, timeout=6)

    # A slower ucarp stays backup; when alice leaves, it takes over.
    slow = start_ucarp(bob, tmp_path, "192.0.2.2", "-k", "200")
    time.sleep(1.5)
    assert state(alice) is State.MASTER
    assert not has_it(bob)
    alice.nics["em0"].if_softc.end.wire.cut()
    eventually(lambda: has_it(bob), timeout=8)
    assert eventually(lambda: carol.ping(SHARED, timeout=0.3).received)

    # Back again, alice hears a slower master, and takes over with preemption.
    alice.bsd("sysctl", ["net.inet.carp.preempt=1"])
    alice.nics["em0"].if_softc.end.wire.mend()
    eventually(lambda: state(alice) is State.MASTER, timeout=8)
    eventually(lambda: not has_it(bob), timeout=8)
    assert alice.nics["em0"].if_carp.hosts[1].bad == 0
    assert alice.nics["em0"].if_carp.hosts[1].received > 0
    slow.kill()
    slow.wait()

    # A faster ucarp that preempts makes alice a backup.
    fast = start_ucarp(bob, tmp_path, "192.0.2.2", "-k", "0", "-P")
    eventually(lambda: has_it(bob), timeout=8)
    eventually(lambda: state(alice) is State.BACKUP, timeout=8)
    assert not has_it(alice)

    # Killed, it says nothing any more: alice takes over in time.
    began = time.monotonic()
    fast.kill()
    fast.wait()
    bob.run(f"ip addr del {SHARED}/24 dev em0")
    eventually(lambda: state(alice) is State.MASTER, timeout=6)
    assert time.monotonic() - began <= 3 + 50 / 256 + 0.5
    assert eventually(lambda: carol.ping(SHARED, timeout=0.3).received)
