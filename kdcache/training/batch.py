"""Items to padded tensors, and the steps that the loop runs.

B items  L tokens (padded)  R rows
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.cache.loader import Loader, Micro
from kdcache.core import order
from kdcache.core.errors import ModelError
from kdcache.core.types import IGNORE, Item
from kdcache.losses import facts as finding
from kdcache.losses.facts import Facts
from kdcache.losses.packed import PackedTargets, Teacher
from kdcache.losses.targets import Mixture, Targets

DECODER = "decoder_"
"""Begins the arguments of an encoder-decoder's second sequence."""
MASKED = -1e4
"""Logit of a class that a row does not have: finite, for sums; its probability is 0 at any temperature in use."""


class RowReader(Protocol):
    """The part of a task that reads a model's outputs."""

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """Logits of the rows, [R, V]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch.

    Attributes:
        inputs: model arguments, int64 [B, L], with `attention_mask`; those of a decoder have another L.
        positions_R2: int64, (item of the batch, token) where each row is read.
        labels_R: int64, gold classes or -100.
        weights_R: float32, 0 for rows of fillers.
        classes_R: int64, V of each row.
        facts: of the rows: known without asking the device.
        targets: teacher rows, or null. `packed` becomes it on the batch's device.
        packed: teacher rows as the cache stores them, still on the CPU; or null.
    """

    inputs: dict[str, Tensor]
    positions_R2: Tensor
    labels_R: Tensor
    weights_R: Tensor
    classes_R: Tensor
    facts: Facts
    targets: Targets | Mixture | None = None
    packed: PackedTargets | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device: from page-locked memory and without waiting where that is CUDA.

        Teacher rows travel packed and are expanded there.
        """
        targets = self.targets if self.packed is None else self.packed.to(device)
        if device.type == "cpu":
            return replace(self, targets=targets, packed=None)
        return Batch(
            inputs={name: _send(value, device) for name, value in self.inputs.items()},
            positions_R2=_send(self.positions_R2, device),
            labels_R=_send(self.labels_R, device),
            weights_R=_send(self.weights_R, device),
            classes_R=_send(self.classes_R, device),
            facts=self.facts,
            targets=targets,
        )


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True)


def collate(
    items: Sequence[Item],
    *,
    pad_token_id: int,
    weights_B: NDArray[np.float32] | None = None,
    packed: PackedTargets | None = None,
) -> Batch:
    """Pad items on the right to the longest of them; what a decoder gets has a length of its own.

    Args:
        items: at least one.
        pad_token_id: fills `input_ids` of both sequences; other inputs are filled with 0.
        weights_B: 0 for fillers; default 1.
        packed: teacher rows of the same items, in order.
    """
    inputs: dict[str, Tensor] = {}
    for part in dict.fromkeys(_part(name) for name in items[0].inputs):
        inputs |= _padded(items, part, pad_token_id)
    num_rows = [item.num_rows for item in items]
    owner_R = np.repeat(np.arange(len(items)), num_rows)
    positions = np.stack([owner_R, np.concatenate([item.positions_R for item in items])], axis=1)
    weights = np.ones(len(items), dtype=np.float32) if weights_B is None else weights_B
    classes_R = np.concatenate([item.classes_R for item in items]).astype(np.int64)
    labels_R = np.concatenate([item.labels_R for item in items]).astype(np.int64)
    weights_R = weights[owner_R]
    return Batch(
        inputs=inputs,
        positions_R2=torch.from_numpy(positions.astype(np.int64)),
        labels_R=torch.from_numpy(labels_R),
        weights_R=torch.from_numpy(weights_R),
        classes_R=torch.from_numpy(classes_R),
        facts=finding.find(labels_R, classes_R, weights_R, has_tail=packed is not None and packed.has_tail),
        packed=packed,
    )


def _part(name: str) -> str:
    """Which of a model's two sequences an argument is of: `decoder_`, or the only one."""
    return DECODER if name.startswith(DECODER) else ""


def _padded(items: Sequence[Item], part: str, pad_token_id: int) -> dict[str, Tensor]:
    """The arguments of one sequence, all as long as the longest of its `input_ids`, and their mask."""
    lengths = np.array([len(item.inputs[f"{part}input_ids"]) for item in items])
    width = int(lengths.max())
    inputs = {}
    for name in (name for name in items[0].inputs if _part(name) == part):
        filler = pad_token_id if name.endswith("input_ids") else 0
        padded = np.full((len(items), width), filler, dtype=np.int64)
        for b, item in enumerate(items):
            padded[b, : lengths[b]] = item.inputs[name]
        inputs[name] = torch.from_numpy(padded)
    inputs[f"{part}attention_mask"] = torch.from_numpy((np.arange(width)[None, :] < lengths[:, None]).astype(np.int64))
    return inputs


def read_rows(task: RowReader, outputs: Any, batch: Batch) -> Tensor:
    """Logits of a batch's rows [R, V]; what padding gave to classes that a row does not have is `MASKED`.

    Columns that no row has, the padding of a vocabulary, are cut off.

    Raises:
        ModelError: the model has fewer classes than a row.
    """
    logits_RV = task.rows(outputs, batch.positions_R2)
    if logits_RV.shape[1] < batch.facts.width:
        raise ModelError(
            f"the model gives {logits_RV.shape[1]:,} classes, but rows have {batch.facts.width:,}; give it as many: "
            f"its labels or its vocabulary are not the dataset's"
        )
    if logits_RV.shape[1] > batch.facts.width:
        logits_RV = logits_RV[:, : batch.facts.width].contiguous()  # a view could not become its own gradient
    if not batch.facts.ragged:
        return logits_RV
    other_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device)[None, :] >= batch.classes_R[:, None]
    return logits_RV.masked_fill(other_RV, MASKED)


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
    """

    loader: Loader
    teachers: tuple[str, ...]
    teacher_weight: float = 0.5
    pad_token_id: int
    _teachers: dict[str, Teacher] = field(default_factory=dict, repr=False, compare=False)

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
        if name not in self._teachers:
            self._teachers[name] = Teacher(head=self.loader.cache.head(name))
        return self._teachers[name]

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
