"""A model over items, without gradients: predictions on every rank's share, scores from all of them.

I items  R rows  V classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.core.results import uids_digest
from kdcache.core.types import Evaluation, Item
from kdcache.metrics import evaluate as evaluate_metrics
from kdcache.tasks.base import Task
from kdcache.training.batch import Batch, collate
from kdcache.training.engine import World, gather_objects

Forward = Callable[[Mapping[str, Tensor]], Any]


def length_batches(items: Sequence[Item], batch_size: int) -> list[list[int]]:
    """Indices of items in batches of like length, longest first, so that memory fails early or never.

    Example:
        >>> length_batches([], 8)
        []
    """
    by_length = sorted(range(len(items)), key=lambda i: (-items[i].num_tokens, i))
    return [by_length[start : start + batch_size] for start in range(0, len(items), batch_size)]


@torch.no_grad()
def forward_rows(
    forward: Forward, items: Sequence[Item], *, task: Task, batch_size: int, pad_token_id: int, device: torch.device
) -> Iterator[tuple[list[int], Batch, Tensor]]:
    """Each batch of items through the model once.

    Yields:
        Indices of the items, the batch on the device, and float32 logits of its rows [R, V].
    """
    for indices in length_batches(items, batch_size):
        batch = collate([items[i] for i in indices], pad_token_id=pad_token_id).to(device)
        yield indices, batch, task.rows(forward(batch.inputs), batch.positions_R2).float()


def predict(
    forward: Forward, items: Sequence[Item], *, task: Task, batch_size: int, pad_token_id: int, world: World
) -> list[NDArray[np.float32]]:
    """Logits [R, V] of every item, on every rank; each rank runs its share.

    Ranks run the same number of batches, since ZeRO-3 gathers weights in every forward pass.
    """
    per_rank = -(-len(items) // world.size)
    share = [min(i, len(items) - 1) for i in range(world.rank * per_rank, (world.rank + 1) * per_rank)]
    mine = [items[i] for i in share]
    found: dict[int, NDArray[np.float32]] = {}
    for indices, _, logits_RV in forward_rows(
        forward, mine, task=task, batch_size=batch_size, pad_token_id=pad_token_id, device=world.device
    ):
        ends = np.cumsum([mine[i].num_rows for i in indices])[:-1]
        for i, rows in zip(indices, np.split(logits_RV.cpu().numpy(), ends), strict=True):
            found[share[i]] = rows
    merged: dict[int, NDArray[np.float32]] = {}
    for part in gather_objects(found, world):
        merged |= part
    return [merged[i] for i in range(len(items))]


def score(items: Sequence[Item], logits: Sequence[NDArray[np.float32]], *, task: Task, split: str) -> Evaluation:
    """Scores and additive statistics of a split; pure."""
    statistics = task.score(items, logits)
    scores = evaluate_metrics(statistics, task.metrics(), {"split": split})
    return Evaluation(split=split, uids=tuple(item.uid for item in items), scores=scores, statistics=statistics)


def plain_scores(evaluation: Evaluation) -> dict[str, float]:
    """Metric -> value, for logs."""
    return {name: value.value for name, value in evaluation.scores.items()}


def digest(evaluation: Evaluation) -> str:
    """What two runs must share to be compared example by example."""
    return uids_digest(evaluation.uids)
