"""The command line. Each command parses, calls a function that a program can call too, and prints.

Exit status: 0 done, and what was to be shown held; 1 it did not hold; 2 the
command or its arguments cannot be; 3 the machine lacks something; 128 and its number after a signal (130 Ctrl-C).
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of ``iflab``."""
    from .app import app
    from .errors import explain

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # whoever started us closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the program runs
    try:
        app(prog_name="iflab")
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        status, text = explain(error)
        if status is None:
            raise
        print(f"iflab: {text}", file=sys.stderr)
        sys.exit(status)
