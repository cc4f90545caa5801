"""`compare a/ b/`: is b better than a, and what two runs cannot show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.core.configuration import Configuration
from kdcache.report import compare
from kdcache.report.runs import load_run
from kdcache.report.two_runs import p_text, sides_of
from tests.report.conftest import HARD

CE = Configuration(teacher="t_hs", tau_t=4.0)


def two(a: Path, b: Path, out: Path, resamples: int = 400):
    found = compare([a, b], out=out, resamples=resamples).study.findings
    return found.two_runs, found


def test_a_better_run_is_called_better_with_one_seed_and_what_that_cannot_show(run_writer, tmp_path):
    found, _ = two(run_writer("a", HARD, 0.6), run_writer("b", CE, 0.85), tmp_path / "out")
    assert (found.a, found.b) == ("hard labels", "ce t_hs tau 4/4")
    comparison = found.comparison
    assert (comparison.covers, comparison.method, comparison.seeds) == ("examples", "bootstrap over examples", (0,))
    assert 0 < comparison.low < comparison.difference < comparison.high
    assert comparison.probability is comparison.detectable is None
    assert found.sentence.startswith("ce t_hs tau 4/4 against hard labels: better, +")
    assert "p < " in found.sentence or "p = " in found.sentence
    assert found.sentence.endswith("more than the choice of test examples would explain.")
    assert found.limits[0].startswith("One run each (seed 0): the interval holds the choice of test examples only.")


def test_the_interval_is_the_bootstrap_of_the_difference(run_writer, tmp_path):
    a, b = run_writer("a", HARD, 0.7), run_writer("b", CE, 0.8)
    study = compare([a, b], out=tmp_path / "out", resamples=500).study
    comparison = study.findings.two_runs.comparison
    runs = [load_run(folder) for folder in (a, b)]
    assert comparison.difference == pytest.approx(runs[1].test - runs[0].test)
    gains = study.cases[0].rows
    hard = next(row for row in gains if row.label == "hard labels")
    other = next(row for row in gains if row.label != "hard labels")
    assert comparison.gain == pytest.approx(other.over_hard.percent)
    assert (comparison.low > 0) == (other.over_hard.low > 0)
    assert hard.over_hard is None


def test_equal_runs_show_no_difference_and_are_not_called_equal(run_writer, tmp_path):
    a, b = run_writer("a", CE, 0.8, noise=5), run_writer("b", replace(CE, tau_t=2.0), 0.8, noise=6)
    found, _ = two(a, b, tmp_path / "out")
    assert ": no difference is visible (" in found.sentence
    assert found.sentence.endswith("that does not make them equal.")


def test_a_worse_run_is_called_worse(run_writer, tmp_path):
    found, _ = two(run_writer("a", CE, 0.9), run_writer("b", replace(CE, loss="mse", tau_s=1.0), 0.6), tmp_path / "out")
    assert ": worse, \N{MINUS SIGN}" in found.sentence
    assert "They differ in loss and tau_s, so no single choice explains the difference." in found.limits


def test_folders_of_seeds_are_two_configurations(run_writer, tmp_path):
    for seed in range(3):
        run_writer(f"a/{seed}", HARD, 0.6 + 0.01 * seed, seed=seed)
        run_writer(f"b/{seed}", CE, 0.85, seed=seed)
    found, findings = two(tmp_path / "runs" / "a", tmp_path / "runs" / "b", tmp_path / "out")
    assert found.comparison.covers == "seeds and examples"
    assert found.comparison.seeds == (0, 1, 2)
    assert found.comparison.probability == 1.0
    assert found.sentence.endswith("more than test examples and seeds would explain.")
    assert found.limits[0].startswith("With 3 seeds only true differences from ")
    assert findings.noise.startswith("replicated seeds, pooled in each case (median ")


def test_two_students_on_one_test_set_are_runs_not_configurations(run_writer, tmp_path):
    a, b = run_writer("a", CE, 0.7, student="small"), run_writer("b", CE, 0.85, student="large")
    found, _ = two(a, b, tmp_path / "out")
    assert (found.a, found.b) == ("ce t_hs tau 4/4, small", "ce t_hs tau 4/4, large")
    assert found.comparison.case == "mrpc, small and mrpc, large"
    assert found.comparison.low > 0
    assert (
        "The students differ (small, large), so this compares runs and says nothing about the configurations."
        in found.limits
    )


@pytest.mark.slow
def test_runs_of_two_seeds_of_one_configuration_are_told_apart_by_folder(run_writer, tmp_path):
    a, b = run_writer("first", CE, 0.8, seed=0), run_writer("second", CE, 0.8, seed=1)
    found, _ = two(a, b, tmp_path / "out")
    assert (found.a, found.b) == ("ce t_hs tau 4/4 (first)", "ce t_hs tau 4/4 (second)")
    assert found.limits[0].startswith("One run each (seeds 0, 1)")


def test_learning_rates_tell_two_runs_apart(run_writer, tmp_path):
    rates = [{"training": {"learning_rate": rate}} for rate in (1e-4, 2e-4)]
    a, b = run_writer("a", CE, 0.8, extra=rates[0]), run_writer("b", CE, 0.8, extra=rates[1])
    found, _ = two(a, b, tmp_path / "out")
    assert (found.a, found.b) == ("ce t_hs tau 4/4, lr 0.0001", "ce t_hs tau 4/4, lr 0.0002")


def test_runs_on_other_test_examples_are_not_compared_with_each_other(run_writer, tmp_path):
    a, b = run_writer("a", CE, 0.8), run_writer("b", CE, 0.8, student="large", num_examples=200)
    found, findings = two(a, b, tmp_path / "out")
    assert found is None
    (said,) = [s for s in findings.unavailable if "so the two are not compared with each other." in s]
    assert said.startswith(f"{a} and {b} were scored on different test examples (")


def test_runs_of_other_metrics_are_not_compared_with_each_other(run_writer, tmp_path):
    a, b = run_writer("a", CE, 0.8), run_writer("b", CE, 0.8, student="large", metric="accuracy")
    found, findings = two(a, b, tmp_path / "out")
    assert found is None
    assert (
        f"{a} and {b} were selected by f1_binary and accuracy, so there is no one difference between them."
        in findings.unavailable
    )


def test_seeds_without_a_partner_cannot_be_paired(run_writer, tmp_path):
    for seed in (0, 1):
        run_writer(f"a/{seed}", HARD, 0.6, seed=seed)
    b = run_writer("b", CE, 0.8, seed=7)
    found, findings = two(tmp_path / "runs" / "a", b, tmp_path / "out")
    assert found is None
    assert (
        "hard labels and ce t_hs tau 4/4 have no seed in common, so their seeds cannot be paired; train the same seeds."
        in findings.unavailable
    )


def test_folders_with_several_configurations_are_no_two_runs(run_writer, tmp_path):
    run_writer("a/0", HARD, 0.6)
    run_writer("a/1", CE, 0.7)
    b = run_writer("b", CE, 0.8, seed=7)
    assert two(tmp_path / "runs" / "a", b, tmp_path / "out")[0] is None
    runs = [load_run(b)]
    assert sides_of([b], runs) is sides_of([b, b], runs) is sides_of([b, tmp_path / "runs" / "a"], runs) is None


def test_p_is_short():
    assert (p_text(0.0001), p_text(0.0312)) == ("p < 0.001", "p = 0.031")
