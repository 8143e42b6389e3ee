"""The bench: what it prints, and what its exit status says. What it measures is its own business."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from iflab.bench import Bench, run_measures
from iflab.bench.core import MEASURES, BenchError, Missing, figure

from ..patience import PATIENCE

FIELDS = {"measure", "unit", "value", "reference", "reference_value", "ratio", "target", "holds"}


def iflab(*words):
    return subprocess.run(
        [sys.executable, "-c", "from iflab.cli import main; main()", "bench", *words],
        capture_output=True,
        text=True,
        timeout=110 * PATIENCE,
    )


def test_a_measure_as_json():
    done = iflab("--only", "ping", "--only", "startup", "--quick", "--runs", "1", "--json")

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert all(set(row) >= FIELDS for row in rows)
    (ping,) = (row for row in rows if row["measure"] == "ping")
    assert (ping["unit"], ping["target"]) == ("µs", 1.3)
    if ping["reference_value"] is not None:
        assert ping["ratio"] == pytest.approx(ping["value"] / ping["reference_value"])
        assert ping["holds"] is (ping["ratio"] <= ping["target"])


def test_the_table_names_every_figure():
    done = iflab("--only", "delay", "--quick", "--runs", "1")

    assert done.returncode == 0, done.stderr
    assert "cable of 2 ms, median error" in done.stdout
    assert "cable of 2 ms, 99th percentile" in done.stdout
    assert done.stderr == ""


def test_an_unknown_measure():
    done = iflab("--only", "warp")

    assert done.returncode == 2
    assert done.stderr == f"iflab: there is no measure 'warp'; there are {', '.join(MEASURES)}\n"


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'iflab[bench]'")
    done = iflab("--only", "delay", "--quick", "--runs", "1", "--plot", str(tmp_path / "b.png"))

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("values", "target", "sense", "holds"),
    [([3, 1, 2], 2, "at least", True), ([3, 1, 2], 2.5, "at least", False), ([3, 1, 2], 1, "at most", False)],
)
def test_a_value_is_the_median_and_is_judged_by_the_target(values, target, sense, holds):
    row = figure("m", "u", values, target=target, sense=sense)

    assert (row.value, row.low, row.high, row.holds) == (2, 1, 3, holds)


def test_a_ratio_is_the_median_of_the_pairs():
    row = figure("m", "u", [1.0, 10.0, 100.0], reference="r", reference_values=[2.0, 10.0, 50.0], target=1.0)

    assert row.ratio == 1.0
    assert row.holds is True


def test_pairs_are_run_in_turn():
    order = []
    Bench(runs=2).paired(lambda: order.append("us") or 1.0, lambda: order.append("them") or 1.0)

    assert order == ["us", "them", "them", "us"]


def test_without_a_reference_nothing_is_judged():
    """A program that is not on the machine is named, and its row neither holds nor fails."""
    from iflab.bench import paths

    def missing(*_, **__):
        raise Missing("vde_switch (apt install vde2)")

    bed = paths._against(
        Bench(runs=1),
        "TCP",
        "Gbit/s",
        _Fake,
        lambda bed, _: 2.0,
        [("vde_switch", missing, 15), ("us", _Fake, 1)],
    )

    rows = {row.reference: row for row in bed}

    assert rows["us"].holds is True
    assert rows["vde_switch"].holds is None
    assert rows["vde_switch"].value == 2.0
    assert "apt install vde2" in rows["vde_switch"].note


class _Fake:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing to undo."""

    def close(self):
        """Nothing to undo."""


@pytest.mark.parametrize(("target", "status"), [(0.0, 0), (1e9, 1)])
def test_check_makes_a_missed_target_an_exit_status(monkeypatch, capsys, target, status):
    from iflab.bench import program
    from iflab.cli.bench import bench_command

    monkeypatch.setattr(
        program, "startup", lambda bench: iter([figure("start", "s", [1.0], target=target, sense="at least")])
    )

    assert bench_command(["startup"], True, False, True, None, 1) == status
    assert bench_command(["startup"], True, False, False, None, 1) == 0
    assert "start" in capsys.readouterr().out


def test_a_wrong_name_is_told_before_anything_runs():
    with pytest.raises(BenchError):
        next(run_measures(Bench(only=["startup", "nothing"])))
