"""The study's two searches as pure control, without training or reading.

A search is a generator: it yields trials that may run side by side, is sent their validation scores (higher is
better), and returns an `Outcome`. `student/search` answers it by training; `report` answers it from finished runs
(`replay`) and so learns the same path, pairs and winners, or which trials are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from kdcache.core.configuration import TAU_DIGITS, Configuration
from kdcache.core.design import HARD, LAZY, Best, Outcome, Pair, Space, Trial, flip, grid

Search = Generator[tuple[Trial, ...], Mapping[Trial, float], Outcome]
Tuning = Generator[tuple[Trial, ...], Mapping[Trial, float], Best]
Values = dict[Trial, float]
Result = TypeVar("Result", Outcome, Best)


def greedy(space: Space) -> Search:
    """The paper's search: from Hinton's configuration, one choice after the other, then alpha.

    cur = (CE, t_hs, tied); for each choice: visit the other side, move there if its validation score is higher (a tie
    keeps the default); then every alpha at cur's temperature, learning rate tuned.
    """
    values: Values = {}
    hard, (start,) = yield from _with_hard([tune(Configuration(), space, values)], space, values)
    current, pairs = yield from _decide(start, space, values)
    visited = [start, *(pair.alternative for pair in pairs)]
    return (yield from _finish(space, values, hard, current, visited, pairs))


def factorial(space: Space) -> Search:
    """All eight cells, each tuned, and lazy's four at tau 1: the only design with clean main effects."""
    values: Values = {}
    lazy = [fixed(cell, space, values) for cell in LAZY]
    cells = [tune(cell, space, values) for cell in grid()]
    hard, found = yield from _with_hard([*cells, *lazy], space, values)
    candidates = found[: len(cells)]
    _, pairs = yield from _decide(candidates[0], space, values)
    best = max(candidates, key=lambda b: b.value)
    return (yield from _finish(space, values, hard, best, candidates, pairs))


def _decide(
    current: Best, space: Space, values: Values
) -> Generator[tuple[Trial, ...], Mapping[Trial, float], tuple[Best, list[Pair]]]:
    """From a tuned cell, one choice after the other: where they lead, and the sides of each."""
    pairs = []
    for choice in space.order:
        other = yield from tune(flip(current.cell, choice), space, values)
        pairs.append(Pair(choice=choice, default=current, alternative=other))
        current = other if other.value > current.value else current
    return current, pairs


DESIGNS: dict[str, Callable[[Space], Search]] = {"greedy": greedy, "factorial": factorial}


def tune(
    cell: Configuration, space: Space, values: Values
) -> Generator[tuple[Trial, ...], Mapping[Trial, float], Best]:
    """A cell over its temperatures (two stages), then over the other learning rates at the best one.

    At a tie the smaller temperature, then the earlier learning rate, wins. Equivalent trials (tied MSE at any
    temperature) are one.
    """
    rate = space.learning_rates[0]
    taus = list(space.temperatures)
    yield from _run([_trial(_at(cell, tau), rate) for tau in taus], values)
    if space.second_stage and len({_trial(_at(cell, tau), rate) for tau in taus}) > 1:
        best = _best_tau(cell, taus, rate, values)
        more = second_stage(best, space.temperatures)
        yield from _run([_trial(_at(cell, tau), rate) for tau in more], values)
        taus = sorted({*taus, *more})
    best = _best_tau(cell, taus, rate, values)
    tuned = yield from _tune_rates(_at(cell, best), space, values)
    tried = dict.fromkeys([*(_trial(_at(cell, tau), rate) for tau in taus), *tuned.trials])
    return replace(tuned, cell=cell, trials=tuple(tried))


def second_stage(best: float, temperatures: Sequence[float]) -> tuple[float, ...]:
    """Four values linearly between stage 1's neighbours of its best.

        lo + (b - lo)/3, lo + 2 (b - lo)/3, b + (hi - b)/3, b + 2 (hi - b)/3

    The lowest has no neighbour below: four values between it and the next. The highest has two below and, with a step
    of 2 b above it, two above: 64 gives 42.7, 53.3, 85.3, 106.7.

    Example:
        >>> second_stage(1.0, (1.0, 2.0, 4.0)), second_stage(2.0, (1.0, 2.0, 4.0))
        ((1.2, 1.4, 1.6, 1.8), (1.333333, 1.666667, 2.666667, 3.333333))
    """
    place = list(temperatures).index(best)
    if len(temperatures) == 1:
        low, high = best, 2 * best
    else:
        low = temperatures[place - 1] if place else best
        high = temperatures[place + 1] if place + 1 < len(temperatures) else 2 * best
    if low == best:
        found = [best + (high - best) * step / 5 for step in (1, 2, 3, 4)]
    else:
        found = [start + (end - start) * part / 3 for start, end in ((low, best), (best, high)) for part in (1, 2)]
    return tuple(round(tau, TAU_DIGITS) for tau in found)


def replay(
    search: Generator[tuple[Trial, ...], Mapping[Trial, float], Result], values: Mapping[Trial, float]
) -> Result | tuple[Trial, ...]:
    """Run a search, or the tuning of one cell, on scores that are known.

    Returns:
        The outcome, or the next trials that it needs and `values` lacks.
    """
    answer: Mapping[Trial, float] | None = None
    while True:
        try:
            asked = search.send(answer) if answer is not None else next(search)
        except StopIteration as end:
            result: Result = end.value
            return result
        missing = [trial for trial in asked if trial not in values]
        if missing:
            return tuple(missing)
        answer = {trial: values[trial] for trial in asked}


def _at(cell: Configuration, tau: float) -> Configuration:
    return replace(cell, tau_t=tau)


def _trial(configuration: Configuration, rate: float) -> Trial:
    return Trial(configuration=configuration.canonical(), learning_rate=rate)


def _run(asked: Iterable[Trial], values: Values) -> Generator[tuple[Trial, ...], Mapping[Trial, float], None]:
    """Have those trials run that have not been, all at once."""
    new = tuple(trial for trial in dict.fromkeys(asked) if trial not in values)
    if new:
        values.update((yield new))


def _best_tau(cell: Configuration, taus: Sequence[float], rate: float, values: Values) -> float:
    return max(sorted(taus), key=lambda tau: values[_trial(_at(cell, tau), rate)])


def _tune_rates(configuration: Configuration, space: Space, values: Values) -> Tuning:
    trials = tuple(_trial(configuration, rate) for rate in space.learning_rates)
    yield from _run(trials, values)
    best = max(trials, key=lambda trial: values[trial])
    return Best(cell=configuration, trial=best, value=values[best], trials=trials)


def fixed(configuration: Configuration, space: Space, values: Values) -> Tuning:
    """One trial that nothing is tuned of."""
    trial = _trial(configuration, space.learning_rates[0])
    yield from _run([trial], values)
    return Best(cell=configuration, trial=trial, value=values[trial], trials=(trial,))


def _with_hard(
    tunings: Sequence[Tuning], space: Space, values: Values
) -> Generator[tuple[Trial, ...], Mapping[Trial, float], tuple[Best | None, list[Best]]]:
    """Tunings, and beside them that of the baseline if it belongs to the space."""
    if not space.hard:
        return None, (yield from side_by_side(tunings))
    hard, *found = yield from side_by_side([_tune_rates(HARD, space, values), *tunings])
    return hard, found


def side_by_side(
    tunings: Sequence[Tuning],
) -> Generator[tuple[Trial, ...], Mapping[Trial, float], list[Best]]:
    """Tunings that do not depend on each other: what all of them ask for next is one batch.

    Returns:
        Their results, in the order given.
    """
    found: dict[int, Best] = {}
    answers: dict[int, Mapping[Trial, float] | None] = dict.fromkeys(range(len(tunings)))
    while len(found) < len(tunings):
        asked: dict[int, tuple[Trial, ...]] = {}
        for place, answer in answers.items():
            try:
                asked[place] = tunings[place].send(answer) if answer is not None else next(tunings[place])
            except StopIteration as end:
                found[place] = end.value
        if asked:
            scores = yield tuple(dict.fromkeys(trial for trials in asked.values() for trial in trials))
            answers = {place: {trial: scores[trial] for trial in trials} for place, trials in asked.items()}
    return [found[place] for place in range(len(tunings))]


def _finish(
    space: Space, values: Values, hard: Best | None, cell: Best, candidates: Sequence[Best], pairs: Sequence[Pair]
) -> Search:
    """The alpha sweep of the winning cell, and the outcome."""
    tau = cell.trial.configuration.tau_t  # of the canonical form: tied MSE is the same at any
    swept = [replace(cell.cell, tau_t=tau, alpha=alpha) for alpha in space.alphas]
    found = yield from side_by_side([_tune_rates(configuration, space, values) for configuration in swept])
    pairs = [*pairs]
    if found:
        pairs.append(Pair(choice="alpha", default=cell, alternative=max(found, key=lambda b: b.value)))
    return Outcome(candidates=(*candidates, *found), pairs=tuple(pairs), hard=hard, cell=cell)
