"""`kdcache search --dry-run`: what would be trained, how often, and how long that takes. Writes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdcache.core.design import CHOICES, Space, Trial
from kdcache.core.errors import RunError
from kdcache.core.results import read_run
from kdcache.student.search.control import whole
from kdcache.student.search.settings import SearchConfig, Unit
from kdcache.training.run import RunFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Of one student: how many trainings, and what the finished ones took.

    Attributes:
        fewest, most: over every way that the choices and temperatures can turn out.
        finished: trainings of this student that are there, of this search or not.
        seconds: mean of a finished one; None without any.
    """

    student: str
    fewest: int
    most: int
    finished: int
    seconds: float | None


def forecast(file: RunFile, config: SearchConfig, space: Space, student: str) -> Forecast:
    """Play every way that a search can go, and look at what has finished."""
    counts = [_count(student, config, space, sides, tau) for sides in _sides() for tau in space.temperatures]
    took = []
    for path in sorted((file.students_folder / student).glob("*/result.json")):
        try:
            took.append(sum(read_run(path.parent).seconds.values()))
        except RunError:
            continue  # a run that is being written, or damaged: it will be trained again
    return Forecast(
        student=student,
        fewest=min(counts),
        most=max(counts),
        finished=len(took),
        seconds=sum(took) / len(took) if took else None,
    )


def text(file: RunFile, config: SearchConfig, space: Space, students: Sequence[str], *, jobs: int) -> str:
    """The plan, for people."""
    found = [forecast(file, config, space, student) for student in students]
    taus = ", ".join(f"{tau:g}" for tau in space.temperatures)
    lines = [
        f"{config.design} search of {file.path}: {', '.join(students)}",
        f"  choices       {', '.join(f'{n} ({c.default} or {c.alternative})' for n, c in CHOICES.items())}",
        f"  temperatures  {taus}{', then four near the best' if space.second_stage else ''}",
        f"  alpha         1{''.join(f', {alpha:g}' for alpha in space.alphas)}",
        f"  rates         {', '.join(f'{rate:g}' for rate in space.learning_rates)}",
        f"  seeds         {', '.join(map(str, config.seeds))}",
    ]
    if config.complete:
        lines.append(f"  completed by  {', '.join(config.complete)}")
    for one in found:
        span = f"{one.fewest}" if one.fewest == one.most else f"{one.fewest} to {one.most}"
        lines.append(f"{one.student}: {span} trainings; {one.finished} have finished{_time(one, jobs)}")
    lines.append("The number depends on what wins. Nothing was trained or written.")
    return "\n".join(lines)


def _time(one: Forecast, jobs: int) -> str:
    if one.seconds is None:
        return ", so there is no estimate of the time: train one student first"
    left = one.seconds * max(0, one.most - one.finished) / jobs
    return f", {one.seconds:.0f} s each; at most {left / 60:.0f} min more with {jobs} at once"


def _sides() -> list[tuple[bool, ...]]:
    """Every combination of which side of each choice scores higher."""
    return list(itertools.product((False, True), repeat=len(CHOICES)))


def _count(student: str, config: SearchConfig, space: Space, sides: Sequence[bool], tau: float) -> int:
    """Trainings of a search in which those sides and that temperature are the best."""
    search = whole(student, config, space)
    answer: Mapping[Unit, float] | None = None
    while True:
        try:
            asked = search.send(answer) if answer is not None else next(search)
        except StopIteration as end:
            return len(end.value.units)
        answer = {unit: _score(unit.trial, sides, tau) for unit in asked}


def _score(trial: Trial, sides: Sequence[bool], tau: float) -> float:
    c = trial.configuration
    taken = (c.loss == "mse", c.teacher == "t_ll", c.tau_s != c.tau_t)
    return sum(a == b for a, b in zip(taken, sides, strict=True)) - abs(c.tau_t - tau) / 1e4 - (1 - c.alpha)
