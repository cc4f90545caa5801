"""The next token of a text or of a dialogue's answers (causal language modelling): one row a predicted token."""

# I items  R rows (predicted tokens)  V classes (the vocabulary)  T tokens

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import ConfigError, DataError
from kdcache.core.types import Example, Item, TaskSettings
from kdcache.tasks.base import Reading, RowTask, Scored, check_fast, text_of
from kdcache.tasks.statistics import check_items, row_statistics

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("nll", "perplexity", "accuracy", "brier", "ece")
"""Reported, in this order; all over predicted tokens."""
ANSWERS = "assistant"
"""Who says what a model of dialogues learns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalLM(RowTask):
    """Causal language modelling of texts (field `text`), of answers to prompts (`prompt`, `response`) and of answers in
    dialogues (`messages`). What is asked has no rows: it is read, never learned."""

    settings: TaskSettings
    name: str = "causal_lm"
    auto_class: str = "AutoModelForCausalLM"

    def __post_init__(self) -> None:
        settings = self.settings
        if settings.labels:
            raise ConfigError(
                f"labels has {len(settings.labels)} classes, but those of causal_lm are the vocabulary; leave it out"
            )
        if settings.metric not in METRICS:
            raise ConfigError(
                f"metric = {settings.metric!r} does not score a language model; allowed: {', '.join(METRICS)}"
            )
        if settings.max_length < 2:
            raise ConfigError(f"max_length = {settings.max_length} leaves no token to predict; allowed: at least 2")

    @property
    def bound_to_tokens(self) -> str:
        """Rows and classes are tokens."""
        return "its rows are the text's tokens and their classes the vocabulary"

    @property
    def over_length(self) -> str:
        """Of text nothing is lost; what is asked must not be cut from its answer."""
        dialogues = "refused" if self.settings.too_long == "refuse" else "left out"
        return f"text is cut into items, dialogues are {dialogues}"

    def model_kwargs(self) -> dict[str, Any]:
        """Nothing: the classes are the vocabulary."""
        return {}

    def encode(self, example: Example, tokenizer: Any, *, train: bool = False) -> list[Item]:
        """One item an example; text over `max_length` gives several, a dialogue over it none (`too_long: drop`).

        A text's end is the tokenizer's end token. Packed text is cut only once it is joined, see `arrange`.

        Raises:
            DataError: no text, no answer in a dialogue, a dialogue that is too long and `too_long: refuse`, a chat
                template under which earlier messages are told otherwise once later ones follow.
        """
        ids, answer_T = self._tokens(example, tokenizer)
        if "text" not in example.fields and len(ids) > self.settings.max_length:
            if self.settings.too_long != "refuse":
                return []
            raise DataError(
                f"example {example.uid} has {len(ids)} tokens, max_length is {self.settings.max_length}; raise it, "
                f"shorten the example, or set too_long: drop"
            )
        if "text" in example.fields and self._packed():
            return [_item(example.uid, ids, answer_T, len(tokenizer))]
        return _windows(example.uid, ids, answer_T, self.settings.max_length, len(tokenizer))

    def arrange(self, items: list[Item], tokenizer: Any) -> list[Item]:
        """Packed: texts one behind the other, cut into items of `max_length` tokens, each named after the text it
        begins in. Neighbours share a token, so that all but the very first are predicted once. Else items as they are.
        """
        if not items or not self._packed() or "prompted" in items[0].meta:
            return items
        starts = np.cumsum([0, *(item.num_tokens for item in items)])
        ids = np.concatenate([item.inputs["input_ids"] for item in items])
        packed = []
        for first in range(0, max(1, len(ids) - 1), self.settings.max_length - 1):
            piece = ids[first : first + self.settings.max_length]
            owner = int(np.searchsorted(starts, first, side="right")) - 1
            uid = f"{items[owner].uid}@{first - int(starts[owner])}"
            if len(piece) > 1:
                packed.append(_item(uid, piece, np.ones(len(piece), dtype=np.bool_), len(tokenizer)))
        return packed

    def lengths(self, examples: Sequence[Example], tokenizer: Any) -> NDArray[np.int64]:
        """Tokens of each text or dialogue, int64 [I]."""
        return np.array([len(self._tokens(e, tokenizer)[0]) for e in examples], dtype=np.int64)

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        """`outputs.logits` [B, L, V] at the token before each that is predicted, [R, V]."""
        logits_RV: Tensor = outputs.logits[positions[:, 0], positions[:, 1]]
        return logits_RV

    def score(self, items: Sequence[Item], readings: Sequence[Reading]) -> Scored:
        """Statistics `nll`, `accuracy`, `brier`, `ece` of every item, summed over its rows.

        Raises:
            DataError: no items.
        """
        check_items(items, readings)
        return Scored(
            uids=tuple(item.uid for item in items),
            statistics=row_statistics(items, readings, np.arange(len(items)), len(items)),
        )

    def metrics(self) -> tuple[str, ...]:
        """The metric that selects, then the others."""
        return (self.settings.metric, *(name for name in METRICS if name != self.settings.metric))

    def _packed(self) -> bool:
        return self.settings.packing != "padded"

    def _tokens(self, example: Example, tokenizer: Any) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Tokens, and which of them are learned, [T]."""
        fields = example.fields
        if "messages" in fields:
            return _dialogue(example, tokenizer)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        if "prompt" in fields:
            prompt, response = text_of(example, "prompt"), text_of(example, "response")
            asked = _without_end(tokenizer(prompt, verbose=False)["input_ids"], end)
            said = [*tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"], *end]
            return np.array([*asked, *said], dtype=np.int32), np.arange(len(asked) + len(said)) >= len(asked)
        ids = [*_without_end(tokenizer(text_of(example, "text"), verbose=False)["input_ids"], end), *end]
        return np.array(ids, dtype=np.int32), np.ones(len(ids), dtype=np.bool_)


def _without_end(ids: list[int], end: list[int]) -> list[int]:
    return ids[:-1] if end and ids[-1:] == end else ids


def _item(uid: str, ids: NDArray[np.int32], answer_T: NDArray[np.bool_], num_classes: int) -> Item:
    """An item whose rows are read one token before those that are learned."""
    learned = np.flatnonzero(answer_T[1:]) + 1
    labels_R = ids[learned].astype(np.int32)
    if len(labels_R) and int(labels_R.max()) >= num_classes:
        raise DataError(
            f"item {uid} has the token {int(labels_R.max()):,}, but the vocabulary has {num_classes:,} tokens; "
            f"use a tokenizer whose tokens are numbered without gaps"
        )
    return Item(
        uid=uid,
        inputs={"input_ids": ids.astype(np.int32)},
        positions_R=(learned - 1).astype(np.int32),
        labels_R=labels_R,
        classes_R=np.full(len(learned), num_classes, dtype=np.int32),
        meta={} if answer_T.all() else {"prompted": True},
    )


def _windows(
    uid: str, ids: NDArray[np.int32], answer_T: NDArray[np.bool_], length: int, num_classes: int
) -> list[Item]:
    """Items of at most `length` tokens, neighbours with one in common; those without a row are left out."""
    if len(ids) <= length:
        pieces = [_item(uid, ids, answer_T, num_classes)]
    else:
        pieces = [
            _item(f"{uid}#{n}", ids[first : first + length], answer_T[first : first + length], num_classes)
            for n, first in enumerate(range(0, len(ids) - 1, length - 1))
        ]
    return [piece for piece in pieces if piece.num_rows]


def _dialogue(example: Example, tokenizer: Any) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Tokens of a dialogue by the tokenizer's chat template, and which of them are answers.

    An answer is what its message adds to the template's invitation to answer.
    """
    messages: list[Mapping[str, str]] = example.fields["messages"]
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"example {example.uid} is a dialogue, but the tokenizer has no chat template; use prompt and response "
            f"columns, or a tokenizer with a template"
        )
    check_fast(tokenizer, why="which part of a dialogue a token is of")
    text = _templated(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    begin_T, end_T = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    answer_T = np.zeros(len(begin_T), dtype=np.bool_)
    for i, message in enumerate(messages):
        if message["role"] != ANSWERS:
            continue
        invited, answered = _templated(tokenizer, messages[:i], invite=True), _templated(tokenizer, messages[: i + 1])
        if not text.startswith(answered) or not answered.startswith(invited):
            raise DataError(
                f"message {i} of example {example.uid} is not told by the chat template as it was asked for: which "
                f"tokens are the answer cannot be known; use prompt and response columns"
            )
        answer_T |= (end_T > len(invited)) & (begin_T < len(answered))
    if not answer_T.any():
        raise DataError(f"example {example.uid} has no message of the role {ANSWERS!r}; there is nothing to learn")
    return np.array(encoded["input_ids"], dtype=np.int32), answer_T


def _templated(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, invite: bool = False) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=invite))
