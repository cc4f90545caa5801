"""Which device a process computes on; knows neither DeepSpeed nor ranks, so a dump needs no process group."""

from __future__ import annotations

import torch

from kdcache.core.errors import LaunchError


def choose(device: str, *, local_rank: int = 0) -> torch.device:
    """The device that was asked for.

    Args:
        device: `auto` (CUDA if there is one), `cpu` or `cuda`.
        local_rank: this process's number on its machine: which of several CUDA devices.

    Raises:
        LaunchError: CUDA where there is none.

    Example:
        >>> choose("cpu", local_rank=3)
        device(type='cpu')
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise LaunchError("--device cuda: this machine shows no CUDA device; use --device cpu, or check the driver")
    return torch.device("cuda", local_rank) if available and device != "cpu" else torch.device("cpu")
