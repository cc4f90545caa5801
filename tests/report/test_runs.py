"""What `compare` reads and what it refuses, by the text of the message."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdcache.core.configuration import Configuration
from kdcache.core.errors import RunError
from kdcache.report.runs import find_runs, group_cases, load_run
from tests.report.conftest import HARD

CE = Configuration(teacher="t_hs", tau_t=4.0)


def refusal(function, *arguments):
    with pytest.raises(RunError) as caught:
        function(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def edit(folder: Path, change) -> None:
    tree = json.loads((folder / "result.json").read_text())
    change(tree)
    (folder / "result.json").write_text(json.dumps(tree))


def test_a_folder_of_runs_is_searched_two_levels_deep(grid):
    assert len(find_runs([grid])[0]) == 9
    assert find_runs([grid]) == find_runs([grid.parent])
    assert find_runs([grid, grid / "hard-0"]) == find_runs([grid])


def test_runs_three_levels_down_are_not_found(run_writer, tmp_path):
    run_writer("a/b/c", HARD, 0.8)
    assert refusal(find_runs, [tmp_path]) == (
        f"{tmp_path} holds no finished run (none there or up to two levels below); "
        "a run folder holds result.json and stats.npz"
    )


def test_a_study_stands_for_its_students_and_a_folder_of_studies_for_theirs(run_writer, tmp_path):
    done = [run_writer(f"{study}/students/{student}/run", HARD, 0.8) for study in "ab" for student in ("big", "small")]
    for study in "ab":
        teacher = tmp_path / "runs" / study / "teacher"
        teacher.mkdir()
        (teacher / "log.jsonl").write_text("{}\n")  # no run that has not finished
    assert find_runs([tmp_path / "runs"]) == (tuple(done), ())
    assert find_runs([tmp_path / "runs" / "a"]) == (tuple(done[:2]), ())
    assert find_runs([tmp_path / "runs" / "a" / "students"]) == (tuple(done[:2]), ())


def test_unfinished_runs_beside_finished_ones_are_named(run_writer, tmp_path):
    done = run_writer("done", HARD, 0.8)
    (tmp_path / "runs" / "open").mkdir()
    (tmp_path / "runs" / "open" / "log.jsonl").write_text("{}\n")
    (tmp_path / "runs" / ".hidden").mkdir()
    (tmp_path / "runs" / ".hidden" / "config.json").write_text("")
    assert find_runs([tmp_path / "runs"]) == ((done,), (tmp_path / "runs" / "open",))


def test_no_folder_a_missing_folder_and_an_unfinished_run_are_refused(tmp_path):
    assert refusal(find_runs, []) == (
        "no run folders were given; give one or more, e.g. kdcache compare runs/demo/students"
    )
    assert refusal(find_runs, [tmp_path / "x"]) == (
        f"{tmp_path}/x is not a folder; give run folders, or a folder that holds them"
    )
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "config.json").write_text("a: 1\n")
    assert refusal(find_runs, [tmp_path / "open"]) == (
        f"{tmp_path}/open has no result.json: the run has not finished; let it finish, or leave it out"
    )
    assert refusal(find_runs, [tmp_path]).startswith(f"{tmp_path} holds no finished run (only 1 unfinished)")


def test_a_run_reads_back_with_its_scores(run_writer):
    run = load_run(run_writer("a", CE, 0.8))
    assert run.statistics.shape == (300, 6)
    assert run.test == run.result.scores["test"]["f1_binary"].value
    assert run.validation == run.result.scores["validation"]["f1_binary"].value


def test_a_score_that_is_not_a_number_is_refused(run_writer):
    folder = run_writer("a", CE, 0.8)
    edit(folder, lambda tree: tree["scores"]["test"]["nll"].update(value=float("nan")))
    assert refusal(load_run, folder) == f"{folder}: test nll is nan, not a number; train the run again"


def test_an_unknown_metric_and_a_missing_split_are_refused(run_writer):
    folder = run_writer("a", CE, 0.8)
    edit(folder, lambda tree: tree.update(metric="bleurt"))
    assert refusal(load_run, folder).startswith(
        f"{folder} was selected by 'bleurt', which is no metric; known: f1_binary, "
    )
    folder = run_writer("b", CE, 0.8)
    edit(folder, lambda tree: tree["scores"].pop("validation"))
    assert refusal(load_run, folder) == (f"{folder} has no validation f1_binary; evaluate the run on validation data")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty", "missing"])
def test_a_damaged_statistics_file_is_refused(run_writer, damage):
    folder = run_writer("a", CE, 0.8)
    path = folder / "stats.npz"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = 3 * len(content) // 4
        flipped = content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 64]) + content[middle + 64 :]
        path.write_bytes({"truncated": content[:-200], "flipped": flipped, "text": b"no zip", "empty": b""}[damage])
    assert refusal(load_run, folder).startswith(f"cannot read {path}: ")


def rewrite(folder: Path, **arrays) -> None:
    with np.load(folder / "stats.npz") as file:
        content = {name: file[name] for name in file.files}
    content.update(arrays)
    np.savez_compressed(folder / "stats.npz", **{k: v for k, v in content.items() if v is not None})


def test_statistics_that_do_not_give_the_score_are_refused(run_writer):
    folder = run_writer("a", CE, 0.8)
    rewrite(folder, **{"test/classes": np.ones((300, 6))})
    assert f"{folder}/stats.npz is damaged: it gives a test f1_binary of 0.5, result.json says 0." in refusal(
        load_run, folder
    )


def test_statistics_of_other_examples_or_with_holes_are_refused(run_writer):
    folder = run_writer("a", CE, 0.8)
    rewrite(folder, **{"test/uids": np.array([f"x{i}" for i in range(300)])})
    assert refusal(load_run, folder) == (
        f"{folder}/stats.npz is damaged: its test examples are not those of result.json; train again"
    )
    folder = run_writer("b", CE, 0.8)
    rewrite(folder, **{"test/classes": np.full((300, 6), np.inf)})
    assert refusal(load_run, folder) == (f"{folder}/stats.npz is damaged: classes holds values that are not numbers")
    folder = run_writer("c", CE, 0.8)
    rewrite(folder, **{"test/classes": None})
    assert refusal(load_run, folder) == (
        f"{folder}/stats.npz lacks the test statistic 'classes'; it holds accuracy, nll"
    )


def test_cases_are_datasets_times_students(run_writer):
    folders = [
        run_writer("a", CE, 0.8),
        run_writer("b", HARD, 0.7),
        run_writer("c", CE, 0.8, student="tiny"),
        run_writer("d", CE, 0.8, dataset="ag"),
    ]
    cases = group_cases(map(load_run, folders))
    assert [(case.name, len(case.runs)) for case in cases] == [("ag, small", 1), ("mrpc, small", 2), ("mrpc, tiny", 1)]
    assert cases[0].signature == "f1:binary(positive=1)|n=300|v1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "accuracy"}, "were selected by f1_binary and accuracy; compare runs of one metric"),
        ({"num_examples": 200}, "were scored on different test examples ("),
        ({"dataset_digest": "eeee"}, "have different data (d0d0, eeee); compare runs of one dataset"),
    ],
)
def test_runs_of_one_case_that_cannot_be_compared_are_refused_by_name(run_writer, changes, words):
    one, two = run_writer("a", CE, 0.8), run_writer("b", HARD, 0.8, **changes)
    text = refusal(group_cases, [load_run(one), load_run(two)])
    assert text.startswith(f"{one} and {two} (mrpc, small) {words}")


def test_scores_computed_in_two_ways_are_refused(run_writer):
    one, two = run_writer("a", CE, 0.8), run_writer("b", HARD, 0.8)
    edit(two, lambda tree: tree["scores"]["test"]["f1_binary"].update(signature="f1:v0"))
    assert refusal(group_cases, [load_run(one), load_run(two)]) == (
        f"{one} and {two} (mrpc, small) computed their test scores differently "
        "(f1:binary(positive=1)|n=300|v1, f1:v0); score them alike"
    )


def test_runs_with_other_classes_are_refused(run_writer):
    one, two = load_run(run_writer("a", CE, 0.8)), load_run(run_writer("b", HARD, 0.8))
    other = replace(two, statistics=np.hstack([two.statistics, np.zeros((300, 3))]))
    assert refusal(group_cases, [one, other]) == (
        f"{one.folder} and {two.folder} (mrpc, small) differ in the number of classes; compare runs of one task"
    )
