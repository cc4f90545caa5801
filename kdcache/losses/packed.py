"""From a cache's packed rows to targets: the packed bytes go to the device and are expanded there.

Each way has two steps, which can be taken apart: `arrays_of` and `expand`, or `arrays` and `expand` of `PackedTargets`.
So arrays may lie in buffers that a CUDA graph reads, and the graph begins with their expansion. A teacher's tables go
to a device once, with the first rows that are expanded there: expand some before a capture.

V classes  D hidden size
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
from kdcache.losses import expansion, rotation
from kdcache.losses.head import Head
from kdcache.losses.rotation import Window
from kdcache.losses.targets import HiddenTargets, Mixture, Targets

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
    return expand(packed.store, packed.codec, _send(arrays_of(packed), device), shared)


def arrays_of(packed: PackedRows) -> dict[str, Tensor]:
    """The arrays of packed rows as tensors on the CPU, what `expand` takes once they are on a device.

    Unsigned integers keep their bits as signed ones. An array that can be written to is shared, not copied.
    """
    return {name: _tensor(array) for name, array in packed.arrays.items()}


def expand(store: str, codec: str, sent: Mapping[str, Tensor], shared: Shared) -> Targets:
    """Targets from packed arrays that are on a device already; nothing waits for it, or comes from the host's memory.

    Args:
        store, codec: of `PackedRows`.
        sent: the tensors of `arrays_of`, all on one device. Columns beyond a row's `num_kept` may hold anything, and a
            row of a filler may be all zeros.
        shared: what `share` made for this device.

    Raises:
        IncompatibleTargets: rows of store hidden without a head, of codec int8 without a mean vector.
    """
    if store != "hidden":
        return expansion.sparse(codec, sent, shared.id_table_V)
    if shared.head is None:
        raise IncompatibleTargets(
            "rows of store hidden are logits only through their teacher's head; read it with Cache.head"
        )
    return HiddenTargets(
        hidden_RD=expansion.hidden(codec, sent, shared.mean_D, shared.windows),
        head=shared.head,
        num_classes_R=sent["num_classes"].long(),
        gold_R=sent["gold"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher of a cache, for any number of batches: its shared tables go to each device once.

    Attributes:
        head: its output head's arrays, for store hidden.
    """

    head: Arrays | None = None
    _on_device: dict[torch.device, Shared] = field(default_factory=dict, repr=False, compare=False)

    def unpack(self, packed: PackedRows, device: torch.device | str) -> Targets:
        """Targets on the device."""
        return self.expand(packed, _send(arrays_of(packed), device))

    def expand(self, packed: PackedRows, sent: Mapping[str, Tensor]) -> Targets:
        """Targets where the arrays are; the teacher's tables are sent there the first time.

        Args:
            packed: says store and codec, and has the tables.
            sent: the tensors of `arrays_of` of these rows, or of others of the same teacher, all on one device.
        """
        device = sent["num_classes"].device
        if device not in self._on_device:
            head = None if self.head is None else read_head(self.head)
            self._on_device[device] = share(packed.shared, head, device)
        return expand(packed.store, packed.codec, sent, self._on_device[device])


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
        """Expanded targets on the device; to CUDA from page-locked memory and without waiting."""
        return self.expand(_send(self.arrays(), device))

    def arrays(self) -> dict[str, Tensor]:
        """The packed arrays as tensors on the CPU, named by their teacher's number: `0.ids`; see `arrays_of`."""
        return {
            f"{number}.{name}": tensor
            for number, rows in enumerate(self.rows)
            for name, tensor in arrays_of(rows).items()
        }

    def expand(self, sent: Mapping[str, Tensor]) -> Targets | Mixture:
        """Targets where the arrays are. Only store, codec, tables and weight are these rows'; the numbers are `sent`'s.

        Args:
            sent: the tensors of `arrays`, or of another batch of the same teachers, all on one device.

        Raises:
            IncompatibleTargets: as `packed.expand`.
        """
        found = []
        for number, (teacher, rows) in enumerate(zip(self.teachers, self.rows, strict=True)):
            own = f"{number}."
            theirs = {name.removeprefix(own): tensor for name, tensor in sent.items() if name.startswith(own)}
            found.append(teacher.expand(rows, theirs))
        if len(found) == 1:
            return found[0]
        first, second = found
        return Mixture(first=first, second=second, weight=self.weight)


def _tensor(array: NDArray[Any]) -> Tensor:
    """An array as a tensor. Unsigned integers keep their bits as signed ones: torch computes with few of the former."""
    array = np.ascontiguousarray(array)
    if array.dtype.name in _SIGNED:
        array = array.view(_SIGNED[array.dtype.name])
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _floats(tensor: Tensor) -> Tensor:
    """float32 of floats from `_tensor`, where bits of bfloat16 are int16."""
    return tensor.view(torch.bfloat16).float() if tensor.dtype == torch.int16 else tensor.float()


def _send(arrays: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    if torch.device(device).type == "cuda":
        return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in arrays.items()}
    return {name: tensor.to(device) for name, tensor in arrays.items()}
