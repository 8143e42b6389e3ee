"""The rooms import downwards only, and what must be quick to import is."""

import subprocess
import sys

from .conftest import ROOT


def lint(config: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--config", config, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_no_import_points_up():
    done = lint("pyproject.toml")

    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_an_import_that_points_up_is_found(tmp_path):
    """The same linter with the order turned round must complain."""
    config = (ROOT / "pyproject.toml").read_text()
    first, last = '    "cli",\n', '    "linux | net",\n'
    assert first in config
    assert last in config
    upside_down = tmp_path / "pyproject.toml"
    upside_down.write_text(config.replace(first, "@").replace(last, first).replace("@", last))

    done = lint(str(upside_down))

    assert done.returncode == 1
    assert "is not allowed to import iflab.net" in done.stdout


def test_heavy_libraries_wait_until_they_are_used():
    program = "import sys, iflab, iflab.net; print(*[m for m in ('scapy', 'pyroute2', 'typer', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


def test_the_interface_layer_needs_nothing_else_of_iflab():
    program = (
        "import sys, iflab.net; "
        "print(*[m for m in sys.modules if m.startswith('iflab.') and not m.startswith('iflab.net')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
