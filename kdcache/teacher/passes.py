"""One checkpoint over its pending blocks: forward, selection, and encoding and writing in a thread meanwhile."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kdcache.cache.catalog import read_teacher, table_path, teacher_names
from kdcache.cache.layout import TeacherIdentity
from kdcache.cache.plan import Block
from kdcache.cache.ragged import concatenate, take
from kdcache.cache.tables import needs
from kdcache.cache.writer import CacheWriter
from kdcache.core.types import HiddenRows, Item, Rows, SparseRows
from kdcache.teacher.checkpoints import Teacher
from kdcache.teacher.stores import Job, Runner, shared_tables
from kdcache.training.log import RunLog

Part = tuple[list[int], Rows]
"""Indices of a batch's items within their block, and their rows."""


@dataclass(slots=True)
class _Begun:
    """A block whose first batch ran before the teacher was added."""

    block: str
    first: Part
    others: Generator[Part, None, None]


class Pass:
    """A checkpoint's pass over this process's share of the blocks.

    Args:
        writer: of the cache.
        teacher: the checkpoint; loaded only where there is work.
        job: what is the same for all teachers.
        log: progress.
        share: of the pending blocks, e.g. `slice(rank, None, world_size)`.
    """

    def __init__(self, writer: CacheWriter, teacher: Teacher, job: Job, log: RunLog, *, share: slice) -> None:
        self._writer, self._teacher, self._job, self._log, self._share = writer, teacher, job, log, share
        self._name = teacher.identity.name
        self._runner: Runner | None = None
        self._begun: _Begun | None = None
        self._done = 0

    def run(self) -> int:
        """Add the teacher, fill the blocks.

        Returns:
            Forward passes done, in items; 0 where nothing was pending.

        Raises:
            KDCacheError: the teacher does not fit the data, the cache or its store.
        """
        self._log.restart(f"dump-teacher {self._name}")
        pending = self._add_teacher()
        if self._begun is not None and (not pending or pending[0].name != self._begun.block):
            self._done += len(self._begun.first[0])  # the block is another process's
            self._begun.others.close()
            self._begun = None
        total = sum(block.num_items for block in pending)
        with ThreadPoolExecutor(max_workers=1) as pool:
            writing: Future[None] | None = None
            for block in pending:
                parts = []
                for indices, rows in self._parts(block):
                    parts.append((indices, rows))
                    self._done += len(indices)
                    self._log.progress(self._done, total, items_per_second=self._done / max(self._log.lap, 1e-9))
                if writing is not None:
                    writing.result()
                writing = pool.submit(self._writer.write_rows, self._name, block, _in_order(parts))
            if writing is not None:
                writing.result()
        return self._done

    def _add_teacher(self) -> list[Block]:
        """Say whose rows follow, and what they share; this process's blocks.

        The size of the head, the mean of int8 and the id table of compact come from the first batch of the plan,
        whoever runs it. Its outputs are kept, so that no item runs twice. Where the cache has them already, no model is
        needed.
        """
        known = self._known()
        if known is not None:
            self._writer.add_teacher(known)
            return self._writer.pending(self._name)[self._share]
        block, runner = self._writer.plan.blocks[0], self._loaded()
        others = runner.rows(self._items(block))
        self._begun = _Begun(block.name, next(others), others)
        identity = self._teacher.stored(self._job.config, hidden_size=runner.hidden_size)
        shared = shared_tables(identity.row_format, items=self._job.items, first=self._begun.first[1])
        self._writer.add_teacher(identity, shared=shared, head=runner.head_arrays())
        pending = {other.name for other in self._writer.pending(self._name)}
        # Shares are of all blocks: processes that came here first may have committed some of theirs already.
        return [other for other in self._writer.plan.blocks[self._share] if other.name in pending]

    def _known(self) -> TeacherIdentity | None:
        """The identity to add, if nothing of it has to come from a first batch."""
        config, root, hidden_size = self._job.config, self._writer.root, 0
        there = read_teacher(root, self._name) if self._name in teacher_names(root) else None
        if config.store == "hidden":
            if there is None or there.row_format.store != config.store:
                return None
            hidden_size = there.row_format.hidden_size
        identity = self._teacher.stored(config, hidden_size=hidden_size)
        if there is not None and there.row_format.codec != identity.row_format.codec:
            there = None
        complete = there is not None and all((root / table_path(self._name, file)).exists() for file in needs(there))
        return identity if complete or not needs(identity) else None

    def _loaded(self) -> Runner:
        if self._runner is None:
            self._runner = Runner(self._teacher, self._job, with_hidden=self._job.config.store == "hidden")
        return self._runner

    def _items(self, block: Block) -> Sequence[Item]:
        return self._job.items[block.start : block.stop]

    def _parts(self, block: Block) -> Iterator[Part]:
        """The batches of a block, each forward once."""
        if self._begun is None:
            yield from self._loaded().rows(self._items(block))
            return
        begun, self._begun = self._begun, None
        yield begun.first
        yield from begun.others


def _in_order(parts: Sequence[Part]) -> Rows:
    """Rows of batches, back in the order of the block's items."""
    order = np.argsort(np.concatenate([indices for indices, _ in parts]), kind="stable")
    sparse = [rows for _, rows in parts if isinstance(rows, SparseRows)]
    if sparse:
        return take(concatenate(sparse), order)
    return take(concatenate([rows for _, rows in parts if isinstance(rows, HiddenRows)]), order)
