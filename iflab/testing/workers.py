"""Workers of xdist for an ordinary user: each begins in a user namespace of its own.

An ordinary user's lab needs one, Linux lets no process with threads enter one, and a
worker has threads before its first test. So it is started by a small program that
enters the namespace and then becomes the worker. Its user is called root from then on, and
has root's rights over her own files and processes, and no others; the machine's network
stays until the first lab begins.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

__all__ = ["asks_for_labs", "begin_inside"]

_PACKAGE = str(Path(__file__).parents[2])
_PROGRAM = (
    "import os, sys\n"
    "sys.path.append(sys.argv[1])\n"
    "try:\n    from iflab.linux import run_inside as become\n"
    "except Exception:\n    become = lambda argv: os.execv(argv[0], argv)\n"  # a Python that has it not
    "become([sys.executable, *sys.argv[2:]])"
)

_LAB = re.compile(rb"\biflab\b|\bdef \w+\([^)]*\blab\b")
"""What a file says in which somebody uses a lab."""

_MOST = 2000
"""Files that are looked into."""

_SETTINGS = ("pyproject.toml", "pytest.ini", "tox.ini", "setup.cfg", "conftest.py")


def begin_inside(specs: Iterable[Any]) -> None:
    """Let these workers (``execnet.XSpec``) begin in a user namespace, as far as they are local processes."""
    for spec in specs:
        if spec.popen:
            python = spec.python or shlex.quote(sys.executable)
            spec.python = f"{python} -c {shlex.quote(_PROGRAM)} {shlex.quote(_PACKAGE)}"


def asks_for_labs(root: Path, args: Iterable[str]) -> bool:
    """True when the settings of the project in ``root``, or the tests that are named, speak of labs."""
    files = (path for path in (*(root / name for name in _SETTINGS), *_tests(args)) if path.is_file())
    return any(_LAB.search(_octets(path)) for path in islice(files, _MOST))


def _tests(args: Iterable[str]) -> Iterator[Path]:
    for arg in args:
        path = Path(arg.partition("::")[0])
        if not path.is_dir():
            yield from (path, path.parent / "conftest.py")
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(
                name for name in folders if name[0] not in "._" and not _is_environment(folder, name)
            )
            yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _is_environment(folder: str, name: str) -> bool:
    """True for a folder with somebody else's packages."""
    return name == "node_modules" or any(
        os.path.exists(os.path.join(folder, name, mark)) for mark in ("pyvenv.cfg", "conda-meta")
    )


def _octets(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
