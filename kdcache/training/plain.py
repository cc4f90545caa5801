"""Training by PyTorch alone, in one process: float32 weights, bfloat16 autocast, fused AdamW.

The weights and both moments are float32. With `bf16` a forward pass computes in bfloat16 (autocast), so a step costs
what a plain PyTorch loop would cost, and nothing beside: no process group, no second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kdcache.training.engine import EngineSettings, decay_groups, without_cache
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
        self._more = without_cache(model)
        groups = [group for group in decay_groups(self._model, settings.weight_decay) if group["params"]]
        self._parameters = [p for group in groups for p in group["params"]]
        self._rate = torch.zeros((), device=world.device)  # a graph reads it
        self._optimizer = torch.optim.AdamW(groups, lr=self._rate, fused=True, capturable=world.device.type == "cuda")
        self._held = False
        self._update: Callable[[], None] = self.update
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
            return self._model(**inputs, **self._more)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a share of a step's loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> None:
        """End a micro-batch; the last of a step clips the gradient, updates the weights and frees it."""
        self._waiting = (self._waiting + 1) % self.settings.accumulation
        if not self._waiting:
            self._rate.fill_(learning_rate)
            self._update()

    def update(self) -> None:
        """Clip the gradient, update the weights and free the gradient, or set it to 0 where it is held."""
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=not self._held)

    def hold_gradients(self) -> None:
        """Keep gradients where they are, set to 0 after a step instead of freed, since graphs write them there."""
        self._held = True

    def repeat_update(self, replay: Callable[[], None]) -> None:
        """Have the end of a step repeat a recording of `update`.

        Args:
            replay: see `recording.Recorder.record`.
        """
        self._update = replay

    def eager_update(self) -> None:
        """Undo `repeat_update` and `hold_gradients`; a gradient that is being accumulated stays."""
        self._update, self._held = self.update, False

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

    def load(self, model: torch.nn.Module) -> None:
        """Take over the weights of another model of the same form, where the own ones lie.

        Args:
            model: on any device.
        """
        given = model.state_dict()
        with torch.no_grad():
            for name, value in self._model.state_dict().items():
                value.copy_(given[name])

    def restart(self, model: torch.nn.Module) -> None:
        """Be as new with the weights of a model; what was recorded stays true.

        Args:
            model: of the same form.
        """
        self.load(model)
        self._waiting = 0
        with torch.no_grad():
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.zero_()
                for value in self._optimizer.state[parameter].values():
                    value.zero_()

    def close(self) -> None:
        """Free the gradient, the moments and the recording of the update."""
        self.eager_update()
        self._optimizer.zero_grad()
        self._optimizer.state.clear()


def autocast(device: torch.device, compute: torch.dtype | None) -> AbstractContextManager[None]:
    """A context whose matrix products take 16 bits; nothing without a type.

    Args:
        device: where it computes.
        compute: bfloat16 or null.
    """
    return nullcontext() if compute is None else torch.autocast(device.type, compute)
