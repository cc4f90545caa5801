"""Run folders -> checked runs, grouped into test cases. The only file of the report that reads.

A test case is (dataset, student, way of training): its runs share the examples, the metric and the test set, or are
refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache.core.errors import RunError
from kdcache.core.results import RunResult, read_run, read_statistics, uids_digest
from kdcache.metrics import METRICS, Metric
from kdcache.report import training

# I test examples  S statistics of one run

TRACES = ("config.json", "log.jsonl", "stats.npz")
"""Any of these without a `result.json` is a run that has not finished."""

DEPTH = 2
"""Levels below a given folder, or below the `students` of a study there, in which runs are looked for."""
STUDENTS = "students"

TOLERANCE = 1e-6
"""Between a score in `result.json` and the same score from `stats.npz`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished run with the test statistics of its metric, float64 [I, S].

    `reliability` holds (count, confidence, correct) of every bin, summed over the test: float64 [M, 3], or None.
    """

    folder: Path
    result: RunResult
    statistics: NDArray[np.float64]
    reliability: NDArray[np.float64] | None = None

    @property
    def test(self) -> float:
        """Test score in the metric's own unit."""
        return self.result.scores["test"][self.result.metric].value

    @property
    def validation(self) -> float:
        """Validation score of the checkpoint kept, in the metric's own unit."""
        return self.result.scores["validation"][self.result.metric].value


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The runs of one (dataset, student), trained alike but for the learning rate and comparable example by example.

    `student` is the student's name; where it was trained in several ways, with this way's settings: `base (epochs 3)`.
    """

    dataset: str
    student: str
    metric: Metric
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """`dataset, student`, for sentences."""
        return f"{self.dataset}, {self.student}"

    @property
    def test_digest(self) -> str:
        """Digest of the test uids in order; equal for cases that share a test set."""
        return self.runs[0].result.test_digest["test"]

    @property
    def signature(self) -> str:
        """How the test score was computed."""
        return self.runs[0].result.scores["test"][self.metric.name].signature


def find_runs(folders: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Run folders at or up to two levels below `folders`: (finished, unfinished), each once and sorted.

    Of a study's folder only its `students` are searched, two levels deep: a teacher beside them is no run.

    Raises:
        RunError: a folder that is missing, is itself an unfinished run, or holds no finished run.
    """
    finished: dict[Path, Path] = {}
    unfinished: dict[Path, Path] = {}
    if not folders:
        raise RunError("no run folders were given; give one or more, e.g. kdcache compare runs/demo/students")
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder} is not a folder; give run folders, or a folder that holds them")
        done, open_ = _search(folder, DEPTH)
        if not done and open_ == [folder]:
            raise RunError(f"{folder} has no result.json: the run has not finished; let it finish, or leave it out")
        if not done:
            why = f"only {len(open_)} unfinished" if open_ else "none there or up to two levels below"
            raise RunError(f"{folder} holds no finished run ({why}); a run folder holds result.json and stats.npz")
        finished.update((path.resolve(), path) for path in done)
        unfinished.update((path.resolve(), path) for path in open_)
    return tuple(sorted(finished.values())), tuple(sorted(unfinished.values()))


def _search(folder: Path, depth: int) -> tuple[list[Path], list[Path]]:
    if (folder / "result.json").is_file():
        return [folder], []
    if (folder / STUDENTS).is_dir():
        return _search(folder / STUDENTS, DEPTH)
    done: list[Path] = []
    open_: list[Path] = []
    if depth:
        for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            below = _search(child, depth - 1)
            done += below[0]
            open_ += below[1]
    if not done and not open_ and any((folder / trace).is_file() for trace in TRACES):
        return [], [folder]
    return done, open_


def load_run(folder: Path) -> Run:
    """Read and check one run: finite scores on both splits, and statistics that give the test score.

    Raises:
        RunError: unfinished or damaged, no such metric, a score that is not a number.
    """
    result = read_run(folder)
    if result.metric not in METRICS:
        raise RunError(f"{folder} was selected by {result.metric!r}, which is no metric; known: {', '.join(METRICS)}")
    for split in ("validation", "test"):
        if result.metric not in result.scores.get(split, {}) or split not in result.test_digest:
            raise RunError(f"{folder} has no {split} {result.metric}; evaluate the run on {split} data")
    for split, scores in result.scores.items():
        for name, score in scores.items():
            if not math.isfinite(score.value):
                raise RunError(f"{folder}: {split} {name} is {score.value}, not a number; train the run again")
    statistics = read_statistics(folder, "test")
    values = _checked(folder, result, *statistics)
    return Run(folder=folder, result=result, statistics=values, reliability=_reliability(statistics[1]))


def recorded_rate(run: Run) -> float | None:
    """Peak learning rate that a run recorded."""
    return training.learning_rate(run.result.extra.get("training"))


def _reliability(statistics: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | None:
    bins = statistics.get("ece")
    return None if bins is None or bins.ndim != 2 or bins.shape[1] % 3 else bins.sum(axis=0).reshape(-1, 3)


def _checked(
    folder: Path, result: RunResult, uids: tuple[str, ...], statistics: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    metric = METRICS[result.metric]
    if metric.statistic not in statistics:
        there = ", ".join(sorted(statistics)) or "nothing"
        raise RunError(f"{folder}/stats.npz lacks the test statistic {metric.statistic!r}; it holds {there}")
    values = np.asarray(statistics[metric.statistic], dtype=np.float64)
    if values.ndim != 2 or len(values) != len(uids) or not len(uids) or uids_digest(uids) != result.test_digest["test"]:
        raise RunError(f"{folder}/stats.npz is damaged: its test examples are not those of result.json; train again")
    if not np.isfinite(values).all():
        raise RunError(f"{folder}/stats.npz is damaged: {metric.statistic} holds values that are not numbers")
    expected = result.scores["test"][result.metric].value
    actual = float(metric.finish(values.sum(axis=0)))
    if not abs(actual - expected) <= TOLERANCE * max(1.0, abs(expected)):
        raise RunError(
            f"{folder}/stats.npz is damaged: it gives a test {metric.name} of {actual:.6g}, "
            f"result.json says {expected:.6g}; train the run again"
        )
    return values


def load_runs(folders: Sequence[Path], *, named: Sequence[Path] = ()) -> tuple[tuple[Run, ...], dict[Path, str]]:
    """Load every run that can be used, and say of the others why not.

    Args:
        folders: run folders.
        named: those that were asked for by name; they are refused, not left out.

    Returns:
        The runs, and folder -> reason for those left out.

    Raises:
        RunError: a named run that cannot be used, or none that can.
    """
    runs: list[Run] = []
    left_out: dict[Path, str] = {}
    asked = {path.resolve() for path in named}
    for folder in folders:
        try:
            runs.append(load_run(folder))
        except RunError as error:
            if folder.resolve() in asked:
                raise
            left_out[folder] = str(error)
    if not runs:
        raise RunError(f"no run can be used; the first of {len(left_out)}: {next(iter(left_out.values()))}")
    return tuple(runs), left_out


def group_cases(runs: Iterable[Run]) -> tuple[Case, ...]:
    """Runs by (dataset, student) and way of training, sorted by name; the way of the most runs first.

    Raises:
        RunError: two runs of a case differ in metric, examples or test set; both folders are named.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.result.dataset, run.result.student), []).append(run)
    cases = []
    for (dataset, student), members in sorted(groups.items()):
        for other in members[1:]:
            _check_comparable(members[0], other, where=f"{dataset}, {student}")
        metric = METRICS[members[0].result.metric]
        for way, own in training.split([(run, run.result) for run in members]):
            name = f"{student} ({way})" if way else student
            cases.append(Case(dataset=dataset, student=name, metric=metric, runs=tuple(own)))
    return tuple(cases)


def _check_comparable(one: Run, two: Run, *, where: str) -> None:
    both = f"{one.folder} and {two.folder}"
    a, b = one.result, two.result
    if a.metric != b.metric:
        raise RunError(f"{both} ({where}) were selected by {a.metric} and {b.metric}; compare runs of one metric")
    for split in ("test", "validation"):
        if a.test_digest[split] != b.test_digest[split]:
            raise RunError(
                f"{both} ({where}) were scored on different {split} examples "
                f"({a.test_digest[split]}, {b.test_digest[split]}); compare runs of one {split} set"
            )
        s, t = a.scores[split][a.metric].signature, b.scores[split][b.metric].signature
        if s != t:
            raise RunError(f"{both} ({where}) computed their {split} scores differently ({s}, {t}); score them alike")
    if a.dataset_digest != b.dataset_digest:
        raise RunError(
            f"{both} ({where}) have different data ({a.dataset_digest}, {b.dataset_digest}); "
            "compare runs of one dataset"
        )
    if one.statistics.shape != two.statistics.shape:
        raise RunError(f"{both} ({where}) differ in the number of classes; compare runs of one task")
