"""Runs that were trained in several ways: told apart, a case each, and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.design import HARD
from kdcache.report.cases import play
from kdcache.report.options import Options
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from kdcache.report.training import differing, learning_rate, settings, split, words
from kdcache.report.two_runs import Sides, sides_of, two_runs
from kdcache.report.unavailable import unavailable
from tests.report.conftest import write
from tests.report.synthetic import additive, full_case, run

CE = Configuration(tau_t=4.0)


def trained(configuration=CE, scores=(0.8, 0.8), *, seed=0, **training):
    """A run that recorded how it was trained."""
    own = run(configuration, scores, seed=seed)
    return replace(
        own, folder=own.folder.with_name(f"{own.folder.name} {training}"), result=recorded(own.result, training)
    )


def recorded(result, training):
    return replace(result, extra={"training": training} if training else {})


def test_settings_of_speed_and_the_tuned_rate_are_no_other_way():
    whole = {"epochs": 3, "learning_rate": 1e-4, "micro_batch_size": 4, "zero_stage": 2, "fused": "no"}
    assert settings(whole | {"deepspeed": None}) == settings(whole | {"epochs": 3.0}) == {"epochs": "3"}
    assert settings(None) == settings({}) == {}
    assert learning_rate(whole) == 1e-4
    assert learning_rate({"learning_rate": None}) is learning_rate(7) is None


def test_the_way_of_most_runs_comes_first_and_takes_those_that_recorded_nothing():
    runs = [
        trained(epochs=5, batch_size=8, warmup=0.1),
        trained(epochs=3, batch_size=16, warmup=0.1),
        trained(epochs=3, batch_size=16, warmup=0.1, seed=1),
        trained(seed=2),
    ]
    found = split([(r.result.seed, r.result) for r in runs])
    assert found == [("epochs 3, batch_size 16", [0, 1, 2]), ("epochs 5, batch_size 8", [0])]
    assert split([(0, runs[3].result)]) == [("", [0])]
    assert split([(0, runs[1].result), (1, runs[2].result)]) == [("", [0, 1])]


def test_what_tells_two_runs_apart_is_named_with_the_rate():
    one, two = trained(epochs=3, learning_rate=1e-4), trained(epochs=5, learning_rate=2e-4, fused="no")
    assert differing(one.result, two.result) == ["epochs", "learning_rate"]
    assert words(two.result, ["learning_rate", "epochs"]) == "lr 0.0002, epochs 5"
    assert differing(one.result, trained().result) == []


def test_each_way_is_a_case_of_its_own_and_this_is_said():
    runs = [
        trained(HARD, (0.7, 0.7), epochs=3),
        trained(scores=(0.8, 0.8), epochs=3),
        trained(scores=(0.9, 0.9), epochs=5),
    ]
    cases = group_cases(runs)
    assert [(c.name, len(c.runs)) for c in cases] == [("d00, base (epochs 3)", 2), ("d00, base (epochs 5)", 1)]
    said = unavailable([play(c) for c in cases], None, Options())
    assert said[0] == (
        "d00, base: its runs were trained in 2 ways (base (epochs 3); base (epochs 5)), so each way is a case of its "
        "own, and nothing is compared across them."
    )
    study = examine(cases, resamples=50, seed=0)
    assert [len(table.rows) for table in study.cases] == [2, 1]
    assert [effect.differences for effect in study.effects if effect.choice == "targets"] == [pytest.approx((0.1,))]


def test_a_stray_run_of_another_way_changes_nothing_that_is_said_over_cases():
    whole = [moved(full_case(additive(0.02, 0.01, 0.0), dataset=name), epochs=3) for name in ("a", "b")]
    stray = moved([run(CE, (0.9, 0.9), dataset="a")], epochs=5)

    def found(*more):
        return examine(group_cases([*whole[0], *whole[1], *more]), resamples=50, seed=0).findings

    before, after = found(), found(*stray)
    assert [c.name for c in after.cases] == ["a, base (epochs 3)", "a, base (epochs 5)", "b, base"]
    assert [(a.a, a.b, a.mean) for a in after.across] == [(a.a, a.b, a.mean) for a in before.across]
    assert [(r.label, r.mean, r.of) for r in after.regret] == [(r.label, r.mean, r.of) for r in before.regret]
    assert [(s.rule, s.tau, s.regret_mean) for s in after.stable] == [
        (s.rule, s.tau, s.regret_mean) for s in before.stable
    ]
    assert [d.values for d in after.figure1] == [d.values for d in before.figure1]


def moved(runs, **training):
    """Runs that recorded how they were trained, in folders of their own."""
    found = runs if isinstance(runs, list) else runs.runs
    return [
        replace(r, folder=r.folder.with_name(f"{r.folder.name} {training}"), result=recorded(r.result, training))
        for r in found
    ]


def test_no_two_ways_read_alike():
    runs = [trained(epochs=3), trained(epochs=3, deepspeed=None), trained(epochs=3, weight_decay=0.1)]
    runs += [trained(epochs=3, weight_decay=0.1000001), trained(epochs=3.0)]
    labels = [label for label, _ in split([(r, r.result) for r in runs])]
    assert labels == ["no weight_decay", "weight_decay 0.1", "weight_decay 0.1000001"]


def test_a_student_of_one_name_made_from_another_model_is_another_way():
    one, two = trained(epochs=3), trained(epochs=3, seed=1)
    two = replace(two, result=replace(two.result, extra={**two.result.extra, "model": "1a2b"}))
    assert [label for label, _ in split([(r, r.result) for r in (one, two)])] == ["no model", "model 1a2b"]


def test_two_runs_that_were_trained_in_two_ways_are_compared_with_that_said(tmp_path: Path):
    folders = [
        write(tmp_path / name, configuration, accuracy, extra={"training": {"epochs": epochs, "learning_rate": 1e-4}})
        for name, configuration, accuracy, epochs in (("a", CE, 0.7, 3), ("b", CE, 0.9, 5), ("c", HARD, 0.7, 3))
    ]
    runs = [load_run(folder) for folder in folders]

    def compared(*which: int):
        pair = [runs[i] for i in which]
        study = examine(group_cases(pair), resamples=200, seed=0, sides=sides_of([r.folder for r in pair], pair))
        return study.findings.two_runs

    found = compared(0, 1)
    assert (found.a, found.b) == ("ce t_hs tau 4/4, epochs 3", "ce t_hs tau 4/4, epochs 5")
    assert found.sentence.startswith("ce t_hs tau 4/4, epochs 5 against ce t_hs tau 4/4, epochs 3: better, +")
    assert not any("They differ in" in sentence for sentence in found.limits)
    assert "They differ in targets and epochs, so no single choice explains the difference." in compared(2, 1).limits
    assert not any("They differ in" in sentence for sentence in compared(2, 0).limits)
    mixed = Sides(a=(runs[0], replace(runs[1], result=replace(runs[1].result, seed=1))), b=(runs[2],))
    assert two_runs(mixed, {}, seed=0) is None  # one side was trained in two ways
