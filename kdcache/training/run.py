"""A run file: one YAML with the dataset, the models and a block for each stage, and the folders the stages share."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kdcache.core import config
from kdcache.core.errors import ConfigError, DataError, ModelError
from kdcache.core.types import Item
from kdcache.data.read import dataset_digest, read_split
from kdcache.data.spec import DatasetSpec, load_spec
from kdcache.tasks import make
from kdcache.tasks.base import Task
from kdcache.training.models import ModelsConfig

T = TypeVar("T")

KEYS = ("dataset", "models", "out", "teacher", "dump", "student", "search")
"""What may stand at the top of a run file."""
STAGES = {"train-teacher": "teacher", "dump-teacher": "dump", "train-student": "student", "search": "search"}
"""Command -> its own block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A run file, read.

    Attributes:
        path: the file.
        out: folder of the study: `teacher/`, `cache/`, `students/`.
        dataset: what is read.
        models: teacher and students.
        blocks: stage -> its settings, not yet parsed: the stage knows its own.
        data_root: where relative data paths start; null: at the dataset's YAML.
        overrides: `a.b=c`, by which the command line changed settings.
        options: what else it gave that decides what is read and where it goes.
    """

    path: Path
    out: Path
    dataset: DatasetSpec
    models: ModelsConfig
    blocks: Mapping[str, Any] = field(default_factory=dict)
    data_root: Path | None = None
    overrides: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the command line changed settings, for messages."""
        return bool(self.overrides)

    @property
    def teacher_folder(self) -> Path:
        """Of `train-teacher`."""
        return self.out / "teacher"

    @property
    def cache_folder(self) -> Path:
        """Of `dump-teacher`."""
        return self.out / "cache"

    @property
    def students_folder(self) -> Path:
        """Of `train-student`: one folder a run."""
        return self.out / "students"

    def command(self, name: str, *arguments: str) -> str:
        """Another command on this run file, for a shell: with what this one was given, but settings of other stages.

        Args:
            name: e.g. `dump-teacher`.
            arguments: of its own.
        """
        others = {block for stage, block in STAGES.items() if stage != name}
        sets = [word for change in self.overrides if _top(change) not in others for word in ("--set", change)]
        return shlex.join(["kdcache", name, str(self.path), *self.options, *sets, *arguments])

    def block(self, name: str, cls: type[T]) -> T:
        """A stage's settings.

        Raises:
            ConfigError: unknown key, wrong type.
        """
        return config.parse(cls, self.blocks.get(name) or {}, where=_where(self.path, self.changed), block=name)


def load_run(
    path: Path, *, overrides: Sequence[str] = (), out: Path | None = None, data_root: Path | None = None
) -> RunFile:
    """Read a run file.

    `dataset:` and `models:` are paths relative to the run file, or blocks in it. A block with the key `yaml` starts
    from that file, and its other keys replace the file's: `dataset: {yaml: mnli.yaml, limit: {train: 3000}}`.

    Args:
        path: the YAML.
        overrides: `a.b=c`.
        out: instead of the file's `out:`.
        data_root: instead of KDCACHE_DATA.

    Raises:
        ConfigError: a missing file, unknown key, wrong type.
    """
    tree = config.read_yaml(path)
    config.check_keys(tree, KEYS, where=str(path))
    places = {}
    where = {}
    changed = bool(overrides)
    given = (("--out", out), ("--data-root", data_root))
    for name in ("dataset", "models"):
        if name not in tree:
            raise ConfigError(f"{path} lacks {name}: give a path to its YAML, or a block")
        extended = isinstance(tree[name], dict) and "yaml" in tree[name]
        tree[name], places[name] = _described(path, tree[name], name)
        where[name] = _where(places[name], changed) if not extended else f"{places[name]} (with the changes in {path})"
    tree["dataset"].setdefault("base", str(places["dataset"].parent.resolve()))
    tree = config.override(tree, overrides)
    config.check_keys(tree, KEYS, where="--set")
    blocks = {name: name if places[name] == path else "" for name in places}
    return RunFile(
        path=path,
        out=out or _out(tree.get("out", f"runs/{path.stem}"), where=_where(path, changed)),
        dataset=load_spec(tree["dataset"], where=where["dataset"], block=blocks["dataset"]),
        models=config.parse(ModelsConfig, tree["models"], where=where["models"], block=blocks["models"]),
        blocks={name: tree[name] for name in KEYS[3:] if name in tree},
        data_root=data_root_or_environment(data_root),
        overrides=tuple(overrides),
        options=tuple(word for flag, value in given if value is not None for word in (flag, str(value))),
    )


def _top(change: str) -> str:
    return change.partition("=")[0].partition(".")[0].strip()


def _described(path: Path, value: Any, name: str) -> tuple[dict[str, Any], Path]:
    """What a run file says of its dataset or models, and the file that a message about it names.

    Raises:
        ConfigError: neither a path nor a block.
    """
    block: dict[str, Any] = {"yaml": value} if isinstance(value, str) else value
    if not isinstance(block, dict) or not isinstance(block.get("yaml", ""), str):
        raise ConfigError(f"{name} in {path} is {value!r}; give a path to its YAML, or a block")
    if "yaml" not in block:
        return block, path
    place = _beside(path, block["yaml"], name)
    return {**config.read_yaml(place), **{key: value for key, value in block.items() if key != "yaml"}}, place


def _where(path: Path, changed: bool) -> str:
    """What a message about a setting names: it may stand in the file or on the command line."""
    return f"{path} (with the command line's changes)" if changed else str(path)


def _out(value: Any, *, where: str) -> Path:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"out in {where} is {value!r}; allowed: the path of a folder")
    return Path(value)


def data_root_or_environment(given: Path | None) -> Path | None:
    """Where relative data paths start: as given, else KDCACHE_DATA, else null."""
    environment = os.environ.get("KDCACHE_DATA")
    return given or (Path(environment) if environment else None)


def _beside(path: Path, name: str, key: str) -> Path:
    found = path.parent / Path(name).expanduser()
    if not found.is_file():
        raise ConfigError(f"{key}: {name} in {path} is not a file: {found} (paths are relative to the run file)")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A dataset as items.

    Attributes:
        task: how rows are read and scored.
        items: split -> items, in the dataset's order.
        digest: of the examples of `digest_splits`, as the cache's marker holds it.
        num_truncated: items cut to `max_length`, over all splits.
        num_dropped: examples left out, over all splits.
    """

    task: Task
    items: Mapping[str, list[Item]]
    digest: str
    num_truncated: int
    num_dropped: int = 0


def prepare(run: RunFile, tokenizer: Any, *, encode: Sequence[str], digest_of: Sequence[str]) -> Prepared:
    """Read and encode splits.

    Args:
        run: names the dataset.
        tokenizer: of the model that the items are for.
        encode: splits to encode.
        digest_of: splits whose examples are the dataset's identity.

    Raises:
        DataError: the dataset cannot be read as its YAML says, or has no training set where one is wanted.
    """
    task = make(run.dataset.task, run.dataset.task_settings())
    if "train" in {*encode, *digest_of} and "train" not in run.dataset.splits:
        raise DataError(
            f"dataset {run.dataset.name} has no split 'train'; its splits: {', '.join(run.dataset.splits)}; join a "
            f"training set under sources, as configs/datasets/xnli.yaml does (zero-shot), or dump without: dump.splits"
        )
    examples = {
        split: read_split(run.dataset, split, data_root=run.data_root) for split in dict.fromkeys([*encode, *digest_of])
    }
    items: dict[str, list[Item]] = {}
    dropped: dict[str, int] = {}
    for split in encode:
        found = [task.encode(e, tokenizer, train=split == "train") for e in examples[split]]
        dropped[split] = sum(not part for part in found)
        items[split] = task.arrange([item for part in found for item in part], tokenizer)
        if not items[split]:
            raise DataError(
                f"split {split} of dataset {run.dataset.name}: all {len(found):,} examples are longer than max_length "
                f"= {run.dataset.max_length} and were left out; raise max_length"
            )
    return Prepared(
        task=task,
        items=items,
        digest=dataset_digest(run.dataset, {split: examples[split] for split in digest_of}),
        num_truncated=sum(bool(item.meta.get("truncated")) for split in items.values() for item in split),
        num_dropped=sum(dropped.values()),
    )


def make_folder(folder: Path) -> Path:
    """Create a run folder.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create {folder}: {error.strerror or error}; choose another with --out") from None
    return folder


def pad_token_id(tokenizer: Any) -> int:
    """What fills up a batch.

    Raises:
        ModelError: the tokenizer has no padding token.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):  # padding is masked, whatever token it is
        if token is not None:
            return int(token)
    raise ModelError("the tokenizer has no padding token and none for the end; set pad_token in its folder")
