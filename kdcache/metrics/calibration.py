"""How well probabilities fit: NLL, Brier score, expected calibration error, optimal temperature. Pure numpy and scipy.

Statistics come from a few numbers of each predicted distribution; they are additive over items like those of
`classification`.
"""

# I items  C classes  M bins  S statistics  ... any leading dimensions (resamples)

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from kdcache.core.errors import DataError
from kdcache.metrics.classification import check_classes, divide

NUM_BINS = 15
"""Bins of the expected calibration error, equally wide on (0, 1]."""

TEMPERATURE_BOUNDS = (0.01, 100.0)
"""Where `optimal_temperature` looks."""


def _gold(values_IC: NDArray[np.floating], labels_I: NDArray[np.integer]) -> NDArray[np.floating]:
    """The gold class's value of each item; refuses labels that are no class."""
    check_classes(labels_I, values_IC.shape[-1], what="label")
    gold_I: NDArray[np.floating] = values_IC[np.arange(len(labels_I)), labels_I]
    return gold_I


def nll_statistics(gold_I: NDArray[np.floating]) -> NDArray[np.float64]:
    """Negative log-likelihood of the gold class, in nats, and 1.

    Args:
        gold_I: natural log-probability of each item's gold class.

    Returns:
        float64 [I, 2], for `classification.mean`.
    """
    return np.stack([-gold_I, np.ones(len(gold_I))], axis=-1).astype(np.float64)


def brier_statistics(gold_I: NDArray[np.floating], squares_I: NDArray[np.floating]) -> NDArray[np.float64]:
    """Brier score `sum_c (p_c - [c = y])^2` (over all classes, so in [0, 2]) and 1; float64 [I, 2].

    Args:
        gold_I: natural log-probability of each item's gold class.
        squares_I: `sum_c p_c^2`.

    References:
        Brier 1950, Monthly Weather Review 78(1).

    Example:
        >>> brier_statistics(np.log([0.5]), np.array([0.5])).tolist()
        [[0.5, 1.0]]
    """
    return np.stack([squares_I - 2 * np.exp(gold_I) + 1, np.ones(len(gold_I))], axis=-1).astype(np.float64)


def ece_statistics(confidence_I: NDArray[np.floating], correct_I: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Reliability bins: bin m of M = 15 holds the confidences in ((m - 1) / M, m / M].

    Args:
        confidence_I: probability of each item's most probable class.
        correct_I: whether that is the gold class.

    Returns:
        float64 [I, 3M]: (count, confidence, correct) of bin 0, of bin 1, ..., non-zero in the item's own bin.

    References:
        Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    bins_I = np.clip(np.ceil(confidence_I * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    statistics_IM3 = np.zeros((len(confidence_I), NUM_BINS, 3))
    values_I3 = np.stack([np.ones(len(confidence_I)), confidence_I, correct_I.astype(np.float64)], axis=-1)
    statistics_IM3[np.arange(len(confidence_I)), bins_I] = values_I3
    return statistics_IM3.reshape(len(confidence_I), 3 * NUM_BINS)


def expected_calibration_error(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """`sum_m |confidence_m - correct_m| / n` from summed `ece_statistics`; NaN where nothing was summed.

    Args:
        statistics: float64 [..., 3M].

    Returns:
        float64 [...], in [0, 1].
    """
    bins = statistics.reshape(*statistics.shape[:-1], -1, 3)
    count = bins[..., 0].sum(axis=-1)
    gap = np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1)
    return divide(gap, count, empty=np.nan)


def optimal_temperature(logits_IC: NDArray[np.floating], labels_I: NDArray[np.integer]) -> float:
    """The temperature that minimises the mean NLL of `softmax(logits / tau)`: how over-confident a model is (tau > 1).

    Bounded scalar minimisation over log tau; the NLL is convex in 1 / tau, so there is one minimum. The search is
    bounded by `TEMPERATURE_BOUNDS`: a model worse than chance gets the upper one. A model that is never wrong gets a
    tau so low that its NLL is 0 in float64.

    Args:
        logits_IC: finite logits.
        labels_I: integer, gold class of each item.

    Returns:
        tau in [0.01, 100].

    Raises:
        DataError: no items, or a label outside [0, C).

    References:
        Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    if len(labels_I) == 0:
        raise DataError("an optimal temperature needs labelled items; there are 0")
    logits_IC = logits_IC.astype(np.float64)

    def mean_nll(log_tau: float) -> float:
        return -float(_gold(log_softmax(logits_IC / np.exp(log_tau), axis=-1), labels_I).mean())

    low, high = np.log(TEMPERATURE_BOUNDS)
    result = minimize_scalar(mean_nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(result.x))
