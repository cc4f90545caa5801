"""What a dataset's YAML may say: where its splits are, what its columns mean, how it is scored. Reads no data."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdcache.core.config import check_keys, parse, read_yaml
from kdcache.core.errors import ConfigError
from kdcache.core.types import TaskSettings

FIELDS = ("text", "text_pair", "label", "language", "id")
"""What a column can be to a task."""

Format = Literal["auto", "jsonl", "parquet", "csv", "tsv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A dataset of the Hugging Face Hub, or a local folder that `datasets.load_dataset` reads."""

    id: str
    """Name on the Hub, e.g. `nyu-mll/glue`."""
    config: str | None = None
    """Name of its configuration, e.g. `mrpc`."""
    revision: str | None = None
    """Commit, tag or branch; null is the newest. Pin a commit, or `refs/convert/parquet` where a script was needed."""
    splits: Mapping[str, str]
    """Split here -> split there."""

    def __post_init__(self) -> None:
        if not self.splits:
            raise ConfigError("splits is empty; name the splits, e.g. {train: train, validation: validation}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """A split cut out of another one, whose remaining examples keep its name. In YAML: `{from: train, count: 500}`."""

    source: str
    """Split it is cut from; `from` in the YAML."""
    count: int | None = None
    """Number of examples; or else `fraction`."""
    fraction: float | None = None
    """Share of the examples in (0, 1), rounded down (within each stratum)."""
    seed: int = 42
    """Of the shuffle whose first examples are held out."""
    stratify: Literal["label", "language"] | None = None
    """Hold out the same share of each value of this field."""

    def __post_init__(self) -> None:
        if (self.count is None) == (self.fraction is None):
            raise ConfigError(f"count = {self.count} and fraction = {self.fraction}: give one of the two")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"count = {self.count} holds nothing out; it must be at least 1")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ConfigError(f"fraction = {self.fraction} is not a share; it must lie between 0 and 1")
        _check_seed(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """A dataset, as its YAML describes it. `configs/datasets/template.yaml` explains every setting to a user."""

    name: str
    """For folders and tables: letters, digits, `.`, `_`, `-`."""
    task: str
    """What is done with it: `classification`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split -> file. Relative ones start at the data root if there is one, else at the YAML's folder."""
    hub: HubSource | None = None
    """Instead of files."""
    format: Format = "auto"
    """Of the files; auto goes by the extension."""
    encoding: str = "utf-8"
    """Of text files."""
    columns: Mapping[str, str]
    """Field of the task (text, text_pair, label, language, id) -> column."""
    labels: tuple[str, ...] = ()
    """Class names in class order. The column holds these names, or class numbers from 0."""
    label_map: Mapping[str, str | None] = field(default_factory=dict)
    """Value in the column -> class name; null for `no label`. Looked up first."""
    unlabelled: tuple[str, ...] = ()
    """Splits read without labels."""
    metric: str = "f1"
    """`f1`, or a name of `metrics.METRICS`; selects checkpoints."""
    max_length: int = 128
    """Tokens of an item; longer ones are truncated, with a count."""
    limit: Mapping[str, int] = field(default_factory=dict)
    """Split -> number of examples taken: the first of a shuffle with `seed`, in the file's order, after hold-out."""
    holdout: Mapping[str, Holdout] = field(default_factory=dict)
    """New split -> how it is cut out of another."""
    seed: int = 42
    """Of the shuffle behind `limit`."""
    version: int = 1
    """Of this description; raise it when the same files come to mean something else."""
    base: Path | None = None
    """Where relative files start when there is no data root; `load_spec` fills in the YAML's folder."""

    @property
    def source_splits(self) -> Mapping[str, str]:
        """Splits that stand in files or on the Hub -> file or Hub split."""
        return self.files if self.hub is None else self.hub.splits

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, those of the source first."""
        return (*self.source_splits, *self.holdout)

    def task_settings(self) -> TaskSettings:
        """What the task needs to know."""
        return TaskSettings(labels=self.labels, max_length=self.max_length, metric=self.metric)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(f"name = {self.name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")
        if bool(self.files) == (self.hub is not None):
            raise ConfigError(f"{'both' if self.files else 'neither'} files and hub given; give one of the two")
        if self.hub is not None and (self.format != "auto" or self.encoding != "utf-8"):
            raise ConfigError("format and encoding are settings of files; a hub dataset has neither")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ConfigError(f"encoding = {self.encoding!r} is unknown to Python; e.g. utf-8, latin-1") from None
        if self.max_length < 1:
            raise ConfigError(f"max_length = {self.max_length} leaves no token; it must be at least 1")
        _check_seed(self.seed)
        self._check_splits()
        self._check_columns_and_labels()

    def _check_splits(self) -> None:
        for name, holdout in self.holdout.items():
            if name in self.source_splits:
                raise ConfigError(f"holdout.{name} would replace the split {name} of the source; give it another name")
            if holdout.source not in self.source_splits:
                raise ConfigError(_unknown_split(f"holdout.{name}.from", holdout.source, tuple(self.source_splits)))
            if holdout.stratify is not None and holdout.stratify not in self.columns:
                raise ConfigError(f"holdout.{name}.stratify = {holdout.stratify!r} has no column; add it to columns")
        for name, count in self.limit.items():
            if name not in self.splits:
                raise ConfigError(_unknown_split("limit", name, self.splits))
            if count < 1:
                raise ConfigError(f"limit.{name} = {count} takes nothing; it must be at least 1")
        for name in self.unlabelled:
            if name not in self.source_splits:
                raise ConfigError(_unknown_split("unlabelled", name, tuple(self.source_splits)))

    def _check_columns_and_labels(self) -> None:
        check_keys(self.columns, FIELDS, where="the dataset", block="columns")
        if "text" not in self.columns:
            raise ConfigError("columns.text is missing; name the column that holds the text")
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ConfigError(f"labels has {twice[0]!r} twice; each class has one name")
        if "label" in self.columns and not self.labels:
            raise ConfigError(f"columns.label = {self.columns['label']!r} needs labels: the class names in class order")
        for value, label in self.label_map.items():
            if label is not None and label not in self.labels:
                raise ConfigError(f"label_map.{value} = {label!r} is not among labels: {', '.join(self.labels)}")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed = {seed} is out of range; it must lie between 0 and 2^63 - 1")


def _unknown_split(place: str, split: str, known: tuple[str, ...]) -> str:
    return f"{place} names the split {split!r}, which does not exist; splits: {', '.join(known)}"


def load_spec(source: Path | Mapping[str, Any], where: str = "", block: str = "") -> DatasetSpec:
    """Read a dataset's description from its YAML file, or from a block of another file.

    Args:
        source: the YAML, or a block's content (also `core.config.plain` of a DatasetSpec: a resolved config).
        where: the file's name for messages; default: the path.
        block: dotted place inside that file, for messages.

    Raises:
        ConfigError: no such file, unknown or missing key, wrong type, contradiction.
    """
    where = where or (str(source) if isinstance(source, Path) else "the dataset")
    tree = read_yaml(source) if isinstance(source, Path) else dict(source)
    if isinstance(source, Path):
        base = tree.get("base")
        tree["base"] = str((source.parent / base if isinstance(base, str) else source.parent).resolve())
    if isinstance(tree.get("holdout"), Mapping):
        prefix = f"{block}.holdout" if block else "holdout"
        tree["holdout"] = {n: _rename_from(cut, f"{prefix}.{n}", where) for n, cut in tree["holdout"].items()}
    return parse(DatasetSpec, tree, where=where, block=block)


def _rename_from(block: Any, place: str, where: str) -> Any:
    """`from` is what a reader of YAML expects, and no name that a Python field can have."""
    if not isinstance(block, Mapping) or "source" in block:
        return block
    check_keys(block, ("from", "count", "fraction", "seed", "stratify"), where=where, block=place)
    if "from" not in block:
        raise ConfigError(f"{where} lacks the setting {place}.from")
    if not isinstance(block["from"], str):
        raise ConfigError(f"{place}.from in {where} is {block['from']!r}; allowed: text")
    return {"source" if key == "from" else key: value for key, value in block.items()}
