"""Rows <-> the fixed arrays of one block, whatever the codec; `codecs/` has one file a codec.

Shape suffixes: R rows  K kept (padded)  I items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codecs import CODECS
from kdcache.cache.codecs.base import Arrays, Codec, check_layout
from kdcache.cache.ragged import concatenate, fill_value, ragged_indices, take
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, PackedRows, Rows, SparseRows

__all__ = ["Arrays", "check_arrays", "codec_of", "concatenate", "encode", "fill_value", "pack", "take", "unpack"]


def codec_of(row_format: RowFormat) -> Codec:
    """The codec of a teacher's rows."""
    return CODECS[row_format.store, row_format.codec]


def encode(
    rows: Rows,
    row_format: RowFormat,
    shared: Arrays,
    *,
    num_rows: int | None = None,
    first_row: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """The arrays of a block, as docs/format.md lists them.

    Args:
        rows: the rows of the block's items.
        row_format: of their teacher, which says store and codec.
        shared: the teacher's tables.
        num_rows: rows of the block, padding included; without it none is added.
        first_row: int64 [I], where each item's rows begin; without it they follow each other.

    Raises:
        CacheError: rows of another store, or that the arrays cannot hold: malformed pointers, ids >= V, values that
            are not finite in the stored type.
    """
    if isinstance(rows, SparseRows) != (row_format.store == "topk"):
        raise CacheError(f"{type(rows).__name__} cannot be stored in store {row_format.store}")
    _check_structure(rows)
    total = rows.num_rows if num_rows is None else num_rows
    place_R = _places(rows, first_row)
    if len(place_R) and place_R.max() >= total:
        raise CacheError(f"the rows end at row {int(place_R.max())}, but the block has {total} rows")
    if isinstance(rows, SparseRows) and rows.ids.shape[1] == 0:  # no row at all; an array has a width all the same
        rows = replace(rows, ids=rows.ids.reshape(0, 1), logprobs=rows.logprobs.reshape(0, 1))
    arrays = codec_of(row_format).encode(rows, row_format, shared)
    if len(place_R) == total and (np.diff(place_R) == 1).all():
        return arrays  # nothing stands between the rows
    return {name: _place(array, place_R, total) for name, array in arrays.items()}


def pack(rows: Rows, row_format: RowFormat, shared: Arrays) -> PackedRows:
    """Rows as a block would store them, without padding; the inverse of `unpack`. Raises what `encode` raises."""
    return PackedRows(
        row_ptr=rows.row_ptr,
        store=row_format.store,
        codec=row_format.codec,
        arrays=encode(rows, row_format, shared),
        shared=shared,
    )


def unpack(packed: PackedRows) -> Rows:
    """Rows in their common form, in numpy: what `losses` does on the device.

    Raises:
        CacheDamaged: values that no encoder writes.
    """
    return CODECS[packed.store, packed.codec].decode(packed)


def check_arrays(arrays: Arrays, row_format: RowFormat, shared: Arrays) -> None:
    """Refuse arrays that cannot be rows of a teacher, before anything is computed from them.

    Raises:
        CacheDamaged: an array is missing or differs in shape or type; counts out of range; an id >= V; a value that
            is not finite where a row is, or stands where none is.
    """
    codec, width = codec_of(row_format), _width(arrays)
    largest = row_format.num_classes if row_format.is_dense else row_format.top_k
    if row_format.store == "topk" and not 1 <= width <= largest:
        raise CacheDamaged(f"the rows are {width} classes wide; their teacher keeps at most {largest}")
    check_layout(arrays, codec.specs(row_format, width))
    codec.check(arrays, row_format, shared)


def _width(arrays: Arrays) -> int:
    """Entries of a row of any codec; 0 of a hidden store."""
    widest = arrays.get("ids", arrays.get("logprobs"))
    return 0 if widest is None or widest.ndim != 2 else widest.shape[1]


def _check_structure(rows: Rows) -> None:
    lengths = {len(rows.lse), len(rows.gold)}
    if isinstance(rows, HiddenRows):
        lengths |= {len(rows.hidden)}
    else:
        lengths |= {len(values) for values in (rows.atoms, rows.moments, rows.num_kept, rows.ids, rows.logprobs)}
    if lengths != {rows.num_rows}:
        raise CacheError(f"the arrays of the rows differ in length: {sorted({*lengths, rows.num_rows})}")
    _check_pointer("row_ptr", rows.row_ptr, rows.num_rows)
    if isinstance(rows, HiddenRows):
        return
    if rows.ids.ndim != 2 or rows.ids.shape != rows.logprobs.shape:
        raise CacheError(
            f"ids are {list(rows.ids.shape)} and logprobs {list(rows.logprobs.shape)}; both are [rows, entries]"
        )
    kept_R, width = rows.num_kept, rows.ids.shape[1]
    bad_R = (kept_R < 1) | (kept_R > np.minimum(rows.num_classes, width))
    if bad_R.any():
        r = int(np.flatnonzero(bad_R)[0])
        raise CacheError(
            f"row {r} keeps {int(kept_R[r])} of {int(rows.num_classes[r])} classes; at least 1, at most all, and at "
            f"most the {width} entries of a row"
        )
    inside = rows.ids.size == 0 or (rows.ids.min() >= 0 and rows.ids.max() < rows.num_classes.min())
    if not inside and (((rows.ids < 0) | (rows.ids >= rows.num_classes[:, None])) & rows.kept).any():
        raise CacheError("a row keeps a class outside 0 to V - 1")


def _check_pointer(name: str, ptr: NDArray[np.int64], end: int) -> None:
    if len(ptr) == 0 or ptr[0] != 0 or ptr[-1] != end or (np.diff(ptr) < 0).any():
        raise CacheError(f"{name} must rise from 0 to {end}")


def _places(rows: Rows, first_row: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Row of the block of each row, int64 [R]."""
    if first_row is None:
        return np.arange(rows.num_rows, dtype=np.int64)
    if len(first_row) != rows.num_items:
        raise CacheError(f"the rows belong to {rows.num_items} items, the plan has {len(first_row)} in this block")
    return ragged_indices(first_row, np.diff(rows.row_ptr))


def _place(array: NDArray[Any], place_R: NDArray[np.int64], total: int) -> NDArray[Any]:
    placed = np.full((total, *array.shape[1:]), fill_value(array.dtype), dtype=array.dtype)
    placed[place_R] = array
    return placed
