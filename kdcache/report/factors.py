"""Factorial main effects and interactions over the full grid of eight tuned cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.design import CHOICES, grid
from kdcache.report.cases import Played
from kdcache.report.evidence import FactorialEffect
from kdcache.report.stable import tuned_trial
from kdcache.report.trials import Trained

Across = Callable[[Sequence[float], Sequence[str]], tuple[float, float] | None]
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
    names = [(name,) for name in CHOICES] + list(combinations(CHOICES, 2))
    found = []
    for sides in names:
        effects = [_effect(case, table, sides) for case, table in tables]
        ends = interval(effects, [case.case.dataset for case, _ in tables])
        low, high = ends or (None, None)
        found.append(
            FactorialEffect(
                name=" x ".join(sides),
                effects=tuple(effects),
                cases=tuple(case.name for case, _ in tables),
                mean=float(np.mean(effects)),
                low=low,
                high=high,
            )
        )
    return tuple(found)


def _cells(case: Played) -> dict[Configuration, float] | None:
    """Test score of each tuned cell; None unless all eight are there and the runs vary all three choices."""
    if set(case.replayed.searched.space.order) != set(CHOICES):
        return None
    found = {cell: tuned_trial(cell, case) for cell in grid()}
    scores = {cell: trained.test() for cell, trained in found.items() if isinstance(trained, Trained)}
    return scores if len(scores) == len(found) and np.mean(list(scores.values())) != 0 else None


def _effect(case: Played, table: dict[Configuration, float], sides: Sequence[str]) -> float:
    total = 0.0
    for cell, score in table.items():
        alternatives = [getattr(cell, name) == CHOICES[name].alternative for name in sides]
        sign = float(np.prod([1.0 if alternative else -1.0 for alternative in alternatives]))
        total += sign * score
    half = len(table) / 2
    return case.replayed.trials.sign * 100.0 * (total / half) / float(np.mean(list(table.values())))
