"""Pictures of a bench: one panel a group, PNG and SVG. Needs matplotlib (the extra ``bench``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .core import BenchError, Row

__all__ = ["draw"]

_OURS, _REFERENCE = "#2f6fb0", "#b9bfc7"


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw ``rows`` into ``path`` with the endings ``.png`` and ``.svg``; return both.

    Raises ``BenchError`` without matplotlib.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise BenchError("pictures need matplotlib; install it with: pip install 'iflab[bench]'") from None
    mpl.use("agg")
    from matplotlib.figure import Figure

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row.group}, {row.unit}", []).append(row)
    heights = [1 + 0.45 * len(members) for members in groups.values()]
    figure = Figure(figsize=(9, sum(heights) + 0.4), layout="constrained")
    panels = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, (title, members) in zip(panels, groups.items(), strict=True):
        for place, row in enumerate(reversed(members)):
            panel.barh(
                place + 0.2,
                row.value,
                0.36,
                color=_OURS,
                xerr=[[row.value - row.low], [row.high - row.value]],
                error_kw={"elinewidth": 1, "capsize": 2},
            )
            if row.reference_value is not None:
                panel.barh(place - 0.2, row.reference_value, 0.36, color=_REFERENCE)
                panel.text(0, place - 0.2, f" {row.reference}", va="center", fontsize=7)
            elif row.target is not None and row.reference is None:
                panel.plot([row.target] * 2, [place - 0.1, place + 0.5], color="#c0392b", linewidth=1.5)
        panel.set_yticks(range(len(members)), [row.measure for row in reversed(members)], fontsize=8)
        panel.set_title(title, fontsize=9, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    for each in paths:
        figure.savefig(each, dpi=110)
    return paths
