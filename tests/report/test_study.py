"""What is collected beside tables and effects: teachers, counters, signatures, versions."""

from __future__ import annotations

import pytest

from kdcache.core.errors import RunError
from kdcache.report.runs import group_cases, load_run
from kdcache.report.study import examine
from tests.report.conftest import HARD, Configuration, teachers

CE = Configuration(teacher="t_hs")


def study_of(*folders, **changes):
    return examine(group_cases(map(load_run, folders)), **{"resamples": 100, "seed": 0, **changes})


def test_a_study_names_what_it_was_made_of(run_writer):
    study = study_of(run_writer("a", CE, 0.8, seed=3), run_writer("b", HARD, 0.7, seed=1), unfinished=["x"])
    assert (study.num_runs, study.seeds, study.unfinished) == (2, (1, 3), ("x",))
    assert (study.signatures, study.versions) == (("cache|k=64|v1",), ("torch 2.9",))
    assert (study.resamples, study.seed, study.teacher_forwards) == (100, 0, 0)


def test_teachers_are_listed_once_with_what_is_known(run_writer):
    study = study_of(
        run_writer("a", CE, 0.8, extra={"teachers": teachers()}),
        run_writer("b", HARD, 0.7, extra={"teachers": teachers(), "versions": "odd", "torch": "2.10"}),
    )
    assert [(t.dataset, t.name, t.digest) for t in study.teachers] == [
        ("mrpc", "t_hs", "aaaaaaaa"),
        ("mrpc", "t_ll", "bbbbbbbb"),
    ]
    assert study.versions == ("torch 2.10",)
    assert study.teachers[1].values == {"score": 0.90, "nll": 0.27, "entropy": 0.1, "apt": 2.0}


def test_teachers_of_another_shape_are_refused(run_writer):
    folder = run_writer("a", CE, 0.8, extra={"teachers": {"t_hs": 0.9}})
    with pytest.raises(RunError) as caught:
        study_of(folder)
    assert str(caught.value) == (
        f"{folder}/result.json: extra.teachers is {{'t_hs': 0.9}}; it must be name: {{score: ...}}"
    )


def test_teacher_forwards_are_summed_or_unknown(run_writer):
    one = run_writer("a", CE, 0.8, counters={"teacher_forwards": 2})
    two = run_writer("b", HARD, 0.8, counters={"teacher_forwards": 3})
    assert study_of(one, two).teacher_forwards == 5
    assert study_of(one, run_writer("c", HARD, 0.8, counters={}, seed=1)).teacher_forwards is None
