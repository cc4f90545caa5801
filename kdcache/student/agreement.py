"""How often a student's most probable class is its teacher's, on the validation rows that the cache holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.reader import Cache
from kdcache.core.types import Item, SparseRows
from kdcache.tasks.base import Reading

SPLIT = "validation"


def agreement(cache: Cache, teacher: str, items: Sequence[Item], readings: Sequence[Reading]) -> float | None:
    """Share of rows with the same most probable class.

    Args:
        cache: with the teacher's rows.
        teacher: its name there.
        items: of the validation split, as the student reads them.
        readings: what the student said of each.

    Returns:
        A share in [0, 1]; None where there is nothing to set side by side: the cache lacks the split, keeps hidden
        states instead of classes, or cut the examples into other rows (another tokenizer).
    """
    if SPLIT not in cache.plan.splits or cache.teacher(teacher).store != "topk":
        return None
    indices = cache.plan.indices(SPLIT)
    rows = [(item.uid, item.num_rows) for item in items]
    if [(item.uid, item.num_rows) for item in cache.items(indices)] != rows:
        return None
    theirs = cache.rows(teacher, indices)
    if not isinstance(theirs, SparseRows) or not theirs.num_rows:
        return None
    ours_R = np.concatenate([reading.facts.best_R for reading in readings])
    return float(np.mean(most_probable(theirs) == ours_R))


def most_probable(rows: SparseRows) -> NDArray[np.int64]:
    """Class of the highest log-probability of each row, int64 [R]; at a tie the first that is stored."""
    begin_R, size_R = rows.entry_ptr[:-1], np.diff(rows.entry_ptr)
    highest_E = np.repeat(np.maximum.reduceat(rows.logprobs, begin_R), size_R)
    owner_E = np.repeat(np.arange(len(size_R)), size_R)
    there = np.flatnonzero(rows.logprobs == highest_E)
    _, first = np.unique(owner_E[there], return_index=True)
    return rows.ids[there[first]]
