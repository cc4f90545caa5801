"""Training steps from a cache: which items, in which micro-batch of which rank, with the rows of any teachers.

The order is a pure function of (plan, seed, epoch), so a step can be entered without reading those before it, and its
items are the same at any world size.

Shape suffixes: I items  R rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.check import alarm
from kdcache.cache.reader import Cache
from kdcache.core.errors import ConfigError
from kdcache.core.order import Slot, deal, epoch_steps, hash_keys, num_rounds, num_steps
from kdcache.core.types import Item, PackedRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """One micro-batch of one rank.

    Attributes:
        items: `micro_batch_size` items.
        weights_I: float32, 1 for an item of the step, 0 for a filler, which repeats one.
        rows: teacher -> rows of these items as its blocks store them, fillers included; `losses.packed` expands them on
            the device, `cache.codec.unpack` here.
    """

    items: tuple[Item, ...]
    weights_I: NDArray[np.float32]
    rows: Mapping[str, PackedRows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimiser step, as one rank sees it. The counts are those of all ranks together, without fillers.

    Attributes:
        epoch: from 0.
        index: of the step in the epoch.
        micros: this rank's micro-batches; every rank has as many.
        num_rows: rows of the step's items: the denominator of the distillation loss.
        num_labels: rows with a label: the denominator of the hard labels' loss.
        num_items: items.
    """

    epoch: int
    index: int
    micros: tuple[Micro, ...]
    num_rows: int
    num_labels: int
    num_items: int


@dataclass(frozen=True, slots=True)
class Loader:
    """The steps of a split, read ahead by a thread.

    Attributes:
        cache: an open cache.
        split: its name.
        teachers: whose rows to read; none for hard labels.
        batch_size: items of a step over all ranks and micro-batches.
        micro_batch_size: items that a device holds at once.
        seed: of the order; required.
        rank: of this process.
        world_size: number of processes.
        with_rows: False leaves all teachers' rows unread.
        prefetch: steps read ahead; 0 reads in the caller's thread.
    """

    cache: Cache
    _: KW_ONLY
    split: str
    teachers: tuple[str, ...]
    batch_size: int
    micro_batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    with_rows: bool = True
    prefetch: int = 4

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("micro_batch_size", 1), ("world_size", 1), ("prefetch", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank = {self.rank} of world_size {self.world_size}; it must be below it")
        hash_keys(0, seed=self.seed, stream=0)  # refuses a missing seed now, not at the first step
        self.cache.plan.indices(self.split)
        for name in self.teachers:
            self.cache.teacher(name)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of an epoch."""
        return num_steps(len(self.cache.plan.indices(self.split)), self.batch_size)

    def steps(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """The steps of an epoch from step `start` on. Closing the iterator stops the thread.

        The first step read is checked by the alignment alarm.

        Raises:
            ConfigError: `start` is beyond the epoch.
            CacheError: whatever reading a step raises, when that step is asked for.
        """
        indices = self.cache.plan.indices(self.split)
        lengths = self.cache.plan.num_tokens[indices]
        order = epoch_steps(lengths, batch_size=self.batch_size, seed=self.seed, epoch=epoch)
        if not 0 <= start <= len(order):
            raise ConfigError(f"step {start} of epoch {epoch}: the epoch has {len(order)} steps")
        return self._stream(epoch, indices, order, start)

    def _stream(
        self, epoch: int, indices: NDArray[np.int64], order: list[NDArray[np.int64]], start: int
    ) -> Iterator[Step]:
        todo = range(start, len(order))
        if self.prefetch == 0:
            for index in todo:
                yield self._read((epoch, index), order[index], indices, check=index == start)
            return
        pending: deque[Future[Step]] = deque()
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kdcache-loader")
        try:
            for index in todo:
                pending.append(pool.submit(self._read, (epoch, index), order[index], indices, check=index == start))
                if len(pending) > self.prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(
        self, place: tuple[int, int], step: NDArray[np.int64], indices: NDArray[np.int64], *, check: bool
    ) -> Step:
        plan = self.cache.plan
        rounds = num_rounds(self.batch_size, micro_batch_size=self.micro_batch_size, world_size=self.world_size)
        slots = deal(
            step,
            plan.num_tokens[indices],
            rounds=rounds,
            micro_batch_size=self.micro_batch_size,
            rank=self.rank,
            world_size=self.world_size,
        )
        chosen = indices[step]
        return Step(
            epoch=place[0],
            index=place[1],
            micros=tuple(self._micro(slot, indices, check=check) for slot in slots),
            num_rows=int(plan.num_rows[chosen].sum()),
            num_labels=int(plan.num_labels[chosen].sum()),
            num_items=len(step),
        )

    def _micro(self, slot: Slot, indices: NDArray[np.int64], *, check: bool) -> Micro:
        chosen = indices[slot.items]
        items = tuple(self.cache.items(chosen))
        names = self.teachers if self.with_rows else ()
        rows = {name: self.cache.packed(name, chosen) for name in names}
        if check:
            labels_R = np.concatenate([item.labels_R for item in items])
            for name, found in rows.items():
                alarm(
                    found,
                    labels_R,
                    identity=self.cache.teacher(name),
                    head=self.cache.head(name),
                    what=f"rows of teacher {name} in {self.cache.root}",
                )
        return Micro(items=items, weights_I=slot.weights, rows=rows)
