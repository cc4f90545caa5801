"""An answer as a span of the context (extractive question answering): overlapping windows, two rows each."""

# I examples  W windows  B windows of a batch  L tokens of the longest  R rows  V classes: the tokens of a window

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.core.errors import ConfigError, DataError
from kdcache.core.types import IGNORE, Example, Item, TaskSettings
from kdcache.metrics.squad import answer_statistics, normalize_mlqa, normalize_squad
from kdcache.tasks.base import Reading, RowTask, Scored, check_fast, text_of
from kdcache.tasks.statistics import check_items, languages_of, row_statistics

if TYPE_CHECKING:
    from torch import Tensor

OVERLAP = 128
"""Context tokens that neighbouring windows share, by default."""
NUM_BEST = 20
"""Starts, and ends, of a window that are combined."""
LONGEST_ANSWER = 30
"""Tokens of an answer, by default."""
START, END = 0, 1
"""The two rows of a window, as `Item.positions_R` holds them."""
ROW_METRICS = ("nll", "brier", "ece")
"""Over the rows of all windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QA(RowTask):
    """Extractive question answering. `settings.metric` = `f1` is the F1 of SQuAD, or of MLQA by `normalize`."""

    settings: TaskSettings
    name: str = "qa"
    auto_class: str = "AutoModelForQuestionAnswering"

    def __post_init__(self) -> None:
        if self.settings.labels:
            raise ConfigError(
                f"labels has {len(self.settings.labels)} classes, but those of qa are the tokens; leave labels out"
            )
        if self._overlap() < 0:
            raise ConfigError(f"overlap = {self._overlap()} is no number of tokens; it must be at least 0")
        if self._longest() < 1:
            raise ConfigError(f"longest_answer = {self._longest()} allows no answer; it must be at least 1")
        if self._primary() not in self._metrics():
            raise ConfigError(
                f"metric = {self.settings.metric!r} does not score answers normalised as "
                f"{self._rule()}; allowed: f1, {', '.join(self._metrics())}"
            )

    def model_kwargs(self) -> dict[str, Any]:
        """Two outputs a token: start and end."""
        return {"num_labels": 2}

    def encode(self, example: Example, tokenizer: Any, *, train: bool = False) -> list[Item]:
        """One item a window: the question, then as much of the context as fits; neighbours share `overlap` tokens.

        Both rows have a class for each token. Their labels are the first and last token of the first gold span in the
        window. A window without one points at the classifier token, or with `empty_windows: drop` is no training item.
        `meta` holds the example's uid; unless `train`, also its answers, the window's text and where in it each
        context token begins and ends.

        Raises:
            DataError: no question, context or span in it; a question that leaves no room for the context.
            ModelError: a tokenizer that does not tell which text a token is of.
        """
        question, context = text_of(example, "question").lstrip(), text_of(example, "context")
        check_fast(tokenizer, why="which part of the text a token is")
        self._check_room(example, question, tokenizer)
        encoded = tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=self.settings.max_length,
            stride=self._overlap(),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        spans = [_stripped(context, *span) for span in example.fields.get("spans", [])]
        skip = ("offset_mapping", "overflow_to_sample_mapping")
        items = []
        for w, ids in enumerate(encoded["input_ids"]):
            window = _Window.of(context, encoded.sequence_ids(w), encoded["offset_mapping"][w])
            found = next(filter(None, (window.tokens(*span) for span in spans)), None)
            if train and spans and found is None and self.settings.empty_windows == "drop":
                continue
            no_answer = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
            labels = found or (no_answer, no_answer) if spans else (IGNORE, IGNORE)
            inputs = {name: values[w] for name, values in encoded.items() if name not in skip}
            items.append(
                Item(
                    uid=f"{example.uid}#{w}",
                    inputs={name: np.array(values, dtype=np.int32) for name, values in inputs.items()},
                    positions_R=np.array([START, END], dtype=np.int32),
                    labels_R=np.array(labels, dtype=np.int32),
                    classes_R=np.full(2, len(ids), dtype=np.int32),
                    meta={"example": example.uid} if train else self._meta(example, context, window),
                )
            )
        return items

    def lengths(self, examples: Sequence[Example], tokenizer: Any) -> NDArray[np.int64]:
        """Tokens of each question and context before they are cut into windows, int64 [I]."""
        if not examples:
            return np.zeros(0, dtype=np.int64)
        questions = [text_of(e, "question").lstrip() for e in examples]
        encoded = tokenizer(questions, [text_of(e, "context") for e in examples], verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """`start_logits` or `end_logits` [B, L] of each row's window, [R, L]."""
        logits_B2L = torch.stack([outputs.start_logits, outputs.end_logits], dim=1)
        return logits_B2L[positions[:, 0], positions[:, 1]]

    @property
    def bound_to_tokens(self) -> str:
        """The classes of a row are tokens."""
        return "the classes of its rows are the tokens of a window"

    @property
    def over_length(self) -> str:
        """Nothing is lost."""
        return "cut into windows"

    def answers(self, items: Sequence[Item], logits: Sequence[Tensor]) -> list[Any]:
        """The best answer of each window and its score, see `best_span`."""
        return [
            best_span(item, logits_2V.cpu().numpy(), longest=self._longest()) if "begins" in item.meta else None
            for item, logits_2V in zip(items, logits, strict=True)
        ]

    def score(self, items: Sequence[Item], readings: Sequence[Reading]) -> Scored:
        """Statistics of every example: answers (`squad` or `mlqa`: exact match, F1, 1), and `nll`, `brier`, `ece`
        summed over the rows of its windows. The answer is the best span over the windows.

        Raises:
            DataError: no items, an example without gold answers, a language without rules.
        """
        check_items(items, readings)
        number: dict[str, int] = {}
        owner_W = np.array([number.setdefault(item.meta["example"], len(number)) for item in items], dtype=np.int64)
        best = [(-np.inf, "")] * len(number)
        first: list[Item | None] = [None] * len(number)
        for example, item, reading in zip(owner_W, items, readings, strict=True):
            first[example] = first[example] or item
            best[example] = max(best[example], reading.answer, key=lambda span: span[0])
        windows = [item for item in first if item is not None]
        metas = [item.meta for item in windows]
        answers = answer_statistics(
            [text for _, text in best],
            [meta.get("answers", []) for meta in metas],
            [self._normalizer(meta.get("language")) for meta in metas],
        )
        return Scored(
            uids=tuple(number),
            languages=languages_of(windows),
            statistics={self._rule(): answers, **row_statistics(items, readings, owner_W, len(number))},
        )

    def row_names(self, item: Item) -> NDArray[np.int64] | None:
        """Null: the classes of a row are the tokens of a window."""
        return None

    def metrics(self) -> tuple[str, ...]:
        """The metric that selects, then the others."""
        primary = self._primary()
        return (primary, *(name for name in self._metrics() if name != primary))

    def _rule(self) -> str:
        return self.settings.normalize or "squad"

    def _metrics(self) -> tuple[str, ...]:
        return (f"{self._rule()}_f1", f"{self._rule()}_em", *ROW_METRICS)

    def _primary(self) -> str:
        return self._metrics()[0] if self.settings.metric == "f1" else self.settings.metric

    def _overlap(self) -> int:
        return OVERLAP if self.settings.overlap is None else self.settings.overlap

    def _longest(self) -> int:
        return LONGEST_ANSWER if self.settings.longest_answer is None else self.settings.longest_answer

    def _normalizer(self, language: str | None) -> Callable[[str], str]:
        if self._rule() == "squad":
            return normalize_squad
        if language is None:
            raise DataError("normalize: mlqa needs the language of every example; give language, or columns.language")
        return partial(normalize_mlqa, language=language)

    def _check_room(self, example: Example, question: str, tokenizer: Any) -> None:
        tokens = len(tokenizer(question, add_special_tokens=False, return_attention_mask=False)["input_ids"])
        room = self.settings.max_length - tokens - tokenizer.num_special_tokens_to_add(pair=True)
        if room <= self._overlap():
            raise DataError(
                f"example {example.uid}: its question of {tokens} tokens leaves {max(0, room)} of max_length = "
                f"{self.settings.max_length} for the context, but windows overlap by {self._overlap()}; raise "
                f"max_length, lower overlap, or shorten the question"
            )

    def _meta(self, example: Example, context: str, window: _Window) -> dict[str, Any]:
        base = int(window.begin_N[0]) if len(window.begin_N) else 0
        end = int(window.end_N[-1]) if len(window.end_N) else 0
        meta = {
            "example": example.uid,
            "answers": list(example.fields.get("answers", [])),
            "text": context[base:end],
            "first": window.first,
            "begins": (window.begin_N - base).tolist(),
            "ends": (window.end_N - base).tolist(),
        }
        return {**meta, **({"language": example.fields["language"]} if "language" in example.fields else {})}


def best_span(item: Item, logits_2V: NDArray[np.float32], *, longest: int = LONGEST_ANSWER) -> tuple[float, str]:
    """The best answer of a window and its score, the sum of its two logits; -inf and no text where none is possible.

    Of the `NUM_BEST` best starts and ends among context tokens, the best pair in order with at most `longest` tokens.

    Args:
        item: with the `meta` of an item to score.
        logits_2V: start and end.
        longest: tokens of an answer.
    """
    begins, ends, first = item.meta["begins"], item.meta["ends"], item.meta["first"]
    context_2N = logits_2V[:, first : first + len(begins)]
    order_2K = np.argsort(-context_2N, axis=1, kind="stable")[:, :NUM_BEST]
    starts_K, ends_K = order_2K[START], order_2K[END]
    length_KK = ends_K[None, :] - starts_K[:, None] + 1
    score_KK = context_2N[START, starts_K][:, None].astype(np.float64) + context_2N[END, ends_K][None, :]
    score_KK = np.where((length_KK >= 1) & (length_KK <= longest), score_KK, -np.inf)
    if not np.isfinite(score_KK).any():
        return -np.inf, ""
    s, e = np.unravel_index(int(score_KK.argmax()), score_KK.shape)
    return float(score_KK[s, e]), str(item.meta["text"][begins[starts_K[s]] : ends[ends_K[e]]])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """The context tokens of a window: they stand side by side.

    Attributes:
        first: token of the window that the first is.
        begin_N: character of the context where each begins, int64.
        end_N: character after each.
    """

    first: int
    begin_N: NDArray[np.int64]
    end_N: NDArray[np.int64]

    @classmethod
    def of(cls, context: str, sequence: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> _Window:
        """From what a tokenizer tells of a window's tokens."""
        tokens = [i for i, text in enumerate(sequence) if text == 1]
        spans = [_stripped(context, *offsets[i]) for i in tokens]
        return cls(
            first=tokens[0] if tokens else 0,
            begin_N=np.array([begin for begin, _ in spans], dtype=np.int64),
            end_N=np.array([end for _, end in spans], dtype=np.int64),
        )

    def tokens(self, begin: int, end: int) -> tuple[int, int] | None:
        """First and last token of a span of the context; None where the window does not hold all of it."""
        if not len(self.begin_N) or begin < self.begin_N[0] or end > self.end_N[-1]:
            return None
        start = int(np.searchsorted(self.begin_N, begin, side="right")) - 1
        stop = int(np.searchsorted(self.end_N, end, side="left"))
        return self.first + start, self.first + max(start, stop)


def _stripped(text: str, begin: int, end: int) -> tuple[int, int]:
    """A span without the white space at its ends, which some tokenizers count as part of a token."""
    piece = text[begin:end]
    inner = piece.strip()
    if not inner:
        return begin, end
    begin += len(piece) - len(piece.lstrip())
    return begin, begin + len(inner)
