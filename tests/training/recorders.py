"""Recorders without CUDA, and trainings by steps that are recorded with them."""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcache.losses.objective import Objective
from kdcache.training.engine import Engine
from kdcache.training.fusing import Loss
from kdcache.training.graphs import GraphStepper
from kdcache.training.log import RunLog
from kdcache.training.loop import fit
from kdcache.training.plain import PlainEngine
from kdcache.training.recording import Graphs, Recorder
from kdcache.training.settings import TrainingConfig, engine_settings
from kdcache.training.start import build
from kdcache.training.stepping import Feed, Ready, Stepper
from kdcache.training.steps import Steps
from kdcache.training.world import World
from tests.capturing import Capturable
from tests.training.cases import Case


class Replay:
    """Reruns a function."""

    def __init__(self, recorder: Rerun, function: Callable[[], None]) -> None:
        self.recorder, self.function = recorder, function

    def __call__(self) -> None:
        self.recorder.replay(self.function)


@dataclass(slots=True)
class Rerun:
    """Records nothing: it runs the function again. Its clock is made up.

    Attributes:
        replay_seconds: what a replay adds to the second that anything else takes.
        fails_at: the recording, from 1, that CUDA refuses; null for none.
        recorded: recordings so far.
        replayed: replays so far.
        released: how often memory was given back, and how many replays were still held then.
    """

    replay_seconds: float = -0.5
    fails_at: int | None = None
    recorded: int = 0
    replayed: int = 0
    released: list[int] = field(default_factory=list)
    _now: float = 0.0
    _inside: bool = False
    _made: list[weakref.ref[Replay]] = field(default_factory=list)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Nothing, but all else must happen in it."""
        assert not self._inside
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def record(self, function: Callable[[], None]) -> Replay:
        """What runs the function again."""
        assert self._inside
        self.recorded += 1
        if self.recorded == self.fails_at:
            raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")
        replay = Replay(self, function)
        self._made.append(weakref.ref(replay))
        return replay

    def replay(self, function: Callable[[], None]) -> None:
        """Run the function again."""
        assert self._inside
        self.replayed += 1
        self._now += self.replay_seconds
        function()

    def seconds(self) -> float:
        """A second more than the last time, and what replays took."""
        self._now += 1.0
        return self._now

    def release(self) -> None:
        """Note it."""
        self.released.append(sum(made() is not None for made in self._made))


def ruin(ready: Ready) -> None:
    """Write nonsense over all that a step was made of, but not over what was copied from it."""
    for micro in ready.micros:
        for tensor in micro.batch.tensors().values():
            if tensor.numel():
                tensor.fill_(True if tensor.dtype == torch.bool else 99)
        if micro.sent is not None:
            micro.sent.buffer.fill_(0x7F)


class Forgetful(GraphStepper):
    """Ruins each step after it ran, so that a replay can have read its own buffer alone."""

    def step(self, ready: Ready, rate: float) -> Tensor:
        """Run a step."""
        share = super().step(ready, rate)
        ruin(ready)
        return share


class Padded(Stepper):
    """Runs steps eagerly over padded batches, as `GraphStepper` does before it records."""

    def __init__(self, engine: Engine, loss: Loss, feed: Feed, grid: Any) -> None:
        super().__init__(engine, loss, feed)
        feed.grid = grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a training left.

    Attributes:
        losses: total, hard, soft, kl of each step.
        events: lines of its log that are no steps.
        record: of its stepper.
        weights: at its end.
        stepper: that ran.
        seen: (tokens, rows) of the micro-batches that were made ready, in order.
    """

    losses: Tensor
    events: list[dict[str, Any]]
    record: dict[str, Any]
    weights: dict[str, Tensor]
    stepper: Stepper
    seen: list[tuple[int, int]]


Make = Callable[[PlainEngine, Loss, Feed, RunLog], Stepper]


def eager(engine: PlainEngine, loss: Loss, feed: Feed, log: RunLog) -> Stepper:
    """Steps as PyTorch runs them."""
    return Stepper(engine, loss, feed)


def graphs(recorder: Recorder, *, always: bool = False, kind: type[GraphStepper] = Forgetful) -> Make:
    """Steps as graphs of a recorder."""
    return lambda engine, loss, feed, log: kind(engine, loss, feed, Graphs(recorder), log, always=always)


def train(case: Case, steps: Steps, objective: Objective, make: Make, *, device: str = "cpu", **settings: Any) -> Ran:
    """Train to the end by `loop.fit`; the generator of dropout begins anew."""
    torch.manual_seed(0)
    world = World(rank=0, size=1, device=torch.device(device))
    config = TrainingConfig(**{"batch_size": 4, "epochs": 2, "learning_rate": 1e-3, **settings})
    engine = build(case.model, engine_settings(config, world), world)
    assert isinstance(engine, PlainEngine)
    with tempfile.TemporaryDirectory() as name:
        with RunLog(Path(name)) as log:
            feed = Watched(world.device, case.pad_token_id)
            stepper = make(engine, Loss(engine, objective, case.task, config.fused, log), feed, log)
            for _ in fit(stepper, steps, config=config, log=log):
                pass
        lines = [json.loads(line) for line in (Path(name) / "log.jsonl").read_text().splitlines()]
    terms = [[line[term] for term in ("loss", "hard", "soft", "kl")] for line in lines if line["event"] == "step"]
    return Ran(
        losses=torch.tensor(terms, dtype=torch.float64),
        events=[line for line in lines if line["event"] != "step"],
        record=stepper.record(),
        weights=engine.state_dict(),
        stepper=stepper,
        seen=feed.seen,
    )


class Watched(Feed):
    """Notes the sizes of what it makes ready."""

    def __init__(self, device: torch.device, pad_token_id: int) -> None:
        super().__init__(device, pad_token_id)
        self.seen: list[tuple[int, int]] = []

    def ready(self, step: Any) -> Ready:
        """Make a step ready."""
        ready = super().ready(step)
        batches = (micro.batch for micro in ready.micros)
        self.seen += [(batch.inputs["input_ids"].shape[1], len(batch.labels_R)) for batch in batches]
        return ready


@dataclass(slots=True)
class Watching(Rerun):
    """Reruns under the watch for what a capture refuses, where transformers believes that it is captured."""

    def replay(self, function: Callable[[], None]) -> None:
        """Run the function again."""

        def watched() -> None:
            with pytest.MonkeyPatch.context() as patch, Capturable():
                patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
                function()

        Rerun.replay(self, watched)
