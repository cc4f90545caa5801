"""The numbers of packed rows: what each codec's arrays mean, as pure functions of tensors on whatever device.

What the arrays hold is defined by the codecs in `cache/codecs/`; a test holds both sides to each other. Nothing here
comes from the host's memory or waits for the device, so all of it can be captured in a CUDA graph.

R rows  V classes  K kept (padded)  N atoms  D hidden size
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets
from kdcache.losses import rotation
from kdcache.losses.rotation import Window
from kdcache.losses.targets import SparseTargets

GAP_STEP = 2.0**-5
"""Nats of a gap of codec compact, before its row's doublings."""
POSITION_STEP = 2.0**-10
WEIGHT_STEP = 32.0 / 0xFFFE
"""Nats of an atom's position (before its row's doublings) and of its log weight."""
UNUSED = 0xFFFF


def sparse(codec: str, sent: Mapping[str, Tensor], id_table_V: Tensor | None) -> SparseTargets:
    """Rows of store topk.

    Args:
        codec: `dense`, `fast` or `compact`.
        sent: arrays of the rows, on one device; columns beyond a row's `num_kept` may hold anything.
        id_table_V: class at each place, int64, on the same device; for codec compact.
    """
    num_kept_R, num_classes_R = sent["num_kept"].long(), sent["num_classes"].long()
    width = sent["logprobs" if codec == "dense" else "ids"].shape[1]
    place_K = torch.arange(width, device=num_kept_R.device)
    kept_RK = place_K[None, :] < num_kept_R[:, None]
    if codec == "dense":
        ids_RK = place_K.expand(len(num_kept_R), width)
        atoms_RN2, moments_R2 = sent["lse"].new_zeros(len(kept_RK), 0, 2), sent["lse"].new_zeros(len(kept_RK), 2)
    else:
        ids_RK = _ids(sent, kept_RK)
        atoms_RN2 = _atoms(sent["atoms"], sent["atom_shift"], num_classes_R - num_kept_R)
        moments_R2 = sent["moments"].float()
    if codec == "compact" and id_table_V is not None:
        ids_RK = id_table_V[ids_RK]
    logprobs_RK = _falling(sent, kept_RK) if codec == "compact" else sent["logprobs"].float()
    return SparseTargets(
        ids_RK=ids_RK.masked_fill(~kept_RK, 0),
        logprobs_RK=logprobs_RK.masked_fill(~kept_RK, -torch.inf),
        num_kept_R=num_kept_R,
        num_classes_R=num_classes_R,
        lse_R=sent["lse"],
        atoms_RN2=atoms_RN2,
        moments_R2=moments_R2,
        gold_R=sent["gold"],
    )


def _ids(sent: Mapping[str, Tensor], kept_RK: Tensor) -> Tensor:
    """Stored ids, int64 [R, K]; 0 where none is kept."""
    ids_RK = _unsigned(sent["ids"])
    if "ids_high" in sent:
        ids_RK = ids_RK | (_unsigned(sent["ids_high"]) << 16)
    return ids_RK.masked_fill(~kept_RK, 0)


def _falling(sent: Mapping[str, Tensor], kept_RK: Tensor) -> Tensor:
    """Log-probabilities of codec compact: first - code * step, float32; every product is exact."""
    codes_RK = sent["gaps"].masked_fill(~kept_RK, 0).cumsum(dim=1, dtype=torch.int32)
    step_R = GAP_STEP * _doublings(sent["gap_shift"]).float()
    return sent["first"].float()[:, None] - codes_RK * step_R[:, None]


def _atoms(codes_RN2: Tensor, shift_R: Tensor, size_R: Tensor) -> Tensor:
    """(position, log weight) of the tail curve, float32; the weights of a row add up to V - k."""
    codes = _unsigned(codes_RN2).double()
    used_RN = codes[..., 1] != UNUSED
    step_R = POSITION_STEP * _doublings(shift_R).double()
    position_RN = torch.where(used_RN, -codes[..., 0] * step_R[:, None], 0.0)
    weight_RN = torch.where(used_RN, (codes[..., 1] * -WEIGHT_STEP).exp(), 0.0)
    share_RN = weight_RN / weight_RN.sum(dim=1, keepdim=True)
    log_weight_RN = torch.where(used_RN, share_RN.log() + size_R.double().log()[:, None], -torch.inf)
    return torch.stack([position_RN, log_weight_RN], dim=2).float()


def _doublings(shift_R: Tensor) -> Tensor:
    """2^shift, int64 [R]."""
    return torch.ones_like(shift_R, dtype=torch.int64) << shift_R.long()


def hidden(codec: str, sent: Mapping[str, Tensor], mean_D: Tensor | None, windows: tuple[Window, ...]) -> Tensor:
    """Vectors of store hidden, [R, D]; of int8 in float32, else as stored.

    Args:
        codec: `float32`, `float16`, `bfloat16` or `int8`.
        sent: arrays of the rows, on one device.
        mean_D: mean vector, float32, on the same device; for codec int8.
        windows: of the rotation; for codec int8.

    Raises:
        IncompatibleTargets: codec int8 without a mean vector.
    """
    hidden_RD = sent["hidden"]
    if codec != "int8":
        return hidden_RD.view(torch.bfloat16) if codec == "bfloat16" else hidden_RD
    if mean_D is None:
        raise IncompatibleTargets("rows of codec int8 need their teacher's mean vector and rotation seed")
    scaled_RD = hidden_RD.float() * sent["scale"].float()[:, None]
    return rotation.rotate_back(scaled_RD, windows) + mean_D


def _unsigned(tensor: Tensor) -> Tensor:
    """int64 of unsigned integers from `_tensor`."""
    return tensor.long() & 0xFFFF if tensor.dtype == torch.int16 else tensor.long()
