"""Runs that cannot be used: refused where they were named, left out by name where they were found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdcache.cli import cli
from kdcache.core.configuration import Configuration
from kdcache.core.errors import RunError
from kdcache.report import compare
from kdcache.report.options import Options
from tests.report.conftest import HARD

CE = Configuration(teacher="t_hs", tau_t=4.0)


@pytest.fixture
def runs(run_writer, tmp_path) -> Path:
    """Two runs that are fine, one with a score that is not a number, and one that crashed."""
    run_writer("good/a", HARD, 0.7)
    run_writer("good/b", CE, 0.8)
    folder = run_writer("nan", CE, 0.9, seed=1)
    tree = json.loads((folder / "result.json").read_text())
    tree["scores"]["test"]["f1_binary"]["value"] = float("nan")
    (folder / "result.json").write_text(json.dumps(tree))
    crashed = tmp_path / "runs" / "crashed"
    crashed.mkdir()
    (crashed / "config.json").write_text("{}")
    (crashed / "log.jsonl").write_text("{}\n")
    return tmp_path / "runs"


def test_found_runs_are_left_out_by_name_and_never_averaged(runs, tmp_path):
    study = compare([runs], out=tmp_path / "out", resamples=100).study
    assert study.num_runs == 2
    assert [(e.folder, e.reason) for e in study.findings.excluded] == [
        (f"{runs}/crashed", "has not finished: it has no result.json"),
        (f"{runs}/nan", f"{runs}/nan: test f1_binary is nan, not a number; train the run again"),
    ]
    assert "crashed" in (tmp_path / "out" / "excluded.csv").read_text()


def test_a_named_run_is_refused(runs, tmp_path):
    with pytest.raises(RunError, match=r"/nan: test f1_binary is nan, not a number; train the run again$"):
        compare([runs / "good", runs / "nan"], out=tmp_path / "out", resamples=100)


def test_strict_refuses_where_a_run_would_be_left_out(runs, tmp_path):
    with pytest.raises(RunError) as caught:
        compare([runs], out=tmp_path / "out", resamples=100, options=Options(strict=True))
    assert str(caught.value) == (
        f"--strict: {runs}/nan: test f1_binary is nan, not a number; train the run again (1 such)"
    )
    (runs / "nan" / "result.json").unlink()
    with pytest.raises(RunError) as caught:
        compare([runs], out=tmp_path / "out", resamples=100, options=Options(strict=True))
    assert str(caught.value) == (
        f"--strict: {runs}/crashed has not finished: it has no result.json (2 such); finish it, or move it away"
    )


def test_where_no_run_can_be_used_the_first_reason_is_said(runs, tmp_path):
    (runs / "nan").rename(tmp_path / "inner")
    (tmp_path / "lone").mkdir()
    (tmp_path / "inner").rename(tmp_path / "lone" / "nan")
    with pytest.raises(RunError) as caught:
        compare([tmp_path / "lone"], out=tmp_path / "out", resamples=100)
    assert str(caught.value) == (
        f"no run can be used; the first of 1: {tmp_path}/lone/nan: test f1_binary is nan, not a number; "
        "train the run again"
    )


def test_runs_of_two_metrics_in_one_case_are_refused(run_writer, tmp_path):
    one, two = run_writer("a", CE, 0.8), run_writer("b", HARD, 0.7, metric="accuracy")
    with pytest.raises(RunError) as caught:
        compare([tmp_path / "runs"], out=tmp_path / "out", resamples=100)
    assert str(caught.value) == (
        f"{one} and {two} (mrpc, small) were selected by f1_binary and accuracy; compare runs of one metric"
    )


def test_the_command_prints_json_for_machines(runs, tmp_path):
    arguments = ["compare", str(runs / "good"), "--out", str(tmp_path / "out"), "--resamples", "100", "--json"]
    arguments += ["--baseline", "worst", "--family", "ce t_hs tau 4/4", "--rope", "1", "--noise-sd", "0.4"]
    done = CliRunner().invoke(cli, [*arguments, "--against-published"])
    assert done.exit_code == 0, done.output
    tree = json.loads(done.output)
    assert tree == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert tree["findings"]["rope"] == 1.0
    assert tree["findings"]["baseline"] == "the worst candidate by validation"
    assert len(tree["findings"]["published"]["rows"]) == 11


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "most"), [("80", 80), ("300", 110)])
def test_the_text_is_as_wide_as_the_terminal_but_no_wider_than_can_be_read(columns, most, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    out = str(tmp_path / "out")
    done = CliRunner().invoke(cli, ["compare", str(runs / "good"), "--out", out, "--resamples", "100"])
    assert done.exit_code == 0, done.output
    *lines, report = done.output.splitlines()
    assert report == f"Report: {out}/report.html"
    assert most - 10 < max(map(len, lines)) <= most
