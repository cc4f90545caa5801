"""How closely a student follows its teacher on the validation rows that the cache holds: agreement and KL divergence.

R rows  V classes  K kept
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from kdcache.cache.reader import Cache
from kdcache.core.errors import IncompatibleTargets
from kdcache.core.types import Item
from kdcache.losses.objective import Objective
from kdcache.losses.packed import Teacher
from kdcache.losses.targets import SparseTargets, Targets
from kdcache.tasks.base import Beside, Reading

SPLIT = "validation"
CROSS_ENTROPY = Objective(loss="ce", tau_t=1.0, tau_s=1.0, tail="bucket")
"""Less the teacher's entropy it is KL(teacher || student). The tail counts as one class on both sides: with a uniform
tail the value would bound nothing, and a student that is its teacher would not have 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRows:
    """A teacher's validation rows, for any number of evaluations.

    Each batch reads its own. Nothing is held but the decoded blocks that the open cache keeps, so a block is decoded
    once an evaluation, or once a training, where the cache's budget has room for the split.

    Attributes:
        cache: with the rows.
        teacher: its name there.
        index: uid -> index in the cache's plan.
    """

    cache: Cache
    teacher: str
    index: Mapping[str, int]
    _tables: Teacher = field(default_factory=Teacher, repr=False, compare=False)

    def beside(self, items: Sequence[Item], logits_RV: Tensor) -> list[Beside]:
        """Each item's rows beside the teacher's.

        Args:
            items: of a batch.
            logits_RV: of the student, float32, all rows of these items.
        """
        packed = self.cache.packed(self.teacher, np.array([self.index[item.uid] for item in items], dtype=np.int64))
        targets = self._tables.unpack(packed, logits_RV.device)
        best_R = most_probable(targets).cpu().numpy()
        kl_R = kl(logits_RV, targets).double().cpu().numpy()
        ends = packed.row_ptr[1:-1]
        parts = zip(np.split(best_R, ends), np.split(kl_R, ends), strict=True)
        return [Beside(best_R=best, kl_R=nats) for best, nats in parts]


def teacher_rows(cache: Cache, teachers: Sequence[str], items: Sequence[Item]) -> TeacherRows | None:
    """The rows that a student can be set beside.

    Args:
        cache: with the teacher's rows.
        teachers: that the student learns from, by their names there.
        items: of the validation split, as the student reads them.

    Returns:
        None where there is nothing to set side by side: no teacher or a mixture; a cache that lacks the split, or keeps
        hidden states instead of classes; examples that another tokenizer cut into other rows or classes.
    """
    if len(teachers) != 1 or SPLIT not in cache.plan.splits or cache.teacher(teachers[0]).row_format.store != "topk":
        return None
    indices = cache.plan.indices(SPLIT)
    theirs = cache.items(indices)
    if [item.uid for item in theirs] != [item.uid for item in items]:
        return None
    if not all(np.array_equal(a.classes_R, b.classes_R) for a, b in zip(theirs, items, strict=True)):
        return None
    index = {item.uid: i for item, i in zip(items, indices.tolist(), strict=True)}
    return TeacherRows(cache=cache, teacher=teachers[0], index=index)


def most_probable(targets: Targets) -> Tensor:
    """The teacher's most probable class of each row, int64 [R]; at a tie the first that is stored.

    Raises:
        IncompatibleTargets: rows of store hidden.
    """
    if not isinstance(targets, SparseTargets):
        raise IncompatibleTargets("rows of store hidden keep no class; use rows of store topk to ask for agreement")
    return targets.ids_RK.gather(1, targets.logprobs_RK.argmax(dim=1, keepdim=True))[:, 0]


def kl(logits_RV: Tensor, targets: Targets) -> Tensor:
    """KL(teacher || student) at temperature 1, nats, float32 [R].

    Exact for rows that are dense or hidden. A sparse row has its k classes and one for all others, with the mass of the
    stored tail curve: a lower bound of the divergence over all classes (data processing inequality), up to the rounding
    of the codec. What it leaves out is how differently the two spread the mass within the tail.

    Example:
        >>> import torch
        >>> from kdcache.losses.selection import select
        >>> teacher = select(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([2]), top_k=2)  # (1/2, 1/2)
        >>> round(kl(torch.tensor([[1.0, 3.0]]).log(), teacher).item(), 4)  # against (1/4, 3/4)
        0.1438
    """
    return CROSS_ENTROPY.above_floor(logits_RV, targets)


def means(readings: Sequence[Reading]) -> dict[str, float]:
    """`agreement`, a share in [0, 1], and `kl`, nats: means over all rows; empty where nothing was set beside them."""
    found = [(reading.facts, reading.beside) for reading in readings if reading.beside is not None]
    num_rows = sum(len(beside.kl_R) for _, beside in found)
    if not num_rows:
        return {}
    agreed = sum(int((facts.best_R == beside.best_R).sum()) for facts, beside in found)
    nats = sum(float(beside.kl_R.sum()) for _, beside in found)
    return {"agreement": agreed / num_rows, "kl": max(0.0, nats / num_rows)}  # rounding may put an equal one below 0
