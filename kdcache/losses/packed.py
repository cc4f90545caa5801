"""From a cache's packed rows to targets: the packed bytes go to the device and are expanded there.

What the arrays hold is defined by the codecs in `cache/codecs/`; a test holds both sides to each other.

R rows  V classes  K kept (padded)  N atoms  D hidden size
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets
from kdcache.core.types import PackedRows
from kdcache.losses import rotation
from kdcache.losses.head import Head
from kdcache.losses.rotation import Window
from kdcache.losses.targets import HiddenTargets, Mixture, SparseTargets, Targets

GAP_STEP = 2.0**-5
"""Nats of a gap of codec compact, before its row's doublings."""
POSITION_STEP = 2.0**-10
WEIGHT_STEP = 32.0 / 0xFFFE
"""Nats of an atom's position (before its row's doublings) and of its log weight."""
UNUSED = 0xFFFF

Arrays = Mapping[str, NDArray[Any]]
_SIGNED = {"uint16": np.int16, "uint32": np.int32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all rows of a teacher share, on a device.

    Attributes:
        id_table_V: class at each place, int64; codec compact.
        mean_D: mean hidden vector, float32; codec int8.
        windows: of the rotation; codec int8.
        head: of the teacher; store hidden.
    """

    id_table_V: Tensor | None = None
    mean_D: Tensor | None = None
    windows: tuple[Window, ...] = ()
    head: Head | None = None


def share(shared: Arrays, head: Head | None, device: torch.device | str) -> Shared:
    """Send to the device what all rows of a teacher share.

    Args:
        shared: of `PackedRows`.
        head: of the teacher, for store hidden.
        device: where to.
    """
    head = None if head is None else head.to(device)
    if "id_table" in shared:
        return Shared(id_table_V=_tensor(shared["id_table"]).to(device).long(), head=head)
    if "mean" in shared:
        mean_D, seed = _tensor(shared["mean"]).to(device), int(shared["rotation_seed"].reshape(-1)[0])
        return Shared(mean_D=mean_D, windows=rotation.windows(len(mean_D), seed=seed, device=device), head=head)
    return Shared(head=head)


def read_head(arrays: Arrays) -> Head:
    """A teacher's head from its file, in float32, so that no batch has to convert it.

    Args:
        arrays: `weight` [V, D], perhaps `bias` [V]: float32, float16, or the bits of bfloat16 as uint16; perhaps
            `scale` and `soft_cap`, float32 [1].
    """
    bias = arrays.get("bias")
    return Head(
        weight_VD=_floats(_tensor(arrays["weight"])),
        bias_V=None if bias is None else _floats(_tensor(bias)),
        scale=float(arrays["scale"].reshape(-1)[0]) if "scale" in arrays else 1.0,
        soft_cap=float(arrays["soft_cap"].reshape(-1)[0]) if "soft_cap" in arrays else None,
    )


def unpack(
    packed: PackedRows, *, device: torch.device | str, head: Head | None = None, shared: Shared | None = None
) -> Targets:
    """Targets on a device from rows as a cache's blocks store them.

    To CUDA the packed arrays go from page-locked memory and without waiting.

    Args:
        packed: from `Cache.packed` or a loader.
        device: where to.
        head: of the teacher, for store hidden.
        shared: what `share` made of `packed.shared` and the head on this device; else it is sent now.

    Raises:
        IncompatibleTargets: rows of store hidden without a head.
    """
    shared = share(packed.shared, head, device) if shared is None else shared
    sent = {name: _send(_tensor(array), torch.device(device)) for name, array in packed.arrays.items()}
    if packed.store == "hidden":
        if shared.head is None:
            raise IncompatibleTargets(
                "rows of store hidden are logits only through their teacher's head; read it with Cache.head"
            )
        return HiddenTargets(
            hidden_RD=_hidden(packed.codec, sent, shared),
            head=shared.head,
            num_classes_R=sent["num_classes"].long(),
            gold_R=sent["gold"],
        )
    return _sparse(packed.codec, sent, shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher of a cache, for any number of batches: its shared tables go to each device once.

    Attributes:
        head: its output head's arrays, for store hidden.
    """

    head: Arrays | None = None
    _on_device: dict[str, Shared] = field(default_factory=dict, repr=False, compare=False)

    def unpack(self, packed: PackedRows, device: torch.device | str) -> Targets:
        """Targets on the device."""
        key = str(device)
        if key not in self._on_device:
            head = None if self.head is None else read_head(self.head)
            self._on_device[key] = share(packed.shared, head, device)
        return unpack(packed, device=device, shared=self._on_device[key])


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTargets:
    """Rows of one teacher, or of the two of a mixture, on their way to a device.

    Attributes:
        rows: of each teacher, for the same items.
        teachers: of the same number.
        weight: of the first, where there are two.
    """

    rows: tuple[PackedRows, ...]
    teachers: tuple[Teacher, ...]
    weight: float = 0.5

    @property
    def has_tail(self) -> bool:
        """Whether some row keeps fewer classes than it has; asks no device."""
        kept = [rows.arrays for rows in self.rows if "num_kept" in rows.arrays]
        return any(bool((arrays["num_kept"] < arrays["num_classes"]).any()) for arrays in kept)

    def to(self, device: torch.device | str) -> Targets | Mixture:
        """Expanded targets on the device."""
        found = [teacher.unpack(rows, device) for teacher, rows in zip(self.teachers, self.rows, strict=True)]
        if len(found) == 1:
            return found[0]
        first, second = found
        return Mixture(first=first, second=second, weight=self.weight)


def _sparse(codec: str, sent: Mapping[str, Tensor], shared: Shared) -> SparseTargets:
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
    if codec == "compact" and shared.id_table_V is not None:
        ids_RK = shared.id_table_V[ids_RK]
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


def _hidden(codec: str, sent: Mapping[str, Tensor], shared: Shared) -> Tensor:
    hidden_RD = sent["hidden"]
    if codec != "int8":
        return hidden_RD.view(torch.bfloat16) if codec == "bfloat16" else hidden_RD
    if shared.mean_D is None:
        raise IncompatibleTargets("rows of codec int8 need their teacher's mean vector and rotation seed")
    scaled_RD = hidden_RD.float() * sent["scale"].float()[:, None]
    return rotation.rotate_back(scaled_RD, shared.windows) + shared.mean_D


def _tensor(array: NDArray[Any]) -> Tensor:
    """An array as a tensor. Unsigned integers keep their bits as signed ones: torch computes with few of the former."""
    array = np.ascontiguousarray(array)
    if array.dtype.name in _SIGNED:
        array = array.view(_SIGNED[array.dtype.name])
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _unsigned(tensor: Tensor) -> Tensor:
    """int64 of unsigned integers from `_tensor`."""
    return tensor.long() & 0xFFFF if tensor.dtype == torch.int16 else tensor.long()


def _floats(tensor: Tensor) -> Tensor:
    """float32 of floats from `_tensor`, where bits of bfloat16 are int16."""
    return tensor.view(torch.bfloat16).float() if tensor.dtype == torch.int16 else tensor.float()


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
