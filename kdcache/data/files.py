"""Files to records: one reader per format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.core.errors import DataError
from kdcache.data.conll import ConllOptions, read_conll
from kdcache.data.lines import read_texts
from kdcache.data.questions import read_mrqa, read_squad
from kdcache.data.records import Records, read_lines

__all__ = ["EXTENSIONS", "READERS", "Records", "read_csv", "read_file", "read_jsonl", "read_parquet", "read_tsv"]


Reader = Callable[[Path, Sequence[str], str], Records]
"""(path, columns wanted, encoding) -> records."""


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_jsonl(path: Path, columns: Sequence[str], encoding: str) -> Records:
    """One JSON object a line; blank lines are skipped.

    Raises:
        DataError: a line that is not a JSON object, with its number; text of another encoding.
    """
    numbers: list[int] = []
    rows: list[Mapping[str, Any]] = []
    seen: dict[str, None] = {}
    for number, line in enumerate(read_lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_not_a_number)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {number} of {path} is not JSON ({error}); write one object a line") from None
        if not isinstance(value, dict):
            raise DataError(f"line {number} of {path} is {type(value).__name__}, not an object {{...}} with columns")
        numbers.append(number)
        rows.append({name: value.get(name) for name in columns})
        seen.update(dict.fromkeys(value))
    return Records(place=str(path), columns=tuple(seen), unit="line", numbers=numbers, rows=rows)


def read_csv(path: Path, columns: Sequence[str], encoding: str) -> Records:
    """Comma-separated, quoted with double quotes, first row = column names. An empty cell is a missing value."""
    return _read_delimited(csv.reader(read_lines(path, encoding), strict=True), path)


def read_tsv(path: Path, columns: Sequence[str], encoding: str) -> Records:
    """Tab-separated, first row = column names. No quoting: a quotation mark is text."""
    return _read_delimited(csv.reader(read_lines(path, encoding), delimiter="\t", quoting=csv.QUOTE_NONE), path)


def read_parquet(path: Path, columns: Sequence[str], encoding: str) -> Records:
    """Parquet; only the columns asked for are read.

    Raises:
        DataError: not a Parquet file, a damaged one, or an encoding, which Parquet has not.
    """
    if encoding != "utf-8":
        raise DataError(f"encoding = {encoding!r} is a setting of text files, but {path} is Parquet; leave it out")
    try:
        with pq.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            table = file.read(columns=[name for name in dict.fromkeys(columns) if name in names])
            rows = table.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {path} as Parquet: {_one_line(error)}") from None
    return Records(place=str(path), columns=names, unit="row", numbers=range(1, len(rows) + 1), rows=rows)


READERS: dict[str, Reader] = {"jsonl": read_jsonl, "parquet": read_parquet, "csv": read_csv, "tsv": read_tsv}
READERS |= {"lines": read_texts, "conll": read_conll, "squad": read_squad, "mrqa": read_mrqa}
"""Format -> reader."""

EXTENSIONS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv"}
EXTENSIONS |= {".txt": "lines"}
EXTENSIONS |= {".conll": "conll", ".iob": "conll", ".iob2": "conll", ".bio": "conll"}
"""What `format: auto` knows. Not .json and .jsonl.gz: they are `squad` or `mrqa` where the YAML says so."""


def read_file(
    path: Path,
    columns: Sequence[str],
    *,
    format: str,  # noqa: A002
    encoding: str,
    conll: ConllOptions | None = None,
) -> Records:
    """The records of an existing file.

    Args:
        path: the file.
        columns: those wanted.
        format: a key of `READERS`, or `auto` for the extension's.
        encoding: of text formats.
        conll: how CoNLL columns are read.

    Raises:
        DataError: an unknown extension, an empty or malformed file.
    """
    if format == "auto":
        if path.suffix.lower() not in EXTENSIONS:
            raise DataError(
                f"{path} has the extension {path.suffix!r}, known are {', '.join(EXTENSIONS)}; "
                f"set format: {', '.join(READERS)}"
            )
        format = EXTENSIONS[path.suffix.lower()]  # noqa: A001
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; a split needs at least one example")
        reader = partial(read_conll, options=conll) if format == "conll" else READERS[format]
        records = reader(path, columns, encoding)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the file and its permissions") from None
    if not records.rows:
        raise DataError(f"{path} has no rows; a split needs at least one example")
    return records


def _read_delimited(reader: Any, path: Path) -> Records:
    rows: list[Mapping[str, Any]] = []
    try:
        header: list[str] = next(reader, [])
        twice = [name for i, name in enumerate(header) if name in header[:i]]
        if twice:
            raise DataError(f"{path} has the column {twice[0]!r} twice in its first row; each column has one name")
        for cells in reader:
            if not cells:  # a blank line
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"row {len(rows) + 1} of {path} (line {reader.line_num}) has {len(cells)} cells, "
                    f"the first row names {len(header)} columns; quote or escape what splits it"
                )
            rows.append({name: cell or None for name, cell in zip(header, cells, strict=True)})
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {path} is malformed: {_one_line(error)}") from None
    return Records(place=str(path), columns=tuple(header), unit="row", numbers=range(1, len(rows) + 1), rows=rows)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
