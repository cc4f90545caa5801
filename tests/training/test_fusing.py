"""The loss from what enters the head trains the same weights as the loss from logits, and never holds them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdcache.core.config import parse
from kdcache.core.errors import ConfigError
from kdcache.core.types import Example, Item, TaskSettings
from kdcache.tasks import make
from kdcache.training.log import RunLog
from kdcache.training.loop import fit
from kdcache.training.models import ModelSource, load_tokenizer
from kdcache.training.settings import TrainingConfig, engine_settings
from kdcache.training.start import build
from kdcache.training.steppers import stepper
from kdcache.training.steps import MemorySteps
from kdcache.training.world import World
from tests.ranks import run_ranks
from tests.tiny_text import CODES, write_llama, write_mbart
from tests.training import small

pytestmark = pytest.mark.slow

TRANSLATION = TaskSettings(labels=(), max_length=30, metric="bleu", source_language=CODES[0], target_language=CODES[1])
KINDS: dict[str, tuple[Any, Any]] = {
    "mbart": (write_mbart, make("translation", TRANSLATION)),
    "llama": (write_llama, make("causal_lm", TaskSettings(labels=(), max_length=30, metric="nll", packing="padded"))),
}
TEXTS = ["the dog", "the man sees the dog", "the child calls", "red", "the man calls the red dog", "dog", "the red"]


def items_of(folder: Path, kind: str) -> list[Item]:
    tokenizer = load_tokenizer(ModelSource(path=str(folder)))
    fields = [{"source": "der " + text, "target": text, "text": text} for text in TEXTS]
    wanted = ("source", "target") if kind == "mbart" else ("text",)
    examples = [Example(uid=f"u{i}", fields={n: f[n] for n in wanted}) for i, f in enumerate(fields)]
    return [item for e in examples for item in KINDS[kind][1].encode(e, tokenizer, train=True)]


def train(world: World, folder: Path, kind: str, items: list[Item], settings: dict[str, Any]) -> Any:
    """Losses, weights, what the log says of the head, and the largest tensor that the head gave in training."""
    task, config = KINDS[kind][1], small.settings_of(**settings)
    model = getattr(transformers, task.auto_class).from_pretrained(folder)
    engine = build(model, engine_settings(config, world), world)
    sizes: list[int] = []
    head = engine.module.get_output_embeddings()
    head.register_forward_hook(lambda m, a, output: sizes.append(output.numel()) if m.training else None)
    steps = MemorySteps(
        items=items,
        batch_size=config.batch_size,
        micro_batch_size=config.micro(world.size),
        seed=0,
        rank=world.rank,
        world_size=world.size,
        pad_token_id=1,
    )
    with tempfile.TemporaryDirectory() as name:
        with RunLog(Path(name)) as log:
            stepping = stepper(engine, small.HARD, rows=task, pad_token_id=0, config=config, log=log)
            for _ in fit(stepping, steps, config=config, log=log):
                pass
        lines = [json.loads(line) for line in (Path(name) / "log.jsonl").read_text().splitlines()]
    weights = {n: value.float().numpy() for n, value in engine.state_dict().items()}
    losses = [line["loss"] for line in lines if "loss" in line]
    return losses, weights, [line for line in lines if "head" in line or "reason" in line], max(sizes)


@pytest.mark.parametrize(
    ("kind", "stage", "size"), [("mbart", 0, 1), ("mbart", 1, 2), ("llama", 2, 2), ("llama", 0, 1)]
)
def test_fused_and_dense_train_the_same_weights(tmp_path: Path, kind: str, stage: int, size: int):
    folder = KINDS[kind][0](tmp_path)
    items = items_of(folder, kind)
    settings = {"batch_size": 4, "micro_batch_size": 2, "zero_stage": stage}
    dense = run_ranks(train, folder, kind, items, {**settings, "zero_stage": 0, "fused": "never"}, size=1)[0]
    assert dense[2] == []
    assert dense[3] > 0
    for fused in run_ranks(train, folder, kind, items, {**settings, "fused": "always"}, size=size):
        np.testing.assert_allclose(fused[0], dense[0], rtol=2e-5)
        for name, value in dense[1].items():
            np.testing.assert_allclose(fused[1][name], value, rtol=2e-3, atol=2e-5, err_msg=name)
        assert fused[2][0]["classes"] == int(items[0].classes_R[0])
        assert fused[3] == 0, "the head ran over no row"


def test_bfloat16_is_fused_too(tmp_path: Path):
    folder = write_mbart(tmp_path)
    items = items_of(folder, "mbart")
    settings = {"batch_size": 4, "epochs": 1, "precision": "bfloat16"}
    dense, fused = (
        run_ranks(train, folder, "mbart", items, {**settings, "fused": how}, size=1)[0] for how in ("never", "always")
    )
    np.testing.assert_allclose(fused[0], dense[0], rtol=0.02)
    assert (dense[3] > 0, fused[3]) == (True, 0)


def test_small_vocabularies_stay_dense_and_zero_3_refuses_always(tmp_path: Path):
    folder = write_llama(tmp_path)
    items = items_of(folder, "llama")
    assert run_ranks(train, folder, "llama", items, {"epochs": 1}, size=1)[0][3] > 0
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=r"fused = 'always' needs the head's whole"):
        run_ranks(train, folder, "llama", items, {"fused": "always", "zero_stage": 3}, size=1)


def test_an_unknown_word_is_refused():
    with pytest.raises(ConfigError, match=r"^fused in x is 'maybe'; allowed: one of auto, always, never$"):
        parse(TrainingConfig, {"fused": "maybe"}, where="x")
