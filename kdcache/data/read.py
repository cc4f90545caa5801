"""A dataset's split as examples: records of any format, checked and given the task's field names."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcache.core.errors import DataError
from kdcache.core.types import Example
from kdcache.data.files import Records, read_file
from kdcache.data.hub import read_hub
from kdcache.data.select import select
from kdcache.data.spec import DatasetSpec


def read_split(spec: DatasetSpec, split: str, *, data_root: Path | None = None) -> list[Example]:
    """All examples of a split, after hold-out and limit.

    `fields` holds what `spec.columns` names, but the id: `text`, `text_pair`, `language` as text and `label` as the
    class's name. An unlabelled example has no `label`. The uid is the id column's value, or `<source split>-<row>`
    with rows from 0.

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
    columns = dict(spec.columns)
    if source in spec.unlabelled:
        columns.pop("label", None)
    return select(spec, split, _examples(spec, source, columns, _records(spec, source, columns, data_root)))


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


def _records(spec: DatasetSpec, split: str, columns: Mapping[str, str], data_root: Path | None) -> Records:
    wanted = list(columns.values())
    if spec.hub is not None:
        return read_hub(spec.hub, spec.hub.splits[split], wanted)
    name = Path(spec.files[split]).expanduser()
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
    return read_file(path, wanted, format=spec.format, encoding=spec.encoding)


def _examples(spec: DatasetSpec, split: str, columns: Mapping[str, str], records: Records) -> list[Example]:
    for task_field, column in columns.items():
        if column not in records.columns:
            close = difflib.get_close_matches(column, records.columns, n=1, cutoff=0.5)
            raise DataError(
                f"{records.place} has no column {column!r} for {task_field}; columns there: "
                f"{', '.join(records.columns)}"
                + (f"; did you mean {close[0]!r}?" if close else "")
                + (f"; or list {split} under unlabelled" if task_field == "label" else "")
            )
    first_place: dict[str, int] = {}
    examples: list[Example] = []
    for index, (number, row) in enumerate(zip(records.numbers, records.rows, strict=True)):
        place = f"{records.unit} {number} of {records.place}"
        uid = _uid(row[columns["id"]], columns["id"], place) if "id" in columns else f"{split}-{index}"
        if uid in first_place:
            raise DataError(f"{place} has the id {uid!r} of {records.unit} {first_place[uid]}; an id must be unique")
        first_place[uid] = number
        examples.append(Example(uid=uid, fields=_fields(spec, columns, row, place)))
    return examples


def _uid(value: Any, column: str, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip() or "\n" in str(value):
        raise DataError(f"{place} has {value!r} in the id column {column!r}; an id is a number or one line of text")
    return str(value)


def _fields(spec: DatasetSpec, columns: Mapping[str, str], row: Mapping[str, Any], place: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for task_field, column in columns.items():
        value = row[column]
        if task_field == "label":
            label = _label(spec, value, column, place)
            if label is not None:
                fields["label"] = label
        elif task_field != "id":
            if value is not None and not isinstance(value, str):
                raise DataError(
                    f"{place} has {value!r} ({type(value).__name__}) in the column {column!r}; it must be text"
                )
            if value is None or not value.strip():
                raise DataError(f"{place} has empty text in the column {column!r}; fill it or leave the row out")
            fields[task_field] = value
    return fields


def _label(spec: DatasetSpec, value: Any, column: str, place: str) -> str | None:
    """The class's name, or None for no label. In order: label_map, class names, class numbers."""
    if value is None:
        return None
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, float) and value.is_integer():  # whole numbers beside missing ones are often stored as floats
        text = str(int(value))
    if text in spec.label_map:
        return spec.label_map[text]
    if text in spec.labels:
        return text
    if text.isascii() and text.isdigit() and int(text) < len(spec.labels):
        return spec.labels[int(text)]
    known = ", ".join(f"{label} ({i})" for i, label in enumerate(spec.labels))
    raise DataError(
        f"{place} has the label {value!r} in the column {column!r}; known: {known}; correct labels, or add a label_map"
    )
