"""Which examples of a source split belong to a split: hold-out, then limit. A pure function of (spec, number, seed)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from kdcache.core.errors import DataError
from kdcache.core.order import epoch_order
from kdcache.core.types import Example
from kdcache.data.spec import DatasetSpec, Holdout

HOLDOUT_STREAM, LIMIT_STREAM = 0, 1
"""Two shuffles with one seed must not be the same shuffle."""


def select(spec: DatasetSpec, split: str, examples: Sequence[Example]) -> list[Example]:
    """The examples of a split, in the source's order.

    Splits are held out one after the other, in the order of their names; each is the start of a seeded shuffle of what
    the earlier ones left. What remains is the source split. `limit` then keeps the start of another seeded shuffle, so
    a smaller limit is a subset of a larger one.

    Args:
        spec: the dataset.
        split: one of `spec.splits`.
        examples: the whole source split it comes from.

    Raises:
        DataError: more is held out than there is.
    """
    source = spec.holdout[split].source if split in spec.holdout else split
    remaining = list(range(len(examples)))
    held: dict[str, list[int]] = {}
    for name in sorted(spec.holdout):
        holdout = spec.holdout[name]
        if holdout.source == source:
            held[name] = _hold_out(name, holdout, remaining, examples)
            taken = set(held[name])
            remaining = [i for i in remaining if i not in taken]
    if not remaining:
        raise DataError(f"holding out leaves nothing of the split {source} ({len(examples)} examples); hold out less")
    indices = held.get(split, remaining)
    if split in spec.limit:
        indices = _first(indices, spec.limit[split], seed=spec.seed, stream=LIMIT_STREAM)
    return [examples[i] for i in indices]


def _first(indices: Sequence[int], count: int, *, seed: int, stream: int) -> list[int]:
    """The first `count` of a seeded shuffle, sorted."""
    return sorted(indices[i] for i in epoch_order(len(indices), seed=seed, epoch=stream)[:count])


def _hold_out(name: str, holdout: Holdout, indices: Sequence[int], examples: Sequence[Example]) -> list[int]:
    if holdout.count is not None and holdout.count > len(indices):
        raise DataError(
            f"holdout.{name}.count = {holdout.count:,} is more than the {len(indices):,} examples of {holdout.source}; "
            f"hold out less"
        )
    strata: dict[str | None, list[int]] = {}
    for i in indices:
        key = None if holdout.stratify is None else examples[i].fields.get(holdout.stratify)
        strata.setdefault(key, []).append(i)
    groups = [strata[key] for key in sorted(strata, key=lambda k: (k is not None, k or ""))]
    counts = _shares([len(group) for group in groups], holdout)
    if not sum(counts):
        raise DataError(
            f"holdout.{name}.fraction = {holdout.fraction} of {len(indices):,} examples of {holdout.source} is none; "
            f"hold out more"
        )
    chosen: list[int] = []
    for group, count in zip(groups, counts, strict=True):
        chosen += _first(group, count, seed=holdout.seed, stream=HOLDOUT_STREAM)
    return sorted(chosen)


def _shares(sizes: Sequence[int], holdout: Holdout) -> list[int]:
    """How many to hold out of each stratum: the fraction rounded down, or `count` by largest remainders."""
    if holdout.count is None:
        return [int(Fraction(str(holdout.fraction)) * size) for size in sizes]  # exact: .1 of 70 is 7, not 6
    exact = [Fraction(size * holdout.count, sum(sizes)) for size in sizes]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: holdout.count - sum(counts)]:
        counts[i] += 1
    return counts
