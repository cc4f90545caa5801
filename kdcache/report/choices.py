"""What each choice did: paired differences between runs that differ in that choice alone.

Two runs are a pair if they are of one test case and one seed, and flipping the one setting in the configuration of the
first gives the configuration of the second, up to equivalence (`Configuration.canonical`). So tied MSE, which is the
same run at every temperature, pairs with tied cross-entropy at each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.errors import ConfigError
from kdcache.report.gain import Group, Sampled
from kdcache.report.runs import Case, Run, recorded_rate
from kdcache.report.statistics.resample import interval

Value = str | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Mean difference in test score, alternative minus default, positive where the alternative is better.

    Attributes:
        choice: `targets` (distilled or hard labels), `loss`, `teacher`, `tau_s` or `alpha`.
        default, alternative: the two sides, as text.
        metric: whose unit the differences have.
        differences: one for every pair of runs.
        low, high: paired bootstrap interval of the mean over test examples; None if a resample has no score.
        cases, seeds: how many test cases and which seeds the pairs come from.
    """

    choice: str
    default: str
    alternative: str
    metric: str
    differences: tuple[float, ...]
    low: float | None
    high: float | None
    cases: int
    seeds: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean over pairs."""
        return float(np.mean(self.differences))

    @property
    def better(self) -> int:
        """Pairs in which the alternative scored better."""
        return sum(d > 0 for d in self.differences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A case with its rows and resampled scores."""

    case: Case
    groups: tuple[Group, ...]
    sampled: Sampled


def effects(materials: Sequence[Material]) -> tuple[Effect, ...]:
    """Every choice that varies among the runs, for each metric apart; choices without a pair are left out."""
    found = []
    for metric in dict.fromkeys(material.case.metric.name for material in materials):
        of_metric = [material for material in materials if material.case.metric.name == metric]
        for choice, default, alternative in _contrasts(of_metric):
            effect = _effect(of_metric, choice, default, alternative)
            if effect is not None:
                found.append(effect)
    return tuple(found)


def _side(configuration: Configuration, choice: str) -> Value:
    """The option that a configuration takes in a choice."""
    if choice == "targets":
        return "hard labels" if configuration.alpha == 0 else "distilled"
    if choice == "tau_s":
        tied = configuration.student_temperature == configuration.tau_t
        return "tied" if tied else configuration.student_temperature
    value: Value = getattr(configuration, choice)
    return value


def _contrasts(materials: Sequence[Material]) -> Iterator[tuple[str, Value, Value]]:
    """(choice, default, alternative) for every pair of options that occurs; the study's default comes first."""
    asked = [c for material in materials for group in material.groups for c in group.asked]
    distilled = [c for c in asked if c.alpha > 0]
    yield "targets", "hard labels", "distilled"
    for choice, default in (("loss", "ce"), ("teacher", "t_hs"), ("tau_s", "tied"), ("alpha", 1.0)):
        options = sorted({_side(c, choice) for c in distilled}, key=lambda v: (v != default, str(v)))
        for alternative in options[1:]:
            yield choice, options[0], alternative


def _effect(materials: Sequence[Material], choice: str, default: Value, alternative: Value) -> Effect | None:
    differences: list[float] = []
    total_B = np.zeros(len(materials[0].sampled.scores))
    cases, seeds = set(), set()
    for material in materials:
        sign = 1.0 if material.case.metric.higher_is_better else -1.0
        for one, two in _pairs(material.groups, choice, default, alternative):
            for seed in (s for s in one.runs if s in two.runs and _alike(one.runs[s], two.runs[s])):
                differences.append(sign * (two.runs[seed].test - one.runs[seed].test))
                total_B += sign * (material.sampled.mean(two, [seed]) - material.sampled.mean(one, [seed]))
                cases.add(material.case.name)
                seeds.add(seed)
    if not differences:
        return None
    low, high = interval(total_B / len(differences)) or (None, None)
    return Effect(
        choice=choice,
        default=_text(default),
        alternative=_text(alternative),
        metric=materials[0].case.metric.name,
        differences=tuple(differences),
        low=low,
        high=high,
        cases=len(cases),
        seeds=tuple(sorted(seeds)),
    )


def _alike(one: Run, two: Run) -> bool:
    """Whether two runs of a case had one learning rate, as far as they recorded it."""
    rates = (recorded_rate(one), recorded_rate(two))
    return None in rates or rates[0] == rates[1]


def _pairs(groups: Sequence[Group], choice: str, default: Value, alternative: Value) -> list[tuple[Group, Group]]:
    """Pairs of rows, default first, that differ in the choice alone; each pair once.

    Two rows are one if setting the choice of some configuration of the first from the default to the alternative gives
    one of the second, or the other way round.
    """
    if choice == "targets":
        sides = [_side(group.asked[0], choice) for group in groups]
        ones = [group for group, side in zip(groups, sides, strict=True) if side == default]
        return [(a, b) for a in ones for b, side in zip(groups, sides, strict=True) if side == alternative]
    own = [group for group in groups if not group.is_hard]
    keys = [group.keys for group in own]
    there = [_flipped(group, choice, default, alternative) for group in own]
    back = [_flipped(group, choice, alternative, default) for group in own]
    return [
        (one, two)
        for i, one in enumerate(own)
        for j, two in enumerate(own)
        if i != j
        and (choice == "teacher" or one.teacher_digest == two.teacher_digest)
        and (there[i] & keys[j] or back[j] & keys[i])
    ]


def _flipped(group: Group, choice: str, before: Value, after: Value) -> set[Configuration | None]:
    """What the configurations of a row become where the choice goes from `before` to `after`."""
    return {_set(c, choice, after) for c in group.asked if _side(c, choice) == before}


def _set(configuration: Configuration, choice: str, value: Value) -> Configuration | None:
    """The canonical form of `configuration` with one setting changed; null where there is none (MSE of a mixture)."""
    changes: dict[str, Value] = {choice: value}
    try:
        return replace(configuration, **changes).canonical()  # type: ignore[arg-type]  # the key decides the option
    except ConfigError:
        return None


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"
