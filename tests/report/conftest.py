"""Run folders made from synthetic per-example statistics, written by kdcache's own writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kdcache.core.configuration import Configuration
from kdcache.core.results import RunResult, uids_digest, write_run
from kdcache.core.types import Evaluation
from kdcache.metrics import evaluate
from tests.readonly import share

HARD = Configuration(teacher=None, alpha=0.0)
DIGESTS = {"t_hs": "aaaaaaaa", "t_ll": "bbbbbbbb"}


def f1_statistics(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
    """tp, fp, fn of both classes, [I, 6]."""
    columns = []
    for c in (0, 1):
        columns += [
            (labels == c) & (predicted == c),
            (labels != c) & (predicted == c),
            (labels == c) & (predicted != c),
        ]
    return np.stack(columns, axis=1).astype(np.float64)


def evaluation(split: str, accuracy: float, *, num_examples: int, seed: int) -> Evaluation:
    """A split on which a student is right with probability `accuracy`; all students find the same examples hard."""
    fixed = np.random.default_rng([len(split), num_examples])
    labels, difficulty = fixed.integers(2, size=num_examples), fixed.random(num_examples)
    noise = np.random.default_rng([seed, num_examples]).normal(0, 0.1, num_examples)
    right = difficulty + noise < accuracy
    statistics = {
        "classes": f1_statistics(labels, np.where(right, labels, 1 - labels)),
        "accuracy": np.stack([right, np.ones(num_examples)], axis=1).astype(np.float64),
        "nll": np.stack([np.where(right, 0.2, 1.7), np.ones(num_examples)], axis=1),
    }
    return Evaluation(
        split=split,
        uids=tuple(f"{split}-{i}" for i in range(num_examples)),
        scores=evaluate(statistics, ["f1_binary", "accuracy", "nll"]),
        statistics=statistics,
    )


def write(folder: Path, configuration: Configuration, accuracy: float, **changes: Any) -> Path:
    """Write one run; `changes` are fields of RunResult, or `num_examples` and `noise` (seed of its errors)."""
    num_examples = changes.pop("num_examples", 300)
    noise = changes.pop("noise", changes.get("seed", 0) * 1000 + int(accuracy * 1e4))
    evaluations = tuple(
        evaluation(split, accuracy, num_examples=num_examples, seed=noise + i)
        for i, split in enumerate(("validation", "test"))
    )
    hard = configuration.alpha == 0
    result = RunResult(
        key=folder.name,
        dataset="mrpc",
        dataset_digest="d0d0",
        student="small",
        seed=0,
        configuration=configuration,
        teacher_digest="" if hard else DIGESTS.get(str(configuration.teacher), "dddddddd"),
        cache_signature="" if hard else "cache|k=64|v1",
        exactness="" if hard else "exact",
        metric="f1_binary",
        scores={e.split: e.scores for e in evaluations},
        test_digest={e.split: uids_digest(e.uids) for e in evaluations},
        selected={"step": 10.0, "epoch": 1.0},
        counters={"teacher_forwards": 0, "steps": 10},
        seconds={"train": 1.0},
        extra={"versions": {"torch": "2.9"}},
    )
    folder.mkdir(parents=True)
    write_run(folder, replace(result, **changes), evaluations)
    return folder


def write_grid(root: Path, *, seeds: tuple[int, ...] = (0,), num_examples: int = 300, **changes: Any) -> Path:
    """Eight configurations and hard labels for every seed: t_ll helps, mse hurts, tau_s does little."""
    for seed in seeds:
        write(root / f"hard-{seed}", HARD, 0.78, seed=seed, num_examples=num_examples, **changes)
        for teacher in ("t_hs", "t_ll"):
            for loss in ("ce", "mse"):
                for tau_s in ("tied", 1.0):
                    accuracy = 0.82 + 0.05 * (teacher == "t_ll") - 0.04 * (loss == "mse") + 0.004 * (tau_s == 1.0)
                    choice = Configuration(teacher=teacher, loss=loss, tau_t=4.0, tau_s=tau_s)
                    name = f"{loss}-{teacher}-{tau_s}-{seed}"
                    write(root / name, choice, accuracy, seed=seed, num_examples=num_examples, **changes)
    return root


@pytest.fixture(scope="session")
def grid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the nine runs of one seed."""
    return share(request, write_grid(tmp_path_factory.mktemp("grid") / "students"))


@pytest.fixture
def run_writer(tmp_path: Path) -> Callable[..., Path]:
    """`write(name, configuration, accuracy, **changes)` under the test's own folder."""

    def writer(name: str, configuration: Configuration, accuracy: float, **changes: Any) -> Path:
        return write(tmp_path / "runs" / name, configuration, accuracy, **changes)

    return writer


def teachers() -> Mapping[str, Mapping[str, Any]]:
    """What a trainer records of its teachers."""
    return {
        "t_hs": {"score": 0.91, "nll": 0.41, "ece": 0.06, "brier": 0.15, "temperature": 1.9, "digest": "aaaaaaaa"},
        "t_ll": {"score": 0.90, "nll": 0.27, "digest": "bbbbbbbb", "entropy": 0.1, "apt": 2},
    }
