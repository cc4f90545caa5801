"""Writing a cache: many writers, any order, any number of restarts.

A block is written into a folder that nobody else knows, made durable, and then published by its commit record. Whoever
publishes first wins; the loser removes its folder. A crash leaves a folder without a record, which nothing reads.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdcache.cache.admit import check_rows
from kdcache.cache.catalog import (
    AGAIN,
    all_files,
    build_manifest,
    check_sizes,
    commit_path,
    committed,
    manifest_path,
    newest_manifest,
    part_folder,
    read_marker,
    read_plan,
    read_tables,
    read_teacher,
    table_path,
    teacher_names,
    teacher_path,
)
from kdcache.cache.codec import codec_of, encode
from kdcache.cache.codecs.base import Arrays
from kdcache.cache.items import FILE, items_to_parquet
from kdcache.cache.layout import MARKER, PLAN, WRITER_FEATURES, Block, Marker, Plan, TeacherIdentity
from kdcache.cache.plan import plan_to_parquet, tokens_digest
from kdcache.cache.records import ITEMS, CommitRecord, Manifest, record_to_json
from kdcache.cache.shards import to_files
from kdcache.cache.store import (
    is_temporary,
    make_folder,
    publish_exclusive,
    remove_folder,
    write_folder,
)
from kdcache.cache.tables import HEAD, NO_TABLES, TABLES, check_given, needs, to_bytes
from kdcache.core.errors import CacheError, CacheFormatError, CacheIncomplete, CacheMismatch
from kdcache.core.types import Item, Rows

ItemsOf = Callable[[Block], Sequence[Item]]


@dataclass(slots=True, kw_only=True)
class CacheWriter:
    """One writer of a cache; open it with `CacheWriter.open`. Several may write one cache at once.

    Attributes:
        root: the cache.
        marker: as on disk.
        plan: as on disk.
        items: gives the items of a block, to check rows against.
        teachers: identities added by this writer.
    """

    root: Path
    marker: Marker
    plan: Plan
    items: ItemsOf
    teachers: dict[str, TeacherIdentity] = field(default_factory=dict)
    _beside: dict[str, Mapping[str, Arrays]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, marker: Marker, plan: Plan, *, items: ItemsOf) -> CacheWriter:
        """Create a cache, or continue one.

        Args:
            root: its folder; new, empty, or a cache of the same marker and plan.
            marker: what the cache is of; uuid and version of one that exists are kept.
            plan: its blocks.
            items: the items of a block, in the plan's order.

        Raises:
            CacheMismatch: a cache of other data, another tokenizer or another plan.
            CacheFormatError: the folder holds something else, or a cache that this version cannot write.
            CacheError: the disk refuses.
        """
        root = Path(root)
        if marker.chunk_rows != plan.chunk_rows:
            raise CacheError(f"chunk_rows is {marker.chunk_rows} in the marker and {plan.chunk_rows} in the plan")
        if root.exists() and not (root / MARKER).exists():
            _refuse_foreign(root)
        make_folder(root)
        publish_exclusive(root / MARKER, marker.to_json())
        there = read_marker(root)
        for name, (old, new) in there.differences(marker).items():
            raise CacheMismatch(
                f"{root} is another cache: its {name} is {old!r}, this dump's is {new!r}; dump into another folder"
            )
        if unknown := sorted(set(there.writer_features) - WRITER_FEATURES):
            raise CacheFormatError(f"{root} is read-only here: it needs the writer feature {unknown[0]!r}")
        publish_exclusive(root / PLAN, plan_to_parquet(plan))
        planned = read_plan(root)
        if difference := planned.difference(plan):
            raise CacheMismatch(
                f"{root} has another plan than this dump: {difference}; dump into another folder, or with the settings "
                f"that the cache was begun with"
            )
        for folder in (ITEMS, "teachers", f"commits/{ITEMS}", "manifests"):
            make_folder(root / folder)
        return cls(root=root, marker=there, plan=planned, items=items)

    def pending_items(self) -> list[Block]:
        """Blocks whose items are not committed yet."""
        return self._missing(ITEMS)

    def write_items(self, block: Block, items: Sequence[Item]) -> None:
        """Write and commit the items of a block; nothing happens if another writer was first.

        Raises:
            CacheMismatch: they are not the items of the plan.
            CacheError: the disk is full or refuses.
        """
        self._check_items(block, items)
        self._commit(ITEMS, block, {FILE: items_to_parquet(items)}, forwards=0)

    def add_teacher(self, identity: TeacherIdentity, *, shared: Arrays = NO_TABLES, head: Arrays = NO_TABLES) -> None:
        """Say whose rows will follow. The same teacher may be added again; its scores stay as first written.

        Args:
            identity: of the teacher.
            shared: the codec's tables (`tables`); those that a writer published first are used, whatever these are.
            head: of store `hidden`; must be the one on disk, if there is one.

        Raises:
            CacheMismatch: the cache has another teacher under this name, or another head.
            CacheError: the codec's tables, or the head, are neither given nor there, or do not fit the teacher.
        """
        name = identity.name
        given = {TABLES: shared, HEAD: head}
        for file, arrays in given.items():
            if arrays or not (self.root / table_path(name, file)).exists():
                check_given(arrays, identity, file)
        for other in (self.teachers.get(n) or read_teacher(self.root, n) for n in teacher_names(self.root)):
            if other.name != name and (taken := sorted(set(other.names) & set(identity.names))):
                raise CacheMismatch(
                    f"{self.root}: the name {taken[0]} of teacher {name} already belongs to teacher {other.name} with "
                    f"weights {other.weight_digest!r}, this one's are {identity.weight_digest!r}; choose another name"
                )
        for folder in (part_folder(name), f"commits/{name}"):
            make_folder(self.root / folder)
        if not publish_exclusive(self.root / teacher_path(name), identity.to_json()):
            there = read_teacher(self.root, name)
            for what, (old, new) in there.differences(identity).items():
                raise CacheMismatch(
                    f"{self.root} already has a teacher {name} whose {what} is {old!r}, this one's is {new!r}; "
                    f"dump it under another name, or into another folder"
                )
            identity = there
        self._beside[name] = {file: self._publish(identity, file, given[file]) for file in needs(identity)}
        self.teachers[name] = identity

    def has_tables(self, name: str) -> bool:
        """Whether a writer has published the tables of this teacher's codec already."""
        return (self.root / table_path(name, TABLES)).exists()

    def _publish(self, identity: TeacherIdentity, file: str, given: Arrays) -> Arrays:
        """Publish what a teacher's rows share, unless it is there; returns what is there."""
        path = self.root / table_path(identity.name, file)
        content = to_bytes(given)
        if given and not publish_exclusive(path, content) and file == HEAD and path.read_bytes() != content:
            raise CacheMismatch(
                f"{path} is another head than this dump's; dump the teacher under another name, or into another folder"
            )
        return read_tables(self.root, identity, file)

    def pending(self, name: str) -> list[Block]:
        """Blocks whose rows of this teacher are not committed yet; rank r of W takes `pending[r::W]`.

        Raises:
            CacheError: this writer has not added such a teacher.
        """
        self._identity(name)
        return self._missing(name)

    def write_rows(self, name: str, block: Block, rows: Rows, *, forwards: int | None = None) -> None:
        """Check, encode, write and commit a teacher's rows over a block; nothing happens if another was first.

        Args:
            name: of a teacher that was added.
            block: of the plan.
            rows: of the block's items, in order.
            forwards: item forwards done for them; by default one an item.

        Raises:
            CacheMismatch: rows and items do not belong together: counts, classes, or the alignment alarm.
            CacheError: rows that are no distributions or do not fit the teacher's store; or the disk refuses.
        """
        identity = self._identity(name)
        row_format = identity.row_format
        what = f"block {block.name} of teacher {name}"
        items = self.items(block)
        self._check_items(block, items)
        check_rows(rows, items, identity, head=self._beside[name].get(HEAD, NO_TABLES), what=what)
        first_row = self.plan.first_row[block.start : block.stop]
        shared = self._beside[name].get(TABLES, NO_TABLES)
        arrays = encode(rows, row_format, shared, num_rows=block.num_rows, first_row=first_row)
        files = to_files(
            arrays,
            chunk_rows=self.plan.chunk_rows,
            attributes={"teacher": name, "block": block.name},
            compressor=row_format.compressor,
            filters=codec_of(row_format).filters(row_format.compressor),
        )
        self._commit(name, block, files, forwards=block.num_items if forwards is None else forwards)

    def seal(self) -> Manifest:
        """Publish the manifest of all complete parts: items, this writer's teachers, and earlier complete ones.

        Sealing what is sealed already changes nothing and returns the manifest that is there.

        Raises:
            CacheIncomplete: items or a teacher of this writer lack blocks.
            CacheDamaged: a committed file is missing or has another size.
        """
        for part in (ITEMS, *self.teachers):
            if missing := self._missing(part):
                raise CacheIncomplete(
                    f"{self.root} lacks {len(missing)} of {len(self.plan.blocks)} blocks of {part}, "
                    f"the first {missing[0].name}; {AGAIN}"
                )
        names = [name for name in teacher_names(self.root) if not self._missing(name)]
        while True:
            newest = newest_manifest(self.root)
            manifest = build_manifest(
                self.root, self.marker, self.plan, teachers=names, number=newest.number + 1 if newest else 1
            )
            if newest is not None and newest.digest == manifest.digest:
                return newest
            check_sizes(self.root, all_files(manifest.files, manifest.blocks))
            if publish_exclusive(self.root / manifest_path(manifest.number), manifest.to_json()):
                return manifest

    def _missing(self, part: str) -> list[Block]:
        there = committed(self.root, part)
        return [block for block in self.plan.blocks if block.name not in there]

    def _identity(self, name: str) -> TeacherIdentity:
        if name not in self.teachers:
            raise CacheError(
                f"teacher {name!r} was not added to this dump; added: {', '.join(self.teachers) or 'none'}"
            )
        return self.teachers[name]

    def _check_items(self, block: Block, items: Sequence[Item]) -> None:
        if len(items) != block.num_items:
            raise CacheMismatch(f"block {block.name} has {block.num_items} items in the plan, not {len(items)}")
        for i, item in zip(range(block.start, block.stop), items, strict=True):
            for name, planned, found in (
                ("uid", self.plan.uid[i], item.uid),
                ("rows", int(self.plan.num_rows[i]), item.num_rows),
                ("token digest", f"{int(self.plan.tokens_xxh3[i]):016x}", f"{tokens_digest(item):016x}"),
            ):
                if planned != found:
                    raise CacheMismatch(
                        f"item {item.uid!r} is not the plan's: {name} {found!r}, planned {planned!r}; "
                        f"the data or the tokenizer changed since the dump began"
                    )

    def _commit(self, part: str, block: Block, files: Mapping[str, bytes], *, forwards: int) -> None:
        path = self.root / commit_path(part, block.name)
        if path.exists():
            return
        folder = f"{part_folder(part)}/{block.name}.{secrets.token_hex(8)}"
        record = CommitRecord(
            part=part,
            block=block.name,
            folder=folder,
            files=write_folder(self.root / folder, files),
            num_items=block.num_items,
            num_rows=int(self.plan.num_rows[block.start : block.stop].sum()),
            forwards=forwards,
        )
        published = False
        try:
            published = publish_exclusive(path, record_to_json(record))
        finally:
            # If an error came after the record got its name, the block exists: its folder must stay.
            if not published and not _points_to(path, folder):
                remove_folder(self.root / folder)


def _points_to(path: Path, folder: str) -> bool:
    return path.exists() and f'"{folder}"' in path.read_text(encoding="utf-8")


def _refuse_foreign(root: Path) -> None:
    """A folder without a marker must be empty, but for what an interrupted creation leaves."""
    if not root.is_dir() or any(not is_temporary(path.name) for path in root.iterdir()):
        raise CacheFormatError(f"{root} exists and is not a kdcache cache; dump into a new or empty folder")
