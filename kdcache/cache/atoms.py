"""Quantisation of the tail curve's atoms: 4 bytes an atom, 20 a row (docs/losses.md). `losses` computes them.

Position: uint16 steps of 2^-10 nats below 0, range 64; a row with an atom further down doubles its step until it fits,
and its `atom_shift` counts the doublings. Weight: uint16 steps over [-32, 0] of `log weight - log(V - k)`; the largest
code marks an unused atom.

Shape suffixes: R rows  N atoms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import CacheDamaged, CacheError

POSITION_STEP = 2.0**-10
LARGEST_SHIFT = 16
WEIGHT_RANGE = 32.0
UNUSED = np.uint16(0xFFFF)
_WEIGHT_CODES = 0xFFFE
_SLACK = 1e-3


def encode_atoms(
    atoms_RN2: NDArray[np.float32], num_tail_R: NDArray[np.signedinteger[Any]]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Quantise atoms.

    Args:
        atoms_RN2: (position, log weight), float32 [R, N, 2], nats; log weight -inf is an unused atom.
        num_tail_R: classes in the tail, V - k, int64 [R].

    Returns:
        Codes, uint16 [R, N, 2], and doublings of the position step, uint8 [R].

    Raises:
        CacheError: a position above 0 or below -2^22, NaN, or weights that exceed the tail.
    """
    position_RN, log_weight_RN = atoms_RN2[..., 0].astype(np.float64), atoms_RN2[..., 1].astype(np.float64)
    used_RN = log_weight_RN > -np.inf
    depth_RN = np.where(used_RN, -position_RN, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess_RN = np.where(used_RN, log_weight_RN - np.log(num_tail_R)[:, None], 0.0)
    _check_atoms(depth_RN, excess_RN)
    depth_RN, excess_RN = depth_RN.clip(min=0.0), excess_RN.clip(-WEIGHT_RANGE, 0.0)
    deepest_R = depth_RN.max(axis=1, initial=0.0)
    largest = 0xFFFF * POSITION_STEP
    shift_R = np.ceil(np.log2(np.maximum(deepest_R / largest, 1.0))).astype(np.uint8)
    step_R = POSITION_STEP * 2.0**shift_R
    codes = np.empty(atoms_RN2.shape, dtype=np.uint16)
    codes[..., 0] = np.rint(depth_RN / step_R[:, None])
    codes[..., 1] = np.where(used_RN, np.rint(-excess_RN * (_WEIGHT_CODES / WEIGHT_RANGE)), UNUSED)
    return codes, shift_R


def _check_atoms(depth_RN: NDArray[np.float64], excess_RN: NDArray[np.float64]) -> None:
    bad_R = ~((depth_RN > -_SLACK) & (depth_RN < 2.0**22) & (excess_RN < _SLACK)).all(axis=1)
    if bad_R.any():
        r = int(np.flatnonzero(bad_R)[0])
        raise CacheError(
            f"the tail curve of row {r} has positions {(-depth_RN[r]).tolist()} and weights over V - k of "
            f"{excess_RN[r].tolist()} (log); positions must lie in [-2^22, 0] and weights must not exceed V - k"
        )


def decode_atoms(
    codes_RN2: NDArray[np.uint16], shift_R: NDArray[np.uint8], num_tail_R: NDArray[np.signedinteger[Any]]
) -> NDArray[np.float32]:
    """Atoms from their codes; the weights of a row are normalised to add up to V - k again.

        log weight -= logsumexp(log weight) - log(V - k)

    Args:
        codes_RN2: uint16 [R, N, 2].
        shift_R: uint8 [R].
        num_tail_R: V - k, int64 [R]; a row without a tail has only unused atoms.

    Returns:
        (position, log weight), float32 [R, N, 2].

    Raises:
        CacheDamaged: a shift out of range, a tail without atoms, atoms without a tail.

    Example:
        >>> codes, shift = encode_atoms(np.array([[[-2.0, 0.0]]], dtype=np.float32), np.array([1]))
        >>> decode_atoms(codes, shift, np.array([1])).tolist()
        [[[-2.0, 0.0]]]
    """
    used_RN = codes_RN2[..., 1] != UNUSED
    if codes_RN2.shape[1] and (used_RN.any(axis=1) != (num_tail_R > 0)).any():
        raise CacheDamaged("a row has a tail but no atoms, or atoms but no tail")
    if (shift_R > LARGEST_SHIFT).any():
        raise CacheDamaged(f"an atom shift of {int(shift_R.max())}; at most {LARGEST_SHIFT} is possible")
    step_R = POSITION_STEP * 2.0**shift_R
    weight_RN = np.where(used_RN, np.exp(codes_RN2[..., 1] * (-WEIGHT_RANGE / _WEIGHT_CODES)), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share_RN = weight_RN / weight_RN.sum(axis=1, keepdims=True)
        log_weight_RN = np.where(used_RN, np.log(share_RN) + np.log(num_tail_R)[:, None], -np.inf)
    atoms_RN2 = np.empty(codes_RN2.shape, dtype=np.float32)
    atoms_RN2[..., 0] = np.where(used_RN, codes_RN2[..., 0] * -step_R[:, None], 0.0)
    atoms_RN2[..., 1] = log_weight_RN
    return atoms_RN2
