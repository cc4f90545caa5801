"""Codec `fast` of store topk: float16 log-probabilities, bit-exact, in rank order; ids as they are.

    logprobs float16 [R, K]            the rest as in `sparse`

Rank order is kept: sorting ids saves less on them than it costs on the values.
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
    filled,
    kept_counts,
    kept_entries,
    owned_rows,
    refuse_infinite,
    sign_set,
)
from kdcache.cache.codecs.sparse import (
    SPARSE_FILTERS,
    check_tail,
    checked_ids,
    decode_tail,
    encode_sparse,
    join_ids,
    sparse_specs,
)
from kdcache.core.row_format import RowFormat
from kdcache.core.types import PackedRows, SparseRows


class Fast:
    """See the module."""

    tables: tuple[str, ...] = ()

    def specs(self, row_format: RowFormat, width: int) -> dict[str, Spec]:
        """Arrays of a block."""
        return {**sparse_specs(row_format, width), "logprobs": ("float16", (width,))}

    def filters(self, compressor: str) -> Mapping[str, Filter]:
        """Bits where few of them differ; the two large arrays stay with the fastest."""
        return SPARSE_FILTERS

    def encode(self, rows: SparseRows, row_format: RowFormat, tables: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of rows."""
        kept_R, width, kept_RK = kept_entries(rows)
        with np.errstate(over="ignore"):
            half_RK = sign_set(rows.logprobs[:, :width]).astype(np.float16, copy=False)
        logprobs_RK = filled(half_RK, kept_RK)
        refuse_infinite(logprobs_RK, kept_R)
        return {**encode_sparse(rows, rows.ids, row_format), "logprobs": logprobs_RK}

    def check(self, arrays: Arrays, row_format: RowFormat, tables: Arrays) -> None:
        """Refuse values that cannot be rows."""
        owned_R = owned_rows(arrays)
        kept = kept_counts(arrays, owned_R, arrays["logprobs"].shape[1])
        check_numbers(arrays, row_format, owned_R)
        check_logprobs(arrays["logprobs"], kept)
        checked_ids(arrays, arrays["num_classes"], kept)
        check_tail(arrays, owned_R, kept)

    def decode(self, packed: PackedRows) -> SparseRows:
        """Rows again."""
        arrays = packed.arrays
        kept_R = arrays["num_kept"].astype(np.int64)
        kept_RK = np.arange(arrays["logprobs"].shape[1]) < kept_R[:, None]
        atoms, moments = decode_tail(arrays)
        return SparseRows(
            row_ptr=packed.row_ptr,
            ids=np.where(kept_RK, join_ids(arrays), 0).astype(np.int64),
            logprobs=np.where(kept_RK, arrays["logprobs"], np.float16(-np.inf)).astype(np.float32),
            num_kept=kept_R,
            num_classes=arrays["num_classes"],
            lse=arrays["lse"],
            atoms=atoms,
            moments=moments,
            gold=arrays["gold"],
        )
