"""Rows <-> the fixed arrays of one block, and the two things readers do with rows: take some, join several.

A block is *dense* if every row keeps all its classes: float32 log-probabilities in class order and neither ids, atoms
nor moments. Otherwise ids in rank order and float16 log-probabilities. Rows that no item owns hold an impossible fill
(the largest integer, NaN), so that a hole is visible to any reader.

Shape suffixes: R rows  E entries  K kept  N atoms  I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.atoms import decode_atoms, encode_atoms
from kdcache.cache.ragged import concatenate, pointers, ragged_indices, take
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.core.types import SparseRows

__all__ = ["Arrays", "check_arrays", "concatenate", "decode", "encode", "fill_value", "take"]

Arrays = Mapping[str, NDArray[Any]]

COMMON = ("logprobs", "num_kept", "num_classes", "lse", "gold")
SPARSE = ("ids", "atoms", "atom_shift", "moments")
LARGEST_UINT16_CLASSES = 1 << 16


def fill_value(dtype: np.dtype[Any]) -> Any:
    """What stands where no row is: NaN, or the largest value of an integer type."""
    return np.array(np.nan if dtype.kind == "f" else np.iinfo(dtype).max, dtype=dtype)[()]


def encode(
    rows: SparseRows, *, num_rows: int | None = None, first_row: NDArray[np.int64] | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of a block.

    Args:
        rows: the rows of the block's items.
        num_rows: rows of the block, padding included; without it none is added.
        first_row: int64 [I], where each item's rows begin; without it they follow each other.

    Returns:
        ids uint16 or uint32 [R, K]; logprobs float16 (dense: float32) [R, K]; num_kept, num_classes int32 [R];
        lse, gold float32 [R]; atoms uint16 [R, N, 2]; atom_shift uint8 [R]; moments float32 [R, 2].

    Raises:
        CacheError: rows that the arrays cannot hold: malformed pointers, ids >= V, a log-probability that is not
            finite in float16.
    """
    _check_structure(rows)
    total = rows.num_rows if num_rows is None else num_rows
    place_R = _places(rows, first_row)
    if len(place_R) and place_R.max() >= total:
        raise CacheError(f"the rows end at row {int(place_R.max())}, but the block has {total} rows")
    kept_R = np.diff(rows.entry_ptr)
    dense = bool((kept_R == rows.num_classes).all())
    width = max(int(kept_R.max(initial=1)), 1)
    arrays: dict[str, NDArray[Any]] = {
        "logprobs": _scatter_entries(rows, kept_R, width, dense=dense),
        "num_kept": kept_R.astype(np.int32),
        "num_classes": rows.num_classes.astype(np.int32),
        "lse": rows.lse.astype(np.float32),
        "gold": rows.gold.astype(np.float32),
    }
    if not dense:
        large = int(rows.num_classes.max()) > LARGEST_UINT16_CLASSES
        arrays["ids"] = _pad_entries(rows.ids.astype(np.uint32 if large else np.uint16), kept_R, width)
        arrays["atoms"], arrays["atom_shift"] = encode_atoms(rows.atoms, rows.num_classes - kept_R)
        arrays["moments"] = rows.moments.astype(np.float32)
    return {name: _place(array, place_R, total) for name, array in arrays.items()}


def _check_structure(rows: SparseRows) -> None:
    entries = len(rows.logprobs)
    lengths = {len(rows.lse), len(rows.gold), len(rows.atoms), len(rows.moments), len(rows.entry_ptr) - 1}
    if lengths != {rows.num_rows} or len(rows.ids) != entries:
        raise CacheError(f"the arrays of the rows differ in length: rows {sorted(lengths)}, entries {entries}")
    for name, ptr, end in (("row_ptr", rows.row_ptr, rows.num_rows), ("entry_ptr", rows.entry_ptr, entries)):
        if len(ptr) == 0 or ptr[0] != 0 or ptr[-1] != end or (np.diff(ptr) < 0).any():
            raise CacheError(f"{name} must rise from 0 to {end}")
    kept_R = np.diff(rows.entry_ptr)
    if (kept_R < 1).any() or (kept_R > rows.num_classes).any():
        r = int(np.flatnonzero((kept_R < 1) | (kept_R > rows.num_classes))[0])
        raise CacheError(
            f"row {r} keeps {int(kept_R[r])} of {int(rows.num_classes[r])} classes; at least 1, at most all"
        )
    classes_E = np.repeat(rows.num_classes, kept_R)
    if ((rows.ids < 0) | (rows.ids >= classes_E)).any():
        raise CacheError("a row keeps a class outside 0 to V - 1")


def _places(rows: SparseRows, first_row: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Row of the block of each row, int64 [R]."""
    if first_row is None:
        return np.arange(rows.num_rows, dtype=np.int64)
    if len(first_row) != rows.num_items:
        raise CacheError(f"the rows belong to {rows.num_items} items, the plan has {len(first_row)} in this block")
    return ragged_indices(first_row, np.diff(rows.row_ptr))


def _scatter_entries(
    rows: SparseRows, kept_R: NDArray[np.int64], width: int, *, dense: bool
) -> NDArray[np.float16] | NDArray[np.float32]:
    if dense:
        matrix = np.full((rows.num_rows, width), np.nan, dtype=np.float32)
        matrix[np.repeat(np.arange(rows.num_rows), kept_R), rows.ids] = rows.logprobs
    else:
        with np.errstate(over="ignore"):
            matrix = _pad_entries(rows.logprobs.astype(np.float16), kept_R, width)
    bad_R = np.isfinite(matrix).sum(axis=1) != kept_R
    if bad_R.any():
        r = int(np.flatnonzero(bad_R)[0])
        raise CacheError(
            f"row {r} has a log-probability that is not finite in {matrix.dtype}, or keeps a class twice; "
            f"mask the padded part of the vocabulary before rows are made"
        )
    return matrix


def _pad_entries(values_E: NDArray[Any], kept_R: NDArray[np.int64], width: int) -> NDArray[Any]:
    matrix = np.full((len(kept_R), width), fill_value(values_E.dtype), dtype=values_E.dtype)
    matrix[np.arange(width) < kept_R[:, None]] = values_E
    return matrix


def _place(array: NDArray[Any], place_R: NDArray[np.int64], total: int) -> NDArray[Any]:
    placed = np.full((total, *array.shape[1:]), fill_value(array.dtype), dtype=array.dtype)
    placed[place_R] = array
    return placed


def decode(arrays: Arrays, *, row_ptr: NDArray[np.int64] | None = None) -> SparseRows:
    """Rows from arrays as `encode` made them; padding rows are left out.

    Args:
        arrays: of a block, or rows gathered from one.
        row_ptr: int64 [I + 1] over the rows that are not padding; without it every row is an item of its own.

    Raises:
        CacheDamaged: see `check_arrays`; or `row_ptr` does not end at the number of rows.
    """
    check_arrays(arrays)
    fill = fill_value(arrays["num_kept"].dtype)
    if (arrays["num_kept"] == fill).any():
        owned = np.flatnonzero(arrays["num_kept"] != fill)
        arrays = {name: array[owned] for name, array in arrays.items()}
    kept_R = arrays["num_kept"].astype(np.int64)
    num_rows, width = arrays["logprobs"].shape
    if row_ptr is None:
        row_ptr = np.arange(num_rows + 1, dtype=np.int64)
    elif row_ptr[-1] != num_rows:
        raise CacheDamaged(f"{num_rows} rows are there, {int(row_ptr[-1])} belong there")
    entry_ptr = pointers(kept_R)
    mask_RK = np.arange(width) < kept_R[:, None]
    if "ids" in arrays:
        ids = arrays["ids"][mask_RK].astype(np.int64)
        atoms = decode_atoms(arrays["atoms"], arrays["atom_shift"], arrays["num_classes"] - kept_R)
        moments = arrays["moments"].astype(np.float32)
    else:
        ids = ragged_indices(np.zeros(num_rows, dtype=np.int64), kept_R)
        atoms, moments = np.zeros((num_rows, 0, 2), np.float32), np.zeros((num_rows, 2), np.float32)
    return SparseRows(
        row_ptr=row_ptr.astype(np.int64),
        entry_ptr=entry_ptr,
        ids=ids,
        logprobs=arrays["logprobs"][mask_RK].astype(np.float32),
        num_classes=arrays["num_classes"].astype(np.int32),
        lse=arrays["lse"].astype(np.float32),
        atoms=atoms,
        moments=moments,
        gold=arrays["gold"].astype(np.float32),
    )


def check_arrays(arrays: Arrays) -> None:
    """Refuse arrays that cannot be rows, before anything is computed from them.

    Raises:
        CacheDamaged: an array is missing or differs in shape or type; sizes out of range; an id >= V; a value that
            is not finite where a row is, or finite where none is.
    """
    sparse = "ids" in arrays
    names = COMMON + SPARSE if sparse else COMMON
    if sorted(arrays) != sorted(names):
        raise CacheDamaged(f"the arrays are {', '.join(sorted(arrays))}; expected: {', '.join(sorted(names))}")
    _check_shapes(arrays, sparse=sparse)
    kept_R, classes_R = arrays["num_kept"], arrays["num_classes"]
    padding_R = kept_R == fill_value(kept_R.dtype)
    width = arrays["logprobs"].shape[1]
    sizes_ok_R = (kept_R >= 1) & (kept_R <= width) & (kept_R <= classes_R) & (sparse | (kept_R == classes_R))
    if not (sizes_ok_R | padding_R).all():
        r = int(np.flatnonzero(~(sizes_ok_R | padding_R))[0])
        raise CacheDamaged(f"num_kept {int(kept_R[r])} of {int(classes_R[r])} classes at row {r} is impossible")
    mask_RK = np.arange(width) < np.where(padding_R, 0, kept_R)[:, None]
    if (np.isfinite(arrays["logprobs"]) != mask_RK).any():
        raise CacheDamaged("logprobs has a hole, or values where no row is")
    if not (np.isfinite(arrays["lse"]) | padding_R).all() or np.isinf(arrays["gold"]).any():
        raise CacheDamaged("lse or gold is not finite")
    if sparse:
        if ((arrays["ids"] >= classes_R[:, None]) & mask_RK).any():
            raise CacheDamaged("ids has a class outside 0 to V - 1")
        if not (np.isfinite(arrays["moments"]).all(axis=1) | padding_R).all():
            raise CacheDamaged("moments is not finite")


def _check_shapes(arrays: Arrays, *, sparse: bool) -> None:
    num_rows = len(arrays["num_kept"])
    expected: dict[str, tuple[tuple[str, ...], int]] = {
        "logprobs": (("float16",) if sparse else ("float32",), 2),
        "num_kept": (("int32",), 1),
        "num_classes": (("int32",), 1),
        "lse": (("float32",), 1),
        "gold": (("float32",), 1),
        "ids": (("uint16", "uint32"), 2),
        "atoms": (("uint16",), 3),
        "atom_shift": (("uint8",), 1),
        "moments": (("float32",), 2),
    }
    for name, array in arrays.items():
        dtypes, dimensions = expected[name]
        if array.dtype.name not in dtypes or array.ndim != dimensions or len(array) != num_rows:
            raise CacheDamaged(f"{name} is {array.dtype.name} {list(array.shape)}, which no block holds")
    if sparse and arrays["ids"].shape != arrays["logprobs"].shape:
        raise CacheDamaged("ids and logprobs differ in shape")
    if sparse and (arrays["atoms"].shape[2] != 2 or arrays["moments"].shape[1] != 2):
        raise CacheDamaged("atoms or moments do not come in pairs")
