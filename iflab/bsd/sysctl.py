"""``sysctl``: the settings of the interface layer, in FreeBSD's layout (sysctl(8)).

::

    sysctl [-deNn] name[=value] ...
    sysctl [-deNn] -a

A name that is none of a setting stands for all below it: ``sysctl net.link``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iflab.net import Priv, Thread, Vnet

from .command import CommandError, number, options, reason

__all__ = ["sysctl"]


@dataclass(slots=True)
class _Setting:
    """A setting of the kernel or of the vnet alike."""

    description: str
    get: Callable[[], int]
    put: Callable[[int], None]


def sysctl(vnet: Vnet, args: Sequence[str], td: Thread | None = None) -> str:
    """Show settings (``name``, or all), or set them (``name=value``), and return what is printed.

    Raises ``CommandError`` for a name that is none, a value out of range, and
    where the running system may not change it.
    """
    td = td or vnet.thread()
    found, words = options("sysctl", args, "adeNn")
    modes = {letter for letter, _ in found}
    there = _settings(vnet)
    lines = []
    for word in words if words and "a" not in modes else [""]:
        name, equals, value = word.partition("=")
        below = [each for each in there if each == name or each.startswith(f"{name}." if name else "")]
        if not below:
            raise CommandError(f"sysctl: unknown oid '{name}'; there are {', '.join(there)}")
        if equals:
            lines.append(_set(there, name, value, td, modes))
        else:
            lines += [_line(each, there[each], modes) for each in below]
    return "".join(f"{line}\n" for line in lines)


def _settings(vnet: Vnet) -> dict[str, _Setting]:
    tree = vnet.kernel.sysctl
    found = {
        row.name: _Setting(
            row.description,
            lambda name=row.name: tree[name],  # type: ignore[misc]
            lambda value, name=row.name: tree.__setitem__(name, value),  # type: ignore[misc]
        )
        for row in tree
    }
    for name, each in vnet.kernel.vnet_settings.items():
        found[name] = _Setting(
            each.description,
            lambda each=each: each.get(vnet),  # type: ignore[misc]
            lambda value, each=each: each.put(vnet, value),  # type: ignore[misc]
        )
    return dict(sorted(found.items()))


def _line(name: str, setting: _Setting, modes: set[str]) -> str:
    if "N" in modes:
        return name
    text = setting.description if "d" in modes else str(setting.get())
    return text if "n" in modes else f"{name}{'=' if 'e' in modes else ': '}{text}"


def _set(there: dict[str, _Setting], name: str, value: str, td: Thread, modes: set[str]) -> str:
    setting = there.get(name)
    if setting is None:
        raise CommandError(f"sysctl: {name} is no setting, but stands for several")
    old = setting.get()
    try:
        td.priv_check(Priv.SYSCTL_WRITE)
        setting.put(number("sysctl", value, "number"))
    except OSError as error:
        raise CommandError(f"sysctl: {name}: {reason(error)}") from error
    change = f"{old} -> {setting.get()}"
    return change if "n" in modes else f"{name}: {change}"
