"""From a teacher's logits to targets: what is kept of a row, and what of it cannot be kept.

`select` and `log_partition` raise for a row that cannot be kept, so they wait for the device. Their `_flagged` forms
give a code for each row instead; `check` raises for codes, once they have arrived.

R rows  V classes  K kept (padded)  N atoms
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets, TrainingError
from kdcache.core.types import IGNORE, NUM_ATOMS
from kdcache.losses import gpu, tail
from kdcache.losses.blocks import may_look
from kdcache.losses.targets import SparseTargets

if gpu.INSTALLED:
    from kdcache.losses.gpu import selection as kernels

NOT_FINITE = 1
"""Code of a row: -inf, inf or NaN among its own classes."""
LABEL_OUTSIDE = 2
"""Code of a row: its label is none of its classes. It goes before `NOT_FINITE`; a row in order has 0."""

CHUNK_ELEMENTS = 1 << 23
"""Logits worked on at a time: 32 MB of float32, so that no second [R, V] tensor is made."""
CPU_CHUNK_ELEMENTS = 1 << 19
"""On a CPU: 4 MB of float64, which its caches hold, takes a third of the time."""


def select(
    logits_RV: Tensor,
    labels_R: Tensor,
    num_classes_R: Tensor,
    *,
    top_k: int,
    top_p: float = 1.0,
    dense: bool | None = None,
) -> SparseTargets:
    """Keep of a teacher's logits what any configuration needs: top-k, lse, tail curve, moments, gold log-probability.

    A dense result has all classes in class order, no curve and no moments; otherwise the classes kept come in order of
    probability, equal ones in class order.

    Args:
        logits_RV: teacher logits, any float dtype. Columns from `num_classes_R` on are padding and never read.
        labels_R: int64, gold classes or `IGNORE`.
        num_classes_R: int64, the true V of each row.
        top_k: classes kept of a row, at most; >= 1.
        top_p: the fewest classes whose probabilities (at temperature 1) add up to this are kept, if they are no more
            than `top_k`; in (0, 1]. No effect on a dense result.
        dense: whether the result is dense; default: where `top_k >= V` for every row.

    Raises:
        IncompatibleTargets: -inf or NaN among a row's own classes, or a padded vocabulary that was not declared;
            settings that keep nothing; dense with V > top_k.
        TrainingError: a label outside its row's classes.
    """
    widest = int(num_classes_R.max()) if len(num_classes_R) else 0
    targets, bad_R = select_flagged(
        logits_RV, labels_R, num_classes_R, widest=widest, top_k=top_k, top_p=top_p, dense=dense
    )
    check(bad_R, labels_R, num_classes_R)
    return targets


def select_flagged(
    logits_RV: Tensor,
    labels_R: Tensor,
    num_classes_R: Tensor,
    *,
    widest: int,
    top_k: int,
    top_p: float = 1.0,
    dense: bool | None = None,
) -> tuple[SparseTargets, Tensor]:
    """`select` without waiting for the device: rows that cannot be kept are flagged, and what they hold means nothing.

    Args:
        logits_RV, labels_R, num_classes_R, top_k, top_p, dense: as of `select`.
        widest: the largest of `num_classes_R`, which is on the device.

    Returns:
        Targets, and uint8 [R]: 0, `NOT_FINITE` or `LABEL_OUTSIDE`; `check` says what they mean.

    Raises:
        IncompatibleTargets: settings that keep nothing; dense with V > top_k; fewer logits than classes.
    """
    if top_k < 1:
        raise IncompatibleTargets(f"top_k = {top_k} keeps nothing; it must be at least 1")
    if not 0 < top_p <= 1:
        raise IncompatibleTargets(f"top_p = {top_p:g} is no probability mass; it must lie in (0, 1]")
    if widest > logits_RV.shape[1]:
        raise IncompatibleTargets(f"a row has {widest:,} classes, but the teacher gives {logits_RV.shape[1]:,} logits")
    if dense and widest > top_k:
        raise IncompatibleTargets(f"a dense row keeps all its {widest:,} classes, but top_k is {top_k}")
    keep = _Keep(dense=widest <= top_k if dense is None else dense, top_k=min(top_k, widest), top_p=top_p, width=widest)
    if _by_kernels(logits_RV) and not keep.dense and 0 < keep.top_k <= kernels.MAX_KEPT:
        return kernels.select(logits_RV[:, :widest], labels_R, num_classes_R, top_k=keep.top_k, top_p=top_p)
    parts, codes = [], []
    for part in _chunks(logits_RV, widest):
        targets, bad_R = _select_chunk(logits_RV[part, :widest], labels_R[part], num_classes_R[part], keep)
        parts.append(targets)
        codes.append(bad_R)
    names = [f.name for f in fields(SparseTargets)]
    return SparseTargets(**{n: torch.cat([getattr(p, n) for p in parts]) for n in names}), torch.cat(codes)


def log_partition(logits_RV: Tensor, labels_R: Tensor, num_classes_R: Tensor) -> tuple[Tensor, Tensor]:
    """logsumexp over each row's own classes, and the gold class's log-probability (NaN without a label); float32 [R].

    Raises:
        IncompatibleTargets: -inf or NaN among a row's own classes.
        TrainingError: a label outside its row's classes.
    """
    lse_R, gold_R, bad_R = log_partition_flagged(logits_RV, labels_R, num_classes_R)
    check(bad_R, labels_R, num_classes_R)
    return lse_R, gold_R


def log_partition_flagged(logits_RV: Tensor, labels_R: Tensor, num_classes_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`log_partition` without waiting for the device: also uint8 [R], the codes of `select_flagged`."""
    if _by_kernels(logits_RV):
        return kernels.log_partition(logits_RV, labels_R, num_classes_R)
    parts = []
    for part in _chunks(logits_RV, logits_RV.shape[1]):
        padding_RV = _padding(logits_RV[part], num_classes_R[part])
        masked_RV = _own(logits_RV[part], padding_RV)
        lse_R = torch.logsumexp(masked_RV, dim=1)
        bad_R = _codes(masked_RV, padding_RV, lse_R, labels_R[part], num_classes_R[part])
        parts.append((lse_R, _gold(masked_RV, lse_R, labels_R[part]), bad_R))
    lse, gold, bad = zip(*parts, strict=True)
    return torch.cat(lse), torch.cat(gold), torch.cat(bad)


def check(bad_R: Tensor, labels_R: Tensor, num_classes_R: Tensor) -> None:
    """Raise for the codes of `select_flagged` and `log_partition_flagged`; waits for them.

    Raises:
        IncompatibleTargets: a row is `NOT_FINITE`.
        TrainingError: a row is `LABEL_OUTSIDE`; the first such row is named.
    """
    if not bool(bad_R.any()):
        return
    outside_R = bad_R == LABEL_OUTSIDE
    if bool(outside_R.any()):
        row = int(outside_R.nonzero()[0])
        raise TrainingError(
            f"label {int(labels_R[row])} of row {row} is outside its {int(num_classes_R[row])} classes; "
            f"check the dataset's labels"
        )
    raise IncompatibleTargets(
        "the teacher gives logits that are not finite to classes of its own; "
        "if its vocabulary is padded, declare the true number of classes"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keep:
    """What is kept of each row of `width` classes or fewer."""

    dense: bool
    top_k: int
    top_p: float
    width: int


def _by_kernels(logits_RV: Tensor) -> bool:
    return gpu.usable(logits_RV.device) and logits_RV.dtype in kernels.DTYPES and logits_RV.numel() > 0


def _chunks(logits_RV: Tensor, width: int) -> list[slice]:
    """Rows that are worked on together; at least one part, which may be empty."""
    limit = CPU_CHUNK_ELEMENTS if logits_RV.device.type == "cpu" else CHUNK_ELEMENTS
    step = max(1, limit // max(1, width))
    return [slice(start, start + step) for start in range(0, max(1, logits_RV.shape[0]), step)]


def _select_chunk(
    logits_RV: Tensor, labels_R: Tensor, num_classes_R: Tensor, keep: _Keep
) -> tuple[SparseTargets, Tensor]:
    padding_RV = _padding(logits_RV, num_classes_R)
    own_RV = _own(logits_RV, padding_RV)
    lse_R = torch.logsumexp(own_RV, dim=1)
    bad_R = _codes(own_RV, padding_RV, lse_R, labels_R, num_classes_R)
    gold_R = _gold(own_RV, lse_R, labels_R)
    if keep.dense:
        ids_RK = torch.arange(keep.width, device=logits_RV.device).repeat(len(lse_R), 1)
        kept_RK, num_kept_R = own_RV - lse_R[:, None], num_classes_R
        atoms_RN2, moments_R2 = lse_R.new_zeros(len(lse_R), 0, 2), lse_R.new_zeros(len(lse_R), 2)
    else:
        logits_RK, ids_RK = _largest(own_RV, keep.top_k)
        kept_RK = logits_RK - lse_R[:, None]
        num_kept_R = num_classes_R.clamp(max=keep.top_k)
        if keep.top_p < 1:
            before_RK = kept_RK.exp().cumsum(dim=1, dtype=torch.float64) - kept_RK.exp()
            num_kept_R = torch.minimum(num_kept_R, (before_RK < keep.top_p).sum(dim=1).clamp(min=1))
    unused_RK = torch.arange(ids_RK.shape[1], device=ids_RK.device)[None, :] >= num_kept_R[:, None]
    if not keep.dense:
        # Unused places point at the first class, which is kept anyway.
        points_RK = torch.where(unused_RK, ids_RK[:, :1], ids_RK)

        def hide(values_RV: Tensor) -> Tensor:
            values_RV.scatter_(1, points_RK, 0.0)
            return values_RV if padding_RV is None else values_RV.masked_fill_(padding_RV, 0.0)

        place_R1 = (num_kept_R - 1)[:, None]
        depth_RV = own_RV - logits_RK.gather(1, place_R1)
        last_R, size_R = kept_RK.gather(1, place_R1)[:, 0], num_classes_R - num_kept_R
        atoms_RN2, moments_R2 = tail.describe(depth_RV, last_R, size_R, hide, num_atoms=NUM_ATOMS)
    targets = SparseTargets(
        ids_RK=ids_RK.masked_fill(unused_RK, 0),
        logprobs_RK=kept_RK.masked_fill(unused_RK, -torch.inf),
        num_kept_R=num_kept_R,
        num_classes_R=num_classes_R,
        lse_R=lse_R,
        atoms_RN2=atoms_RN2,
        moments_R2=moments_R2,
        gold_R=gold_R,
    )
    return targets, bad_R


def _padding(logits_RV: Tensor, num_classes_R: Tensor) -> Tensor | None:
    """Columns that are no class of their row; null where all are, if that may be looked at."""
    width = logits_RV.shape[1]
    if may_look(logits_RV) and bool((num_classes_R >= width).all()):
        return None
    return torch.arange(width, device=logits_RV.device)[None, :] >= num_classes_R[:, None]


def _own(logits_RV: Tensor, padding_RV: Tensor | None) -> Tensor:
    """The logits in float32 or wider, -inf in columns that are no class; perhaps themselves, so only to be read."""
    wide_RV = logits_RV if logits_RV.dtype == torch.float64 else logits_RV.float()
    return wide_RV if padding_RV is None else wide_RV.masked_fill(padding_RV, -torch.inf)


def _codes(
    logits_RV: Tensor, padding_RV: Tensor | None, lse_R: Tensor, labels_R: Tensor, num_classes_R: Tensor
) -> Tensor:
    """The rows' codes; a third of the time of `isfinite`: inf makes lse inf, and NaN makes it NaN."""
    if padding_RV is None:
        above_R = logits_RV.amin(dim=1) > -torch.inf
    else:
        count_R = torch.count_nonzero(logits_RV > -torch.inf, dim=1)
        above_R = count_R == num_classes_R.clamp(max=logits_RV.shape[1])
    finite_R = above_R & (lse_R < torch.inf)
    outside_R = (labels_R != IGNORE) & ((labels_R < 0) | (labels_R >= num_classes_R))
    return (~finite_R).to(torch.uint8).masked_fill_(outside_R, LABEL_OUTSIDE)


def _gold(logits_RV: Tensor, lse_R: Tensor, labels_R: Tensor) -> Tensor:
    """Log-probability of the gold class, NaN without a label; a label that is no class gives something."""
    gold_R = logits_RV.gather(1, labels_R.clamp(min=0, max=logits_RV.shape[1] - 1)[:, None])[:, 0] - lse_R
    return torch.where(labels_R != IGNORE, gold_R, torch.nan)


def _largest(logits_RV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their classes, in the order of a stable sort: equal ones in class order."""
    if not may_look(logits_RV):  # slow, but nothing waits for the device
        values_RV, ids_RV = logits_RV.sort(dim=1, descending=True, stable=True)
        return values_RV[:, :k].clone(), ids_RV[:, :k].clone()
    more_RK, ids_RK = logits_RV.topk(min(k + 1, logits_RV.shape[1]), dim=1)  # of equal values topk takes any
    values_RK, ids_RK = more_RK[:, :k], ids_RK[:, :k]
    if more_RK.shape[1] > k:
        rows = ((more_RK[:, k] == more_RK[:, k - 1]) & torch.isfinite(more_RK[:, k])).nonzero()[:, 0]
        if len(rows):
            ids_RK[rows] = _lowest_of_the_last(logits_RV[rows], values_RK[rows], ids_RK[rows])
    if not bool((values_RK[:, 1:] == values_RK[:, :-1]).any()):
        return values_RK, ids_RK
    ids_RK = ids_RK.sort(dim=1).values
    values_RK, order_RK = logits_RV.gather(1, ids_RK).sort(dim=1, descending=True, stable=True)
    return values_RK, ids_RK.gather(1, order_RK)


def _lowest_of_the_last(logits_RV: Tensor, values_RK: Tensor, ids_RK: Tensor) -> Tensor:
    """The classes kept, where more have the last value than are kept: of those the lowest."""
    last_R = values_RK[:, -1]
    above_R = (values_RK > last_R[:, None]).sum(dim=1)
    row_E, class_E = (logits_RV == last_R[:, None]).nonzero().T  # in class order, row after row
    first_R = torch.searchsorted(row_E.contiguous(), torch.arange(len(last_R)))
    place_E = above_R[row_E] + torch.arange(len(row_E)) - first_R[row_E]
    fits_E = place_E < ids_RK.shape[1]
    return ids_RK.index_put((row_E[fits_E], place_E[fits_E]), class_E[fits_E])
