"""Items to padded tensors.

B items  L tokens (padded)  R rows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.core.errors import ModelError
from kdcache.core.types import Item
from kdcache.losses import facts as finding
from kdcache.losses.facts import Facts
from kdcache.losses.packed import PackedTargets
from kdcache.losses.targets import Mixture, Targets

DECODER = "decoder_"
"""Begins the arguments of an encoder-decoder's second sequence."""
MASKED = -1e4
"""Logit of a class that a row does not have: finite, for sums; its probability is 0 at any temperature in use."""


class RowReader(Protocol):
    """The part of a task that reads a model's outputs."""

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """Logits of the rows, [R, V]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch.

    Attributes:
        inputs: model arguments, int64 [B, L], with `attention_mask`; those of a decoder have another L.
        positions_R2: int64, (item of the batch, token) where each row is read.
        labels_R: int64, gold classes or -100.
        weights_R: float32, 0 for rows of fillers.
        classes_R: int64, V of each row.
        facts: of the rows: known without asking the device.
        targets: teacher rows, or null. `packed` becomes it on the batch's device.
        packed: teacher rows as the cache stores them, still on the CPU; or null.
    """

    inputs: dict[str, Tensor]
    positions_R2: Tensor
    labels_R: Tensor
    weights_R: Tensor
    classes_R: Tensor
    facts: Facts
    targets: Targets | Mixture | None = None
    packed: PackedTargets | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device: from page-locked memory and without waiting where that is CUDA.

        Teacher rows travel packed and are expanded there.
        """
        if device.type == "cpu":
            targets = self.targets if self.packed is None else self.packed.to(device)
            return replace(self, targets=targets, packed=None)
        tensors = self.tensors()
        return self.filled({n: t.pin_memory().to(device, non_blocking=True) for n, t in tensors.items()})

    def tensors(self) -> dict[str, Tensor]:
        """All that travels to a device, by name, on the CPU: `packed` as its arrays, without `targets`."""
        rows = {} if self.packed is None else {f"{_ROWS}{name}": t for name, t in self.packed.arrays().items()}
        inputs = {f"{_INPUTS}{name}": tensor for name, tensor in self.inputs.items()}
        return {**inputs, **{name: getattr(self, name) for name in _OWN}, **rows}

    def filled(self, tensors: Mapping[str, Tensor]) -> Batch:
        """The batch with the tensors of `tensors()`, or their like, in place of its own; teacher rows are expanded.

        Args:
            tensors: on any device.
        """
        targets = self.targets
        if self.packed is not None:
            targets = self.packed.expand(_under(tensors, _ROWS))
        return Batch(
            inputs=_under(tensors, _INPUTS),
            positions_R2=tensors["positions_R2"],
            labels_R=tensors["labels_R"],
            weights_R=tensors["weights_R"],
            classes_R=tensors["classes_R"],
            facts=self.facts,
            targets=targets,
        )


_INPUTS, _ROWS = "inputs.", "rows."
_OWN = ("positions_R2", "labels_R", "weights_R", "classes_R")


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def collate(
    items: Sequence[Item],
    *,
    pad_token_id: int,
    weights_B: NDArray[np.float32] | None = None,
    packed: PackedTargets | None = None,
) -> Batch:
    """Pad items on the right to the longest of them; what a decoder gets has a length of its own.

    Args:
        items: at least one.
        pad_token_id: fills `input_ids` of both sequences; other inputs are filled with 0.
        weights_B: 0 for fillers; default 1.
        packed: teacher rows of the same items, in order.
    """
    inputs: dict[str, Tensor] = {}
    for part in dict.fromkeys(_part(name) for name in items[0].inputs):
        inputs |= _padded(items, part, pad_token_id)
    num_rows = [item.num_rows for item in items]
    owner_R = np.repeat(np.arange(len(items)), num_rows)
    positions = np.stack([owner_R, np.concatenate([item.positions_R for item in items])], axis=1)
    weights = np.ones(len(items), dtype=np.float32) if weights_B is None else weights_B
    classes_R = np.concatenate([item.classes_R for item in items]).astype(np.int64)
    labels_R = np.concatenate([item.labels_R for item in items]).astype(np.int64)
    weights_R = weights[owner_R]
    return Batch(
        inputs=inputs,
        positions_R2=torch.from_numpy(positions.astype(np.int64)),
        labels_R=torch.from_numpy(labels_R),
        weights_R=torch.from_numpy(weights_R),
        classes_R=torch.from_numpy(classes_R),
        facts=finding.find(labels_R, classes_R, weights_R, has_tail=packed is not None and packed.has_tail),
        packed=packed,
    )


def _part(name: str) -> str:
    """Which of a model's two sequences an argument is of: `decoder_`, or the only one."""
    return DECODER if name.startswith(DECODER) else ""


def _padded(items: Sequence[Item], part: str, pad_token_id: int) -> dict[str, Tensor]:
    """The arguments of one sequence, all as long as the longest of its `input_ids`, and their mask."""
    lengths = np.array([len(item.inputs[f"{part}input_ids"]) for item in items])
    width = int(lengths.max())
    inputs = {}
    for name in (name for name in items[0].inputs if _part(name) == part):
        filler = pad_token_id if name.endswith("input_ids") else 0
        padded = np.full((len(items), width), filler, dtype=np.int64)
        for b, item in enumerate(items):
            padded[b, : lengths[b]] = item.inputs[name]
        inputs[name] = torch.from_numpy(padded)
    inputs[f"{part}attention_mask"] = torch.from_numpy((np.arange(width)[None, :] < lengths[:, None]).astype(np.int64))
    return inputs


def read_rows(task: RowReader, outputs: Any, batch: Batch) -> Tensor:
    """Logits of a batch's rows [R, V]; what padding gave to classes that a row does not have is `MASKED`.

    Columns that no row has, the padding of a vocabulary, are cut off.

    Raises:
        ModelError: the model has fewer classes than a row.
    """
    logits_RV = task.rows(outputs, batch.positions_R2)
    if logits_RV.shape[1] < batch.facts.width:
        raise ModelError(
            f"the model gives {logits_RV.shape[1]:,} classes, but rows have {batch.facts.width:,}; give it as many: "
            f"its labels or its vocabulary are not the dataset's"
        )
    if logits_RV.shape[1] > batch.facts.width:
        logits_RV = logits_RV[:, : batch.facts.width].contiguous()  # a view could not become its own gradient
    if not batch.facts.ragged:
        return logits_RV
    other_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device)[None, :] >= batch.classes_R[:, None]
    return logits_RV.masked_fill(other_RV, MASKED)
