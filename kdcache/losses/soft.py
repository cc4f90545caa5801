"""The teacher's side of a loss, by store: sparse rows, hidden vectors with a head, mixtures.

B rows of a block  V classes
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from kdcache.losses import divergence
from kdcache.losses.blocks import Block, Soft, Values, masked
from kdcache.losses.divergence import Distance
from kdcache.losses.facts import Facts
from kdcache.losses.sparse import SparseSoftmax, SparseSquared
from kdcache.losses.targets import HiddenTargets, Mixture, Targets
from kdcache.losses.whole import WholeSoftmax


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
        if t_BV.shape[1] < width:  # more columns than any row has classes; `valid_BV` hides them
            t_BV = functional.pad(t_BV, (0, width - t_BV.shape[1]))
        s_BV = block.logits_BV / tau_s
        if self._distance.loss == "mse":
            classes_B = self._targets.num_classes_R[block.rows].to(self._dtype)
            difference_BV = masked(s_BV - t_BV, block.valid_BV, 0.0)
            loss_B = difference_BV.square().sum(dim=1) / classes_B
            slope_B = block.soft_B * 2 / (classes_B * tau_s)
            torch.mul(difference_BV, slope_B[:, None], out=block.gradient_BV)
            return Values(hard=None, soft=loss_B, floor=torch.zeros_like(loss_B))
        log_p_BV = torch.log_softmax(masked(t_BV, block.valid_BV, -torch.inf), dim=1)
        log_q_BV = torch.log_softmax(masked(s_BV, block.valid_BV, -torch.inf), dim=1)
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


def prepare(targets: Targets | Mixture, distance: Distance, dtype: torch.dtype, facts: Facts) -> Soft:
    """What the teacher's rows need once, before the blocks."""
    if isinstance(targets, Mixture):
        first, second = (prepare(part, distance, dtype, facts) for part in (targets.first, targets.second))
        return MixedRows(first, second, targets.weight)
    if isinstance(targets, HiddenTargets):
        return HiddenRows(targets, distance, dtype)
    if distance.loss == "mse":
        return SparseSquared(targets, distance, dtype)
    if not facts.has_tail:
        return WholeSoftmax(targets, distance, dtype, facts)
    return SparseSoftmax(targets, distance, dtype)
