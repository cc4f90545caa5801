"""A batch's logits as the rows of a store, in the CPU's memory at once, and what all rows of a teacher share.

For samples; a dump's rows go by `runner` and `arrival`.

R rows  V classes  D hidden size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.cache.codec import codec_of
from kdcache.cache.tables import id_table
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, Item, Rows, SparseRows
from kdcache.losses.selection import log_partition, select
from kdcache.losses.targets import to_rows

ROTATION_SEED = 0
"""Of the random rotation of `int8`: any number does, so it is always the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a batch of items gave.

    Attributes:
        indices: of the items.
        logits_RV: the teacher's, float32, on its device.
        hidden_RD: what entered the head, float32; null unless asked for.
        labels_R: int64, on the device.
        num_classes_R: int64, on the device.
        rows_per_item: int64.
    """

    indices: list[int]
    logits_RV: Tensor
    hidden_RD: Tensor | None
    labels_R: Tensor
    num_classes_R: Tensor
    rows_per_item: NDArray[np.int64]


def rows_of(outputs: Outputs, row_format: RowFormat) -> Rows:
    """Rows of the format's store.

    Raises:
        IncompatibleTargets: -inf or NaN among a row's own classes, or in what entered the head.
    """
    return hidden_rows(outputs) if row_format.store == "hidden" else sparse_rows(outputs, row_format)


def sparse_rows(outputs: Outputs, row_format: RowFormat) -> SparseRows:
    """Rows of the store `topk`; of a dense format all classes in class order.

    Raises:
        IncompatibleTargets: -inf or NaN among a row's own classes.
    """
    targets = select(
        outputs.logits_RV,
        outputs.labels_R,
        outputs.num_classes_R,
        top_k=row_format.top_k,
        top_p=row_format.top_p,
        dense=row_format.is_dense,
    )
    return to_rows(targets, rows_per_item=outputs.rows_per_item)


def hidden_rows(outputs: Outputs) -> HiddenRows:
    """Rows of the store `hidden`, of a batch that captured what entered the head.

    Raises:
        IncompatibleTargets: -inf or NaN among a row's own classes, or in what entered the head.
    """
    if outputs.hidden_RD is None or not bool(torch.isfinite(outputs.hidden_RD).all()):
        raise IncompatibleTargets("what enters the teacher's output head is not finite; run it with precision: float32")
    lse_R, gold_R = log_partition(outputs.logits_RV, outputs.labels_R, outputs.num_classes_R)
    return HiddenRows(
        row_ptr=np.concatenate([[0], np.cumsum(outputs.rows_per_item)]).astype(np.int64),
        hidden=outputs.hidden_RD.cpu().numpy(),
        num_classes=outputs.num_classes_R.cpu().numpy().astype(np.int32),
        lse=lse_R.cpu().numpy(),
        gold=gold_R.cpu().numpy(),
    )


def first_rows(row_format: RowFormat, outputs: Outputs) -> Rows | None:
    """Rows of a first batch for `shared_tables`, where the codec has tables that need them."""
    return rows_of(outputs, row_format) if codec_of(row_format).tables else None


def shared_tables(
    row_format: RowFormat, *, items: Sequence[Item], first: Rows | None = None
) -> dict[str, NDArray[Any]]:
    """What all rows of a teacher share; empty for most codecs.

    compact numbers classes by how often they occur in the items and are kept in the first batch: `id_table`. int8 keeps
    a vector's difference to a mean, rotated: `mean` float32 [D] and `rotation_seed` int64 [1].

    Args:
        row_format: of the rows.
        items: of the cache.
        first: rows of the first batch.
    """
    if row_format.codec == "compact":
        rows = first if isinstance(first, SparseRows) else None
        return {"id_table": id_table(items, num_classes=row_format.num_classes, rows=rows)}
    if row_format.codec == "int8" and isinstance(first, HiddenRows):
        mean_D = first.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return {"mean": mean_D, "rotation_seed": np.array([ROTATION_SEED], dtype=np.int64)}
    return {}
