"""Evaluation as CUDA graphs: the forward passes of batches whose shapes come again, as they do in each evaluation.

R rows  V classes
"""

from __future__ import annotations

from torch import Tensor

from kdcache.training.batch import Batch, RowReader, read_rows
from kdcache.training.forward import eager
from kdcache.training.plain import PlainEngine
from kdcache.training.recording import LARGEST, Graphs, Recorded
from kdcache.training.sending import Sent
from kdcache.training.stepping import Feed


class GraphRows:
    """Reads a model's rows by graphs: a `forward.ReadRows`. A shape is recorded when it comes again.

    Args:
        engine: the model, in evaluation mode when it is called.
        task: reads rows from its outputs.
        graphs: of this model.
        feed: of its training: pads and sends.
    """

    def __init__(self, engine: PlainEngine, task: RowReader, graphs: Graphs, feed: Feed) -> None:
        self._engine, self._task, self._graphs, self._feed = engine, task, graphs, feed
        self._eager = eager(engine.forward, task, engine.world.device)

    def __call__(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch on the device, and its rows' logits, float32 [R, V], which the next call overwrites."""
        if not self._graphs.worth or not len(batch.labels_R):
            return self._eager(batch)
        with self._graphs.recorder.scope():
            padded = self._feed.padded(batch)
            sent = self._feed.sender.send(padded.tensors())
            there, logits_RV = self._logits(padded, sent)
        return there, logits_RV[: len(batch.labels_R), : batch.facts.width]

    def _logits(self, batch: Batch, sent: Sent) -> tuple[Batch, Tensor]:
        graphs, key, buffer = self._graphs, (sent.layout, batch.facts), sent.arrive()
        there = batch.filled(sent.layout.views(buffer))
        if key not in graphs.rows and key in graphs.met and len(graphs.rows) < LARGEST:
            self._record(batch, sent)
        graphs.met.add(key)
        known = graphs.rows.get(key)
        if known is None:
            return there, self._read(there)
        known.buffer.copy_(buffer)
        known.replay()
        return there, known.left[0]

    def _read(self, batch: Batch) -> Tensor:
        return read_rows(self._task, self._engine.forward(batch.inputs), batch).float()

    def _record(self, batch: Batch, sent: Sent) -> None:
        """Record a shape; where that fails, everything is eager from now on."""
        buffer = sent.arrive().clone()
        views = sent.layout.views(buffer)
        left: list[Tensor] = []

        def read() -> None:
            left[:] = [self._read(batch.filled(views))]

        replay = self._graphs.record(read, "an evaluation")
        if replay is None:
            self._graphs.drop(self._graphs.why)
        else:
            self._graphs.rows[sent.layout, batch.facts] = Recorded(buffer=buffer, replay=replay, left=left)
