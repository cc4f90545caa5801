"""DeepSpeed: its process group and its engine. The only file that imports it, and it is imported where it trains.

On a CPU no op is compiled: the shared-memory op is switched off before anything asks for it; the optimizer is torch's.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed
import deepspeed.ops
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from kdcache.core.leaving import on_leave
from kdcache.training.deepspeed_config import deepspeed_config
from kdcache.training.engine import EngineSettings, decay_groups, without_cache
from kdcache.training.world import World

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a 60 s compilation whose kill leaves a lock
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)

LEAVE_SECONDS = 3.0
"""How long a process that is done waits for the others to let go of their group; without them that takes 0.2 s."""


def join(world: World, *, init_method: str | None = None) -> None:
    """Have this process be in the run's process group, which DeepSpeed needs also where there is one process.

    The group stays until this process ends, which leaves it (`kdcache.core.leaving`). A group that is there already is
    used, and is another's to leave.

    Args:
        world: the run's processes.
        init_method: where they meet, e.g. `file:///shared/rendezvous`; default: MASTER_ADDR, MASTER_PORT.
    """
    if world.device.type == "cpu" and get_accelerator().device_name() != "cpu":
        set_accelerator(CPU_Accelerator())  # else --device cpu beside a GPU trains on the GPU
    if torch.distributed.is_initialized():
        return
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size))
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    folder = None
    if world.size == 1 and init_method is None:
        # One process needs no port: a rendezvous file that nobody else knows cannot collide.
        folder = tempfile.mkdtemp(prefix="kdcache-")
        init_method = f"file://{folder}/rendezvous"
    on_leave(partial(_leave, world, folder))
    deepspeed.init_distributed(
        dist_backend="nccl" if world.device.type == "cuda" else "gloo",
        init_method=init_method,
        rank=world.rank,
        world_size=world.size,
        verbose=False,
    )


def _leave(world: World, folder: str | None, failed: bool) -> bool:
    """Destroy the group that `start` made; False: it is still there, since others keep it or CUDA is broken.

    NCCL lets go of a group together with its peers, and waits for them. So a rank that failed does not try: its peers
    may be in a collective that waits for it. Its end closes the connections, and the launcher ends the peers.
    """
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    if not torch.distributed.is_initialized():
        return True
    if failed and world.size > 1:
        return False
    if world.size == 1 and world.device.type == "cpu":
        deepspeed.comm.destroy_process_group()  # nothing to wait for
        return True
    thread = threading.Thread(target=_destroy, args=(world.device,), daemon=True)
    thread.start()
    thread.join(LEAVE_SECONDS)
    return not torch.distributed.is_initialized()


def _destroy(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # a thread starts with the first one
    with contextlib.suppress(RuntimeError):  # an error of CUDA or NCCL that was told where it arose
        deepspeed.comm.destroy_process_group()


class DeepSpeedEngine:
    """A model under DeepSpeed; see `engine.Engine`."""

    def __init__(self, model: torch.nn.Module, settings: EngineSettings, world: World) -> None:
        join(world)
        gc.collect()  # DeepSpeed's engines are reference cycles: an earlier training's would stay, weights and moments
        config = deepspeed_config(settings, world_size=world.size, cpu=world.device.type == "cpu")
        # fused and foreach AdamW differ in rounding; the plain one is the same on every device count
        optimizer = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=0.0)
        self.world = world
        self.settings = settings
        self._sharded = config["zero_optimization"]["stage"] == 3
        self._more = without_cache(model)
        self._engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]

    @property
    def module(self) -> Any:
        """The model itself."""
        return self._engine.module

    @property
    def sharded(self) -> bool:
        """Whether the weights are spread over ranks (ZeRO-3)."""
        return bool(self._sharded)

    @property
    def compute(self) -> torch.dtype | None:
        """Null: DeepSpeed casts the weights themselves."""
        return None

    def context(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """The model's outputs."""
        return self._engine(**inputs, **self._more)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share of a step's loss.

        DeepSpeed averages over ranks and accumulation steps; a share is already divided by the step's total, so both
        factors are multiplied back.
        """
        self._engine.backward(loss * (self.world.size * self.settings.accumulation))

    def step(self, learning_rate: float) -> None:
        """End a micro-batch; the last of a step updates the weights."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()

    def train(self, mode: bool) -> None:
        """Dropout on or off."""
        self._engine.train(mode)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on each."""
        if self.world.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def state_dict(self) -> dict[str, Tensor]:
        """All weights on the CPU, gathered from ZeRO-3 shards; the same on every rank."""
        parameters = list(self.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters, enabled=self._sharded):
            return {name: value.detach().cpu().clone() for name, value in self.module.state_dict().items()}

    def close(self) -> None:
        """Free what DeepSpeed holds of the model."""
        self._engine.destroy()
