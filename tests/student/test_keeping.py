"""What a training hands on to the next in one process: equal results, and nothing made twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcache.core.errors import ConfigError, TrainingError
from kdcache.core.results import RunResult
from kdcache.student import distill, keeping, skip_layers
from kdcache.student.plan import StudentConfig
from kdcache.student.search.run import How, Search
from kdcache.student.shared import Shared
from kdcache.training.engine import Engine
from kdcache.training.recording import Graphs
from kdcache.training.run import RunFile, load_run
from kdcache.training.settings import TrainingConfig
from tests.training.recorders import Rerun

pytestmark = pytest.mark.usefixtures("_plain")


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Rerun]:
    """Graphs, as on CUDA, but by a recorder that runs everything again: one for each engine."""
    made: list[Rerun] = []

    def graphs_of(engine: Engine, config: TrainingConfig) -> Graphs | None:
        made.append(Rerun())
        return Graphs(made[-1])

    monkeypatch.setattr(keeping, "graphs_of", graphs_of)
    return made


def train(study: Path, out: Path, shared: Shared | None = None, **settings: Any) -> RunResult:
    file = study_file(study, out)
    base = {"epochs": 4, "batch_size": 16, "cache": study / "out/cache", "student": "half"}
    config = replace(file.block("student", StudentConfig), **{**base, **settings})
    return distill.run(file, config, device="cpu", shared=shared, progress=False)[0]


def study_file(study: Path, out: Path) -> RunFile:
    return load_run(study / "run.yaml", out=out)


def scores(result: RunResult) -> dict[str, dict[str, float]]:
    return {split: {name: score.value for name, score in found.items()} for split, found in result.scores.items()}


@pytest.mark.parametrize(
    "changes",
    [({"seed": 0}, {"seed": 1}, {"seed": 0, "learning_rate": 0.001}), ({}, {"loss": "mse"}, {"alpha": 0.0})],
)
def test_a_training_on_the_memory_of_the_last_one_is_as_one_alone(
    study: Path, tmp_path: Path, recorders: list[Rerun], changes: tuple[dict[str, Any], ...]
) -> None:
    shared = Shared(study_file(study, tmp_path / "together"), several=True)
    together = [train(study, tmp_path / "together", shared, **change) for change in changes]
    assert len(recorders) == 1, "one engine for all"
    alone = [train(study, tmp_path / "alone", **change) for change in changes]
    for one, other in zip(together, alone, strict=True):
        assert one.extra["step"]["graphs"] > 0
        for split, found in scores(other).items():
            assert scores(one)[split] == pytest.approx(found, abs=1e-5)


def test_equal_losses_share_their_graphs_and_others_do_not(study: Path, tmp_path: Path, recorders: list[Rerun]) -> None:
    shared = Shared(study_file(study, tmp_path), several=True)
    train(study, tmp_path, shared, seed=0)
    (recorder,) = recorders
    first = recorder.recorded
    train(study, tmp_path, shared, seed=1)
    assert recorder.recorded == first
    train(study, tmp_path, shared, alpha=0.5)
    assert recorder.recorded > first


def test_another_student_or_another_engine_begins_anew(study: Path, tmp_path: Path, recorders: list[Rerun]) -> None:
    shared = Shared(study_file(study, tmp_path), several=True)
    train(study, tmp_path, shared)
    train(study, tmp_path, shared, weight_decay=0.5)
    assert len(recorders) == 2
    assert recorders[0].released[-1] == 0, "its graphs are gone"


def test_a_training_that_fails_leaves_nothing(study: Path, tmp_path: Path, recorders: list[Rerun]) -> None:
    shared = Shared(study_file(study, tmp_path), several=True)
    train(study, tmp_path, shared)
    with pytest.raises(TrainingError, match="the loss is nan"):
        train(study, tmp_path, shared, weight_decay=1e38)
    assert shared.keeper._held is None
    train(study, tmp_path, shared, seed=2)
    assert len(recorders) > 1


def test_the_weights_of_a_seed_are_made_once(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = skip_layers.build
    monkeypatch.setattr(skip_layers, "build", lambda *args, **more: (made.append(more["seed"]), real(*args, **more))[1])
    shared = Shared(study_file(study, tmp_path), several=True)
    for change in ({"seed": 0}, {"seed": 0, "tau_t": 2.0}, {"seed": 1}):
        train(study, tmp_path, shared, **change)
    assert made == [0, 1]
    alone = train(study, tmp_path / "alone", seed=0, tau_t=2.0)
    again = train(study, tmp_path, shared, seed=0, tau_t=2.0)
    assert scores(again) == scores(alone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "plain", "zero_stage": 1}, "engine = 'plain' cannot do zero_stage = 1"),
        ({"graph": "always"}, "CUDA"),
    ],
)
def test_what_no_engine_can_do_is_refused_before_anything_is_written(
    study: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(study, tmp_path / "out", **settings)
    assert not list(tmp_path.rglob("*"))
    changes = [f"student.{name}={value}" for name, value in settings.items()]
    file = load_run(study / "run.yaml", out=tmp_path / "out", overrides=changes)
    with pytest.raises(ConfigError, match=message):
        Search.of(file, How(device="cpu"))
