"""The Python API: a cache for a training loop of your own.

    cache = kdcache.open("runs/mrpc/cache", teacher="t_ll")
    objective = kdcache.Objective(loss="ce", tau_t=4, tau_s=1)
    for batch in cache.loader(split="train", batch_size=32, seed=0):
        logits = student(**batch.inputs).logits
        objective(logits, batch.targets, batch.labels).total.backward()

B items  L tokens  R rows
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kdcache.cache.codec import unpack
from kdcache.cache.loader import Loader
from kdcache.cache.ragged import concatenate, take
from kdcache.cache.reader import Cache
from kdcache.core.errors import ConfigError, IncompatibleTargets
from kdcache.core.order import epoch_order
from kdcache.core.types import Item, Rows, SparseRows
from kdcache.losses import rule
from kdcache.losses.objective import Objective
from kdcache.losses.targets import SparseTargets, from_rows
from kdcache.training.batch import collate

__all__ = ["Batch", "CacheDataset", "EpochSampler", "Objective", "TeacherCache", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch.

    Attributes:
        inputs: model arguments, int64 [B, L], with `attention_mask`.
        labels: gold classes of the rows, int64 [R], -100 where there is none.
        targets: the teacher's rows, or null where the cache was opened without a teacher.
        positions: int64 [R, 2], (item, token) where each row is read; classification reads one row an item.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    targets: SparseTargets | None
    positions: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        return Batch(
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            labels=self.labels.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            positions=self.positions.to(device),
        )


class CacheDataset(Dataset[tuple[Item, SparseRows | None]]):
    """A split as a map-style dataset: `dataset[i]` is an item with its teacher rows.

    For torch's DataLoader: `DataLoader(dataset, batch_size=32, sampler=sampler, collate_fn=dataset.collate)`.
    """

    def __init__(self, cache: Cache, *, split: str, teacher: str | None, pad_token_id: int = 0) -> None:
        self._cache = cache
        self._indices = cache.plan.indices(split)
        self._teacher = teacher
        self._pad_token_id = pad_token_id

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Item, SparseRows | None]:
        chosen = self._indices[index : index + 1] if index >= 0 else self._indices[[index]]
        if len(chosen) == 0:
            raise IndexError(f"item {index} of a split with {len(self)} items")
        rows = None if self._teacher is None else _sparse(self._cache.rows(self._teacher, chosen))
        return self._cache.items(chosen)[0], rows

    def collate(self, samples: Sequence[tuple[Item, SparseRows | None]]) -> Batch:
        """Pad samples to a batch."""
        rows = [rows for _, rows in samples if rows is not None]
        targets = from_rows(concatenate(rows)) if rows else None
        return _batch([item for item, _ in samples], self._pad_token_id, targets)


class EpochSampler(Sampler[int]):
    """A seeded order of a dataset, resumable in mid-epoch by its `state_dict`.

    Args:
        dataset: what is sampled.
        seed: of the order.
    """

    def __init__(self, dataset: CacheDataset, *, seed: int) -> None:
        self._count = len(dataset)
        self._seed = seed
        self._epoch = 0
        self._position = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self._count, seed=self._seed, epoch=self._epoch)
        while self._position < self._count:
            self._position += 1
            yield int(order[self._position - 1])
        self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where the sampler is: three integers and the size of what it samples."""
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position, "count": self._count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ConfigError: it is of another seed or dataset.
        """
        for field, own in (("seed", self._seed), ("count", self._count)):
            if state[field] != own:
                raise ConfigError(f"the sampler's state has {field} {state[field]}, this sampler {own}")
        self._epoch, self._position = state["epoch"], state["position"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCache:
    """A cache seen through one of its teachers; get one with `kdcache.open`."""

    cache: Cache
    teacher: str | None
    pad_token_id: int = 0

    def loader(
        self, *, split: str, batch_size: int, seed: int, epoch: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Batches of one epoch, read ahead by a thread.

        Args:
            split: `train`, ...
            batch_size: items of a batch over all ranks; the last may be short.
            seed: of the order.
            epoch: another one is another order.
            rank: of this process.
            world_size: number of processes; each gets its share of every batch.
        """
        micro = -(-batch_size // world_size)
        loader = Loader(
            self.cache,
            split=split,
            teachers=() if self.teacher is None else (self.teacher,),
            batch_size=batch_size,
            micro_batch_size=micro,
            seed=seed,
            rank=rank,
            world_size=world_size,
            with_rows=self.teacher is not None,
        )
        for step in loader.steps(epoch):
            for piece in step.micros:
                keep = np.flatnonzero(piece.weights_I > 0)  # fillers are for lockstep training only
                if len(keep) == 0:
                    continue
                targets = (
                    None if self.teacher is None else from_rows(_sparse(unpack(take(piece.rows[self.teacher], keep))))
                )
                yield _batch([piece.items[i] for i in keep], self.pad_token_id, targets)

    def dataset(self, split: str) -> CacheDataset:
        """A split as a map-style dataset."""
        return CacheDataset(self.cache, split=split, teacher=self.teacher, pad_token_id=self.pad_token_id)

    def exactness(self, objective: Objective) -> rule.Verdict:
        """Whether this cache gives an objective exactly, within a bound, or only approximately."""
        if self.teacher is None:
            return rule.Verdict(kind="exact")
        identity = self.cache.teacher(self.teacher)
        return rule.judge(objective, top_k=identity.top_k, num_classes=identity.num_classes)


def open(path: str | Path, *, teacher: str | None = None, pad_token_id: int = 0) -> TeacherCache:  # noqa: A001
    """Open a cache.

    Args:
        path: its folder.
        teacher: whose rows are the targets, e.g. `t_ll`; null for items and labels alone.
        pad_token_id: the tokenizer's, for `input_ids`.

    Raises:
        CacheError: no sound cache there, or no such teacher.
    """
    cache = Cache.open(path)
    if teacher is not None:
        cache.teacher(teacher)
    return TeacherCache(cache=cache, teacher=teacher, pad_token_id=pad_token_id)


def _batch(items: Sequence[Item], pad_token_id: int, targets: SparseTargets | None) -> Batch:
    batch = collate(items, pad_token_id=pad_token_id, targets=targets)
    return Batch(inputs=batch.inputs, labels=batch.labels_R, targets=targets, positions=batch.positions_R2)


def _sparse(rows: Rows) -> SparseRows:
    if not isinstance(rows, SparseRows):
        raise IncompatibleTargets("rows of store hidden cannot become sparse targets")
    return rows
