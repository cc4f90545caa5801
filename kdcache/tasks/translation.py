"""A text to a text by an encoder-decoder: one row a target token, teacher-forced; texts are scored as they are written.

What enters the decoder is the target shifted by one: the token that starts it, then all but its last. mBART's start is
the target's language code; a tokenizer that writes the code behind the text (mBART-cc25) gives rows up to the end of
the text, for the code after it says nothing.
"""

# I examples  R rows (target tokens)  V classes (the vocabulary)  B items of a batch

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import ConfigError, DataError, ModelError
from kdcache.core.types import Example, Item, TaskSettings
from kdcache.metrics.bleu import bleu_statistics, chrf_statistics
from kdcache.tasks.base import Reading, RowTask, Scored, Writing, text_of
from kdcache.tasks.statistics import check_items, languages_of, row_statistics

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("bleu", "chrf", "nll", "accuracy", "brier", "ece")
"""Reported, in this order. All but the first two are over rows: of the next token, given the true ones before it."""
BEAMS, SELECTION_BEAMS, LENGTH_PENALTY = 5, 1, 1.0
"""Of the search for the text that is scored, by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation(RowTask):
    """Translation, and whatever else turns a text into a text."""

    settings: TaskSettings
    name: str = "translation"
    auto_class: str = "AutoModelForSeq2SeqLM"

    def __post_init__(self) -> None:
        settings = self.settings
        if settings.labels:
            raise ConfigError(
                f"labels has {len(settings.labels)} classes, but those of translation are the vocabulary; leave it out"
            )
        if settings.metric not in METRICS:
            raise ConfigError(
                f"metric = {settings.metric!r} does not score translations; allowed: {', '.join(METRICS)}"
            )
        for name in ("beams", "selection_beams"):
            value = getattr(settings, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value} finds nothing; it must be at least 1, which is greedy")
        if (settings.source_language is None) != (settings.target_language is None):
            given = "source_language" if settings.target_language is None else "target_language"
            raise ConfigError(f"only {given} = {getattr(settings, given)!r} is given; give the other language too")

    @property
    def bound_to_tokens(self) -> str:
        """Rows and classes are tokens."""
        return "its rows are the target's tokens and their classes the vocabulary"

    @property
    def over_length(self) -> str:
        """By `too_long`."""
        return "refused" if self.settings.too_long == "refuse" else "left out"

    def model_kwargs(self) -> dict[str, Any]:
        """Nothing: the classes are the vocabulary."""
        return {}

    def encode(self, example: Example, tokenizer: Any, *, train: bool = False) -> list[Item]:
        """One item a pair, none where a side is longer than `max_length` tokens and `too_long` is `drop`.

        `meta` holds the reference, unless `train`.

        Raises:
            DataError: no text, a side that is too long and `too_long: refuse`, a token beyond the vocabulary.
            ConfigError: a tokenizer with language codes and no languages, or one that is not among them.
            ModelError: nothing says which token starts a target.
        """
        reference = text_of(example, "target")
        source, target = self._tokens(text_of(example, "source"), reference, tokenizer)
        longest = max(len(source), len(target))
        if longest > self.settings.max_length:
            if self.settings.too_long != "refuse":
                return []
            raise DataError(
                f"example {example.uid} has {longest} tokens on one side, max_length is {self.settings.max_length}; "
                f"raise it, shorten the example, or set too_long: drop"
            )
        start, labels = self._shifted(target, tokenizer)
        num_classes = len(tokenizer)
        if max(labels) >= num_classes:
            raise DataError(
                f"example {example.uid} has the token {max(labels):,}, but the vocabulary has {num_classes:,} tokens; "
                f"use a tokenizer whose tokens are numbered without gaps"
            )
        meta: dict[str, Any] = {"language": example.fields["language"]} if "language" in example.fields else {}
        return [
            Item(
                uid=example.uid,
                inputs={
                    "input_ids": np.array(source, dtype=np.int32),
                    "decoder_input_ids": np.array([start, *labels[:-1]], dtype=np.int32),
                },
                positions_R=np.arange(len(labels), dtype=np.int32),
                labels_R=np.array(labels, dtype=np.int32),
                classes_R=np.full(len(labels), num_classes, dtype=np.int32),
                meta=meta if train else {**meta, "reference": reference},
            )
        ]

    def lengths(self, examples: Sequence[Example], tokenizer: Any) -> NDArray[np.int64]:
        """Tokens of the longer side of each pair, int64 [I]."""
        pairs = [self._tokens(text_of(e, "source"), text_of(e, "target"), tokenizer) for e in examples]
        return np.array([max(len(source), len(target)) for source, target in pairs], dtype=np.int64)

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """`outputs.logits` [B, L, V] at each token of the decoder, [R, V]."""
        logits_RV: Tensor = outputs.logits[positions[:, 0], positions[:, 1]]
        return logits_RV

    def write(self, model: Any, inputs: Mapping[str, Tensor], writing: Writing) -> list[str] | None:
        """What the model makes of the sources, by beam search (greedy with one beam), detokenised."""
        forced = self._forced(inputs, writing.tokenizer)
        written = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            decoder_start_token_id=int(inputs["decoder_input_ids"][0, 0]),
            num_beams=self._beams(final=writing.final),
            length_penalty=self._length_penalty(),
            do_sample=False,
            max_new_tokens=self.settings.max_length,
            max_length=None,
            synced_gpus=writing.synced,
            **({} if forced is None else {"forced_bos_token_id": forced}),  # null would undo the model's own (BART)
        )
        texts: list[str] = writing.tokenizer.batch_decode(written, skip_special_tokens=True)
        return texts

    def score(self, items: Sequence[Item], readings: Sequence[Reading]) -> Scored:
        """Statistics of every pair: `bleu` and `chrf` of the text written, `nll`, `accuracy`, `brier`, `ece` summed
        over its rows.

        Raises:
            DataError: no items, or a training item, which has no reference.
        """
        check_items(items, readings)
        for item in items:
            if "reference" not in item.meta:
                raise DataError(f"item {item.uid} was encoded for training and has no reference; score another split")
        references = [str(item.meta["reference"]) for item in items]
        written = [reading.text or "" for reading in readings]
        return Scored(
            uids=tuple(item.uid for item in items),
            languages=languages_of(items),
            statistics={
                "bleu": bleu_statistics(written, references),
                "chrf": chrf_statistics(written, references),
                **row_statistics(items, readings, np.arange(len(items)), len(items)),
            },
        )

    def metrics(self) -> tuple[str, ...]:
        """The metric that selects, then the others."""
        return (self.settings.metric, *(name for name in METRICS if name != self.settings.metric))

    def details(self, *, final: bool) -> dict[str, object]:
        """How the text was searched for."""
        return {"beams": self._beams(final=final), "length_penalty": self._length_penalty()}

    def _beams(self, *, final: bool) -> int:
        if final:
            return BEAMS if self.settings.beams is None else self.settings.beams
        return SELECTION_BEAMS if self.settings.selection_beams is None else self.settings.selection_beams

    def _length_penalty(self) -> float:
        return LENGTH_PENALTY if self.settings.length_penalty is None else self.settings.length_penalty

    def _tokens(self, source: str, target: str, tokenizer: Any) -> tuple[list[int], list[int]]:
        """Both sides with their special tokens."""
        if has_codes(tokenizer):
            self._set_languages(tokenizer)
        prefixed = (self.settings.source_prefix or "") + source
        encoded = tokenizer(prefixed, text_target=target, return_attention_mask=False, verbose=False)
        return list(encoded["input_ids"]), list(encoded["labels"])

    def _set_languages(self, tokenizer: Any) -> None:
        for attribute, setting in (("src_lang", "source_language"), ("tgt_lang", "target_language")):
            code = getattr(self.settings, setting)
            if code is None:
                raise ConfigError(
                    f"{setting} is not given, but {type(tokenizer).__name__} puts a language code to every text; give "
                    f"one of its codes, e.g. en_XX"
                )
            if getattr(tokenizer, attribute) == code:
                continue
            if tokenizer.convert_tokens_to_ids(code) in (None, tokenizer.unk_token_id):
                raise ConfigError(
                    f"{setting} = {code!r} is no language code of {type(tokenizer).__name__}; give one of its codes, "
                    f"e.g. en_XX"
                )
            setattr(tokenizer, attribute, code)

    def _shifted(self, target: list[int], tokenizer: Any) -> tuple[int, list[int]]:
        """The token that starts the decoder, and the tokens that it is to say."""
        if has_codes(tokenizer):
            code = tokenizer.convert_tokens_to_ids(self.settings.target_language)
            if target[-1] == code:
                return int(code), target[:-1]
        start = getattr(tokenizer, "decoder_start", None)
        if start is None:
            raise ModelError(
                "nothing says which token starts a target: the model's configuration has no decoder_start_token_id; "
                "set it there"
            )
        return int(start), target

    def _forced(self, inputs: Mapping[str, Tensor], tokenizer: Any) -> int | None:
        """The first token of every text, where the tokenizer begins a target with its language code."""
        code = tokenizer.convert_tokens_to_ids(self.settings.target_language) if has_codes(tokenizer) else None
        return None if code is None or int(inputs["decoder_input_ids"][0, 0]) == code else int(code)


def has_codes(tokenizer: Any) -> bool:
    """Whether a tokenizer puts a language code to every text (mBART, mBART-50)."""
    return hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")
