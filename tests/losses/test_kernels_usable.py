"""Whether kernels run is found out once, and said where they cannot."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from kdcache.losses import gpu

pytestmark = pytest.mark.skipif(not gpu.INSTALLED or gpu.INTERPRETED, reason="needs Triton, not its interpreter")
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Kernel:
    """Stands where the first kernel is launched, as on a machine where Triton fails."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(row: torch.Tensor, *arguments: Any, **options: Any) -> None:
            if self._error is not None:
                raise self._error

        return launch


def test_a_cpu_has_none() -> None:
    assert not gpu.usable(CPU)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
            "Failed to find C comp",
        ),
        (FileNotFoundError(2, "No such file or directory", "ptxas"), "No such file or directory: 'ptxas'"),
        (None, "a kernel gives wrong numbers"),
    ],
)
def test_where_triton_fails_plain_pytorch_serves_and_one_line_says_why(
    error: Exception | None, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu.loss_kernels, "scale_rows", Kernel(error))
    gpu._runs.cache_clear()
    with caplog.at_level(logging.WARNING, logger="kdcache"):
        assert not gpu._runs(CPU)  # the device of its tensors; there is no other here
        assert not gpu._runs(CPU)
    gpu._runs.cache_clear()
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]
    assert "install a C compiler and Python's headers, or set KDCACHE_KERNELS=0" in caplog.messages[0]


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_runs", lambda device: True)
    assert gpu.usable(CUDA)
    monkeypatch.setattr(gpu, "WANTED", False)
    assert not gpu.usable(CUDA)
