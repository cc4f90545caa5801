"""Plain text to records: one text a line; files that are aligned line by line give one column each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcache.core.errors import DataError
from kdcache.data.records import Records, read_lines


def read_texts(path: Path, columns: Sequence[str], encoding: str) -> Records:
    """One record a line that is not blank, in the column `1`.

    Raises:
        DataError: text of another encoding.
    """
    lines = _lines(path, encoding)
    numbers = [number for number, line in enumerate(lines, start=1) if line.strip()]
    rows = [{"1": lines[number - 1]} for number in numbers]
    return Records(place=str(path), columns=("1",), unit="line", numbers=numbers, rows=rows)


def read_aligned(paths: Sequence[Path], encoding: str) -> Records:
    """One record a line; line n of the first file is in column `1`, of the second in `2`, ... A line that is blank in
    all of them is left out.

    Args:
        paths: at least one, all there.
        encoding: of all.

    Raises:
        DataError: other numbers of lines, empty files, text of another encoding.
    """
    files = [_lines(path, encoding) for path in paths]
    counts = [len(lines) for lines in files]
    if len(set(counts)) > 1:
        told = ", ".join(f"{path} has {count:,}" for path, count in zip(paths, counts, strict=True))
        raise DataError(f"files that are aligned line by line have as many lines each, but {told}; align them again")
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, texts in enumerate(zip(*files, strict=True), start=1):
        if any(text.strip() for text in texts):
            numbers.append(number)
            rows.append({str(c): text if text.strip() else None for c, text in enumerate(texts, start=1)})
    place = " + ".join(map(str, paths))
    if not rows:
        raise DataError(f"{place} hold no text; a split needs at least one example")
    names = tuple(str(c + 1) for c in range(len(paths)))
    return Records(place=place, columns=names, unit="line", numbers=numbers, rows=rows)


def _lines(path: Path, encoding: str) -> list[str]:
    """Without their ends. Only line feeds end a line: text may hold other separators (U+2028, form feeds)."""
    try:
        return [line.rstrip("\r\n") for line in read_lines(path, encoding)]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the file and its permissions") from None
