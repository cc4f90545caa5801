"""Rows whose classes are tokens: what padding adds is masked in a batch and gone from predictions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertForQuestionAnswering

from kdcache.core.types import Item, TaskSettings
from kdcache.losses.objective import Objective
from kdcache.tasks import make
from kdcache.training import evaluate
from kdcache.training.batch import MASKED, collate, read_rows
from kdcache.training.world import World

TASK = make("qa", TaskSettings(labels=(), max_length=32, metric="f1"))


def window(length: int, label: int = 1) -> Item:
    """A window of so many tokens."""
    return Item(
        uid=f"w{length}",
        inputs={"input_ids": np.arange(1, length + 1, dtype=np.int32)},
        positions_R=np.array([0, 1], np.int32),
        labels_R=np.array([label, label], np.int32),
        classes_R=np.full(2, length, np.int32),
    )


def test_padding_is_masked_and_the_loss_is_that_of_each_window_alone():
    items = [window(3), window(5, label=4)]
    random = torch.Generator().manual_seed(0)
    start, end = (torch.randn(2, 5, generator=random) for _ in range(2))
    batch = collate(items, pad_token_id=0)
    assert batch.facts.ragged
    rows = read_rows(TASK, SimpleNamespace(start_logits=start, end_logits=end), batch)
    assert (rows == MASKED).tolist() == [[False] * 3 + [True] * 2] * 2 + [[False] * 5] * 2
    alone = [(start[0, :3], 1), (end[0, :3], 1), (start[1], 4), (end[1], 4)]
    wanted = torch.stack([functional.cross_entropy(logits, torch.tensor(label)) for logits, label in alone]).mean()
    assert Objective(teacher=None, alpha=0)(rows, None, batch.labels_R).hard.item() == pytest.approx(wanted.item())


def test_windows_of_one_length_are_not_masked():
    logits = torch.zeros(2, 4)
    batch = collate([window(4), window(4)], pad_token_id=0)
    assert not batch.facts.ragged
    assert read_rows(TASK, SimpleNamespace(start_logits=logits, end_logits=logits), batch).shape == (4, 4)


def test_predictions_have_a_rows_own_classes_whatever_the_batch():
    torch.manual_seed(0)
    model = BertForQuestionAnswering(
        BertConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    ).eval()
    items = [window(length) for length in (3, 9, 5, 9, 20, 4)]
    world = World(rank=0, size=1, device=torch.device("cpu"))
    found = {}
    for size in (1, 4, 32):
        setup = evaluate.Setup(task=TASK, tokenizer=None, pad_token_id=0, batch_size=size, world=world)
        found[size] = evaluate.predict(evaluate.Loaded(module=model), items, setup, sample=True)
    for size in (1, 4, 32):
        for item, reading, alone in zip(items, found[size], found[1], strict=True):
            assert reading.sample_RV is not None
            assert alone.sample_RV is not None
            assert reading.sample_RV.shape == (2, item.num_tokens)
            np.testing.assert_allclose(reading.sample_RV, alone.sample_RV, atol=1e-5)
            np.testing.assert_allclose(reading.facts.gold_R, alone.facts.gold_R, atol=1e-5)
            np.testing.assert_allclose(reading.facts.entropy_R, alone.facts.entropy_R, atol=1e-5)
    assert 0 < evaluate.mean_entropy(found[4]) < np.log(20)
    assert 0.01 <= evaluate.temperature(found[4]) <= 100
