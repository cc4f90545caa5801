"""Which space a finished search had, how runs become trials, and what a replay finds missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.design import HARD, Outcome, Space, Trial
from kdcache.core.errors import RunError
from kdcache.core.search_record import SearchRecord, write_record
from kdcache.core.searching import second_stage
from kdcache.report.cases import play
from kdcache.report.lacking import complete, missing
from kdcache.report.options import Options
from kdcache.report.regret import regret_rows
from kdcache.report.spaces import described, find_search, replay_case, tuned
from kdcache.report.stable import answer, stable_results
from kdcache.report.trials import collect
from kdcache.report.unavailable import unavailable
from tests.report.synthetic import additive, case, configurations, full_case, run

CE = Configuration(teacher="t_hs", tau_t=4.0)
ONE = (0.0,)


def test_two_configurations_that_differ_in_the_loss_are_a_search_of_the_loss():
    found = replay_case(case([run(CE, (0.8, 0.8)), run(replace(CE, loss="mse"), (0.9, 0.9))]))
    assert (found.searched.space.order, found.searched.space.temperatures) == (("loss",), (4.0,))
    assert isinstance(found.outcome, Outcome)
    assert [pair.choice for pair in found.outcome.pairs] == ["loss"]
    assert described(found.searched) == "order loss; temperatures 4; alpha 1 (inferred from the runs)"


def test_without_hintons_cell_a_replay_says_what_it_lacks():
    runs = [run(replace(CE, teacher="t_ll"), (0.8, 0.8)), run(replace(CE, loss="mse", tau_s=1.0), (0.7, 0.7))]
    found = replay_case(case(runs))
    assert found.outcome is None
    assert [t.configuration.label() for t in found.lacking] == ["ce t_hs tau 4/4"]


def test_the_only_teacher_stands_where_a_search_has_t_hs():
    lone = replace(CE, teacher="best")
    played = [play(case([run(lone, (0.8, 0.8)), run(replace(lone, loss="mse"), (0.9, 0.9)), run(HARD, (0.7, 0.7))]))]
    assert [c.label for c in played[0].candidates] == ["ce best tau 4/4", "mse best tau 1/1"]
    assert played[0].pairs[0].sign == 1
    assert [row.label for row in regret_rows(played)][:2] == ["mse best tau 1/1", "search, by validation"]
    (stable, _) = stable_results(played, answer(played, played))
    assert (stable.label, stable.share) == ("mse best tau_s=tied", 1.0)
    assert missing(played, answer(played, played)) == ()


def test_runs_of_hard_labels_alone_are_a_case_too():
    played = play(case([run(HARD, (0.7, 0.6))]))
    assert (played.replayed.outcome, len(played.candidates), played.random) == (None, 1, 0.6)


def test_a_missing_trial_is_named_with_its_seed():
    full = full_case(additive(0.01, 0.01, 0.01))
    lacking = Configuration(loss="mse", teacher="t_hs", tau_t=4.0, tau_s=1.0).canonical()
    runs = [r for r in full.runs if r.result.configuration.canonical() != lacking]
    two_seeds = [*runs, *(run(r.result.configuration, (r.validation, r.test), seed=1) for r in runs)]
    two_seeds.append(run(lacking, (0.82, 0.82), seed=2))
    played = [play(case(two_seeds))]
    # loss, teacher and tau_s all win: mse t_ll tau_s=1. With R > 0 for all of them t_hs's cell is not needed.
    assert played[0].replayed.outcome is not None
    assert played[0].seeds == (0, 1)
    worse = [play(case([*[r for r in two_seeds if r.result.configuration.teacher != "t_ll"], *two_seeds[-1:]]))]
    assert worse[0].replayed.searched.space.order == ("loss", "tau_s")
    found = missing(worse, answer(worse, worse))
    assert [(m.wanted_by, m.configurations, m.seeds) for m in found if m.wanted_by == "greedy pairs"] == [
        ("greedy pairs", ("mse t_hs tau 4/1",), (0, 1))
    ]
    assert complete(found) == "random"


def test_what_no_search_can_help_with_is_not_completed():
    found = missing([play(case([run(CE, (0.8, 0.8)), run(replace(CE, tau_t=2.0), (0.8, 0.8))]))], None)
    assert [(m.wanted_by, m.configurations, m.seeds) for m in found] == [("hard", ("hard labels",), (0,))]
    assert complete(found) == ""


def test_two_names_of_one_checkpoint_tie():
    same = [
        replace(r, result=replace(r.result, teacher_digest="one"))
        for r in full_case(additive(0.0, -0.01, -0.01)).runs
        if r.result.configuration.teacher != "t_ll"
    ]
    recorded = {"teachers": {"t_hs": {"digest": "one"}, "t_ll": {"digest": "one"}}}
    same = [replace(r, result=replace(r.result, extra=recorded)) for r in same]
    played = play(case(same))
    assert played.replayed.searched.space.order == ("loss", "teacher", "tau_s")
    signs = {pair.choice: pair.sign for pair in played.pairs}
    assert (signs["loss"], signs["teacher"]) == (-1, 0)
    assert played.candidates[0].label == "ce t_hs = t_ll tau 4/4"


def test_two_checkpoints_of_one_name_are_told_apart():
    other = run(CE, (0.9, 0.9), seed=1)
    other = replace(other, result=replace(other.result, teacher_digest="bbbbbbbbbbbb"))
    found = collect(case([run(CE, (0.8, 0.8)), run(replace(CE, tau_t=2.0), (0.7, 0.7)), other]), ONE)
    assert found.notes == (
        "d00, base: 2 teachers are called t_hs (bbbbbbbb, digest o); choices, deciles and regret use digest o, which "
        "most runs learned from",
    )
    assert all(list(trained.runs) == [0] for trained in found.distinct())


def test_a_second_stage_is_recognised():
    taus = (1.0, 2.0, 4.0)
    more = second_stage(2.0, taus)
    runs = [
        run(replace(CE, tau_t=tau, loss=loss), (0.9 - abs(tau - 2) / 100 - 0.1 * (loss == "mse"), 0.5))
        for tau in (*taus, *more)
        for loss in ("ce", "mse")
    ]
    found = replay_case(case(runs))
    assert (found.searched.space.temperatures, found.searched.space.second_stage) == (taus, True)
    assert isinstance(found.outcome, Outcome)
    assert len(found.outcome.pairs[0].default.trials) == 7
    assert "temperatures 1, 2, 4 and a second stage" in described(found.searched)


def test_learning_rates_are_tuned_after_the_temperature():
    runs = [run(replace(CE, tau_t=tau), (0.8 + tau / 100, 0.5), rate=1e-4) for tau in (1.0, 4.0)]
    runs.append(run(CE, (0.9, 0.6), rate=3e-4))
    found = replay_case(case(runs))
    assert found.searched.space.learning_rates == (1e-4, 3e-4)
    assert found.outcome.cell.trial.learning_rate == 3e-4
    assert play(case(runs)).candidates[0].label == "ce t_hs tau 4/4 lr 0.0003"
    assert "2 learning rates" in described(found.searched)


def test_rates_that_were_not_tuned_cell_by_cell_leave_the_most_frequent_one():
    runs = [
        run(replace(CE, tau_t=tau, loss=loss), (0.8, 0.5), rate=1e-4) for tau in (1.0, 4.0) for loss in ("ce", "mse")
    ]
    runs.append(run(replace(CE, tau_t=1.0, alpha=0.5), (0.9, 0.6), rate=3e-4))
    runs.append(run(replace(CE, tau_t=1.0, alpha=0.5), (0.7, 0.6), rate=1e-4))
    found = replay_case(case(runs))
    assert found.searched.space.learning_rates == (1e-4,)
    assert isinstance(found.outcome, Outcome)


def test_a_teacher_that_runs_only_recorded_is_not_missed():
    recorded = {"teachers": {"t_hs": {"digest": "one"}, "t_ll": {"digest": "digest of t_ll"}}}
    lone = replace(CE, teacher="t_ll")
    runs = [run(lone, (0.8, 0.8)), run(replace(lone, loss="mse"), (0.9, 0.9)), run(HARD, (0.7, 0.7))]
    runs = [replace(r, result=replace(r.result, extra=recorded)) for r in runs]
    played = [play(case(runs))]
    assert [c.label for c in played[0].candidates] == ["ce t_ll tau 4/4", "mse t_ll tau 1/1"]
    assert missing(played, answer(played, played)) == ()


def test_the_rate_of_most_runs_is_the_trainings_own():
    runs = [run(replace(CE, tau_t=tau), (0.8, 0.5), rate=1e-4) for tau in (1.0, 4.0)]
    runs += [run(CE, (0.8, 0.5), rate=2e-4), run(CE, (0.9, 0.6), rate=3e-4)]
    found = collect(case(runs), (0.0, 3e-4))
    assert sorted(trial.learning_rate for trial in found.trained) == [0.0, 0.0, 2e-4, 3e-4]


def test_the_best_run_stands_for_a_trial_that_was_trained_twice():
    found = collect(case([run(CE, (0.8, 0.5)), run(CE, (0.9, 0.4))]), ONE)
    (trained,) = found.distinct()
    assert trained.runs[0].validation == 0.9


def test_seeds_that_decide_are_shared_by_the_trials_with_the_most_frequent_one():
    runs = [run(replace(CE, tau_t=tau), (0.8, 0.5), seed=seed) for tau in (1.0, 4.0) for seed in (1, 2)]
    runs += [run(replace(CE, tau_t=8.0), (0.9, 0.5), seed=1), run(replace(CE, tau_t=16.0), (0.9, 0.5), seed=7)]
    found = collect(case(runs), ONE)
    assert found.seeds == (1,)
    assert {t.configuration.tau_t for t in found.values} == {1.0, 4.0, 8.0}


def test_noise_between_seeds_is_pooled_in_per_cent():
    one = [run(CE, (0.8, score), seed=seed) for seed, score in enumerate((0.79, 0.81))]
    two = [run(replace(CE, tau_t=1.0), (0.8, score), seed=seed) for seed, score in enumerate((0.4, 0.4, 0.4))]
    assert play(case([*one, *two])).noise_sd == pytest.approx((2 * 1.25**2 / 3) ** 0.5)
    assert play(case(one[:1])).noise_sd is None


SPACE = Space(temperatures=(1.0, 4.0), second_stage=False, alphas=(0.5,), order=("teacher", "loss"))
RECORD = SearchRecord(
    code="1",
    student="base",
    model="",
    design="factorial",
    space=SPACE,
    seeds=(0, 1),
    teachers={},
    training={},
    settings={},
)


def place(study: Path, record: SearchRecord = RECORD, **settings) -> list:
    """Runs in `study`/students/base with the record of their search beside students."""
    (study / "search").mkdir(parents=True, exist_ok=True)
    write_record(study, replace(record, **settings))
    runs = [run(c, additive(0.01, 0.01, 0.01)(c.canonical())) for c in configurations((1.0, 4.0), (0.5,))]
    return [moved(r, study) for r in runs]


def moved(r, study: Path):
    """The run in a folder of the study."""
    return replace(r, folder=study / "students" / "base" / r.folder.name)


def test_a_record_says_what_was_searched(tmp_path):
    runs = place(tmp_path / "out")
    assert find_search(runs[0].folder, "base") == tmp_path / "out/search/base.json"
    found = replay_case(case(runs))
    assert (found.searched.space, found.searched.seeds) == (SPACE, (0, 1))
    assert (found.searched.design, found.searched.source) == ("factorial", "recorded by the search")
    assert len(found.outcome.candidates) == 9


def test_of_another_student_s_search_nothing_is_taken(tmp_path):
    runs = place(tmp_path, student="other")
    assert find_search(runs[0].folder, "base") is None
    assert replay_case(case(runs)).searched.source == "inferred from the runs"


def test_a_search_that_trained_in_another_way_is_not_the_case_s(tmp_path):
    runs = place(tmp_path, training={"learning_rate": 1e-4, "epochs": 3})
    for epochs, source in ((3, "recorded by the search"), (5, "inferred from the runs")):
        own = [replace(r, result=replace(r.result, extra={"training": {"epochs": epochs}})) for r in runs]
        assert replay_case(case(own)).searched.source == source


def test_the_seed_that_searched_decides_and_not_the_mean_over_its_repetitions(tmp_path):
    study = tmp_path / "out"
    place(study, design="greedy", seeds=(1, 2), space=replace(SPACE, order=("loss",), alphas=()))
    ce, mse = CE, Configuration(loss="mse").canonical()
    scores = {(ce, 1): 0.8, (ce, 2): 0.9, (mse, 1): 0.81, (mse, 2): 0.7}
    runs = [run(c, (value, value), seed=seed) for (c, seed), value in scores.items()]
    runs.append(run(replace(CE, tau_t=1.0), (0.5, 0.5), seed=1))
    found = replay_case(case([moved(r, study) for r in runs]))
    assert found.trials.seeds == (1,)
    assert [pair.sign for pair in found.outcome.pairs] == [1]  # by the means over both seeds it would be -1


def test_the_recorded_rate_is_the_training_s_own_though_most_runs_have_another(tmp_path):
    study = tmp_path / "out"
    rates = (0.0, 3e-4)
    space = replace(SPACE, order=(), alphas=(), temperatures=(4.0,), learning_rates=rates)
    place(study, space=space, design="greedy", training={"learning_rate": 1e-4})
    runs = [run(CE, (0.8, 0.5), rate=1e-4), run(CE, (0.9, 0.5), rate=3e-4)]
    runs += [run(replace(CE, tau_t=tau), (0.9, 0.5), rate=2e-4) for tau in (1.0, 2.0)]
    found = replay_case(case([moved(r, study) for r in runs]))
    assert found.outcome.best.trial.learning_rate == 3e-4
    assert sorted(trial.learning_rate for trial in found.trials.trained) == [0.0, 2e-4, 2e-4, 3e-4]


def test_what_failed_is_taken_for_the_worst_and_has_no_score(tmp_path):
    study = tmp_path / "out"
    mse = Configuration(loss="mse").canonical()
    broken = (Trial(configuration=mse), Trial(configuration=replace(CE, tau_t=4.0).canonical()))
    runs = place(study, design="greedy", space=replace(SPACE, order=("loss",)), failed=broken)
    kept = [r for r in runs if Trial(configuration=r.result.configuration.canonical()) not in broken]
    played = play(case(kept))
    assert played.replayed.failed == broken
    assert [c.label for c in played.candidates] == ["ce t_hs tau 1/1", "ce t_hs tau 1/1 alpha 0.5"]
    assert [pair.choice for pair in played.pairs] == ["alpha"]  # of the losses one side has no score
    assert tuned(Configuration(loss="mse"), played.replayed) == broken[:1]
    assert (
        "d00, base: mse t_hs tau 1/1, ce t_hs tau 4/4 failed to train; the search took that for the worst"
        in " ".join(unavailable([played], None, Options()))
    )
    place(study, design="greedy", failed=broken)
    played = play(case(kept))  # of a search of teachers too, which wants lazy's four, of which MSE from t_hs failed
    assert (played.lazy_lacking, missing([played], None)) == (broken[:1], ())
    nothing = [r for r in kept if r.result.configuration.alpha == 0]
    all_failed = tuple(Trial(configuration=r.result.configuration.canonical()) for r in runs)
    place(study, design="greedy", space=replace(SPACE, order=()), failed=all_failed)
    played = play(case(nothing))
    assert played.replayed.outcome is None
    assert any("because all of them failed that it decided by" in s for s in unavailable([played], None, Options()))


def test_where_hintons_cell_failed_nothing_else_is_called_hintons(tmp_path):
    broken = tuple(Trial(configuration=replace(CE, tau_t=tau).canonical()) for tau in (1.0, 4.0))
    runs = place(tmp_path, design="greedy", space=replace(SPACE, order=("loss",), alphas=()), failed=broken)
    kept = [r for r in runs if Trial(configuration=r.result.configuration.canonical()) not in broken]
    assert play(case(runs)).hinton.label == "ce t_hs tau 4/4"
    played = play(case(kept))
    assert [c.label for c in played.candidates] == ["mse t_hs tau 1/1"]
    assert played.hinton is None


def test_where_all_of_t_hs_failed_t_ll_does_not_take_its_place(tmp_path):
    space = replace(SPACE, order=("teacher",), alphas=(), temperatures=(4.0,))
    broken = (Trial(configuration=CE.canonical()),)
    place(tmp_path, design="greedy", space=space, failed=broken)
    lone = run(replace(CE, teacher="t_ll"), (0.8, 0.8))
    played = play(case([moved(lone, tmp_path)]))
    assert played.replayed.failed == broken
    assert [c.label for c in played.candidates] == ["ce t_ll tau 4/4"]
    assert played.pairs == ()


def test_of_two_runs_of_one_trial_that_of_the_search_counts(tmp_path):
    space = replace(SPACE, order=("loss",), alphas=(), temperatures=(4.0,))
    own = [run(CE, (0.8, 0.5)), run(Configuration(loss="mse", tau_t=4.0), (0.7, 0.5))]
    other = run(own[1].result.configuration, (0.9, 0.9))
    other = replace(other, folder=other.folder.with_name("from another cache"))
    names = {"a": str(tmp_path / own[0].folder.name), "b": str(tmp_path / own[1].folder.name)}
    place(tmp_path, design="greedy", space=space, outcome={"runs": names})
    runs = [moved(r, tmp_path) for r in (*own, other)]
    assert [pair.sign for pair in replay_case(case(runs)).outcome.pairs] == [-1]
    place(tmp_path, design="greedy", space=space)
    assert [pair.sign for pair in replay_case(case(runs)).outcome.pairs] == [1]


def test_a_record_holds_wherever_the_first_run_lies_and_two_are_no_record(tmp_path):
    runs = place(tmp_path / "b")
    elsewhere = replace(runs[0], folder=tmp_path / "a/students/base/alone")
    assert replay_case(case([elsewhere, *runs])).searched.source == "recorded by the search"
    place(tmp_path / "a")
    assert replay_case(case([elsewhere, *runs])).searched.source == "inferred from the runs, which are of 2 searches"


def test_without_a_run_of_the_searching_seed_another_decides_and_that_is_said(tmp_path):
    runs = place(tmp_path, seeds=(7, 0))
    found = replay_case(case(runs))
    assert found.trials.seeds == (0,)
    assert found.trials.notes == (
        "d00, base: no run has seed 7, by which the search decided; the others' seeds decide",
    )


def test_hard_labels_are_not_missed_where_the_search_was_without_them(tmp_path):
    for hard, wanted in ((True, ["hard"]), (False, [])):
        runs = place(tmp_path, space=replace(SPACE, hard=hard))
        played = play(case([r for r in runs if r.result.configuration.alpha > 0]))
        assert [m.wanted_by for m in missing([played], None) if m.wanted_by == "hard"] == wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "is damaged: Expecting value"),
        (
            lambda tree: tree["space"] | {"temperatures": [4.0, 1.0]},
            "temperatures = [4, 1]; allowed: rising numbers > 0",
        ),
        (
            "[1]",
            "is not the record of a search of format 2; search again with kdcache search, which trains nothing twice",
        ),
        (lambda tree: tree | {"design": "random"}, "base.json: design = 'random'; allowed: greedy, factorial"),
        (lambda tree: tree | {"seeds": []}, "base.json: seeds = []; allowed: at least one"),
        (lambda tree: {k: v for k, v in tree.items() if k != "failed"} | {"failed": 1}, "failed in base.json is 1"),
    ],
    ids=["text", "space", "list", "design", "seeds", "failed"],
)
def test_a_damaged_record_is_refused(tmp_path, content, words):
    runs = place(tmp_path / "out")
    path = tmp_path / "out/search/base.json"
    tree = json.loads(path.read_text())
    if not isinstance(content, str):
        changed = content(tree)
        content = json.dumps(changed if "design" in changed else tree | {"space": changed})
    path.write_text(content)
    with pytest.raises(RunError) as caught:
        replay_case(case(runs))
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
