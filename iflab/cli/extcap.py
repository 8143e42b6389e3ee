"""Wireshark's start page lists the NICs and wires of running labs: its extcap interface (extcap(4)).

Wireshark runs the installed script with ``--extcap-interfaces`` and the like, and
for a capture with ``--capture --fifo``, from which it reads pcapng.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["extcap_command", "install"]

_PREFIX = "iflab"
_SEPARATOR = "@"
"""Between prefix, lab and place; none of them holds it."""


def install(folder: Path | None) -> Path:
    """Put the script where Wireshark looks, and return its path; of another ``folder`` the last part may be made.

    Raises ``LabError`` when nothing can be put there.
    """
    from iflab.host import LabError

    if folder is not None and not folder.absolute().parent.is_dir():
        raise LabError(
            f"{folder} cannot be made: there is no folder {folder.parent}; make it first, or name another"
        )
    folder = folder or _folder()
    path = folder / "iflab"
    program = f"{shlex.quote(sys.executable)} -c 'from iflab.cli import main; main()'"
    text = f'#!/bin/sh\n# NICs and wires of running labs, for Wireshark.\nexec {program} extcap "$@"\n'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    except FileExistsError:
        raise LabError(f"{folder} is no folder; name one with --dir DIR") from None
    except PermissionError:
        raise LabError(
            f"{folder} is not yours to write; run this as root, or give --dir DIR ('tshark -G folders' names folders)"
        ) from None
    return path


def _folder() -> Path:
    """The folder that Wireshark itself names: the person's own, or (before 4.2) the only one."""
    try:
        out = subprocess.run(["tshark", "-G", "folders"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        out = ""
    named = {
        name.strip().lower(): path.strip()
        for name, _, path in (line.partition(":") for line in out.splitlines())
    }
    found = named.get("personal extcap path") or named.get("extcap path")
    return Path(found) if found else Path.home() / ".local/lib/wireshark/extcap"


def extcap_command(words: list[str]) -> int:
    """Answer Wireshark."""
    parser = argparse.ArgumentParser(prog="iflab extcap", add_help=False, allow_abbrev=False)
    for flag in ("interfaces", "dlts", "config"):
        parser.add_argument(f"--extcap-{flag}", action="store_true")
    for option in ("interface", "version", "capture-filter", "reload-option"):
        parser.add_argument(f"--extcap-{option}", nargs="?")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--fifo")
    asked, _ = parser.parse_known_args(words)
    if asked.extcap_interfaces:
        _interfaces()
    elif asked.capture:
        return _capture(asked)
    elif asked.extcap_dlts:
        print("dlt {number=1}{name=EN10MB}{display=Ethernet}")
    elif asked.extcap_config:
        pass  # there is nothing to choose
    elif asked.extcap_capture_filter:
        from iflab.bpf import FilterError, compile_filter

        try:
            compile_filter(asked.extcap_capture_filter)
        except FilterError as error:
            print(str(error).splitlines()[0])
    return 0


def _interfaces() -> None:
    from iflab import __version__
    from iflab.control import find_labs, full_name

    print(f"extcap {{version={__version__}}}{{display=iflab}}")
    for lab, _ in find_labs():
        owners = {**lab["hosts"], **lab.get("switches", {})}
        nics = [f"{owner}:{nic}" for owner, nics in owners.items() for nic in nics]
        for place in [*nics, *lab["wires"], "all"]:
            name = _SEPARATOR.join((_PREFIX, full_name(lab), place))
            print(f"interface {{value={name}}}{{display={lab['name']} {place} (iflab)}}")


def _capture(asked: Any) -> int:
    from .watch import sniff_command

    prefix, lab, place = [*(asked.extcap_interface or "").split(_SEPARATOR), "", ""][:3]
    if prefix != _PREFIX or not place or not asked.fifo:
        print(f"iflab extcap: no NIC or wire of a lab: {asked.extcap_interface!r}", file=sys.stderr)
        return 2
    words = [asked.extcap_capture_filter] if asked.extcap_capture_filter else []
    return sniff_command(lab, [] if place == "all" else [place], words, asked.fifo, None, None)
