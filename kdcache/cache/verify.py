"""`kdcache verify`: every byte of a cache against what was committed; with `deep` every row against what a row is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.cache.catalog import all_files
from kdcache.cache.check import alarm, head_agrees
from kdcache.cache.codec import unpack
from kdcache.cache.invariants import invariants, mass_slack
from kdcache.cache.layout import Block
from kdcache.cache.plan import tokens_digest
from kdcache.cache.reader import Cache
from kdcache.cache.records import ITEMS
from kdcache.cache.store import read_bytes
from kdcache.core.errors import CacheDamaged, CacheError
from kdcache.core.types import HiddenRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is wrong with a cache.

    Attributes:
        part: `items`, a teacher, or `cache` for what belongs to no block.
        block: name of the block, or empty.
        message: what is wrong, one line.
    """

    part: str
    block: str
    message: str


def verify(root: Path, *, deep: bool = False) -> tuple[Damage, ...]:
    """Check a sealed cache; reads it whole.

    Without `deep`: sha256 of every file. With it also: every block decoded, token digests, ids < V and unique, finite
    values, falling order, mass within 1e-2 of 1 (codec compact: 2e-2), classes as the items say, the alignment alarm,
    and for store `hidden` the logsumexp of some rows through the head.

    Args:
        root: the cache.
        deep: decode everything.

    Returns:
        What is wrong, at most one entry a file and one a block; empty for a sound cache.

    Raises:
        CacheFormatError: not a cache, or one that this version cannot read.
        CacheDamaged: so damaged that it cannot be opened (marker, plan, manifest, a file missing or of another size).
        CacheIncomplete: the dump has not finished.
    """
    cache = Cache.open(root)
    damages = list(_check_files(cache))
    if deep:
        for block in cache.plan.blocks:
            damages += _check_block(cache, block)
    return tuple(damages)


def _check_files(cache: Cache) -> Iterator[Damage]:
    parts = {record.folder: record for records in cache.manifest.blocks.values() for record in records.values()}
    for name, expected in all_files(cache.manifest.files, cache.manifest.blocks):
        content = read_bytes(cache.root, name, limit=expected.size)
        if hashlib.sha256(content).hexdigest() != expected.sha256:
            record = next((parts[folder] for folder in _parents(name) if folder in parts), None)
            yield Damage(
                part=record.part if record else "cache",
                block=record.block if record else "",
                message=f"{name} does not have the sha256 it was committed with",
            )


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _check_block(cache: Cache, block: Block) -> Iterator[Damage]:
    try:
        items = cache.items(block.items)
    except CacheError as error:
        yield Damage(part=ITEMS, block=block.name, message=str(error))
        return  # without its items nothing can be said of the rows
    for i, item in zip(block.items.tolist(), items, strict=True):
        if tokens_digest(item) != int(cache.plan.tokens_xxh3[i]):
            message = f"item {item.uid!r} does not have the tokens of the plan"
            yield Damage(part=ITEMS, block=block.name, message=message)
            break
    classes_R = np.concatenate([item.classes_R for item in items])
    labels_R = np.concatenate([item.labels_R for item in items])
    for name in cache.teachers:
        what = f"block {block.name} of teacher {name}"
        try:
            identity, head, packed = cache.teacher(name), cache.head(name), cache.packed(name, block.items)
            rows = unpack(packed)
            if (different := np.flatnonzero(rows.num_classes != classes_R)).size:
                r = int(different[0])
                raise CacheDamaged(f"{what}: row {r} has {rows.num_classes[r]} classes, its item says {classes_R[r]}")
            invariants(rows, mass_slack=mass_slack(identity.row_format), what=what)
            alarm(packed, labels_R, identity=identity, head=head, what=what)
            if isinstance(rows, HiddenRows) and head is not None:
                head_agrees(rows, head, identity=identity, what=what)
        except CacheError as error:
            yield Damage(part=name, block=block.name, message=str(error))
