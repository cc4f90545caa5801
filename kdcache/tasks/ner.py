"""A class for every word of a sentence (named entities): one row a word, read at its first sub-token."""

# I items (sentences)  R rows (words)  V classes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from kdcache.core.errors import ConfigError, DataError
from kdcache.core.types import IGNORE, Example, Item, TaskSettings
from kdcache.metrics.entities import OUTSIDE, entity_statistics
from kdcache.tasks.base import Reading, RowTask, Scored, check_fast
from kdcache.tasks.statistics import check_items, languages_of, row_statistics

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("entity_f1", "entity_precision", "entity_recall", "accuracy", "nll", "brier", "ece")
"""Reported, in this order. All but the first three are over rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NER(RowTask):
    """Named entity recognition. `settings.metric` = `f1` is micro F1 over entities, as conlleval counts them."""

    settings: TaskSettings
    name: str = "ner"
    auto_class: str = "AutoModelForTokenClassification"

    def __post_init__(self) -> None:
        labels = self.settings.labels
        odd = [label for label in labels if label != OUTSIDE and not (label[:2] in ("B-", "I-") and label[2:])]
        if OUTSIDE not in labels or odd:
            what = f"{odd[0]!r} among them" if odd else f"no {OUTSIDE!r}"
            raise ConfigError(f"labels of a ner dataset are O, B-TYPE and I-TYPE, but there is {what}; correct labels")
        if self._primary() not in METRICS:
            raise ConfigError(
                f"metric = {self.settings.metric!r} does not score entities; allowed: f1, {', '.join(METRICS)}"
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
        """One item a sentence: a row for each word that has a token within `max_length`.

        Tokenizers of bytes that distinguish a word at the start of a text (RoBERTa's) see every word after a space, as
        `add_prefix_space` does. A word that leaves no token at all (a zero-width character, say) is the unknown token.
        Where words are lost, `meta` holds `words`, the number of the word of each row, and `tags`, the class of every
        word, and `truncated`.

        Raises:
            DataError: no words, an empty word, another number of tags than words, a tag that is not among the classes.
            ConfigError: `max_length` leaves no room for a word.
            ModelError: a tokenizer that does not tell which word a token is of.
        """
        words, classes = self._words(example), self._classes(example)
        encoded, truncated = self._encoded(words, tokenizer)
        first: dict[int, int] = {}
        for token, word in enumerate(encoded.word_ids()):
            if word is not None:
                first.setdefault(word, token)
        meta: dict[str, Any] = {"language": example.fields["language"]} if "language" in example.fields else {}
        if len(first) < len(words):
            meta |= {"words": list(first), "tags": [] if classes is None else classes}
        if truncated:
            meta["truncated"] = True
        labels = [IGNORE if classes is None else classes[word] for word in first]
        return [
            Item(
                uid=example.uid,
                inputs={name: np.array(values, dtype=np.int32) for name, values in encoded.items()},
                positions_R=np.array(list(first.values()), dtype=np.int32),
                labels_R=np.array(labels, dtype=np.int32),
                classes_R=np.full(len(first), len(self.settings.labels), dtype=np.int32),
                meta=meta,
            )
        ]

    def lengths(self, examples: Sequence[Example], tokenizer: Any) -> NDArray[np.int64]:
        """Tokens of each sentence before truncation, int64 [I]."""
        if not examples:
            return np.zeros(0, dtype=np.int64)
        sentences = [_spaced(self._words(e), tokenizer) for e in examples]
        encoded = tokenizer(sentences, is_split_into_words=True, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """`outputs.logits` [B, L, V] at the first sub-token of each word, [R, V]."""
        logits_RV: Tensor = outputs.logits[positions[:, 0], positions[:, 1]]
        return logits_RV

    def score(self, items: Sequence[Item], readings: Sequence[Reading]) -> Scored:
        """Statistics of every sentence: `entities` (correct, predicted, true), and `accuracy`, `nll`, `brier`, `ece`
        summed over its rows. A word that was lost is predicted outside: its entity is missed.

        Raises:
            DataError: no items, or a word without a label.
        """
        check_items(items, readings)
        labels = self.settings.labels
        predicted, gold = [], []
        for item, reading in zip(items, readings, strict=True):
            classes = item.meta.get("tags", item.labels_R)
            words = item.meta.get("words", range(item.num_rows))
            tags = [OUTSIDE] * len(classes)
            for word, best in zip(words, reading.facts.best_R, strict=True):
                tags[word] = labels[best]
            predicted.append(tags)
            gold.append([labels[c] for c in classes])
        return Scored(
            uids=tuple(item.uid for item in items),
            languages=languages_of(items),
            statistics={
                "entities": entity_statistics(predicted, gold),
                **row_statistics(items, readings, np.arange(len(items)), len(items)),
            },
        )

    @property
    def over_length(self) -> str:
        """Words lost at the end of a sentence are scored."""
        return "cut, lost entities missed"

    def row_names(self, item: Item) -> NDArray[np.int64] | None:
        """The number of each row's word."""
        return np.array(item.meta.get("words", range(item.num_rows)), dtype=np.int64)

    def metrics(self) -> tuple[str, ...]:
        """The metric that selects, then the others."""
        primary = self._primary()
        return (primary, *(name for name in METRICS if name != primary))

    def _primary(self) -> str:
        return METRICS[0] if self.settings.metric == "f1" else self.settings.metric

    def _encoded(self, words: Sequence[str], tokenizer: Any) -> tuple[Any, bool]:
        """The sentence's tokens, and whether some were cut."""
        check_fast(tokenizer, why="which word a token is of")
        spaced = _spaced(words, tokenizer)
        how = {"is_split_into_words": True, "return_attention_mask": False, "verbose": False}
        encoded = tokenizer(spaced, truncation=False, **how)
        silent = set(range(len(words))) - set(encoded.word_ids())
        if silent and tokenizer.unk_token is not None:
            spaced = [tokenizer.unk_token if i in silent else word for i, word in enumerate(spaced)]
            encoded = tokenizer(spaced, truncation=False, **how)
        limit = self.settings.max_length
        if len(encoded["input_ids"]) <= limit:
            return encoded, False
        special = tokenizer.num_special_tokens_to_add(pair=False)
        if limit < special + 1:
            raise ConfigError(
                f"max_length = {limit} leaves no room for a word beside {special} special tokens; "
                f"allowed: at least {special + 1}"
            )
        return tokenizer(spaced, truncation=True, max_length=limit, **how), True

    def _words(self, example: Example) -> list[str]:
        words = example.fields.get("words")
        if not isinstance(words, list) or not words:
            raise DataError(f"example {example.uid} has {words!r} as its words; it must be a list and not empty")
        for i, word in enumerate(words):
            if not isinstance(word, str) or not word:
                raise DataError(f"word {i} of example {example.uid} is {word!r}; it must be text and not empty")
        return words

    def _classes(self, example: Example) -> list[int] | None:
        """The class of every word; null for an unlabelled sentence."""
        tags, words = example.fields.get("tags"), example.fields["words"]
        if tags is None:
            return None
        if len(tags) != len(words):
            raise DataError(f"example {example.uid} has {len(words)} words and {len(tags)} tags; give each word one")
        labels = self.settings.labels
        for i, tag in enumerate(tags):
            if tag not in labels:
                raise DataError(
                    f"word {i} of example {example.uid}, {words[i]!r}, has the tag {tag!r}; known: {', '.join(labels)}"
                )
        return [labels.index(tag) for tag in tags]


def _spaced(words: Sequence[str], tokenizer: Any) -> list[str]:
    """The words, each after a space where the tokenizer would take it for the start of a text."""
    return [f" {word}" for word in words] if _starts_texts(tokenizer) else list(words)


def _starts_texts(tokenizer: Any) -> bool:
    """Whether a word alone is to this tokenizer not what it is within a text: bytes without `add_prefix_space`."""
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    steps: list[Any] = list(cast(Any, splitter)) if isinstance(splitter, PreTokenizers) else [splitter]
    return any(isinstance(step, ByteLevel) and not step.add_prefix_space for step in steps)
