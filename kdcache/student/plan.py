"""Which training a configuration is: its settings, the check against the cache, its key and its run folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from kdcache.cache.layout import TeacherIdentity
from kdcache.cache.reader import LRU_BYTES, Cache
from kdcache.core.config import digest, plain
from kdcache.core.configuration import MIXED, Configuration
from kdcache.core.errors import ConfigError, IncompatibleTargets, RunError
from kdcache.core.results import RunResult, read_run
from kdcache.losses import rule
from kdcache.training.models import ModelsConfig
from kdcache.training.run import RunFile
from kdcache.training.settings import TrainingConfig, content


@dataclass(frozen=True, kw_only=True)
class StudentConfig(TrainingConfig, Configuration):
    """Settings of `kdcache train-student`: a configuration, and how it is trained."""

    student: str = ""
    """Name of a student in the models file; may be left out where there is one."""
    seed: int = 0
    """Of the head's initialisation, dropout and order."""
    cache: Path | None = None
    """Folder of the cache; default: the study's own."""
    allow_approximate: bool = False
    """Train even where the cache gives this loss only approximately."""
    allow_mismatch: bool = False
    """Train even where the cache was dumped with another tokenizer or from other data."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        Configuration.__post_init__(self)
        if self.seed < 0:
            raise ConfigError(f"seed = {self.seed} must not be negative")

    @property
    def configuration(self) -> Configuration:
        """The distillation configuration alone."""
        return Configuration(**{f.name: getattr(self, f.name) for f in fields(Configuration)})

    @property
    def training(self) -> TrainingConfig:
        """The training's settings alone."""
        return TrainingConfig(**{f.name: getattr(self, f.name) for f in fields(TrainingConfig)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training, decided before anything heavy is loaded; `configuration` is what is trained, in canonical form."""

    config: StudentConfig
    configuration: Configuration
    name: str
    cache: Cache
    verdict: rule.Verdict
    teacher_digest: str
    key: str
    folder: Path


def plan(file: RunFile, config: StudentConfig, *, opened: Callable[[], Cache] | None = None) -> Plan:
    """Check a configuration against the cache and name its run folder.

    Args:
        file: the study.
        config: what to train.
        opened: gives the configuration's cache, where it may be open already.

    Raises:
        ConfigError: no such student or teacher, or no cache yet.
        CacheError: no sound cache.
        IncompatibleTargets: the cache holds too little for this loss, or no label for alpha < 1.
    """
    name = config.student or _only_student(file.models)
    source = file.models.student(name)
    cache = opened() if opened else open_cache(file, config)
    canonical = config.configuration.canonical()
    configuration = _by_checkpoint(canonical, cache)
    identities = [cache.teacher(teacher) for teacher in configuration.teachers]
    verdict = rule.require(
        config.configuration,
        rule.worst(*(rule.judge(config.configuration, identity.row_format) for identity in identities)),
        allow_approximate=config.allow_approximate,
        cache=str(cache.root),
    )
    _check_labels(cache, configuration)
    contents = [_content(identity) for identity in identities]
    key = digest(
        {
            "configuration": {**plain(configuration.content()), "teacher": contents},
            "training": content(config.training),
            "seed": config.seed,
            "student": source,
            "dataset": file.dataset,
            "items": [cache.marker.dataset_digest, cache.marker.tokenizer_digest],
        }
    )
    slug = re.sub(r"[^a-z0-9.]+", "-", configuration.label().lower())
    folder = file.students_folder / name / f"{slug}-seed{config.seed}-{key[:8]}"
    return Plan(
        config=config,
        configuration=configuration,
        name=name,
        cache=cache,
        verdict=verdict,
        teacher_digest=MIXED.join(cache.teacher(teacher).weight_digest for teacher in canonical.teachers),
        key=key,
        folder=folder,
    )


def _by_checkpoint(canonical: Configuration, cache: Cache) -> Configuration:
    """A canonical configuration with each teacher under its first name, so that one training has one folder: t_hs and
    t_ll may be one checkpoint."""
    if not canonical.teachers:
        return canonical
    names = [cache.teacher(teacher).name for teacher in canonical.teachers]
    return replace(canonical, teacher=MIXED.join(names)).canonical()


def _content(identity: TeacherIdentity) -> list[str | int | float]:
    """What of a teacher decides its rows: not its name, which may be another for the same weights."""
    return [identity.weight_digest, *identity.row_format.content, identity.dtype]


def open_cache(file: RunFile, config: StudentConfig, *, cache_bytes: int = LRU_BYTES) -> Cache:
    """The cache that a configuration names, or the study's own.

    Raises:
        ConfigError: the study has none yet.
        CacheError: no sound cache.
    """
    if config.cache is None and not file.cache_folder.exists():
        raise ConfigError(
            f"no cache in {file.cache_folder}; run {file.command('dump-teacher')} first, "
            f"or name one with --set student.cache=PATH"
        )
    return Cache.open(config.cache or file.cache_folder, cache_bytes=cache_bytes)


def _only_student(found: ModelsConfig) -> str:
    if len(found.students) != 1:
        raise ConfigError(f"which student? --student takes one of: {', '.join(found.students) or 'none is named'}")
    return next(iter(found.students))


def _check_labels(cache: Cache, configuration: Configuration) -> None:
    labels = int(cache.plan.num_labels[cache.plan.indices("train")].sum())
    if configuration.alpha < 1 and labels == 0:
        raise IncompatibleTargets(
            f"alpha = {configuration.alpha:g} needs labels, but no item of the cache's train split has one; "
            f"use --alpha 1"
        )


def finished(folder: Path, key: str) -> RunResult | None:
    """The result in a run folder, if it finished with this key."""
    try:
        result = read_run(folder)
    except RunError:
        return None
    return result if result.key == key else None
