"""Distances between a sparse teacher row and a student's logits, one value a row, unreduced and unscaled.

Dense is K = V through the same code. Arithmetic is float32 (float64 if the student's logits are), whatever
the training precision.

R rows  V classes  K kept
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets
from kdcache.losses import tail as tails
from kdcache.losses.targets import SparseTargets

Tail = Literal["uniform", "bucket"]


def teacher_distribution(targets: SparseTargets, *, tau_t: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """log softmax(t / tau_t) on the kept classes, and the log of the tail's mass.

        log p_k = logprob_k / tau - Z,   log M = A(1/tau) - Z,   Z = log(sum_S exp(logprob / tau) + exp A(1/tau))

    Returns:
        log_p_RK (-inf where padded) and log_M_R (-inf where the tail is empty), nats.
    """
    kept_RK = targets.logprobs_RK.to(dtype) / tau_t
    size_R = targets.num_classes_R - targets.num_kept_R
    tail_R = tails.log_mass(targets.atoms_RN2.to(dtype), size_R, tau=tau_t)
    norm_R = torch.logaddexp(torch.logsumexp(kept_RK, dim=1), tail_R)
    return kept_RK - norm_R[:, None], tail_R - norm_R


def student_classes(logits_RV: Tensor, targets: SparseTargets) -> tuple[Tensor, Tensor]:
    """Student logits in float32 with the padded classes at -inf, and the mask of true classes [R, V].

    Raises:
        IncompatibleTargets: the student has fewer classes than the teacher.
    """
    if logits_RV.shape[0] != len(targets.num_classes_R):
        raise IncompatibleTargets(
            f"{logits_RV.shape[0]} student rows meet {len(targets.num_classes_R)} teacher rows; "
            f"take the student's logits at the rows of the batch"
        )
    widest = int(targets.num_classes_R.max()) if len(targets.num_classes_R) else 0
    if logits_RV.shape[1] < widest:
        raise IncompatibleTargets(
            f"the student has {logits_RV.shape[1]:,} classes and the teacher {widest:,}; "
            f"give the student the teacher's labels"
        )
    valid_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device)[None, :] < targets.num_classes_R[:, None]
    logits_RV = logits_RV if logits_RV.dtype == torch.float64 else logits_RV.float()
    return logits_RV.masked_fill(~valid_RV, -torch.inf), valid_RV


def cross_entropy(logits_RV: Tensor, targets: SparseTargets, *, tau_t: float, tau_s: float, tail: Tail) -> Tensor:
    """Cross-entropy of the student at tau_s against the teacher at tau_t.

        uniform: - sum_S p log q - M mean_{v in tail} log q_v
        bucket:  - sum_S p log q - M log(1 - sum_S q)

    with p, M the teacher's kept probabilities and tail mass at tau_t, q = softmax(s / tau_s). Exact at K = V.

    Args:
        logits_RV: student logits s.
        targets: teacher rows.
        tau_t: teacher temperature.
        tau_s: student temperature.
        tail: how the tail's mass is spread over its classes.

    Returns:
        nats, [R]. Not multiplied by any temperature. d/ds is `(q - p) / tau_s` on the kept classes.

    Raises:
        IncompatibleTargets: the student's classes do not fit the teacher's.

    References:
        Hinton et al. 2015, arXiv:1503.02531; docs/losses.md for the tails.
    """
    masked_RV, valid_RV = student_classes(logits_RV, targets)
    log_q_RV = torch.log_softmax(masked_RV / tau_s, dim=1)
    log_p_RK, log_M_R = teacher_distribution(targets, tau_t=tau_t, dtype=log_q_RV.dtype)
    kept_RK = torch.isfinite(log_p_RK)
    log_q_RK = log_q_RV.gather(1, targets.ids_RK)
    log_q_kept_RK = torch.where(kept_RK, log_q_RK, 0.0)
    result_R = -(log_p_RK.exp() * log_q_kept_RK).sum(dim=1)
    size_R = targets.num_classes_R - targets.num_kept_R
    if not bool((size_R > 0).any()):
        return result_R
    if tail == "uniform":
        total_R = torch.where(valid_RV, log_q_RV, 0.0).sum(dim=1)
        log_q_tail_R = (total_R - log_q_kept_RK.sum(dim=1)) / size_R.clamp(min=1)
    else:
        in_tail_RV = valid_RV.scatter(1, torch.where(kept_RK, targets.ids_RK, targets.ids_RK[:, :1]), False)
        empty_R = size_R <= 0
        tail_RV = log_q_RV.masked_fill(~in_tail_RV, -torch.inf).masked_fill(empty_R[:, None], 0.0)
        log_q_tail_R = torch.logsumexp(tail_RV, dim=1)  # the student's own tail: log(1 - sum_S q) would cancel
    return result_R - log_M_R.exp() * torch.where(size_R > 0, log_q_tail_R, 0.0)


def entropy(targets: SparseTargets, *, tau_t: float, tail: Tail) -> Tensor:
    """The teacher's entropy at tau_t from its sparse row, nats [R]; cross-entropy minus it is the KL divergence."""
    log_p_RK, log_M_R = teacher_distribution(targets, tau_t=tau_t, dtype=torch.float32)
    kept_R = -torch.where(torch.isfinite(log_p_RK), log_p_RK.exp() * log_p_RK, 0.0).sum(dim=1)
    size_R = targets.num_classes_R - targets.num_kept_R
    spread_R = size_R.clamp(min=1).to(log_M_R.dtype).log() if tail == "uniform" else torch.zeros_like(log_M_R)
    tail_R = torch.where(size_R > 0, log_M_R.exp() * (torch.where(size_R > 0, log_M_R, 0.0) - spread_R), 0.0)
    return kept_R - tail_R


def squared_error(logits_RV: Tensor, targets: SparseTargets, *, tau_t: float, tau_s: float) -> Tensor:
    """Mean over classes of the squared difference of tempered logits.

        (1/V) [ sum_S (t/tau_t - s/tau_s)^2 + sum_tail (m - s/tau_s)^2 + n_tail var / tau_t^2 ]
        m = (tail mean + lse) / tau_t

    Exact at K = V; with a tail it omits `-(2/V) sum_tail (s/tau_s)(t/tau_t - m)`, so it is approximate there.

    Args:
        logits_RV: student logits s.
        targets: teacher rows; teacher logits are logprob + lse.
        tau_t: teacher temperature.
        tau_s: student temperature.

    Returns:
        squared nats, [R].

    Raises:
        IncompatibleTargets: the student's classes do not fit the teacher's.
    """
    masked_RV, valid_RV = student_classes(logits_RV, targets)
    s_RV = torch.where(valid_RV, masked_RV, 0.0) / tau_s
    kept_RK = torch.isfinite(targets.logprobs_RK)
    t_RK = (torch.where(kept_RK, targets.logprobs_RK, 0.0) + targets.lse_R[:, None]).to(s_RV.dtype) / tau_t
    s_RK = s_RV.gather(1, targets.ids_RK)
    total_R = torch.where(kept_RK, (t_RK - s_RK).square(), 0.0).sum(dim=1)
    size_R = targets.num_classes_R - targets.num_kept_R
    if bool((size_R > 0).any()):
        in_tail_RV = valid_RV.scatter(1, torch.where(kept_RK, targets.ids_RK, targets.ids_RK[:, :1]), False)
        mean_R = (targets.moments_R2[:, 0] + targets.lse_R).to(s_RV.dtype) / tau_t
        total_R = total_R + torch.where(in_tail_RV, (mean_R[:, None] - s_RV).square(), 0.0).sum(dim=1)
        total_R = total_R + size_R * targets.moments_R2[:, 1].to(s_RV.dtype) / tau_t**2
    return total_R / targets.num_classes_R
