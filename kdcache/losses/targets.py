"""Teacher targets on the device: the padded form of cached rows, and how a teacher's logits become them.

R rows  V classes  K kept (padded)  N atoms
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets, TrainingError
from kdcache.core.types import IGNORE, NUM_ATOMS, SparseRows
from kdcache.losses import tail
from kdcache.losses.head import Head

CHUNK_ELEMENTS = 1 << 23
"""Logits selected at a time: 32 MB of float32, so that no second [R, V] tensor is made."""
CPU_CHUNK_ELEMENTS = 1 << 19
"""On a CPU: 4 MB of float64, which its caches hold, takes a third of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseTargets:
    """Teacher rows as tensors; a dense row is one that keeps all its classes.

    Attributes:
        ids_RK: int64, kept classes; 0 where padded.
        logprobs_RK: float32, log-probabilities at temperature 1, nats; -inf where padded.
        num_kept_R: int64.
        num_classes_R: int64, V of each row.
        lse_R: float32, logsumexp of the teacher's logits.
        atoms_RN2: float32, (position, log weight) of the tail curve; N may be 0 where all rows are dense.
        moments_R2: float32, mean and central variance of `logit - lse` over the tail.
        gold_R: float32, log-probability of the gold class; NaN without a label.
    """

    ids_RK: Tensor
    logprobs_RK: Tensor
    num_kept_R: Tensor
    num_classes_R: Tensor
    lse_R: Tensor
    atoms_RN2: Tensor
    moments_R2: Tensor
    gold_R: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SparseTargets:
        """The same targets on another device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SparseTargets:
        """The same targets in page-locked memory, for asynchronous copies."""
        return self._map(lambda t: t.pin_memory())

    def rows(self, index: Tensor | slice) -> SparseTargets:
        """A subset of the rows."""
        return self._map(lambda t: t[index])

    def _map(self, function: Callable[[Tensor], Tensor]) -> SparseTargets:
        return SparseTargets(**{f.name: function(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenTargets:
    """Teacher rows of the store `hidden`: logits are recomputed through the head, a chunk of rows at a time.

    Attributes:
        hidden_RD: float32, what entered the teacher's head.
        head: of the teacher, on the same device.
        num_classes_R: int64, V of each row.
        gold_R: float32, log-probability of the gold class; NaN without a label.
    """

    hidden_RD: Tensor
    head: Head
    num_classes_R: Tensor
    gold_R: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> HiddenTargets:
        """The same targets on another device, with their head."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking), self.head.to(device))

    def rows(self, index: Tensor | slice) -> HiddenTargets:
        """A subset of the rows."""
        return self._map(lambda t: t[index], self.head)

    def _map(self, function: Callable[[Tensor], Tensor], head: Head) -> HiddenTargets:
        names = [f.name for f in fields(self) if f.name != "head"]
        return HiddenTargets(head=head, **{name: function(getattr(self, name)) for name in names})


Targets = SparseTargets | HiddenTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Rows of two teachers, of the same items in the same order; for cross-entropy.

    Attributes:
        first, second: their rows.
        weight: of the first in [0, 1]; the second has `1 - weight`.
    """

    first: Targets
    second: Targets
    weight: float = 0.5

    def __post_init__(self) -> None:
        one, two = self.first.num_classes_R, self.second.num_classes_R
        if one.shape != two.shape:
            raise IncompatibleTargets(
                f"the first teacher has {len(one)} rows and the second {len(two)}; a mixture needs both of every row"
            )

    @property
    def num_classes_R(self) -> Tensor:
        """V of each row, int64."""
        return torch.maximum(self.first.num_classes_R, self.second.num_classes_R)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Mixture:
        """The same mixture on another device."""
        first, second = (part.to(device, non_blocking=non_blocking) for part in (self.first, self.second))
        return Mixture(first=first, second=second, weight=self.weight)

    def rows(self, index: Tensor | slice) -> Mixture:
        """A subset of the rows."""
        return Mixture(first=self.first.rows(index), second=self.second.rows(index), weight=self.weight)


def from_rows(rows: SparseRows) -> SparseTargets:
    """Cached rows as tensors on the CPU.

    Args:
        rows: what the cache's reader returns.
    """
    return SparseTargets(
        ids_RK=torch.from_numpy(rows.ids.astype(np.int64)),
        logprobs_RK=torch.from_numpy(rows.logprobs.astype(np.float32)),
        num_kept_R=torch.from_numpy(rows.num_kept.astype(np.int64)),
        num_classes_R=torch.from_numpy(rows.num_classes.astype(np.int64)),
        lse_R=torch.from_numpy(np.ascontiguousarray(rows.lse)),
        atoms_RN2=torch.from_numpy(np.ascontiguousarray(rows.atoms)),
        moments_R2=torch.from_numpy(np.ascontiguousarray(rows.moments)),
        gold_R=torch.from_numpy(np.ascontiguousarray(rows.gold)),
    )


def to_rows(targets: SparseTargets, *, rows_per_item: np.ndarray[tuple[int], np.dtype[np.int64]]) -> SparseRows:
    """The form that the cache's writer takes; the inverse of `from_rows`.

    Ids keep their type; log-probabilities do where it is float16, which is what the sparse codecs store, and become
    float32 otherwise. A device may have converted both before the copy.
    """
    cpu = targets.to("cpu")
    logprobs_RK = cpu.logprobs_RK if cpu.logprobs_RK.dtype == torch.float16 else cpu.logprobs_RK.float()
    return SparseRows(
        row_ptr=np.concatenate([[0], np.cumsum(rows_per_item)]).astype(np.int64),
        ids=cpu.ids_RK.numpy(),
        logprobs=logprobs_RK.numpy(),
        num_kept=cpu.num_kept_R.numpy(),
        num_classes=cpu.num_classes_R.numpy().astype(np.int32),
        lse=cpu.lse_R.float().numpy(),
        atoms=cpu.atoms_RN2.float().numpy(),
        moments=cpu.moments_R2.float().numpy(),
        gold=cpu.gold_R.float().numpy(),
    )


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

    Works on a chunk of rows at a time, so that no second [R, V] is made. A dense result has all classes in class order,
    no curve and no moments; otherwise the classes kept come in order of probability.

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
    if top_k < 1:
        raise IncompatibleTargets(f"top_k = {top_k} keeps nothing; it must be at least 1")
    if not 0 < top_p <= 1:
        raise IncompatibleTargets(f"top_p = {top_p:g} is no probability mass; it must lie in (0, 1]")
    widest = int(num_classes_R.max()) if len(num_classes_R) else 0
    _check_labels(labels_R, num_classes_R)
    if widest > logits_RV.shape[1]:
        raise IncompatibleTargets(f"a row has {widest:,} classes, but the teacher gives {logits_RV.shape[1]:,} logits")
    if dense and widest > top_k:
        raise IncompatibleTargets(f"a dense row keeps all its {widest:,} classes, but top_k is {top_k}")
    keep = _Keep(dense=widest <= top_k if dense is None else dense, top_k=min(top_k, widest), top_p=top_p, width=widest)
    limit = CPU_CHUNK_ELEMENTS if logits_RV.device.type == "cpu" else CHUNK_ELEMENTS
    step = max(1, limit // max(1, widest))
    parts = []
    for start in range(0, max(1, logits_RV.shape[0]), step):
        part = slice(start, start + step)
        parts.append(_select_chunk(logits_RV[part, :widest], labels_R[part], num_classes_R[part], keep))
    return SparseTargets(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(SparseTargets)})


def _check_labels(labels_R: Tensor, num_classes_R: Tensor) -> None:
    wrong = (labels_R != IGNORE) & ((labels_R < 0) | (labels_R >= num_classes_R))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise TrainingError(
            f"label {int(labels_R[row])} of row {row} is outside its {int(num_classes_R[row])} classes; "
            f"check the dataset's labels"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keep:
    """What is kept of each row of `width` classes or fewer."""

    dense: bool
    top_k: int
    top_p: float
    width: int


def _select_chunk(logits_RV: Tensor, labels_R: Tensor, num_classes_R: Tensor, keep: _Keep) -> SparseTargets:
    class_V = torch.arange(keep.width, device=logits_RV.device)
    padding_RV = class_V[None, :] >= num_classes_R[:, None]
    wide = logits_RV if logits_RV.dtype == torch.float64 else logits_RV.float()
    logprobs_RV = wide.masked_fill(padding_RV, -torch.inf)
    if not bool((torch.isfinite(logprobs_RV) | padding_RV).all()):
        raise IncompatibleTargets(
            "the teacher gives logits that are not finite to classes of its own; "
            "if its vocabulary is padded, declare the true number of classes"
        )
    lse_R = torch.logsumexp(logprobs_RV, dim=1)
    logprobs_RV -= lse_R[:, None]
    gold_R = logprobs_RV.gather(1, labels_R.clamp(min=0)[:, None])[:, 0]
    gold_R = torch.where(labels_R != IGNORE, gold_R, torch.nan)
    if keep.dense:
        ids_RK, kept_RK, num_kept_R = class_V.repeat(len(lse_R), 1), logprobs_RV, num_classes_R
        atoms_RN2, moments_R2 = lse_R.new_zeros(len(lse_R), 0, 2), lse_R.new_zeros(len(lse_R), 2)
    else:
        kept_RK, ids_RK = logprobs_RV.topk(keep.top_k, dim=1)
        num_kept_R = num_classes_R.clamp(max=keep.top_k)
        if keep.top_p < 1:
            before_RK = kept_RK.exp().cumsum(dim=1, dtype=torch.float64) - kept_RK.exp()
            num_kept_R = torch.minimum(num_kept_R, (before_RK < keep.top_p).sum(dim=1).clamp(min=1))
    unused_RK = torch.arange(ids_RK.shape[1], device=ids_RK.device)[None, :] >= num_kept_R[:, None]
    if not keep.dense:
        # Unused places point at the first class, which is kept anyway.
        in_tail_RV = ~padding_RV
        in_tail_RV.scatter_(1, torch.where(unused_RK, ids_RK[:, :1], ids_RK), False)
        last_R = kept_RK.gather(1, (num_kept_R - 1)[:, None])[:, 0]
        atoms_RN2 = tail.gauss_atoms(logprobs_RV, in_tail_RV, last_R, num_atoms=NUM_ATOMS)
        moments_R2 = tail.moments(logprobs_RV, in_tail_RV)
    return SparseTargets(
        ids_RK=ids_RK.masked_fill(unused_RK, 0),
        logprobs_RK=kept_RK.masked_fill(unused_RK, -torch.inf),
        num_kept_R=num_kept_R,
        num_classes_R=num_classes_R,
        lse_R=lse_R,
        atoms_RN2=atoms_RN2,
        moments_R2=moments_R2,
        gold_R=gold_R,
    )
