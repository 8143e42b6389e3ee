"""Where a command is to write: looked at before it does what takes long."""

from __future__ import annotations

import errno
import os
from pathlib import Path

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
        for wrong, number in ((not file.parent.is_dir(), errno.ENOENT), (file.is_dir(), errno.EISDIR)):
            if wrong:
                raise OSError(number, os.strerror(number), str(file))
        other = taken.setdefault(os.path.realpath(file), option)
        if other != option and (file.is_file() or not file.exists()):
            raise ScenarioError(f"--{other} and --{option} would both write {file}; name another file")
