"""What the paper lacks, as plain data: paired comparisons, calibration, responses. Nothing is computed here.

Words, units and None are those of `answers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Two configurations of one case on the same test examples; positive where `b` is better than `a`.

    Attributes:
        difference, low, high: of the test score, metric's own unit; low and high are None without an interval.
        gain: difference in per cent of a's score; None where that is 0.
        p: two-sided, of no difference.
        holm_p: adjusted for all declared comparisons of the report; None if this one is not declared.
        method: how the interval was made, in words, e.g. `bootstrap over seeds and examples`.
        covers: what the interval holds: `examples` alone, or `seeds and examples`.
        seeds: those that both have.
        probability: that a run of b scores better than one of a (probability of improvement); None with one seed.
        detectable: minimum difference that these seeds would show (power .8, level .05), metric's unit; None with one.
    """

    case: str
    metric: str
    a: str
    b: str
    difference: float
    low: float | None
    high: float | None
    gain: float | None
    p: float | None
    holm_p: float | None
    method: str
    covers: Literal["examples", "seeds and examples"]
    seeds: tuple[int, ...]
    probability: float | None
    detectable: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AcrossCases:
    """Two things over all cases: is `b` better than `a` in general? Positive gains where b is better.

    Attributes:
        gains, cases: per cent of a's test score, one a case, and its name.
        mean, low, high: mean gain and its cluster-bootstrap interval over datasets; None with one dataset.
        datasets: how many.
        wilcoxon_p: signed-rank test on dataset means; None where there are too few datasets, or all are 0.
        worse, equal, better: Bayesian signed-rank probabilities on dataset means, with `rope` per cent called equal.
    """

    a: str
    b: str
    gains: tuple[float, ...]
    cases: tuple[str, ...]
    mean: float
    low: float | None
    high: float | None
    datasets: int
    wilcoxon_p: float | None
    worse: float | None
    equal: float | None
    better: float | None
    rope: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorialEffect:
    """A main effect or interaction over the full grid of eight tuned cells, per cent of the grid's mean test score.

    Attributes:
        name: `loss`, or `loss x teacher` for an interaction.
        effects, cases: one a case, and its name.
        mean, low, high: over cases, cluster bootstrap over datasets; no interval with one dataset.
    """

    name: str
    effects: tuple[float, ...]
    cases: tuple[str, ...]
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How well probabilities fit: of a teacher on validation, of a student on the test (mean over seeds).

    Attributes:
        kind: `teacher` or `student`.
        case: dataset of a teacher, `dataset, student` of a student.
        label: name of the teacher, or the student's configuration.
        score: the metric that checkpoints are selected by.
        temperature: the best one to divide logits by; None where it was not recorded. So are the others.
    """

    kind: Literal["teacher", "student"]
    case: str
    label: str
    score: float | None
    nll: float | None
    brier: float | None
    ece: float | None
    temperature: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Reliability diagram of a student on the test, summed over seeds; only bins with examples.

    Attributes:
        confidence, accuracy: mean in each bin, in [0, 1].
        count: examples in the bin.
    """

    case: str
    label: str
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How closely a student follows its teacher on validation, as runs recorded it (mean over seeds).

    `agreement`: share of rows with the same most probable class. `kl`: mean KL(teacher || student), nats, a lower bound
    where rows are sparse.
    """

    case: str
    label: str
    agreement: float | None
    kl: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NllPoint:
    """A teacher and what it gave a student: NLL on validation, gain of the best by validation over hard labels."""

    case: str
    teacher: str
    nll: float
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NllGain:
    """Does a teacher's NLL predict the gain of its student?

    `gains` differ between datasets for other reasons too, so the correlation is of ranks (Spearman) over all points;
    `within` is the share of cases in which the teacher of lower NLL gave the higher gain. None with under 3 points.
    """

    points: tuple[NllPoint, ...]
    rho: float | None
    p: float | None
    within: float | None
    within_cases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePoint:
    """Scores at one temperature or alpha: means over seeds, `test_sd` over seeds (n - 1), None with one.

    `tests`: the test score of each of the `seeds`.
    """

    x: float
    validation: float
    test: float
    test_sd: float | None
    seeds: tuple[int, ...]
    tests: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A curve: one cell of one case over `tau_t` (alpha 1), or over `alpha` (at one temperature); x rises.

    `hard` is the test score of hard labels, for a reference line.
    """

    case: str
    metric: str
    over: Literal["tau_t", "alpha"]
    label: str
    points: tuple[ResponsePoint, ...]
    hard: float | None
