"""What the scores of all tasks share: items that can be scored, and statistics of their rows per example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import DataError, ModelError
from kdcache.core.types import IGNORE, Item
from kdcache.metrics.calibration import brier_statistics, ece_statistics, nll_statistics
from kdcache.metrics.classification import accuracy_statistics
from kdcache.tasks.base import Reading


def check_items(items: Sequence[Item], readings: Sequence[Reading]) -> None:
    """Refuse what would give a wrong average.

    Raises:
        DataError: no items, or an item with a row that has no label.
        ModelError: readings of another number of items.
    """
    if not items:
        raise DataError("there are 0 items to score; a split needs at least one")
    if len(items) != len(readings):
        raise ModelError(f"{len(items)} items have predictions for {len(readings)}; give one an item")
    unlabelled = [item.uid for item in items if (item.labels_R == IGNORE).any()]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} of {len(items)} items have no label, the first is {unlabelled[0]}; "
            f"only labelled items can be scored: label them, or score another split"
        )


def row_statistics(
    items: Sequence[Item], readings: Sequence[Reading], owner_I: NDArray[np.int64], count: int
) -> dict[str, NDArray[np.float64]]:
    """Statistics `nll`, `brier`, `ece` and `accuracy` of rows, summed over each example's.

    Args:
        items: checked.
        readings: one an item.
        owner_I: number of each item's example.
        count: examples.

    Returns:
        Name -> float64 [count, S].
    """
    owner_R = np.repeat(owner_I, [item.num_rows for item in items])
    labels_R = np.concatenate([item.labels_R for item in items]).astype(np.int64)
    best_R, gold_R, squares_R, confidence_R = (
        np.concatenate([getattr(reading.facts, name) for reading in readings])
        for name in ("best_R", "gold_R", "squares_R", "confidence_R")
    )
    statistics = {
        "nll": nll_statistics(gold_R),
        "brier": brier_statistics(gold_R, squares_R),
        "ece": ece_statistics(confidence_R, best_R == labels_R),
        "accuracy": accuracy_statistics(best_R, labels_R),
    }
    return {name: sum_rows(values, owner_R, count) for name, values in statistics.items()}


def languages_of(items: Sequence[Item]) -> tuple[str, ...]:
    """Language of each item, one item an example; empty where one of them has none."""
    languages = tuple(str(item.meta.get("language", "")) for item in items)
    return languages if all(languages) else ()


def sum_rows(values_RS: NDArray[np.float64], owner_R: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Statistics of rows summed over their examples, float64 [count, S].

    Example:
        >>> sum_rows(np.array([[1.0], [2.0], [4.0]]), np.array([0, 2, 2]), 3).tolist()
        [[1.0], [0.0], [6.0]]
    """
    sums = np.zeros((count, values_RS.shape[1]))
    np.add.at(sums, owner_R, values_RS)
    return sums
