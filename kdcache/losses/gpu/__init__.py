"""Triton kernels for CUDA; everything here has a plain PyTorch twin, which is the reference and serves all else."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
from importlib.util import find_spec

import torch

INSTALLED = find_spec("triton") is not None
"""CUDA builds of PyTorch bring Triton along; CPU builds do not."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter runs kernels on a CPU, slowly: for tests."""
WANTED = os.environ.get("KDCACHE_KERNELS", "1") != "0"
"""`KDCACHE_KERNELS=0` leaves all to plain PyTorch."""

if INSTALLED:
    from triton.errors import TritonError

    from kdcache.losses.gpu import loss_kernels


def usable(device: torch.device) -> bool:
    """Whether kernels can run on a device: Triton is there, and the device is CUDA or Triton interprets."""
    if not (INSTALLED and WANTED):
        return False
    return INTERPRETED or (device.type == "cuda" and _runs(device))


@functools.cache
def _runs(device: torch.device) -> bool:
    """Whether a small kernel can be made for a device. Triton needs a C compiler, which a slim image lacks.

    Without it plain PyTorch gives the same results, more slowly; why is said once. Tried once and kept: the trial waits
    for the device, so it has to be over before a step is captured.
    """
    row, factor = torch.ones(1, 16, device=device), torch.full((1,), 2.0, device=device)
    try:
        with torch.cuda.device_of(row):  # type: ignore[no-untyped-call]
            loss_kernels.scale_rows[(1,)](row, factor, 16, 1, 16, BLOCK=16, num_warps=1)
        if bool((row == 2).all()):
            return True
        reason = "a kernel gives wrong numbers"
    except (TritonError, RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0][:200]
    logging.getLogger("kdcache").warning(
        "kdcache: Triton makes no kernels here (%s), so losses and selection run on plain PyTorch, several times "
        "slower; install a C compiler and Python's headers, or set KDCACHE_KERNELS=0 to say nothing",
        reason,
    )
    return False
