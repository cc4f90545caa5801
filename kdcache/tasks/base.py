"""The one plug-in seam: what a task must know. Everything above asks a `Task`, never which task it is."""

# I items  R rows  V classes  S statistics  B items of a batch

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcache.core.types import Example, Item, TaskSettings

if TYPE_CHECKING:
    from torch import Tensor


class Task(Protocol):
    """Examples to items, outputs to rows, rows to scores."""

    @property
    def name(self) -> str:
        """Key in `TASKS`."""
        ...

    @property
    def auto_class(self) -> str:
        """Class of transformers that loads the models, e.g. `AutoModelForSequenceClassification`."""
        ...

    @property
    def settings(self) -> TaskSettings:
        """Of the dataset."""
        ...

    def model_kwargs(self) -> dict[str, Any]:
        """Settings of a model that is loaded for training, e.g. `num_labels`."""
        ...

    def encode(self, example: Example, tokenizer: Any) -> list[Item]:
        """What the model is fed for an example.

        Args:
            example: with the fields that the task needs.
            tokenizer: a tokenizer of transformers.

        Raises:
            DataError: a field that is missing, a label that is unknown.
            ConfigError: `max_length` leaves no room for the text.
        """
        ...

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """Logits of a batch's rows.

        Args:
            outputs: what the model returned.
            positions: int64 [R, 2], (item of the batch, token) where each row is read.

        Returns:
            Logits [R, V], in the order of `positions`.
        """
        ...

    def score(self, items: Sequence[Item], logits: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
        """Additive statistics per example.

        Args:
            items: labelled items.
            logits: float32 [R, V] of each item.

        Returns:
            Name of the statistic (`metrics.Metric.statistic`) -> float64 [I, S], in the items' order.

        Raises:
            DataError: no items, or an item without a label.
            ModelError: logits of another number of rows or classes.
            TrainingError: logits that are not finite.
        """
        ...

    def metrics(self) -> tuple[str, ...]:
        """Names in `metrics.METRICS` to report; the first selects checkpoints."""
        ...
