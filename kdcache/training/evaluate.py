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
from kdcache.core.types import IGNORE, Evaluation, Item
from kdcache.metrics import evaluate as evaluate_metrics
from kdcache.metrics.calibration import optimal_temperature
from kdcache.tasks.base import Task, pad_classes
from kdcache.training.batch import Batch, collate, read_rows
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
        yield indices, batch, read_rows(task, forward(batch.inputs), batch).float()


def predict(
    forward: Forward, items: Sequence[Item], *, task: Task, batch_size: int, pad_token_id: int, world: World
) -> list[NDArray[np.float32]]:
    """Logits [R, V] of every item, without a batch's padding, on every rank; each rank runs its share.

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
        widest = max(_widest(mine[i]) for i in indices)
        for i, rows in zip(indices, np.split(logits_RV.cpu().numpy(), ends), strict=True):
            padding = widest - _widest(mine[i])
            found[share[i]] = rows[:, : rows.shape[1] - padding]
    merged: dict[int, NDArray[np.float32]] = {}
    for part in gather_objects(found, world):
        merged |= part
    return [merged[i] for i in range(len(items))]


def _widest(item: Item) -> int:
    return int(item.classes_R.max(initial=0))


def score(items: Sequence[Item], logits: Sequence[NDArray[np.float32]], *, task: Task, split: str) -> Evaluation:
    """Scores and additive statistics of a split; pure."""
    scored = task.score(items, logits)
    scores = evaluate_metrics(scored.statistics, task.metrics(), {"split": split})
    return Evaluation(split=split, uids=scored.uids, scores=scores, statistics=scored.statistics)


def temperature(items: Sequence[Item], logits: Sequence[NDArray[np.float32]]) -> float:
    """The temperature that suits the labelled rows best."""
    labels_R = np.concatenate([item.labels_R for item in items])
    labelled_R = labels_R != IGNORE
    return optimal_temperature(pad_classes(logits)[labelled_R], labels_R[labelled_R])


def mean_entropy(logits: Sequence[NDArray[np.float32]]) -> float:
    """Mean entropy of the predictions over rows, nats."""
    total, count = 0.0, 0
    for part in logits:
        log_p = torch.log_softmax(torch.from_numpy(part).double(), dim=1)
        total, count = total - float((log_p.exp() * log_p).sum()), count + len(part)
    return total / max(1, count)


def plain_scores(evaluation: Evaluation) -> dict[str, float]:
    """Metric -> value, for logs."""
    return {name: value.value for name, value in evaluation.scores.items()}


def digest(evaluation: Evaluation) -> str:
    """What two runs must share to be compared example by example."""
    return uids_digest(evaluation.uids)
