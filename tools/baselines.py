"""What a task is worth without a model: the baselines that a teacher has to beat. Pure; a name and a score each.

classification  the most frequent class of train
ner             the most frequent tag of each word in train, O for words that are not there
qa              the words i to j of every context, i and j the best on train
translation     NLL a target token of a unigram model of train (one added to every count); BLEU of the source
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.core.types import Example, Item
from kdcache.metrics import METRICS, bleu, classification, entities, squad

FIRST_WORDS = 40
LONGEST = 6
"""Fixed spans that are tried: they begin in the first 40 words and have at most 6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A score that a teacher must be better than."""

    name: str
    metric: str
    value: float


def majority(train: Sequence[Example], test: Sequence[Example], labels: Sequence[str]) -> list[Baseline]:
    """Accuracy and F1 of one class for everything."""
    most = Counter(example.fields["label"] for example in train).most_common(1)[0][0]
    gold_I = np.array([_number(example.fields["label"], labels) for example in test])
    said_I = np.full(len(test), _number(most, labels))
    f1 = "f1_binary" if len(labels) == 2 else "f1_macro"
    counts = classification.class_statistics(said_I, gold_I, len(labels)).sum(axis=0)
    return [
        Baseline(name="majority class", metric=f1, value=float(METRICS[f1].finish(counts))),
        Baseline(name="majority class", metric="accuracy", value=float(np.mean(said_I == gold_I))),
    ]


def _number(label: Any, labels: Sequence[str]) -> int:
    return labels.index(label) if isinstance(label, str) else int(label)


def frequent_tags(train: Sequence[Example], test: Sequence[Example]) -> list[Baseline]:
    """Entity F1 of each word's most frequent tag."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        for word, tag in zip(example.fields["words"], example.fields["tags"], strict=True):
            seen[word][tag] += 1
    best = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
    said = [[best.get(word, entities.OUTSIDE) for word in example.fields["words"]] for example in test]
    counts = entities.entity_statistics(said, [example.fields["tags"] for example in test]).sum(axis=0)
    return [Baseline(name="most frequent tag of a word", metric="entity_f1", value=float(entities.f1(counts)))]


def fixed_span(train: Sequence[Example], test: Sequence[Example]) -> list[Baseline]:
    """F1 of the same words of every context."""
    spans = [(begin, begin + size) for begin in range(FIRST_WORDS) for size in range(1, LONGEST + 1)]
    begin, end = max(spans, key=lambda span: _span_f1(train[:1000], *span))
    return [Baseline(name=f"words {begin + 1} to {end}", metric="squad_f1", value=_span_f1(test, begin, end))]


def _span_f1(examples: Sequence[Example], begin: int, end: int) -> float:
    said = [" ".join(example.fields["context"].split()[begin:end]) for example in examples]
    golds = [example.fields["answers"] for example in examples]
    rules: list[Callable[[str], str]] = [squad.normalize_squad] * len(examples)
    return float(squad.f1(squad.answer_statistics(said, golds, rules).sum(axis=0)))


def unigram(train: Sequence[Item], test: Sequence[Item], num_classes: int) -> list[Baseline]:
    """NLL of target tokens under their frequencies in train, one added to each."""
    counts_V = np.ones(num_classes)
    for item in train:
        np.add.at(counts_V, item.labels_R[item.labels_R >= 0], 1)
    log_V = np.log(counts_V / counts_V.sum())
    gold = np.concatenate([item.labels_R[item.labels_R >= 0] for item in test])
    return [Baseline(name="unigrams of the target", metric="nll", value=float(-log_V[gold].mean()))]


def copied(test: Sequence[Example]) -> list[Baseline]:
    """BLEU of the source, untranslated."""
    sources = [example.fields["source"] for example in test]
    statistics = bleu.bleu_statistics(sources, [example.fields["target"] for example in test])
    return [Baseline(name="copied source", metric="bleu", value=float(bleu.bleu(statistics.sum(axis=0))))]
