"""Every number of the report as CSV, at full precision, empty where there is none. File names are in `csv_files`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from io import StringIO
from typing import Any

from kdcache.report.answers import CaseResult, Deciles, Reward, Votes
from kdcache.report.findings import Findings
from kdcache.report.gain import CaseTable, Gain
from kdcache.report.study import Study

Record = Mapping[str, object]


def csv_files(study: Study) -> dict[str, str]:
    """Name without `.csv` -> content; `results` and `choices` always, the others where there is something."""
    found: dict[str, Sequence[Record]] = {"results": _results(study), "choices": _choices(study)}
    found |= {name: records for name, records in _findings(study.findings).items() if records}
    return {name: _csv(records) for name, records in found.items()}


def _findings(findings: Findings) -> dict[str, list[Record]]:
    third = findings.figure3
    curves = [*findings.figure1, *findings.figure2]
    curves += [d for d in (third.stable, third.stable_global, third.random, third.lazy) if d is not None]
    return {
        "cases": [_case(case) for case in findings.cases],
        "candidates": [
            {"case": case.name, **_scalars(candidate, skip=("configuration",))}
            for case in findings.cases
            for candidate in case.candidates
        ],
        "deciles": [record for curve in curves for record in _deciles(curve)],
        "gains": [
            {"curve": curve.name, "picked_by": curve.by, "case": case, "gain_percent": gain}
            for curve in curves
            for case, gain in zip(curve.cases, curve.gains, strict=True)
        ],
        "rewards": [_reward(reward) for reward in findings.rewards],
        "stable": [
            {**_scalars(s), "cells": "; ".join(f"{k}: {v}" for k, v in s.cells.items())} for s in findings.stable
        ],
        "regret": [{**_scalars(row, skip=("regrets", "case_names")), "cases": row.cases} for row in findings.regret],
        "regrets": [
            {"label": row.label, "kind": row.kind, "case": case, "regret_percent": regret}
            for row in findings.regret
            for case, regret in zip(row.case_names, row.regrets, strict=True)
        ],
        **_evidence(findings),
    }


def _evidence(findings: Findings) -> dict[str, list[Record]]:
    return {
        "pairs": [_scalars(comparison) for comparison in findings.paired],
        "across": [_scalars(across, skip=("gains", "cases")) for across in findings.across],
        "factorial": [_scalars(effect, skip=("effects", "cases")) for effect in findings.factorial],
        "calibration": [_scalars(calibration) for calibration in findings.calibration],
        "reliability": [
            {"case": r.case, "label": r.label, "confidence": a, "accuracy": b, "count": n}
            for r in findings.reliability
            for a, b, n in zip(r.confidence, r.accuracy, r.count, strict=True)
        ],
        "fidelity": [_scalars(fidelity) for fidelity in findings.fidelity],
        "nll_gain": [_scalars(point) for point in findings.nll_gain.points] if findings.nll_gain else [],
        "response": [
            {**_scalars(response, skip=("points",)), **_scalars(point)}
            for response in findings.responses
            for point in response.points
        ],
        "published": [_scalars(row) for row in findings.published.rows] if findings.published else [],
        "missing": [_scalars(missing) for missing in findings.missing],
        "excluded": [_scalars(excluded) for excluded in findings.excluded],
    }


def _scalars(value: Any, *, skip: Iterable[str] = ()) -> dict[str, object]:
    """Fields of a dataclass, sequences joined by blanks or, of text, by `; `."""
    found: dict[str, object] = {}
    for field in fields(value):
        if field.name not in skip:
            content = getattr(value, field.name)
            if isinstance(content, tuple):
                content = ("; " if any(isinstance(c, str) for c in content) else " ").join(map(str, content))
            found[field.name] = content
    return found


def _case(case: CaseResult) -> Record:
    names = {"oracle_best": case.oracle_best, "oracle_worst": case.oracle_worst, "best": case.best, "worst": case.worst}
    told = _scalars(case, skip=("candidates", *names))
    picked: dict[str, object] = {}
    for name, index in names.items():
        picked[name] = case.candidates[index].label
        picked[f"{name}_test"] = case.candidates[index].test
    return {**told, **picked}


def _deciles(curve: Deciles) -> list[Record]:
    return [
        {
            "curve": curve.name,
            "picked_by": curve.by,
            "decile": f"D{k}",
            "gain_percent": value,
            "null_low": None if curve.null is None else curve.null.low[k],
            "null_median": None if curve.null is None else curve.null.median[k],
            "null_high": None if curve.null is None else curve.null.high[k],
            "cases": len(curve.cases),
        }
        for k, value in enumerate(curve.values)
    ]


def _reward(reward: Reward) -> Record:
    def told(votes: Votes | None, prefix: str) -> dict[str, object]:
        names = ("reward", "plus", "minus", "ties", "p")
        return {f"{prefix}{name}": None if votes is None else getattr(votes, name) for name in names}

    own = _scalars(reward, skip=("tuned", "matched"))
    return {**own, **told(reward.tuned, ""), **told(reward.matched, "matched_")}


def _results(study: Study) -> list[Record]:
    return [_result(table, i) for table in study.cases for i in range(len(table.rows))]


def _result(table: CaseTable, index: int) -> Record:
    row, c = table.rows[index], table.rows[index].configuration
    hard = c.alpha == 0
    return {
        "dataset": table.dataset,
        "student": table.student,
        "configuration": row.label,
        "teacher": "=".join(row.teachers),
        "loss": None if hard else c.loss,
        "tau_t": None if hard else c.tau_t,
        "tau_s": None if hard else c.student_temperature,
        "alpha": c.alpha,
        "seeds": " ".join(map(str, row.seeds)),
        "metric": table.metric,
        "validation": row.validation,
        "test": row.test,
        "test_sd": row.test_sd,
        **_gain("hard", row.over_hard),
        **_gain("worst", row.over_worst),
        "picked_by_validation": int(index == table.picked),
        "picked_by_test": int(index == table.oracle),
        "exactness": "; ".join(row.exactness),
        **{f"test_{name}": value for name, value in row.others.items()},
    }


def _gain(baseline: str, gain: Gain | None) -> dict[str, object]:
    values = (None, None, None) if gain is None else (gain.percent, gain.low, gain.high)
    return dict(zip((f"gain_over_{baseline}_{part}" for part in ("percent", "low", "high")), values, strict=True))


def _choices(study: Study) -> list[Record]:
    """Mean paired differences in test score, in the metric's own unit."""
    return [
        {
            "choice": effect.choice,
            "default": effect.default,
            "alternative": effect.alternative,
            "metric": effect.metric,
            "mean": effect.mean,
            "low": effect.low,
            "high": effect.high,
            "pairs": len(effect.differences),
            "better": effect.better,
            "cases": effect.cases,
            "seeds": " ".join(map(str, effect.seeds)),
        }
        for effect in study.effects
    ]


def _csv(records: Sequence[Record]) -> str:
    text = StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(k for record in records for k in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
