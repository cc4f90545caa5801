"""One student's whole search as a generator: the design, what completes it, the other seeds. Pure."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from kdcache.core.configuration import Configuration
from kdcache.core.design import LAZY, Best, Outcome, Space, Trial, grid
from kdcache.core.searching import DESIGNS, tune
from kdcache.student.search.settings import SearchConfig, Unit

STABLE = Configuration(loss="ce", teacher="t_ll", tau_s=1.0)
"""The study's stable configuration; its temperature is tuned."""
Batches = Generator[tuple[Unit, ...], Mapping[Unit, float], "Found"]
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a student's search came to, and every training that belongs to it."""

    student: str
    outcome: Outcome
    units: tuple[Unit, ...]


def whole(student: str, config: SearchConfig, space: Space) -> Batches:
    """Every training of a student: yields batches that may run side by side, is sent validation scores.

    Args:
        student: its name.
        config: seeds, design and what completes it.
        space: of the search, with the learning rates resolved.
    """
    values: dict[Trial, float] = {}
    outcome = yield from _seeded(student, config.seeds[0], DESIGNS[config.design](space), values)
    wanted = [best.trial for best in outcome.candidates if best.cell.alpha == 1]
    wanted += [pair.alternative.trial for pair in outcome.pairs]
    wanted += [best.trial for best in (outcome.best, outcome.hard) if best is not None]
    for name in config.complete:
        wanted += yield from _seeded(student, config.seeds[0], _complete(name, space), values)
    first = tuple(Unit(student=student, trial=trial, seed=config.seeds[0]) for trial in values)
    trials = dict.fromkeys(values if config.replicate == "all" else wanted)
    others = tuple(Unit(student=student, trial=trial, seed=seed) for seed in config.seeds[1:] for trial in trials)
    if others:
        yield others
    return Found(student=student, outcome=outcome, units=(*first, *others))


def _seeded(
    student: str, seed: int, search: Generator[tuple[Trial, ...], Mapping[Trial, float], R], values: dict[Trial, float]
) -> Generator[tuple[Unit, ...], Mapping[Unit, float], R]:
    """A search over trials as one over trainings of one seed; what is known is not asked again."""
    answer: Mapping[Trial, float] | None = None
    while True:
        try:
            asked = search.send(answer) if answer is not None else next(search)
        except StopIteration as end:
            result: R = end.value
            return result
        new = tuple(Unit(student=student, trial=trial, seed=seed) for trial in asked if trial not in values)
        if new:
            found = yield new
            values.update({unit.trial: found[unit] for unit in new})
        answer = {trial: values[trial] for trial in asked}


def _complete(name: str, space: Space) -> Generator[tuple[Trial, ...], Mapping[Trial, float], list[Trial]]:
    """What `compare` needs for one of its reference points; returns the trials that are reported."""
    if name == "lazy":
        trials = [_trial(cell, space) for cell in LAZY]
        yield tuple(trials)
        return trials
    cells: Iterable[Configuration] = (STABLE,) if name == "stable" else grid()
    tuned: list[Best] = []
    for cell in cells:
        tuned.append((yield from tune(cell, space, {})))
    return [best.trial for best in tuned]


def _trial(cell: Configuration, space: Space) -> Trial:
    return Trial(configuration=cell.canonical(), learning_rate=space.learning_rates[0])
