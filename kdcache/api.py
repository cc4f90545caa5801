"""The Python API: a cache for a training loop of your own.

    cache = kdcache.open("runs/mrpc/cache", teacher="t_ll")
    objective = kdcache.Objective(loss="ce", tau_t=4, tau_s=1)
    for batch in cache.loader(split="train", batch_size=32, seed=0):
        logits = student(**batch.inputs).logits
        objective(logits, batch.targets, batch.labels, facts=batch.facts).total.backward()

B items  L tokens  R rows
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from kdcache.core.order import epoch_order, hash_keys
from kdcache.core.types import Item, PackedRows
from kdcache.losses import rule
from kdcache.losses.facts import Facts
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
        facts: of the rows; given to the objective, no step waits for the device.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    targets: Targets | Mixture | None
    positions: Tensor
    facts: Facts

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        return Batch(
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            labels=self.labels.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            positions=self.positions.to(device),
            facts=self.facts,
        )


Sample = tuple[Item, tuple[PackedRows, ...]]


class CacheDataset(Dataset[Sample]):
    """A split as a map-style dataset: `dataset[i]` is an item with its teachers' rows, as the cache stores them.

    For torch's DataLoader: `DataLoader(dataset, batch_size=32, sampler=sampler, collate_fn=dataset.collate)`.
    """

    def __init__(self, source: TeacherCache, *, split: str) -> None:
        self._source = source
        self._split = split
        self._indices = source.cache.plan.indices(split)

    @property
    def identity(self) -> str:
        """What an order of its items is of: the data's digest and the split."""
        return f"{self._source.cache.marker.dataset_digest}/{self._split}"

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of a split with {len(self)} items")
        chosen = self._indices[[index]]
        cache = self._source.cache
        rows = tuple(cache.packed(teacher, chosen) for teacher in self._source.teachers)
        return cache.items(chosen)[0], rows

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Pad samples to a batch, its targets expanded."""
        parts = zip(*(rows for _, rows in samples), strict=True)
        return self._source.batch([item for item, _ in samples], [concatenate(list(part)) for part in parts])


class EpochSampler(Sampler[int]):
    """A seeded order of a dataset, resumable in mid-epoch by its `state_dict`.

    Each pass over it is the next epoch. With `num_workers`, a DataLoader reads ahead of the training, and so
    does the state: save it with `num_workers=0`, or between epochs.

    Args:
        dataset: what is sampled.
        seed: of the order.

    Raises:
        ConfigError: no seed.
    """

    def __init__(self, dataset: CacheDataset, *, seed: int) -> None:
        hash_keys(0, seed=seed, stream=0)  # refuses a missing seed now, not at the first item
        self._count = len(dataset)
        self._of = dataset.identity
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

    def state_dict(self) -> dict[str, int | str]:
        """Where the sampler is, and of what; JSON can hold it."""
        place = {"seed": self._seed, "epoch": self._epoch, "position": self._position, "count": self._count}
        return {**place, "dataset": self._of}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ConfigError: it is none, or of another seed or dataset.
        """
        for name, own in (("dataset", self._of), ("count", self._count), ("seed", self._seed)):
            if state.get(name) != own:
                raise ConfigError(
                    f"the sampler's state has {name} {state.get(name)!r}, this sampler {own!r}; "
                    f"go on with the cache, split and seed that it was saved with"
                )
        epoch, position = state.get("epoch"), state.get("position")
        if not (isinstance(epoch, int) and epoch >= 0 and isinstance(position, int) and 0 <= position <= self._count):
            raise ConfigError(
                f"the sampler's state has epoch {epoch!r} and position {position!r}; the epoch is at least 0, "
                f"the position from 0 to {self._count}: start anew if the state is lost"
            )
        self._epoch, self._position = epoch, position


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCache:
    """A cache seen through one of its teachers, or through a mixture of two; get one with `kdcache.open`."""

    cache: Cache
    teachers: tuple[str, ...] = ()
    teacher_weight: float = 0.5
    pad_token_id: int = 0
    _teachers: dict[str, Teacher] = field(default_factory=dict, repr=False, compare=False)

    def loader(
        self,
        *,
        split: str,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_short: bool = False,
    ) -> Iterator[Batch]:
        """Batches of one epoch, read ahead by a thread.

        Args:
            split: its name.
            batch_size: items of a batch over all ranks.
            seed: with the epoch, decides the order.
            epoch: from 0.
            rank: of this process.
            world_size: number of processes; each gets its share of every batch.
            drop_short: leave out the one batch of an epoch that has fewer items, if there is one.

        Raises:
            ConfigError: no seed, a rank outside the world, or a rank that would have fewer batches than another.
            CacheError: no such split; later, whatever reading raises.
        """
        loader = Loader(
            self.cache,
            split=split,
            teachers=self.teachers,
            batch_size=batch_size,
            micro_batch_size=-(-batch_size // world_size) if world_size > 0 else batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            with_rows=bool(self.teachers),
        )
        _check_shares(loader, drop_short=drop_short)
        return self._batches(loader, epoch, least=batch_size if drop_short else 1)

    def _batches(self, loader: Loader, epoch: int, *, least: int) -> Iterator[Batch]:
        for step in loader.steps(epoch):
            (micro,) = step.micros
            keep = np.flatnonzero(micro.weights_I > 0)  # fillers are for lockstep training only
            if step.num_items >= least:
                rows = [take(micro.rows[name], keep) for name in self.teachers]
                yield self.batch([micro.items[i] for i in keep], rows)

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
        return Batch(
            inputs=batch.inputs,
            labels=batch.labels_R,
            targets=batch.targets,
            positions=batch.positions_R2,
            facts=batch.facts,
        )

    def dataset(self, split: str) -> CacheDataset:
        """A split as a map-style dataset."""
        return CacheDataset(self, split=split)

    def exactness(self, objective: Objective) -> rule.Verdict:
        """Whether this cache gives an objective exactly, within a bound, or only approximately."""
        identities = [self.cache.teacher(name) for name in self.teachers]
        return rule.worst(*(rule.judge(objective, identity.row_format) for identity in identities))


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


def _check_shares(loader: Loader, *, drop_short: bool) -> None:
    """Refuse what gives some ranks fewer batches than others: they would wait for each other for ever."""
    for_others, last = (loader.world_size - 1) * loader.micro_batch_size, loader.world_size - 1
    short = len(loader.cache.plan.indices(loader.split)) % loader.batch_size
    if loader.batch_size <= for_others:
        raise ConfigError(
            f"batch_size = {loader.batch_size} leaves rank {last} of {loader.world_size} without an item; "
            f"a multiple of {loader.world_size} gives each rank as many"
        )
    if 0 < short <= for_others and not drop_short:
        raise ConfigError(
            f"batch_size = {loader.batch_size}: the epoch's short batch has {short} items, and rank {last} of "
            f"{loader.world_size} none; set drop_short, or choose another batch_size"
        )
