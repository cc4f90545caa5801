"""The tail curve: the mass of the classes that were not kept, at any temperature, from five Gauss atoms.

`A(beta) = log sum_{v in tail} exp(beta * logprob_v)` is a sum of exponentials over the tail's counting measure. The
n-point Gauss rule of that measure (Golub & Welsch 1969) reproduces A at the 2n points beta = 0, h, ..., (2n-1) h and is
positive and convex everywhere. With h = 2/(2n+1) the last is 18/11; up to beta = 2 the rule extrapolates, which costs
less than points further apart: on a real language model the largest error of the tail's mass is a third of that of
h = 2/9. Derivation and measured errors: docs/losses.md.

R rows  V classes  N atoms
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdcache.core.types import NUM_ATOMS
from kdcache.losses import gpu

if gpu.INSTALLED:
    from kdcache.losses.gpu import tail as kernels

MIN_PIVOT = 1e-10
"""Smallest Cholesky pivot of a Hankel matrix that is trusted; below, the tail has too few distinct values. Pivots are
relative to the number of tail classes: the few classes near the kept ones, which carry its mass, are a millionth."""


def gauss_atoms(logprobs_RV: Tensor, in_tail_RV: Tensor, last_kept_R: Tensor, *, num_atoms: int) -> Tensor:
    """Atoms (position, log weight) of each row's tail.

    Args:
        logprobs_RV: teacher log-probabilities at temperature 1, nats.
        in_tail_RV: bool, the classes that were not kept.
        last_kept_R: the smallest log-probability kept, nats; no tail class lies above it.
        num_atoms: N. A tail with fewer distinct values gets fewer atoms; the others have log weight -inf.

    Returns:
        float32 [R, N, 2].
    """
    depth_RV = logprobs_RV.double() - last_kept_R.double()[:, None]
    return describe(
        depth_RV,
        last_kept_R,
        in_tail_RV.sum(dim=1),
        lambda values_RV: values_RV.masked_fill_(~in_tail_RV, 0.0),
        num_atoms=num_atoms,
    )[0]


def describe(
    depth_RV: Tensor, last_kept_R: Tensor, size_R: Tensor, hide: Callable[[Tensor], Tensor], *, num_atoms: int
) -> tuple[Tensor, Tensor]:
    """What is kept of tails: their atoms, and their moments.

        S_j = sum over the tail of y^j with y = exp(h depth), j = 0 .. 2N - 1

    Args:
        depth_RV: log-probability less the smallest one kept, nats, at most 0 in the tail; it is overwritten. In float32
            the exponentials are, too; all sums are float64.
        last_kept_R: the smallest log-probability kept, nats.
        size_R: classes in the tail.
        hide: sets the values of all other classes to 0, in place.
        num_atoms: N.

    Returns:
        Atoms float32 [R, N, 2]; mean and central variance of the log-probability over the tail, float32 [R, 2], zeros
        where the tail is empty.
    """
    h = 2.0 / (2 * num_atoms + 1)
    wide_RV, count_R = hide(depth_RV).double(), size_R.clamp(min=1).double()
    mean_R = wide_RV.sum(dim=1) / count_R
    variance_R = (torch.linalg.vector_norm(wide_RV, dim=1).square() / count_R - mean_R.square()).clamp(min=0)
    mean_R = torch.where(size_R > 0, mean_R + last_kept_R.double(), 0.0)
    depth_RV = hide(depth_RV.mul_(h).exp_())
    y_RV = wide_RV.copy_(depth_RV) if depth_RV.dtype != torch.float64 else depth_RV
    spare_RV = torch.empty_like(y_RV)
    power_RV, sums = y_RV, [size_R.double()]
    for _ in range(2 * num_atoms - 1):
        sums.append(power_RV.sum(dim=1))
        power_RV = torch.mul(power_RV, y_RV, out=spare_RV)
    atoms_RN2 = _atoms(torch.stack(sums, dim=1), last_kept_R, num_atoms=num_atoms, h=h)
    return atoms_RN2, torch.stack([mean_R, variance_R], dim=1).float()


def _atoms(sums_RJ: Tensor, last_kept_R: Tensor, *, num_atoms: int, h: float) -> Tensor:
    """Atoms from power sums."""
    if num_atoms == NUM_ATOMS and sums_RJ.device.type != "cpu" and gpu.usable(sums_RJ.device):
        return kernels.gauss_atoms(sums_RJ, last_kept_R, min_pivot=MIN_PIVOT)
    atoms = torch.zeros(len(last_kept_R), num_atoms, 2, dtype=torch.float64, device=sums_RJ.device)
    atoms[:, :, 1] = -torch.inf
    todo_R = sums_RJ[:, 0] > 0
    for n in range(num_atoms, 0, -1):  # degenerate tails: fewer atoms, h fixed
        rows = todo_R.nonzero()[:, 0]
        if len(rows) == 0:
            break
        nodes_Rn, weights_Rn, good = _golub_welsch(sums_RJ[rows], n)
        rows = rows[good]
        atoms[rows, :n, 0] = last_kept_R[rows].double()[:, None] + nodes_Rn[good].log() / h
        atoms[rows, :n, 1] = weights_Rn[good].log() + sums_RJ[rows, 0].log()[:, None]
        todo_R[rows] = False
    return atoms.float()


def _golub_welsch(sums_RJ: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes in (0, 1], weights that sum to 1, and which rows have n trustworthy nodes."""
    moments_RJ = sums_RJ / sums_RJ[:, :1]
    index = torch.arange(n, device=sums_RJ.device)
    hankel = index[:, None] + index[None, :]
    lower, info = torch.linalg.cholesky_ex(moments_RJ[:, hankel])
    pivots = torch.diagonal(lower, dim1=1, dim2=2).square()
    good = (info == 0) & (pivots >= MIN_PIVOT).all(dim=1) & torch.isfinite(lower).all(dim=(1, 2))
    eye = torch.eye(n, dtype=lower.dtype, device=lower.device)
    lower = torch.where(good[:, None, None], lower, eye)
    left = torch.linalg.solve_triangular(lower, moments_RJ[:, hankel + 1], upper=False)
    jacobi = torch.linalg.solve_triangular(lower, left.transpose(1, 2), upper=False)
    jacobi = torch.where(good[:, None, None], (jacobi + jacobi.transpose(1, 2)) / 2, eye)
    nodes, vectors = torch.linalg.eigh(jacobi)
    weights = vectors[:, 0, :].square()
    good &= (nodes > 0).all(dim=1) & (weights > 0).all(dim=1)
    return nodes, weights, good


def log_mass(atoms_RN2: Tensor, tail_size_R: Tensor, *, tau: float) -> Tensor:
    """A(1/tau), the log of the tail's unnormalised mass `sum_tail exp(logprob / tau)`.

    Args:
        atoms_RN2: from `gauss_atoms`, possibly through a codec.
        tail_size_R: V - k of each row; the weights are renormalised to it, so that A(0) is exact.
        tau: teacher temperature, > 0.

    Returns:
        [R] in the atoms' dtype, -inf where the tail is empty.
    """
    empty_R = tail_size_R <= 0
    if atoms_RN2.shape[1] == 0:
        return atoms_RN2.new_full((len(tail_size_R),), -torch.inf)
    position, log_weight = atoms_RN2[..., 0], atoms_RN2[..., 1]
    log_weight = torch.where(empty_R[:, None], 0.0, log_weight)  # no NaN from -inf - -inf
    norm_R = torch.logsumexp(log_weight, dim=1) - tail_size_R.clamp(min=1).to(log_weight.dtype).log()
    mass_R = torch.logsumexp(log_weight - norm_R[:, None] + position / tau, dim=1)
    return torch.where(empty_R, -torch.inf, mass_R)
