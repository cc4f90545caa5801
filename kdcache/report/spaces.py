"""What a finished search may have tried: read from the record of the search, or inferred from the runs; and its replay.

`kdcache search` writes `search/<student>.json` into the folder of the study, beside `students`. Runs that were trained
one by one have none: then the space is what the runs span, and only choices with both sides among them are in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache.core.configuration import Configuration
from kdcache.core.design import CHOICES, STAGE_1, WORST, Best, Outcome, Space, Trial, grid
from kdcache.core.search_record import SearchRecord, read_record, record_path
from kdcache.core.searching import DESIGNS, replay, tune
from kdcache.report.runs import Case, Run, recorded_rate
from kdcache.report.training import MODEL, learning_rate, settings, way
from kdcache.report.trials import NOTHING, Known, Trials, collect, in_grid

LEVELS = 3
"""Parents of a run folder in which it is looked for: students/<student>/<run> is three deep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The space of a case, its design and seeds, what else the search recorded, and in `source` how they are known."""

    space: Space
    design: str
    seeds: tuple[int, ...]
    source: str
    known: Known = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A case with its search run again on its scores.

    Attributes:
        outcome: None where trials are missing. Without the candidates and pairs of which every training failed.
        lacking: the next trials that the replay needs; more may follow once these are there.
        failed: trials without a run that the search took for the worst.
    """

    trials: Trials
    searched: Searched
    outcome: Outcome | None
    lacking: tuple[Trial, ...]
    failed: tuple[Trial, ...] = ()


def replay_case(case: Case) -> Replayed:
    """Run the search of a case again on its finished runs.

    Raises:
        RunError: a record of the search that cannot be read.
    """
    records = _records(case)
    if len(records) == 1:
        searched = _recorded(records[0])
        return _replayed(collect(case, searched.space.learning_rates, searched.known), searched)
    why = f"inferred from the runs, which are of {len(records)} searches" if records else "inferred from the runs"
    rates = _rates(case)
    found = _inferred(case, rates, why)
    if found.outcome is None and len(rates) > 1:  # rates that were not tuned cell by cell
        found = _inferred(case, rates[:1], why)
    return found


def _inferred(case: Case, rates: Sequence[float], why: str) -> Replayed:
    trials = collect(case, rates)
    return _replayed(trials, replace(_infer(trials, rates), source=why))


def _replayed(trials: Trials, searched: Searched) -> Replayed:
    space = replace(searched.space, hard=False)  # the baseline is no part of what is decided
    found = replay(DESIGNS[searched.design](space), trials.values)
    failed = tuple(trial for trial in trials.values if trial not in trials.trained)
    outcome = _that_trained(found) if isinstance(found, Outcome) else None
    lacking = () if isinstance(found, Outcome) else found
    return Replayed(trials=trials, searched=searched, outcome=outcome, lacking=lacking, failed=failed)


def _that_trained(outcome: Outcome) -> Outcome | None:
    """An outcome without what has no score to show; None where nothing has."""
    candidates = tuple(best for best in outcome.candidates if best.value > WORST)
    pairs = tuple(p for p in outcome.pairs if min(p.default.value, p.alternative.value) > WORST)
    return replace(outcome, candidates=candidates, pairs=pairs) if candidates else None


def tuned(cell: Configuration, replayed: Replayed) -> Best | tuple[Trial, ...]:
    """A cell tuned over temperatures and learning rates on the runs there are, or the next trials it lacks."""
    found = replay(tune(cell, replayed.searched.space, {}), replayed.trials.values)
    return (found.trial,) if isinstance(found, Best) and found.value == WORST else found


def _records(case: Case) -> list[SearchRecord]:
    """Records beside a case's runs of searches that trained in their way."""
    places = {run.folder.parent: run.folder for run in case.runs}  # a look a folder of runs, not a run
    student = case.runs[0].result.student
    paths = {path for folder in places.values() if (path := find_search(folder, student)) is not None}
    return [record for path in sorted(paths) if _of_case(record := read_record(path), case)]


def _recorded(record: SearchRecord) -> Searched:
    used = (record.outcome or {}).get("runs", {})
    known = Known(
        seed=record.seeds[0],
        rate=learning_rate(record.training),
        failed=record.failed,
        folders=frozenset(Path(str(folder)).name for folder in used.values()),
    )
    return Searched(
        space=record.space, design=record.design, seeds=record.seeds, source="recorded by the search", known=known
    )


def _of_case(record: SearchRecord, case: Case) -> bool:
    """Whether a search trained in the way of a case's runs; runs that recorded nothing are taken for it."""
    own = next((found for run in case.runs if (found := way(run.result))), {})
    asked = settings(record.training) | ({MODEL: record.model} if MODEL in own else {})
    if asked.get("precision") == "auto" and "precision" in own:  # runs record what it came to
        asked["precision"] = own["precision"]
    return not own or own == asked


def find_search(folder: Path, student: str) -> Path | None:
    """The record of a student's search above a run folder, the nearest one."""
    for parent in list(folder.resolve().parents)[:LEVELS]:
        path = record_path(parent, student)
        if path.is_file():
            return path
    return None


def _distilled(case: Case) -> list[Run]:
    return [run for run in case.runs if run.result.configuration.alpha > 0]


def _rates(case: Case) -> tuple[float, ...]:
    """Recorded rates, that of the most runs first; one alone is the training's own."""
    counter = Counter(rate for run in _distilled(case) if (rate := recorded_rate(run)) is not None)
    if len(counter) < 2:
        return (0.0,)
    first = max(sorted(counter), key=lambda rate: counter[rate])
    return (first, *sorted(rate for rate in counter if rate != first))


def _infer(trials: Trials, rates: Sequence[float]) -> Searched:
    there = [t.configuration for t in trials.trained if in_grid(t.configuration)]
    full = [c for c in there if c.alpha == 1]
    sides = {
        "loss": {c.loss for c in full} >= {CHOICES["loss"].default, CHOICES["loss"].alternative},
        "teacher": {c.teacher for c in full} >= {CHOICES["teacher"].default, CHOICES["teacher"].alternative},
        "tau_s": any(c.tau_s == c.tau_t for c in full) and any(c.tau_s == 1 != c.tau_t for c in full),
    }
    space = Space(
        order=tuple(name for name in CHOICES if sides[name]),
        temperatures=_temperatures(trials) or (1.0,),
        second_stage=False,
        alphas=tuple(sorted({c.alpha for c in there if c.alpha < 1})),
        learning_rates=tuple(rates),
    )
    stage_1 = tuple(tau for tau in space.temperatures if tau in STAGE_1)
    if len(stage_1) > 1 and len(stage_1) < len(space.temperatures):
        two = replace(space, temperatures=stage_1, second_stage=True)
        if isinstance(replay(tune(Configuration(), two, {}), trials.values), Best):
            space = two
    return Searched(space=space, design="greedy", seeds=trials.seeds, source="inferred from the runs")


def _temperatures(trials: Trials) -> tuple[float, ...]:
    """Temperatures of Hinton's cell; without any of it, those of the cell of the grid that has the most."""
    there = {trial.configuration for trial in trials.values}
    found: list[tuple[float, ...]] = []
    taus = sorted({c.tau_t for c in there if in_grid(c)})
    for cell in grid():
        if cell.loss != "mse" or cell.tau_s != "tied":  # tied MSE is one run at every temperature
            found.append(tuple(tau for tau in taus if replace(cell, tau_t=tau).canonical() in there))
    return found[0] if found[0] else max(found, key=len)


def described(searched: Searched) -> str:
    """The space in words, e.g. `temperatures 1, 4, 16; alpha 0.5, 1; order loss, teacher, tau_s`."""
    space = searched.space
    taus = ", ".join(f"{tau:g}" for tau in space.temperatures) + (" and a second stage" if space.second_stage else "")
    parts = [f"order {', '.join(space.order)}" if space.order else "no choice with both sides"]
    parts += [f"temperatures {taus}", f"alpha {', '.join(f'{a:g}' for a in (*space.alphas, 1.0))}"]
    if len(space.learning_rates) > 1:
        parts.append(f"{len(space.learning_rates)} learning rates")
    return f"{'; '.join(parts)} ({searched.source})"
