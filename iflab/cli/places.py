"""Where a command is to write: looked at before it does what takes long."""

from __future__ import annotations

import os
from pathlib import Path

from iflab.linux import check_place

__all__ = ["check_places"]


def check_places(**files: Path | None) -> None:
    """Refuse files that nobody can write before the run instead of after it, and two that are one.

    Raises ``OSError``, ``ScenarioError``.
    """
    from iflab.scenario import ScenarioError

    taken: dict[str, str] = {}
    for option, file in files.items():
        if file is None:
            continue
        check_place(file)
        other = taken.setdefault(os.path.realpath(file), option)
        if other != option and (file.is_file() or not file.exists()):
            raise ScenarioError(f"--{other} and --{option} would both write {file}; name another file")
