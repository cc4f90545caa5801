"""A tiny BERT, its items and a training by the real loop, as the tests of this folder use them.

I items  R rows  V classes
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from kdcache.core.order import epoch_steps, num_steps
from kdcache.core.types import Item, TaskSettings
from kdcache.losses.objective import Objective
from kdcache.tasks.classification import Classification
from kdcache.training.engine import Engine, decay_groups
from kdcache.training.log import RunLog
from kdcache.training.loop import fit, learning_rate
from kdcache.training.settings import TrainingConfig, engine_settings
from kdcache.training.start import build
from kdcache.training.steppers import stepper
from kdcache.training.steps import MemorySteps, Steps
from kdcache.training.world import World

TASK = Classification(settings=TaskSettings(labels=("bad", "good"), max_length=16, metric="f1"))
HARD = Objective(teacher=None, alpha=0)


def build_items(count: int, *, seed: int = 0) -> list[Item]:
    """Items of 4 to 9 tokens; the third token tells the label."""
    random = np.random.default_rng(seed)
    items = []
    for i in range(count):
        ids = random.integers(5, 40, size=int(random.integers(4, 10))).astype(np.int32)
        label = np.array([int(ids[2]) % 2], dtype=np.int32)
        items.append(
            Item(
                uid=f"item{i}",
                inputs={"input_ids": ids},
                positions_R=np.zeros(1, np.int32),
                labels_R=label,
                classes_R=np.array([2], np.int32),
            )
        )
    return items


def build_bert(*, num_labels: int = 2, vocab_size: int = 40, poisoned: bool = False) -> BertForSequenceClassification:
    """Two layers, no dropout, always the same weights; `poisoned` has NaN in its head."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=num_labels,
        )
    )
    if poisoned:
        torch.nn.init.constant_(model.classifier.bias, torch.nan)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training left on a rank: one loss a step (rank 0 only), and the gathered weights."""

    losses: list[float]
    weights: dict[str, np.ndarray]


def train(engine: Engine, steps: Steps, config: TrainingConfig, objective: Objective = HARD) -> Trained:
    """Train to the end by `loop.fit`."""
    with tempfile.TemporaryDirectory() as name:
        with RunLog(Path(name) if engine.world.rank == 0 else None) as log:
            stepping = stepper(engine, objective, rows=TASK, pad_token_id=0, config=config, log=log)
            for _ in fit(stepping, steps, config=config, log=log):
                pass
        log_file = Path(name) / "log.jsonl"
        lines = [json.loads(line) for line in log_file.read_text().splitlines()] if log_file.is_file() else []
    weights = {name: value.numpy() for name, value in engine.state_dict().items()}
    return Trained(losses=[line["loss"] for line in lines], weights=weights)


def train_by_hand(world: World, config: TrainingConfig, items: list[Item]) -> Trained:
    """The same training in plain torch, unpadded and one item at a time: what the engine is held against."""
    del world  # a rank's process has one thread, which for models this small is far faster than several
    model = build_bert()
    optimizer = torch.optim.AdamW(decay_groups(model, config.weight_decay), lr=0.0)
    lengths = np.array([item.num_tokens for item in items])
    total, losses = num_steps(len(items), config.batch_size) * config.epochs, []
    for epoch in range(config.epochs):
        for step in epoch_steps(lengths, batch_size=config.batch_size, seed=0, epoch=epoch):
            loss = torch.zeros(())
            for item in (items[i] for i in step):
                logits = model(input_ids=torch.from_numpy(item.inputs["input_ids"].astype(np.int64))[None]).logits
                loss = loss + functional.cross_entropy(logits, torch.tensor(item.labels_R.tolist())) / len(step)
            optimizer.zero_grad()
            loss.backward()
            if config.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(len(losses), total=total, peak=config.learning_rate, warmup=config.warmup)
            optimizer.step()
            losses.append(loss.item())
    return Trained(losses=losses, weights={n: v.detach().numpy() for n, v in model.state_dict().items()})


def settings_of(**settings: Any) -> TrainingConfig:
    """Settings of a short training."""
    return TrainingConfig(**{"epochs": 2, "learning_rate": 0.01, "batch_size": 6, **settings})


def train_in_memory(world: World, config: TrainingConfig, items: list[Item], *, poisoned: bool = False) -> Trained:
    """Train the tiny BERT on hard labels."""
    engine = build(build_bert(poisoned=poisoned), engine_settings(config, world), world)
    steps = MemorySteps(
        items=items,
        batch_size=config.batch_size,
        micro_batch_size=config.micro(world.size),
        seed=0,
        rank=world.rank,
        world_size=world.size,
        pad_token_id=0,
    )
    return train(engine, steps, config)
