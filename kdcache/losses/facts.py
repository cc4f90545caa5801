"""What must be known of a batch's rows before anything is computed: found where batches are made, on the CPU.

A loss that had to look for it on the device would wait for the device in every step.

R rows
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.core.types import IGNORE
from kdcache.losses.targets import Mixture, SparseTargets, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of the rows of a batch.

    Attributes:
        width: the largest V of any row.
        ragged: rows differ in V.
        unlabelled: some row may have no label.
        fillers: some row may have another weight than 1; with the weight 0 it may hold anything.
        has_tail: some row of a teacher may keep fewer classes than it has.
        wrong_label: what is wrong with the first label outside its row's classes; empty where none is.
    """

    width: int
    ragged: bool
    unlabelled: bool
    fillers: bool
    has_tail: bool
    wrong_label: str = ""


def find(
    labels_R: NDArray[np.int64],
    classes_R: NDArray[np.int64],
    weights_R: NDArray[np.float32] | None = None,
    *,
    has_tail: bool,
) -> Facts:
    """The facts of rows whose labels and classes are on the CPU.

    Args:
        labels_R: gold classes or `IGNORE`.
        classes_R: V of each row.
        weights_R: 0 for fillers; null where there are none.
        has_tail: of the teacher's rows; False without a teacher.

    Example:
        >>> find(np.array([1, -100]), np.array([3, 2]), has_tail=False)
        Facts(width=3, ragged=True, unlabelled=True, fillers=False, has_tail=False, wrong_label='')
        >>> find(np.array([3]), np.array([3]), has_tail=False).wrong_label
        'label 3 of row 0 is outside its 3 classes'
    """
    labelled_R = labels_R != IGNORE
    wrong = np.flatnonzero(labelled_R & ((labels_R < 0) | (labels_R >= classes_R)))
    problem = ""
    if len(wrong):
        r = int(wrong[0])
        problem = f"label {int(labels_R[r])} of row {r} is outside its {int(classes_R[r])} classes"
    return Facts(
        width=int(classes_R.max(initial=0)),
        ragged=bool((classes_R != classes_R[:1]).any()),
        unlabelled=not labelled_R.all(),
        fillers=weights_R is not None and bool((weights_R != 1).any()),
        has_tail=has_tail,
        wrong_label=problem,
    )


def look(labels_R: Tensor, weights_R: Tensor | None, targets: Targets | Mixture | None, *, width: int) -> Facts:
    """The facts of rows that are on a device already; waits for it.

    Args:
        labels_R: int64, gold classes or `IGNORE`.
        weights_R: 0 for fillers; null where there are none.
        targets: the teacher's rows; null where every row has `width` classes.
        width: classes of the student.
    """
    classes_R = torch.full_like(labels_R, width) if targets is None else targets.num_classes_R.to(labels_R)
    weights = torch.ones_like(labels_R) if weights_R is None else (weights_R == 1).to(labels_R)
    tail_R = _tail(targets, labels_R)
    labels, classes, weighted, tail = torch.stack([labels_R, classes_R, weights, tail_R]).cpu().numpy()
    return find(labels, classes, weighted.astype(np.float32), has_tail=bool(tail.any()))


def _tail(targets: Targets | Mixture | None, like_R: Tensor) -> Tensor:
    """1 where a row keeps fewer classes than it has, [R]."""
    if isinstance(targets, SparseTargets):
        return (targets.num_classes_R > targets.num_kept_R).to(like_R)
    if isinstance(targets, Mixture):
        return torch.maximum(_tail(targets.first, like_R), _tail(targets.second, like_R))
    return torch.zeros_like(like_R)
