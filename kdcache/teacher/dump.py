"""`kdcache dump-teacher`: run each checkpoint once over the data and keep what any distillation needs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.cache.layout import Marker, chunk_rows_for, make_plan
from kdcache.cache.writer import CacheWriter
from kdcache.core.errors import LaunchError
from kdcache.core.types import Item
from kdcache.teacher import checkpoints
from kdcache.teacher.passes import Pass
from kdcache.teacher.settings import DumpConfig
from kdcache.teacher.stores import Job
from kdcache.training import models
from kdcache.training.log import RunLog
from kdcache.training.run import Prepared, RunFile, make_folder, pad_token_id, prepare

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
    where = _device(device)
    tokenizer, name = checkpoints.shared_tokenizer(folders)
    data = prepare(file, tokenizer, encode=config.splits, digest_of=config.splits)
    ordered = [item for split in config.splits for item in data.items[split]]
    num_classes = max(int(item.classes_R.max()) for item in ordered)
    found = checkpoints.identify(file, folders, config, num_classes=num_classes)
    writer = _open_writer(file, config, data, ordered, tokenizer=tokenizer, name=name)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    for block in writer.pending_items()[rank::size]:
        writer.write_items(block, ordered[block.start : block.stop])
    forwards = {}
    job = Job(config=config, task=data.task, items=ordered, device=where, pad_token_id=pad_token_id(tokenizer))
    log_folder = make_folder(file.out / "dump") if rank == 0 else None
    with RunLog(log_folder, label="dump-teacher", append=True) as log:
        for teacher in found:
            forwards[teacher.identity.name] = Pass(writer, teacher, job, log, share=slice(rank, None, size)).run()
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


def _device(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise LaunchError("--device cuda: this machine shows no CUDA device; use --device cpu, or check the driver")
    if device != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
