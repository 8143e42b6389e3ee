"""What the tests share: a lab per test, and who may skip.

Tests under ``tests/pure`` and ``tests/net`` need neither root nor kernel. The
others run on the real one; where something is missing they are skipped with the
reason, unless ``IFLAB_NO_SKIP`` is set, which makes a skip a failure.
"""

from __future__ import annotations

import os
import signal
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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("IFLAB_NO_SKIP"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped although IFLAB_NO_SKIP is set: {reason}"
