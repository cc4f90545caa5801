"""A record to the fields of an example: what each column means, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdcache.core.errors import DataError

FIELDS = (
    "text", "text_pair", "label", "words", "tags", "question", "context", "answers", "source", "target", "prompt",
    "response", "messages", "language", "id"
)  # fmt: skip
"""What a column can be to a task."""

GOLD = ("label", "tags", "answers")
"""Fields that an unlabelled split does not have."""

TEXT_FIELDS = ("text", "text_pair", "question", "context", "source", "target", "prompt", "response")
"""Fields that are text and never empty."""

MISSING = "fill it or leave the row out"


def parse_fields(
    columns: Mapping[str, str],
    row: Mapping[str, Any],
    *,
    labels: Sequence[str],
    label_map: Mapping[str, str | None],
    place: str,
) -> dict[str, Any]:
    """Fields of one example. `answers` gives two: `answers`, the gold texts, and `spans`, [begin, end) in the context.

    Args:
        columns: field -> column.
        row: column -> value.
        labels: class names in class order.
        label_map: value -> class name, looked up first.
        place: of the record, for messages.

    Raises:
        DataError: a value that cannot be what its column is for.
    """
    fields: dict[str, Any] = {}
    for name, column in columns.items():
        value = row[column]
        if name == "label":
            label = class_name(value, labels, label_map, column=column, place=place)
            fields |= {} if label is None else {"label": label}
        elif name == "tags":
            tags = _tags(value, labels, label_map, column, place)
            fields |= {} if tags is None else {"tags": tags}
        elif name == "words":
            fields[name] = _words(value, column, place)
        elif name == "messages":
            fields[name] = _messages(value, column, place)
        elif name == "answers":
            fields |= _answers(value, row[columns["context"]], column, place)
        elif name != "id":
            fields[name] = _text(value, column, place)
    if "tags" in fields and len(fields["tags"]) != len(fields["words"]):
        raise DataError(
            f"{place} has {len(fields['words'])} words and {len(fields['tags'])} tags; each word has one tag"
        )
    return fields


def is_empty(columns: Mapping[str, str], row: Mapping[str, Any]) -> bool:
    """Whether a record has no words, or a text that is missing or blank.

    Example:
        >>> is_empty({"text": "a", "text_pair": "b"}, {"a": "one", "b": " "})
        True
    """
    if "words" in columns and not row[columns["words"]]:
        return True
    values = [row[columns[name]] for name in TEXT_FIELDS if name in columns]
    return any(value is None or (isinstance(value, str) and not value.strip()) for value in values)


def class_name(
    value: Any, labels: Sequence[str], label_map: Mapping[str, str | None], *, column: str, place: str
) -> str | None:
    """The class's name, or None for no label. In order: label_map, class names, class numbers.

    Raises:
        DataError: it is none of them.
    """
    if value is None:
        return None
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, float) and value.is_integer():  # whole numbers beside missing ones are often stored as floats
        text = str(int(value))
    if text in label_map:
        return label_map[text]
    if text in labels:
        return text
    if text.isascii() and text.isdigit() and int(text) < len(labels):
        return labels[int(text)]
    known = ", ".join(f"{label} ({i})" for i, label in enumerate(labels))
    raise DataError(
        f"{place} has the label {value!r} in the column {column!r}; known: {known}; correct labels, or add a label_map"
    )


def _text(value: Any, column: str, place: str) -> str:
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place} has {value!r} ({type(value).__name__}) in the column {column!r}; it must be text")
    if value is None or not value.strip():
        raise DataError(f"{place} has empty text in the column {column!r}; {MISSING}, or set drop_empty: true")
    return value


def _messages(value: Any, column: str, place: str) -> list[dict[str, str]]:
    """A dialogue: who says what, in order."""
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{place} has {repr(value)[:80]} in the column {column!r}; it must be a list of {{role: ..., content: ...}}"
        )
    for i, message in enumerate(value):
        parts = [message.get(key) for key in ("role", "content")] if isinstance(message, dict) else [None]
        if not all(isinstance(part, str) and part.strip() for part in parts):
            raise DataError(
                f"message {i} of {place} is {repr(message)[:80]}; it must have role and content, "
                f"both text and not empty"
            )
    return [{key: message[key] for key in ("role", "content")} for message in value]


def _words(value: Any, column: str, place: str) -> list[str]:
    if not isinstance(value, list):
        raise DataError(f"{place} has {value!r} in the column {column!r}; it must be a list of words")
    if not value:
        raise DataError(f"{place} has no words in the column {column!r}; {MISSING}, or set drop_empty: true")
    for i, word in enumerate(value):
        if not isinstance(word, str) or not word:
            raise DataError(f"word {i} of {place} is {word!r} in the column {column!r}; it must be text and not empty")
    return value


def _tags(
    value: Any, labels: Sequence[str], label_map: Mapping[str, str | None], column: str, place: str
) -> list[str] | None:
    """The names of a sentence's tags, still in the file's scheme; None for an unlabelled sentence."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise DataError(f"{place} has {value!r} in the column {column!r}; it must be a list with one tag a word")
    known = {tag: tag for tag in labels}
    tags = []
    for i, tag in enumerate(value):
        name = known.get(tag) if isinstance(tag, str) and tag not in label_map else None
        name = name or class_name(tag, labels, label_map, column=column, place=f"word {i} of {place}")
        if name is None:
            raise DataError(f"word {i} of {place} has no tag in the column {column!r}; tag all words, or none")
        tags.append(name)
    return tags


def _answers(value: Any, context: Any, column: str, place: str) -> dict[str, Any]:
    texts, starts, gold = _parts(value, column, place)
    if not texts:
        raise DataError(
            f"{place} has no answer in the column {column!r}; every question needs one in its context: leave out "
            f"those without, or list the split under unlabelled"
        )
    spans = []
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{place} has the empty answer {text!r} in the column {column!r}; {MISSING}")
        if not isinstance(start, int) or isinstance(start, bool) or not isinstance(context, str):
            raise DataError(f"{place} has the answer_start {start!r}; allowed: a character's number, from 0")
        found = context[max(start, 0) : max(start, 0) + len(text)]
        if start < 0 or found != text:
            raise DataError(
                f"{place} has the answer {text[:80]!r} at {start}, but the context has {found[:80]!r} there; "
                f"correct answer_start (the number of its first character, from 0)"
            )
        spans.append([start, start + len(text)])
    return {"answers": list(gold or texts), "spans": spans}


def _parts(value: Any, column: str, place: str) -> tuple[list[Any], list[Any], list[Any] | None]:
    """Texts, starts and (MRQA) the texts to compare with, from either layout."""
    if isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        value = {key: [answer.get(key) for answer in value] for key in ("text", "answer_start")}
    if not isinstance(value, dict):
        raise DataError(
            f"{place} has {repr(value)[:80]} in the column {column!r}; it must be {{text: [...], answer_start: [...]}}"
        )
    texts, starts, gold = value.get("text"), value.get("answer_start"), value.get("gold")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise DataError(f"{place} has answers without as many answer_start as text in the column {column!r}")
    if gold is not None and not (isinstance(gold, list) and all(isinstance(g, str) and g.strip() for g in gold)):
        raise DataError(f"{place} has {repr(gold)[:80]} as its answers; they must be texts and not empty")
    return texts, starts, gold
