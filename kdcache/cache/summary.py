"""What a cache holds, in plain numbers, for `kdcache inspect`. Reads no block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.cache.catalog import table_path
from kdcache.cache.layout import TeacherIdentity
from kdcache.cache.reader import Cache
from kdcache.cache.tables import needs


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """Counts of one split."""

    items: int
    rows: int
    labels: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSummary:
    """One teacher and what its rows cost.

    Attributes:
        identity: checkpoint and scores.
        forwards: item forwards that the dump did.
        forwards_per_item: 1.0 for a dump that ran the teacher once.
        bytes_on_disk: of its blocks.
        bytes_shared: of its codec's tables and its head, once.
        bytes_per_row: of its blocks, everything included.
        signature: split -> signature.
    """

    identity: TeacherIdentity
    forwards: int
    forwards_per_item: float
    bytes_on_disk: int
    bytes_shared: int
    bytes_per_row: float
    signature: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSummary:
    """A cache in plain numbers.

    Attributes:
        path: of the cache.
        sealed: whether the dump has finished.
        format: major.minor.
        uuid: of the cache.
        created_by: program and version.
        dataset: `name@digest`, 16 digits of it.
        task: name of the task.
        tokenizer: `name@digest`, 16 digits of it.
        labels: class names.
        manifest_digest: names the state of the cache.
        num_blocks: of the plan.
        splits: name -> counts.
        teachers: name -> teacher.
        bytes_on_disk: part (`items`, `other`, teachers) -> bytes; `other` is marker, plan and identities.
        total_bytes: sum of these.
    """

    path: str
    sealed: bool
    format: str
    uuid: str
    created_by: str
    dataset: str
    task: str
    tokenizer: str
    labels: tuple[str, ...]
    manifest_digest: str
    num_blocks: int
    splits: Mapping[str, SplitSummary]
    teachers: Mapping[str, TeacherSummary]
    bytes_on_disk: Mapping[str, int]
    total_bytes: int


def describe_cache(cache: Cache) -> CacheSummary:
    """Sum up an open cache from its plan and manifest."""
    marker, plan, manifest = cache.marker, cache.plan, cache.manifest
    splits = {}
    for name in plan.splits:
        chosen = plan.indices(name)
        splits[name] = SplitSummary(
            items=len(chosen),
            rows=int(plan.num_rows[chosen].sum()),
            labels=int(plan.num_labels[chosen].sum()),
            tokens=int(plan.num_tokens[chosen].sum()),
        )
    parts = {part: manifest.part_bytes(part) for part in manifest.blocks}
    parts["other"] = sum(file.size for file in manifest.files.values())
    return CacheSummary(
        path=str(cache.root),
        sealed=cache.sealed,
        format=f"{marker.major}.{marker.minor}",
        uuid=marker.uuid,
        created_by=marker.created_by,
        dataset=f"{marker.dataset_name}@{marker.dataset_digest[:16]}",
        task=marker.task,
        tokenizer=f"{marker.tokenizer_name}@{marker.tokenizer_digest[:16]}",
        labels=marker.labels,
        manifest_digest=cache.manifest_digest,
        num_blocks=len(plan.blocks),
        splits=splits,
        teachers={name: _describe_teacher(cache, name) for name in cache.teachers},
        bytes_on_disk=parts,
        total_bytes=sum(parts.values()),
    )


def _describe_teacher(cache: Cache, name: str) -> TeacherSummary:
    records = cache.manifest.blocks[name].values()
    items, rows = sum(r.num_items for r in records), sum(r.num_rows for r in records)
    identity, forwards = cache.teachers[name], cache.manifest.forwards(name)
    held = cache.manifest.part_bytes(name)
    shared = sum(cache.manifest.files[table_path(name, file)].size for file in needs(identity))
    return TeacherSummary(
        identity=identity,
        forwards=forwards,
        forwards_per_item=forwards / items if items else 0.0,
        bytes_on_disk=held,
        bytes_shared=shared,
        bytes_per_row=held / rows if rows else 0.0,
        signature={split: cache.signature(split, name) for split in cache.plan.splits},
    )
