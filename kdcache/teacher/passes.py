"""One checkpoint over its pending blocks: forward pass and selection, while threads encode and write."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from kdcache.cache.catalog import read_teacher, table_path, teacher_names
from kdcache.cache.layout import TeacherIdentity
from kdcache.cache.plan import Block
from kdcache.cache.ragged import concatenate, take
from kdcache.cache.tables import needs
from kdcache.cache.writer import CacheWriter
from kdcache.core.types import HiddenRows, Item, Rows, SparseRows
from kdcache.teacher.arrival import Arriving
from kdcache.teacher.checkpoints import Teacher
from kdcache.teacher.runner import Job, Runner
from kdcache.teacher.stores import shared_tables
from kdcache.training.forward import length_batches
from kdcache.training.log import RunLog

TABLE_TOKENS = 4096
"""Tokens, padding included, of the items that tables come from: of the first block, longest first. No setting of the
forward pass changes which they are."""
AHEAD = 8
"""Batches that may be on their way from the device at once."""
WRITERS = {"cpu": 1}
"""Threads that encode and write beside a CPU's forward pass; beside another device's as many as there are cores."""
MOST_WRITERS = 4
WAITING_BYTES = 4 << 30
"""Memory for rows that wait for such a thread or are with one, and at least one block. A block is there three times
while it is put in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A block of which some items ran before the teacher was added.

    Attributes:
        block: its name.
        first: rows of those items.
        rest: indices of the block's other items.
    """

    block: str
    first: list[Arriving]
    rest: list[int]

    @property
    def num_items(self) -> int:
        """How many ran."""
        return sum(len(part.indices) for part in self.first)


class Pass:
    """A checkpoint's pass over this process's share of the blocks.

    Args:
        writer: of the cache.
        teacher: the checkpoint; loaded only where there is work.
        job: what is the same for all teachers.
        log: progress.
        share: of the pending blocks, e.g. `slice(rank, None, world_size)`.
        runner: the checkpoint, where it is loaded already.
    """

    def __init__(
        self,
        writer: CacheWriter,
        teacher: Teacher,
        job: Job,
        log: RunLog,
        *,
        share: slice,
        runner: Runner | None = None,
    ) -> None:
        self._writer, self._teacher, self._job, self._log, self._share = writer, teacher, job, log, share
        self._name = teacher.identity.name
        self._runner = runner
        self._begun: _Begun | None = None
        self._flying: deque[Arriving] = deque()
        self._writing: deque[Future[None]] = deque()
        self._done = 0
        self._total = 0

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
            self._done += self._begun.num_items  # the block is another process's
            self._begun = None
        self._total = sum(block.num_items for block in pending)
        writers = WRITERS.get(self._job.device.type, min(MOST_WRITERS, os.cpu_count() or 1))
        pool = ThreadPoolExecutor(max_workers=writers)
        try:
            for block in pending:
                parts = self._block(block)
                while len(self._writing) >= _most_waiting(parts, writers):
                    self._writing.popleft().result()
                self._writing.append(pool.submit(self._write, block, parts))
            for future in self._writing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error no block is begun that only waited
        if self._runner is not None and self._runner.whole_because:
            self._log.write("whole", teacher=self._name, reason=self._runner.whole_because)
        return self._done

    def _write(self, block: Block, parts: Sequence[Arriving]) -> None:
        """Encode and write a block's rows, once they are here."""
        self._writer.write_rows(self._name, block, _in_order(parts))

    def _add_teacher(self) -> list[Block]:
        """Say whose rows follow, and what they share; this process's blocks.

        The size of the head, the mean of int8 and the id table of compact come from the first items of the plan,
        whoever runs them. Their rows are kept, so that no item runs twice. Where the cache has them already, no model
        is needed.
        """
        known = self._known()
        if known is not None:
            self._writer.add_teacher(known)
            return self._writer.pending(self._name)[self._share]
        block, runner = self._writer.plan.blocks[0], self._loaded()
        items = self._items(block)
        chosen = length_batches(items, len(items), TABLE_TOKENS)[0]
        rest = sorted(set(range(len(items))) - set(chosen))
        self._begun = _Begun(block=block.name, first=self._forward(items, chosen), rest=rest)
        identity = self._teacher.stored(self._job.config, hidden_size=runner.hidden_size)
        shared = shared_tables(identity.row_format, items=self._job.items, first=_in_order(self._begun.first))
        self._writer.add_teacher(identity, shared=shared, head=runner.head_arrays())
        pending = {other.name for other in self._writer.pending(self._name)}
        # Shares are of all blocks: processes that came here first may have committed some of theirs already.
        return [other for other in self._writer.plan.blocks[self._share] if other.name in pending]

    def _known(self) -> TeacherIdentity | None:
        """The identity to add, if nothing of it has to come from first items."""
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

    def _block(self, block: Block) -> list[Arriving]:
        """The batches of a block, each item forward once."""
        items = self._items(block)
        begun, self._begun = self._begun, None
        if begun is None:
            return self._forward(items, range(len(items)))
        self._report(begun.num_items)
        return [*begun.first, *self._forward(items, begun.rest)]

    def _forward(self, items: Sequence[Item], chosen: Sequence[int]) -> list[Arriving]:
        """Some items of a block, forward; their rows may still be on the way."""
        parts = []
        for part in self._loaded().rows([items[i] for i in chosen]):
            parts.append(replace(part, indices=[chosen[i] for i in part.indices]))
            self._flying.append(parts[-1])
            if len(self._flying) > AHEAD:
                self._flying.popleft().wait()
            for future in [future for future in self._writing if future.done()]:
                self._writing.remove(future)
                future.result()  # an error of a thread ends the dump at the next batch
            self._report(len(part.indices))
        return parts

    def _report(self, count: int) -> None:
        if self._total:  # of items that ran before the teacher was added it is told when their block's turn comes
            self._done += count
            self._log.progress(self._done, self._total, items_per_second=self._done / max(self._log.lap, 1e-9))


def _in_order(parts: Sequence[Arriving]) -> Rows:
    """The rows of several batches in the order of their items, once they are here."""
    order = np.argsort(np.concatenate([part.indices for part in parts]), kind="stable")
    rows = [part.rows() for part in parts]
    sparse = [part for part in rows if isinstance(part, SparseRows)]
    if sparse:
        return take(concatenate(sparse), order)
    return take(concatenate([part for part in rows if isinstance(part, HiddenRows)]), order)


def _most_waiting(parts: Sequence[Arriving], writers: int) -> int:
    """Blocks that may be with a thread or wait for one: two a thread, and no more than memory is meant for."""
    size = sum(tensor.nbytes for part in parts for tensor in part.tensors.values())
    return max(1, min(2 * writers, WAITING_BYTES // max(1, 3 * size)))
