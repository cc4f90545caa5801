"""The paper's results on synthetic cases whose truth is known: 13 datasets x 3 students, values by hand."""

from __future__ import annotations

import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.design import Outcome
from kdcache.report.cases import play
from kdcache.report.deciles import decile_values, figure1, figure2, figure3, no_null, share
from kdcache.report.factors import factorial_effects
from kdcache.report.regret import regret_rows
from kdcache.report.responses import responses
from kdcache.report.rewards import rewards, signs, stable_cell, votes
from kdcache.report.stable import answer, cell_label, stable_results
from tests.report.synthetic import additive, case, full_case, run, thirty_nine


def published_signs(i: int) -> tuple[float, float, float]:
    """t_ll wins in 25 of 39 cases, MSE in 17, tau_s = 1 in 20: in all 17 of MSE's and in 3 of cross-entropy's."""
    teacher = 0.004 if i < 25 else -0.004
    loss = 0.002 if i >= 22 else -0.002
    tau_s = 0.001 if i >= 19 else -0.001
    return teacher, loss, tau_s


@pytest.fixture(scope="module")
def played():
    return [play(case) for case in thirty_nine(published_signs)]


def test_every_search_replays_to_its_five_candidates(played):
    assert all(isinstance(case.replayed.outcome, Outcome) for case in played)
    assert {len(case.candidates) for case in played} == {5}
    assert played[0].replayed.searched.space.temperatures == (1.0, 4.0)
    assert played[0].replayed.searched.space.alphas == (0.5,)


def test_rewards_are_those_counted_by_hand(played):
    found = {r.choice: r for r in rewards(played)}
    assert {name: (r.tuned.plus, r.tuned.minus, r.tuned.ties) for name, r in found.items()} == {
        "loss": (17, 22, 0),
        "teacher": (25, 14, 0),
        "tau_s": (20, 19, 0),
        "alpha": (0, 39, 0),
    }
    assert signs(played) == {"loss": -5, "teacher": 11, "tau_s": 1}
    assert found["teacher"].tuned.p == pytest.approx(0.1081, abs=1e-4)


def test_unequal_effort_is_counted(played):
    found = {r.choice: r for r in rewards(played)}
    assert (found["loss"].trials_default, found["loss"].trials_alternative) == (2.0, 1.0)  # tied MSE is one run
    tied = (22 * 2 + 17 * 1) / 39
    assert (found["tau_s"].trials_default, found["tau_s"].trials_alternative) == (pytest.approx(tied), 2.0)


def test_at_matched_temperatures_tied_mse_has_no_advantage_left(played):
    found = {r.choice: r for r in rewards(played)}
    # CE at tau 1 loses .05 and is not hidden by a maximum: mean of (loss + .05, loss) is above 0 in every case.
    assert (found["loss"].matched.plus, found["loss"].matched.minus) == (39, 0)
    # At tau 1 the sides are one run, at tau 4 they differ by tau_s.
    assert (found["tau_s"].matched.plus, found["tau_s"].matched.minus) == (20, 19)


def test_the_stable_configuration_and_its_share(played):
    whole = answer(played, played)
    assert cell_label(whole.cell) == "ce t_ll tau_s=1"
    assert whole.temperature == 4.0
    # It is the best where t_ll, CE and tau_s = 1 all win: cases 19, 20 and 21.
    assert share(played, whole, "per case", "validation") == pytest.approx(3 / 39)
    found = figure3(played, whole, no_null)
    assert found.share == found.share_global == pytest.approx(3 / 39)
    assert found.stable.values[10] == 0.0
    # Case 25 and later: t_ll loses .004, CE instead of MSE .002; the best is .8 + .002 + .001.
    assert found.stable.values[0] == pytest.approx(100 * ((0.8 - 0.004 + 0.001) / 0.803 - 1))


def test_regret_of_the_stable_configuration(played):
    in_sample, one_tau, *left_out = stable_results(played, answer(played, played))
    assert (in_sample.rule, in_sample.tau, in_sample.cases) == ("in sample", "per case", 39)
    assert in_sample.regret_worst == pytest.approx(100 * (1 - 0.797 / 0.803))
    # 0-18: tau_s; 19-21: none; 22-24: loss; 25-38: teacher and loss. Of tau_s < 0 the best is CE tied at tau 4.
    expected = 19 * 0.001 / 0.804 + 3 * 0.002 / 0.807 + 14 * 0.006 / 0.803
    assert in_sample.regret_mean == pytest.approx(100 * expected / 39)
    assert one_tau.temperature == 4.0
    assert {s.rule for s in left_out} == {"leave one dataset out"}


def test_a_dataset_left_out_does_not_vote_on_its_own_configuration():
    def effects(i: int) -> tuple[float, float, float]:
        return (0.01 if i // 3 < 7 else -0.01), -0.01, -0.001  # t_ll wins in 7 of 13 datasets

    played = [play(case) for case in thirty_nine(effects)]
    results = {(s.rule, s.tau): s for s in stable_results(played, answer(played, played))}
    assert results["in sample", "per case"].cells == {"ce t_ll tau_s=tied": 39}
    assert results["in sample", "per case"].share == pytest.approx(7 / 13)
    # Without one of the seven, six stand against six: R = 0 keeps t_hs. Without one of the others it is seven to five.
    left_out = results["leave one dataset out", "per case"]
    assert left_out.cells == {"ce t_hs tau_s=tied": 21, "ce t_ll tau_s=tied": 18}
    assert left_out.share == 0.0


def test_deciles_of_best_over_worst_are_those_of_the_gains():
    played = [play(case) for case in thirty_nine(lambda i: (0.0008 * i, -0.001, -0.0005))]
    curves = {(d.name, d.by): d for d in figure1(played, no_null)}
    best_worst = curves["best over worst", "test"]
    # Greedy visits CE/hs .8, MSE/hs .799, CE/ll, CE/ll with tau_s = 1 (-.0005), CE/ll with alpha .5 (-.01).
    by_hand = [100 * ((0.8 + 0.0008 * i) / min(0.79 + 0.0008 * i, 0.799) - 1) for i in range(39)]
    assert best_worst.gains == pytest.approx(by_hand)
    assert best_worst.values == pytest.approx(decile_values(by_hand))
    assert curves["best over worst", "validation"].values == pytest.approx(best_worst.values)
    random = [(0.8 + 0.799 + 3 * (0.8 + 0.0008 * i) - 0.0005 - 0.01) / 5 for i in range(39)]
    over_random = [100 * ((0.8 + 0.0008 * i) / r - 1) for i, r in enumerate(random)]
    assert curves["best over random", "test"].gains == pytest.approx(over_random)


def test_deciles_are_linear_quantiles():
    assert decile_values([0.1 * i for i in range(39)]) == pytest.approx([0.38 * k for k in range(11)])


def test_figure_2_is_signed(played):
    curves = {d.name: d for d in figure2(played, no_null)}
    assert list(curves) == [
        "loss: mse over ce",
        "teacher: t_ll over t_hs",
        "tau_s: 1 over tied",
        "alpha: best under 1 over 1",
    ]
    assert curves["loss: mse over ce"].gains[0] == pytest.approx(100 * (0.798 / 0.8 - 1))
    assert curves["loss: mse over ce"].gains[38] == pytest.approx(100 * (0.802 / 0.8 - 1))
    assert curves["alpha: best under 1 over 1"].values[10] < 0


def test_regret_rows_hold_fixed_configurations_cells_and_rules(played):
    rows = {row.label: row for row in regret_rows(played)}
    fixed = rows["ce t_ll tau 4/1"]
    assert (fixed.kind, fixed.cases, fixed.of) == ("fixed", 39, 39)
    assert fixed.regrets == pytest.approx(rows["ce t_ll tau_s=1, tau tuned"].regrets)
    assert rows["search, by validation"].mean == 0.0
    assert rows["hard labels"].worst == pytest.approx(100 * (1 - 0.7 / 0.807))
    assert rows["lazy"].kind == "rule"


def test_best_by_validation_and_by_test_may_differ():
    def score(c: Configuration):
        return (0.9, 0.5) if c.loss == "mse" else (0.8, 0.6)

    found = play(full_case(score))
    assert found.picked("validation").trial.configuration.loss == "mse"
    assert found.picked("test").trial.configuration.loss == "ce"
    over = {(d.name, d.by): d.values[5] for d in figure1([found], no_null)}
    assert over["best over worst", "test"] == pytest.approx(20.0)
    assert over["best over worst", "validation"] == pytest.approx(100 * (0.5 / 0.6 - 1))


def test_factorial_effects_recover_what_was_added():
    cases = [full_case(additive(0.004, -0.002, 0.001), dataset=d) for d in ("a", "b")]
    found = {e.name: e for e in factorial_effects([play(c) for c in cases], lambda _gains, _datasets: None)}
    grand = 0.8 + 0.002 - 0.001 + 0.0005
    assert found["teacher"].effects == pytest.approx([100 * 0.004 / grand] * 2)
    assert found["loss"].mean == pytest.approx(-100 * 0.002 / grand)
    assert found["tau_s"].mean == pytest.approx(100 * 0.001 / grand)
    assert found["loss x teacher"].mean == pytest.approx(0.0, abs=1e-9)
    assert (found["loss"].low, found["loss"].high) == (None, None)


def test_response_curves_rise_in_tau_and_alpha(played):
    curves = {(r.case, r.over, r.label): r for r in responses(played[:1])}
    curve = curves["d00, base", "tau_t", "ce t_hs tau_s=tied"]
    assert [(p.x, p.test) for p in curve.points] == [(1.0, 0.75), (4.0, 0.8)]
    assert [p.x for p in curves["d00, base", "alpha", "ce t_hs tau 4/4"].points] == [0.5, 1.0]
    assert curve.hard == 0.7


def test_where_lower_is_better_gains_votes_and_regrets_turn_round():
    scores = {"ce": (0.5, 0.4), "mse": (0.4, 0.5)}  # validation prefers MSE, the test cross-entropy
    runs = [
        run(Configuration(teacher="t_hs", tau_t=4.0, loss=loss), pair, metric="nll") for loss, pair in scores.items()
    ]
    found = play(case(runs))
    assert found.picked("validation").label.startswith("mse")
    assert found.picked("test").label.startswith("ce")
    (reward,) = rewards([found])
    assert (reward.tuned.plus, reward.tuned.minus) == (1, 0)
    assert figure2([found], no_null)[0].gains == pytest.approx([-25.0])
    assert found.regret(0.5) == pytest.approx(25.0)
    assert share([found], answer([found], [found]), "per case", "test") == 0.0


def test_votes_within_a_rounding_error_are_ties():
    found = votes([1e-15, 0.0, -1e-15])
    assert (found.ties, found.p, found.reward, found.cases) == (3, None, 0, 3)


def test_without_rewards_the_stable_configuration_is_hintons():
    assert stable_cell({}) == Configuration()
