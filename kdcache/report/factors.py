"""Factorial main effects and interactions over the full grid of eight tuned cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kdcache.core.design import CHOICES, grid
from kdcache.report.cases import Played
from kdcache.report.evidence import FactorialEffect
from kdcache.report.stable import tuned_trial
from kdcache.report.statistics.factorial import factorial_contrasts
from kdcache.report.trials import Trained

Across = Callable[[NDArray[np.float64], Sequence[str]], tuple[float, float] | None]
"""Gains and their datasets -> interval of the mean over cases, or None."""


def factorial_effects(played: Sequence[Played], interval: Across) -> tuple[FactorialEffect, ...]:
    """Three main effects and three interactions, of the cases whose eight cells are all trained.

        effect = 100 (sum_cells s x / 4) / mean_cells(x),   s = +1 on the alternative's side, -1 on the default's

    the difference between the two halves of the grid in per cent of its mean; of an interaction s is the product of two
    sides. Positive where the alternative is better.
    """
    tables = [(case, table) for case in played if (table := _cells(case)) is not None]
    if not tables:
        return ()
    grids_C222 = np.stack([table for _, table in tables])
    contrasts = factorial_contrasts(grids_C222, tuple(CHOICES))
    datasets = [case.case.dataset for case, _ in tables]
    signs = np.array([case.replayed.trials.sign for case, _ in tables])
    found = []
    for sides, values_C in contrasts.items():
        effects = signs * 100.0 * values_C / grids_C222.mean(axis=(1, 2, 3))
        low, high = interval(effects, datasets) or (None, None)
        found.append(
            FactorialEffect(
                name=" x ".join(sides),
                effects=tuple(effects.tolist()),
                cases=tuple(case.name for case, _ in tables),
                mean=float(effects.mean()),
                low=low,
                high=high,
            )
        )
    return tuple(found)


def _cells(case: Played) -> NDArray[np.float64] | None:
    """Test scores of the tuned cells, float64 [2, 2, 2]; None unless all are there and the runs vary all choices."""
    if set(case.replayed.searched.space.order) != set(CHOICES):
        return None
    found = [tuned_trial(cell, case) for cell in grid()]
    scores = [trained.test() for trained in found if isinstance(trained, Trained)]
    return np.reshape(scores, (2, 2, 2)) if len(scores) == len(found) and np.mean(scores) != 0 else None
