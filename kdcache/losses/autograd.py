"""Losses of rows for autograd: the gradient is made in the forward pass; with `in_place` it replaces the logits.

R rows  V classes
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcache.core.errors import TrainingError
from kdcache.losses import gpu
from kdcache.losses.blocks import may_look
from kdcache.losses.gpu import loss as gpu_loss
from kdcache.losses.work import RowLosses, Work


def row_losses(logits_RV: Tensor, work: Work, *, in_place: bool = False) -> RowLosses:
    """Losses of rows; only `total` has a gradient, and only a first one.

    Args:
        logits_RV: of the student, any float type.
        work: see `plan`.
        in_place: write the gradient over the logits. Whoever needs them again, in the forward or in the backward pass,
            gets an error; a leaf is refused. A view is left alone, for its base belongs to somebody else.
    """
    if not (torch.is_grad_enabled() and logits_RV.requires_grad):
        return work.run(logits_RV.detach(), None)
    held = _Held()
    in_place = in_place and not logits_RV._is_view()
    total, hard, soft, floor, *_ = _RowLosses.apply(logits_RV, work, in_place, held)  # type: ignore[no-untyped-call]
    held.version = held.gradient_RV._version
    return RowLosses(total=total, hard=hard, soft=soft, floor=floor)


class _Held:
    """The gradient between the two passes, and its version: whoever writes to it is found out."""

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
    def forward(ctx: Any, logits_RV: Tensor, work: Work, in_place: bool, held: _Held) -> tuple[Tensor, ...]:
        values_RV = logits_RV.detach()
        held.gradient_RV = values_RV if in_place else torch.empty_like(values_RV, memory_format=torch.contiguous_format)
        losses = work.run(values_RV, held.gradient_RV)
        outputs: tuple[Tensor, ...] = (losses.total, losses.hard, losses.soft, losses.floor)
        if in_place:
            ctx.mark_dirty(logits_RV)
            outputs = (*outputs, logits_RV)
        ctx.mark_non_differentiable(*outputs[1:4])
        ctx.set_materialize_grads(False)
        ctx.held = held
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total_R: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if any(other is not None for other in others):
            raise TrainingError("the logits were used after the loss had overwritten them; set in_place to False")
        if total_R is None:
            return None, None, None, None
        gradient_RV = ctx.held.take()
        times(gradient_RV, total_R)
        return gradient_RV, None, None, None


def times(gradient_RV: Tensor, factor: Tensor) -> None:
    """Multiply a gradient by the factor of its loss, in place; a factor of 1 costs no pass where that can be had.

    Args:
        gradient_RV: [R, V], or any other shape where the factor is one for all.
        factor: of each row [R], or one for all.
    """
    in_line = gradient_RV.ndim == 2 and gradient_RV.stride(1) == 1
    if gpu.usable(gradient_RV.device) and in_line and gradient_RV.dtype != torch.float64:
        gpu_loss.scale(gradient_RV, factor)
    elif not may_look(factor) or bool((factor != 1).any()):
        gradient_RV.mul_(factor[:, None] if factor.ndim else factor)
