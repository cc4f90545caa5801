"""A student with a tokenizer of its own, trained from a teacher's cache: rows are matched by example or word.

The student's items come from the dataset; the teacher's rows from the cache. A row that one side lost to truncation is
dropped.

R rows  I items
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.ragged import pointers
from kdcache.core import order
from kdcache.core.errors import CacheMismatch, IncompatibleTargets
from kdcache.core.types import IGNORE, Item, PackedRows
from kdcache.tasks.base import Task
from kdcache.training.batch import Batch, collate
from kdcache.training.steps import CachedSteps, TrainStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """A student's item and the rows of the cached one that are its own.

    Attributes:
        item: with the student's tokens, and only the rows that the cache has too.
        kept_R: int64, which of the cached item's rows they are, in the item's order.
    """

    item: Item
    kept_R: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTokens:
    """A split with the student's tokens.

    Attributes:
        matched: of each cached item, in the plan's order.
        num_dropped: rows that one side lost.
    """

    matched: Sequence[Matched]
    num_dropped: int


def match(cached: Sequence[Item], ours: Sequence[Item], task: Task) -> OtherTokens:
    """Match items by uid and their rows by name.

    Args:
        cached: the split's items in the cache.
        ours: the same examples with the student's tokens.
        task: names rows.

    Raises:
        IncompatibleTargets: the task's rows depend on the tokens.
        CacheMismatch: other examples, or other labels.
    """
    by_uid = {item.uid: item for item in ours}
    matched, dropped = [], 0
    for theirs in cached:
        mine = by_uid.get(theirs.uid)
        if mine is None:
            raise CacheMismatch(f"the cache's item {theirs.uid} is no example of the dataset; dump again")
        their_names, my_names = _names(theirs, task), _names(mine, task)
        _, kept_R, own_R = np.intersect1d(their_names, my_names, return_indices=True)
        dropped += len(their_names) + len(my_names) - 2 * len(kept_R)
        item = replace(
            mine,
            positions_R=mine.positions_R[own_R],
            labels_R=mine.labels_R[own_R],
            classes_R=mine.classes_R[own_R],
        )
        if not np.array_equal(item.labels_R, theirs.labels_R[kept_R]):
            raise CacheMismatch(f"the cache has other labels for the item {theirs.uid} than the dataset; dump again")
        matched.append(Matched(item=item, kept_R=kept_R.astype(np.int64)))
    return OtherTokens(matched=matched, num_dropped=dropped)


def _names(item: Item, task: Task) -> NDArray[np.int64]:
    names = task.row_names(item)
    if names is None:
        raise IncompatibleTargets(f"the rows of {task.name} are made of tokens; they match those of no other tokenizer")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTokenSteps:
    """The steps of a cache with the student's items in place of the cached ones.

    Attributes:
        cached: the steps with the teacher's tokens; its `pad_token_id` is the student's.
        others: the split.
    """

    cached: CachedSteps
    others: OtherTokens

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return self.cached.num_steps

    def epoch(self, epoch: int) -> Iterator[TrainStep]:
        """The steps of an epoch: the same items in each as with the teacher's tokens, and the counts of their rows."""
        loader = self.cached.loader
        plan = loader.cache.plan
        indices = plan.indices(loader.split)
        items = order.epoch_steps(plan.num_tokens[indices], batch_size=loader.batch_size, seed=loader.seed, epoch=epoch)
        by_uid = {found.item.uid: found for found in self.others.matched}
        for step in loader.steps(epoch):
            chosen = [self.others.matched[i].item for i in items[step.index]]
            yield TrainStep(
                epoch=epoch,
                index=step.index,
                batches=tuple(
                    self._batch(self.cached.batch(micro), micro.items, micro.weights_I, by_uid) for micro in step.micros
                ),
                num_rows=sum(item.num_rows for item in chosen),
                num_labels=sum(int((item.labels_R != IGNORE).sum()) for item in chosen),
            )

    def _batch(
        self, batch: Batch, cached: Sequence[Item], weights_I: NDArray[np.float32], by_uid: dict[str, Matched]
    ) -> Batch:
        found = [by_uid[item.uid] for item in cached]
        first_I = np.cumsum([0, *(item.num_rows for item in cached)])
        index_R = np.concatenate([first + match.kept_R for first, match in zip(first_I[:-1], found, strict=True)])
        items = [match.item for match in found]
        packed = None
        if batch.packed is not None:
            row_ptr = pointers(np.array([item.num_rows for item in items], dtype=np.int64))
            packed = replace(batch.packed, rows=tuple(_rows_of(rows, index_R, row_ptr) for rows in batch.packed.rows))
        return collate(items, pad_token_id=self.cached.pad_token_id, weights_B=weights_I, packed=packed)


def _rows_of(rows: PackedRows, index_R: NDArray[np.int64], row_ptr: NDArray[np.int64]) -> PackedRows:
    """Some rows, still as the cache stores them."""
    return replace(rows, row_ptr=row_ptr, arrays={name: array[index_R] for name, array in rows.arrays.items()})
