"""Table 3: the reward of each choice over the cases, at unequal effort as published and at matched temperatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.design import CHOICES, Pair, Trial
from kdcache.report.answers import Reward, Votes
from kdcache.report.cases import Played
from kdcache.report.statistics.family import sign_test

ALPHA = "alpha"
NAMES = (*CHOICES, ALPHA)


def rewards(played: Sequence[Played]) -> tuple[Reward, ...]:
    """Every choice that some search decided, in the study's order.

    R_p = #(val(alternative) > val(default)) - #(val(alternative) < val(default))
    """
    found = []
    for name in NAMES:
        own = [(case, pair) for case in played for pair in case.pairs if pair.choice == name]
        if own:
            found.append(_reward(name, own))
    return tuple(found)


def signs(played: Sequence[Played]) -> dict[str, int]:
    """Choice -> R, without alpha."""
    return {r.choice: r.tuned.reward for r in rewards(played) if r.choice != ALPHA}


def stable_cell(reward: Mapping[str, int]) -> Configuration:
    """The alternative where R > 0, else the default; alpha 1."""
    changes = {name: choice.alternative for name, choice in CHOICES.items() if reward.get(name, 0) > 0}
    return replace(Configuration(), **changes)  # type: ignore[arg-type]  # the choice decides the option's type


def sides(choice: str) -> tuple[str, str]:
    """Default and alternative as text."""
    if choice == ALPHA:
        return "1", "best under 1"
    return tuple(v if isinstance(v, str) else f"{v:g}" for v in (CHOICES[choice].default, CHOICES[choice].alternative))  # type: ignore[return-value]  # two


def _reward(name: str, own: Sequence[tuple[Played, Pair]]) -> Reward:
    tuned = [case.value(case.side(pair.alternative)) - case.value(case.side(pair.default)) for case, pair in own]
    matched = [m for case, pair in own if (m := matched_difference(case, pair)) is not None]
    efforts = [(len(pair.default.trials), _effort(case, pair)) for case, pair in own]
    default, alternative = sides(name)
    return Reward(
        choice=name,
        default=default,
        alternative=alternative,
        tuned=votes(tuned),
        matched=votes(matched) if matched else None,
        trials_default=float(np.mean([a for a, _ in efforts])),
        trials_alternative=float(np.mean([b for _, b in efforts])),
    )


def votes(differences: Sequence[float]) -> Votes:
    """Count signs; differences within a rounding error are ties.

    Example:
        >>> v = votes([1.0] * 25 + [-1.0] * 14)
        >>> v.reward, round(v.p, 2)
        (11, 0.11)
    """
    tiny = 1e-12
    plus, minus = sum(d > tiny for d in differences), sum(d < -tiny for d in differences)
    return Votes(plus=plus, minus=minus, ties=len(differences) - plus - minus, p=sign_test(plus, minus))


def _effort(case: Played, pair: Pair) -> int:
    """Trainings that the alternative was the best of; of alpha all alphas together."""
    if pair.choice != ALPHA or case.replayed.outcome is None:
        return len(pair.alternative.trials)
    tried = {trial for best in case.replayed.outcome.candidates if best.cell.alpha < 1 for trial in best.trials}
    return len(tried)


def matched_difference(case: Played, pair: Pair) -> float | None:
    """Mean validation difference, alternative minus default, over the temperatures that both sides were trained at.

    At the first learning rate. Of alpha: the mean over all alphas under 1, at the pair's temperature. None where
    nothing is shared.
    """
    values, rate = case.replayed.trials.values, case.replayed.searched.space.learning_rates[0]

    def value(configuration: Configuration) -> float | None:
        return values.get(Trial(configuration=configuration.canonical(), learning_rate=rate))

    one, two = pair.default.cell, pair.alternative.cell
    if pair.choice == ALPHA:
        tau = two.tau_t
        alphas = case.replayed.searched.space.alphas
        asked = [(replace(one, tau_t=tau), replace(two, alpha=alpha)) for alpha in alphas]
    else:
        taus = sorted({t.configuration.tau_t for t in values if t.configuration.alpha == 1})
        asked = [(replace(one, tau_t=tau), replace(two, tau_t=tau)) for tau in taus]
    both = [(value(a), value(b)) for a, b in asked]
    differences = [b - a for a, b in both if a is not None and b is not None]
    return float(np.mean(differences)) if differences else None
