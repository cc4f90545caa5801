"""The objective of the study: hard labels and a teacher's rows, mixed.

    L = (1 - alpha) mean_labels L1 + alpha scale mean_rows L2
    L1 = -log softmax(s)_y,   L2 = cross-entropy or squared error

The one place where `kd_scale` multiplies: loss and gradient agree.

R rows  V classes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kdcache.core.configuration import Configuration
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.types import IGNORE
from kdcache.losses import divergence
from kdcache.losses.rule import Tail
from kdcache.losses.targets import SparseTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The terms of one micro-batch, each a float32 scalar already divided by its denominator.

    Attributes:
        total: what is differentiated.
        hard: mean L1, before its weight 1 - alpha.
        soft: mean L2, before alpha and `kd_scale`.
    """

    total: Tensor
    hard: Tensor
    soft: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective(Configuration):
    """A configuration as a function of a student's logits.

    Example:
        >>> objective = Objective(teacher=None, alpha=0)
        >>> float(objective(torch.zeros(1, 2), None, torch.tensor([1])).total)
        0.6931471824645996
    """

    tail: Tail = "uniform"
    """How the mass beyond the kept classes is spread; `rule.judge` picks it. No effect on dense rows."""

    @classmethod
    def of(cls, configuration: Configuration, *, tail: Tail = "uniform") -> Objective:
        """The objective of a configuration."""
        names = ("teacher", "loss", "tau_t", "tau_s", "alpha", "kd_scale")
        return cls(**{name: getattr(configuration, name) for name in names}, tail=tail)

    def __call__(
        self,
        logits_RV: Tensor,
        targets: SparseTargets | None,
        labels_R: Tensor,
        *,
        weights_R: Tensor | None = None,
        num_rows: int | None = None,
        num_labels: int | None = None,
    ) -> Losses:
        """Loss of one micro-batch.

        Args:
            logits_RV: student logits, any float dtype; computed in float32.
            targets: teacher rows; null only with alpha = 0.
            labels_R: int64, gold classes, `IGNORE` (-100) where there is none.
            weights_R: 0 for rows of fillers, 1 otherwise.
            num_rows: rows with a teacher in the whole step over ranks and accumulation; default: of this batch.
            num_labels: rows with a label in the whole step; default: of this batch.

        Returns:
            The terms; sums over micro-batches and ranks are the step's means.

        Raises:
            IncompatibleTargets: alpha > 0 without targets, or classes that do not fit.
        """
        weights_R = torch.ones(len(labels_R), device=logits_RV.device) if weights_R is None else weights_R
        zero = logits_RV.float().sum() * 0.0  # keeps every rank's graph alive when a term is absent
        hard, soft = zero, zero
        if self.alpha < 1:
            labelled_R = (labels_R != IGNORE) * weights_R
            divisor = num_labels if num_labels is not None else max(1.0, float(labelled_R.sum()))
            loss_R = functional.cross_entropy(logits_RV.float(), labels_R, ignore_index=IGNORE, reduction="none")
            hard = (loss_R * labelled_R).sum() / max(1, divisor)
        if self.alpha > 0:
            if targets is None:
                raise IncompatibleTargets(f"alpha = {self.alpha:g} needs teacher rows; open the cache with a teacher")
            divisor = num_rows if num_rows is not None else max(1.0, float(weights_R.sum()))
            soft = (self.rows(logits_RV, targets) * weights_R).sum() / max(1, divisor)
        return Losses(total=(1 - self.alpha) * hard + self.alpha * self.scale * soft, hard=hard, soft=soft)

    def rows(self, logits_RV: Tensor, targets: SparseTargets) -> Tensor:
        """L2 of each row, unreduced and unscaled, [R]."""
        tau_s = self.student_temperature
        if self.loss == "mse":
            return divergence.squared_error(logits_RV, targets, tau_t=self.tau_t, tau_s=tau_s)
        return divergence.cross_entropy(logits_RV, targets, tau_t=self.tau_t, tau_s=tau_s, tail=self.tail)
