"""Predictions do not depend on how many ranks share them, nor on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from kdcache.core.types import Item
from kdcache.tasks.base import Reading
from kdcache.training import evaluate
from kdcache.training.settings import engine_settings
from kdcache.training.start import build
from kdcache.training.world import World
from tests.ranks import run_ranks
from tests.training import small


def predict(world: World, items: Sequence[Item], stage: int, batch_size: int) -> list[Reading]:
    engine = build(small.build_bert(), engine_settings(small.settings_of(zero_stage=stage), world), world)
    engine.train(False)
    setup = evaluate.Setup(task=small.TASK, tokenizer=None, pad_token_id=0, batch_size=batch_size, world=world)
    return evaluate.predict(engine, items, setup, sample=True)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("stage", [0, 3])
def test_one_and_two_ranks_give_the_same_logits_and_the_same_score_on_every_rank(count: int, stage: int):
    languages = ("de", "en")
    items = [replace(item, meta={"language": languages[i % 2]}) for i, item in enumerate(small.build_items(count))]
    alone = run_ranks(predict, items, 0, 3, size=1)[0]
    both = run_ranks(predict, items, stage, 2, size=2)
    for readings in both:
        ours, theirs = (np.concatenate([reading.sample_RV for reading in found]) for found in (readings, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert evaluate.temperature(readings) == pytest.approx(evaluate.temperature(alone), rel=1e-3)
        assert evaluate.mean_entropy(readings) == pytest.approx(evaluate.mean_entropy(alone), rel=1e-5)
    scores = [evaluate.score(items, readings, task=small.TASK, split="test") for readings in (alone, *both)]
    wanted = evaluate.plain_scores(scores[0])
    by_language = ["f1_binary@de", "f1_binary@en", "f1_binary@mean"] if count > 1 else []
    assert list(wanted) == ["f1_binary", "f1_macro", "f1_weighted", "accuracy", "nll", "brier", "ece", *by_language]
    for score in scores[1:]:
        assert evaluate.plain_scores(score) == pytest.approx(wanted, rel=1e-5)
        assert evaluate.digest(score) == evaluate.digest(scores[0])
