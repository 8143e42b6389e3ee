"""The stress run, a short one; a long one is done by hand (``iflab stress --duration 1800``)."""

import json
import subprocess
import sys

import pytest

from iflab import Missing
from iflab.stress import Ledger, stress
from iflab.wire import Cable

from ..conftest import ROOT
from ..linux_tools import PATIENCE
from ..wire.ports import Recorder, cabled

PROGRAM = "from iflab.cli import main; main()"


def test_eight_threads_change_a_lab_under_traffic_and_every_frame_is_accounted_for():
    try:
        result = stress(max(4, PATIENCE / 2), seed=11)
    except Missing as error:
        pytest.skip(str(error))

    assert result.errors == []
    assert result.holds
    assert result.frames > 500
    assert result.gone > 5
    assert sum(result.done.values()) > 100
    for wire in result.wires:
        lost = sum(wire["dropped"].values())
        assert wire["sent"] + wire["added"] == wire["delivered"] + lost + wire["in flight"]
    assert result.nics["tcp0:em0"]["kernel tx"] == result.nics["tcp0:em0"]["taken"] > 0


def test_the_command_prints_the_account():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            "stress",
            "--duration",
            str(PATIENCE),
            "--seed",
            "3",
            "--json",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100 * PATIENCE,
    )
    if done.returncode == 3:
        pytest.skip(done.stderr)

    assert done.returncode == 0, done.stdout[-3000:]
    account = json.loads(done.stdout)
    assert account["holds"] is True
    assert account["seed"] == 3
    assert {"wires", "nics", "done", "refused", "left", "memory"} <= set(account)


def test_the_ledger_finds_a_frame_that_nobody_counted():
    """What a cable says it delivered, and what a port received, must be the same."""
    cable, a, b = cabled()
    ledger = Ledger(cable.clock.lock)
    ledger.adopt(cable)
    a.send("one")
    assert ledger.check_wire(cable)["delivered"] == 1
    assert ledger.entry(b).delivered == 1
    assert ledger.errors == []

    cable.ends[a].flow.delivered += 1
    ledger.check_wire(cable)
    cable.ends[a].flow.drop("")
    ledger.check_wire(cable)
    cable.ends[a].flow.drop("unfinished")
    ledger.check_wire(cable)

    assert len(ledger.errors) == 6  # each time one error more
    assert "does not balance" in ledger.errors[0]
    assert "without a cause" in ledger.errors[2]
    assert "the lab itself lost frames (unfinished)" in ledger.errors[5]


def test_the_ledger_follows_plugs():
    cable, a, b = cabled()
    other = Cable(cable.clock, "other")
    ledger = Ledger(cable.clock.lock)
    ledger.adopt(cable)
    ledger.adopt(other)
    a.send("one")
    ledger.unplug(b)
    ledger.plug(other, b)
    stranger = Recorder("s")
    ledger.plug(cable, stranger)
    a.send("two")
    a.send("three")
    ledger.settle(cable)

    assert (ledger.entry(b).delivered, ledger.entry(stranger).delivered) == (1, 2)
