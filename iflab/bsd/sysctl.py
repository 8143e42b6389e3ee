"""``sysctl``: the settings of the interface layer, in FreeBSD's layout."""

from __future__ import annotations

from collections.abc import Sequence

from iflab.net import Priv, Thread, Vnet

from .command import CommandError, number, reason

__all__ = ["sysctl"]


def sysctl(vnet: Vnet, args: Sequence[str], td: Thread | None = None) -> str:
    """Show settings (``name``, or all), or set them (``name=value``), and return what is printed.

    Raises ``CommandError`` for a name that is none, a value out of range, and
    where the running system may not change it.
    """
    td = td or vnet.thread()
    tree, own = vnet.kernel.sysctl, vnet.kernel.vnet_settings
    lines = []
    for word in args or [*(row.name for row in tree), *own]:
        name, equals, value = word.partition("=")
        if name in own:
            lines.append(_vnet_setting(vnet, td, name, value if equals else None))
            continue
        if name in ("-a", "-d"):
            lines += [
                f"{key}: {row.description if name == '-d' else row.get(vnet)}" for key, row in own.items()
            ]
            lines += [f"{row.name}: {row.description if name == '-d' else row.value}" for row in tree]
            continue
        try:
            old = tree[name]
            if not equals:
                lines.append(f"{name}: {old}")
                continue
            td.priv_check(Priv.SYSCTL_WRITE)
            tree[name] = number("sysctl", value, "number")
        except OSError as error:
            raise CommandError(f"sysctl: {name}: {reason(error)}") from error
        lines.append(f"{name}: {old} -> {tree[name]}")
    return "".join(f"{line}\n" for line in lines)


def _vnet_setting(vnet: Vnet, td: Thread, name: str, value: str | None) -> str:
    setting = vnet.kernel.vnet_settings[name]
    old = setting.get(vnet)
    if value is None:
        return f"{name}: {old}"
    try:
        td.priv_check(Priv.SYSCTL_WRITE)
        setting.put(vnet, number("sysctl", value, "number"))
    except OSError as error:
        raise CommandError(f"sysctl: {name}: {reason(error)}") from error
    return f"{name}: {old} -> {setting.get(vnet)}"
