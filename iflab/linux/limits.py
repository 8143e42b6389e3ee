"""Limits of the process."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Iterator

from .errors import Missing

__all__ = ["explained", "raise_fd_limit", "too_many_files"]


def too_many_files(error: OSError) -> Missing | None:
    """The limit that an error tells of, and the remedy; None when it is another error."""
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return Missing(
            f"all {limit} open files of this process are in use, a NIC takes one, a host one and three more for programs; "
            "raise the hard limit (ulimit -Hn)"
        )
    if error.errno == errno.ENFILE:
        return Missing("all open files of the machine are in use; raise the sysctl fs.file-max")
    return None


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise ``Missing`` with the remedy where a ``with`` block meets the limit of open files."""
    try:
        yield
    except OSError as error:
        missing = too_many_files(error)
        if missing is None:
            raise
        raise missing from error


def raise_fd_limit() -> int:
    """Raise the limit of open files to the hard limit and return it: each NIC takes one, each host one to four."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
