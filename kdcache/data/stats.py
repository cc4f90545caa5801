"""A dataset in numbers, for `kdcache inspect`: what would surprise before a day of training. Pure."""

# I examples

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import DataError
from kdcache.core.types import Example
from kdcache.data.fields import GOLD
from kdcache.data.spec import DatasetSpec

PERCENTILES = (50, 90, 99, 100)
"""Of the token lengths; 100 is the longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """One split.

    Attributes:
        num_examples: after hold-out and limit.
        labels: class name -> examples, or words where they have classes, in class order.
        num_labels: all of them.
        languages: language -> examples, the most frequent first; empty where they have none.
        num_unlabelled: examples without a label, tags or answers.
        num_duplicates: examples whose text (both texts, all words) stands in the split before.
        num_seen: split -> examples here whose text stands there too; splits without any are left out.
        tokens: percentile -> tokens of an example before truncation; empty without lengths.
        truncated: share of examples over `max_length`; null without lengths.
    """

    num_examples: int
    labels: Mapping[str, int]
    num_labels: int
    languages: Mapping[str, int]
    num_unlabelled: int
    num_duplicates: int
    num_seen: Mapping[str, int]
    tokens: Mapping[str, float]
    truncated: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """A dataset.

    Attributes:
        name: the dataset's.
        task: what is done with it.
        metric: what selects checkpoints.
        max_length: tokens of an item.
        splits: split -> its numbers.
        examples: the first three of the first split.
    """

    name: str
    task: str
    metric: str
    max_length: int
    splits: Mapping[str, SplitSummary]
    examples: tuple[Example, ...]


def describe_dataset(
    spec: DatasetSpec,
    examples: Mapping[str, Sequence[Example]],
    lengths: Mapping[str, NDArray[np.integer]] | None = None,
) -> DatasetSummary:
    """Count a dataset.

    Args:
        spec: the dataset.
        examples: split -> its examples.
        lengths: split -> tokens of each example before truncation [I]; null where there is no tokenizer.

    Raises:
        DataError: lengths that do not belong to the examples.
    """
    texts = {split: Counter(_text(e) for e in part) for split, part in examples.items()}
    has_gold = bool(spec.labels) or "context" in spec.columns  # a text to go on with, or to translate, is its own gold
    splits = {}
    for split, part in examples.items():
        labels = Counter(label for e in part for label in _labels(e))
        seen = {
            other: sum(count for text, count in texts[split].items() if text in texts[other])
            for other in examples
            if other != split
        }
        tokens_I = None if lengths is None else _lengths(lengths, split, len(part))
        splits[split] = SplitSummary(
            num_examples=len(part),
            labels={name: labels[name] for name in spec.labels},
            num_labels=labels.total(),
            languages=dict(Counter(e.fields["language"] for e in part if "language" in e.fields).most_common()),
            num_unlabelled=sum(not any(name in e.fields for name in GOLD) for e in part) if has_gold else 0,
            num_duplicates=len(part) - len(texts[split]),
            num_seen={other: count for other, count in seen.items() if count},
            tokens={} if tokens_I is None else {str(p): float(np.percentile(tokens_I, p)) for p in PERCENTILES},
            truncated=None if tokens_I is None else float((tokens_I > spec.max_length).mean()),
        )
    return DatasetSummary(
        name=spec.name,
        task=spec.task,
        metric=spec.metric,
        max_length=spec.max_length,
        splits=splits,
        examples=tuple(next(iter(examples.values()), ())[:3]),
    )


def _labels(example: Example) -> Sequence[str]:
    """The class of the example, or of each word."""
    if "label" in example.fields:
        return (example.fields["label"],)
    return list(example.fields.get("tags", ()))


def _text(example: Example) -> tuple[str, ...]:
    """What two examples that are the same share."""
    words = (*example.fields.get("words", ()), *(m["content"] for m in example.fields.get("messages", ())))
    names = ("text", "text_pair", "question", "context", "source", "target", "prompt", "response")
    return (*words, *(example.fields[name] for name in names if name in example.fields))


def _lengths(lengths: Mapping[str, NDArray[np.integer]], split: str, count: int) -> NDArray[np.integer]:
    found = len(lengths[split]) if split in lengths else 0
    if found != count:
        raise DataError(f"split {split} has {count} examples, but {found} token lengths; give one an example")
    return lengths[split]
