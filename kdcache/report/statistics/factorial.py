"""Main effects and interactions of a complete two-level design: loss, teacher, student temperature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from kdcache.core.errors import DataError
from kdcache.report.statistics.resample import Array

# ... any leading dimensions: cases, resamples


def factorial_contrasts(scores: Array, factors: Sequence[str]) -> dict[tuple[str, ...], Array]:
    """Mean score where a factor takes its alternative, less where it takes its default; and what two do together.

        effect = sum over cells of (s x) / (half the cells),    s = +1 on the alternative's side, -1 on the default's

    Of an interaction s is the product of two sides: half of how much the effect of one factor differs between the
    sides of the other.

    Args:
        scores: float64 [..., 2, 2, ...], one axis of (default, alternative) a factor, the last ones.
        factors: names of these axes.

    Returns:
        (factor,) or (factor, factor) -> float64 [...], in the unit of the scores.

    Raises:
        DataError: axes that are not of two levels.

    Example:
        >>> factorial_contrasts(np.array([[1.0, 2.0], [4.0, 5.0]]), ["loss", "teacher"])[("loss",)].item()
        3.0
    """
    count = len(factors)
    if scores.ndim < count or scores.shape[scores.ndim - count :] != (2,) * count:
        raise DataError(f"scores of shape {scores.shape} are no two-level design of {', '.join(factors)}")
    axes = tuple(range(scores.ndim - count, scores.ndim))
    effects: dict[tuple[str, ...], Array] = {}
    for own in (*((name,) for name in factors), *combinations(factors, 2)):
        sign = np.ones((2,) * count)
        for name in own:
            sign = sign * np.array([-1.0, 1.0]).reshape([2 if other == name else 1 for other in factors])
        effects[own] = np.asarray((scores * sign).sum(axis=axes) / 2 ** (count - 1))
    return effects
