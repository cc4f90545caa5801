"""Ragged rows: pointers, taking items, joining blocks.

Shape suffixes: I items  R rows  E entries  N atoms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import CacheError
from kdcache.core.types import SparseRows


def pointers(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets of consecutive groups: 0 and the running sums.

    Example:
        >>> pointers(np.array([2, 0, 3])).tolist()
        [0, 2, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def ragged_indices(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers start, start + 1, ... of each group, one group after another.

    Example:
        >>> ragged_indices(np.array([10, 4]), np.array([2, 3])).tolist()
        [10, 11, 4, 5, 6]
    """
    ends = pointers(counts)
    return np.arange(ends[-1], dtype=np.int64) + np.repeat(starts - ends[:-1], counts)


def take(rows: SparseRows, indices: NDArray[np.int64]) -> SparseRows:
    """The rows of some items, in the order asked for; an item may come twice.

    Args:
        rows: of I items.
        indices: int64, each in range(I).

    Raises:
        CacheError: an index outside range(I).
    """
    indices = np.asarray(indices, dtype=np.int64)
    if len(indices) and (indices.min() < 0 or indices.max() >= rows.num_items):
        raise CacheError(f"item indices must lie in range({rows.num_items}), not {indices.min()} to {indices.max()}")
    item_rows = np.diff(rows.row_ptr)[indices]
    row_R = ragged_indices(rows.row_ptr[:-1][indices], item_rows)
    kept_R = np.diff(rows.entry_ptr)[row_R]
    entry_E = ragged_indices(rows.entry_ptr[:-1][row_R], kept_R)
    return SparseRows(
        row_ptr=pointers(item_rows),
        entry_ptr=pointers(kept_R),
        ids=rows.ids[entry_E],
        logprobs=rows.logprobs[entry_E],
        num_classes=rows.num_classes[row_R],
        lse=rows.lse[row_R],
        atoms=rows.atoms[row_R],
        moments=rows.moments[row_R],
        gold=rows.gold[row_R],
    )


def concatenate(parts: Sequence[SparseRows]) -> SparseRows:
    """The rows of several groups of items, one after another.

    A dense part has no atoms; beside parts that have, it gets unused ones (log weight -inf).

    Raises:
        CacheError: nothing to join.
    """
    if not parts:
        raise CacheError("there are no rows to join; give at least one group")
    if len(parts) == 1:
        return parts[0]
    width = max(part.atoms.shape[1] for part in parts)
    return SparseRows(
        row_ptr=pointers(np.concatenate([np.diff(part.row_ptr) for part in parts])),
        entry_ptr=pointers(np.concatenate([np.diff(part.entry_ptr) for part in parts])),
        ids=np.concatenate([part.ids for part in parts]),
        logprobs=np.concatenate([part.logprobs for part in parts]),
        num_classes=np.concatenate([part.num_classes for part in parts]),
        lse=np.concatenate([part.lse for part in parts]),
        atoms=np.concatenate([_with_atoms(part.atoms, width) for part in parts]),
        moments=np.concatenate([part.moments for part in parts]),
        gold=np.concatenate([part.gold for part in parts]),
    )


def _with_atoms(atoms_RN2: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    unused = np.zeros((len(atoms_RN2), width - atoms_RN2.shape[1], 2), dtype=np.float32)
    unused[..., 1] = -np.inf
    return np.concatenate([atoms_RN2, unused], axis=1)
