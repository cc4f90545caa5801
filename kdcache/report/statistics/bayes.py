"""Bayesian signed-rank test with a region of practical equivalence: worse, equal or better, as probabilities.

The distribution of differences gets a Dirichlet process prior with one pseudo-observation at 0. A draw of weights
over (0, x_1, ..., x_G) gives the probabilities that a mean of two differences is under, in or over the region; the
reported probabilities are how often each of the three is the largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdcache.core.errors import DataError
from kdcache.report.statistics.resample import Array

# N draws  G differences, one a dataset

DRAWS = 50_000
PRIOR = 0.5
"""Weight of the pseudo-observation at 0; an observation has 1."""
STREAM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Probabilities that sum to 1; `equal` is 0 where the region has no width."""

    worse: float
    equal: float
    better: float


def bayesian_signed_rank(
    differences_G: Array, *, rope: float, seed: int = 0, draws: int = DRAWS, prior: float = PRIOR
) -> Posterior:
    """Is the new thing better by more than `rope`, on a new dataset like these?

    Args:
        differences_G: one a dataset, positive where the new thing is better, float64 [G].
        rope: half width of the region that is called equal, in the same unit, >= 0.
        seed: of the draws, >= 0.
        draws: N; the Monte Carlo error of a probability is at most 0.5 / sqrt(N).
        prior: weight of the pseudo-observation, > 0.

    Raises:
        DataError: no differences, one that is not a number, or a negative rope.

    References:
        Benavoli et al. 2014, ICML; Benavoli et al. 2017, JMLR 18 (the package baycomp).

    Example:
        >>> bayesian_signed_rank(np.full(9, 2.0), rope=0.5).better > 0.99
        True
    """
    values = np.asarray(differences_G, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise DataError(f"differences {values.tolist()} are no list of numbers; give one finite number a dataset")
    if rope < 0:
        raise DataError(f"rope = {rope} is negative; give half the width of the region of practical equivalence")
    points = np.concatenate([[0.0], values])
    sums = points[:, None] + points[None, :]
    better = _heaviside(sums, 2 * rope)
    worse = _heaviside(-sums, 2 * rope) if rope > 0 else 1 - better
    generator = np.random.default_rng([seed, STREAM])
    weights = generator.dirichlet(np.concatenate([[prior], np.ones(len(values))]), size=draws)
    over = ((weights @ better) * weights).sum(axis=1)
    under = ((weights @ worse) * weights).sum(axis=1)
    largest = np.argmax(np.stack([under, 1 - under - over, over], axis=1), axis=1)
    p_worse, p_equal, p_better = (np.bincount(largest, minlength=3) / draws).tolist()
    return Posterior(worse=p_worse, equal=p_equal, better=p_better)


def _heaviside(values: Array, threshold: float) -> Array:
    return np.asarray((values > threshold) + 0.5 * (values == threshold), dtype=np.float64)
