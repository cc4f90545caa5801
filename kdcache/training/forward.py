"""Items through a model, without gradients, in batches of like length.

R rows  V classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdcache.core.types import Item
from kdcache.training.batch import Batch, RowReader, collate, read_rows

Forward = Callable[[Mapping[str, Tensor]], Any]
ReadRows = Callable[[Batch], tuple[Batch, Tensor]]
"""A batch on the CPU -> the batch on the device, and float32 logits of its rows [R, V], which the next call may
overwrite."""


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
    read: ReadRows,
    items: Sequence[Item],
    *,
    batch_size: int,
    batch_tokens: int | None = None,
    pad_token_id: int,
) -> Iterator[tuple[list[int], Batch, Tensor]]:
    """Each batch of items through the model once.

    Yields:
        Indices of the items, the batch on the device, and float32 logits of its rows [R, V], until the next.
    """
    for indices in length_batches(items, batch_size, batch_tokens):
        batch, logits_RV = read(collate([items[i] for i in indices], pad_token_id=pad_token_id))
        yield indices, batch, logits_RV


def eager(forward: Forward, task: RowReader, device: torch.device) -> ReadRows:
    """Rows by a call of the model.

    Args:
        forward: the model.
        task: reads rows from its outputs.
        device: where it is.
    """

    def read(batch: Batch) -> tuple[Batch, Tensor]:
        batch = batch.to(device)
        return batch, read_rows(task, forward(batch.inputs), batch).float()

    return read
