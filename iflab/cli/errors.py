"""Which exceptions are the user's business: one line and an exit status, no traceback."""

from __future__ import annotations

import errno

__all__ = ["HELD_NOT", "MISSING", "USAGE", "explain"]

HELD_NOT = 1
USAGE = 2
MISSING = 3


_OF_FILES = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
"""What a file system says to a file that somebody asked for."""


def explain(error: Exception) -> tuple[int | None, str]:
    """Return exit status and line for an exception; None when it is a fault of ours and wants its traceback."""
    from iflab.bench.core import BenchError
    from iflab.bsd import CommandError
    from iflab.control import LabBusy, NoSuchLab
    from iflab.faults import FaultError
    from iflab.host import LabError
    from iflab.linux import InvalidName, KernelRefused, Missing
    from iflab.report.recorder import ReportError
    from iflab.scenario import ScenarioError
    from iflab.wire import WireError

    text = str(error)
    if isinstance(error, OSError) and error.errno in _OF_FILES and not isinstance(error, KernelRefused):
        return USAGE, f"{error.filename or 'what was to be written'}: {error.strerror}"
    if isinstance(error, ReportError):
        return MISSING, text
    if isinstance(error, Missing):
        return MISSING, f"{text} ('iflab check' tells all that is missing)"
    if isinstance(
        error,
        (
            ScenarioError,
            LabError,
            WireError,
            FaultError,
            InvalidName,
            NoSuchLab,
            LabBusy,
            CommandError,
            BenchError,
        ),
    ):
        return USAGE, text
    if isinstance(error, (KernelRefused, PermissionError, FileNotFoundError, IsADirectoryError)):
        return USAGE, error.args[1] if isinstance(error, KernelRefused) else text
    return None, text
