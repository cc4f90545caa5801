"""Who takes part in which mean of a micro-batch, and what the sums are divided by.

R rows
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.core.types import IGNORE
from kdcache.losses.facts import Facts

Count = int | Tensor
"""Rows of a whole step: a number, or one on the device, which a CUDA graph reads anew in each replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Who takes part in which mean, and what the sums are divided by.

    Attributes:
        weights_R: 0 for rows of fillers, 1 otherwise, float32; null where it is 1 for all.
        labelled_R: 1 for rows with a label that are no fillers, float32; null where it is 1 for all.
        num_rows: the denominator of L2, at least 1; a tensor is float64, shape [].
        num_labels: the denominator of L1, likewise.
        gaps: some row may have no part in a mean; its loss may be anything.
    """

    weights_R: Tensor | None
    labelled_R: Tensor | None
    num_rows: Count
    num_labels: Count
    gaps: bool

    @classmethod
    def of(
        cls,
        labels_R: Tensor,
        weights_R: Tensor | None,
        num_rows: Count | None,
        num_labels: Count | None,
        facts: Facts,
    ) -> Counts:
        """Counts of a batch; nothing is asked of the device.

        Args:
            labels_R: int64, gold classes or `IGNORE`.
            weights_R: 0 for fillers; null where there are none.
            num_rows: of the whole step, any number type; null for those of this batch.
            num_labels: likewise.
            facts: of the rows.
        """
        labelled_R = weights_R = weights_R if facts.fillers else None
        if facts.unlabelled:
            is_labelled_R = labels_R != IGNORE
            labelled_R = is_labelled_R.float() if weights_R is None else is_labelled_R * weights_R
        return cls(
            weights_R=weights_R,
            labelled_R=labelled_R,
            num_rows=_at_least_one(_total(weights_R, labels_R) if num_rows is None else num_rows),
            num_labels=_at_least_one(_total(labelled_R, labels_R) if num_labels is None else num_labels),
            gaps=facts.fillers or facts.unlabelled,
        )

    def unit(self, hard: float, soft: float, dtype: torch.dtype) -> float | Tensor:
        """The larger of the two factors that a row's losses have.

        Args:
            hard: factor of L1's mean.
            soft: factor of L2's mean.
            dtype: of the result, where it is a tensor.
        """
        of_hard, of_soft = hard / self.num_labels, soft / self.num_rows
        if isinstance(of_hard, Tensor):
            return of_hard.clamp(min=of_soft).to(dtype)
        return of_soft.clamp(min=of_hard).to(dtype) if isinstance(of_soft, Tensor) else max(of_hard, of_soft)

    def mean(self, values_R: Tensor, weights_R: Tensor | None, count: Count) -> Tensor:
        """Weighted mean in the values' dtype; a weight of 0 hides also a value that is not finite."""
        if weights_R is not None:
            weighted_R = values_R * weights_R
            values_R = torch.where(weights_R == 0, 0.0, weighted_R) if self.gaps else weighted_R
        found = values_R.sum() / count
        return found if found.dtype == values_R.dtype else found.to(values_R.dtype)


def spread(weights_R: Tensor | None, factor: float | Tensor, like_R: Tensor, dtype: torch.dtype) -> Tensor:
    """A factor times each row's weight, in a dtype, [R].

    Args:
        weights_R: null for ones.
        factor: a number, or a tensor of shape [].
        like_R: any tensor of the rows, for their number and device.
        dtype: of the result.
    """
    if weights_R is not None:
        return (weights_R if weights_R.dtype == dtype else weights_R.to(dtype)) * factor
    if isinstance(factor, Tensor):
        return torch.ones(like_R.shape, dtype=dtype, device=like_R.device) * factor
    return torch.full(like_R.shape, factor, dtype=dtype, device=like_R.device)


def _total(weights_R: Tensor | None, labels_R: Tensor) -> Count:
    return labels_R.shape[0] if weights_R is None else weights_R.sum(dtype=torch.float64)


def _at_least_one(count: Count) -> Count:
    return count.to(torch.float64).clamp(min=1) if isinstance(count, Tensor) else max(1, count)
