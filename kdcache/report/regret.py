"""What it costs to always take one thing: regret of fixed configurations, tuned cells and simple rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from kdcache.core.design import grid
from kdcache.report.answers import RegretRow
from kdcache.report.cases import Played
from kdcache.report.stable import cell_label, tuned_trial
from kdcache.report.trials import Trained

Kind = Literal["fixed", "tuned", "rule"]


def regret_rows(played: Sequence[Played]) -> tuple[RegretRow, ...]:
    """Every row over cases of several candidates, those known in the most cases first, then by least mean.

    regret = -100 (score / best - 1), best: the best candidate of the case by test score
    """
    rows = [*_fixed(played), *_tuned(played), *_rules(played)]
    found = [row for row in rows if row is not None]
    return tuple(sorted(found, key=lambda row: (-row.cases, row.mean, row.label)))


def _row(label: str, kind: Kind, scores: Sequence[tuple[Played, float | None]], num_cases: int) -> RegretRow | None:
    regrets = [(case.name, regret) for case, score in scores if (regret := case.regret(score)) is not None]
    if not regrets:
        return None
    worst_case, worst = max(regrets, key=lambda r: r[1])
    return RegretRow(
        label=label,
        kind=kind,
        mean=float(np.mean([regret for _, regret in regrets])),
        worst=worst,
        worst_case=worst_case,
        regrets=tuple(regret for _, regret in regrets),
        case_names=tuple(name for name, _ in regrets),
        of=num_cases,
    )


def _fixed(played: Sequence[Played]) -> list[RegretRow | None]:
    """Configurations by label; of several learning rates the one of the best validation score, case by case."""
    scores: dict[str, dict[str, tuple[Played, Trained]]] = {}
    for case in played:
        for trial, trained in case.replayed.trials.trained.items():  # under every name that its teacher has
            label = case.replayed.trials.real(trial.configuration).label()
            there = scores.setdefault(label, {})
            if case.name not in there or case.value(trained) > case.value(there[case.name][1]):
                there[case.name] = (case, trained)
    return [
        _row(label, "fixed", [(case, trained.test()) for case, trained in own.values()], len(played))
        for label, own in scores.items()
    ]


def _tuned(played: Sequence[Played]) -> list[RegretRow | None]:
    """The eight cells, temperature tuned in each case; only where there is more than one temperature to tune."""
    scores: dict[str, list[tuple[Played, float | None]]] = {}
    for case in played:
        several = len(case.replayed.searched.space.temperatures) > 1
        for cell in grid() if several else ():
            found = tuned_trial(cell, case)
            if isinstance(found, Trained):
                label = f"{cell_label(case.replayed.trials.real(cell))}, tau tuned"
                scores.setdefault(label, []).append((case, found.test()))
    return [_row(label, "tuned", own, len(played)) for label, own in scores.items()]


def _rules(played: Sequence[Played]) -> list[RegretRow | None]:
    return [
        _row("search, by validation", "rule", [(c, c.picked("validation").test()) for c in played], len(played)),
        _row("random candidate", "rule", [(c, c.random) for c in played], len(played)),
        _row("lazy", "rule", [(c, c.lazy_score) for c in played], len(played)),
    ]
