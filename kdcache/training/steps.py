"""The steps that the loop runs: from items in memory, or streamed from a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from kdcache.cache.loader import Loader, Micro
from kdcache.core import order
from kdcache.core.types import IGNORE, Item
from kdcache.losses.packed import PackedTargets, Teacher
from kdcache.training.batch import Batch, collate


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """One optimiser step of this rank.

    Attributes:
        epoch: from 0.
        index: step within the epoch.
        batches: this rank's micro-batches, the same number on every rank.
        num_rows: rows with a teacher in the step, over all ranks.
        num_labels: rows with a label in the step, over all ranks.
    """

    epoch: int
    index: int
    batches: tuple[Batch, ...]
    num_rows: int
    num_labels: int


class Steps(Protocol):
    """Where training steps come from: memory or a cache."""

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""

    def epoch(self, epoch: int) -> Iterator[TrainStep]:
        """The steps of an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySteps:
    """Steps over items in memory (the teacher's own fine-tuning), in the same order as a cache would give them.

    Attributes:
        items: the training split.
        batch_size: items of a step over all ranks and accumulation steps.
        micro_batch_size: items of a forward pass on one rank.
        seed: of the order.
        rank: this process.
        world_size: processes.
        pad_token_id: fills `input_ids`.
    """

    items: Sequence[Item]
    batch_size: int
    micro_batch_size: int
    seed: int
    rank: int
    world_size: int
    pad_token_id: int

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return order.num_steps(len(self.items), self.batch_size)

    def epoch(self, epoch: int) -> Iterator[TrainStep]:
        """The steps of an epoch."""
        lengths = np.array([item.num_tokens for item in self.items], dtype=np.int64)
        rounds = order.num_rounds(self.batch_size, micro_batch_size=self.micro_batch_size, world_size=self.world_size)
        steps = order.epoch_steps(lengths, batch_size=self.batch_size, seed=self.seed, epoch=epoch)
        for index, step in enumerate(steps):
            slots = order.deal(
                step,
                lengths,
                rounds=rounds,
                micro_batch_size=self.micro_batch_size,
                rank=self.rank,
                world_size=self.world_size,
            )
            chosen = [self.items[i] for i in step]
            yield TrainStep(
                epoch=epoch,
                index=index,
                batches=tuple(
                    collate([self.items[i] for i in slot.items], pad_token_id=self.pad_token_id, weights_B=slot.weights)
                    for slot in slots
                ),
                num_rows=sum(item.num_rows for item in chosen),
                num_labels=sum(int((item.labels_R != IGNORE).sum()) for item in chosen),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSteps:
    """Steps streamed from a cache.

    Attributes:
        loader: of the training split, with the rows of `teachers`.
        teachers: whose rows are the targets: one, the two of a mixture, or none for hard labels only.
        teacher_weight: of the first, where there are two.
        pad_token_id: fills `input_ids`.
        tables: teacher -> its head and tables; several trainings from one cache may share them.
    """

    loader: Loader
    teachers: tuple[str, ...]
    teacher_weight: float = 0.5
    pad_token_id: int
    tables: dict[str, Teacher] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return self.loader.num_steps

    def batch(self, micro: Micro) -> Batch:
        """A micro-batch of the loader as tensors."""
        packed = None
        if self.teachers:
            packed = PackedTargets(
                rows=tuple(micro.rows[name] for name in self.teachers),
                teachers=tuple(self._teacher(name) for name in self.teachers),
                weight=self.teacher_weight,
            )
        return collate(micro.items, pad_token_id=self.pad_token_id, weights_B=micro.weights_I, packed=packed)

    def _teacher(self, name: str) -> Teacher:
        """The teacher's head and tables, kept for the whole training."""
        if name not in self.tables:
            self.tables[name] = Teacher(head=self.loader.cache.head(name))
        return self.tables[name]

    def epoch(self, epoch: int) -> Iterator[TrainStep]:
        """The steps of an epoch."""
        for step in self.loader.steps(epoch):
            yield TrainStep(
                epoch=epoch,
                index=step.index,
                batches=tuple(self.batch(micro) for micro in step.micros),
                num_rows=step.num_rows,
                num_labels=step.num_labels,
            )
