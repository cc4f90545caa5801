"""A training's loss from a batch: from the logits of its rows, or, over a large vocabulary, from what enters the output
head, so that [rows, vocabulary] is never held (`losses.fused`).

R rows  V classes  D hidden size
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import torch
from torch import Tensor

from kdcache.core.errors import ConfigError, ModelError
from kdcache.losses.objective import Losses, Objective
from kdcache.training import heads
from kdcache.training.batch import Batch, RowReader, read_rows
from kdcache.training.engine import Engine
from kdcache.training.log import RunLog

Fused = Literal["auto", "always", "never"]


class Loss:
    """An objective over the rows of an engine's model.

    Whether the head can be split off is decided, and proven, on the first batch; a training is fused or it is not.

    Args:
        engine: the model.
        objective: the loss.
        rows: reads rows.
        fused: `auto`, `always` or `never`.
        log: says which of the two it is.

    Raises:
        ConfigError: `always` where weights are spread over ranks.
    """

    def __init__(self, engine: Engine, objective: Objective, rows: RowReader, fused: Fused, log: RunLog) -> None:
        if fused == "always" and engine.sharded:
            raise ConfigError(
                "fused = 'always' needs the head's whole weights, but zero_stage 3 spreads them; use auto"
            )
        self.objective = objective
        self._engine, self._rows, self._fused, self._log = engine, rows, fused, log
        self._spec: heads.HeadSpec | None = None
        self._decided = fused == "never" or engine.sharded

    def __call__(self, batch: Batch, *, num_rows: int | Tensor, num_labels: int | Tensor) -> Losses:
        """The loss of a micro-batch that is on the device.

        Args:
            batch: with its targets.
            num_rows: rows with a teacher in the whole step; a tensor on the device, where a graph reads it.
            num_labels: rows with a label in the whole step.

        Raises:
            ModelError: `always`, and the model has no head that can be split off.
        """
        if not self._decided:
            self._decide(batch)
        if self._spec is None:
            return self.objective(
                read_rows(self._rows, self._engine.forward(batch.inputs), batch),
                batch.targets,
                batch.labels_R,
                weights_R=batch.weights_R,
                num_rows=num_rows,
                num_labels=num_labels,
                facts=batch.facts,
                in_place=True,
            )
        return self.objective.from_hidden(
            self._hidden(self._spec, batch),
            heads.live(self._engine.module, self._spec),
            batch.targets,
            batch.labels_R,
            weights_R=batch.weights_R,
            num_rows=num_rows,
            num_labels=num_labels,
            facts=batch.facts,
            compute=self._engine.compute,
        )

    def _decide(self, batch: Batch) -> None:
        self._decided = True
        if self._fused == "auto" and (batch.facts.width < heads.LARGE_VOCABULARY or batch.facts.ragged):
            return
        try:
            spec = heads.split(self._engine.module, num_classes=batch.facts.width)
            self._prove(spec, batch)
            self._spec = spec
        except ModelError as error:
            if self._fused == "always":
                raise
            self._log.write("dense", reason=str(error))
        else:
            self._log.write("fused", head=self._spec.path, classes=batch.facts.width)

    def _prove(self, spec: heads.HeadSpec, batch: Batch) -> None:
        """The head's logits must be the model's own, without dropout."""
        self._engine.train(False)
        with torch.no_grad(), heads.capture(spec) as captured:
            logits_RV = read_rows(self._rows, self._engine.module(**batch.inputs), batch)  # in the weights' own type
            hidden_RD = _rows_of(self._rows, captured, spec, batch)
        heads.prove(spec, hidden_RD, logits_RV, name="in training")
        self._engine.train(True)

    def _hidden(self, spec: heads.HeadSpec, batch: Batch) -> Tensor:
        """What enters the head at the rows, [R, D], with its gradient; the head itself runs over nothing."""
        with heads.capture(spec, through=False) as captured:
            self._engine.forward(batch.inputs)
        return _rows_of(self._rows, captured, spec, batch)


def _rows_of(rows: RowReader, captured: list[Tensor], spec: heads.HeadSpec, batch: Batch) -> Tensor:
    """The captured vectors at a batch's rows, by the task's own rule for logits."""
    if len(captured) != 1:
        raise ModelError(f"the output head {spec.path} ran {len(captured)} times in one forward pass, not once")
    try:
        hidden_RD = rows.rows(SimpleNamespace(logits=captured[0]), batch.positions_R2)
    except AttributeError:
        raise ModelError("the task's rows are not the logits of one output head") from None
    if hidden_RD.shape != (len(batch.positions_R2), spec.hidden_size):
        raise ModelError(f"what enters {spec.path} is not one vector of {spec.hidden_size} a row")
    return hidden_RD
