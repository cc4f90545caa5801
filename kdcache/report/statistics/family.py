"""Small tests on numbers that are already there: families of p values, signs, what a number of seeds can show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from kdcache.report.statistics.resample import Array

# N runs of one side, M of the other

POWER = 0.8
ALPHA = 0.05


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p values of a family, in the order given: reject where <= alpha, and the chance of any false
    rejection is at most alpha, whatever the dependence.

    References:
        Holm 1979, Scandinavian Journal of Statistics 6.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return tuple(adjusted.tolist())


def sign_test(plus: int, minus: int) -> float | None:
    """Two-sided exact p that wins and losses are equally likely; ties are left out before. None if there is neither.

    Example:
        >>> round(sign_test(25, 14), 3)
        0.108
    """
    if plus + minus == 0:
        return None
    return float(stats.binomtest(plus, plus + minus).pvalue)


def probability_of_improvement(a_N: Array, b_M: Array) -> float:
    """Share of pairs (a run of a, a run of b) in which b is higher; a tie is a half (Agarwal et al. 2021, NeurIPS).

    Example:
        >>> probability_of_improvement(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
        0.875
    """
    difference_NM = b_M[None, :] - a_N[:, None]
    return float((difference_NM > 0).mean() + 0.5 * (difference_NM == 0).mean())


def detectable(standard_error: float, degrees: float) -> float:
    """Least true difference that a two-sided t test at level .05 finds with probability .8.

    Args:
        standard_error: of the estimated difference, in the unit of the result.
        degrees: of freedom, >= 1; infinite for a normal test.
    """
    if not math.isfinite(degrees) or degrees > 1e6:
        return standard_error * float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))
    # The shift of the noncentral t that leaves 1 - power under the critical value. The other tail is no discovery.
    critical = stats.t.ppf(1 - ALPHA / 2, degrees)
    return standard_error * float(special.nctdtrinc(degrees, 1 - POWER, critical))


def minimum_detectable(sd: float, seeds: int) -> float | None:
    """Least true mean difference that `seeds` paired seeds find, given the standard deviation of a seed's difference.

    With runs of independent noise `sd_run` on both sides, `sd` is sqrt(2) sd_run. None with one seed.

    Example:
        >>> round(minimum_detectable(1.0, 3), 2)  # three seeds see three standard deviations
        3.26
    """
    return detectable(sd / math.sqrt(seeds), seeds - 1) if seeds > 1 else None
