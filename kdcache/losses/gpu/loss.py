"""Launches the kernels of `loss_kernels` over a batch's rows: which kernel, which rows, in what block sizes.

R rows  V classes  K kept  D hidden size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.losses.divergence import Distance
from kdcache.losses.facts import Facts
from kdcache.losses.gpu import INSTALLED
from kdcache.losses.targets import HiddenTargets, Mixture, SparseTargets, Targets

if INSTALLED:
    from kdcache.losses.gpu import loss_kernels as kernels

LARGEST_BLOCK = 8192
"""Classes that a program holds at a time: with 16 warps, 16 a thread. Half of it where a class takes more registers
(float32, two temperatures, squares): two small programs of an SM wait for each other's sums less than one large one."""
KEPT_BLOCK = 1024
"""Kept classes that a program holds at a time."""
LOOKUP = 2048
"""Pairs of a class and a kept one that a program compares at a time, where a tail has to be looked up."""
TEACHER_BYTES = 1 << 29
"""Logits of a teacher of store hidden that exist at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A batch's rows, and the factors of their losses.

    Attributes:
        labels_R: int64, 0 where there is none.
        hard_R: float32, factor of L1; null where no row has one.
        soft_R: float32, factor of L2.
        classes_R: int64, V of each row; null where rows do not differ in it.
        facts: of the rows.
        inverse_tau_t_R, inverse_tau_s_R: float32, 1 / temperature, row by row.
    """

    labels_R: Tensor
    hard_R: Tensor | None
    soft_R: Tensor
    classes_R: Tensor | None
    facts: Facts
    inverse_tau_t_R: Tensor
    inverse_tau_s_R: Tensor

    @classmethod
    def of(
        cls,
        labels_R: Tensor,
        hard_R: Tensor | None,
        soft_R: Tensor,
        classes_R: Tensor | None,
        facts: Facts,
        distance: Distance,
    ) -> Rows:
        """Rows that share their temperatures."""
        return cls(
            labels_R=labels_R,
            hard_R=hard_R,
            soft_R=soft_R,
            classes_R=None if classes_R is None else classes_R.contiguous(),
            facts=facts,
            inverse_tau_t_R=torch.full_like(soft_R, 1 / distance.tau_t),
            inverse_tau_s_R=torch.full_like(soft_R, 1 / distance.tau_s),
        )

    def part(self, rows: slice, *, share: float, with_hard: bool) -> Rows:
        """Some rows, with a share of L2's factor."""
        return Rows(
            labels_R=self.labels_R[rows],
            hard_R=self.hard_R[rows] if with_hard and self.hard_R is not None else None,
            soft_R=self.soft_R[rows] if share == 1 else self.soft_R[rows] * share,
            classes_R=None if self.classes_R is None else self.classes_R[rows],
            facts=self.facts,
            inverse_tau_t_R=self.inverse_tau_t_R[rows],
            inverse_tau_s_R=self.inverse_tau_s_R[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """What is to be computed of which rows; `run` computes some of them.

    Attributes:
        rows: all rows.
        teachers: their targets and each one's share of L2; empty for hard labels alone.
        mode: `none`, `uniform`, `bucket` or `mse`.
    """

    rows: Rows
    teachers: tuple[tuple[Targets, float], ...]
    mode: str

    def run(self, logits_RV: Tensor, gradient_RV: Tensor | None, *, first: int = 0) -> Tensor:
        """Losses of consecutive rows, and their gradient; nothing waits for the device.

        Args:
            logits_RV: of the rows `first`, `first + 1`, ...
            gradient_RV: gets d total / d logits, in its own dtype; may be the logits. Null for none.
            first: which row is the first.

        Returns:
            total, hard, soft and floor, float32 [4, R]; see `work.RowLosses`.
        """
        if len(logits_RV) == 0:
            return torch.zeros((4, 0), device=logits_RV.device)
        if gradient_RV is not None and gradient_RV.stride(1) != 1:
            line_RV = torch.empty_like(gradient_RV, memory_format=torch.contiguous_format)
            losses = self.run(logits_RV, line_RV, first=first)
            gradient_RV.copy_(line_RV)
            return losses
        before, parts = None, []
        for number, (targets, share) in enumerate(self.teachers or ((None, 1.0),)):
            last = number == len(self.teachers or (None,)) - 1
            into = gradient_RV if last or gradient_RV is None else torch.empty_like(gradient_RV)
            found = self._one(logits_RV, into, before, first, targets, share, with_hard=number == 0)
            parts.append(found if share == 1 else torch.cat([found[:2], found[2:] * share]))
            before = into
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)

    def _one(
        self,
        logits_RV: Tensor,
        into_RV: Tensor | None,
        before_RV: Tensor | None,
        first: int,
        targets: Targets | None,
        share: float,
        *,
        with_hard: bool,
    ) -> Tensor:
        """One teacher's part, added to what is there before."""
        rows = slice(first, first + len(logits_RV))
        part = self.rows.part(rows, share=share, with_hard=with_hard)
        if isinstance(targets, HiddenTargets):
            return _hidden(logits_RV, into_RV, before_RV, part, targets.rows(rows), self.mode)
        there = None if targets is None else targets.rows(rows)
        return _sparse(logits_RV, into_RV, before_RV, part, there, self.mode)


def prepare(targets: Targets | Mixture | None, distance: Distance, rows: Rows) -> Launcher | None:
    """What the kernels will do; null where there is none for this divergence.

    Args:
        targets: the teacher's rows; null for hard labels alone.
        distance: of the student from the teacher.
        rows: what is known of them.
    """
    if targets is None:
        return Launcher(rows=rows, teachers=(), mode="none")
    if distance.loss not in ("ce", "mse"):
        return None
    parts: Sequence[tuple[Targets, float]] = ((targets, 1.0),) if not isinstance(targets, Mixture) else _flat(targets)
    mode = "mse" if distance.loss == "mse" else distance.tail
    counted = tuple((_contiguous(part), share) for part, share in parts if share)  # one with no share has no part
    return Launcher(rows=rows, teachers=counted, mode=mode)


def _flat(mixture: Mixture) -> tuple[tuple[Targets, float], ...]:
    return (mixture.first, mixture.weight), (mixture.second, 1 - mixture.weight)


def _contiguous(targets: Targets) -> Targets:
    """Rows that a kernel can find by their number alone."""
    return targets._map(Tensor.contiguous) if isinstance(targets, SparseTargets) else targets


def _sparse(
    logits_RV: Tensor,
    into_RV: Tensor | None,
    before_RV: Tensor | None,
    rows: Rows,
    targets: SparseTargets | None,
    mode: str,
) -> Tensor:
    logits_RV = _rows_in_line(logits_RV)
    losses = torch.empty((4, len(logits_RV)), device=logits_RV.device)
    unused = losses  # a pointer that is never followed
    kept_logits = unused if targets is None else torch.empty(targets.ids_RK.shape, device=logits_RV.device)
    num_kept, num_atoms = (0, 0) if targets is None else (targets.ids_RK.shape[1], targets.atoms_RN2.shape[1])
    kept_block = min(KEPT_BLOCK, _power_of_two(max(num_kept, 1)))
    names = ("ids_RK", "logprobs_RK", "num_kept_R", "atoms_RN2", "lse_R", "moments_R2")
    theirs = [unused if targets is None else getattr(targets, name) for name in names]
    gradient, before = _or(into_RV, logits_RV), _or(before_RV, logits_RV)
    light = logits_RV.element_size() == 2 and (mode == "none" or (mode == "uniform" and rows.hard_R is None))
    block = _block(rows.facts.width, largest=LARGEST_BLOCK if light else LARGEST_BLOCK // 2)
    with torch.cuda.device_of(logits_RV):  # type: ignore[no-untyped-call]
        kernels.sparse_rows[(len(logits_RV),)](
            logits_RV, gradient, before, kept_logits, losses, rows.labels_R, _or(rows.hard_R, rows.soft_R),
            rows.soft_R, _or(rows.classes_R, rows.labels_R), *theirs, rows.inverse_tau_t_R, rows.inverse_tau_s_R,
            logits_RV.stride(0), gradient.stride(0), before.stride(0), len(logits_RV), rows.facts.width,
            gradient.shape[1], num_kept,
            MODE=mode, HARD=rows.hard_R is not None, RAGGED=rows.facts.ragged, GRADIENT=into_RV is not None,
            ADD=before_RV is not None, KB=kept_block, N=num_atoms, NB=_power_of_two(max(num_atoms, 1)),
            CB=max(16, min(block, LOOKUP // kept_block)), BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
    return losses


def _hidden(
    logits_RV: Tensor,
    into_RV: Tensor | None,
    before_RV: Tensor | None,
    rows: Rows,
    targets: HiddenTargets,
    mode: str,
) -> Tensor:
    """The teacher's logits of some rows at a time, beside the student's."""
    low = logits_RV.element_size() == 2
    dtype = torch.float32
    if low:  # a product of float16 vectors keeps three bits more than one in bfloat16
        dtype = torch.float16 if targets.hidden_RD.dtype == torch.float16 else torch.bfloat16
    step = max(1, TEACHER_BYTES // (max(1, rows.facts.width) * dtype.itemsize))
    parts = []
    for start in range(0, len(logits_RV), step):
        here = slice(start, start + step)
        their_RV = targets.head.logits_in(targets.hidden_RD[here], dtype)
        into, before = (None if tensor is None else tensor[here] for tensor in (into_RV, before_RV))
        part = rows.part(here, share=1, with_hard=True)
        parts.append(_dense(logits_RV[here], their_RV, into, before, part, "mse" if mode == "mse" else "ce"))
    return torch.cat(parts, dim=1)


def _dense(
    logits_RV: Tensor, their_RV: Tensor, into_RV: Tensor | None, before_RV: Tensor | None, rows: Rows, mode: str
) -> Tensor:
    logits_RV, their_RV = _rows_in_line(logits_RV), _rows_in_line(their_RV)
    losses = torch.empty((4, len(logits_RV)), device=logits_RV.device)
    gradient, before = _or(into_RV, logits_RV), _or(before_RV, logits_RV)
    block = _block(rows.facts.width, largest=LARGEST_BLOCK // 2)
    with torch.cuda.device_of(logits_RV):  # type: ignore[no-untyped-call]
        kernels.dense_rows[(len(logits_RV),)](
            logits_RV, their_RV, gradient, before, losses, rows.labels_R, _or(rows.hard_R, rows.soft_R), rows.soft_R,
            _or(rows.classes_R, rows.labels_R), rows.inverse_tau_t_R, rows.inverse_tau_s_R, logits_RV.stride(0),
            their_RV.stride(0), gradient.stride(0), before.stride(0), len(logits_RV), rows.facts.width,
            gradient.shape[1],
            MODE=mode, HARD=rows.hard_R is not None, RAGGED=rows.facts.ragged, GRADIENT=into_RV is not None,
            ADD=before_RV is not None, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
    return losses


def scale(values_RV: Tensor, factor: Tensor) -> None:
    """Multiply rows by their factors, in place; rows whose factor is 1 are left alone, and nobody waits to know.

    Args:
        values_RV: contiguous rows, two-dimensional.
        factor: of each row [R], or one for all.
    """
    if len(values_RV) == 0:
        return
    block = _block(values_RV.shape[1])
    stride = 0 if factor.ndim == 0 else factor.stride(0)
    with torch.cuda.device_of(values_RV):  # type: ignore[no-untyped-call]
        kernels.scale_rows[(len(values_RV),)](
            values_RV, factor, values_RV.stride(0), stride, values_RV.shape[1], BLOCK=block, num_warps=_warps(block)
        )


def _rows_in_line(values_RV: Tensor) -> Tensor:
    return values_RV if values_RV.stride(1) == 1 else values_RV.contiguous()


def _or(tensor: Tensor | None, instead: Tensor) -> Tensor:
    return instead if tensor is None else tensor


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _block(width: int, *, largest: int = LARGEST_BLOCK) -> int:
    return max(128, min(largest, _power_of_two(max(1, width))))


def _warps(block: int) -> int:
    return max(1, min(16, block // 512))
