"""The result of one run on disk: `result.json` and `stats.npz`. This file owns their format.

`result.json` is written last and atomically: a run folder without one has not finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.core.config import parse, plain
from kdcache.core.configuration import Configuration
from kdcache.core.errors import ConfigError, RunError
from kdcache.core.types import Evaluation, Score

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What `compare` needs to know of a finished student run; the trainer adds detail under `extra`.

    Attributes:
        key: digest of everything that determines the training; equal keys are the same run.
        dataset: name of the dataset, and in `dataset_digest` its examples' digest.
        student: name of the student model.
        seed: of initialisation and order.
        configuration: the distillation configuration as asked for.
        teacher_digest: of the teacher's weights; empty with alpha = 0.
        cache_signature: the cache that the targets came from; empty with alpha = 0.
        exactness: `exact`, `bounded: <error>` or `approximate: <why>`; empty with alpha = 0.
        metric: the metric checkpoints were selected by.
        scores: split -> metric -> Score.
        test_digest: split -> digest of the uids scored, in order: equal digests can be compared example by example.
        selected: step and epoch of the checkpoint kept.
        counters: `teacher_forwards` (0 for every student), `steps`, `items`, ...
        seconds: stage -> wall seconds.
        extra: learning rate, batch size, versions, teacher identity, ...
    """

    key: str
    dataset: str
    dataset_digest: str
    student: str
    seed: int
    configuration: Configuration
    teacher_digest: str = ""
    cache_signature: str = ""
    exactness: str = ""
    metric: str
    scores: Mapping[str, Mapping[str, Score]]
    test_digest: Mapping[str, str]
    selected: Mapping[str, float]
    counters: Mapping[str, int]
    seconds: Mapping[str, float]
    extra: Mapping[str, Any] = field(default_factory=dict)


def uids_digest(uids: tuple[str, ...]) -> str:
    """sha256 of the uids in order, 16 hex digits."""
    return hashlib.sha256("\n".join(uids).encode()).hexdigest()[:16]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of a run's file.

    Raises:
        RunError: the disk is full or refuses.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free space there, or choose another folder with --out"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader finds the whole file or none. NaN is refused: it is not JSON.

    Raises:
        RunError: the disk is full or refuses.
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_run(folder: Path, result: RunResult, evaluations: tuple[Evaluation, ...]) -> None:
    """Write `stats.npz`, then `result.json`.

    `stats.npz` holds, for each split, `<split>/uids` (text [I]), `<split>/<statistic>` (float64 [I, S]) and, where all
    examples have one, `<split>/languages` (text [I]): what a score by language, or its bootstrap, is computed from.

    Raises:
        RunError: the disk is full or refuses.
    """
    arrays: dict[str, Any] = {}
    for evaluation in evaluations:
        arrays[f"{evaluation.split}/uids"] = np.array(evaluation.uids, dtype=np.str_)
        if evaluation.languages:
            arrays[f"{evaluation.split}/languages"] = np.array(evaluation.languages, dtype=np.str_)
        for name, values in evaluation.statistics.items():
            arrays[f"{evaluation.split}/{name}"] = values
    temporary = folder / f".stats.{os.getpid()}.tmp.npz"
    try:
        with writing(folder / "stats.npz"):
            np.savez_compressed(temporary, **arrays)
            temporary.replace(folder / "stats.npz")
    finally:
        temporary.unlink(missing_ok=True)
    write_json(folder / "result.json", {"format": FORMAT, **plain(result)})


def read_run(folder: Path) -> RunResult:
    """Read a run's `result.json`.

    Raises:
        RunError: no such folder, an unfinished run, a file that is not a kdcache result.
    """
    path = folder / "result.json"
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; give run folders as train-student prints them")
    if not path.is_file():
        raise RunError(f"{folder} has no result.json: the run has not finished, or it is not a run folder")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict) or tree.pop("format", None) != FORMAT:
            raise RunError(f"{path} is not a kdcache result of format {FORMAT}; leave it out, or train the run again")
        return parse(RunResult, tree, where=str(path))
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise RunError(f"{path} is damaged: {error}; leave it out, or train the run again") from None


def read_statistics(
    folder: Path, split: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray[Any, np.dtype[np.float64]]]]:
    """uids and statistics of one split of a run, from `stats.npz` (no pickle).

    Raises:
        RunError: the file is missing or damaged, or holds no such split.
    """
    values = _read_arrays(folder, split)
    uids = tuple(str(u) for u in values.pop("uids").tolist())
    values.pop("languages", None)
    return uids, values


def read_languages(folder: Path, split: str) -> tuple[str, ...]:
    """Language of each example of a split of a run, in the order of its uids; empty where one has none.

    Raises:
        RunError: the file is missing or damaged, or holds no such split.
    """
    return tuple(str(language) for language in _read_arrays(folder, split).get("languages", ()))


def _read_arrays(folder: Path, split: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Name -> array of one split in `stats.npz`."""
    path = folder / "stats.npz"
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            names = [n for n in file.files if n.startswith(f"{split}/")]
            if f"{split}/uids" not in names:
                raise RunError(
                    f"{path} holds no {split} statistics; it holds {sorted({n.split('/')[0] for n in file.files})}"
                )
            values = {n.partition("/")[2]: file[n] for n in names}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"cannot read {path}: {error}; train the run again") from None
    return values
