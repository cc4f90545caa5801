"""Training by PyTorch alone, in one process: float32 weights, bfloat16 autocast, fused AdamW.

The weights and both moments are float32. With `bf16` a forward pass computes in bfloat16 (autocast), so a step costs
what a plain PyTorch loop would cost, and nothing beside: no process group, no second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kdcache.training.engine import EngineSettings, decay_groups
from kdcache.training.world import World


class PlainEngine:
    """A model under plain PyTorch; see `engine.Engine`.

    Args:
        model: of transformers.
        settings: of one process.
        world: one process.
    """

    def __init__(self, model: torch.nn.Module, settings: EngineSettings, world: World) -> None:
        self.world = world
        self.settings = settings
        self._model = model.to(world.device, torch.float32)
        groups = [group for group in decay_groups(self._model, settings.weight_decay) if group["params"]]
        self._parameters = [p for group in groups for p in group["params"]]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        self._waiting = 0
        if settings.compiled:
            body: Any = self._model.base_model
            body.compile()

    @property
    def module(self) -> Any:
        """The model itself."""
        return self._model

    @property
    def sharded(self) -> bool:
        """Never."""
        return False

    @property
    def compute(self) -> torch.dtype | None:
        """bfloat16 where the settings ask for it."""
        return torch.bfloat16 if self.settings.bf16 else None

    def context(self) -> AbstractContextManager[None]:
        """Autocast, or nothing."""
        return autocast(self.world.device, self.compute)

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """The model's outputs."""
        with self.context():
            return self._model(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a share of a step's loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> None:
        """End a micro-batch; the last of a step clips the gradient, updates the weights and frees it."""
        self._waiting = (self._waiting + 1) % self.settings.accumulation
        if self._waiting:
            return
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def train(self, mode: bool) -> None:
        """Dropout on or off."""
        if self._model.training != mode:
            self._model.train(mode)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The values: there is one rank."""
        return values

    def state_dict(self) -> dict[str, Tensor]:
        """All weights on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}

    def close(self) -> None:
        """Free the gradient and the moments."""
        self._optimizer.zero_grad()
        self._optimizer.state.clear()


def autocast(device: torch.device, compute: torch.dtype | None) -> AbstractContextManager[None]:
    """A context whose matrix products take 16 bits; nothing without a type.

    Args:
        device: where it computes.
        compute: bfloat16 or null.
    """
    return nullcontext() if compute is None else torch.autocast(device.type, compute)
