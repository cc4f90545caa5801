"""`kdcache dump-teacher`: run each checkpoint once over the data and keep what any distillation needs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from kdcache.cache.codec import concatenate, take
from kdcache.cache.layout import Marker, chunk_rows_for, make_plan
from kdcache.cache.plan import Block
from kdcache.cache.writer import CacheWriter
from kdcache.core.errors import ConfigError
from kdcache.core.types import Item, SparseRows
from kdcache.losses.targets import select, to_rows
from kdcache.tasks.base import Task
from kdcache.teacher import checkpoints
from kdcache.training import evaluate, models
from kdcache.training.device import choose
from kdcache.training.log import RunLog
from kdcache.training.run import Prepared, RunFile, make_folder, pad_token_id, prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpConfig:
    """Settings of `kdcache dump-teacher`."""

    store: Literal["topk"] = "topk"
    """What is kept of a row: the k largest classes and the tail's shape."""
    top_k: int = 64
    """Classes kept of a row; at least the number of classes means dense: everything, exactly."""
    splits: tuple[str, ...] = ("train", "validation")
    """Splits the teacher runs over."""
    batch_size: int = 64
    """Items of a forward pass."""
    block_tokens: int = 262_144
    """Tokens of a block: what a crash can lose, and what a reader decodes at a time."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the teacher runs in; `auto` is float32."""

    def __post_init__(self) -> None:
        for name in ("top_k", "batch_size", "block_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1")
        if not self.splits:
            raise ConfigError("splits is empty; name at least one, e.g. [train, validation]")


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
        seconds: wall time.
    """

    folder: Path
    forwards: Mapping[str, int]
    num_items: int
    signature: str
    sealed: bool
    num_truncated: int
    seconds: float

    def summary(self, file: RunFile) -> str:
        """What the command prints at its end."""
        lines = [f"cache {self.folder}: {self.num_items} items, {self.seconds:.0f} s"]
        for name, count in self.forwards.items():
            done = "all there already" if count == 0 else f"{count} forward passes now"
            lines.append(f"  teacher {name}: {done}; in all 1 a (checkpoint, item)")
        if self.num_truncated:
            lines.append(f"  {self.num_truncated} items were cut to max_length")
        if not self.sealed:
            return "\n".join([*lines, "  not sealed: other processes are still writing; run the same command again"])
        lines.append(f"  {self.signature}")
        return "\n".join([*lines, f"next: kdcache train-student {file.path} --teacher {next(iter(self.forwards))}"])


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
    config = file.block("dump", DumpConfig)
    folders = checkpoints.parse_teachers(file, teachers)
    where = choose(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    tokenizer, name = checkpoints.shared_tokenizer(folders)
    data = prepare(file, tokenizer, encode=config.splits, digest_of=config.splits)
    ordered = [item for split in config.splits for item in data.items[split]]
    num_classes = max(int(item.classes_R.max()) for item in ordered)
    found = checkpoints.identify(
        file,
        folders,
        store=config.store,
        top_k=config.top_k,
        num_classes=num_classes,
        dtype="float32" if config.precision == "auto" else config.precision,
    )
    writer = _open_writer(file, config, data, ordered, tokenizer=tokenizer, name=name)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    for block in writer.pending_items()[rank::size]:
        writer.write_items(block, ordered[block.start : block.stop])
    forwards = {}
    job = _Job(config=config, task=data.task, items=ordered, device=where, pad_token_id=pad_token_id(tokenizer))
    log_folder = make_folder(file.out / "dump") if rank == 0 else None
    with RunLog(log_folder, label="dump-teacher", append=True) as log:
        for teacher in found:
            writer.add_teacher(teacher.identity)
            pending = writer.pending(teacher.identity.name)[rank::size]
            forwards[teacher.identity.name] = _dump(writer, teacher, pending, job, log)
        log.write("dump", forwards=forwards, items=len(ordered), teachers=[t.identity.name for t in found])
    signature = _seal(writer, found)
    return DumpResult(
        folder=file.cache_folder,
        forwards=forwards,
        num_items=len(ordered),
        signature=signature,
        sealed=bool(signature),
        num_truncated=data.num_truncated,
        seconds=round(time.monotonic() - started, 2),
    )


def _seal(writer: CacheWriter, found: Sequence[checkpoints.Teacher]) -> str:
    """The sealed cache's signature; empty while other processes still write."""
    if writer.pending_items() or any(writer.pending(t.identity.name) for t in found):
        return ""
    return writer.seal().signature


def _open_writer(
    file: RunFile, config: DumpConfig, data: Prepared, ordered: Sequence[Item], *, tokenizer: Any, name: str
) -> CacheWriter:
    """The cache of these items, new or continued."""
    marker = Marker(
        dataset_name=file.dataset.name,
        dataset_digest=data.digest,
        task=data.task.name,
        tokenizer_name=name,
        tokenizer_digest=models.tokenizer_digest(tokenizer),
        labels=file.dataset.labels,
        chunk_rows=chunk_rows_for(ordered),
    )
    plan = make_plan(data.items, block_tokens=config.block_tokens, chunk_rows=marker.chunk_rows)
    return CacheWriter.open(
        make_folder(file.cache_folder), marker, plan, items=lambda block: ordered[block.start : block.stop]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is the same for all teachers of a dump."""

    config: DumpConfig
    task: Task
    items: Sequence[Item]
    device: torch.device
    pad_token_id: int


def _dump(writer: CacheWriter, teacher: checkpoints.Teacher, pending: Sequence[Block], job: _Job, log: RunLog) -> int:
    """Run one checkpoint over its pending blocks; forwards done, in items.

    A thread encodes and writes a block while the next one is computed.
    """
    if not pending:
        return 0
    name, total = teacher.identity.name, sum(block.stop - block.start for block in pending)
    log.restart(f"dump-teacher {name}")
    largest = models.largest_id([job.items])
    model = checkpoints.load_teacher(teacher, job.task, largest_id=largest, device=job.device)
    done = 0
    with ThreadPoolExecutor(max_workers=1) as pool:
        writing: Future[None] | None = None
        for block in pending:
            items = job.items[block.start : block.stop]
            parts = []
            for indices, rows in run_teacher(model, items, job):
                parts.append((indices, rows))
                done += len(indices)
                log.progress(done, total, items_per_second=done / max(log.lap, 1e-9))
            if writing is not None:
                writing.result()
            writing = pool.submit(writer.write_rows, name, block, _in_order(parts))
        if writing is not None:
            writing.result()
    return done


def run_teacher(model: Any, items: Sequence[Item], job: _Job) -> Iterator[tuple[list[int], SparseRows]]:
    """Each item through the teacher once, in batches of like length."""
    batches = evaluate.forward_rows(
        lambda inputs: model(**inputs),
        items,
        task=job.task,
        batch_size=job.config.batch_size,
        pad_token_id=job.pad_token_id,
        device=job.device,
    )
    for indices, batch, logits_RV in batches:
        classes = np.concatenate([items[i].classes_R for i in indices]).astype(np.int64)
        targets = select(logits_RV, batch.labels_R, torch.from_numpy(classes).to(job.device), top_k=job.config.top_k)
        counts = np.array([items[i].num_rows for i in indices], dtype=np.int64)
        yield indices, to_rows(targets, rows_per_item=counts)


def _in_order(parts: Sequence[tuple[list[int], SparseRows]]) -> SparseRows:
    """Rows of batches, back in the order of the block's items."""
    order = np.argsort(np.concatenate([indices for indices, _ in parts]), kind="stable")
    return take(concatenate([rows for _, rows in parts]), order)
