"""Paired bootstrap over test examples, as matrix products of resampling weights and additive statistics.

    score_br = finish(sum_i w_bi s_ir),   w_b ~ Multinomial(I, 1/I)

All runs of a case see the same w_b, so that differences and ratios between runs are paired (Efron and Tibshirani 1993,
chapter 16). Cases that share a test set share w_b too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kdcache.core.config import digest

# B resamples  I test examples  R runs  S statistics of one run

LEVEL = 0.95
"""Of every interval in the report."""

CHUNK_CELLS = 2**21
"""Weights made at a time: 16 MiB, and as much again for the indices they are counted from."""

Array = NDArray[np.float64]


def resampled_scores(
    statistics_IRS: Array,
    finish: Callable[[Array], Array],
    *,
    resamples: int,
    seed: int,
    stream: str = "",
    chunk_cells: int = CHUNK_CELLS,
) -> Array:
    """Scores of every run on every resample of the test examples.

    Args:
        statistics_IRS: additive statistics, float64 [I, R, S].
        finish: [..., S] sums -> [...] scores.
        resamples: B.
        seed: of the resamples, >= 0.
        stream: names the test set; equal (seed, stream, I) give the same resamples.
        chunk_cells: weights to hold at a time; changes no result.

    Returns:
        float64 [B, R].
    """
    num_examples, num_runs, num_statistics = statistics_IRS.shape
    flat = np.ascontiguousarray(statistics_IRS.reshape(num_examples, -1))
    generator = np.random.default_rng([seed, int(digest(stream), 16)])
    scores_BR = np.empty((resamples, num_runs))
    chunk = max(1, chunk_cells // num_examples)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(num_examples, size=(size, num_examples))
        drawn += np.arange(size)[:, None] * num_examples
        counts = np.bincount(drawn.ravel(), minlength=size * num_examples)
        weights_bI = counts.reshape(size, num_examples).astype(np.float64)
        sums = (weights_bI @ flat).reshape(size, num_runs, num_statistics)
        scores_BR[start : start + size] = finish(sums)
    return scores_BR


def interval(values_B: Array, *, level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval (quantile method: linear); None if a resample has no value.

    Example:
        >>> interval(np.arange(101.0), level=0.5)
        (25.0, 75.0)
    """
    if not np.isfinite(values_B).all():
        return None
    low, high = np.quantile(values_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def gain_percent(score: Array, baseline: Array, *, higher_is_better: bool) -> Array:
    """Relative gain in per cent, positive where the score is better; NaN where the baseline is 0.

        g = 100 (score / baseline - 1)        its negative where lower is better

    Example:
        >>> gain_percent(np.array([0.84]), np.array([0.80]), higher_is_better=True).round(6).tolist()
        [5.0]
    """
    ratio = np.divide(score, baseline, out=np.full(np.shape(score), np.nan), where=baseline != 0)
    return np.asarray(100.0 * (ratio - 1.0) * (1.0 if higher_is_better else -1.0))
