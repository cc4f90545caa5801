"""The stable configuration: one answer for all cases, tested on the cases it came from and on datasets left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.design import Trial
from kdcache.report.answers import Stable
from kdcache.report.cases import Played
from kdcache.report.rewards import signs, stable_cell
from kdcache.report.spaces import tuned
from kdcache.report.trials import Trained

Tau = Literal["per case", "global"]
Found = Trained | tuple[Trial, ...]
"""The trial that stands for a cell in a case, or what is missing for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A cell for a set of cases: the cell, its one temperature, and case name -> its trial under either rule."""

    cell: Configuration
    temperature: float | None
    per_case: Mapping[str, Found]
    one_tau: Mapping[str, Found]

    def score(self, case: Played, tau: Tau) -> float | None:
        """Test score in a case; None if it was not trained there."""
        found = (self.per_case if tau == "per case" else self.one_tau)[case.name]
        return found.test() if isinstance(found, Trained) else None


def cell_label(cell: Configuration) -> str:
    """A cell for tables.

    Example:
        >>> cell_label(Configuration(teacher="t_ll", tau_s=1.0))
        'ce t_ll tau_s=1'
    """
    tau_s = "tied" if cell.tau_s == "tied" else f"{cell.tau_s:g}"
    return f"{cell.loss} {cell.teacher} tau_s={tau_s}"


def answer(training: Sequence[Played], asked: Sequence[Played]) -> Answer:
    """Cell and temperature from the `training` cases, looked up in the `asked` ones."""
    cell = stable_cell(signs(training))
    temperature = global_temperature(cell, training)
    return Answer(
        cell=cell,
        temperature=temperature,
        per_case={case.name: tuned_trial(cell, case) for case in asked},
        one_tau={case.name: _at(cell, temperature, case) for case in asked},
    )


def tuned_trial(cell: Configuration, case: Played) -> Found:
    """A cell with its temperature tuned in the case."""
    found = tuned(cell, case.replayed)
    return found if isinstance(found, tuple) else case.side(found)


def global_temperature(cell: Configuration, training: Sequence[Played]) -> float | None:
    """The temperature of least mean regret by validation, among those trained in every case; ties take the smaller."""
    regrets = [_validation_regrets(cell, case) for case in training]
    shared = sorted(set.intersection(*map(set, regrets))) if regrets else []
    return min(shared, key=lambda tau: float(np.mean([r[tau] for r in regrets]))) if shared else None


def _validation_regrets(cell: Configuration, case: Played) -> dict[float, float]:
    """Temperature -> per cent that the cell falls short of the best validation score of the candidates."""
    best = max(case.value(candidate) for candidate in case.candidates)
    taus = {trial.configuration.tau_t for trial in case.replayed.trials.values if trial.configuration.alpha == 1}
    found = {}
    for tau in taus:
        trained = _at(cell, tau, case)
        if isinstance(trained, Trained):
            found[tau] = 100 * (best - case.value(trained)) / (abs(best) or 1.0)
    return found


def _at(cell: Configuration, tau: float | None, case: Played) -> Found:
    """The cell at one temperature, at the learning rate of the best validation score there."""
    if tau is None:
        return ()
    trials = case.replayed.trials
    configuration = replace(cell, tau_t=tau).canonical()
    asked = [Trial(configuration=configuration, learning_rate=r) for r in case.replayed.searched.space.learning_rates]
    there = [trials.trained[trial] for trial in asked if trial in trials.trained]
    return max(there, key=case.value) if there else (asked[0],)


def stable_results(played: Sequence[Played], whole: Answer) -> tuple[Stable, ...]:
    """In sample, and leaving one dataset out where there are at least two; each with both rules for tau."""
    without: dict[str, Answer] = {}
    datasets = sorted({case.case.dataset for case in played})
    if len(datasets) > 1:
        for dataset in datasets:
            training = [case for case in played if case.case.dataset != dataset]
            without[dataset] = answer(training, [case for case in played if case.case.dataset == dataset])
    taus: tuple[Tau, ...] = ("per case", "global")
    found = [_stable("in sample", tau, played, lambda _: whole) for tau in taus]
    if without:
        found += [_stable("leave one dataset out", t, played, lambda c: without[c.case.dataset]) for t in taus]
    return tuple(stable for stable in found if stable is not None)


def _stable(
    rule: Literal["in sample", "leave one dataset out"],
    tau: Tau,
    played: Sequence[Played],
    of: Callable[[Played], Answer],
) -> Stable | None:
    scores = [(case, of(case).score(case, tau)) for case in played]
    there = [(case, score) for case, score in scores if score is not None]
    regrets = [(regret, case.name) for case, score in there if (regret := case.regret(score)) is not None]
    if not regrets:
        return None
    worst, worst_case = max(regrets)
    cells = Counter(cell_label(case.replayed.trials.real(of(case).cell)) for case, _ in there)
    return Stable(
        rule=rule,
        tau=tau,
        label=cells.most_common(1)[0][0],
        cells=dict(sorted(cells.items())),
        temperature=of(played[0]).temperature if rule == "in sample" and tau == "global" else None,
        share=float(np.mean([at_least(case, score, case.picked("validation").test()) for case, score in there])),
        regret_mean=float(np.mean([regret for regret, _ in regrets])),
        regret_worst=worst,
        worst_case=worst_case,
        cases=len(there),
        left_out=tuple(case.name for case, score in scores if score is None),
    )


def at_least(case: Played, score: float, best: float) -> bool:
    """Whether `score` is at least as good as `best`, up to rounding."""
    return case.replayed.trials.sign * (score - best) >= -1e-12
