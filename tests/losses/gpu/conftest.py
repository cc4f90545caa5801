"""Tests of the Triton kernels: on a CUDA device where there is one, else by Triton's interpreter.

Kernels are interpreted only where TRITON_INTERPRET=1 was set before Triton was imported, so without CUDA they run in a
process of their own, which `tests/losses/test_gpu_interpreter.py` starts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdcache.losses import gpu

HERE = Path(__file__).parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder `gpu` where there is CUDA, so that `-m gpu` selects it; skip it where no kernel can run."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        if DEVICE.type == "cuda":
            item.add_marker(pytest.mark.gpu)
        if not gpu.usable(DEVICE):
            reason = "kernels need Triton, and a CUDA device or TRITON_INTERPRET=1; test_gpu_interpreter.py sets it"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    return DEVICE
