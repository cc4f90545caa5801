"""The objective of the study: hard labels and a teacher's rows, mixed.

    L = (1 - alpha) mean_labels L1 + alpha scale mean_rows L2
    L1 = -log softmax(s)_y,   L2 = cross-entropy, squared error, reverse KL or Jensen-Shannon divergence

The one place where `kd_scale` multiplies: loss and gradient agree.

R rows  V classes  D hidden size
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from kdcache.core.configuration import Configuration
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.types import IGNORE
from kdcache.losses import autograd, fused, gpu, precision
from kdcache.losses import facts as finding
from kdcache.losses import work as working
from kdcache.losses.blocks import FEW_ELEMENTS, may_look
from kdcache.losses.counts import Count, Counts, spread
from kdcache.losses.divergence import Distance
from kdcache.losses.facts import Facts
from kdcache.losses.head import Head
from kdcache.losses.rule import Tail
from kdcache.losses.targets import Mixture, Targets
from kdcache.losses.work import RowLosses, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The terms of one micro-batch, each a scalar already divided by its denominator.

    Attributes:
        total: what is differentiated; the others are for reports.
        hard: mean L1, before its weight 1 - alpha.
        soft: mean L2, before alpha and `kd_scale`.
        kl: mean L2 above the smallest value it can take: for `ce` the KL divergence of the teacher from the student,
            for the other losses L2 itself.
    """

    total: Tensor
    hard: Tensor
    soft: Tensor
    kl: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective(Configuration):
    """A configuration as a function of a student's logits.

    Example:
        >>> objective = Objective(teacher=None, alpha=0)
        >>> round(float(objective(torch.zeros(1, 2), None, torch.tensor([1])).total), 6)
        0.693147
    """

    tail: Tail = "uniform"
    """How CE spreads the mass beyond the kept classes; `rule.judge` picks it. No effect on dense rows."""

    @classmethod
    def of(cls, configuration: Configuration, *, tail: Tail = "uniform") -> Objective:
        """The objective of a configuration."""
        return cls(**{f.name: getattr(configuration, f.name) for f in fields(Configuration)}, tail=tail)

    def __call__(
        self,
        logits_RV: Tensor,
        targets: Targets | Mixture | None,
        labels_R: Tensor,
        *,
        weights_R: Tensor | None = None,
        num_rows: Count | None = None,
        num_labels: Count | None = None,
        facts: Facts | None = None,
        in_place: bool = False,
    ) -> Losses:
        """Loss of one micro-batch.

        Args:
            logits_RV: student logits, any float dtype; computed in float32 (float64 if they are).
            targets: teacher rows; null only with alpha = 0. Both means then run over a row's own classes.
            labels_R: int64, gold classes, `IGNORE` (-100) where there is none.
            weights_R: 0 for rows of fillers, 1 otherwise; not looked at where the facts know of no fillers.
            num_rows: rows with a teacher in the whole step over ranks and accumulation, as a number or as a tensor on
                the logits' device, shape []; 0 counts as 1; default: of this batch.
            num_labels: rows with a label in the whole step, likewise.
            facts: of exactly these labels, weights and targets, as kdcache's batches bring them; default: they are
                looked for, which waits for the device. With them nothing waits, and nothing is copied from the host.
            in_place: the logits are not needed again and may become their own gradient, which saves [R, V].

        Returns:
            The terms; sums over micro-batches and ranks are the step's means.

        Raises:
            IncompatibleTargets: alpha > 0 without targets, or rows, classes and labels that do not fit.

        Autocast has no effect inside: what is computed in float32 stays so.
        """
        dtype = torch.float64 if logits_RV.dtype == torch.float64 else torch.float32
        shape = (logits_RV.shape[0], logits_RV.shape[1])
        with precision.as_written(logits_RV.device):
            facts = facts or self._look(shape, targets, labels_R, weights_R)
            counts = Counts.of(labels_R, weights_R, num_rows, num_labels, facts)
            if self._is_plain(logits_RV, counts, facts):
                working.check(shape, None, labels_R, facts, hard=True)
                return _plain(logits_RV.to(dtype), labels_R, counts)
            unit = self._unit(counts, logits_RV.dtype)
            work = self._plan(shape, targets, labels_R, counts, facts, unit=unit, dtype=dtype)
            return self._sums(autograd.row_losses(logits_RV, work, in_place=in_place, summed=True), counts, unit=unit)

    def from_hidden(
        self,
        hidden_RD: Tensor,
        head: Head,
        targets: Targets | Mixture | None,
        labels_R: Tensor,
        *,
        weights_R: Tensor | None = None,
        num_rows: Count | None = None,
        num_labels: Count | None = None,
        facts: Facts | None = None,
        compute: torch.dtype | None = None,
    ) -> Losses:
        """The same loss from what enters the student's output head; [R, V] is never held.

        Args:
            hidden_RD: student hidden vectors; they get their gradient in their own dtype.
            head: of the student; its weight and bias may require gradients, which are summed in float32 (float64 if the
                vectors are) and rounded to their own dtype at the end: float32 ones are not rounded.
            targets: as in a call; so are the others.
            labels_R: gold classes.
            weights_R: 0 for rows of fillers.
            num_rows: rows with a teacher in the whole step.
            num_labels: rows with a label in the whole step.
            facts: of the rows.
            compute: dtype of the products and of the logits; vectors and weight are copied into it where they have
                another one, so a float32 head is multiplied in bfloat16, as under autocast. Default: that of vectors.

        Raises:
            IncompatibleTargets: as in a call.
        """
        compute = hidden_RD.dtype if compute is None else compute
        dtype = torch.float64 if compute == torch.float64 else torch.float32
        shape = (hidden_RD.shape[0], head.num_classes)
        with precision.as_written(hidden_RD.device):
            facts = facts or self._look(shape, targets, labels_R, weights_R)
            counts = Counts.of(labels_R, weights_R, num_rows, num_labels, facts)
            unit = self._unit(counts, compute)
            work = self._plan(shape, targets, labels_R, counts, facts, unit=unit, dtype=dtype)
            return self._sums(fused.head_losses(hidden_RD, head, work, compute=compute), counts, unit=unit)

    def rows(self, logits_RV: Tensor, targets: Targets | Mixture) -> Tensor:
        """L2 of each row, unreduced and unscaled, [R]."""
        with precision.as_written(logits_RV.device):
            return self._rows(logits_RV, targets).total

    def above_floor(self, logits_RV: Tensor, targets: Targets | Mixture) -> Tensor:
        """L2 of each row above the smallest value it can take, [R], as in `Losses.kl`; it has no gradient."""
        with precision.as_written(logits_RV.device):
            losses = self._rows(logits_RV.detach(), targets)
        return losses.soft - losses.floor

    def _rows(self, logits_RV: Tensor, targets: Targets | Mixture) -> RowLosses:
        dtype = torch.float64 if logits_RV.dtype == torch.float64 else torch.float32
        ones_R = torch.ones(len(logits_RV), dtype=dtype, device=logits_RV.device)
        none_R = torch.full((len(logits_RV),), IGNORE, device=logits_RV.device)
        distance, shape = Distance.of(self, tail=self.tail), (logits_RV.shape[0], logits_RV.shape[1])
        facts = self._look(shape, targets, none_R, None)
        work = working.plan(shape, targets, none_R, distance, facts, hard_R=None, soft_R=ones_R)
        return autograd.row_losses(logits_RV, work)

    def _is_plain(self, logits_RV: Tensor, counts: Counts, facts: Facts) -> bool:
        """Whether these are hard labels in their simplest form, and so few logits that PyTorch's function is best."""
        simple = self.alpha == 0 and not counts.gaps and not facts.ragged and facts.width == logits_RV.shape[1]
        few = logits_RV.numel() <= FEW_ELEMENTS and may_look(logits_RV) and not gpu.usable(logits_RV.device)
        return simple and few and logits_RV.dtype != torch.float16

    def _plan(
        self,
        shape: tuple[int, int],
        targets: Targets | Mixture | None,
        labels_R: Tensor,
        counts: Counts,
        facts: Facts,
        *,
        unit: float | Tensor,
        dtype: torch.dtype,
    ) -> Work:
        if self.alpha > 0 and targets is None:
            raise IncompatibleTargets(f"alpha = {self.alpha:g} needs teacher rows; open the cache with a teacher")
        hard_R = None
        if self.alpha < 1:
            hard_R = spread(counts.labelled_R, (1 - self.alpha) / counts.num_labels / unit, labels_R, dtype)
        factor = self.alpha * self.scale / counts.num_rows / unit
        return working.plan(
            shape,
            targets if self.alpha > 0 else None,
            labels_R,
            Distance.of(self, tail=self.tail),
            facts,
            hard_R=hard_R,
            soft_R=spread(counts.weights_R, factor, labels_R, dtype),
        )

    def _look(
        self, shape: tuple[int, int], targets: Targets | Mixture | None, labels_R: Tensor, weights_R: Tensor | None
    ) -> Facts:
        """Facts of rows that came without; rows that do not fit each other are left to the plan."""
        targets = targets if self.alpha > 0 else None
        if targets is not None and len(targets.num_classes_R) != len(labels_R):
            return Facts(width=0, ragged=False, unlabelled=False, fillers=False, has_tail=False)
        return finding.look(labels_R, weights_R, targets, width=shape[1])

    def _unit(self, counts: Counts, dtype: torch.dtype) -> float | Tensor:
        """What rows' factors are divided by before the gradient is made, and the sum multiplied by after.

        Half of float16's range would be lost to 1/rows.
        """
        if dtype != torch.float16:
            return 1.0
        return counts.unit(1 - self.alpha, self.alpha * self.scale, torch.float32)

    def _sums(self, losses: RowLosses, counts: Counts, *, unit: float | Tensor) -> Losses:
        """What is reported; `losses.total` is the sum over rows."""
        total = losses.total * unit if isinstance(unit, Tensor) or unit != 1 else losses.total
        hard, soft, kl = losses.hard.new_zeros(3).unbind() if not 0 < self.alpha < 1 else (total, total, total)
        if self.alpha < 1:
            hard = counts.mean(losses.hard, counts.labelled_R, counts.num_labels)
        if self.alpha > 0:
            soft = counts.mean(losses.soft, counts.weights_R, counts.num_rows)
            floor = counts.mean(losses.floor, counts.weights_R, counts.num_rows) if self.loss == "ce" else 0
            kl = soft - floor
        return Losses(total=total, hard=hard, soft=soft, kl=kl)


def _plain(logits_RV: Tensor, labels_R: Tensor, counts: Counts) -> Losses:
    """Hard labels alone, one for each row."""
    total = functional.cross_entropy(logits_RV, labels_R, reduction="sum") / counts.num_labels
    total = total if total.dtype == logits_RV.dtype else total.to(logits_RV.dtype)
    soft, kl = total.new_zeros(2).unbind()
    return Losses(total=total, hard=total.detach().clone(), soft=soft, kl=kl)
