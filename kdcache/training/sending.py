"""A batch on its way to the device: all of its tensors in one buffer, so that a step costs one copy.

On CUDA the buffer is page-locked and is copied on a stream of its own, while the step before is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes at whose multiples tensors begin."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where tensors lie in a buffer; equal layouts are equal keys.

    Attributes:
        places: (name, dtype, shape, first byte) of each tensor.
        num_bytes: of the buffer.
    """

    places: tuple[tuple[str, torch.dtype, tuple[int, ...], int], ...]
    num_bytes: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """The layout of tensors, in their order.

        Example:
            >>> Layout.of({"a": torch.zeros(3, dtype=torch.int64), "b": torch.zeros(2)}).num_bytes
            48
        """
        places, start = [], 0
        for name, tensor in tensors.items():
            places.append((name, tensor.dtype, tuple(tensor.shape), start))
            start += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
        return cls(places=tuple(places), num_bytes=start)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors that lie in a buffer, without a copy.

        Args:
            buffer: uint8, of `num_bytes`.
        """
        found = {}
        for name, dtype, shape, start in self.places:
            count = 1
            for size in shape:
                count *= size
            found[name] = buffer[start : start + count * dtype.itemsize].view(dtype).view(shape)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Tensors that are on a device, or will be when its stream gets there.

    Attributes:
        layout: of the buffer.
        buffer: uint8, on the device.
        ready: an event after the copy; null where there was none to wait for.
    """

    layout: Layout
    buffer: Tensor
    ready: Any = None

    def arrive(self) -> Tensor:
        """The buffer, for the current stream, which waits for the copy; the host does not."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.buffer.device)
            stream.wait_event(self.ready)
            self.buffer.record_stream(stream)
        return self.buffer


class Sender:
    """Sends tensors to a device, on one stream; any thread may use it.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def send(self, tensors: Mapping[str, Tensor]) -> Sent:
        """Put tensors of the CPU into one buffer and start its copy.

        Args:
            tensors: on the CPU.
        """
        layout = Layout.of(tensors)
        if self._stream is not None:
            torch.cuda.set_device(self._device)  # a thread starts with the first one
        buffer = torch.empty(layout.num_bytes, dtype=torch.uint8, pin_memory=self._stream is not None)
        for view, tensor in zip(layout.views(buffer).values(), tensors.values(), strict=True):
            view.copy_(tensor)
        if self._stream is None:
            return Sent(layout=layout, buffer=buffer)
        with torch.cuda.stream(self._stream):
            there = buffer.to(self._device, non_blocking=True)  # the allocator keeps the host's side until then
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(self._stream)
        return Sent(layout=layout, buffer=there, ready=ready)
