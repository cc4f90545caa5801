"""What a search leaves of each student beside its run folders: `search/<student>.json`. This file owns its format.

It says all that a comparison needs to replay the search from the runs, and what was found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.core.config import parse, plain
from kdcache.core.design import Space, Trial
from kdcache.core.errors import ConfigError, RunError
from kdcache.core.results import write_json
from kdcache.core.searching import DESIGNS

FORMAT = 2
DECIDES = ("model", "design", "space", "seeds", "training")
"""Fields that make two searches of a student the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord:
    """One student's search.

    Attributes:
        code: version of kdcache.
        student: its name, and in `model` the digest of what it is made from.
        design: `greedy` or `factorial`.
        space: what it may try.
        seeds: the first one searches.
        teachers: name -> the name that its checkpoint's runs are under.
        training: how each configuration is trained; its learning rate is what a trial's rate 0 is.
        settings: the block `search:`, whole.
        failed: trials that failed under the first seed and were taken for the worst.
        outcome: what was found; None before the search has ended.
    """

    code: str
    student: str
    model: str
    design: str
    space: Space
    seeds: tuple[int, ...]
    teachers: Mapping[str, str]
    training: Mapping[str, Any]
    settings: Mapping[str, Any]
    failed: tuple[Trial, ...] = ()
    outcome: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.design not in DESIGNS:
            raise ConfigError(f"design = {self.design!r}; allowed: {', '.join(DESIGNS)}")
        if not self.seeds:
            raise ConfigError("seeds = []; allowed: at least one")


def record_path(study: Path, student: str) -> Path:
    """Where the record of a student's search lies in the folder of a study."""
    return study / "search" / f"{student}.json"


def write_record(study: Path, record: SearchRecord) -> None:
    """Write a record in place of an earlier one.

    Raises:
        RunError: the disk is full or refuses.
    """
    write_json(record_path(study, record.student), {"format": FORMAT, **plain(record)})


def begin_record(study: Path, record: SearchRecord) -> None:
    """Write the record of a search that begins; one of the same search stays, with what it found and what failed.

    Raises:
        RunError: the disk is full or refuses.
    """
    try:
        before = read_record(record_path(study, record.student))
    except RunError:  # none, of another format, or damaged: to be replaced
        write_record(study, record)
        return
    if any(getattr(before, name) != getattr(record, name) for name in DECIDES):
        write_record(study, record)


def read_record(path: Path) -> SearchRecord:
    """Read a record.

    Raises:
        RunError: not one of this format, or damaged.
    """
    advice = "search again with kdcache search, which trains nothing twice, or move it away"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict) or tree.pop("format", None) != FORMAT:
            raise RunError(f"{path} is not the record of a search of format {FORMAT}; {advice}")
        return parse(SearchRecord, tree, where=path.name)
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(f"{path} is damaged: {error}; {advice}") from None
