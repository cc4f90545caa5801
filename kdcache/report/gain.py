"""The table of a test case: a row a configuration, its scores, its gains, and which row would be picked.

Runs of equivalent configurations from one teacher are one row. Scores are means over seeds; a gain uses the seeds that
both rows have. Intervals come from the paired bootstrap of `statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache.core.configuration import Configuration
from kdcache.report.runs import Case, Run, recorded_rate
from kdcache.report.statistics.resample import gain_percent, interval, resampled_scores

# B resamples  R runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The runs of one row: seed -> run, and every configuration that was asked for and came to the same."""

    runs: Mapping[int, Run]
    asked: tuple[Configuration, ...]
    teacher_digest: str
    label: str

    @property
    def keys(self) -> frozenset[Configuration]:
        """Canonical configurations, one for each teacher name."""
        return frozenset(configuration.canonical() for configuration in self.asked)

    @property
    def is_hard(self) -> bool:
        """Trained on hard labels only."""
        return self.asked[0].alpha == 0

    def mean(self, split: str, seeds: Sequence[int] | None = None) -> float:
        """Mean `test` or `validation` score over `seeds`, all by default."""
        runs = [self.runs[seed] for seed in (self.runs if seeds is None else seeds)]
        return float(np.mean([run.test if split == "test" else run.validation for run in runs]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Scores of a case's runs on every resample, float64 [B, R], and the column of each run folder."""

    scores: NDArray[np.float64]
    columns: Mapping[Path, int]

    def mean(self, group: Group, seeds: Sequence[int]) -> NDArray[np.float64]:
        """Mean score of a row over `seeds`, float64 [B]."""
        columns = [self.columns[group.runs[seed].folder] for seed in seeds]
        return np.asarray(self.scores[:, columns].mean(axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Gain in per cent over another row, with its interval, on the seeds both have.

    `low` and `high` are None where a resample has no gain (its baseline is 0).
    """

    percent: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration in the table of a case. Scores are in the metric's own unit.

    Attributes:
        configuration: as asked for; `aliases` are labels of equivalent ones that were asked for too.
        teachers: every name that the teacher has among the runs; two names, one checkpoint.
        test_sd: standard deviation over seeds (n - 1), None with one seed.
        over_hard, over_worst: None for the baseline itself, without a common seed, or with a baseline of 0.
        others: mean over seeds of every other test score.
    """

    label: str
    configuration: Configuration
    aliases: tuple[str, ...]
    teachers: tuple[str, ...]
    seeds: tuple[int, ...]
    validation: float
    test: float
    test_sd: float | None
    over_hard: Gain | None
    over_worst: Gain | None
    exactness: tuple[str, ...]
    others: Mapping[str, float]
    folders: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTable:
    """All rows of a case, best validation score first. `hard`, `worst`, `picked` and `oracle` are indices of rows.

    Candidates for `worst`, `picked` (best by validation) and `oracle` (best by test) are the distillation
    configurations; hard labels are the baseline, not a candidate, unless there is nothing else.
    """

    dataset: str
    student: str
    metric: str
    signature: str
    higher_is_better: bool
    num_test: int
    test_digest: str
    rows: tuple[Row, ...]
    hard: int | None
    worst: int
    picked: int
    oracle: int
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """`dataset, student`."""
        return f"{self.dataset}, {self.student}"


def sample(case: Case, *, resamples: int, seed: int) -> Sampled:
    """Bootstrap the test scores of all runs of a case on the same resampled examples."""
    scores_BR = resampled_scores(
        np.stack([run.statistics for run in case.runs], axis=1),
        case.metric.finish,
        resamples=resamples,
        seed=seed,
        stream=case.test_digest,
    )
    return Sampled(scores=scores_BR, columns={run.folder: i for i, run in enumerate(case.runs)})


def group_runs(case: Case) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """Rows of a case, best validation score first, and a note for every run that is left out.

    Of several learning rates a row takes one, for all seeds. Of several runs with one seed (an equivalent
    configuration) the one with the best validation score stands for them.
    """
    members: dict[tuple[Configuration, str], list[Run]] = {}
    for run in case.runs:
        members.setdefault(_identity(run), []).append(run)
    sign = 1.0 if case.metric.higher_is_better else -1.0
    groups, notes, at_others = [], [], 0
    for (_, teacher), trained in members.items():
        runs = _one_rate(trained, sign)
        at_others += len(trained) - len(runs)
        best = sorted(runs, key=lambda run: (-sign * run.validation, str(run.folder)))
        kept: dict[int, Run] = {}
        for run in best:
            first = kept.setdefault(run.result.seed, run)
            if first is not run:
                notes.append(
                    f"{run.folder} is left out: {first.folder} is the same configuration and seed with "
                    f"{'the same' if first.validation == run.validation else 'a better'} validation score"
                )
        groups.append(_group(runs, dict(sorted(kept.items())), teacher))
    if at_others:
        notes.append(
            f"{case.name}: a configuration that was trained at several learning rates takes the one of the best mean "
            f"validation score; {at_others} {'run' if at_others == 1 else 'runs'} at other rates left out of its table"
        )
    groups.sort(key=lambda group: (-sign * group.mean("validation"), group.label))
    return _distinct_labels(groups), tuple(notes)


def _one_rate(runs: Sequence[Run], sign: float) -> list[Run]:
    """The runs at one learning rate: of the rates with the most seeds that of the best mean validation score."""
    rates: dict[float | None, list[Run]] = {}
    for run in runs:
        rates.setdefault(recorded_rate(run), []).append(run)
    most = max(len({run.result.seed for run in own}) for own in rates.values())
    full = [own for own in rates.values() if len({run.result.seed for run in own}) == most]
    return max(full, key=lambda own: sign * float(np.mean([run.validation for run in own])))


def _identity(run: Run) -> tuple[Configuration, str]:
    """What makes two runs one row: the canonical configuration with the teacher's digest in place of its name."""
    canonical = run.result.configuration.canonical()
    if canonical.alpha == 0:
        return canonical, ""
    # Canonical again: a mixture of two names of one checkpoint is that checkpoint alone.
    same = replace(canonical, teacher=run.result.teacher_digest or canonical.teacher).canonical()
    return same, str(same.teacher)


def _group(runs: Sequence[Run], kept: dict[int, Run], teacher: str) -> Group:
    asked = tuple(dict.fromkeys(run.result.configuration for run in (*kept.values(), *runs)))
    names = sorted({configuration.teacher_label() for configuration in asked})
    label = asked[0].label(teacher=" = ".join(names))
    return Group(runs=kept, asked=asked, teacher_digest=teacher, label=label)


def _distinct_labels(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Two rows of one label (one name, two teachers) get their teacher's digest into it."""
    labels = [group.label for group in groups]
    return tuple(
        replace(group, label=f"{group.label} ({group.teacher_digest[:6]})") if labels.count(group.label) > 1 else group
        for group in groups
    )


def tabulate(case: Case, groups: Sequence[Group], sampled: Sampled, notes: Sequence[str] = ()) -> CaseTable:
    """The table of a case from its rows and their resampled scores."""
    sign = 1.0 if case.metric.higher_is_better else -1.0
    candidates = [i for i, group in enumerate(groups) if not group.is_hard] or list(range(len(groups)))
    test = {i: sign * groups[i].mean("test") for i in candidates}
    hard = next((i for i, group in enumerate(groups) if group.is_hard), None)
    worst = min(candidates, key=lambda i: (test[i], -i))
    baselines = (None if hard is None else groups[hard], groups[worst])
    return CaseTable(
        dataset=case.dataset,
        student=case.student,
        metric=case.metric.name,
        signature=case.signature,
        higher_is_better=case.metric.higher_is_better,
        num_test=len(case.runs[0].statistics),
        test_digest=case.test_digest,
        rows=tuple(_row(case, group, baselines, sampled) for group in groups),
        hard=hard,
        worst=worst,
        picked=candidates[0],
        oracle=max(candidates, key=lambda i: (test[i], -i)),
        notes=tuple(notes),
    )


def _row(case: Case, group: Group, baselines: tuple[Group | None, Group], sampled: Sampled) -> Row:
    scores = [run.test for run in group.runs.values()]
    results = [run.result for run in group.runs.values()]
    names = [n for n in results[0].scores["test"] if n != case.metric.name]
    over_hard, over_worst = (
        None if baseline is None else _gain(group, baseline, sampled, higher_is_better=case.metric.higher_is_better)
        for baseline in baselines
    )
    return Row(
        label=group.label,
        configuration=group.asked[0],
        aliases=tuple(dict.fromkeys(c.label() for c in group.asked if c != group.asked[0])),
        teachers=() if group.is_hard else tuple(sorted({c.teacher_label() for c in group.asked})),
        seeds=tuple(group.runs),
        validation=group.mean("validation"),
        test=group.mean("test"),
        test_sd=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        over_hard=over_hard,
        over_worst=over_worst,
        exactness=tuple(dict.fromkeys(r.exactness for r in results if r.exactness)),
        others={
            name: float(np.mean([r.scores["test"][name].value for r in results]))
            for name in names
            if all(name in r.scores["test"] for r in results)
        },
        folders=tuple(str(run.folder) for run in group.runs.values()),
    )


def _gain(group: Group, baseline: Group, sampled: Sampled, *, higher_is_better: bool) -> Gain | None:
    seeds = tuple(seed for seed in group.runs if seed in baseline.runs)
    if group is baseline or not seeds or baseline.mean("test", seeds) == 0:
        return None
    score, base = np.array(group.mean("test", seeds)), np.array(baseline.mean("test", seeds))
    gains_B = gain_percent(sampled.mean(group, seeds), sampled.mean(baseline, seeds), higher_is_better=higher_is_better)
    low, high = interval(gains_B) or (None, None)
    percent = float(gain_percent(score, base, higher_is_better=higher_is_better))
    return Gain(percent=percent, low=low, high=high, seeds=seeds)
