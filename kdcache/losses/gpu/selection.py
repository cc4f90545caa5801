"""The selection by kernels: two passes over the logits, and nothing that waits for the device.

R rows  V classes  T tiles of a row  C places for candidates  K kept  N atoms
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdcache.core.types import NUM_ATOMS
from kdcache.losses.gpu import selection_kernels as kernels
from kdcache.losses.gpu.tail import H, gauss_atoms
from kdcache.losses.tail import MIN_PIVOT
from kdcache.losses.targets import SparseTargets

MAX_KEPT = 256
"""Classes kept of a row, at most: its candidates are sorted in one program."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Of logits."""

ROWS = 1 << 13
"""Rows at a time: their tiles and candidates are 5 to 25 kB each."""
SCAN_BLOCK, COLLECT_BLOCK = 4096, 256
"""Columns a step. `collect` holds eleven float64 sums for each column: two a thread leave room for seven programs."""
H_LOG2E = H * math.log2(math.e)


def select(
    logits_RV: Tensor, labels_R: Tensor, num_classes_R: Tensor, *, top_k: int, top_p: float
) -> tuple[SparseTargets, Tensor]:
    """`kdcache.losses.selection.select_flagged` of rows that are not dense, for top_k <= V and `MAX_KEPT`.

    Args:
        logits_RV: one of `DTYPES`, with as many columns as the widest row has classes.
        labels_R, num_classes_R: int64.
        top_k, top_p: what is kept.
    """
    logits_RV = logits_RV if logits_RV.stride(1) == 1 else logits_RV.contiguous()
    labels_R, num_classes_R = labels_R.contiguous(), num_classes_R.contiguous()
    rows, device = len(logits_RV), logits_RV.device
    ids_RK = torch.empty(rows, top_k, dtype=torch.int64, device=device)
    logprobs_RK = torch.empty(rows, top_k, device=device)
    num_kept_R = torch.empty(rows, dtype=torch.int64, device=device)
    lse_R, gold_R, last_R = (torch.empty(rows, device=device) for _ in range(3))
    bad_R = torch.empty(rows, dtype=torch.uint8, device=device)
    moments_R2 = torch.empty(rows, 2, device=device)
    powers_RJ = torch.empty(rows, 2 * NUM_ATOMS, dtype=torch.float64, device=device)
    with torch.cuda.device_of(logits_RV):  # type: ignore[no-untyped-call]
        for start in range(0, rows, ROWS):
            part = slice(start, start + ROWS)
            _select_rows(
                (logits_RV[part], labels_R[part], num_classes_R[part]),
                (lse_R[part], gold_R[part], bad_R[part]),
                (ids_RK[part], logprobs_RK[part], num_kept_R[part]),
                (last_R[part], powers_RJ[part], moments_R2[part]),
                top_p=top_p,
            )
    targets = SparseTargets(
        ids_RK=ids_RK,
        logprobs_RK=logprobs_RK,
        num_kept_R=num_kept_R,
        num_classes_R=num_classes_R,
        lse_R=lse_R,
        atoms_RN2=gauss_atoms(powers_RJ, last_R, min_pivot=MIN_PIVOT),
        moments_R2=moments_R2,
        gold_R=gold_R,
    )
    return targets, bad_R


def log_partition(logits_RV: Tensor, labels_R: Tensor, num_classes_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`kdcache.losses.selection.log_partition_flagged`, in one pass over the logits."""
    logits_RV = logits_RV if logits_RV.stride(1) == 1 else logits_RV.contiguous()
    labels_R, num_classes_R = labels_R.contiguous(), num_classes_R.contiguous()
    lse_R, gold_R = (torch.empty(len(logits_RV), device=logits_RV.device) for _ in range(2))
    bad_R = torch.empty(len(logits_RV), dtype=torch.uint8, device=logits_RV.device)
    with torch.cuda.device_of(logits_RV):  # type: ignore[no-untyped-call]
        _scan((logits_RV, labels_R, num_classes_R), (lse_R, gold_R, bad_R), None, tile=0)
    return lse_R, gold_R, bad_R


def _select_rows(
    rows: tuple[Tensor, Tensor, Tensor],
    scanned: tuple[Tensor, Tensor, Tensor],
    kept: tuple[Tensor, Tensor, Tensor],
    tail: tuple[Tensor, Tensor, Tensor],
    *,
    top_p: float,
) -> None:
    """Logits, labels and classes to (lse, gold, code), (ids, log-probabilities, number) and (last, powers, moments)."""
    logits_RV, _, num_classes_R = rows
    (num_rows, width), top_k, device = logits_RV.shape, kept[0].shape[1], logits_RV.device
    tile = tile_size(width, top_k)
    places = max(256, 4 * _power_of_two(top_k))
    warps = 1 if places <= 256 else 4  # of what looks at candidates
    num_tiles = -(-width // tile)
    padded = _power_of_two(num_tiles)
    maxima_RT = torch.empty(num_rows, num_tiles, device=device)
    threshold_R = torch.empty(num_rows, device=device)
    count_R = torch.empty(num_rows, dtype=torch.int32, device=device)
    keys_RC, sorted_RC = (torch.empty(num_rows, places, dtype=torch.int64, device=device) for _ in range(2))
    sums_RJ = torch.empty(num_rows, 11, dtype=torch.float64, device=device)

    _scan(rows, scanned, maxima_RT, tile=tile)
    grid = (num_rows,)
    kernels.threshold[grid](
        maxima_RT, num_classes_R, threshold_R, count_R, width, num_tiles, top_k,
        TILE=tile, PADDED=padded, num_warps=1 if padded <= 2048 else 4, enable_fp_fusion=True,
    )  # fmt: skip
    found = (num_classes_R, threshold_R, count_R, keys_RC, sums_RJ)
    kernels.collect[grid](
        logits_RV, *found, logits_RV.stride(0), width,
        H_LOG2E=H_LOG2E, C=places, BLOCK=COLLECT_BLOCK, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    kernels.overflow[grid](
        logits_RV, *found, logits_RV.stride(0), width, top_k,
        H_LOG2E=H_LOG2E, C=places, COUNT_BLOCK=SCAN_BLOCK, BLOCK=2 * COLLECT_BLOCK, num_warps=8, enable_fp_fusion=True,
    )  # fmt: skip
    kernels.rank[grid](keys_RC, count_R, sorted_RC, C=places, num_warps=warps)
    kernels.finish[grid](
        sorted_RC, count_R, threshold_R, num_classes_R, scanned[0], sums_RJ, *kept, *tail, width, top_k,
        TOP_P=top_p, H_LOG2E=H_LOG2E, C=places, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip


def _scan(
    rows: tuple[Tensor, Tensor, Tensor], scanned: tuple[Tensor, Tensor, Tensor], maxima_RT: Tensor | None, *, tile: int
) -> None:
    logits_RV, labels_R, num_classes_R = rows
    num_rows, width = logits_RV.shape
    num_tiles = 0 if maxima_RT is None else maxima_RT.shape[1]
    block = min(SCAN_BLOCK, max(512, _power_of_two(width)))
    kernels.scan[(num_rows,)](
        logits_RV, num_classes_R, labels_R, *scanned, maxima_RT, logits_RV.stride(0), width, num_tiles,
        TILE=tile, BLOCK=block, num_warps=8 if block == SCAN_BLOCK else 4, enable_fp_fusion=True,
    )  # fmt: skip


def tile_size(width: int, top_k: int) -> int:
    """Columns of which the largest logit is kept: 64, fewer where there would not be four tiles for each class kept.

    More tiles give a threshold nearer the k-th logit. So rows down to a quarter of the widest one have tiles enough,
    and shorter ones all their logits as candidates.
    """
    tile = 64
    while tile > 1 and width < 4 * top_k * tile:
        tile //= 2
    while width > 4096 * tile:  # what `threshold` holds of a row
        tile *= 2
    return tile


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()
