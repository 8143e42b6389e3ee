"""How the delays of frames scatter: what netem calls a delay's distribution.

A distribution here has no unit. ``Uniform``, ``Normal`` and ``Pareto`` and tables
in the format of ``tc`` (``Table``) are scaled by the jitter, and added to the delay,
as in ``netem`` (net/sched/sch_netem.c, ``tabledist``)::

    delay + jitter * x

``Measured`` are delays in seconds as somebody measured them; they are added to the
delay as they are, and the jitter has no say.

Each answers ``at(u)``: the value below which a share ``u`` of all values lies. A
uniform ``u`` makes of that a value of the distribution.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar

from .errors import FaultError

__all__ = ["Distribution", "Measured", "Normal", "Pareto", "Table", "Uniform", "distribution"]

TABLE_FACTOR = 8192
"""What one standard deviation is in a table of ``tc`` (``NETEM_DIST_SCALE``)."""

TABLE_MOST = 16384
"""Values in a table of ``tc`` (``NETEM_DIST_MAX``); netem takes no more."""

_LOWEST = 2.0**-54
_STANDARD = NormalDist()


@dataclass(frozen=True, slots=True)
class Distribution(ABC):
    """Base of all."""

    in_seconds: ClassVar[bool] = False
    """True: the values are seconds, and no jitter scales them."""

    @abstractmethod
    def at(self, u: float) -> float:
        """The quantile at ``u``, which is in [0, 1)."""

    def __str__(self) -> str:
        """Its name, as ``Delay`` takes it."""
        return type(self).__name__.lower()

    def as_dict(self) -> dict[str, Any]:
        """What a record keeps of it; ``distribution`` reads it again."""
        return {"kind": type(self).__name__.lower()}


@dataclass(frozen=True, slots=True)
class Uniform(Distribution):
    """Evenly from -1 to 1: the delay lies within the jitter. netem's own when it has no table."""

    def at(self, u: float) -> float:
        """The quantile."""
        return 2 * u - 1


@dataclass(frozen=True, slots=True)
class Normal(Distribution):
    """The normal distribution: the jitter is the standard deviation. netem's table ends at 4 of them; so do these."""

    def at(self, u: float) -> float:
        """The quantile."""
        return min(4.0, max(-4.0, _STANDARD.inv_cdf(min(max(u, _LOWEST), 1 - _LOWEST))))


@dataclass(frozen=True, slots=True)
class Pareto(Distribution):
    """A long tail to the right: Pareto's distribution of shape 3, as in ``pareto.dist`` of iproute2.

    Moved to a mean of 0 and stretched by 4/3: ``(v**(-1/3) - 3/2) * 4/3`` for a
    uniform ``v``. As in the table the tail ends at 4, which takes one value in ninety
    in, and the mean to -0.033.
    """

    def at(self, u: float) -> float:
        """The quantile."""
        return min(4.0, (math.pow(1 - u, -1 / 3) - 1.5) * 4 / 3)


@dataclass(frozen=True, slots=True)
class _Listed(Distribution):
    values: tuple[float, ...] = field(repr=False)

    def __str__(self) -> str:
        """What it is, and of how many values."""
        return f"{type(self).__name__} of {len(self.values)} values"

    def at(self, u: float) -> float:
        """The quantile: one of the values, each as likely as the others."""
        return self.values[int(u * len(self.values))]

    def as_dict(self) -> dict[str, Any]:
        """What a record keeps of it: every value, for the file may be gone when the record is read."""
        return {"kind": type(self).__name__.lower(), "values": list(self.values)}


@dataclass(frozen=True, slots=True)
class Table(_Listed):
    """A table as ``tc qdisc … netem … distribution NAME`` reads it, in standard deviations."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Table:
        """Read a ``.dist`` file: whole numbers, 8192 for one standard deviation; ``#`` begins a comment.

        Raises ``FaultError`` for what is no table, ``OSError``.
        """
        values = _numbers(path)
        if len(values) > TABLE_MOST:
            raise FaultError(f"{path} has {len(values)} values; a table of tc has {TABLE_MOST} at most")
        if any(value != int(value) or abs(value) > 32768 for value in values):
            raise FaultError(
                f"{path} holds something else than whole numbers of 16 bits; read measured seconds with Measured.read"
            )
        return cls(tuple(sorted(value / TABLE_FACTOR for value in values)))


@dataclass(frozen=True, slots=True)
class Measured(_Listed):
    """Delays that were measured, in seconds, each as likely as the others."""

    in_seconds: ClassVar[bool] = True

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Measured:
        """Take these. Raises ``FaultError`` for none, and for one that is no duration."""
        values = tuple(sorted(float(value) for value in seconds))
        if not values:
            raise FaultError("a measured distribution of no values; give at least one delay in seconds")
        if not (values[0] >= 0 and values[-1] < math.inf):
            raise FaultError(
                f"measured delays from {values[0]} to {values[-1]} s; a delay is 0 or more seconds"
            )
        return cls(values)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Measured:
        """Read a text file of seconds, set apart by blanks or lines; ``#`` begins a comment.

        Raises ``FaultError`` for what is none, ``OSError``.
        """
        return cls.of(_numbers(path))


_NAMED = {"uniform": Uniform(), "normal": Normal(), "pareto": Pareto()}


def distribution(what: Distribution | str | dict[str, Any]) -> Distribution:
    """The distribution of a name, or of what a record keeps. Raises ``FaultError``."""
    if isinstance(what, Distribution):
        return what
    if isinstance(what, dict):
        listed = {"table": Table, "measured": Measured}.get(what.get("kind", ""))
        if listed is not None:
            return listed(tuple(what["values"]))
        what = str(what.get("kind"))
    found = _NAMED.get(what)
    if found is None:
        raise FaultError(
            f"{what!r} is no distribution; use {', '.join(_NAMED)}, Table.read(path) or Measured.read(path)"
        )
    return found


def _numbers(path: str | os.PathLike[str]) -> list[float]:
    words: list[str] = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        words += line.partition("#")[0].split()
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise FaultError(f"{path} holds something that is no number: {error}") from None
    if not values or not all(map(math.isfinite, values)):
        raise FaultError(f"{path} holds no values, or infinite ones")
    return values
