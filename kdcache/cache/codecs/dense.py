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
    kept_entries,
    owned_rows,
    refuse_infinite,
    sign_set,
)
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
        kept_R, width, kept_RK = kept_entries(rows)
        if (bad_R := np.flatnonzero(kept_R != rows.num_classes)).size:
            r = int(bad_R[0])
            raise CacheError(
                f"row {r} keeps {int(kept_R[r])} of {int(rows.num_classes[r])} classes; codec dense keeps all of them: "
                f"raise top_k, or choose codec fast or compact"
            )
        logprobs_RK, ids_RK = sign_set(rows.logprobs[:, :width].astype(np.float32, copy=False)), rows.ids[:, :width]
        matrix = np.full((rows.num_rows, width), np.nan, dtype=np.float32)
        if kept_RK is None:
            np.put_along_axis(matrix, ids_RK.astype(np.int64, copy=False), logprobs_RK, axis=1)
        else:
            matrix[np.nonzero(kept_RK)[0], ids_RK[kept_RK]] = logprobs_RK[kept_RK]
        refuse_infinite(matrix, kept_R)
        return {"logprobs": matrix, "num_kept": kept_R, **common_arrays(rows)}

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
        place_K = np.arange(arrays["logprobs"].shape[1])
        kept_RK = place_K < kept_R[:, None]
        return SparseRows(
            row_ptr=packed.row_ptr,
            ids=np.where(kept_RK, place_K, 0),
            logprobs=np.where(kept_RK, arrays["logprobs"], np.float32(-np.inf)),
            num_kept=kept_R,
            num_classes=arrays["num_classes"],
            lse=arrays["lse"],
            atoms=np.zeros((len(kept_R), 0, 2), np.float32),
            moments=np.zeros((len(kept_R), 2), np.float32),
            gold=arrays["gold"],
        )
