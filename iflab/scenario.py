"""Scenarios: finding them, reading what they want, running them.

A scenario is a Python file with a function ``scenario(lab, …)``. The first line of
its docstring says what it shows; the parameters after ``lab`` have types and
defaults, and ``--set name=value`` fills them, as it must where one has a type and no
default. What it asserts decides the outcome.

A table ``SCHEDULE`` in the file is begun with the function (``Lab.schedule``)::

    SCHEDULE = [(1.5, "cable0.cut"), (2.5, "cable0.mend")]

A scenario file is code and runs with the rights of whoever runs it; what stands at its
top runs when it is loaded, for ``iflab list`` too.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from iflab.faults import FaultError
from iflab.linux import Missing

if TYPE_CHECKING:
    from iflab.report.assertions import Watch

    from .lab import Lab

__all__ = [
    "Outcome",
    "Parameter",
    "Scenario",
    "ScenarioError",
    "find_scenario",
    "list_scenarios",
    "run_scenario",
]


NO_DEFAULT = inspect.Parameter.empty
"""Of a parameter that must be set."""


class ScenarioError(ValueError):
    """A scenario that is not there, does not load, or has no such parameter; the text says what there is."""


@dataclass(slots=True, frozen=True)
class Parameter:
    """One thing that can be set: its name, type and default (``NO_DEFAULT``: it must be set)."""

    name: str
    kind: type
    default: Any

    def __str__(self) -> str:
        return f"{self.name}={f'<{self.kind.__name__}>' if self.default is NO_DEFAULT else self.default}"

    def parse(self, text: str) -> Any:
        """Read a value. Raises ``ScenarioError`` when it is not of the type."""
        try:
            if self.kind is bool:
                return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                    text.lower()
                ]
            return self.kind(text)
        except (KeyError, ValueError):
            remedy = (
                f"write --set {self}" if self.default is NO_DEFAULT else f"the default is {self.default!r}"
            )
            raise ScenarioError(f"{self.name}={text!r} is no {self.kind.__name__}; {remedy}") from None


@dataclass(slots=True, frozen=True)
class Scenario:
    """A scenario that was loaded."""

    path: Path
    function: Callable[..., Any]
    purpose: str
    description: str
    parameters: dict[str, Parameter]
    watch: Watch | None = None
    """Its assertions, if they are watched."""

    @property
    def name(self) -> str:
        """The file's name without number and ending: ``first_ping``."""
        return short_name(self.path)

    def values(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """The parameters with ``settings`` read in. Raises ``ScenarioError``."""
        for name in settings:
            if name not in self.parameters:
                there = ", ".join(f"{p.name} ({p.kind.__name__})" for p in self.parameters.values()) or "none"
                raise ScenarioError(f"{self.path.name} has no parameter {name!r}; it has {there}")
        for name, parameter in self.parameters.items():
            if parameter.default is NO_DEFAULT and name not in settings:
                raise ScenarioError(f"{self.path.name} needs a value for {name}; write --set {parameter}")
        values = {name: parameter.default for name, parameter in self.parameters.items()}
        return values | {name: self.parameters[name].parse(text) for name, text in settings.items()}


@dataclass(slots=True)
class Outcome:
    """How a run ended: held or not, and if not, where and why."""

    scenario: str
    held: bool
    seconds: float
    seed: int
    values: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    details: str = ""


def short_name(path: Path) -> str:
    """``scenarios/01_first_ping.py`` is ``first_ping``."""
    head, _, rest = path.stem.partition("_")
    return rest if head.isdigit() and rest else path.stem


def _folders() -> list[Path]:
    here = Path(__file__).resolve().parent
    return [Path("scenarios"), here.parent / "scenarios", here / "scenarios"]


def _files() -> Iterator[Path]:
    seen = set()
    for folder in _folders():
        for path in sorted(folder.glob("*.py")):
            if path.stem not in seen and not path.stem.startswith("_"):
                seen.add(path.stem)
                yield path


def find_scenario(which: str, *, watched: bool = False) -> Scenario:
    """Load a scenario by path, file name or short name. Raises ``ScenarioError``.

    ``watched``: so that its assertions can be listed when it has run.
    """
    path = Path(which)
    if path.is_dir():
        raise ScenarioError(
            f"{which} is a folder; a scenario is a file in it, or a name that 'iflab list' shows"
        )
    if not path.is_file():
        matching = [p for p in _files() if which in (p.name, p.stem, short_name(p), p.stem.split("_")[0])]
        if not matching:
            near = difflib.get_close_matches(
                which, [name for p in _files() for name in (short_name(p), p.stem)], 1
            )
            meant = f"did you mean {near[0]}?" if near else "'iflab list' shows those that there are"
            raise ScenarioError(f"there is no scenario {which!r}; {meant}")
        path = matching[0]
    return load(path, watched=watched)


def list_scenarios(unfit: Callable[[ScenarioError], object] = lambda error: None) -> list[Scenario]:
    """All scenarios at hand, in reading order; ``unfit`` is told of those that do not load."""
    found = []
    for path in _files():
        try:
            found.append(load(path))
        except ScenarioError as error:
            unfit(error)
    return found


def load(path: Path, *, watched: bool = False) -> Scenario:
    """Load the scenario in a file. Raises ``ScenarioError``."""
    name, watch = f"iflab_scenario_{path.stem}", None
    if watched and path.suffix == ".py":
        from iflab.report.assertions import WatchingLoader

        loader = WatchingLoader(name, str(path))
        watch = loader.watch
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    else:
        spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ScenarioError(f"{path} is no Python file; a scenario ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # one that exits, too, is a scenario that does not load, and no more
        kind, words, line = type(error).__name__, str(error), None
        if isinstance(error, SyntaxError):
            words, line = error.msg, error.lineno
        elif own := _own_frames(error, path):
            line = own[-1].lineno
        elif "null bytes" in words:  # Python before 3.11.4 calls that a ValueError
            kind = "SyntaxError"
        place = f" (line {line})" if line else ""
        raise ScenarioError(f"{path} does not load: {kind}: {words}{place}") from error
    function = getattr(module, "scenario", None)
    if not callable(function):
        raise ScenarioError(f"{path} has no function scenario(lab, …)")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ScenarioError(f"{path}: scenario() would only be begun; write it without async and yield")
    text = inspect.cleandoc(module.__doc__ or "")
    return Scenario(path, function, text.partition("\n")[0], text, _parameters(path, function), watch)


def _parameters(path: Path, function: Callable[..., Any]) -> dict[str, Parameter]:
    signature = list(inspect.signature(function).parameters.values())
    if not signature:
        raise ScenarioError(f"{path}: scenario() takes no lab; write def scenario(lab, …)")
    try:
        hints = get_type_hints(function)
    except NameError:  # the type of lab need not be imported
        hints = {p.name: p.annotation for p in signature}
    found = {}
    for parameter in signature[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or (
            parameter.default is NO_DEFAULT and parameter.annotation is parameter.empty
        ):
            raise ScenarioError(
                f"{path}: the parameter {parameter.name} has no default; "
                f"give it one, or a type, as {parameter.name}: int, to be set with --set"
            )
        kind = hints.get(parameter.name, type(parameter.default))
        if isinstance(kind, str):
            kind = {"int": int, "float": float, "str": str, "bool": bool}.get(kind, type(parameter.default))
        if kind not in (int, float, str, bool):
            raise ScenarioError(f"{path}: the parameter {parameter.name} is no int, float, str or bool")
        found[parameter.name] = Parameter(parameter.name, kind, parameter.default)
    return found


def run_scenario(scenario: Scenario, lab: Lab, values: Mapping[str, Any]) -> Outcome:
    """Run a scenario in a lab; a failed assertion, or anything else that it raises, makes the outcome.

    So does a call of its schedule that failed. Only ``Missing`` is passed on, the
    machine's fault and not the scenario's, Ctrl-C, SIGTERM and SIGHUP.
    """
    from .lab import Terminated

    began = time.monotonic()
    outcome = Outcome(scenario.name, True, 0.0, lab.seed, dict(values))
    try:
        _begin_schedule(scenario, lab)
        scenario.function(lab, **values)
        if failed := lab.failed_calls:
            outcome.held, outcome.failure = False, f"its schedule: {failed[0]}"
    except (Missing, KeyboardInterrupt, Terminated):
        raise  # no fault of the scenario's
    except ScenarioError as error:
        outcome.held, outcome.failure = False, str(error)
    except BaseException as error:  # one that exits has not come to its end, whatever its status
        outcome.held = False
        outcome.failure, outcome.details = _explain(error, scenario.path)
    outcome.seconds = time.monotonic() - began
    return outcome


def _begin_schedule(scenario: Scenario, lab: Lab) -> None:
    table = getattr(scenario.function, "__globals__", {}).get("SCHEDULE")
    if table is not None:
        try:
            lab.schedule(table)
        except FaultError as error:
            raise ScenarioError(f"SCHEDULE of {scenario.path.name}: {error}") from None


def _own_frames(error: BaseException, path: Path) -> list[traceback.FrameSummary]:
    """Where an error passed through the scenario's own file, the innermost place last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if Path(frame.filename).resolve() == path.resolve()]


def _explain(error: BaseException, path: Path) -> tuple[str, str]:
    from .host import LabError
    from .wire import WireError

    own = _own_frames(error, path)
    where = own[-1] if own else traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name} line {where.lineno}: {where.line}"
    if isinstance(error, AssertionError):
        return f"{place}" + (f"  ({error})" if str(error) else ""), ""
    if own and isinstance(error, (LabError, WireError, FaultError)):
        return (
            f"{place}  {type(error).__name__}: {error}",
            "",
        )  # says all; below the place is the lab's own code
    details = "".join(traceback.format_exception(error))
    return f"{place}  {type(error).__name__}: {error}", details
