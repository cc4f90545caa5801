"""Decile curves: figures 1, 2 and 3 of the study, each with what pure seed noise would show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kdcache.core.design import Pair
from kdcache.report.answers import QUANTILES, Deciles, Figure3, NullBand, Pick
from kdcache.report.cases import Played, named
from kdcache.report.rewards import NAMES, sides
from kdcache.report.stable import Answer, Tau, at_least
from kdcache.report.statistics.null import Gain

Bands = Callable[[Sequence[Played], Gain, Pick], NullBand | None]
"""Cases, what a null study divides by what, who picks -> the band of such a curve."""


def no_null(_played: Sequence[Played], _like: Gain, _by: Pick) -> None:
    """No band: noise is unknown, or the curve is of means, which two single draws do not imitate."""


def decile_values(gains: Sequence[float]) -> tuple[float, ...]:
    """D0 ... D10.

    Example:
        >>> decile_values([0.0, 1.0, 2.0])[::5]
        (0.0, 1.0, 2.0)
    """
    return tuple(np.quantile(np.asarray(gains, dtype=np.float64), np.arange(11) / 10, method=QUANTILES).tolist())


def curve(name: str, by: Pick, gains: Sequence[tuple[Played, float | None]], null: Bands, like: Gain) -> Deciles | None:
    """The deciles of one gain a case; None if no case has it."""
    names, values, left_out = named([(case.name, gain) for case, gain in gains])
    if not values:
        return None
    return Deciles(
        name=name,
        by=by,
        values=decile_values(values),
        gains=values,
        cases=names,
        null=null([case for case, gain in gains if gain is not None], like, by),
        left_out=left_out,
    )


def figure1(played: Sequence[Played], null: Bands) -> tuple[Deciles, ...]:
    """Best over worst and best over random, by test and by validation; cases with one candidate have neither."""
    own = [case for case in played if len(case.candidates) > 1]
    found = []
    picks: tuple[Pick, Pick] = ("test", "validation")
    for by in picks:
        worst = [(c, c.candidates[c.oracle_worst if by == "test" else c.worst].test()) for c in own]
        over_worst = [(case, case.gain(case.picked(by).test(), score)) for case, score in worst]
        over_random = [(case, case.gain(case.picked(by).test(), case.random)) for case in own]
        found.append(curve("best over worst", by, over_worst, null, "best over worst"))
        found.append(curve("best over random", by, over_random, null, "best over random"))
    return tuple(deciles for deciles in found if deciles is not None)


def figure2(played: Sequence[Played], null: Bands) -> tuple[Deciles, ...]:
    """For each choice the signed gain in test score, alternative over default, of the pairs that the search made."""
    found = []
    for choice in NAMES:
        default, alternative = sides(choice)
        gains = [(case, _pair_gain(case, pair)) for case in played for pair in case.pairs if pair.choice == choice]
        found.append(curve(f"{choice}: {alternative} over {default}", "validation", gains, null, "one over another"))
    return tuple(deciles for deciles in found if deciles is not None)


def _pair_gain(case: Played, pair: Pair) -> float | None:
    return case.gain(case.side(pair.alternative).test(), case.side(pair.default).test())


def figure3(played: Sequence[Played], stable: Answer | None, null: Bands) -> Figure3:
    """Stable, random and lazy over the best by validation, and how often stable is at least as good, over cases of
    several candidates."""

    def over_best(name: str, scores: Sequence[float | None], band: Bands) -> Deciles | None:
        best = [case.picked("validation").test() for case in played]
        gains = [(case, case.gain(s, b)) for case, s, b in zip(played, scores, best, strict=True)]
        return curve(f"{name} over best", "validation", gains, band, "one over another")

    per_case = [None if stable is None else stable.score(case, "per case") for case in played]
    one_tau = [None if stable is None else stable.score(case, "global") for case in played]
    return Figure3(
        stable=over_best("stable", per_case, null),
        stable_global=over_best("stable at one tau", one_tau, null),
        random=over_best("random", [c.random for c in played], no_null),
        lazy=over_best("lazy", [case.lazy_score for case in played], no_null),
        share=share(played, stable, "per case", "validation"),
        share_global=share(played, stable, "global", "validation"),
    )


def share(played: Sequence[Played], stable: Answer | None, tau: Tau, by: Pick) -> float | None:
    """Part of the cases, of those that have it, in which stable is at least as good as the best; None if none has."""
    if stable is None:
        return None
    scores = [(case, stable.score(case, tau)) for case in played]
    won = [at_least(case, score, case.picked(by).test()) for case, score in scores if score is not None]
    return float(np.mean(won)) if won else None
