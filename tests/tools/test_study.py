"""One file for a study of several datasets: what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdcache.student.search.settings import SearchConfig
from kdcache.training.run import load_run
from tools.baselines import Baseline
from tools.run_all_tasks import CONFIGS, NAMES, Outcome, table
from tools.study import FILE, run_files


def test_each_dataset_gets_a_run_file_with_the_shared_blocks_and_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.yaml").write_text(
        "name: toy\ntask: classification\nfiles: {train: t.jsonl}\n"
        "columns: {text: text, label: label}\nlabels: ['a', 'b']\n"
    )
    tree = {
        "out": "runs/s",
        "models": {"teacher": {"path": "owner/name"}},
        "student": {"epochs": 2, "learning_rate": 0.001},
        "datasets": {
            "one": {"dataset": {"yaml": "set.yaml", "limit": {"train": 5}}},
            "two": {"dataset": "set.yaml", "student": {"epochs": 7}},
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
    files = run_files(Path("study.yaml"))
    one, two = (load_run(files[name]) for name in ("one", "two"))
    assert one.dataset.limit == {"train": 5}
    assert (one.out, two.out) == (Path("runs/s/one"), Path("runs/s/two"))
    assert one.blocks["student"] == {"epochs": 2, "learning_rate": 0.001}
    assert two.blocks["student"] == {"epochs": 7, "learning_rate": 0.001}


def test_the_mini_study_has_five_datasets_two_students_and_three_seeds(tmp_path: Path) -> None:
    files = {name: load_run(path) for name, path in run_files(FILE, tmp_path).items()}
    assert {file.dataset.task for file in files.values()} == {"classification", "ner", "qa"}
    assert len(files) == 5
    for file in files.values():
        search = file.block("search", SearchConfig)
        assert (len(search.students), search.seeds, search.temperatures) == (2, (0, 1, 2), (1.0, 4.0, 16.0))


@pytest.mark.parametrize("name", NAMES)
def test_every_real_run_has_a_file_that_reads(name: str) -> None:
    file = load_run(CONFIGS / f"{name}.yaml")
    assert file.out == Path("runs/tasks") / name
    assert {"teacher", "student"} <= file.blocks.keys()


def outcome(**changes: object) -> Outcome:
    values = {
        "name": "x",
        "metric": "entity_f1",
        "teachers": {"t_hs": {"entity_f1": 0.5}, "t_ll": {"entity_f1": 0.2}},
        "hard": 0.3,
        "distilled": 0.35,
        "configuration": "ce t_hs tau 2/1",
        "baselines": (Baseline(name="most frequent tag", metric="entity_f1", value=0.25),),
        "seconds": {"teacher": 60.0, "dump": 6.0},
        "cache_bytes": 2_500_000,
    }
    return Outcome(**{**values, **changes})  # type: ignore[arg-type]


def test_a_teacher_under_its_baseline_is_named() -> None:
    assert outcome().lost == ["x: t_ll has a test entity_f1 of 0.2000, not better than 0.2500 (most frequent tag)"]


def test_of_a_loss_the_lower_is_better() -> None:
    low = {"t_hs": {"nll": 3.0}, "t_ll": {"nll": 6.0}}
    base = (Baseline(name="unigrams", metric="nll", value=5.0),)
    assert len(outcome(teachers=low, baselines=base).lost) == 1


def test_the_table_has_a_line_a_run_and_the_time_of_all() -> None:
    lines = table([outcome(), outcome(name="y")]).splitlines()
    assert lines[2].startswith("| x | entity_f1 | most frequent tag: 0.250 | 0.500 | 0.200 | 0.300 | 0.350 |")
    assert lines[2].endswith("| 66 | 2.5 MB |")
    assert lines[-1] == "2 runs, 2 min in all"
