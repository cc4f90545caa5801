"""`compare` from folders to files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache.core.errors import ConfigError, RunError
from kdcache.report import Comparison, compare
from tests.report.conftest import HARD, Configuration


@pytest.fixture(scope="module")
def comparison(grid, tmp_path_factory) -> Comparison:
    return compare([grid], out=tmp_path_factory.mktemp("out") / "deep" / "report", resamples=300)


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_writes_the_report_figures_and_numbers(comparison):
    out = comparison.out
    assert comparison.report == out / "report.html"
    written = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert written >= {
        "choices.csv",
        "compare.json",
        "figures/choices-f1_binary.png",
        "figures/choices-f1_binary.svg",
        "figures/gain-1.png",
        "figures/gain-1.svg",
        "report.html",
        "results.csv",
    }
    assert {name.removesuffix(".csv") for name in written if name.endswith(".csv")} == {
        "across",
        "calibration",
        "candidates",
        "cases",
        "choices",
        "deciles",
        "factorial",
        "gains",
        "missing",
        "pairs",
        "regret",
        "regrets",
        "response",
        "results",
        "rewards",
        "stable",
    }


def test_results_csv_holds_every_configuration_at_full_precision(comparison):
    rows = records(comparison.out / "results.csv")
    table = comparison.study.cases[0]
    assert [row["configuration"] for row in rows] == [row.label for row in table.rows]
    assert [float(row["test"]) for row in rows] == [row.test for row in table.rows]
    assert float(rows[0]["gain_over_hard_low"]) == table.rows[0].over_hard.low
    hard = rows[table.hard]
    assert (hard["loss"], hard["alpha"], hard["gain_over_hard_percent"], hard["teacher"]) == ("", "0.0", "", "")
    assert [row["picked_by_validation"] for row in rows].count("1") == 1
    assert {"test_accuracy", "test_nll", "exactness"} <= set(rows[0])


def test_choices_csv_and_compare_json_hold_the_effects(comparison):
    rows = records(comparison.out / "choices.csv")
    assert [(row["choice"], row["alternative"], row["pairs"]) for row in rows] == [
        ("targets", "distilled", "8"),
        ("loss", "mse", "4"),
        ("teacher", "t_ll", "4"),
        ("tau_s", "1", "4"),
    ]
    tree = json.loads((comparison.out / "compare.json").read_text())
    assert tree["format"] == 1
    assert tree["effects"][1]["differences"] == list(comparison.study.effects[1].differences)
    assert tree["cases"][0]["rows"][0]["configuration"]["loss"] == "ce"


@pytest.mark.slow
def test_equal_seeds_give_equal_files_and_other_seeds_other_intervals(comparison, grid, tmp_path):
    again = compare([grid.parent], out=tmp_path / "again", resamples=300)
    for name in ("report.html", "results.csv", "choices.csv", "compare.json", "figures/gain-1.svg"):
        assert (again.out / name).read_bytes() == (comparison.out / name).read_bytes()
    other = compare([grid], out=tmp_path / "again", resamples=300, seed=1)
    assert other.study.cases[0].rows[0].test == again.study.cases[0].rows[0].test
    assert other.study.cases[0].rows[0].over_hard.low != again.study.cases[0].rows[0].over_hard.low


def test_the_terminal_text_is_that_of_the_study(comparison):
    assert comparison.terminal().startswith("9 runs, 9 configurations, 1 test case (mrpc, small), seed 0.\n")
    *lines, last = comparison.terminal(width=90).splitlines()
    assert max(map(len, lines)) <= 90
    assert last == f"Report: {comparison.report}"


def test_a_case_with_one_run_writes_a_report_and_empty_choices(run_writer, tmp_path):
    folder = run_writer("a", HARD, 0.8)
    found = compare([folder], out=tmp_path / "out", resamples=100)
    assert not list((found.out / "figures").iterdir())
    assert "nothing to compare it with" in found.report.read_text()
    assert records(found.out / "choices.csv") == []


def test_settings_out_of_range_are_refused(grid, tmp_path):
    with pytest.raises(ConfigError, match=r"^resamples = 99 is too few for an interval; give at least 100$"):
        compare([grid], out=tmp_path, resamples=99)
    with pytest.raises(ConfigError, match=r"^seed = -1 is negative; give a seed >= 0$"):
        compare([grid], out=tmp_path, seed=-1)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(grid, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        compare([grid], out=tmp_path / "file" / "report")
    assert str(caught.value) == (
        f"cannot write the report to {tmp_path}/file/report: Not a directory; give another folder with --out"
    )


def test_a_file_in_the_way_of_the_report_is_refused(grid, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError) as caught:
        compare([grid], out=tmp_path, resamples=100)
    assert str(caught.value) == f"cannot write the report to {tmp_path}: Is a directory; give another folder with --out"


def test_runs_on_other_test_examples_are_refused_by_name(run_writer, tmp_path):
    one = run_writer("a", Configuration(teacher="t_hs"), 0.8)
    two = run_writer("b", HARD, 0.8, num_examples=200)
    with pytest.raises(RunError) as caught:
        compare([one.parent], out=tmp_path / "out")
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_no_torch_is_loaded(grid, tmp_path):
    code = (
        "import sys; from pathlib import Path; from kdcache.report import compare; "
        f"compare([Path({str(grid)!r})], out=Path({str(tmp_path)!r}), resamples=100).terminal(); "
        "print(sorted({'torch', 'transformers', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
