"""What the trainings of one study have in common in one process, read once: cache, tokenizers, encoded items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdcache.cache.reader import LRU_BYTES, Cache
from kdcache.core.errors import CacheMismatch
from kdcache.losses.packed import Teacher
from kdcache.student.keeping import Keeper
from kdcache.student.other_tokens import OtherTokens, match
from kdcache.student.plan import Plan, StudentConfig, open_cache, plan
from kdcache.tasks import make
from kdcache.training import models
from kdcache.training.run import Prepared, RunFile, prepare

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a student's training reads beside the cache.

    Attributes:
        data: the evaluation splits, encoded.
        tokenizer: the student's.
        others: its own training items, where its tokenizer is not the teacher's.
    """

    data: Prepared
    tokenizer: Any
    others: OtherTokens | None


class Shared:
    """Reads once what several trainings of a study need; a training alone uses one of its own.

    Args:
        file: the study.
        cache_bytes: decoded blocks that an open cache keeps.
        several: whether several trainings are to come.
        measure: whether trainings measure how long a GPU works in a step.
    """

    def __init__(
        self, file: RunFile, *, cache_bytes: int = LRU_BYTES, several: bool = False, measure: bool = False
    ) -> None:
        self.file, self.measure = file, measure
        self.keeper = Keeper(several=several)
        self.tables: dict[Path, dict[str, Teacher]] = {}
        """Cache -> teacher -> its head and tables, which go to each device once."""
        self._cache_bytes = cache_bytes
        self._known: dict[tuple[Any, ...], Any] = {}

    def plan(self, config: StudentConfig) -> Plan:
        """See `plan.plan`; the cache is opened once."""
        return plan(self.file, config, opened=lambda: self.cache(config))

    def inputs(self, planned: Plan) -> Inputs:
        """The evaluation splits, the tokenizer, and (where it is not the teacher's) the student's own training items.

        Raises:
            CacheMismatch: other data, or another tokenizer where rows are made of tokens; with both digests.
            DataError: no validation split.
            ModelError: a vocabulary that is too small.
        """
        key = ("inputs", planned.name, planned.cache.root, planned.config.allow_mismatch)
        return self._once(key, lambda: self._read(planned))

    def cache(self, config: StudentConfig) -> Cache:
        """The cache that a configuration trains from.

        Raises:
            KDCacheError: there is none, or no sound one.
        """
        key = ("cache", config.cache)
        return self._once(key, lambda: open_cache(self.file, config, cache_bytes=self._cache_bytes))

    def _read(self, planned: Plan) -> Inputs:
        file, cache, marker = self.file, planned.cache, planned.cache.marker
        source = file.models.student(planned.name)
        tokenizer = self._once(("tokenizer", source.path, source.revision), lambda: models.load_tokenizer(source))
        ours = models.tokenizer_digest(tokenizer)
        task = make(file.dataset.task, file.dataset.task_settings())
        splits = ["validation", *(["test"] if "test" in file.dataset.splits else [])]
        cached_splits = [s for s in file.dataset.splits if s in cache.plan.splits]
        others = marker.tokenizer_digest != ours and not planned.config.allow_mismatch
        cached = cache.items(cache.plan.indices("train")) if others else []
        if others and task.row_names(cached[0]) is None:
            _check_same("tokenizer", marker.tokenizer_digest, ours, planned, reason=task.bound_to_tokens)
        encode = (*splits, *(["train"] if others else []))
        data: Prepared = self._once(
            ("data", ours, encode, tuple(cached_splits)),
            lambda: prepare(file, tokenizer, encode=encode, digest_of=cached_splits),
        )
        _check_same("dataset", marker.dataset_digest, data.digest, planned)
        _check_vocabulary(file, planned, data, num_tokens=len(tokenizer))
        if tuple(marker.labels) != tuple(file.dataset.labels):
            raise CacheMismatch(
                f"the cache's classes are {', '.join(marker.labels)}; "
                f"the dataset's YAML has {', '.join(file.dataset.labels)}"
            )
        matched = match(cached, data.items["train"], data.task) if others else None
        return Inputs(data=data, tokenizer=tokenizer, others=matched)

    def _once(self, key: tuple[Any, ...], make_it: Callable[[], V]) -> V:
        if key not in self._known:
            self._known[key] = make_it()
        found: V = self._known[key]
        return found


def _check_same(what: str, theirs: str, mine: str, planned: Plan, *, reason: str = "") -> None:
    if theirs != mine and not planned.config.allow_mismatch:
        raise CacheMismatch(
            f"the cache {planned.cache.root} was dumped with {what} {theirs}, this run has {mine}"
            f"{f' and {reason}' if reason else ''}; dump again, "
            f"or set student.allow_mismatch: true if you know that they agree"
        )


def _check_vocabulary(file: RunFile, planned: Plan, data: Prepared, *, num_tokens: int) -> None:
    """The student's embedding against the items that are trained on, from the cache, and those scored."""
    config = models.load_config(file.models.student(planned.name))
    splits = list(data.items.values())
    if "train" not in data.items and (planned.config.allow_mismatch or getattr(config, "vocab_size", 0) < num_tokens):
        splits.append(planned.cache.items(planned.cache.plan.indices("train")))  # else the tokenizer vouches for them
    models.check_vocabulary(config, largest_id=models.largest_id(splits), name=f"student {planned.name}")
