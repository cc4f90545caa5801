"""Blocks from disk, checked, and an LRU over the decoded ones that is bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from kdcache.cache.codec import check_arrays
from kdcache.cache.codecs.base import Arrays, owned_rows
from kdcache.cache.items import FILE, ItemColumns, items_from_parquet
from kdcache.cache.layout import Block, Plan, TeacherIdentity
from kdcache.cache.ragged import ragged_indices
from kdcache.cache.records import CommitRecord
from kdcache.cache.shards import from_files
from kdcache.cache.store import read_bytes
from kdcache.core.errors import CacheDamaged, CacheFormatError

V = TypeVar("V")


class ByteLRU(Generic[V]):
    """Least recently used values within a budget of bytes; safe to use from several threads.

    Example:
        >>> cache = ByteLRU[str](budget=10)
        >>> cache.get("a", lambda: ("x", 8)), cache.get("b", lambda: ("y", 8)), cache.num_bytes
        ('x', 'y', 8)
    """

    def __init__(self, *, budget: int) -> None:
        self._budget = budget
        self._values: OrderedDict[Any, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.num_bytes = 0

    def get(self, key: Any, load: Callable[[], tuple[V, int]]) -> V:
        """The value of `key`; `load` gives it with its size in bytes where it is not held."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value, size = load()
        with self._lock:
            if key not in self._values:
                self._values[key] = value, size
                self.num_bytes += size
            value = self._values[key][0]
            while self.num_bytes > self._budget and len(self._values) > 1:
                self.num_bytes -= self._values.popitem(last=False)[1][1]
        return value


def read_files(root: Path, record: CommitRecord) -> dict[str, bytes]:
    """The files of a block, each with the size that was committed; digests are not compared yet.

    Raises:
        CacheDamaged: one is missing, cut or grown.
    """
    files = {}
    for name, expected in record.files.items():
        content = read_bytes(root, f"{record.folder}/{name}", limit=expected.size)
        if len(content) != expected.size:
            raise CacheDamaged(f"{root / record.folder / name} has {len(content):,} bytes instead of {expected.size:,}")
        files[name] = content
    return files


def check_digests(files: Mapping[str, bytes], record: CommitRecord) -> None:
    """Refuse bytes that are not those committed, also where they decode well: swapped, restored from elsewhere.

    Raises:
        CacheDamaged: the first file that differs.
    """
    for name, content in files.items():
        if xxhash.xxh3_64_hexdigest(content) != record.files[name].xxh3:
            raise CacheDamaged(f"{name} is not the file that was committed")


def load_items(root: Path, plan: Plan, block: Block, record: CommitRecord) -> ItemColumns:
    """The items of a block.

    Raises:
        CacheDamaged: the bytes are not those committed, or not the plan's items.
    """
    files = read_files(root, record)
    try:
        if FILE not in files:
            raise CacheDamaged(f"{FILE} is missing")
        columns = items_from_parquet(files[FILE])
        check_digests(files, record)
        planned = slice(block.start, block.stop)
        if columns.uid.to_pylist() != list(plan.uid[planned]):
            raise CacheDamaged("the items are not those of the plan")
        for name, counts in (("input:input_ids", plan.num_tokens), ("positions", plan.num_rows)):
            if not np.array_equal(np.diff(columns.lists[name][0]), counts[planned]):
                raise CacheDamaged(f"the lengths of {name} are not those of the plan")
    except CacheDamaged as error:
        raise CacheDamaged(f"{root}: block {block.name} of items: {error}") from None
    return columns


def load_arrays(
    root: Path, plan: Plan, block: Block, record: CommitRecord, *, identity: TeacherIdentity, shared: Arrays
) -> dict[str, NDArray[Any]]:
    """The arrays of a teacher's block, as `codec.encode` made them.

    Raises:
        CacheDamaged: a checksum fails, or the arrays are not rows where the plan has them; block and array are named.
        CacheFormatError: a codec or layout that this version does not read.
    """
    files = read_files(root, record)
    where = f"{root}: block {block.name} of teacher {record.part}"
    try:
        arrays = decode_files(files, record, identity=identity, shared=shared)
        planned = slice(block.start, block.stop)
        expected = np.zeros(block.num_rows, dtype=bool)
        expected[ragged_indices(plan.first_row[planned], plan.num_rows[planned])] = True
        owned = owned_rows(arrays)
        if len(owned) != block.num_rows:
            raise CacheDamaged(f"the block has {len(owned)} rows, the plan {block.num_rows}")
        if (owned != expected).any():
            raise CacheDamaged(f"num_classes has {int(owned.sum())} rows that are not where the plan has them")
    except CacheDamaged as error:
        raise CacheDamaged(f"{where}: {error}") from None
    except CacheFormatError as error:
        raise CacheFormatError(f"{where}: {error}") from None
    return arrays


def decode_files(
    files: Mapping[str, bytes], record: CommitRecord, *, identity: TeacherIdentity, shared: Arrays
) -> dict[str, NDArray[Any]]:
    """From the bytes of a block to arrays that are checked: all that a read costs on the CPU, once a block.

    Every byte is verified once, by the digest of its file. Only where that fails are the chunks' own checksums
    computed, to say which chunk it is.

    Raises:
        CacheDamaged: bytes that are not those committed, or values that cannot be rows.
        CacheFormatError: a codec or layout that this version does not read.
    """
    try:
        check_digests(files, record)
    except CacheDamaged:
        from_files(files)
        raise
    arrays = from_files(files, verified=True)
    check_arrays(arrays, identity.row_format, shared)
    return arrays
