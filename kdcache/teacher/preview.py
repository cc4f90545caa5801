"""`kdcache dump-teacher --dry-run`: what a dump will cost. A few batches are run if they can be; nothing is written."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kdcache.core.config import plain
from kdcache.core.errors import CacheError, ConfigError, ModelError
from kdcache.core.row_format import COMPRESSORS, SPARSE_CODECS, RowFormat
from kdcache.core.types import Item
from kdcache.teacher import estimate
from kdcache.teacher.estimate import Estimate
from kdcache.teacher.opening import Opening, open_study, try_head
from kdcache.teacher.roundtrip import stored_bytes, through
from kdcache.teacher.stores import Outputs, first_rows, shared_tables
from kdcache.teacher.terminal import draw
from kdcache.training import checkpoint
from kdcache.training.run import RunFile

TIMED_BATCHES = 3
"""Batches that are timed, after one that warms up: short, middling and long items."""
SAMPLED_ROWS = 4096
"""Rows of each of them that are stored in memory in every way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What a few batches of the teacher showed."""

    tokens_per_second: float
    speed: str
    hidden_size: int
    stored: dict[str, float]
    notes: tuple[str, ...]


def run(file: RunFile, *, teachers: Sequence[str] = (), device: str = "auto", speed: float | None = None) -> Estimate:
    """Estimate a dump.

    Args:
        file: with the block `dump:`.
        teachers: `NAME=PATH`, ...; default: the two checkpoints of `train-teacher`.
        device: where a few batches are timed: `auto`, `cpu`, `cuda`.
        speed: tokens a second; then nothing is run and sizes are estimates.

    Raises:
        KDCacheError: bad settings, no teacher, data that cannot be read.
    """
    if speed is not None and not 0 < speed < float("inf"):
        raise ConfigError(f"--speed {speed:g} is not a speed; give tokens a second, > 0")
    opening = open_study(file, teachers=teachers, device=device)
    trial = _stated(speed) if speed is not None else _try(opening)
    items, num_classes = opening.job.items, opening.num_classes
    num_rows, source, target = (
        sum(getattr(item, name) for item in items) for name in ("num_rows", "num_tokens", "num_target_tokens")
    )
    sizes = [checkpoint.size(teacher.folder) for teacher in opening.teachers]
    parameters, encoder = max((size.parameters, size.encoder) for size in sizes)
    work = [(encoder, source), (parameters - encoder, target)] if target else [(parameters, source)]
    compared = _compared(opening, trial.hidden_size)
    return Estimate(
        dataset=file.dataset.name,
        splits=opening.config.splits,
        teachers=tuple(teacher.identity.name for teacher in opening.teachers),
        num_items=len(items),
        num_rows=num_rows,
        num_tokens=source + target,
        num_target_tokens=target,
        num_classes=num_classes,
        num_blocks=len(opening.plan().blocks),
        parameters=parameters,
        flops=estimate.flops(work=work, teachers=len(opening.teachers)),
        tokens_per_second=trial.tokens_per_second or None,
        speed=trial.speed,
        logits_bytes=4 * sum(int(item.classes_R.astype(np.int64).sum()) for item in items),
        stores=tuple(
            estimate.store_bytes(v, num_rows=num_rows, measured=trial.stored.get(_key(v)), chosen=i == 0)
            for i, v in enumerate(compared)
        ),
        notes=trial.notes,
    )


def text(found: Estimate) -> str:
    """What the command prints."""
    table = draw(estimate.COLUMNS, estimate.cells(found.stores), left=(0, 1, 5))
    marked = "> is what the settings say; stored bytes hold the chunks' checksums and index"
    return "\n".join([*estimate.lines(found), "", table, marked, *found.notes])


def as_json(found: Estimate) -> str:
    """The same for machines."""
    return json.dumps({**plain(found), "hours": found.hours}, indent=1)


def _stated(speed: float) -> _Trial:
    return _Trial(
        tokens_per_second=speed,
        speed=f"at {speed:,.0f} tokens a second, as stated",
        hidden_size=0,
        stored={},
        notes=("The teacher was not run: sizes are estimates, and store: hidden is left out.",),
    )


def _compared(opening: Opening, hidden_size: int) -> list[RowFormat]:
    """The configured store, then the others at the same k."""
    config, num_classes = opening.config, opening.num_classes
    first = config.row_format(num_classes=num_classes, hidden_size=hidden_size)
    found = [first]
    if not first.is_dense:
        found += [
            RowFormat.of(num_classes=num_classes, codec=codec, compressor=compressor, top_k=first.top_k or None)
            for codec in SPARSE_CODECS
            for compressor in COMPRESSORS
        ]
        found += [
            RowFormat.of(num_classes=num_classes, store="hidden", codec=codec, hidden_size=hidden_size)
            for codec in ("float16", "bfloat16", "int8")
            if hidden_size
        ]
    return list({_key(f): f for f in found}.values())


def _key(row_format: RowFormat) -> str:
    return f"{row_format.label} {row_format.compressor}"


def _try(opening: Opening) -> _Trial:
    """Time a few batches of the first teacher, and store their rows in memory in every way."""
    teacher, job = opening.teachers[0], opening.job
    chosen = _spread(job.items, job.config.batch_size)
    try:
        runner, reason = try_head(teacher, job, chosen[0][0])
    except ModelError as error:
        return _Trial(tokens_per_second=0, speed=f"the teacher cannot run: {error}", hidden_size=0, stored={}, notes=())
    seconds, outputs = 0.0, []
    for arriving in runner.rows(chosen[0]):  # warms up what the timed batches use
        arriving.rows()
    for batch in chosen:
        began = _now(job.device)
        for arriving in runner.rows(batch):
            arriving.rows()
        seconds += _now(job.device) - began
        outputs += list(runner.outputs(batch, per_item=max(1, SAMPLED_ROWS // len(batch))))
    speed = sum(item.num_tokens + item.num_target_tokens for batch in chosen for item in batch) / max(seconds, 1e-9)
    stored = {}
    notes = [f"store: hidden is left out: {reason}"] if reason else []
    for row_format in _compared(opening, runner.hidden_size):
        try:
            stored[_key(row_format)] = _measured(row_format, outputs, opening)
        except CacheError as error:
            notes.append(f"{row_format.label} cannot hold these rows: {error}")
    return _Trial(
        tokens_per_second=speed,
        speed=f"{speed:,.0f} tokens a second, measured: {len(chosen)} batches on {job.device.type}",
        hidden_size=runner.hidden_size,
        stored=stored,
        notes=tuple(notes),
    )


def _measured(row_format: RowFormat, outputs: Sequence[Outputs], opening: Opening) -> float:
    first = first_rows(row_format, outputs[0])
    tables = shared_tables(row_format, items=opening.job.items, first=first)
    packed = [through(o, row_format, tables) for o in outputs]
    return stored_bytes(packed, compressor=row_format.compressor, chunk_rows=opening.chunk_rows)


def _spread(items: Sequence[Item], batch_size: int) -> list[list[Item]]:
    """A few batches that stand for all: from the order of lengths, evenly."""
    by_length = sorted(items, key=lambda item: item.num_tokens)
    starts = np.linspace(0, max(0, len(items) - batch_size), min(TIMED_BATCHES, -(-len(items) // batch_size)))
    return [by_length[int(start) : int(start) + batch_size] for start in starts]


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
