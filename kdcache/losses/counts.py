"""Who takes part in which mean of a micro-batch, and what the sums are divided by.

R rows
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.core.types import IGNORE

Count = int | Tensor
"""Rows of a whole step: a number, or one on the device, which a CUDA graph reads anew in each replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Who takes part in which mean, float32 [R], and what the sums are divided by.

    Attributes:
        weights_R: 0 for rows of fillers, 1 otherwise.
        labelled_R: 1 for rows with a label that are no fillers.
        num_rows: the denominator of L2, at least 1; a tensor is float64, shape [].
        num_labels: the denominator of L1, likewise.
    """

    weights_R: Tensor
    labelled_R: Tensor
    num_rows: Count
    num_labels: Count

    @classmethod
    def of(cls, labels_R: Tensor, weights_R: Tensor | None, num_rows: Count | None, num_labels: Count | None) -> Counts:
        """Counts of a batch; nothing is asked of the device.

        Args:
            labels_R: int64, gold classes or `IGNORE`.
            weights_R: 0 for fillers; null where there are none.
            num_rows: of the whole step, any number type; null for those of this batch.
            num_labels: likewise.
        """
        weights_R = torch.ones(len(labels_R), device=labels_R.device) if weights_R is None else weights_R
        labelled_R = (labels_R != IGNORE) * weights_R
        return cls(
            weights_R=weights_R,
            labelled_R=labelled_R,
            num_rows=_at_least_one(weights_R.sum(dtype=torch.float64) if num_rows is None else num_rows),
            num_labels=_at_least_one(labelled_R.sum(dtype=torch.float64) if num_labels is None else num_labels),
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


def mean(values_R: Tensor, weights_R: Tensor, count: Count) -> Tensor:
    """Weighted mean in the values' dtype; a weight of 0 hides also a value that is not finite."""
    return (torch.where(weights_R == 0, 0.0, values_R * weights_R).sum() / count).to(values_R.dtype)


def _at_least_one(count: Count) -> Count:
    return count.to(torch.float64).clamp(min=1) if isinstance(count, Tensor) else max(1, count)
