"""Cached against online distillation of a causal language model: the same student, seed and batches, step by step.

Online, the teacher is in memory and the loss is written out in plain PyTorch from its logits. Cached, its rows were
written to disk once by a cache's writer, and come back through loader, `losses.packed` and the losses' kernel.

R rows  V classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdcache.cache.layout import Marker, TeacherIdentity
from kdcache.cache.loader import Loader
from kdcache.cache.plan import chunk_rows_for, make_plan
from kdcache.cache.reader import Cache
from kdcache.cache.writer import CacheWriter
from kdcache.core.configuration import Configuration
from kdcache.core.row_format import RowFormat
from kdcache.core.types import Item
from kdcache.losses.objective import Objective
from kdcache.losses.rule import judge
from kdcache.teacher.stores import Outputs, first_rows, rows_of, shared_tables
from kdcache.training import heads
from kdcache.training.batch import Batch, collate
from kdcache.training.steps import CachedSteps, MemorySteps, TrainStep

SPLIT = "train"
Logits = Callable[[Any, Batch], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a student is trained: AdamW at a constant rate, `steps` steps of `batch_size` items in two micro-batches."""

    steps: int
    batch_size: int = 4
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A store under a name of its own."""

    name: str
    store: str
    codec: str
    top_k: int = 0


def logits_of(model: Any, batch: Batch) -> Tensor:
    """A causal language model's logits at a batch's rows, [R, V]."""
    item_R, token_R = batch.positions_R2.T
    found: Tensor = model(**batch.inputs, use_cache=False).logits[item_R, token_R]
    return found


@torch.no_grad()
def write_cache(root: Path, teacher: Any, items: Sequence[Item], stores: Sequence[Kept], *, batch: int = 8) -> Cache:
    """Dump a teacher in several ways at once: each item runs once.

    Args:
        root: of the cache.
        teacher: a causal language model in evaluation mode.
        items: with a row for each token.
        stores: what to keep.
        batch: items of a forward pass.
    """
    num_classes = int(items[0].classes_R[0])
    chunk_rows = chunk_rows_for(items)
    plan = make_plan({SPLIT: items}, block_tokens=batch * items[0].num_tokens, chunk_rows=chunk_rows)
    marker = Marker(
        dataset_name="texts",
        dataset_digest="0",
        task="causal-lm",
        tokenizer_name="own",
        tokenizer_digest="0",
        labels=(),
        chunk_rows=chunk_rows,
    )
    writer = CacheWriter.open(root, marker, plan, items=lambda block: items[block.start : block.stop])
    spec = heads.split(teacher, num_classes=num_classes)
    for number, block in enumerate(plan.blocks):
        some = items[block.start : block.stop]
        outputs = _outputs(teacher, spec, some)
        writer.write_items(block, some)
        for kept in stores:
            if number == 0:
                _add(writer, kept, spec, items, outputs)
            writer.write_rows(kept.name, block, rows_of(outputs, writer.teachers[kept.name].row_format))
    writer.seal()
    return Cache.open(root)


def _outputs(teacher: Any, spec: heads.HeadSpec, items: Sequence[Item]) -> Outputs:
    batch = collate(items, pad_token_id=0)
    with heads.capture(spec) as captured:
        logits_RV = logits_of(teacher, batch).float()
    item_R, token_R = batch.positions_R2.T
    hidden_RD = captured[0][item_R, token_R].float()
    heads.prove(spec, hidden_RD, logits_RV, name="teacher")
    return Outputs(
        indices=list(range(len(items))),
        logits_RV=logits_RV,
        hidden_RD=hidden_RD,
        labels_R=batch.labels_R,
        num_classes_R=torch.from_numpy(np.concatenate([item.classes_R for item in items]).astype(np.int64)),
        rows_per_item=np.array([item.num_rows for item in items]),
    )


def _add(writer: CacheWriter, kept: Kept, spec: heads.HeadSpec, items: Sequence[Item], outputs: Outputs) -> None:
    hidden = kept.store == "hidden"
    identity = TeacherIdentity(
        name=kept.name,
        source="teacher",
        weight_digest=kept.name,
        row_format=RowFormat.of(
            num_classes=int(outputs.num_classes_R.max()),
            store=kept.store,
            codec=kept.codec,
            top_k=kept.top_k,
            hidden_size=spec.hidden_size if hidden else 0,
        ),
    )
    shared = shared_tables(identity.row_format, items=items, first=first_rows(identity.row_format, outputs))
    writer.add_teacher(identity, shared=shared, head=dict(heads.to_arrays(spec.head)) if hidden else {})


def online_loss(configuration: Configuration, student_RV: Tensor, teacher_RV: Tensor) -> Tensor:
    """Sum over rows of alpha * scale * L2, written out; alpha = 1."""
    tau_t, tau_s = configuration.tau_t, configuration.student_temperature
    if configuration.loss == "mse":
        return configuration.scale * (student_RV / tau_s - teacher_RV / tau_t).square().mean(dim=1).sum()
    p_RV, log_q_RV = functional.softmax(teacher_RV / tau_t, dim=1), functional.log_softmax(student_RV / tau_s, dim=1)
    return -configuration.scale * (p_RV * log_q_RV).sum()


def train_online(
    configuration: Configuration, student: Any, teacher: Any, items: Sequence[Item], schedule: Schedule
) -> list[float]:
    """Loss of each step with the teacher in memory; the student given is left as it is."""
    steps = MemorySteps(
        items=items,
        batch_size=schedule.batch_size,
        micro_batch_size=schedule.batch_size // 2,
        seed=schedule.seed,
        rank=0,
        world_size=1,
        pad_token_id=0,
    )

    def loss(model: Any, batch: Batch, step: TrainStep) -> Tensor:
        with torch.no_grad():
            teacher_RV = logits_of(teacher, batch)
        return online_loss(configuration, logits_of(model, batch), teacher_RV) / step.num_rows

    return _train(student, steps.epoch, loss, schedule)


def train_cached(
    configuration: Configuration, student: Any, cache: Cache, name: str, schedule: Schedule
) -> list[float]:
    """Loss of each step from a teacher's rows on disk."""
    loader = Loader(
        cache,
        split=SPLIT,
        teachers=(name,),
        batch_size=schedule.batch_size,
        micro_batch_size=schedule.batch_size // 2,
        seed=schedule.seed,
    )
    steps = CachedSteps(loader=loader, teachers=(name,), pad_token_id=0)
    verdict = judge(configuration, cache.teacher(name).row_format)
    objective = Objective.of(configuration, tail=verdict.tail)

    def loss(model: Any, batch: Batch, step: TrainStep) -> Tensor:
        sent = batch.to(torch.device("cpu"))
        logits_RV = logits_of(model, sent)
        return objective(logits_RV, sent.targets, sent.labels_R, num_rows=step.num_rows, num_labels=1).total

    return _train(student, steps.epoch, loss, schedule)


def _train(
    student: Any,
    epoch: Callable[[int], Iterator[TrainStep]],
    loss: Callable[[Any, Batch, TrainStep], Tensor],
    schedule: Schedule,
) -> list[float]:
    torch.manual_seed(schedule.seed)
    model = deepcopy(student).train(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate)
    losses: list[float] = []
    number = 0
    while True:
        for step in epoch(number):
            total = 0.0
            for batch in step.batches:
                part = loss(model, batch, step)
                part.backward()
                total += float(part.detach())
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total)
            if len(losses) == schedule.steps:
                return losses
        number += 1


def largest_difference(found: Sequence[float], wanted: Sequence[float]) -> float:
    """Largest relative difference of a step's loss."""
    pairs = zip(found, wanted, strict=True)
    return max(abs(one - other) / abs(other) for one, other in pairs)


def configurations() -> Mapping[str, Configuration]:
    """CE and MSE, tied at tau 4 and untied (tau_t = 4, tau_s = 1)."""
    return {
        f"{loss} {'tied' if tau_s == 'tied' else 'untied'}": Configuration(loss=loss, tau_t=4, tau_s=tau_s)
        for loss in ("ce", "mse")
        for tau_s in ("tied", 1.0)
    }
