"""One loaded teacher over items: each batch forward once, and its rows as the store keeps them.

R rows  V classes  D hidden size
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack
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
from kdcache.tasks.base import Task
from kdcache.teacher.checkpoints import Teacher, load_teacher
from kdcache.teacher.settings import DumpConfig
from kdcache.training import evaluate, heads, models

ROTATION_SEED = 0
"""Of the random rotation of `int8`: any number does, so it is always the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is the same for all teachers of a dump."""

    config: DumpConfig
    task: Task
    items: Sequence[Item]
    device: torch.device
    pad_token_id: int


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


class Runner:
    """A teacher on its device.

    Args:
        teacher: the checkpoint, which is loaded.
        job: the dump.
        with_hidden: capture what enters the output head, and prove on the first batch that it gives the logits back.

    Raises:
        ModelError: it does not fit the dataset, or has no head that can be split off.
    """

    def __init__(self, teacher: Teacher, job: Job, *, with_hidden: bool) -> None:
        self.job = job
        self.name = teacher.identity.name
        self._num_classes = teacher.identity.row_format.num_classes
        largest = models.largest_id([job.items])
        self.model: Any = load_teacher(teacher, job.task, largest_id=largest, device=job.device)
        self.head = heads.split(self.model, num_classes=self._num_classes) if with_hidden else None
        self._proven = False

    @property
    def hidden_size(self) -> int:
        """D of the head; 0 if it was not asked for."""
        return 0 if self.head is None else self.head.hidden_size

    def head_arrays(self) -> dict[str, NDArray[Any]]:
        """The head as a cache holds it; empty if it was not asked for."""
        return {} if self.head is None else dict(heads.to_arrays(self.head.head))

    def outputs(self, items: Sequence[Item]) -> Generator[Outputs, None, None]:
        """Each item through the teacher once, in batches of like length, longest first."""
        config, task = self.job.config, self.job.task
        with ExitStack() as stack:
            captured = [] if self.head is None else stack.enter_context(heads.capture(self.head))
            batches = evaluate.forward_rows(
                lambda inputs: self.model(**inputs),
                items,
                task=task,
                batch_size=config.batch_size,
                pad_token_id=self.job.pad_token_id,
                device=self.job.device,
            )
            for indices, batch, logits_RV in batches:
                hidden_RD = None
                if self.head is not None:
                    hidden_RD = heads.rows_of(captured, spec=self.head, task=task, positions_R2=batch.positions_R2)
                    hidden_RD = self._proved(self.head, hidden_RD, logits_RV).float()
                classes = np.concatenate([items[i].classes_R for i in indices]).astype(np.int64)
                yield Outputs(
                    indices=indices,
                    logits_RV=logits_RV,
                    hidden_RD=hidden_RD,
                    labels_R=batch.labels_R,
                    num_classes_R=torch.from_numpy(classes).to(self.job.device),
                    rows_per_item=np.array([items[i].num_rows for i in indices], dtype=np.int64),
                )

    def rows(self, items: Sequence[Item]) -> Generator[tuple[list[int], Rows], None, None]:
        """Each batch of items once, as the rows of the configured store."""
        row_format = self.job.config.row_format(num_classes=self._num_classes, hidden_size=self.hidden_size)
        for outputs in self.outputs(items):
            yield outputs.indices, rows_of(outputs, row_format)

    def _proved(self, head: heads.HeadSpec, hidden_RD: Tensor, logits_RV: Tensor) -> Tensor:
        if not self._proven:
            heads.prove(head, hidden_RD, logits_RV, name=self.name)
            self._proven = True
        return hidden_RD


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
