"""`kdcache inspect DATASET`: a dataset before anything is trained on it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.core.config import plain
from kdcache.data.read import read_split
from kdcache.data.spec import load_spec
from kdcache.data.stats import DatasetSummary, SplitSummary, describe_dataset
from kdcache.metrics.entities import OUTSIDE
from kdcache.tasks import make
from kdcache.training.models import ModelSource, load_tokenizer
from kdcache.training.run import data_root_or_environment

WIDTH = 120
"""Columns of a line."""
INDENT = " " * 13
SPACE = "\u00a0"
"""Where a line is not broken."""


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
    lengths, task = None, make(spec.task, spec.task_settings())
    if tokenizer is not None:
        loaded = load_tokenizer(ModelSource(path=tokenizer))
        lengths = {split: task.lengths(part, loaded) for split, part in examples.items()}
    summary = describe_dataset(spec, examples, lengths)
    if as_json:
        return json.dumps(plain(summary), indent=2, ensure_ascii=False)
    return render(summary, over_length=task.over_length)


def render(summary: DatasetSummary, *, over_length: str) -> str:
    """A summary as text; pure.

    Args:
        summary: of the dataset.
        over_length: what becomes of examples over `max_length`.
    """
    lines = [f"dataset {summary.name}: {summary.task}, metric {summary.metric}, max_length {summary.max_length}"]
    for name, split in summary.splits.items():
        lines += _split(name, split, over_length)
    lines.append(f"  first of {next(iter(summary.splits), 'no split')}:")
    for example in summary.examples:
        lines.append(f"    {example.uid}")
        lines += [f"      {name:<9} {_short(value)}" for name, value in example.fields.items()]
    if all(split.truncated is None for split in summary.splits.values()):
        lines.append("  token lengths: give --tokenizer (a folder, package:NAME/folder or Hub id)")
    return "\n".join(lines)


def _split(name: str, split: SplitSummary, over_length: str) -> list[str]:
    lines = [f"  {name:<10} {split.num_examples:,} examples"]
    notes = [
        f"{split.num_unlabelled:,} without a label" if split.num_unlabelled else "",
        f"{split.num_duplicates:,} duplicate texts" if split.num_duplicates else "",
        *(f"{count:,} texts also in {other}" for other, count in split.num_seen.items()),
    ]
    parts = [_labels(split), _counts("languages", split.languages), ", ".join(note for note in notes if note)]
    if split.truncated is not None:
        shown = "  ".join(f"p{p}{SPACE}{value:,.0f}" for p, value in split.tokens.items())
        parts.append(f"tokens  {shown}; {100 * split.truncated:.1f} % longer than max_length ({over_length})")
    for part in filter(None, parts):
        wrapped = textwrap.wrap(part, WIDTH, initial_indent=INDENT, subsequent_indent=f"{INDENT}  ")
        lines += [line.replace(SPACE, " ") for line in wrapped]
    return lines


def _labels(split: SplitSummary) -> str:
    """Classes with their shares; of tagged words, entities by type."""
    if not split.num_labels:
        return ""
    if OUTSIDE not in split.labels:
        return _counts("labels", split.labels)
    entities = {label.partition("-")[2]: count for label, count in split.labels.items() if label.startswith("B-")}
    inside = 100 * (1 - split.labels[OUTSIDE] / split.num_labels)
    return f"{split.num_labels:,} words, {inside:.1f} % in entities; {_counts('entities', entities)}"


def _counts(what: str, counts: Mapping[str, int]) -> str:
    total = max(1, sum(counts.values()))
    shown = (f"{name} {count:,} ({100 * count / total:.1f} %)".replace(" ", SPACE) for name, count in counts.items())
    return f"{what}  {'  '.join(shown)}" if counts else ""


def _short(value: Any) -> str:
    """A field on one line: words and tags side by side, answers behind each other, the rest as it is."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = (" | " if any(" " in part for part in value) else " ").join(value)
    text = " ".join(str(value).split())
    return text if len(text) <= WIDTH - 20 else f"{text[: WIDTH - 23]}..."
