"""Batches of like length: how many items and tokens each holds."""

from __future__ import annotations

import numpy as np
import pytest

from kdcache.core.types import Item
from kdcache.training.forward import length_batches
from tests.training import small


def item(tokens: int, target: int = 0) -> Item:
    inputs = {"input_ids": np.zeros(tokens, dtype=np.int32)}
    if target:
        inputs["decoder_input_ids"] = np.zeros(target, dtype=np.int32)
    none = np.zeros(0, dtype=np.int32)
    return Item(uid="x", inputs=inputs, positions_R=none, labels_R=none, classes_R=none)


def test_batches_hold_items_of_like_length_longest_first():
    items = small.build_items(20)
    batches = length_batches(items, 6)
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == list(range(20))
    lengths = [items[i].num_tokens for i in flat]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (None, [[1, 2, 0], [3, 4]]),
        (20, [[1, 2], [0, 3, 4]]),
        (8, [[1], [2], [0], [3], [4]]),
        (1, [[1], [2], [0], [3], [4]]),
    ],
)
def test_a_budget_of_tokens_counts_padding_and_a_longer_item_is_a_batch_by_itself(
    budget: int | None, expected: list[list[int]]
) -> None:
    items = [item(6), item(10), item(9), item(5), item(4)]
    assert length_batches(items, 3, budget) == expected


def test_the_decoders_tokens_count_too() -> None:
    items = [item(4, 2), item(4, 6), item(3, 2)]
    assert length_batches(items, 8, 20) == [[0, 1], [2]]  # two items of 4 + 6 tokens
    assert length_batches(items, 8, 19) == [[0], [1], [2]]
