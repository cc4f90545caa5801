"""Steps as CUDA graphs: one a shape, recorded when it comes again. What is rare, or cannot be recorded, stays eager.

A step of a small student asks the device for a thousand small things, and the host cannot ask as fast as a GPU answers.
A graph asks once. Nothing else changes: the same operations on the same numbers, padded to a grid of few shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdcache.core.errors import KDCacheError
from kdcache.losses.facts import Facts
from kdcache.training.batch import Batch
from kdcache.training.fusing import Loss
from kdcache.training.log import RunLog
from kdcache.training.plain import PlainEngine
from kdcache.training.recording import Recorder, Replay
from kdcache.training.sending import Layout, Sent
from kdcache.training.shapes import grid_of
from kdcache.training.stepping import Feed, Micro, Ready, Stepper, counts
from kdcache.training.steps import TrainStep

WARM_UP = 3
"""Eager steps before anything is recorded: libraries, kernels and the optimizer's moments are made in them."""
LARGEST = 48
"""Graphs of one training, at most."""
GAIN = 0.9
"""A graph is worth it where it takes at most this share of the eager time of the same shape."""

Key = tuple[Layout, Facts]


@dataclass(slots=True)
class _Seen:
    """A shape: how often it came, and the seconds of its forward and backward pass, eager."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A graph, and the buffer that it reads."""

    buffer: Tensor
    replay: Replay


class GraphStepper(Stepper):
    """Runs steps as graphs where that pays.

    The first shape that comes for the third time decides: it was timed eager, then as a graph. Where the device and not
    the host is the limit, a graph gives nothing and its memory is given back.

    Args:
        engine: plain PyTorch.
        loss: of a batch.
        feed: makes its steps ready; pads them from now on.
        recorder: makes graphs.
        log: told what runs, and why.
        always: keep graphs whatever they gain.
    """

    def __init__(
        self, engine: PlainEngine, loss: Loss, feed: Feed, recorder: Recorder, log: RunLog, *, always: bool = False
    ) -> None:
        super().__init__(engine, loss, feed)
        self._plain, self._recorder, self._log, self._always = engine, recorder, log, always
        feed.grid = grid_of(engine.module)
        self._seen: dict[Key, _Seen] = {}
        self._graphs: dict[Key, _Recorded] = {}
        self._decided = self._off = False
        self._why = "no shape came three times"
        self._busy = 0.0
        engine.hold_gradients()

    def step(self, ready: Ready, rate: float) -> Tensor:
        """Run a step; see `Stepper.step`."""
        with self._recorder.scope():
            return super().step(ready, rate)

    def record(self) -> dict[str, Any]:
        """See `Stepper.record`; `why` says why nothing is a graph, `busy` is the device's seconds of a step."""
        found = super().record()
        if self._busy:
            found["busy"] = round(self._busy, 6)
        return {**found, "graphs": len(self._graphs)} | ({} if self._graphs else {"why": self._why})

    def _run(self, micro: Micro, step: TrainStep) -> None:
        if micro.sent is None or self._off or self._steps <= WARM_UP or not _fit_for_graphs(micro.batch):
            super()._run(micro, step)
            return
        key = (micro.sent.layout, micro.batch.facts)
        known = self._graphs.get(key)
        if known is not None:
            known.buffer.copy_(micro.sent.arrive())
            known.replay()
            return
        seen = self._seen.setdefault(key, _Seen())
        seen.count += 1
        if seen.count == 1 or len(self._graphs) >= LARGEST:
            super()._run(micro, step)
        elif self._decided or seen.count > 2:
            self._recorded(key, micro, micro.sent, step)
        else:
            began = self._recorder.seconds()
            super()._run(micro, step)
            seen.seconds = self._recorder.seconds() - began

    def _recorded(self, key: Key, micro: Micro, sent: Sent, step: TrainStep) -> None:
        """Record a shape's graph, and run the micro-batch as it; eager from now on where that fails."""
        buffer = sent.arrive().clone()
        views, batch, loss = sent.layout.views(buffer), micro.batch, self.loss

        def learn() -> None:
            self._learn(loss(batch.filled(views), **counts(views)))

        try:
            graph = _Recorded(buffer=buffer, replay=self._recorder.record(learn))
        except KDCacheError:
            raise
        except Exception as error:  # noqa: BLE001  whatever a model raises that cannot be recorded, eager steps can go on
            self._stop(f"a step cannot be recorded: {type(error).__name__}: {_line(error)}")
            super()._run(micro, step)
            return
        self._graphs[key] = graph
        if self._decided:
            graph.replay()
        else:
            began = self._recorder.seconds()
            graph.replay()
            del graph  # so that its memory can be given back
            self._decide(self._seen[key].seconds, self._recorder.seconds() - began)

    def _decide(self, eager: float, graph: float) -> None:
        """Keep graphs, or stay eager, by the seconds that one shape took."""
        self._decided, self._busy = True, graph * self.engine.settings.accumulation
        told = {"eager_seconds": round(eager, 6), "graph_seconds": round(graph, 6)}
        if not self._always and graph > GAIN * eager:
            why = f"the device limits a step, not the host: {eager * 1e3:.1f} ms eager, {graph * 1e3:.1f} ms as a graph"
            self._stop(why, **told)
            return
        try:
            self._plain.record_update(self._recorder.record)
        except Exception as error:  # noqa: BLE001  as above
            self._stop(f"the optimizer cannot be recorded ({type(error).__name__}: {_line(error)})")
        else:
            self._log.write("graphs", **told)

    def _stop(self, why: str, **told: float) -> None:
        """Eager from now on."""
        self._off, self._why = True, why
        self._graphs.clear()
        self._plain.eager_update()
        self.feed.grid = None
        self._recorder.release()
        self._log.write("eager", reason=why, **told)


def _fit_for_graphs(batch: Batch) -> bool:
    """Whether the host has nothing to refuse in a batch: a graph would not."""
    return not batch.facts.wrong_label and len(batch.labels_R) > 0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
