"""Items of a block <-> the bytes of `items.parquet`. Parquet, because its pages carry checksums.

Shape suffixes: I items  R rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kdcache.cache.jsonio import parse_json
from kdcache.cache.parquet import read_table
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.core.types import Item

FILE = "items.parquet"
LARGEST_TABLE = 1 << 32
"""Bytes the items of one block may decode to."""
_ROWS = ("positions", "labels", "classes")
_INPUT = "input:"


def items_to_parquet(items: Sequence[Item]) -> bytes:
    """The bytes of `items.parquet`; equal items give equal bytes.

    Raises:
        CacheError: an item whose arrays differ in length, whose inputs have other names than its neighbours', or whose
            meta is not JSON.
    """
    names = sorted(items[0].inputs) if items else ["input_ids"]
    for item in items:
        _check_item(item, names)
    columns: dict[str, Any] = {"uid": pa.array([item.uid for item in items], pa.string())}
    for name in names:
        columns[_INPUT + name] = _lists([item.inputs[name] for item in items])
    columns["positions"] = _lists([item.positions_R for item in items])
    columns["labels"] = _lists([item.labels_R for item in items])
    columns["classes"] = _lists([item.classes_R for item in items])
    columns["meta"] = pa.array([_meta_to_json(item) for item in items], pa.large_string())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", write_page_checksum=True, write_statistics=False)
    return bytes(sink.getvalue())


def _check_item(item: Item, names: Sequence[str]) -> None:
    if sorted(item.inputs) != list(names):
        raise CacheError(f"item {item.uid!r} has inputs {sorted(item.inputs)}, its neighbours {list(names)}")
    if not len(item.positions_R) == len(item.labels_R) == len(item.classes_R):
        raise CacheError(f"item {item.uid!r} has positions, labels and classes of different lengths")


def _meta_to_json(item: Item) -> str:
    try:
        return json.dumps(dict(item.meta), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise CacheError(f"meta of item {item.uid!r} is not JSON: {error}") from None


def _lists(arrays: Sequence[NDArray[Any]]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
    values = np.concatenate([np.zeros(0, np.int32), *arrays]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemColumns:
    """The items of a block as flat columns, cheap to keep; `item` cuts one out.

    Attributes:
        uid: text column.
        meta: JSON column.
        lists: column name -> (offsets int32 [I + 1], values int32).
    """

    uid: pa.Array
    meta: pa.Array
    lists: dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]]

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.uid)

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        held = sum(offsets.nbytes + values.nbytes for offsets, values in self.lists.values())
        return int(held + self.uid.nbytes + self.meta.nbytes)

    def item(self, index: int) -> Item:
        """One item; its arrays are read-only views."""
        inputs = {name[len(_INPUT) :]: self._cut(name, index) for name in self.lists if name.startswith(_INPUT)}
        uid, meta = self.uid[index].as_py(), self.meta[index].as_py()
        return Item(
            uid=uid,
            inputs=inputs,
            positions_R=self._cut("positions", index),
            labels_R=self._cut("labels", index),
            classes_R=self._cut("classes", index),
            meta={} if meta == "{}" else parse_json(meta.encode(), where=f"meta of item {uid!r}"),
        )

    def _cut(self, name: str, index: int) -> NDArray[np.int32]:
        offsets, values = self.lists[name]
        return values[offsets[index] : offsets[index + 1]]


def items_from_parquet(content: bytes) -> ItemColumns:
    """Read the bytes of `items.parquet`.

    Raises:
        CacheDamaged: a page fails its checksum, or the columns are not those of items.
    """
    try:
        _check_claimed_size(pq.read_metadata(pa.BufferReader(content)))
        table = read_table(content).combine_chunks()
        table.validate(full=True)
        names = [name for name in table.column_names if name.startswith(_INPUT)]
        lists = {name: _read_lists(table, name) for name in [*names, *_ROWS]}
        uid, meta = _combined(table, "uid"), _combined(table, "meta")
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise CacheDamaged(f"items.parquet cannot be read: {' '.join(str(error).split())[:200]}") from None
    if f"{_INPUT}input_ids" not in lists or uid.null_count or meta.null_count:
        raise CacheDamaged("items.parquet does not hold items: no input_ids, or an item without uid or meta")
    rows = [np.diff(lists[name][0]) for name in _ROWS]
    if (rows[0] != rows[1]).any() or (rows[0] != rows[2]).any():
        raise CacheDamaged("items.parquet has positions, labels and classes of different lengths")
    return ItemColumns(uid=uid, meta=meta, lists=lists)


def _check_claimed_size(metadata: Any) -> None:
    claimed = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if claimed > LARGEST_TABLE:
        raise CacheDamaged(f"items.parquet claims {claimed:,} bytes; a block has at most {LARGEST_TABLE:,}")


def _combined(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _read_lists(table: pa.Table, name: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    column = _combined(table, name)
    if column.type != pa.list_(pa.int32()) or column.null_count or column.values.null_count:
        raise ValueError(f"{name} is {column.type}, not lists of int32")
    return column.offsets.to_numpy(), column.values.to_numpy()
