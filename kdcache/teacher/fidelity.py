"""How faithful a store is: gradient of a student's loss from stored rows against the dense float64 gradient.

Both are gradients with respect to the student's logits, over the same rows of the user's own data. Rows go through the
cache's own codecs. Errors are relative L2 norms over all rows: |g - g*| / |g*|; the cosine is that of g and g*.

R rows  V classes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdcache.core.configuration import Configuration
from kdcache.core.row_format import RowFormat
from kdcache.core.types import PackedRows
from kdcache.losses.head import Head
from kdcache.losses.objective import Objective
from kdcache.losses.rule import judge
from kdcache.losses.targets import SparseTargets, Targets
from kdcache.teacher.roundtrip import Tables, stored_bytes, targets_of, through
from kdcache.teacher.stores import Outputs

CHUNK_ELEMENTS = 1 << 22
"""Logits whose gradients are compared at a time: 32 MB of float64."""
TARGET_KL = 0.5
"""Mean KL divergence, nats, from the teacher to a student made of noise."""
SCALE_ROWS = 32
"""Rows of the first batch on which the noise is scaled."""
LARGEST_NOISE = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows of one batch.

    Attributes:
        outputs: of the teacher; logits cut to the true V.
        student_RV: a student's logits of the same rows, float32.
    """

    outputs: Outputs
    student_RV: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One store under one configuration.

    Attributes:
        error: |g - g*| / |g*|.
        cosine: of g and g*.
        kind: `exact`, `bounded` or `approximate`: what the rule says (docs/losses.md).
    """

    error: float
    cosine: float
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreResult:
    """One store under every configuration, in the grid's order."""

    variant: RowFormat
    bytes_per_row: float
    cells: tuple[Cell, ...]

    @property
    def worst(self) -> float:
        """The largest error."""
        return max(cell.error for cell in self.cells)


@dataclass(slots=True)
class _Sums:
    """Squared norms and products, summed over rows in float64."""

    difference: float = 0.0
    product: float = 0.0
    own: float = 0.0
    reference: float = 0.0

    def add(self, found_RV: Tensor, reference_RV: Tensor) -> None:
        found = found_RV.double()
        self.difference += float((found - reference_RV).square().sum())
        self.product += float((found * reference_RV).sum())
        self.own += float(found.square().sum())
        self.reference += float(reference_RV.square().sum())

    @property
    def error(self) -> float:
        return float(np.sqrt(self.difference / self.reference)) if self.reference else 0.0

    @property
    def cosine(self) -> float:
        return float(self.product / np.sqrt(self.own * self.reference)) if self.own and self.reference else 1.0


@dataclass(slots=True)
class _Tally:
    """What is kept of a variant while batches go by."""

    sums: list[_Sums]
    packed: list[PackedRows] = field(default_factory=list)


def measure(
    samples: Iterable[Sample],
    grid: Sequence[Configuration],
    variants: Sequence[RowFormat],
    *,
    tables: Mapping[str, Tables],
    head: Head | None,
    chunk_rows: int,
) -> list[StoreResult]:
    """Errors and bytes of each variant under each configuration.

    Args:
        samples: batches of rows.
        grid: configurations of loss and temperatures.
        variants: ways to keep a row.
        tables: codec -> what its rows share.
        head: the teacher's output head; for hidden variants.
        chunk_rows: of a cache of these items.

    Raises:
        IncompatibleTargets: teacher logits that are not finite.
        CacheError: rows that a codec cannot hold.
    """
    tallies = [_Tally([_Sums() for _ in grid]) for _ in variants]
    for sample in samples:
        outputs = sample.outputs
        targets = []
        for variant, tally in zip(variants, tallies, strict=True):
            packed = through(outputs, variant, tables.get(variant.codec, {}))
            tally.packed.append(packed)
            targets.append(targets_of(packed, head=head, device=outputs.logits_RV.device))
        for i, part, reference_RV in _references(sample, grid):
            student_RV = sample.student_RV[part]
            for variant, tally, found in zip(variants, tallies, targets, strict=True):
                gradient_RV = gradient(_objective(grid[i], variant), student_RV, found.rows(part))
                tally.sums[i].add(gradient_RV, reference_RV)
    return [
        StoreResult(
            variant=variant,
            bytes_per_row=stored_bytes(tally.packed, compressor=variant.compressor, chunk_rows=chunk_rows),
            cells=tuple(
                Cell(error=sums.error, cosine=sums.cosine, kind=judge(configuration, variant).kind)
                for configuration, sums in zip(grid, tally.sums, strict=True)
            ),
        )
        for variant, tally in zip(variants, tallies, strict=True)
    ]


def _references(sample: Sample, grid: Sequence[Configuration]) -> Iterator[tuple[int, slice, Tensor]]:
    """(configuration, rows, dense float64 gradient), a chunk of rows at a time."""
    outputs = sample.outputs
    step = max(1, CHUNK_ELEMENTS // outputs.logits_RV.shape[1])
    for start in range(0, len(outputs.logits_RV), step):
        part = slice(start, start + step)
        dense = dense_targets(outputs.logits_RV[part], outputs.num_classes_R[part])
        for i, configuration in enumerate(grid):
            yield i, part, gradient(Objective.of(configuration), sample.student_RV[part].double(), dense)


def dense_targets(logits_RV: Tensor, num_classes_R: Tensor) -> SparseTargets:
    """All classes of each row in float64: what no store can be better than."""
    num_rows, width = logits_RV.shape
    class_RV = torch.arange(width, device=logits_RV.device).expand(num_rows, width)
    masked_RV = logits_RV.double().masked_fill(class_RV >= num_classes_R[:, None], -torch.inf)
    lse_R = torch.logsumexp(masked_RV, dim=1)
    return SparseTargets(
        ids_RK=class_RV.masked_fill(class_RV >= num_classes_R[:, None], 0),
        logprobs_RK=masked_RV - lse_R[:, None],
        num_kept_R=num_classes_R,
        num_classes_R=num_classes_R,
        lse_R=lse_R,
        atoms_RN2=lse_R.new_zeros(num_rows, 0, 2),
        moments_R2=lse_R.new_zeros(num_rows, 2),
        gold_R=torch.full_like(lse_R, torch.nan),
    )


def gradient(objective: Objective, student_RV: Tensor, targets: Targets) -> Tensor:
    """d(sum of the rows' losses)/d(student logits), [R, V], in the student's dtype."""
    with torch.enable_grad():
        leaf = student_RV.detach().clone().requires_grad_(True)
        (found,) = torch.autograd.grad(objective.rows(leaf, targets).sum(), leaf)
    return found


def _objective(configuration: Configuration, variant: RowFormat) -> Objective:
    return Objective.of(configuration, tail=judge(configuration, variant).tail)


def noisy_student(logits_RV: Tensor, *, scale: float, generator: torch.Generator) -> Tensor:
    """A student that disagrees with its teacher: independent Gaussian noise on every logit, float32 [R, V]."""
    noise = torch.randn(logits_RV.shape, generator=generator).to(logits_RV.device)
    return logits_RV.float() + scale * noise


def noise_scale(logits_RV: Tensor, num_classes_R: Tensor, *, seed: int) -> float:
    """Standard deviation of the noise, nats, at which the student's mean KL divergence is `TARGET_KL`; by bisection."""
    low, high = 0.0, LARGEST_NOISE
    few = slice(0, SCALE_ROWS)
    for _ in range(24):
        middle = (low + high) / 2
        student_RV = noisy_student(logits_RV[few], scale=middle, generator=torch.Generator().manual_seed(seed))
        too_far = float(kl(logits_RV[few], student_RV, num_classes_R[few]).mean()) > TARGET_KL
        low, high = (low, middle) if too_far else (middle, high)
    return (low + high) / 2


def kl(teacher_RV: Tensor, student_RV: Tensor, num_classes_R: Tensor) -> Tensor:
    """KL divergence of the student from the teacher at temperature 1, nats, float64 [R]."""
    outside_RV = _outside(teacher_RV, num_classes_R)
    log_p_RV = torch.log_softmax(teacher_RV.double().masked_fill(outside_RV, -torch.inf), dim=1)
    log_q_RV = torch.log_softmax(student_RV.double().masked_fill(outside_RV, -torch.inf), dim=1)
    return (log_p_RV.exp() * (log_p_RV - log_q_RV).masked_fill(outside_RV, 0.0)).sum(dim=1)


def agreement(teacher_RV: Tensor, student_RV: Tensor, num_classes_R: Tensor) -> Tensor:
    """1 where both have the same most probable class, else 0; float32 [R]."""
    outside_RV = _outside(teacher_RV, num_classes_R)
    best = [logits_RV.masked_fill(outside_RV, -torch.inf).argmax(dim=1) for logits_RV in (teacher_RV, student_RV)]
    return (best[0] == best[1]).float()


def _outside(logits_RV: Tensor, num_classes_R: Tensor) -> Tensor:
    """Columns beyond a row's classes."""
    return torch.arange(logits_RV.shape[1], device=logits_RV.device)[None, :] >= num_classes_R[:, None]
