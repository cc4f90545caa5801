"""Records: what every reader gives. A record maps columns to values; what they mean is not known here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcache.core.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Rows of one split.

    Attributes:
        place: file or Hub name, for messages.
        columns: all columns there.
        unit: what `numbers` count: `line` (JSONL), `row`, `the sentence at line`, `question`.
        numbers: place of each row, from 1.
        rows: column -> value; at least the columns asked for that exist. A missing value is None.
    """

    place: str
    columns: tuple[str, ...]
    unit: str
    numbers: Sequence[int]
    rows: Sequence[Mapping[str, Any]]


def expanded(records: Records, columns: Collection[str]) -> Records:
    """Records with the columns `a.b` that were asked for: the value of b in the objects of column a.

    Raises:
        DataError: a value of column a that is no object.
    """
    inner = [name for name in columns if "." in name and name not in records.columns]
    inner = [name for name in inner if name.partition(".")[0] in records.columns]
    if not inner:
        return records
    rows, names = [dict(row) for row in records.rows], dict.fromkeys(records.columns)
    for name in inner:
        outer, _, key = name.partition(".")
        for number, row in zip(records.numbers, rows, strict=True):
            if not isinstance(row[outer], Mapping):
                raise DataError(
                    f"{records.unit} {number} of {records.place} has {repr(row[outer])[:80]} in the column {outer!r}; "
                    f"{name!r} needs an object there, such as {{{key}: ...}}"
                )
            names.update(dict.fromkeys(f"{outer}.{k}" for k in row[outer]))
            row[name] = row[outer].get(key)
    return replace(records, columns=tuple(names), rows=rows)


def read_lines(path: Path, encoding: str) -> list[str]:
    """Lines with their ends, as `csv` wants them. A byte order mark is dropped.

    Raises:
        DataError: text of another encoding.
    """
    try:
        with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as file:
            return file.readlines()
    except UnicodeDecodeError as error:
        raise not_text(path, encoding, error) from None


def not_text(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    """The error of a file in another encoding."""
    return DataError(
        f"{path} is not {encoding} text (byte 0x{error.object[error.start]:02x}: {error.reason}); "
        f"set encoding, e.g. encoding: latin-1, or convert the file"
    )
