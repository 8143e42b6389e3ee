"""Where hosts, hubs and cables stand in the picture: networkx lays them out, this module packs and scales.

Nodes are hosts, switches, stations and hubs; a cable is an edge between two ports, a lead
of a hub an edge from a port to the hub. The layout is the same for the same lab.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import networkx as nx

from .recording import LinkState, Recording

__all__ = ["Box", "Line", "Picture", "lay_out"]


@dataclass(slots=True)
class Box:
    """A node; ``x`` and ``y`` are its middle."""

    name: str
    kind: str
    x: float
    y: float
    width: float
    lines: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Line:
    """A way between two boxes. ``states``: times and states of the link as a whole, worst end first."""

    name: str
    title: str
    x1: float
    y1: float
    x2: float
    y2: float
    near: str
    far: str
    states: list[tuple[float, str]]
    lost: int

    @property
    def state(self) -> str:
        """At the end."""
        return self.states[-1][1] if self.states else "up"

    @property
    def flaps(self) -> int:
        """How often it went from up to something else."""
        return sum(
            1
            for before, after in zip(self.states, self.states[1:], strict=False)
            if before[1] == "up" != after[1]
        )

    @property
    def middle(self) -> tuple[float, float]:
        """Where its name goes."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2


@dataclass(slots=True)
class Picture:
    """Everything in place. ``small``: so many boxes that only their names are shown."""

    width: float
    height: float
    boxes: list[Box]
    lines: list[Line]
    small: bool


_WORST = ("unplugged", "cut", "down", "up")


def _states(states: list[LinkState], wire: int, lanes: set[int]) -> list[tuple[float, str]]:
    """The states of a link of which these ports are the ends."""
    now: dict[int, str] = {}
    found: list[tuple[float, str]] = []
    for state in states:
        if state.wire != wire or state.lane not in lanes:
            continue
        now[state.lane] = state.state
        worst = min(now.values(), key=_WORST.index)
        if found and found[-1][0] == state.time:
            found.pop()
        if not found or found[-1][1] != worst:
            found.append((state.time, worst))
    return found


def _graph(recording: Recording) -> nx.MultiGraph:
    graph = nx.MultiGraph()
    of_lane = {}
    for node in recording.nodes:
        graph.add_node(node.name, kind=node.kind)
        of_lane.update(dict.fromkeys(node.lanes, node.name))
    for number, wire in enumerate(recording.wires):
        lanes = wire.lanes or sorted({s.lane for s in recording.states if s.wire == number})
        nodes = [(lane, of_lane[lane]) for lane in lanes if lane in of_lane]
        if len(nodes) == 2 and wire.kind != "segment":
            (one, first), (two, second) = nodes
            graph.add_edge(first, second, wire=number, lanes=(one, two))
        elif nodes:
            hub = f"\0{wire.name}"  # no host has such a name
            graph.add_node(hub, kind="hub", label=wire.name)
            for lane, name in nodes:
                graph.add_edge(name, hub, wire=number, lanes=(lane, -1))
    return graph


def _places(part: nx.MultiGraph, small: bool) -> dict[str, tuple[float, float]]:
    """Lay out one connected part, neighbours about 1 apart; ``small`` ones may be anywhere round each other."""
    nodes = list(part)
    simple = nx.Graph(part)
    if len(nodes) == 1:
        return {nodes[0]: (0.0, 0.0)}
    degrees = sorted(dict(simple.degree()).values())
    if degrees[-1] <= 2 and simple.number_of_edges() == len(nodes) - 1:  # a chain: rows, as text is read
        ends = [node for node in nodes if simple.degree(node) == 1]
        order = list(nx.dfs_preorder_nodes(simple, ends[0]))
        width = len(order) if len(order) <= 5 else math.ceil(math.sqrt(len(order) * 1.6))
        return {
            node: (float(i % width if i // width % 2 == 0 else width - 1 - i % width), float(i // width))
            for i, node in enumerate(order)
        }
    centre = max(simple.degree(), key=lambda pair: pair[1])
    if centre[1] == len(nodes) - 1 and simple.number_of_edges() == len(nodes) - 1:  # a star: rings round it
        return _star(centre[0], [node for node in nodes if node != centre[0]])
    if simple.number_of_edges() == len(nodes) - 1:
        middle = max(nx.center(simple), key=simple.degree)
        return _tree(simple, middle, None)[1] if small else _rows(simple, middle)
    if degrees[0] == degrees[-1] == 2:
        found = nx.circular_layout(simple, scale=max(1.0, len(nodes) / (2 * math.pi)))
    else:
        start = nx.planar_layout(simple) if nx.check_planarity(simple)[0] else nx.circular_layout(simple)
        found = nx.spring_layout(simple, pos=start, seed=1, iterations=300, k=1.6 / math.sqrt(len(nodes)))
    return _scaled({node: (float(x), float(y)) for node, (x, y) in found.items()}, simple)


def _star(centre: str, leaves: list[str]) -> dict[str, tuple[float, float]]:
    places, ring, at = {centre: (0.0, 0.0)}, 1, 0
    if len(leaves) <= 3:
        rows = {1: [(1.0, 0.0)], 2: [(-1.0, 0.0), (1.0, 0.0)], 3: [(-1.0, 0.0), (1.0, 0.0), (0.0, 1.0)]}
        return places | dict(zip(leaves, rows[len(leaves)], strict=True))
    while at < len(leaves):
        room = min(8 * ring + 2 * (ring - 1), len(leaves) - at)
        for i in range(room):
            angle = 2 * math.pi * (i + 0.5 * (ring % 2)) / room - math.pi / 2
            places[leaves[at + i]] = (1.15 * ring * math.cos(angle), ring * math.sin(angle))
        at += room
        ring += 1
    return places


def _rows(graph: nx.Graph, root: str) -> dict[str, tuple[float, float]]:
    """Lay out a tree from left to right, its leaves below each other."""
    places: dict[str, tuple[float, float]] = {}
    leaves = 0
    depths = nx.single_source_shortest_path_length(graph, root)
    for node in nx.dfs_postorder_nodes(graph, root):
        below = [places[each][1] for each in graph[node] if depths[each] > depths[node]]
        if below:
            places[node] = depths[node], sum(below) / len(below)
        else:
            places[node] = depths[node], leaves * 0.75
            leaves += 1
    return places


def _tree(graph: nx.Graph, node: str, above: str | None) -> tuple[float, dict[str, tuple[float, float]]]:
    """Lay out a tree round ``node``, each branch in a circle of its own; return the circle's radius and the places.

    What is ``above`` the node is to its left, where room is left for the way there.
    """
    branches = [(each, *_tree(graph, each, node)) for each in graph[node] if each != above]
    if not branches:
        return 0.55, {node: (0.0, 0.0)}
    slots = [radius for _, radius, _ in branches] + ([0.55] if above is not None else [])
    out = 1.0 + max(slots) if len(slots) > 1 else 1.2 + slots[0]
    while sum(2 * math.asin(min(1.0, radius / out)) for radius in slots) > 2 * math.pi:
        out *= 1.04
    spare = (2 * math.pi - sum(2 * math.asin(min(1.0, radius / out)) for radius in slots)) / len(slots)
    angle = (
        math.pi + (math.asin(min(1.0, slots[-1] / out)) if above is not None else -math.pi / 2) + spare / 2
    )
    places = {node: (0.0, 0.0)}
    for _, radius, theirs in branches:
        half = math.asin(min(1.0, radius / out)) + spare / 2
        angle += half
        cos, sin = math.cos(angle), math.sin(angle)
        for each, (x, y) in theirs.items():
            places[each] = ((x + out) * cos - y * sin, (x + out) * sin + y * cos)
        angle += half
    return out + max(radius for _, radius, _ in branches), places


def _scaled(places: dict[str, tuple[float, float]], graph: nx.Graph) -> dict[str, tuple[float, float]]:
    """Let the two nodes that are closest be about 1 apart."""
    points = list(places.values())
    closest = min(
        (math.dist(a, b) for i, a in enumerate(points) for b in points[i + 1 :]),
        default=1.0,
    )
    factor = 1.0 / max(closest, 0.02)
    return {node: (x * factor, y * factor) for node, (x, y) in places.items()}


def lay_out(recording: Recording) -> Picture:
    """Make the picture of a recording's lab."""
    graph = _graph(recording)
    addresses = {nic.lane: [a for a in nic.addresses if not a.startswith("fe80")] for nic in recording.nics}
    lanes_of = {node.name: node.lanes for node in recording.nodes}
    small = len(graph) > 14
    step_x, step_y = (112.0, 74.0) if small else (270.0, 140.0)
    places: dict[str, tuple[float, float]] = {}
    row_x = row_y = row_height = 0.0
    parts = sorted(nx.connected_components(graph), key=len, reverse=True)
    wide = max(8.0, math.sqrt(len(graph) * 2.2)) if small else 4.0
    for part in parts:
        order = [node for node in graph if node in part]
        found = _places(graph.subgraph(part).copy(), small) if len(order) > 1 else {order[0]: (0.0, 0.0)}
        left, top = min(x for x, _ in found.values()), min(y for _, y in found.values())
        width = max(x for x, _ in found.values()) - left + 1
        height = max(y for _, y in found.values()) - top + 1
        if row_x and row_x + width > wide:
            row_x, row_y, row_height = 0.0, row_y + row_height, 0.0
        places |= {node: (x - left + row_x, y - top + row_y) for node, (x, y) in found.items()}
        row_x += width
        row_height = max(row_height, height)
    boxes = {}
    for node, (x, y) in places.items():
        about = graph.nodes[node]
        name = about.get("label", node)
        lines = [] if small else [a for lane in lanes_of.get(node, ()) for a in addresses.get(lane, ())][:4]
        widest = max([len(name) * 8.4, *(len(line) * 7.4 for line in lines)])
        boxes[node] = Box(
            name, about["kind"], (x + 0.5) * step_x, (y + 0.5) * step_y, max(54.0, widest + 22), lines
        )
    picture = Picture(
        max((box.x for box in boxes.values()), default=0) + step_x / 2,
        max((box.y for box in boxes.values()), default=0) + step_y / 2,
        list(boxes.values()),
        [],
        small,
    )
    seen: dict[tuple[str, str], int] = {}
    for one, two, about in graph.edges(data=True):
        wire, ends = recording.wires[about["wire"]], about["lanes"]
        if about["lanes"][0] not in lanes_of.get(one, ()):  # networkx may turn an edge round
            one, two = two, one
        pair = (min(one, two), max(one, two))
        offset = seen[pair] = seen.get(pair, -1) + 1
        picture.lines.append(_line(recording, boxes[one], boxes[two], about["wire"], ends, offset))
        if wire.kind == "segment":
            picture.lines[-1].name = ""
    return picture


def _line(recording: Recording, one: Box, two: Box, number: int, ends: tuple[int, int], offset: int) -> Line:
    wire = recording.wires[number]
    away = (offset + 1) // 2 * (16 if offset % 2 else -16)  # several cables between the same two
    length = math.dist((one.x, one.y), (two.x, two.y)) or 1.0
    dx, dy = -(two.y - one.y) / length * away, (two.x - one.x) / length * away
    names = [recording.lanes[lane].nic if lane >= 0 else "" for lane in ends]
    states = _states(recording.states, number, {lane for lane in ends if lane >= 0})
    lost = sum(wire.dropped.values())
    ports = " – ".join(recording.lanes[lane].name for lane in ends if lane >= 0)
    title = f"{wire.name}: {ports}; {wire.sent:,} frames sent, {wire.delivered:,} delivered, {lost:,} lost"
    return Line(
        wire.name,
        title,
        one.x + dx,
        one.y + dy,
        two.x + dx,
        two.y + dy,
        names[0],
        names[1],
        states,
        lost,
    )
