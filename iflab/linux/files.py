"""Files that are written: where they may be, and those that nobody else may read."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

__all__ = ["check_place", "create_private"]


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise ``OSError`` for a file that cannot be: in no folder, or a folder itself."""
    folder = os.path.dirname(os.fspath(path)) or "."
    for wrong, number in ((not os.path.isdir(folder), errno.ENOENT), (os.path.isdir(path), errno.EISDIR)):
        if wrong:
            raise OSError(number, os.strerror(number), str(path))


def create_private(path: str | os.PathLike[str]) -> int:
    """Open a file to be written anew, for its owner only (0600), and return the descriptor. Raises ``OSError``.

    One that is there already becomes private, too; what is no regular file stays as it is.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # somebody else's, whom we may not tell
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            os.fchmod(fd, 0o600)
    return fd
