"""Which runs are pairs, and the mean difference with its interval."""

from __future__ import annotations

import numpy as np
import pytest

from kdcache.core.configuration import Configuration
from kdcache.report.choices import Material, effects
from kdcache.report.gain import group_runs, sample
from kdcache.report.runs import group_cases, load_run
from tests.report.conftest import HARD, write_grid


def config(**changes):
    return Configuration(**{"teacher": "t_hs", "tau_t": 4.0, **changes})


def materials_of(folders, resamples=400):
    cases = group_cases(load_run(folder) for folder in sorted(folders))
    return [
        Material(case=case, groups=group_runs(case)[0], sampled=sample(case, resamples=resamples, seed=0))
        for case in cases
    ]


def effects_of(folders):
    return {(e.choice, e.alternative): e for e in effects(materials_of(folders))}


def test_the_grid_gives_four_pairs_a_choice_and_eight_against_hard_labels(grid):
    found = effects_of(grid.iterdir())
    assert {key: len(e.differences) for key, e in found.items()} == {
        ("targets", "distilled"): 8,
        ("loss", "mse"): 4,
        ("teacher", "t_ll"): 4,
        ("tau_s", "1"): 4,
    }
    assert found["teacher", "t_ll"].mean > 0 > found["loss", "mse"].mean
    assert found["teacher", "t_ll"].better == 4
    assert all(e.default == "tied" for key, e in found.items() if key[0] == "tau_s")


def test_a_mean_difference_and_its_interval_are_those_of_the_two_runs(run_writer):
    folders = [run_writer("a", config(), 0.9), run_writer("b", config(loss="mse", tau_s=1.0), 0.8)]
    assert effects(materials_of(folders)) == ()  # they differ in two choices
    folders.append(run_writer("c", config(tau_s=1.0), 0.85))
    (material,) = materials_of(folders)
    found = {e.choice: e for e in effects([material])}
    runs = {run.folder.name: run for run in material.case.runs}
    assert found["loss"].differences == pytest.approx([runs["b"].test - runs["c"].test])
    column = {folder.name: i for folder, i in material.sampled.columns.items()}
    differences = material.sampled.scores[:, column["b"]] - material.sampled.scores[:, column["c"]]
    assert (found["loss"].low, found["loss"].high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))


def test_tied_mse_pairs_with_tied_cross_entropy_at_every_temperature(run_writer):
    found = effects_of(
        [
            run_writer("a", config(tau_t=2.0), 0.9),
            run_writer("b", config(tau_t=8.0), 0.9),
            run_writer("c", config(loss="mse", tau_t=1.0), 0.8),
            run_writer("d", config(loss="mse", tau_s=1.0), 0.7),
        ]
    )
    assert len(found["loss", "mse"].differences) == 2
    assert len(found["tau_s", "1"].differences) == 1  # mse 4/1 against mse tied, which is any temperature


def test_alpha_is_compared_with_one_and_other_weights_apart(run_writer):
    found = effects_of(
        [
            run_writer("a", config(), 0.9),
            run_writer("b", config(alpha=0.5), 0.8),
            run_writer("c", config(alpha=0.9), 0.85),
            run_writer("d", HARD, 0.7),
        ]
    )
    assert [key for key in found if key[0] == "alpha"] == [("alpha", "0.5"), ("alpha", "0.9")]
    assert found["alpha", "0.5"].default == "1"
    assert len(found["targets", "distilled"].differences) == 3


def test_runs_of_other_seeds_are_no_pair(run_writer):
    assert effects_of([run_writer("a", config(), 0.9, seed=0), run_writer("b", config(loss="mse"), 0.8, seed=1)]) == {}


def test_one_checkpoint_under_two_names_is_no_teacher_pair(run_writer):
    folders = [
        run_writer("a", config(), 0.9),
        run_writer("b", config(teacher="t_ll"), 0.8, teacher_digest="aaaaaaaa"),
        run_writer("c", config(teacher="t_ll", loss="mse"), 0.8, teacher_digest="aaaaaaaa"),
    ]
    assert {key[0] for key in effects_of(folders)} == {"loss"}


def test_pairs_of_two_checkpoints_under_one_name_keep_apart(run_writer):
    folders = [
        run_writer("a", config(), 0.9),
        run_writer("b", config(loss="mse"), 0.8, teacher_digest="cccccccc"),
    ]
    assert effects_of(folders) == {}


def test_where_lower_is_better_a_positive_difference_is_still_better(run_writer):
    folders = [run_writer("a", config(), 0.9, metric="nll"), run_writer("b", config(loss="mse"), 0.7, metric="nll")]
    assert effects_of(folders)["loss", "mse"].mean < 0


def test_cases_are_pooled_and_metrics_are_not(tmp_path):
    one = write_grid(tmp_path / "one", num_examples=120)
    two = write_grid(tmp_path / "two", num_examples=150, student="tiny", seeds=(0, 1))
    three = write_grid(tmp_path / "three", num_examples=90, dataset="ag", metric="accuracy")
    found = effects(materials_of([*one.iterdir(), *two.iterdir(), *three.iterdir()], resamples=100))
    loss = {e.metric: e for e in found if e.choice == "loss"}
    assert (len(loss["f1_binary"].differences), loss["f1_binary"].cases) == (12, 2)
    assert loss["f1_binary"].seeds == (0, 1)
    assert (len(loss["accuracy"].differences), loss["accuracy"].cases) == (4, 1)
