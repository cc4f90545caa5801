"""Codec `dense` of store topk: all classes of a row in class order, float32; exact, for up to a few hundred classes.

    logprobs float32 [R, V]    num_kept, num_classes int32 [R]    lse, gold float32 [R]

V is the largest of the block; a row of fewer classes is filled behind. No ids, atoms or moments: there is no tail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codecs.base import (
    Arrays,
    Filter,
    Spec,
    check_logprobs,
    check_numbers,
    common_arrays,
    kept_counts,
    owned_rows,
    refuse_infinite,
    sign_set,
)
from kdcache.cache.ragged import pointers, ragged_indices
from kdcache.core.errors import CacheError
from kdcache.core.row_format import RowFormat
from kdcache.core.types import PackedRows, SparseRows


class Dense:
    """See the module."""

    tables: tuple[str, ...] = ()

    def specs(self, row_format: RowFormat, width: int) -> dict[str, Spec]:
        """Arrays of a block."""
        return {
            "logprobs": ("float32", (width,)),
            "num_kept": ("int32", ()),
            "num_classes": ("int32", ()),
            "lse": ("float32", ()),
            "gold": ("float32", ()),
        }

    def filters(self, compressor: str) -> Mapping[str, Filter]:
        """All arrays as usual."""
        return {}

    def encode(self, rows: SparseRows, row_format: RowFormat, tables: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of rows, whatever order their classes come in."""
        kept_R = np.diff(rows.entry_ptr)
        if (bad_R := np.flatnonzero(kept_R != rows.num_classes)).size:
            r = int(bad_R[0])
            raise CacheError(
                f"row {r} keeps {int(kept_R[r])} of {int(rows.num_classes[r])} classes; codec dense keeps all of them: "
                f"raise top_k, or choose codec fast or compact"
            )
        matrix = np.full((rows.num_rows, max(int(kept_R.max(initial=1)), 1)), np.nan, dtype=np.float32)
        matrix[np.repeat(np.arange(rows.num_rows), kept_R), rows.ids] = sign_set(rows.logprobs)
        refuse_infinite(matrix, kept_R)
        return {"logprobs": matrix, "num_kept": kept_R.astype(np.int32), **common_arrays(rows)}

    def check(self, arrays: Arrays, row_format: RowFormat, tables: Arrays) -> None:
        """Refuse values that cannot be rows."""
        owned_R = owned_rows(arrays)
        kept = kept_counts(arrays, owned_R, arrays["logprobs"].shape[1], dense=True)
        check_numbers(arrays, row_format, owned_R)
        check_logprobs(arrays["logprobs"], kept)

    def decode(self, packed: PackedRows) -> SparseRows:
        """Rows again; N = 0 atoms."""
        arrays = packed.arrays
        kept_R = arrays["num_kept"].astype(np.int64)
        mask_RK = np.arange(arrays["logprobs"].shape[1]) < kept_R[:, None]
        return SparseRows(
            row_ptr=packed.row_ptr,
            entry_ptr=pointers(kept_R),
            ids=ragged_indices(np.zeros(len(kept_R), dtype=np.int64), kept_R),
            logprobs=arrays["logprobs"][mask_RK],
            num_classes=arrays["num_classes"],
            lse=arrays["lse"],
            atoms=np.zeros((len(kept_R), 0, 2), np.float32),
            moments=np.zeros((len(kept_R), 2), np.float32),
            gold=arrays["gold"],
        )
