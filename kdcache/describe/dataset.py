"""`kdcache inspect DATASET`: a dataset before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.core.config import plain
from kdcache.data.read import read_split
from kdcache.data.spec import DatasetSpec, load_spec
from kdcache.data.stats import DatasetSummary, SplitSummary, describe_dataset
from kdcache.tasks import make
from kdcache.training.models import ModelSource, load_tokenizer
from kdcache.training.run import data_root_or_environment


def dataset_text(path: Path, *, tokenizer: str | None, data_root: Path | None, as_json: bool) -> str:
    """What `kdcache inspect` prints of a dataset.

    Args:
        path: its YAML.
        tokenizer: counts tokens; null leaves lengths out.
        data_root: where relative data paths start; default KDCACHE_DATA.
        as_json: for machines.

    Raises:
        KDCacheError: the dataset cannot be read as its YAML says, or no such tokenizer.
    """
    spec = load_spec(path)
    root = data_root_or_environment(data_root)
    examples = {split: read_split(spec, split, data_root=root) for split in spec.splits}
    lengths = None
    if tokenizer is not None:
        loaded = load_tokenizer(ModelSource(path=tokenizer))
        task = make(spec.task, spec.task_settings())
        lengths = {split: task.lengths(part, loaded) for split, part in examples.items()}
    summary = describe_dataset(spec, examples, lengths)
    return json.dumps(plain(summary), indent=2, ensure_ascii=False) if as_json else render(spec, summary)


def render(spec: DatasetSpec, summary: DatasetSummary) -> str:
    """A summary as text; pure."""
    lines = [f"dataset {summary.name}: {summary.task}, metric {summary.metric}, max_length {summary.max_length}"]
    for name, split in summary.splits.items():
        lines += _split(name, split)
    lines.append(f"  first of {next(iter(summary.splits), 'no split')}:")
    for example in summary.examples:
        lines.append(f"    {example.uid}: {_fields(example.fields)}")
    if all(split.truncated is None for split in summary.splits.values()):
        lines.append("  token lengths: give --tokenizer (a folder, package:NAME/folder or Hub id)")
    return "\n".join(lines)


def _split(name: str, split: SplitSummary) -> list[str]:
    total = max(1, split.num_labels)
    shares = "  ".join(f"{label} {count:,} ({100 * count / total:.1f} %)" for label, count in split.labels.items())
    lines = [f"  {name:<10} {split.num_examples:,} examples{': ' if shares else ''}{shares}"]
    notes = [
        f"{split.num_unlabelled:,} without a label" if split.num_unlabelled else "",
        f"{split.num_duplicates:,} duplicate texts" if split.num_duplicates else "",
        *(f"{count:,} texts also in {other}" for other, count in split.num_seen.items()),
    ]
    if any(notes):
        lines.append(f"             {', '.join(note for note in notes if note)}")
    if split.truncated is not None:
        shown = "  ".join(f"p{p} {value:.0f}" for p, value in split.tokens.items())
        lines.append(f"             tokens {shown}; {100 * split.truncated:.1f} % longer than max_length")
    return lines


def _fields(fields: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={str(value)[:70]!r}" for name, value in fields.items())
