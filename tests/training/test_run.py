"""Run files: a dataset or models file named, written out, or named and changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcache.core.errors import ConfigError
from kdcache.training.run import load_run

DATASET = """
name: toy
task: classification
files: {train: t.jsonl, validation: v.jsonl}
columns: {text: text, label: label}
labels: ['no', 'yes']
"""
MODELS = "models: {teacher: {path: owner/name}}\n"


def write(folder: Path, dataset: str) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "toy.yaml").write_text(DATASET)
    (folder / "run.yaml").write_text(f"dataset: {dataset}\n{MODELS}")
    return folder / "run.yaml"


def test_a_block_that_names_a_file_starts_from_it_and_changes_it(tmp_path: Path) -> None:
    file = load_run(write(tmp_path, "{yaml: data/toy.yaml, limit: {train: 5}, max_length: 16}"))
    assert (file.dataset.name, file.dataset.limit, file.dataset.max_length) == ("toy", {"train": 5}, 16)
    assert file.dataset.base == tmp_path / "data"


def test_a_file_that_is_named_alone_is_taken_as_it_is(tmp_path: Path) -> None:
    changed = load_run(write(tmp_path, "{yaml: data/toy.yaml}")).dataset
    (tmp_path / "run.yaml").write_text(f"dataset: data/toy.yaml\n{MODELS}")
    assert load_run(tmp_path / "run.yaml").dataset == changed


def test_a_wrong_key_of_a_change_names_both_files(tmp_path: Path) -> None:
    path = write(tmp_path, "{yaml: data/toy.yaml, limits: {train: 5}}")
    with pytest.raises(ConfigError, match=r"limits.*data/toy\.yaml \(with the changes in .*run\.yaml\)"):
        load_run(path)


@pytest.mark.parametrize("value", ["[a, b]", "{yaml: 3}"])
def test_what_is_neither_a_path_nor_a_block_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"dataset in .*run\.yaml is .*; give a path to its YAML, or a block"):
        load_run(write(tmp_path, value))


def test_a_file_that_is_not_there_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset: data/toi\.yaml in .*run\.yaml is not a file: .*data/toi\.yaml"):
        load_run(write(tmp_path, "{yaml: data/toi.yaml}"))


def test_another_command_is_told_with_what_this_one_was_given(tmp_path: Path) -> None:
    path = write(tmp_path, "data/toy.yaml")
    assert load_run(path).command("dump-teacher") == f"kdcache dump-teacher {path}"
    changes = ("dataset.limit={train: 5}", "teacher.epochs=1", "dump.top_k=8", "student.tau_t=2", "search.seeds=[0]")
    file = load_run(path, overrides=changes, out=Path("my runs"), data_root=Path("d"))
    given = f"{path} --out 'my runs' --data-root d --set 'dataset.limit={{train: 5}}'"
    assert file.command("dump-teacher") == f"kdcache dump-teacher {given} --set dump.top_k=8"
    assert file.command("train-teacher") == f"kdcache train-teacher {given} --set teacher.epochs=1"
    assert file.command("train-student", "--teacher", "t_ll") == (
        f"kdcache train-student {given} --set student.tau_t=2 --teacher t_ll"
    )


def test_a_data_root_of_the_environment_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_DATA", str(tmp_path))
    path = write(tmp_path, "data/toy.yaml")
    assert load_run(path).command("dump-teacher") == f"kdcache dump-teacher {path}"
