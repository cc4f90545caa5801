"""Tasks: what rows an example has, how they are read from a model, how they are scored."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from kdcache.core.errors import ConfigError
from kdcache.core.types import TaskSettings
from kdcache.tasks.base import Task
from kdcache.tasks.classification import Classification


def _classification(settings: TaskSettings) -> Task:
    return Classification(settings=settings)


TASKS: dict[str, Callable[[TaskSettings], Task]] = {"classification": _classification}
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
    return TASKS[name](settings)
