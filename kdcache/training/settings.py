"""Settings of a training, teacher's or student's, and what the engine and a run's key take of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from kdcache.core.config import plain
from kdcache.core.errors import ConfigError
from kdcache.core.order import num_rounds
from kdcache.training.deepspeed_config import read_user_json
from kdcache.training.engine import EngineSettings, Kind
from kdcache.training.fusing import Fused
from kdcache.training.world import World

HOW = frozenset({"engine", "graph", "compile"})
"""Settings of how a training is computed: results differ by rounding, in bfloat16 by that of 16 bits."""


@dataclass(frozen=True, kw_only=True)  # no slots: settings classes inherit from several
class TrainingConfig:
    """Settings of a training, teacher's or student's."""

    learning_rate: float = 2e-5
    """Peak of the schedule: linear warm-up, then linear decay to 0."""
    epochs: int = 3
    """Passes over the training split."""
    batch_size: int = 32
    """Items of an optimiser step, over all processes and accumulation steps."""
    micro_batch_size: int | None = None
    """Items of a forward pass on one device; default: the step's share of each process."""
    warmup: float = 0.06
    """Share of the steps with a rising learning rate."""
    weight_decay: float = 0.1
    """AdamW's, for all but biases and norms."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 for none."""
    evals_per_epoch: int = 1
    """Evaluations on validation in an epoch; each may become the checkpoint that is kept."""
    eval_batch_size: int = 64
    """Items of a forward pass when evaluating."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 where CUDA supports it, else float32."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: 1 shards optimizer states over processes, 2 also gradients, 3 also weights."""
    fused: Fused = "auto"
    """Loss from what enters the output head, never holding [rows, vocabulary]: `auto` from 16,384 classes on where the
    model's head can be split off and ZeRO-3 does not spread it; `always` or `never`."""
    engine: Literal["auto", "plain", "deepspeed"] = "auto"
    """`auto` is plain PyTorch for one process without ZeRO and without a DeepSpeed JSON, else DeepSpeed."""
    graph: Literal["auto", "always", "never"] = "auto"
    """Run a step as one CUDA graph for each shape: `auto` where the host and not the GPU limits the step, and where the
    model allows it; `always` wherever the model allows it. Plain engine on CUDA only."""
    compile: bool = False
    """Run the body of the model through torch.compile; the first steps take a minute more. Plain engine only."""
    deepspeed: Path | None = None
    """A DeepSpeed JSON to merge; keys that kdcache decides are refused."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evals_per_epoch", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ConfigError(f"micro_batch_size = {self.micro_batch_size} must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate = {self.learning_rate} must lie between 0 and 1")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup = {self.warmup} is a share of the steps, from 0 to below 1")
        if self.max_grad_norm < 0 or self.weight_decay < 0:
            raise ConfigError("max_grad_norm and weight_decay must not be negative")

    def kind(self, world_size: int) -> Kind:
        """Which engine trains.

        Raises:
            ConfigError: plain PyTorch for what DeepSpeed alone does, torch.compile under DeepSpeed.
        """
        reasons = {
            f"{world_size} processes": world_size > 1,
            f"zero_stage = {self.zero_stage}": self.zero_stage > 0,
            f"deepspeed = {self.deepspeed}": self.deepspeed is not None,
            "engine = 'deepspeed'": self.engine == "deepspeed",
        }
        needs = next((reason for reason, holds in reasons.items() if holds), "")
        if needs and self.engine == "plain":
            raise ConfigError(f"engine = 'plain' cannot do {needs}; use engine: auto")
        if needs and self.compile:
            raise ConfigError(f"compile = true is for the plain engine, and {needs} takes DeepSpeed; set it to false")
        if needs and self.graph == "always":
            raise ConfigError(f"graph = 'always' is for the plain engine, and {needs} takes DeepSpeed; use graph: auto")
        return "deepspeed" if needs else "plain"

    def micro(self, world_size: int) -> int:
        """Items of a forward pass on one rank."""
        return self.micro_batch_size or math.ceil(self.batch_size / world_size)


def check_engine(config: TrainingConfig, world_size: int, *, cuda: bool) -> Kind:
    """Which engine trains; pure.

    Args:
        config: of the training.
        world_size: processes.
        cuda: whether they train on CUDA.

    Raises:
        ConfigError: what no engine can do there.
    """
    kind = config.kind(world_size)
    if config.graph == "always" and not cuda:
        raise ConfigError("graph = 'always' needs a CUDA device; use graph: auto, which is eager without one")
    return kind


def engine_settings(config: TrainingConfig, world: World) -> EngineSettings:
    """The engine's part of a training's settings.

    Raises:
        ConfigError: a DeepSpeed JSON that contradicts them, bfloat16 asked for where it cannot be had.
    """
    supported = world.device.type == "cpu" or torch.cuda.is_bf16_supported()
    if config.precision == "bfloat16" and not supported:
        raise ConfigError("precision: bfloat16 is not supported by this GPU; use float32")
    kind = check_engine(config, world.size, cuda=world.device.type == "cuda")
    micro = config.micro(world.size)
    return EngineSettings(
        kind=kind,
        micro_batch_size=micro,
        accumulation=num_rounds(config.batch_size, micro_batch_size=micro, world_size=world.size),
        zero_stage=config.zero_stage,
        bf16=config.precision == "bfloat16"
        or (config.precision == "auto" and world.device.type == "cuda" and supported),
        compiled=config.compile,
        max_grad_norm=config.max_grad_norm,
        weight_decay=config.weight_decay,
        user=read_user_json(config.deepspeed),
    )


def effective(config: TrainingConfig, world: World) -> dict[str, Any]:
    """The settings as plain data for a run's record, with the precision and the engine that `auto` came to."""
    settings = engine_settings(config, world)
    return {**plain(config), "precision": "bfloat16" if settings.bf16 else "float32", "engine": settings.kind}


def content(config: TrainingConfig) -> dict[str, Any]:
    """The settings as a key of a run takes them: without those of how it is computed that were not set.

    So runs and teachers of before these settings keep their keys.
    """
    unset = {f.name for f in fields(TrainingConfig) if f.name in HOW and getattr(config, f.name) == f.default}
    return {name: value for name, value in plain(config).items() if name not in unset}
