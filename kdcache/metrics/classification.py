"""Accuracy and F1 as additive statistics and finishers. Pure numpy.

Statistics are summed over examples (or weighted, in a bootstrap) before a finisher turns the sums into a value, so one
matrix product gives every resample.
"""

# I items  C classes  S statistics  ... any leading dimensions (resamples)

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import DataError


def check_classes(classes_I: NDArray[np.integer], num_classes: int, *, what: str) -> None:
    """Refuse class numbers outside [0, num_classes): a negative one would index from the end and score silently.

    Raises:
        DataError: naming the first such value and its place.
    """
    wrong_W = np.flatnonzero((classes_I < 0) | (classes_I >= num_classes))
    if len(wrong_W):
        raise DataError(
            f"{what} {int(classes_I[wrong_W[0]])} of item {int(wrong_W[0])} is not a class; allowed: 0 to "
            f"{num_classes - 1}; score labelled items only"
        )


def class_statistics(
    predictions_I: NDArray[np.integer], labels_I: NDArray[np.integer], num_classes: int
) -> NDArray[np.float64]:
    """True positives, false positives and false negatives of every class, for `f1_binary` and its kin.

    Args:
        predictions_I: integer, predicted class of each item.
        labels_I: integer, gold class of each item.
        num_classes: C.

    Returns:
        float64 [I, 3C]: (tp, fp, fn) of class 0, of class 1, ...

    Raises:
        DataError: a class outside [0, C).

    Example:
        >>> class_statistics(np.array([1, 1]), np.array([1, 0]), 2).tolist()
        [[0.0, 0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]]
    """
    check_classes(predictions_I, num_classes, what="prediction")
    check_classes(labels_I, num_classes, what="label")
    predicted_IC = predictions_I[:, None] == np.arange(num_classes)
    gold_IC = labels_I[:, None] == np.arange(num_classes)
    counts_IC3 = np.stack([predicted_IC & gold_IC, predicted_IC & ~gold_IC, ~predicted_IC & gold_IC], axis=-1)
    return counts_IC3.reshape(len(labels_I), 3 * num_classes).astype(np.float64)


def accuracy_statistics(predictions_I: NDArray[np.integer], labels_I: NDArray[np.integer]) -> NDArray[np.float64]:
    """(correct, 1) of each item, float64 [I, 2], for `mean`."""
    return np.stack([predictions_I == labels_I, np.ones(len(labels_I))], axis=-1).astype(np.float64)


def mean(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean from sums of (value, 1): `sum value / sum 1`; NaN where nothing was summed.

    Args:
        statistics: float64 [..., 2].

    Returns:
        float64 [...].
    """
    total, count = statistics[..., 0], statistics[..., 1]
    return divide(total, count, empty=np.nan)


def exp_mean(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """`exp` of the mean: of negative log-likelihoods, the perplexity."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(mean(statistics)))


def divide(top: NDArray[Any], bottom: NDArray[Any], *, empty: float) -> NDArray[np.float64]:
    """`top / bottom`, and `empty` where bottom is 0; float64, elementwise, without a warning."""
    result = np.full(np.shape(top), empty, dtype=np.float64)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def _f1(statistics: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """F1 [..., C] (0 where undefined), support [..., C], and whether the class occurs in labels or predictions."""
    counts = statistics.reshape(*statistics.shape[:-1], -1, 3)
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    denominator = 2 * tp + fp + fn
    return divide(2 * tp, denominator, empty=0.0), tp + fn, denominator > 0


def f1_binary(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of class 1: `2 tp / (2 tp + fp + fn)`, 0 where that is 0 / 0 (scikit-learn's `zero_division=0`).

    Args:
        statistics: summed `class_statistics`, float64 [..., 3C].

    Returns:
        float64 [...], in [0, 1].

    Example:
        >>> float(f1_binary(np.array([0.0, 0, 0, 3, 1, 1])))
        0.75
    """
    f1, _, _ = _f1(statistics)
    positive: NDArray[np.float64] = f1[..., 1]
    return positive


def f1_macro(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur in labels or predictions, as scikit-learn's `average="macro"`.

    A class that is only predicted, or never predicted, counts with 0; one that does not occur at all does not count.
    """
    f1, _, occurs = _f1(statistics)
    return divide(f1.sum(axis=-1), occurs.sum(axis=-1), empty=0.0)


def f1_weighted(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 over the classes, weighted by the number of gold items, as scikit-learn's `average="weighted"`."""
    f1, support, _ = _f1(statistics)
    return divide((f1 * support).sum(axis=-1), support.sum(axis=-1), empty=0.0)
