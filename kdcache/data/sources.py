"""Where records come from: files, or a dataset of the Hub; one source or several joined."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kdcache.core.errors import ConfigError
from kdcache.data.conll import ConllOptions

Files = Mapping[str, str | tuple[str, ...]]
"""Split -> file, or the line-aligned files of one (format lines)."""

Format = Literal["auto", "jsonl", "parquet", "csv", "tsv", "conll", "squad", "mrqa", "lines"]


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
class Source:
    """One of the sources that a dataset joins. A split is the sources that have it, one after the other."""

    name: str
    """Begins the uid of its examples: `<name>/<id>`."""
    files: Files = field(default_factory=dict)
    """Split -> file, or line-aligned files (format lines). Relative ones start at the data root if there is one, else
    at the YAML's folder."""
    hub: HubSource | None = None
    """Instead of files."""
    format: Format = "auto"
    """Of the files; auto goes by the extension."""
    encoding: str = "utf-8"
    """Of text files."""
    conll: ConllOptions | None = None
    """How CoNLL columns are read; null is the defaults."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns that have other names here than in the dataset."""
    language: str | None = None
    """Of all its examples."""

    def __post_init__(self) -> None:
        if bool(self.files) == (self.hub is not None):
            raise ConfigError(f"{'both' if self.files else 'neither'} files and hub given; give one of the two")
        if self.hub is not None and (self.format != "auto" or self.encoding != "utf-8" or self.conll is not None):
            raise ConfigError("format and encoding are settings of files; a hub dataset has neither")
        if self.conll is not None and self.format not in ("auto", "conll"):
            raise ConfigError(f"conll is how CoNLL columns are read, but format = {self.format!r}; leave one out")
        check_files(self.files, self.format)
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ConfigError(f"encoding = {self.encoding!r} is unknown to Python; e.g. utf-8, latin-1") from None

    @property
    def splits(self) -> Files:
        """Split -> file or Hub split."""
        return self.files if self.hub is None else dict(self.hub.splits)


def check_files(files: Files, format: str) -> None:  # noqa: A002
    """Refuse several files of a split where the format has one.

    Raises:
        ConfigError: with the format that has several.
    """
    for split, names in files.items():
        if isinstance(names, tuple) and (format != "lines" or not names):
            raise ConfigError(
                f"files.{split} lists {len(names)} files, but format = {format!r} reads one file a split; line-aligned "
                f"files are format: lines, other files become one source each (sources)"
            )
