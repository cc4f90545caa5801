"""What a store gives back and what it costs: rows through the cache's own codecs and compressors, in memory.

R rows  V classes  D hidden size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.cache.codec import codec_of, pack
from kdcache.cache.shards import to_files
from kdcache.core.row_format import SPARSE_CODECS, RowFormat
from kdcache.core.types import PackedRows
from kdcache.losses.head import Head
from kdcache.losses.packed import unpack
from kdcache.losses.targets import Targets
from kdcache.teacher.settings import DumpConfig
from kdcache.teacher.stores import Outputs, rows_of

Tables = Mapping[str, NDArray[Any]]
KEPT = (8, 16, 32, 64, 128, 256)
"""Sizes of top-k that a report compares."""


def dump_settings(row_format: RowFormat) -> str:
    """What to write into `dump:` for a format."""
    if row_format.is_dense:
        return f"store: topk, top_k: {row_format.top_k}"
    kept = f", top_k: {row_format.top_k}" if row_format.store == "topk" else ""
    return f"store: {row_format.store}, codec: {row_format.codec}{kept}"


def raw_bytes(row_format: RowFormat) -> int:
    """Bytes of a row as arrays, before compression."""
    width = row_format.num_classes if row_format.is_dense else max(2, row_format.top_k)
    specs = codec_of(row_format).specs(row_format, width)
    return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in specs.values())


def variants(config: DumpConfig, *, num_classes: int, hidden_size: int) -> list[RowFormat]:
    """What a fidelity report compares: the configured one first, then every k below V and every codec.

    With at most `KEPT[0]` classes only `dense` is left, which is exact.
    """
    first = config.row_format(num_classes=num_classes, hidden_size=hidden_size)
    dense = RowFormat.of(num_classes=num_classes, top_k=num_classes)
    sparse = [
        RowFormat.of(num_classes=num_classes, codec=codec, compressor=config.compressor, top_k=k)
        for codec in SPARSE_CODECS
        for k in KEPT
        if k < num_classes
    ]
    hidden = [
        RowFormat.of(
            num_classes=num_classes,
            store="hidden",
            codec=codec,
            compressor=config.compressor,
            hidden_size=hidden_size,
        )
        for codec in ("float16", "bfloat16", "int8")
        if hidden_size and sparse
    ]
    rest = [v for v in (*sparse, *hidden) if v.label != first.label]
    if num_classes <= KEPT[-1] and not first.is_dense:
        rest.insert(0, dense)
    return [first, *rest]


def stored_bytes(packed: Sequence[PackedRows], *, compressor: str, chunk_rows: int) -> float:
    """Bytes of a row on disk, with checksums and the index of its chunks, without the block's metadata.

    Args:
        packed: rows of one teacher, at least one row.
        compressor: of the chunks.
        chunk_rows: rows of a chunk.
    """
    widths = {name: max(p.arrays[name].shape[1] for p in packed) for name, a in packed[0].arrays.items() if a.ndim == 2}
    arrays = {
        name: np.concatenate([_widened(p.arrays[name], widths.get(name)) for p in packed]) for name in packed[0].arrays
    }
    num_rows = sum(p.num_rows for p in packed)
    if num_rows > chunk_rows:
        num_rows -= num_rows % chunk_rows
        arrays = {name: array[:num_rows] for name, array in arrays.items()}
    files = to_files(arrays, chunk_rows=chunk_rows, compressor=compressor, attributes={})
    return sum(len(content) for path, content in files.items() if not path.endswith("zarr.json")) / num_rows


def _widened(array: NDArray[Any], width: int | None) -> NDArray[Any]:
    if width is None or array.shape[1] == width:
        return array
    fill = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    wide = np.full((len(array), width), fill, dtype=array.dtype)
    wide[:, : array.shape[1]] = array
    return wide


def through(outputs: Outputs, row_format: RowFormat, tables: Tables) -> PackedRows:
    """A batch's rows as the format's codec stores them.

    Raises:
        IncompatibleTargets: logits that are not finite.
        CacheError: the codec cannot hold them, e.g. a hidden value beyond float16.
    """
    return pack(rows_of(outputs, row_format), row_format, tables)


def targets_of(packed: PackedRows, *, head: Head | None, device: torch.device) -> Targets:
    """What a student would be given of stored rows."""
    return unpack(packed, device=device, head=head if packed.store == "hidden" else None)
