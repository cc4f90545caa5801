"""The demo's configurations, and the run file that it leaves for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcache.core.config import shipped
from kdcache.demo import pipeline, ratings
from kdcache.student.plan import StudentConfig
from kdcache.teacher.dump import DumpConfig
from kdcache.teacher.finetune import TeacherConfig
from kdcache.training.run import load_run
from tests.tiny import refused

CONFIG = StudentConfig(tau_t=4.0, seed=3, epochs=2)


def labels(cells: list[StudentConfig]) -> list[str]:
    return [cell.configuration.label() for cell in cells]


def test_the_grid_is_hard_labels_and_loss_by_teacher_by_temperature() -> None:
    cells = pipeline.cells(CONFIG, quick=False)
    assert labels(cells) == [
        "hard labels",
        "ce t_hs tau 4/4",
        "ce t_hs tau 4/1",
        "ce t_ll tau 4/4",
        "ce t_ll tau 4/1",
        "mse t_hs tau 4/4",
        "mse t_hs tau 4/1",
        "mse t_ll tau 4/4",
        "mse t_ll tau 4/1",
    ]
    assert len({cell.configuration.canonical() for cell in cells}) == 9
    assert {(cell.seed, cell.epochs) for cell in cells} == {(3, 2)}


def test_quick_leaves_out_most_of_mse() -> None:
    every = pipeline.cells(CONFIG, quick=False)
    assert pipeline.cells(CONFIG, quick=True) == every[:6]
    assert labels(every[5:6]) == ["mse t_hs tau 4/4"]


@pytest.mark.parametrize("quick", [False, True])
def test_the_run_file_that_the_demo_writes_is_one_for_every_command(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_DATA", str(tmp_path / "elsewhere"))
    out = tmp_path / "demo"
    (out / "data").mkdir(parents=True)
    written = pipeline._run_file(out, quick)
    file = load_run(out / "run.yaml")
    assert file == written
    assert file.out == out
    assert {name: Path(path) for name, path in file.dataset.files.items()} == {
        split: (out / "data" / f"{split}.jsonl").resolve() for split in ("train", "validation", "test")
    }
    assert file.dataset.limit == ({"train": 640, "validation": 300, "test": 400} if quick else file.dataset.limit)
    source = load_run(shipped("runs/demo.yaml"), overrides=pipeline.QUICK if quick else ())
    for stage, settings in (("teacher", TeacherConfig), ("dump", DumpConfig), ("student", StudentConfig)):
        assert file.block(stage, settings) == source.block(stage, settings)
    assert file.models == source.models


def test_a_command_takes_the_demos_run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    file = pipeline._run_file(tmp_path, True)
    error = refused(capsys, "train-student", file.path, "--tau-t", "2", code=2)
    assert error.startswith(f"no cache in {tmp_path / 'cache'}; run kdcache dump-teacher {file.path} first")
    error = refused(capsys, "dump-teacher", file.path, code=2)
    assert error.startswith(f"no finished teacher in {tmp_path / 'teacher'}; run kdcache train-teacher {file.path}")


def test_preparing_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    lines = "\n".join(f"{i}\t{(-1) ** i * 1.5}\tsnippet number {i}" for i in range(100))
    (tmp_path / ratings.RATINGS).write_text(lines, encoding="latin-1")
    folder = tmp_path / "data"
    sizes = ratings.prepare(folder, source=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 4
    (tmp_path / ratings.RATINGS).unlink()
    assert ratings.prepare(folder, source=tmp_path) == sizes
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
