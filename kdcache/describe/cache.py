"""`kdcache inspect CACHE`: what a cache holds, for people and machines. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdcache.cache.reader import Cache
from kdcache.cache.summary import CacheSummary, TeacherSummary, describe_cache
from kdcache.core.config import plain
from kdcache.core.row_format import RowFormat


def cache_text(folder: Path, *, as_json: bool) -> str:
    """What `kdcache inspect` prints of a cache.

    Raises:
        CacheError: no cache, or a damaged one.
    """
    summary = describe_cache(Cache.open(folder, allow_incomplete=True))
    if as_json:
        return json.dumps(tree(summary), indent=2, ensure_ascii=False)
    return render(summary)


def tree(summary: CacheSummary) -> dict[str, Any]:
    """A summary as JSON values; a teacher's identity as in its `teacher.json`."""
    found: dict[str, Any] = plain(summary)
    for name, teacher in summary.teachers.items():
        found["teachers"][name]["identity"] = plain(teacher.identity.to_tree())
    return found


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
    size = f"{teacher.bytes_per_row:.1f} bytes a row, {human_bytes(teacher.bytes_on_disk)}{shared}"
    lines = [
        f"  teacher {name}: {identity.source}@{identity.weight_digest}{also}, ran in {identity.dtype}",
        f"    {_kept(identity.row_format)}; {size}",
        f"    {teacher.forwards:,} forward passes, {teacher.forwards_per_item:g} an item",
    ]
    return [*lines, f"    validation: {scores}"] if scores else lines


def _kept(row_format: RowFormat) -> str:
    coded = f"codec {row_format.codec}, {row_format.compressor}"
    if row_format.store == "hidden":
        return f"hidden vectors of {row_format.hidden_size}, {coded}"
    if row_format.is_dense:
        return f"dense, {row_format.compressor}"
    mass = f" up to a mass of {row_format.top_p:g}" if row_format.top_p < 1 else ""
    return f"top {row_format.top_k}{mass} with {row_format.num_atoms} tail atoms, {coded}"


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
