"""What the commands share: their error, how their words are given, and words for bits."""

from __future__ import annotations

import getopt
import os
import shlex
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

__all__ = ["CommandError", "Words", "as_words", "bits_text", "number", "options", "reason"]

_T = TypeVar("_T")

Words: TypeAlias = str | int | Sequence[str | int]
"""A word of a command, several in one text, or a list of them."""


class CommandError(ValueError):
    """A command that cannot be carried out; the text is one line, as the original prints it."""


def as_words(command: str, given: Sequence[Words]) -> list[str]:
    """Words as they are given: one text is split as a shell splits it, one list holds them. Raises ``CommandError``."""
    alone = given[0] if len(given) == 1 else None
    words = alone if isinstance(alone, (list, tuple)) else given
    for word in words:
        if not isinstance(word, (str, int)):
            raise CommandError(f"{command}: {word!r} is no word of a command; write it as a text")
    if not isinstance(alone, str):
        return [str(word) for word in words]
    try:
        return shlex.split(alone)
    except ValueError as error:
        raise CommandError(f"{command}: {alone!r}: {str(error).lower()}") from None


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
