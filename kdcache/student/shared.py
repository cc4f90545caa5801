"""What the trainings of one process have in common: the opened cache, tokenised splits. Kept, not read again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Shared:
    """Values by key, each made once. Nothing in it may be changed by who is given it."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made by `make` the first time.

        Args:
            key: everything that the value depends on.
            make: called without arguments.
        """
        if key not in self._values:
            self._values[key] = make()
        value: T = self._values[key]
        return value
