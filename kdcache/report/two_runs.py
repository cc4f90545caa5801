"""Is B better than A? Two run folders, or two folders with the seeds of one configuration each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from kdcache.core.configuration import Configuration
from kdcache.core.design import Trial
from kdcache.report import training
from kdcache.report.evidence import PairedComparison
from kdcache.report.findings import TwoRuns
from kdcache.report.gain import Sampled
from kdcache.report.runs import Run, recorded_rate
from kdcache.report.significance import compare_trained
from kdcache.report.trials import Trained

MANY_SEEDS = 5
"""Fewer get told what they can detect."""
NATS = ("nll", "perplexity")
"""Metrics whose differences are shown in their own unit, not in hundredths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Exactly two folders were given: the runs below each."""

    a: tuple[Run, ...]
    b: tuple[Run, ...]


def sides_of(folders: Sequence[Path], runs: Sequence[Run]) -> Sides | None:
    """The runs of either folder, in the order given; None unless there are two folders with runs of their own."""
    if len(folders) != 2:
        return None
    one, two = (folder.resolve() for folder in folders)
    a = tuple(run for run in runs if run.folder.resolve().is_relative_to(one))
    b = tuple(run for run in runs if run.folder.resolve().is_relative_to(two))
    if not a or not b or {run.folder for run in a} & {run.folder for run in b}:
        return None
    return Sides(a=a, b=b)


def two_runs(sides: Sides | None, sampled: Mapping[str, Sampled], *, seed: int) -> TwoRuns | str | None:
    """The comparison of the two sides.

    Args:
        sides: None where not exactly two folders were given.
        sampled: case name -> resampled scores of its runs.
        seed: of resampled seeds.

    Returns:
        None where a side holds several configurations; a sentence where the two cannot be compared.
    """
    if sides is None:
        return None
    a, b = _one_configuration(sides.a), _one_configuration(sides.b)
    if a is None or b is None:
        return None
    one, two = next(iter(a.runs.values())), next(iter(b.runs.values()))
    refusal = _refusal(one, two)
    if refusal:
        return refusal
    if len(a.runs) == len(b.runs) == 1:
        b = replace(b, runs=dict(zip(a.runs, b.runs.values(), strict=True)))  # two runs, whatever their seeds
    a, b = _labelled(a, b, one, two)
    both = (_of(one, sampled), _of(two, sampled))
    up = one.result.scores["test"][one.result.metric].higher_is_better
    comparison = compare_trained(a, b, both, higher_is_better=up, seed=seed)
    if comparison is None:
        return f"{a.label} and {b.label} have no seed in common, so their seeds cannot be paired; train the same seeds"
    where = " and ".join(dict.fromkeys((_case(one), _case(two))))
    comparison = replace(comparison, case=where)
    return TwoRuns(
        a=a.label,
        b=b.label,
        comparison=comparison,
        sentence=_sentence(comparison),
        limits=tuple(_limits(comparison, one, two)),
    )


def _of(run: Run, sampled: Mapping[str, Sampled]) -> Sampled:
    """The resampled scores that hold a run's."""
    return next(own for own in sampled.values() if run.folder in own.columns)


def _case(run: Run) -> str:
    return f"{run.result.dataset}, {run.result.student}"


def _one_configuration(runs: Sequence[Run]) -> Trained | None:
    """One side; None if it holds several configurations, ways of training, students or datasets, or a seed twice."""
    what = {(_case(run), run.result.configuration.canonical(), recorded_rate(run)) for run in runs}
    by_seed = {run.result.seed: run for run in runs}
    if len(what) > 1 or len(by_seed) < len(runs) or len(training.split([(run, run.result) for run in runs])) > 1:
        return None
    configuration = runs[0].result.configuration
    return Trained(
        trial=Trial(configuration=configuration.canonical()),
        runs=dict(sorted(by_seed.items())),
        label=configuration.label(),
        learning_rate=recorded_rate(runs[0]),
    )


def _refusal(one: Run, two: Run) -> str:
    """Why two runs cannot be compared example by example; empty where they can."""
    a, b = one.result, two.result
    both = f"{one.folder} and {two.folder}"
    if a.metric != b.metric:
        return f"{both} were selected by {a.metric} and {b.metric}, so there is no one difference between them"
    if a.test_digest["test"] != b.test_digest["test"]:
        digests = f"{a.test_digest['test']}, {b.test_digest['test']}"
        return f"{both} were scored on different test examples ({digests}), so the two are not compared with each other"
    signatures = [r.scores["test"][r.metric].signature for r in (a, b)]
    if signatures[0] != signatures[1] or one.statistics.shape != two.statistics.shape:
        return f"{both} computed their test scores differently ({', '.join(signatures)}), so the two are not compared"
    return ""


def _labelled(a: Trained, b: Trained, one: Run, two: Run) -> tuple[Trained, Trained]:
    """Labels that tell the sides apart: with student or dataset, else how they were trained, else the folder."""
    pairs = [
        (one.result.dataset, two.result.dataset),
        (one.result.student, two.result.student),
    ]
    marks: list[list[str]] = [[], []]
    for left, right in pairs:
        if left != right:
            marks[0].append(left)
            marks[1].append(right)
    labels = [", ".join([t.label, *own]) for t, own in zip((a, b), marks, strict=True)]
    if labels[0] == labels[1]:
        names = training.differing(one.result, two.result)
        ways = [training.words(run.result, names) for run in (one, two)]
        labels = [f"{label}, {way}" if way else label for label, way in zip(labels, ways, strict=True)]
    if labels[0] == labels[1]:
        labels = [f"{label} ({run.folder.name})" for label, run in zip(labels, (one, two), strict=True)]
    if labels[0] == labels[1]:
        labels = [f"{label} ({run.folder})" for label, run in zip((a.label, b.label), (one, two), strict=True)]
    return replace(a, label=labels[0]), replace(b, label=labels[1])


def _scale(metric: str) -> tuple[float, str]:
    return (1.0, "") if metric in NATS else (100.0, "points of ")


def _number(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def p_text(p: float) -> str:
    """`p = 0.03`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _sentence(found: PairedComparison) -> str:
    factor, points = _scale(found.metric)
    difference = f"{_number(factor * found.difference)} {points}test {found.metric}"
    of = f"{found.b} against {found.a}"
    if found.low is None or found.high is None or found.p is None:
        return f"{of}: {difference}; no interval, because a resample of the test examples has no score."
    known = f"95 % interval {_number(factor * found.low)} to {_number(factor * found.high)}, {p_text(found.p)}"
    if found.low <= 0 <= found.high:
        return f"{of}: no difference is visible ({difference}, {known}); that does not make them equal."
    better = "better" if found.difference > 0 else "worse"
    chance = "the choice of test examples" if found.covers == "examples" else "test examples and seeds"
    return f"{of}: {better}, {difference} ({known}), more than {chance} would explain."


def _limits(found: PairedComparison, one: Run, two: Run) -> list[str]:
    factor, points = _scale(found.metric)
    said = []
    if found.covers == "examples":
        seeds = dict.fromkeys((one.result.seed, two.result.seed))
        said.append(
            f"One run each ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}): the interval holds "
            "the choice of test examples only. Noise between seeds is not in it and may be larger, so this compares "
            "two trained models and cannot show which configuration is better; train both with more seeds for that."
        )
    elif found.detectable is not None and len(found.seeds) < MANY_SEEDS:
        said.append(
            f"With {len(found.seeds)} seeds only true differences from {factor * found.detectable:.2f} {points}test "
            f"{found.metric} upwards would be found in 4 of 5 such comparisons; a smaller one can hide here."
        )
    for name, left, right in (
        ("students", one.result.student, two.result.student),
        ("datasets", one.result.dataset, two.result.dataset),
    ):
        if left != right:
            said.append(
                f"The {name} differ ({left}, {right}), so this compares runs and says nothing about the configurations."
            )
    differ = _differences(one.result.configuration, two.result.configuration)
    differ += training.differing(one.result, two.result)
    if len(differ) > 1:
        said.append(f"They differ in {' and '.join(differ)}, so no single choice explains the difference.")
    return said


def _differences(one: Configuration, two: Configuration) -> list[str]:
    """Settings in which two configurations differ, as they count; `targets` where one is of hard labels alone."""
    a, b = one.canonical(), two.canonical()
    if a.alpha == 0 or b.alpha == 0:
        return ["targets"] if a.alpha != b.alpha else []
    return [f.name for f in fields(Configuration) if getattr(a, f.name) != getattr(b, f.name) and f.name != "kd_scale"]
