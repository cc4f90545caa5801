"""A dataset's split as examples: records of any format, checked and given the task's field names."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcache.core.errors import DataError
from kdcache.core.types import Example
from kdcache.data.fields import GOLD, is_empty, parse_fields
from kdcache.data.files import Records, read_file
from kdcache.data.hub import read_hub
from kdcache.data.lines import read_aligned
from kdcache.data.records import expanded
from kdcache.data.select import select
from kdcache.data.spec import DatasetSpec, Source
from kdcache.data.tags import to_iob2


def read_split(spec: DatasetSpec, split: str, *, data_root: Path | None = None) -> list[Example]:
    """All examples of a split, after hold-out and limit.

    `fields` holds what `spec.columns` names, but the id: `text`, `text_pair`, `question`, `context`, `source`,
    `target`, `prompt`, `response`, `language` as text, `messages` as role and content, `label` as the class's name,
    `words` and `tags` (names in IOB2) as lists, `answers` as the gold texts with `spans`, their [begin, end) in the
    context. An unlabelled example has no `label`, `tags` or `answers`. The uid is the id column's value, or
    `<source split>-<row>` with rows from 0; of joined sources it begins with `<source>/`.

    Args:
        spec: the dataset.
        split: one of `spec.splits`.
        data_root: where relative files start; null: at the YAML's folder.

    Raises:
        DataError: a split or file that is not there; a missing column; empty text; an unknown label; a uid given
            twice; a malformed file.
    """
    if split not in spec.splits:
        raise DataError(f"dataset {spec.name} has no split {split!r}; its splits: {', '.join(spec.splits)}")
    source = spec.holdout[split].source if split in spec.holdout else split
    examples: list[Example] = []
    for part in spec.parts:
        if source in part.splits:
            columns = {**spec.columns, **part.columns}
            if source in spec.unlabelled:
                columns = {name: column for name, column in columns.items() if name not in GOLD}
            records = _records(spec, part, source, columns, data_root)
            examples += _examples(spec, part, source, columns, records)
    return select(spec, split, examples)


def dataset_digest(spec: DatasetSpec, examples: Mapping[str, Sequence[Example]]) -> str:
    """Digest of a set of splits: 16 hex digits that change with any uid, field, order, class order or `spec.version`.

    Args:
        spec: the dataset.
        examples: split -> its examples. The order of the splits does not matter.
    """
    sha = hashlib.sha256()
    sha.update(_line([spec.task, list(spec.labels), spec.version]))
    for split in sorted(examples):
        sha.update(_line([split, len(examples[split])]))
        for example in examples[split]:
            sha.update(_line([example.uid, dict(example.fields)]))
    return sha.hexdigest()[:16]


def _line(value: Any) -> bytes:
    # ASCII escapes: a lone surrogate, which JSON can carry, has no UTF-8 form.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _records(
    spec: DatasetSpec, part: Source, split: str, columns: Mapping[str, str], data_root: Path | None
) -> Records:
    wanted = list(dict.fromkeys([*columns.values(), *(column.partition(".")[0] for column in columns.values())]))
    if part.hub is not None:
        return expanded(read_hub(part.hub, part.hub.splits[split], wanted), columns.values())
    names = part.files[split]
    if isinstance(names, tuple):
        return read_aligned([_place(spec, split, name, data_root) for name in names], part.encoding)
    path = _place(spec, split, names, data_root)
    records = read_file(path, wanted, format=part.format, encoding=part.encoding, conll=part.conll)
    return expanded(records, columns.values())


def _place(spec: DatasetSpec, split: str, given: str, data_root: Path | None) -> Path:
    """A file that is there."""
    name = Path(given).expanduser()
    root = data_root or spec.base or Path()
    path = root / name  # an absolute name stands for itself
    if not path.is_file():
        how = (
            "check the path"
            if name.is_absolute()
            else f"relative files start at {'the data root' if data_root else 'the folder of the YAML'}; "
            f"set --data-root or KDCACHE_DATA to the folder that holds {name}"
        )
        raise DataError(f"dataset {spec.name}, split {split}: no file {path.absolute()}; {how}")
    return path


def _check_columns(split: str, columns: Mapping[str, str], records: Records) -> None:
    for task_field, column in columns.items():
        if column not in records.columns:
            close = difflib.get_close_matches(column, records.columns, n=1, cutoff=0.5)
            raise DataError(
                f"{records.place} has no column {column!r} for {task_field}; columns there: "
                f"{', '.join(records.columns)}"
                + (f"; did you mean {close[0]!r}?" if close else "")
                + (f"; or list {split} under unlabelled" if task_field in GOLD else "")
            )


def _examples(
    spec: DatasetSpec, part: Source, split: str, columns: Mapping[str, str], records: Records
) -> list[Example]:
    _check_columns(split, columns, records)
    first_place: dict[str, int] = {}
    examples: list[Example] = []
    places: list[str] = []
    for index, (number, row) in enumerate(zip(records.numbers, records.rows, strict=True)):
        place = f"{records.unit} {number} of {records.place}"
        if spec.drop_empty and is_empty(columns, row):
            continue
        uid = _uid(row[columns["id"]], columns["id"], place) if "id" in columns else f"{split}-{index}"
        if uid in first_place:
            raise DataError(f"{place} has the id {uid!r} of {records.unit} {first_place[uid]}; an id must be unique")
        first_place[uid] = number
        fields = parse_fields(columns, row, labels=spec.labels, label_map=spec.label_map, place=place)
        language = part.language or spec.language or _language_of(spec.language_pattern, uid, place)
        if language is not None:
            fields["language"] = language
        examples.append(Example(uid=f"{part.name}/{uid}" if part.name else uid, fields=fields))
        places.append(place)
    if not examples:
        raise DataError(f"{records.place} has no record that is not empty; a split needs at least one example")
    return _with_iob2(spec, examples, places)


def _with_iob2(spec: DatasetSpec, examples: list[Example], places: Sequence[str]) -> list[Example]:
    """The examples with their tags, if they have any, in IOB2."""
    tagged = [i for i, example in enumerate(examples) if "tags" in example.fields]
    tags = to_iob2([examples[i].fields["tags"] for i in tagged], scheme=spec.scheme, places=[places[i] for i in tagged])
    for i, converted in zip(tagged, tags, strict=True):
        examples[i] = Example(uid=examples[i].uid, fields={**examples[i].fields, "tags": converted})
    return examples


def _language_of(pattern: str | None, uid: str, place: str) -> str | None:
    if pattern is None:
        return None
    match = re.search(pattern, uid)
    if match is None:
        raise DataError(f"{place} has the id {uid!r}, in which language_pattern = {pattern!r} finds nothing")
    return match[0]


def _uid(value: Any, column: str, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip() or "\n" in str(value):
        raise DataError(f"{place} has {value!r} in the id column {column!r}; an id is a number or one line of text")
    return str(value)
