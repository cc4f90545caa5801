"""Over cases: cases of one dataset share data and teacher, so that datasets are what is independent.

The interval of a mean is a bootstrap over datasets; Wilcoxon's test is of the datasets' means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdcache.core.errors import DataError
from kdcache.report.statistics.resample import LEVEL, Array

# B resamples  C cases  G datasets

RESAMPLES = 10_000
STREAM = 2
MANY_DATASETS = 10
"""From here on the interval follows the bootstrap's percentiles, and with them its skewness."""

LEAST_DATASETS = 6
"""Fewer cannot give a signed-rank p under .05: with 5 the least is 2 / 2**5 = .0625."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterMean:
    """Mean over cases, and its interval over datasets; `low`, `high` are None with one dataset, `method` in words."""

    mean: float
    low: float | None
    high: float | None
    datasets: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRank:
    """Wilcoxon's two-sided p over dataset means; None where `note` says why."""

    p: float | None
    datasets: int
    note: str = ""


def dataset_means(values_C: Array, datasets: Sequence[str]) -> Array:
    """Mean of each dataset's cases, float64 [G], in order of first occurrence.

    Raises:
        DataError: no values, or not one dataset name a value.
    """
    sums_G, counts_G = _sums(values_C, datasets)
    return np.asarray(sums_G / counts_G)


def cluster_mean(
    values_C: Array, datasets: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> ClusterMean:
    """Mean over cases with an interval from datasets drawn with replacement, all their cases at once.

    The bootstrap of G datasets is too narrow by sqrt((G - 1) / G), and its percentiles are those of a normal where a t
    is due. From 10 datasets the percentiles are moved outwards for both ("expanded percentile"); under 10, where the
    percentiles cannot be wide enough, the interval is mean +- t_{G-1} sqrt(G / (G - 1)) sd_bootstrap.

    Args:
        values_C: one a case, e.g. gains in per cent, float64 [C].
        datasets: of each case [C].
        resamples: B.
        seed: >= 0.
        level: of the interval.

    Raises:
        DataError: no values, or not one dataset name a value.

    References:
        Field and Welsh 2007, JRSS B 69; Hesterberg 2015, The American Statistician 69, section 5.
    """
    sums_G, counts_G = _sums(values_C, datasets)
    num_datasets = len(sums_G)
    mean = float(np.mean(values_C))
    if num_datasets == 1:
        return ClusterMean(mean=mean, low=None, high=None, datasets=1, method="no interval: one dataset")
    generator = np.random.default_rng([seed, STREAM])
    drawn_BG = generator.integers(num_datasets, size=(resamples, num_datasets))
    means_B = sums_G[drawn_BG].sum(axis=1) / counts_G[drawn_BG].sum(axis=1)
    wider = float(np.sqrt(num_datasets / (num_datasets - 1)) * stats.t.ppf((1 + level) / 2, num_datasets - 1))
    if num_datasets < MANY_DATASETS:
        half = wider * float(means_B.std())
        low, high, method = mean - half, mean + half, "t interval with the bootstrap's standard error over datasets"
    else:
        tail = float(stats.norm.sf(wider))
        low, high = (float(x) for x in np.quantile(means_B, [tail, 1 - tail]))
        method = "expanded percentiles of the bootstrap over datasets"
    return ClusterMean(mean=mean, low=low, high=high, datasets=num_datasets, method=method)


def signed_rank(values_C: Array, datasets: Sequence[str]) -> SignedRank:
    """Wilcoxon's signed-rank test of dataset means against 0; exact up to 50 datasets without ties and zeros.

    Raises:
        DataError: no values, or not one dataset name a value.

    References:
        Wilcoxon 1945, Biometrics Bulletin 1; Demsar 2006, JMLR 7, for its use over datasets.
    """
    means_G = dataset_means(values_C, datasets)
    num_nonzero = int(np.count_nonzero(means_G))
    if num_nonzero == 0:
        return SignedRank(p=None, datasets=len(means_G), note="every dataset's mean is 0")
    if num_nonzero < LEAST_DATASETS:
        least = 2.0 ** (1 - num_nonzero)
        note = f"{num_nonzero} datasets with a difference: the least p they can give is {least:.3g}"
        return SignedRank(p=None, datasets=len(means_G), note=note)
    return SignedRank(p=float(stats.wilcoxon(means_G).pvalue), datasets=len(means_G))


def _sums(values_C: Array, datasets: Sequence[str]) -> tuple[Array, Array]:
    values_C = np.asarray(values_C, dtype=np.float64)
    if values_C.ndim != 1 or len(values_C) == 0 or len(values_C) != len(datasets):
        raise DataError(f"{values_C.shape} values of {len(datasets)} datasets; give one dataset name for each value")
    order = {name: i for i, name in enumerate(dict.fromkeys(datasets))}
    index_C = [order[name] for name in datasets]
    return np.bincount(index_C, weights=values_C).astype(np.float64), np.bincount(index_C).astype(np.float64)
