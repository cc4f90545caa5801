"""Output head and loss in one, a chunk of rows at a time: logits and their gradient exist for one chunk only.

    logits = cap(scale * (W h + b))    per chunk; then at once    dh = G W,  dW += G' h,  db += sum G

Weight and bias gradients are accumulated in float32 (float64 if the products are), whatever the model's dtype. Products
run in the dtype of the vectors and the weight, or in another one, as under autocast, which itself has no effect here.

R rows  C rows of a chunk  V classes  D hidden size
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from kdcache.core.errors import TrainingError
from kdcache.losses.autograd import times
from kdcache.losses.gpu.products import add_product
from kdcache.losses.head import Head
from kdcache.losses.work import RowLosses, Work

CHUNK_ELEMENTS = {"cpu": 1 << 24}
"""Logits of a chunk: 64 MB of float32, 128 rows of 131,072 classes: enough rows for a matrix product."""
LARGE_CHUNK_BYTES = 1 << 29
"""Of other devices: 512 MB, 2,048 rows of 131,072 classes in 16 bits."""


def head_losses(hidden_RD: Tensor, head: Head, work: Work, *, compute: torch.dtype) -> RowLosses:
    """Losses of rows from what enters the student's head; only `total` has a gradient, and only a first one.

    Args:
        hidden_RD: of the student.
        head: of the student.
        work: see `work.plan`.
        compute: dtype of products and logits; the head is copied into it if it has another one.

    Returns:
        `total` is the sum over rows, a scalar; the others are [R].
    """
    tensors = (hidden_RD, head.weight_VD, head.bias_V)
    if not torch.is_grad_enabled():  # the function would compute gradients that nobody asks for
        tensors = (hidden_RD.detach(), head.weight_VD.detach(), None if head.bias_V is None else head.bias_V.detach())
    total, hard, soft, floor = _HeadLosses.apply(*tensors, head, work, compute)  # type: ignore[no-untyped-call]
    return RowLosses(total=total, hard=hard, soft=soft, floor=floor)


class _HeadLosses(torch.autograd.Function):
    """Gradients are there after the forward pass, for factors of 1; the backward pass scales them, once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Head,
        work: Work,
        compute: torch.dtype,
    ) -> tuple[Tensor, ...]:
        sums = _Gradients(hidden_RD, weight_VD, bias_V, wanted=ctx.needs_input_grad[:3], dtype=work.dtype)
        weight_VD, bias_V = weight_VD.to(compute), None if bias_V is None else bias_V.to(compute)
        limit = CHUNK_ELEMENTS.get(hidden_RD.device.type, LARGE_CHUNK_BYTES // compute.itemsize)
        step = max(1, limit // max(1, head.num_classes))
        parts = []
        for start in range(0, len(hidden_RD), step):
            chunk_CD = hidden_RD[start : start + step].to(compute)
            logits_CV = functional.linear(chunk_CD, weight_VD, bias_V)
            logits_CV, slope_CV = _activate(logits_CV, head)
            gradient_CV = logits_CV if sums.any else None
            losses = work.run(logits_CV, gradient_CV, first=start)
            parts.append(torch.stack([losses.total, losses.hard, losses.soft, losses.floor]))
            if gradient_CV is not None:
                if head.scale != 1:
                    gradient_CV.mul_(head.scale)
                if slope_CV is not None:
                    gradient_CV.mul_(slope_CV)
                sums.add(start, chunk_CD, weight_VD, gradient_CV)
        ctx.sums = sums
        total_R, *others = torch.cat(parts, dim=1) if parts else hidden_RD.new_zeros((4, 0), dtype=work.dtype)
        outputs = (total_R.sum(), *(other.clone() for other in others))
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.sums is None:
            raise TrainingError("the loss was differentiated twice; compute it again instead of keeping its graph")
        sums, ctx.sums = ctx.sums, None
        if factor is None:
            return None, None, None, None, None, None
        return (*sums.scaled(factor), None, None, None)


class _Gradients:
    """Sums over chunks."""

    def __init__(
        self,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        *,
        wanted: tuple[bool, bool, bool],
        dtype: torch.dtype,
    ) -> None:
        self.any = any(wanted)
        self._dtypes = (hidden_RD.dtype, weight_VD.dtype, weight_VD.dtype if bias_V is None else bias_V.dtype)
        self._hidden = torch.empty_like(hidden_RD) if wanted[0] else None
        self._weight = torch.zeros_like(weight_VD, dtype=dtype) if wanted[1] else None
        self._bias = torch.zeros_like(bias_V, dtype=dtype) if bias_V is not None and wanted[2] else None

    def add(self, start: int, chunk_CD: Tensor, weight_VD: Tensor, gradient_CV: Tensor) -> None:
        """Take in a chunk."""
        if self._hidden is not None:
            part_CD = self._hidden[start : start + len(chunk_CD)]
            if part_CD.dtype == gradient_CV.dtype:
                torch.mm(gradient_CV, weight_VD, out=part_CD)
            else:
                part_CD.copy_(torch.mm(gradient_CV, weight_VD))
        if self._weight is not None:
            add_product(self._weight, gradient_CV.T, chunk_CD)  # no second [V, D]
        if self._bias is not None:
            self._bias.add_(gradient_CV.sum(dim=0, dtype=self._bias.dtype))

    def scaled(self, factor: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the factor of the total, in their tensors' dtypes."""
        found: list[Tensor | None] = []
        for gradient, dtype in zip((self._hidden, self._weight, self._bias), self._dtypes, strict=True):
            if gradient is not None:
                times(gradient, factor)
            found.append(None if gradient is None else gradient.to(dtype))
        return tuple(found)


def _activate(logits_CV: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
    """What follows the head's product, and the slope of its soft cap."""
    if head.scale != 1:
        logits_CV = logits_CV.mul_(head.scale)
    if head.soft_cap is None:
        return logits_CV, None
    bent_CV = logits_CV.div_(head.soft_cap).tanh_()
    slope_CV = torch.addcmul(torch.ones((), dtype=bent_CV.dtype, device=bent_CV.device), bent_CV, bent_CV, value=-1)
    return bent_CV.mul_(head.soft_cap), slope_CV
