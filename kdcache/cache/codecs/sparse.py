"""What the codecs `fast` and `compact` share: ids in as few bytes as V needs, and a row's tail.

    num_kept, num_classes int32 [R]    lse, gold float32 [R]
    ids uint16 [R, K], low 16 bits     ids_high uint8 (V up to 2^24) or uint16 [R, K], only where V exceeds 65,536
    atoms uint16 [R, N, 2]             atom_shift uint8 [R]             moments float32 [R, 2]

`lse` and `moments` are float32 with short mantissas: they are no more exact than what they are added to needs.

V is the teacher's largest number of classes, so that the blocks of a teacher have the same arrays.

Shape suffixes: R rows  K kept (padded)  N atoms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.atoms import LARGEST_SHIFT, UNUSED, decode_atoms, encode_atoms
from kdcache.cache.codecs.base import (
    BIT_COLUMNS,
    BITS,
    Arrays,
    Filter,
    Kept,
    Spec,
    check_entries,
    common_arrays,
    filled,
    kept_entries,
)
from kdcache.cache.ragged import fill_value, with_atoms
from kdcache.core.errors import CacheDamaged
from kdcache.core.row_format import LARGEST_CLASSES, RowFormat
from kdcache.core.types import SparseRows

LOW_BITS = 16
MOMENT_BITS = 10
"""Mantissa bits of a tail moment that are kept, as many as float16 has: the mean is within 0.008 nats, where the loss
that reads it leaves out a spread of some nats."""
LSE_BITS = 13
"""Mantissa bits of lse that are kept: within 0.001 nats up to 32, a quarter of what float16 log-probabilities are."""
SPARSE_FILTERS: Mapping[str, Filter] = {"atoms": BIT_COLUMNS, "moments": BITS, "lse": BITS, "gold": BITS}


def sparse_specs(row_format: RowFormat, width: int) -> dict[str, Spec]:
    """Arrays that both codecs have."""
    high = _high_type(row_format.num_classes)
    return {
        "ids": ("uint16", (width,)),
        **({"ids_high": (high, (width,))} if high else {}),
        "num_kept": ("int32", ()),
        "num_classes": ("int32", ()),
        "lse": ("float32", ()),
        "gold": ("float32", ()),
        "atoms": ("uint16", (row_format.num_atoms, 2)),
        "atom_shift": ("uint8", ()),
        "moments": ("float32", (2,)),
    }


def _high_type(num_classes: int) -> str:
    if num_classes <= 1 << LOW_BITS:
        return ""
    return "uint8" if num_classes <= 1 << 24 else "uint16"


def encode_sparse(rows: SparseRows, ids_RK: NDArray[np.integer[Any]], row_format: RowFormat) -> dict[str, NDArray[Any]]:
    """All arrays but the log-probabilities.

    Args:
        rows: to be stored.
        ids_RK: what stands for their ids.
        row_format: of the teacher.
    """
    kept_R, width, kept_RK = kept_entries(rows)
    ids_RK = ids_RK[:, :width]
    arrays = {
        "num_kept": kept_R,
        **common_arrays(rows),
        "ids": filled(ids_RK.astype(np.uint16, copy=False), kept_RK),  # the low 16 bits
        "lse": round_mantissa(rows.lse.astype(np.float32, copy=False), bits=LSE_BITS),
        "moments": round_mantissa(rows.moments.astype(np.float32, copy=False), bits=MOMENT_BITS),
    }
    if high := _high_type(row_format.num_classes):
        arrays["ids_high"] = filled((ids_RK.astype(np.int64, copy=False) >> LOW_BITS).astype(high), kept_RK)
    arrays["atoms"], arrays["atom_shift"] = encode_atoms(
        with_atoms(rows.atoms, row_format.num_atoms), rows.num_classes - kept_R
    )
    return arrays


def round_mantissa(values: NDArray[np.float32], *, bits: int) -> NDArray[np.float32]:
    """The nearest float32 whose mantissa has zeros after `bits` bits, ties to even: the same type in fewer bytes.

    Example:
        >>> round_mantissa(np.array([1.3, -1.3], np.float32), bits=2).tolist()
        [1.25, -1.25]
    """
    drop = np.uint32(23 - bits)
    codes = np.ascontiguousarray(values).view(np.uint32)
    half = ((codes >> drop) & np.uint32(1)) + (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
    rounded = ((codes + half) >> drop << drop).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def join_ids(arrays: Arrays) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Stored ids [R, K]; fill where none is kept."""
    ids_RK: NDArray[np.uint16] = arrays["ids"]
    if "ids_high" not in arrays:
        return ids_RK
    joined = arrays["ids_high"].astype(np.uint32)
    joined <<= LOW_BITS
    joined |= ids_RK
    return joined


def checked_ids(arrays: Arrays, bound_R: NDArray[np.int32], kept: Kept) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Stored ids, each below its row's bound where kept, and filled elsewhere.

    Raises:
        CacheDamaged: one is not.
    """
    ids_RK = join_ids(arrays)
    fill = int(fill_value(arrays["ids"].dtype))
    if "ids_high" in arrays:
        fill |= int(fill_value(arrays["ids_high"].dtype)) << LOW_BITS
    owned_R = kept.counts_R > 0
    lowest = int(bound_R.min(where=owned_R, initial=LARGEST_CLASSES))
    highest = int(bound_R.max(where=owned_R, initial=0))
    inside = check_entries(ids_RK, kept, largest=highest - 1, fill=fill)
    if inside and lowest < highest:
        mask_RK = np.arange(kept.width) < kept.counts_R[:, None]
        inside = not ((ids_RK >= bound_R[:, None]) & mask_RK).any()
    if not inside:
        raise CacheDamaged("ids has a class outside 0 to V - 1, or values where no row is")
    return ids_RK


def check_tail(arrays: Arrays, owned_R: NDArray[np.bool_], kept: Kept) -> None:
    """Atoms and moments stand where rows are.

    Raises:
        CacheDamaged: a tail without atoms or the reverse, a shift out of range, a moment that is not finite.
    """
    if any((np.isfinite(arrays["moments"][:, i]) != owned_R).any() for i in (0, 1)):
        raise CacheDamaged("moments is not finite, or stands where no row is")
    if ((arrays["atom_shift"] > LARGEST_SHIFT) & owned_R).any():
        shift = int(arrays["atom_shift"][owned_R].max())
        raise CacheDamaged(f"an atom shift of {shift}; at most {LARGEST_SHIFT} is possible")
    tail_R = owned_R & (kept.counts_R < arrays["num_classes"])
    found_R = np.zeros(len(tail_R), dtype=bool)
    for n in range(arrays["atoms"].shape[1]):  # the first atom is used, as a rule
        if (found_R == tail_R).all():
            break
        found_R |= arrays["atoms"][:, n, 1] != UNUSED
    if (found_R != tail_R).any():
        raise CacheDamaged("a row has a tail but no atoms, or atoms but no tail")


def decode_tail(arrays: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Atoms and moments of rows."""
    num_tail_R = arrays["num_classes"].astype(np.int64) - arrays["num_kept"]
    return decode_atoms(arrays["atoms"], arrays["atom_shift"], num_tail_R), arrays["moments"]
