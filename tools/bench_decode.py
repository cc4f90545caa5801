"""Bytes a row and decoding speed of the codecs of store topk, on a real language model's rows.

    python tools/bench_decode.py --model FOLDER --save rows.npz     # runs the model over installed packages' texts once
    python tools/bench_decode.py --rows rows.npz

The first half of the rows stands for a first block: with the items' tokens it makes the id table of codec compact
(`--id-table tokens`: the tokens alone). The second half is measured, for each k, codec and compressor:

bytes/row: the arrays, with the metadata and the commit record of a block, which count over `BLOCK_ROWS` rows; not the
teacher's id table, which is 4 V bytes once.
GB/s: raw rows (6 bytes an entry) a second of this process' CPU time, from the bytes of a block in memory to arrays that
are checked; the median of some runs over a block of the rows, several times repeated (chunks are compressed alone, so
the repeats do not help). zarr: what zarr-python takes for the same arrays, without any check but the chunks' checksums.
max error: of a log-probability.

Bars at k = 64 (V about 50k): fast 235 bytes, compact 175 (lz4) and 165 (zstd); lz4 2.4 GB/s. A miss is marked and gives
exit code 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from kdcache.cache.blocks import decode_files
from kdcache.cache.codec import codec_of, encode, pack, unpack
from kdcache.cache.ragged import concatenate, take
from kdcache.cache.records import CommitRecord, record_to_json
from kdcache.cache.shards import to_files
from kdcache.cache.store import FileRecord
from kdcache.cache.tables import id_table
from kdcache.core.row_format import RowFormat
from kdcache.core.types import Item, SparseRows
from kdcache.losses.selection import select
from kdcache.losses.targets import to_rows
from tools import lm

SIZES = (8, 16, 32, 64, 128, 256)
VARIANTS = (("fast", "lz4"), ("fast", "zstd"), ("compact", "lz4"), ("compact", "zstd"))
MOST_BYTES = {("fast", "lz4"): 235, ("compact", "lz4"): 175, ("compact", "zstd"): 165}
LEAST_SPEED = {("fast", "lz4"): 2.4, ("compact", "lz4"): 2.4}
BAR_SIZE = 64
RAW_BYTES = 6
LENGTH = 256
BLOCK_ROWS, TIMES = 65_536, 8
Table = dict[int, SparseRows]


def make_rows(folder: Path, *, num_sequences: int, num_items: int) -> tuple[Table, NDArray[np.int64], int]:
    """Rows of a causal LM for each k over some of a cache's items, the tokens of all of them, and V."""
    length = LENGTH
    tokenizer, model = lm.load(folder)
    tokens = lm.sequences(tokenizer, count=num_items, length=length)
    parts: dict[int, list[SparseRows]] = {k: [] for k in SIZES}
    for sequence in torch.from_numpy(tokens[:num_sequences]):
        with torch.inference_mode():
            logits = model(sequence[None]).logits[0]
        labels = torch.cat([sequence[1:], torch.tensor([-100])])
        classes = torch.full((length,), logits.shape[1])
        for k in SIZES:
            parts[k].append(to_rows(select(logits, labels, classes, top_k=k), rows_per_item=np.array([length])))
    return {k: concatenate(found) for k, found in parts.items()}, tokens, int(logits.shape[1])


def save(path: Path, table: Table, tokens: NDArray[np.int64], num_classes: int) -> None:
    """Keep rows for another run."""
    arrays = {f"{k}/{f.name}": getattr(rows, f.name) for k, rows in table.items() for f in dataclasses.fields(rows)}
    np.savez(path, tokens=tokens, num_classes=np.array([num_classes]), **arrays)


def load(path: Path) -> tuple[Table, NDArray[np.int64], int]:
    """What `save` kept."""
    with np.load(path, allow_pickle=False) as file:
        sizes = sorted({int(name.partition("/")[0]) for name in file.files if "/" in name})
        names = [f.name for f in dataclasses.fields(SparseRows)]
        table = {k: SparseRows(**{name: file[f"{k}/{name}"] for name in names}) for k in sizes}
        return table, file["tokens"], int(file["num_classes"][0])


def frequency_table(tokens: NDArray[np.int64], num_classes: int, rows: SparseRows | None) -> NDArray[np.int32]:
    """The id table of a cache whose items are these sequences, from their tokens and the first block's rows."""
    items = [
        Item(
            uid=str(i),
            inputs={"input_ids": row.astype(np.int32)},
            positions_R=np.zeros(1, np.int32),
            labels_R=row[1:].astype(np.int32),
            classes_R=np.array([num_classes], np.int32),
        )
        for i, row in enumerate(tokens)
    ]
    return id_table(items, num_classes=num_classes, rows=rows)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One line of the table."""

    bytes_per_row: float
    speed: float
    zarr_speed: float
    error: float


Block = tuple[dict[str, bytes], CommitRecord]


def encode_block(
    rows: SparseRows, row_format: RowFormat, shared: Mapping[str, NDArray[Any]], *, chunk_rows: int
) -> Block:
    """The files of a block and its commit record, as a writer makes them."""
    num_rows = -(-rows.num_rows // chunk_rows) * chunk_rows
    files = to_files(
        encode(rows, row_format, shared, num_rows=num_rows),
        chunk_rows=chunk_rows,
        attributes={"teacher": row_format.name, "block": "00000"},
        compressor=row_format.compressor,
        filters=codec_of(row_format).filters(row_format.compressor),
    )
    record = CommitRecord(
        part=row_format.name,
        block="00000",
        folder=f"teachers/{row_format.name}/00000.0123456789abcdef",
        files={name: FileRecord.of(content) for name, content in files.items()},
        num_items=rows.num_items,
        num_rows=rows.num_rows,
        forwards=rows.num_items,
    )
    return files, record


def measure(
    rows: SparseRows, row_format: RowFormat, shared: Mapping[str, NDArray[Any]], *, chunk_rows: int, repeat: int
) -> Measure:
    """Encode a block of rows and read it again, in memory."""
    files, record = encode_block(rows, row_format, shared, chunk_rows=chunk_rows)
    data = sum(len(content) for name, content in files.items() if not name.endswith(".json"))
    fixed = sum(map(len, files.values())) - data + len(record_to_json(record))
    long = take(rows, np.tile(np.arange(rows.num_items), TIMES))
    files, record = encode_block(long, row_format, shared, chunk_rows=chunk_rows)
    prototype = default_buffer_prototype()
    store = MemoryStore({name: prototype.buffer.from_bytes(content) for name, content in files.items()})
    own = _cpu_seconds(lambda: decode_files(files, record, row_format=row_format, shared=shared), repeat)
    theirs = _cpu_seconds(lambda: _read_zarr(store), max(repeat // 5, 3))
    decoded = unpack(pack(rows, row_format, shared))
    raw = RAW_BYTES * int(long.num_kept.sum())
    return Measure(
        bytes_per_row=data / rows.num_rows + fixed / BLOCK_ROWS,
        speed=raw / own / 1e9,
        zarr_speed=raw / theirs / 1e9,
        error=float(np.abs(decoded.logprobs[rows.kept] - rows.logprobs[rows.kept]).max())
        if isinstance(decoded, SparseRows)
        else np.nan,
    )


def _read_zarr(store: MemoryStore) -> None:
    group = zarr.open_group(store, mode="r")
    for _, array in group.arrays():
        array[...]


def _cpu_seconds(function: Callable[[], object], repeat: int) -> float:
    """Median CPU time of the whole process."""
    function()
    seconds = []
    for _ in range(repeat):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def report(table: Table, frequencies: NDArray[np.int32], *, chunk_rows: int, repeat: int) -> int:
    """Print a line for each k and variant; returns how many bars are missed."""
    print(f"{'k':>4} {'codec':<8} {'by':<5} {'bytes/row':>9} {'GB/s':>6} {'zarr':>6} {'ratio':>6} {'max error':>10}")
    missed = 0
    for (k, rows), variant in itertools.product(table.items(), VARIANTS):
        codec, compressor = variant
        row_format = RowFormat.of(num_classes=len(frequencies), top_k=k, codec=codec, compressor=compressor)
        shared = {"id_table": frequencies} if codec == "compact" else {}
        found = measure(rows, row_format, shared, chunk_rows=chunk_rows, repeat=repeat)
        heavy = found.bytes_per_row > MOST_BYTES.get(variant, np.inf)
        slow = found.speed < LEAST_SPEED.get(variant, 0)
        over = k == BAR_SIZE and (heavy or slow)
        missed += over
        print(
            f"{k:>4} {codec:<8} {compressor:<5} {found.bytes_per_row:>9.1f} {found.speed:>6.2f} "
            f"{found.zarr_speed:>6.2f} {found.speed / found.zarr_speed:>6.1f} {found.error:>10.4f}"
            f"{'  misses the bar' if over else ''}",
            flush=True,
        )
    return missed


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=Path, help="rows that --save kept")
    parser.add_argument("--model", type=Path, help="folder of a causal LM; makes the rows")
    parser.add_argument("--save", type=Path, help="keep the rows")
    parser.add_argument("--sequences", type=int, default=48, help="token sequences that the model runs over")
    parser.add_argument("--items", type=int, default=160, help="token sequences that the id table is made from")
    parser.add_argument("--id-table", choices=("rows", "tokens"), default="rows", help="what the id table is made from")
    parser.add_argument("--chunk-rows", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=31)
    given = parser.parse_args()
    if (given.rows is None) == (given.model is None):
        parser.error("give --rows or --model")
    if given.rows is not None:
        table, tokens, num_classes = load(given.rows)
    else:
        table, tokens, num_classes = make_rows(given.model, num_sequences=given.sequences, num_items=given.items)
    if given.save is not None:
        save(given.save, table, tokens, num_classes)
    widest = table[max(table)]
    half = widest.num_items // 2
    first = take(table[BAR_SIZE], np.arange(half)) if given.id_table == "rows" else None
    frequencies = frequency_table(tokens, num_classes, first)
    table = {k: take(rows, np.arange(half, 2 * half)) for k, rows in table.items()}
    print(f"{table[BAR_SIZE].num_rows:,} rows of {num_classes:,} classes, chunks of {given.chunk_rows:,} rows")
    return 1 if report(table, frequencies, chunk_rows=given.chunk_rows, repeat=given.repeat) else 0


if __name__ == "__main__":
    sys.exit(main())
