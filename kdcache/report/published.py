"""`kdcache compare --against-published`: the paper's numbers, from `published.json`, beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from scipy.stats import binom

from kdcache.core.config import parse
from kdcache.report.answers import Deciles, Reward
from kdcache.report.findings import Published, PublishedRow

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """The printed numbers: gains in per cent by curve and decile (`D5`), rewards by choice, the stable one."""

    source: str
    cases: int
    relative_gain_percent: dict[str, dict[str, float]]
    reward: dict[str, int]
    stable: dict[str, str]
    stable_at_least_best: float
    footnotes: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """What is set beside them; `shares` are of cases with stable >= best, by test and by validation."""

    figure1: Sequence[Deciles]
    rewards: Sequence[Reward]
    stable: str | None
    shares: tuple[float | None, float | None]
    cases: int


def read_paper() -> Paper:
    """`published.json` of the package."""
    tree: Mapping[str, Any] = json.loads(files("kdcache.report").joinpath("published.json").read_text(encoding="utf-8"))
    return parse(Paper, tree, where="published.json")


def against(ours: Ours, paper: Paper) -> Published:
    """Every number of the paper beside ours, with what seed noise alone would show."""
    numbers = {name: i for i, name in enumerate(paper.footnotes, start=1)}
    rows = [
        _gain(curve, decile, value, ours, numbers)
        for curve, deciles in paper.relative_gain_percent.items()
        for decile, value in deciles.items()
    ]
    rows += [_reward(choice, value, ours, numbers) for choice, value in paper.reward.items()]
    rows += [_stable(paper, ours, numbers), _share(paper, ours, numbers)]
    return Published(
        source=paper.source, cases=paper.cases, rows=tuple(rows), footnotes=tuple(paper.footnotes.values())
    )


def _gain(curve: str, decile: str, value: float, ours: Ours, numbers: Mapping[str, int]) -> PublishedRow:
    k = int(decile[1:])
    by = {d.by: d for d in ours.figure1 if d.name == curve}
    oracle, honest = by.get("test"), by.get("validation")
    band = oracle.null if oracle else None
    low, median, high = (None, None, None) if band is None else (band.low[k], band.median[k], band.high[k])
    if oracle is None:
        verdict = "not computed: no case has it"
    elif low is None or high is None:
        verdict = "no null band: noise between seeds is unknown, so ours may be noise"
    else:
        mine = _beside(oracle.values[k], low, high)
        theirs = _beside(value, low, high)
        verdict = f"ours is {mine} what seed noise alone shows; the paper's is {theirs} it"
    return PublishedRow(
        quantity=f"{curve}, {decile}, %",
        paper=f"{value:g}",
        oracle=None if oracle is None else f"{oracle.values[k]:.2f}",
        honest=None if honest is None else f"{honest.values[k]:.2f}",
        null_low=low,
        null_median=median,
        null_high=high,
        verdict=verdict,
        footnotes=(numbers["one_run"], numbers["oracle"]),
    )


def _beside(value: float, low: float, high: float) -> str:
    return "above" if value > high else "below" if value < low else "inside"


def _reward(choice: str, value: int, ours: Ours, numbers: Mapping[str, int]) -> PublishedRow:
    found = next((reward for reward in ours.rewards if reward.choice == choice), None)
    low: float | None = None
    high: float | None = None
    if found is None:
        verdict = "not computed: no search decided this choice"
    else:
        decided = found.tuned.plus + found.tuned.minus
        edges = 2 * binom.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], decided, 0.5) - decided
        low, high = float(edges[0]), float(edges[1])
        same = _sign(found.tuned.reward) == _sign(value)
        p = "" if found.tuned.p is None else f", sign test p {found.tuned.p:.2g}"
        verdict = f"{'the same sign' if same else 'not the same sign'}{p}"
    label = choice if found is None else f"{found.choice}: {found.default} to {found.alternative}"
    return PublishedRow(
        quantity=f"R, {label}",
        paper=_signed(value),
        oracle=None,
        honest=None if found is None else f"{_signed(found.tuned.reward)} of {found.tuned.cases}",
        null_low=low,
        null_median=None if low is None else 0.0,
        null_high=high,
        verdict=verdict,
        footnotes=(numbers["one_run"], numbers["grid"]),
    )


def _signed(value: int) -> str:
    return f"{value:+d}".replace("-", "\N{MINUS SIGN}")


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _stable(paper: Paper, ours: Ours, numbers: Mapping[str, int]) -> PublishedRow:
    theirs = f"{paper.stable['loss']} {paper.stable['teacher']} tau_s={paper.stable['tau_s']}"
    mine = ours.stable
    verdict = (
        "not computed: no search decided a choice" if mine is None else "the same" if mine == theirs else "another"
    )
    return PublishedRow(
        quantity="stable configuration",
        paper=theirs,
        oracle=None,
        honest=mine,
        null_low=None,
        null_median=None,
        null_high=None,
        verdict=verdict,
        footnotes=(numbers["same_cases"], numbers["tau"]),
    )


def _share(paper: Paper, ours: Ours, numbers: Mapping[str, int]) -> PublishedRow:
    by_test, by_validation = ours.shares
    known = by_validation is not None
    return PublishedRow(
        quantity="cases with stable at least as good as best, %",
        paper=f"{100 * paper.stable_at_least_best:g}",
        oracle=None if by_test is None else f"{100 * by_test:.0f}",
        honest=None if by_validation is None else f"{100 * by_validation:.0f}",
        null_low=None,
        null_median=None,
        null_high=None,
        verdict=f"over {ours.cases} of our cases, {paper.cases} of the paper's" if known else "not computed",
        footnotes=(numbers["same_cases"], numbers["tau"], numbers["oracle"]),
    )
