"""The one loop: `fit` trains by an objective and pauses at every evaluation point.

It is a generator: the caller evaluates and keeps checkpoints between yields, so there is neither callback nor trainer.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch

from kdcache.core.errors import TrainingError
from kdcache.training.ahead import ahead
from kdcache.training.engine import Engine
from kdcache.training.log import RunLog
from kdcache.training.settings import TrainingConfig
from kdcache.training.stepping import Ready, Stepper
from kdcache.training.steps import Steps, TrainStep

AHEAD = 8
"""Steps that are read, padded and sent before their turn, at most."""
AHEAD_BYTES = 1 << 26
"""Of the device's memory that they take: 64 MB, and one step more."""
FLUSH_STEPS = 10
"""Steps between two looks at the loss: each look waits for the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A pause for evaluation, after `step` steps in all; `epoch` counts passes, e.g. 1.5."""

    step: int
    epoch: float


def learning_rate(step: int, *, total: int, peak: float, warmup: float) -> float:
    """Linear warm-up to `peak`, then linear decay that would reach 0 one step after the last.

    Example:
        >>> [round(learning_rate(s, total=4, peak=1.0, warmup=0.5), 2) for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    rising = math.ceil(total * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (total - step) / max(1, total - rising)


def evaluation_steps(num_steps: int, evals_per_epoch: int) -> set[int]:
    """Steps of an epoch (counted from 1) after which the loop pauses; the last is among them.

    Example:
        >>> sorted(evaluation_steps(10, 4))
        [3, 5, 8, 10]
    """
    return {math.ceil(num_steps * (i + 1) / evals_per_epoch) for i in range(evals_per_epoch)}


def fit(stepper: Stepper, steps: Steps, *, config: TrainingConfig, log: RunLog) -> Iterator[Point]:
    """Train, pausing at each evaluation point.

    Args:
        stepper: the model, its loss, and how a step runs.
        steps: the data; a thread reads, pads and sends them ahead of their turn.
        config: schedule.
        log: gets one `step` line a step (losses, learning rate).

    Yields:
        A `Point` after each evaluation step; train mode is restored by the next step.

    Raises:
        TrainingError: a loss that is not finite, or a step without any row to learn from.
    """
    total = steps.num_steps * config.epochs
    pauses = evaluation_steps(steps.num_steps, config.evals_per_epoch)
    pending: list[tuple[TrainStep, float, torch.Tensor]] = []
    done = 0
    with _few_collected(), closing(_arriving(stepper, steps, config.epochs)) as arriving:
        for ready in arriving:
            step = ready.step
            stepper.engine.train(True)
            rate = learning_rate(done, total=total, peak=config.learning_rate, warmup=config.warmup)
            pending.append((step, rate, stepper.step(ready, rate)))
            done += 1
            pause = step.index + 1 in pauses
            if pause or len(pending) == FLUSH_STEPS:
                _flush(stepper.engine, pending, done, total, log)
            if pause:
                stepper.pause()
                yield Point(step=done, epoch=step.epoch + (step.index + 1) / steps.num_steps)


def _arriving(stepper: Stepper, steps: Steps, epochs: int) -> Generator[Ready, None, None]:
    """The steps of all epochs, made ready by a thread."""
    return ahead(
        _all(steps, epochs), stepper.feed.ready, depth=AHEAD, room=AHEAD_BYTES, size=lambda ready: ready.num_bytes
    )


@contextmanager
def _few_collected() -> Iterator[None]:
    """Python's garbage collector skips, during the training, the objects that exist before it.

    A full collection visits every object of torch and transformers, which takes up to 0.2 s, and the items of a few
    hundred steps trigger one: it was measured to cost 0.7 ms a step.
    """
    if gc.get_freeze_count():  # somebody else did, and knows until when
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _all(steps: Steps, epochs: int) -> Iterator[TrainStep]:
    """The steps of all epochs."""
    for epoch in range(epochs):
        yield from steps.epoch(epoch)


def _flush(
    engine: Engine, pending: list[tuple[TrainStep, float, torch.Tensor]], done: int, total: int, log: RunLog
) -> None:
    """Sum the pending losses over ranks in one message, check them, write them."""
    values = engine.sum_over_ranks(torch.stack([share for _, _, share in pending])).tolist()
    first = done - len(pending) + 1
    for number, ((step, rate, _), (loss, hard, soft, kl)) in enumerate(zip(pending, values, strict=True), start=first):
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {number} of {total} (epoch {step.epoch}, learning rate {rate:.2e}); "
                f"lower learning_rate, set max_grad_norm, or use precision: float32"
            )
        log.write("step", step=number, epoch=step.epoch, loss=loss, hard=hard, soft=soft, kl=kl, learning_rate=rate)
    log.progress(done, total, loss=values[-1][0])
    pending.clear()
