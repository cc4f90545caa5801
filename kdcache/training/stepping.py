"""One optimiser step: what runs it, and how its batches get to the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from kdcache.core.errors import TrainingError
from kdcache.losses.objective import Losses
from kdcache.training.batch import Batch, RowReader
from kdcache.training.engine import Engine
from kdcache.training.forward import ReadRows
from kdcache.training.fusing import Loss
from kdcache.training.sending import Sender, Sent
from kdcache.training.shapes import Grid, pad
from kdcache.training.steps import TrainStep

MEASURED = 16
"""The first step that is measured, from 1: what is made once is there."""
NUM_ROWS, NUM_LABELS = "num_rows", "num_labels"
"""The denominators of a step, as tensors among a batch's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """A micro-batch that is ready.

    Attributes:
        batch: on the CPU.
        sent: its tensors on their way to the device; null where that is the CPU and nothing is padded.
    """

    batch: Batch
    sent: Sent | None = None

    def arrived(self) -> Batch:
        """The batch on the device."""
        if self.sent is None:
            return self.batch.to(torch.device("cpu"))
        return self.batch.filled(self.sent.layout.views(self.sent.arrive()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A step whose batches are ready."""

    step: TrainStep
    micros: tuple[Micro, ...]

    @property
    def num_bytes(self) -> int:
        """What it takes on the device; 0 where nothing was sent."""
        return sum(micro.sent.layout.num_bytes for micro in self.micros if micro.sent is not None)


class Feed:
    """Makes steps ready; a thread uses it.

    Args:
        device: where the batches go.
        pad_token_id: fills `input_ids` where batches are padded to a grid.
    """

    def __init__(self, device: torch.device, pad_token_id: int) -> None:
        self._device, self._pad_token_id = device, pad_token_id
        self.sender = Sender(device)
        self.grid: Grid | None = None
        """Sizes that batches are padded to; null leaves them as they are. It may change while steps are made."""

    def ready(self, step: TrainStep) -> Ready:
        """Send a step's batches on their way."""
        return Ready(step=step, micros=tuple(self._micro(batch, step, self.grid) for batch in step.batches))

    def padded(self, batch: Batch) -> Batch:
        """A batch in the sizes of the grid."""
        return self._in(batch, self.grid)

    def _in(self, batch: Batch, grid: Grid | None) -> Batch:
        return batch if grid is None else pad(batch, grid, pad_token_id=self._pad_token_id)

    def _micro(self, batch: Batch, step: TrainStep, grid: Grid | None) -> Micro:
        if grid is None and self._device.type == "cpu":
            return Micro(batch=batch)
        batch = self._in(batch, grid)
        counts = {NUM_ROWS: torch.tensor(step.num_rows), NUM_LABELS: torch.tensor(step.num_labels)}
        return Micro(batch=batch, sent=self.sender.send({**batch.tensors(), **counts}))


class Stepper:
    """Runs steps one operation after the other, as PyTorch does.

    Args:
        engine: the model.
        loss: of a batch.
        feed: makes its steps ready.
        why: its steps are no CUDA graphs; empty where nobody expects them.
    """

    def __init__(self, engine: Engine, loss: Loss, feed: Feed, *, why: str = "") -> None:
        self.engine, self.loss, self.feed, self.why = engine, loss, feed, why
        self._share = torch.zeros(4, device=engine.world.device)
        self._steps, self._seconds, self._since = 0, 0.0, 0.0
        self._busy = 0.0
        self.measures = False
        """Whether one eager step on CUDA is measured for the time that the device works in it."""

    def step(self, ready: Ready, rate: float) -> Tensor:
        """Run a step; this rank's share of (total, hard, soft, kl), not yet summed over ranks.

        Raises:
            TrainingError: no row to learn from.
        """
        _check(ready.step, self.loss.objective.alpha)
        self._since = self._since or time.perf_counter()
        self._steps += 1
        self._share.zero_()
        if self.measures and self._steps >= MEASURED and not self._busy and self._is_eager():
            self._busy = device_seconds(lambda: self._all(ready, rate))
        else:
            self._all(ready, rate)
        return self._share.clone()

    def _all(self, ready: Ready, rate: float) -> None:
        for micro in ready.micros:
            self._run(micro, ready.step)
            self.engine.step(rate)

    def pause(self) -> None:
        """The time until the next step is not the training's."""
        if self._since:
            self._seconds += time.perf_counter() - self._since
            self._since = 0.0

    def record(self) -> dict[str, Any]:
        """What ran, for a run's record: the engine, the number of graphs or why there are none, seconds of a step (wall
        time), and if they were measured the seconds of it in which the device works, and bytes of its memory."""
        found: dict[str, Any] = {"engine": self.engine.settings.kind, "graphs": 0}
        if self._steps:
            found["seconds"] = round(self._seconds / self._steps, 6)
        if self._busy:
            found["busy"] = round(self._busy, 6)
        if self.why:
            found["why"] = self.why
        if self.engine.world.device.type == "cuda":
            found["peak_bytes"] = torch.cuda.max_memory_reserved(self.engine.world.device)
        return found

    def rows(self, task: RowReader) -> ReadRows | None:
        """How an evaluation between steps reads the model's rows; null: by a call of it."""
        return None

    def _is_eager(self) -> bool:
        """Whether steps on CUDA are eager and stay so."""
        return self.engine.world.device.type == "cuda"

    def _run(self, micro: Micro, step: TrainStep) -> None:
        """Forward, loss and backward of a micro-batch."""
        self._learn(self.loss(micro.arrived(), num_rows=step.num_rows, num_labels=step.num_labels))

    def _learn(self, losses: Losses) -> None:
        self.engine.backward(losses.total)
        self._share += torch.stack([losses.total, losses.hard, losses.soft, losses.kl]).detach()


def _check(step: TrainStep, alpha: float) -> None:
    """Refuse a step without any row to learn from."""
    if not (alpha > 0 and step.num_rows) and not (alpha < 1 and step.num_labels):
        raise TrainingError(
            f"step {step.index} of epoch {step.epoch} has no row to learn from at alpha = {alpha:g}: "
            f"{step.num_labels} labels, {step.num_rows} rows; raise batch_size, or check the labels (kdcache inspect)"
        )


def device_seconds(function: Callable[[], None]) -> float:
    """Run a function; the seconds for which the device computed or copied for it, by PyTorch's profiler."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        function()
        torch.cuda.synchronize()
    return sum(float(event.self_device_time_total) for event in found.key_averages()) / 1e6


def counts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The denominators among a batch's tensors, as arguments of a loss."""
    return {name: tensors[name] for name in (NUM_ROWS, NUM_LABELS)}
