"""The tail curve by a kernel: one launch for all rows, and nothing that waits for the device.

R rows  N atoms  J power sums
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdcache.core.types import NUM_ATOMS
from kdcache.losses.gpu import tail_kernels as kernels

H = 2.0 / (2 * NUM_ATOMS + 1)
ROWS = 32
"""A program: one warp, so that a few thousand rows keep all of a GPU busy."""
SWEEPS = 6
"""Of Jacobi rotations: they converge quadratically; five make 2,100 matrices of tails diagonal to the last bit."""


def gauss_atoms(powers_RJ: Tensor, last_kept_R: Tensor, *, min_pivot: float) -> Tensor:
    """`NUM_ATOMS` atoms (position, log weight) of each tail from its power sums; float32 [R, N, 2].

    Args:
        powers_RJ: float64, J = 2 N, about the last kept class.
        last_kept_R: its log-probability, float32, nats.
        min_pivot: the smallest pivot that is trusted.
    """
    rows = len(powers_RJ)
    atoms_RN2 = torch.empty(rows, NUM_ATOMS, 2, device=powers_RJ.device)
    with torch.cuda.device_of(powers_RJ):  # type: ignore[no-untyped-call]
        kernels.gauss[(-(-rows // ROWS),)](
            powers_RJ.contiguous(), last_kept_R.contiguous(), atoms_RN2, rows,
            H=H, MIN_PIVOT=min_pivot, SWEEPS=SWEEPS, BLOCK=ROWS, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return atoms_RN2
