"""What a search may ask for, and how much that is: its program run on made-up scores, for every path."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from kdcache.core.configuration import Configuration
from kdcache.core.design import CHOICES, HARD, LAZY, Space, Trial, flip, grid
from kdcache.core.searching import second_stage
from kdcache.student.search.program import STABLE, Request, program
from kdcache.student.search.settings import SearchConfig

Bounds = tuple[int, int]
MOVE = 10.0
"""How much better the next cell of a made-up path is; more than what a temperature or learning rate adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Made-up scores: the cells of a path better one after the other, each best at a temperature and learning rate.

    Attributes:
        ranks: cell -> how good it is.
        taus: cell -> its best temperature, or what that is near.
        rate: the best learning rate.
    """

    ranks: Mapping[Configuration, float]
    taus: Mapping[Configuration, float]
    rate: float

    def value(self, request: Request) -> float:
        """The score of a trial; of one that belongs to two cells (tau 1), for the cell that is best there, or else so
        that neither is."""
        configuration = request.trial.configuration
        if configuration.alpha < 1:
            return 0.0
        bonus = 0.5 * (request.trial.learning_rate == self.rate)
        of = [cell for cell in self.ranks if _at(cell, configuration.tau_t) == configuration]
        best = [self.ranks[cell] + 1 for cell in of if _at(cell, self.taus[cell]) == configuration]
        near = [self.ranks[cell] + 1 / (2 + abs(configuration.tau_t - self.taus[cell])) for cell in of]
        return bonus + (max(best) if best else min(near))


def requests(config: SearchConfig, seeds: Sequence[int], scenario: Scenario) -> tuple[Request, ...]:
    """All that a program asks for in a scenario."""
    running = program(config, seeds)
    asked: dict[Request, None] = {}
    batch = next(running)
    while True:
        asked |= dict.fromkeys(batch)
        try:
            batch = running.send({request: scenario.value(request) for request in batch})
        except StopIteration:
            return tuple(asked)


def scenarios(space: Space) -> Iterator[Scenario]:
    """Every path, with each of its cells best at one of two temperatures between which counts differ: at 1, where cells
    meet each other and lazy's, and where none meets any."""
    lowest, highest = space.temperatures[0], space.temperatures[-1]
    meeting = 1.0 if 1.0 in space.temperatures else lowest
    apart = second_stage(highest, space.temperatures)[0] if space.second_stage else highest
    ends = tuple(dict.fromkeys((meeting, apart)))
    rates = tuple(dict.fromkeys((space.learning_rates[0], space.learning_rates[-1])))
    for moves in itertools.product((False, True), repeat=len(space.order)):
        current = Configuration()
        ranks = {current: 0.0}
        for choice, move in zip(space.order, moves, strict=True):
            other = flip(current, choice)
            ranks[other] = ranks[current] + (MOVE if move else -MOVE)
            current = other if move else current
        path = list(ranks)
        # Off the path tau_s = 1 is ahead of tied, else MSE at tau_s = 1 would always be best at tau 1, which is tied's.
        for cell in grid():
            ranks.setdefault(cell, -10 * MOVE if cell.tau_s == "tied" else ranks[flip(cell, "tau_s")] + MOVE / 2)
        for taus in itertools.product(ends, repeat=len(path)):
            best = dict.fromkeys(grid(), taus[0]) | dict(zip(path, taus, strict=True))
            for rate in rates:
                yield Scenario(ranks=ranks, taus=best, rate=rate)


def bounds(config: SearchConfig, seeds: Sequence[int], count: Callable[[Sequence[Request]], int] = len) -> Bounds:
    """Fewest and most of what the requests of one student count to, over what the search may find.

    Args:
        config: what may be tried.
        seeds: the first one searches.
        count: of requests; by default how many they are.
    """
    counts = [count(requests(config, seeds, scenario)) for scenario in scenarios(config.space())]
    return min(counts), max(counts)


def possible(config: SearchConfig, seed: int) -> tuple[Request, ...]:
    """Every configuration that the search may train, under its first seed and learning rate; of the alphas one, since
    a cache allows all of them or none."""
    space = config.space()
    taus = set(space.temperatures)
    if space.second_stage:
        taus |= {tau for best in space.temperatures for tau in second_stage(best, space.temperatures)}
    found = [_at(cell, tau) for cell in _reached(config) for tau in sorted(taus)]
    found += [replace(configuration, alpha=alpha) for configuration in list(found) for alpha in space.alphas[:1]]
    found += [cell.canonical() for cell in LAZY if config.design == "factorial" or "lazy" in config.complete]
    rate = space.learning_rates[0]
    found += [HARD.canonical()] if space.hard else []
    trials = [Trial(configuration=c, learning_rate=rate) for c in dict.fromkeys(found)]
    return tuple(Request(trial=trial, seed=seed) for trial in trials)


def _reached(config: SearchConfig) -> list[Configuration]:
    """The cells that a search may tune."""
    kept: set[str] = (
        set() if config.design == "factorial" or "random" in config.complete else set(CHOICES) - set(config.order)
    )
    cells = [cell for cell in grid() if all(getattr(cell, name) == CHOICES[name].default for name in kept)]
    return [*cells, *([STABLE] if "stable" in config.complete and STABLE not in cells else [])]


@cache
def _at(cell: Configuration, tau: float) -> Configuration:
    return replace(cell, tau_t=tau).canonical()
