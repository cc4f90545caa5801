"""One text, or a pair of texts, to one of a few classes: one row an example."""

# I items  R rows  V classes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import ConfigError, DataError
from kdcache.core.types import IGNORE, Example, Item, TaskSettings
from kdcache.metrics.classification import class_statistics
from kdcache.tasks.base import Reading, RowTask, Scored, text_of
from kdcache.tasks.statistics import check_items, languages_of, row_statistics

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("f1_binary", "f1_macro", "f1_weighted", "accuracy", "nll", "brier", "ece")
"""Reported, in this order; `f1_binary` for two classes only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(RowTask):
    """Sequence classification. `settings.metric` = `f1` is F1 of the second class for two classes, else macro F1."""

    settings: TaskSettings
    name: str = "classification"
    auto_class: str = "AutoModelForSequenceClassification"

    def __post_init__(self) -> None:
        labels = self.settings.labels
        if len(labels) < 2:
            raise ConfigError(f"labels has {len(labels)} classes; classification needs at least 2, in class order")
        if self._primary() not in self._metrics():
            raise ConfigError(
                f"metric = {self.settings.metric!r} does not score {len(labels)} classes; "
                f"allowed: f1, {', '.join(self._metrics())}"
            )

    def model_kwargs(self) -> dict[str, Any]:
        """Number and names of the classes, as a model's config holds them."""
        labels = self.settings.labels
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
        }

    def encode(self, example: Example, tokenizer: Any, *, train: bool = False) -> list[Item]:
        """One item: the tokenizer's inputs but the attention mask, which a batch makes when it pads.

        A text longer than `max_length` tokens loses tokens at its end, of a pair the longer text first; `meta` then
        holds `truncated`.

        Raises:
            DataError: no text, or a label that is not among the classes.
            ConfigError: `max_length` leaves no room for the text.
        """
        texts = (text_of(example, "text"), *([text_of(example, "text_pair")] if "text_pair" in example.fields else []))
        limit = self.settings.max_length
        # verbose: transformers would warn of a long sequence before it is truncated
        encoded = tokenizer(*texts, truncation=False, return_attention_mask=False, verbose=False)
        meta: dict[str, Any] = {"language": example.fields["language"]} if "language" in example.fields else {}
        if len(encoded["input_ids"]) > limit:
            special = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
            if limit < special + len(texts):
                raise ConfigError(
                    f"max_length = {limit} leaves no room for the text beside {special} special tokens; "
                    f"allowed: at least {special + len(texts)}"
                )
            encoded = tokenizer(
                *texts, truncation="longest_first", max_length=limit, return_attention_mask=False, verbose=False
            )
            meta["truncated"] = True
        return [
            Item(
                uid=example.uid,
                inputs={name: np.array(values, dtype=np.int32) for name, values in encoded.items()},
                positions_R=np.zeros(1, dtype=np.int32),
                labels_R=np.array([self._class_of(example)], dtype=np.int32),
                classes_R=np.array([len(self.settings.labels)], dtype=np.int32),
                meta=meta,
            )
        ]

    def lengths(self, examples: Sequence[Example], tokenizer: Any) -> NDArray[np.int64]:
        """Tokens of each text or pair before truncation, int64 [I]."""
        texts = [text_of(e, "text") for e in examples]
        if not texts:
            return np.zeros(0, dtype=np.int64)
        pairs = [text_of(e, "text_pair") for e in examples] if "text_pair" in examples[0].fields else None
        return np.array([len(ids) for ids in tokenizer(texts, pairs, verbose=False)["input_ids"]], dtype=np.int64)

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """`outputs.logits`, [R, V]: one row an item, so `positions` has nothing to add."""
        logits_RV: Tensor = outputs.logits
        return logits_RV

    def score(self, items: Sequence[Item], readings: Sequence[Reading]) -> Scored:
        """Statistics `classes`, `accuracy`, `nll`, `brier`, `ece` of every item; the largest logit is the prediction.

        Raises:
            DataError: no items, or an item without a label.
        """
        check_items(items, readings)
        labels_I = np.array([item.labels_R[0] for item in items], dtype=np.int64)
        predictions_I = np.concatenate([reading.facts.best_R for reading in readings])
        return Scored(
            uids=tuple(item.uid for item in items),
            languages=languages_of(items),
            statistics={
                "classes": class_statistics(predictions_I, labels_I, len(self.settings.labels)),
                **row_statistics(items, readings, np.arange(len(items)), len(items)),
            },
        )

    def row_names(self, item: Item) -> NDArray[np.int64] | None:
        """The one row is the example's."""
        return np.zeros(1, dtype=np.int64)

    def metrics(self) -> tuple[str, ...]:
        """The metric that selects, then the others."""
        primary = self._primary()
        return (primary, *(name for name in self._metrics() if name != primary))

    def _metrics(self) -> tuple[str, ...]:
        return METRICS if len(self.settings.labels) == 2 else METRICS[1:]

    def _primary(self) -> str:
        return self._metrics()[0] if self.settings.metric == "f1" else self.settings.metric

    def _class_of(self, example: Example) -> int:
        label = example.fields.get("label")
        if label is None:
            return IGNORE
        if label not in self.settings.labels:
            known = ", ".join(self.settings.labels)
            raise DataError(f"example {example.uid} has the label {label!r}; known: {known}")
        return self.settings.labels.index(label)
