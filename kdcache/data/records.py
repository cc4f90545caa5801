"""Records: what every reader gives. A record maps columns to values; what they mean is not known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
