"""``iflab stress``: the run, and its account in words or JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iflab.stress import Result

__all__ = ["stress_command"]

_NIC_COLUMNS = (
    ("taken", "taken"),
    ("injected", "injected"),
    ("queue drops", "queue full"),
    ("lost in queue", "lost in queue"),
    ("flushed", "flushed"),
    ("oerrors", "out errors"),
    ("opackets", "sent"),
    ("delivered", "off the wire"),
    ("filtered", "filtered"),
    ("iqdrops", "not up"),
    ("ierrors", "in errors"),
    ("ipackets", "to the host"),
)


def stress_command(
    duration: float, seed: int | None, threads: int, rest: float, pause: float, as_json: bool
) -> int:
    """Stress, show the account, and return the exit status."""
    import random

    from iflab.stress import stress

    from .errors import HELD_NOT

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    seed = random.randrange(2**32) if seed is None else seed
    result = stress(duration, seed, threads=threads, rest=rest, pause=pause, tell=tell)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2))
    else:
        _show(result)
    return 0 if result.holds else HELD_NOT


def _show(result: Result) -> None:
    from .show import table

    causes = sorted({cause for wire in result.wires for cause in wire["dropped"]})
    table(
        ("wire", "sent", "added", "delivered", *causes, "in flight"),
        [
            (
                wire["wire"],
                wire["sent"],
                wire["added"],
                wire["delivered"],
                *(wire["dropped"].get(cause, 0) for cause in causes),
                wire["in flight"],
            )
            for wire in result.wires
        ],
    )
    print()
    table(
        ("NIC", *(title for _, title in _NIC_COLUMNS)),
        [(name, *(account[key] for key, _ in _NIC_COLUMNS)) for name, account in result.nics.items()],
    )
    print()
    rows: list[tuple[str, Any]] = [
        ("frames on wires", result.frames),
        ("octets", result.octets),
        ("octets through TCP", result.tcp_octets),
        ("changes", f"{sum(result.done.values())}, {sum(result.refused.values())} of them refused"),
        ("NICs that came and went", result.gone),
        ("notices of the kernel lost", result.overflows),
        ("blocked for seconds", "; ".join(result.blockages) or "nobody"),
    ]
    if result.memory:
        rows.append(
            ("memory", f"{result.memory[0]} MiB, at the end {result.memory[-1]}, {result.growth:+.1f}")
        )
    rows += [(f"{what} before, after", f"{one}, {other}") for what, (one, other) in result.left.items()]
    table(("", ""), rows)
    for error in result.errors:
        print(f"\n{error}", file=sys.stderr)
    verdict = (
        "every frame is accounted for, nothing is left" if result.holds else f"{len(result.errors)} ERRORS"
    )
    print(f"\n{verdict}  (--seed {result.seed} --duration {result.duration:g})")
