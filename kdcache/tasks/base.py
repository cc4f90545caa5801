"""The one plug-in seam: what a task must know. Everything above asks a `Task`, never which task it is."""

# I items  R rows  V classes  S statistics  B items of a batch

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from kdcache.core.errors import DataError, ModelError, TrainingError
from kdcache.core.types import IGNORE, Example, Item, TaskSettings
from kdcache.metrics.calibration import brier_statistics, ece_statistics, nll_statistics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a task scores: examples, of which each has one item or several.

    Attributes:
        uids: of the examples [I], in the order of their first items.
        statistics: name (`metrics.Metric.statistic`) -> float64 [I, S], additive over examples.
    """

    uids: tuple[str, ...]
    statistics: dict[str, NDArray[np.float64]]


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

    def encode(self, example: Example, tokenizer: Any, *, train: bool = False) -> list[Item]:
        """What the model is fed for an example.

        Args:
            example: with the fields that the task needs.
            tokenizer: a tokenizer of transformers.
            train: the items are trained on and never scored: their `meta` may lack what scoring needs.

        Raises:
            DataError: a field that is missing, a label that is unknown.
            ConfigError: `max_length` leaves no room for the text.
        """
        ...

    def lengths(self, examples: Sequence[Example], tokenizer: Any) -> NDArray[np.int64]:
        """Tokens of each example before anything is cut, special tokens included, int64 [I]."""
        ...

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """Logits of a batch's rows.

        Args:
            outputs: what the model returned.
            positions: int64 [R, 2], (item of the batch, `Item.positions_R`) where each row is read.

        Returns:
            Logits [R, V], in the order of `positions`. Where rows of a batch differ in V, columns beyond a row's own
            classes are padding, which the caller masks (`training.batch.read_rows`).
        """
        ...

    def score(self, items: Sequence[Item], logits: Sequence[NDArray[np.float32]]) -> Scored:
        """Additive statistics per example.

        Args:
            items: labelled items, those of an example all there.
            logits: float32 [R, V] of each item.

        Raises:
            DataError: no items, or an item without a label.
            ModelError: logits of another number of rows or classes.
            TrainingError: logits that are not finite.
        """
        ...

    def metrics(self) -> tuple[str, ...]:
        """Names in `metrics.METRICS` to report; the first selects checkpoints."""
        ...


def check_logits(items: Sequence[Item], logits: Sequence[NDArray[np.float32]]) -> None:
    """Refuse what would give a wrong average.

    Raises:
        DataError: no items, or an item with a row that has no label.
        ModelError: logits of another number of items, rows or classes.
        TrainingError: logits that are not finite.
    """
    if not items:
        raise DataError("there are 0 items to score; a split needs at least one")
    if len(items) != len(logits):
        raise ModelError(f"{len(items)} items have logits of {len(logits)}; give one array an item")
    unlabelled = [item.uid for item in items if (item.labels_R == IGNORE).any()]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} of {len(items)} items have no label, the first is {unlabelled[0]}; "
            f"only labelled items can be scored: label them, or score another split"
        )
    for item, logits_RV in zip(items, logits, strict=True):
        shape = (item.num_rows, int(item.classes_R.max(initial=0)))
        if logits_RV.shape != shape and item.num_rows:
            raise ModelError(
                f"the model gave logits of shape {list(logits_RV.shape)} for item {item.uid}; the dataset needs "
                f"{list(shape)}: {'one row' if shape[0] == 1 else f'{shape[0]} rows'} of {shape[1]} classes"
            )
        if not np.isfinite(logits_RV).all():
            raise TrainingError(
                f"the logits of item {item.uid} are not finite ({str(logits_RV.tolist())[:200]}); the model has "
                f"diverged: lower the learning rate, or train in bf16 or fp32"
            )


def row_statistics(
    items: Sequence[Item], logits: Sequence[NDArray[np.float32]], owner_I: NDArray[np.int64], count: int
) -> dict[str, NDArray[np.float64]]:
    """Statistics `nll`, `brier`, `ece` of rows, summed over each example's.

    Args:
        items: checked.
        logits: float32 [R, V] of each item.
        owner_I: number of each item's example.
        count: examples.

    Returns:
        Name -> float64 [count, S].
    """
    owner_R = np.repeat(owner_I, [item.num_rows for item in items])
    labels_R = np.concatenate([item.labels_R for item in items]).astype(np.int64)
    logprobs_RV = log_softmax(pad_classes(logits), axis=-1)
    return {
        "nll": sum_rows(nll_statistics(logprobs_RV, labels_R), owner_R, count),
        "brier": sum_rows(brier_statistics(logprobs_RV, labels_R), owner_R, count),
        "ece": sum_rows(ece_statistics(logprobs_RV, labels_R), owner_R, count),
    }


def sum_rows(values_RS: NDArray[np.float64], owner_R: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Statistics of rows summed over their examples, float64 [count, S].

    Example:
        >>> sum_rows(np.array([[1.0], [2.0], [4.0]]), np.array([0, 2, 2]), 3).tolist()
        [[1.0], [0.0], [6.0]]
    """
    sums = np.zeros((count, values_RS.shape[1]))
    np.add.at(sums, owner_R, values_RS)
    return sums


def pad_classes(logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Rows of all items, float64 [R, V] with the largest V; -inf where a row has fewer classes."""
    rows = sum(len(part) for part in logits)
    padded = np.full((rows, max((part.shape[1] for part in logits), default=0)), -np.inf)
    start = 0
    for part in logits:
        padded[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return padded


def text_of(example: Example, name: str) -> str:
    """A field that must hold text.

    Raises:
        DataError: it is missing, no text, or empty.
    """
    value = example.fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"example {example.uid} has {value!r} as its {name}; it must be text and not empty")
    return value


def check_fast(tokenizer: Any, *, why: str) -> None:
    """Refuse a tokenizer that does not say where its tokens come from.

    Raises:
        ModelError: it is a slow one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which cannot tell {why}; "
            f"use a model with a fast one (a tokenizer.json in its folder)"
        )
