"""What `compare` found, as plain data: tables, effects, teachers and what to say beside them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdcache.core.errors import RunError
from kdcache.report.choices import Effect, Material, effects
from kdcache.report.conclude import Asked, conclude
from kdcache.report.findings import Excluded, Findings
from kdcache.report.gain import CaseTable, group_runs, sample, tabulate
from kdcache.report.options import Options
from kdcache.report.runs import Case, Run
from kdcache.report.two_runs import Sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """One teacher checkpoint as its runs recorded it; `values` holds `score`, `nll`, ... where known."""

    dataset: str
    name: str
    digest: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Everything that the terminal, the HTML report and the files show.

    Attributes:
        unfinished: folders left out because their run has not finished.
        teacher_forwards: summed over the student runs, which must be 0; None if a run did not count them.
        signatures: of the caches that targets came from.
        versions: what the runs recorded, each value once.
        findings: the study's results and their statistics.
    """

    cases: tuple[CaseTable, ...]
    effects: tuple[Effect, ...]
    teachers: tuple[Teacher, ...]
    unfinished: tuple[str, ...]
    num_runs: int
    seeds: tuple[int, ...]
    teacher_forwards: int | None
    signatures: tuple[str, ...]
    versions: tuple[str, ...]
    resamples: int
    seed: int
    findings: Findings


def examine(
    cases: Sequence[Case],
    *,
    resamples: int,
    seed: int,
    unfinished: Sequence[str] = (),
    options: Options | None = None,
    excluded: Sequence[Excluded] = (),
    sides: Sides | None = None,
) -> Study:
    """Tables, gains, effects and teachers of loaded cases.

    Args:
        cases: as `runs.group_cases` gives them.
        resamples: of the test examples, for every interval.
        seed: of the resamples.
        unfinished: folders to name as left out.
        options: baseline, declared family, and more; the defaults by default.
        excluded: runs that were left out, the unfinished ones among them, for the findings.
        sides: where exactly two folders are compared.

    Raises:
        RunError: a run's `extra.teachers` is not a block of teachers, or a damaged record of a search.
        ConfigError: a label in `options` that no run has.
    """
    tables, materials = [], []
    for case in cases:
        groups, notes = group_runs(case)
        sampled = sample(case, resamples=resamples, seed=seed)
        materials.append(Material(case=case, groups=groups, sampled=sampled))
        tables.append(tabulate(case, groups, sampled, notes))
    runs = [run for case in cases for run in case.runs]
    teachers = _teachers(runs)
    asked = Asked(options=options or Options(), resamples=resamples, seed=seed, excluded=tuple(excluded), sides=sides)
    forwards = [run.result.counters.get("teacher_forwards") for run in runs]
    return Study(
        cases=tuple(tables),
        effects=effects(materials),
        teachers=teachers,
        unfinished=tuple(unfinished),
        num_runs=len(runs),
        seeds=tuple(sorted({run.result.seed for run in runs})),
        teacher_forwards=None if None in forwards else sum(f for f in forwards if f is not None),
        signatures=tuple(sorted({run.result.cache_signature for run in runs} - {""})),
        versions=_versions(runs),
        resamples=resamples,
        seed=seed,
        findings=conclude(materials, [(t.dataset, t.name, t.values) for t in teachers], asked),
    )


def _teachers(runs: Sequence[Run]) -> tuple[Teacher, ...]:
    """Each (dataset, name, digest) once, in order of name."""
    found: dict[tuple[str, str, str], Teacher] = {}
    for run in runs:
        teachers = run.result.extra.get("teachers", {})
        if not isinstance(teachers, Mapping) or not all(isinstance(t, Mapping) for t in teachers.values()):
            raise RunError(f"{run.folder}/result.json: extra.teachers is {teachers!r}; it must be name: {{score: ...}}")
        for name, record in teachers.items():
            key = (run.result.dataset, str(name), str(record.get("digest", "")))
            values = {k: float(v) for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)}
            found.setdefault(key, Teacher(dataset=key[0], name=key[1], digest=key[2], values=values))
    return tuple(found[key] for key in sorted(found))


def _versions(runs: Sequence[Run]) -> tuple[str, ...]:
    """`name version` for every library version among the runs."""
    pairs: set[str] = set()
    for run in runs:
        versions = run.result.extra.get("versions", {})
        if isinstance(versions, Mapping):
            pairs.update(f"{name} {version}" for name, version in versions.items())
        if "torch" in run.result.extra:
            pairs.add(f"torch {run.result.extra['torch']}")
    return tuple(sorted(pairs))
