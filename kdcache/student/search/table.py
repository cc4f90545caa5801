"""What a search shows while it runs: a table on a terminal, else a line for each training that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

from kdcache.core.design import WORST
from kdcache.student.search.driver import Job, Report

Say = Callable[[str], object]


@dataclass(slots=True)
class _Row:
    """A student's state."""

    planned: int
    done: int = 0
    before: int = 0
    failed: int = 0
    seconds: float = 0.0
    running: list[str] = field(default_factory=list)
    best: float = WORST
    best_label: str = "-"

    @property
    def best_score(self) -> str:
        """For people; `-` before the first."""
        return f"{self.best:.4f}" if self.best > WORST else "-"


class Table:
    """Counts jobs as they are queued, begin and end.

    Args:
        planned: student -> trainings at most.
        say: prints a line, where the output is no terminal.
        slots: jobs at once, for the time left.
        console: a terminal or not; default: stdout's.
    """

    def __init__(self, planned: Mapping[str, int], say: Say, *, slots: int = 1, console: Console | None = None) -> None:
        self._rows = {student: _Row(planned=count) for student, count in planned.items()}
        self._say, self.slots = say, slots
        """Jobs at once; whoever knows that they became more says so."""
        console = console or Console(file=sys.stdout)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._began = time.monotonic()

    def started(self, job: Job) -> None:
        """A job began."""
        self._rows[job.config.student].running.append(job.label)
        self._refresh()

    def ended(self, report: Report) -> None:
        """A job ended."""
        row = self._rows[report.job.config.student]
        row.done += 1
        row.before += report.before
        row.failed += report.value is None
        row.seconds += 0.0 if report.before else report.seconds
        if report.job.label in row.running:
            row.running.remove(report.job.label)
        if report.value is not None and report.value > row.best:
            row.best, row.best_label = report.value, report.job.label
        if self._live is None:
            self._say(self._line(report, row))
        self._refresh()

    def say(self, line: str) -> None:
        """Print a line; on a terminal above the table, which would else be drawn over it."""
        if self._live is None:
            self._say(line)
        else:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def left(self) -> float | None:
        """Seconds to go at most, from the trainings of this search; null before the first."""
        trained = sum(row.done - row.before for row in self._rows.values())
        if not trained:
            return None
        mean = sum(row.seconds for row in self._rows.values()) / trained
        return mean * sum(max(0, row.planned - row.done) for row in self._rows.values()) / self.slots

    def _line(self, report: Report, row: _Row) -> str:
        score = "failed: " + report.error if report.value is None else f"{report.value:.4f}"
        took = "there already" if report.before else f"{report.seconds:.0f} s"
        left = self.left()
        rest = "" if left is None else f"  at most {span(left)} left"
        return f"{report.job.label}  {score}  best {row.best_score}  {row.done} of <= {row.planned}  {took}{rest}"

    def render(self) -> RichTable:
        """The table as it stands."""
        table = RichTable(title=f"search, {span(time.monotonic() - self._began)}")
        for head in ("student", "done", "running", "best so far", "score"):
            table.add_column(head)
        for student, row in self._rows.items():
            done = f"{row.done} of <= {row.planned}" + (f", {row.failed} failed" if row.failed else "")
            table.add_row(student, done, "\n".join(row.running) or "-", row.best_label, row.best_score)
        left = self.left()
        table.caption = "" if left is None else f"at most {span(left)} left"
        return table

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self.render(), refresh=True)

    def __enter__(self) -> Table:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def span(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> span(42), span(600), span(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
