"""Commit records and manifests: which files exist, with sizes and digests. Values only, no I/O.

A block exists if and only if its commit record exists. A manifest is the sum of the records at one moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcache.cache.jsonio import count, mapping, need, text, to_json
from kdcache.cache.store import FileRecord, check_relative
from kdcache.core.errors import CacheDamaged

ITEMS = "items"
"""The part of a cache that holds items; every other part is a teacher's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """One committed block of one part.

    Attributes:
        part: `items`, or the name of a teacher.
        block: the block's name, e.g. `00007`.
        folder: where its files are, relative to the cache.
        files: path relative to `folder` -> record.
        num_items: items of the block.
        num_rows: rows of the block, without padding.
        forwards: item forwards of the teacher that were done for it; 0 for items.
    """

    part: str
    block: str
    folder: str
    files: Mapping[str, FileRecord]
    num_items: int
    num_rows: int
    forwards: int

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "part": self.part,
            "block": self.block,
            "folder": self.folder,
            "files": files_to_tree(self.files),
            "num_items": self.num_items,
            "num_rows": self.num_rows,
            "forwards": self.forwards,
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], *, where: str) -> CommitRecord:
        """From JSON values that are not trusted; unknown keys are tolerated.

        Raises:
            CacheDamaged: a key is missing or has another type.
            CacheFormatError: a path that leaves the cache.
        """
        return cls(
            part=text(tree, "part", where=where),
            block=text(tree, "block", where=where),
            folder=check_relative(text(tree, "folder", where=where)),
            files=files_from_tree(need(tree, "files", where=where), where=where),
            num_items=count(tree, "num_items", where=where),
            num_rows=count(tree, "num_rows", where=where),
            forwards=count(tree, "forwards", where=where),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A sealed cache: every file with size and digest, and what they add up to.

    Attributes:
        number: from 1; a later teacher gives a new manifest.
        uuid: of the cache.
        files: files outside blocks (marker, plan, teachers) -> record.
        blocks: part -> block name -> commit record.
        totals: `items`, `rows`, `labels`, `tokens`, `bytes`.
        signature: of the whole cache, all splits and teachers in one line.
        signatures: `<split>/<teacher>` -> signature.
        digest: sha256 of all of the above; names the state of a cache.
    """

    number: int
    uuid: str
    files: Mapping[str, FileRecord]
    blocks: Mapping[str, Mapping[str, CommitRecord]]
    totals: Mapping[str, int]
    signature: str
    signatures: Mapping[str, str]

    @property
    def digest(self) -> str:
        """sha256 of the manifest's content without its number, hex."""
        tree = self._content()
        del tree["number"]
        return tree_digest(tree)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers that are complete, sorted."""
        return tuple(sorted(part for part in self.blocks if part != ITEMS))

    def forwards(self, teacher: str) -> int:
        """Item forwards of one teacher over all blocks."""
        return sum(record.forwards for record in self.blocks[teacher].values())

    def part_bytes(self, part: str) -> int:
        """Bytes on disk of the blocks of one part."""
        return sum(file.size for record in self.blocks[part].values() for file in record.files.values())

    def _content(self) -> dict[str, Any]:
        return {
            "format": "kdcache-manifest",
            "number": self.number,
            "uuid": self.uuid,
            "files": files_to_tree(self.files),
            "blocks": {
                part: {name: record.to_tree() for name, record in records.items()}
                for part, records in self.blocks.items()
            },
            "totals": dict(self.totals),
            "signature": self.signature,
            "signatures": dict(self.signatures),
        }

    def to_json(self) -> bytes:
        """The bytes of `manifests/<number>.json`."""
        return to_json({**self._content(), "digest": self.digest})

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], *, where: str) -> Manifest:
        """From JSON values that are not trusted.

        Raises:
            CacheDamaged: a key is missing or has another type, or the digest differs from the content's.
        """
        if tree.get("format") != "kdcache-manifest":
            raise CacheDamaged(f"{where} is not a kdcache manifest")
        blocks = {
            part: {
                name: CommitRecord.from_tree(mapping(record, where=where), where=where)
                for name, record in mapping(records, where=where).items()
            }
            for part, records in mapping(need(tree, "blocks", where=where), where=where).items()
        }
        totals = mapping(need(tree, "totals", where=where), where=where)
        signatures = mapping(need(tree, "signatures", where=where), where=where)
        manifest = cls(
            number=count(tree, "number", where=where),
            uuid=text(tree, "uuid", where=where),
            files=files_from_tree(need(tree, "files", where=where), where=where),
            blocks=blocks,
            totals={name: count(totals, name, where=where) for name in totals},
            signature=text(tree, "signature", where=where),
            signatures={name: text(signatures, name, where=where) for name in signatures},
        )
        if ITEMS not in blocks:
            raise CacheDamaged(f"{where} lists no items")
        if tree.get("digest") != manifest.digest:
            raise CacheDamaged(f"{where} says digest {tree.get('digest')!s:.80}, its content has {manifest.digest}")
        return manifest


def record_to_json(record: CommitRecord) -> bytes:
    """The bytes of a commit record, with its own digest."""
    tree = record.to_tree()
    return to_json({**tree, "digest": tree_digest(tree)})


def record_from_tree(tree: Mapping[str, Any], *, where: str) -> CommitRecord:
    """A commit record with its digest checked.

    Raises:
        CacheDamaged: it is malformed, or its digest differs from its content's.
    """
    record = CommitRecord.from_tree(tree, where=where)
    if tree.get("digest") != tree_digest(record.to_tree()):
        raise CacheDamaged(f"{where} does not have the digest it says; remove it and run the same dump again")
    return record


def tree_digest(tree: Mapping[str, Any]) -> str:
    """sha256 of canonical JSON, hex."""
    return hashlib.sha256(to_json(tree)).hexdigest()


def files_to_tree(files: Mapping[str, FileRecord]) -> dict[str, Any]:
    """File records as JSON values."""
    return {name: {"size": f.size, "sha256": f.sha256, "xxh3": f.xxh3} for name, f in files.items()}


def files_from_tree(tree: Any, *, where: str) -> dict[str, FileRecord]:
    """File records from JSON values that are not trusted."""
    files = {}
    for name, value in mapping(tree, where=where).items():
        entry = mapping(value, where=where)
        files[check_relative(name)] = FileRecord(
            size=count(entry, "size", where=where),
            sha256=text(entry, "sha256", where=where),
            xxh3=text(entry, "xxh3", where=where),
        )
    return files
