"""Which assertions of a scenario were reached, and which held.

A scenario asserts with Python's own ``assert``, which tells nobody when it holds.
``WatchingLoader`` loads the file with a call before and after each, so that a report
can list them all: held, failed, or never reached. Lines, values and errors stay what
they are.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType

from .recording import Assertion

__all__ = ["Watch", "WatchingLoader"]

_REACHED, _HELD = "__iflab_reached__", "__iflab_held__"


@dataclass(slots=True)
class _Count:
    reached: int = 0
    held: int = 0
    time: float | None = None


class Watch:
    """The assertions of one file. ``clock`` says how many seconds the run has lasted."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._lines: list[Assertion] = []
        self._counts: list[_Count] = []

    def add(self, text: str, line: int) -> int:
        """One more assertion in the file; return its number."""
        self._lines.append(Assertion(text, None, line=line, times=0))
        self._counts.append(_Count())
        return len(self._lines) - 1

    def begin(self, clock: Callable[[], float]) -> None:
        """A run begins: nothing was reached yet."""
        self.clock = clock
        self._counts = [_Count() for _ in self._lines]

    def reached(self, number: int) -> None:
        """Called before an assertion."""
        count = self._counts[number]
        count.reached += 1
        count.time = self.clock()

    def held(self, number: int) -> None:
        """Called after an assertion."""
        self._counts[number].held += 1

    def result(self) -> list[Assertion]:
        """Every assertion in the order of the file; one that failed even once did not hold."""
        return [
            replace(
                line,
                held=None if not count.reached else count.held == count.reached,
                time=count.time,
                times=count.reached,
            )
            for line, count in zip(self._lines, self._counts, strict=True)
        ]


class _Insert(ast.NodeTransformer):
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        number = self.watch.add(ast.unparse(node.test), node.lineno)

        def call(name: str) -> ast.stmt:
            function = ast.Name(name, ast.Load())
            return ast.copy_location(ast.Expr(ast.Call(function, [ast.Constant(number)], [])), node)

        return [call(_REACHED), node, call(_HELD)]


class WatchingLoader(SourceFileLoader):
    """Loads a Python file and watches its assertions; nothing is cached on disk."""

    def __init__(self, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.watch = Watch()

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file with the calls in it."""
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        tree = ast.fix_missing_locations(_Insert(self.watch).visit(tree))
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Run the file."""
        setattr(module, _REACHED, self.watch.reached)
        setattr(module, _HELD, self.watch.held)
        super().exec_module(module)
