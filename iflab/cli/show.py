"""Printing: a table for a person at a terminal, plain lines for a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["table"]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; in a pipe, columns apart by two blanks and no frame."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        pretty = Table(*head, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            pretty.add_row(*(str(cell) for cell in row))
        Console().print(pretty)
        return
    texts = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
