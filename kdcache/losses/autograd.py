"""Losses of rows for autograd: the gradient is made in the forward pass; with `in_place` it replaces the logits.

R rows  V classes
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcache.core.errors import TrainingError
from kdcache.losses import gpu
from kdcache.losses.blocks import may_look
from kdcache.losses.gpu import loss as gpu_loss
from kdcache.losses.work import RowLosses, Work


def row_losses(logits_RV: Tensor, work: Work, *, in_place: bool = False, summed: bool = False) -> RowLosses:
    """Losses of rows; only `total` has a gradient, and only a first one.

    Args:
        logits_RV: of the student, any float type.
        work: see `plan`.
        in_place: write the gradient over the logits. Whoever needs them again, in the forward or in the backward pass,
            gets an error; a leaf is refused. A view is left alone, for its base belongs to somebody else.
        summed: `total` is the sum over rows, shape [].
    """
    if not (torch.is_grad_enabled() and logits_RV.requires_grad):
        losses = work.run(logits_RV.detach(), None)
        return replace(losses, total=losses.total.sum()) if summed else losses
    held = _Held()
    in_place = in_place and not logits_RV._is_view()
    found = _RowLosses.apply(logits_RV, work, in_place, summed, held)  # type: ignore[no-untyped-call]
    held.version = held.gradient_RV._version
    losses = held.losses
    del held.losses  # the total knows this node, which must not know the total
    return RowLosses(total=found[0] if in_place else found, hard=losses.hard, soft=losses.soft, floor=losses.floor)


class _Held:
    """The gradient between the two passes, and its version: whoever writes to it is found out. And what has none."""

    losses: RowLosses
    gradient_RV: Tensor
    version: int
    taken: bool = False

    def take(self) -> Tensor:
        """The gradient, once: autograd may go on to add to it.

        Raises:
            TrainingError: it was taken before, or written to.
        """
        if self.taken:
            raise TrainingError("the loss was differentiated twice; compute it again instead of keeping its graph")
        if self.gradient_RV._version != self.version:
            raise TrainingError("the logits were written to after the loss had overwritten them; set in_place to False")
        gradient_RV, self.taken = self.gradient_RV, True
        del self.gradient_RV
        return gradient_RV


class _RowLosses(torch.autograd.Function):
    """The gradient is there after the forward pass; the backward pass hands it out, once."""

    @staticmethod
    def forward(
        ctx: Any, logits_RV: Tensor, work: Work, in_place: bool, summed: bool, held: _Held
    ) -> Tensor | tuple[Tensor, Tensor]:
        values_RV = logits_RV.detach()
        held.gradient_RV = values_RV if in_place else torch.empty_like(values_RV, memory_format=torch.contiguous_format)
        held.losses = work.run(values_RV, held.gradient_RV)
        ctx.held = held
        total = held.losses.total.sum() if summed else held.losses.total
        if not in_place:
            return total
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(logits_RV)
        return total, logits_RV

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, total: Tensor | None, *others: Tensor | None
    ) -> tuple[Tensor | None, None, None, None, None]:
        if any(other is not None for other in others):
            raise TrainingError("the logits were used after the loss had overwritten them; set in_place to False")
        if total is None:
            return None, None, None, None, None
        gradient_RV = ctx.held.take()
        times(gradient_RV, total)
        return gradient_RV, None, None, None, None


def times(gradient_RV: Tensor, factor: Tensor) -> None:
    """Multiply a gradient by the factor of its loss, in place; a factor of 1 costs no pass where that can be had.

    Args:
        gradient_RV: [R, V], or any other shape where the factor is one for all.
        factor: of each row [R], or one for all.
    """
    in_line = gradient_RV.ndim == 2 and gradient_RV.stride(1) == 1
    if gpu.usable(gradient_RV.device) and in_line and gradient_RV.dtype != torch.float64:
        gpu_loss.scale(gradient_RV, factor)
    elif factor.ndim == 0:
        if not may_look(factor) or factor.item() != 1:
            gradient_RV.mul_(factor)
    elif not may_look(factor) or bool((factor != 1).any()):
        gradient_RV.mul_(factor[:, None])
