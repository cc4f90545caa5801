"""Distances between two distributions over the same classes, with their gradients: pure formulas, one value a row.

Both come as log-probabilities over J entries: all classes of a dense teacher, or the kept classes and one bucket for
the tail of a sparse one. Bucketing both sides alike can only lower a divergence (data processing inequality), and
lowers nothing where no tail is left (k = V).

Gradients are with respect to the student's *logits* of these entries, `l` with `q = softmax(l)`.

R rows  J entries  K kept
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.core.configuration import Configuration, Loss
from kdcache.losses import tail as tails
from kdcache.losses.rule import Tail
from kdcache.losses.targets import SparseTargets

Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Which L2, between which temperatures: the part of a configuration that one row needs.

    Attributes:
        loss: `ce`, `mse`, `reverse_kl`, `jsd`.
        tau_t: teacher temperature.
        tau_s: student temperature.
        jsd_beta: the teacher's share of the mixture in `jsd`.
        tail: how CE spreads the tail's mass. The other divergences have a bucket, MSE has moments.
    """

    loss: Loss = "ce"
    tau_t: float = 1.0
    tau_s: float = 1.0
    jsd_beta: float = 0.5
    tail: Tail = "uniform"

    @classmethod
    def of(cls, configuration: Configuration, *, tail: Tail) -> Distance:
        """That of a configuration."""
        return cls(
            loss=configuration.loss,
            tau_t=configuration.tau_t,
            tau_s=configuration.student_temperature,
            jsd_beta=configuration.jsd_beta,
            tail=tail,
        )

    def formula(self) -> Formula:
        """The function of (log p, log q) that gives value and gradient; `mse` has none, it compares logits."""
        if self.loss == "jsd":
            return lambda log_p_RJ, log_q_RJ: jensen_shannon(log_p_RJ, log_q_RJ, beta=self.jsd_beta)
        return {"ce": cross_entropy, "reverse_kl": reverse_kl}[self.loss]


def cross_entropy(log_p_RJ: Tensor, log_q_RJ: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the student q against the teacher p.

        L = - sum_j p_j log q_j                dL/dl_j = q_j sum_i p_i - p_j

    Args:
        log_p_RJ: of the teacher, nats, -inf where an entry is padding.
        log_q_RJ: of the student, likewise.

    Returns:
        nats [R], and the gradient [R, J].

    References:
        Hinton et al. 2015, arXiv:1503.02531.

    Example:
        >>> value, gradient = cross_entropy(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
        >>> round(value.item(), 4), gradient.tolist()
        (0.837, [[-0.25, 0.25]])
    """
    p_RJ = log_p_RJ.exp()
    loss_R = -_sum_where(p_RJ > 0, p_RJ * log_q_RJ)
    return loss_R, log_q_RJ.exp() * p_RJ.sum(dim=1, keepdim=True) - p_RJ


def reverse_kl(log_p_RJ: Tensor, log_q_RJ: Tensor) -> tuple[Tensor, Tensor]:
    """Kullback-Leibler divergence of the student from the teacher, KL(q || p).

        L = sum_j q_j d_j,  d_j = log q_j - log p_j                dL/dl_j = q_j (d_j - L)

    Args:
        log_p_RJ: of the teacher, nats, -inf where an entry is padding.
        log_q_RJ: of the student, likewise.

    Returns:
        nats [R], and the gradient [R, J].

    References:
        Gu et al. 2023, arXiv:2306.08543.

    Example:
        >>> value, gradient = reverse_kl(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log())
        >>> round(value.item(), 4)
        0.1438
    """
    q_RJ = log_q_RJ.exp()
    difference_RJ = torch.where(q_RJ > 0, log_q_RJ - log_p_RJ, 0.0)
    loss_R = (q_RJ * difference_RJ).sum(dim=1)
    return loss_R, q_RJ * (difference_RJ - loss_R[:, None])


def jensen_shannon(log_p_RJ: Tensor, log_q_RJ: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """Generalised Jensen-Shannon divergence.

        L = beta KL(p || m) + (1 - beta) KL(q || m),   m = beta p + (1 - beta) q
        dL/dl_j = q_j (g_j - sum_i q_i g_i),           g_j = (1 - beta) (log q_j - log m_j)

    Symmetric at beta = 1/2. For small beta it is beta KL(p || q), near 1 it is (1 - beta) KL(q || p).

    Args:
        log_p_RJ: of the teacher, nats, -inf where an entry is padding.
        log_q_RJ: of the student, likewise.
        beta: the teacher's share, inside (0, 1).

    Returns:
        nats [R], and the gradient [R, J].

    References:
        Agarwal et al. 2023, arXiv:2306.13649 (GKD), equation 1.

    Example:
        >>> p, q = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log()
        >>> round(jensen_shannon(p, q, beta=0.5)[0].item(), 4)  # disjoint: log 2
        0.6931
    """
    p_RJ, q_RJ = log_p_RJ.exp(), log_q_RJ.exp()
    log_m_RJ = torch.logaddexp(log_p_RJ + math.log(beta), log_q_RJ + math.log1p(-beta))
    from_p_RJ = torch.where(p_RJ > 0, log_p_RJ - log_m_RJ, 0.0)
    from_q_RJ = torch.where(q_RJ > 0, log_q_RJ - log_m_RJ, 0.0)
    share_R = (q_RJ * from_q_RJ).sum(dim=1)
    loss_R = beta * (p_RJ * from_p_RJ).sum(dim=1) + (1 - beta) * share_R
    return loss_R, (1 - beta) * q_RJ * (from_q_RJ - share_R[:, None])


def negative_entropy(log_p_RJ: Tensor) -> Tensor:
    """sum p log p, nats [R]: what cross-entropy and KL divergence differ by."""
    p_RJ = log_p_RJ.exp()
    return _sum_where(p_RJ > 0, p_RJ * log_p_RJ)


def entropy(targets: SparseTargets, *, tau_t: float, tail: Tail) -> Tensor:
    """The teacher's entropy at tau_t from its sparse row, nats [R]; cross-entropy minus it is the KL divergence."""
    log_p_RK, log_M_R = teacher_distribution(targets, tau_t=tau_t, dtype=targets.logprobs_RK.dtype)
    return entropy_of(log_p_RK, log_M_R, targets.num_classes_R - targets.num_kept_R, tail=tail)


def entropy_of(log_p_RK: Tensor, log_M_R: Tensor, size_R: Tensor, *, tail: Tail) -> Tensor:
    """The entropy of what `teacher_distribution` gives, nats [R].

    Args:
        log_p_RK: of the kept classes, -inf where padded.
        log_M_R: log of the tail's mass.
        size_R: classes of the tail.
        tail: how its mass is spread.
    """
    bucketed_R = -negative_entropy(torch.cat([log_p_RK, log_M_R[:, None]], dim=1))
    if tail == "bucket":
        return bucketed_R
    return bucketed_R + log_M_R.exp() * size_R.clamp(min=1).to(log_M_R.dtype).log()


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


def _sum_where(mask_RJ: Tensor, values_RJ: Tensor) -> Tensor:
    """Sum of the values where the mask holds; elsewhere they may be NaN (0 times infinity)."""
    return torch.where(mask_RJ, values_RJ, 0.0).sum(dim=1)
