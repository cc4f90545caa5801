"""Tests of kernels: on CUDA, or under Triton's interpreter, which has to be asked for before kernels are defined."""

from pathlib import Path

import pytest
import torch

from kdcache.losses import gpu

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here; test_gpu_interpreter.py runs it in a process of its own."""
    if gpu.usable(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="kernels need CUDA, or TRITON_INTERPRET=1"))
