"""The one plug-in seam: what a task must know. Everything above asks a `Task`, never which task it is."""

# I items  R rows  V classes  S statistics  B items of a batch

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import DataError, ModelError
from kdcache.core.types import Example, Item, TaskSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a task scores: examples, of which each has one item or several.

    Attributes:
        uids: of the examples [I], in the order of their first items.
        statistics: name (`metrics.Metric.statistic`) -> float64 [I, S], additive over examples.
        languages: of the examples [I]; empty where one of them has none.
    """

    uids: tuple[str, ...]
    statistics: dict[str, NDArray[np.float64]]
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """What is kept of predicted rows: a few numbers each, never their classes.

    Attributes:
        best_R: int64, the most probable class.
        gold_R: float64, log-probability of the gold class, nats; NaN where the row has no label.
        squares_R: float64, sum of squared probabilities.
        confidence_R: float64, probability of `best_R`.
        entropy_R: float64, nats.
    """

    best_R: NDArray[np.int64]
    gold_R: NDArray[np.float64]
    squares_R: NDArray[np.float64]
    confidence_R: NDArray[np.float64]
    entropy_R: NDArray[np.float64]

    def rows(self, index: slice) -> RowFacts:
        """Some of the rows."""
        return RowFacts(**{f.name: getattr(self, f.name)[index] for f in fields(RowFacts)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """An item's rows set beside a teacher's.

    Attributes:
        best_R: int64, the teacher's most probable class.
        kl_R: float64, KL divergence of the student from the teacher, nats.
    """

    best_R: NDArray[np.int64]
    kl_R: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is kept of an item that went through a model.

    Attributes:
        facts: of its rows.
        answer: what `Task.answers` made of its logits: small, picklable; null for most tasks.
        text: what `Task.write` wrote; null where the task writes nothing.
        sample_RV: float32, logits of some of its labelled rows, for the temperature; null unless asked for.
        sample_labels_R: int64, their labels.
        beside: its rows and a teacher's; null unless asked for.
    """

    facts: RowFacts
    answer: Any = None
    text: str | None = None
    sample_RV: NDArray[np.float32] | None = None
    sample_labels_R: NDArray[np.int64] | None = None
    beside: Beside | None = None


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

    @property
    def bound_to_tokens(self) -> str:
        """Why a student must have the teacher's tokenizer, e.g. `rows are target tokens`; empty if it need not."""
        ...

    @property
    def over_length(self) -> str:
        """What becomes of an example over `max_length` tokens, e.g. `cut into windows`."""
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

        Returns:
            Items; none where the example is left out by a setting.

        Raises:
            DataError: a field that is missing, a label that is unknown.
            ConfigError: `max_length` leaves no room for the text.
        """
        ...

    def arrange(self, items: list[Item], tokenizer: Any) -> list[Item]:
        """The items of a whole split as the model is fed them: as they are, or packed."""
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
            Logits [R, V], in the order of `positions`. Columns beyond a row's own classes are padding, which the caller
            cuts off or masks (`training.batch.read_rows`).
        """
        ...

    def answers(self, items: Sequence[Item], logits: Sequence[Tensor]) -> list[Any]:
        """What scoring needs of each item's logits [R, V] beyond the facts of its rows; null for most tasks."""
        ...

    def write(self, model: Any, inputs: Mapping[str, Tensor], writing: Writing) -> list[str] | None:
        """The texts that a model writes for a batch, where the score is of texts; else null.

        See `Writing`.
        """
        ...

    def score(self, items: Sequence[Item], readings: Sequence[Reading]) -> Scored:
        """Additive statistics per example.

        Args:
            items: labelled items, those of an example all there.
            readings: one an item.

        Raises:
            DataError: no items, or an item without a label.
        """
        ...

    def row_names(self, item: Item) -> NDArray[np.int64] | None:
        """What each row of an item is of, whatever the tokenizer: 0 for the example, a word's number; int64 [R].

        Null where rows are made of tokens: a student must then have the teacher's tokenizer.
        """
        ...

    def metrics(self) -> tuple[str, ...]:
        """Names in `metrics.METRICS` to report; the first selects checkpoints."""
        ...

    def details(self, *, final: bool) -> dict[str, object]:
        """What else a score's signature should say, e.g. `{"beams": 5}`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a model writes.

    Attributes:
        tokenizer: turns tokens into text.
        final: for a reported score, not for one that only selects checkpoints.
        synced: all ranks must run as many forward passes, since they share the weights (ZeRO-3).
    """

    tokenizer: Any
    final: bool
    synced: bool


class RowTask:
    """What most tasks share: items as they are, scores from rows alone. A mixin."""

    __slots__ = ()

    @property
    def bound_to_tokens(self) -> str:
        """Rows are examples or words: any tokenizer will do."""
        return ""

    @property
    def over_length(self) -> str:
        """It loses its end."""
        return "cut"

    def row_names(self, item: Item) -> NDArray[np.int64] | None:
        """Null: a task that can name its rows says so itself."""
        return None

    def arrange(self, items: list[Item], tokenizer: Any) -> list[Item]:
        """The items as they are."""
        return items

    def answers(self, items: Sequence[Item], logits: Sequence[Tensor]) -> list[Any]:
        """Nothing beyond the rows."""
        return [None] * len(items)

    def write(self, model: Any, inputs: Mapping[str, Tensor], writing: Writing) -> list[str] | None:
        """Nothing."""
        return None

    def details(self, *, final: bool) -> dict[str, object]:
        """Nothing."""
        return {}


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
