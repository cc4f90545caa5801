"""What the codecs `fast` and `compact` share: ids in as few bytes as V needs, and a row's tail.

    num_kept, num_classes int32 [R]    lse, gold float32 [R]
    ids uint16 [R, K], low 16 bits     ids_high uint8 (V up to 2^24) or uint16 [R, K], only where V exceeds 65,536
    atoms uint16 [R, N, 2]             atom_shift uint8 [R]             moments float32 [R, 2]

V is the teacher's largest number of classes, so that the blocks of a teacher have the same arrays.

Shape suffixes: R rows  E entries  K kept (padded)  N atoms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.atoms import LARGEST_SHIFT, decode_atoms, encode_atoms
from kdcache.cache.codecs.base import Arrays, Spec, common_arrays, pad_entries
from kdcache.cache.layout import TeacherIdentity
from kdcache.cache.ragged import fill_value, with_atoms
from kdcache.core.errors import CacheDamaged
from kdcache.core.types import SparseRows

LOW_BITS = 16
LARGEST_CLASSES = 1 << 31


def sparse_specs(identity: TeacherIdentity, width: int) -> dict[str, Spec]:
    """Arrays that both codecs have."""
    high = _high_type(identity.num_classes)
    return {
        "ids": ("uint16", (width,)),
        **({"ids_high": (high, (width,))} if high else {}),
        "num_kept": ("int32", ()),
        "num_classes": ("int32", ()),
        "lse": ("float32", ()),
        "gold": ("float32", ()),
        "atoms": ("uint16", (identity.num_atoms, 2)),
        "atom_shift": ("uint8", ()),
        "moments": ("float32", (2,)),
    }


def _high_type(num_classes: int) -> str:
    if num_classes <= 1 << LOW_BITS:
        return ""
    return "uint8" if num_classes <= 1 << 24 else "uint16"


def encode_sparse(
    rows: SparseRows, ids_E: NDArray[np.int64], identity: TeacherIdentity, width: int
) -> dict[str, NDArray[Any]]:
    """All arrays but the log-probabilities.

    Args:
        rows: to be stored.
        ids_E: what stands for their ids, in the same order.
        identity: of the teacher.
        width: K.
    """
    kept_R = np.diff(rows.entry_ptr)
    arrays = {
        "num_kept": kept_R.astype(np.int32),
        **common_arrays(rows),
        "ids": pad_entries((ids_E & 0xFFFF).astype(np.uint16), kept_R, width),
        "moments": rows.moments.astype(np.float32),
    }
    if high := _high_type(identity.num_classes):
        arrays["ids_high"] = pad_entries((ids_E >> LOW_BITS).astype(high), kept_R, width)
    arrays["atoms"], arrays["atom_shift"] = encode_atoms(
        with_atoms(rows.atoms, identity.num_atoms), rows.num_classes - kept_R
    )
    return arrays


def join_ids(arrays: Arrays) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Stored ids [R, K]; fill where none is kept."""
    ids_RK: NDArray[np.uint16] = arrays["ids"]
    if "ids_high" not in arrays:
        return ids_RK
    joined = arrays["ids_high"].astype(np.uint32)
    joined <<= LOW_BITS
    joined |= ids_RK
    return joined


def check_bound(ids_RK: NDArray[Any], bound_R: NDArray[np.int32], kept_R: NDArray[np.int64]) -> None:
    """Kept ids lie below their row's bound.

    As in `check_holes`, full rows are judged together: none of their entries may be over the bound.

    Raises:
        CacheDamaged: one does not.
    """
    owned_R, width = np.flatnonzero(kept_R), ids_RK.shape[1]
    if len(owned_R) == 0:
        return
    lowest, highest = int(bound_R[owned_R].min()), int(bound_R[owned_R].max())
    largest = int(np.iinfo(ids_RK.dtype).max)
    if lowest > largest:
        return  # the type itself is a bound
    limit: Any = ids_RK.dtype.type(lowest - 1)
    if lowest != highest:
        limit = np.clip(bound_R - 1, 0, largest).astype(ids_RK.dtype)[:, None]
    over_RK = ids_RK > limit
    partial_R = np.flatnonzero(kept_R < width)
    beyond = np.arange(width) >= kept_R[partial_R, None]
    # Fill is over every bound that is below the type's largest value, which the test above leaves.
    if np.count_nonzero(over_RK) != np.count_nonzero(over_RK[partial_R]) or (over_RK[partial_R] & ~beyond).any():
        raise CacheDamaged("ids has a class outside 0 to V - 1")


def check_tail(arrays: Arrays, owned_R: NDArray[np.bool_], kept_R: NDArray[np.int64]) -> None:
    """Atoms and moments stand where rows are.

    Raises:
        CacheDamaged: a tail without atoms or the reverse, a shift out of range, a moment that is not finite.
    """
    if (np.isfinite(arrays["moments"]).all(axis=1) != owned_R).any():
        raise CacheDamaged("moments is not finite, or stands where no row is")
    if ((arrays["atom_shift"] > LARGEST_SHIFT) & owned_R).any():
        shift = int(arrays["atom_shift"][owned_R].max())
        raise CacheDamaged(f"an atom shift of {shift}; at most {LARGEST_SHIFT} is possible")
    unused = fill_value(np.dtype(np.uint16))
    has_atoms_R = (arrays["atoms"][:, :, 1] != unused).any(axis=1)
    if (has_atoms_R != (owned_R & (kept_R < arrays["num_classes"]))).any():
        raise CacheDamaged("a row has a tail but no atoms, or atoms but no tail")


def decode_tail(arrays: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Atoms and moments of rows."""
    num_tail_R = arrays["num_classes"].astype(np.int64) - arrays["num_kept"]
    return decode_atoms(arrays["atoms"], arrays["atom_shift"], num_tail_R), arrays["moments"]
