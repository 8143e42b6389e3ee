"""FreeBSD's commands against a running lab, from another process."""

import json
import queue
import subprocess
import threading

import pytest

from iflab import control

from ..linux_tools import PATIENCE, eventually, link
from .test_cli import IFLAB, iflab


@pytest.fixture
def running(lab):
    lab.pair("192.0.2.1/24", "192.0.2.2/24")
    return lab


def test_ifconfig_shows_and_changes_what_ip_shows(running):
    done = iflab(
        "ifconfig", running.name, "alice", "em0", "promisc", "mtu", "1400", "group", "lab", "descr", "up link"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    row = link(running.hosts["alice"], "em0")
    assert (row["mtu"], row["ifalias"], row["promiscuity"]) == (1400, "up link", 1)

    shown = iflab("ifconfig", running.name, "alice", "em0").stdout
    assert shown.startswith(
        "em0: flags=28943<UP,BROADCAST,RUNNING,PROMISC,SIMPLEX,MULTICAST,PPROMISC> metric 0 mtu 1400"
    )
    for part in (
        "\tdescription: up link\n",
        f"\tether {row['address']}\n",
        "\tgroups: lab\n",
        "\tstatus: active\n",
    ):
        assert part in shown
    assert "\tinet 192.0.2.1 netmask 0xffffff00 broadcast 192.0.2.255\n" in shown
    assert iflab("ifconfig", running.name, "alice", "-l").stdout == "em0\n"
    assert iflab("ifconfig", running.name, "alice", "tap", "create").stdout == "tap0\n"
    moved = iflab("ifconfig", running.name, "alice", "tap0", "vnet", "bob")
    assert (moved.returncode, iflab("ifconfig", running.name, "bob", "-l").stdout) == (0, "em0 tap0\n")
    assert iflab("ifconfig", running.name, "alice", "tap0", "-vnet", "bob").returncode == 0
    assert iflab("ifconfig", running.name, "bob", "-l").stdout == "em0\n"


@pytest.mark.parametrize("command", ["ifconfig", "netstat"])
def test_a_quotation_without_end_is_a_bad_word(running, command):
    with pytest.raises(ValueError, match=f"^{command}: .*: no closing quotation$"):
        getattr(running.hosts["alice"], command)("em0 descr 'x")


def test_ifconfig_is_not_behind_what_ip_has_changed(running):
    """The engine may not have had its turn yet: here it cannot have."""
    alice = running.hosts["alice"]
    with running.lock:
        for mtu in (1400, 1300):
            alice.run(f"ip link set em0 mtu {mtu}", check=True)
            assert f" mtu {mtu}\n" in alice.ifconfig("em0")


def test_media_are_shown_and_chosen(running):
    alice = running.hosts["alice"]
    for words in ("media autoselect", "media 10Gbase-T mediaopt full-duplex", "mediaopt full-duplex"):
        assert alice.ifconfig(f"em0 {words}") == ""
    assert alice.ifconfig("-m em0").endswith(
        "\tmedia: Ethernet 10Gbase-T <full-duplex>\n"
        "\tstatus: active\n"
        "\tsupported media:\n"
        "\t\tmedia 10Gbase-T mediaopt full-duplex\n"
        "\tnd6 options=123<PERFORMNUD,ACCEPT_RTADV,AUTO_LINKLOCAL,NO_DAD>\n"
    )


def test_refusals_are_one_line_and_a_status(running):
    for words, text in (
        (["em0", "mtu", "20"], "ifconfig: em0: ioctl SIOCSIFMTU (set mtu): Invalid argument"),
        (["em7"], "ifconfig: interface em7 does not exist"),
        (["em0", "netmask", "255.0.0.0"], "ifconfig: em0: ioctl SIOCAIFADDR (add address): Invalid argument"),
        (["em0", "tunnel", "192.0.2.1", "192.0.2.2"], "ifconfig: em0: ioctl SIOCSIFPHYADDR"),
        (["em0", "deletetunnel"], "ifconfig: em0: ioctl SIOCDIFPHYADDR"),
        (["em0", "media", "10baseT/UTP"], "ifconfig: em0: ioctl SIOCSIFMEDIA (media): Invalid argument"),
        (["em0", "-mediaopt", "full-duplex"], "ifconfig: em0: ioctl SIOCSIFMEDIA (media): Invalid argument"),
        (["-al"], "ifconfig: -l and -a do not go together"),
    ):
        done = iflab("ifconfig", running.name, "alice", *words)
        assert done.returncode == 1
        assert done.stderr.startswith(text)
        assert done.stderr.count("\n") == 1
    done = iflab("netstat", running.name, "carol", "-i")
    assert done.returncode == 1
    assert "has no host 'carol'; its hosts are alice, bob" in done.stderr


def test_netstat_agrees_with_the_kernel(running):
    alice = running.hosts["alice"]
    alice.ping("192.0.2.2", 3, interval=0.01)
    alice.run("ip route add 198.51.100.0/24 via 192.0.2.2", check=True)

    def row(*words):
        lines = [
            line.split() for line in iflab("netstat", running.name, "alice", "-i", "-n").stdout.splitlines()
        ]
        return next(line for line in lines if words[0] in line)

    def agree():  # neighbour discovery goes on meanwhile
        of_link = row("<Link#1>")
        stats = json.loads(alice.run("ip -j -s link show em0").stdout)[0]["stats64"]
        return (int(of_link[4]), int(of_link[7])) == (stats["rx"]["packets"], stats["tx"]["packets"])

    eventually(agree, timeout=20)
    assert int(row("192.0.2.1")[4]) == 3

    routes = iflab("netstat", running.name, "alice", "-rn").stdout
    assert ["198.51.100.0/24", "192.0.2.2", "UGS", "em0"] in [line.split() for line in routes.splitlines()]
    assert "224.0.0.1" in iflab("netstat", running.name, "alice", "-g").stdout


def test_sysctl_from_outside(running):
    done = iflab("sysctl", running.name, "net.link.log_link_state_change=0")
    assert done.stdout == "net.link.log_link_state_change: 1 -> 0\n"
    assert running.kernel.sysctl["net.link.log_link_state_change"] == 0


def test_monitor_prints_messages_as_they_come_and_ends_with_the_lab(running):
    alice = running.hosts["alice"]
    watcher = subprocess.Popen([*IFLAB, "monitor", running.name], stdout=subprocess.PIPE, text=True)
    eventually(lambda: running._control._ends)
    running.wires["cable0"].cut()
    alice.run("ip addr add 198.51.100.1/24 dev em0", check=True)
    alice.run("ip route add 203.0.113.0/24 via 198.51.100.9", check=True)
    running.check()
    running.close()

    out, _ = watcher.communicate(timeout=10 * PATIENCE)

    assert watcher.returncode == 0
    for part in (
        "link: down",
        "!system=IFNET subsystem=em0 type=LINK_DOWN",
        "RTM_NEWADDR: address being added to iface",
        "(alice:em0)",
        " 255.255.255.0 em0:2.0.0.0.0.1 198.51.100.1\n",
        "(alice, fib 0)",
        " 203.0.113.0 198.51.100.9 255.255.255.0\n",
    ):
        assert part in out


def test_a_watcher_that_hangs_up_is_forgotten(running):
    watcher = subprocess.Popen([*IFLAB, "monitor", running.name, "alice"], stdout=subprocess.DEVNULL)
    eventually(lambda: running._control._ends)
    watcher.terminate()
    watcher.wait()
    eventually(lambda: not running._control._ends)


def test_a_watcher_outlives_a_long_silence(running, monkeypatch):
    monkeypatch.setattr(control, "_TIMEOUT", 0.2)
    parts = queue.Queue()
    parts_of = control.Client(running._control.path).follow(do="monitor")
    watcher = threading.Thread(target=lambda: [parts.put(part) for part in parts_of], daemon=True)
    watcher.start()
    eventually(lambda: running._control._ends)
    watcher.join(1)  # longer than the server waits before it looks whether the watcher is still there

    running.wires["cable0"].cut()

    assert "text" in parts.get(timeout=5 * PATIENCE)
