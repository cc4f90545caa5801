"""Ragged rows: pointers, taking items, joining blocks; the same for decoded and packed rows.

Shape suffixes: I items  R rows  K kept (padded)  N atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import CacheError
from kdcache.core.types import HiddenRows, PackedRows, SparseRows

AnyRows = TypeVar("AnyRows", SparseRows, HiddenRows, PackedRows)


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


def take(rows: AnyRows, indices: NDArray[np.int64]) -> AnyRows:
    """The rows of some items, in the order asked for; an item may come twice.

    Args:
        rows: of I items.
        indices: int64, each in range(I).

    Raises:
        CacheError: an index outside range(I).
    """
    indices = np.asarray(indices, dtype=np.int64)
    num_items = len(rows.row_ptr) - 1
    if len(indices) and (indices.min() < 0 or indices.max() >= num_items):
        raise CacheError(f"item indices must lie in range({num_items}), not {indices.min()} to {indices.max()}")
    item_rows = np.diff(rows.row_ptr)[indices]
    row_R = ragged_indices(rows.row_ptr[:-1][indices], item_rows)
    row_ptr = pointers(item_rows)
    if isinstance(rows, PackedRows):
        return replace(rows, row_ptr=row_ptr, arrays={name: array[row_R] for name, array in rows.arrays.items()})
    if isinstance(rows, HiddenRows):
        return HiddenRows(
            row_ptr=row_ptr,
            hidden=rows.hidden[row_R],
            num_classes=rows.num_classes[row_R],
            lse=rows.lse[row_R],
            gold=rows.gold[row_R],
        )
    return SparseRows(
        row_ptr=row_ptr,
        ids=rows.ids[row_R],
        logprobs=rows.logprobs[row_R],
        num_kept=rows.num_kept[row_R],
        num_classes=rows.num_classes[row_R],
        lse=rows.lse[row_R],
        atoms=rows.atoms[row_R],
        moments=rows.moments[row_R],
        gold=rows.gold[row_R],
    )


def concatenate(parts: Sequence[AnyRows]) -> AnyRows:
    """The rows of several groups of items, one after another.

    A dense part has no atoms; beside parts that have, it gets unused ones (log weight -inf). Parts may differ in width;
    narrow ones are filled.

    Raises:
        CacheError: nothing to join, or packed rows of different stores or codecs.
    """
    if not parts:
        raise CacheError("there are no rows to join; give at least one group")
    first = parts[0]
    if len(parts) == 1:
        return first
    row_ptr = pointers(np.concatenate([np.diff(part.row_ptr) for part in parts]))
    if isinstance(first, PackedRows):
        return _join_packed(parts, row_ptr)
    if isinstance(first, HiddenRows):
        return HiddenRows(
            row_ptr=row_ptr,
            hidden=np.concatenate([part.hidden for part in parts]),
            num_classes=np.concatenate([part.num_classes for part in parts]),
            lse=np.concatenate([part.lse for part in parts]),
            gold=np.concatenate([part.gold for part in parts]),
        )
    width = max(part.atoms.shape[1] for part in parts)
    return SparseRows(
        row_ptr=row_ptr,
        ids=join_arrays([part.ids for part in parts], fill=0),
        logprobs=join_arrays([part.logprobs for part in parts], fill=-np.inf),
        num_kept=np.concatenate([part.num_kept for part in parts]),
        num_classes=np.concatenate([part.num_classes for part in parts]),
        lse=np.concatenate([part.lse for part in parts]),
        atoms=np.concatenate([with_atoms(part.atoms, width) for part in parts]),
        moments=np.concatenate([part.moments for part in parts]),
        gold=np.concatenate([part.gold for part in parts]),
    )


def _join_packed(parts: Sequence[PackedRows], row_ptr: NDArray[np.int64]) -> PackedRows:
    kinds = {(part.store, part.codec, tuple(sorted(part.arrays))) for part in parts}
    if len(kinds) != 1:
        raise CacheError(f"rows of several codecs cannot be joined: {sorted(kinds)}; unpack them first")
    arrays = {name: join_arrays([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return replace(parts[0], row_ptr=row_ptr, arrays=arrays)


def join_arrays(arrays: Sequence[NDArray[Any]], *, fill: float | None = None) -> NDArray[Any]:
    """Arrays [R, W] (or [R, ...] of one shape), one after another; narrow ones are filled up to the widest.

    Args:
        arrays: at least one.
        fill: what stands behind the entries of a narrow one; default: `fill_value` of its type.
    """
    width = max(array.shape[1] if array.ndim == 2 else 0 for array in arrays)
    if all(array.ndim != 2 or array.shape[1] == width for array in arrays):
        return np.concatenate(arrays)
    dtype = np.result_type(*arrays)
    joined = np.full((sum(map(len, arrays)), width), fill_value(dtype) if fill is None else fill, dtype=dtype)
    start = 0
    for array in arrays:
        joined[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return joined


def fill_value(dtype: np.dtype[Any]) -> Any:
    """What stands where no row is: NaN, the largest value of an integer type, or -128, which no int8 code is."""
    if dtype.kind == "f":
        return dtype.type(np.nan)
    return dtype.type(-128 if dtype == np.int8 else np.iinfo(dtype).max)


def with_atoms(atoms_RN2: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Atoms with unused ones appended, N = `width`."""
    if atoms_RN2.shape[1] == width:
        return atoms_RN2
    unused = np.zeros((len(atoms_RN2), width - atoms_RN2.shape[1], 2), dtype=np.float32)
    unused[..., 1] = -np.inf
    return np.concatenate([atoms_RN2, unused], axis=1)
