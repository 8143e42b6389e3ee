"""``iflab bench``: the table, the pictures, JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iflab.bench import Row

__all__ = ["bench_command"]


def bench_command(
    only: list[str], quick: bool, json_: bool, check: bool, plot: Path | None, runs: int | None
) -> int:
    """Measure and show; 1 with ``check`` when a target is missed."""
    from iflab.bench import Bench, run_measures

    from .errors import HELD_NOT
    from .places import check_places
    from .show import table

    def tell(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text} ...", end="", file=sys.stderr, flush=True)

    check_places(plot=plot)
    bench = Bench(runs or (3 if quick else 5), quick, tell, only)
    rows = list(run_measures(bench))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if json_:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        table(
            ("measure", "value", "spread", "unit", "reference", "its value", "ratio", "target", ""),
            [_cells(row) for row in rows],
        )
        for row in rows:
            if row.note:
                print(f"  {row.measure}: {row.note}")
    if plot is not None:
        from iflab.bench.plot import draw

        for path in draw(rows, plot):
            print(path, file=sys.stderr)
    missed = [row.measure for row in rows if row.holds is False]
    return HELD_NOT if check and missed else 0


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {True: "holds", False: "MISSED", None: ""}[row.holds]
    bound = "" if row.target is None else f"{'>=' if row.sense == 'at least' else '<='} {row.target:g}"
    return (
        row.measure,
        _number(row.value),
        f"{_number(row.low)}-{_number(row.high)}",
        row.unit,
        row.reference or "",
        _number(row.reference_value),
        _number(row.ratio),
        bound,
        verdict,
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
