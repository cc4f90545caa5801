"""The runs of a case as trials of a search: which training is which trial, and the scores that a replay needs.

Runs carry names of teachers and learning rates; a search asks for trials. Two names of one checkpoint are one teacher
here, and the rate that a search calls 0 (the training's own) is the one that the search recorded, else that of most
runs. Where all runs learned from one teacher of another name, it stands where a search has t_hs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdcache.core.configuration import Configuration
from kdcache.core.design import CHOICES, WORST, Trial
from kdcache.report.runs import Case, Run, recorded_rate

GRID_LOSSES = (CHOICES["loss"].default, CHOICES["loss"].alternative)
GRID_TEACHERS = (str(CHOICES["teacher"].default), str(CHOICES["teacher"].alternative))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The runs of one trial, seed -> run, and its label for tables."""

    trial: Trial
    runs: Mapping[int, Run]
    label: str
    learning_rate: float | None

    def test(self) -> float:
        """Mean test score over its seeds."""
        return float(np.mean([run.test for run in self.runs.values()]))

    def validation(self, seeds: Sequence[int] = ()) -> float:
        """Mean validation score over `seeds`, all of its own by default."""
        return float(np.mean([self.runs[seed].validation for seed in seeds or self.runs]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """All trials of a case.

    Attributes:
        trained: trial -> runs, under every name that its teacher has.
        seeds: those that decide a replay: shared by all trials of the grid that have the most frequent seed.
        values: validation score over `seeds`, higher is better, of every trial that has them; -inf of a trial that the
            search took for the worst because it failed.
        lone: the only teacher's name, where it is not t_hs but is keyed as t_hs; else None.
        notes: what was set aside, sentences.
    """

    case: Case
    trained: Mapping[Trial, Trained]
    seeds: tuple[int, ...]
    values: Mapping[Trial, float]
    lone: str | None
    notes: tuple[str, ...]

    @property
    def sign(self) -> float:
        """1, or -1 where lower is better."""
        return 1.0 if self.case.metric.higher_is_better else -1.0

    def real(self, configuration: Configuration) -> Configuration:
        """A configuration or cell of the search with the teacher's own name."""
        if self.lone is None or configuration.teacher != GRID_TEACHERS[0]:
            return configuration
        return replace(configuration, teacher=self.lone)

    def distinct(self) -> tuple[Trained, ...]:
        """Every trial once, whatever its teacher is called."""
        return tuple({id(trained): trained for trained in self.trained.values()}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a search recorded beside its space.

    Attributes:
        seed: that decided; None where no search recorded it: the seeds that all share.
        rate: what learning rate 0, the training's own, is; None: that of most runs.
        failed: trials that were taken for the worst.
        folders: names of the run folders that it used; of two runs of one trial and seed they count.
    """

    seed: int | None = None
    rate: float | None = None
    failed: tuple[Trial, ...] = ()
    folders: frozenset[str] = frozenset()


NOTHING = Known()
"""Recorded of runs that no search trained."""


def collect(case: Case, rates: Sequence[float], known: Known = NOTHING) -> Trials:
    """Sort the runs of a case into trials.

    Args:
        case: one dataset and student.
        rates: learning rates of the space as the search names them; 0 is the training's own.
        known: what the search recorded.
    """
    names, notes = _teachers(case)
    first = GRID_TEACHERS[0]
    lone = _lone(case, names) if known.seed is None else None  # a search has t_hs, or says that it failed
    own = _own_rate(case.runs, rates) if known.rate is None else known.rate
    members: dict[Trial, list[Run]] = {}
    for run in case.runs:
        configuration = run.result.configuration.canonical()
        if configuration.alpha > 0 and len(configuration.teachers) == 1:
            name = str(configuration.teacher)
            if names[name].digest != run.result.teacher_digest:
                continue  # another teacher of that name; its note is in `notes`
            configuration = replace(configuration, teacher=first if lone else names[name].representative)
        members.setdefault(Trial(configuration=configuration, learning_rate=_rate(run, rates, own)), []).append(run)
    several = len({trial.learning_rate for trial in members}) > 1
    sign = 1.0 if case.metric.higher_is_better else -1.0
    found: dict[Trial, Trained] = {}
    for trial, runs in members.items():
        same = [lone] if lone and trial.configuration.teacher == first else _same(trial, names)
        trained = _trained(trial, _one_a_seed(runs, sign, known.folders), same, several=several)
        for name in [first] if lone and same else same:
            found[replace(trial, configuration=replace(trial.configuration, teacher=name))] = trained
        if not same:
            found[trial] = trained
    searched = [t for t in found.values() if in_grid(t.trial.configuration)]
    followed = any(known.seed in t.runs for t in searched)
    seeds = (known.seed,) if known.seed is not None and followed else _deciding_seeds(searched)
    if known.seed is not None and searched and not followed:
        notes += (f"{case.name}: no run has seed {known.seed}, by which the search decided; the others' seeds decide",)
    values = dict.fromkeys(known.failed if followed or not searched else (), WORST)
    values |= {t: sign * r.validation(seeds) for t, r in found.items() if seeds and set(seeds) <= set(r.runs)}
    return Trials(case=case, trained=found, seeds=seeds, values=values, lone=lone, notes=notes)


def in_grid(configuration: Configuration) -> bool:
    """Whether a search of the study could ask for it: CE or MSE of one of the two teachers."""
    return configuration.alpha > 0 and configuration.loss in GRID_LOSSES and configuration.teacher in GRID_TEACHERS


@dataclass(frozen=True, slots=True)
class _Teacher:
    digest: str
    representative: str


def _teachers(case: Case) -> tuple[dict[str, _Teacher], tuple[str, ...]]:
    """Name -> checkpoint and the first name of it; of two checkpoints under one name that of the most runs."""
    counts: dict[str, Counter[str]] = {}
    for run in case.runs:
        configuration = run.result.configuration
        if configuration.alpha > 0 and len(configuration.teachers) == 1:
            counts.setdefault(str(configuration.teacher), Counter())[run.result.teacher_digest] += 1
    for run in case.runs:
        recorded = run.result.extra.get("teachers")
        for name, record in recorded.items() if isinstance(recorded, Mapping) else ():
            if name not in counts and isinstance(record, Mapping) and record.get("digest"):
                counts[name] = Counter({str(record["digest"]): 1})
    digests = {name: max(sorted(counter), key=lambda d: counter[d]) for name, counter in counts.items()}
    notes = tuple(
        f"{case.name}: {len(counts[name])} teachers are called {name} ({', '.join(d[:8] for d in sorted(counts[name]))}"
        f"); choices, deciles and regret use {digest[:8]}, which most runs learned from"
        for name, digest in digests.items()
        if len(counts[name]) > 1
    )
    order = sorted(digests, key=lambda name: (name not in GRID_TEACHERS, name))
    first = {digests[name]: name for name in reversed(order)}
    named = {n: _Teacher(d, first[d] if d else n) for n, d in digests.items()}
    return named, notes


def _lone(case: Case, names: Mapping[str, _Teacher]) -> str | None:
    """The one teacher that all runs learned from, unless t_hs is a name of it."""
    used = {
        name for run in case.runs if run.result.configuration.alpha > 0 for name in run.result.configuration.teachers
    }
    lone = next(iter(used)) if len(used) == 1 else None
    first = names.get(GRID_TEACHERS[0])
    return None if lone is None or (first and first.digest == names[lone].digest) else lone


def _same(trial: Trial, names: Mapping[str, _Teacher]) -> list[str]:
    """Every name of the trial's teacher; none for hard labels and mixtures."""
    return sorted(name for name, teacher in names.items() if teacher.representative == trial.configuration.teacher)


def _own_rate(runs: Iterable[Run], rates: Sequence[float]) -> float | None:
    """The recorded rate, not among the search's numbers, that most runs have."""
    found = (recorded_rate(run) for run in runs)
    counter = Counter(r for r in found if r is not None and not any(math.isclose(r, s) for s in rates))
    return max(sorted(counter), key=lambda r: counter[r]) if counter else None


def _rate(run: Run, rates: Sequence[float], own: float | None) -> float:
    recorded = recorded_rate(run)
    if recorded is None:
        return rates[0]
    if 0.0 in rates and recorded == own:
        return 0.0
    return next((rate for rate in rates if math.isclose(rate, recorded)), recorded)


def _one_a_seed(runs: Iterable[Run], sign: float, folders: frozenset[str]) -> dict[int, Run]:
    """Of two runs of one seed that of the search, else that of the better validation score."""
    kept: dict[int, Run] = {}
    for run in sorted(runs, key=lambda r: (r.folder.name not in folders, -sign * r.validation, str(r.folder))):
        kept.setdefault(run.result.seed, run)
    return dict(sorted(kept.items()))


def _trained(trial: Trial, runs: Mapping[int, Run], same: Sequence[str], *, several: bool) -> Trained:
    label = trial.configuration.label(teacher=" = ".join(same) or None)
    rate = recorded_rate(next(iter(runs.values())))
    label += f" lr {rate:g}" if several and rate is not None else ""
    return Trained(trial=trial, runs=runs, label=label, learning_rate=rate)


def _deciding_seeds(trained: Iterable[Trained]) -> tuple[int, ...]:
    """Seeds shared by all that have the most frequent seed (the smallest of equally frequent ones)."""
    sets = [set(t.runs) for t in trained]
    counter = Counter(seed for seeds in sets for seed in seeds)
    if not counter:
        return ()
    main = max(sorted(counter), key=lambda seed: counter[seed])
    return tuple(sorted(set.intersection(*(seeds for seeds in sets if main in seeds))))
