"""Logits given by hand, scored as an evaluation scores them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.core.types import Item
from kdcache.tasks.base import Reading, Scored, Task
from kdcache.training import evaluate
from kdcache.training.batch import MASKED


def read(
    task: Task, items: Sequence[Item], logits: Sequence[NDArray[np.float32]], texts: Sequence[str] | None = None
) -> list[Reading]:
    """What is kept of items with these logits [R, V] each."""
    if not items:
        return []
    width = max(part.shape[1] for part in logits)
    rows = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=MASKED) for part in logits]
    return evaluate.read(items, torch.from_numpy(np.concatenate(rows).astype(np.float32)), task, texts)


def score(
    task: Task, items: Sequence[Item], logits: Sequence[NDArray[np.float32]], texts: Sequence[str] | None = None
) -> Scored:
    """The statistics of items with these logits."""
    return task.score(items, read(task, items, logits, texts))
