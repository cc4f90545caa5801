"""`kdcache dump-teacher --fidelity N`: what each store loses on a sample of the user's items; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.core.errors import ConfigError, ModelError
from kdcache.core.row_format import RowFormat
from kdcache.core.types import Item
from kdcache.teacher.advice import Report, Student
from kdcache.teacher.fidelity import Sample, StoreResult, agreement, kl, measure, noise_scale, noisy_student
from kdcache.teacher.opening import Opening, open_study, try_head
from kdcache.teacher.roundtrip import Tables, variants
from kdcache.teacher.runner import Runner, rows_chosen
from kdcache.teacher.settings import DumpConfig, FidelityConfig, parse_grid
from kdcache.teacher.stores import Outputs, first_rows, shared_tables
from kdcache.training import models
from kdcache.training.forward import eager, forward_rows
from kdcache.training.run import RunFile

MAX_ROWS = 256
"""Rows compared; of longer items, rows spread evenly."""

BuildStudent = Callable[..., Any]
"""`student.skip_layers.build`: (source, auto class, *, seed, settings of its head) -> model. The caller brings it,
since the stages of teacher and student know nothing of each other."""


@dataclass(slots=True)
class _Seen:
    """What is summed up of the student while its batches go by."""

    noise: float | None = None
    kl: list[float] = field(default_factory=list)
    agree: list[float] = field(default_factory=list)

    def student(self, name: str) -> Student:
        """The summary."""
        mean_kl, mean_agree = float(np.mean(self.kl)), float(np.mean(self.agree))
        return Student(name=name, noise=self.noise, kl=mean_kl, agreement=mean_agree)


def run(
    file: RunFile,
    *,
    num_items: int,
    build_student: BuildStudent,
    teachers: Sequence[str] = (),
    device: str = "auto",
    grid: str | None = None,
    student: str | None = None,
) -> Report:
    """Measure stores on the first teacher.

    Args:
        file: with the block `dump:` and in it `fidelity:`.
        num_items: items of the sample, chosen by the seed.
        build_student: makes a student of the models file.
        teachers: `NAME=PATH`, ...; default: the two checkpoints of `train-teacher`.
        device: `auto`, `cpu`, `cuda`.
        grid: `LOSS:TAU_T:TAU_S,...` instead of the settings'.
        student: a name of the models file instead of the settings'.

    Raises:
        KDCacheError: bad settings, no teacher, data that cannot be read, a student of other classes.
    """
    if num_items < 1:
        raise ConfigError(f"--fidelity {num_items} measures nothing; give a number of items, e.g. 64")
    asked = _asked(file, grid, student)
    opening = open_study(file, teachers=teachers, device=device)
    teacher, items = opening.teachers[0], _chosen(opening.job.items, num_items, seed=asked.seed)
    runner, reason = try_head(teacher, opening.job, items[0])
    if opening.config.store == "hidden" and reason:
        raise ModelError(reason)
    model = None if asked.student is None else _student(file, opening, asked, build_student)
    seen = _Seen()
    stores = _stores(runner, items, opening, asked=asked, model=model, seen=seen)
    return Report(
        dataset=file.dataset.name,
        teacher=teacher.identity.name,
        weight_digest=teacher.identity.weight_digest,
        num_items=len(items),
        num_rows=len(seen.kl),
        num_classes=opening.num_classes,
        student=seen.student(asked.student or "noise"),
        grid=parse_grid(asked.grid),
        stores=tuple(stores),
        tolerance=asked.tolerance,
        notes=(f"store: hidden is left out: {reason}",) if reason else (),
    )


def _asked(file: RunFile, grid: str | None, student: str | None) -> FidelityConfig:
    asked = file.block("dump", DumpConfig).fidelity
    if grid is not None:
        asked = replace(asked, grid=tuple(grid.split(",")))
    if student is not None:
        asked = replace(asked, student=student)
    if asked.student is not None:
        file.models.student(asked.student)
    return asked


def _chosen(items: Sequence[Item], count: int, *, seed: int) -> list[Item]:
    """Items of the sample, in the cache's order."""
    order = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[i] for i in sorted(order)]


def _student(file: RunFile, opening: Opening, asked: FidelityConfig, build: BuildStudent) -> Any:
    source = file.models.student(str(asked.student))
    model = build(source, opening.job.task.auto_class, seed=asked.seed, **opening.job.task.model_kwargs())
    largest = models.largest_id([opening.job.items])
    models.check_vocabulary(model.config, largest_id=largest, name=f"student {asked.student}")
    return model.eval().to(opening.job.device)


def _stores(
    runner: Runner, items: Sequence[Item], opening: Opening, *, asked: FidelityConfig, model: Any, seen: _Seen
) -> list[StoreResult]:
    """Every store on the sample."""
    with closing(_outputs(runner, items, opening)) as batches:
        first = next(batches)
    if model is None:
        seen.noise = noise_scale(first.logits_RV, first.num_classes_R, seed=asked.seed)
    compared = variants(opening.config, num_classes=opening.num_classes, hidden_size=runner.hidden_size)
    return measure(
        _samples(runner, items, opening, model=model, seen=seen, seed=asked.seed),
        parse_grid(asked.grid),
        compared,
        tables=_tables(compared, opening, first),
        head=None if runner.head is None else runner.head.head,
        chunk_rows=opening.chunk_rows,
    )


def _tables(compared: Sequence[RowFormat], opening: Opening, first: Outputs) -> dict[str, Tables]:
    """Codec -> what its rows share, as a dump that begins with this batch would make it."""
    found = {row_format.codec: row_format for row_format in compared}
    return {
        codec: shared_tables(row_format, items=opening.job.items, first=first_rows(row_format, first))
        for codec, row_format in found.items()
    }


def _outputs(runner: Runner, items: Sequence[Item], opening: Opening) -> Generator[Outputs, None, None]:
    """The teacher's outputs with at most `MAX_ROWS` rows in all, each its own item, cut to the true V."""
    per_item = max(1, MAX_ROWS // len(items))
    for outputs in runner.outputs(items, per_item=per_item):
        yield replace(outputs, logits_RV=outputs.logits_RV[:, : opening.num_classes])


def _samples(
    runner: Runner, items: Sequence[Item], opening: Opening, *, model: Any, seen: _Seen, seed: int
) -> Iterator[Sample]:
    """Teacher and student over the same rows; what is seen of the student is noted."""
    generator = torch.Generator().manual_seed(seed)
    theirs = None if model is None else _student_logits(model, items, opening)
    for outputs in _outputs(runner, items, opening):
        if theirs is None:
            student_RV = noisy_student(outputs.logits_RV, scale=seen.noise or 0.0, generator=generator)
        else:
            student_RV = next(theirs)
        seen.kl += kl(outputs.logits_RV, student_RV, outputs.num_classes_R).tolist()
        seen.agree += agreement(outputs.logits_RV, student_RV, outputs.num_classes_R).tolist()
        yield Sample(outputs=outputs, student_RV=student_RV)


def _student_logits(model: Any, items: Sequence[Item], opening: Opening) -> Iterator[Tensor]:
    """The student's logits of the same rows in the same batches."""
    job, per_item = opening.job, max(1, MAX_ROWS // len(items))
    batches = forward_rows(
        eager(lambda inputs: model(**inputs), job.task, job.device),
        items,
        batch_size=job.config.batch_size,
        batch_tokens=job.config.batch_tokens,
        pad_token_id=job.pad_token_id,
    )
    for indices, _, logits_RV in batches:
        if logits_RV.shape[1] < opening.num_classes:
            raise ModelError(
                f"the student gives {logits_RV.shape[1]:,} classes, the rows have {opening.num_classes:,}; "
                f"choose a student with the teacher's labels"
            )
        chosen = rows_chosen([items[i].num_rows for i in indices], per_item).to(logits_RV.device)
        yield logits_RV[chosen, : opening.num_classes]
