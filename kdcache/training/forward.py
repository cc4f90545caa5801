"""Items through a model, without gradients, in batches of like length.

R rows  V classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdcache.core.types import Item
from kdcache.tasks.base import Task
from kdcache.training.batch import Batch, collate, read_rows

Forward = Callable[[Mapping[str, Tensor]], Any]


def length_batches(items: Sequence[Item], batch_size: int, batch_tokens: int | None = None) -> list[list[int]]:
    """Indices of items in batches of like length, longest first, so that memory fails early or never.

    Args:
        items: in any order.
        batch_size: items of a batch, at most.
        batch_tokens: tokens of a batch, padding included, at most; an item of more is a batch by itself.

    Example:
        >>> length_batches([], 8)
        []
    """
    batches: list[list[int]] = []
    width = target = 0
    for i in sorted(range(len(items)), key=lambda i: (-items[i].num_tokens, i)):
        item, count = items[i], len(batches[-1]) if batches else 0
        longest = max(target, item.num_target_tokens)
        fits = batch_tokens is None or (count + 1) * (width + longest) <= batch_tokens
        if 0 < count < batch_size and fits:
            batches[-1].append(i)
            target = longest
        else:
            batches.append([i])
            width, target = item.num_tokens, item.num_target_tokens
    return batches


@torch.no_grad()
def forward_rows(
    forward: Forward,
    items: Sequence[Item],
    *,
    task: Task,
    batch_size: int,
    batch_tokens: int | None = None,
    pad_token_id: int,
    device: torch.device,
) -> Iterator[tuple[list[int], Batch, Tensor]]:
    """Each batch of items through the model once.

    Yields:
        Indices of the items, the batch on the device, and float32 logits of its rows [R, V].
    """
    for indices in length_batches(items, batch_size, batch_tokens):
        batch = collate([items[i] for i in indices], pad_token_id=pad_token_id).to(device)
        yield indices, batch, read_rows(task, forward(batch.inputs), batch).float()
