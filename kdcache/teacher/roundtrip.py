"""What a store gives back and what it costs: rows through the cache's own codecs and compressors, in memory.

R rows  V classes  D hidden size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.cache.codec import codec_of, pack
from kdcache.cache.layout import TeacherIdentity
from kdcache.cache.shards import to_files
from kdcache.core.types import NUM_ATOMS, PackedRows
from kdcache.losses.head import Head
from kdcache.losses.packed import unpack
from kdcache.losses.targets import Targets
from kdcache.teacher.settings import CODECS, DumpConfig
from kdcache.teacher.stores import Outputs, hidden_rows, sparse_rows

Tables = Mapping[str, NDArray[Any]]
KEPT = (8, 16, 32, 64, 128, 256)
"""Sizes of top-k that a report compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to keep a row.

    Attributes:
        store: `topk` or `hidden`.
        codec: of the store; `dense` keeps all classes.
        compressor: `lz4` or `zstd`.
        top_k: classes kept; 0 for `hidden`.
        top_p: mass kept.
        num_classes: V.
        hidden_size: D; 0 for `topk`.
    """

    store: str
    codec: str
    compressor: str = "lz4"
    top_k: int = 0
    top_p: float = 1.0
    num_classes: int
    hidden_size: int = 0

    @property
    def label(self) -> str:
        """As tables and sentences call it.

        Example:
            >>> Variant(store="topk", codec="fast", top_k=64, num_classes=50_000).label
            'top-64 fast'
        """
        if self.codec == "dense":
            return "dense"
        if self.store == "hidden":
            return f"hidden {self.codec}"
        return f"top-{self.top_k} {self.codec}" + (f" top_p {self.top_p:g}" if self.top_p < 1 else "")

    @property
    def settings(self) -> str:
        """What to write into `dump:` for it."""
        if self.codec == "dense":
            return f"store: topk, top_k: {self.top_k}"
        kept = f", top_k: {self.top_k}" if self.store == "topk" else ""
        return f"store: {self.store}, codec: {self.codec}{kept}"

    @property
    def identity(self) -> TeacherIdentity:
        """A teacher stored like that, for the codecs."""
        return TeacherIdentity(
            name="sample",
            source="sample",
            weight_digest="0",
            store=self.store,
            codec=self.codec,
            compressor=self.compressor,
            top_k=self.top_k,
            top_p=self.top_p,
            num_atoms=NUM_ATOMS if self.codec in CODECS["topk"] else 0,
            num_classes=self.num_classes,
            hidden_size=self.hidden_size,
        )

    @property
    def raw_bytes(self) -> int:
        """Bytes of a row as arrays, before compression."""
        width = self.num_classes if self.codec == "dense" else max(2, self.top_k)
        specs = codec_of(self.identity).specs(self.identity, width)
        return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in specs.values())


def configured(config: DumpConfig, *, num_classes: int, hidden_size: int) -> Variant:
    """What a dump with these settings would keep."""
    codec, top_k = config.kept(num_classes)
    return Variant(
        store=config.store,
        codec=codec,
        compressor=config.compressor,
        top_k=top_k,
        top_p=config.top_p,
        num_classes=num_classes,
        hidden_size=hidden_size if config.store == "hidden" else 0,
    )


def variants(config: DumpConfig, *, num_classes: int, hidden_size: int) -> list[Variant]:
    """What a fidelity report compares: the configured one first, then every k below V and every codec.

    With at most `KEPT[0]` classes only `dense` is left, which is exact.
    """
    first = configured(config, num_classes=num_classes, hidden_size=hidden_size)
    dense = Variant(store="topk", codec="dense", top_k=num_classes, num_classes=num_classes)
    sparse = [
        Variant(store="topk", codec=codec, compressor=config.compressor, top_k=k, num_classes=num_classes)
        for codec in CODECS["topk"]
        for k in KEPT
        if k < num_classes
    ]
    hidden = [
        Variant(
            store="hidden",
            codec=codec,
            compressor=config.compressor,
            num_classes=num_classes,
            hidden_size=hidden_size,
        )
        for codec in ("float16", "bfloat16", "int8")
        if hidden_size and sparse
    ]
    rest = [v for v in (*sparse, *hidden) if v.label != first.label]
    if num_classes <= KEPT[-1] and first.codec != "dense":
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


def through(outputs: Outputs, variant: Variant, tables: Tables) -> PackedRows:
    """A batch's rows as the variant's codec stores them.

    Raises:
        IncompatibleTargets: logits that are not finite.
        CacheError: the codec cannot hold them, e.g. a hidden value beyond float16.
    """
    if variant.store == "hidden":
        return pack(hidden_rows(outputs), variant.identity, tables)
    dense = variant.codec == "dense"
    return pack(sparse_rows(outputs, top_k=variant.top_k, top_p=variant.top_p, dense=dense), variant.identity, tables)


def targets_of(packed: PackedRows, *, head: Head | None, device: torch.device) -> Targets:
    """What a student would be given of stored rows."""
    return unpack(packed, device=device, head=head if packed.store == "hidden" else None)
