"""What is to be computed of which rows, and the walk over them.

Where Triton can run, its kernels do it in one launch (`gpu.loss`). Elsewhere, and for the divergences that have no
kernel, plain PyTorch goes over blocks of rows that stay in cache, and writes the gradient where a block's exponentials
were. The plain path is the reference. Neither waits for the device: what has to be known of the rows comes with them.

R rows  V classes
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets
from kdcache.core.types import IGNORE
from kdcache.losses import gpu
from kdcache.losses.blocks import Block, Scratch, Soft, write_hard
from kdcache.losses.divergence import Distance
from kdcache.losses.facts import Facts
from kdcache.losses.gpu import loss as gpu_loss
from kdcache.losses.soft import prepare
from kdcache.losses.targets import Mixture, Targets

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
        gaps: some row may have no part in L1 or L2.
        launcher: of the kernels that do all of this; null where the plain path does.
    """

    labels_R: Tensor
    hard_R: Tensor | None
    soft_R: Tensor
    soft: Soft | None
    classes_R: Tensor | None
    width: int
    masked: bool
    gaps: bool
    launcher: gpu_loss.Launcher | None = None

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
        if self.launcher is not None:
            total, hard, soft, floor = self.launcher.run(logits_RV, gradient_RV, first=first)
            return RowLosses(total=total, hard=hard, soft=soft, floor=floor)
        num_rows, width = logits_RV.shape[0], self.width
        limit = BLOCK_ELEMENTS.get(logits_RV.device.type, LARGE_BLOCK_ELEMENTS)
        step = max(1, min(num_rows, limit // max(1, width)))
        scratch = Scratch((step, width), self.dtype, logits_RV.device)
        cut_RV, into_RV = _columns(logits_RV, width), None if gradient_RV is None else _columns(gradient_RV, width)
        if num_rows and step == num_rows:
            total, hard, soft, floor = self._block(cut_RV, into_RV, first, scratch)
        else:
            losses = logits_RV.new_zeros((4, num_rows), dtype=self.dtype)
            for start in range(0, num_rows, step):
                part = slice(start, min(start + step, num_rows))
                into_BV = None if into_RV is None else into_RV[part]
                losses[:, part] = torch.stack(self._block(cut_RV[part], into_BV, first + start, scratch))
            total, hard, soft, floor = losses
        if gradient_RV is not None and gradient_RV.shape[1] > width:
            gradient_RV[:, width:].zero_()
        return RowLosses(total=total, hard=hard, soft=soft, floor=floor)

    def _block(
        self, logits_BV: Tensor, into_BV: Tensor | None, first: int, scratch: Scratch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """total, hard, soft and floor of a block, [B] each."""
        count = logits_BV.shape[0]
        rows = slice(first, first + count)
        direct = logits_BV.dtype == self.dtype
        if not direct:
            logits_BV = scratch.get("logits", count).copy_(logits_BV)
        gradient_BV = into_BV if direct and into_BV is not None else scratch.get("gradient", count)
        valid_BV = None
        if self.classes_R is not None:
            valid_BV = torch.arange(self.width, device=logits_BV.device)[None, :] < self.classes_R[rows, None]
        labels_B, hard_B, soft_B = self.labels_R, self.hard_R, self.soft_R
        if count != labels_B.shape[0]:
            labels_B, hard_B, soft_B = labels_B[rows], None if hard_B is None else hard_B[rows], soft_B[rows]
        block = Block(
            rows=rows,
            logits_BV=logits_BV,
            gradient_BV=gradient_BV,
            valid_BV=valid_BV,
            labels_B=labels_B,
            hard_B=hard_B,
            soft_B=soft_B,
            scratch=scratch,
        )
        losses = self._write(block)
        if into_BV is not None:
            if self.masked:  # whatever such a row holds, also NaN
                dead_B = soft_B == 0 if hard_B is None else (hard_B == 0) & (soft_B == 0)
                gradient_BV.masked_fill_(dead_B[:, None], 0.0)
            if gradient_BV is not into_BV:
                into_BV.copy_(gradient_BV)
        return losses

    def _write(self, block: Block) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """total, L1, L2 and its floor; L1 and L2 are 0 where they have no part."""
        none_B, hard_B, hard_weight_B = torch.zeros_like(block.soft_B), None, block.hard_B
        if self.soft is None:
            hard_weight_B = none_B if hard_weight_B is None else hard_weight_B
            hard_B = write_hard(block, hard_weight_B)
            return self._weighted(hard_weight_B, hard_B), hard_B, none_B, none_B
        if hard_weight_B is None or self.soft.takes_hard:
            values = self.soft.write(block)
            hard_B = values.hard
        else:
            beside = block.beside("hard", hard_B=None, soft_B=block.soft_B)
            hard_B = write_hard(beside, hard_weight_B)
            values = self.soft.write(replace(block, hard_B=None))
            block.gradient_BV.add_(beside.gradient_BV)
        total_B = self._weighted(block.soft_B, values.soft)
        if hard_weight_B is None or hard_B is None:
            return total_B, none_B, values.soft, values.floor
        return self._weighted(hard_weight_B, hard_B) + total_B, hard_B, values.soft, values.floor

    def _weighted(self, weight_B: Tensor, loss_B: Tensor) -> Tensor:
        """Weighted losses; a weight of 0 hides also a loss that is not finite."""
        weighted_B = weight_B * loss_B
        return torch.where(weight_B == 0, 0.0, weighted_B) if self.gaps else weighted_B


def plan(
    logits_shape: tuple[int, int],
    targets: Targets | Mixture | None,
    labels_R: Tensor,
    distance: Distance,
    facts: Facts,
    *,
    hard_R: Tensor | None,
    soft_R: Tensor,
) -> Work:
    """Check what is to be computed; nothing is asked of the device.

    Args:
        logits_shape: rows and classes of the student.
        targets: the teacher's rows; null where L2 has no part.
        labels_R: int64, gold classes or `IGNORE`.
        distance: of the student from the teacher.
        facts: of the rows.
        hard_R, soft_R: factors of each row's L1 (0 without a label; null for no L1) and L2, in the dtype of the work.

    Raises:
        IncompatibleTargets: rows or classes of student, teacher and labels that do not fit each other.
    """
    check(logits_shape, targets, labels_R, facts, hard=hard_R is not None)
    last = max(facts.width - 1, 0)  # whatever label comes, a kernel stays in its row
    labels_R = torch.zeros_like(labels_R) if hard_R is None else labels_R.clamp(min=0, max=last)
    classes_R = None
    if facts.ragged:
        classes_R = torch.full_like(labels_R, facts.width) if targets is None else targets.num_classes_R.to(labels_R)
    launcher = None
    if gpu.usable(labels_R.device) and soft_R.dtype == torch.float32:
        rows = gpu_loss.Rows.of(labels_R, hard_R, soft_R, classes_R, facts, distance)
        launcher = gpu_loss.prepare(targets, distance, rows)
    soft = None
    if launcher is None and targets is not None and logits_shape[0]:
        soft = prepare(targets, distance, soft_R.dtype, facts)
    return Work(
        labels_R=labels_R,
        hard_R=hard_R,
        soft_R=soft_R,
        soft=soft,
        classes_R=classes_R,
        width=facts.width,
        masked=facts.fillers or (targets is None and facts.unlabelled),
        gaps=facts.fillers or (hard_R is not None and facts.unlabelled),
        launcher=launcher,
    )


def check(
    logits_shape: tuple[int, int], targets: Targets | Mixture | None, labels_R: Tensor, facts: Facts, *, hard: bool
) -> None:
    """Refuse rows, classes and labels that do not fit each other.

    Args:
        logits_shape: rows and classes of the student.
        targets: the teacher's rows; null where L2 has no part.
        labels_R: int64, gold classes or `IGNORE`.
        facts: of the rows.
        hard: L1 has a part.

    Raises:
        IncompatibleTargets: they do not.
    """
    num_rows, width = logits_shape
    num_labels = labels_R.shape[0]
    num_targets = num_labels if targets is None else targets.num_classes_R.shape[0]
    if not num_rows == num_targets == num_labels:
        raise IncompatibleTargets(
            f"{num_rows} student rows meet {num_targets} teacher rows and {num_labels} labels; "
            f"take the student's logits at the rows of the batch"
        )
    if width < facts.width:
        raise IncompatibleTargets(
            f"the student has {width:,} classes and the teacher {facts.width:,}; give the student the teacher's labels"
        )
    if facts.wrong_label and hard:
        raise IncompatibleTargets(f"{facts.wrong_label}; check the labels, or mark rows without one by {IGNORE}")


def _columns(values_RV: Tensor, width: int) -> Tensor:
    return values_RV if values_RV.shape[1] == width else values_RV[:, :width]
