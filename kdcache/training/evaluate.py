"""A model over items, without gradients: what is kept of each on every rank's share, scores from all of them.

The classes of a row never leave the batch: a split of rows over a large vocabulary would not fit in memory.

I items  R rows  V classes  C rows of a chunk
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.core.errors import TrainingError
from kdcache.core.results import uids_digest
from kdcache.core.types import IGNORE, Evaluation, Item
from kdcache.metrics import evaluate as evaluate_metrics
from kdcache.metrics import evaluate_by_language
from kdcache.metrics.calibration import optimal_temperature
from kdcache.tasks.base import Beside, Reading, RowFacts, Task, Writing
from kdcache.training.batch import MASKED
from kdcache.training.forward import ReadRows, eager, forward_rows
from kdcache.training.plain import autocast
from kdcache.training.world import World, gather_objects

Compare = Callable[[Sequence[Item], Tensor], list[Beside]]
"""Sets the logits [R, V] of a batch's items beside a teacher's rows."""

CHUNK_ELEMENTS = 1 << 22
"""Logits that are looked at in float64 at once: 32 MB."""
SAMPLE_ELEMENTS = 1 << 25
"""Logits kept for the optimal temperature: those of all rows, or of rows spread evenly."""


class Model(Protocol):
    """What is evaluated: an engine, or a model in itself (`Loaded`)."""

    @property
    def module(self) -> Any:
        """The model of transformers."""

    @property
    def sharded(self) -> bool:
        """Whether its weights are spread over ranks."""

    def context(self) -> AbstractContextManager[None]:
        """In which the module computes as `forward` does."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """Its outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model on this rank's device.

    Attributes:
        module: of transformers.
        compute: the 16-bit type that it computes in beside float32 weights; null: in the type of its weights.
    """

    module: Any
    compute: torch.dtype | None = None
    sharded: bool = False

    def context(self) -> AbstractContextManager[None]:
        """In which the module computes."""
        return autocast(self.module.device, self.compute)

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """Its outputs."""
        with self.context():
            return self.module(**inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What evaluations of a run share.

    Attributes:
        task: reads rows, writes, scores.
        tokenizer: of the model.
        pad_token_id: fills batches.
        batch_size: items of a forward pass.
        world: the ranks.
    """

    task: Task
    tokenizer: Any
    pad_token_id: int
    batch_size: int
    world: World


def predict(
    model: Model,
    items: Sequence[Item],
    setup: Setup,
    *,
    final: bool = False,
    sample: bool = False,
    compare: Compare | None = None,
    rows: ReadRows | None = None,
) -> list[Reading]:
    """What is kept of every item, on every rank; each rank runs its share.

    Ranks run the same number of batches, since ZeRO-3 gathers weights in every forward pass.

    Args:
        model: in evaluation mode.
        items: of a split.
        setup: of the run.
        final: for a reported score: what is written takes the dataset's `beams`, else its `selection_beams`.
        sample: keep logits of some rows for `temperature`.
        compare: what sets rows beside a teacher's.
        rows: how rows come from the model; null: by a call of it.

    Raises:
        ModelError: fewer classes than the rows have.
        TrainingError: logits that are not finite.
    """
    world = setup.world
    per_rank = -(-len(items) // world.size)
    share = [min(i, len(items) - 1) for i in range(world.rank * per_rank, (world.rank + 1) * per_rank)]
    mine = [items[i] for i in share]
    strides = _sampled(items) if sample else {}
    writing = Writing(tokenizer=setup.tokenizer, final=final, synced=model.sharded and world.size > 1)
    found: dict[int, Reading] = {}
    for indices, batch, logits_RV in forward_rows(
        rows or eager(model.forward, setup.task, world.device),
        mine,
        batch_size=setup.batch_size,
        pad_token_id=setup.pad_token_id,
    ):
        chosen = [mine[i] for i in indices]
        sampled = [strides.get(share[i]) for i in indices]
        with torch.no_grad(), model.context():
            texts = setup.task.write(model.module, batch.inputs, writing)
        readings = read(chosen, logits_RV, setup.task, texts, sampled, compare)
        found |= {share[i]: reading for i, reading in zip(indices, readings, strict=True)}
    merged: dict[int, Reading] = {}
    for part in gather_objects(found, world):
        merged |= part
    return [merged[i] for i in range(len(items))]


def read(
    items: Sequence[Item],
    logits_RV: Tensor,
    task: Task,
    texts: Sequence[str] | None = None,
    sampled: Sequence[NDArray[np.int64] | None] = (),
    compare: Compare | None = None,
) -> list[Reading]:
    """What is kept of a batch's items.

    Args:
        items: in the order of their rows.
        logits_RV: float32, of all their rows; `MASKED` where a row has fewer classes.
        task: reads answers.
        texts: what the model wrote for each.
        sampled: rows of each item whose logits are kept.
        compare: what sets rows beside a teacher's.

    Raises:
        TrainingError: logits that are not finite.
    """
    ends = np.cumsum([item.num_rows for item in items])
    owners = [item.uid for item in items for _ in range(item.num_rows)]
    labels_R = np.concatenate([item.labels_R for item in items]).astype(np.int64)
    facts = row_facts(logits_RV, labels_R, owners)
    parts = [slice(end - item.num_rows, end) for item, end in zip(items, ends.tolist(), strict=True)]
    widths = [int(item.classes_R.max(initial=0)) for item in items]
    cut = [logits_RV[part, :width] for part, width in zip(parts, widths, strict=True)]
    answers = task.answers(items, cut)
    besides = None if compare is None else compare(items, logits_RV)
    readings = []
    for i, (part, answer) in enumerate(zip(parts, answers, strict=True)):
        rows = sampled[i] if sampled else None
        readings.append(
            Reading(
                facts=facts.rows(part),
                answer=answer,
                text=None if texts is None else texts[i],
                sample_RV=None if rows is None else cut[i][torch.from_numpy(rows)].cpu().numpy(),
                sample_labels_R=None if rows is None else labels_R[part][rows],
                beside=None if besides is None else besides[i],
            )
        )
    return readings


def row_facts(logits_RV: Tensor, labels_R: NDArray[np.int64], owners: Sequence[str]) -> RowFacts:
    """The facts of rows, computed in float64 a few rows at a time.

    Args:
        logits_RV: `MASKED` where a row has fewer classes.
        labels_R: gold classes or `IGNORE`.
        owners: uid of each row's item, for messages.

    Raises:
        TrainingError: logits that are not finite.
    """
    labels = torch.from_numpy(labels_R).to(logits_RV.device)
    step = max(1, CHUNK_ELEMENTS // max(1, logits_RV.shape[1]))
    parts = [np.zeros((6, 0))]
    for start in range(0, len(logits_RV), step):
        log_p_CV = torch.log_softmax(logits_RV[start : start + step].double(), dim=1)
        label_C = labels[start : start + step]
        best_C = log_p_CV.argmax(dim=1)
        gold_C = log_p_CV.gather(1, label_C.clamp(min=0)[:, None])[:, 0].masked_fill(label_C == IGNORE, torch.nan)
        top_C = log_p_CV.gather(1, best_C[:, None])[:, 0].exp()
        p_CV = log_p_CV.exp()
        entropy_C = -p_CV.mul(log_p_CV.clamp(min=MASKED)).sum(dim=1)
        finite_C = torch.isfinite(log_p_CV).all(dim=1)
        square_C = p_CV.square_().sum(dim=1)
        facts = torch.stack([best_C.double(), gold_C, square_C, top_C, entropy_C, finite_C.double()])
        parts.append(facts.cpu().numpy())
    best_R, gold_R, squares_R, confidence_R, entropy_R, finite_R = np.concatenate(parts, axis=1)
    if not finite_R.all():
        row = int(np.flatnonzero(finite_R == 0)[0])
        raise TrainingError(
            f"the logits of item {owners[row]} are not finite ({str(logits_RV[row].tolist())[:200]}); the model has "
            f"diverged: lower the learning rate, or train in bf16 or fp32"
        )
    return RowFacts(
        best_R=best_R.astype(np.int64),
        gold_R=gold_R,
        squares_R=squares_R,
        confidence_R=confidence_R,
        entropy_R=entropy_R,
    )


def _sampled(items: Sequence[Item]) -> dict[int, NDArray[np.int64]]:
    """Item -> those of its rows whose logits are kept: labelled, and spread evenly over the split."""
    widths = sum(item.num_rows * int(item.classes_R.max(initial=0)) for item in items)
    stride = max(1, -(-widths // SAMPLE_ELEMENTS))
    chosen, first = {}, 0
    for i, item in enumerate(items):
        rows = np.arange(-first % stride, item.num_rows, stride, dtype=np.int64)
        chosen[i] = rows[item.labels_R[rows] != IGNORE]
        first += item.num_rows
    return chosen


def score(
    items: Sequence[Item], readings: Sequence[Reading], *, task: Task, split: str, final: bool = False
) -> Evaluation:
    """Scores and additive statistics of a split; pure. Of several languages, the first metric also by language."""
    scored = task.score(items, readings)
    names, parts = task.metrics(), {"split": split, **task.details(final=final)}
    scores = evaluate_metrics(scored.statistics, names, parts)
    scores |= evaluate_by_language(scored.statistics, names[0], scored.languages, parts)
    return Evaluation(
        split=split, uids=scored.uids, scores=scores, statistics=scored.statistics, languages=scored.languages
    )


def temperature(readings: Sequence[Reading]) -> float:
    """The temperature that suits the sampled rows best."""
    kept = [(reading.sample_RV, reading.sample_labels_R) for reading in readings]
    logits = [values for values, labels in kept if values is not None and labels is not None]
    labels_R = np.concatenate([labels for values, labels in kept if values is not None and labels is not None])
    padded_RV = np.full((len(labels_R), max(part.shape[1] for part in logits)), -np.inf)
    start = 0
    for part in logits:
        padded_RV[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return optimal_temperature(padded_RV, labels_R)


def mean_entropy(readings: Sequence[Reading]) -> float:
    """Mean entropy of the predictions over rows, nats."""
    return float(np.concatenate([reading.facts.entropy_R for reading in readings]).mean())


def plain_scores(evaluation: Evaluation) -> dict[str, float]:
    """Metric -> value, for logs."""
    return {name: value.value for name, value in evaluation.scores.items()}


def digest(evaluation: Evaluation) -> str:
    """What two runs must share to be compared example by example."""
    return uids_digest(evaluation.uids)
