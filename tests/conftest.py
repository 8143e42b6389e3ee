"""What the tests share: a lab per test, and who may skip.

Tests under ``tests/pure`` and ``tests/net`` need neither root nor kernel. The
others run on the real one; where something is missing they are skipped with the
reason, unless ``IFLAB_NO_SKIP`` is set, which makes a skip a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .patience import PATIENCE

if TYPE_CHECKING:
    from iflab import Lab

ROOT = Path(__file__).parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or programs of tests could not be interrupted


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A fresh lab, gone with the test. Where the tests are patient, it waits longer too, for pings, programs and fates."""
    import iflab.capture.capture as captures  # not for the pure tests, which are to take no time
    from iflab import Host, Lab, Missing

    if PATIENCE != 1:
        for method in (Host.ping, Host.run):
            defaults = method.__kwdefaults__
            waits = defaults | {"timeout": defaults["timeout"] * PATIENCE}
            monkeypatch.setattr(method, "__kwdefaults__", waits)
        monkeypatch.setattr(captures, "PATIENCE", captures.PATIENCE * PATIENCE)
    try:
        fresh = Lab()
    except Missing as error:
        pytest.skip(f"no lab runs here: {error}")
    with fresh:
        yield fresh
        if not fresh.closed:
            fresh.check()


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are private."""
    place = Path(tempfile.mkdtemp(prefix="iflab-test-"))
    os.chmod(place, 0o755)
    yield place
    shutil.rmtree(place)


class OrdinaryUser:
    """Somebody without rights, in a folder of her own, with a tun device that may be opened."""

    uid = 65534

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tun = place / "tun"
        os.mknod(self.tun, 0o666 | stat.S_IFCHR, os.makedev(10, 200))
        os.chmod(self.tun, 0o666)
        self.source = ROOT
        """A checkout that she may read."""
        if not all(os.stat(folder).st_mode & 0o005 == 0o005 for folder in (ROOT, *ROOT.parents)):
            self.source = place / "checkout"
            shutil.copytree(ROOT, self.source, ignore=shutil.ignore_patterns(".git", ".venv", ".*cache"))
        os.chown(place, self.uid, self.uid)

    def run(self, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program as she does."""
        return subprocess.run(
            ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", *argv],
            capture_output=True,
            text=True,
            cwd=cwd or self.place,
            env={
                "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
                "IFLAB_TUN": str(self.tun),
                "PYTHONPATH": os.pathsep.join(
                    [str(self.source), *(path for path in sys.path if path.endswith("site-packages"))]
                ),
                "HOME": str(self.place),
                "TMPDIR": str(self.place),
            },
            timeout=60 * PATIENCE,
        )


def interpreter_for_all() -> str:
    """A Python of this version that every user may execute."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        folders = Path(path).parents
        if os.path.exists(path) and all(os.stat(folder).st_mode & 1 for folder in folders):
            words = [path, "-c", "import sys; print(sys.version_info[:2])"]
            if subprocess.run(words, capture_output=True, text=True).stdout.strip() == str(
                sys.version_info[:2]
            ):
                return path
    pytest.skip("no other user may execute this Python")


@pytest.fixture
def ordinary_user(open_place: Path) -> OrdinaryUser:
    """Who can be become by root only."""
    from .linux_tools import REAL_ROOT

    if not REAL_ROOT or not shutil.which("setpriv"):
        pytest.skip(
            "needs the machine's root and setpriv (apt install util-linux), to become an ordinary user"
        )
    return OrdinaryUser(open_place)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("IFLAB_NO_SKIP"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped although IFLAB_NO_SKIP is set: {reason}"
