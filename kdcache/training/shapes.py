"""Shapes that batches are padded to, so that few of them occur and each can be one CUDA graph. Pure.

What is padded has no part in a loss.

R rows  K kept (padded)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kdcache.core.types import IGNORE, PackedRows
from kdcache.losses.packed import PackedTargets
from kdcache.training.batch import DECODER, Batch

STEPS = 4
"""Sizes between a power of two and the next: padding adds less than a quarter, an eighth in the middle."""
SMALLEST = 8
"""Sizes are multiples of it."""


def rounded(count: int, *, limit: int | None = None) -> int:
    """The smallest size of the grid that holds `count`; 0 stays 0.

    Args:
        count: what must fit.
        limit: sizes above it are not used: a count up to it is rounded to at most it, a larger one is left alone.

    Example:
        >>> [rounded(n) for n in (0, 1, 9, 33, 65, 500)]
        [0, 8, 16, 40, 80, 512]
        >>> [rounded(n, limit=510) for n in (500, 511)]
        [510, 511]
    """
    if count == 0 or (limit is not None and count >= limit):
        return count
    spacing = max(SMALLEST, (1 << (count - 1).bit_length()) // (2 * STEPS))
    size = -(-count // spacing) * spacing
    return size if limit is None else min(size, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Sizes of batches.

    Attributes:
        longest: tokens that the model can take; null: any number.
    """

    longest: int | None = None

    def tokens(self, count: int) -> int:
        """Tokens of a sequence, padded."""
        return rounded(count, limit=self.longest)

    def rows(self, count: int) -> int:
        """Rows of a batch, padded."""
        return rounded(count)


def grid_of(model: object) -> Grid:
    """The sizes that a model can take.

    Args:
        model: of transformers. Some of the learned positions that its configuration counts are not for tokens (two of
            RoBERTa's and BART's), so two are left out for all.
    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return Grid(longest=positions - 2 if isinstance(positions, int) and positions > 2 else None)


def pad(batch: Batch, grid: Grid, *, pad_token_id: int) -> Batch:
    """A batch whose sizes are on a grid: more tokens behind each sequence, masked, and more rows, of weight 0.

    Items and denominators stay the same, and so do rows that are one an item: a training's batches have equally many
    items, and logits of whole items cannot be read for more. A batch without any row is left as it is.

    Args:
        batch: on the CPU, with its teacher rows packed.
        grid: of sizes.
        pad_token_id: fills `input_ids`.
    """
    num_rows = len(batch.labels_R)
    if num_rows == 0:
        return batch
    more = 0 if num_rows == len(batch.inputs["input_ids"]) else grid.rows(num_rows) - num_rows
    packed = batch.packed
    if packed is not None:
        packed = replace(packed, rows=tuple(_padded(rows, more, grid) for rows in packed.rows))
    width = batch.facts.width
    if batch.facts.ragged:  # classes are tokens: as many as a sequence may have
        width = max(width, min(grid.tokens(width), grid.tokens(batch.inputs["input_ids"].shape[1])))
    return replace(
        batch,
        inputs={name: _longer(name, tensor, grid, pad_token_id) for name, tensor in batch.inputs.items()},
        positions_R2=functional.pad(batch.positions_R2, (0, 0, 0, more)),
        labels_R=functional.pad(batch.labels_R, (0, more), value=IGNORE),
        weights_R=functional.pad(batch.weights_R, (0, more)),
        classes_R=functional.pad(batch.classes_R, (0, more), value=int(batch.classes_R[0])),
        facts=replace(batch.facts, width=width, unlabelled=True, fillers=True, has_tail=_may_have_tail(packed)),
        packed=packed,
    )


def _may_have_tail(packed: PackedTargets | None) -> bool:
    """Whether rows of a cache may keep fewer classes than they have; the same for all batches of a training."""
    return packed is not None and any(rows.store == "topk" and rows.codec != "dense" for rows in packed.rows)


def _longer(name: str, tensor_BL: Tensor, grid: Grid, pad_token_id: int) -> Tensor:
    more = grid.tokens(tensor_BL.shape[1]) - tensor_BL.shape[1]
    filler = pad_token_id if name.removeprefix(DECODER) == "input_ids" else 0
    return functional.pad(tensor_BL, (0, more), value=filler) if more else tensor_BL


_KEPT = frozenset({"ids", "ids_high", "logprobs", "gaps"})
"""Arrays of sparse rows with one column for each class that may be kept."""


def _padded(rows: PackedRows, more: int, grid: Grid) -> PackedRows:
    """Rows with `more` repeats of the first, and room for as many kept classes as the grid says."""
    index_R = np.concatenate([np.arange(rows.num_rows), np.zeros(more, np.int64)])
    columns = rows.codec != "dense"
    arrays = {
        name: _wider(array[index_R], grid) if columns and name in _KEPT else array[index_R]
        for name, array in rows.arrays.items()
    }
    row_ptr = rows.row_ptr.copy()
    row_ptr[-1] += more
    return replace(rows, row_ptr=row_ptr, arrays=arrays)


def _wider(array_RK: NDArray[Any], grid: Grid) -> NDArray[Any]:
    more = grid.rows(array_RK.shape[1]) - array_RK.shape[1]
    return np.pad(array_RK, ((0, 0), (0, more))) if more else array_RK
