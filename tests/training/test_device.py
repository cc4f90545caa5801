"""Which device a process gets."""

from __future__ import annotations

import pytest
import torch

from kdcache.core.errors import LaunchError
from kdcache.training.device import choose

CUDA = torch.cuda.is_available()


def test_the_cpu_is_the_cpu_whatever_there_is():
    assert choose("cpu", local_rank=1) == torch.device("cpu")


def test_auto_is_cuda_if_there_is_one():
    assert choose("auto", local_rank=1) == (torch.device("cuda", 1) if CUDA else torch.device("cpu"))


@pytest.mark.skipif(CUDA, reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(LaunchError, match=r"^--device cuda: this machine shows no CUDA device; use --device cpu, or"):
        choose("cuda")
