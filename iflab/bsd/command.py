"""What the commands share: their error, and words for bits."""

from __future__ import annotations

import getopt
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["CommandError", "bits_text", "number", "options", "reason"]

_T = TypeVar("_T")


class CommandError(ValueError):
    """A command that cannot be carried out; the text is one line, as the original prints it."""


def bits_text(value: int, names: Sequence[tuple[int, str]]) -> str:
    """A word of flags as ``8843<UP,BROADCAST,RUNNING>``: in hexadecimal, then the names of the bits that have one."""
    return f"{value:x}<{','.join(name for bit, name in names if value & bit)}>"


def reason(error: OSError) -> str:
    """Why something was refused: errno in words, and what is told besides."""
    words = os.strerror(error.errno or 0)
    more = str(error.args[1]) if len(error.args) > 1 else ""
    return words if not more or more == words else f"{words} ({more})"


def options(command: str, words: Sequence[str], letters: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Read leading options as ``getopt(3)`` does: letters with their values, and the words behind them.

    Raises ``CommandError`` for one that there is not, and for one without its value.
    """
    try:
        found, rest = getopt.getopt(list(words), letters)
    except getopt.GetoptError as error:
        option = f"-{error.opt}"
        if error.opt and len(error.opt) == 1 and f"{error.opt}:" in letters:
            raise CommandError(f"{command}: {option} needs a value") from None
        there = " ".join(f"-{letter}" for letter in letters.replace(":", ""))
        raise CommandError(f"{command}: there is no option {option}; there are {there}") from None
    return [(option[1:], value) for option, value in found], rest


def number(command: str, text: str, what: str, convert: Callable[[str], _T] = lambda t: int(t, 0)) -> _T:  # type: ignore[assignment,return-value]
    """Read a number. Raises ``CommandError`` that names it."""
    try:
        return convert(text)
    except ValueError:
        raise CommandError(f"{command}: {text!r} is no {what}") from None
