"""L1 and L2 of a block of rows: the value, and the gradient written into a buffer while the block is in cache.

What differs between stores is how a teacher's rows meet the student's logits; each has a class here. Formulas are in
`divergence`, the walk over blocks in `kernel`.

B rows of a block  V classes  K kept  J entries
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from kdcache.losses import divergence
from kdcache.losses.divergence import Distance
from kdcache.losses.targets import HiddenTargets, Mixture, SparseTargets, Targets


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

    def softmax(self, tau: float) -> tuple[Tensor, Tensor]:
        """Write softmax(s / tau) to the gradient's place; its log-sum-exp [B] and the tempered logits [B, V]."""
        source_BV = self.logits_BV
        if self.valid_BV is not None:
            source_BV = self.scratch.get("tempered", len(self.labels_B))
            torch.where(self.valid_BV, self.logits_BV, -torch.inf, out=source_BV).mul_(1 / tau)
        elif tau != 1 or self.gradient_BV.data_ptr() == self.logits_BV.data_ptr():
            source_BV = torch.mul(self.logits_BV, 1 / tau, out=self.scratch.get("tempered", len(self.labels_B)))
        torch.softmax(source_BV, dim=1, out=self.gradient_BV)
        # The largest probability is at least 1/V, so its logarithm is exact; a second pass over exponentials is not.
        return source_BV.amax(dim=1) - self.gradient_BV.amax(dim=1).log(), source_BV

    def gold(self) -> Tensor:
        """Logits of the gold classes, [B]."""
        return self.logits_BV.gather(1, self.labels_B[:, None])[:, 0]

    def beside(self, buffer: str, *, hard_B: Tensor | None, soft_B: Tensor) -> Block:
        """The same rows with a gradient of its own and other factors."""
        return replace(self, gradient_BV=self.scratch.get(buffer, len(self.labels_B)), hard_B=hard_B, soft_B=soft_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Losses of a block, [B] each, unweighted; `floor` is the smallest value L2 can take: the entropy for CE, else 0."""

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
    gold_B = block.gold()
    lse_B, _ = block.softmax(1.0)
    block.gradient_BV.mul_(weight_B[:, None])
    block.gradient_BV.scatter_add_(1, block.labels_B[:, None], -weight_B[:, None])
    return lse_B - gold_B


class SparseSoftmax:
    """CE, reverse KL and JSD against sparse rows: softmax, gathers and row sums, one exponential a class."""

    def __init__(self, targets: SparseTargets, distance: Distance, dtype: torch.dtype, *, has_tail: bool) -> None:
        self._tau = distance.tau_s
        self._formula = distance.formula()
        self._uniform = distance.loss == "ce" and distance.tail == "uniform" and has_tail
        self._targets = targets
        self._log_p_RK, self._log_M_R = divergence.teacher_distribution(targets, tau_t=distance.tau_t, dtype=dtype)
        self._floor_R = torch.zeros_like(self._log_M_R)
        if distance.loss == "ce":
            self._floor_R = divergence.entropy(targets, tau_t=distance.tau_t, tail=distance.tail).to(dtype)
        self.takes_hard = self._tau == 1

    def write(self, block: Block) -> Values:
        """See `Soft`."""
        ids_BK, log_p_BK = self._targets.ids_RK[block.rows], self._log_p_RK[block.rows]
        kept_BK = torch.isfinite(log_p_BK)
        gold_B = None if block.hard_B is None else block.gold()
        tempered_BK = block.logits_BV.gather(1, ids_BK) / self._tau
        total_B = _row_sums(block) if self._uniform else None
        lse_B, source_BV = block.softmax(self._tau)
        log_q_BK = torch.where(kept_BK, tempered_BK - lse_B[:, None], -torch.inf)
        if total_B is not None:
            tail_B = total_B / self._tau - torch.where(kept_BK, tempered_BK, 0.0).sum(dim=1)
            soft_B = self._write_uniform(block, log_p_BK.exp(), torch.where(kept_BK, log_q_BK, 0.0), tail_B, lse_B)
        else:
            soft_B = self._write_bucket(block, kept_BK, log_q_BK, source_BV, lse_B)
        if block.hard_B is None or gold_B is None:
            return Values(hard=None, soft=soft_B, floor=self._floor_R[block.rows])
        block.gradient_BV.scatter_add_(1, block.labels_B[:, None], -block.hard_B[:, None])
        return Values(hard=lse_B - gold_B, soft=soft_B, floor=self._floor_R[block.rows])

    def _write_uniform(self, block: Block, p_BK: Tensor, log_q_BK: Tensor, tail_B: Tensor, lse_B: Tensor) -> Tensor:
        """- sum_S p log q - M mean_{v in tail} log q_v; the gradient is (q - p^) / tau."""
        size_B = (self._targets.num_classes_R - self._targets.num_kept_R)[block.rows].to(tail_B.dtype)
        mass_B = self._log_M_R[block.rows].exp()  # 0 where there is no tail
        share_B = mass_B / size_B.clamp(min=1)
        loss_B = -(p_BK * log_q_BK).sum(dim=1) - share_B * (tail_B - size_B * lse_B)
        slope_B = block.soft_B / self._tau
        scale_B = slope_B * (p_BK.sum(dim=1) + mass_B)
        if block.hard_B is not None:
            scale_B = scale_B + block.hard_B
        # Two passes: `addcmul` with broadcast factors is not vectorised and takes four times as long as both.
        block.gradient_BV.mul_(scale_B[:, None]).sub_((slope_B * share_B)[:, None])
        if block.valid_BV is not None:
            block.gradient_BV.masked_fill_(~block.valid_BV, 0.0)
        ids_BK = self._targets.ids_RK[block.rows]
        change_BK = slope_B[:, None] * (share_B[:, None] - p_BK)
        kept_BK = torch.isfinite(self._log_p_RK[block.rows])
        block.gradient_BV.scatter_add_(1, ids_BK, torch.where(kept_BK, change_BK, 0.0))
        return loss_B

    def _write_bucket(
        self, block: Block, kept_BK: Tensor, log_q_BK: Tensor, source_BV: Tensor, lse_B: Tensor
    ) -> Tensor:
        """Any divergence over the kept classes and one bucket; the bucket's gradient goes to its classes by q."""
        ids_BK = self._targets.ids_RK[block.rows]
        own_BK = torch.where(kept_BK, ids_BK, ids_BK[:, :1])  # padding points at a class that is kept anyway
        mass_B, log_mass_B = self._student_tail(block, own_BK, source_BV, lse_B)
        log_p_BJ = torch.cat([self._log_p_RK[block.rows], self._log_M_R[block.rows, None]], dim=1)
        loss_B, slope_BJ = self._formula(log_p_BJ, torch.cat([log_q_BK, log_mass_B[:, None]], dim=1))
        slope_BJ = slope_BJ * (block.soft_B / self._tau)[:, None]
        scale_B, kept_slope_BK = slope_BJ[:, -1], slope_BJ[:, :-1]
        if block.hard_B is not None:
            scale_B = scale_B + block.hard_B * log_mass_B.exp()
            kept_slope_BK = kept_slope_BK + block.hard_B[:, None] * log_q_BK.exp()
        block.gradient_BV.mul_(torch.where(mass_B > 0, scale_B / mass_B, 0.0)[:, None])
        block.gradient_BV.scatter_add_(1, ids_BK, torch.where(kept_BK, kept_slope_BK, 0.0))
        return loss_B

    def _student_tail(
        self, block: Block, own_BK: Tensor, source_BV: Tensor, lse_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Leave the tail's probabilities in the gradient's place; their sum there, and the log of the student's mass.

        Summed, not `1 - sum_S q`, which would cancel. A mass near underflow is normalised by itself.
        """
        block.gradient_BV.scatter_(1, own_BK, 0.0)
        mass_B = block.gradient_BV.sum(dim=1)
        log_mass_B = mass_B.log()
        has_tail_B = (self._targets.num_classes_R > self._targets.num_kept_R)[block.rows]
        tiny_B = has_tail_B & (mass_B < torch.finfo(mass_B.dtype).tiny * 1e13)
        if bool(tiny_B.any()):
            tail_TV = source_BV[tiny_B].scatter_(1, own_BK[tiny_B], -torch.inf)
            log_mass_B[tiny_B] = torch.logsumexp(tail_TV, dim=1) - lse_B[tiny_B]
            block.gradient_BV[tiny_B] = torch.softmax(tail_TV, dim=1)
            mass_B[tiny_B] = 1.0
        return mass_B, log_mass_B


class SparseSquared:
    """Mean over classes of the squared difference of tempered logits.

        (1/V) [ sum_S (t/tau_t - s/tau_s)^2 + sum_tail (m - s/tau_s)^2 + n_tail var / tau_t^2 ]
        m = (tail mean + lse) / tau_t

    Exact at k = V; with a tail it leaves out `-(2/V) sum_tail (s/tau_s)(t/tau_t - m)`, so it is approximate there.
    """

    takes_hard = False

    def __init__(self, targets: SparseTargets, distance: Distance, dtype: torch.dtype) -> None:
        self._tau = distance.tau_s
        self._targets = targets
        self._t_RK = (targets.logprobs_RK.to(dtype) + targets.lse_R.to(dtype)[:, None]) / distance.tau_t
        self._mean_R = (targets.moments_R2[:, 0].to(dtype) + targets.lse_R.to(dtype)) / distance.tau_t
        size_R = (targets.num_classes_R - targets.num_kept_R).to(dtype)
        self._rest_R = size_R * targets.moments_R2[:, 1].to(dtype) / distance.tau_t**2

    def write(self, block: Block) -> Values:
        """See `Soft`."""
        ids_BK, t_BK = self._targets.ids_RK[block.rows], self._t_RK[block.rows]
        kept_BK = torch.isfinite(t_BK)
        classes_B = self._targets.num_classes_R[block.rows].to(t_BK.dtype)
        own_BK = torch.where(kept_BK, ids_BK, ids_BK[:, :1])
        difference_BK = block.logits_BV.gather(1, own_BK) / self._tau - torch.where(kept_BK, t_BK, t_BK[:, :1])
        gradient_BV = block.gradient_BV
        torch.add(-self._mean_R[block.rows, None], block.logits_BV, alpha=1 / self._tau, out=gradient_BV)
        gradient_BV.scatter_(1, own_BK, difference_BK)
        if block.valid_BV is not None:
            gradient_BV.masked_fill_(~block.valid_BV, 0.0)
        squares_BV = torch.mul(gradient_BV, gradient_BV, out=block.scratch.get("squares", len(classes_B)))
        loss_B = (squares_BV.sum(dim=1) + self._rest_R[block.rows]) / classes_B
        gradient_BV.mul_((block.soft_B * 2 / (classes_B * self._tau))[:, None])
        return Values(hard=None, soft=loss_B, floor=torch.zeros_like(loss_B))


class HiddenRows:
    """Any divergence against a teacher whose logits are recomputed through its head, a block at a time."""

    takes_hard = False

    def __init__(self, targets: HiddenTargets, distance: Distance, dtype: torch.dtype) -> None:
        self._targets, self._distance, self._dtype = targets, distance, dtype

    def write(self, block: Block) -> Values:
        """See `Soft`."""
        tau_t, tau_s = self._distance.tau_t, self._distance.tau_s
        width = block.logits_BV.shape[1]
        t_BV = self._targets.head.logits(self._targets.hidden_RD[block.rows].to(self._dtype))[:, :width] / tau_t
        s_BV = block.logits_BV / tau_s
        if self._distance.loss == "mse":
            classes_B = self._targets.num_classes_R[block.rows].to(self._dtype)
            difference_BV = _masked(s_BV - t_BV, block.valid_BV, 0.0)
            loss_B = difference_BV.square().sum(dim=1) / classes_B
            slope_B = block.soft_B * 2 / (classes_B * tau_s)
            torch.mul(difference_BV, slope_B[:, None], out=block.gradient_BV)
            return Values(hard=None, soft=loss_B, floor=torch.zeros_like(loss_B))
        log_p_BV = torch.log_softmax(_masked(t_BV, block.valid_BV, -torch.inf), dim=1)
        log_q_BV = torch.log_softmax(_masked(s_BV, block.valid_BV, -torch.inf), dim=1)
        loss_B, slope_BV = self._distance.formula()(log_p_BV, log_q_BV)
        torch.mul(slope_BV, (block.soft_B / tau_s)[:, None], out=block.gradient_BV)
        is_ce = self._distance.loss == "ce"
        floor_B = -divergence.negative_entropy(log_p_BV) if is_ce else torch.zeros_like(loss_B)
        return Values(hard=None, soft=loss_B, floor=floor_B)


class MixedRows:
    """`w` times one teacher's cross-entropy and `1 - w` times another's."""

    takes_hard = False

    def __init__(self, first: Soft, second: Soft, weight: float) -> None:
        self._first, self._second, self._weight = first, second, weight

    def write(self, block: Block) -> Values:
        """See `Soft`."""
        w = self._weight
        first = block.beside("first", hard_B=None, soft_B=block.soft_B * w)
        one = self._first.write(first)
        two = self._second.write(replace(block, hard_B=None, soft_B=block.soft_B * (1 - w)))
        block.gradient_BV.add_(first.gradient_BV)
        soft_B, floor_B = w * one.soft + (1 - w) * two.soft, w * one.floor + (1 - w) * two.floor
        return Values(hard=None, soft=soft_B, floor=floor_B)


def prepare(targets: Targets | Mixture, distance: Distance, dtype: torch.dtype, *, has_tail: bool) -> Soft:
    """What the teacher's rows need once, before the blocks."""
    if isinstance(targets, Mixture):
        first, second = (prepare(part, distance, dtype, has_tail=has_tail) for part in (targets.first, targets.second))
        return MixedRows(first, second, targets.weight)
    if isinstance(targets, HiddenTargets):
        return HiddenRows(targets, distance, dtype)
    if distance.loss == "mse":
        return SparseSquared(targets, distance, dtype)
    return SparseSoftmax(targets, distance, dtype, has_tail=has_tail)


def _row_sums(block: Block) -> Tensor:
    """Sum of the student's logits over a row's own classes, [B]."""
    return _masked(block.logits_BV, block.valid_BV, 0.0).sum(dim=1)


def _masked(values_BV: Tensor, valid_BV: Tensor | None, fill: float) -> Tensor:
    return values_BV if valid_BV is None else torch.where(valid_BV, values_BV, fill)
