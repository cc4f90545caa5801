"""Codecs `float32`, `float16`, `bfloat16` of store hidden: the vector that enters the teacher's head.

    hidden float32 | float16 | uint16 [R, D]     num_classes int32 [R]     lse, gold float32 [R]

bfloat16 is kept as its bits, the upper half of a float32, rounded to nearest, ties to even.

Shape suffixes: R rows  D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codecs.base import (
    Arrays,
    Filter,
    Spec,
    check_numbers,
    common_arrays,
    not_finite,
    owned_rows,
)
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, PackedRows


@dataclass(frozen=True, slots=True)
class Floats:
    """See the module; `dtype` is the name of the stored type."""

    dtype: str
    tables: tuple[str, ...] = ()

    def specs(self, row_format: RowFormat, width: int) -> dict[str, Spec]:
        """Arrays of a block."""
        stored = "uint16" if self.dtype == "bfloat16" else self.dtype
        return {"hidden": (stored, (row_format.hidden_size,)), **HIDDEN_SPECS}

    def filters(self, compressor: str) -> Mapping[str, Filter]:
        """All arrays as usual."""
        return {}

    def encode(self, rows: HiddenRows, row_format: RowFormat, tables: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of rows."""
        if self.dtype == "bfloat16":
            stored: NDArray[Any] = rows.hidden if rows.hidden.dtype == np.uint16 else to_bfloat16(rows.hidden)
        else:
            with np.errstate(over="ignore"):
                stored = rows.vectors.astype(self.dtype, copy=False)
        if (bad_R := np.flatnonzero(not_finite(stored).any(axis=1))).size:
            raise CacheError(
                f"row {int(bad_R[0])} has a hidden vector that is not finite in {self.dtype}; "
                f"choose codec bfloat16 or float32, whose range is that of float32"
            )
        return {"hidden": stored, **common_arrays(rows)}

    def check(self, arrays: Arrays, row_format: RowFormat, tables: Arrays) -> None:
        """Refuse values that cannot be rows."""
        owned_R, hidden_RD = owned_rows(arrays), arrays["hidden"]
        check_numbers(arrays, row_format, owned_R)
        if (not_finite(hidden_RD) != ~owned_R[:, None]).any():
            raise CacheDamaged("hidden has a hole, or values where no row is")

    def decode(self, packed: PackedRows) -> HiddenRows:
        """Rows again."""
        hidden_RD = packed.arrays["hidden"]
        if self.dtype == "bfloat16":
            return hidden_rows(packed, from_bfloat16(hidden_RD))
        return hidden_rows(packed, hidden_RD.astype(np.float32))


HIDDEN_SPECS: dict[str, Spec] = {"num_classes": ("int32", ()), "lse": ("float32", ()), "gold": ("float32", ())}
"""Arrays that all codecs of store hidden have."""


def hidden_rows(packed: PackedRows, hidden_RD: NDArray[np.float32]) -> HiddenRows:
    """Rows with their vectors decoded."""
    arrays = packed.arrays
    return HiddenRows(
        row_ptr=packed.row_ptr,
        hidden=hidden_RD,
        num_classes=arrays["num_classes"],
        lse=arrays["lse"],
        gold=arrays["gold"],
    )


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even; NaN becomes the fill.

    Example:
        >>> [hex(b) for b in to_bfloat16(np.array([1.0, 1.00390625, 1.01171875], np.float32))]
        ['0x3f80', '0x3f80', '0x3f82']
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0xFFFF), rounded)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 of bfloat16 bits, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_float16(values: NDArray[np.float16]) -> NDArray[np.float32]:
    """The float32 of finite float16 numbers, exactly; ten times as fast as numpy, which converts one at a time.

        sign 0 exponent mantissa 0...0, as float32, times 2^112: the difference of the two exponents' biases

    Example:
        >>> from_float16(np.array([1.5, -0.0, 2.0**-24, -65504], np.float16)).tolist()
        [1.5, -0.0, 5.960464477539063e-08, -65504.0]
    """
    bits = np.ascontiguousarray(values).view(np.int16).astype(np.int32)  # the sign is in all upper bits
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000
    found = bits.view(np.float32)
    found *= np.float32(2.0**112)
    return found
