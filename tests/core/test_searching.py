"""The study's two searches on tables of scores: what they visit, decide and return."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.design import ALPHAS, HARD, Outcome, Space, Trial, flip
from kdcache.core.errors import ConfigError
from kdcache.core.searching import Search, factorial, greedy, replay, second_stage


def run(search: Search, score: dict[Trial, float] | None = None, default: float = 0.5) -> tuple[Outcome, list[Trial]]:
    """Answer a search from a table; the outcome and every trial in the order asked for."""
    asked: list[Trial] = []
    batch = next(search)
    while True:
        asked += batch
        try:
            batch = search.send({trial: (score or {}).get(trial, default) for trial in batch})
        except StopIteration as end:
            return end.value, asked


def trial(**settings: object) -> Trial:
    return Trial(configuration=Configuration(**settings).canonical())  # type: ignore[arg-type]


SMALL = Space(temperatures=(1.0, 4.0), second_stage=False, alphas=(0.5,))


def test_with_equal_scores_greedy_keeps_every_default_and_repeats_no_training() -> None:
    outcome, asked = run(greedy(SMALL))
    assert outcome.cell.cell == Configuration()
    assert len(asked) == len(set(asked))
    # hard; CE t_hs tied 2; MSE tied 1 (any tau is one); t_ll 2; tau_s = 1: tau 1 is tied's tau 1, so 1; alpha 1
    assert len(asked) == 1 + 2 + 1 + 2 + 1 + 1
    assert [pair.sign for pair in outcome.pairs] == [0, 0, 0, 0]


def test_greedy_moves_where_the_other_side_is_better_and_goes_on_from_there() -> None:
    table = {trial(loss="mse"): 0.6, trial(loss="mse", teacher="t_ll"): 0.7}
    outcome, _ = run(greedy(SMALL), table)
    assert outcome.cell.cell == Configuration(loss="mse", teacher="t_ll")
    assert [(p.choice, p.sign) for p in outcome.pairs] == [("loss", 1), ("teacher", 1), ("tau_s", 0), ("alpha", -1)]
    assert outcome.best.value == 0.7
    assert len(outcome.candidates) == 4 + 1


def batches(search: Search, default: float = 0.5) -> list[tuple[Trial, ...]]:
    """What may run side by side, one after the other."""
    found = [next(search)]
    while True:
        try:
            found.append(search.send(dict.fromkeys(found[-1], default)))
        except StopIteration:
            return found


def test_what_does_not_depend_on_each_other_is_one_batch() -> None:
    space = replace(SMALL, learning_rates=(1e-3, 2e-3, 3e-3), alphas=(0.3, 0.5))
    first, second, *_, last = batches(greedy(space))
    taus = {trial.configuration.tau_t for trial in first if trial.configuration.alpha == 1}
    assert (len(first), taus) == (3 + 2, {1.0, 4.0})  # hard labels at three rates beside Hinton's two temperatures
    assert {trial.learning_rate for trial in second} == {2e-3, 3e-3}
    assert {(t.configuration.alpha, t.learning_rate) for t in last} == {
        (alpha, rate) for alpha in (0.3, 0.5) for rate in (1e-3, 2e-3, 3e-3)
    }


def test_the_factorial_design_tunes_its_cells_side_by_side() -> None:
    asked = batches(factorial(Space(second_stage=True, alphas=(), learning_rates=(1e-3, 2e-3))))
    assert len(asked) == 3  # all temperatures, all second stages, all second rates
    assert [trial for batch in asked for trial in batch] == list(dict.fromkeys(t for batch in asked for t in batch))


def test_the_order_of_the_choices_is_the_space_s() -> None:
    outcome, _ = run(greedy(replace(SMALL, order=("tau_s", "loss"))))
    assert [pair.choice for pair in outcome.pairs] == ["tau_s", "loss", "alpha"]


def test_the_paper_s_grid_visits_thirteen_candidates() -> None:
    outcome, asked = run(greedy(Space()))
    assert len(outcome.candidates) == 4 + 9
    assert [best.cell.alpha for best in outcome.candidates[4:]] == list(ALPHAS)
    assert len(asked) == len(set(asked))


def test_a_tie_between_temperatures_goes_to_the_smaller() -> None:
    table = {trial(tau_t=1.0): 0.4}
    outcome, _ = run(greedy(replace(SMALL, temperatures=(1.0, 2.0, 4.0))), table)
    assert outcome.candidates[0].trial.configuration.tau_t == 2.0


def test_the_second_stage_lies_between_the_neighbours_of_the_best() -> None:
    assert second_stage(4.0, (1.0, 2.0, 4.0, 8.0)) == (2.666667, 3.333333, 5.333333, 6.666667)
    assert second_stage(64.0, (32.0, 64.0)) == (42.666667, 53.333333, 85.333333, 106.666667)
    assert second_stage(1.0, (1.0,)) == (1.2, 1.4, 1.6, 1.8)


def test_the_second_stage_s_best_is_what_the_cell_is_worth() -> None:
    space = replace(SMALL, temperatures=(1.0, 2.0, 4.0), second_stage=True, alphas=())
    outcome, _ = run(greedy(space), {trial(tau_t=2.0): 0.6, trial(tau_t=2.666667): 0.7})
    assert outcome.best.trial.configuration.tau_t == 2.666667
    assert outcome.best.value == 0.7


def test_other_learning_rates_are_tried_at_the_best_temperature_only() -> None:
    space = replace(SMALL, learning_rates=(1e-4, 2e-4), hard=False, alphas=())
    best = Trial(configuration=Configuration(tau_t=4.0).canonical(), learning_rate=2e-4)
    table = {replace(best, learning_rate=1e-4): 0.6, best: 0.8}
    outcome, asked = run(greedy(space), table)
    assert outcome.candidates[0].trial == best
    at_two = [t for t in asked if t.learning_rate == 2e-4 and t.configuration.loss == "ce"]
    assert Trial(configuration=Configuration(tau_t=1.0).canonical(), learning_rate=2e-4) not in at_two[:1]
    assert outcome.hard is None


def test_hard_labels_get_every_learning_rate() -> None:
    outcome, asked = run(greedy(replace(SMALL, learning_rates=(1e-4, 2e-4))))
    assert [t.learning_rate for t in asked if t.configuration == HARD.canonical()] == [1e-4, 2e-4]
    assert outcome.hard is not None


def test_the_factorial_design_tunes_all_eight_cells_and_finds_the_best() -> None:
    table = {trial(loss="mse", teacher="t_ll", tau_t=4.0, tau_s=1.0): 0.9}
    outcome, asked = run(factorial(SMALL), table)
    assert len({best.cell for best in outcome.candidates if best.cell.alpha == 1}) == 8
    assert outcome.cell.cell == Configuration(loss="mse", teacher="t_ll", tau_s=1.0)
    assert len(asked) == len(set(asked))


def test_a_replay_gives_the_search_s_outcome_or_what_it_still_needs() -> None:
    outcome, asked = run(greedy(SMALL), {trial(loss="mse"): 0.6})
    values = {t: 0.6 if t == trial(loss="mse") else 0.5 for t in asked}
    assert replay(greedy(SMALL), values) == outcome
    del values[asked[-1]]
    assert replay(greedy(SMALL), values) == (asked[-1],)


def test_flipping_a_choice_twice_is_nothing() -> None:
    for choice in ("loss", "teacher", "tau_s"):
        assert flip(flip(Configuration(), choice), choice) == Configuration()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": ("loss", "tau")}, r"order = loss, tau; allowed: each at most once of loss, teacher, tau_s"),
        ({"temperatures": (4.0, 1.0)}, r"temperatures = \[4, 1\]; allowed: rising numbers > 0, at least one"),
        ({"temperatures": ()}, r"temperatures = \[\]; allowed"),
        ({"alphas": (0.5, 1.0)}, r"alphas = \[0.5, 1\]; allowed: numbers inside \(0, 1\); alpha 1 is always tried"),
        ({"learning_rates": (1e-4, 1e-4)}, r"learning_rates = \[0.0001, 0.0001\]; allowed: different numbers > 0"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Space(**settings)  # type: ignore[arg-type]
