"""`kdcache inspect CACHE`: what a cache holds, for people and machines. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from kdcache.cache.layout import TeacherIdentity
from kdcache.cache.reader import Cache
from kdcache.cache.summary import CacheSummary, TeacherSummary, describe_cache
from kdcache.core.config import plain


def cache_text(folder: Path, *, as_json: bool) -> str:
    """What `kdcache inspect` prints of a cache.

    Raises:
        CacheError: no cache, or a damaged one.
    """
    summary = describe_cache(Cache.open(folder, allow_incomplete=True))
    if as_json:
        return json.dumps(plain(summary), indent=2, ensure_ascii=False)
    return render(summary)


def render(summary: CacheSummary) -> str:
    """A summary as text; pure."""
    state = "sealed" if summary.sealed else "NOT FINISHED: run the same dump-teacher command again"
    lines = [
        f"cache {summary.path}: format {summary.format}, {state}",
        f"  dataset    {summary.dataset}, task {summary.task}",
        f"  classes    {len(summary.labels)}: {', '.join(summary.labels)}",
        f"  tokenizer  {summary.tokenizer}",
        f"  size       {human_bytes(summary.total_bytes)} in {summary.num_blocks} blocks",
    ]
    for name, split in summary.splits.items():
        lines.append(
            f"  {name:<10} {split.items:,} items, {split.rows:,} rows, {split.labels:,} labels, {split.tokens:,} tokens"
        )
    for name, teacher in summary.teachers.items():
        lines += _teacher(name, teacher)
    return "\n".join(lines)


def _teacher(name: str, teacher: TeacherSummary) -> list[str]:
    identity = teacher.identity
    shared = f" and {human_bytes(teacher.bytes_shared)} once" if teacher.bytes_shared else ""
    scores = "  ".join(f"{key} {value:.4f}" for key, value in identity.score.items())
    also = f", also called {', '.join(identity.aliases)}" if identity.aliases else ""
    lines = [
        f"  teacher {name}: {identity.source}@{identity.weight_digest}{also}, ran in {identity.dtype}",
        f"    {_kept(identity)}; {teacher.bytes_per_row:.1f} bytes a row, {human_bytes(teacher.bytes_on_disk)}{shared}",
        f"    {teacher.forwards:,} forward passes, {teacher.forwards_per_item:g} an item",
    ]
    return [*lines, f"    validation: {scores}"] if scores else lines


def _kept(identity: TeacherIdentity) -> str:
    coded = f"codec {identity.codec}, {identity.compressor}"
    if identity.store == "hidden":
        return f"hidden vectors of {identity.hidden_size}, {coded}"
    if identity.codec == "dense":
        return f"dense, {identity.compressor}"
    mass = f" up to a mass of {identity.top_p:g}" if identity.top_p < 1 else ""
    return f"top {identity.top_k}{mass} with {identity.num_atoms} tail atoms, {coded}"


def human_bytes(count: int) -> str:
    """A size with its unit.

    Example:
        >>> human_bytes(512), human_bytes(3_400_000)
        ('512 B', '3.4 MB')
    """
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"
