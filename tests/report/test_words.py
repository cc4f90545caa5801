"""The sentences of the report."""

from __future__ import annotations

from dataclasses import replace

from kdcache.core.configuration import Configuration
from kdcache.report.choices import Effect
from kdcache.report.gain import Gain
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from kdcache.report.words import (
    effect_sentence,
    gain_sentence,
    missing_effects,
    overview,
    range_text,
    remarks,
    score_text,
    seed_warning,
    signed,
    verdict,
)
from tests.report.conftest import HARD

CE = Configuration(teacher="t_hs")
MSE = Configuration(teacher="t_hs", loss="mse")


def study_of(*folders, **changes):
    return examine(group_cases(map(load_run, folders)), **{"resamples": 200, "seed": 0, **changes})


def effect(differences, low, high, **changes):
    values = {"choice": "loss", "default": "ce", "alternative": "mse", "metric": "f1_binary", "cases": 1, "seeds": (0,)}
    return Effect(**{**values, "differences": differences, "low": low, "high": high, **changes})


def test_numbers_have_a_sign_unless_they_round_to_zero():
    assert [signed(v) for v in (1.005, -1.25, 0.004, -0.004)] == ["+1.00", "−1.25", "0.00", "0.00"]
    assert score_text(0.84211) == "0.8421"
    assert range_text(-0.5, 1.0) == "−0.50 to +1.00"
    assert range_text(None, None) == "no interval: a resample scores 0"


def test_an_interval_around_zero_shows_no_difference():
    assert effect_sentence(effect((-0.02, 0.01), -0.015, 0.006)) == (
        "loss, mse against ce: worse by 0.50 points of test f1_binary on average over 2 pairs "
        "(95 % interval −1.50 to +0.60), better in 1 of 2. "
        "The interval contains 0: these runs do not show a difference."
    )


def test_an_interval_beside_zero_is_not_enough_with_few_seeds():
    assert effect_sentence(effect((0.02,), 0.01, 0.03, cases=2)).endswith(
        "over 1 pair in 2 cases (95 % interval +1.00 to +3.00), better in 1 of 1. "
        "More than the choice of test examples explains; with 1 seed, noise between seeds could still explain it."
    )
    assert effect_sentence(effect((0.02,), 0.01, 0.03, seeds=(0, 1, 2))).endswith(
        "explains; compare it with the deviation over seeds in the tables."
    )


def test_equal_scores_nats_and_missing_intervals_have_their_words():
    assert effect_sentence(effect((0.0,), 0.0, 0.0)).startswith(
        "loss, mse against ce: the same test f1_binary on average (to 0.01 points) over 1 pair"
    )
    assert "better by 0.02 nats of test nll" in effect_sentence(effect((0.02,), None, None, metric="nll"))
    assert effect_sentence(effect((0.02,), None, None)) == (
        "loss, mse against ce: better by 2.00 points of test f1_binary on average over 1 pair "
        "(no interval: a resample scores 0), better in 1 of 1."
    )


def test_a_gain_says_whether_zero_is_inside():
    assert gain_sentence(Gain(percent=1.5, low=-0.5, high=3.0, seeds=(0,))) == (
        "+1.50 % (95 % interval −0.50 to +3.00, which contains 0: no gain or loss is visible)"
    )
    assert gain_sentence(Gain(percent=1.5, low=0.5, high=3.0, seeds=(0,))) == "+1.50 % (95 % interval +0.50 to +3.00)"
    assert gain_sentence(Gain(percent=1.5, low=None, high=None, seeds=(0,))) == (
        "+1.50 % (no interval: a resample scores 0)"
    )


def test_the_overview_counts_what_was_compared(run_writer):
    study = study_of(run_writer("a", CE, 0.8), run_writer("b", HARD, 0.7))
    assert overview(study) == "2 runs, 2 configurations, 1 test case (mrpc, small), seed 0."
    study = study_of(run_writer("c", CE, 0.8), run_writer("d", HARD, 0.7, dataset="ag", seed=2))
    assert overview(study) == "2 runs, 2 configurations, 2 test cases, seeds 0, 2."


def test_the_verdict_names_validations_pick_its_gain_and_the_oracle(run_writer):
    study = study_of(run_writer("a", CE, 0.9), run_writer("b", HARD, 0.6), run_writer("c", MSE, 0.7))
    (table,) = study.cases
    said = verdict(table)
    assert said[0] == f"mrpc, small: validation picks ce t_hs tau 1/1 (test f1_binary {table.rows[0].test:.4f})."
    assert said[1].startswith("Its gain over hard labels is +")
    assert said[2] == "It is also the best distillation configuration on the test."


def test_the_verdict_admits_ties_better_hard_labels_and_another_oracle(run_writer):
    from dataclasses import replace

    study = study_of(run_writer("a", CE, 0.7), run_writer("b", HARD, 0.9), run_writer("c", MSE, 0.7, noise=7000))
    (table,) = study.cases
    assert "On validation hard labels are at least as good: validation would not distil at all." in verdict(table)
    assert verdict(table)[0].endswith("tied on validation with mse t_hs tau 1/1, which comes after it by name.")
    assert verdict(replace(table, oracle=2))[-1].startswith("The best on the test is mse t_hs tau 1/1 (0.")
    assert verdict(replace(table, oracle=2))[-1].endswith("nobody can choose by the test, so this is an upper bound.")


def test_the_verdict_without_hard_labels_or_company_says_so(run_writer):
    (table,) = study_of(run_writer("a", CE, 0.9), run_writer("c", MSE, 0.7)).cases
    assert verdict(table)[1] == (
        "There is no run on hard labels (--alpha 0), so nothing here says whether distillation helped."
    )
    (table,) = study_of(run_writer("d", CE, 0.9)).cases
    assert verdict(table) == ["mrpc, small: one configuration, ce t_hs tau 1/1: nothing to compare it with."]


def test_the_verdict_says_why_a_gain_has_no_value(run_writer):
    (table,) = study_of(run_writer("a", CE, 0.9, seed=1), run_writer("b", HARD, 0.6)).cases
    assert verdict(table)[1] == "Its gain over hard labels has no value: the two have no seed in common."
    (table,) = study_of(run_writer("c", CE, 0.9), run_writer("d", HARD, -1.0, noise=1)).cases
    assert verdict(table)[1] == "Its gain over hard labels has no value: hard labels score 0."


def test_one_seed_is_a_loud_warning_with_the_next_command(run_writer):
    warning = seed_warning(study_of(run_writer("a", CE, 0.9), run_writer("b", HARD, 0.8)))
    assert warning.startswith("ONE SEED PROVES LITTLE. Every configuration was trained once")
    assert "seed noise is not in them" in warning
    assert warning.endswith("Next: train each configuration again with --seed 1 and --seed 2, then compare again.")


def test_few_seeds_ask_for_those_that_others_have(run_writer):
    folders = [run_writer(f"a{seed}", CE, 0.9, seed=seed) for seed in (5, 6, 7)]
    assert seed_warning(study_of(*folders)) is None
    warning = seed_warning(study_of(*folders, run_writer("b", HARD, 0.8, seed=5)))
    assert warning.startswith("FEW SEEDS. 1 of 2 configurations has fewer than 3 seeds.")
    assert warning.endswith("Next: train it again with --seed 6 and --seed 7, then compare again.")
    warning = seed_warning(
        study_of(*folders[:2], run_writer("c", HARD, 0.8, seed=5), run_writer("d", HARD, 0.8, seed=6))
    )
    assert warning.startswith("FEW SEEDS. 2 of 2 configurations have fewer than 3 seeds.")
    assert warning.endswith("Next: train them again with --seed 0, then compare again.")


def test_few_seeds_of_what_was_only_tuned_over_are_no_alarm(run_writer):
    folders = [run_writer(f"a{seed}", CE, 0.9, seed=seed) for seed in (0, 1, 2)]
    folders.append(run_writer("b", replace(CE, tau_t=8.0), 0.7))
    assert seed_warning(study_of(*folders)) == (
        "Every candidate of the searches has at least 3 seeds. 1 other configuration, tried while a temperature or "
        "learning rate was tuned, has fewer: the interval in its row holds the choice of test examples only."
    )
    assert seed_warning(study_of(*folders, run_writer("c", HARD, 0.6))).startswith("FEW SEEDS. 2 of 3")


def test_remarks_name_forwards_approximations_and_what_is_left_out(run_writer):
    one = run_writer("a", CE, 0.9, exactness="approximate: top 64 of 50,265", counters={"teacher_forwards": 1200})
    said = remarks(study_of(one, run_writer("b", CE, 0.8), unfinished=["runs/x"]))
    assert said == [
        "Teacher forward passes in the 2 student runs: 1,200; TEACHER FORWARDS: "
        "a student that trains from a cache makes 0.",
        "Approximate targets (their scores are not those of the exact loss): mrpc, small, ce t_hs tau 1/1.",
        f"{one.parent / 'b'} is left out: {one} is the same configuration and seed with a better validation score.",
        "runs/x is left out: its run has not finished.",
    ]
    quiet = remarks(study_of(run_writer("c", HARD, 0.9, counters={})))
    assert quiet == ["Teacher forward passes in the student runs: not recorded by every run."]
    assert remarks(study_of(run_writer("d", HARD, 0.9)))[0] == "Teacher forward passes in the 1 student run: 0."


def test_choices_without_pairs_are_explained(run_writer):
    ll = Configuration(teacher="t_ll")
    study = study_of(run_writer("a", CE, 0.9), run_writer("b", ll, 0.9, teacher_digest="aaaaaaaa"))
    assert missing_effects(study) == [
        "teacher: the teacher names of mrpc, small are one and the same checkpoint, so they make no difference there."
    ]
    study = study_of(run_writer("c", CE, 0.9), run_writer("d", Configuration(teacher="t_ll", loss="mse"), 0.9))
    assert missing_effects(study) == [
        "No two runs differ in one choice alone (at one seed), so no choice can be told from the others."
    ]
    assert missing_effects(study_of(run_writer("e", CE, 0.9))) == []
