"""Rows, gains and picks of a case."""

from __future__ import annotations

import numpy as np
import pytest

from kdcache.core.configuration import Configuration
from kdcache.report.gain import group_runs, sample, tabulate
from kdcache.report.runs import group_cases, load_run
from tests.report.conftest import HARD

CE = Configuration(teacher="t_hs", tau_t=4.0)
CE_LL = Configuration(teacher="t_ll", tau_t=4.0)
MSE = Configuration(teacher="t_hs", loss="mse", tau_t=4.0)


def table_of(*folders, resamples=500, seed=0):
    (case,) = group_cases(map(load_run, folders))
    groups, notes = group_runs(case)
    return tabulate(case, groups, sample(case, resamples=resamples, seed=seed), notes)


def test_rows_stand_by_validation_score_and_picks_are_marked(run_writer):
    table = table_of(
        run_writer("a", CE, 0.80),
        run_writer("b", CE_LL, 0.90),
        run_writer("c", MSE, 0.70),
        run_writer("d", HARD, 0.60),
    )
    assert [row.label for row in table.rows] == [
        "ce t_ll tau 4/4",
        "ce t_hs tau 4/4",
        "mse t_hs tau 4/4",
        "hard labels",
    ]
    assert (table.picked, table.oracle, table.worst, table.hard) == (0, 0, 2, 3)
    assert [row.validation for row in table.rows] == sorted((row.validation for row in table.rows), reverse=True)


def test_gain_is_over_hard_labels_and_over_the_worst_distillation(run_writer):
    table = table_of(run_writer("a", CE, 0.9), run_writer("b", MSE, 0.7), run_writer("c", HARD, 0.6))
    best, worst, hard = table.rows
    assert best.over_hard.percent == pytest.approx(100 * (best.test / hard.test - 1))
    assert best.over_worst.percent == pytest.approx(100 * (best.test / worst.test - 1))
    assert best.over_hard.low < best.over_hard.percent < best.over_hard.high
    assert hard.over_hard is None
    assert worst.over_worst is None
    assert hard.over_worst.percent < 0


def test_a_gain_interval_is_the_quantiles_of_resampled_ratios(run_writer):
    folders = run_writer("a", CE, 0.9), run_writer("c", HARD, 0.6)
    (case,) = group_cases(map(load_run, folders))
    groups, _ = group_runs(case)
    sampled = sample(case, resamples=300, seed=5)
    table = tabulate(case, groups, sampled)
    ratios = 100 * (sampled.scores[:, 0] / sampled.scores[:, 1] - 1)
    gain = table.rows[0].over_hard
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))


def test_where_lower_is_better_the_order_and_the_gain_turn_round(run_writer):
    table = table_of(
        run_writer("a", CE, 0.9, metric="nll"),
        run_writer("b", HARD, 0.6, metric="nll"),
        run_writer("c", MSE, 0.8, metric="nll"),
    )
    assert [row.label for row in table.rows] == ["ce t_hs tau 4/4", "mse t_hs tau 4/4", "hard labels"]
    assert (table.picked, table.oracle, table.worst) == (0, 0, 1)
    assert table.rows[0].over_hard.percent > 0


def test_equivalent_configurations_of_one_teacher_are_one_row_with_a_note(run_writer):
    better = run_writer("a", MSE, 0.80)
    other = run_writer("b", Configuration(teacher="t_hs", loss="mse", tau_t=2.0), 0.70)
    table = table_of(better, other, run_writer("c", HARD, 0.6))
    assert [row.label for row in table.rows] == ["mse t_hs tau 4/4", "hard labels"]
    assert table.rows[0].aliases == ("mse t_hs tau 2/2",)
    assert table.rows[0].folders == (str(better),)
    assert table.notes == (
        f"{other} is left out: {better} is the same configuration and seed with a better validation score",
    )


def test_a_repeated_run_with_an_equal_score_says_so(run_writer):
    one, two = run_writer("a", CE, 0.8), run_writer("b", CE, 0.8)
    assert table_of(one, two).notes == (
        f"{two} is left out: {one} is the same configuration and seed with the same validation score",
    )


def test_two_teacher_names_of_one_checkpoint_fold_into_one_row(run_writer):
    table = table_of(run_writer("a", CE, 0.8, seed=0), run_writer("b", CE_LL, 0.8, seed=1, teacher_digest="aaaaaaaa"))
    (row,) = table.rows
    assert row.label == "ce t_hs = t_ll tau 4/4"
    assert row.teachers == ("t_hs", "t_ll")
    assert row.seeds == (0, 1)


def test_one_teacher_name_with_two_checkpoints_stays_two_rows_with_digests(run_writer):
    table = table_of(run_writer("a", CE, 0.8), run_writer("b", CE, 0.7, teacher_digest="cccccccc"))
    assert [row.label for row in table.rows] == ["ce t_hs tau 4/4 (aaaaaa)", "ce t_hs tau 4/4 (cccccc)"]


def test_scores_are_means_over_seeds_and_gains_use_the_common_seeds(run_writer):
    folders = [
        run_writer("a0", CE, 0.85, seed=0),
        run_writer("a1", CE, 0.80, seed=1),
        run_writer("h0", HARD, 0.6, seed=0),
        run_writer("m2", MSE, 0.7, seed=2),
    ]
    ce, mse, hard = table_of(*folders).rows
    runs = [load_run(folder) for folder in folders[:2]]
    assert ce.test == pytest.approx((runs[0].test + runs[1].test) / 2)
    assert ce.test_sd == pytest.approx(abs(runs[0].test - runs[1].test) / 2**0.5)
    assert ce.over_hard.seeds == (0,)
    assert ce.over_hard.percent == pytest.approx(100 * (runs[0].test / hard.test - 1))
    assert mse.over_hard is None
    assert mse.test_sd is None


def test_a_baseline_of_zero_gives_no_gain(run_writer):
    table = table_of(run_writer("a", CE, 0.8), run_writer("h", HARD, -1.0, noise=1))
    assert table.rows[1].test == 0
    assert table.rows[0].over_hard is None


def test_only_hard_labels_are_their_own_pick(run_writer):
    table = table_of(run_writer("h", HARD, 0.8))
    assert (table.picked, table.oracle, table.worst, table.hard) == (0, 0, 0, 0)


def test_other_scores_are_kept_beside_the_metric(run_writer):
    table = table_of(run_writer("a", CE, 0.8))
    assert set(table.rows[0].others) == {"accuracy", "nll"}


def test_a_row_takes_one_learning_rate_for_all_its_seeds(run_writer):
    low, high = ({"training": {"learning_rate": rate}} for rate in (1e-4, 2e-4))
    configuration = Configuration(teacher="t_hs")
    for seed, (first, second) in enumerate([(0.8, 0.85), (0.9, 0.6)]):
        run_writer(f"low/{seed}", configuration, first, seed=seed, extra=low)
        folder = run_writer(f"high/{seed}", configuration, second, seed=seed, extra=high)
    (case,) = group_cases(load_run(f) for kind in ("low", "high") for f in sorted((folder.parents[1] / kind).iterdir()))
    (group,), notes = group_runs(case)
    assert {run.folder.parent.name for run in group.runs.values()} == {"low"}
    assert notes == (
        "mrpc, small: a configuration that was trained at several learning rates takes the one of the best mean "
        "validation score; 2 runs at other rates left out of its table",
    )
