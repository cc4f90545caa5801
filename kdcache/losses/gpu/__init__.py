"""Triton kernels for CUDA; everything here has a plain PyTorch twin, which is the reference and serves all else."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

INSTALLED = find_spec("triton") is not None
"""CUDA builds of PyTorch bring Triton along; CPU builds do not."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter runs kernels on a CPU, slowly: for tests."""


def usable(device: torch.device) -> bool:
    """Whether kernels can run on a device: Triton is there, and the device is CUDA or Triton interprets."""
    return INSTALLED and (device.type == "cuda" or INTERPRETED)
