"""A study opened for its teachers: settings, items, checkpoints by their weights, device. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.cache.layout import Plan, chunk_rows_for, make_plan
from kdcache.core.errors import ModelError
from kdcache.core.types import Item
from kdcache.teacher import checkpoints
from kdcache.teacher.checkpoints import Teacher
from kdcache.teacher.runner import Job, Runner
from kdcache.teacher.settings import DumpConfig
from kdcache.training.device import choose
from kdcache.training.run import Prepared, RunFile, pad_token_id, prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What every use of a teacher begins with.

    Attributes:
        config: the block `dump:`.
        job: items of all splits in the cache's order, and how they are run.
        data: the dataset as items.
        tokenizer: of all teachers.
        tokenizer_name: as a human knows it.
        teachers: the checkpoints, equal weights once.
        num_classes: the largest V of any row.
    """

    config: DumpConfig
    job: Job
    data: Prepared
    tokenizer: Any
    tokenizer_name: str
    teachers: tuple[Teacher, ...]
    num_classes: int

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk in the cache."""
        return chunk_rows_for(self.job.items)

    def plan(self) -> Plan:
        """The cache's blocks."""
        return make_plan(self.data.items, block_tokens=self.config.block_tokens, chunk_rows=self.chunk_rows)


def open_study(file: RunFile, *, teachers: Sequence[str], device: str) -> Opening:
    """Read settings and data, find the checkpoints.

    Args:
        file: with the block `dump:`.
        teachers: `NAME=PATH`, ...; default: the two checkpoints of `train-teacher`.
        device: `auto`, `cpu`, `cuda`.

    Raises:
        KDCacheError: bad settings, no teacher, data that cannot be read.
    """
    config = file.block("dump", DumpConfig)
    folders: dict[str, Path] = checkpoints.parse_teachers(file, teachers)
    where = choose(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    tokenizer, name = checkpoints.shared_tokenizer(folders)
    data = prepare(file, tokenizer, encode=config.splits, digest_of=config.splits)
    items: list[Item] = [item for split in config.splits for item in data.items[split]]
    num_classes = max(int(item.classes_R.max()) for item in items)
    return Opening(
        config=config,
        job=Job(config=config, task=data.task, items=items, device=where, pad_token_id=pad_token_id(tokenizer)),
        data=data,
        tokenizer=tokenizer,
        tokenizer_name=name,
        teachers=tuple(checkpoints.identify(file, folders, num_classes=num_classes, config=config, device=where)),
        num_classes=num_classes,
    )


def try_head(teacher: Teacher, job: Job, probe: Item) -> tuple[Runner, str]:
    """The teacher with its output head captured; where it has none that can be split off, without, and why.

    Args:
        teacher: to load.
        job: of the study.
        probe: an item on which the head is proven.

    Raises:
        ModelError: the teacher cannot be loaded at all.
    """
    try:
        runner = Runner(teacher, job, with_hidden=True)
        for _ in runner.outputs([probe]):
            pass
        return runner, ""
    except ModelError as error:
        return Runner(teacher, job, with_hidden=False), str(error)
