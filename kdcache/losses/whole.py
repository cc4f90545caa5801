"""A student's rows against rows that keep all their classes: both distributions over the kept ones, in their order.

B rows of a block  V classes  K kept
"""

from __future__ import annotations

import torch

from kdcache.losses import divergence
from kdcache.losses.blocks import Block, Values
from kdcache.losses.divergence import Distance
from kdcache.losses.facts import Facts
from kdcache.losses.targets import SparseTargets


class WholeSoftmax:
    """CE, reverse KL and JSD where no row has a tail; both tails of CE are then the same."""

    takes_hard = False

    def __init__(self, targets: SparseTargets, distance: Distance, dtype: torch.dtype, facts: Facts) -> None:
        self._tau, self._formula, self._ids_RK = distance.tau_s, distance.formula(), targets.ids_RK
        self._log_p_RK = torch.log_softmax(targets.logprobs_RK.to(dtype) / distance.tau_t, dim=1)
        self._padded = facts.ragged or facts.width != targets.ids_RK.shape[1]
        self._is_ce = distance.loss == "ce"

    def write(self, block: Block) -> Values:
        """See `Soft`."""
        ids_BK, log_p_BK = self._ids_RK[block.rows], self._log_p_RK[block.rows]
        tempered_BK = block.logits_BV.gather(1, ids_BK)
        if self._tau != 1:
            tempered_BK.div_(self._tau)
        slope_B = block.soft_B / self._tau
        if self._padded:
            none_BK = ~torch.isfinite(log_p_BK)
            loss_B, slope_BK = self._formula(log_p_BK, tempered_BK.masked_fill_(none_BK, -torch.inf).log_softmax(dim=1))
            change_BK = (slope_BK * slope_B[:, None]).masked_fill_(none_BK, 0.0)
            block.gradient_BV.zero_().scatter_add_(1, ids_BK, change_BK)
        else:  # each class is there once
            loss_B, slope_BK = self._formula(log_p_BK, tempered_BK.log_softmax(dim=1))
            block.gradient_BV.scatter_(1, ids_BK, slope_BK * slope_B[:, None])
        floor_B = -divergence.negative_entropy(log_p_BK) if self._is_ce else torch.zeros_like(loss_B)
        return Values(hard=None, soft=loss_B, floor=floor_B)
