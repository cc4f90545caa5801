"""CoNLL columns to records: one word a line, a blank line between sentences, tags in one of the columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdcache.core.errors import DataError
from kdcache.data.records import Records, read_lines

DOCSTART = "-DOCSTART-"
"""What stands where a document begins, as a sentence of its own."""

_SEPARATORS = {"whitespace": re.compile(r"[ \t]+"), "tab": re.compile(r"\t")}
LAST = "last"
"""Name of the last column, whatever its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConllOptions:
    """How a file of CoNLL columns is read."""

    separator: Literal["whitespace", "tab"] = "whitespace"
    """Between the columns; `tab` where a word may hold a space."""
    docstart: Literal["drop", "keep"] = "drop"
    """Sentences that consist of -DOCSTART-: left out, or counted as sentences."""
    comment: str | None = None
    """Lines that begin so are left out, e.g. `# id`; null: none, for a word may begin with anything."""


def read_conll(path: Path, columns: Sequence[str], encoding: str, *, options: ConllOptions | None = None) -> Records:
    """One record a sentence; its columns `1`, `2`, ... and `last` hold a list with one text a word.

    Raises:
        DataError: lines that differ in their number of cells; text of another encoding.
    """
    options = options or ConllOptions()
    separator = _SEPARATORS[options.separator]
    numbers: list[int] = []
    sentences: list[list[list[str]]] = []
    inside, first = False, 0
    for number, line in enumerate(read_lines(path, encoding), start=1):
        text = line.rstrip("\r\n")
        if options.comment is not None and text.startswith(options.comment):
            continue
        if not text.strip():
            inside = False
            continue
        cells = separator.split(text.strip(" ") if options.separator == "whitespace" else text)
        if not sentences:
            first = number
        elif len(cells) != len(sentences[0][0]):
            raise DataError(
                f"line {number} of {path} has {len(cells)} columns, line {first} has {len(sentences[0][0])}; correct "
                f"it, set conll.separator: tab if words hold spaces, or conll.comment to how comment lines begin"
            )
        if not inside:
            numbers.append(number)
            sentences.append([])
            inside = True
        sentences[-1].append(cells)
    if options.docstart == "drop":
        kept = [i for i, sentence in enumerate(sentences) if [cells[0] for cells in sentence] != [DOCSTART]]
        numbers, sentences = [numbers[i] for i in kept], [sentences[i] for i in kept]
    width = len(sentences[0][0]) if sentences else 0
    return Records(
        place=str(path),
        columns=(*(str(c + 1) for c in range(width)), *([LAST] if width else [])),
        unit="the sentence at line",
        numbers=numbers,
        rows=[_row(sentence, width) for sentence in sentences],
    )


def _row(sentence: Sequence[Sequence[str]], width: int) -> Mapping[str, Any]:
    lists = {str(c + 1): [cells[c] for cells in sentence] for c in range(width)}
    return {**lists, LAST: lists[str(width)]}
