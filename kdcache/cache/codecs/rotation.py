"""The fixed random rotation of codec `int8`: spreads what a few large coordinates hold over all of them.

    y = x;  for the windows [0, P) and [D - P, D), P the largest power of two <= D:
        y[window] = H_P (signs[window] * y[window]) / sqrt(P)

`H_P` is the Walsh-Hadamard matrix in natural order, `H_2n = [[H_n, H_n], [H_n, -H_n]]`. The windows overlap by at least
one coordinate unless P = D, where the second is left out. The signs of window w are the top bits of
`core.order.hash_keys(D, seed=seed, stream=w)`: bit 1 is -1; indices into them are those of the vector's coordinates.
Orthogonal: the inverse runs the windows backwards, transform first, signs after.

Shape suffixes: R rows  D hidden size  P window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdcache.core.order import hash_keys


def rotate(vectors_RD: NDArray[np.float32], *, seed: int) -> NDArray[np.float32]:
    """Rotated vectors, float32 [R, D]."""
    rotated = vectors_RD.astype(np.float32, copy=True)
    for window, signs_P in _windows(rotated.shape[1], seed):
        rotated[:, window] = _hadamard(rotated[:, window] * signs_P)
    return rotated


def rotate_back(vectors_RD: NDArray[np.float32], *, seed: int) -> NDArray[np.float32]:
    """The inverse of `rotate`.

    Example:
        >>> x = np.arange(6, dtype=np.float32)[None]
        >>> np.allclose(rotate_back(rotate(x, seed=1), seed=1), x, atol=1e-6)
        True
    """
    vectors = vectors_RD.astype(np.float32, copy=True)
    for window, signs_P in reversed(_windows(vectors.shape[1], seed)):
        vectors[:, window] = _hadamard(vectors[:, window]) * signs_P
    return vectors


def _windows(size: int, seed: int) -> list[tuple[slice, NDArray[np.float32]]]:
    width = 1 << (size.bit_length() - 1)
    starts = [0] if width == size else [0, size - width]
    windows = []
    for number, start in enumerate(starts):
        top_bit_D = hash_keys(size, seed=seed, stream=number) >> np.uint64(63)
        signs_D = 1 - 2 * top_bit_D.astype(np.float32)
        windows.append((slice(start, start + width), signs_D[start : start + width]))
    return windows


def _hadamard(vectors_RP: NDArray[np.float32]) -> NDArray[np.float32]:
    """H_P x / sqrt(P) of each row, by butterflies."""
    num_rows, size = vectors_RP.shape
    done = np.ascontiguousarray(vectors_RP)
    half = 1
    while half < size:
        pairs = done.reshape(num_rows, size // (2 * half), 2, half)
        done = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        done = done.reshape(num_rows, size)
        half *= 2
    return done * np.float32(size**-0.5)
