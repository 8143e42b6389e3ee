"""The pytest plug-in: a fresh lab per test, and what is kept of it when the test fails.

Fixtures ``lab`` and ``iflab_params``; the marker ``iflab(seed=, capture=, check=)``;
options ``--iflab-seed``, ``--iflab-slow``, ``--iflab-capture``, ``--iflab-require``; the
setting ``iflab_user_namespace``, for an ordinary user's workers (``workers.py``).
Nothing of iflab is imported before a test asks for a lab.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from iflab import Lab

__all__ = ["iflab_params", "lab"]

_LAB = pytest.StashKey["_Kept"]()
_STATUS = pytest.StashKey[int]()
_CAPTURES = ("failed", "always", "never")

LAST = 5000
"""Events that the ladder is made of."""


class _Kept:
    """What is kept of a test's lab."""

    def __init__(self, lab: Lab, folder: Path, capture: str, check: bool) -> None:
        self.lab = lab
        self.folder = folder
        self.capture_mode = capture
        self.check = check
        self.events: list[str] = []
        self.capture: Any = None
        if capture != "never":
            folder.mkdir(parents=True, exist_ok=True)
            self.capture = lab.capture(folder / "lab.pcapng", whole=True)
        self.report = lab.report() if _can_report() else None
        self._told = lab.on_log
        lab.on_log = self._tell
        lab.watch()
        self.written: list[Path] = []

    def _tell(self, seconds: float, text: str) -> None:
        self.events.append(f"{seconds:9.3f} s  {text}")
        if self._told is not None:  # somebody's own, by iflab_params
            self._told(seconds, text)

    def write(self, failure: str) -> list[Path]:
        """Write capture, ladder, events and report unless that is done, and return their paths."""
        from iflab.expect import ladder

        if self.written:
            return self.written
        self.folder.mkdir(parents=True, exist_ok=True)
        found = []
        if self.capture is not None:
            self.capture.close()
            found.append(self.folder / "lab.pcapng")
        expectations = self.lab.watch()
        history = expectations.history
        for name, text in (
            ("ladder.txt", ladder(history.events(history.now - LAST), expectations.began)),
            ("events.txt", "".join(f"{line}\n" for line in self.events)),
        ):
            path = self.folder / name
            path.write_text(text)
            found.append(path)
        if self.report is not None:
            self.report.about.held, self.report.about.failure = False, failure
            self.report.write(self.folder / "report.html")
            found.append(self.folder / "report.html")
        self.written = found
        return found

    def drop(self) -> None:
        """The test has passed."""
        if self.capture is not None:
            self.capture.close()
            if self.capture_mode != "always":
                (self.folder / "lab.pcapng").unlink(missing_ok=True)
                if not any(self.folder.iterdir()):
                    self.folder.rmdir()


def _can_report() -> bool:
    from iflab.report import ReportError, check_libraries

    try:
        check_libraries()
    except ReportError:
        return False
    return True


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the command line."""
    group = parser.getgroup("iflab", "network labs")
    group.addoption("--iflab-seed", type=int, metavar="N", help="Decides every random choice of every lab.")
    group.addoption(
        "--iflab-slow",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="Multiplies the time that expectations and wait_ready wait, for a slow machine.",
    )
    group.addoption(
        "--iflab-capture",
        choices=_CAPTURES,
        default="failed",
        help="When the capture of a test's lab is kept (default: failed).",
    )
    parser.addini(
        "iflab_user_namespace",
        "Let xdist's workers begin in a user namespace, which labs need without root "
        "(default: where the project speaks of labs).",
        type="bool",
        default=None,
    )
    group.addoption(
        "--iflab-require",
        action="store_true",
        help="Fail tests where no lab can run, instead of skipping them.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell of the marker; refuse options that mean nothing."""
    config.addinivalue_line(
        "markers",
        "iflab(seed=None, capture='failed', check=True): the lab of this test: its seed; when its capture is kept "
        "(failed, always, never); whether at the end every NIC is compared with the kernel's account, and a call of "
        "lab.at that failed fails the test",
    )
    if config.getoption("--iflab-slow") <= 0:
        raise pytest.UsageError("--iflab-slow is a factor above 0")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the folder for ``tmp_path`` now: who enters a user namespace is called root, and root's may be another's."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if os.geteuid() and factory is not None:
        factory.getbasetemp()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """An ordinary user's workers begin in a user namespace, if somebody asks for labs."""
    from .workers import asks_for_labs, begin_inside

    wanted = config.getini("iflab_user_namespace")
    if os.geteuid() and (asks_for_labs(config.rootpath, config.args) if wanted is None else wanted):
        begin_inside(specs)


def _signal(error: BaseException | None) -> int:
    """The exit status of a signal that ended a program with a lab; 0 for what is none."""
    errors = sys.modules.get("iflab.net.errors")
    while errors is not None and error is not None:
        if isinstance(error, errors.Terminated) and isinstance(error.code, int):
            return error.code
        error = error.__cause__ or error.__context__  # something failed because of it
    return 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End as programs do that a signal ends."""
    if status := session.config.stash.get(_STATUS, 0):
        session.exitstatus = status


_WORDS = {"seed", "capture", "check"}


def _marked(item: pytest.Item) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("iflab"))):  # the nearest has the last word
        if marker.args or set(marker.kwargs) - _WORDS:
            wrong = ", ".join([*map(repr, marker.args), *sorted(set(marker.kwargs) - _WORDS)])
            raise pytest.UsageError(
                f"{item.nodeid}: @pytest.mark.iflab takes {', '.join(sorted(_WORDS))}, not {wrong}"
            )
        found |= marker.kwargs
    if isinstance(found.get("capture"), bool):
        found["capture"] = "always" if found["capture"] else "never"
    if found.get("capture", "failed") not in _CAPTURES:
        raise pytest.UsageError(
            f"{item.nodeid}: capture is one of {', '.join(_CAPTURES)}, not {found['capture']!r}"
        )
    return found


@pytest.fixture
def iflab_params(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments for the test's ``Lab``; override it for labs of your own kind."""
    seed = _marked(request.node).get("seed")
    return {"seed": seed if seed is not None else request.config.getoption("--iflab-seed")}


@pytest.fixture
def lab(request: pytest.FixtureRequest, iflab_params: dict[str, Any], tmp_path: Path) -> Iterator[Lab]:
    """A fresh lab, gone with the test.

    At its end every frame must be accounted for, and every NIC agree with the kernel.
    """
    from iflab import Lab, Missing

    marked = _marked(request.node)
    config = request.config
    try:
        fresh = Lab(**iflab_params)
    except Missing as error:
        if config.getoption("--iflab-require"):
            raise
        raise _no_lab(config, error) from None
    with fresh:
        fresh.patience = config.getoption("--iflab-slow")
        kept = _Kept(
            fresh,
            tmp_path / "iflab",
            marked.get("capture", config.getoption("--iflab-capture")),
            marked.get("check", True),
        )
        request.node.stash[_LAB] = kept
        if kept.report is not None:
            kept.report.about.title = request.node.name
        yield fresh
        try:
            _at_the_end(kept)
        except BaseException as error:
            if _LAB in request.node.stash:
                with contextlib.suppress(OSError):  # the report of the failure tells of it
                    kept.write(f"{type(error).__name__}: {error}")
            raise
        if _LAB in request.node.stash:
            kept.drop()
            del request.node.stash[_LAB]


def _no_lab(config: pytest.Config, error: Exception) -> BaseException:
    """What a test comes to where no lab can run: it is skipped; it fails where the settings alone are the reason."""
    from iflab.linux.userns import WHY_NOT

    if hasattr(config, "workerinput") and os.geteuid() and WHY_NOT not in os.environ:
        text = f"no lab runs in this worker of xdist: {error}; or set iflab_user_namespace = true in pytest's settings"
        return pytest.fail.Exception(text, pytrace=False)
    return pytest.skip.Exception(f"no lab runs here: {error}")


def _at_the_end(kept: _Kept) -> None:
    """Every frame is accounted for, and every NIC agrees with the kernel."""
    wrong = kept.lab.unaccounted()
    if wrong:
        pytest.fail("frames that are not accounted for:\n  " + "\n  ".join(wrong), pytrace=False)
    if kept.check and kept.lab.failed_calls:
        pytest.fail(
            "calls that failed at their time:\n  " + "\n  ".join(kept.lab.failed_calls), pytrace=False
        )
    if kept.check and not kept.lab.closed:
        kept.lab.check()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Keep what a failed test's lab has seen, and name it in the failure."""
    outcome = yield
    report = outcome.get_result()
    if status := _signal(call.excinfo.value if call.excinfo is not None else None):
        item.config.stash[_STATUS] = status
        item.session.shouldstop = f"ended by signal {status - 128}"  # the run, not only this test
        return
    kept = item.stash.get(_LAB, None)
    if kept is None or not report.failed:
        return
    del item.stash[_LAB]
    try:
        paths = kept.write(call.excinfo.exconly() if call.excinfo is not None else "")
    except Exception as error:  # a full disk must not hide why the test failed
        report.sections.append(("iflab", f"nothing could be kept of the lab: {error}"))
        return
    lines = [f"the lab {kept.lab.name}, seed {kept.lab.seed} (--iflab-seed={kept.lab.seed}), left:"]
    here = Path.cwd()
    lines += [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in paths]
    report.sections.append(("iflab", "\n".join(lines)))
