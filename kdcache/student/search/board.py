"""What a search shows while it runs: a live table on a terminal, else a line for each training that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from kdcache.student.search.drive import Event, value

Say = Callable[[str], object]


@dataclass(slots=True)
class Standing:
    """One student's trainings: done now, found finished, queued or running, and the best validation score so far."""

    done: int = 0
    found: int = 0
    waiting: int = 0
    best: float = -float("inf")
    best_label: str = "–"
    shown: str = "–"


class Board:
    """Told of every event of a search.

    Args:
        say: prints a line.
        live: draw a table that is rewritten in place; default: on a terminal.
    """

    def __init__(self, *, say: Say, live: bool | None = None) -> None:
        self._say, self._started = say, time.monotonic()
        self.students: dict[str, Standing] = {}
        terminal = sys.stdout.isatty() if live is None else live
        self._live = Live(console=Console(), refresh_per_second=2) if terminal else None

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def new(self) -> int:
        """Trainings done now."""
        return sum(standing.done for standing in self.students.values())

    @property
    def found(self) -> int:
        """Trainings that were there."""
        return sum(standing.found for standing in self.students.values())

    def __call__(self, event: Event) -> None:
        """Count an event and show it."""
        standing = self.students.setdefault(event.unit.student, Standing())
        if event.result is None:
            standing.waiting += 1
        else:
            standing.done += event.new
            standing.found += not event.new
            standing.waiting -= event.new
            score = event.result.scores["validation"][event.result.metric]
            if value(event.result) > standing.best:
                standing.best, standing.best_label = value(event.result), event.unit.trial.configuration.label()
                standing.shown = f"{score.name} {score.value:.4f}"
            if event.new and self._live is None:
                left = f"{standing.waiting} asked for"
                self._say(
                    f"  {self.new:>4}  {event.unit.label():<46} {score.name} {score.value:.4f}   "
                    f"best {standing.shown.split()[-1]}   {left}, {self.seconds:.0f} s"
                )
        if self._live is not None:
            self._live.update(self.table())

    def table(self) -> Table:
        """A line a student."""
        table = Table(title=f"search, {self.new} trained now, {self.seconds:.0f} s")
        for name in ("student", "done now", "found finished", "running or queued", "best validation", "of"):
            table.add_column(name)
        for student, standing in self.students.items():
            counts = (standing.done, standing.found, standing.waiting)
            table.add_row(student, *map(str, counts), standing.shown, standing.best_label)
        return table

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
