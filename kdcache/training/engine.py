"""DeepSpeed: processes, the engine, its configuration. The only file that imports it.

On a CPU no op is compiled: the shared-memory op is switched off before anything asks for it; the optimizer is torch's.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed
import deepspeed.ops
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from kdcache.core.errors import ConfigError
from kdcache.core.leaving import on_leave
from kdcache.training.device import choose

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a 60 s compilation whose kill leaves a lock
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)

OWN_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "optimizer",
    "scheduler",
    "gradient_clipping",
    "bf16",
    "fp16",
)
"""Keys of a user's DeepSpeed JSON that contradict kdcache's own settings."""
CPU_BUCKET = 1_000_000
LEAVE_SECONDS = 3.0
"""How long a process that is done waits for the others to let go of their group; without them that takes 0.2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes of this run: `rank` of `size`, and this one's device."""

    rank: int
    size: int
    device: torch.device


def start(device: str, *, init_method: str | None = None) -> World:
    """Join the processes that a launcher announced by RANK, WORLD_SIZE, ..., or be the only one.

    Their group stays until this process ends, which leaves it (`kdcache.core.leaving`). A group that is there already
    is used, and is another's to leave.

    Args:
        device: `auto` (CUDA if there is one), `cpu` or `cuda`.
        init_method: where the processes meet, e.g. `file:///shared/rendezvous`; default: MASTER_ADDR, MASTER_PORT.

    Raises:
        LaunchError: a device that is not there.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose(device, local_rank=local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    elif get_accelerator().device_name() != "cpu":
        set_accelerator(CPU_Accelerator())  # else --device cpu beside a GPU trains on the GPU
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    world = World(rank=rank, size=size, device=chosen)
    if not torch.distributed.is_initialized():
        folder = None
        if size == 1 and init_method is None:
            # One process needs no port: a rendezvous file that nobody else knows cannot collide.
            folder = tempfile.mkdtemp(prefix="kdcache-")
            init_method = f"file://{folder}/rendezvous"
        on_leave(partial(_leave, world, folder))
        deepspeed.init_distributed(
            dist_backend="nccl" if chosen.type == "cuda" else "gloo",
            init_method=init_method,
            rank=rank,
            world_size=size,
            verbose=False,
        )
    return world


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


def read_user_json(path: Path | None) -> dict[str, Any]:
    """A user's own DeepSpeed configuration.

    Raises:
        ConfigError: unreadable, or it sets what kdcache's own settings decide.
    """
    if path is None:
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the DeepSpeed configuration {path}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a JSON object of DeepSpeed settings")
    for key in OWN_KEYS:
        if key in tree:
            raise ConfigError(
                f"{path} sets {key}, which kdcache decides from batch_size, micro_batch_size, learning_rate, "
                f"max_grad_norm and precision; remove it there"
            )
    if not isinstance(tree.get("zero_optimization", {}), dict):
        raise ConfigError(f'{path}: zero_optimization must be an object, e.g. {{"stage": 2}}')
    return tree


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the engine needs to know.

    Attributes:
        micro_batch_size: items of a forward pass on one rank.
        accumulation: micro-batches of a step on one rank.
        zero_stage: 0 to 3.
        bf16: train in bfloat16 with float32 master weights.
        max_grad_norm: 0 for none.
        weight_decay: of all but biases and norms.
        user: a user's own DeepSpeed settings, merged.
    """

    micro_batch_size: int
    accumulation: int
    zero_stage: int
    bf16: bool
    max_grad_norm: float
    weight_decay: float
    user: Mapping[str, Any]


def deepspeed_config(settings: EngineSettings, *, world_size: int, cpu: bool) -> dict[str, Any]:
    """The configuration given to DeepSpeed; pure.

    Raises:
        ConfigError: the user's own settings ask for another ZeRO stage.

    Example:
        >>> settings = EngineSettings(micro_batch_size=8, accumulation=2, zero_stage=1, bf16=False, max_grad_norm=1.0,
        ...                           weight_decay=0.1, user={})
        >>> deepspeed_config(settings, world_size=2, cpu=True)["train_batch_size"]
        32
    """
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if cpu:
        zero |= {"reduce_bucket_size": CPU_BUCKET, "allgather_bucket_size": CPU_BUCKET}
    user = dict(settings.user)
    zero |= user.pop("zero_optimization", {})
    if settings.zero_stage not in (0, zero["stage"]):
        raise ConfigError(
            f"zero_stage = {settings.zero_stage}, but the DeepSpeed JSON sets stage {zero['stage']}; give one of them"
        )
    return {
        "train_batch_size": settings.micro_batch_size * settings.accumulation * world_size,
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": settings.bf16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
        **user,
    }


class Engine:
    """A model under DeepSpeed: forward, backward, step, and sums over ranks."""

    def __init__(self, model: torch.nn.Module, settings: EngineSettings, world: World) -> None:
        gc.collect()  # DeepSpeed's engines are reference cycles: an earlier training's would stay, weights and moments
        config = deepspeed_config(settings, world_size=world.size, cpu=world.device.type == "cpu")
        # fused and foreach AdamW differ in rounding; the plain one is the same on every device count
        optimizer = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=0.0)
        self.world = world
        self.settings = settings
        self._sharded = config["zero_optimization"]["stage"] == 3
        self._engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]

    @property
    def module(self) -> Any:
        """The model itself."""
        return self._engine.module

    @property
    def sharded(self) -> bool:
        """Whether the weights are spread over ranks (ZeRO-3)."""
        return bool(self._sharded)

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """The model's outputs."""
        return self._engine(**inputs)

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


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, biases and norms (one-dimensional) do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def gather_objects(value: Any, world: World) -> list[Any]:
    """Each rank's value, in rank order, on every rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(values, value)
    return values


def barrier(world: World) -> None:
    """Wait for all ranks."""
    if world.size > 1:
        torch.distributed.barrier()
