"""The command itself: how long until it says something."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from .core import Bench, Row, figure

__all__ = ["startup"]

HELP_S, IMPORT_S = 0.25, 0.15


def startup(bench: Bench) -> Iterator[Row]:
    """Seconds of a fresh process."""
    for name, code, target in (
        ("iflab --help", "import sys; sys.argv[1:] = ['--help']; from iflab.cli import main; main()", HELP_S),
        ("import iflab", "import iflab", IMPORT_S),
        ("from iflab import Lab", "from iflab import Lab", None),
    ):
        values, _ = bench.paired(partial(_seconds, code))
        yield figure(name, "s", values, target=target, sense="at most", group="start")


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
