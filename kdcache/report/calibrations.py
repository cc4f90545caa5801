"""Calibration of teachers and students, fidelity, and whether a teacher's NLL predicts the gain of its student."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from kdcache.report.cases import Played
from kdcache.report.evidence import Calibration, Fidelity, NllGain, NllPoint, Reliability
from kdcache.report.runs import Run
from kdcache.report.trials import Trained

Recorded = tuple[str, str, Mapping[str, float]]
"""A teacher as runs recorded it: dataset, name, values."""
FIDELITY = ("agreement", "kl")
"""Names in a run's `extra.fidelity`; older runs have no `kl`."""
LEAST_POINTS = 3
"""For a correlation."""


def calibrations(
    played: Sequence[Played], teachers: Iterable[tuple[str, str, Mapping[str, float]]]
) -> tuple[Calibration, ...]:
    """Teachers on validation as the runs recorded them, then the students shown for each case, on the test."""
    found = [_calibration("teacher", dataset, name, values) for dataset, name, values in teachers]
    for case in played:
        for trained in shown(case):
            values = {name: _mean(trained, name) for name in ("nll", "brier", "ece")}
            values["score"] = trained.test()
            values["temperature"] = _mean_extra(trained, "calibration", "temperature")
            found.append(_calibration("student", case.name, trained.label, values))
    return tuple(found)


def shown(case: Played) -> tuple[Trained, ...]:
    """Hard labels, Hinton's, and the best by validation and by test: each once."""
    named = (case.hard, case.hinton, case.picked("validation"), case.picked("test"))
    return tuple({id(t): t for t in named if t is not None}.values())


def _calibration(kind: str, case: str, label: str, values: Mapping[str, float | None]) -> Calibration:
    return Calibration(
        kind="teacher" if kind == "teacher" else "student",
        case=case,
        label=label,
        score=values.get("score"),
        nll=values.get("nll"),
        brier=values.get("brier"),
        ece=values.get("ece"),
        temperature=values.get("temperature"),
    )


def _mean(trained: Trained, name: str) -> float | None:
    """Mean over seeds of a test score, None unless every run has it."""
    scores = [run.result.scores["test"].get(name) for run in trained.runs.values()]
    values = [score.value for score in scores if score is not None]
    return float(np.mean(values)) if len(values) == len(scores) else None


def _mean_extra(trained: Trained, block: str, name: str) -> float | None:
    found = [_extra(run, block, name) for run in trained.runs.values()]
    values = [value for value in found if value is not None]
    return float(np.mean(values)) if values and len(values) == len(found) else None


def _extra(run: Run, block: str, name: str) -> float | None:
    record = run.result.extra.get(block)
    value = record.get(name) if isinstance(record, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def reliabilities(played: Sequence[Played]) -> tuple[Reliability, ...]:
    """Reliability bins of the students shown, where the runs have them."""
    found = []
    for case in played:
        for trained in shown(case):
            bins = [run.reliability for run in trained.runs.values()]
            there = [b for b in bins if b is not None]
            if there and len(there) == len(bins):
                count, confidence, correct = np.sum(there, axis=0).T
                full = count > 0
                found.append(
                    Reliability(
                        case=case.name,
                        label=trained.label,
                        confidence=tuple((confidence[full] / count[full]).tolist()),
                        accuracy=tuple((correct[full] / count[full]).tolist()),
                        count=tuple(int(n) for n in count[full]),
                    )
                )
    return tuple(found)


def fidelities(played: Sequence[Played]) -> tuple[Fidelity, ...]:
    """Agreement with the teacher and KL of every distilled candidate whose runs recorded one of them."""
    found = []
    for case in played:
        for trained in {id(t): t for t in case.candidates}.values():
            agreement, kl = (_mean_extra(trained, "fidelity", name) for name in FIDELITY)
            if agreement is not None or kl is not None:
                found.append(Fidelity(case=case.name, label=trained.label, agreement=agreement, kl=kl))
    return tuple(found)


def _teacher(case: Played, trained: Trained) -> str:
    return case.replayed.trials.real(trained.trial.configuration).teacher or ""


def nll_gain(played: Sequence[Played], teachers: Iterable[Recorded]) -> NllGain | None:
    """Each teacher's validation NLL beside the gain over hard labels of its best candidate by validation."""
    nll = {(dataset, name): values["nll"] for dataset, name, values in teachers if "nll" in values}
    points: list[NllPoint] = []
    votes: list[bool] = []
    for case in played:
        own = []
        for name in sorted({_teacher(case, c) for c in case.candidates} - {""}):
            mine = [c for c in case.candidates if _teacher(case, c) == name]
            hard = None if case.hard is None else case.hard.test()
            gain = case.gain(max(mine, key=case.value).test(), hard)
            if gain is not None and (case.case.dataset, name) in nll:
                own.append(NllPoint(case=case.name, teacher=name, nll=nll[case.case.dataset, name], gain=gain))
        points += own
        if len(own) == 2 and own[0].nll != own[1].nll and own[0].gain != own[1].gain:
            votes.append((own[0].nll < own[1].nll) == (own[0].gain > own[1].gain))
    if not points:
        return None
    rho, p = None, None
    varied = len({q.nll for q in points}) > 1 and len({q.gain for q in points}) > 1
    if len(points) >= LEAST_POINTS and varied:
        test = spearmanr([q.nll for q in points], [q.gain for q in points])
        rho, p = float(test.statistic), float(test.pvalue)
    within = float(np.mean(votes)) if votes else None
    return NllGain(points=tuple(points), rho=rho, p=p, within=within, within_cases=len(votes))
