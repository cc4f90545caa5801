"""Which checkpoints a dump runs: named, identified by their weights, and checked against the dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdcache.cache.catalog import read_teacher, teacher_names
from kdcache.cache.layout import TeacherIdentity
from kdcache.core.errors import CacheMismatch, ConfigError, ModelError
from kdcache.core.row_format import RowFormat
from kdcache.tasks.base import Task
from kdcache.teacher.finetune import ROLES, read_result
from kdcache.teacher.settings import DumpConfig
from kdcache.training import checkpoint, models
from kdcache.training.run import RunFile

BILLION = 10**9
"""Parameters from which on a float32 checkpoint, too, runs in bfloat16 on CUDA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """One checkpoint to run.

    Attributes:
        identity: who it is; `stored` says what is kept of its rows.
        folder: its weights.
    """

    identity: TeacherIdentity
    folder: Path

    def stored(self, config: DumpConfig, *, hidden_size: int = 0) -> TeacherIdentity:
        """The identity with what is kept of a row.

        Args:
            config: of the dump.
            hidden_size: of what enters the output head; for store hidden.
        """
        num_classes = self.identity.row_format.num_classes
        return replace(self.identity, row_format=config.row_format(num_classes=num_classes, hidden_size=hidden_size))


def parse_teachers(file: RunFile, given: Sequence[str]) -> dict[str, Path]:
    """Name -> checkpoint folder: `NAME=PATH` as given, else t_hs and t_ll of `train-teacher`.

    Raises:
        ConfigError: not NAME=PATH, a name given twice, no trained teacher.
    """
    if not given:
        found = {role: file.teacher_folder / "selected" / role for role in ROLES}
        if read_result(file.teacher_folder) is None:
            raise ConfigError(
                f"no finished teacher in {file.teacher_folder}; run {file.command('train-teacher')}, "
                f"or give a checkpoint with --teacher NAME=PATH"
            )
        return found
    teachers: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--teacher {text}: write --teacher NAME=PATH")
        if name in teachers:
            raise ConfigError(f"--teacher {name} is given twice; each teacher needs a name of its own")
        teachers[name] = models.fetch(path)
    return teachers


def compute_type(config: DumpConfig, folder: Path, device: torch.device, *, recorded: str | None) -> str:
    """What a checkpoint runs in, as a dtype's name: settled once, when its dump begins.

    Args:
        config: of the dump.
        folder: the checkpoint.
        device: where it runs.
        recorded: what a cache says of the same checkpoint, if a dump of it has begun.
    """
    if config.precision != "auto":
        return config.precision
    if recorded is not None:
        return recorded
    if device.type != "cuda":
        return "float32"
    size = checkpoint.size(folder)
    return "bfloat16" if size.sixteen_bits or size.parameters >= BILLION else "float32"


def recorded_types(root: Path) -> dict[tuple[str, str], str]:
    """(name, digest of the weights) of each teacher of a cache, if there is one -> what it ran in."""
    there = [read_teacher(root, name) for name in teacher_names(root)]
    return {(name, identity.weight_digest): identity.dtype for identity in there for name in identity.names}


def identify(
    file: RunFile, folders: Mapping[str, Path], *, num_classes: int, config: DumpConfig, device: torch.device
) -> list[Teacher]:
    """The checkpoints by their weights: those with equal weights are one teacher with several names.

    Args:
        file: the study, whose `train-teacher` may know a checkpoint's scores.
        folders: name -> checkpoint.
        num_classes: the largest V of any row.
        config: of the dump.
        device: where they run.
    """
    recorded = recorded_types(file.cache_folder)
    trained = read_result(file.teacher_folder)
    teachers: dict[str, Teacher] = {}
    for name, folder in folders.items():
        weights = checkpoint.weight_digest(folder)
        same = teachers.get(weights)
        if same is not None:
            identity = replace(same.identity, aliases=(*same.identity.aliases, name))
            teachers[weights] = replace(same, identity=identity)
            continue
        known = trained is not None and name in ROLES and trained.weight_digest[name] == weights
        record = trained.selected[name] if known and trained is not None else None
        names = ("score", "nll", "ece", "brier", "temperature", "entropy")
        identity = TeacherIdentity(
            name=name,
            source=f"{file.dataset.name}/{name}" if known else folder.name,
            weight_digest=weights,
            role=name if known else "user",
            score={} if record is None else {n: getattr(record, n) for n in names},
            row_format=RowFormat.of(num_classes=num_classes),
            dtype=compute_type(config, folder, device, recorded=recorded.get((name, weights))),
        )
        teachers[weights] = Teacher(identity=identity, folder=folder)
    return list(teachers.values())


def shared_tokenizer(folders: Mapping[str, Path]) -> tuple[Any, str]:
    """The one tokenizer of all teachers.

    Raises:
        CacheMismatch: they have several; both digests.
    """
    loaded = {
        name: models.load_tokenizer(models.ModelSource(path=str(path.resolve()))) for name, path in folders.items()
    }
    digests = {name: models.tokenizer_digest(tokenizer) for name, tokenizer in loaded.items()}
    first, *others = digests
    for name in others:
        if digests[name] != digests[first]:
            raise CacheMismatch(
                f"teacher {first} has tokenizer {digests[first]} and {name} has {digests[name]}; "
                f"one cache holds one tokenization: dump them into two caches (--out)"
            )
    return loaded[first], type(loaded[first]).__name__


def load_teacher(teacher: Teacher, task: Task, *, largest_id: int, device: torch.device) -> Any:
    """The checkpoint in eval mode on a device, with its classes checked against the dataset's.

    Raises:
        ModelError: another number of classes, the same classes in another order, no head, a vocabulary that is too
            small.
    """
    name, source = teacher.identity.name, models.ModelSource(path=str(teacher.folder.resolve()))
    labels = task.settings.labels
    known = models.load_config(source).id2label
    theirs = [str(known[i]) for i in range(len(known))]
    generic = all(label.startswith("LABEL_") for label in theirs)
    if labels and (len(theirs) != len(labels) or (not generic and theirs != list(labels))):
        raise ModelError(
            f"teacher {name} has the classes {', '.join(theirs)}; the dataset's YAML has {', '.join(labels)}: "
            f"write labels in the teacher's order, or give a teacher of these classes"
        )
    model = models.load_model(source, task.auto_class, whole=True)
    models.check_vocabulary(model.config, largest_id=largest_id, name=f"teacher {name}")
    if device.type == "cuda" and teacher.identity.dtype == "float32":
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
        torch.backends.cudnn.allow_tf32 = False
    return model.to(device=device, dtype=getattr(torch, teacher.identity.dtype))
