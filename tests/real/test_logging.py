"""The tree of loggers ``iflab.*``: quiet by default, and what the interface layer says in it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

from tests.linux_tools import PATIENCE, eventually


def test_the_interface_layers_messages_are_the_kernels(lab, caplog):
    caplog.set_level(logging.INFO, "iflab")
    _, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    cable.cut()

    wanted = ["em0: link state changed to UP"] * 2 + ["em0: link state changed to DOWN"] * 2
    eventually(lambda: [r.getMessage() for r in caplog.records if r.name == "iflab.kernel"] == wanted)
    assert any(
        record.name == "iflab.lab" and "cable0: cut" in record.getMessage() for record in caplog.records
    )


def test_every_logger_is_in_the_tree_and_silent_unless_asked():
    code = (
        "import logging\nfrom iflab import Lab\n"
        "with Lab() as lab:\n"
        "    alice, bob, cable = lab.pair('192.0.2.1/24', '192.0.2.2/24')\n"
        "    cable.cut(); cable.mend(); alice.ping('192.0.2.2')\n"
        "ours = [n for n in logging.root.manager.loggerDict if n.startswith('iflab')]\n"
        "assert all(n == 'iflab' or n.startswith('iflab.') for n in ours), ours\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60 * PATIENCE)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SCENARIO = '''"""A cable that loses all."""
from iflab.faults import Loss

def scenario(lab):
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    cable.impair(Loss(1.0))
    assert alice.ping("192.0.2.2", timeout=0.1).received == 0
    alice.run("true")
'''


def test_v_and_vv(tmp_path):
    (tmp_path / "lossy.py").write_text(SCENARIO)

    def run(*words):
        command = [
            sys.executable,
            "-c",
            "from iflab.cli import main; main()",
            *words,
            "run",
            str(tmp_path / "lossy.py"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120 * PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    assert run() == ""
    told, everything = run("-v"), run("-vv")
    assert "INFO iflab.kernel: em0: link state changed to UP" in told
    assert "DEBUG" not in told
    for line in (
        "INFO iflab.kernel: em0: link state changed to UP",
        "DEBUG iflab.net: alice: SIOCSIFFLAGS em0",
        "is /bin/sh -c true",
        "DEBUG iflab.linux: alice: asked the kernel for address 192.0.2.1/24",
    ):
        assert line in everything
    assert re.search("DEBUG iflab.faults: cable0, alice:em0 to bob:em0, frame \\d+: lost: loss", everything)
