"""The fixed random rotation of codec `int8`, backwards, on the device. Defined in `cache/codecs/rotation.py`.

    for the windows [D - P, D), [0, P), P the largest power of two <= D (one window where P = D):
        y[window] = signs[window] * (H_P y[window]) / sqrt(P)

The same additions in the same order as there, so the same bits; a test holds both to each other.

R rows  D hidden size  P window
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.core.order import hash_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Coordinates `start`, `start + 1`, ... and their signs, float32 [P]."""

    start: int
    signs_P: Tensor


def windows(size: int, *, seed: int, device: torch.device | str) -> tuple[Window, ...]:
    """The windows of a rotation in the order in which `rotate` goes through them.

    Args:
        size: D.
        seed: of the rotation.
        device: where the signs go.
    """
    width = 1 << (size.bit_length() - 1)
    starts = [0] if width == size else [0, size - width]
    found = []
    for number, start in enumerate(starts):
        top_bit_D = hash_keys(size, seed=seed, stream=number) >> np.uint64(63)
        signs_D = 1 - 2 * top_bit_D.astype(np.float32)
        found.append(Window(start=start, signs_P=torch.from_numpy(signs_D[start : start + width].copy()).to(device)))
    return tuple(found)


def rotate_back(vectors_RD: Tensor, rotation: tuple[Window, ...]) -> Tensor:
    """The vectors before their rotation, float32 [R, D].

    Example:
        >>> rotate_back(torch.eye(2), windows(2, seed=0, device="cpu")).norm(dim=1).round(decimals=4).tolist()
        [1.0, 1.0]
    """
    vectors_RD = vectors_RD.clone()
    for window in reversed(rotation):
        part = slice(window.start, window.start + len(window.signs_P))
        vectors_RD[:, part] = _hadamard(vectors_RD[:, part]) * window.signs_P
    return vectors_RD


def _hadamard(vectors_RP: Tensor) -> Tensor:
    """H_P x / sqrt(P) of each row, by butterflies."""
    num_rows, size = vectors_RP.shape
    done = vectors_RP.contiguous()
    half = 1
    while half < size:
        left, right = done.reshape(num_rows, -1, 2, half).unbind(dim=2)
        done = torch.stack([left + right, left - right], dim=2).reshape(num_rows, size)
        half *= 2
    return done * np.float32(size**-0.5).item()
