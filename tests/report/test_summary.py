"""What the summary says, and what it refuses to say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from kdcache.report.answers import Reward, Votes
from kdcache.report.evidence import PairedComparison
from kdcache.report.findings import Missing, TwoRuns
from kdcache.report.summary import (
    across_sentence,
    closing,
    configuration_words,
    noise_floor,
    reward_sentence,
    summary,
)
from kdcache.report.words import percent, range_text
from tests.report.studies import changed, study


@pytest.fixture(scope="module")
def eight():
    return study(8)


def stable(of, rule, tau):
    return next(s for s in of.findings.stable if (s.rule, s.tau) == (rule, tau))


def test_it_names_the_configuration_and_what_it_costs_on_datasets_that_did_not_choose_it(eight):
    out, inside = (stable(eight, rule, "per case") for rule in ("leave one dataset out", "in sample"))
    assert out.cells == {"ce t_ll tau_s=1": 8}
    assert summary(eight)[0] == (
        "Use t_ll, CE, tau_s = 1, with the temperature tuned for each case: expected regret "
        f"{out.regret_mean:.2f} %, worst {out.regret_worst:.2f} % ({out.worst_case}), over 8 cases. Each case was "
        "judged by what the other datasets chose, the same configuration every time. It is at least as good as a "
        f"search's own pick in {100 * inside.share:.0f} % of the cases."
    )


def test_one_temperature_is_judged_as_the_tuned_one_is(eight):
    out, inside = (stable(eight, rule, "global") for rule in ("leave one dataset out", "in sample"))
    assert summary(eight)[1] == (
        f"With one temperature for all (all cases choose tau_t = 4, whose own regret is {inside.regret_mean:.2f} %), "
        f"judged in the same way, regret is {out.regret_mean:.2f} % on average, {out.regret_worst:.2f} % at worst "
        f"({out.worst_case})."
    )


def test_other_choices_on_other_datasets_are_counted(eight):
    own = tuple(
        replace(s, cells={"ce t_ll tau_s=1": 6, "ce t_hs tau_s=1": 2}) if s.rule != "in sample" else s
        for s in eight.findings.stable
    )
    inside = stable(eight, "in sample", "per case").regret_mean
    assert (
        f"in 6 of 8 cases the same one (where all cases choose it: {percent(inside)})."
        in (summary(changed(eight, stable=own))[0])
    )


def test_a_choice_that_most_datasets_would_not_make_is_no_advice(eight):
    own = tuple(
        replace(s, cells={"ce t_ll tau_s=1": 3, "ce t_hs tau_s=1": 5}) if s.rule != "in sample" else s
        for s in eight.findings.stable
    )
    said = summary(changed(eight, stable=own))[0]
    assert said.startswith(
        "No configuration is stable here; the votes lean to t_ll, CE, tau_s = 1, with the temperature"
    )


def test_one_dataset_cannot_judge_its_own_choice():
    said = summary(study(3, datasets=1))
    assert "The same cases chose it, so on other data expect more." in said[0]
    assert said[-1].endswith("(3 cases of 1 dataset: no interval over datasets).")


def test_differences_below_the_floor_are_called_seed_noise(eight):
    sd = np.median([case.noise_sd for case in eight.findings.cases])
    floor, seeds = noise_floor(eight.findings)
    assert seeds == 3
    assert floor == pytest.approx(1.96 * math.sqrt(2 / 3) * sd)
    (sentence,) = [s for s in summary(eight) if s.startswith("Differences below")]
    assert sentence.startswith(
        f"Differences below {floor:.2f} % between two configurations of 3 seeds are seed noise; "
    )
    stable_row = next(r for r in eight.findings.regret if r.label == "ce t_ll tau_s=1, tau tuned")
    others = [r for r in eight.findings.regret if r.kind != "rule" and r is not stable_row]
    near = sum(abs(r.mean - stable_row.mean) < floor for r in others)
    assert near > 0
    assert f"; {near} of {len(others)} other configurations trained in all cases are within that" in sentence


def test_a_winner_far_from_the_rest_is_said_to_be(eight):
    row = next(r for r in eight.findings.regret if r.label == "ce t_ll tau_s=1, tau tuned")
    far = replace(row, label="far", mean=row.mean + 50)
    said = summary(changed(eight, regret=(row, far)))
    assert any("no other configuration that was trained in all cases comes as near" in s for s in said)
    said = summary(changed(eight, regret=(row,)))
    assert any(s.endswith("configurations of 3 seeds are seed noise.") for s in said)


def test_with_one_seed_noise_is_unknown():
    said = summary(study(4, 1))
    assert any(s.startswith("Seed noise is unknown, because no configuration was trained with two seeds") for s in said)
    assert not any("than noise" in s for s in said)
    assert noise_floor(study(4, 1).findings) is None


def test_without_null_bands_the_deviations_of_the_cases_count(eight):
    bare = changed(eight, figure1=())
    assert noise_floor(bare.findings) == noise_floor(eight.findings)


def test_the_spread_is_set_beside_noise(eight):
    curve = next(c for c in eight.findings.figure1 if (c.name, c.by) == ("best over worst", "validation"))
    band = range_text(curve.null.low[5], curve.null.high[5])
    expected = (
        f"Validation's best configuration over its worst gains {curve.values[5]:.2f} % in the median case and "
        f"{curve.values[10]:.2f} % at most; seed noise alone shows {band} % in the median case, so this is "
        "more than noise."
    )
    assert expected in summary(eight)
    assert curve.values[5] > curve.null.high[5]
    flat = replace(curve, values=(0.0,) * 11, null=replace(curve.null, low=(-1.0,) * 11, high=(1.0,) * 11))
    assert summary(changed(eight, figure1=(flat,)))[3].endswith("so this is no more than noise.")
    low = replace(flat, values=(-2.0,) * 11)
    assert summary(changed(eight, figure1=(low,)))[3].endswith("so this is less than noise.")


def test_votes_that_a_coin_could_cast_are_said_to_be(eight):
    coin = [
        replace(r, tuned=Votes(plus=5, minus=3, ties=0, p=0.73)) if r.choice != "alpha" else r
        for r in eight.findings.rewards
    ]
    assert any(
        s == "The votes that chose it are no further from a coin's than p = 0.73 (loss)."
        for s in summary(changed(eight, rewards=tuple(coin)))
    )


def reward(plus, minus, p, *, ties=0, matched=None):
    return Reward(
        choice="loss",
        default="ce",
        alternative="mse",
        tuned=Votes(plus=plus, minus=minus, ties=ties, p=p),
        matched=matched,
        trials_default=11,
        trials_alternative=1,
    )


def test_a_reward_is_told_with_its_sign_test():
    assert reward_sentence(reward(17, 22, 0.52)) == (
        "loss: mse beat ce on validation in 17 of 39 cases and lost in 22 (R = −5, sign test p = 0.52): "
        "a coin could do that."
    )
    assert reward_sentence(reward(25, 4, 0.0001, ties=1)) == (
        "loss: mse beat ce on validation in 25 of 30 cases and lost in 4, tied in 1 (R = +21, sign test p < 0.001): "
        "more than a coin would do."
    )
    assert reward_sentence(reward(0, 0, None, ties=2)).endswith("tied in 2 (R = 0): no case tells them apart.")


def test_unequal_effort_that_turns_a_reward_is_said():
    said = reward_sentence(reward(1, 8, 0.04, matched=Votes(plus=6, minus=3, ties=0, p=0.5)))
    assert said.endswith(" At equal temperatures R is +3: the sides had 11 and 1 trainings to choose from.")
    same = reward_sentence(reward(1, 8, 0.04, matched=Votes(plus=3, minus=6, ties=0, p=0.5)))
    assert same.endswith("more than a coin would do.")


def test_over_hard_labels_the_interval_and_the_probability_are_told(eight):
    best = next(a for a in eight.findings.across if a.b == "best by validation")
    assert summary(eight)[-1] == (
        f"Best by validation gains {best.mean:+.2f} % over hard labels on average (8 cases of 4 datasets, 95 % "
        f"interval {range_text(best.low, best.high)}); better by more than 0.5 % with probability {best.better:.2f}."
    )
    unsure = replace(best, low=-1.0, high=2.0, better=None)
    assert across_sentence(unsure).endswith("−1.00 to +2.00, which contains 0: no difference is visible).")


def test_a_stable_configuration_that_was_not_trained_everywhere_is_not_recommended(eight):
    own = tuple(replace(s, cases=5) for s in eight.findings.stable)
    said = summary(changed(eight, stable=own))
    assert said[0].startswith("Of what was trained in all 8 cases ")
    assert "t_ll, CE, tau_s = 1, which the votes favour, was trained in 5 of 8 cases" in said[0]
    assert "It was picked by these test scores, so expect more elsewhere" in said[0]


def test_nothing_trained_everywhere_is_no_recommendation_but_a_command(eight):
    rows = tuple(replace(r, regrets=r.regrets[:3], case_names=r.case_names[:3]) for r in eight.findings.regret)
    said = summary(changed(eight, stable=(), regret=rows, complete="lazy,stable"))
    assert said[0] == (
        "Which configuration is safe cannot be said: no choice has both sides trained in every search, and no other "
        "one was trained in all 8; train what is missing with kdcache search CONFIG --complete lazy,stable."
    )
    assert summary(changed(eight, stable=(), regret=rows))[0].endswith("was trained in all 8.")


def test_one_case_gives_its_verdict_and_no_recommendation():
    said = summary(study(1))
    assert said[0].startswith("d00, s0: validation picks ")
    assert said[-1].startswith("One test case: what is best here need not be best on other data")
    assert not any(s.startswith("Use ") for s in said)


def test_two_runs_are_told_in_their_own_words(eight):
    pair = PairedComparison(
        case="d", metric="accuracy", a="a", b="b", difference=0.1, low=0.0, high=0.2, gain=1.0, p=0.5, holm_p=None,
        method="m", covers="examples", seeds=(0,), probability=None, detectable=None,
    )  # fmt: skip
    two = TwoRuns(a="a", b="b", comparison=pair, sentence="B is better.", limits=("One run each.",))
    assert summary(changed(eight, two_runs=two)) == ("B is better.", "One run each.")


def test_a_cell_in_words():
    assert configuration_words("mse my teacher tau_s=tied") == "my teacher, MSE, tau_s = tau_t"


def test_missing_trainings_close_the_report_with_the_command(eight):
    lacking = Missing(case="d, s", wanted_by="lazy", configurations=("ce",), seeds=(0,))
    said = closing(changed(eight, missing=(lacking, replace(lacking, wanted_by="hard")), complete="lazy"))
    assert said == [
        "Trainings are missing in 1 case (for: lazy, hard). kdcache search CONFIG --complete lazy trains them."
    ]
    assert closing(changed(eight, missing=(lacking,), unavailable=("Not this.",))) == [
        "Not this.",
        "Trainings are missing in 1 case (for: lazy).",
    ]
