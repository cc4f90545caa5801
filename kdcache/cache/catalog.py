"""Where things lie in a cache, and reading what is small: marker, plan, teachers, commit records, manifests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray

from kdcache.cache.layout import MARKER, PLAN, Marker, Plan, TeacherIdentity, cache_signature, signature
from kdcache.cache.plan import plan_from_parquet
from kdcache.cache.records import ITEMS, CommitRecord, Manifest, record_from_tree
from kdcache.cache.store import MANIFEST_BYTES, FileRecord, check_name, file_size, read_bytes, read_json
from kdcache.cache.tables import from_bytes, needs
from kdcache.core.errors import CacheDamaged, CacheError, CacheFormatError

AGAIN = "run the same command again: it continues"
PLAN_BYTES = 1 << 31
LARGEST_FILE = 1 << 36
"""Bytes of the largest file outside blocks, a teacher's head."""
_MANIFEST = re.compile(r"([0-9]{6,9})\.json")
_COMMIT = re.compile(r"([0-9]{5,9})\.json")


def part_folder(part: str) -> str:
    """Folder of a part's blocks, relative to the cache."""
    return ITEMS if part == ITEMS else f"teachers/{part}"


def commit_path(part: str, block: str) -> str:
    """Commit record of a block, relative to the cache."""
    return f"commits/{part}/{block}.json"


def teacher_path(name: str) -> str:
    """Identity of a teacher, relative to the cache."""
    return f"teachers/{name}/teacher.json"


def table_path(name: str, file: str) -> str:
    """What the rows of a teacher share (`tables.TABLES`, `tables.HEAD`), relative to the cache."""
    return f"teachers/{name}/{file}"


def manifest_path(number: int) -> str:
    """A manifest, relative to the cache."""
    return f"manifests/{number:06d}.json"


def read_marker(root: Path) -> Marker:
    """The marker of a cache.

    Raises:
        CacheFormatError: not a cache, or one that this version cannot read.
    """
    if not root.is_dir() or not (root / MARKER).exists():
        raise CacheFormatError(f"{root} is not a kdcache cache: it has no {MARKER}; give the folder a dump wrote")
    return Marker.from_tree(read_json(root, MARKER), where=str(root / MARKER))


def read_plan(root: Path, *, expected: FileRecord | None = None) -> Plan:
    """The plan of a cache; `expected` is the manifest's record of it."""
    content = read_bytes(root, PLAN, limit=PLAN_BYTES)
    if expected is not None and FileRecord.of(content) != expected:
        raise CacheDamaged(f"{root / PLAN} is not the plan that was sealed; restore it, or dump into a new folder")
    return plan_from_parquet(content, where=str(root / PLAN))


def read_teacher(root: Path, name: str) -> TeacherIdentity:
    """Identity of a teacher, from its folder."""
    where = str(root / teacher_path(check_name(name)))
    identity = TeacherIdentity.from_tree(read_json(root, teacher_path(name)), where=where)
    if identity.name != name:
        raise CacheDamaged(f"{where} is the identity of {identity.name!r}")
    return identity


def read_tables(
    root: Path, identity: TeacherIdentity, file: str, *, expected: FileRecord | None = None
) -> dict[str, NDArray[Any]]:
    """What the rows of a teacher share; `expected` is the manifest's record of the file.

    Raises:
        CacheDamaged: the file is missing, not the one that was sealed, or does not fit the teacher.
    """
    name = table_path(identity.name, file)
    content = read_bytes(root, name, limit=LARGEST_FILE if expected is None else expected.size)
    if expected is not None and xxhash.xxh3_64_hexdigest(content) != expected.xxh3:
        raise CacheDamaged(f"{root / name} is not the file that was sealed; restore it, or dump this teacher again")
    try:
        return from_bytes(content, identity, file)
    except CacheError as error:
        raise CacheDamaged(f"{root}: {error}") from None


def teacher_names(root: Path) -> tuple[str, ...]:
    """Teachers that have been added, complete or not, sorted."""
    folder = root / "teachers"
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if (path / "teacher.json").exists()))


def committed(root: Path, part: str) -> set[str]:
    """Names of the blocks of a part that have a commit record."""
    folder = root / "commits" / part
    if not folder.is_dir():
        return set()
    return {match[1] for path in folder.iterdir() if (match := _COMMIT.fullmatch(path.name))}


def read_commits(root: Path, part: str, plan: Plan) -> dict[str, CommitRecord]:
    """Commit records of a part in the order of the plan.

    Raises:
        CacheDamaged: a record is malformed, of another block, or not in the plan.
    """
    there = committed(root, part)
    records = {}
    for block in plan.blocks:
        if block.name in there:
            name = commit_path(part, block.name)
            record = record_from_tree(read_json(root, name), where=str(root / name))
            check_record(record, part=part, block=block.name, where=str(root / name))
            records[block.name] = record
    if unplanned := sorted(there - set(records)):
        raise CacheDamaged(f"{root} has a commit of {part} for block {unplanned[0]}, which is not in its plan")
    return records


def check_record(record: CommitRecord, *, part: str, block: str, where: str) -> None:
    """Refuse a record that is filed under another name, or whose folder is elsewhere.

    Raises:
        CacheDamaged: it is.
    """
    if (record.part, record.block) != (part, block):
        raise CacheDamaged(f"{where} is the record of block {record.block[:40]!r} of {record.part[:40]!r}")
    folder, _, name = record.folder.rpartition("/")
    if folder != part_folder(part) or name.partition(".")[0] != block:
        raise CacheDamaged(
            f"{where} points to the folder {record.folder!r}, which is not one of block {block} of {part}"
        )


def newest_manifest(root: Path) -> Manifest | None:
    """The manifest with the largest number, or None. A damaged one is an error: an older one would be other data.

    Raises:
        CacheDamaged: it cannot be read or does not have the digest it says.
    """
    folder = root / "manifests"
    if not folder.is_dir():
        return None
    numbers = [int(match[1]) for path in folder.iterdir() if (match := _MANIFEST.fullmatch(path.name))]
    if not numbers:
        return None
    name = manifest_path(max(numbers))
    where = str(root / name)
    manifest = Manifest.from_tree(read_json(root, name, limit=MANIFEST_BYTES), where=where)
    for part, records in manifest.blocks.items():
        check_name(part)
        for block, record in records.items():
            check_record(record, part=part, block=block, where=where)
    return manifest


def check_sizes(root: Path, files: Iterator[tuple[str, FileRecord]]) -> None:
    """Every file is there with its exact size.

    Raises:
        CacheDamaged: the first that is missing, cut or grown.
    """
    folders: set[str] = set()
    for name, record in files:
        size = file_size(root, name, folders=folders)
        if size != record.size:
            raise CacheDamaged(
                f"{root / name} has {size:,} bytes instead of {record.size:,}; restore it, or dump this block again"
            )


def all_files(
    files: Mapping[str, FileRecord], blocks: Mapping[str, Mapping[str, CommitRecord]]
) -> Iterator[tuple[str, FileRecord]]:
    """Every file of a cache but commit records and manifests: relative path and record."""
    yield from files.items()
    for records in blocks.values():
        for record in records.values():
            for name, file in record.files.items():
                yield f"{record.folder}/{name}", file


def build_manifest(root: Path, marker: Marker, plan: Plan, *, teachers: Sequence[str], number: int) -> Manifest:
    """The manifest of what is committed now: items and these teachers. Reads, but does not publish."""
    blocks = {part: read_commits(root, part, plan) for part in (ITEMS, *sorted(teachers))}
    identities = [read_teacher(root, name) for name in sorted(teachers)]
    names = [MARKER, PLAN]
    for identity in identities:
        names += [teacher_path(identity.name), *(table_path(identity.name, file) for file in needs(identity))]
    files = {name: FileRecord.of(read_bytes(root, name, limit=LARGEST_FILE)) for name in names}
    totals = {
        "items": plan.num_items,
        "rows": int(plan.num_rows.sum()),
        "labels": int(plan.num_labels.sum()),
        "tokens": int(plan.num_tokens.sum()),
        "bytes": sum(record.size for _, record in all_files(files, blocks)),
    }
    signatures = {
        f"{split}/{identity.name}": signature(marker, identity, split=split, num_items=len(plan.indices(split)))
        for split in plan.splits
        for identity in identities
    }
    return Manifest(
        number=number,
        uuid=marker.uuid,
        files=files,
        blocks=blocks,
        totals=totals,
        signature=cache_signature(marker, identities, num_items=plan.num_items),
        signatures=signatures,
    )
