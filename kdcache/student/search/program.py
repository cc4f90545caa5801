"""All trainings of one student as pure control: the search, what is trained to complete it, and its further seeds.

A program is a generator as a search is (`core.searching`), but of requests: a trial and a seed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from kdcache.core.configuration import Configuration
from kdcache.core.design import LAZY, WORST, Best, Outcome, Space, Trial, grid
from kdcache.core.searching import DESIGNS, fixed, side_by_side, tune
from kdcache.student.search.settings import Completion, SearchConfig

R = TypeVar("R")
STABLE = Configuration(teacher="t_ll", loss="ce", tau_s=1.0)
"""The cell that the study calls stable; its temperature is tuned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A trial under one seed."""

    trial: Trial
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a student's program found.

    Attributes:
        outcome: of the search, under the first seed.
        completed: cells tuned after the search.
        reported: what further seeds repeat under `replicate: reported`.
        failed: trials that were taken for the worst, under the first seed; no further seed repeats them.
    """

    outcome: Outcome
    completed: tuple[Best, ...]
    reported: tuple[Trial, ...]
    failed: tuple[Trial, ...] = ()


Program = Generator[tuple[Request, ...], Mapping[Request, float], Found]
Asking = Generator[tuple[Trial, ...], Mapping[Trial, float], R]


def program(config: SearchConfig, seeds: Sequence[int]) -> Program:
    """Search under the first seed, complete, then repeat under the others.

    Args:
        config: design, space, completions, what is repeated.
        seeds: at least one.
    """
    space = config.space()
    asked: dict[Trial, float] = {}
    outcome = yield from _under(seeds[0], DESIGNS[config.design](space), asked)
    completed: list[Best] = []
    for what in dict.fromkeys(config.complete):
        completed += yield from _under(seeds[0], _complete(what, space), asked)
    failed = tuple(trial for trial, value in asked.items() if value == WORST)
    reported = tuple(trial for trial in _reported(outcome, completed, config, asked) if trial not in failed)
    trained = tuple(trial for trial in asked if trial not in failed)
    again = {"reported": reported, "all": trained, "none": ()}[config.replicate]
    if again and seeds[1:]:
        yield tuple(Request(trial=trial, seed=seed) for trial in again for seed in seeds[1:])
    return Found(outcome=outcome, completed=tuple(completed), reported=reported, failed=failed)


def _under(
    seed: int, search: Asking[R], asked: dict[Trial, float]
) -> Generator[tuple[Request, ...], Mapping[Request, float], R]:
    """A search of trials as one of requests; what was asked and its score go into `asked`."""
    answer: Mapping[Trial, float] | None = None
    while True:
        try:
            trials = search.send(answer) if answer is not None else next(search)
        except StopIteration as end:
            result: R = end.value
            return result
        requests = {trial: Request(trial=trial, seed=seed) for trial in trials}
        values = yield tuple(requests.values())
        answer = {trial: values[request] for trial, request in requests.items()}
        asked |= answer


def _complete(what: Completion, space: Space) -> Asking[tuple[Best, ...]]:
    known: dict[Trial, float] = {}
    if what == "lazy":
        tunings = [fixed(cell, space, known) for cell in LAZY]
    else:
        tunings = [tune(cell, space, known) for cell in ((STABLE,) if what == "stable" else grid())]
    return tuple((yield from side_by_side(tunings)))


def _lazy(space: Space) -> tuple[Trial, ...]:
    return tuple(Trial(configuration=c.canonical(), learning_rate=space.learning_rates[0]) for c in LAZY)


def _reported(
    outcome: Outcome, completed: Iterable[Best], config: SearchConfig, asked: Mapping[Trial, float]
) -> tuple[Trial, ...]:
    """What a comparison rests on: the best, hard labels, both sides of every choice, the best of every cell; of lazy's
    four what was trained; and where the stable cell was completed, it at each of stage 1's temperatures, since one
    temperature for all cases is chosen only when they are compared."""
    space = config.space()
    bests = [outcome.best, *([outcome.hard] if outcome.hard else []), *completed]
    bests += [best for best in outcome.candidates if best.cell.alpha == 1]
    bests += [side for pair in outcome.pairs for side in (pair.default, pair.alternative)]
    trials = [best.trial for best in bests] + [trial for trial in _lazy(space) if trial in asked]
    if "stable" in config.complete:
        cells = [replace(STABLE, tau_t=tau) for tau in space.temperatures]
        trials += [Trial(configuration=c.canonical(), learning_rate=space.learning_rates[0]) for c in cells]
    return tuple(dict.fromkeys(trials))
