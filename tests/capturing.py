"""What cannot be captured in a CUDA graph, found on a machine without one: waits, and copies from the host's memory.

A graph replays kernels with the addresses and numbers of its capture. Whatever the host has to know, or hands over as a
tensor, would be that of the capture for ever; CUDA refuses most of it, on a machine that has CUDA.

Two of these runs find it all: on the CPU, constants of Python show that became tensors; on the device "meta", which
computes nothing, all shows that comes from the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "item", "is_nonzero", "equal", "unique", "bincount")
"""Operations whose result, or its size, the host must have before it can go on."""
CONSTANTS = ("lift_fresh", "lift_fresh_copy", "lift")
"""What `torch.tensor`, `torch.as_tensor`, `torch.from_numpy`, an index that is a list, and on a CPU `x[...] = 0` do.
`scalar_tensor` (`torch.where(mask, 0.0, x)`) is none of them: on a device it fills, as `torch.full` does."""


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a device, as if the CPU were one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.check(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def check(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Raise for an operation that waits."""
        name = func.overloadpacket.__name__
        if name in WAITS:
            raise AssertionError(f"{func} waits for the device")
        if name in ("index", "index_put_", "index_put") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        ):
            raise AssertionError(f"{func} by a mask waits for the device")


class Capturable(NoWaiting):
    """Refuses also what comes from the host's memory, or goes there."""

    def check(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Raise for an operation that a capture refuses, or freezes."""
        super().check(func, args, kwargs)
        name = func.overloadpacket.__name__
        if name in CONSTANTS or "pin_memory" in name:
            raise AssertionError(f"{func} makes a tensor from what the host holds")
        there = {tensor.device.type for tensor in _tensors(args) if tensor.ndim or name in ("copy_", "_to_copy")}
        if name == "_to_copy" and kwargs.get("device") is not None:
            there.add(torch.device(kwargs["device"]).type)
        if len(there) > 1:
            raise AssertionError(f"{func} goes from one device to another: {sorted(there)}")


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
