"""The processes of a run, and what they tell each other. Knows torch.distributed alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes of this run: `rank` of `size`, and this one's device."""

    rank: int
    size: int
    device: torch.device


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
