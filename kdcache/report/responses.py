"""Response curves: what the temperature and alpha do in a case, one curve a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.design import grid
from kdcache.report.cases import Played
from kdcache.report.evidence import Response, ResponsePoint
from kdcache.report.stable import cell_label
from kdcache.report.trials import Trained

LEAST = 2
"""Points that make a curve."""


def responses(played: Sequence[Played]) -> tuple[Response, ...]:
    """Every curve of at least two points: cells over tau_t at alpha 1, then cells over alpha at a temperature."""
    found = []
    for case in played:
        found += [*_over_tau(case), *_over_alpha(case)]
    return tuple(found)


def _by_configuration(case: Played) -> dict[Configuration, Trained]:
    """Canonical configuration -> its trial at the learning rate of the best validation score."""
    best: dict[Configuration, Trained] = {}
    for trial, trained in case.replayed.trials.trained.items():
        there = best.get(trial.configuration)
        if there is None or case.value(trained) > case.value(there):
            best[trial.configuration] = trained
    return best


def _over_tau(case: Played) -> list[Response]:
    there = _by_configuration(case)
    taus = sorted({configuration.tau_t for configuration in there if configuration.alpha == 1})
    curves = []
    for cell in grid():
        if cell.loss == "mse" and cell.tau_s == "tied":
            continue  # one run at every temperature
        asked = [(tau, there.get(replace(cell, tau_t=tau).canonical())) for tau in taus]
        points = [(tau, trained) for tau, trained in asked if trained is not None]
        if len(points) >= LEAST:
            curves.append(_response(case, "tau_t", cell_label(case.replayed.trials.real(cell)), points))
    return curves


def _over_alpha(case: Played) -> list[Response]:
    """Families of runs that differ in alpha alone, hard labels (alpha 0) left to the reference line."""
    families: dict[Configuration, list[tuple[float, Trained]]] = {}
    for configuration, trained in _by_configuration(case).items():
        if configuration.alpha > 0:
            families.setdefault(replace(configuration, alpha=1.0), []).append((configuration.alpha, trained))
    curves = []
    for configuration, points in families.items():
        if len(points) >= LEAST:
            label = case.replayed.trials.real(configuration).label()
            curves.append(_response(case, "alpha", label, sorted(points, key=lambda point: point[0])))
    return curves


def _response(case: Played, over: str, label: str, points: Sequence[tuple[float, Trained]]) -> Response:
    return Response(
        case=case.name,
        metric=case.case.metric.name,
        over="alpha" if over == "alpha" else "tau_t",
        label=label,
        points=tuple(_point(case, x, trained) for x, trained in points),
        hard=None if case.hard is None else case.hard.test(),
    )


def _point(case: Played, x: float, trained: Trained) -> ResponsePoint:
    scores = [run.test for run in trained.runs.values()]
    return ResponsePoint(
        x=x,
        validation=case.replayed.trials.sign * case.value(trained),
        test=trained.test(),
        test_sd=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        seeds=tuple(trained.runs),
        tests=tuple(scores),
    )
