"""Spanning trees of bridges that are only state machines, with links that can be cut."""

import random

import pytest

from iflab.drivers.rstp import Bpdu, BpduType, Role, Rstp, State, StpPort, Times, Vector


class Net:
    """Bridges whose ports are joined in pairs; BPDUs wait in a queue until ``settle``."""

    def __init__(self) -> None:
        self.bridges: list[Rstp] = []
        self.peers: dict[StpPort, tuple[Rstp, StpPort]] = {}
        self.owner: dict[StpPort, Rstp] = {}
        self.queue: list[tuple[Rstp, StpPort, Bpdu]] = []
        self.flushed: list[str] = []
        self.sent: list[tuple[StpPort, Bpdu]] = []

    def bridge(self, priority=32768, **options):
        number = len(self.bridges) + 1
        bridge = Rstp(
            bytes((2, 0, 0, 0, 0, number)),
            self._transmit,
            lambda port: None,
            lambda port: self.flushed.append(port.name),
            priority=priority,
            **options,
        )
        self.bridges.append(bridge)
        return bridge

    def port(self, bridge, **options):
        number = len(bridge.ports) + 1
        port = StpPort(f"{bridge.mac[-1]}.{number}", number, **options)
        self.owner[port] = bridge
        bridge.add(port)
        return port

    def link(self, one, other, **options):
        a, b = self.port(one, **options), self.port(other, **options)
        self.peers[a], self.peers[b] = (other, b), (one, a)
        one.port_enabled(a, True)
        other.port_enabled(b, True)
        return a, b

    def cut(self, a):
        other, b = self.peers[a]
        self.owner[a].port_enabled(a, False)
        other.port_enabled(b, False)

    def mend(self, a):
        other, b = self.peers[a]
        self.owner[a].port_enabled(a, True)
        other.port_enabled(b, True)

    def _transmit(self, port, bpdu):
        self.sent.append((port, bpdu))
        if port in self.peers:
            self.queue.append((*self.peers[port], bpdu))

    def settle(self, seconds=0):
        self._deliver()
        for _ in range(seconds):
            for bridge in self.bridges:
                bridge.tick()
            self._deliver()

    def _deliver(self):
        turns = 0
        while self.queue:
            turns += 1
            assert turns < 10_000, "BPDUs without end"
            bridge, port, bpdu = self.queue.pop(0)
            if port.port_enabled:
                bridge.received(port, bpdu)
            assert not self.has_loop(), "a loop, if only for a moment"

    def active(self):
        """Links that forward at both ends."""
        found = []
        for a, (_, b) in self.peers.items():
            if a.name < b.name and a.port_enabled and a.forwarding and b.forwarding:
                found.append((self.owner[a], self.owner[b]))
        return found

    def has_loop(self):
        return self._parts() is None

    def is_tree(self):
        """The links that forward join all bridges and have no loop."""
        return self._parts() == 1

    def _parts(self):
        """How many parts the links that forward leave; None when there is a loop."""
        group = {bridge.mac: bridge.mac for bridge in self.bridges}

        def find(mac):
            while group[mac] != mac:
                mac = group[mac]
            return mac

        for one, other in self.active():
            a, b = find(one.mac), find(other.mac)
            if a == b:
                return None
            group[a] = b
        return len({find(mac) for mac in group})


def ring(count, **options):
    net = Net()
    bridges = [net.bridge(**options) for _ in range(count)]
    links = [net.link(bridges[n], bridges[(n + 1) % count]) for n in range(count)]
    return net, bridges, links


def test_two_bridges_agree_at_once_without_waiting_for_a_timer():
    net = Net()
    one, two = net.bridge(), net.bridge()

    a, b = net.link(one, two)
    net.settle()

    assert (a.role, b.role) == (Role.DESIGNATED, Role.ROOT)
    assert a.state is b.state is State.FORWARDING
    assert one.is_root
    assert not two.is_root
    assert two.root_priority.cost == 2000


def test_the_better_priority_is_root_whatever_the_mac():
    net = Net()
    one, two = net.bridge(), net.bridge(priority=4096)
    net.link(one, two)
    net.settle()

    assert two.is_root
    one.priority = 0
    one.restart()
    net.settle(3)
    assert one.is_root
    assert not two.is_root


def test_a_triangle_has_one_blocked_port_and_that_where_the_standard_says():
    net, (one, two, three), links = ring(3)
    net.settle(4)

    assert one.is_root
    assert net.is_tree()
    (_a, _b), (c, d), (_e, _f) = links
    assert (c.role, c.state) == (Role.DESIGNATED, State.FORWARDING)
    assert (d.role, d.state) == (Role.ALTERNATE, State.DISCARDING)
    assert three.root_port is not None
    assert two.root_port is not None


def test_the_alternate_port_takes_over_in_no_time():
    net, (_, _, three), links = ring(3)
    net.settle(4)
    root_port = three.root_port

    net.cut(root_port)
    net.settle()

    assert three.root_port is links[1][1]
    assert net.is_tree()


@pytest.mark.parametrize("count", [4, 5, 8])
def test_any_link_of_a_ring_may_be_cut_and_mended(count):
    net, _, links = ring(count)
    net.settle(5)
    assert net.is_tree()

    for a, _ in links:
        net.cut(a)
        net.settle(1)
        assert net.is_tree()
        net.mend(a)
        net.settle(8)
        assert net.is_tree()


@pytest.mark.parametrize("seed", range(8))
def test_any_mesh_becomes_a_tree_and_never_has_a_loop(seed):
    rng = random.Random(seed)
    net = Net()
    bridges = [net.bridge(rng.choice((4096, 32768))) for _ in range(6)]
    links = [net.link(bridges[n], bridges[n + 1]) for n in range(5)]
    links += [net.link(*rng.sample(bridges, 2), path_cost=rng.choice((200, 2000))) for _ in range(5)]
    net.settle(30)
    assert net.is_tree()
    assert len({bridge.root_priority.root for bridge in bridges}) == 1

    for _ in range(8):
        a, _ = rng.choice(links)
        net.cut(a)
        net.settle(rng.choice((0, 1, 6)))
        net.mend(a)
        net.settle(8)
        assert net.is_tree()


def test_two_links_between_two_bridges_and_a_cable_from_a_bridge_to_itself():
    net = Net()
    one, two = net.bridge(), net.bridge()
    net.link(one, two)
    _, d = net.link(one, two)
    e, f = net.link(one, one)
    net.settle(4)

    assert (d.role, d.state) == (Role.ALTERNATE, State.DISCARDING)
    assert {e.role, f.role} == {Role.DESIGNATED, Role.BACKUP}
    assert f.state is State.DISCARDING


def test_a_host_port_becomes_an_edge_after_three_seconds_and_does_not_void_what_was_learned():
    net = Net()
    one, two = net.bridge(), net.bridge()
    net.link(one, two)
    host = net.port(one)
    one.port_enabled(host, True)
    net.settle(2)
    assert host.state is State.DISCARDING
    net.flushed.clear()

    net.settle(2)

    assert host.oper_edge
    assert host.state is State.FORWARDING
    assert net.flushed == []


def test_an_edge_port_that_hears_a_bpdu_is_none_any_more():
    net = Net()
    one, two = net.bridge(), net.bridge()
    a = net.port(two, admin_edge=True)
    two.port_enabled(a, True)
    net.settle()
    assert a.state is State.FORWARDING
    b = net.port(one)
    net.peers[a], net.peers[b] = (one, b), (two, a)

    one.port_enabled(b, True)
    net.settle(3)

    assert not a.oper_edge
    assert a.role is Role.ROOT


def test_a_topology_change_is_told_everywhere_and_voids_what_was_learned():
    net, (_, two, three), links = ring(3)
    net.settle(6)
    net.flushed.clear()
    net.sent.clear()

    net.cut(three.root_port)
    net.settle()

    assert any(bpdu.tc for port, bpdu in net.sent if net.owner[port] is three)
    assert any(name.startswith("1.") for name in net.flushed)
    assert two.topology_changes > 0
    assert links


def test_the_root_that_falls_silent_is_forgotten_after_three_hellos():
    net = Net()
    one, two = net.bridge(), net.bridge()
    a, b = net.link(one, two)
    net.settle(4)
    del net.peers[a]

    net.settle(5)
    assert b.role is Role.ROOT
    net.settle(2)

    assert two.is_root
    assert b.role is Role.DESIGNATED


def test_a_designated_port_that_hears_an_inferior_learning_one_stops_forwarding():
    """A cable that carries one way only: the far end takes itself for designated (17.21.10)."""
    net = Net()
    one, two = net.bridge(), net.bridge()
    a, _ = net.link(one, two)
    net.settle(4)
    assert a.forwarding

    worse = Vector(two.id, 0, two.id, 0x8001)
    one.received(a, Bpdu(BpduType.RST, worse, Times(0, 20, 2, 15), Role.DESIGNATED, learning=True))

    assert not a.forwarding


def test_a_neighbour_of_the_old_protocol_gets_the_old_protocol_and_its_timers():
    net = Net()
    old, new = net.bridge(rstp=False), net.bridge()
    a, b = net.link(old, new)

    net.settle(10)
    assert not b.send_rstp
    assert {bpdu.type for port, bpdu in net.sent if port is a} == {BpduType.CONFIG}
    assert b.role is Role.ROOT
    net.settle(30)

    assert (a.state, b.state) == (State.FORWARDING, State.FORWARDING)
    net.link(new, net.bridge())
    net.settle(4)
    assert BpduType.TCN in {bpdu.type for port, bpdu in net.sent if port is b}
    old.rstp = True
    old.restart()
    net.settle(15)
    assert b.send_rstp


def test_no_port_sends_more_than_six_bpdus_a_second():
    net = Net()
    one, two = net.bridge(), net.bridge()
    a, _ = net.link(one, two)
    net.settle(3)
    net.sent.clear()

    for priority in range(4096, 4096 * 12, 4096):
        one.priority = priority
        one.reselect()
        net.settle()

    assert len([1 for port, _ in net.sent if port is a]) <= 6


def test_the_old_root_port_stops_before_the_new_one_forwards():
    """Recent roots are retired first (17.19.22): with both forwarding there would be a loop."""
    told = []
    bridge = Rstp(
        b"\x02\0\0\0\0\x09",
        lambda port, bpdu: None,
        lambda port: told.append((port.name, port.state)),
        lambda port: None,
    )
    old, new = StpPort("old", 1), StpPort("new", 2, auto_edge=False)
    for port in (old, new):
        bridge.add(port)
        bridge.port_enabled(port, True)
    better, best = (Vector(root, 0, root, 0x8001) for root in (4096 << 48 | 2, 4096 << 48 | 1))
    bridge.received(old, Bpdu(BpduType.RST, better, Times(0, 20, 2, 15)))
    for _ in range(4):
        bridge.tick()
    assert old.role is Role.ROOT
    assert old.forwarding
    told.clear()

    bridge.received(new, Bpdu(BpduType.RST, best, Times(0, 20, 2, 15)))

    assert (new.role, new.state) == (Role.ROOT, State.FORWARDING)
    assert told.index(("old", State.DISCARDING)) < told.index(("new", State.FORWARDING))
