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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kdcache.cache.loader import Loader
from kdcache.cache.ragged import concatenate, take
from kdcache.cache.reader import Cache
from kdcache.core.configuration import Configuration
from kdcache.core.errors import ConfigError
from kdcache.core.order import epoch_order
from kdcache.core.types import Item, PackedRows
from kdcache.losses import rule
from kdcache.losses.objective import Objective
from kdcache.losses.packed import PackedTargets, Teacher
from kdcache.losses.targets import Mixture, Targets
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
    targets: Targets | Mixture | None
    positions: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        return Batch(
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            labels=self.labels.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            positions=self.positions.to(device),
        )


Sample = tuple[Item, tuple[PackedRows, ...]]


class CacheDataset(Dataset[Sample]):
    """A split as a map-style dataset: `dataset[i]` is an item with its teachers' rows, as the cache stores them.

    For torch's DataLoader: `DataLoader(dataset, batch_size=32, sampler=sampler, collate_fn=dataset.collate)`.
    """

    def __init__(self, source: TeacherCache, *, split: str) -> None:
        self._source = source
        self._indices = source.cache.plan.indices(split)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        chosen = self._indices[index : index + 1] if index >= 0 else self._indices[[index]]
        if len(chosen) == 0:
            raise IndexError(f"item {index} of a split with {len(self)} items")
        cache = self._source.cache
        rows = tuple(cache.packed(teacher, chosen) for teacher in self._source.teachers)
        return cache.items(chosen)[0], rows

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Pad samples to a batch, its targets expanded."""
        parts = zip(*(rows for _, rows in samples), strict=True)
        return self._source.batch([item for item, _ in samples], [concatenate(list(part)) for part in parts])


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
        for name, own in (("seed", self._seed), ("count", self._count)):
            if state[name] != own:
                raise ConfigError(f"the sampler's state has {name} {state[name]}, this sampler {own}")
        self._epoch, self._position = state["epoch"], state["position"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCache:
    """A cache seen through one of its teachers, or through a mixture of two; get one with `kdcache.open`."""

    cache: Cache
    teachers: tuple[str, ...] = ()
    teacher_weight: float = 0.5
    pad_token_id: int = 0
    _teachers: dict[str, Teacher] = field(default_factory=dict, repr=False, compare=False)

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
            teachers=self.teachers,
            batch_size=batch_size,
            micro_batch_size=micro,
            seed=seed,
            rank=rank,
            world_size=world_size,
            with_rows=bool(self.teachers),
        )
        for step in loader.steps(epoch):
            for piece in step.micros:
                keep = np.flatnonzero(piece.weights_I > 0)  # fillers are for lockstep training only
                if len(keep) == 0:
                    continue
                yield self.batch(
                    [piece.items[i] for i in keep], [take(piece.rows[name], keep) for name in self.teachers]
                )

    def batch(self, items: Sequence[Item], rows: Sequence[PackedRows]) -> Batch:
        """Items and their rows of each teacher as a batch on the CPU."""
        packed = None
        if rows:
            for name in self.teachers:
                if name not in self._teachers:
                    self._teachers[name] = Teacher(head=self.cache.head(name))
            teachers = tuple(self._teachers[name] for name in self.teachers)
            packed = PackedTargets(rows=tuple(rows), teachers=teachers, weight=self.teacher_weight)
        batch = collate(items, pad_token_id=self.pad_token_id, packed=packed).to(torch.device("cpu"))
        return Batch(inputs=batch.inputs, labels=batch.labels_R, targets=batch.targets, positions=batch.positions_R2)

    def dataset(self, split: str) -> CacheDataset:
        """A split as a map-style dataset."""
        return CacheDataset(self, split=split)

    def exactness(self, objective: Objective) -> rule.Verdict:
        """Whether this cache gives an objective exactly, within a bound, or only approximately."""
        identities = [self.cache.teacher(name) for name in self.teachers]
        return rule.worst(
            *(
                rule.judge(objective, top_k=i.top_k, num_classes=i.num_classes, store=i.store, codec=i.codec)
                for i in identities
            )
        )


def open(  # noqa: A001
    path: str | Path, *, teacher: str | None = None, teacher_weight: float = 0.5, pad_token_id: int = 0
) -> TeacherCache:
    """Open a cache.

    Args:
        path: its folder.
        teacher: whose rows are the targets, e.g. `t_ll`, or `t_hs+t_ll` for a mixture; null for items and labels alone.
        teacher_weight: of the first teacher of a mixture.
        pad_token_id: the tokenizer's, for `input_ids`.

    Raises:
        CacheError: no sound cache there, or no such teacher.
        ConfigError: neither one teacher nor two, or a weight outside [0, 1].
    """
    cache = Cache.open(path)
    teachers: tuple[str, ...] = ()
    if teacher is not None:
        teachers = Configuration(teacher=teacher, teacher_weight=teacher_weight).teachers
    for name in teachers:
        cache.teacher(name)
    return TeacherCache(cache=cache, teachers=teachers, teacher_weight=teacher_weight, pad_token_id=pad_token_id)
