"""A teacher's rows on their way from the device to the cache: chosen there, copied beside the next batch, checked here.

R rows  C rows of a chunk  V classes  K kept  D hidden size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.core.errors import IncompatibleTargets
from kdcache.core.row_format import RowFormat
from kdcache.core.types import HiddenRows, Item, Rows
from kdcache.losses.selection import check, log_partition_flagged, select_flagged
from kdcache.losses.targets import SparseTargets, to_rows

HIDDEN_NOT_FINITE = 3
"""Code of a row, beside those of `losses.selection`: what enters the head is not finite."""
BAD = "bad_R"


def sparse_tensors(
    logits_CV: Tensor, labels_C: Tensor, classes_C: Tensor, row_format: RowFormat, *, widest: int
) -> dict[str, Tensor]:
    """What store topk keeps of some rows, in the types that its codec stores; nothing waits for the device."""
    targets, bad_C = select_flagged(
        logits_CV,
        labels_C,
        classes_C,
        widest=widest,
        top_k=row_format.top_k,
        top_p=row_format.top_p,
        dense=row_format.is_dense,
    )
    found = {name: getattr(targets, name) for name in SparseTargets.__dataclass_fields__}
    found["ids_RK"] = found["ids_RK"].int()
    if row_format.codec == "fast":
        found["logprobs_RK"] = found["logprobs_RK"].half()
    return {**found, BAD: bad_C}


def hidden_tensors(
    logits_CV: Tensor,
    hidden_RD: Tensor | None,
    labels_R: Tensor,
    classes_R: Tensor,
    part: slice,
    row_format: RowFormat,
) -> dict[str, Tensor]:
    """What store hidden keeps of some rows, in the type that its codec stores; nothing waits for the device."""
    if hidden_RD is None:
        raise IncompatibleTargets("store: hidden needs what enters the teacher's output head")
    lse_C, gold_C, bad_C = log_partition_flagged(logits_CV, labels_R[part], classes_R[part])
    hidden_CD = hidden_RD[part]
    broken_C = ~torch.isfinite(hidden_CD).all(dim=1)
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return {
        "hidden_RD": hidden_CD.to(dtypes.get(row_format.codec, torch.float32)),
        "num_classes_R": classes_R[part],
        "lse_R": lse_C,
        "gold_R": gold_C,
        BAD: bad_C.masked_fill(broken_C, HIDDEN_NOT_FINITE),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Arriving:
    """Rows of a batch in page-locked memory, perhaps still being copied.

    Attributes:
        indices: of the items in what was run.
        items: the same items.
        tensors: on the CPU.
        event: recorded after the copy; null on a CPU.
        row_format: of the rows.
    """

    indices: list[int]
    items: Sequence[Item]
    tensors: Mapping[str, Tensor]
    event: torch.cuda.Event | None
    row_format: RowFormat

    def wait(self) -> None:
        """Until the copy is done; other threads go on meanwhile."""
        if self.event is not None:
            self.event.synchronize()

    def rows(self) -> Rows:
        """The rows, once they are here.

        Raises:
            IncompatibleTargets: -inf or NaN among a row's own classes, or in what entered the head.
            TrainingError: a label outside its row's classes.
        """
        self.wait()
        bad_R = self.tensors[BAD]
        if bool((bad_R == HIDDEN_NOT_FINITE).any()) and not bool((bad_R % HIDDEN_NOT_FINITE).any()):
            raise IncompatibleTargets(
                "what enters the teacher's output head is not finite; run it with precision: float32"
            )
        labels_R = torch.from_numpy(np.concatenate([item.labels_R for item in self.items]))
        classes_R = torch.from_numpy(np.concatenate([item.classes_R for item in self.items]))
        check(bad_R, labels_R, classes_R)
        counts = np.array([item.num_rows for item in self.items], dtype=np.int64)
        if self.row_format.store == "topk":
            named = {name: self.tensors[name] for name in SparseTargets.__dataclass_fields__}
            return to_rows(SparseTargets(**named), rows_per_item=counts)
        return HiddenRows(
            row_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            hidden=_array(self.tensors["hidden_RD"]),
            num_classes=self.tensors["num_classes_R"].numpy().astype(np.int32),
            lse=self.tensors["lse_R"].float().numpy(),
            gold=self.tensors["gold_R"].float().numpy(),
        )


class Copier:
    """Copies to page-locked memory on a stream of its own, beside what the device computes next.

    PyTorch keeps page-locked memory for the next copy once it is given back, so a few buffers go round.

    Args:
        device: where the rows come from.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(
        self, tensors: Mapping[str, Tensor], *, items: Sequence[Item], indices: list[int], row_format: RowFormat
    ) -> Arriving:
        """Begin the copy; on a CPU there is none."""
        if self._stream is None:
            return Arriving(indices=indices, items=items, tensors=tensors, event=None, row_format=row_format)
        arriving, event = {}, torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for name, tensor in tensors.items():
                here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                here.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._stream)  # its memory is not for the next batch before the copy is done
                arriving[name] = here
            event.record(self._stream)
        return Arriving(indices=indices, items=items, tensors=arriving, event=event, row_format=row_format)


def _array(tensor: Tensor) -> NDArray[np.generic]:
    """A tensor as numpy; bfloat16 as its bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
