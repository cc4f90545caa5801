"""What trains a model: the interface of both engines, and their settings.

`plain` is PyTorch alone, for one process. `zero` is DeepSpeed, for several processes and whatever ZeRO can do.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from kdcache.training.world import World

Kind = Literal["plain", "deepspeed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the engine needs to know.

    Attributes:
        kind: which engine.
        micro_batch_size: items of a forward pass on one rank.
        accumulation: micro-batches of a step on one rank.
        zero_stage: 0 to 3.
        bf16: train in bfloat16 with float32 master weights.
        compiled: run the model's body through torch.compile.
        max_grad_norm: 0 for none.
        weight_decay: of all but biases and norms.
        user: a user's own DeepSpeed settings, merged.
    """

    kind: Kind
    micro_batch_size: int
    accumulation: int
    zero_stage: int
    bf16: bool
    compiled: bool = False
    max_grad_norm: float
    weight_decay: float
    user: Mapping[str, Any]


class Engine(Protocol):
    """A model in training: forward, backward, step, and sums over ranks."""

    world: World
    settings: EngineSettings

    @property
    def module(self) -> Any:
        """The model itself."""

    @property
    def sharded(self) -> bool:
        """Whether the weights are spread over ranks (ZeRO-3)."""

    @property
    def compute(self) -> torch.dtype | None:
        """The 16-bit type that forward passes compute in beside float32 weights; null: in the type of the weights."""

    def context(self) -> AbstractContextManager[None]:
        """In which the module computes as `forward` does, for what calls it otherwise (generation)."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """The model's outputs."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share of a step's loss; shares add up to the step's loss."""

    def step(self, learning_rate: float) -> None:
        """End a micro-batch; the last of a step updates the weights."""

    def train(self, mode: bool) -> None:
        """Dropout on or off."""

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on each."""

    def state_dict(self) -> dict[str, Tensor]:
        """All weights on the CPU; the same on every rank."""

    def close(self) -> None:
        """Free what the engine holds of the model."""


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, biases and norms (one-dimensional) do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def without_cache(model: torch.nn.Module) -> dict[str, bool]:
    """Arguments that keep a decoder from collecting keys and values: there is no next token in training."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
