"""Answers searches by training: several students side by side, each training once, finished ones found again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdcache.core.errors import TrainingError
from kdcache.core.results import RunResult
from kdcache.student.plan import Plan, StudentConfig, finished
from kdcache.student.search.control import Batches, Found
from kdcache.student.search.executors import Executor
from kdcache.student.search.settings import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A training that was queued (no result yet), is done now, or was found finished (not `new`)."""

    unit: Unit
    folder: Path
    result: RunResult | None
    new: bool


@dataclass(slots=True)
class _Student:
    """A search that waits for the trainings it asked for."""

    search: Batches
    asked: tuple[Unit, ...] = ()
    found: Found | None = None


@dataclass(slots=True)
class Driver:
    """Runs searches to their end.

    Attributes:
        executor: where trainings run.
        base: the block `student:`.
        place: a training's plan: its run folder and key.
        tell: is told of every training that is queued, done or found finished.
    """

    executor: Executor
    base: StudentConfig
    place: Callable[[StudentConfig], Plan]
    tell: Callable[[Event], None]
    results: dict[Path, RunResult] = field(default_factory=dict)
    errors: dict[Path, str] = field(default_factory=dict)
    _plans: dict[Unit, Plan] = field(default_factory=dict)
    _numbers: dict[int, Unit] = field(default_factory=dict)
    _running: set[Path] = field(default_factory=set)

    def run(self, searches: Mapping[str, Batches]) -> dict[str, Found]:
        """Every student's search, each as far as its answers are there.

        Raises:
            TrainingError: trainings that failed; the others that ran beside them have finished.
        """
        students = {name: _Student(search) for name, search in searches.items()}
        for student in students.values():
            self._advance(student, None)
        while self._running:
            done = self.executor.wait()
            unit = self._numbers[done.number]
            folder = self._plans[unit].folder
            self._running.discard(folder)
            if done.result is None:
                self.errors[folder] = f"{unit.label()}: {done.error}"
            else:
                self.results[folder] = done.result
                self.tell(Event(unit=unit, folder=folder, result=done.result, new=True))
            if not self.errors:
                for student in students.values():
                    self._answer(student)
        self._check()
        return {name: student.found for name, student in students.items() if student.found is not None}

    def folder(self, unit: Unit) -> Path:
        """Run folder of a training that the search asked for."""
        return self._plans[unit].folder

    def _check(self) -> None:
        if self.errors:
            first = next(iter(self.errors.values()))
            more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
            raise TrainingError(
                f"a trial failed, {first}{more}; the {len(self.results)} that finished are kept, "
                f"the same command goes on from there"
            )

    def _answer(self, student: _Student) -> None:
        while student.found is None and all(self.folder(unit) in self.results for unit in student.asked):
            self._advance(student, {unit: value(self.results[self.folder(unit)]) for unit in student.asked})

    def _advance(self, student: _Student, values: Mapping[Unit, float] | None) -> None:
        """Send a search its answers and take its next questions."""
        try:
            student.asked = student.search.send(values) if values is not None else next(student.search)
        except StopIteration as end:
            student.asked, student.found = (), end.value
            return
        self._start(student.asked)
        if values is None:
            self._answer(student)

    def _start(self, units: Sequence[Unit]) -> None:
        """Find trainings that are there, queue the others; equivalent ones share a folder and are one."""
        for unit in units:
            plan = self._plans.setdefault(unit, self.place(unit.config(self.base)))
            if plan.folder in self.results or plan.folder in self._running:
                continue
            there = finished(plan.folder, plan.key)
            if there is not None:
                self.results[plan.folder] = there
                self.tell(Event(unit=unit, folder=plan.folder, result=there, new=False))
                continue
            number = len(self._numbers)
            self._numbers[number] = unit
            self._running.add(plan.folder)
            self.tell(Event(unit=unit, folder=plan.folder, result=None, new=True))
            self.executor.submit(number, plan.config)


def value(result: RunResult) -> float:
    """Validation score, higher is better.

    Raises:
        TrainingError: it is not a number.
    """
    score = result.scores["validation"][result.metric]
    if not math.isfinite(score.value):
        raise TrainingError(f"the validation {result.metric} of {result.configuration.label()} is {score.value}")
    return score.value if score.higher_is_better else -score.value
