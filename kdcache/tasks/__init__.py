"""Tasks: what rows an example has, how they are read from a model, how they are scored."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from kdcache.core.errors import ConfigError
from kdcache.core.types import TaskSettings
from kdcache.tasks.base import Task
from kdcache.tasks.causal_lm import CausalLM
from kdcache.tasks.classification import Classification
from kdcache.tasks.ner import NER
from kdcache.tasks.qa import QA
from kdcache.tasks.translation import Translation

WINDOWS = ("overlap", "longest_answer", "empty_windows", "normalize")
TRANSLATION = (
    "source_language", "target_language", "source_prefix", "beams", "selection_beams", "length_penalty", "too_long"
)  # fmt: skip
OPTIONS = (*WINDOWS, *TRANSLATION, "packing")
"""Settings of a dataset that not every task has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A task as `make` builds it.

    Attributes:
        build: from a dataset's settings.
        options: those of `OPTIONS` that it has.
    """

    build: Callable[[TaskSettings], Task]
    options: tuple[str, ...] = ()


def _classification(settings: TaskSettings) -> Task:
    return Classification(settings=settings)


def _ner(settings: TaskSettings) -> Task:
    return NER(settings=settings)


def _qa(settings: TaskSettings) -> Task:
    return QA(settings=settings)


def _translation(settings: TaskSettings) -> Task:
    return Translation(settings=settings)


def _causal_lm(settings: TaskSettings) -> Task:
    return CausalLM(settings=settings)


TASKS: dict[str, Kind] = {
    "classification": Kind(build=_classification),
    "ner": Kind(build=_ner),
    "qa": Kind(build=_qa, options=WINDOWS),
    "translation": Kind(build=_translation, options=TRANSLATION),
    "causal_lm": Kind(build=_causal_lm, options=("too_long", "packing")),
}
"""Name in a dataset's YAML -> task."""


def make(name: str, settings: TaskSettings) -> Task:
    """The task of a dataset.

    Args:
        name: a key of `TASKS`.
        settings: of the dataset.

    Raises:
        ConfigError: an unknown name, or settings that the task cannot have.

    Example:
        >>> make("classification", TaskSettings(labels=("no", "yes"), max_length=64, metric="f1")).metrics()[0]
        'f1_binary'
    """
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.5)
        advice = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"task = {name!r} is not known; known: {', '.join(TASKS)}{advice}")
    for option in OPTIONS:
        if option not in TASKS[name].options and getattr(settings, option) is not None:
            raise ConfigError(f"{option} = {getattr(settings, option)!r} means nothing to task {name}; leave it out")
    return TASKS[name].build(settings)
