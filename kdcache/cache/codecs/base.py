"""What every codec shares: its contract, the fill of rows that are not there, and the checks of layout and holes.

A codec turns rows into arrays whose first axis is the row, and back. Rows that no item owns, and the entries of a row
beyond those it keeps, hold an impossible fill, so that a hole is visible to any reader. A codec is a value without
state; what the rows of a teacher share (tables) is handed to it.

Shape suffixes: R rows  K kept (padded).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.ragged import fill_value
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, PackedRows, SparseRows

Arrays = Mapping[str, NDArray[Any]]
LOG_SLACK = 1e-3
"""How far above 0 a log-probability may be by rounding, nats."""
_INFINITY = {"float16": 0x7C00, "uint16": 0x7F80, "float32": 0x7F800000}
"""Its bits; uint16 is bfloat16."""
Filter = tuple[str, bool]
"""blosc's shuffle (`shuffle`, `bitshuffle`), and whether it is over rows (columns become contiguous) or entries."""
SHUFFLED: Filter = ("shuffle", False)
BITS: Filter = ("bitshuffle", False)
BIT_COLUMNS: Filter = ("bitshuffle", True)
Spec = tuple[str, tuple[int, ...]]
"""Type and shape of a row of an array."""


class Codec(Protocol):
    """How the rows of one store become arrays."""

    def filters(self, compressor: str) -> Mapping[str, Filter]:
        """How the bytes of an array are turned before compression, where not `SHUFFLED`; measured on a real LM."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the arrays that all rows of a teacher share."""
        ...

    def specs(self, row_format: RowFormat, width: int) -> dict[str, Spec]:
        """Arrays of a block whose widest row keeps `width` classes: name -> (type, shape of a row)."""
        ...

    def encode(self, rows: Any, row_format: RowFormat, tables: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of rows, without padding rows.

        Raises:
            CacheError: rows that this codec cannot hold.
        """
        ...

    def check(self, arrays: Arrays, row_format: RowFormat, tables: Arrays) -> None:
        """Refuse values that cannot be rows; names, types and shapes have been checked. Called once a block is read.

        Raises:
            CacheDamaged: counts out of range, an id >= V, a hole, a value where no row is.
        """
        ...

    def decode(self, packed: PackedRows) -> SparseRows | HiddenRows:
        """Rows again; padding rows must have been left out.

        Raises:
            CacheDamaged: values that no encoder writes.
        """
        ...


def check_layout(arrays: Arrays, specs: Mapping[str, Spec]) -> None:
    """Names, types and shapes are those expected.

    Raises:
        CacheDamaged: the first array that is missing, unexpected, or of another type or shape.
    """
    if sorted(arrays) != sorted(specs):
        raise CacheDamaged(f"the arrays are {', '.join(sorted(arrays))}; expected: {', '.join(sorted(specs))}")
    num_rows = len(arrays["num_classes"])
    for name, (dtype, shape) in specs.items():
        array = arrays[name]
        if array.dtype != np.dtype(dtype) or array.shape != (num_rows, *shape):
            raise CacheDamaged(
                f"{name} is {array.dtype.name} {list(array.shape)}; expected: {dtype} {[num_rows, *shape]}"
            )


def owned_rows(arrays: Arrays) -> NDArray[np.bool_]:
    """Which rows belong to an item, bool [R]."""
    owned: NDArray[np.bool_] = arrays["num_classes"] != fill_value(arrays["num_classes"].dtype)
    return owned


def check_numbers(arrays: Arrays, row_format: RowFormat, owned_R: NDArray[np.bool_]) -> None:
    """What rows of every store have: V within the teacher's, a finite lse, a gold log-probability that is no infinity.

    Raises:
        CacheDamaged: the first that fails.
    """
    classes_R = arrays["num_classes"]
    if not (((classes_R >= 1) & (classes_R <= row_format.num_classes)) | ~owned_R).all():
        raise CacheDamaged(f"num_classes has a value outside 1 to {row_format.num_classes}, the teacher's")
    if (np.isfinite(arrays["lse"]) != owned_R).any() or np.isinf(arrays["gold"]).any():
        raise CacheDamaged("lse or gold is not finite, or stands where no row is")


@dataclass(frozen=True, slots=True)
class Kept:
    """How many entries of each row are kept; they come first.

    Attributes:
        counts_R: int64 [R]; 0 for padding rows.
        width: entries of the widest row.
    """

    counts_R: NDArray[np.int64]
    width: int

    def runs(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]], NDArray[np.int64]]:
        """Runs (start, stop) of full rows, runs of rows that keep nothing, and the other rows.

        Runs that are many and short count as other rows.
        """
        full_R, empty_R = self.counts_R == self.width, self.counts_R == 0
        full, empty = _runs(full_R), _runs(empty_R)
        if 16 * (len(full) + len(empty)) > len(full_R) + 64:
            return [], [], np.arange(len(full_R))
        return full, empty, np.flatnonzero(~(full_R | empty_R))


def _runs(flags_R: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(flags_R, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def kept_counts(arrays: Arrays, owned_R: NDArray[np.bool_], width: int, *, dense: bool = False) -> Kept:
    """Classes kept of each row.

    Raises:
        CacheDamaged: a count that no row can have.
    """
    kept_R, classes_R = arrays["num_kept"], arrays["num_classes"]
    possible_R = (kept_R >= 1) & (kept_R <= (classes_R if dense else np.minimum(classes_R, width)))
    if dense:
        possible_R &= (kept_R == classes_R) & (kept_R <= width)
    possible_R = np.where(owned_R, possible_R, kept_R == fill_value(kept_R.dtype))
    if not possible_R.all():
        r = int(np.flatnonzero(~possible_R)[0])
        raise CacheDamaged(f"num_kept {int(kept_R[r])} of {int(classes_R[r])} classes at row {r} is impossible")
    return Kept(np.where(owned_R, kept_R, 0).astype(np.int64), width)


def check_entries(codes_RK: NDArray[Any], kept: Kept, *, largest: int, fill: int) -> bool:
    """Whether integer codes are at most `largest` where entries are kept, and `fill` elsewhere.

    Runs of full and of empty rows take a pass or two and no memory; only the other rows are masked.
    """
    full, empty, others_R = kept.runs()
    if any(codes_RK[start:stop].max() > largest for start, stop in full):
        return False
    if any(codes_RK[a:b].min() != fill or codes_RK[a:b].max() != fill for a, b in empty):
        return False
    if len(others_R) == 0:
        return True
    others, mask = codes_RK[others_R], np.arange(kept.width) < kept.counts_R[others_R, None]
    return bool(np.where(mask, others <= largest, others == fill).all())


def sign_set(values: NDArray[Any]) -> NDArray[Any]:
    """Log-probabilities with their sign bit set, zero too: then one comparison of bits tells them from all else.

    As signed integers their bits are negative, as a rule all of them already: then they are given back as they are.

    Raises:
        CacheError: one above 0 by more than rounding.
    """
    if values.view(f"i{values.itemsize}").max(initial=-1) < 0:
        return values
    if (values > LOG_SLACK).any():
        raise CacheError(f"a log-probability of {float(np.nanmax(values)):g} is above 0")
    return np.where(np.isnan(values), values, -np.abs(np.minimum(values, 0))).astype(values.dtype)


def check_logprobs(values_RK: NDArray[Any], kept: Kept) -> None:
    """Log-probabilities are finite, at most 0 and have their sign bit set where kept, and NaN elsewhere.

    As signed integers the bits of such floats are those below the bits of minus infinity, so one maximum tells.

    Raises:
        CacheDamaged: a hole, or a value beyond.
    """
    bits = values_RK.view(f"i{values_RK.itemsize}")
    infinity = int(np.array(-np.inf, dtype=values_RK.dtype).view(bits.dtype))
    nan = int(np.array(np.nan, dtype=values_RK.dtype).view(bits.dtype))
    if not check_entries(bits, kept, largest=infinity - 1, fill=nan):
        raise CacheDamaged("logprobs has a hole, a value that is no log-probability, or values where no row is")


def not_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which numbers are NaN or infinite, by their bits: numpy's `isfinite` of float16 takes ten times as long.

    Args:
        values: float32, float16, or uint16 for the bits of bfloat16.
    """
    bits = values.view(f"u{values.itemsize}")
    magnitude = bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    found: NDArray[np.bool_] = (bits & magnitude) >= bits.dtype.type(_INFINITY[values.dtype.name])
    return found


def kept_entries(rows: SparseRows) -> tuple[NDArray[np.int32], int, NDArray[np.bool_] | None]:
    """How many classes each row keeps, the largest number but at least 1, and where entries are.

    The last is bool [R, K] over the first K = that number of places, or null where that is everywhere.
    """
    kept_R = rows.num_kept.astype(np.int32, copy=False)
    width = max(int(kept_R.max(initial=1)), 1)
    full = len(kept_R) > 0 and int(kept_R.min()) == width
    return kept_R, width, None if full else np.arange(width) < kept_R[:, None]


def filled(values_RK: NDArray[Any], kept_RK: NDArray[np.bool_] | None) -> NDArray[Any]:
    """The values with the fill of their type where nothing is kept."""
    if kept_RK is None:
        return values_RK
    return np.where(kept_RK, values_RK, fill_value(values_RK.dtype))


def common_arrays(rows: SparseRows | HiddenRows) -> dict[str, NDArray[Any]]:
    """The arrays that rows of every store have."""
    return {
        "num_classes": rows.num_classes.astype(np.int32, copy=False),
        "lse": rows.lse.astype(np.float32, copy=False),
        "gold": rows.gold.astype(np.float32, copy=False),
    }


def refuse_infinite(matrix: NDArray[Any], kept_R: NDArray[np.int32]) -> None:
    """Refuse rows whose values overflow the stored type.

    Raises:
        CacheError: the first such row.
    """
    bad_R = (~not_finite(matrix)).sum(axis=1) != kept_R
    if bad_R.any():
        raise CacheError(
            f"row {int(np.flatnonzero(bad_R)[0])} has a log-probability that is not finite in {matrix.dtype}, or keeps "
            f"a class twice; mask the padded part of the vocabulary before rows are made"
        )
