"""`kdcache dump-teacher`: run each checkpoint once over the data and keep what any distillation needs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.layout import Marker
from kdcache.cache.writer import CacheWriter
from kdcache.teacher.checkpoints import Teacher
from kdcache.teacher.opening import Opening, open_study
from kdcache.teacher.passes import Pass
from kdcache.teacher.settings import DumpConfig
from kdcache.training import models
from kdcache.training.log import RunLog
from kdcache.training.run import RunFile, make_folder

__all__ = ["DumpConfig", "DumpResult", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpResult:
    """What a dump did.

    Attributes:
        folder: of the cache.
        forwards: teacher -> forward passes done now, in items; 0 where everything was there.
        num_items: items of the plan.
        signature: of the cache.
        sealed: whether every block of every teacher is committed.
        num_truncated: items cut to `max_length`.
        num_dropped: examples left out.
        seconds: wall time.
    """

    folder: Path
    forwards: Mapping[str, int]
    num_items: int
    signature: str
    sealed: bool
    num_truncated: int
    num_dropped: int
    seconds: float

    def summary(self, file: RunFile) -> str:
        """What the command prints at its end."""
        lines = [f"cache {self.folder}: {self.num_items} items, {self.seconds:.0f} s"]
        for name, count in self.forwards.items():
            done = "all there already" if count == 0 else f"{count} forward passes now"
            lines.append(f"  teacher {name}: {done}; in all 1 a (checkpoint, item)")
        if self.num_truncated:
            lines.append(f"  {self.num_truncated} items were cut to max_length")
        if self.num_dropped:
            lines.append(f"  {self.num_dropped} examples were left out, most for being longer than max_length")
        if not self.sealed:
            return "\n".join([*lines, "  not sealed: other processes are still writing; run the same command again"])
        lines.append(f"  {self.signature}")
        return "\n".join([*lines, f"next: {file.command('train-student', '--teacher', next(iter(self.forwards)))}"])


def run(file: RunFile, *, teachers: Sequence[str] = (), device: str = "auto") -> DumpResult:
    """Dump, or continue a dump that was interrupted.

    Args:
        file: with the block `dump:`.
        teachers: `NAME=PATH`, ...; default: the two checkpoints of `train-teacher`.
        device: `auto`, `cpu`, `cuda`.

    Raises:
        KDCacheError: bad settings; a cache of other data; a teacher that does not fit the dataset.
    """
    started = time.monotonic()
    opening = open_study(file, teachers=teachers, device=device)
    job = opening.job
    writer = _open_writer(file, opening)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    for block in writer.pending_items()[rank::size]:
        writer.write_items(block, job.items[block.start : block.stop])
    forwards = {}
    log_folder = make_folder(file.out / "dump") if rank == 0 else None
    with RunLog(log_folder, label="dump-teacher", append=True) as log:
        for teacher in opening.teachers:
            forwards[teacher.identity.name] = Pass(writer, teacher, job, log, share=slice(rank, None, size)).run()
        log.write("dump", forwards=forwards, items=len(job.items), teachers=list(forwards))
    signature = _seal(writer, opening.teachers)
    return DumpResult(
        folder=file.cache_folder,
        forwards=forwards,
        num_items=len(job.items),
        signature=signature,
        sealed=bool(signature),
        num_truncated=opening.data.num_truncated,
        num_dropped=opening.data.num_dropped,
        seconds=round(time.monotonic() - started, 2),
    )


def _seal(writer: CacheWriter, found: Sequence[Teacher]) -> str:
    """The sealed cache's signature; empty while other processes still write."""
    if writer.pending_items() or any(writer.pending(t.identity.name) for t in found):
        return ""
    return writer.seal().signature


def _open_writer(file: RunFile, opening: Opening) -> CacheWriter:
    """The cache of these items, new or continued."""
    items = opening.job.items
    marker = Marker(
        dataset_name=file.dataset.name,
        dataset_digest=opening.data.digest,
        task=opening.data.task.name,
        tokenizer_name=opening.tokenizer_name,
        tokenizer_digest=models.tokenizer_digest(opening.tokenizer),
        labels=file.dataset.labels,
        chunk_rows=opening.chunk_rows,
    )
    return CacheWriter.open(
        make_folder(file.cache_folder), marker, opening.plan(), items=lambda block: items[block.start : block.stop]
    )
