"""What a dataset's YAML may say: where its splits are, what its columns mean, how it is scored. Reads no data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from kdcache.core.config import check_keys, parse, read_yaml
from kdcache.core.errors import ConfigError
from kdcache.core.types import TaskSettings
from kdcache.data.conll import ConllOptions
from kdcache.data.fields import FIELDS
from kdcache.data.sources import Files, Format, HubSource, Source
from kdcache.data.tags import Scheme

__all__ = ["ConllOptions", "DatasetSpec", "Holdout", "HubSource", "Source", "load_spec"]

TEXTS = (("text",), ("words",), ("question", "context"), ("source", "target"), ("prompt", "response"), ("messages",))
"""Fields of which a dataset has one group."""

TASK_SETTINGS = tuple(f.name for f in fields(TaskSettings))
"""Settings that the task is given as they are."""


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
    """What is done with it: a key of `tasks.TASKS`, e.g. `classification`, `ner`, `qa`."""
    files: Files = field(default_factory=dict)
    """Split -> file, or line-aligned files (format lines). Relative ones start at the data root if there is one, else
    at the YAML's folder."""
    hub: HubSource | None = None
    """Instead of files."""
    sources: tuple[Source, ...] = ()
    """Instead of both: several, joined."""
    format: Format = "auto"
    """Of the files; auto goes by the extension."""
    encoding: str = "utf-8"
    """Of text files."""
    conll: ConllOptions | None = None
    """How CoNLL columns are read; null is the defaults."""
    columns: Mapping[str, str]
    """Field of the task (`fields.FIELDS`) -> column. A column `a.b` is the field b of the objects in column a."""
    language: str | None = None
    """Of all examples, instead of a column."""
    language_pattern: str | None = None
    """Regular expression whose first match in an example's id is its language, instead of a column."""
    drop_empty: bool = False
    """Leave out records without words, or with an empty text; else they are an error."""
    scheme: Scheme = "auto"
    """Of the tags in the files, `iob1` or `iob2`; auto looks, split by split. Tags become IOB2."""
    labels: tuple[str, ...] = ()
    """Class names in class order. The column holds these names, or class numbers from 0."""
    label_map: Mapping[str, str | None] = field(default_factory=dict)
    """Value in the column -> class name; null for `no label`. Looked up first."""
    unlabelled: tuple[str, ...] = ()
    """Splits read without labels."""
    metric: str = "f1"
    """`f1`, or a name of `metrics.METRICS`; selects checkpoints."""
    max_length: int = 128
    """Tokens of an item; longer ones are truncated, with a count, or (qa) cut into windows."""
    overlap: int | None = None
    """Context tokens that neighbouring windows share; null is the task's default (qa: 128)."""
    longest_answer: int | None = None
    """Tokens that a predicted answer may have; null is the task's default (qa: 30)."""
    empty_windows: Literal["keep", "drop"] | None = None
    """Training windows without the answer: they point at the classifier token (keep, the default of qa), or go."""
    normalize: Literal["squad", "mlqa"] | None = None
    """How answers are compared: by SQuAD's rules (the default of qa), or by MLQA's for the example's language."""
    source_language: str | None = None
    """Code of the source's language, e.g. `de_DE`, for tokenizers that have codes (mBART, mBART-50)."""
    target_language: str | None = None
    """Of the target's."""
    source_prefix: str | None = None
    """Text before every source, e.g. T5's `translate German to English: `."""
    beams: int | None = None
    """Of the beam search behind a reported score; null is the task's default (translation: 5)."""
    selection_beams: int | None = None
    """The same for scores that only select checkpoints; null is the task's default (translation: 1, greedy)."""
    length_penalty: float | None = None
    """Exponent of the length by which a beam's log-probability is divided; null is the task's default (1)."""
    too_long: Literal["drop", "refuse"] | None = None
    """Pairs and dialogues over `max_length`: left out with a count (drop, the default), or an error."""
    packing: Literal["packed", "padded"] | None = None
    """Text of a causal LM: joined to items of `max_length` tokens (packed, the default), or an item a text (padded)."""
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
    def source_splits(self) -> Files:
        """Splits that stand in files or on the Hub -> file or Hub split, of the first source that has it."""
        places: dict[str, str | tuple[str, ...]] = {}
        for source in self.parts:
            for split, place in source.splits.items():
                places.setdefault(split, place)
        return places

    @property
    def parts(self) -> tuple[Source, ...]:
        """The sources; the only one of most datasets has no name.

        Raises:
            ConfigError: files, hub and sources are not exactly one.
        """
        if not self.sources:
            names = ("files", "hub", "format", "encoding", "conll")
            return (Source(name="", **{name: getattr(self, name) for name in names}),)
        return self.sources

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, those of the source first."""
        return (*self.source_splits, *self.holdout)

    def task_settings(self) -> TaskSettings:
        """What the task needs to know."""
        return TaskSettings(**{name: getattr(self, name) for name in TASK_SETTINGS})

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(f"name = {self.name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")
        self._check_sources()
        if self.max_length < 1:
            raise ConfigError(f"max_length = {self.max_length} leaves no token; it must be at least 1")
        _check_seed(self.seed)
        self._check_splits()
        self._check_columns_and_labels()

    def _check_sources(self) -> None:
        if self.sources and (self.files or self.hub is not None):
            raise ConfigError(f"sources and {'files' if self.files else 'hub'} given; give one of the two")
        if self.sources and (self.format != "auto" or self.encoding != "utf-8" or self.conll is not None):
            raise ConfigError("format, encoding and conll are settings of each source; set them there")
        names = [source.name for source in self.parts]
        if len(set(names)) < len(names):
            raise ConfigError(f"sources has the name {max(names, key=names.count)!r} twice; it begins their uids")

    def _check_splits(self) -> None:
        for name, holdout in self.holdout.items():
            if name in self.source_splits:
                raise ConfigError(f"holdout.{name} would replace the split {name} of the source; give it another name")
            if holdout.source not in self.source_splits:
                raise ConfigError(_unknown_split(f"holdout.{name}.from", holdout.source, tuple(self.source_splits)))
            if holdout.stratify is not None and holdout.stratify not in self._known_fields():
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
        for source in self.parts:
            columns = {**self.columns, **source.columns}
            check_keys(columns, FIELDS, where="the dataset", block="columns")
            if not any(set(group) <= columns.keys() for group in TEXTS):
                near = next((group for group in TEXTS if set(group) & columns.keys()), TEXTS[0])
                missing = next(name for name in near if name not in columns)
                raise ConfigError(f"columns.{missing} is missing; name the column that holds the {missing}")
            if "tags" in columns and "words" not in columns:
                raise ConfigError("columns.tags needs columns.words: the column that holds the words")
            if "answers" in columns and "context" not in columns:
                raise ConfigError("columns.answers needs columns.context: the column that holds the context")
        languages = [self.language, self.language_pattern, self.columns.get("language")]
        if sum(value is not None for value in languages) > 1:
            raise ConfigError("language, language_pattern and columns.language all name the language; give one of them")
        if self.language_pattern is not None:
            _check_pattern(self.language_pattern, has_id="id" in self.columns)
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ConfigError(f"labels has {twice[0]!r} twice; each class has one name")
        for name in ("label", "tags"):
            if name in self.columns and not self.labels:
                raise ConfigError(
                    f"columns.{name} = {self.columns[name]!r} needs labels: the class names in class order"
                )
        for value, label in self.label_map.items():
            if label is not None and label not in self.labels:
                raise ConfigError(f"label_map.{value} = {label!r} is not among labels: {', '.join(self.labels)}")

    def _known_fields(self) -> set[str]:
        constant = self.language or self.language_pattern or all(source.language for source in self.parts)
        return {*self.columns, *(["language"] if constant else [])}


def _check_pattern(pattern: str, *, has_id: bool) -> None:
    if not has_id:
        raise ConfigError(f"language_pattern = {pattern!r} is of the id; name its column: columns.id")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"language_pattern = {pattern!r} is no regular expression: {error}") from None


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
    for part in (tree, *(tree["sources"] if isinstance(tree.get("sources"), list) else [])):
        if isinstance(part, dict) and isinstance(part.get("columns"), Mapping):  # columns of CoNLL are numbers
            part["columns"] = {k: str(v) if type(v) is int else v for k, v in part["columns"].items()}
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
