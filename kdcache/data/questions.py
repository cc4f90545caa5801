"""Questions with their contexts to records: SQuAD's JSON, and the gzipped JSON lines of MRQA."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcache.core.errors import DataError
from kdcache.data.records import Records, not_text

COLUMNS = ("id", "question", "context", "answers", "title")
"""What both formats give; `title` is SQuAD's alone."""


def read_squad(path: Path, columns: Sequence[str], encoding: str) -> Records:
    """SQuAD's JSON: `data` > `paragraphs` > `qas`; one record a question, `answers` as on the Hub.

    Raises:
        DataError: not JSON, or a part that is missing, with its place.
    """
    text = _decoded(path, path.read_bytes(), encoding)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); give a file in SQuAD's format") from None
    rows: list[Mapping[str, Any]] = []
    for a, article in enumerate(_list(tree, "data", path, "the file")):
        for p, paragraph in enumerate(_list(article, "paragraphs", path, f"data[{a}]")):
            place = f"data[{a}].paragraphs[{p}]"
            for q, question in enumerate(_list(paragraph, "qas", path, place)):
                answers = [
                    _object(answer, path, f"{place}.qas[{q}].answers")
                    for answer in _list(question, "answers", path, f"{place}.qas[{q}]")
                ]
                rows.append(
                    {
                        "id": question.get("id"),
                        "question": question.get("question"),
                        "context": paragraph.get("context"),
                        "title": article.get("title"),
                        "answers": {
                            "text": [answer.get("text") for answer in answers],
                            "answer_start": [answer.get("answer_start") for answer in answers],
                        },
                    }
                )
    return Records(place=str(path), columns=COLUMNS, unit="question", numbers=range(1, len(rows) + 1), rows=rows)


def read_mrqa(path: Path, columns: Sequence[str], encoding: str) -> Records:
    """MRQA's JSON lines, gzipped or not: a header, then a context and its `qas` a line; one record a question.

    The spans are the detected answers' (whose ends are inclusive), the texts to compare with are all `answers`.

    Raises:
        DataError: not gzip, not JSON, a span outside its context or over another text, with the line.
    """
    rows: list[Mapping[str, Any]] = []
    for number, line in _mrqa_lines(path, encoding):
        place = f"line {number} of {path}"
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is not JSON ({error}); give a file in MRQA's format") from None
        if isinstance(tree, dict) and "header" in tree:
            continue
        context = _object(tree, path, f"line {number}").get("context")
        for question in _list(tree, "qas", path, f"line {number}"):
            spans = [
                _span(str(found.get("text")), span, place)
                for found in _list(question, "detected_answers", path, f"line {number}.qas")
                for span in _list(found, "char_spans", path, f"line {number}.qas.detected_answers")
            ]
            rows.append(
                {
                    "id": question.get("qid"),
                    "question": question.get("question"),
                    "context": context,
                    "answers": {
                        "text": [_slice(context, *span, place=place) for span in spans],
                        "answer_start": [start for _, start, _ in spans],
                        "gold": question.get("answers"),
                    },
                }
            )
    return Records(place=str(path), columns=COLUMNS[:4], unit="question", numbers=range(1, len(rows) + 1), rows=rows)


def _mrqa_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged gzip ({error}); fetch it again") from None
    for number, line in enumerate(_decoded(path, content, encoding).split("\n"), start=1):
        if line.strip():
            yield number, line


def _span(text: str, span: Any, place: str) -> tuple[str, Any, Any]:
    if not isinstance(span, list) or len(span) != 2:
        raise DataError(
            f"{place} has the answer {text!r} with the span {span!r}; allowed: [first character, last character]"
        )
    return text, span[0], span[1]


def _slice(context: Any, text: str, start: Any, end: Any, *, place: str) -> str:
    """The context's own text of a detected answer, which may differ from the answer in case and spaces only."""
    if not (isinstance(context, str) and isinstance(start, int) and isinstance(end, int)):
        raise DataError(f"{place} has the answer {text!r} with the span {start!r} to {end!r}; allowed: two characters")
    found = context[max(start, 0) : end + 1]
    if start < 0 or _letters(found) != _letters(text):
        raise DataError(
            f"{place} has the answer {text!r} at {start} to {end}, but the context has {found[:80]!r} there; "
            f"correct char_spans (first and last character, from 0)"
        )
    return found


def _letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _decoded(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise not_text(path, encoding, error) from None


def _object(value: Any, path: Path, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{place} of {path} is {type(value).__name__}, not an object {{...}}")
    return value


def _list(value: Any, name: str, path: Path, place: str) -> list[Any]:
    found = _object(value, path, place).get(name)
    if not isinstance(found, list):
        raise DataError(f"{place} of {path} has no list {name!r}; is it another format?")
    return found
