"""Cells of the tables."""

from __future__ import annotations

from kdcache.core.configuration import Configuration
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from kdcache.report.tables import (
    ORACLE,
    PICKED,
    WORST,
    case_table,
    effects_table,
    others_table,
    teachers_table,
)
from tests.report.conftest import HARD, teachers

CE = Configuration(teacher="t_hs", tau_t=4.0, tau_s=1.0, alpha=0.5)
MSE = Configuration(teacher="t_hs", loss="mse", tau_t=4.0)


def study_of(*folders):
    return examine(group_cases(map(load_run, folders)), resamples=200, seed=0)


def test_a_row_shows_scores_gains_and_choices(run_writer):
    study = study_of(run_writer("a", CE, 0.9), run_writer("b", HARD, 0.8), run_writer("c", MSE, 0.7))
    table = case_table(study.cases[0])
    row = study.cases[0].rows[0]
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert table.title == "mrpc, small: f1_binary on 300 test examples"
    assert cells["configuration"] == "ce t_hs tau 4/1 alpha 0.5"
    assert (cells["teacher"], cells["loss"], cells["tau_t / tau_s"], cells["alpha"]) == ("t_hs", "ce", "4 / 1", "0.5")
    assert cells["test"] == f"{row.test:.4f}"
    assert cells["over hard labels, %"] == (
        f"+{row.over_hard.percent:.2f} [+{row.over_hard.low:.2f}, +{row.over_hard.high:.2f}]"
    )
    assert cells["exactness"] == "exact"
    hard = dict(zip(table.columns, table.rows[1], strict=True))
    assert (hard["over hard labels, %"], hard["teacher"], hard["alpha"], hard["exactness"]) == (
        "baseline",
        "–",
        "0",
        "–",
    )
    assert table.marks == ((PICKED, ORACLE), (), (WORST,))
    assert table.rows[2][table.columns.index("over the worst, %")] == "baseline"


def test_the_brief_table_has_no_choices_and_one_interval(run_writer):
    study = study_of(run_writer("a", CE, 0.9), run_writer("b", HARD, 0.8), run_writer("c", MSE, 0.7))
    table = case_table(study.cases[0], brief=True)
    assert table.columns == (
        "configuration",
        "validation",
        "test",
        "over hard labels, %",
        "over the worst, %",
        "seeds",
    )
    assert "[" in table.rows[0][3]
    assert "[" not in table.rows[0][4]


def test_several_seeds_show_their_deviation_and_a_gain_its_seeds(run_writer):
    study = study_of(
        run_writer("a", CE, 0.9, seed=0), run_writer("a1", CE, 0.88, seed=1), run_writer("b", HARD, 0.7, seed=1)
    )
    table = case_table(study.cases[0])
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert " ± 0." in cells["test ± sd over seeds"]
    assert cells["seeds"] == "0, 1"
    assert cells["over hard labels, %"].endswith("] (seeds 1)")


def test_missing_gains_are_dashes_and_a_lone_row_has_no_marks(run_writer):
    table = case_table(study_of(run_writer("a", CE, 0.9)).cases[0])
    assert dict(zip(table.columns, table.rows[0], strict=True))["over hard labels, %"] == "–"
    assert table.marks == ((),)


def test_an_interval_with_a_baseline_that_may_be_zero_is_not_given(run_writer):
    hard = run_writer("h", HARD, 0.05, num_examples=60, noise=5)
    study = study_of(run_writer("a", CE, 0.9, num_examples=60), hard)
    assert 0 < study.cases[0].rows[1].test < 0.2
    assert study.cases[0].rows[0].over_hard.low is None
    table = case_table(study.cases[0])
    assert table.rows[0][table.columns.index("over hard labels, %")].endswith(" [no interval]")


def test_other_scores_effects_and_teachers_have_tables_when_there_are_any(run_writer):
    study = study_of(
        run_writer("a", CE, 0.9, extra={"teachers": teachers()}),
        run_writer("b", Configuration(teacher="t_hs", loss="mse", tau_t=4.0, tau_s=1.0, alpha=0.5), 0.8),
    )
    others = others_table(study.cases[0])
    assert others.columns == ("configuration", "accuracy", "nll")
    effects = effects_table(study)
    assert effects.rows[0][:2] == ("loss", "mse against ce")
    assert effects.rows[0][-2:] == ("1", "0 of 1")
    table = teachers_table(study)
    assert table.columns == (
        "dataset",
        "teacher",
        "score",
        "nll",
        "ece",
        "brier",
        "temperature",
        "entropy",
        "apt",
        "digest",
    )
    assert table.rows[1] == ("mrpc", "t_ll", "0.9000", "0.2700", "–", "–", "–", "0.1000", "2.0000", "bbbbbbbb")
    lone = study_of(run_writer("c", CE, 0.9))
    assert effects_table(lone) is None
    assert teachers_table(lone) is None


def test_a_run_with_its_metric_only_has_no_other_scores(run_writer):
    from dataclasses import replace

    study = study_of(run_writer("a", CE, 0.9))
    table = study.cases[0]
    bare = replace(table, rows=(replace(table.rows[0], others={}),))
    assert others_table(bare) is None
