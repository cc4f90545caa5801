"""In which precision a loss is computed, whatever surrounds it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def as_written(device: torch.device) -> AbstractContextManager[object]:
    """A context in which autocast, if it is active on a device, changes no operation's type.

    Args:
        device: of the tensors.

    Example:
        >>> ones = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), as_written(ones.device):
        ...     (ones @ ones).dtype
        torch.float32
    """
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
