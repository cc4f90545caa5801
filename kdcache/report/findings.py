"""Everything that `compare` found beside its tables, in one piece; made of `answers` and `evidence`.

Nothing is computed here. Words, units and None are those of `answers`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdcache.report.answers import CaseResult, Deciles, Figure3, RegretRow, Reward, Stable
from kdcache.report.evidence import (
    AcrossCases,
    Calibration,
    FactorialEffect,
    Fidelity,
    NllGain,
    PairedComparison,
    Reliability,
    Response,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A number of the paper beside ours.

    Attributes:
        quantity: e.g. `best over worst, D5, %`.
        paper: as printed, text.
        oracle, honest: ours, best by test and best by validation; None where there is none (`oracle` where the quantity
            does not depend on who picks).
        null_low, null_median, null_high: what seed noise alone would show.
        verdict: in words.
        footnotes: numbers (from 1) into `Published.footnotes`.
    """

    quantity: str
    paper: str
    oracle: str | None
    honest: str | None
    null_low: float | None
    null_median: float | None
    null_high: float | None
    verdict: str
    footnotes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The comparison with the paper; `source` says where its numbers are from."""

    source: str
    cases: int
    rows: tuple[PublishedRow, ...]
    footnotes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoRuns:
    """Is b better than a? Set where exactly two folders (two configurations, or two students) were compared.

    Attributes:
        a, b: what they are: the label; with the student or dataset where those differ.
        comparison: the figures.
        sentence: the finding in one honest sentence.
        limits: what these runs cannot show, sentences.
    """

    a: str
    b: str
    comparison: PairedComparison
    sentence: str
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Trainings that a result needs and that are not among the runs.

    Attributes:
        case: `dataset, student`.
        wanted_by: `greedy pairs`, `lazy`, `stable`, `random` or `hard`.
        configurations: labels, each with its learning rate where several are searched.
        seeds: those that each lacks together.
    """

    case: str
    wanted_by: str
    configurations: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """A run that was left out, and why."""

    folder: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything of docs/statistics.md that these runs allow.

    Attributes:
        baseline: what `paired` and `across` compare with: `hard labels`, `worst`, or a label.
        design: `greedy` or `factorial`, and in `space` what was searched, in words, and how it is known.
        rope: region of practical equivalence, per cent.
        noise: where null bands come from, or why there are none, in words.
        figure1: best over worst and best over random, by test and by validation: up to four.
        figure2: one for each choice, signed, alternative over default, from the pairs that the search compared.
        regret: known in the most cases first, then least mean first.
        missing: and `complete`: what to pass to `kdcache search CONFIG --complete`, e.g. `lazy,stable`; empty: nothing.
        unavailable: what could not be computed and why, sentences.
    """

    baseline: str
    design: str
    space: str
    rope: float
    noise: str
    cases: tuple[CaseResult, ...]
    figure1: tuple[Deciles, ...]
    figure2: tuple[Deciles, ...]
    figure3: Figure3
    rewards: tuple[Reward, ...]
    stable: tuple[Stable, ...]
    regret: tuple[RegretRow, ...]
    paired: tuple[PairedComparison, ...]
    across: tuple[AcrossCases, ...]
    factorial: tuple[FactorialEffect, ...]
    calibration: tuple[Calibration, ...]
    reliability: tuple[Reliability, ...]
    fidelity: tuple[Fidelity, ...]
    nll_gain: NllGain | None
    responses: tuple[Response, ...]
    published: Published | None
    two_runs: TwoRuns | None
    missing: tuple[Missing, ...]
    complete: str
    excluded: tuple[Excluded, ...]
    unavailable: tuple[str, ...]
