"""``iflab run`` and ``iflab shell``."""

from __future__ import annotations

import code
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import HELD_NOT, USAGE
from .places import check_places

if TYPE_CHECKING:
    from iflab.capture import Capture
    from iflab.faults import Record
    from iflab.faults.record import Recorder
    from iflab.scenario import Scenario

__all__ = ["replay_command", "run_command", "shell_command"]


def _printer(to_stderr: bool) -> Callable[[float, str], None]:
    """How a line of the lab's log is shown: seconds since the start, and the text."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=to_stderr)

        def pretty(seconds: float, text: str) -> None:
            console.print(Text.assemble((f"{seconds:8.3f} s  ", "dim"), text), soft_wrap=True)

        return pretty

    def plain(seconds: float, text: str) -> None:
        try:
            print(f"{seconds:8.3f} s  {text}", file=stream, flush=True)
        except BrokenPipeError:  # who read it has gone; the run goes on
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())

    return plain


def _settings(pairs: list[str]) -> dict[str, str]:
    from iflab.scenario import ScenarioError

    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ScenarioError(f"--set {pair!r} sets nothing; write --set name=value")
        settings[name] = value
    return settings


def run_command(
    which: str,
    pairs: list[str],
    pcap: Path | None,
    record: Path | None,
    report: Path | None,
    seed: int | None,
    as_json: bool,
) -> int:
    """Run a scenario, show what happens, and return the exit status.

    With a capture there is a record beside it, its name with ``.record`` behind.
    """
    from iflab.scenario import find_scenario

    record = _beside(pcap, record)
    _check_report(report)
    check_places(pcap=pcap, record=record, report=report)
    scenario = find_scenario(which, watched=report is not None)
    return _run(scenario, _settings(pairs), pcap, record, report, seed, None, as_json)


def replay_command(
    path: Path, pcap: Path | None, again: Path | None, report: Path | None, as_json: bool
) -> int:
    """Run the scenario of a record again, with the same decisions; return the exit status.

    ``again`` is where the replay's own record goes.
    """
    from iflab.faults import Record, RecordError
    from iflab.scenario import find_scenario

    record = Record.read(path)
    which = record.about.get("scenario")
    if not which:
        raise RecordError(
            f"{path} is no record of a scenario; in a program of your own, Lab(replay=path) replays it"
        )
    again = _beside(pcap, again)
    if again is not None and again.exists() and again.samefile(path):
        raise RecordError(
            f"{path} is what is to be replayed, and the replay's own record would take its place; "
            "name another file with --record"
        )
    settings = {str(name): str(value) for name, value in record.about.get("parameters", {}).items()}
    _check_report(report)
    check_places(pcap=pcap, record=again, report=report)
    scenario = find_scenario(str(which), watched=report is not None)
    return _run(scenario, settings, pcap, again, report, None, record, as_json)


def _beside(pcap: Path | None, record: Path | None) -> Path | None:
    """Where the record goes: with a capture and nothing said, beside it, ``.record`` behind its name."""
    return pcap.with_name(pcap.name + ".record") if record is None and pcap is not None else record


def _check_report(report: Path | None) -> None:
    if report is not None:
        from iflab.report import check_libraries

        check_libraries()


def _run(
    scenario: Scenario,
    settings: dict[str, str],
    pcap: Path | None,
    record: Path | None,
    report: Path | None,
    seed: int | None,
    replay: Record | None,
    as_json: bool,
) -> int:
    from iflab.lab import Lab, Terminated
    from iflab.scenario import Outcome, run_scenario

    values = scenario.values(settings)
    show = _printer(to_stderr=as_json)
    logging.getLogger("iflab.lab").setLevel(logging.WARNING)  # its lines are shown already
    show(0.0, f"{scenario.name}: {scenario.purpose}")
    if replay is not None:
        show(0.0, f"replaying {replay.path}: seed {replay.seed}, {replay.decisions} decisions")
        if replay.ended is None:
            show(0.0, f"{replay.path} has no end: its run, or its file, was cut short")
    with Lab(scenario.name, seed=seed, on_log=show, replay=replay) as lab:
        files: list[Capture | Recorder] = []
        if pcap is not None:
            files.append(lab.capture(pcap))
        if record is not None:
            files.append(lab.record(record, scenario=str(scenario.path.resolve()), parameters=values))
        recorder = lab.report() if report is not None else None
        if scenario.watch is not None:
            scenario.watch.begin(lab.elapsed)
        interruption: BaseException | None = None
        try:
            outcome = run_scenario(scenario, lab, values)
        except (KeyboardInterrupt, Terminated) as error:
            interruption = error
            outcome = Outcome(scenario.name, False, lab.elapsed(), lab.seed, values, "interrupted")
        ended = lab.elapsed()
        if recorder is not None:
            recorder.stop()  # before the plugs are pulled
    chosen = "".join(f" --set {name}={value}" for name, value in values.items() if name in settings)
    if recorder is not None and report is not None:
        about = recorder.about
        about.title, about.purpose, about.description = scenario.name, scenario.purpose, scenario.description
        about.command = f"iflab run {scenario.name} --seed {outcome.seed}{chosen}"
        about.parameters = values
        about.held, about.failure, about.details = outcome.held, outcome.failure, outcome.details
        if scenario.watch is not None:
            about.assertions += scenario.watch.result()
    if as_json:
        print(json.dumps(asdict(outcome), indent=2))
    else:
        if outcome.details:
            print(outcome.details, file=sys.stderr)
        if replay is not None:
            show(ended, f"{lab.faults.replayed} of {replay.decisions} decisions were made again")
        failed = outcome.failure if interruption is not None else f"FAILED at {outcome.failure}"
        verdict = "held" if outcome.held else failed
        show(ended, f"{scenario.name}: {verdict}  (--seed {outcome.seed}{chosen})")
    if recorder is not None and report is not None:
        recorder.write(report)  # last, so that a full disk hides no verdict
    if interruption is not None:
        raise interruption
    if not outcome.held:
        return HELD_NOT
    cut_short = [
        file for file in files if file.error is not None and not isinstance(file.error, BrokenPipeError)
    ]
    return USAGE if cut_short else 0  # the log said why


BANNER = """A lab is at hand: lab. For example:
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.ping("192.0.2.2")
    print(bob.run("ip addr").stdout)
Ctrl-D ends it and takes everything down."""


def shell_command(seed: int | None) -> int:
    """Open the prompt; return the exit status."""
    import iflab
    from iflab.lab import Lab

    if sys.stdin.isatty():
        import readline  # noqa: F401 - its import gives the prompt its line editing
    show = _printer(to_stderr=True)
    with Lab(seed=seed, on_log=show) as lab:
        names = {"lab": lab, "iflab": iflab, "Lab": Lab}
        code.interact(banner=BANNER, local=names, exitmsg="")
    return 0
