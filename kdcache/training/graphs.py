"""Steps as CUDA graphs: one a shape, recorded when it comes again. What is rare, or cannot be recorded, stays eager.

A step of a small student asks the device for a thousand small things, and the host cannot ask as fast as a GPU answers.
A graph asks once. Nothing else changes: the same operations on the same numbers, padded to a grid of few shapes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdcache.training.batch import Batch, RowReader
from kdcache.training.forward import ReadRows
from kdcache.training.fusing import Loss
from kdcache.training.graph_rows import GraphRows
from kdcache.training.log import RunLog
from kdcache.training.plain import PlainEngine
from kdcache.training.recording import LARGEST, Graphs, Key, Recorded
from kdcache.training.sending import Sent
from kdcache.training.shapes import grid_of
from kdcache.training.stepping import Feed, Micro, Ready, Stepper, counts
from kdcache.training.steps import TrainStep

WARM_UP = 3
"""Eager steps before anything is recorded: libraries, kernels and the optimizer's moments are made in them."""
GAIN = 0.9
"""A graph is worth it where it takes at most this share of the eager time of the same shape."""


@dataclass(slots=True)
class _Seen:
    """A shape: how often it came, and the seconds of its forward and backward pass, eager."""

    count: int = 0
    seconds: float = 0.0


class GraphStepper(Stepper):
    """Runs steps as graphs where that pays.

    The first shape that comes for the third time decides: it was timed eager, then as a graph. Where the device and not
    the host is the limit, a graph gives nothing and its memory is given back.

    Args:
        engine: plain PyTorch.
        loss: of a batch.
        feed: makes its steps ready; pads them from now on.
        graphs: what was recorded of this model before.
        log: told what runs, and why.
        name: of the loss and its teachers: trainings of one name share their graphs.
        always: keep graphs whatever they gain.
    """

    def __init__(
        self,
        engine: PlainEngine,
        loss: Loss,
        feed: Feed,
        graphs: Graphs,
        log: RunLog,
        *,
        name: Hashable = "",
        always: bool = False,
    ) -> None:
        super().__init__(engine, loss, feed)
        self._plain, self._log, self._always, self.graphs = engine, log, always, graphs
        self._mine = graphs.of(name)
        if graphs.share is None:
            graphs.share = self._share
        self._share = graphs.share
        self._seen: dict[Key, _Seen] = {}
        self._warm = 0 if graphs.worth else WARM_UP
        if graphs.worth is not False:
            feed.grid = grid_of(engine.module)
            engine.hold_gradients()

    def step(self, ready: Ready, rate: float) -> Tensor:
        """Run a step; see `Stepper.step`."""
        if self.graphs.worth is False:
            if self.feed.grid is not None:
                self._leave()  # an evaluation could not be recorded
                self._log.write("eager", reason=self.graphs.why)
            return super().step(ready, rate)
        with self.graphs.recorder.scope():
            return super().step(ready, rate)

    def record(self) -> dict[str, Any]:
        """See `Stepper.record`."""
        self.why = "" if self._mine else self.graphs.why
        return {**super().record(), "graphs": len(self._mine)}

    def rows(self, task: RowReader) -> ReadRows | None:
        """See `Stepper.rows`."""
        return GraphRows(self._plain, task, self.graphs, self.feed) if self.graphs.worth else None

    def _is_eager(self) -> bool:
        return self.graphs.worth is False

    def _run(self, micro: Micro, step: TrainStep) -> None:
        off = self.graphs.worth is False or self._steps <= self._warm
        if micro.sent is None or off or not _fit_for_graphs(micro.batch):
            super()._run(micro, step)
            return
        key = (micro.sent.layout, micro.batch.facts)
        known = self._mine.get(key)
        if known is not None:
            known.buffer.copy_(micro.sent.arrive())
            known.replay()
            return
        seen = self._seen.setdefault(key, _Seen())
        seen.count += 1
        if seen.count == 1 or len(self._mine) >= LARGEST:
            super()._run(micro, step)
        elif self.graphs.worth or seen.count > 2:
            self._recorded(key, micro, micro.sent, step)
        else:
            began = self.graphs.recorder.seconds()
            super()._run(micro, step)
            seen.seconds = self.graphs.recorder.seconds() - began

    def _recorded(self, key: Key, micro: Micro, sent: Sent, step: TrainStep) -> None:
        """Record a shape's graph, and run the micro-batch as it; eager from now on where that fails."""
        buffer = sent.arrive().clone()
        views, batch, loss = sent.layout.views(buffer), micro.batch, self.loss

        def learn() -> None:
            self._learn(loss(batch.filled(views), **counts(views)))

        replay = self.graphs.record(learn, "a step")
        if replay is None:
            self._stop(self.graphs.why)
            super()._run(micro, step)
            return
        self._mine[key] = Recorded(buffer=buffer, replay=replay, reads=batch.packed)
        if self.graphs.worth:
            replay()
        else:
            began = self.graphs.recorder.seconds()
            replay()
            del replay  # so that its memory can be given back
            self._decide(self._seen[key].seconds, self.graphs.recorder.seconds() - began)

    def _decide(self, eager: float, graph: float) -> None:
        """Keep graphs, or stay eager, by the seconds that one shape took."""
        self._busy = graph * self.engine.settings.accumulation
        told = {"eager_seconds": round(eager, 6), "graph_seconds": round(graph, 6)}
        if not self._always and graph > GAIN * eager:
            why = f"the device limits a step, not the host: {eager * 1e3:.1f} ms eager, {graph * 1e3:.1f} ms as a graph"
            self._stop(why, **told)
            return
        replay = self.graphs.record(self._plain.update, "the optimizer")
        if replay is None:
            self._stop(self.graphs.why)
            return
        self._plain.repeat_update(replay)
        self.graphs.worth = True
        self._log.write("graphs", **told)

    def _stop(self, why: str, **told: float) -> None:
        """Eager from now on."""
        self._leave()
        self.graphs.drop(why)
        self._log.write("eager", reason=why, **told)

    def _leave(self) -> None:
        self._mine = {}
        self._plain.eager_update()
        self.feed.grid = None


def _fit_for_graphs(batch: Batch) -> bool:
    """Whether the host has nothing to refuse in a batch: a graph would not."""
    return not batch.facts.wrong_label and len(batch.labels_R) > 0
