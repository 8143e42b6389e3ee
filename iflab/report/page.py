"""The report as one HTML file: style, script and pictures inside, nothing fetched.

Whatever came from a lab (names, lines of the log, octets of frames) passes the
template's escaping. The file's content security policy names the one script by its
hash and allows nothing from outside, so that a frame can do no harm even where
escaping failed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from typing import Any

from .ladder import Arrow, Column, Ladder, build
from .plots import draw
from .recorder import check_libraries
from .recording import Recording
from .story import Seen
from .topology import Picture, lay_out
from .words import count, octets, seconds

__all__ = ["render"]

ROW = 26
"""Height of a ladder's row, pixels."""

LETTER = 9
"""Width of a letter at the head of a ladder's column, pixels, wide letters and all; ..."""

LINE = 17
"""... and the height of a line there."""

_PLACED = re.compile(r"\S.* line \d+: ")
"""A failure that begins with its place."""


def render(recording: Recording) -> str:
    """Make the page. Raises ``ReportError`` when a library is missing."""
    check_libraries()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("iflab.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"octets": octets, "seconds": seconds, "count": count}
    files = resources.files("iflab.report") / "templates"
    script = (files / "report.js").read_text(encoding="utf-8")
    ladder, picture = build(recording), lay_out(recording)
    return environment.get_template("report.html").render(
        recording=recording,
        about=recording.about,
        style=(files / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        date=datetime.fromtimestamp(recording.started).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        placed=_PLACED.match(recording.about.failure) is not None,
        verdict={True: "held", False: "failed", None: "recorded"}[recording.about.held],
        figures=_figures(recording),
        outages=_outages(recording),
        plot=draw(recording),
        picture=picture,
        links=_links(picture),
        ladder=ladder,
        geometry=_Geometry(ladder),
        hosts=_hosts(ladder),
        conversations=sorted(recording.conversations, key=lambda each: each.octets, reverse=True)[:100],
        totals=_totals(recording),
    )


class _Geometry:
    """Where the columns of the ladder are, in pixels."""

    height = ROW
    most = 6
    """Arrows in a row that are drawn one by one; of more, as on a hub, each sender's are one line."""

    def __init__(self, ladder: Ladder) -> None:
        columns = max(1, len(ladder.columns))
        self.pitch = max(11.0, min(180.0, 560 / columns)) if columns > 1 else 120.0
        self.width = round(self.pitch * columns)
        room = int((self.pitch - 8) / LETTER)
        names = [self.lines(column) for column in ladder.columns]
        self.stacked = any(len(column.name) > room for column in ladder.columns)
        """The names of the columns have two lines, that of the host and that of the NIC."""
        self.upright = self.pitch < 90 and any(len(line) > room for lines in names for line in lines)
        """They stand upright instead."""
        if self.upright:
            self.head = min(118, 16 + 7 * max(len(column.name) for column in ladder.columns))
        elif self.stacked:  # a long one is broken once more
            self.head = 12 + LINE * max(sum(-(-len(line) // room) for line in lines) for lines in names)
        else:
            self.head = 30

    @staticmethod
    def lines(column: Column) -> list[str]:
        """The name of a column in lines: the host, the NIC."""
        return column.name.split(":", 1)

    def x(self, column: int) -> float:
        """The middle of a column."""
        return round(self.pitch * (column + 0.5), 1)

    def arrow(self, start: int, stop: int, end: str) -> dict[str, float]:
        """Ends of an arrow; one that was lost ends half-way."""
        x1, x2 = self.x(start), self.x(stop)
        inset = min(5.0, self.pitch / 6)
        way = 1 if x2 >= x1 else -1
        x1, x2 = x1 + way * inset, x2 - way * inset
        if end != "arrived":
            x2 = x1 + (x2 - x1) * 0.55
        return {"x1": round(x1, 1), "x2": round(x2, 1), "way": way}

    def spread(self, arrows: Sequence[Arrow]) -> list[dict[str, float]]:
        """For each sender among ``arrows``, its middle and the ends of a line to everyone it reached."""
        found = []
        for start in dict.fromkeys(arrow.start for arrow in arrows):
            columns = [start, *(arrow.stop for arrow in arrows if arrow.start == start)]
            found.append({"x": self.x(start), "x1": self.x(min(columns)), "x2": self.x(max(columns))})
        return found


def _hosts(ladder: Ladder) -> list[tuple[str, list[int]]]:
    """Hosts, switches and stations for the filter, with their columns."""
    found: dict[str, list[int]] = {}
    for place, column in enumerate(ladder.columns):
        found.setdefault(column.owner, []).append(place)
    return sorted(found.items())


def _outages(recording: Recording) -> list[dict[str, Any]]:
    """When links were not up that had been: what a reader of a flap looks for."""
    rows = []
    for outage in recording.outages():
        back = outage.end if outage.end is not None else outage.begin
        later = [
            frame.time
            for frame in recording.frames
            if isinstance(frame, Seen) and frame.wire == outage.wire and frame.arrived and frame.time >= back
        ]
        rows.append(
            {
                "wire": recording.wires[outage.wire].name,
                "begin": outage.begin,
                "end": outage.end,
                "kind": outage.state,
                "names": [recording.lanes[lane].name for lane in outage.lanes],
                "first": min(later) if outage.end is not None and later else None,
            }
        )
    return rows


def _totals(recording: Recording) -> dict[str, int]:
    names = ("sent", "octets", "added", "delivered", "in_flight", "missed")
    return {name: sum(getattr(wire, name) for wire in recording.wires) for name in names}


def _figures(recording: Recording) -> list[dict[str, str]]:
    """The figures at the top: value, what it is, and whether it is good or bad news."""
    totals = _totals(recording)
    lost: dict[str, int] = {}
    for wire in recording.wires:
        for cause, number in wire.dropped.items():
            lost[cause] = lost.get(cause, 0) + number
    again = sum(each.retransmitted for each in recording.conversations)
    nic_drops = sum(nic.queue_drops + nic.iqdrops + nic.ierrors + nic.oerrors for nic in recording.nics)
    rtts = [(each.rtt_sum, each.rtt_count) for each in recording.conversations if each.rtt_count]
    hubs = sum(wire.kind != "cable" for wire in recording.wires)
    wires = count(len(recording.wires) - hubs, "cable") + (f", {count(hubs, 'hub')}" if hubs else "")
    figures = [
        {"value": seconds(recording.end - recording.begin), "name": "duration", "tone": ""},
        {"value": f"{len(recording.nodes):,}", "name": f"{_kinds(recording)}, {wires}", "tone": ""},
        {"value": f"{totals['sent']:,}", "name": f"frames sent, {octets(totals['octets'])}", "tone": ""},
        {
            "value": f"{sum(lost.values()):,}",
            "name": "frames lost" + (": " + ", ".join(f"{k} {v:,}" for k, v in lost.items()) if lost else ""),
            "tone": "bad" if lost else "good",
        },
        {"value": f"{again:,}", "name": "TCP segments retransmitted", "tone": "warn" if again else "good"},
    ]
    if nic_drops:
        figures.append({"value": f"{nic_drops:,}", "name": "frames dropped by NICs", "tone": "bad"})
    timeline = recording.timeline
    held = max((each.held_max for lane in timeline.series for each in timeline.all(lane)), default=0.0)
    waited = f"; in a send queue before it {seconds(held)} at most" if held else ""
    if rtts:
        mean = sum(total for total, _ in rtts) / sum(number for _, number in rtts)
        figures.append(
            {"value": seconds(mean), "name": f"round trip from the wire on, mean{waited}", "tone": ""}
        )
    balanced = all(wire.balances for wire in recording.wires)
    figures.append(
        {
            "value": "balanced" if balanced else "off",
            "name": "account of frames: sent = delivered + lost + in flight",
            "tone": "good" if balanced else "bad",
        }
    )
    return figures


def _kinds(recording: Recording) -> str:
    switches = any(node.kind == "switch" for node in recording.nodes)
    return "hosts, switches and stations" if switches else "hosts and stations"


def _links(picture: Picture) -> list[list[tuple[float, str]]]:
    """The states of every line of the picture, for the slider."""
    return [[(round(time, 4), state) for time, state in line.states] for line in picture.lines]
