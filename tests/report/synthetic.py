"""Cases in memory whose scores are given: every example scores the same, so a run's score is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.design import HARD, grid
from kdcache.core.results import RunResult
from kdcache.core.types import Score
from kdcache.metrics import METRICS
from kdcache.report.runs import Case, Run

DATASETS = tuple(f"d{i:02d}" for i in range(13))
STUDENTS = ("base", "six", "four")
SIGNATURE = "accuracy|n=10|v1"
Scores = tuple[float, float]
"""Validation, test."""


def run(
    configuration: Configuration, scores: Scores, *, dataset="d00", student="base", seed=0, rate=None, metric="accuracy"
) -> Run:
    """One run; `rate` is the recorded learning rate."""
    up = METRICS[metric].higher_is_better
    values = {
        split: {metric: Score(name=metric, value=v, higher_is_better=up, signature=SIGNATURE)}
        for split, v in zip(("validation", "test"), scores, strict=True)
    }
    folder = f"{student}/{configuration.label()} {seed} {rate}"
    result = RunResult(
        key=folder,
        dataset=dataset,
        dataset_digest="d",
        student=student,
        seed=seed,
        configuration=configuration,
        teacher_digest="" if configuration.alpha == 0 else f"digest of {configuration.teacher}",
        metric=metric,
        scores=values,
        test_digest={"validation": "v", "test": f"t-{dataset}"},
        selected={},
        counters={"teacher_forwards": 0},
        seconds={},
        extra={} if rate is None else {"training": {"learning_rate": rate}},
    )
    statistics = np.stack([np.full(10, scores[1]), np.ones(10)], axis=1)
    return Run(folder=Path("/nowhere") / dataset / folder, result=result, statistics=statistics)


def case(runs: Sequence[Run]) -> Case:
    """The runs as a case."""
    first = runs[0].result
    return Case(dataset=first.dataset, student=first.student, metric=METRICS[first.metric], runs=tuple(runs))


def configurations(taus: Sequence[float], alphas: Sequence[float]) -> list[Configuration]:
    """Hard labels and everything that a search over these could ask for, each once."""
    asked = [
        Configuration(loss=c.loss, teacher=c.teacher, tau_s=c.tau_s, tau_t=tau, alpha=alpha)
        for c in grid()
        for tau in taus
        for alpha in (1.0, *alphas)
    ]
    return [HARD, *{c.canonical(): c for c in asked}.values()]


def full_case(
    score: Callable[[Configuration], Scores],
    *,
    taus: Sequence[float] = (1.0, 4.0),
    alphas: Sequence[float] = (0.5,),
    seeds: Sequence[int] = (0,),
    dataset: str = "d00",
    student: str = "base",
) -> Case:
    """A case with every trial of the grid; `score` sees canonical configurations."""
    return case(
        [
            run(c, score(c.canonical()), dataset=dataset, student=student, seed=seed)
            for c in configurations(taus, alphas)
            for seed in seeds
        ]
    )


def additive(teacher: float, loss: float, tau_s: float, *, base: float = 0.8) -> Callable[[Configuration], Scores]:
    """Scores that add up: what t_ll, MSE and tau_s = 1 each bring, on validation as on the test.

    Cross-entropy at tau 1 loses .05 and alpha under 1 loses .01, so that tau 4 and alpha 1 always win. Hard labels
    score .7.
    """

    def score(c: Configuration) -> Scores:
        if c.alpha == 0:
            return 0.7, 0.7
        value = base + teacher * (c.teacher == "t_ll") + loss * (c.loss == "mse") - 0.01 * (c.alpha < 1)
        value += tau_s * (c.tau_t == 4 and c.tau_s == 1)
        value -= 0.05 * (c.loss == "ce" and c.tau_t == 1)
        return value, value

    return score


def thirty_nine(effects: Callable[[int], tuple[float, float, float]]) -> list[Case]:
    """13 datasets x 3 students; `effects` gives (teacher, loss, tau_s) of case 0 ... 38."""
    places = [(dataset, student) for dataset in DATASETS for student in STUDENTS]
    return [
        full_case(additive(*effects(i)), dataset=dataset, student=student)
        for i, (dataset, student) in enumerate(places)
    ]
