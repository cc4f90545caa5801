"""Codec `int8` of store hidden: minus the mean vector, rotated, one scale a row.

    hidden int8 [R, D], -127 to 127    scale float32 [R]    num_classes int32 [R]    lse, gold float32 [R]
    tables mean float32 [D], rotation_seed int64 [1]

    vector = rotate_back(hidden * scale) + mean                 `rotation.py`

Without the mean and the rotation a few large coordinates would decide the scale of all.

Shape suffixes: R rows  D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.codecs.base import Arrays, Filter, Spec, check_numbers, common_arrays, not_finite, owned_rows
from kdcache.cache.codecs.floats import HIDDEN_SPECS, hidden_rows
from kdcache.cache.codecs.rotation import rotate, rotate_back
from kdcache.cache.ragged import fill_value
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, PackedRows

LARGEST_CODE = 127


class Int8:
    """See the module."""

    tables: tuple[str, ...] = ("mean", "rotation_seed")

    def specs(self, row_format: RowFormat, width: int) -> dict[str, Spec]:
        """Arrays of a block."""
        return {"hidden": ("int8", (row_format.hidden_size,)), "scale": ("float32", ()), **HIDDEN_SPECS}

    def filters(self, compressor: str) -> Mapping[str, Filter]:
        """All arrays as usual."""
        return {}

    def encode(self, rows: HiddenRows, row_format: RowFormat, tables: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of rows."""
        vectors_RD = rows.vectors
        if (bad_R := np.flatnonzero(not_finite(vectors_RD).any(axis=1))).size:
            raise CacheError(f"row {int(bad_R[0])} has a hidden vector that is not finite")
        rotated_RD = rotate(vectors_RD - tables["mean"], seed=int(tables["rotation_seed"][0]))
        scale_R = np.abs(rotated_RD).max(axis=1, initial=0.0).astype(np.float32) / np.float32(LARGEST_CODE)
        codes_RD = np.rint(rotated_RD / np.where(scale_R > 0, scale_R, 1)[:, None])
        return {
            "hidden": codes_RD.clip(-LARGEST_CODE, LARGEST_CODE).astype(np.int8),
            "scale": scale_R,
            **common_arrays(rows),
        }

    def check(self, arrays: Arrays, row_format: RowFormat, tables: Arrays) -> None:
        """Refuse values that cannot be rows."""
        owned_R = owned_rows(arrays)
        check_numbers(arrays, row_format, owned_R)
        scale_R, hidden_RD = arrays["scale"], arrays["hidden"]
        if (np.isfinite(scale_R) != owned_R).any() or (scale_R < 0).any():
            raise CacheDamaged("scale is negative, not finite, or stands where no row is")
        if ((hidden_RD == fill_value(hidden_RD.dtype)) != ~owned_R[:, None]).any():
            raise CacheDamaged("hidden has a hole, or values where no row is")

    def decode(self, packed: PackedRows) -> HiddenRows:
        """Rows again."""
        scaled_RD = packed.arrays["hidden"].astype(np.float32) * packed.arrays["scale"][:, None]
        vectors_RD = rotate_back(scaled_RD, seed=int(packed.shared["rotation_seed"][0]))
        return hidden_rows(packed, vectors_RD + packed.shared["mean"])
