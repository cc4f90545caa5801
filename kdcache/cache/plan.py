"""The plan of a cache: which item stands in which block and at which row. Immutable once published.

Blocks come from the plan, never from ranks, so any number of writers may fill them in any order.

Shape suffixes: I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from kdcache.cache.jsonio import ANEW
from kdcache.cache.parquet import read_table
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.core.types import IGNORE, Item

SHORT_ROWS = 8
"""Median rows an item up to which items share chunks."""
SHARED_CHUNK_ROWS = 4096
OWN_CHUNK_ROWS = (128, 1024)

_INTEGERS = {
    "num_tokens": np.int64,
    "num_rows": np.int64,
    "num_labels": np.int64,
    "block": np.int64,
    "first_row": np.int64,
    "tokens_xxh3": np.uint64,
}
_LARGEST = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A run of items of one split that is written and committed as a whole.

    Attributes:
        name: five digits or more, e.g. `00007`.
        split: of all its items.
        start: index in the plan of the first item.
        stop: index after the last.
        num_rows: rows its arrays have, padding included.
    """

    name: str
    split: str
    start: int
    stop: int
    num_rows: int

    @property
    def num_items(self) -> int:
        """Number of items."""
        return self.stop - self.start

    @property
    def items(self) -> NDArray[np.int64]:
        """Indices in the plan, int64."""
        return np.arange(self.start, self.stop, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """One entry an item, in the order of the cache. Build it with `make_plan` or `Plan.from_columns`.

    Attributes:
        uid: unique within a split.
        split: name of the split.
        num_tokens: int64 [I], length of `input_ids`.
        num_rows: int64 [I].
        num_labels: int64 [I], rows with a label.
        block: int64 [I], number of the block.
        first_row: int64 [I], row of the block where the item's rows begin.
        tokens_xxh3: uint64 [I], xxh3_64 of `input_ids` as little-endian int32.
        chunk_rows: rows of a zarr chunk.
        blocks: the blocks in order.
    """

    uid: tuple[str, ...]
    split: tuple[str, ...]
    num_tokens: NDArray[np.int64]
    num_rows: NDArray[np.int64]
    num_labels: NDArray[np.int64]
    block: NDArray[np.int64]
    first_row: NDArray[np.int64]
    tokens_xxh3: NDArray[np.uint64]
    chunk_rows: int
    blocks: tuple[Block, ...]

    @classmethod
    def from_columns(
        cls, *, uid: Sequence[str], split: Sequence[str], columns: Mapping[str, NDArray[Any]], chunk_rows: int
    ) -> Plan:
        """Derive the blocks from the columns.

        Raises:
            CacheDamaged: columns that are no plan: lengths differ, rows overlap, a block of two splits.
        """
        arrays: dict[str, NDArray[Any]] = {
            name: np.asarray(columns[name]).astype(dtype) for name, dtype in _INTEGERS.items()
        }
        _check_columns(uid, split, arrays, chunk_rows)
        blocks = _derive_blocks(tuple(split), arrays, chunk_rows)
        return cls(uid=tuple(uid), split=tuple(split), **arrays, chunk_rows=chunk_rows, blocks=blocks)

    @property
    def num_items(self) -> int:
        """Number of items over all splits."""
        return len(self.uid)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in order."""
        return tuple(dict.fromkeys(block.split for block in self.blocks))

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of a split's items in the plan, int64, ascending.

        Raises:
            CacheError: no such split.
        """
        if split not in self.splits:
            raise CacheError(f"the cache has no split {split!r}; it has {', '.join(self.splits) or 'none'}")
        blocks = [block for block in self.blocks if block.split == split]
        return np.arange(blocks[0].start, blocks[-1].stop, dtype=np.int64)

    @property
    def digest(self) -> str:
        """sha256 of the columns, hex; equal for equal plans whatever wrote them."""
        state = hashlib.sha256(f"{self.chunk_rows}".encode())
        for words in (self.uid, self.split):
            state.update("\0".join(words).encode() + b"\n")
        for name, dtype in _INTEGERS.items():
            state.update(getattr(self, name).astype(np.dtype(dtype).newbyteorder("<")).tobytes())
        return state.hexdigest()

    def difference(self, other: Plan) -> str | None:
        """The first difference between two plans in words, or None."""
        for name, mine, theirs in (
            ("chunk_rows", self.chunk_rows, other.chunk_rows),
            ("number of items", self.num_items, other.num_items),
        ):
            if mine != theirs:
                return f"{name} {mine} and {theirs}"
        for name in ("uid", "split", *_INTEGERS):
            mine, theirs = getattr(self, name), getattr(other, name)
            places = np.flatnonzero(np.asarray(mine) != np.asarray(theirs))
            if len(places):
                i = int(places[0])
                return f"{name} of item {i} ({self.uid[i]!r}): {mine[i]} and {theirs[i]}"
        return None


def tokens_digest(item: Item) -> int:
    """xxh3_64 of `input_ids` as little-endian int32."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(item.inputs["input_ids"], dtype="<i4").tobytes())


def chunk_rows_for(items: Sequence[Item]) -> int:
    """Rows of a chunk: 4,096 shared by short items; else (a median over 8) a power of two up to half the median."""
    if not _own_chunks(items):
        return SHARED_CHUNK_ROWS
    half = max(int(np.median([item.num_rows for item in items])) // 2, 1)
    return min(max(1 << (half.bit_length() - 1), OWN_CHUNK_ROWS[0]), OWN_CHUNK_ROWS[1])


def _own_chunks(items: Sequence[Item]) -> bool:
    return bool(items) and float(np.median([item.num_rows for item in items])) > SHORT_ROWS


def make_plan(items: Mapping[str, Sequence[Item]], *, block_tokens: int, chunk_rows: int) -> Plan:
    """Cut the items of all splits into blocks; items keep their order.

    Items with many rows (a median above 8) begin on a chunk, so that one item owns its chunks; short ones share them.

    Args:
        items: split -> items.
        block_tokens: a block is closed before its tokens exceed this; a longer item has a block of its own.
        chunk_rows: rows of a zarr chunk.

    Raises:
        CacheError: a budget below 1, no items, a uid twice in a split.
    """
    if block_tokens < 1 or chunk_rows < 1:
        raise CacheError(f"block_tokens = {block_tokens} and chunk_rows = {chunk_rows} must both be at least 1")
    flat = [item for group in items.values() for item in group]
    if not flat:
        raise CacheError("there are no items to cache; check the dataset's splits and filters")
    align = chunk_rows if _own_chunks(flat) else 1
    blocks: list[int] = []
    first_rows: list[int] = []
    block = -1
    for group in items.values():
        tokens = block_tokens + 1  # a split starts a block
        row = 0
        for item in group:
            tokens += item.num_tokens
            if tokens > block_tokens:
                block, tokens, row = block + 1, item.num_tokens, 0
            blocks.append(block)
            first_rows.append(row)
            row += -(-item.num_rows // align) * align
    columns = {
        "num_tokens": np.array([item.num_tokens for item in flat]),
        "num_rows": np.array([item.num_rows for item in flat]),
        "num_labels": np.array([int((item.labels_R != IGNORE).sum()) for item in flat]),
        "block": np.array(blocks),
        "first_row": np.array(first_rows),
        "tokens_xxh3": np.array([tokens_digest(item) for item in flat], dtype=np.uint64),
    }
    split = [name for name, group in items.items() for _ in group]
    _check_unique(split, [item.uid for item in flat])
    return Plan.from_columns(uid=[item.uid for item in flat], split=split, columns=columns, chunk_rows=chunk_rows)


def _check_unique(split: Sequence[str], uid: Sequence[str]) -> None:
    seen: set[tuple[str, str]] = set()
    for key in zip(split, uid, strict=True):
        if key in seen:
            raise CacheError(f"the uid {key[1]!r} stands twice in split {key[0]}; uids must be unique within a split")
        seen.add(key)


def _check_columns(
    uid: Sequence[str], split: Sequence[str], arrays: Mapping[str, NDArray[Any]], chunk_rows: int
) -> None:
    if not 1 <= chunk_rows <= 2**20:
        raise CacheDamaged(f"the plan has chunk_rows {chunk_rows}; allowed: 1 to 2^20")
    if not len(uid) == len(split) > 0 or any(len(a) != len(uid) for a in arrays.values()):
        raise CacheDamaged("the plan is empty or its columns differ in length")
    for name in ("num_tokens", "num_rows", "num_labels", "first_row"):
        if arrays[name].min() < 0 or arrays[name].max() > _LARGEST:
            raise CacheDamaged(f"the plan has a value of {name} outside 0 to 2^40")
    if (arrays["num_labels"] > arrays["num_rows"]).any():
        raise CacheDamaged("the plan has an item with more labels than rows")
    steps = np.diff(arrays["block"])
    if arrays["block"][0] != 0 or not np.isin(steps, (0, 1)).all():
        raise CacheDamaged("the plan's blocks are not numbered 0, 1, 2, ... in order")
    ends = arrays["first_row"] + arrays["num_rows"]
    if ((arrays["first_row"][1:] < ends[:-1]) & (steps == 0)).any():
        raise CacheDamaged("the plan has items whose rows overlap")


def _derive_blocks(split: tuple[str, ...], arrays: Mapping[str, NDArray[Any]], chunk_rows: int) -> tuple[Block, ...]:
    starts = np.flatnonzero(np.diff(arrays["block"], prepend=-1))
    ends = arrays["first_row"] + arrays["num_rows"]
    blocks = []
    for number, (start, stop) in enumerate(pairwise([*starts.tolist(), len(split)])):
        if len(set(split[start:stop])) != 1:
            raise CacheDamaged(f"block {number} of the plan has items of several splits")
        rows = max(int(ends[stop - 1]), 1)
        if rows > chunk_rows:
            rows = -(-rows // chunk_rows) * chunk_rows
        blocks.append(Block(name=f"{number:05d}", split=split[start], start=start, stop=stop, num_rows=rows))
    names = [block.split for block in blocks]
    if len(set(names)) != 1 + sum(a != b for a, b in pairwise(names)):
        raise CacheDamaged("the plan has a split whose blocks are not adjacent")
    return tuple(blocks)


def plan_to_parquet(plan: Plan) -> bytes:
    """The bytes of `plan.parquet`, with a checksum on every page."""
    columns = {"uid": pa.array(plan.uid, pa.string()), "split": pa.array(plan.split, pa.string()).dictionary_encode()}
    table = pa.table({**columns, **{name: pa.array(getattr(plan, name)) for name in _INTEGERS}})
    table = table.replace_schema_metadata({"kdcache.chunk_rows": str(plan.chunk_rows)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def plan_from_parquet(content: bytes, *, where: str) -> Plan:
    """Read `plan.parquet`.

    Raises:
        CacheDamaged: it is not a plan, or a page fails its checksum.
    """
    try:
        table = read_table(content)
        table.validate(full=True)
        if any(table.column(name).null_count for name in table.column_names):
            raise ValueError("it has empty fields")
        columns = {name: table.column(name).to_numpy() for name in _INTEGERS}
        uid, split = (tuple(table.column(name).cast(pa.string()).to_numpy()) for name in ("uid", "split"))
        chunk_rows = int((table.schema.metadata or {})[b"kdcache.chunk_rows"])
        return Plan.from_columns(uid=uid, split=split, columns=columns, chunk_rows=chunk_rows)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise CacheDamaged(f"{where} is not a readable plan: {' '.join(str(error).split())[:200]}; {ANEW}") from None
    except CacheDamaged as error:
        raise CacheDamaged(f"{where}: {error}") from None
