"""Matrix products of 16-bit factors that are summed in float32, where this build of PyTorch has them.

V classes  D hidden size  C rows of a chunk
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def add_product(sum_VD: Tensor, first_VC: Tensor, second_CD: Tensor) -> None:
    """`sum += first @ second`, in place.

    A CPU multiplies in float32. Where another device has no product that is added in float32, it is rounded to 16 bits
    first, once a chunk: still far better than a sum in 16 bits.

    Args:
        sum_VD: float32.
        first_VC, second_CD: float32, or both of one 16-bit type.
    """
    if first_VC.dtype == sum_VD.dtype:
        sum_VD.addmm_(first_VC, second_CD)
    elif sum_VD.device.type == "cpu":
        sum_VD.addmm_(first_VC.to(sum_VD.dtype), second_CD.to(sum_VD.dtype))
    elif _mixed(sum_VD.device, first_VC.dtype):
        _add_mixed(sum_VD, first_VC, second_CD)
    else:
        sum_VD.add_(first_VC @ second_CD)


def _add_mixed(sum_VD: Tensor, first_VC: Tensor, second_CD: Tensor) -> None:
    torch.ops.aten.addmm.dtype_out(sum_VD, first_VC, second_CD, sum_VD.dtype, out=sum_VD)


@functools.cache
def _mixed(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a 16-bit product can be added to float32 in one operation: tried once on small numbers, so known.

    The trial waits for the device, so it has to be over before a step is captured: the eager steps before it do that.
    """
    first, second = torch.ones(16, 8, dtype=dtype, device=device), torch.ones(8, 32, dtype=dtype, device=device)
    found = torch.full((16, 32), 0.5, device=device)
    try:
        _add_mixed(found, first.T.contiguous().T, second)
    except (RuntimeError, AttributeError, TypeError):
        return False
    return bool((found == 8.5).all())
