"""The study's design: its choices, what each may be, the configurations that have a name, what a search finds.

Specification: Sultan et al. 2024 (arXiv 2401.06356); where the paper is silent the choices are ours, and are settings
of `Space`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kdcache.core.configuration import Configuration
from kdcache.core.errors import ConfigError

Value = str | float
STAGE_1 = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WORST = float("-inf")
"""The validation score of a trial that failed, where a search goes on without it."""
HARD = Configuration(teacher=None, alpha=0.0)
"""The baseline: hard labels only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One parameter of the study, its default (Hinton's) and its alternative."""

    name: str
    default: Value
    alternative: Value


CHOICES = {
    choice.name: choice
    for choice in (
        Choice(name="loss", default="ce", alternative="mse"),
        Choice(name="teacher", default="t_hs", alternative="t_ll"),
        Choice(name="tau_s", default="tied", alternative=1.0),
    )
}
"""In the order in which greedy search decides them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a search may try."""

    order: tuple[str, ...] = tuple(CHOICES)
    """Choices in the order in which greedy search decides them."""
    temperatures: tuple[float, ...] = STAGE_1
    """Stage 1 of the teacher's temperature, ascending."""
    second_stage: bool = True
    """Four more temperatures between the neighbours of stage 1's best."""
    alphas: tuple[float, ...] = ALPHAS
    """Weights of the teacher under 1 that are tried with the best cell at its temperature."""
    learning_rates: tuple[float, ...] = (0.0,)
    """The first is used for every temperature, the others at the best one. 0: the training's own setting."""
    hard: bool = True
    """Whether the baseline on hard labels belongs to the search."""

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(set(self.order) & set(CHOICES)):
            raise ConfigError(f"order = {', '.join(self.order)}; allowed: each at most once of {', '.join(CHOICES)}")
        rising = all(a < b for a, b in zip(self.temperatures, self.temperatures[1:], strict=False))
        if not self.temperatures or not rising or self.temperatures[0] <= 0:
            raise ConfigError(f"temperatures = {_listed(self.temperatures)}; allowed: rising numbers > 0, at least one")
        if any(not 0 < alpha < 1 for alpha in self.alphas):
            raise ConfigError(
                f"alphas = {_listed(self.alphas)}; allowed: numbers inside (0, 1); alpha 1 is always tried"
            )
        rates = self.learning_rates
        if not rates or len(set(rates)) != len(rates) or min(rates) < 0:
            raise ConfigError(f"learning_rates = {_listed(rates)}; allowed: different numbers > 0, at least one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training of a search: a canonical configuration and a learning rate (0: the training's own)."""

    configuration: Configuration
    learning_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """What tuning found for a cell: the cell as asked for, its best trial, that trial's validation score."""

    cell: Configuration
    trial: Trial
    value: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two sides that a choice was decided between, default first."""

    choice: str
    default: Best
    alternative: Best

    @property
    def sign(self) -> int:
        """+1 where the alternative has the higher validation score, -1 where the default has, 0 at a tie."""
        return (self.alternative.value > self.default.value) - (self.alternative.value < self.default.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search visited and decided.

    Attributes:
        candidates: every tuned cell and every alpha, in the order visited; `best` is the first of the highest score.
        pairs: one for each choice, and one for `alpha` (alpha 1 against the best alpha under 1) where any was tried.
        hard: the baseline, if it belongs to the space.
        cell: the cell that the choices led to, alpha 1.
    """

    candidates: tuple[Best, ...]
    pairs: tuple[Pair, ...]
    hard: Best | None
    cell: Best

    @property
    def best(self) -> Best:
        """Highest validation score among the candidates; at a tie the one visited first."""
        return max(self.candidates, key=lambda best: best.value)


def flip(cell: Configuration, choice: str) -> Configuration:
    """The cell with one choice set to its other option."""
    options = CHOICES[choice]
    there = getattr(cell, choice) == options.alternative
    changes: dict[str, Value] = {choice: options.default if there else options.alternative}
    return replace(cell, **changes)  # type: ignore[arg-type]  # the choice decides the option's type


def grid() -> tuple[Configuration, ...]:
    """The eight cells of loss x teacher x tau_s, Hinton's first."""
    cells = [Configuration()]
    for choice in CHOICES:
        cells = [side for cell in cells for side in (cell, flip(cell, choice))]
    return tuple(cells)


LAZY = tuple(cell for cell in grid() if cell.tau_s == "tied")
"""No search at all: tau 1, alpha 1, both losses, both teachers."""


def _listed(values: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
