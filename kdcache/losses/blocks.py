"""L1 and L2 of a block of rows: the value, and the gradient written into a buffer while the block is in cache.

What differs between stores is how a teacher's rows meet the student's logits; each has a class here. Formulas are in
`divergence`, the walk over blocks in `work`.

B rows of a block  V classes  K kept  J entries
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

FREE_TO_LOOK = {"cpu"}
"""Devices whose values can be looked at without waiting for them; there a look may save a pass over [B, V]."""
FEW_ELEMENTS = 1 << 14
"""Logits of a block of which a pass costs less than starting it; there the fewest operations are best."""


def may_look(tensor: Tensor) -> bool:
    """Whether a branch may depend on a tensor's values."""
    return tensor.device.type in FREE_TO_LOOK


class Scratch:
    """Buffers of one block's size, made when they are first needed and used for every block."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self._shape, self._dtype, self._device = shape, dtype, device
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, num_rows: int) -> Tensor:
        """A buffer [num_rows, V]; the same memory for the same name."""
        if name not in self._buffers:
            self._buffers[name] = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        return self._buffers[name][:num_rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows, and where their gradient goes.

    Attributes:
        rows: which rows of the targets.
        logits_BV: of the student, float32 or float64, cut to the widest row's classes. Not written, but for:
        gradient_BV: gets the gradient; may be the memory of `logits_BV`, so whoever writes it has read those before.
        valid_BV: true classes, where rows of the batch differ in V; else null.
        labels_B: gold classes, 0 where there is none.
        hard_B: factor of L1 in what is differentiated; 0 without a label. Null where L1 has no part.
        soft_B: factor of L2.
        scratch: of the walk.
    """

    rows: slice
    logits_BV: Tensor
    gradient_BV: Tensor
    valid_BV: Tensor | None
    labels_B: Tensor
    hard_B: Tensor | None
    soft_B: Tensor
    scratch: Scratch = field(repr=False)

    def softmax(self, tau: float, likely_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Write softmax(s / tau) to the gradient's place; its log-sum-exp [B] and the tempered logits [B, V].

        Args:
            tau: student temperature.
            likely_BK: some classes of each row. The log-sum-exp is logit minus log-probability of the best of them,
                exact wherever its probability is a normal number; that saves two passes over the block where values may
                be looked at.
        """
        source_BV, count = self.logits_BV, len(self.labels_B)
        if self.valid_BV is not None:
            source_BV = torch.mul(source_BV, 1 / tau, out=self.scratch.get("tempered", count))
            source_BV.masked_fill_(~self.valid_BV, -torch.inf)
        elif tau != 1 or self.gradient_BV.data_ptr() == source_BV.data_ptr():
            source_BV = torch.mul(source_BV, 1 / tau, out=self.scratch.get("tempered", count))
        torch.softmax(source_BV, dim=1, out=self.gradient_BV)
        if may_look(source_BV):
            best_B = self.gradient_BV.gather(1, likely_BK).amax(dim=1)
            if not bool((best_B < torch.finfo(best_B.dtype).tiny * 1e13).any()):
                return source_BV.gather(1, likely_BK).amax(dim=1) - best_B.log(), source_BV
        return source_BV.amax(dim=1) - self.gradient_BV.amax(dim=1).log(), source_BV

    def gold(self) -> Tensor:
        """Logits of the gold classes, [B]."""
        return self.logits_BV.gather(1, self.labels_B[:, None])[:, 0]

    def beside(self, buffer: str, *, hard_B: Tensor | None, soft_B: Tensor) -> Block:
        """The same rows with a gradient of its own and other factors."""
        return replace(self, gradient_BV=self.scratch.get(buffer, len(self.labels_B)), hard_B=hard_B, soft_B=soft_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Losses of a block, [B] each, unweighted; `floor` is the least that L2 can be: the entropy for CE, else 0."""

    hard: Tensor | None
    soft: Tensor
    floor: Tensor


class Soft(Protocol):
    """A teacher's rows against a student's.

    Attributes:
        takes_hard: `write` includes L1.
    """

    takes_hard: bool

    def write(self, block: Block) -> Values:
        """Write `hard_B` dL1/ds (if it takes L1) `+ soft_B` dL2/ds to the gradient."""
        ...


def write_hard(block: Block, weight_B: Tensor) -> Tensor:
    """L1 = - log softmax(s)_y, [B]; writes `weight_B` dL1/ds."""
    labels_B1, weight_B1 = block.labels_B.unsqueeze(1), weight_B.unsqueeze(1)
    if block.logits_BV.numel() <= FEW_ELEMENTS:
        log_q_BV = torch.log_softmax(masked(block.logits_BV, block.valid_BV, -torch.inf), dim=1)
        torch.exp(log_q_BV, out=block.gradient_BV)
        loss_B = log_q_BV.gather(1, labels_B1).squeeze(1).neg_()
    else:
        gold_B = block.gold()
        lse_B, _ = block.softmax(1.0, labels_B1)
        loss_B = lse_B - gold_B
    block.gradient_BV.mul_(weight_B1).scatter_add_(1, labels_B1, -weight_B1)
    return loss_B


def masked(values_BV: Tensor, valid_BV: Tensor | None, fill: float) -> Tensor:
    """The values of true classes, and `fill` elsewhere."""
    return values_BV if valid_BV is None else torch.where(valid_BV, values_BV, fill)
