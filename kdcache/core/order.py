"""The order of training items as a pure function of (number of items, lengths, seed, epoch).

The same items stand in the same step at any world size and any number of threads, and a step can be entered without
replaying those before it. The hash is our own: library generators are not stable across versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import ConfigError

# N items  B items of a step

WINDOW_STEPS = 16
"""Global batches that are sorted by length together: padding falls to a few per cent, order stays random."""


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One SplitMix64 output for each input (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def hash_keys(count: int, *, seed: int, stream: int) -> NDArray[np.uint64]:
    """`count` hashed keys of the stream (seed, stream), uint64 [count]; equal for ever on every platform."""
    if seed is None or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ConfigError(f"shuffling needs a seed from 0 to 2^63 - 1, not {seed!r}")
    base = _splitmix64(np.array([seed], dtype=np.uint64))
    base = _splitmix64(base ^ np.uint64(stream))
    return _splitmix64(base ^ np.arange(count, dtype=np.uint64))


def epoch_order(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(count), int64.

    Example:
        >>> sorted(epoch_order(4, seed=0, epoch=0).tolist())
        [0, 1, 2, 3]
    """
    return np.argsort(hash_keys(count, seed=seed, stream=epoch), kind="stable").astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One micro-batch of one rank. Weight-0 items fill it where a step has too few.

    Attributes:
        items: int64, indices into the split.
        weights: float32, 1 for an item of the step, 0 for a filler.
    """

    items: NDArray[np.int64]
    weights: NDArray[np.float32]


def num_steps(count: int, batch_size: int) -> int:
    """Optimiser steps of an epoch; the last may be short."""
    return -(-count // batch_size)


def epoch_steps(lengths_N: NDArray[np.int64], *, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The global batches of an epoch, in training order.

    Windows of `WINDOW_STEPS` batches are sorted by length, cut into batches, and the batches are shuffled.

    Args:
        lengths_N: tokens of each item.
        batch_size: items of a step over all ranks and accumulation steps.
        seed: of the run.
        epoch: from 0.

    Returns:
        One int64 array of item indices a step; each item once an epoch. Only one batch may be short.
    """
    order = epoch_order(len(lengths_N), seed=seed, epoch=epoch)
    window = batch_size * WINDOW_STEPS
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(lengths_N[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    keys = hash_keys(len(batches), seed=seed, stream=(1 << 32) + epoch)
    return [batches[i] for i in np.argsort(keys, kind="stable")]


def num_rounds(batch_size: int, *, micro_batch_size: int, world_size: int) -> int:
    """Micro-batches a rank runs in every step, the short one too: the accumulation steps."""
    return -(-batch_size // (micro_batch_size * world_size))


def deal(
    step: NDArray[np.int64],
    lengths_N: NDArray[np.int64],
    *,
    rounds: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
) -> list[Slot]:
    """This rank's micro-batches of a step: every rank gets `rounds`, and each item of the step is dealt once.

    Example:
        >>> step, lengths = np.array([5, 6, 7]), np.ones(8, dtype=np.int64)
        >>> slot, = deal(step, lengths, rounds=1, micro_batch_size=2, rank=1, world_size=2)
        >>> slot.items.tolist(), slot.weights.tolist()
        ([7, 5], [1.0, 0.0])
    """
    step = step[np.argsort(lengths_N[step], kind="stable")]
    slots = []
    for r in range(rounds):
        start = (r * world_size + rank) * micro_batch_size
        items = step[start : start + micro_batch_size]
        filler = np.full(micro_batch_size - len(items), step[0], dtype=np.int64)
        weights = np.concatenate([np.ones(len(items)), np.zeros(len(filler))]).astype(np.float32)
        slots.append(Slot(items=np.concatenate([items, filler]), weights=weights))
    return slots
