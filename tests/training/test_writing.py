"""Texts are written on every rank's share, under any ZeRO stage, and score the same as on one rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from kdcache.core.types import Example, Item, TaskSettings
from kdcache.tasks import make
from kdcache.tasks.base import Reading
from kdcache.training import evaluate
from kdcache.training.models import ModelSource, load_tokenizer
from kdcache.training.settings import engine_settings
from kdcache.training.start import build
from kdcache.training.world import World
from tests.ranks import run_ranks
from tests.tiny_text import CODES, write_mbart
from tests.training import small

pytestmark = pytest.mark.slow

SETTINGS = TaskSettings(labels=(), max_length=30, metric="bleu", source_language=CODES[0], target_language=CODES[1])
TASK = make("translation", SETTINGS)
PAIRS = [
    ("der hund", "the dog"),
    ("der mann sieht der hund", "the man sees the dog"),
    ("rot", "red red"),
    ("kind", "a"),
]


def predict(world: World, folder: Path, items: Sequence[Item], stage: int, final: bool) -> list[Reading]:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    engine = build(model, engine_settings(small.settings_of(zero_stage=stage), world), world)
    engine.train(False)
    tokenizer = load_tokenizer(ModelSource(path=str(folder)))
    setup = evaluate.Setup(task=TASK, tokenizer=tokenizer, pad_token_id=1, batch_size=2, world=world)
    return evaluate.predict(engine, items, setup, final=final)


@pytest.mark.parametrize(("stage", "final"), [(0, False), (1, True), (2, False), (3, False)])
def test_one_and_two_ranks_write_the_same(tmp_path: Path, stage: int, final: bool):
    folder = write_mbart(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4)  # else it says nothing
    model.save_pretrained(folder)
    tokenizer = load_tokenizer(ModelSource(path=str(folder)))
    examples = [Example(uid=f"u{i}", fields={"source": s, "target": t}) for i, (s, t) in enumerate(PAIRS)]
    items = [item for example in examples[:3] for item in TASK.encode(example, tokenizer)]
    alone = run_ranks(predict, folder, items, 0, final, size=1)[0]
    assert any(reading.text for reading in alone)
    wanted = evaluate.score(items, alone, task=TASK, split="test", final=final)
    for readings in run_ranks(predict, folder, items, stage, final, size=2):
        assert [reading.text for reading in readings] == [reading.text for reading in alone]
        found = evaluate.score(items, readings, task=TASK, split="test", final=final)
        assert evaluate.plain_scores(found) == pytest.approx(evaluate.plain_scores(wanted), rel=1e-5)
        assert found.uids == wanted.uids
