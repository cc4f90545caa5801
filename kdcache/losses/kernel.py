"""Losses of many rows, computed in blocks that stay in cache, the gradient in the same pass.

The gradient is written where a block's exponentials were, so a pass holds the logits, their gradient and a few blocks;
with `in_place` the gradient replaces the logits. Plain PyTorch, on any device.

R rows  V classes
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcache.core.errors import IncompatibleTargets, TrainingError
from kdcache.core.types import IGNORE
from kdcache.losses.blocks import Block, Scratch, Soft, write_hard
from kdcache.losses.divergence import Distance
from kdcache.losses.soft import prepare
from kdcache.losses.targets import Mixture, SparseTargets, Targets

BLOCK_ELEMENTS = {"cpu": 1 << 22}
"""Logits of a block: 16 MB of float32, which a CPU's outer cache holds: some 80 rows of 50,000 classes."""
LARGE_BLOCK_ELEMENTS = 1 << 26
"""Of other devices, where few large launches are better: 256 MB of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLosses:
    """Losses of rows, each [R], in nats (MSE: squared nats).

    Attributes:
        total: `hard_R * L1 + soft_R * L2`, the only one that is differentiable.
        hard: L1, unweighted; 0 where it has no part.
        soft: L2, unweighted; 0 where it has no part.
        floor: the smallest value that L2 can take: the teacher's entropy for CE, else 0.
    """

    total: Tensor
    hard: Tensor
    soft: Tensor
    floor: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be computed of which rows, checked and prepared once.

    Attributes:
        labels_R: gold classes, 0 where there is none.
        hard_R: factor of L1 in the total; null where no row has one.
        soft_R: factor of L2 in the total.
        soft: the teacher's rows; null where L2 has no part.
        classes_R: V of each row where they differ, else null.
        width: the largest V.
        masked: some row has no part at all; what it holds may be anything.
    """

    labels_R: Tensor
    hard_R: Tensor | None
    soft_R: Tensor
    soft: Soft | None
    classes_R: Tensor | None
    width: int
    masked: bool

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: float64 for float64 logits, else float32."""
        return self.soft_R.dtype

    def run(self, logits_RV: Tensor, gradient_RV: Tensor | None, *, first: int = 0) -> RowLosses:
        """Losses of consecutive rows, and their gradient.

        Args:
            logits_RV: of the rows `first`, `first + 1`, ...; read only, except where it is `gradient_RV`.
            gradient_RV: gets d total / d logits; null for none.
            first: which row of the work is the first.
        """
        num_rows, width = logits_RV.shape[0], self.width
        limit = BLOCK_ELEMENTS.get(logits_RV.device.type, LARGE_BLOCK_ELEMENTS)
        step = max(1, min(num_rows, limit // max(1, width)))
        scratch = Scratch((step, width), self.dtype, logits_RV.device)
        losses = logits_RV.new_zeros((4, num_rows), dtype=self.dtype)
        for start in range(0, num_rows, step):
            part = slice(start, min(start + step, num_rows))
            cut_BV = logits_RV[part, :width]
            into_BV = None if gradient_RV is None else gradient_RV[part, :width]
            losses[:, part] = self._block(cut_BV, into_BV, first + start, scratch)
        if gradient_RV is not None and gradient_RV.shape[1] > width:
            gradient_RV[:, width:] = 0
        total, hard, soft, floor = losses
        return RowLosses(total=total, hard=hard, soft=soft, floor=floor)

    def _block(self, logits_BV: Tensor, into_BV: Tensor | None, first: int, scratch: Scratch) -> Tensor:
        """total, hard, soft and floor of a block, [4, B]."""
        count = len(logits_BV)
        rows = slice(first, first + count)
        direct = logits_BV.dtype == self.dtype
        if not direct:
            logits_BV = scratch.get("logits", count).copy_(logits_BV)
        gradient_BV = into_BV if direct and into_BV is not None else scratch.get("gradient", count)
        valid_BV = None
        if self.classes_R is not None:
            valid_BV = torch.arange(self.width, device=logits_BV.device)[None, :] < self.classes_R[rows, None]
        block = Block(
            rows=rows,
            logits_BV=logits_BV,
            gradient_BV=gradient_BV,
            valid_BV=valid_BV,
            labels_B=self.labels_R[rows],
            hard_B=None if self.hard_R is None else self.hard_R[rows],
            soft_B=self.soft_R[rows],
            scratch=scratch,
        )
        hard_B, soft_B, floor_B = self._write(block)
        weight_B = torch.zeros_like(block.soft_B) if block.hard_B is None else block.hard_B
        total_B = _times(weight_B, hard_B) + _times(block.soft_B, soft_B)
        if into_BV is not None:
            if self.masked:  # whatever such a row holds, also NaN
                dead_B = (weight_B == 0) & (block.soft_B == 0)
                gradient_BV.masked_fill_(dead_B[:, None], 0.0)
            if gradient_BV is not into_BV:
                into_BV.copy_(gradient_BV)
        return torch.stack([total_B, hard_B, soft_B, floor_B])

    def _write(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """L1, L2 and its floor; L1 is 0 where it has no part."""
        none_B = torch.zeros_like(block.soft_B)
        if self.soft is None:
            return write_hard(block, none_B if block.hard_B is None else block.hard_B), none_B, none_B
        if block.hard_B is None or self.soft.takes_hard:
            values = self.soft.write(block)
            return none_B if values.hard is None else values.hard, values.soft, values.floor
        beside = block.beside("hard", hard_B=None, soft_B=block.soft_B)
        hard_B = write_hard(beside, block.hard_B)
        values = self.soft.write(replace(block, hard_B=None))
        block.gradient_BV.add_(beside.gradient_BV)
        return hard_B, values.soft, values.floor


def plan(
    logits_shape: tuple[int, int],
    targets: Targets | Mixture | None,
    labels_R: Tensor,
    distance: Distance,
    *,
    hard_R: Tensor | None,
    soft_R: Tensor,
) -> Work:
    """Check what is to be computed, in one wait for the device.

    Args:
        logits_shape: rows and classes of the student.
        targets: the teacher's rows; null where L2 has no part.
        labels_R: int64, gold classes or `IGNORE`.
        distance: of the student from the teacher.
        hard_R, soft_R: factors of each row's L1 (0 without a label; null for no L1) and L2, in the dtype of the work.

    Raises:
        IncompatibleTargets: rows or classes of student, teacher and labels that do not fit each other.
    """
    num_rows, width = logits_shape
    classes_R = torch.full_like(labels_R, width) if targets is None else targets.num_classes_R
    if not num_rows == len(classes_R) == len(labels_R):
        raise IncompatibleTargets(
            f"{num_rows} student rows meet {len(classes_R)} teacher rows and {len(labels_R)} labels; "
            f"take the student's logits at the rows of the batch"
        )
    wrong_R = (labels_R != IGNORE) & ((labels_R < 0) | (labels_R >= classes_R))
    dead_R = soft_R == 0 if hard_R is None else (soft_R == 0) & (hard_R == 0)
    facts = _facts(classes_R, wrong_R, dead_R, _has_tail(targets)) if num_rows else _Facts(width=width)
    if width < facts.width:
        raise IncompatibleTargets(
            f"the student has {width:,} classes and the teacher {facts.width:,}; give the student the teacher's labels"
        )
    if facts.wrong and hard_R is not None:
        row = int(wrong_R.nonzero()[0])
        raise IncompatibleTargets(
            f"label {int(labels_R[row])} of row {row} is outside its {int(classes_R[row])} classes; "
            f"check the labels, or mark rows without one by {IGNORE}"
        )
    return Work(
        labels_R=torch.where((labels_R == IGNORE) | wrong_R, 0, labels_R),
        hard_R=hard_R,
        soft_R=soft_R,
        soft=prepare(targets, distance, soft_R.dtype, has_tail=facts.has_tail) if targets and num_rows else None,
        classes_R=classes_R if facts.ragged else None,
        width=facts.width,
        masked=facts.masked,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What has to be known of all rows at once."""

    width: int
    ragged: bool = False
    wrong: bool = False
    masked: bool = False
    has_tail: bool = False


def _facts(classes_R: Tensor, wrong_R: Tensor, dead_R: Tensor, has_tail: Tensor) -> _Facts:
    """In one wait for the device."""
    parts = (classes_R.max(), classes_R.min(), wrong_R.any(), dead_R.any(), has_tail)
    widest, narrowest, wrong, masked, tail = torch.stack([part.to(classes_R) for part in parts]).tolist()
    return _Facts(width=widest, ragged=narrowest < widest, wrong=bool(wrong), masked=bool(masked), has_tail=bool(tail))


def _has_tail(targets: Targets | Mixture | None) -> Tensor:
    """Whether some row keeps fewer classes than it has."""
    if isinstance(targets, SparseTargets):
        return (targets.num_classes_R > targets.num_kept_R).any()
    if isinstance(targets, Mixture):
        first, second = _has_tail(targets.first), _has_tail(targets.second)
        return first | second.to(first.device)
    return torch.tensor(False)


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
        # On a CPU a look at R factors saves a pass over [R, V]; elsewhere it would wait for the device.
        if total_R.device.type != "cpu" or bool((total_R != 1).any()):
            gradient_RV.mul_(total_R[:, None])
        return gradient_RV, None, None, None


def _times(weight_B: Tensor, loss_B: Tensor) -> Tensor:
    """Weighted losses; a weight of 0 hides also a loss that is not finite."""
    return torch.where(weight_B == 0, 0.0, weight_B * loss_B)
