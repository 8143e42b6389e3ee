"""Rows, medians, and the list of measures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

__all__ = ["MEASURES", "Bench", "BenchError", "Missing", "Row", "run_measures"]


class BenchError(ValueError):
    """A bench that cannot be run as asked."""


class Missing(Exception):
    """A reference that is not on this machine; the text says what to install."""


@dataclass(slots=True)
class Row:
    """One figure. ``sense`` says what ``target`` bounds: the ratio if there is a reference, else the value.

    ``holds`` is None when there is no target, or when the reference is not on
    this machine; ``note`` says what is missing, or what else to know of it.
    """

    measure: str
    unit: str
    value: float
    low: float = 0.0
    high: float = 0.0
    reference: str | None = None
    reference_value: float | None = None
    ratio: float | None = None
    target: float | None = None
    sense: str = "at least"
    holds: bool | None = None
    note: str = ""
    group: str = ""
    """Rows of one group stand in one picture."""

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return asdict(self)


@dataclass(slots=True)
class Bench:
    """How to measure: so many ``runs`` of each, everything shorter when ``quick``."""

    runs: int = 5
    quick: bool = False
    tell: Callable[[str], None] = lambda text: None
    """Hears what is going on."""
    only: Sequence[str] = field(default_factory=tuple)

    def seconds(self, usual: float) -> float:
        """How long one run of a flow lasts."""
        return usual / 5 if self.quick else usual

    def paired(
        self, ours: Callable[[], float], *references: Callable[[], float]
    ) -> tuple[list[float], list[list[float]]]:
        """Run ours and the references in turn, ``runs`` times; the order turns round every time."""
        sides = [ours, *references]
        found: list[list[float]] = [[] for _ in sides]
        for number in range(self.runs):
            order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
            for side in order:
                found[side].append(sides[side]())
        return found[0], found[1:]


def figure(
    measure: str,
    unit: str,
    values: Sequence[float],
    *,
    reference: str | None = None,
    reference_values: Sequence[float] | None = None,
    target: float | None = None,
    sense: str = "at least",
    note: str = "",
    group: str = "",
) -> Row:
    """Make a row of the values of several runs, and of the reference's in the same runs."""
    row = Row(
        measure,
        unit,
        statistics.median(values),
        min(values),
        max(values),
        reference,
        target=target,
        sense=sense,
        note=note,
        group=group or measure,
    )
    if reference_values:
        row.reference_value = statistics.median(reference_values)
        row.ratio = statistics.median(v / r for v, r in zip(values, reference_values, strict=True))
    judged = row.ratio if reference is not None else row.value
    if target is not None and judged is not None:
        row.holds = judged >= target if sense == "at least" else judged <= target
    return row


_Measure = Callable[[Bench], Iterable[Row]]

MEASURES: dict[str, str] = {
    "tcp": "paths",
    "tcp_reno": "paths",
    "tcp_plain": "paths",
    "switch": "paths",
    "udp": "paths",
    "ping": "paths",
    "hook": "paths",
    "capture": "paths",
    "delay": "paths",
    "hosts": "scale",
    "cables": "scale",
    "lookups": "lookups",
    "startup": "program",
}
"""Measures by name, and the module of each; the function there has the measure's name."""


def run_measures(bench: Bench) -> Iterator[Row]:
    """Run the measures that ``bench.only`` names, or all. Raises ``BenchError`` for a name that is none."""
    unknown = [name for name in bench.only if name not in MEASURES]
    if unknown:
        raise BenchError(f"there is no measure {unknown[0]!r}; there are {', '.join(MEASURES)}")
    for name in bench.only or MEASURES:
        measure: _Measure = getattr(import_module(f".{MEASURES[name]}", __package__), name)
        bench.tell(name)
        yield from measure(bench)
