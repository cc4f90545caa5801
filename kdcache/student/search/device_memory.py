"""What a training in this process takes of its GPU's memory. A process that has not used a GPU takes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Memory of the GPU that this process computes on, in bytes.

    Attributes:
        peak_bytes: the most that this process took since `restart`, with its CUDA context. What other processes hold is
            counted too, since a GPU does not tell them apart.
        total_bytes: of the GPU.
    """

    peak_bytes: int = 0
    total_bytes: int = 0


def restart() -> None:
    """Forget the peak of earlier trainings of this process."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()


def read() -> DeviceMemory:
    """The memory that was taken since `restart`; zeros where this process has used no GPU."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return DeviceMemory()
    free, total = torch.cuda.mem_get_info()
    outside = max(0, total - free - torch.cuda.memory_reserved())  # the context, libraries, other processes
    return DeviceMemory(peak_bytes=torch.cuda.max_memory_reserved() + outside, total_bytes=total)
