"""Which trainings are missing, and what they are wanted for."""

from __future__ import annotations

from collections.abc import Sequence

from kdcache.core.design import Trial
from kdcache.report.cases import Played
from kdcache.report.findings import Missing
from kdcache.report.stable import Answer, Found

PAIRS, LAZY, STABLE, RANDOM, HARD = "greedy pairs", "lazy", "stable", "random", "hard"
COMPLETABLE = (LAZY, STABLE, RANDOM)
"""What `kdcache search CONFIG --complete` knows."""


def missing(played: Sequence[Played], stable: Answer | None) -> tuple[Missing, ...]:
    """Per case: for the replay of the search, lazy, the stable configuration, random and hard labels."""
    found = []
    for case in played:
        wanted = [(PAIRS, case.replayed.lacking), (LAZY, case.lazy_lacking if _searched(case) else ())]
        wanted += [(STABLE, _absent(stable, case)), (RANDOM, case.replayed.lacking if _swept(case) else ())]
        for wanted_by, trials in wanted:
            to_train = tuple(t for t in trials if t not in case.replayed.failed)  # those are named as failed
            if to_train:
                found.append(_missing(case, wanted_by, to_train))
        if case.hard is None and case.replayed.searched.space.hard and not _hard_failed(case):
            found.append(Missing(case=case.name, wanted_by=HARD, configurations=("hard labels",), seeds=_seeds(case)))
    return tuple(found)


def _hard_failed(case: Played) -> bool:
    return any(trial.configuration.alpha == 0 for trial in case.replayed.failed)


def complete(found: Sequence[Missing]) -> str:
    """The argument of `--complete` for what is missing; empty where a search cannot help or nothing is missing."""
    return ",".join(name for name in COMPLETABLE if any(m.wanted_by == name for m in found))


def _searched(case: Played) -> bool:
    """Lazy is over both losses and both teachers: it is missed where the teacher was searched."""
    return "teacher" in case.replayed.searched.space.order


def _swept(case: Played) -> bool:
    return bool(case.replayed.searched.space.order or case.replayed.searched.space.alphas)


def _absent(stable: Answer | None, case: Played) -> tuple[Trial, ...]:
    if stable is None:
        return ()
    found: list[Found] = [stable.per_case[case.name], stable.one_tau[case.name]]
    return tuple(dict.fromkeys(trial for f in found if isinstance(f, tuple) for trial in f))


def _seeds(case: Played) -> tuple[int, ...]:
    return case.replayed.searched.seeds or case.replayed.trials.seeds or tuple(case.candidates[0].runs)


def _missing(case: Played, wanted_by: str, trials: Sequence[Trial]) -> Missing:
    several = len(case.replayed.searched.space.learning_rates) > 1
    labels = []
    for trial in trials:
        label = case.replayed.trials.real(trial.configuration).label()
        labels.append(f"{label} lr {trial.learning_rate:g}" if several and trial.learning_rate else label)
    seeds = _seeds(case)
    there = case.replayed.trials.trained
    lacking = {s for t in trials for s in seeds if t not in there or s not in there[t].runs}
    return Missing(
        case=case.name, wanted_by=wanted_by, configurations=tuple(labels), seeds=tuple(sorted(lacking)) or seeds
    )
