"""The start of a training: its processes, and the engine that its settings ask for."""

from __future__ import annotations

import os
from typing import Any

import torch

from kdcache.training.device import choose
from kdcache.training.engine import Engine, EngineSettings
from kdcache.training.plain import PlainEngine
from kdcache.training.world import World


def start(device: str, *, init_method: str | None = None) -> World:
    """Join the processes that a launcher announced by RANK, WORLD_SIZE, ..., or be the only one, which joins nobody.

    Args:
        device: `auto` (CUDA if there is one), `cpu` or `cuda`.
        init_method: where several processes meet, e.g. `file:///shared/rendezvous`; default: MASTER_ADDR, MASTER_PORT.

    Raises:
        LaunchError: a device that is not there.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    world = World(rank=rank, size=size, device=chosen)
    if size > 1:
        from kdcache.training import zero  # DeepSpeed takes seconds to import, and one process does without

        zero.join(world, init_method=init_method)
    return world


def build(model: Any, settings: EngineSettings, world: World) -> Engine:
    """The engine that the settings ask for, with a model.

    Args:
        model: of transformers, on the CPU.
        settings: `kind` is `plain` for one process alone.
        world: the run's processes.
    """
    if settings.kind == "plain":
        return PlainEngine(model, settings, world)
    from kdcache.training import zero

    return zero.DeepSpeedEngine(model, settings, world)
