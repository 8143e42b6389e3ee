"""Throughput, losses, latency and queues over time, as SVG that takes its colours from the page.

matplotlib draws with stand-in colours, which become CSS variables: one picture
serves the light theme, the dark one and paper.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

from .recording import Recording
from .series import Bin
from .words import octets, seconds

__all__ = ["Plot", "draw"]

POINTS = 240
"""Points over the whole time."""

MOST = 6
"""Lines in a panel; further ones are drawn together."""

_VARIABLES = {
    "#010201": "var(--ink)",
    "#020302": "var(--muted)",
    "#030403": "var(--line)",
    "#040504": "var(--bad)",
    "#050605": "var(--warn)",
    "#060706": "var(--good)",
    "#070807": "var(--c1)",
    "#080908": "var(--c2)",
    "#090a09": "var(--c3)",
    "#0a0b0a": "var(--c4)",
    "#0b0c0b": "var(--c5)",
    "#0c0d0c": "var(--c6)",
    "#0d0e0d": "var(--c7)",
}
_INK, _MUTED, _LINE, _BAD, _WARN, _GOOD, *_COLOURS = _VARIABLES


@dataclass(slots=True)
class Plot:
    """An SVG, and the same in words."""

    svg: str
    words: str


def draw(recording: Recording) -> Plot:
    """Draw all panels that have something to show, one above the other, on one time axis."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "iflab", "text.parse_math": False}):
        return _Drawing(recording, Figure).plot()


class _Drawing:
    def __init__(self, recording: Recording, figure: Any) -> None:
        self.recording = recording
        self.span = max(recording.end - recording.begin, 0.001)
        self.width = max(recording.timeline.width, self.span / POINTS)
        self.count = max(1, int(self.span / self.width + 0.999))
        self.times = [recording.begin + (i + 0.5) * self.width for i in range(self.count)]
        lanes = sorted(recording.timeline.series, key=self._octets, reverse=True)
        self.bins = {lane: recording.timeline.coarse(lane, self.width, self.count) for lane in lanes}
        self.total = [Bin() for _ in range(self.count)]
        for series in self.bins.values():
            for place, each in enumerate(series):
                self.total[place].add(each)
        self.figure_class = figure
        self.outages = recording.outages()

    def _octets(self, lane: int) -> int:
        return sum(each.octets for each in self.recording.timeline.all(lane))

    def plot(self) -> Plot:
        panels = [(self.throughput, 2.1), (self.marks, 0.85)]
        if any(each.delay_count or each.rtt_count or each.held_max for each in self.total):
            panels.append((self.latency, 1.5))
        if any(each.queue or each.dropped for each in self.total):
            panels.append((self.queues, 1.3))
        heights = [height for _, height in panels]
        figure = self.figure_class(figsize=(10, sum(heights) + 0.5), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        words = []
        for panel, (draw_panel, _) in zip(axes, panels, strict=True):
            self._frame(panel)
            self._states(panel)
            words.append(draw_panel(panel))
        axes[-1].set_xlabel("seconds since the lab began", fontsize=9, color=_MUTED)
        axes[-1].set_xlim(self.recording.begin, self.recording.begin + self.span)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return Plot(_adopt(out.getvalue()), " ".join(word for word in words if word))

    @staticmethod
    def _frame(panel: Any) -> None:
        panel.patch.set_alpha(0)
        panel.spines[["top", "right"]].set_visible(False)
        for side in ("left", "bottom"):
            panel.spines[side].set_color(_LINE)
        panel.tick_params(colors=_MUTED, labelsize=8, length=3)
        for label in (*panel.get_xticklabels(), *panel.get_yticklabels()):
            label.set_color(_MUTED)
        panel.grid(axis="y", color=_LINE, linewidth=0.6)
        panel.set_axisbelow(True)

    def _title(self, panel: Any, text: str) -> None:
        panel.set_title(text, fontsize=9, loc="left", color=_INK, fontweight="bold")

    def _legend(self, panel: Any) -> None:
        handles, labels = panel.get_legend_handles_labels()
        if handles:
            panel.legend(
                handles,
                labels,
                loc="lower right",
                bbox_to_anchor=(1, 1),
                ncols=4,
                fontsize=8,
                frameon=False,
                labelcolor=_INK,
                borderaxespad=0.1,
                handlelength=1.4,
                columnspacing=1.2,
            )

    def _states(self, panel: Any) -> None:
        """Bands where a link was not up."""
        for outage in self.outages[:200]:
            end = outage.end if outage.end is not None else self.recording.end
            panel.axvspan(outage.begin, end, color=_BAD, alpha=0.10, linewidth=0)
            for edge in (outage.begin, end):
                panel.axvline(edge, color=_BAD, linewidth=0.7, alpha=0.5)

    # panels

    def throughput(self, panel: Any) -> str:
        busiest = [lane for lane in self.bins if any(each.octets for each in self.bins[lane])]
        shown, others = (busiest, []) if len(busiest) <= MOST else (busiest[: MOST - 1], busiest[MOST - 1 :])
        peak = max((each.octets for lane in shown for each in self.bins[lane]), default=0)
        if others:
            rest = [sum(self.bins[lane][i].octets for lane in others) for i in range(self.count)]
            peak = max(peak, *rest)
        unit, name = _bit_unit(8 * peak / self.width)
        for colour, lane in zip(_COLOURS, shown, strict=False):
            rates = [8 * each.octets / self.width / unit for each in self.bins[lane]]
            panel.fill_between(self.times, rates, step="mid", color=colour, alpha=0.18, linewidth=0)
            panel.step(self.times, rates, where="mid", color=colour, linewidth=1.3, label=self._sender(lane))
        if others:
            rates = [8 * each / self.width / unit for each in rest]
            panel.step(
                self.times,
                rates,
                where="mid",
                color=_MUTED,
                linewidth=1,
                label=f"{len(others)} others, together",
            )
        panel.set_ylim(bottom=0)
        self._title(panel, f"Throughput put on wires, {name}")
        self._legend(panel)
        top = panel.get_ylim()[1]
        labelled = -1.0
        for outage in self.outages:
            end = outage.end if outage.end is not None else self.recording.end
            middle = (outage.begin + end) / 2
            if end - outage.begin > self.span * 0.04 and middle - labelled > self.span * 0.08:
                labelled = middle
                text = (
                    f"{self.recording.wires[outage.wire].name} {outage.state}\n{seconds(end - outage.begin)}"
                )
                panel.text(middle, top * 0.92, text, ha="center", va="top", fontsize=9, color=_BAD)
        total = sum(each.octets for each in self.total)
        return f"Throughput: {octets(total)} in all, at most {8 * peak / self.width / unit:.3g} {name} by one sender."

    def _sender(self, lane: int) -> str:
        return f"{self.recording.lanes[lane].name} sends"

    def marks(self, panel: Any) -> str:
        rows = (
            ("lost on wires", _BAD, [each.lost for each in self.total], "|"),
            ("dropped by NICs", _BAD, [each.dropped for each in self.total], "x"),
            ("TCP retransmissions", _WARN, [each.retransmitted for each in self.total], "|"),
        )
        labels = []
        for place, (name, colour, values, shape) in enumerate(rows):
            times = [time for time, value in zip(self.times, values, strict=True) if value]
            panel.scatter(times, [place] * len(times), marker=shape, s=90, color=colour, linewidths=1.4)
            labels.append(f"{name}: {sum(values):,}")
        panel.set_yticks(range(len(rows)), labels, fontsize=8)
        for label, (_, colour, values, _) in zip(panel.get_yticklabels(), rows, strict=True):
            label.set_color(colour if sum(values) else _MUTED)
        panel.set_ylim(len(rows) - 0.4, -0.6)
        panel.grid(False, axis="y")
        panel.tick_params(axis="y", length=0)
        self._title(panel, "Faults")
        return "; ".join(labels) + "."

    def latency(self, panel: Any) -> str:
        worst = 0.0
        means = [each.delay_sum / each.delay_count if each.delay_count else None for each in self.total]
        maxima = [each.delay_max if each.delay_count else None for each in self.total]
        trips = [each.rtt_sum / each.rtt_count if each.rtt_count else None for each in self.total]
        held = [each.held_max or None for each in self.total]
        for values, colour, label in (
            (held, _COLOURS[1], "in a send queue, longest"),
            (means, _COLOURS[2], "one way on the wire, mean"),
            (trips, _COLOURS[3], "round trip from the wire on, mean"),
        ):
            points = [(t, v * 1e3) for t, v in zip(self.times, values, strict=True) if v is not None]
            if points:
                panel.plot(
                    [t for t, _ in points],
                    [v for _, v in points],
                    ".",
                    color=colour,
                    markersize=4,
                    label=label,
                )
        tall = [(t, v * 1e3) for t, v in zip(self.times, maxima, strict=True) if v is not None]
        if tall:
            worst = max(v for _, v in tall)
            panel.plot(
                [t for t, _ in tall],
                [v for _, v in tall],
                "_",
                color=_MUTED,
                markersize=4,
                label="one way, longest",
            )
        panel.set_ylim(bottom=0)
        self._title(panel, "Latency, ms")
        self._legend(panel)
        trip_count = sum(each.rtt_count for each in self.total)
        words = []
        if any(held):
            words.append(f"at most {max(filter(None, held)) * 1e3:.3g} ms in a send queue")
        if tall:
            words.append(f"at most {worst:.3g} ms one way on a wire")
        if trip_count:
            mean = sum(each.rtt_sum for each in self.total) / trip_count * 1e3
            words.append(f"{trip_count:,} round trips of {mean:.3g} ms on average, from the wire on")
        return f"Latency: {'; '.join(words)}."

    def queues(self, panel: Any) -> str:
        lanes = [lane for lane in self.bins if any(each.queue for each in self.bins[lane])]
        lanes.sort(key=lambda lane: max(each.queue for each in self.bins[lane]), reverse=True)
        for colour, lane in zip(_COLOURS, lanes[:MOST], strict=False):
            panel.step(
                self.times,
                [each.queue for each in self.bins[lane]],
                where="mid",
                color=colour,
                linewidth=1.3,
                label=self.recording.lanes[lane].name,
            )
        drops = [(t, each.dropped) for t, each in zip(self.times, self.total, strict=True) if each.dropped]
        if drops:
            panel.plot(
                [t for t, _ in drops],
                [0] * len(drops),
                "x",
                color=_BAD,
                markersize=6,
                clip_on=False,
                label="drops",
            )
        panel.set_ylim(bottom=0)
        self._title(panel, "Longest send queue (if_snd), frames")
        self._legend(panel)
        if not lanes:
            return ""
        longest = max(each.queue for each in self.bins[lanes[0]])
        return f"Queues: at most {longest} frames, at {self.recording.lanes[lanes[0]].name}."


def _bit_unit(peak: float) -> tuple[float, str]:
    for unit, name in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if peak >= unit:
            return unit, name
    return 1.0, "bit/s"


def _adopt(svg: str) -> str:
    """Make the SVG a part of the page: no prologue, colours of the page, ids that clash with nothing."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r'\bid="', 'id="plot-', svg)
    svg = re.sub(r'xlink:href="#', 'href="#plot-', svg).replace("url(#", "url(#plot-")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
    return re.sub(r'width="[^"]*" height="[^"]*"', 'role="img" aria-labelledby="plot-words"', svg, count=1)
