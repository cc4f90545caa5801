"""A loaded teacher over items: the body over whole batches, the output head over the rows alone, a chunk at a time.

Where the head can be split off, [tokens, V] never exists: 64 texts of 2,048 tokens over 128,000 classes would be 34 GB
in 16 bits. What enters the head is captured, and the head runs where rows are read.

R rows  C rows of a chunk  V classes  D hidden size
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.core.errors import ModelError
from kdcache.core.row_format import RowFormat
from kdcache.core.types import Item
from kdcache.tasks.base import Task
from kdcache.teacher.arrival import Arriving, Copier, hidden_tensors, sparse_tensors
from kdcache.teacher.checkpoints import Teacher, load_teacher
from kdcache.teacher.settings import DumpConfig
from kdcache.teacher.stores import Outputs
from kdcache.training import heads, models
from kdcache.training.batch import Batch, collate, read_rows
from kdcache.training.forward import length_batches

CHUNK_BYTES = {"cpu": 1 << 26}
"""Logits of a chunk: 64 MB, 340 rows of 49,152 classes in float32."""
LARGE_CHUNK_BYTES = 1 << 29
"""Of other devices: 512 MB, 2,048 rows of 128,256 classes in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is the same for all teachers of a dump."""

    config: DumpConfig
    task: Task
    items: Sequence[Item]
    device: torch.device
    pad_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forwarded:
    """A batch after its forward pass: what enters the head at its rows, or their logits where no head was split off."""

    indices: list[int]
    batch: Batch
    rows_per_item: NDArray[np.int64]
    hidden_RD: Tensor | None = None
    logits_RV: Tensor | None = None

    def rows(self, chosen: Tensor) -> _Forwarded:
        """Some of the rows, each as an item of its own."""
        batch = replace(
            self.batch,
            positions_R2=self.batch.positions_R2[chosen],
            labels_R=self.batch.labels_R[chosen],
            classes_R=self.batch.classes_R[chosen],
        )
        hidden_RD = None if self.hidden_RD is None else self.hidden_RD[chosen]
        logits_RV = None if self.logits_RV is None else self.logits_RV[chosen]
        ones = np.ones(len(chosen), dtype=np.int64)
        return replace(self, batch=batch, hidden_RD=hidden_RD, logits_RV=logits_RV, rows_per_item=ones)


class Runner:
    """A teacher on its device.

    Args:
        teacher: the checkpoint, which is loaded.
        job: the dump.
        with_hidden: what enters the output head is asked for, so it must be possible to split the head off. Without, it
            is split off where V is large and that is possible.
        model: the checkpoint, where it is on the device already; else it is loaded.

    Raises:
        ModelError: it does not fit the dataset, or has no head that can be split off though that is needed.
    """

    def __init__(self, teacher: Teacher, job: Job, *, with_hidden: bool, model: Any = None) -> None:
        self.job = job
        self.name = teacher.identity.name
        self.whole_because = ""
        self._needs_head = with_hidden
        self._num_classes = teacher.identity.row_format.num_classes
        self._dtype = getattr(torch, teacher.identity.dtype)
        self.model: Any = model
        if model is None:
            largest = models.largest_id([job.items])
            self.model = load_teacher(teacher, job.task, largest_id=largest, device=job.device)
        self._proven = False
        self._copier = Copier(job.device)
        self._head = self._split()

    @property
    def head(self) -> heads.HeadSpec | None:
        """Of the model, if it was asked for."""
        return self._head if self._needs_head else None

    @property
    def hidden_size(self) -> int:
        """D of the head; 0 if it was not asked for."""
        return 0 if self.head is None else self.head.hidden_size

    def head_arrays(self) -> dict[str, NDArray[Any]]:
        """The head as a cache holds it; empty if it was not asked for."""
        return {} if self.head is None else dict(heads.to_arrays(self.head.head))

    def rows(self, items: Sequence[Item]) -> Iterator[Arriving]:
        """Each item through the teacher once, in batches of like length, longest first; nothing waits for the device.

        Raises:
            ModelError: the head does not give the model's own logits back.
        """
        row_format = self.job.config.row_format(num_classes=self._num_classes, hidden_size=self.hidden_size)
        for forwarded in self._forward(items):
            yield self._copier.send(
                self._kept(forwarded, row_format),
                items=[items[i] for i in forwarded.indices],
                indices=forwarded.indices,
                row_format=row_format,
            )

    def outputs(self, items: Sequence[Item], *, per_item: int | None = None) -> Iterator[Outputs]:
        """Each item through the teacher once, with its logits in float32, in the batches of `rows`.

        Args:
            items: of the job.
            per_item: rows of an item at most, spread evenly, each then an item of its own; default: all rows.
        """
        for forwarded in self._forward(items):
            if per_item is not None:
                chosen = rows_chosen(forwarded.rows_per_item.tolist(), per_item)
                forwarded = forwarded.rows(chosen.to(self.job.device))
            logits = [logits_CV.float() for _, logits_CV in self._chunks(forwarded)]
            hidden_RD = None if self.head is None else forwarded.hidden_RD
            yield Outputs(
                indices=forwarded.indices,
                logits_RV=torch.cat(logits) if len(logits) > 1 else logits[0],
                hidden_RD=None if hidden_RD is None else hidden_RD.float(),
                labels_R=forwarded.batch.labels_R,
                num_classes_R=forwarded.batch.classes_R,
                rows_per_item=forwarded.rows_per_item,
            )

    def _split(self) -> heads.HeadSpec | None:
        if not self._needs_head and self._num_classes < heads.LARGE_VOCABULARY:
            return None
        try:
            return heads.split(self.model, num_classes=self._num_classes)
        except ModelError as error:
            self._do_without(error)
            return None

    def _do_without(self, error: ModelError) -> None:
        """Go on with the model as a whole where that is enough."""
        if self._needs_head:
            raise error
        self.whole_because = str(error)

    def _kept(self, forwarded: _Forwarded, row_format: RowFormat) -> dict[str, Tensor]:
        """What a store keeps of a batch's rows, on the device."""
        labels_R, classes_R = forwarded.batch.labels_R, forwarded.batch.classes_R
        if row_format.store == "hidden":
            hidden_RD = forwarded.hidden_RD
            parts = [
                hidden_tensors(logits_CV, hidden_RD, labels_R, classes_R, part, row_format)
                for part, logits_CV in self._chunks(forwarded)
            ]
        else:
            widest = forwarded.batch.facts.width
            parts = [
                sparse_tensors(logits_CV, labels_R[part], classes_R[part], row_format, widest=widest)
                for part, logits_CV in self._chunks(forwarded)
            ]
        return parts[0] if len(parts) == 1 else {n: torch.cat([part[n] for part in parts]) for n in parts[0]}

    def _chunks(self, forwarded: _Forwarded) -> Iterator[tuple[slice, Tensor]]:
        """The logits of some rows at a time, in what the model computes in; at least one chunk."""
        if forwarded.logits_RV is not None:
            yield slice(None), forwarded.logits_RV
            return
        spec, hidden_RD = self._head, forwarded.hidden_RD
        if spec is None or hidden_RD is None:
            raise ModelError(f"teacher {self.name} ran without what enters its output head")
        limit = CHUNK_BYTES.get(self.job.device.type, LARGE_CHUNK_BYTES)
        step = max(1, limit // (self._num_classes * hidden_RD.element_size()))
        for start in range(0, max(1, len(hidden_RD)), step):
            part = slice(start, start + step)
            yield part, spec.head.logits_in(hidden_RD[part], self._dtype)

    @torch.no_grad()
    def _forward(self, items: Sequence[Item]) -> Iterator[_Forwarded]:
        config = self.job.config
        for indices in length_batches(items, config.batch_size, config.batch_tokens):
            chosen = [items[i] for i in indices]
            batch = collate(chosen, pad_token_id=self.job.pad_token_id).to(self.job.device)
            counts = np.array([item.num_rows for item in chosen], dtype=np.int64)
            self._prove()
            hidden_RD, logits_RV = self._body_or_whole(batch)
            yield _Forwarded(
                indices=indices, batch=batch, rows_per_item=counts, hidden_RD=hidden_RD, logits_RV=logits_RV
            )

    def _prove(self) -> None:
        """Once: the head is split off only if it gives the logits that the model itself gives to the shortest item.

        That item runs alone and whole, beside the dump, so that a model which picks or reshapes its rows after the head
        is found out.
        """
        if self._proven or self._head is None:
            return
        spec, self._proven = self._head, True
        shortest = min(
            (item for item in self.job.items if item.num_rows),
            key=lambda item: item.num_tokens + item.num_target_tokens,
        )
        batch = collate([shortest], pad_token_id=self.job.pad_token_id).to(self.job.device)
        try:
            with heads.capture(spec) as captured:
                logits_RV = read_rows(self.job.task, self.model(**batch.inputs), batch)
                hidden_RD = heads.rows_of(captured, spec=spec, task=self.job.task, positions_R2=batch.positions_R2)
            heads.prove(spec, hidden_RD, logits_RV, name=self.name)
        except ModelError as error:
            self._do_without(error)
            self._head = None

    def _body_or_whole(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """What enters the head at a batch's rows, while the head runs over no token; else the rows' logits."""
        spec, task = self._head, self.job.task
        if spec is None:
            return None, read_rows(task, self.model(**batch.inputs), batch)
        with heads.capture(spec, through=False) as captured:
            self.model(**batch.inputs)
            return heads.rows_of(captured, spec=spec, task=task, positions_R2=batch.positions_R2), None


def rows_chosen(counts: Sequence[int], per_item: int) -> Tensor:
    """Rows of each item spread evenly, at most `per_item`.

    Example:
        >>> rows_chosen([1, 4], 2).tolist()
        [0, 1, 4]
    """
    parts, start = [], 0
    for count in counts:
        parts.append(start + torch.linspace(0, count - 1, min(count, per_item)).long())
        start += count
    return torch.cat(parts)
