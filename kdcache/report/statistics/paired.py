"""Two configurations of one case: difference, interval and p over the seeds that both have and the test examples.

A score varies with the seed and with the examples that happen to be in the test set. With d_s the difference at seed s,

    var(mean_s d_s) = var_seeds(d_s) / S + var_examples        both estimated, see `_total_variance`

With one seed there is only the second part. From `MANY_SEEDS` on both are resampled together (multi-bootstrap); with
fewer its percentiles are too narrow (docs/statistics.md), so that the interval is a t interval with the degrees of
freedom of Satterthwaite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdcache.core.errors import DataError
from kdcache.report.statistics.family import detectable, probability_of_improvement
from kdcache.report.statistics.resample import LEVEL, Array, gain_percent, interval, two_sided_p

# B resamples of the examples  S seeds

MANY_SEEDS = 30
"""From here on percentiles of the multi-bootstrap are wide enough: they cover 93.7 % where only seeds matter."""

STREAM = 1
"""Of the generator that draws seeds; the examples' generator is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The runs of one configuration, one a seed.

    Attributes:
        scores: on the whole test set, float64 [S].
        resampled: the same runs on resampled examples, float64 [B, S]; the same resamples for both sides.
    """

    scores: Array
    resampled: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """b against a, positive where b is better, in the metric's unit.

    Attributes:
        difference: mean over seeds on the whole test set.
        gain: of the means, per cent of a's; None where that is 0.
        low, high, p: interval at the level asked for, two-sided p of no difference; None if a resample has no score.
        standard_error: of `difference`.
        degrees: of freedom of the t interval; None where percentiles were taken.
        method: how the interval was made, in words.
        seeds: how many.
        examples_only: one seed, so that the interval says nothing about another seed.
        probability: that a run of b scores better than one of a; None with one seed.
        detectable: least true difference found with power .8 at level .05; None with one seed.
    """

    difference: float
    gain: float | None
    low: float | None
    high: float | None
    p: float | None
    standard_error: float | None
    degrees: float | None
    method: str
    seeds: int
    examples_only: bool
    probability: float | None
    detectable: float | None


def paired(a: Side, b: Side, *, higher_is_better: bool, seed: int = 0, level: float = LEVEL) -> Paired:
    """Is b better than a? Column s of both sides is the same seed.

    Args:
        a, b: what is compared.
        higher_is_better: the metric's direction.
        seed: of the resampled seeds, >= 0.
        level: of the interval.

    Raises:
        DataError: no seeds, or sides that differ in seeds or resamples.

    References:
        Sellam et al. 2022, The MultiBERTs, ICLR; Satterthwaite 1946, Biometrics Bulletin 2.
    """
    _check(a, b)
    sign = 1.0 if higher_is_better else -1.0
    d_S, d_BS = sign * (b.scores - a.scores), sign * (b.resampled - a.resampled)
    num_seeds = len(d_S)
    spread = _spread(d_S, d_BS, seed=seed, level=level)
    gain = gain_percent(b.scores.mean(keepdims=True), a.scores.mean(keepdims=True), higher_is_better=higher_is_better)
    several = num_seeds > 1
    found = several and spread.standard_error is not None
    return Paired(
        difference=float(d_S.mean()),
        gain=float(gain[0]) if np.isfinite(gain[0]) else None,
        low=spread.low,
        high=spread.high,
        p=spread.p,
        standard_error=spread.standard_error,
        degrees=spread.degrees,
        method=spread.method,
        seeds=num_seeds,
        examples_only=not several,
        probability=probability_of_improvement(sign * a.scores, sign * b.scores) if several else None,
        detectable=detectable(spread.standard_error or 0.0, spread.degrees or num_seeds - 1) if found else None,
    )


def multi_bootstrap(differences_BS: Array, *, seed: int) -> Array:
    """Mean difference with seeds and examples resampled together: S seeds drawn anew for every resample.

    Args:
        differences_BS: on resampled examples, float64 [B, S].
        seed: of the drawn seeds.

    Returns:
        float64 [B].
    """
    num_resamples, num_seeds = differences_BS.shape
    generator = np.random.default_rng([seed, STREAM])
    drawn_BS = generator.integers(num_seeds, size=(num_resamples, num_seeds))
    return np.asarray(np.take_along_axis(differences_BS, drawn_BS, axis=1).mean(axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    low: float | None = None
    high: float | None = None
    p: float | None = None
    standard_error: float | None = None
    degrees: float | None = None
    method: str


def _spread(d_S: Array, d_BS: Array, *, seed: int, level: float) -> _Spread:
    num_seeds = len(d_S)
    if not (np.isfinite(d_BS).all() and np.isfinite(d_S).all()):
        return _Spread(method="no interval: a resample of the examples has no score")
    if 1 < num_seeds < MANY_SEEDS:
        return _t_interval(d_S, d_BS, level=level)
    several = num_seeds > 1
    resampled_B = multi_bootstrap(d_BS, seed=seed) if several else d_BS[:, 0]
    low, high = interval(resampled_B, level=level) or (None, None)
    return _Spread(
        low=low,
        high=high,
        p=two_sided_p(resampled_B, float(d_S.mean())),
        standard_error=float(resampled_B.std()),
        method="bootstrap over seeds and examples" if several else "bootstrap over examples",
    )


def _t_interval(d_S: Array, d_BS: Array, *, level: float) -> _Spread:
    between, examples = _total_variance(d_S, d_BS)
    mean, variance = float(d_S.mean()), between + examples
    # Welch and Satterthwaite; the examples' part is taken as known, for test examples are many.
    degrees = (len(d_S) - 1) * (variance / between) ** 2 if between > 0 else float("inf")
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    # Equal at every seed and on every resample: as far as these can tell there is no noise.
    certain = 1.0 if mean == 0 else 1 / (len(d_BS) + 1)
    p = float(2 * stats.t.sf(abs(mean) / error, degrees)) if error > 0 else certain
    return _Spread(
        low=mean - half,
        high=mean + half,
        p=p,
        standard_error=error,
        degrees=degrees,
        method="t interval over seeds, with the examples' bootstrap variance",
    )


def _total_variance(d_S: Array, d_BS: Array) -> tuple[float, float]:
    """Variance of the mean difference in two independent parts: of the seeds, and of the examples.

    In d_si = mean + A_s + E_i + (AE)_si the variance of the mean is  A/S + E/I + AE/(S I).

    * The variance of d_S between seeds, on one test set, estimates A + AE/I; over S it is the first part.
    * The bootstrap variance of the mean over seeds estimates E/I + AE/(S I), whose second term is in the first part
      already. The bootstrap variance of the seeds' deviations from their mean estimates AE/I; over S it is taken off.
    """
    num_seeds = len(d_S)
    mean_B = d_BS.mean(axis=1)
    interaction = float((d_BS - mean_B[:, None]).var(axis=0).sum() / (num_seeds - 1))
    examples = max(0.0, float(mean_B.var()) - interaction / num_seeds)
    return float(d_S.var(ddof=1)) / num_seeds, examples


def _check(a: Side, b: Side) -> None:
    shapes = [(side.scores.shape, side.resampled.shape) for side in (a, b)]
    (points, resampled), other = shapes
    if (points, resampled) != other or len(points) != 1 or len(resampled) != 2 or resampled[1:] != points:
        raise DataError(f"paired sides have scores and resamples of shapes {shapes}; both need [S] and [B, S] alike")
    if points[0] == 0:
        raise DataError("paired sides have no seed in common; compare runs of the same seeds")
