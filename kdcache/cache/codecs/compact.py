"""Codec `compact` of store topk: ids by frequency, one byte a log-probability.

    ids, ids_high              place of the class in `id_table`; the rest as in `sparse`
    first float16 [R]          log-probability of the most probable class
    gaps uint8 [R, K]          0 to 254, the first 0; 255 where no entry is
    gap_shift uint8 [R]        doublings of the row's step
    table id_table int32 [V]   classes by falling frequency: a permutation (`frequency.py`)

    code_j = gaps_0 + ... + gaps_j
    logprob_j = first - code_j * 2^-5 * 2^gap_shift            in float32

The codes are rounded, not the gaps, so that errors do not add up: each log-probability but the first is within half a
step, 1/64, of the teacher's. `gap_shift` is the smallest with which every gap of the row fits.

Shape suffixes: R rows  K kept (padded).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codecs.base import (
    BIT_COLUMNS,
    BITS,
    Arrays,
    Filter,
    Spec,
    check_entries,
    check_numbers,
    filled,
    kept_counts,
    kept_entries,
    not_finite,
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
from kdcache.cache.ragged import fill_value
from kdcache.core.errors import CacheDamaged
from kdcache.core.row_format import RowFormat
from kdcache.core.types import PackedRows, SparseRows

STEP = 2.0**-5
LARGEST_GAP = 254
LARGEST_GAP_SHIFT = 16
NO_GAP = 255


class Compact:
    """See the module."""

    tables: tuple[str, ...] = ("id_table",)

    def specs(self, row_format: RowFormat, width: int) -> dict[str, Spec]:
        """Arrays of a block."""
        return {
            **sparse_specs(row_format, width),
            "first": ("float16", ()),
            "gaps": ("uint8", (width,)),
            "gap_shift": ("uint8", ()),
        }

    def filters(self, compressor: str) -> Mapping[str, Filter]:
        """Columns of bits for the gaps, which shrink with the rank; bits of ids for lz4, which codes no entropy."""
        filters = {**SPARSE_FILTERS, "gaps": BIT_COLUMNS}
        return {**filters, "ids": BITS} if compressor == "lz4" else filters

    def encode(self, rows: SparseRows, row_format: RowFormat, tables: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of rows; rows that do not fall are sorted first."""
        rows = _falling(rows)
        kept_R, width, kept_RK = kept_entries(rows)
        logprobs_RK = filled(sign_set(rows.logprobs[:, :width]).astype(np.float64), kept_RK)
        with np.errstate(over="ignore"):
            half_RK = logprobs_RK.astype(np.float16)
        refuse_infinite(half_RK, kept_R)
        depth_RK = half_RK[:, :1].astype(np.float64) - logprobs_RK
        gaps, shift_R = _quantise(depth_RK, kept_R)
        place = np.empty(len(tables["id_table"]), dtype=np.int64)
        place[tables["id_table"]] = np.arange(len(place))
        return {
            **encode_sparse(rows, place[rows.ids], row_format),
            "first": half_RK[:, 0],
            "gaps": gaps,
            "gap_shift": shift_R,
        }

    def check(self, arrays: Arrays, row_format: RowFormat, tables: Arrays) -> None:
        """Refuse values that cannot be rows."""
        owned_R = owned_rows(arrays)
        kept = kept_counts(arrays, owned_R, arrays["ids"].shape[1])
        check_numbers(arrays, row_format, owned_R)
        if (not_finite(arrays["first"]) == owned_R).any():
            raise CacheDamaged("first has a hole, or values where no row is")
        if not check_entries(arrays["gaps"], kept, largest=LARGEST_GAP, fill=NO_GAP):
            raise CacheDamaged("gaps has a hole, or values where no row is")
        if ((arrays["gaps"][:, 0] != 0) & owned_R).any():
            raise CacheDamaged("gaps begins a row with another value than 0")
        if ((arrays["gap_shift"] > LARGEST_GAP_SHIFT) & owned_R).any():
            raise CacheDamaged(f"a gap shift over {LARGEST_GAP_SHIFT} is impossible")
        table = tables["id_table"]
        places_RK = checked_ids(arrays, np.full(len(owned_R), len(table), dtype=np.int32), kept)
        smaller_R = np.flatnonzero(owned_R & (arrays["num_classes"] < len(table)))
        if len(smaller_R):
            ids_RK = np.where(
                np.arange(kept.width) < kept.counts_R[smaller_R, None],
                table[np.minimum(places_RK[smaller_R], len(table) - 1)],
                0,
            )
            if (ids_RK >= arrays["num_classes"][smaller_R, None]).any():
                raise CacheDamaged("ids has a class outside 0 to V - 1")
        check_tail(arrays, owned_R, kept)

    def decode(self, packed: PackedRows) -> SparseRows:
        """Rows again."""
        arrays = packed.arrays
        kept_R = arrays["num_kept"].astype(np.int64)
        kept_RK = np.arange(arrays["ids"].shape[1]) < kept_R[:, None]
        codes_RK = np.cumsum(np.where(kept_RK, arrays["gaps"], 0), axis=1, dtype=np.int32)
        step_R = np.ldexp(np.float32(STEP), arrays["gap_shift"].astype(np.int32))
        logprobs_RK = arrays["first"].astype(np.float32)[:, None] - codes_RK * step_R[:, None]
        atoms, moments = decode_tail(arrays)
        ids_RK = packed.shared["id_table"][np.where(kept_RK, join_ids(arrays), 0)]
        return SparseRows(
            row_ptr=packed.row_ptr,
            ids=np.where(kept_RK, ids_RK, 0).astype(np.int64),
            logprobs=np.where(kept_RK, logprobs_RK, -np.inf).astype(np.float32),
            num_kept=kept_R,
            num_classes=arrays["num_classes"],
            lse=arrays["lse"],
            atoms=atoms,
            moments=moments,
            gold=arrays["gold"],
        )


def _falling(rows: SparseRows) -> SparseRows:
    """Rows with their entries in falling order; those of equal log-probability stay in theirs."""
    if (rows.logprobs[:, 1:] <= rows.logprobs[:, :-1]).all():
        return rows
    order_RK = np.argsort(-rows.logprobs, axis=1, kind="stable")
    return replace(
        rows,
        ids=np.take_along_axis(rows.ids, order_RK, axis=1),
        logprobs=np.take_along_axis(rows.logprobs, order_RK, axis=1),
    )


def _quantise(depth_RK: NDArray[np.float64], kept_R: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Gaps of rounded cumulative codes, and the doublings of the step that each row needs.

    Args:
        depth_RK: distance below the first log-probability, nats, rising; NaN where nothing is kept.
        kept_R: entries kept.
    """
    shift_R = np.zeros(len(kept_R), dtype=np.uint8)
    todo_R = np.arange(len(kept_R))
    gaps_RK = np.zeros(depth_RK.shape, dtype=np.int64)
    while len(todo_R):
        step_R = np.ldexp(STEP, shift_R[todo_R].astype(np.int32))
        codes_RK = np.nan_to_num(np.rint(depth_RK[todo_R] / step_R[:, None])).clip(min=0)
        codes_RK[:, 0] = 0
        # A rounded first may lie below the second: both then stand at code 0. Padding repeats the last code.
        codes_RK = np.maximum.accumulate(codes_RK, axis=1).astype(np.int64)
        gaps_RK[todo_R] = np.diff(codes_RK, axis=1, prepend=0)
        todo_R = todo_R[gaps_RK[todo_R].max(axis=1, initial=0) > LARGEST_GAP]
        shift_R[todo_R] += 1
    gaps = gaps_RK.astype(np.uint8)
    gaps[np.arange(depth_RK.shape[1]) >= kept_R[:, None]] = fill_value(gaps.dtype)
    return gaps, shift_R
