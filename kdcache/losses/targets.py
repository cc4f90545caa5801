"""Teacher targets on the device: the padded form of cached rows.

R rows  V classes  D hidden size  K kept (padded)  N atoms
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets
from kdcache.core.types import SparseRows
from kdcache.losses.head import Head


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
        hidden_RD: what entered the teacher's head, in the type that it was stored in; of int8 float32.
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
