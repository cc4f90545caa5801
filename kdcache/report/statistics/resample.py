"""Paired bootstrap over test examples, as matrix products of resampling weights and additive statistics.

    score_br = finish(sum_i w_bi s_ir),   w_b ~ Multinomial(I, 1/I)

All runs of a case see the same w_b, so that differences and ratios between runs are paired (Efron and Tibshirani 1993,
chapter 16). Cases that share a test set share w_b too, and the weights of the last test set are kept for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kdcache.core.config import digest

# B resamples, b of one chunk  I test examples  R runs  S statistics of one run

LEVEL = 0.95
"""Of every interval in the report."""

CHUNK_CELLS = 2**21
"""Weights made at a time: 16 MiB of indices that they are counted from."""

KEPT_CELLS = 2**26
"""Weights kept for the next case on the same test set: 64 MiB at most, a byte each."""

EXACT = 2**24
"""Integers under it, and their sums under it, are exact in float32."""

Array = NDArray[np.float64]
Counts = NDArray[np.uint8] | NDArray[np.uint32]


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

    Sums are float64, or float32 where that is exact: statistics that are integers (counts) and sum to less than 2**24.

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
    if _exact_in_float32(flat):
        flat = flat.astype(np.float32)
    scores_BR = np.empty((resamples, num_runs))
    chunk = max(1, chunk_cells // num_examples)
    start = 0
    for counts_bI in _counts(seed, stream, num_examples, resamples, chunk):
        sums = (counts_bI.astype(flat.dtype) @ flat).astype(np.float64)
        scores_BR[start : start + len(sums)] = finish(sums.reshape(len(sums), num_runs, num_statistics))
        start += len(sums)
    return scores_BR


def _exact_in_float32(flat: Array) -> bool:
    """Whether every partial sum of any resample is an integer that float32 holds: |sum| <= I max |s|."""
    if not np.isfinite(flat).all() or len(flat) * np.abs(flat).max(initial=0.0) >= EXACT:
        return False
    return bool((flat == np.rint(flat)).all())


def _counts(seed: int, stream: str, num_examples: int, resamples: int, chunk: int) -> Iterator[Counts]:
    """How often each example was drawn, [b, I], from kept weights where they are few enough to keep."""
    if resamples * num_examples <= KEPT_CELLS:
        kept_BI = _kept(seed, stream, num_examples, resamples)
        yield from (kept_BI[start : start + chunk] for start in range(0, resamples, chunk))
    else:
        yield from _draw(seed, stream, num_examples, resamples, chunk)


@lru_cache(maxsize=1)
def _kept(seed: int, stream: str, num_examples: int, resamples: int) -> Counts:
    chunk = max(1, CHUNK_CELLS // num_examples)
    return np.concatenate(list(_draw(seed, stream, num_examples, resamples, chunk)))


def _draw(seed: int, stream: str, num_examples: int, resamples: int, chunk: int) -> Iterator[Counts]:
    generator = np.random.default_rng([seed, int(digest(stream), 16)])
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(num_examples, size=(size, num_examples))
        drawn += np.arange(size)[:, None] * num_examples
        counts = np.bincount(drawn.ravel(), minlength=size * num_examples).reshape(size, num_examples)
        yield counts.astype(np.uint8) if counts.max() < 256 else counts.astype(np.uint32)


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


def two_sided_p(values_B: Array, observed: float) -> float | None:
    """p of no effect from resampled effects: how often their scatter is as wide as the effect itself.

        p = (1 + #{b : |x_b - mean(x)| >= |observed|}) / (B + 1)

    None if a resample has no value. sacreBLEU's paired bootstrap takes |x_b| before it centres, so that its p of a
    clear effect is half of this one.

    References:
        Riezler and Maxwell 2005, ACL workshop on evaluation measures; Davison and Hinkley 1997, equation 4.11 (the 1).

    Example:
        >>> two_sided_p(np.array([0.0, 1.0, 2.0]), 1.0)
        0.75
    """
    if not np.isfinite(values_B).all():
        return None
    as_wide = int((np.abs(values_B - values_B.mean()) >= abs(observed)).sum())
    return (1 + as_wide) / (len(values_B) + 1)


def gain_percent(score: Array, baseline: Array, *, higher_is_better: bool) -> Array:
    """Relative gain in per cent, positive where the score is better; NaN where the baseline is 0.

        g = 100 (score / baseline - 1)        its negative where lower is better

    Example:
        >>> gain_percent(np.array([0.84]), np.array([0.80]), higher_is_better=True).round(6).tolist()
        [5.0]
    """
    ratio = np.divide(score, baseline, out=np.full(np.shape(score), np.nan), where=baseline != 0)
    return np.asarray(100.0 * (ratio - 1.0) * (1.0 if higher_is_better else -1.0))
