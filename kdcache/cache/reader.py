"""Reading a sealed cache: what is opened has been checked, and what is damaged is named, never filled with zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.cache.blocks import ByteLRU, load_arrays, load_items
from kdcache.cache.catalog import (
    AGAIN,
    LARGEST_FILE,
    all_files,
    build_manifest,
    check_sizes,
    committed,
    newest_manifest,
    read_marker,
    read_plan,
    read_tables,
    read_teacher,
    table_path,
    teacher_names,
)
from kdcache.cache.codec import codec_of, unpack
from kdcache.cache.codecs.base import Arrays
from kdcache.cache.items import ItemColumns
from kdcache.cache.layout import PLAN, Block, Marker, Plan, TeacherIdentity, signature
from kdcache.cache.ragged import join_arrays, pointers, ragged_indices
from kdcache.cache.records import ITEMS, CommitRecord, Manifest
from kdcache.cache.tables import HEAD, NO_TABLES, TABLES, needs
from kdcache.core.errors import CacheDamaged, CacheError, CacheIncomplete
from kdcache.core.types import Item, PackedRows, Rows

LRU_BYTES = 2 << 30
"""Decoded blocks that an open cache keeps where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cache:
    """An open cache; get one with `Cache.open`. Safe to read from several threads.

    Attributes:
        root: its folder.
        marker: what it is of.
        plan: its items and blocks.
        manifest: its files.
        teachers: name -> identity, of the complete teachers.
        sealed: False only with `allow_incomplete`, where blocks may lack.
        manifest_digest: names the state of the cache, hex; changes when a teacher is added.
    """

    root: Path
    marker: Marker
    plan: Plan
    manifest: Manifest
    teachers: Mapping[str, TeacherIdentity]
    sealed: bool
    manifest_digest: str
    _blocks: ByteLRU[Any] = field(default_factory=lambda: ByteLRU(budget=LRU_BYTES), repr=False)
    _tables: ByteLRU[Arrays] = field(default_factory=lambda: ByteLRU(budget=LARGEST_FILE), repr=False)

    @classmethod
    def open(cls, root: Path | str, *, allow_incomplete: bool = False, cache_bytes: int = LRU_BYTES) -> Cache:
        """Open a cache: marker, newest manifest with its digest, and every file with its exact size.

        Args:
            root: its folder.
            allow_incomplete: also open one that was never sealed, e.g. to inspect it.
            cache_bytes: decoded blocks to keep in memory.

        Raises:
            CacheFormatError: not a cache, or one that this version cannot read.
            CacheIncomplete: the dump has not finished.
            CacheDamaged: a file is missing, emptied, cut, grown, or a symbolic link; it is named.
        """
        if "://" in str(root):
            raise CacheError(f"{root} is a URL; this version reads caches in local folders: copy it first")
        root = Path(root)
        marker = read_marker(root)
        manifest = newest_manifest(root)
        sealed = manifest is not None
        plan = read_plan(root, expected=manifest.files.get(PLAN) if manifest else None)
        if manifest is None:
            if not allow_incomplete:
                raise CacheIncomplete(f"{root} is not finished: {_progress(root, plan)}; {AGAIN}")
            manifest = build_manifest(root, marker, plan, teachers=teacher_names(root), number=0)
        _check_manifest(root, marker, plan, manifest, sealed=sealed)
        check_sizes(root, all_files(manifest.files, manifest.blocks))
        teachers = {name: read_teacher(root, name) for name in manifest.teachers}
        names = [name for identity in teachers.values() for name in identity.names]
        if len(set(names)) != len(names):
            raise CacheDamaged(f"{root} has several teachers of one name: {', '.join(names)}")
        for identity in teachers.values():
            for file in needs(identity):
                if table_path(identity.name, file) not in manifest.files:
                    raise CacheDamaged(f"{root}: the manifest lacks {table_path(identity.name, file)}")
        return cls(
            root=root,
            marker=marker,
            plan=plan,
            manifest=manifest,
            teachers=teachers,
            sealed=sealed,
            manifest_digest=manifest.digest,
            _blocks=ByteLRU(budget=cache_bytes),
        )

    def teacher(self, name: str) -> TeacherIdentity:
        """A teacher by its name or an alias.

        Raises:
            CacheError: no such teacher; the names are listed.
        """
        for identity in self.teachers.values():
            if name in identity.names:
                return identity
        known = ", ".join(n for identity in self.teachers.values() for n in identity.names)
        raise CacheError(f"{self.root} has no teacher {name!r}; it has {known or 'none'}")

    def signature(self, split: str, teacher: str) -> str:
        """One line that says what targets are; goes into results and plots.

        Raises:
            CacheError: no such split or teacher.
        """
        identity = self.teacher(teacher)
        return signature(self.marker, identity, split=split, num_items=len(self.plan.indices(split)))

    def items(self, indices: NDArray[np.int64]) -> list[Item]:
        """Items by their index in the plan, in the order asked for.

        Raises:
            CacheError: an index outside the plan.
            CacheDamaged: bytes that are not those committed.
            CacheIncomplete: an unsealed cache lacks the block.
        """
        numbers = self._block_numbers(indices)
        columns = {int(number): self._columns(self.plan.blocks[number]) for number in np.unique(numbers)}
        return [
            columns[number].item(index - self.plan.blocks[number].start)
            for index, number in zip(np.asarray(indices).tolist(), numbers.tolist(), strict=True)
        ]

    def rows(self, teacher: str, indices: NDArray[np.int64]) -> Rows:
        """A teacher's rows of some items, in the order asked for, in their common form. See `packed`."""
        return unpack(self.packed(teacher, indices))

    def packed(self, teacher: str, indices: NDArray[np.int64]) -> PackedRows:
        """A teacher's rows of some items, in the order asked for, as its blocks store them: the hot path.

        Args:
            teacher: its name in the cache, or an alias.
            indices: of items in the plan, int64; an item may come twice.

        Raises:
            CacheError: no such teacher (the names are listed), or an index outside the plan.
            CacheDamaged: bytes that are not those committed; block and array are named.
            CacheIncomplete: an unsealed cache lacks the block.
        """
        identity = self.teacher(teacher)
        indices = np.asarray(indices, dtype=np.int64)
        numbers = self._block_numbers(indices)
        if not len(indices):
            raise CacheError("rows of no items were asked for; give at least one index")
        shared = self.shared(identity.name)
        num_rows = self.plan.num_rows[indices]
        row_R, number_R = ragged_indices(self.plan.first_row[indices], num_rows), np.repeat(numbers, num_rows)
        blocks = [self._arrays(identity, self.plan.blocks[number]) for number in np.unique(numbers).tolist()]
        if len(blocks) == 1:
            arrays = {name: array[row_R] for name, array in blocks[0].items()}
        else:
            groups = [np.flatnonzero(number_R == number) for number in np.unique(numbers).tolist()]
            # Each block's rows are gathered in the order asked for; `back` puts the groups into it.
            back = np.empty(len(row_R), dtype=np.int64)
            back[np.concatenate(groups)] = np.arange(len(row_R))
            arrays = {
                name: join_arrays([block[name][row_R[group]] for block, group in zip(blocks, groups, strict=True)])[
                    back
                ]
                for name in blocks[0]
            }
        return PackedRows(
            row_ptr=pointers(num_rows),
            store=identity.row_format.store,
            codec=identity.row_format.codec,
            arrays=arrays,
            shared=shared,
        )

    def shared(self, teacher: str) -> Mapping[str, NDArray[Any]]:
        """What all rows of a teacher share: `id_table` of compact, `mean` and `rotation_seed` of int8, or nothing.

        Raises:
            CacheError: no such teacher.
            CacheDamaged: bytes that are not those sealed.
        """
        identity = self.teacher(teacher)
        return self._shared_file(identity, TABLES) if codec_of(identity.row_format).tables else NO_TABLES

    def head(self, teacher: str) -> Mapping[str, NDArray[Any]] | None:
        """The output head of a teacher of store `hidden`, else None.

        Returns:
            `weight` [V, D] and perhaps `bias` [V], float32, float16, or uint16 for the bits of bfloat16; perhaps
            `scale` and `soft_cap`, float32 [1].

        Raises:
            CacheError: no such teacher.
            CacheDamaged: bytes that are not those sealed.
        """
        identity = self.teacher(teacher)
        return self._shared_file(identity, HEAD) if identity.row_format.store == "hidden" else None

    def _shared_file(self, identity: TeacherIdentity, file: str) -> Arrays:
        def load() -> tuple[Arrays, int]:
            expected = self.manifest.files[table_path(identity.name, file)]
            arrays = read_tables(self.root, identity, file, expected=expected)
            return arrays, sum(array.nbytes for array in arrays.values())

        return self._tables.get((identity.name, file), load)

    def _columns(self, block: Block) -> ItemColumns:
        def load() -> tuple[ItemColumns, int]:
            columns = load_items(self.root, self.plan, block, self._record(ITEMS, block))
            return columns, columns.num_bytes

        columns: ItemColumns = self._blocks.get((ITEMS, block.name), load)
        return columns

    def _arrays(self, identity: TeacherIdentity, block: Block) -> dict[str, NDArray[Any]]:
        def load() -> tuple[dict[str, NDArray[Any]], int]:
            record = self._record(identity.name, block)
            shared = self.shared(identity.name)
            arrays = load_arrays(self.root, self.plan, block, record, identity=identity, shared=shared)
            return arrays, sum(array.nbytes for array in arrays.values())

        arrays: dict[str, NDArray[Any]] = self._blocks.get((identity.name, block.name), load)
        return arrays

    def _record(self, part: str, block: Block) -> CommitRecord:
        record = self.manifest.blocks[part].get(block.name)
        if record is None:
            raise CacheIncomplete(f"{self.root} lacks block {block.name} of {part}; {AGAIN}")
        return record

    def _block_numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= self.plan.num_items):
            raise CacheError(
                f"item indices must lie in range({self.plan.num_items}), not {indices.min()}..{indices.max()}"
            )
        return self.plan.block[indices]


def _progress(root: Path, plan: Plan) -> str:
    parts = (ITEMS, *teacher_names(root))
    return ", ".join(f"{len(committed(root, part))} of {len(plan.blocks)} blocks of {part}" for part in parts)


def _check_manifest(root: Path, marker: Marker, plan: Plan, manifest: Manifest, *, sealed: bool) -> None:
    if manifest.uuid != marker.uuid:
        raise CacheDamaged(
            f"{root} has a manifest of another cache: uuid {manifest.uuid[:80]!r}, its marker says {marker.uuid[:80]!r}"
        )
    if marker.chunk_rows != plan.chunk_rows:
        raise CacheDamaged(f"{root}: chunk_rows is {marker.chunk_rows} in the marker, {plan.chunk_rows} in the plan")
    planned = {block.name for block in plan.blocks}
    for part, records in manifest.blocks.items():
        if sealed and set(records) != planned:
            raise CacheDamaged(f"{root}: the manifest has {len(records)} blocks of {part}, the plan {len(planned)}")
