"""The formulas of docs/losses.md, written plainly for autograd: what the kernel is compared with. One row at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdcache.losses.divergence import teacher_distribution
from kdcache.losses.selection import select
from kdcache.losses.targets import SparseTargets

LOSSES = ("ce", "mse", "reverse_kl", "jsd")


def logits(seed: int, rows: int, classes: int, *, scale: float = 2.0) -> Tensor:
    """float64 [R, V]."""
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def keep(teacher: Tensor, *, top_k: int, classes: Tensor | None = None, top_p: float = 1.0) -> SparseTargets:
    """Targets of float64 logits, in float64."""
    rows = len(teacher)
    classes = torch.full((rows,), teacher.shape[1]) if classes is None else classes
    return select(teacher, torch.zeros(rows, dtype=torch.long), classes, top_k=top_k, top_p=top_p)


def divergence(log_p: Tensor, log_q: Tensor, *, loss: str, beta: float) -> Tensor:
    """Of one row, over the last axis; no zero probabilities."""
    p, q = log_p.exp(), log_q.exp()
    if loss == "ce":
        return -(p * log_q).sum(-1)
    if loss == "reverse_kl":
        return (q * (log_q - log_p)).sum(-1)
    log_m = (beta * p + (1 - beta) * q).log()
    return beta * (p * (log_p - log_m)).sum(-1) + (1 - beta) * (q * (log_q - log_m)).sum(-1)


def dense(teacher: Tensor, student: Tensor, *, loss: str, tau_t: float, tau_s: float, beta: float = 0.5) -> Tensor:
    """L2 of each row from both sides' full logits, [R]."""
    if loss == "mse":
        return (teacher / tau_t - student / tau_s).square().mean(-1)
    log_p, log_q = torch.log_softmax(teacher / tau_t, -1), torch.log_softmax(student / tau_s, -1)
    return divergence(log_p, log_q, loss=loss, beta=beta)


def sparse(
    targets: SparseTargets, student: Tensor, *, loss: str, tau_t: float, tau_s: float, tail: str, beta: float = 0.5
) -> Tensor:
    """L2 of each row from what a sparse row holds, [R]."""
    log_p_RK, log_mass_R = teacher_distribution(targets, tau_t=tau_t, dtype=student.dtype)
    rows = []
    for r in range(len(student)):
        kept, count = int(targets.num_kept_R[r]), int(targets.num_classes_R[r])
        ids = targets.ids_RK[r, :kept]
        others = torch.ones(count, dtype=torch.bool).index_fill(0, ids, False)
        if loss == "mse":
            tempered = student[r, :count] / tau_s
            lse = targets.lse_R[r].to(student.dtype)
            t = (targets.logprobs_RK[r, :kept].to(student.dtype) + lse) / tau_t
            mean = (targets.moments_R2[r, 0].to(student.dtype) + lse) / tau_t
            variance = targets.moments_R2[r, 1].to(student.dtype) / tau_t**2
            total = (t - tempered[ids]).square().sum() + (mean - tempered[others]).square().sum()
            rows.append((total + (count - kept) * variance) / count)
            continue
        log_q = torch.log_softmax(student[r, :count] / tau_s, -1)
        log_p, log_mass = log_p_RK[r, :kept], log_mass_R[r]
        if loss == "ce" and tail == "uniform":
            mean = log_q[others].mean() if kept < count else log_q.new_zeros(())
            rows.append(-(log_p.exp() * log_q[ids]).sum() - log_mass.exp() * mean)
            continue
        log_q_J = log_q[ids]
        if kept < count:
            log_p = torch.cat([log_p, log_mass[None]])
            log_q_J = torch.cat([log_q_J, torch.logsumexp(log_q[others], 0)[None]])
        rows.append(divergence(log_p, log_q_J, loss=loss, beta=beta))
    return torch.stack(rows)


class _Again(torch.autograd.Function):
    """A function whose backward pass computes it anew, since gradcheck differentiates more than once."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(student)
        ctx.function = function
        return function(student.detach()).detach()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None]:
        (student,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = student.detach().requires_grad_()
            return torch.autograd.grad(ctx.function(leaf), leaf, factor)[0], None


def finite_differences(function: Callable[[Tensor], Tensor], student: Tensor, *, fast: bool = False) -> bool:
    """Whether a function's gradient is that of its values."""
    return torch.autograd.gradcheck(lambda s: _Again.apply(s, function), (student,), fast_mode=fast)


def gradient(value: Tensor, student: Tensor) -> Tensor:
    """d value / d student."""
    return torch.autograd.grad(value, student)[0]
