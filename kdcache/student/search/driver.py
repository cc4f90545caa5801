"""Several programs driven side by side over one executor; each training is asked of it once. No training happens here.

Pure but for what the executor, and the functions it is given, do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kdcache.core.design import WORST
from kdcache.student.plan import StudentConfig
from kdcache.student.search.packing import Probe
from kdcache.student.search.program import Found, Program, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training: what a request is on this study's cache.

    Attributes:
        config: what to train.
        folder: its run folder; equal trainings share one.
        label: for people.
    """

    config: StudentConfig
    folder: Path
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a job ended.

    Attributes:
        job: which.
        value: validation score, higher is better; null where it failed.
        error: why it failed, one line.
        seconds: it took.
        prepare: of these, before the model was built.
        before: it ended before this search.
        out_of_memory: it failed because its device had no memory left.
        probe: what it measured of its steps; null where it did not.
    """

    job: Job
    value: float | None
    error: str = ""
    seconds: float = 0.0
    prepare: float = 0.0
    before: bool = False
    out_of_memory: bool = False
    probe: Probe | None = None


class Executor(Protocol):
    """Where jobs run."""

    @property
    def slots(self) -> int:
        """Jobs that run side by side; what a job reports may make them more."""

    def submit(self, job: Job) -> None:
        """Queue a job."""

    def wait(self) -> Report:
        """The next report, in the order in which jobs end; there must be a job."""

    def close(self) -> None:
        """Stop whatever still runs."""


@dataclass(slots=True)
class _Case:
    """A student's program, and the requests that it waits for."""

    program: Program
    waiting: dict[Request, Path] = field(default_factory=dict)


class Driver:
    """Drives programs to their ends.

    Args:
        executor: runs jobs.
        resolve: (student, request) -> job.
        finished: the report of a job that ended well before this search, else null.
        skip: take a failed training for the worst score, instead of ending its student's search.
        heard: is told how each job ended.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        resolve: Callable[[str, Request], Job],
        finished: Callable[[Job], Report | None],
        skip: bool,
        heard: Callable[[Report], None],
    ) -> None:
        self._executor, self._resolve, self._finished = executor, resolve, finished
        self._skip, self._heard = skip, heard
        self._cases: dict[str, _Case] = {}
        self._running: set[Path] = set()
        self.reports: dict[Path, Report] = {}
        """Folder -> how its job ended, in that order."""

    @property
    def failures(self) -> list[Report]:
        """Jobs that failed."""
        return [report for report in self.reports.values() if report.value is None]

    def run(self, programs: Mapping[str, Program]) -> dict[str, Found]:
        """Drive every student's program; those that a failure stopped are left out."""
        found: dict[str, Found] = {}
        self._cases = {student: _Case(program) for student, program in programs.items()}
        for student, case in self._cases.items():
            found |= self._advance(student, case, None)
        while self._running:
            report = self._executor.wait()
            self._running.discard(report.job.folder)
            self._note(report)
            for student, case in self._cases.items():
                if case.waiting and not self._running.intersection(case.waiting.values()):
                    found |= self._answer(student, case)
        return found

    def _answer(self, student: str, case: _Case) -> dict[str, Found]:
        values = {request: self.reports[folder].value for request, folder in case.waiting.items()}
        case.waiting = {}
        if None in values.values() and not self._skip:
            return {}
        return self._advance(student, case, {r: WORST if v is None else v for r, v in values.items()})

    def _advance(self, student: str, case: _Case, answer: Mapping[Request, float] | None) -> dict[str, Found]:
        """Send the answer; queue what is asked next. Its result, where it ended."""
        try:
            asked = case.program.send(answer) if answer is not None else next(case.program)
        except StopIteration as end:
            return {student: end.value}
        case.waiting = {request: self._queue(self._resolve(student, request)) for request in asked}
        if self._running.intersection(case.waiting.values()):
            return {}
        return self._answer(student, case)

    def _queue(self, job: Job) -> Path:
        """Have a job run, unless it has, does, or did in an earlier search."""
        if job.folder not in self.reports and job.folder not in self._running:
            report = self._finished(job)
            if report is not None:
                self._note(report)
            else:
                self._running.add(job.folder)
                self._executor.submit(job)
        return job.folder

    def _note(self, report: Report) -> None:
        self.reports[report.job.folder] = report
        self._heard(report)


def names(reports: Iterable[Report]) -> str:
    """Failures for one line; those of one cause together."""
    causes: dict[str, list[str]] = {}
    for report in reports:
        causes.setdefault(report.error, []).append(report.job.label)
    return "; ".join(f"{', '.join(labels)}: {error}" for error, labels in causes.items())
