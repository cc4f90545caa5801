"""A student's rows against sparse ones: softmax, gathers at the kept classes, row sums for the tail.

B rows of a block  V classes  K kept  J entries
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdcache.losses import divergence
from kdcache.losses.blocks import Block, Values, masked, may_look
from kdcache.losses.divergence import Distance
from kdcache.losses.targets import SparseTargets


class SparseSoftmax:
    """CE, reverse KL and JSD against sparse rows: softmax, gathers and row sums, one exponential a class."""

    def __init__(self, targets: SparseTargets, distance: Distance, dtype: torch.dtype) -> None:
        self._tau = distance.tau_s
        self._formula = distance.formula()
        self._uniform = distance.loss == "ce" and distance.tail == "uniform"
        self._targets = targets
        self._log_p_RK, self._log_M_R = divergence.teacher_distribution(targets, tau_t=distance.tau_t, dtype=dtype)
        self._floor_R = torch.zeros_like(self._log_M_R)
        if distance.loss == "ce":
            size_R = targets.num_classes_R - targets.num_kept_R
            self._floor_R = divergence.entropy_of(self._log_p_RK, self._log_M_R, size_R, tail=distance.tail)
        self.takes_hard = self._tau == 1

    def write(self, block: Block) -> Values:
        """See `Soft`."""
        ids_BK, log_p_BK = self._targets.ids_RK[block.rows], self._log_p_RK[block.rows]
        kept_BK = torch.isfinite(log_p_BK)
        gold_B = None if block.hard_B is None else block.gold()
        tempered_BK = block.logits_BV.gather(1, ids_BK) / self._tau
        total_B = _row_sums(block) if self._uniform else None
        lse_B, source_BV = block.softmax(self._tau, ids_BK)
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

    def _student_tail(self, block: Block, own_BK: Tensor, source_BV: Tensor, lse_B: Tensor) -> tuple[Tensor, Tensor]:
        """Leave the tail's probabilities in the gradient's place; their sum there, and the log of the student's mass.

        Summed, not `1 - sum_S q`, which would cancel. A mass near underflow is normalised by itself.
        """
        has_tail_B = (self._targets.num_classes_R > self._targets.num_kept_R)[block.rows]
        if not may_look(source_BV):  # each row by itself, as if all were tiny
            tail_BV = source_BV.scatter(1, own_BK, -torch.inf).masked_fill_(~has_tail_B[:, None], 0.0)
            log_mass_B = torch.logsumexp(tail_BV, dim=1) - lse_B
            torch.softmax(tail_BV, dim=1, out=block.gradient_BV)
            return has_tail_B.to(lse_B.dtype), log_mass_B.masked_fill(~has_tail_B, -torch.inf)
        block.gradient_BV.scatter_(1, own_BK, 0.0)
        mass_B = block.gradient_BV.sum(dim=1)
        log_mass_B = mass_B.log()
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


def _row_sums(block: Block) -> Tensor:
    """Sum of the student's logits over a row's own classes, [B]."""
    return masked(block.logits_BV, block.valid_BV, 0.0).sum(dim=1)
